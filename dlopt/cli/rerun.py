"""dlopt rerun: repeats a run from its beginning in a new directory and compares the two."""

from __future__ import annotations

import os
import shutil
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlopt.cli.run_parser import build_run_parser, open_named_run
from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory

EPILOG = """\
  dlopt rerun              the last run again
  dlopt rerun RUN -q       prints nothing; the exit code says whether the result is the same

The new run has the present settings of the other one. It is an ordinary run: dlopt show, resume and evaluate accept it.
Exit code 0: every number of every row and the last state are equal, bit for bit. Exit code 1: something differs; the
first step and the difference are printed.
"""


def build_parser() -> ArgumentParser:
    """Build the command's parser."""
    description = "Repeats a run and compares the two, number by number."
    return build_run_parser("rerun", description, EPILOG, quiet="print nothing; see the exit code")


def rerun(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    from dlopt.rundir import provenance

    provenance.start_git_query()
    return open_named_run("rerun", args, _rerun_run, "nothing was started")


def _rerun_run(run: RunDirectory, args: Any) -> int:
    from omegaconf import OmegaConf

    from dlopt.cli.progress import Progress
    from dlopt.config.build import build
    from dlopt.config.compose.flatten import filter_plain_settings, flatten_settings
    from dlopt.config.reopen import load_run, resume_checks
    from dlopt.rundir.find import ROOT
    from dlopt.rundir.writer import RunWriter
    from dlopt.runner.execute import DONE, log_to_run, run_one
    from dlopt.storage import atomic

    if not args.trust:
        load_run.check_links(run)
    status = run.status
    resume_checks.check_configuration(run, status)
    config = load_run.load_config(run, trust=args.trust)
    experiment, notices = build(config)
    resume_checks.check_teacher(status.get("teacher"), experiment)
    for step, why in resume_checks.find_breaks(status):
        notices.append(f"up to step {step} it had other settings ({why}); the new run has those that it ended with")
    path = ROOT / time.strftime("%Y-%m-%d") / f"{time.strftime('%H-%M-%S')}-rerun-{os.urandom(2).hex()}"
    other = RunWriter(path)
    other.config_file.parent.mkdir(parents=True)
    atomic.atomic_write_bytes(other.config_file, OmegaConf.to_yaml(config).encode())
    settings = filter_plain_settings(status.get("settings")) or flatten_settings(OmegaConf.to_container(config), {})  # type: ignore[arg-type]
    other = RunWriter.create(path, settings, **experiment.describe_run())
    with log_to_run(other) as log:
        log.info("rerun of %s", run.path)
        code, _ = run_one(experiment, other, Progress(), notices)
    return code if code != DONE else _compare_runs(run, other, quiet=args.quiet)


def _compare_runs(run: RunDirectory, other: RunDirectory, *, quiet: bool) -> int:
    """Print how the two runs differ, if they do, and return the exit code."""
    from dlopt.cli.verify import describe_state, print_comparison
    from dlopt.report.row_diff import compare
    from dlopt.training import replay

    comparison = compare(run.rows(), other.rows())
    checkpoints = run.latest_checkpoint(), other.latest_checkpoint()
    states = [checkpoint.content for checkpoint in checkpoints if checkpoint is not None]
    steps = [state["step"] for state in states]
    changed: Sequence[str] = ()
    if len(steps) < 2:
        line = "the last states are not compared: one of the runs has none"
    elif steps[0] != steps[1]:
        former = to_printable(str(steps[0]))
        line = f"the former run has {former} steps, this one {steps[1]}: the last states are not compared"
    else:
        changed = replay.differing_entries(*states)
        line = describe_state(f"the state after step {steps[1]}", changed)
    rows = comparison.text(shutil.get_terminal_size().columns)
    lines = [f"\ncompared with {display_path(run.path)}:", rows, line]
    equal = comparison.is_equal and not changed
    return print_comparison(lines, run.status, other.status, equal=equal, quiet=quiet)
