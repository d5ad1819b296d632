"""dlopt runs: many runs in one table. Does not import torch."""

from __future__ import annotations

import argparse
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlopt.analysis.run_table import RunGroup, RunRecord, group_runs, read_runs, sort_groups
from dlopt.analysis.search_record import SearchRecord, build_search
from dlopt.analysis.select_runs import select_runs
from dlopt.formatting import split_names, to_file_name
from dlopt.report import tables
from dlopt.report.search_text import format_best_line
from dlopt.report.text_table import DIM, TextTable, apply_style
from dlopt.rundir.display import display_path, find_folder
from dlopt.rundir.find import SWEEP_FILE, RunNotFound
from dlopt.storage import memory
from dlopt.storage.safe_read import to_printable

EPILOG = """\
  dlopt runs                                        every run in outputs/, the newest last
  dlopt runs last                                   the runs of the last sweep
  dlopt runs --where optimizer=adam --where 'optimizer.lr<0.01'
  dlopt runs --where optimizer=adam,sgd --where 'regularization!=l2,[l1,dropout]'    any of; none of
  dlopt runs --sort test/accuracy                   the best first; with --over by the mean
  dlopt runs last --over seed                       mean and standard deviation over seeds
  dlopt runs last --over seed --across optimizer    one metric as a table, with a column per optimizer
  dlopt runs last --over seed --png                 their curves, with bands
  dlopt runs last --png --columns val/loss,gradient/norm --title 'Six optimizers'
  dlopt runs last --over seed --tensorboard         mean and band of each line as runs for TensorBoard
  dlopt runs --csv > runs.csv                       every setting and metric
  dlopt runs --over seed --csv > means.csv          for each metric the columns METRIC mean, METRIC sd, METRIC n

A name that only rows have, such as gradient/norm of a diagnostic, stands for its last value.

Only settings in which the runs differ are shown; a narrow terminal shows all of them and omits metrics. Flags with
lists can be repeated. A mean is over runs that are done; of several runs with one configuration and seed, the newest
that is done or diverged counts. A run is running, done, diverged, pruned (ended early by its search), failed,
interrupted, dead (its process is gone) or damaged (its files cannot be read).
"""
MAX_SHOWN = 100
"""Runs that a terminal shows without --all."""


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    parser = argparse.ArgumentParser(
        prog="dlopt runs", description="Many runs in one table.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    folder = "a folder of runs, a part of a sweep's name, or `last`: the sweep or run that was started last"
    parser.add_argument("folder", nargs="?", help=folder)
    where = "only runs with this value, or one of A,B; also != < >; repeat it for further conditions"
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help=where)
    parser.add_argument("--sort", metavar="KEY", help="sort by a setting or metric, the best first (default: by time)")
    parser.add_argument("--reverse", action="store_true", help="reverse the order")
    over = "mean and sd over runs that differ in KEY, such as seed; of repeated runs the newest finished one counts"
    several: dict[str, Any] = {"action": "extend", "type": split_names, "default": []}  # repeated flags add up
    parser.add_argument("--over", **several, metavar="KEY", help=over)
    parser.add_argument("--across", metavar="KEY", help="one metric, with a column for each value of KEY")
    parser.add_argument(
        "--columns", **several, metavar="A,B", help="settings and metrics to show; with --png the metrics to draw"
    )
    parser.add_argument("--all", action="store_true", help=f"all runs; a terminal shows the latest {MAX_SHOWN}")
    as_csv = (
        "every setting and metric, or --columns, as CSV; with --over: METRIC mean, METRIC sd and METRIC n (of runs)"
    )
    parser.add_argument("--csv", action="store_true", help=as_csv)
    parser.add_argument("--markdown", action="store_true", help="a Markdown table")
    parser.add_argument("--png", nargs="?", const="", metavar="FILE", help="draw the curves (default outputs/reports/)")
    parser.add_argument("--title", metavar="TEXT", help="the title of the picture (default: the folder)")
    means = "with --over: write mean and band as runs for TensorBoard (default outputs/reports/)"
    parser.add_argument("--tensorboard", nargs="?", const="", metavar="DIR", help=means)
    return parser


def runs(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    try:
        if args.title is not None and args.png is None:
            raise ValueError("--title is for a picture: add --png")
        folder = find_folder(args.folder)
        if args.folder and folder != Path(args.folder) and not args.csv:
            print(f"{to_printable(args.folder)} is {display_path(folder)}", file=sys.stderr)
        with memory.limit_memory():
            records = _select_records(read_runs(folder), args)
        if not records:
            raise ValueError(f"no run in {display_path(folder)}/ matches")
        if args.png is not None:
            print(display_path(_draw(records, args, folder)))
            return 0
        if args.tensorboard is not None:
            means = _write_means(records, args, folder)
            print(f"dlopt tensorboard {display_path(means)}   # the tab CUSTOM SCALARS shows the bands")
            return 0
        if args.csv:
            _write_csv(records, args)
            return 0
        table = _build_table(records, args)
        print(table.markdown() if args.markdown else table.text(get_terminal_width()))
    except (RunNotFound, ValueError, OSError) as error:
        print(f"dlopt runs: {error}", file=sys.stderr)
        return 2
    if (folder / SWEEP_FILE).is_file() and not (args.markdown or args.where):
        search = build_search(folder, records)
        print(apply_style(_format_best_line(search, records, args), DIM))
        if search.best:
            print(apply_style(f"dlopt show {display_path(folder)} shows more", DIM))
    return 0


def _format_best_line(search: SearchRecord, records: Sequence[RunRecord], args: Any) -> str:
    """Return a line with the best trial, or with the best group if the table has means over several trials."""
    groups = group_runs(records, args.over) if args.over else []
    trials = [{r.path for r in trial.runs} for trial in search.trials]
    if all({r.path for r in group.runs} in trials for group in groups):
        return format_best_line(search)
    return tables.format_best_group(groups, search.objective, args.over)


def get_terminal_width() -> int | None:
    """Return the columns of the terminal, or None if the output is not a terminal."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _select_records(records: list[RunRecord], args: Any) -> list[RunRecord]:
    """Filter and sort the records; raise ValueError for a key that no run has."""
    names = [args.across, *args.over, *args.columns]
    if args.over or args.across:  # means are sorted, not the runs behind them
        return select_runs(records, args.where, names=[args.sort, *names])
    records = select_runs(records, args.where, args.sort, names)
    return records[::-1] if args.reverse else records


def _group_records(records: Sequence[RunRecord], args: Any) -> list[RunGroup]:
    """Group the records over the repeats, and sort the groups by what a table of them shows."""
    groups = group_runs(records, args.over)
    if not args.over:
        return groups
    if args.sort:
        groups = sort_groups(args.sort, groups, args.over)
    return groups[::-1] if args.reverse else groups


def _build_table(records: Sequence[RunRecord], args: Any) -> TextTable:
    sort = args.sort or ""
    if args.across:
        return _make_pivot_table(records, args).make_table()
    if args.over:
        return tables.make_mean_table(_group_records(records, args), args.over, args.columns, sort)
    if sys.stdout.isatty() and not args.all and len(records) > MAX_SHOWN:
        footer = f"({len(records) - MAX_SHOWN} more: --all, or --where KEY=VALUE)"
        latest = records[:MAX_SHOWN] if args.sort else records[-MAX_SHOWN:]
        return tables.make_run_table(latest, args.columns, sort)._replace(footer=footer)
    return tables.make_run_table(records, args.columns, sort)


def _make_pivot_table(records: Sequence[RunRecord], args: Any) -> tables.PivotTable:
    pivot = tables.PivotTable(records, args.across, args.over, args.columns)
    if args.sort:
        pivot.sort(args.sort)
    if args.reverse:
        pivot.lines.reverse()
    return pivot


def _write_csv(records: Sequence[RunRecord], args: Any) -> None:
    """Write the records, or their means, to the standard output."""
    if args.across:
        _make_pivot_table(records, args).write_csv(sys.stdout)
    elif args.over:
        tables.write_mean_csv(_group_records(records, args), sys.stdout, args.over, args.columns)
    else:
        tables.write_csv(records, sys.stdout, args.columns)


def _draw(records: Sequence[RunRecord], args: Any, folder: Path) -> Path:
    """Draw the curves of each run, or of each group of repetitions, and return the file."""
    from dlopt.report.curves import describe_counts, make_group_panels
    from dlopt.report.figures import plot_curves, save_figure

    settings = {key for r in records for key in r.settings}
    panels = make_group_panels(_group_records(records, args), [c for c in args.columns if c not in settings])
    if not panels:
        names = ",".join(args.columns)
        raise ValueError(f"--columns {names}: no run has such a curve" if names else "these runs have no curves yet")
    file = Path(args.png or f"{_report_stem(folder)}.png")
    title = display_path(folder) if args.title is None else args.title
    if args.over:
        parts = [title, f"mean ± sd over {', '.join(args.over)}", describe_counts(panels)]
        title = ", ".join(filter(None, parts))
    return save_figure(plot_curves(panels, title), file)


def _write_means(records: Sequence[RunRecord], args: Any, folder: Path) -> Path:
    """Write mean and band of each group of repetitions as runs for TensorBoard, and return their folder."""
    from dlopt.report.curves import format_label
    from dlopt.report.tensorboard import bands as tensorboard_bands

    if not args.over:
        raise ValueError("--tensorboard writes means: add --over KEY, such as --over seed")
    target = Path(args.tensorboard or f"{_report_stem(folder)}-over-{'-'.join(args.over)}")
    names: Counter[str] = Counter()
    tags = 0
    for group in group_runs(records, args.over):
        paths = [r.path for r in group.runs if r.status == "done"]
        name = to_file_name(format_label(group.settings)) or "runs"
        names[name] += 1
        tags += tensorboard_bands.write(paths, target / (f"{name}-{names[name]}" if names[name] > 1 else name))
    if not tags:
        raise ValueError("these runs have no curves yet")
    return target


def _report_stem(folder: Path) -> str:
    """Return the beginning of the names of a folder's pictures and means."""
    return f"outputs/reports/{'-'.join(folder.parts[-3:]).replace('/', '-')}"
