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
        ["optimizer=adamw", "optimizer.weight_decay=0.1", "batch_size=2"],
        ["optimizer.weight_decay=0.01"],
        ["batch_size=full", "shuffle=true"],
        ["shuffle=true", "batch_size=3", "seed=7"],
        ["output_activation=softmax", "loss=cross_entropy", "hidden=[3,3]"],
        ["output_activation=softmax"],
        ["loss=bce", "activation=relu", "init=he"],
        ["hidden=[]", "loss=bce"],
        ["output_activation=tanh", "init=xavier"],
        ["validation_fraction=0.25", "dataset.center=mean"],
        ["folds=2", "fold=1", "test_fraction=0.25", "split_seed=3", "dataset.center=mean"],
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


# Networks that soon learn their few training rows too well, so that val_loss rises.
WAITING = ("hidden=[6]", "activation=tanh", "output_activation=identity", "learning_rate=0.05", "epochs=100")


@pytest.fixture
def waiting(configure, tmp_path):
    """`waiting("patience=10")` is a run on noisy labels, of which a third is for validation."""
    rng = RandomState(0)
    rows = [f"{a},{b},{int(a + b + 2 * e > 0)}" for a, b, e in rng.normal(size=(40, 3))]
    (tmp_path / "noisy.csv").write_text("\n".join(["a,b,y", *rows]) + "\n")

    def configured(*overrides):
        own = ["dataset=csv", f"dataset.path='{tmp_path}/noisy.csv'", "dataset.target=y"]
        return configure(*own, *WAITING, "log_every=5", "validation_fraction=0.33", *overrides)

    return configured


def same(run, other):
    assert flatten(run.final.layers).tobytes() == flatten(other.final.layers).tobytes()
    assert run.epochs.tolist() == other.epochs.tolist()
    assert (run.outcome, repr(run.once)) == (other.outcome, repr(other.once))  # nan is nan here
    assert run.kept.keys() == other.kept.keys()
    for name, values in run.curves.items():
        assert values.tobytes() == other.curves[name].tobytes()


@pytest.mark.parametrize("patience", [1, 5, 12, 1000])
def test_a_run_with_patience_is_the_run_that_ends_at_its_lowest_val_loss(waiting, patience):
    config = waiting(f"patience={patience}", "weights_every=5")
    (run,), (plain,) = trained(config), trained(replace(config, patience=0))
    best, stopped = 0, 100
    for epoch, value in zip(plain.epochs.tolist(), plain.curves["val_loss"].tolist(), strict=True):
        if value < plain.curves["val_loss"][best // 5]:
            best = epoch
        elif epoch - best >= patience:
            stopped = epoch
            break
    assert 0 < best < 100
    assert run.once == {"best_epoch": best, "trained_epochs": stopped}
    (shorter,) = trained(replace(config, patience=0, epochs=best))
    same(replace(run, once={}), shorter)


@pytest.mark.parametrize("steps", [1, 10**6])
def test_patience_is_the_same_alone_in_any_company_and_in_chunks_of_any_length(waiting, monkeypatch, steps):
    base = waiting("optimizer=momentum", "shuffle=true", "test_fraction=0.2", "weights_every=15")
    company = [
        replace(base, patience=patience, epochs=epochs, seed=seed, learning_rate=rate)
        for patience in (0, 3, 10, 20)
        for epochs in (20, 60, 100, 47)
        for seed, rate in ((0, 0.02), (1, 0.01), (2, 1e200))
    ]
    alone = [trained(config)[0] for config in company]
    monkeypatch.setattr("nnexp.training.shard.CHUNK_STEPS", steps)
    monkeypatch.setattr("nnexp.training.shard.CHUNK_SECONDS", 1e-9 if steps == 1 else 10)
    for run, other in zip(alone, trained(*company), strict=True):
        same(run, other)
    assert {run.outcome for run in alone} >= {"diverged", "finished"}
    assert any(run.once["trained_epochs"] < run.config.epochs for run in alone if "best_epoch" in run.once)


def test_a_chunk_ends_before_its_orders_of_rows_take_too_much_memory(waiting, monkeypatch):
    config = waiting("shuffle=true", "epochs=100", "log_every=7")
    (run,) = trained(config)
    rows = len(check(load(config.dataset), config).X)
    monkeypatch.setattr("nnexp.training.shard.CHUNK_STEPS", 1)
    monkeypatch.setattr("nnexp.training.shard.ORDER_BYTES", 3 * 4 * rows)
    progress = list(train(load(config.dataset), [config]))
    assert max(np.diff([p.epochs_done for p in progress])) == 3
    same(progress[-1].ended[0][1], run)


def test_a_run_with_patience_that_diverges_is_the_run_without(waiting):
    config = waiting("patience=100", "learning_rate=1e200", "optimizer=adam")
    (run,), (plain,) = trained(config), trained(replace(config, patience=0))
    assert run.outcome == "diverged"
    same(run, plain)


def test_the_current_network_of_a_run_with_patience_is_its_best_so_far(waiting, monkeypatch):
    monkeypatch.setattr("nnexp.training.shard.CHUNK_STEPS", 1)
    monkeypatch.setattr("nnexp.training.shard.CHUNK_SECONDS", 1e-9)
    config = waiting("patience=20")
    seen = [p.current for p in train(load(config.dataset), [config]) if p.current is not None]
    (run,) = trained(config)
    lowest = [current.curves["val_loss"][-1] for current in seen]
    assert lowest == sorted(lowest, reverse=True)
    assert all(current.curves["val_loss"].min() == current.curves["val_loss"][-1] for current in seen)
    assert flatten(seen[-1].final.layers).tolist() == flatten(run.final.layers).tolist()


@pytest.mark.parametrize(
    "output",
    [[], ["output_activation=softmax", "loss=cross_entropy"], ["output_activation=sigmoid", "loss=bce"]],
)
def test_test_loss_and_accuracy_are_those_of_the_last_network_on_the_test_rows(waiting, output):
    config = waiting("test_fraction=0.3", "patience=20", *output)
    (run,) = trained(config)
    data = run.prepared
    y_pred = network.feedforward(run.final, data.X_test)
    right = y_pred >= 0.5 if y_pred.shape[1] == 1 else y_pred == y_pred.max(axis=1, keepdims=True)
    assert len(data.X_test) == 12
    assert run.once["test_loss"] == pytest.approx(
        network.loss(run.final, data.X_test, data.y_test), abs=1e-12
    )
    assert run.once["test_accuracy"] == (right == data.y_test).all(axis=1).mean()


def test_runs_of_one_split_seed_share_their_rows_and_differ_in_all_else(waiting):
    base = waiting("split_seed=3")
    runs = trained(*(replace(base, seed=seed) for seed in range(4)))
    assert len({id(run.prepared) for run in runs}) == 1
    assert len({flatten(run.final.layers).tobytes() for run in runs}) == 4
    (as_seed,) = trained(replace(base, split_seed=None, seed=3))
    assert flatten(as_seed.final.layers).tobytes() == flatten(runs[3].final.layers).tobytes()


def test_folds_of_two_sizes_train_in_one_call_as_they_do_alone(waiting):
    base = replace(waiting("split_seed=1"), validation_fraction=0.0, folds=7)
    folds = [replace(base, fold=fold) for fold in range(7)]
    together = trained(*folds)
    assert {len(run.prepared.X_val) for run in together} == {5, 6}
    assert sorted(row for run in together for row in run.prepared.val_rows.tolist()) == list(range(40))
    for config, run in zip(folds, together, strict=True):
        same(run, trained(config)[0])


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
