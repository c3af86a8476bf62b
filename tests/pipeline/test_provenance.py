"""Provenance: git and the machine are recorded, secrets are not."""

import json
import subprocess

import pytest

from nnexp.config.errors import RequestError
from nnexp.config.text import masked, masked_arguments
from nnexp.pipeline import git, provenance

SECRET = "hunter2hunter2hunter2"
# The keys that an own table needs besides the one under test.
CSV = {
    "experiment_name": ["dataset.path=x.csv", "dataset.features=[a]", "dataset.target=b"],
    "dataset.path": ["dataset.features=[a]", "dataset.target=b"],
}


@pytest.fixture
def repository(tmp_path, monkeypatch):
    """A checkout with one committed file, in place of the project's; `run` runs git in it."""
    monkeypatch.setattr(git, "CHECKOUT", tmp_path)

    def run(*arguments):
        named = ["-c", "user.name=me", "-c", "user.email=me@here", "-c", "commit.gpgsign=false"]
        subprocess.run(["git", *named, *arguments], cwd=tmp_path, check=True, capture_output=True)

    run("init", "-b", "trunk")
    (tmp_path / ".gitignore").write_text("ignored*\n")
    (tmp_path / "code.py").write_text("rate = 1\n")
    run("add", ".")
    run("commit", "-m", "first")
    return run


def looked(function):
    """Call a cached function anew, as each command of the program does."""
    git.checkout.cache_clear()
    git.diff.cache_clear()
    try:
        return function()
    finally:
        git.checkout.cache_clear()
        git.diff.cache_clear()


def test_a_clean_checkout_has_a_commit_a_branch_and_no_diff(repository, tmp_path):
    (tmp_path / "ignored.py").write_text("x\n")
    here = looked(git.checkout)
    assert (len(here.commit), here.branch, here.is_dirty) == (40, "trunk", False)
    assert looked(git.diff) == b""
    looked(git.refuse_dirty)


def test_the_diff_has_what_changed_names_of_what_is_new_and_nothing_ignored(repository, tmp_path):
    (tmp_path / "ignored.py").write_text("never\n")
    (tmp_path / "new.py").write_text("not in the diff\n")
    (tmp_path / "code.py").write_text("rate = 2\n")
    text = looked(git.diff).decode()
    assert "Untracked, and not below: new.py\n" in text
    assert "-rate = 1\n+rate = 2\n" in text
    for absent in ("ignored", "not in the diff"):
        assert absent not in text
    repository("checkout", "code.py")
    applied = subprocess.run(["git", "apply", "-"], input=text.encode(), cwd=tmp_path, check=False)
    assert applied.returncode == 0
    assert (tmp_path / "code.py").read_text().startswith("rate = 2\n")


@pytest.mark.parametrize(
    "line",
    [
        "uri = 'postgresql://me@here.org:{}@host/db'",
        'password = "{}"',
        "export DB_PASS={}",
        'headers = {{"Authorization": "Bearer {}"}}',
        "curl -u me:{} https://host",
        "machine host login me password {}",
        "-----BEGIN OPENSSH PRIVATE KEY-----\n{}\n-----END OPENSSH PRIVATE KEY-----",
        "nameless('Zq3{}/Yw8+Kd05LmNbVcXaTr')",
    ],
)
def test_a_change_that_seems_to_hold_a_secret_is_left_out_and_the_rest_applies(repository, tmp_path, line):
    lines = [f"line {i}\n" for i in range(40)]
    (tmp_path / "code.py").write_text("".join(lines))
    repository("commit", "-am", "long")
    lines[2], lines[30] = line.format(SECRET) + "\n", "rate = 2\n"
    (tmp_path / "code.py").write_text("".join(lines))
    text = looked(git.diff).decode()
    assert SECRET not in text
    assert "Left out, since it seems to contain a password or a key: 1 of 2 changes of code.py\n" in text
    repository("checkout", "code.py")
    subprocess.run(["git", "apply", "-"], input=text.encode(), cwd=tmp_path, check=True)
    assert "rate = 2\n" in (tmp_path / "code.py").read_text()


@pytest.mark.parametrize("name", [".env", "id_rsa", "server.key", ".netrc"])
def test_the_diff_contains_nothing_of_a_file_of_secrets(repository, tmp_path, name):
    (tmp_path / name).write_text("a\n")
    repository("add", name)
    repository("commit", "-m", "a file of secrets")
    (tmp_path / name).write_text("an ordinary word\n")
    text = looked(git.diff).decode()
    assert "ordinary" not in text
    assert f"1 of 1 changes of {name}" in text


def test_a_large_diff_is_cut_off_and_many_names_are_counted(repository, tmp_path, monkeypatch):
    monkeypatch.setattr(git, "MAX_DIFF", 2000)
    monkeypatch.setattr(git, "MAX_NAMES", 2)
    (tmp_path / "code.py").write_text("rate = 2\n" * 10000)
    for i in range(5):
        (tmp_path / f"new{i}.py").touch()
    text = looked(git.diff).decode()
    assert "Cut off after 2000 bytes." in text
    assert "… and 3 more" in text
    assert len(text) < 2500


@pytest.mark.parametrize("state", ["changed", "new", "none"])
def test_require_clean_refuses_uncommitted_changes(repository, tmp_path, monkeypatch, state):
    if state == "changed":
        (tmp_path / "code.py").write_text("rate = 2\n")
    elif state == "new":
        (tmp_path / "code2.py").touch()
    else:
        monkeypatch.setattr(git, "CHECKOUT", tmp_path.parent)
    words = {"changed": "code.py not committed", "new": "code2.py not", "none": "is not a git checkout"}
    with pytest.raises(RequestError, match=words[state]):
        looked(git.refuse_dirty)


def test_require_clean_is_asked_for_by_a_run_and_by_a_sweep(nnexp, store, repository, tmp_path):
    (tmp_path / "code.py").write_text("rate = 2\n")
    for typed in (["epochs=5"], ["-m", "epochs=5", "seed=1,2"]):
        ended = looked(lambda typed=typed: nnexp("train", "require_clean=true", *typed))
        assert (ended.status, ended.err.startswith("nnexp: require_clean=true: code.py")) == (2, True)


def test_gits_variables_of_a_hook_do_not_select_another_repository(repository, tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert looked(git.checkout).branch == "trunk"
    inside = tmp_path / "a project that merely lies in it"
    inside.mkdir()
    monkeypatch.setattr(git, "CHECKOUT", inside)
    assert looked(git.checkout) is None


def test_a_record_has_its_provenance_but_no_environment_variables(monkeypatch):
    monkeypatch.setenv("NNEXP_TEST_SECRET", SECRET)
    provenance.provenance.cache_clear()
    tags = provenance.provenance()
    wanted = [
        "command",
        "python",
        "platform",
        "cpu",
        "cpu_features",
        "threads",
        "blas",
        "engine",
        "generator",
    ]
    wanted += [f"version.{name}" for name in ("nnexp", "numpy", "numba", "mlflow", "hydra-core")]
    assert all(tags[f"nnexp.{name}"] != "" for name in [*wanted, "lock_sha256"])
    assert SECRET not in json.dumps(tags)


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://me:{}@host/db",
        "postgresql://host/db?user=me&password={}&sslmode=require",
        "https://{}@host/x.git",
        "nnexp train tracking_uri='http://me:{}@host'",
        "token={}",
        "--auth-token {}",
        'MLFLOW_TRACKING_PASSWORD="{} {}"',
        '{{"api_key": "{}"}}',
        "password: {}",
        "ghp_{}",
        "postgresql://me@here.org:{}@host/db",
        "postgresql://me:a'{}\"b/c@d@host/db",
        "{{'uri': 'http://a/b', 'store': 'postgresql://me:{}@host/db'}}",
        "password = '{}'",
        "DB_PASS={}",
        "PGPASSWORD=a'{}",
        "os.environ['API_TOKEN'] = \"{}\"",
        "Authorization: Bearer {}",
        "X-Api-Key: {}",
        "curl -u me:{} https://host",
        "machine host login me password {}",
        "host:5432:db:me:{}",
        "-----BEGIN EC PRIVATE KEY-----\n{}\n-----END EC PRIVATE KEY-----",
        "AWS_SECRET_ACCESS_KEY={}",
        "https://hooks.slack.com/services/T0/B0/{}",
        "mysql -u root -p{}",
        "docker login -u me -p {}",
        "pw = '{}'",
        "requests.get(url, auth=('me', '{}'))",
        "<password>{}</password>",
        "ENV DEPLOY_TOKEN {}",
    ],
)
def test_a_secret_is_masked_anywhere_in_a_text(text):
    hidden = masked(text.format(SECRET, SECRET))
    assert SECRET not in hidden
    assert "***" in hidden
    assert masked(hidden) == hidden


@pytest.mark.parametrize(
    "text",
    [
        "sqlite:////tmp/x.db",
        "def f(token: Lanes)",
        "nnexp train seed=1",
        "http://host:5000/#/x",
        "https://host:8080/org/repo@v1",
        "postgresql://me@host/db",
        "password = os.environ['DB_PASSWORD']",
        "password: str | None = None",
        "token = next(tokens)",
        "auth=('basic',)",
        "<password></password>",
        "pw > 3",
        "set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD",
    ],
)
def test_text_that_is_not_secret_is_not_masked(text):
    assert masked(text) == text


def test_an_argument_is_masked_as_a_whole():
    typed = ["train", "tracking_uri='postgresql://me@here.org:a b'\"c@host/db'", "seed=1", "--token", "x y"]
    masks = ["train", "tracking_uri='postgresql://me@here.org:***@host/db'", "seed=1", "--token", "***"]
    assert masked_arguments(typed) == masks


@pytest.mark.parametrize(
    "argument",
    ["question='curl -u me:{} https://host'", "question='why? DB_PASS = \"{}\"'", "name='x --password={} y'"],
)
def test_a_secret_within_an_argument_is_masked(argument):
    (hidden,) = masked_arguments([argument.format(SECRET)])
    assert SECRET not in hidden
    assert hidden.startswith(argument[:6])


def test_the_password_of_an_address_is_masked_alone_and_decoded_too(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "postgresql://me:p%40ss%2Fword@host/db")
    assert masked("no entry for 'p@ss/word', 'p%40ss%2Fword'") == "no entry for '***', '***'"


@pytest.mark.parametrize("key", ["experiment_name", "dataset.path"])
def test_a_secret_that_would_be_recorded_as_a_name_is_refused(nnexp, store, monkeypatch, key):
    monkeypatch.setenv("DEPLOY_TOKEN", SECRET)
    before = store.read_bytes()
    ended = nnexp("train", "dataset=csv", f"{key}=${{oc.env:DEPLOY_TOKEN}}", *CSV.get(key, ()))
    assert (ended.status, ended.out) == (2, "")
    assert f"{key}=***: looks like a password" in ended.err
    assert store.read_bytes() == before


def test_hydras_own_output_and_wrong_commands_show_no_password(nnexp, store):
    uri = f"postgresql://me@here.org:{SECRET}@127.0.0.1:1/db"
    for typed in (
        ["train", "--cfg", "job", f"tracking_uri={uri}"],
        ["train", "--info", "config", f"tracking_uri={uri}"],
        ["ui", "--port", uri],
        [uri],
        ["train", "--auth-token", SECRET],
        ["train", f"tracking_uri=postgresql://me:a {SECRET}@host/db"],
    ):
        ended = nnexp(*typed)
        assert "***" in ended.out + ended.err
        assert SECRET not in ended.out + ended.err


def test_an_error_does_not_show_a_secret_of_the_environment(nnexp, store, monkeypatch):
    monkeypatch.setenv("DEPLOY_TOKEN", SECRET)
    ended = nnexp("train", "epochs=${oc.env:DEPLOY_TOKEN}")
    assert (ended.status, "epochs=***: must be" in ended.err, SECRET in ended.err) == (2, True, False)


def test_a_failure_that_names_a_password_is_recorded_without_it(nnexp, store, monkeypatch):
    from nnexp.pipeline import run as runner

    def failing(*args):
        raise OSError(f"no route to postgresql://me:{SECRET}@host/db")

    monkeypatch.setattr(runner.artifacts, "single_files", failing)
    ended = nnexp("train", "epochs=5")
    assert ended.status == 1
    assert SECRET not in ended.err
    written = store.read_bytes() + b"".join(p.read_bytes() for p in store.parent.rglob("traceback.txt"))
    assert b"no route" in written
    assert SECRET.encode() not in written
