"""Trials that train side by side, and are ended early, have the bits of runs that were configured so."""

import shutil
from dataclasses import replace

import numpy as np
import pytest

from nnexp.config.request import Executor
from nnexp.dataset import load as datasets
from nnexp.network import engine
from nnexp.network.engine.batch import ARTICLES
from nnexp.network.weights import weights_sha256
from nnexp.training import distribute
from nnexp.training import judged as judging
from nnexp.training.judged import train_judged
from nnexp.training.plan import Point
from nnexp.training.train import Failure, train
from tests.network.host_device import HostDevice
from tests.training import deadly

KEYS = ["dataset=xor", "epochs=95", "log_every=10", "shuffle=true", "batch_size=2"]
INLINE = Executor("inline")
has_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="there is no g++")
RATES = {0.1: 2, 1: 3, 5: 4}


def judged(configs, trials, metric, judge, executor=INLINE, device=None):
    """Train the configs as trials; return each one's result by its position."""
    dataset = datasets.load(configs[0].dataset)
    points = [Point(config, dataset, str(i), str(i)) for i, config in enumerate(configs)]
    recorded = range(configs[0].log_every, max(config.epochs for config in configs), configs[0].log_every)
    training = train_judged(points, trials, metric, judge, recorded, executor, device)
    return {int(point.name): result for _, ended in training for point, result in ended}


def alone(config):
    (result,) = [r for progress in train(datasets.load(config.dataset), [config]) for _, r in progress.ended]
    return result


def are_equal(one, other):
    return (
        (one.config, one.outcome) == (other.config, other.outcome)
        and weights_sha256(one.final.layers) == weights_sha256(other.final.layers)
        and all(np.array_equal(one.curves[name], values) for name, values in other.curves.items())
    )


@pytest.fixture
def configs(configure):
    """Three trials of three seeds each, of three shapes."""
    return [
        configure(*KEYS, f"learning_rate={rate}", f"seed={seed}", f"hidden=[{width}]")
        for rate, width in RATES.items()
        for seed in range(3)
    ]


TRIALS = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]


def test_a_run_that_is_ended_early_has_the_bits_of_a_run_of_as_many_epochs(configs):
    results = judged(configs, TRIALS, "loss", lambda trial, epoch, _: (trial, epoch) in ((1, 40), (2, 10)))
    for i, config in enumerate(configs):
        epochs = [95, 40, 10][i // 3]
        run = alone(replace(config, epochs=epochs))
        assert results[i].config == run.config
        assert results[i].outcome == ("pruned" if epochs < 95 else run.outcome)
        assert weights_sha256(results[i].final.layers) == weights_sha256(run.final.layers)
        assert results[i].epochs.tolist() == run.epochs.tolist()
        for name, values in run.curves.items():
            assert np.array_equal(results[i].curves[name], values)


def test_with_patience_a_run_that_is_ended_early_has_its_best_network(configure):
    keys = [*KEYS[1:], "dataset=gender", "validation_fraction=0.4", "patience=30", "learning_rate=2"]
    configs = [configure(*keys, f"seed={seed}") for seed in range(6)]
    results = judged(configs, [list(range(6))], "val_loss", lambda trial, epoch, _: epoch == 60)
    runs = [alone(replace(config, epochs=60)) for config in configs]
    assert [results[i].once for i in range(6)] == [run.once for run in runs]
    hashes = [weights_sha256(results[i].final.layers) for i in range(6)]
    assert hashes == [weights_sha256(run.final.layers) for run in runs]


def test_the_judge_is_asked_in_trial_order_at_each_recorded_epoch_before_the_last(configs):
    asked = []
    judged(configs, TRIALS, "loss", lambda trial, epoch, _: bool(asked.append((epoch, trial))))
    assert asked == [(epoch, trial) for epoch in range(10, 95, 10) for trial in range(3)]


def test_the_judge_sees_each_run_of_a_trial_and_nan_where_it_diverged(configure):
    line = ["dataset=line", "output_activation=identity", "epochs=20"]
    configs = [configure(*line, f"learning_rate={rate}") for rate in (0.01, 1e6)]
    seen = []
    judged(configs, [[0, 1]], "loss", lambda trial, epoch, values: bool(seen.append(values)))
    (values,) = seen
    assert values[0] == alone(configs[0]).curves["loss"][1]
    assert np.isnan(values[1])


def test_a_run_that_fails_leaves_the_others_with_their_bits(configs, three_wide_fails):
    results = judged(configs, TRIALS, "loss", lambda trial, epoch, _: trial == 0 and epoch == 50)
    failed = [i for i, result in results.items() if isinstance(result, Failure)]
    assert failed == [3, 4, 5]
    for i in (0, 6):
        run = alone(replace(configs[i], epochs=50 if i == 0 else 95))
        assert weights_sha256(results[i].final.layers) == weights_sha256(run.final.layers)


def test_runs_that_differ_only_in_epochs_end_each_by_itself(configure):
    configs = [configure("dataset=xor", f"epochs={epochs}") for epochs in (40, 80)]
    results = judged(configs, [[0], [1]], "loss", lambda trial, epoch, _: (trial, epoch) == (1, 60))
    assert [results[i].config.epochs for i in (0, 1)] == [40, 60]
    for i, epochs in enumerate((40, 60)):
        run = alone(replace(configs[i], epochs=epochs))
        assert weights_sha256(results[i].final.layers) == weights_sha256(run.final.layers)


@pytest.mark.parametrize("where", ["cpu", pytest.param("device", marks=has_compiler)])
def test_a_batch_of_the_engine_can_be_shortened_where_it_stands(where, tmp_path):
    device = HostDevice(tmp_path) if where == "device" else None
    start = np.linspace(-1, 1, 27).reshape(3, 9)
    X, y = np.array([[0.0, 1], [1, 0]]), np.array([[0.0], [1]])
    whole = engine.Batch(ARTICLES, X, y, start, 0.5, 50, device=device)
    short = engine.Batch(ARTICLES, X, y, start, 0.5, [20, 30, 50])
    whole.advance(20)
    whole.shorten([20, 30, 50])
    assert np.array_equal(whole.advance(50).loss, short.advance(50).loss)
    assert np.array_equal(whole.weights, short.weights)


@has_compiler
def test_a_device_gives_the_same_bits_to_the_same_verdicts(configs, tmp_path):
    here, there = (
        judged(configs, TRIALS, "loss", lambda trial, epoch, _: (trial, epoch) == (1, 40), device=device)
        for device in (None, HostDevice(tmp_path))
    )
    assert all(are_equal(there[i], result) for i, result in here.items())


@pytest.mark.slow
def test_runs_that_kill_their_worker_or_fail_there_leave_the_others_with_their_bits(configs, monkeypatch):
    monkeypatch.setattr(judging, "advanced", deadly.advanced)
    monkeypatch.setattr(distribute, "ALLOWED_LOSSES", 1)
    some, worker = [*configs[3:5], *configs[6:8]], Executor("processes", workers=1)
    results = judged(some, [[0, 1], [2, 3]], "loss", lambda trial, epoch, _: False, worker)
    reasons = {i: result.reason for i, result in results.items() if isinstance(result, Failure)}
    assert {i: reason.split(":")[0] for i, reason in reasons.items()} == {0: "WorkerLost", 3: "MemoryError"}
    assert all(are_equal(results[i], alone(some[i])) for i in (1, 2))
