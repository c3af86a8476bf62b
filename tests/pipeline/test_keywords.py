"""Keyword arguments become overrides with the same meaning on the command line."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from nnexp.config.errors import RequestError
from nnexp.pipeline.keywords import typed


def overrides(sweeps=False, **keys):
    return typed(keys, sweeps=sweeps)[0]


TEXTS = [
    "xor",
    "a'b",
    "a\\",
    "a\\'b",
    "${oc.env:HOME}",
    "\\${x}",
    "c:\\${x}\\",
    "null",
    "1e5",
    "a,b=[c]{d}",
    "",
    'ü "q"',
]


@pytest.mark.parametrize("text", TEXTS)
def test_any_text_is_passed_literally(text):
    (override,) = overrides(question=text)
    (parsed,) = OverridesParser.create().parse_overrides([override])
    config = OmegaConf.create({"question": parsed.value()})
    assert OmegaConf.to_container(config, resolve=True) == {"question": text}


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (None, "null"),
        (True, "true"),
        (np.bool_(False), "false"),
        (3, "3"),
        (np.int64(3), "3"),
        (0.1, "0.1"),
        (np.float64(1e-20), "1e-20"),
        (Path("a/b.csv"), "'a/b.csv'"),
    ],
)
def test_a_value_is_written_so_that_hydra_reads_the_same(value, written):
    assert overrides(question=value) == [f"question={written}"]


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ([1, 2], "1,2"),
        ((0.1, 0.5), "0.1,0.5"),
        (range(20), "range(0,20,1)"),
        (range(1, 2), "1"),
        (np.array([0.5, 2.0]), "0.5,2.0"),
        (pd.Series([1, 2]), "1,2"),
    ],
)
def test_a_list_a_range_or_an_array_is_several_values_in_a_sweep_and_none_in_a_run(value, written):
    assert overrides(sweeps=True, learning_rate=value) == [f"learning_rate={written}"]
    with pytest.raises(RequestError, match=r"learning_rate has several values: use nnexp\.sweep"):
        overrides(learning_rate=value)


@pytest.mark.parametrize(
    ("value", "written"),
    [([2, 4], "[2,4]"), ([], "[]"), ([[2], [4, 4]], "[2],[4,4]"), ([[]], "[]"), (np.array([2, 4]), "[2,4]")],
)
def test_a_list_of_lists_is_several_values_of_a_key_whose_value_is_a_list(value, written):
    assert overrides(sweeps=True, hidden=value) == [f"hidden={written}"]


def test_a_mapping_gives_a_groups_options():
    wanted = ["optimizer='adam'", "optimizer.beta1=0.8"]
    assert overrides(optimizer={"name": "adam", "beta1": 0.8}) == wanted
    assert overrides(optimizer="adam", **{"optimizer.beta1": 0.8}) == wanted


def test_the_keys_of_a_data_set_may_be_given_without_their_group():
    assert overrides(target="y", features=["a", "b"]) == ["dataset.target='y'", "dataset.features=['a','b']"]


def test_tags_may_have_any_allowed_name():
    (override,) = overrides(tags={"team": "blue", "a b:c/d.e": 3})
    (parsed,) = OverridesParser.create().parse_overrides([override])
    assert parsed.value() == {"team": "blue", "a b:c/d.e": 3}


FRAME = pd.DataFrame({"x": [1, 2], "y": [0.5, 1.5]})


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"lr": 0.1}, "unknown key 'lr'. Did you mean learning_rate?"),
        ({"optimizer__beta1": 0.1}, "unknown key 'optimizer__beta1'. Did you mean optimizer.beta1?"),
        ({"hydra.verbose": True}, "unknown key 'hydra.verbose'"),
        ({"+seed": 1}, "unknown key '+seed'"),
        ({"target": "a", "dataset.target": "b"}, "dataset.target is given twice"),
        ({"seed": {1}}, "seed: must not be a set"),
        ({"seed": FRAME}, "seed: must not be a DataFrame"),
        ({"seed": 10**5000}, "seed: the number has more than a hundred digits"),
        ({"tags": {"ü": 1}}, "tags: 'ü': a name may have ASCII letters"),
        (
            {"dataset": FRAME, "dataset.path": "a.csv"},
            "dataset is a DataFrame, but dataset.path names a file",
        ),
        ({"dataset": "csv", "new_rows": FRAME}, "dataset.new_rows is a DataFrame, so dataset must be one"),
        ({"dataset": pd.DataFrame({"x": pd.Series(["\ud800"], dtype=object)})}, "the DataFrame holds"),
    ],
)
def test_a_value_that_no_key_allows_is_refused_with_the_key(keys, message):
    with pytest.raises(RequestError) as refused:
        typed(keys, sweeps=False)
    assert str(refused.value).startswith(message)


def test_a_sweep_over_no_values_has_no_points():
    with pytest.raises(RequestError, match="the sweep has no points"):
        overrides(sweeps=True, seed=[])


def test_a_frame_is_the_bytes_that_pandas_writes(tmp_path):
    frame = pd.DataFrame(
        {
            "whole": [1, -2, 3],
            "number": [0.1, 1e-300, 1 / 3],
            "gap": [1.0, None, 2.0],
            "label": ["a", 'b "quoted", with a comma', None],
            "truth": [True, False, True],
            "nullable": pd.array([1, None, 3], dtype="Int64"),
            3: pd.Categorical(["u", "v", "u"]),
        },
        index=[7, 8, 9],
    )
    frame.to_csv(tmp_path / "frame.csv", index=False, lineterminator="\n")
    source = typed({"dataset": frame, "target": "label"}, sweeps=False)[1]
    assert source.table == (tmp_path / "frame.csv").read_bytes()


def test_new_rows_are_a_frame_or_a_file(tmp_path):
    (tmp_path / "new.csv").write_bytes(b"x\n5\n")
    assert typed({"dataset": FRAME, "new_rows": FRAME[["x"]]}, sweeps=False)[1].new_rows == b"x\n1\n2\n"
    assert typed({"dataset": FRAME, "new_rows": "new.csv"}, sweeps=False)[1].new_rows == b"x\n5\n"
