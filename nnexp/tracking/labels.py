"""Label a run or a sweep with what the user typed: its name, its question, the user's own tags."""

from __future__ import annotations

from nnexp.config.request import Request
from nnexp.config.text import masked, masked_pair

# The tag that holds the question that a sweep answers.
QUESTION = "nnexp.question"
# The tag that says which rows a sweep's networks are trained on.
DATA = "nnexp.data"
# The tags that MLflow's UI shows as description and name.
DESCRIPTION, NAME = "mlflow.note.content", "mlflow.runName"


def name_of(request: Request, otherwise: str) -> str:
    """Return the name that was typed, or else `otherwise`; secrets are masked."""
    return otherwise if request.name is None else masked(request.name)


def tags_of(request: Request) -> dict[str, str]:
    """Return the tags that were typed, and the question; secrets are masked."""
    tags = {key: masked_pair(key, value) for key, value in request.tags or ()}
    return tags if request.question is None else {**tags, QUESTION: masked(request.question)}


def run_labels(request: Request) -> dict[str, str]:
    """Return what was typed as tags of a single run, whose question is also its description."""
    tags = tags_of(request)
    return {**tags, DESCRIPTION: tags[QUESTION]} if QUESTION in tags else tags
