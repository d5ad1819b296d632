"""dlopt show: settings and results of one run, without importing torch."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

from dlopt.config.values import written
from dlopt.run import Run, RunNotFound, find

USAGE = """\
usage: dlopt show [RUN]

Settings and results of a run. RUN is `last` (the default), a run's directory, or a part of its name.
"""


def show(argv: Sequence[str]) -> int:
    if any(a in ("--help", "-h") for a in argv):
        print(USAGE, end="")
        return 0
    if len(argv) > 1 or any(a.startswith("-") for a in argv):
        print(USAGE, end="", file=sys.stderr)
        return 2
    try:
        run = find(argv[0] if argv else "last")
    except RunNotFound as error:
        print(f"dlopt show: {error}", file=sys.stderr)
        return 2
    try:
        _print(run)
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"dlopt show: {run.path} is damaged ({type(error).__name__}: {error})", file=sys.stderr)
        return 2
    return 0


def _print(run: Run) -> None:
    from dlopt.cli.results import results

    console = Console()
    status = run.status
    began = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(status["started"]))
    console.print(f"[bold]{run.path}[/bold]", highlight=False)
    said = f": {status['message']}" if status["message"] else ""
    if status["status"] == "running" and status["host"] == socket.gethostname() and not run.alive:
        said = ", but its process is gone"
    console.print(f"{status['status']}{said}, started {began} on {status['host']}", highlight=False, markup=False)
    settings = Table(box=None, pad_edge=False, show_header=False)
    config = run.config()
    for group, option in run.choices().items():
        if option not in (None, "none", "null"):
            settings.add_row(group, str(option), "  ".join(_keys(config.get(group) or {})))
    rest = {k: v for k, v in config.items() if not isinstance(v, dict) or k in ("validation", "checkpoint")}
    given = [key for key in _keys(rest) if not key.endswith("=null")]
    settings.add_row("settings", "", "  ".join(given))
    console.print(settings)
    console.print()
    if run.summary:
        console.print(results(run.summary))
    else:
        rows = run.rows()
        if rows:
            console.print(
                "  ".join(f"{k}={v:.6g}" for k, v in rows[-1].items() if isinstance(v, (int, float))), highlight=False
            )


def _keys(node: dict[str, Any], prefix: str = "") -> list[str]:
    """key=value for every key of a node, nested ones dotted, targets left out."""
    found: list[str] = []
    for key, value in node.items():
        if isinstance(value, dict):
            found += _keys(value, f"{prefix}{key}.")
        elif key != "_target_":
            found.append(f"{prefix}{key}={written(value)}")
    return found
