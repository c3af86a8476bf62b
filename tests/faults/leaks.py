"""Passwords wherever the program reads, and code in place of a condition."""

from __future__ import annotations

from tests.faults.program import Cases, Fault, Missing, Trial, driven, expect, not_refused
from tests.planted import UNCOMMITTED, Planted, drive, secret
from tests.real import free_port, is_up

# Typed in place of a condition; each would make the file if it were executed.
CODE = [
    "@pd.io.common.os.system('touch {canary}')",
    "@__import__('os').system('touch {canary}')",
    "__import__('os').system('touch {canary}') == 0",
    "seed.map(lambda _: open('{canary}', 'w')) == 1",
    "seed.__class__.__base__.__subclasses__() == 1",
    "[open('{canary}', 'w') for _ in (1,)] == 1",
    "(lambda: open('{canary}', 'w'))() == 1",
    "seed == (x := open('{canary}', 'w'))",
    "f'{{open(\"{canary}\", 1)}}' == init",
    'seed > 0 and eval(\'open("{canary}", "w")\')',
    "`seed`.to_csv('{canary}') == 1",
    "seed.to_csv('{canary}') == 1",
    "init.str.len() == 1",
    "9 ** 9 ** 9 ** 9 ** seed.max() == 1",
    "seed > 0; import os",
    "(seed > 0).to_pickle('{canary}')",
]


def rows(n: int) -> list[Fault]:
    return [
        Fault("passwords typed, in the environment, and in uncommitted files", passwords),
        Fault("passwords of a PostgreSQL store, typed and in the environment", passwords_of_a_server),
        Fault("code in exclude= and --where", code),
    ]


def passwords(trial: Trial) -> str:
    """All commands work, and no password is found in the store, a file, a printed line, or an argument of a
    process that the program started."""
    store = trial.with_store()
    planted = Planted(trial.place, f"sqlite:///{store}")
    wrong = drive(planted)
    expect(not wrong, "; ".join(wrong))
    return nothing_leaked(trial, planted, store.read_bytes())


def passwords_of_a_server(trial: Trial) -> str:
    """The same as in an SQLite store; the user's name is an e-mail address, and one password has a quote."""
    from nnexp.tracking.store import open_store
    from tests.postgres import find_initdb, postgres_server

    if find_initdb() is None:
        raise Missing("PostgreSQL")
    with postgres_server() as server:
        server.ask("CREATE DATABASE planted")
        open_store(server.uri("planted")).engine.dispose()
        server.ask('CREATE ROLE "me@here.org" SUPERUSER LOGIN')
        address = server.uri("planted").partition("@")[2]
        planted = Planted(trial.place, f"postgresql://me@here.org:p%40{secret(40)}@{address}")
        wrong = drive(planted, f'tracking_uri="postgresql://me@here.org:a\'b{secret(41)}@{address}"')
        expect(not wrong, "; ".join(wrong))
        port = free_port()
        planted.typed("ui", "--port", str(port), until=lambda: is_up(f"http://127.0.0.1:{port}"))
        seen = any("mlflow" in line and "server" in line for line in planted.seen)
        expect(seen, "the arguments of MLflow's server were not seen")
        tables = server.ask("SELECT tablename FROM pg_tables WHERE schemaname = 'public'", "planted")
        store = str([server.ask(f'SELECT t::text FROM "{name}" t', "planted") for (name,) in tables])
    expect("me@here.org:***@" in store, "the command that was typed is not recorded")
    return f"{nothing_leaked(trial, planted, store.encode())}, {len(tables)} tables read"


def nothing_leaked(trial: Trial, planted: Planted, store: bytes) -> str:
    """Expect no password in the store or in what was left, and a diff that says what it leaves out."""
    found = planted.found(store)
    expect(not found, "; ".join(found))
    left = [path.read_text() for path in trial.place.rglob("git.diff")]
    expect(bool(left) and "Left out" in left[0], "no git.diff says what was left out")
    return f"{len(UNCOMMITTED)} uncommitted changes left out"


def code(trial: Trial) -> Cases:
    """Exit status 2 and a plain line that names what is not allowed; nothing is executed or recorded."""
    canary = trial.place / "canary"
    trial.with_store()
    run = ["train", "epochs=1", "figures=false", "model=false"]
    conditions = [condition.format(canary=canary) for condition in CODE]
    quoted = [condition.replace("\\", "\\\\").replace('"', '\\"') for condition in conditions]
    commands = [[*run, "-m", "seed=1,2", f'exclude="{condition}"'] for condition in quoted]
    commands += [["summarize", "--where", condition] for condition in conditions]
    first, *ends = driven(trial.place, [(typed, {}) for typed in [run, *commands]])
    expect(first.status == 0, f"a run alone: {first.err}")
    wrong = [
        f"{typed[-1]}: {reason}"
        for typed, end in zip(commands, ends, strict=True)
        if (reason := not_refused(end, "exclude=" if "-m" in typed else "--where"))
    ]
    return Cases(len(ends) + 1, [*wrong, *["something was executed"] * canary.exists()])
