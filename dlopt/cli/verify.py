"""dlopt verify: makes a part of a run again, and checks it bit for bit."""

from __future__ import annotations

import argparse
import contextlib
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.rundir.display import display_path

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory
    from dlopt.training.replay import CheckpointIndex, StepRange

EPILOG = """\
  dlopt verify                         the last run: from its last checkpoint but one to its last, else its first rows
  dlopt verify RUN --all               all of it, up to its last checkpoint
  dlopt verify RUN --from 0 --to 200   its first 200 steps

It trains in a temporary directory, from the checkpoint or from the start, and compares each number of each row, and the
weights, the optimizer's state and all else that is saved where a checkpoint lies at the end. Exit code 0: all is equal,
bit for bit; 1: something differs, and the first step and how much are told.
"""


def build_parser() -> argparse.ArgumentParser:
    """What the command takes."""
    taken = argparse.ArgumentParser(
        prog="dlopt verify", description="Makes a part of a run again, and checks it bit for bit.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    taken.add_argument("run", nargs="?", default="last", metavar="RUN", help="`last`, a directory, a part of its name")
    taken.add_argument("--from", type=int, dest="begin", metavar="STEP", help="a kept checkpoint, or 0, the start")
    taken.add_argument("--to", type=int, dest="end", metavar="STEP", help="the last step (default the next checkpoint)")
    taken.add_argument("--all", action="store_true", help="from the start to the last checkpoint")
    taken.add_argument("--trust", action="store_true", help="execute code that the run names: classes of one's own")
    taken.add_argument("-q", "--quiet", action="store_true", help="no progress; the exit code tells")
    return taken


def verify(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    given = build_parser().parse_args(argv)
    from dlopt import console
    from dlopt.runner.open_run import open_run

    console.quiet = given.quiet
    outcome = "it cannot be verified"
    return open_run("dlopt verify", given.run, lambda run: _verify_run(run, given), trust=given.trust, outcome=outcome)


def _verify_run(run: RunDirectory, given: Any) -> int:
    from dlopt.analysis.row_diff import compare
    from dlopt.cli.progress import Progress
    from dlopt.config.build import build
    from dlopt.config.reopen import load_run, resume_checks
    from dlopt.rundir import provenance
    from dlopt.runner.execute import DONE, FAILED, INTERRUPTED
    from dlopt.runner.signals import stop_on_signals
    from dlopt.training import replay

    config = load_run.load_config(run, trust=given.trust)
    status = run.status
    part, saved = _load_part(run, status, given)
    resume_checks.check_configuration(run, status, *(content.get("config") for content in saved.values()))
    state = saved.get(part.begin)
    experiment, _ = build(config, saved=None if state is None else state["model"])
    for content in saved.values():
        resume_checks.check(content, experiment)
    progress = Progress(f"{display_path(run.path)} again")
    with tempfile.TemporaryDirectory(prefix="dlopt-verify-") as folder, stop_on_signals(progress), progress:
        made = replay.replay(experiment, run, state, part, Path(folder) / "run", progress)
        if progress.stop:
            print("interrupted; nothing was verified", file=sys.stderr)
            return INTERRUPTED
        rows = replay.rows_in(run, part), replay.rows_in(made, part)
        found = compare(*rows)
        differ: Sequence[str] = ()
        if part.end in saved:
            newest = made.latest_checkpoint()  # none where it is not finite now
            differ = replay.differing_entries(saved[part.end], {} if newest is None else newest.content)
        different = provenance.describe_differences(status, made.status)
    nothing_logged = part.end in saved and not any(rows)
    equal = (found.is_equal or nothing_logged) and not differ
    if not given.quiet:
        begin = "the start" if part.begin == 0 else f"the checkpoint after step {part.begin}"
        print(f"{display_path(run.path)}: steps {part.begin + 1} to {part.end}, made again from {begin}")
        print("no row lies there" if nothing_logged else found.text(shutil.get_terminal_size().columns))
        if part.end in saved:
            said = f"differs in {', '.join(differ)}" if differ else "is equal, bit for bit"
            print(f"the checkpoint after step {part.end} {said}")
        for line in different if not equal else ():
            print(f"  {line}")
    return DONE if equal else FAILED


def _load_part(run: RunDirectory, status: Mapping[str, Any], given: Any) -> tuple[StepRange, dict[int, dict[str, Any]]]:
    """The part that is asked for, and the contents of the checkpoints at its ends, by their steps.

    A run under way exchanges its checkpoints meanwhile: then they are looked for again.
    """
    from dlopt.training.replay import CheckpointIndex

    def look() -> tuple[StepRange, dict[int, dict[str, Any]]]:
        kept = CheckpointIndex.of(run)
        part = _select_part(run, status, kept, given)
        return part, {step: kept.load(step) for step in part if step in kept.files}

    for _ in range(2):
        with contextlib.suppress(FileNotFoundError, ValueError):
            return look()
    return look()


def _select_part(run: RunDirectory, status: Mapping[str, Any], kept: CheckpointIndex, given: Any) -> StepRange:
    """The part that is asked for: by default the shortest that ends at a checkpoint and begins at one."""
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen import resume_checks
    from dlopt.training.replay import StepRange

    broken = resume_checks.find_breaks(status)
    since, why = broken[-1] if broken else (0, "")
    before = f"; before step {since} it was another run: {why}" if broken else ""
    logged = [row["step"] for row in run.rows()]
    last = max([*kept.files, *logged], default=0)
    begins = [step for step in (0, *kept.files) if since <= step < last]
    if not begins:
        raise ConfigError([("run", f"{display_path(run.path)} has nothing to compare with{before}")])
    if given.all and given.begin is not None:
        raise ConfigError([("--all", "begins at the start; leave --from out")])
    begin = 0 if given.all else begins[-1] if given.begin is None else given.begin
    if begin not in begins:
        key = "--all" if given.all else "--from"
        raise ConfigError([(key, f"must begin at {' or '.join(map(str, begins))}, got {begin}{before}")])
    following = next((step for step in kept.files if step > begin), last)
    first_rows = [step for step in logged if step > begin][:2]
    end = given.end if given.end is not None else last if given.all else following
    if given.begin is None and given.end is None and not given.all and begin == 0 and first_rows:
        end = min(end, first_rows[-1])  # else it would be the whole run, where only its end was saved
    if not begin < end <= last:
        raise ConfigError([("--to", f"must be from {begin + 1} to {last}, got {end}")])
    return StepRange(begin, end)
