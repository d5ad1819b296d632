"""dlopt tensorboard: TensorBoard on a folder of runs."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from dlopt.rundir.display import display_path, find_folder
from dlopt.rundir.find import RunNotFound, find_run

USAGE = """\
usage: dlopt tensorboard [DIR|RUN] [--port N ...]

TensorBoard on every run of outputs/, of a folder, of a sweep (a part of its name will do) or on one run; `last` is the
newest run. It answers this machine alone: from another one, ssh -L 6006:localhost:6006 HOST brings it there. What
follows is passed on, such as --port 6007. Ctrl-C ends it.
"""

EXPOSING_FLAGS = ("--host", "--bind_all")
"""TensorBoard's flags that would let other machines in."""


def tensorboard(argv: Sequence[str]) -> int:
    """Becomes TensorBoard; returns an exit code only where there is nothing to show."""
    if any(a in ("--help", "-h") for a in argv):
        print(USAGE, end="")
        return 0
    for argument in argv:
        flag = argument.partition("=")[0]
        if len(flag) > 2 and any(opened.startswith(flag) for opened in EXPOSING_FLAGS):  # argparse takes abbreviations
            said = "would show the runs to the network; from another machine: ssh -L 6006:localhost:6006 HOST"
            print(f"dlopt tensorboard: {flag} {said}", file=sys.stderr)
            return 2
    name = argv[0] if argv and not argv[0].startswith("-") else None
    try:
        place = _place(name)
    except RunNotFound as error:
        print(f"dlopt tensorboard: {error}", file=sys.stderr)
        return 2
    print(f"TensorBoard on {display_path(place)}", flush=True)
    passed_on = argv[1:] if name is not None else argv
    # -P: modules that lie in the working directory, which may be a run's, are not imported in place of TensorBoard's.
    command = [sys.executable, "-P", "-m", "tensorboard.main", "--logdir", str(place), "--host", "localhost"]
    return os.execv(sys.executable, [*command, *passed_on])


def _place(name: str | None) -> Path:
    """A folder or a sweep by that name, else a run."""
    if name == "last":
        return find_run(name).path
    try:
        return find_folder(name)
    except RunNotFound:
        if name is None:
            raise
        return find_run(name).path
