"""dlopt show: settings, curves and results of one run, or the findings of one sweep; only --batch imports torch."""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from dlopt.analysis.run_table import read_run
from dlopt.cli.run_parser import parse_count
from dlopt.config.compose.flatten import find_non_defaults
from dlopt.config.problems import describe_failure
from dlopt.errors import did_you_mean
from dlopt.formatting import format_duration, format_override, split_names
from dlopt.report.curves import Panel, list_diagnostics, make_run_panels, select_panels
from dlopt.report.summary import format_parameter_groups, make_summary_table
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path, make_report_path
from dlopt.rundir.find import RunNotFound, find_run, find_sweep
from dlopt.rundir.metrics_log import Row
from dlopt.rundir.provenance import list_repositories
from dlopt.storage import memory
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlopt.analysis.search_record import SearchRecord

DESCRIPTION = """\
Shows one run: settings that differ from the defaults, curves and results at the best and the last weights. Without a
validation split, the last ones count. Or one sweep: its best trials, the effects of its hyperparameters and which of
them matter. With --batch, the examples of its first mini-batch as training sees them.
"""
EPILOG = """\
RUN or SWEEP is a directory or a part of its name (a sweep's must be in the name of no run outside the sweep), or `last`
(the default): the sweep or single run that was started last. With --batch, overrides such as data=digits may stand in
its place: they are those of dlopt train, and nothing is trained.
"""
MAX_DEFAULT_PANELS = 2
"""Panels that a terminal shows without --plot."""
DEFAULT_EXAMPLES = 24
"""Examples of a mini-batch that --batch shows."""
MIN_WIDTH = 40
"""Smallest width of the text about a sweep, in characters."""


class ShowError(ValueError):
    """A run cannot be shown; the message says why."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(prog="dlopt show", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("words", nargs="*", metavar="RUN|SWEEP|OVERRIDE")
    parser.add_argument("--all", action="store_true", help="every setting, also the defaults; for a sweep every effect")
    plot = "for a run: the curves to show, such as accuracy, gradient/norm, or update/ratio/ for every name below it"
    parser.add_argument("--plot", action="extend", type=split_names, default=[], metavar="A,B", help=plot)
    png = "draw the curves and pictures of diagnostics, or a sweep's pictures, to names that begin with FILE"
    png += " (default outputs/reports/); also names what dlopt landscape and dlopt spectrum have drawn of the run"
    parser.add_argument("--png", nargs="?", const="", metavar="FILE", help=png)
    parser.add_argument("--title", metavar="TEXT", help="the title of the pictures (default: the directory)")
    heat = "for a sweep: the two keys of the map that --png draws"
    parser.add_argument("--heat", action="append", metavar="A,B", help=heat)
    batch = "draw the first mini-batch of a run, or of a configuration given by overrides in place of RUN: images and "
    batch += "series, without and with augmentation; print features (--png names the picture)"
    parser.add_argument("--batch", action="store_true", help=batch)
    count = f"for --batch: the number of examples (default {DEFAULT_EXAMPLES})"
    parser.add_argument("--examples", type=parse_count, metavar="N", help=count)
    trust = "for --batch: execute code that the run names, such as custom classes"
    parser.add_argument("--trust", action="store_true", help=trust)
    return parser


def show(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_intermixed_args(argv)
    try:
        if args.batch:
            from dlopt.cli.show.batch import show_batch

            return show_batch(_check_batch_flags(args))
        args.run = _check_words(args)
        if args.title is not None and args.png is None:
            raise ValueError("--title is for pictures: add --png")
        with memory.limit_memory():
            sweep = find_sweep(args.run)
            if sweep is not None and args.plot:
                raise ValueError(
                    f"--plot is for a run; {args.run} is a sweep: dlopt runs {args.run} --png --columns ..."
                )
            if sweep is not None:
                _show_sweep(sweep, args)
            elif args.heat is not None:
                raise ValueError(f"--heat is for a sweep; {args.run} is a run")
            else:
                _show_run(find_run(args.run), args)
        return 0
    except RunNotFound as error:
        message = str(error)
    except (ValueError, OSError) as error:
        message = to_printable(str(error))
    print(f"dlopt show: {message}", file=sys.stderr)
    return 2


def _check_words(args: Any) -> str:
    """Return the one run or sweep of the command. Raise ValueError for flags and overrides that need --batch."""
    if args.examples is not None or args.trust:
        raise ValueError(f"{'--trust' if args.trust else '--examples'} is for a mini-batch: add --batch")
    if len(args.words) > 1:
        raise ValueError(f"shows one run or sweep, got {to_printable(' '.join(args.words))}")
    return args.words[0] if args.words else "last"


def _check_batch_flags(args: Any) -> Any:
    """Return the arguments with the default number of examples. Raise ValueError for flags that --batch ignores."""
    unused = {"--all": args.all, "--plot": args.plot, "--heat": args.heat}
    for flag in (flag for flag, value in unused.items() if value):
        raise ValueError(f"{flag} is not for --batch: leave it out")
    args.examples = args.examples or DEFAULT_EXAMPLES
    return args


def _save_figure(figure: Figure, file: Path) -> None:
    """Write a picture and print its path."""
    from dlopt.report.figures import save_figure

    try:
        print(display_path(save_figure(figure, file)))
    except ValueError as error:
        raise ShowError(str(error)) from error


# ------------------------------------------------------------------------------------------- a run


def _show_run(run: RunDirectory, args: Any) -> None:
    """Print a run or draw its curves. Raise ShowError if that is impossible."""
    path = display_path(run.path)
    try:
        if args.png is None:
            _print_run(run, args.plot, everything=args.all)
            return
        from dlopt.cli.show.drawings import save_drawings
        from dlopt.report.figures import plot_curves

        rows = run.rows()
        panels = _select_panels(rows, args.plot)
        if not panels:
            raise ShowError(f"{path} has no curves yet")
        heading = path if args.title is None else args.title
        file = Path(args.png) if args.png else make_report_path(run.path, "curves")
        _save_figure(plot_curves(panels, heading), file)  # first: it refuses endings that are not formats
        if not args.plot:
            try:
                save_drawings(run, file, heading)
            except OSError as error:
                raise ShowError(f"--png {to_printable(str(file))}: {error.strerror}") from error
        for picture in run.pictures():
            print(display_path(picture))
    except ShowError:
        raise
    except Exception as error:  # damaged files fail in many ways
        raise ShowError(f"{path} is damaged ({describe_failure(error)})") from error


def _select_panels(rows: Sequence[Row], names: Sequence[str]) -> list[Panel]:
    """Return the panels of a picture. Raise ShowError for a name without a curve."""
    try:
        return select_panels(rows, names)
    except ValueError as error:
        raise ShowError(f"--plot {error}") from error


def _print_run(run: RunDirectory, names: Sequence[str], *, everything: bool) -> None:
    console = Console(highlight=False, markup=False)
    record = read_run(run.path, display_path(run.path))
    if record.status == "damaged":
        raise ShowError(f"{record.name} is damaged ({record.message})")
    lines = list(run.iter_rows())
    rows = [row for row in lines if row]
    panels = _select_panels(rows, names) if names else make_run_panels(rows)
    host = to_printable(str(run.status["host"]))
    console.print(record.name, style="bold")
    start = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(record.started))
    progress = "" if record.progress is None else f" at {record.progress:.0%}"
    is_warning = record.status == "done"  # not the reason of the end
    reason = "its process is gone" if record.status == "dead" else "" if is_warning else record.message
    if "ended_by" in record.metrics:
        reason = f"ended by {record.metrics['ended_by']} after step {record.metrics.get('step')}"
    message = f": {reason}" if reason else ""
    duration = "" if record.seconds is None else f", {format_duration(record.seconds)} of training"
    console.print(f"{record.status}{progress}{message}; started {start} on {host}{duration}")
    console.print(to_printable(describe_origin(run.status)))
    if is_warning and record.message:
        console.print(f"warning: {record.message}")

    settings = record.settings if everything else find_non_defaults(record.settings)
    title = "settings:" if everything else "not the defaults:" if settings else "every setting is the default"
    pairs = "  ".join(f"{key}={format_override(value)}" for key, value in settings.items())
    console.print(f"\n{title} {pairs}".rstrip())
    if groups := run.status.get("parameter_groups"):
        console.print("\n".join(["", "parameter groups:", *(f"  {line}" for line in format_parameter_groups(groups))]))

    if None in lines:
        damage = f"{lines.count(None)} of {len(lines)} lines cannot be read"
        console.print(f"\n{run.metrics_file.name} is damaged: {damage}")
    panels = panels if names else [p for p in panels if any(len(c.x) > 1 for c in p.curves)][:MAX_DEFAULT_PANELS]
    if panels:
        from dlopt.report.curves import render

        width = shutil.get_terminal_size().columns
        print("\n" + render(panels, width, coloured=console.is_terminal and not console.no_color))
    if diagnostics := [] if names else list_diagnostics(rows):
        console.print(f"\nmore curves: --plot {','.join(diagnostics)}")
    print()
    if run.summary and record.status not in ("running", "dead"):
        table = make_summary_table(record.metrics)
        if table.row_count:
            console.print(table)
    elif record.metrics:
        numbers = (f"{k}={v:.6g}" for k, v in record.metrics.items() if isinstance(v, (int, float)))
        console.print("last row:", "  ".join(numbers))


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
    commit = (repository["commit"] or "no commit")[:9]
    changes = " with unknown changes" if repository["unknown"] else ""
    if repository["patch"]:
        changes = f" with {repository['patch']}"
    return f"{Path(repository['folder']).name} at {commit}{changes}"


# ------------------------------------------------------------------------------------------- a sweep


def _show_sweep(folder: Path, args: Any) -> None:
    """Print the findings of a sweep or draw them. Raise ValueError if it cannot be shown."""
    from dlopt.analysis.importance import compute_importance
    from dlopt.analysis.search_record import read_search

    search = read_search(folder)
    if not search.trials:
        raise ValueError(f"{display_path(folder)} holds no run yet")
    keys = [] if args.heat is None else _parse_keys(",".join(args.heat), [axis.key for axis in search.axes])
    if args.png is not None:
        from dlopt.report.search_figures import plot_search

        order = [] if keys else list(compute_importance(search)[0])
        heading = display_path(folder) if args.title is None else args.title
        for name, figure in plot_search(search, heading, order, tuple(keys)).items():
            prefix = args.png.removesuffix(".png")
            _save_figure(figure, Path(f"{prefix}-{name}.png") if prefix else make_report_path(folder, name))
    elif keys:
        raise ValueError("--heat needs pictures: add --png")
    else:
        _print_sweep(search, everything=args.all)


def _parse_keys(heat: str, searched_keys: Sequence[str]) -> list[str]:
    """Return the two keys of --heat; raise ValueError if they are not two searched hyperparameters."""
    names = heat.split(",")
    if len(set(names)) != 2:
        raise ValueError(f"--heat {heat}: name two keys, such as optimizer.lr,optimizer")
    for name in names:
        if name not in searched_keys:
            raise ValueError(f"--heat {heat}: '{name}' was not searched{did_you_mean(name, searched_keys)}")
    return names


def _print_sweep(search: SearchRecord, *, everything: bool) -> None:
    from dlopt.analysis.importance import compute_importance
    from dlopt.report import search_text

    width = max(shutil.get_terminal_size().columns, MIN_WIDTH)
    best = search.best
    parts = [
        search_text.format_head(search, display_path(search.path), width),
        search_text.format_best(search, display_path(best.path) if best else "", width),
    ]
    if search.sampler == "greedy":  # the trials are stages, not points to compare
        print("\n\n".join("\n".join(lines) for lines in (*parts, search_text.format_stages(search, width))))
        return
    if best is not None:
        common = search.fixed_overrides
        if common is None:
            settings = find_non_defaults(best.runs[0].settings)
            common = tuple(f"{key}={format_override(value)}" for key, value in settings.items())
        command = search_text.format_retrain_command(search, common, width - 2)
        parts += [["again, longer and with other seeds:", *command], search_text.format_top(search, width)]
    print("\n\n".join("\n".join(lines) for lines in parts if lines), flush=True)
    # Fitting the forest takes a second or two, so the rest is printed first.
    shares, reason = compute_importance(search)
    parts = [
        search_text.format_importances(shares, reason, width),
        search_text.format_effects(search, list(shares), width, everything=everything) if best else [],
        search_text.format_warnings(search, width),
    ]
    for lines in filter(None, parts):
        print("\n" + "\n".join(lines))
