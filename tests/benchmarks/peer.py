"""Train the articles' network without nnexp, as a careful person would write it: a Hydra app with NumPy that
records with MLflow, point by point or in one log_batch. bench_sweep.py times it."""

import hydra
import mlflow
import numpy as np
import yaml
from mlflow.entities import Metric
from omegaconf import DictConfig, OmegaConf

X = np.array([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
Y = np.array([0.0, 1.0, 1.0, 0.0])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def train(rate: float, epochs: int, seed: int):
    """Train a 2-2-1 network by single samples; return weights, (epoch, loss, accuracy) every ten epochs."""
    rng = np.random.RandomState(seed)
    W1, W2 = rng.normal(size=(2, 2)), rng.normal(size=2)
    b1, b2 = rng.normal(size=2), rng.normal()
    points = []
    for epoch in range(epochs + 1):
        if epoch % 10 == 0:
            y_pred = sigmoid(sigmoid(X @ W1.T + b1) @ W2 + b2)
            points.append((epoch, ((Y - y_pred) ** 2).mean(), ((y_pred >= 0.5) == Y).mean()))
        if epoch == epochs:
            return {"W1": W1, "b1": b1, "W2": W2, "b2": np.array(b2)}, points
        for x, y in zip(X, Y, strict=True):
            h = sigmoid(W1 @ x + b1)
            y_pred = sigmoid(W2 @ h + b2)
            delta = -2 * (y - y_pred) * y_pred * (1 - y_pred)
            hidden = delta * W2 * h * (1 - h)
            W2, b2 = W2 - rate * delta * h, b2 - rate * delta
            W1, b1 = W1 - rate * np.outer(hidden, x), b1 - rate * hidden


@hydra.main(version_base="1.3", config_path=".", config_name="peer")
def main(config: DictConfig) -> None:
    mlflow.set_tracking_uri(config.store)
    mlflow.set_experiment("peer")
    with mlflow.start_run() as run:
        weights, points = train(config.learning_rate, config.epochs, config.seed)
        params = {key: config[key] for key in ("learning_rate", "epochs", "seed")}
        if config.batch:
            mlflow.log_params(params)
            metrics = [Metric("loss", loss, 0, epoch) for epoch, loss, _ in points]
            metrics += [Metric("accuracy", accuracy, 0, epoch) for epoch, _, accuracy in points]
            mlflow.MlflowClient().log_batch(run.info.run_id, metrics=metrics)
        else:
            for key, value in params.items():
                mlflow.log_param(key, value)
            for epoch, loss, accuracy in points:
                mlflow.log_metric("loss", loss, step=epoch)
                mlflow.log_metric("accuracy", accuracy, step=epoch)
        mlflow.log_text(yaml.safe_dump(OmegaConf.to_container(config)), "config.yaml")
        np.savez("weights.npz", **weights)
        mlflow.log_artifact("weights.npz")


if __name__ == "__main__":
    main()
