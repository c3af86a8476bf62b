"""The space of a search: Hydra's ranges, and the ranges that are refused."""

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser

from nnexp.config.compose import loading
from nnexp.config.errors import RequestError
from nnexp.config.ranges import space_of


def space(*typed, zipped=(), over="seed"):
    with loading() as loader:
        return space_of(OverridesParser.create(loader).parse_overrides(list(typed)), zipped, over)


@pytest.mark.parametrize(
    ("typed", "kind", "low", "high", "step", "log"),
    [
        ("interval(0.01,1)", "float", 0.01, 1, None, False),
        ("tag(log,interval(1e-3,1))", "float", 0.001, 1, None, True),
        ("int(interval(4,32))", "int", 4, 32, 1, False),
        ("tag(int,interval(4,32))", "int", 4, 32, 1, False),
        ("tag(log,int(interval(1,64)))", "int", 1, 64, 1, True),
        ("range(1,17)", "int", 1, 16, 1, False),
        ("range(10,1,-3)", "int", 4, 10, 3, False),
        ("range(0.1,1,0.25)", "float", 0.1, 0.85, 0.25, False),
        ("tag(log,range(1,65))", "int", 1, 64, 1, True),
    ],
)
def test_a_range_of_numbers_has_these_bounds(typed, kind, low, high, step, log):
    (d,) = space(f"learning_rate={typed}").dimensions
    assert (d.kind, d.low, d.high, d.step, d.log) == (kind, low, high, step, log)


def test_choices_are_kept_as_typed():
    (d,) = space("hidden=[4],[16,8]").dimensions
    assert d.choices == ("[4]", "[16,8]")
    assert d.overrides("[16,8]") == ["hidden=[16,8]"]


def test_a_single_value_is_no_dimension_and_the_key_judged_over_is_none():
    found = space("learning_rate=interval(0.1,1)", "init=choice(he)", "epochs=5", "seed=range(3)")
    assert [d.name for d in found.dimensions] == ["learning_rate"]
    assert found.fixed == ("init=he", "epochs=5")
    assert found.over == (("seed=0",), ("seed=1",), ("seed=2",))


def test_a_later_range_of_a_key_replaces_an_earlier_one():
    (d,) = space("learning_rate=interval(0.1,1)", "learning_rate=interval(2,3)").dimensions
    assert (d.low, d.high) == (2, 3)


def test_zipped_keys_move_as_one_choice():
    found = space(
        "learning_rate=0.1,0.5", "epochs=50,10", "init=he,normal", zipped=["learning_rate", "epochs"]
    )
    one, two = found.dimensions
    assert (one.name, one.choices) == ("learning_rate epochs", ("0.1 50", "0.5 10"))
    assert one.overrides("0.5 10") == ["learning_rate=0.5", "epochs=10"]
    assert two.name == "init"


def test_a_step_gives_the_values_as_they_are_typed():
    (d,) = space("learning_rate=range(0.1,0.95,0.1)").dimensions
    assert d.values() == [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    assert d.plain(0.1 + 2 * 0.1) == 0.3


def test_the_corners_reach_both_ends_of_every_range():
    found = space("learning_rate=interval(0.1,1)", "hidden=[4],[8]", "epochs=range(5,50)")
    assert len(found.corners()) == 8
    many = space("learning_rate=interval(0.1,1)", *(f"k{i}=a,b,c" for i in range(6)))
    for d in many.dimensions:
        ends = set(d.choices) or {0.1, 1.0}
        assert {corner[d.name] for corner in many.corners()} >= ends
    assert len(many.corners()) < 30


def test_a_grid_has_every_combination():
    assert len(space("learning_rate=0.1,0.5", "epochs=range(1,4)").grid()) == 6


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("interval(1,0.1)", r"reversed: write interval\(0.1,1\)"),
        ("interval(1,1)", "empty: both ends are 1"),
        ("interval(0.1,1e400)", "both ends must be finite"),
        ("tag(log,interval(0,1))", "a log range must begin above 0, not at 0"),
        ("tag(log,interval(-1,1))", "must begin above 0"),
        ("tag(even,interval(0,1))", "tag even: a search knows the tags log and int"),
        ("tag(int,interval(0.5,3))", "must be whole"),
        ("range(5,5)", "the range is empty"),
        ("range(5,1)", "the range is empty"),
        ("range(1,5,0)", "a step other than 0"),
        ("range(0.1,1,0)", "a step other than 0"),
        ("range(1,10,20)", "only the value 1: the next one, 21, does not come before its end, 10"),
        ("shuffle(choice(0.1,0.5))", r"leave shuffle\(\) out"),
        ("glob(*)", "there are no such values"),
        ("tag(log,range(1,9,2))", "a log range has a step of 1"),
        ("tag(log,range(0.5,9,1))", "a log range is one of whole numbers"),
        ("0.1,0.5,0.1", "a value occurs twice"),
    ],
)
def test_a_wrong_range_is_refused_in_plain_words(typed, words):
    with pytest.raises(RequestError, match=words):
        space(f"learning_rate={typed}")


@pytest.mark.parametrize(
    ("typed", "zipped", "words"),
    [
        (["epochs=5"], (), "there is nothing to search"),
        (["init=interval(0,1)"], (), "a group has no numbers"),
        (["hidden=range(2,9)"], (), "takes lists; write hidden.0=…"),
        (["search.trials=10,20"], (), "must have one value for all trials"),
        (["figures=true,false"], (), "must have one value for all trials"),
        (["seed=range(5)"], (), "there is nothing to search"),
        (["epochs=range(1,5)", "seed=interval(0,9)"], (), "judged over listed values"),
        (["epochs=1,2", "init=he,ones,zeros"], ["epochs", "init"], "epochs has 2, init has 3"),
        (["epochs=1,2", "init=he"], ["epochs", "init"], "init is not swept"),
        (["epochs=1,2", "seed=1,2"], ["epochs", "seed"], "the key that trials are judged over"),
    ],
)
def test_a_space_that_is_none_is_refused(typed, zipped, words):
    with pytest.raises(RequestError, match=words):
        space(*typed, zipped=zipped)


def test_a_grid_of_an_interval_is_refused():
    with pytest.raises(RequestError, match="too many values for search=grid"):
        space("learning_rate=interval(0,1)").grid()
