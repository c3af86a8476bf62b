"""Calls of the public API as a user's own program makes them, for `make lint` to check their types."""

import pandas as pd
from matplotlib.figure import Figure

import nnexp

run = nnexp.train(dataset="xor", learning_rate=0.5, optimizer="adam", **{"optimizer.beta1": 0.8})
frame: pd.DataFrame = run.history
loss: float = run.loss
figure: Figure = run.figure("curves")
answers: pd.DataFrame = run.network.predict(frame)
sweep = nnexp.sweep(dataset=frame, target="species", seed=range(20), hidden=[[2], [4, 4]])
table: pd.DataFrame = sweep.summary(by=["init"])
best: str = sweep.best.run_id
verdict: str = nnexp.rerun(best).verdict
version: str = nnexp.__version__
runs: pd.DataFrame = nnexp.load_runs()
try:
    nnexp.train()
except nnexp.RequestError as error:
    print(error)
# If one of these were no error, strict mypy would report its comment as unused.
nnexp.trian()  # type: ignore[attr-defined]
number: int = nnexp.train().run_id  # type: ignore[assignment]
