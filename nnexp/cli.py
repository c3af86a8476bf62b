"""The verbs. Nothing heavy is imported until a verb needs it."""

from __future__ import annotations

import atexit
import gc
import os
import re
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

import click

from nnexp.config import Lost, RequestError
from nnexp.mask import masked
from nnexp.progress import Terminated, catch_signals, interruptible, say

if TYPE_CHECKING:
    from nnexp.config import RunConfig
    from nnexp.request import SweepConfig
    from nnexp.rerun.verbs import Change

FORMATS = click.Choice(["table", "csv", "markdown", "json"])


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="nnexp", message="nnexp %(version)s")
def nnexp() -> None:
    """Train small networks from scratch, record them in MLflow, and summarise what a sweep found."""


@nnexp.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Train and record one run, or with -m a sweep.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def train(arguments: tuple[str, ...]) -> None:
    from nnexp.app import train_command

    train_command(list(arguments))


@nnexp.command()
@click.option("--experiment", default="nnexp", show_default=True, help="The MLflow experiment.")
@click.option("--sweep", help="Only the runs of this sweep, by its id.")
@click.option("--by", help="Params to group by, a,b; else all that vary.")
@click.option("--over", default="seed", show_default=True, help="The param that a group averages over.")
@click.option("--metric", default="loss", show_default=True, help="The metric, its last value.")
@click.option("--where", help="Only runs for which this holds: 'learning_rate > 0.1 and init == \"he\"'.")
@click.option(
    "--threshold", type=float, help="Add the median of epochs until the metric is at or below this."
)
@click.option("--format", "style", type=FORMATS, default="table", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
@click.option(
    "--plot", type=click.Path(dir_okay=False, path_type=Path), help="Draw it: FILE.png, FILE.svg or FILE.pdf."
)
def summarize(
    experiment: str,
    sweep: str | None,
    by: str | None,
    over: str,
    metric: str,
    where: str | None,
    threshold: float | None,
    style: str,
    out: Path | None,
    plot: Path | None,
) -> None:
    """Summarise recorded runs: count, mean, spread, interval, shares, by any params.

    Tables are for people: a mean has the digits that its interval supports, the interval ends where the
    metric does, * marks the best mean. For every digit take csv or json.
    """
    from nnexp import show

    groups = None if by is None else [name.strip() for name in by.split(",") if name.strip()]
    show.summary(experiment, sweep, groups, over, metric, where, threshold, style, out, plot)


@nnexp.command()
@click.argument("sweep_id", required=False)
@click.option("--experiment", default="nnexp", show_default=True, help="Where to take the newest sweep from.")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="This file, not SWEEP_ID.html.")
def report(sweep_id: str | None, experiment: str, out: Path | None) -> None:
    """Write the report of a sweep, the newest one unless told which, as one HTML file."""
    from nnexp.report.write import write

    say(f"wrote {write(sweep_id, experiment, out)}")


@nnexp.command()
@click.argument("run_id")
def show(run_id: str) -> None:
    """What one run was: configuration, curve, weights, equation, provenance."""
    from nnexp import show as shown

    shown.run(run_id)


@nnexp.command()
@click.argument("run_id")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--format", "style", type=FORMATS, default="table", show_default=True)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
def predict(run_id: str, file: Path, style: str, out: Path | None) -> None:
    """Apply a recorded network to the rows of a CSV file."""
    from nnexp import show

    show.predict(run_id, file, style, out)


@nnexp.command()
@click.argument("run_id", required=False)
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--sweep", help="Verify all runs of this sweep, by its id.")
@click.option(
    "--bundle", type=click.Path(path_type=Path), help="Verify an archive of nnexp bundle; no store is needed."
)
@click.option("--dry-run", is_flag=True, help="Only say whether it could be done.")
def rerun(
    run_id: str | None, changes: tuple[str, ...], sweep: str | None, bundle: Path | None, dry_run: bool
) -> None:
    """Run again from the record and compare, to the bit: exit status 1 if anything differs.

    With KEY=VALUE it is a variation: what changed, and what came of it.
    """
    from nnexp.rerun import verbs

    if sum(what is not None for what in (run_id, sweep, bundle)) != 1:
        raise click.UsageError(
            "give a RUN_ID, with KEY=VALUE for a variation, or --sweep SWEEP_ID, or --bundle FILE"
        )
    if sweep is not None:
        is_well = verbs.sweep(sweep, dry_run)
    elif bundle is not None:
        is_well = verbs.bundle(bundle, dry_run)
    else:
        is_well = verbs.one(str(run_id), _change(changes), dry_run)
    if not is_well:
        sys.exit(1)


@nnexp.command()
@click.argument("run_or_sweep_id")
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="Write to this file.")
def bundle(run_or_sweep_id: str, out: Path | None) -> None:
    """Write one archive of a run or a sweep, which can be rerun where the store has never been."""
    from nnexp.rerun import verbs

    verbs.write_bundle(run_or_sweep_id, out)


@nnexp.command(name="import")
@click.argument("bundle", type=click.Path(path_type=Path))
@click.option("--experiment", help="The MLflow experiment to put it in; else the one it was recorded in.")
def import_(bundle: Path, experiment: str | None) -> None:
    """Put the runs of a bundle into this store, under the ids that they have.

    What is there already stays as it is. A bundle may come from anyone: rerun shows whether it is true.
    """
    from nnexp.rerun import intake

    intake.bring(bundle, experiment)


def _change(typed: tuple[str, ...]) -> Change | None:
    """What is typed as key=value, as a change of a recorded configuration."""
    if not typed:
        return None

    def change(config: RunConfig) -> tuple[RunConfig, SweepConfig]:
        from nnexp.app import variation  # imports Hydra, which a plain rerun does without

        return variation(config, typed)

    return change


@nnexp.command()
@click.argument("run_id")
@click.option(
    "--to", type=click.Path(path_type=Path), help="Write it into this new directory, not on the run."
)
def export(run_id: str, to: Path | None) -> None:
    """Make an MLflow model of a recorded network: raw rows in, label and probability out."""
    from nnexp import export as exports

    exports.export(run_id, to)


@nnexp.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--experiment", help="The MLflow experiment to open; else nnexp.")
def ui(port: int, experiment: str | None) -> None:
    """Open the MLflow UI on this store, for this machine only."""
    from nnexp import ui as page

    page.serve(port, experiment)


@nnexp.command()
@click.option("--fix", is_flag=True, help="Put right what can be without any loss.")
def doctor(fix: bool) -> None:
    """Look the store over: damage, stale runs, missing, changed or left-over files."""
    from nnexp import doctor as look

    if not look.examine(fix):
        sys.exit(1)


def main() -> None:
    """The `nnexp` command, with the exit statuses that the README lists."""
    catch_signals()
    # Imports make a million objects, none of them garbage; to look for some takes a tenth of a short command.
    gc.set_threshold(50_000, 50, 50)
    traced = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    arguments = _completion(sys.argv[1:])
    # Nor need there be a search for garbage at the end.
    atexit.register(gc.freeze)
    try:
        with interruptible():
            nnexp.main(arguments, prog_name="nnexp", standalone_mode=False)
    except RequestError as error:
        if traced:
            say(masked(traceback.format_exc()))
        say(masked(f"nnexp: {error}"))
        sys.exit(2)
    except Lost as error:
        if traced:
            say(masked(traceback.format_exc()))
        say(masked(f"nnexp: {error}"))
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        say("nnexp: interrupted")
        sys.exit(130)
    except Terminated:
        say("nnexp: terminated")
        sys.exit(143)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has left; there is nobody to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if traced:
            say(masked(traceback.format_exc()))
        say(masked(f"nnexp: failed: {type(error).__name__}: {error}"))
        sys.exit(1)


def _completion(arguments: list[str]) -> list[str]:
    """Hydra's shell completion asks the program itself, with the line typed so far; it belongs to `train`."""
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        os.environ["COMP_LINE"] = re.sub(r"^(\S+)\s+train\b", r"\1", os.environ.get("COMP_LINE", "nnexp"))
        return ["train", *arguments]
    return arguments


if __name__ == "__main__":
    main()
