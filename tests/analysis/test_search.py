"""What a search tells at its end."""

import pandas as pd

from nnexp.analysis.search import params_text, verdict
from nnexp.config.space import Dimension
from nnexp.tracking.searches import Searched, Trial

SIDE_BY_SIDE = ("learning_rate=0.1", "epochs=20"), ("learning_rate=5", "epochs=80")
ZIPPED = Dimension("learning_rate epochs", "choice", choices=("0.1 20", "5 80"), settings=SIDE_BY_SIDE)
SCALE = Dimension("init.scale", "float", 0.1, 1)


def searched(over="seed", states=("complete", "complete", "pruned")):
    values = [{"learning_rate epochs": "5 80", "init.scale": i + 1 / 3} for i in range(len(states))]
    trials = tuple(Trial(params, state, 0.5) for params, state in zip(values, states, strict=True))
    return Searched({"over": over}, "loss", (ZIPPED, SCALE), trials)


def again(*standings, n=5):
    rows = [(i, n, 0.5, 0.4, 0.6, standing) for i, standing in enumerate(standings)]
    return pd.DataFrame(rows, columns=["trial", "n", "median", "low", "high", "standing"])


def test_a_trials_params_can_be_typed():
    assert params_text(searched(), 1) == "learning_rate=5 epochs=80 init.scale=1.333"


def test_the_verdict_names_the_best_its_interval_and_those_that_cannot_be_told_from_it():
    told = verdict(searched(), again("best", "worse", "tied"))
    assert told.startswith("best of 3 trials (1 ended early): trial 0, learning_rate=5 epochs=80 ")
    assert told.endswith(
        "loss 0.500, 95% interval 0.400 to 0.600 over 5 fresh seeds; not to be told from it: trial 2"
    )


def test_the_verdict_says_what_is_fresh_if_trials_are_judged_over_folds():
    assert "over the same 5 values of fold with a fresh seed; " in verdict(searched("fold"), again("best"))


def test_the_verdict_of_a_search_without_confirmation_or_without_trials_says_so():
    assert verdict(searched(), again()).endswith("search.confirm=3 tells its value on others")
    left_out = searched(states=("excluded", "failed"))
    assert verdict(left_out, again()) == "no trial was completed of 2 trials (1 failed, 1 excluded)"
