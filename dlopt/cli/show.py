"""dlopt show: settings, curves and results of one run, or the findings of one sweep. Does not import torch."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from dlopt.analysis.run_table import read_run
from dlopt.config.compose.flatten import find_non_defaults
from dlopt.formatting import format_duration, format_override
from dlopt.report.curves import make_run_panels
from dlopt.report.summary import make_summary_table
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path, make_report_path
from dlopt.rundir.find import RunNotFound, find_run, find_sweep
from dlopt.rundir.provenance import list_repositories
from dlopt.storage import memory
from dlopt.storage.safe_read import to_printable

DESCRIPTION = """\
Shows one run: settings that differ from the defaults, curves and results. Or one sweep: its best trials, the effects of
its hyperparameters and which of them matter.
"""
EPILOG = """\
RUN is `last` (the default), a run's directory, or a part of its name. SWEEP is a sweep's directory, or a part of its
name that no run outside the sweep has.
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(prog="dlopt show", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("run", nargs="?", default="last", metavar="RUN|SWEEP")
    parser.add_argument("--all", action="store_true", help="every setting, also the defaults; for a sweep every effect")
    png = "draw the curves, or a sweep's pictures, whose names begin with FILE (default outputs/reports/)"
    parser.add_argument("--png", nargs="?", const="", metavar="FILE", help=png)
    parser.add_argument("--heat", metavar="A,B", help="for a sweep: the two keys of the map that --png draws")
    return parser


def show(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    sweep = find_sweep(args.run)
    if sweep is not None:
        from dlopt.cli import show_sweep

        return show_sweep.show_sweep(sweep, args.png, args.heat, everything=args.all)
    if args.heat is not None:
        print(f"dlopt show: --heat is for a sweep; {to_printable(args.run)} is a run", file=sys.stderr)
        return 2
    try:
        run = find_run(args.run)
    except RunNotFound as error:
        print(f"dlopt show: {error}", file=sys.stderr)
        return 2
    try:
        with memory.limit_memory():
            if args.png is not None:
                return _draw(run, args.png)
            _print(run, everything=args.all)
    except BrokenPipeError:
        raise
    except Exception as error:  # damaged files fail in many ways
        reason = to_printable(f"{type(error).__name__}: {error}")
        print(f"dlopt show: {display_path(run.path)} is damaged ({reason})", file=sys.stderr)
        return 2
    return 0


def _print(run: RunDirectory, *, everything: bool) -> None:
    console = Console()
    record = read_run(run.path, display_path(run.path))
    if record.status == "damaged":
        raise ValueError(record.message)
    host = to_printable(str(run.status["host"]))
    console.print(record.name, style="bold", highlight=False, markup=False)
    start = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
    progress = "" if record.progress is None else f" at {record.progress:.0%}"
    message = f": {record.message}" if record.message else ": its process is gone" if record.status == "dead" else ""
    duration = "" if record.seconds is None else f", {format_duration(record.seconds)} of training"
    line = f"{record.status}{progress}{message}; started {start} on {host}{duration}"
    console.print(line, highlight=False, markup=False)
    console.print(to_printable(describe_origin(run.status)), highlight=False, markup=False)

    settings = record.settings if everything else find_non_defaults(record.settings)
    pairs = [f"{key}={format_override(value)}" for key, value in settings.items()]
    if everything:
        console.print("\nsettings:", "  ".join(pairs), highlight=False, markup=False)
    elif pairs:
        console.print("\nnot the defaults:", "  ".join(pairs), highlight=False, markup=False)
    else:
        console.print("\nevery setting is the default", highlight=False)

    lines = list(run.iter_rows())
    if None in lines:
        damage = f"\n{run.metrics_file.name} is damaged: {lines.count(None)} of {len(lines)} lines cannot be read"
        console.print(damage, highlight=False)
    panels = [p for p in make_run_panels([row for row in lines if row]) if any(len(c.x) > 1 for c in p.curves)]
    if panels:
        from dlopt.report.curves import render

        width = shutil.get_terminal_size().columns
        print("\n" + render(panels, width, coloured=console.is_terminal and not console.no_color))
    print()
    if run.summary and record.status not in ("running", "dead"):
        console.print(make_summary_table(record.metrics))
    elif record.metrics:
        shown = {k: v for k, v in record.metrics.items() if isinstance(v, (int, float))}
        console.print("last row:", "  ".join(f"{k}={v:.6g}" for k, v in shown.items()), highlight=False, markup=False)


def describe_origin(status: Mapping[str, Any]) -> str:
    """Return code, packages and machine of a run in one line."""
    versions, machine = status.get("versions", {}), status.get("machine", {})
    parts = [f"{name} {versions[name]}" for name in ("dlopt", "torch", "python") if name in versions]
    if "device" in machine:
        threads = machine["threads"]
        place = machine.get("accelerator") or machine["cpu"]
        parts.append(f"{machine['device']} ({place}), {threads} thread{'' if threads == 1 else 's'}")
    return "by " + ", ".join([*map(describe_commit, list_repositories(status)), *parts])


def describe_commit(repository: Mapping[str, Any]) -> str:
    """Return the name of a repository's folder, its commit, and its uncommitted changes."""
    at = (repository["commit"] or "no commit")[:9]
    changes = " with unknown changes" if repository["unknown"] else ""
    if repository["patch"]:
        changes = f" with {repository['patch']}"
    return f"{Path(repository['folder']).name} at {at}{changes}"


def _draw(run: RunDirectory, file: Any) -> int:
    from dlopt.report.figures import plot_curves, save_figure

    panels = make_run_panels(run.rows())
    if not panels:
        print(f"dlopt show: {display_path(run.path)} has no curves yet", file=sys.stderr)
        return 2
    target = Path(file) if file else make_report_path(run.path, "curves")
    try:
        save_figure(plot_curves(panels, display_path(run.path)), target)
    except (OSError, ValueError) as error:
        print(f"dlopt show: --png {target}: {error}", file=sys.stderr)
        return 2
    print(display_path(target))
    return 0
