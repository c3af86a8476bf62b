"""Put passwords of many forms wherever the program reads, run it, and search everything that it writes."""

import os
import shutil
import subprocess
import sys
import threading
import time
import zipfile

from nnexp.config.paths import CHECKOUT
from tests.real import alive, kill_group


def secret(i):
    return f"Sesame{i:02}Xyzzy"


# Uncommitted content, by file; {} is the secret.
UNCOMMITTED = {
    "settings.py": "uri = 'postgresql://me@here.org:{}@host/db'",
    "login.py": 'password = "{}"',
    "deploy.sh": "export DB_PASS={}",
    "fetch.sh": "curl -u me:{} https://host",
    "headers.txt": "Authorization: Bearer {}",
    "cloud.ini": "aws_secret_access_key = {}",
    "cloud.txt": "AKIA{}",
    "forge.txt": "ghp_{}",
    "web.txt": "eyJhbGciOiJIUzI1NiJ9.{}aaaa.bbbbbbbb",
    ".netrc": "machine host login me password {}",
    "key.txt": "-----BEGIN RSA PRIVATE KEY-----\n{}\n-----END RSA PRIVATE KEY-----",
    "hosts.txt": "host:5432:db:me:{}",
    "keys.json": '{{"api_key": "{}"}}',
    "dump.sh": "mysql -u root -p{} db",
    "hook.txt": "https://hooks.slack.com/services/T0/B0/{}",
}
ENVIRONMENT = {
    "DEPLOY_TOKEN": secret(20),
    "PGPASSWORD": secret(21),
    "DATABASE_URL": f"postgresql://me@here.org:{secret(22)}@host/db",
}
# Typed, and refused.
REFUSED = [
    ["train", f"tracking_uri=postgresql://me@here.org:a'b \"{secret(30)}@127.0.0.1:1/db"],
    ["train", f"tracking_uri=postgresql://me@here.org:{secret(31)}@127.0.0.1:1/db"],
    ["train", f"+password={secret(32)}"],
    ["train", "--auth-token", secret(33)],
    ["train", "experiment_name=${oc.env:DEPLOY_TOKEN}"],
    ["summarize", "--by", f"postgresql://me:{secret(34)}@host/db"],
    [f"https://{secret(35)}@host/x.git"],
]
RUN = ["train", "epochs=5", "figures=false"]
SWEEP = ["train", "-m", "seed=1,2,3,4", "epochs=5", "executor=processes", "executor.workers=2"]
SECRETS = [secret(i) for i in range(100)]


class Planted:
    """A copy of the project with secrets in uncommitted files, and the program run from it."""

    def __init__(self, place, uri):
        self._place, self.logs, self.seen = place / "project", place / "logs", set()
        self._environment = {**os.environ, **ENVIRONMENT, "MLFLOW_TRACKING_URI": uri}
        self.logs.mkdir()
        for name in ("nnexp", "hydra_plugins", "conf", "experiments", "data"):
            shutil.copytree(CHECKOUT / name, self._place / name, symlinks=True)
        (self._place / ".gitignore").write_text("mlartifacts\n__pycache__\n*.db*\n")
        for name in UNCOMMITTED:
            (self._place / name).write_text("x\n")
        self._program = [sys.executable, str(self._place / "program.py")]
        (self._place / "program.py").write_text(
            'from nnexp.cli.main import main\n\nif __name__ == "__main__":\n    main()\n'
        )
        me = ["-c", "user.name=me", "-c", "user.email=me@here", "-c", "commit.gpgsign=false"]
        for command in (["init"], ["add", "."], ["commit", "-m", "all"]):
            subprocess.run(["git", *me, *command], cwd=self._place, check=True, capture_output=True)
        for i, (name, line) in enumerate(UNCOMMITTED.items()):
            (self._place / name).write_text(line.format(secret(i)) + "\n")

    def typed(self, *arguments, until=None):
        """Run a command; return its exit status and output. With `until`, end it when that holds."""
        command, log = [*self._program, *arguments], self.logs / f"{len(list(self.logs.iterdir()))}"
        with log.open("wb") as out:
            process = subprocess.Popen(
                command,
                cwd=self.logs,
                env=self._environment,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        own = "\0".join(command) + "\0"
        ended = threading.Event()

        def watch():
            while not ended.is_set():
                self.seen |= {line for line in alive(process.pid).values() if line != own}
                time.sleep(0.01)

        watcher = threading.Thread(target=watch)
        watcher.start()
        try:
            end = time.monotonic() + 240
            while process.poll() is None and not (until and until()):
                assert time.monotonic() < end, log.read_text()
                time.sleep(0.05)
            time.sleep(0.1 * bool(until))
        finally:
            kill_group(process)
            ended.set()
            watcher.join()
        return process.returncode, log.read_text()

    def found(self, store):
        """Return where a secret occurs: in the store's bytes, the artifacts, printed or written text, or the
        arguments of a process that the program started."""
        places = {"the store": store, "arguments of a process": "\n".join(self.seen).encode()}
        files = [path for path in self.logs.rglob("*") if path.is_file()]
        # An SQLite store's artifacts are beside it, a server's in the project.
        roots = [self._place / "mlartifacts", self._place.parent / "mlartifacts"]
        files += [path for root in roots for path in root.rglob("*") if path.is_file()]
        for path in files:
            places[path.name] = path.read_bytes()
            if zipfile.is_zipfile(path):
                with zipfile.ZipFile(path) as archive:
                    places |= {f"{path.name}: {name}": archive.read(name) for name in archive.namelist()}
        return [
            f"{one} in {name}"
            for name, content in places.items()
            for one in SECRETS
            if one.encode() in content
        ]


def drive(planted, *more):
    """Train, sweep, read, rerun and type wrong requests; return the exit statuses that are unexpected."""
    status, said = planted.typed(*RUN, *more)
    run_id = said.split("recorded as ")[1].split()[0] if "recorded as " in said else said
    ends = {"train": (status, said)}
    for command in (
        SWEEP,
        ["summarize"],
        ["show", run_id],
        ["report"],
        ["bundle", run_id],
        ["rerun", run_id],
        ["doctor"],
        ["train", "--cfg", "job", f"tracking_uri=postgresql://me:{secret(36)}@host/db"],
    ):
        ends[" ".join(command)] = planted.typed(*command)
    wrong = [f"{name}: {status}: {said}" for name, (status, said) in ends.items() if status]
    for command in REFUSED:
        status, said = planted.typed(*command)
        if status != 2 or "Traceback" in said:
            wrong.append(f"{command}: {status}: {said}")
    return wrong
