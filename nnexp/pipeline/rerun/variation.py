"""Run a recorded run again with some keys changed, and show the changes and their effect."""

from __future__ import annotations

from dataclasses import dataclass, replace

from nnexp.config.request import Request
from nnexp.config.run import RunConfig
from nnexp.dataset import load as datasets
from nnexp.dataset.load import Source, load, read_source
from nnexp.pipeline.rerun.subject import Subject
from nnexp.pipeline.run import Recorded, run
from nnexp.training.checks import check

# Keys that say where a run is recorded.
WHERE = frozenset({"experiment_name", "tracking_uri"})


def settled(now: RunConfig) -> RunConfig:
    """Return the configuration with the features listed by name if none were given."""
    if now.dataset.features is not None:
        return now
    return replace(now, dataset=datasets.settled(now.dataset, load(now.dataset)))


def is_other(was: Subject, now: RunConfig) -> bool:
    """Return whether the typed keys make another run, or ask for figures or a model that the run lacks.

    If False, they say at most where the same data are now.
    """
    if now.figures > was.config.figures or now.model > was.config.model:
        return True
    if now.run_key("", "") != was.config.run_key("", ""):
        return True
    return now.dataset != was.config.dataset and read_source(now.dataset).sha256 != was.data_sha256


@dataclass(frozen=True)
class Variation:
    """A recorded run, its new configuration, and the request."""

    was: Subject
    now: RunConfig
    request: Request
    dry_run: bool

    def changed(self) -> dict[str, tuple[object, object]]:
        """Return the keys that change, each with its recorded and its new value."""
        before, after = self.was.config.leaves(), self.now.leaves()
        pairs = {key: (before.get(key), after.get(key)) for key in {**before, **after} if key not in WHERE}
        return {key: (was, now) for key, (was, now) in pairs.items() if was != now}

    def note(self) -> str | None:
        """Return a remark if the data have changed, saying whether the record's copy was used; else None."""
        if self.was.data.changed is None:
            return None
        return self.was.data.changed + (
            "" if self._source() is None else "; the copy that the record keeps was used"
        )

    def check(self) -> None:
        """Raise RequestError unless the variation can be trained."""
        check(load(self.now.dataset, self._source()), self.now)

    def train(self) -> Recorded | None:
        """Train the variation and record it like any run. Raises RequestError."""
        tags = {"nnexp.variation_of": self.was.evidence.run_id}
        return run(self.now, self.request, self._source(), tags)

    def effect(self, done: Recorded) -> dict[str, tuple[object, object]]:
        """Return loss, epochs, accuracy and outcome, each with its recorded and its new value."""
        evidence = self.was.evidence
        last = evidence.metrics
        effect: dict[str, tuple[object, object]] = {
            "loss": (last["loss"], done.last_loss),
            "epochs": (evidence.last_epoch, done.epochs),
        }
        if "accuracy" in last or done.accuracy is not None:
            effect["accuracy"] = (last.get("accuracy"), done.accuracy)
        return effect | {"outcome": (self.was.evidence.tags.get("nnexp.outcome", ""), done.outcome)}

    def _source(self) -> Source | None:
        """Return the recorded bytes of the data set; None if they are missing or the data set was changed."""
        if self.now.dataset != self.was.config.dataset or self.was.data.dataset is None:
            return None
        return self.was.data.dataset.source
