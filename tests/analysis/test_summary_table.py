"""Summaries for people: significant digits, the best row, the width of a terminal."""

import json
import logging
import os

import pandas as pd
import pytest

from nnexp.analysis import summary_table
from nnexp.analysis.summary import best_rows
from nnexp.analysis.summary_table import as_table, setting, significant
from nnexp.analysis.tables import as_text
from nnexp.cli.show import print_summary
from nnexp.cli.streams import Lines


def summary(*rows, **params):
    """Make a summary of (mean, half-width of its interval), with these params as its first columns."""
    table = pd.DataFrame(params | {"n": [10] * len(rows)})
    table["mean"] = [mean for mean, _ in rows]
    table["std"] = [2.1 * half for _, half in rows]
    table["ci95_low"] = [mean - half for mean, half in rows]
    table["ci95_high"] = [mean + half for mean, half in rows]
    for name in ("min", "median", "max"):
        table[name] = table["mean"]
    return table.assign(solved=0.5, diverged=0.0)


def texts(table, metric="loss"):
    """Return the rows as people see them, by column."""
    columns = summary_table.readable(table, metric)
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.mark.parametrize(
    ("mean", "half", "shown"),
    [
        (0.045, 0.042, ("0.045", "0.003", "0.087")),
        (0.04567891, 0.00042, ("0.04568", "0.04526", "0.04610")),
        (0.5, 0.0996, ("0.500", "0.400", "0.600")),
        (1234.5, 260.0, ("1230", "970", "1490")),
        (7.789e-05, 1.25e-05, ("7.8e-05", "6.5e-05", "9.0e-05")),
        (0.25, 1e-9, ("0.250000", "0.250000", "0.250000")),
        (0.1676, 2.9e-17, ("0.1676", "0.1676", "0.1676")),
        (0.0, 0.0, ("0", "0", "0")),
    ],
)
def test_a_mean_has_the_digits_that_its_interval_supports(mean, half, shown):
    (row,) = texts(summary((mean, half)))
    assert (row["mean"], row["ci95_low"], row["ci95_high"]) == shown


def test_a_mean_with_an_infinite_interval_keeps_its_digits():
    (row,) = texts(summary((0.25, float("inf"))))
    assert (row["mean"], row["ci95_high"]) == ("0.2500", "inf")


def test_a_spread_that_is_only_rounding_counts_as_0():
    agreeing, spread = texts(summary((0.1676, 1.4e-17), (0.5, 0.1)))
    assert agreeing["std"] == "0"
    assert spread["std"] == "0.21"


def test_one_run_has_a_mean_but_no_spread_and_no_interval():
    table = summary((0.123456, 0.1))
    table[["std", "ci95_low", "ci95_high"]] = float("nan")
    (row,) = texts(table)
    assert [row[name] for name in ("mean", "std", "ci95_low", "ci95_high")] == ["0.1235", "", "", ""]


@pytest.mark.parametrize(
    ("metric", "interval"),
    [("loss", ("0", "1.30")), ("val_accuracy", ("0", "1.00")), ("prediction/Emily", ("-0.30", "1.30"))],
)
def test_an_interval_is_cut_off_at_the_bounds_of_the_metric(metric, interval):
    (row,) = texts(summary((0.5, 0.8)), metric)
    assert (row["ci95_low"], row["ci95_high"]) == interval


def test_only_a_share_of_0_is_shown_as_0_percent_and_only_1_as_100():
    table = summary(*[(0.1, 0.01)] * 5).assign(solved=[0, 0.0001, 1 / 3, 0.9999, 1], diverged=0.25)
    assert [row["solved"] for row in texts(table)] == ["0%", "<0.1%", "33.3%", ">99.9%", "100%"]
    assert texts(table)[0]["diverged"] == "25%"
    assert "diverged" not in texts(table.assign(diverged=0.0))[0]


def test_a_group_without_a_share_shows_an_empty_cell():
    table = summary((0.1, 0.01), (0.2, 0.01)).assign(solved=[float("nan"), 1.0], diverged=0.25)
    assert [row["solved"] for row in texts(table)] == ["", "100%"]


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


def test_the_best_row_has_the_lowest_loss_or_the_highest_accuracy():
    table = summary((0.3, 0.1), (0.1, 0.1), (0.2, 0.1), learning_rate=[1, 2, 3])
    assert best_rows(table) == [1]
    assert best_rows(table, "val_accuracy") == [0]
    assert best_rows(table, "grad_norm") == []
    assert best_rows(table.head(1)) == []
    assert best_rows(table.assign(mean=[0.2, 0.1, 0.1])) == [1, 2]
    assert best_rows(table.assign(mean=float("nan"))) == []


def test_a_setting_at_which_runs_diverge_is_not_the_best():
    table = summary((0.3, 0.1), (0.1, 0.1), learning_rate=[1, 2]).assign(diverged=[0.0, 0.5])
    assert best_rows(table) == [0]


def test_each_data_set_has_its_own_best_row():
    table = summary(*[(m, 0.1) for m in (0.3, 0.2, 0.01, 0.02, 0.001)], dataset=["a", "a", "b", "b", "c"])
    assert best_rows(table) == [1, 2]


def test_programs_get_every_digit_and_no_mark():
    table = summary((1 / 3, 0.1), (2 / 3, 0.1), init=["he", "ones"])
    assert json.loads(as_table(table, style="json"))[0]["mean"] == 1 / 3
    assert as_table(table, style="csv").splitlines()[1].startswith("he,10,0.3333333333333333,")
    assert as_table(table).splitlines()[2].startswith("*  he ")
    assert as_table(table, style="markdown").splitlines()[2].startswith("| * | he ")


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
    assert ("no room for max" in said) == (width < 90)


def test_a_narrow_terminal_keeps_the_mean_and_its_interval_longest(terminal):
    names = terminal(62, NO_COLOR="1")[0][0].split()
    assert names == ["init", "learning_rate", "n", "mean", "ci95_low", "ci95_high"]
