"""dlopt rerun: does a run again from its beginning, in a directory of its own, and compares the curves."""

from __future__ import annotations

import argparse
import os
import shutil
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory

EPILOG = """\
  dlopt rerun              the last run again
  dlopt rerun RUN -q       no progress: the exit code tells whether it came out the same

The new run has the settings of the other one as they are now, and is a run like any: dlopt show, resume and evaluate
work on it. Exit code 0: every number of every row is equal, bit for bit, and so is the last state; 1: something
differs, and the first step and how much are told.
"""


def build_parser() -> argparse.ArgumentParser:
    """What the command takes."""
    taken = argparse.ArgumentParser(
        prog="dlopt rerun", description="Does a run again, and compares the two number by number.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    taken.add_argument("run", nargs="?", default="last", metavar="RUN", help="`last`, a directory, a part of its name")
    taken.add_argument("--trust", action="store_true", help="execute code that the run names: classes of one's own")
    taken.add_argument("-q", "--quiet", action="store_true", help="no progress; the exit code tells")
    return taken


def rerun(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    given = build_parser().parse_args(argv)
    from dlopt import console
    from dlopt.rundir import provenance
    from dlopt.runner.open_run import open_run

    provenance.start_git_query()
    console.quiet = given.quiet
    return open_run("dlopt rerun", given.run, lambda run: _rerun_run(run, given), trust=given.trust)


def _rerun_run(run: RunDirectory, given: Any) -> int:
    from omegaconf import OmegaConf

    from dlopt.config.build import build
    from dlopt.config.compose.flatten import filter_plain_settings, flatten_settings
    from dlopt.config.reopen import load_run, resume_checks
    from dlopt.rundir.find import ROOT
    from dlopt.rundir.writer import RunWriter
    from dlopt.runner.run_one import DONE, log_to_run, run_one
    from dlopt.storage import atomic

    config = load_run.load_config(run, trust=given.trust)
    status = run.status
    resume_checks.check_configuration(run, status)
    experiment, notices = build(config)
    for step, why in resume_checks.find_breaks(status):
        notices.append(f"up to step {step} it had other settings ({why}); the whole again has those that it ended with")
    path = ROOT / time.strftime("%Y-%m-%d") / f"{time.strftime('%H-%M-%S')}-rerun-{os.urandom(2).hex()}"
    other: RunDirectory = RunWriter(path)
    other.config_file.parent.mkdir(parents=True)
    atomic.atomic_write_bytes(other.config_file, OmegaConf.to_yaml(config).encode())
    settings = filter_plain_settings(status.get("settings")) or flatten_settings(OmegaConf.to_container(config), {})  # type: ignore[arg-type]
    other = RunWriter.create(path, settings, device=experiment.settings.device, threads=experiment.threads)
    with log_to_run(other) as log:
        log.info("rerun of %s", run.path)
        code, _ = run_one(experiment, other, notices)
    return code if code != DONE else _compare_runs(run, other, quiet=given.quiet)


def _compare_runs(run: RunDirectory, other: RunDirectory, *, quiet: bool) -> int:
    """Says how the two runs differ, if they do; returns the exit code."""
    from dlopt.analysis.row_diff import compare
    from dlopt.rundir import provenance
    from dlopt.runner.run_one import DONE, FAILED
    from dlopt.training import replay

    found = compare(run.rows(), other.rows())
    states = [run.latest_checkpoint(), other.latest_checkpoint()]
    differ: Sequence[str] = ()
    ends = [state.content["step"] for state in states if state is not None]
    if len(ends) == 2 and ends[0] == ends[1]:
        differ = replay.differing_entries(*(state.content for state in states if state is not None))
    equal = found.is_equal and not differ
    if quiet:
        return DONE if equal else FAILED
    print(f"\ncompared with {display_path(run.path)}:")
    print(found.text(shutil.get_terminal_size().columns))
    if len(ends) < 2:
        print("the last states are not compared: they are not on both sides")
    elif ends[0] != ends[1]:
        print(f"that one has {to_printable(str(ends[0]))} steps, this one {ends[1]}: the last states are not compared")
    else:
        said = f"differs in {', '.join(differ)}" if differ else "is equal, bit for bit"
        print(f"the state after step {ends[-1]} {said}")
    for line in provenance.describe_differences(run.status, other.status) if not equal else ():
        print(f"  {line}")
    return DONE if equal else FAILED
