"""Define the verbs with Click. Slow imports wait until a verb needs them."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import re
import shlex
import sys
import traceback
from pathlib import Path
from typing import Any

import click

from nnexp.cli.streams import finish_output, prepare
from nnexp.config.errors import Lost, RequestError
from nnexp.pipeline.signals import Terminated, catch_signals, interruptible

log = logging.getLogger("nnexp")

# A path of any kind, and a path of a file.
PATH, FILE = click.Path(path_type=Path), click.Path(dir_okay=False, path_type=Path)
_FORMATS = click.Choice(["table", "csv", "markdown", "json"])
_FORMAT_HELP = "The default is the format that --out's ending names, or table."
in_format = click.option("--format", "style", type=_FORMATS, help=_FORMAT_HELP)
into_file = click.option("--out", type=FILE, help="Write to FILE.csv, .json, .md or .txt.")


def _choose_store(context: click.Context, _: click.Parameter, uri: str | None) -> None:
    """Use this store for the command, as if MLFLOW_TRACKING_URI named it."""
    if uri is None:
        return
    if not uri:
        raise RequestError("--tracking-uri is empty: it must be like tracking_uri of nnexp train")
    before = os.environ.get("MLFLOW_TRACKING_URI")
    os.environ["MLFLOW_TRACKING_URI"] = context.meta["nnexp.tracking_uri"] = uri

    @context.call_on_close
    def restore() -> None:
        if before is None:
            del os.environ["MLFLOW_TRACKING_URI"]
        else:
            os.environ["MLFLOW_TRACKING_URI"] = before


in_store = click.option(
    "--tracking-uri",
    callback=_choose_store,
    expose_value=False,
    help="The store; by default MLFLOW_TRACKING_URI, or mlflow.db in the checkout or in this directory.",
)


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
    from nnexp.cli.train import train_command

    train_command(list(arguments))


@nnexp.command(
    context_settings={"ignore_unknown_options": True, "help_option_names": []},
    short_help="Search for the best values of keys, with Optuna.",
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def search(arguments: tuple[str, ...]) -> None:
    from nnexp.cli.search import search_command

    search_command(list(arguments))


@nnexp.command("list")
@click.option("--experiment", help="List only this MLflow experiment.")
@click.option("-n", "--number", type=click.IntRange(1), default=20, show_default=True, help="How many.")
@in_format
@into_file
@in_store
def list_(experiment: str | None, number: int, style: str | None, out: Path | None) -> None:
    """List the recorded sweeps and single runs, the newest first.

    Every verb accepts an id, any unambiguous beginning of one, or `last`.
    """
    from nnexp.cli import show

    show.listing(experiment, number, style, out)


@nnexp.command()
@click.option("--experiment", help="The MLflow experiment; by default the sweep's, or nnexp.")
@click.option("--sweep", help="Summarise only the runs of this sweep: its id, or `last`.")
@click.option("--by", help="Params to group by, a,b; by default all that vary.")
@click.option("--over", default="seed", show_default=True, help="The param that a group averages over.")
@click.option(
    "--metric", help="The metric; by default val_loss where there is a validation split, else loss."
)
@click.option(
    "--rank",
    type=click.Choice(["median", "iqm", "mean", "solved"]),
    default="median",
    show_default=True,
    help="What ranks the rows.",
)
@click.option("--sort", help="Sort the rows by this column, such as rank; by default by the params.")
@click.option("--top", type=click.IntRange(1), help="Only so many rows, the best.")
@click.option("--where", help="Only runs that satisfy this: 'learning_rate > 0.1 and init == \"he\"'.")
@click.option(
    "--threshold",
    type=float,
    help="Add the median number of epochs until the metric is at or below this (an accuracy: at or above).",
)
@in_format
@into_file
@click.option("--plot", type=FILE, help="Draw it: FILE.png, FILE.svg or FILE.pdf.")
@in_store
def summarize(by: str | None, **options: Any) -> None:
    """Summarise recorded runs, grouped by any params: medians, intervals, means, shares.

    In tables, * marks the best row of each data set and ~ those that cannot be told from it; a number has as
    many digits as its interval supports. The formats csv and json have every column and digit.
    """
    from nnexp.cli import show

    groups = None if by is None else [name.strip() for name in by.split(",") if name.strip()]
    show.summary(groups, **options)


@nnexp.command()
@click.argument("settings", nargs=-1, metavar="[SETTING]…")
@click.option("--experiment", help="The MLflow experiment; by default the sweep's, or nnexp.")
@click.option("--sweep", help="Compare only runs of this sweep: its id, or `last`.")
@click.option("--metric", help="The metric; by default val_loss if there is a validation split, else loss.")
@click.option("--over", default="seed", show_default=True, help="The param by which runs are paired.")
@click.option("--where", help="Only runs that satisfy this: 'learning_rate > 0.1 and init == \"he\"'.")
@click.option("--threshold", type=float, help="What counts as solved; by default an accuracy of 1.")
@in_format
@into_file
@click.option("--plot", type=FILE, help="Draw it: FILE.png, FILE.svg or FILE.pdf.")
@in_store
def compare(settings: tuple[str, ...], **options: Any) -> None:
    """Compare settings, such as init=he,learning_rate=0.5 and init=xavier, or sweeps by their ids.

    Each two are compared seed by seed where they share seeds: differences, the probability of improvement,
    the time to solve. Without a SETTING, show the effect of each param, averaged over the others.
    """
    from nnexp.cli import compare as comparison

    comparison.carry_out(settings, **options)


@nnexp.command()
@click.argument("sweep_id", required=False)
@click.option("--experiment", help="Take the newest sweep of this experiment; by default of the whole store.")
@click.option("--metric", help="The metric; by default val_loss if there is a validation split, else loss.")
@click.option("--out", type=FILE, help="By default SWEEP_ID.html.")
@in_store
def report(sweep_id: str | None, experiment: str | None, metric: str | None, out: Path | None) -> None:
    """Write the report of a sweep, by default the newest, as one HTML file."""
    from nnexp.analysis.report.write import write

    path, sweep = write(sweep_id, experiment, out, metric)
    log.info(f"wrote {path}: {sweep}")


@nnexp.command()
@click.argument("run_or_sweep_id")
@click.argument("figure", required=False)
@click.option("--metric", help="Of a sweep: val_loss if there is a validation split, else loss, by default.")
@click.option("--out", type=PATH, help="With FIGURE a .png, .svg or .pdf; else a directory.")
@in_store
def plot(run_or_sweep_id: str, figure: str | None, metric: str | None, out: Path | None) -> None:
    """Draw the figures of a run, of a sweep's too, or of a sweep, from the record alone.

    FIGURE is one of them, such as curves, weights or hidden_space; by default all are written, as PNG files.
    Of a run that did not solve its task, print what is known of it, beside one of the same setting that did.
    """
    from nnexp.cli import show

    show.plot(run_or_sweep_id, figure, metric, out)


@nnexp.command()
@click.argument("run_or_sweep_id")
@in_store
def show(run_or_sweep_id: str) -> None:
    """Show a run (configuration, curve, weights, equation, provenance) or a sweep (its summary)."""
    from nnexp.cli import show as shown

    shown.run(run_or_sweep_id)


@nnexp.command()
@click.argument("run_id")
@click.argument("file", type=PATH)
@in_format
@into_file
@in_store
def predict(run_id: str, file: Path, style: str | None, out: Path | None) -> None:
    """Apply a recorded network to the rows of a CSV file."""
    from nnexp.cli import show

    show.predict(run_id, file, style, out)


@nnexp.command()
@click.argument("run_id", required=False)
@click.argument("changes", nargs=-1, metavar="[KEY=VALUE]…")
@click.option("--sweep", help="Verify all runs of this sweep: its id, or `last`.")
@click.option("--bundle", type=PATH, help="Verify an archive of nnexp bundle, without a store.")
@click.option("--dry-run", is_flag=True, help="Only say whether the runs can be trained again.")
@in_store
def rerun(
    run_id: str | None, changes: tuple[str, ...], sweep: str | None, bundle: Path | None, dry_run: bool
) -> None:
    """Run again from the record and compare every bit: exit status 1 if anything differs.

    With KEY=VALUE, run a variation, and show what changed and its effect.
    """
    from nnexp.cli import rerun as again

    if sum(what is not None for what in (run_id, sweep, bundle)) != 1:
        raise click.UsageError(
            "give a RUN_ID, with KEY=VALUE for a variation, or --sweep SWEEP_ID, or --bundle FILE"
        )
    if sweep is not None:
        is_well = again.sweep(sweep, dry_run)
    elif bundle is not None:
        is_well = again.bundle(bundle, dry_run)
    else:
        is_well = again.one(str(run_id), changes, dry_run)
    if not is_well:
        sys.exit(1)


@nnexp.command()
@click.argument("run_or_sweep_id")
@click.option("--out", type=FILE, help="Write to this file.")
@in_store
def bundle(run_or_sweep_id: str, out: Path | None) -> None:
    """Write a run or a sweep into one archive, which can be rerun on any machine without the store."""
    from nnexp.cli import bundle as archive

    archive.write(run_or_sweep_id, out)


@nnexp.command(name="import")
@click.argument("bundle", type=PATH)
@click.option("--experiment", help="The MLflow experiment to put it in; by default the one of the record.")
@in_store
def import_(bundle: Path, experiment: str | None) -> None:
    """Put the runs of a bundle into this store, with their own ids.

    Runs that are there already stay as they are. A bundle may come from anyone: nnexp rerun verifies it.
    """
    from nnexp.cli import bundle as archive

    archive.bring(bundle, experiment)


@nnexp.command()
@click.argument("run_id")
@click.option("--to", type=PATH, help="Write it into this new directory instead of the store.")
@in_store
def export(run_id: str, to: Path | None) -> None:
    """Make an MLflow model of a recorded network: raw rows in, label and probability out."""
    from nnexp.pipeline import export as exports

    print(exports.export(run_id, to))
    if to is not None:
        log.info(f"serve it: mlflow models serve --env-manager local --model-uri {shlex.quote(str(to))}")


@nnexp.command()
@click.argument("ids", nargs=-1, required=True, metavar="SWEEP_ID | MEMBER…")
@click.option("--best", type=click.IntRange(1), help="The best so many members.")
@click.option("--worst", type=click.IntRange(1), help="The worst so many members.")
@click.option("--where", help="Only members that satisfy this: 'learning_rate > 0.1 and init == \"he\"'.")
@click.option("--metric", help="What ranks them; by default val_loss if they have one, else loss.")
@in_store
def promote(ids: tuple[str, ...], **options: Any) -> None:
    """Make members of a population runs of their own, with curves, weights, figures and a model.

    Each is trained again, and checked against the hash of its weights. Name the population and choose with
    the options, or name members, SWEEP_ID/NUMBER.
    """
    from nnexp.cli import promote as promotion

    if not promotion.promote(ids, **options):
        sys.exit(1)


@nnexp.command()
@click.option("--port", type=click.IntRange(1, 65535), default=5000, show_default=True)
@click.option("--experiment", help="The MLflow experiment to open; by default nnexp.")
@in_store
def ui(port: int, experiment: str | None) -> None:
    """Serve the MLflow UI of this store, for this machine only."""
    from nnexp.cli import ui as page

    page.serve(port, experiment)


@nnexp.command()
@click.option("--fix", is_flag=True, help="Repair what can be repaired without loss.")
@in_store
def doctor(fix: bool) -> None:
    """Check the store for damage, stale runs, and missing, changed or left-over files."""
    from nnexp.cli import doctor as look

    if not look.doctor(fix):
        sys.exit(1)


@nnexp.command()
@click.argument("directory", type=PATH)
def new(directory: Path) -> None:
    """Write a small project of your own into DIRECTORY: a data set, an experiment, a Makefile."""
    from nnexp.cli import new as project

    project.new(directory)


def main() -> None:
    """Run the `nnexp` command, and exit with a status of docs/reference/exit-statuses.md."""
    prepare()
    catch_signals()
    # Imports make a million objects, none of them garbage; searching them takes a tenth of a short command.
    gc.set_threshold(50_000, 50, 50)
    traced = os.environ.get("HYDRA_FULL_ERROR", "0") not in ("", "0")
    arguments = _completion(sys.argv[1:])
    # Skip the search for garbage at exit, too.
    atexit.register(gc.freeze)
    try:
        with interruptible():
            nnexp.main(arguments, prog_name="nnexp", standalone_mode=False)
            sys.stdout.flush()
    except (RequestError, Lost) as error:
        if traced:
            log.error(traceback.format_exc())
        log.error(f"nnexp: {error}")
        sys.exit(2 if isinstance(error, RequestError) else 1)
    except click.ClickException as error:
        error.show()
        sys.exit(2)
    except (KeyboardInterrupt, click.Abort):
        log.error("nnexp: interrupted")
        sys.exit(130)
    except Terminated:
        log.error("nnexp: terminated")
        sys.exit(143)
    except BrokenPipeError:
        # The reader of a pipe (head, less) has closed it, so no message is needed.
        finish_output()
        sys.exit(1)
    except Exception as error:
        if traced:
            log.error(traceback.format_exc())
        log.error(f"nnexp: failed: {type(error).__name__}: {error}")
        finish_output()
        sys.exit(1)


def _completion(arguments: list[str]) -> list[str]:
    """Route Hydra's shell completion, which calls the program with the line typed so far, to `train`."""
    if arguments[:1] in (["-sc"], ["--shell-completion"]):
        os.environ["COMP_LINE"] = re.sub(r"^(\S+)\s+train\b", r"\1", os.environ.get("COMP_LINE", "nnexp"))
        return ["train", *arguments]
    return arguments
