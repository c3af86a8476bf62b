"""A recorded run with some keys changed: what changed, and what came of it."""

from __future__ import annotations

import logging
from dataclasses import replace

from nnexp.analysis.tables import as_text
from nnexp.config.request import SweepConfig
from nnexp.config.run import RunConfig
from nnexp.dataset import load as datasets
from nnexp.dataset.load import load, read_source
from nnexp.pipeline.rerun.subject import Subject
from nnexp.pipeline.run import run
from nnexp.training.checks import check

log = logging.getLogger("nnexp")

# Keys that say where a run is recorded.
WHERE = frozenset({"experiment_name", "tracking_uri"})


def settled(now: RunConfig) -> RunConfig:
    """What was typed, with the features by name where all columns were meant."""
    if now.dataset.features is not None:
        return now
    return replace(now, dataset=datasets.settled(now.dataset, load(now.dataset)))


def is_other(was: Subject, now: RunConfig) -> bool:
    """Whether what was typed makes another run of it, or shows more of it, rather than saying where the same
    data lie."""
    if now.figures > was.config.figures or now.model > was.config.model:
        return True
    if now.run_key("", "") != was.config.run_key("", ""):
        return True
    return now.dataset != was.config.dataset and read_source(now.dataset).sha256 != was.data_sha256


def vary(was: Subject, now: RunConfig, request: SweepConfig, dry_run: bool) -> bool:
    """Train what was recorded with some keys changed, record it as any run, and say what came of it."""
    evidence, source = was.evidence, None
    if now.dataset == was.config.dataset and was.data.dataset is not None:
        source = was.data.dataset.source
    before, after = was.config.leaves(), now.leaves()
    changed = [key for key in {**before, **after} if before.get(key) != after.get(key) and key not in WHERE]
    print(f"a variation of {evidence.name} ({evidence.run_id})\n")
    columns = {"key": changed, "recorded": [_shown(before.get(k)) for k in changed]}
    print(as_text(columns | {"now": [_shown(after.get(k)) for k in changed]}))
    if was.data.changed is not None:
        print(
            f"note: {was.data.changed}"
            + ("" if source is None else "; the copy that the record keeps was taken")
        )
    if dry_run:
        check(load(now.dataset, source), now)
        print("\nit can be trained")
        return True
    done = run(now, request, source, {"nnexp.variation_of": evidence.run_id})
    if done is None:
        return True
    last = {metric: curve[-1] for metric, curve in evidence.curves.items()}
    effect: dict[str, tuple[object, object]] = {
        "loss": (last["loss"][1], done.last_loss),
        "epochs": (last["loss"][0], done.epochs),
    }
    if "accuracy" in last or done.accuracy is not None:
        effect["accuracy"] = (last.get("accuracy", (0, None))[1], done.accuracy)
    rows = {"": [*effect, "outcome"]}
    rows["recorded"] = [*(_shown(a) for a, _ in effect.values()), evidence.tags.get("nnexp.outcome", "")]
    rows["now"] = [*(_shown(b) for _, b in effect.values()), done.outcome]
    print("\n" + as_text(rows))
    if done.added:
        log.info(f"its numbers were recorded before; it now has {' and '.join(done.added)} as well")
    elif done.is_old:
        log.info("this variation was recorded before, and is not run again; force=true runs it again")
    print(f"\nrecorded as {done.run_id}")
    return True


def _shown(value: object) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
