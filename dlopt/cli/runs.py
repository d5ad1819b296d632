"""dlopt runs: many runs in one table, without importing torch."""

from __future__ import annotations

import argparse
import re
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlopt.analysis.run_table import RECORD_FIELDS, Condition, RunRecord, group_runs, read_runs, sort_runs
from dlopt.analysis.search_record import build_search
from dlopt.errors import did_you_mean
from dlopt.report import tables
from dlopt.report.search_text import format_best_line
from dlopt.report.text_table import DIM, apply_style
from dlopt.rundir.display import display_path, find_folder
from dlopt.rundir.find import SWEEP_FILE, RunNotFound
from dlopt.storage import memory

EPILOG = """\
  dlopt runs                                        every run in outputs/, the newest last
  dlopt runs last                                   those of the newest sweep
  dlopt runs --where optimizer=adam --where 'optimizer.lr<0.01'
  dlopt runs --sort test/accuracy                   the best first
  dlopt runs last --over seed                       mean and standard deviation over seeds
  dlopt runs last --over seed --across optimizer    the same as a table of one metric, a column for each rule
  dlopt runs last --over seed --png                 their curves, with bands
  dlopt runs last --over seed --tensorboard         a run of TensorBoard's for each line: mean and band
  dlopt runs --csv > runs.csv                       every setting and metric

Settings are shown where the runs differ in them. A run is running, done, diverged, pruned (its search
ended it early), failed, interrupted, dead (its process is gone) or damaged (its files cannot be read).
"""
MAX_SHOWN = 100
"""Runs that are shown in a terminal without being asked for all of them."""
MAX_NAME_LENGTH = 100
"""Characters of the folder of a mean."""


def build_parser() -> argparse.ArgumentParser:
    """What the command takes."""
    taken = argparse.ArgumentParser(
        prog="dlopt runs", description="Many runs in one table.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    taken.add_argument("folder", nargs="?", help="a folder of runs, `last` for the newest sweep, or a part of its name")
    taken.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only such runs; also != < >")
    taken.add_argument("--sort", metavar="KEY", help="by a setting or a metric, the best first (default: by time)")
    taken.add_argument("--reverse", action="store_true", help="the other way round")
    taken.add_argument("--over", type=_split_names, default=[], metavar="KEY", help="mean and sd over such runs: seed")
    taken.add_argument("--across", metavar="KEY", help="one metric, a column for each value of a setting")
    taken.add_argument("--columns", type=_split_names, default=[], metavar="A,B", help="settings and metrics to show")
    taken.add_argument("--all", action="store_true", help=f"all runs, not the latest {MAX_SHOWN}, in a terminal")
    taken.add_argument("--csv", action="store_true", help="every setting and metric, for other programs")
    taken.add_argument("--markdown", action="store_true", help="a table for a README")
    taken.add_argument("--png", nargs="?", const="", metavar="FILE", help="draw the curves (default outputs/reports/)")
    means = "with --over: mean and band as runs of TensorBoard's (default outputs/reports/)"
    taken.add_argument("--tensorboard", nargs="?", const="", metavar="DIR", help=means)
    return taken


def runs(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    given = build_parser().parse_args(argv)
    try:
        place = find_folder(given.folder)
        with memory.limit_memory():
            found = _select_records(read_runs(place), given)
        if not found:
            raise ValueError(f"no run in {display_path(place)}/ is like that")
        if given.png is not None:
            print(display_path(_draw(found, given, place)))
            return 0
        if given.tensorboard is not None:
            made = _write_means(found, given, place)
            print(f"dlopt tensorboard {display_path(made)}   # CUSTOM SCALARS draws the bands")
            return 0
    except BrokenPipeError:
        raise
    except (RunNotFound, ValueError, OSError) as error:
        print(f"dlopt runs: {error}", file=sys.stderr)
        return 2
    table = _build_table(found, given)
    if given.csv:
        if given.over or given.across:
            table.csv(sys.stdout)
        else:
            tables.write_csv(found, sys.stdout)
        return 0
    print(table.markdown() if given.markdown else table.text(get_terminal_width()))
    if (place / SWEEP_FILE).is_file() and not (given.markdown or given.where):
        search = build_search(place, found)
        for said in (
            format_best_line(search),
            *([f"dlopt show {display_path(place)} says more"] if search.best else []),
        ):
            print(apply_style(said, DIM))
    return 0


def get_terminal_width() -> int | None:
    """Columns of the terminal; None where there is none, and nothing has to fit."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _split_names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _select_records(found: list[RunRecord], given: Any) -> list[RunRecord]:
    """Filtered and sorted; ValueError names a key that no run has."""
    known = {*RECORD_FIELDS, *(k for r in found for k in (*r.settings, *r.metrics))}
    conditions = [Condition.parse(text) for text in given.where]
    asked = [*(c.key for c in conditions), given.sort, given.across, *given.over, *given.columns]
    for key in filter(None, asked):
        if found and key not in known:
            close = did_you_mean(key, sorted(known))
            raise ValueError(f"no run has a setting or metric '{key}'{close if 'did you mean' in close else ''}")
    found = [r for r in found if all(c.holds(r) for c in conditions)]
    if given.sort:
        found = sort_runs(given.sort, found)
    return found[::-1] if given.reverse else found


def _build_table(found: Sequence[RunRecord], given: Any) -> tables.TextTable:
    if given.across:
        return tables.make_pivot_table(found, given.across, given.over, given.columns)
    if given.over:
        return tables.make_mean_table(found, given.over, given.columns)
    if sys.stdout.isatty() and not given.all and len(found) > MAX_SHOWN:
        more = f"({len(found) - MAX_SHOWN} more: --all, or --where KEY=VALUE)"
        shown = found[:MAX_SHOWN] if given.sort else found[-MAX_SHOWN:]
        return tables.make_run_table(shown, given.columns)._replace(footer=more)
    return tables.make_run_table(found, given.columns)


def _draw(found: Sequence[RunRecord], given: Any, place: Path) -> Path:
    """The curves of each run, or of each group of repetitions; where they were drawn."""
    from dlopt.report.curves import make_group_panels
    from dlopt.report.figures import plot_curves, save_figure

    panels = make_group_panels(group_runs(found, given.over))
    if not panels:
        raise ValueError("these runs have no curves yet")
    file = Path(given.png or f"{_report_stem(place)}.png")
    title = display_path(place) + (f", mean ± sd over {', '.join(given.over)}" if given.over else "")
    save_figure(plot_curves(panels, title), file)
    return file


def _write_means(found: Sequence[RunRecord], given: Any, place: Path) -> Path:
    """A run of TensorBoard's for each group of repetitions, with mean and band; the folder that they are in."""
    from dlopt.report import tensorboard_bands
    from dlopt.report.curves import format_label

    if not given.over:
        raise ValueError("--tensorboard writes means; say over what, such as --over seed")
    folder = Path(given.tensorboard or f"{_report_stem(place)}-over-{'-'.join(given.over)}")
    names: Counter[str] = Counter()
    tags = 0
    for group in group_runs(found, given.over):
        ended = [r.path for r in group.runs if r.status == "done"]
        name = re.sub(r"[^\w.,=+\[\]-]+", "_", format_label(group.settings)).lstrip(".")[:MAX_NAME_LENGTH] or "runs"
        names[name] += 1
        tags += tensorboard_bands.write(ended, folder / (f"{name}-{names[name]}" if names[name] > 1 else name))
    if not tags:
        raise ValueError("these runs have no curves yet")
    return folder


def _report_stem(place: Path) -> str:
    """What the names of pictures and means of a folder of runs begin with."""
    return f"outputs/reports/{'-'.join(place.parts[-3:]).replace('/', '-')}"
