"""dlopt tensorboard: TensorBoard on a folder of runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dlopt.rundir.display import display_path, find_folder
from dlopt.rundir.find import RunNotFound, find_run

USAGE = """\
usage: dlopt tensorboard [DIR|SWEEP|RUN] [--port N ...]

Starts TensorBoard on every run in outputs/, in a folder or a sweep (or a part of its name), or on one run; `last` is
the sweep or single run that was started last. Runs of a sweep are called by what varies, such as optimizer=adam,seed=0,
so the filter adam.*seed=0 selects them; other runs are called by their directory. New runs appear by themselves.

The tab CUSTOM SCALARS shows training and validation in one chart. The tag of val/loss is Loss/val.

Only this machine can connect; from another one use ssh -L 6006:localhost:6006 HOST. Further arguments, such as
--port 6007, are passed on. Ctrl-C ends it.
"""

EXPOSING_FLAGS = ("--host", "--bind_all")
"""Flags of TensorBoard that would let other machines connect."""


def tensorboard(argv: Sequence[str]) -> int:
    """Replace this process by TensorBoard; return an exit code only on wrong usage."""
    if any(a in ("--help", "-h") for a in argv):
        print(USAGE, end="")
        return 0
    for argument in argv:
        flag = argument.partition("=")[0]
        if len(flag) > 2 and any(name.startswith(flag) for name in EXPOSING_FLAGS):  # argparse accepts abbreviations
            reason = "would show the runs to the network; from another machine use ssh -L 6006:localhost:6006 HOST"
            print(f"dlopt tensorboard: {flag} {reason}", file=sys.stderr)
            return 2
    name = argv[0] if argv and not argv[0].startswith("-") else None
    try:
        folder = _find_folder(name)
    except RunNotFound as error:
        print(f"dlopt tensorboard: {error}", file=sys.stderr)
        return 2
    print(f"TensorBoard on {display_path(folder)}", flush=True)
    passed_on = argv[1:] if name is not None else argv
    # -P: do not import modules from the working directory, which may be a run's.
    command = [sys.executable, "-P", "-m", "dlopt.report.tensorboard.view", str(folder)]
    return os.execv(sys.executable, [*command, *passed_on])


def _find_folder(name: str | None) -> Path:
    """Return the folder, sweep or run of this name."""
    try:
        return find_folder(name)
    except RunNotFound:
        if name is None:
            raise
        return find_run(name).path
