"""The configuration: what each key allows, its canonical form, its run key."""

from dataclasses import replace

import pytest
import yaml

from nnexp.cli.help import help_text
from nnexp.config.errors import RequestError
from nnexp.config.groups import options
from nnexp.config.paths import CONF
from nnexp.config.request import GROUPS, key_names
from nnexp.config.run import ADDED, RunConfig


@pytest.fixture
def default(configure):
    return configure()


def test_the_defaults_are_the_articles(default):
    assert (default.dataset.name, default.dataset.center) == ("gender", "articles")
    assert (default.learning_rate, default.epochs, default.hidden) == (0.1, 1000, (2,))
    assert (default.activation, default.loss, default.batch_size) == ("sigmoid", "mse", 1)


@pytest.mark.parametrize("group", ["dataset", "init", "optimizer"])
def test_every_option_of_a_group_composes_and_validates(configure, group):
    own = ["dataset.path=x.csv", "dataset.features=[a]", "dataset.target=y"]
    for option in options(group):
        config = configure(f"{group}={option}", *(own if option == "csv" else []))
        assert getattr(config, group).name == option


@pytest.mark.parametrize("name", options("experiment"))
def test_every_experiment_composes(configure, name):
    assert configure(f"experiment={name}").epochs >= 1


def test_plain_values_rebuild_the_config_through_yaml(configure):
    config = configure("optimizer=adam", "hidden=[3,4]", "batch_size=full", "init=he", "seed=7")
    assert RunConfig.from_mapping(yaml.safe_load(yaml.safe_dump(config.nested()))) == config


def test_whole_numbers_become_int_and_fractions_float(configure):
    config = configure("epochs=1e3", "learning_rate=1", "validation_fraction=0")
    assert (config.epochs, config.learning_rate) == (1000, 1.0)
    assert isinstance(config.epochs, int)
    assert isinstance(config.learning_rate, float)


def test_the_run_key_changes_with_everything_that_decides_the_result_and_nothing_else(configure, default):
    key = default.run_key("data", "1")
    for other in (
        "seed=1",
        "init.scale=2",
        "hidden=[3]",
        "dataset.center=mean",
        "optimizer=momentum",
        "optimizer.weight_decay=0.1",
        "optimizer=adamw",
    ):
        assert configure(other).run_key("data", "1") != key
    for same in ("figures=false", "model=false", "experiment_name=x", "learning_rate=1e-1", "hidden=[2]"):
        assert configure(same).run_key("data", "1") == key
    assert default.run_key("other data", "1") != key
    assert default.run_key("data", "2") != key


def test_a_key_that_was_added_counts_for_the_run_key_unless_it_is_as_before(configure, default):
    """Records from before it was there keep their keys; at any other value it makes another run."""
    split = configure("validation_fraction=0.3")
    changes = {"patience": 5, "split_seed": 0, "test_fraction": 0.1, "folds": 2}
    for key, value in changes.items():
        base = replace(split, validation_fraction=0.0) if key == "folds" else split
        assert replace(base, **{key: value}).run_key("data", "1") != base.run_key("data", "1")
    folds = configure("folds=3")
    assert replace(folds, fold=1).run_key("data", "1") != folds.run_key("data", "1")
    assert set(ADDED) <= set(default.leaves())
    assert {key: default.leaves()[key] for key in ADDED} == ADDED


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["patience=5"], "patience=5 waits for val_loss to fall, and there are no validation rows"),
        (["validation_fraction=0.2", "folds=3"], "validation_fraction=0.2 does not go with folds=3"),
        (["folds=3", "fold=3"], "fold=3 with folds=3: must be 0 to 2"),
        (["fold=1"], "fold=1 with folds=0: must be 0, as folds=0 cuts none"),
        (["folds=1"], "folds=1: must be a whole number >= 2, or 0"),
        (["folds=true"], "folds=true: must be a whole number >= 2, or 0"),
        (["split_seed=-1"], "split_seed=-1: must be a whole number >= 0, at most 4294967295; null: the seed"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_keys_that_do_not_go_together_are_refused_with_what_is_allowed(configure, overrides, words):
    with pytest.raises(RequestError, match=words):
        configure(*overrides)


def test_the_run_key_is_pinned(default):
    """Finished runs are found by their key; it may change only if old records must not be found any more."""
    assert (
        default.run_key("0" * 64, "1") == "05173f6daf4c3d9ab76afd7a2e1b3fcfec8a3ea56d27de59af59ab211bcc7f1f"
    )


def test_params_have_one_entry_per_leaf_under_the_typed_name(default):
    params = default.params()
    assert params["init"] == "normal"
    assert params["init.scale"] == "1.0"
    assert params["hidden"] == "[2]"
    assert params["learning_rate"] == "0.1"
    assert not {"tracking_uri", "experiment_name", "figures", "model"} & set(params)


def test_every_key_of_the_defaults_is_in_the_help_with_its_meaning(default):
    page = help_text()
    for key in [*default.leaves(), *key_names()]:
        assert f"  {key}=" in page
    for option in [*options("dataset"), *options("init"), *options("optimizer")]:
        assert option in page


def test_every_default_is_written_once_and_is_allowed():
    written = yaml.safe_load((CONF / "config.yaml").read_text())
    assert set(written) - {"defaults", "hydra"} == {
        key for key in key_names() if "." not in key and key not in GROUPS
    }


def test_an_unknown_key_is_refused_with_the_nearest_known_one(default):
    with pytest.raises(RequestError, match=r"unknown key 'learnin_rate'\. Did you mean learning_rate"):
        RunConfig.from_mapping(default.nested() | {"learnin_rate": 1})


def test_a_missing_key_is_refused(default):
    values = default.nested()
    del values["epochs"]
    with pytest.raises(RequestError, match="epochs is not given"):
        RunConfig.from_mapping(values)


def test_a_config_cannot_be_changed(default):
    with pytest.raises(AttributeError):
        default.seed = 3
    assert replace(default, seed=3) != default
    assert len({default, replace(default, seed=0)}) == 1
