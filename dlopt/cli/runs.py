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

from dlopt.analysis.run_table import OWN, Condition, Record, by, grouped, records
from dlopt.analysis.search_record import of_records
from dlopt.errors import nearest
from dlopt.report import tables
from dlopt.report.search_text import line
from dlopt.report.text_table import DIM, styled
from dlopt.rundir.display import as_typed, folder
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
LATEST = 100
"""Runs that are shown in a terminal without being asked for all of them."""
LONGEST_NAME = 100
"""Characters of the folder of a mean."""


def parser() -> argparse.ArgumentParser:
    """What the command takes."""
    taken = argparse.ArgumentParser(
        prog="dlopt runs", description="Many runs in one table.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    taken.add_argument("folder", nargs="?", help="a folder of runs, `last` for the newest sweep, or a part of its name")
    taken.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only such runs; also != < >")
    taken.add_argument("--sort", metavar="KEY", help="by a setting or a metric, the best first (default: by time)")
    taken.add_argument("--reverse", action="store_true", help="the other way round")
    taken.add_argument("--over", type=_names, default=[], metavar="KEY", help="mean and sd over such runs: seed")
    taken.add_argument("--across", metavar="KEY", help="one metric, a column for each value of a setting")
    taken.add_argument("--columns", type=_names, default=[], metavar="A,B", help="settings and metrics to show")
    taken.add_argument("--all", action="store_true", help=f"all runs, not the latest {LATEST}, in a terminal")
    taken.add_argument("--csv", action="store_true", help="every setting and metric, for other programs")
    taken.add_argument("--markdown", action="store_true", help="a table for a README")
    taken.add_argument("--png", nargs="?", const="", metavar="FILE", help="draw the curves (default outputs/reports/)")
    means = "with --over: mean and band as runs of TensorBoard's (default outputs/reports/)"
    taken.add_argument("--tensorboard", nargs="?", const="", metavar="DIR", help=means)
    return taken


def runs(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    given = parser().parse_args(argv)
    try:
        place = folder(given.folder)
        with memory.bounded():
            found = _chosen(records(place), given)
        if not found:
            raise ValueError(f"no run in {as_typed(place)}/ is like that")
        if given.png is not None:
            print(as_typed(_draw(found, given, place)))
            return 0
        if given.tensorboard is not None:
            made = _means(found, given, place)
            print(f"dlopt tensorboard {as_typed(made)}   # CUSTOM SCALARS draws the bands")
            return 0
    except BrokenPipeError:
        raise
    except (RunNotFound, ValueError, OSError) as error:
        print(f"dlopt runs: {error}", file=sys.stderr)
        return 2
    table = _table(found, given)
    if given.csv:
        if given.over or given.across:
            table.csv(sys.stdout)
        else:
            tables.write_csv(found, sys.stdout)
        return 0
    print(table.markdown() if given.markdown else table.text(width()))
    if (place / SWEEP_FILE).is_file() and not (given.markdown or given.where):
        search = of_records(place, found)
        for said in (line(search), *([f"dlopt show {as_typed(place)} says more"] if search.best else [])):
            print(styled(said, DIM))
    return 0


def width() -> int | None:
    """Columns of the terminal; None where there is none, and nothing has to fit."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _names(text: str) -> list[str]:
    return [name for name in text.split(",") if name]


def _chosen(found: list[Record], given: Any) -> list[Record]:
    """Filtered and sorted; ValueError names a key that no run has."""
    known = {*OWN, *(k for r in found for k in (*r.settings, *r.metrics))}
    conditions = [Condition.parse(text) for text in given.where]
    asked = [*(c.key for c in conditions), given.sort, given.across, *given.over, *given.columns]
    for key in filter(None, asked):
        if found and key not in known:
            close = nearest(key, sorted(known))
            raise ValueError(f"no run has a setting or metric '{key}'{close if 'did you mean' in close else ''}")
    found = [r for r in found if all(c.holds(r) for c in conditions)]
    if given.sort:
        found = by(given.sort, found)
    return found[::-1] if given.reverse else found


def _table(found: Sequence[Record], given: Any) -> tables.Table:
    if given.across:
        return tables.across(found, given.across, given.over, given.columns)
    if given.over:
        return tables.over(found, given.over, given.columns)
    if sys.stdout.isatty() and not given.all and len(found) > LATEST:
        more = f"({len(found) - LATEST} more: --all, or --where KEY=VALUE)"
        shown = found[:LATEST] if given.sort else found[-LATEST:]
        return tables.each(shown, given.columns)._replace(below=more)
    return tables.each(found, given.columns)


def _draw(found: Sequence[Record], given: Any, place: Path) -> Path:
    """The curves of each run, or of each group of repetitions; where they were drawn."""
    from dlopt.report.curves import of_groups
    from dlopt.report.figures import curves, save

    panels = of_groups(grouped(found, given.over))
    if not panels:
        raise ValueError("these runs have no curves yet")
    file = Path(given.png or f"{_report(place)}.png")
    title = as_typed(place) + (f", mean ± sd over {', '.join(given.over)}" if given.over else "")
    save(curves(panels, title), file)
    return file


def _means(found: Sequence[Record], given: Any, place: Path) -> Path:
    """A run of TensorBoard's for each group of repetitions, with mean and band; the folder that they are in."""
    from dlopt.report import tensorboard_bands
    from dlopt.report.curves import label

    if not given.over:
        raise ValueError("--tensorboard writes means; say over what, such as --over seed")
    folder = Path(given.tensorboard or f"{_report(place)}-over-{'-'.join(given.over)}")
    names: Counter[str] = Counter()
    tags = 0
    for group in grouped(found, given.over):
        ended = [r.path for r in group.runs if r.status == "done"]
        name = re.sub(r"[^\w.,=+\[\]-]+", "_", label(group.settings)).lstrip(".")[:LONGEST_NAME] or "runs"
        names[name] += 1
        tags += tensorboard_bands.write(ended, folder / (f"{name}-{names[name]}" if names[name] > 1 else name))
    if not tags:
        raise ValueError("these runs have no curves yet")
    return folder


def _report(place: Path) -> str:
    """What the names of pictures and means of a folder of runs begin with."""
    return f"outputs/reports/{'-'.join(place.parts[-3:]).replace('/', '-')}"
