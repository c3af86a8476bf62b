"""What a run or a sweep is called by whoever typed it: its name, its question, tags of their own."""

from __future__ import annotations

from nnexp.config.request import SweepConfig
from nnexp.config.text import masked, masked_pair

# The tag that holds the question that a sweep answers.
QUESTION = "nnexp.question"
# The tags with which MLflow's UI shows a description and a name.
DESCRIPTION, NAME = "mlflow.note.content", "mlflow.runName"


def name_of(request: SweepConfig, otherwise: str) -> str:
    """The name that was typed, or else this one."""
    return otherwise if request.name is None else masked(request.name)


def tags_of(request: SweepConfig) -> dict[str, str]:
    """The tags that were typed, and the question."""
    tags = {key: masked_pair(key, value) for key, value in request.tags or ()}
    return tags if request.question is None else {**tags, QUESTION: masked(request.question)}


def run_labels(request: SweepConfig) -> dict[str, str]:
    """What was typed, as tags of a run alone: its question is its description."""
    tags = tags_of(request)
    return {**tags, DESCRIPTION: tags[QUESTION]} if QUESTION in tags else tags
