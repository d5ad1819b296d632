"""dlopt verify: replays a part of a run and compares it with the record, bit for bit."""

from __future__ import annotations

import contextlib
import shutil
import sys
import tempfile
from argparse import ArgumentParser
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.run_parser import build_run_parser, open_named_run
from dlopt.rundir.display import display_path

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory
    from dlopt.training.replay import CheckpointIndex, StepRange

EPILOG = """\
  dlopt verify                         the last run: between its last two checkpoints, else its first rows
  dlopt verify RUN --all               the whole run, up to its last checkpoint
  dlopt verify RUN --from 0 --to 200   its first 200 steps

The command trains in a temporary directory, from a checkpoint or from the start. It compares every number of every row.
If a checkpoint lies at the end, it also compares the weights, the optimizer's state and everything else in it.
Exit code 0: all is equal, bit for bit. Exit code 1: something differs; the first step and the difference are printed.
"""


def build_parser() -> ArgumentParser:
    """Build the command's parser."""
    description = "Replays a part of a run and compares it, bit for bit."
    parser = build_run_parser("verify", description, EPILOG, quiet="print nothing; see the exit code")
    parser.add_argument("--from", type=int, dest="begin", metavar="STEP", help="a kept checkpoint, or 0 for the start")
    end = "the last step (default: the next checkpoint)"
    parser.add_argument("--to", type=int, dest="end", metavar="STEP", help=end)
    parser.add_argument("--all", action="store_true", help="from the start to the last checkpoint")
    return parser


def verify(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    return open_named_run("verify", args, _verify_run, "it cannot be verified")


def _verify_run(run: RunDirectory, args: Any) -> int:
    from dlopt.cli.progress import Progress
    from dlopt.config.build import build
    from dlopt.config.checks.splits import FittedDataState
    from dlopt.config.reopen import load_run, resume_checks
    from dlopt.report.row_diff import compare
    from dlopt.runner.execute import INTERRUPTED
    from dlopt.runner.signals import stop_on_signals
    from dlopt.training import replay

    if not args.trust:
        load_run.check_links(run)
    status = run.status
    steps, saved = _load_steps(run, status, args)
    resume_checks.check_configuration(run, status, *(content.get("config") for content in saved.values()))
    config = load_run.load_config(run, trust=args.trust)
    state = saved.get(steps.begin)
    encoding = load_run.read_encoding(run)
    fitted = FittedDataState(None, encoding, is_other_data=False) if encoding else None
    experiment, _ = build(config, fitted=fitted, saved=None if state is None else state["model"])
    for content in saved.values():
        resume_checks.check(content, experiment)
    progress = Progress(f"{display_path(run.path)} again")
    with tempfile.TemporaryDirectory(prefix="dlopt-verify-") as folder, stop_on_signals(progress), progress:
        replica = replay.replay(experiment, run, state, steps, Path(folder) / "run", progress)
        if progress.stop:
            print("interrupted; nothing was verified", file=sys.stderr)
            return INTERRUPTED
        rows = replay.rows_in(run, steps), replay.rows_in(replica, steps)
        comparison = compare(*rows)
        changed: Sequence[str] = ()
        if steps.end in saved:
            newest = replica.latest_checkpoint()  # None if the replica is not finite
            changed = replay.differing_entries(saved[steps.end], {} if newest is None else newest.content)
        statuses = status, replica.status
    nothing_logged = steps.end in saved and not any(rows)
    begin = "the start" if steps.begin == 0 else f"the checkpoint after step {steps.begin}"
    lines = [
        f"{display_path(run.path)}: steps {steps.begin + 1} to {steps.end}, replayed from {begin}",
        "no row was logged there" if nothing_logged else comparison.text(shutil.get_terminal_size().columns),
    ]
    if steps.end in saved:
        lines.append(describe_state(f"the checkpoint after step {steps.end}", changed))
    equal = (comparison.is_equal or nothing_logged) and not changed
    return print_comparison(lines, *statuses, equal=equal, quiet=args.quiet)


def describe_state(title: str, changed: Sequence[str]) -> str:
    """Describe the result of comparing two states, given the names of the entries that differ."""
    return f"{title} differs in {', '.join(changed)}" if changed else f"{title} is equal, bit for bit"


def print_comparison(
    lines: Iterable[str], former: Mapping[str, Any], present: Mapping[str, Any], *, equal: bool, quiet: bool
) -> int:
    """Print the result of a comparison and return the exit code.

    former and present are the statuses of the two runs. If the runs differ, differences of versions, machines and code
    are printed too.
    """
    from dlopt.rundir import provenance
    from dlopt.runner.execute import DONE, FAILED

    if not quiet:
        environment = [] if equal else [f"  {line}" for line in provenance.describe_differences(former, present)]
        print("\n".join([*lines, *environment]))
    return DONE if equal else FAILED


def _load_steps(run: RunDirectory, status: Mapping[str, Any], args: Any) -> tuple[StepRange, dict[int, dict[str, Any]]]:
    """Return the steps to replay, and the contents of the checkpoints at their ends by step.

    A running run may replace its checkpoints meanwhile; then they are read a second time.
    """
    from dlopt.training.replay import CheckpointIndex

    def load() -> tuple[StepRange, dict[int, dict[str, Any]]]:
        checkpoints = CheckpointIndex.of(run)
        steps = _select_steps(run, status, checkpoints, args)
        return steps, {step: checkpoints.load(step) for step in steps if step in checkpoints.files}

    for _ in range(2):
        with contextlib.suppress(FileNotFoundError, ValueError):
            return load()
    return load()


def _select_steps(run: RunDirectory, status: Mapping[str, Any], checkpoints: CheckpointIndex, args: Any) -> StepRange:
    """Return the steps asked for; by default the shortest range that begins and ends at a checkpoint."""
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen import resume_checks
    from dlopt.training.replay import StepRange

    breaks = resume_checks.find_breaks(status)
    since, why = breaks[-1] if breaks else (0, "")
    before = f"; before step {since} it was another run: {why}" if breaks else ""
    logged = [row["step"] for row in run.rows()]
    last = max([*checkpoints.files, *logged], default=0)
    begins = [step for step in (0, *checkpoints.files) if since <= step < last]
    if not begins:
        raise ConfigError([("run", f"{display_path(run.path)} has nothing to compare with{before}")])
    if args.all and args.begin is not None:
        raise ConfigError([("--all", "begins at the start; leave --from out")])
    begin = 0 if args.all else begins[-1] if args.begin is None else args.begin
    if begin not in begins:
        key = "--all" if args.all else "--from"
        raise ConfigError([(key, f"must begin at {' or '.join(map(str, begins))}, got {begin}{before}")])
    following = next((step for step in checkpoints.files if step > begin), last)
    first_rows = [step for step in logged if step > begin][:2]
    end = args.end if args.end is not None else last if args.all else following
    if args.begin is None and args.end is None and not args.all and begin == 0 and first_rows:
        end = min(end, first_rows[-1])  # otherwise a run that saved only its end would be replayed as a whole
    if not begin < end <= last:
        raise ConfigError([("--to", f"must be from {begin + 1} to {last}, got {end}")])
    return StepRange(begin, end)
