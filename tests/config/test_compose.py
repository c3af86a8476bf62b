"""The points of a sweep are composed as Hydra composes them."""

import pytest
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import RunMode
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from omegaconf import OmegaConf

from nnexp.config import compose
from nnexp.config.overrides import parse
from nnexp.config.paths import CONF

OVERRIDES = st.lists(
    st.sampled_from(
        [
            "dataset=gender",
            "dataset=xor",
            "dataset=line",
            "dataset.center=mean",
            "dataset.features=[a,b]",
            "dataset.target='a, b'",
            "init=he",
            "init=uniform",
            "init.scale=0.5",
            "+init.shape=3",
            "optimizer=momentum",
            "optimizer=adam",
            "~optimizer.name",
            "hidden=[]",
            "hidden=[3,4]",
            "learning_rate=1e-3",
            "learning_rate=0.5",
            "learning_rate=-0.25",
            "seed=00",
            "seed=-3",
            "init=3",
            "hidden=7",
            "seed=${epochs}",
            "epochs=17",
            "+note='quoted, text'",
            "++note={a:1}",
            "~shuffle",
            "experiment=real_tables",
            "hydra.verbose=true",
            'experiment_name="${init.name} ${dataset.name}"',
        ]
    ),
    max_size=6,
    unique_by=lambda o: o.lstrip("+~").split("=")[0],
)


@pytest.fixture
def loaded():
    """Hydra's loader, and the configuration from which it composes the jobs of a sweep."""
    with initialize_config_dir(str(CONF), version_base="1.3"):
        loader = GlobalHydra.instance().config_loader()
        yield loader, loader.load_configuration("config", [], RunMode.MULTIRUN)


@pytest.mark.slow
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(OVERRIDES)
def test_points_are_composed_as_hydra_composes_them(loaded, job):
    loader, master = loaded
    try:
        expected = loader.load_sweep_config(master, list(job))
    except (HydraException, ValueError) as error:
        with pytest.raises(type(error)):
            list(compose.Composer(loader, master).points([job]))
        return
    ((point, left_out),) = compose.Composer(loader, master).points([job])
    assert left_out == []
    theirs = OmegaConf.to_container(expected, resolve=False)
    theirs.pop("hydra")
    assert point == OmegaConf.to_container(OmegaConf.create(theirs), resolve=True)


def test_a_choice_of_groups_is_composed_once_and_points_do_not_share_changes(loaded, monkeypatch):
    loader, master = loaded
    composed = []
    load = loader.load_sweep_config
    monkeypatch.setattr(loader, "load_sweep_config", lambda *a: composed.append(a) or load(*a))
    jobs = [[f"init={init}", f"seed={seed}"] for init in ("he", "normal") for seed in range(5)]
    points = [point for point, _ in compose.Composer(loader, master).points(jobs)]
    assert len(composed) == 2
    assert [point["seed"] for point in points] == [0, 1, 2, 3, 4] * 2


def test_a_key_that_only_some_swept_options_have_is_ignored_for_the_others(loaded):
    loader, master = loaded
    jobs = [[f"optimizer={name}", f"optimizer.beta1={b}"] for name in ("sgd", "adam") for b in (0.5, 0.9)]
    points = list(compose.Composer(loader, master).points(jobs))
    assert [point["optimizer"].get("beta1") for point, _ in points] == [None, None, 0.5, 0.9]
    assert [left_out for _, left_out in points] == [["optimizer.beta1"]] * 2 + [[]] * 2
    with pytest.raises(HydraException):
        list(compose.Composer(loader, master).points(jobs[:2]))


def test_a_sweep_can_name_options_by_a_pattern(loaded):
    loader, config = loaded
    typed = ["init=glob([he,n*])"]
    parse(typed)
    grid = compose.grid_points(loader, config, {}, typed)
    assert [list(point) for point in grid] == [["init=he"], ["init=normal"]]
