"""Training: the trajectories of the articles and of the reference, and that batches change no bits."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.random import RandomState

from nnexp.config.errors import RequestError
from nnexp.dataset.load import load
from nnexp.network import reference as network
from nnexp.network.reference import flatten
from nnexp.network.weights import Model
from nnexp.training.checks import check
from nnexp.training.train import train

GOLDEN = sorted(Path(__file__).with_name("golden").glob("*.json"))
ORDER = ["w1", "w2", "w3", "w4", "w5", "w6", "b1", "b2", "b3"]


def trained(*configs):
    """Train the configs, which share a data set; return the results in their order."""
    results = {}
    for progress in train(load(configs[0].dataset), configs):
        results.update(progress.ended)
    return [results[i] for i in range(len(configs))]


def oracle(config):
    """Train with the reference; return the loss at every recorded point and the final weights."""
    (run,) = trained(replace(config, epochs=1, log_every=1))
    data, net, memory = run.prepared, run.initial, None
    size = len(data.X) if config.batch_size == "full" else config.batch_size
    orders, losses = RandomState([config.seed, 2]), [network.loss(net, data.X, data.y)]
    for epoch in range(1, config.epochs + 1):
        order = np.arange(len(data.X))
        if config.shuffle:
            order = np.argsort(orders.random_sample(len(data.X)), kind="stable")
        for start in range(0, len(order), size):
            rows = order[start : start + size]
            grad = flatten(network.gradients(net, data.X[rows], data.y[rows]))
            w, memory = network.step(
                config.optimizer.name,
                flatten(net.layers),
                grad,
                memory,
                config.learning_rate,
                dict(config.optimizer.options),
            )
            net = replace(net, layers=network.unflatten(w, network.sizes(net.layers)))
        if epoch % config.log_every == 0 or epoch == config.epochs:
            losses.append(network.loss(net, data.X, data.y))
    return losses, flatten(net.layers)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_the_articles_program_is_reproduced(configure, path):
    golden = json.loads(path.read_text())
    keys = ("dataset", "seed", "learning_rate", "epochs")
    config = configure("log_every=1", *(f"{key}={golden[key]}" for key in keys))
    (run,) = trained(config)
    close = {"rtol": 0, "atol": 1e-12}
    assert flatten(run.initial.layers).tolist() == [golden["initial"][name] for name in ORDER]
    np.testing.assert_allclose(flatten(run.final.layers), [golden["final"][n] for n in ORDER], **close)
    losses = {int(epoch) + 1: loss for epoch, loss in golden["loss_at_epoch"].items()}
    np.testing.assert_allclose(run.curves["loss"][list(losses)], list(losses.values()), **close)
    assert run.curves["loss"][-1] == pytest.approx(golden["final_loss"], abs=1e-12)
    y_pred = network.feedforward(run.final, run.prepared.X)[:, 0]
    np.testing.assert_allclose(y_pred, golden["outputs"], **close)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_emily_and_frank_are_as_in_the_articles(configure, seed):
    golden = json.loads((GOLDEN[0].parent / f"gender_seed{seed}_lr0.1_epochs1000.json").read_text())
    config = configure(f"seed={seed}")
    (run,), data = trained(config), load(config.dataset)
    model = Model(run.final, run.initial, run.prepared.shift, run.prepared.scale, data.features, data.classes)
    answers = dict(zip(data.new_names, model.outputs(data.X_new)[:, 0], strict=True))
    assert answers == pytest.approx(golden["predictions"], abs=1e-12)
    assert model.predict(data.X_new)["label"] == ["F", "M"]


def test_the_loss_on_the_gender_table_falls_steadily(configure):
    (run,) = trained(configure("epochs=1000"))
    assert (np.diff(run.curves["loss"]) < 0).all()


def test_the_line_is_found_from_w_2_and_b_1():
    """Gradient descent on x = y = 1 … 5, as the article on the line does: to w = 1, b = 0."""
    X = np.arange(1.0, 6.0)[:, None]
    net = network.Network(((np.array([[2.0]]), np.array([1.0])),), "sigmoid", "identity", "mse")
    for _ in range(5000):
        w = flatten(net.layers) - 0.02 * flatten(network.gradients(net, X, X))
        net = replace(net, layers=network.unflatten(w, [1, 1]))
    np.testing.assert_allclose(flatten(net.layers), [1.0, 0.0], atol=1e-6)


def test_the_line_is_learned_by_the_program(configure):
    line = ["dataset=line", "hidden=[]", "output_activation=identity", "learning_rate=0.02", "epochs=5000"]
    (run,) = trained(configure(*line))
    np.testing.assert_allclose(flatten(run.final.layers), [1.0, 0.0], atol=1e-6)
    assert run.outcome == "converged"


@pytest.mark.parametrize(
    "overrides",
    [
        ["optimizer=momentum", "batch_size=2"],
        ["optimizer=adam", "batch_size=3", "activation=tanh"],
        ["batch_size=full", "shuffle=true"],
        ["shuffle=true", "batch_size=3", "seed=7"],
        ["output_activation=softmax", "loss=cross_entropy", "hidden=[3,3]"],
        ["output_activation=softmax"],
        ["loss=bce", "activation=relu", "init=he"],
        ["hidden=[]", "loss=bce"],
        ["output_activation=tanh", "init=xavier"],
        ["validation_fraction=0.25", "dataset.center=mean"],
        ["dataset=line", "output_activation=identity", "hidden=[4]", "learning_rate=0.01"],
    ],
    ids=" ".join,
)
def test_training_follows_the_oracle(configure, overrides):
    config = configure("epochs=40", *overrides)
    (run,) = trained(config)
    losses, w = oracle(config)
    np.testing.assert_allclose(run.curves["loss"], losses, rtol=0, atol=1e-9)
    np.testing.assert_allclose(flatten(run.final.layers), w, rtol=0, atol=1e-9)


def test_curves_have_points_at_0_at_every_log_every_and_at_the_last_epoch(configure):
    (run,) = trained(configure("epochs=25", "log_every=10"))
    assert run.epochs.tolist() == [0, 10, 20, 25]
    assert run.curves["loss"].shape == run.curves["accuracy"].shape == (4,)


def test_kept_weights_are_those_of_their_epoch(configure):
    long = configure("epochs=30", "weights_every=10")
    (run,), (short,) = trained(long), trained(replace(long, epochs=20))
    assert list(run.kept) == [0, 10, 20, 30]
    assert flatten(run.kept[20]).tolist() == flatten(short.final.layers).tolist()
    assert flatten(run.kept[0]).tolist() == flatten(run.initial.layers).tolist()


def test_a_run_has_the_same_bits_alone_and_in_any_batch(configure):
    base = configure("epochs=200", "dataset=xor")
    company = [
        replace(base, seed=seed, learning_rate=rate, epochs=epochs)
        for seed in range(12)
        for rate in (0.1, 1.0, 30.0)
        for epochs in (50, 200, 155)
    ]
    together = trained(*company)
    for config, run in list(zip(company, together, strict=True))[::7]:
        (alone,) = trained(config)
        assert alone.config == run.config
        assert flatten(alone.final.layers).tolist() == flatten(run.final.layers).tolist()
        assert alone.epochs.tolist() == run.epochs.tolist()
        for name, values in alone.curves.items():
            assert values.tolist() == run.curves[name].tolist()


def test_shuffled_and_split_runs_have_the_same_bits_in_any_batch(configure):
    base = configure(
        "epochs=60", "shuffle=true", "validation_fraction=0.25", "optimizer=adam", "batch_size=2"
    )
    company = [replace(base, seed=seed) for seed in range(20)]
    together = trained(*company)
    (alone,) = trained(company[13])
    assert flatten(alone.final.layers).tolist() == flatten(together[13].final.layers).tolist()
    assert alone.curves["val_loss"].tolist() == together[13].curves["val_loss"].tolist()


def test_a_run_that_diverges_ends_there_and_changes_no_other(configure):
    line = configure("dataset=line", "hidden=[]", "output_activation=identity", "learning_rate=0.02")
    good, bad = trained(line, replace(line, learning_rate=5.0))
    assert (good.outcome, bad.outcome) == ("converged", "diverged")
    assert bad.epochs[-1] < 1000
    assert np.isfinite(bad.curves["loss"][:-1]).all()
    assert not np.isfinite(bad.curves["loss"][-1])
    (alone,) = trained(line)
    assert flatten(alone.final.layers).tolist() == flatten(good.final.layers).tolist()


def test_a_shard_that_raises_fails_its_runs_only(configure, three_wide_fails):
    """Two shapes are two shards; the engine is made to fail on one of them."""
    small, wide = configure("epochs=10"), configure("epochs=10", "hidden=[3]")
    fine, failed = trained(small, wide)
    assert fine.outcome in ("converged", "finished")
    assert failed.reason == "MemoryError: no room"


def test_progress_counts_every_epoch_of_every_run(configure):
    base = configure("epochs=100")
    configs = [replace(base, seed=s, epochs=e) for s in range(3) for e in (40, 100)]
    reports = list(train(load(base.dataset), configs))
    assert reports[-1].epochs_done == 3 * 140
    assert [p.epochs_done for p in reports] == sorted(p.epochs_done for p in reports)
    assert sorted(i for p in reports for i, _ in p.ended) == list(range(6))


@pytest.mark.parametrize(
    ("overrides", "words"),
    [
        (["batch_size=5"], "4 training rows"),
        (["validation_fraction=0.5", "batch_size=3"], "2 training rows"),
        (["dataset=line"], "runs from 1 to 5"),
        (["dataset=line", "output_activation=softmax"], "is a number"),
        (["hidden=[4000,4000]"], "weights: at most"),
        (["+init.shape=2"], "init.shape"),
        (["~init.scale"], "init.scale is not given"),
        (["init.name=magic"], "unknown init"),
        (["init.name=Array"], "unknown init"),
        (["optimizer.name=sigmoid"], "unknown optimizer"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_a_config_that_does_not_fit_its_data_is_refused(configure, overrides, words):
    config = configure(*overrides)
    with pytest.raises(RequestError, match=words):
        check(load(config.dataset), config)
