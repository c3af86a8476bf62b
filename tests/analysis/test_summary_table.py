"""Summaries for people: significant digits, the best row, the width of a terminal."""

import json
import logging
import math
import os

import pandas as pd
import pytest

from nnexp.analysis import summary_table
from nnexp.analysis.summary_table import as_table, setting, significant
from nnexp.analysis.tables import as_text
from nnexp.cli.show import print_summary
from nnexp.cli.streams import Lines


def summary(*rows, **params):
    """A summary of (median, half-width of its interval), with these params as its first columns."""
    table = pd.DataFrame(params | {"n": [10] * len(rows)})
    table = table.assign(networks=10, used=10, diverged=0)
    for name in ("median", "iqm", "mean"):
        table[name] = [middle for middle, _ in rows]
        if name != "mean":
            table[f"{name}_low"] = [middle - half for middle, half in rows]
            table[f"{name}_high"] = [middle + half for middle, half in rows]
    table["std"] = [1.6 * half for _, half in rows]
    for name in ("min", "max"):
        table[name] = table["mean"]
    table = table.assign(solved=0.5, solved_low=0.24, solved_high=0.76)
    table["rank"] = range(1, len(rows) + 1)
    standing = ["best", "tied", "worse"][: len(rows)] + ["worse"] * (len(rows) - 3)
    return table.assign(standing=standing, seeds_needed=[math.nan, 90, *[math.nan] * len(rows)][: len(rows)])


def texts(table):
    """The rows as people see them, by column."""
    columns = summary_table.readable(table)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("middle", "half", "shown"),
    [
        (0.045, 0.042, ("0.045", "0.0030", "0.087")),
        (0.04567891, 0.00042, ("0.04568", "0.04526", "0.04610")),
        (0.5, 0.0996, ("0.500", "0.400", "0.600")),
        (1234.5, 260.0, ("1230", "970", "1490")),
        (7.789e-05, 1.25e-05, ("7.8e-05", "6.5e-05", "9.0e-05")),
        (0.25, 1e-9, ("0.250000", "0.250000", "0.250000")),
        (0.1676, 2.9e-17, ("0.1676", "0.1676", "0.1676")),
        (0.0, 0.0, ("0", "0", "0")),
    ],
)
def test_the_interval_says_how_many_digits_a_statistic_has(middle, half, shown):
    (row,) = texts(summary((middle, half)))
    assert (row["median"], row["median_low"], row["median_high"]) == shown
    assert row["iqm"] == shown[0]


def test_an_interval_over_decades_leaves_each_number_two_digits():
    table = summary((0.00043, 0)).assign(median_low=0.00029, median_high=0.126)
    (row,) = texts(table)
    assert [row[name] for name in ("median_low", "median", "median_high")] == ["0.00029", "0.00043", "0.126"]


def test_a_median_of_runs_that_diverged_says_so():
    table = summary((0.25, 0.1))
    (row,) = texts(table.assign(median=math.inf, median_high=math.inf, diverged=6, used=4))
    assert (row["median"], row["median_high"], row["diverged"]) == ("diverged", "diverged", "6")
    (row,) = texts(table.assign(median_high=math.inf))
    assert (row["median"], row["median_high"]) == ("0.250", "diverged")


def test_a_spread_that_is_only_rounding_counts_as_0():
    agreeing, spread = texts(summary((0.1676, 1.4e-17), (0.5, 0.1)))
    assert agreeing["std"] == "0"
    assert spread["std"] == "0.16"


def test_one_run_has_a_median_and_nothing_that_takes_several():
    table = summary((0.123456, 0.1))
    table[["std", *table.filter(regex="_(low|high)$")]] = math.nan
    (row,) = texts(table)
    names = ("median", "mean", "std", "median_low", "median_high", "solved")
    assert [row[name] for name in names] == ["0.123", "0.1235", "", "", "", "50%"]


def test_networks_are_counted_where_they_are_fewer_than_the_runs():
    table = summary((0.1, 0.01), (0.2, 0.01))
    assert "networks" not in texts(table)[0]
    assert [row["networks"] for row in texts(table.assign(networks=[1, 10]))] == ["1", "10"]


def test_epochs_stand_with_their_interval():
    table = summary(*[(0.1, 0.01)] * 3)
    table["epochs_to"], table["epochs_to_low"] = [510.0, math.inf, 30.0], [480.0, 700.0, math.nan]
    table["epochs_to_high"] = [600.0, math.inf, math.nan]
    assert [row["epochs_to"] for row in texts(table)] == ["510 (480-600)", "never (700-never)", "30"]


def test_only_none_is_0_percent_and_only_all_is_100():
    table = summary(*[(0.1, 0.01)] * 5).assign(solved=[0, 0.0001, 1 / 3, 0.9999, 1], solved_low=math.nan)
    assert [row["solved"] for row in texts(table)] == ["0%", "<0.1%", "33.3%", ">99.9%", "100%"]
    assert texts(table.assign(diverged=2))[0]["diverged"] == "2"
    assert "diverged" not in texts(table)[0]


def test_a_share_stands_with_its_interval_and_a_group_without_has_none():
    table = summary((0.1, 0.01), (0.2, 0.01)).assign(solved=[math.nan, 1.0], solved_low=[math.nan, 0.72])
    assert [row["solved"] for row in texts(table.assign(solved_high=1.0))] == ["", "100% (72-100)"]


@pytest.mark.parametrize(("value", "shown"), [(1e200, "1.00e+200"), (99.96, "100.0"), (-1e-5, "-1.00e-05")])
def test_numbers_of_any_size_stay_short(value, shown):
    assert significant(value, 3) == shown


def test_params_that_differ_are_shown_differently():
    assert setting([0.05, 0.2, 1.0]) == ["0.05", "0.2", "1"]
    assert setting([0.100001, 0.100002]) == ["0.100001", "0.100002"]
    assert setting([True, False, None]) == ["true", "false", ""]
    assert setting([0.5, float("nan")]) == ["0.5", ""]


def test_long_params_are_cut_around_what_differs_and_stay_apart():
    names = [f"column_{i}" for i in range(60)]
    lists = ["[" + ",".join([*names, last]) + "]" for last in ("width", "length")]
    shown = setting([*lists, "[a]", lists[0], "x" * 100, "x" * 101])
    assert max(map(len, shown)) <= 45
    assert shown[2] == "[a]"
    assert shown[0] == shown[3]
    assert len(set(shown)) == 5
    first, second = setting(lists)
    assert first.endswith("width]")
    assert second.endswith("length]")


def test_no_cell_of_a_table_for_people_is_hundreds_of_characters_wide():
    wide = {"reason": ["because " * 40], "n": [1]}
    assert max(map(len, as_text(wide).splitlines())) < 110
    assert "because " * 39 in as_text(wide, "csv")


def test_the_best_row_is_marked_and_those_that_cannot_be_told_from_it():
    table = summary((0.1, 0.1), (0.2, 0.1), (0.3, 0.1), learning_rate=[1, 2, 3])
    assert summary_table.marked(table)[""] == ["*", "~", ""]
    assert summary_table.marked(table, "★")[""] == ["★", "~", ""]
    assert "" not in summary_table.marked(table.assign(standing=None))


@pytest.mark.parametrize(
    ("standing", "needed", "words"),
    [
        (["best", "worse", "worse"], [math.nan] * 3, ""),
        (["best", "tied", "worse"], [math.nan, 90, math.nan], "; about 90 would"),
        (["best", "tied", "tied"], [math.nan, 90, 400], "; about 90 to 400 would"),
        (["best", "tied", "tied"], [math.nan, 90, math.inf], "; about 90 to more than 10,000 would"),
        (["best", "tied", "worse"], [math.nan, math.inf, math.nan], "; more than 10,000 would be needed"),
        ([None] * 3, [math.nan] * 3, ""),
    ],
)
def test_what_the_seeds_do_not_tell_is_said_with_how_many_would(standing, needed, words):
    table = summary(*[(0.1, 0.1)] * 3).assign(standing=standing, seeds_needed=needed)
    said = summary_table.open_question(table)
    assert said.startswith("not separable with 10 seeds; " if words else "")
    assert words in said
    assert bool(said) == bool(words)


def test_each_data_set_has_its_own_open_question():
    table = summary(*[(0.1, 0.1)] * 5, dataset=["gender", "gender", "xor", "xor", "line"])
    table = table.assign(standing=["best", "tied", "best", "tied", None])
    table["seeds_needed"] = [math.nan, 29, math.nan, math.inf, math.nan]
    both = "the best (*) and 1 row (~) are not separable with 10 seeds"
    assert summary_table.open_questions(table) == [
        f"dataset=gender: {both}; about 29 would be needed",
        f"dataset=xor: {both}; more than 10,000 would be needed",
    ]


def test_programs_get_every_digit_and_no_mark():
    table = summary((1 / 3, 0.1), (2 / 3, 0.1), init=["he", "ones"])
    row = json.loads(as_table(table, "json"))[0]
    assert (row["median"], row["standing"], row["seeds_needed"]) == (1 / 3, "best", None)
    assert as_table(table, "csv").splitlines()[1].startswith("he,10,10,10,0,0.3333333333333333,")
    assert as_table(table).splitlines()[2].startswith("*  he ")
    assert as_table(table, "markdown").splitlines()[2].startswith("| * | he ")


@pytest.fixture
def terminal(monkeypatch, capsys):
    """`terminal(width)` prints a table on a terminal of that width; returns its lines and the messages."""
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    log = logging.getLogger("nnexp")
    monkeypatch.setattr(log, "handlers", [Lines()])
    monkeypatch.setattr(log, "propagate", False)
    monkeypatch.setattr(log, "level", logging.INFO)

    def shown(width, **environment):
        table = summary((0.3, 0.1), (0.1, 0.1), init=["normal", "x" * 12], learning_rate=[0.5, 0.25])
        table["standing"] = ["worse", "best"]
        with monkeypatch.context() as patched:
            patched.setattr("sys.stdout.isatty", lambda: True, raising=False)
            patched.setattr("shutil.get_terminal_size", lambda: os.terminal_size((width, 24)))
            for name, value in environment.items():
                patched.setenv(name, value)
            print_summary(table)
        printed = capsys.readouterr()
        return printed.out.splitlines(), printed.err

    return shown


def test_a_terminal_shows_the_best_row_bold_unless_told_not_to(terminal):
    lines, said = terminal(200)
    *others, best = lines
    assert best.startswith("\x1b[1m*  xxx")
    assert best.endswith("\x1b[0m")
    assert not any("\x1b" in line for line in others)
    assert said == ""
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert not any("\x1b" in line for line in terminal(200, **environment)[0])


@pytest.mark.parametrize("width", [100, 80, 60, 50, 40, 20, 5])
def test_no_line_is_wider_than_the_terminal(terminal, width):
    lines, said = terminal(width, NO_COLOR="1")
    assert max(map(len, lines)) <= width
    assert len(lines) == 4
    assert "no room for max" in said


def test_a_narrow_terminal_keeps_the_median_and_its_interval_longest(terminal):
    names = terminal(68, NO_COLOR="1")[0][0].split()
    assert names == ["init", "learning_rate", "n", "median", "median_low", "median_high"]
