"""Test that docs/findings.md says what was recorded, and no number besides."""

import json

import pytest

from experiments import report
from experiments.ask import Fact, told, typed_numbers


def record(name: str) -> dict:
    return json.loads((report.REPORTS / f"{name}.json").read_text())


def test_the_findings_are_those_of_the_reports() -> None:
    assert report.FINDINGS.read_text() == report.findings()


def test_every_experiment_is_answered() -> None:
    files = {path.stem for path in report.HERE.glob("*.yaml")}
    assert files == set(report.NAMES)


@pytest.mark.parametrize("name", report.NAMES)
def test_no_number_of_an_answer_is_typed(name: str) -> None:
    assert typed_numbers(record(name)["text"]) == []


@pytest.mark.parametrize("name", report.NAMES)
def test_every_fact_is_told_with_its_number_of_networks(name: str) -> None:
    found = record(name)
    facts = {key: Fact(**fact) for key, fact in found["facts"].items()}
    assert [key for key, fact in facts.items() if fact.low is not None and not fact.n] == []
    page = (report.REPORTS / f"{name}.md").read_text()
    assert told(found["text"], facts) in page


def test_a_fact_reads_with_its_interval_and_a_typed_number_is_seen() -> None:
    facts = {
        "share": Fact(0.923, 1000, 0.905, 0.938, ".1%"),
        "best": Fact("adam"),
        "half": Fact(0.5, 3, float("nan"), 1),
    }
    assert told("{share} of {share.n:,}; {best}", facts) == "92.3% (90.5 to 93.8) of 1,000; adam"
    assert str(facts["half"].rounded()) == "0.5"
    assert typed_numbers("2-2-1 in 1998, `seed=3`, {share}: 92.3% of 4") == ["92.3", "4"]
    with pytest.raises(KeyError, match="lost"):
        told("{lost}", facts)
