"""The reference agrees with the program: every key, every verb, and everything that a record contains."""

import re
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from docs.reference.generate import PAGES
from nnexp.cli.main import nnexp as verbs
from nnexp.config.request import key_names

pytestmark = pytest.mark.slow

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
RECORD = (REFERENCE / "record.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_the_generated_pages_are_up_to_date(name):
    assert (REFERENCE / name).read_text() == PAGES[name](), "run make docs"


def squashed(text: str) -> str:
    """Return the text without blanks and line breaks, which help pages put anywhere."""
    return re.sub(r"\s", "", text)


def cells(page: str) -> list[list[str]]:
    """Return the rows of a page's tables, without their headers."""
    rows = re.findall(r"^\| (`.+) \|$", (REFERENCE / page).read_text(), re.MULTILINE)
    return [[cell.replace("\\|", "|").strip() for cell in re.split(r"(?<!\\)\|", row)] for row in rows]


def test_every_key_has_the_default_and_the_rule_that_train_prints(nnexp):
    printed = squashed(nnexp("train", "--help").out)
    rows = {row[0].strip("`"): row for row in cells("keys.md") if len(row) == 4}
    assert {*rows} == {*key_names(), "experiment"}
    for key, (_, default, allowed, meaning) in rows.items():
        assert squashed(allowed) in printed, key
        if "](#" not in meaning and key != "experiment":
            assert squashed(meaning) in printed, key
            assert f"{key}={default.strip('`')}" in printed, key


@pytest.mark.parametrize("verb", verbs.commands)
def test_every_verb_has_the_options_that_its_help_prints(nnexp, verb):
    printed = nnexp(verb, "--help").out
    page = (REFERENCE / "verbs.md").read_text().partition(f"\n## {verb}\n")[2].partition("\n## ")[0]
    named = set(re.findall(r"--[a-z][a-z-]+", page.replace("--hydra-help", "")))
    if verb != "train":
        assert named == set(re.findall(r"^ +(?:-\w, )?(--[a-z][a-z-]+)", printed, re.MULTILINE)) - {"--help"}
        for row in re.findall(r"^\| `-.+` \| (.+) \|$", page, re.MULTILINE):
            assert squashed(row.replace("\\|", "|")) in squashed(printed)


def recorded(database: Path, table: str) -> set[str]:
    with closing(sa.create_engine(f"sqlite:///{database}").connect()) as connection:
        return set(connection.execute(sa.text(f"SELECT DISTINCT key FROM {table}")).scalars())


def named(text: str) -> list[re.Pattern[str]]:
    """Return patterns of the names that begin the tables' rows; words in capitals, … and * match anything."""
    found = re.findall(r"`([^`]+)`", "\n".join(re.findall(r"^\| (.+?) \|", text, re.MULTILINE)))
    return [re.compile(re.sub(r"[A-Z]{4,}|…|\\\*", ".+", re.escape(name))) for name in found]


def section(title: str) -> str:
    return RECORD.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


@pytest.fixture(scope="module")
def all_kinds(record, tmp_path_factory):
    """A store with a run, a sweep and its second attempt, reruns and a variation."""
    here = tmp_path_factory.mktemp("all kinds")
    (here / "own.csv").write_text("a,b,y\n" + "".join(f"{i},{i % 3},{'uvw'[i % 3]}\n" for i in range(9)))
    (here / "new.csv").write_text("name,a,b\none,1,2\n")
    own = ["dataset=csv", "dataset.path=own.csv", "dataset.target=y", "dataset.new_rows=new.csv"]
    record(
        here,
        ["train", "epochs=60", "weights_every=20", "question=Why?"],
        [
            "train",
            *own,
            "output_activation=softmax",
            "loss=cross_entropy",
            "epochs=20",
            "validation_fraction=0.3",
            "test_fraction=0.2",
            "split_seed=1",
            "patience=50",
        ],
        ["train", "-m", "dataset=xor", "seed=0,1,2", "learning_rate=0.1,1", "epochs=60", "name=some"],
        ["train", "-m", "dataset=xor", "seed=0,1", "epochs=60", "figures=false", "force=true"],
        ["rerun", "last"],
        ["rerun", "last", "learning_rate=0.3", "figures=false"],
        ["rerun", "--sweep", "last"],
    )
    return here


def test_the_record_page_names_every_metric_tag_and_artifact(all_kinds):
    database = all_kinds / "mlflow.db"
    files = {
        path.relative_to(place).as_posix()
        for place in all_kinds.glob("mlartifacts/**/artifacts")
        if "models" not in place.parts
        for path in place.rglob("*")
        if path.is_file()
    }
    tags = {tag for tag in recorded(database, "tags") if tag.startswith("nnexp.")}
    for title, found in (("Metrics", recorded(database, "metrics")), ("Tags", tags), ("Artifacts", files)):
        names = named(section(title))
        assert len(found) > 5, title
        assert [one for one in sorted(found) if not any(name.fullmatch(one) for name in names)] == []


def test_the_record_page_names_no_metric_or_file_that_is_not_recorded(all_kinds):
    database = all_kinds / "mlflow.db"
    metrics = recorded(database, "metrics")
    for name in named(section("Metrics")):
        assert any(map(name.fullmatch, metrics)), name.pattern
    assert {"nnexp.run_key", "nnexp.sweep_key", "nnexp.attempt", "nnexp.identical"} <= recorded(
        database, "tags"
    )


def test_the_keys_that_the_page_leaves_out_are_not_recorded_as_params(all_kinds):
    left_out = set(
        re.findall(r"`(\w+)`", section("Params").partition("is left out.")[2].partition("and the keys")[0])
    )
    assert left_out == {"figures", "model", "experiment_name", "tracking_uri"}
    assert not left_out & recorded(all_kinds / "mlflow.db", "params")
