"""dlopt show --batch: the first mini-batch of a run or of a configuration, as training sees it."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.config.compose.nested_options import is_override
from dlopt.rundir.display import display_path, make_report_path
from dlopt.rundir.find import ROOT
from dlopt.runner.execute import DONE, USAGE_ERROR
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory
    from dlopt.training.experiment import Experiment

DEVICE = "device=cpu"
"""Random numbers are the same on every device, and a run may have had one that is not here."""


def show_batch(args: Any) -> int:
    """Show the first mini-batch of args.words: overrides, or a run. Return the exit code."""
    overrides = [word for word in args.words if is_override(word) and not Path(word).exists()]
    if not overrides:
        return _show_batch_of_run(args)
    if len(overrides) < len(args.words):
        others = ", ".join(word for word in args.words if word not in overrides)
        raise ValueError(f"--batch shows a run or a configuration: name {to_printable(others)} or overrides, not both")
    if args.trust:
        raise ValueError("--trust is for a run: what you type yourself is trusted")
    from dlopt.cli.train import preview

    heading = " ".join(overrides)
    file = ROOT / "reports" / "batch.png"
    return preview([*overrides, DEVICE], lambda experiment, notices: _report(experiment, notices, heading, file, args))


def _show_batch_of_run(args: Any) -> int:
    """Show the first mini-batch of a run, or of the best run of a sweep."""
    from dlopt.runner.open_run import open_run

    name = args.words[0] if args.words else "last"
    outcome = "its batch cannot be shown"
    return open_run("dlopt show", name, lambda run: _show_run(run, args), trust=args.trust, outcome=outcome)


def _show_run(run: RunDirectory, args: Any) -> int:
    from dlopt.config.build import build
    from dlopt.config.checks.splits import FittedDataState
    from dlopt.config.reopen import load_run, resume_checks

    if not args.trust:
        load_run.check_links(run)
    status = run.status
    resume_checks.check_configuration(run, status)
    config = load_run.load_config(run, trust=args.trust)
    config["device"] = DEVICE.partition("=")[2]
    encoding, newest = load_run.read_encoding(run), run.latest_checkpoint()
    experiment, _ = build(
        config,
        fitted=FittedDataState(None, encoding, is_other_data=False) if encoding else None,
        saved=None if newest is None else newest.content["model"],  # limits the network, and needs no initial weights
    )
    notices = [
        f"up to step {step} it had other settings ({why}); the batch is that of the present ones"
        for step, why in resume_checks.find_breaks(status)
    ]
    return _report(experiment, notices, display_path(run.path), make_report_path(run.path, "batch"), args)


def _report(experiment: Experiment, notices: Sequence[str], heading: str, file: Path, args: Any) -> int:
    """Draw the batch, or print the table of its features. Return the exit code."""
    import torch

    from dlopt.report import first_batch

    for notice in notices:
        print(f"note: {to_printable(notice)}", file=sys.stderr)
    torch.set_num_threads(experiment.threads)
    if 0 in experiment.train.inputs.shape[1:]:
        return _refuse("this run has no data: its loss is a function of the weights alone")
    batch = first_batch.take_first_batch(experiment, args.examples)
    if batch.plain.inputs.ndim == 2:
        if args.png is not None:
            return _refuse("--png draws images and series; examples with features are printed: leave it out")
        print(f"{heading}: {batch.title}\n")
        print(first_batch.format_features(batch).text(shutil.get_terminal_size().columns))
        return DONE
    from dlopt.report.batch_sheet import plot_batch
    from dlopt.report.figures import save_figure

    try:
        figure = plot_batch(batch, heading if args.title is None else args.title)
        print(display_path(save_figure(figure, Path(args.png) if args.png else file)))
    except ValueError as error:
        return _refuse(str(error))
    return DONE


def _refuse(message: str) -> int:
    print(f"dlopt show: --batch: {message}", file=sys.stderr)
    return USAGE_ERROR
