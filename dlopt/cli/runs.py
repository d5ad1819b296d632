"""dlopt runs: many runs in one table, without importing torch."""

from __future__ import annotations

import argparse
import csv
import shutil
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dlopt.cli.places import as_typed, folder
from dlopt.config.problems import nearest
from dlopt.metrics import HEADLINE, duration, number
from dlopt.report.columns import DIM, GREEN, RED, YELLOW, aligned, markdown, styled
from dlopt.report.records import OWN, Condition, Group, Record, by, grouped, records, varying, written
from dlopt.run import RunNotFound

EPILOG = """\
  dlopt runs                                        every run in outputs/, the newest last
  dlopt runs last                                   those of the newest sweep
  dlopt runs --where optimizer=adam --where 'optimizer.lr<0.01'
  dlopt runs --sort test/accuracy                   the best first
  dlopt runs last --over seed                       mean and standard deviation over seeds
  dlopt runs last --over seed --across optimizer    the same as a table of one metric, a column for each rule
  dlopt runs last --over seed --png                 their curves, with bands
  dlopt runs --csv > runs.csv                       every setting and metric

Settings are shown where the runs differ in them. A run is running, done, diverged, failed, interrupted,
dead (its process is gone) or damaged (its files cannot be read).
"""
STYLES = {"done": GREEN, "running": "", "dead": RED, "failed": RED, "damaged": RED, "diverged": YELLOW,
          "interrupted": YELLOW}  # fmt: skip
LATEST = 100
"""Runs that are shown in a terminal without being asked for all of them."""


def runs(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="dlopt runs", description="Many runs in one table.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument(
        "folder", nargs="?", help="a folder of runs, `last` for the newest sweep, or a part of its name"
    )
    parser.add_argument("--where", action="append", default=[], metavar="KEY=VALUE", help="only such runs; also != < >")
    parser.add_argument("--sort", metavar="KEY", help="by a setting or a metric, the best first (default: by time)")
    parser.add_argument("--reverse", action="store_true", help="the other way round")
    parser.add_argument("--over", metavar="KEY", help="mean and sd over runs that differ in this alone, such as seed")
    parser.add_argument("--across", metavar="KEY", help="one column for each value of a setting, for a single metric")
    parser.add_argument("--columns", metavar="A,B", help="settings and metrics to show, in place of those that vary")
    parser.add_argument("--all", action="store_true", help=f"all runs, not the latest {LATEST}, in a terminal")
    parser.add_argument("--csv", action="store_true", help="every setting and metric, for other programs")
    parser.add_argument("--markdown", action="store_true", help="a table for a README")
    parser.add_argument("--png", nargs="?", const="", metavar="FILE", help="draw the curves (default outputs/reports/)")
    given = parser.parse_args(argv)
    try:
        place = folder(given.folder)
        found = _chosen(records(place), given)
    except (RunNotFound, ValueError) as error:
        print(f"dlopt runs: {error}", file=sys.stderr)
        return 2
    if not found:
        print(f"dlopt runs: no run in {as_typed(place)}/ is like that", file=sys.stderr)
        return 2
    if given.png is not None:
        return _draw(found, given, place)
    if given.csv:
        _csv(found)
    elif given.across:
        print(across(found, given))
    elif given.over:
        print(over(found, given))
    else:
        columns = given.columns.split(",") if given.columns else []
        print(table(found, columns, latest=not given.all and not given.sort, plain=given.markdown))
    return 0


def _chosen(found: list[Record], given: Any) -> list[Record]:
    """Filtered and sorted; ValueError names a key that no run has."""
    known = {*OWN, *(k for r in found for k in (*r.settings, *r.metrics))}
    conditions = [Condition.parse(text) for text in given.where]
    columns = given.columns.split(",") if given.columns else []
    over = [key for key in (*(given.over or "").split(","), given.across) if key]
    for key in [*(c.key for c in conditions), *([given.sort] if given.sort else []), *columns, *over]:
        if found and key not in known:
            close = nearest(key, sorted(known))
            raise ValueError(f"no run has a setting or metric '{key}'{close if 'did you mean' in close else ''}")
    found = [r for r in found if all(c.holds(r) for c in conditions)]
    if given.sort:
        found = by(given.sort, found)
    return found[::-1] if given.reverse else found


def _metrics(found: Sequence[Record]) -> list[str]:
    """The metrics worth a column: of validation and test, or of training where there is nothing else."""
    names = [m for m in HEADLINE if any(r.metrics.get(m) is not None for r in found)]
    return [m for m in names if not m.startswith("train/")] or names


def _columns(found: Sequence[Record]) -> list[str]:
    several = len(found) > 1
    return (varying(found) if several else ["optimizer"]) + _metrics(found)


def table(found: Sequence[Record], columns: Sequence[str] = (), *, latest: bool = False, plain: bool = False) -> str:
    """A line for each run, in columns or (plain) in Markdown. latest: of very many only the last in a terminal."""
    names = list(columns) or _columns(found)
    terminal = sys.stdout.isatty()
    more = []
    if terminal and latest and len(found) > LATEST:
        more = [styled(f"({len(found) - LATEST} more: --all, or --where KEY=VALUE)", DIM)]
        found = found[-LATEST:]
    header = ["run", "status", *names, "time"]
    rows = [[r.name, _status(r), *(_cell(r, n) for n in names), duration(r.seconds)] for r in found]
    right = [False, False, *(_is_number(found, n) for n in names), True]
    if plain:
        return "\n".join(markdown(header, rows, right))
    styles = [["", STYLES.get(r.status, ""), *("" for _ in names), DIM] for r in found]
    width = shutil.get_terminal_size().columns if terminal else None
    return "\n".join([*aligned(header, rows, right, styles, width), *more])


def over(found: Sequence[Record], given: Any) -> str:
    """One line for each group of repetitions."""
    groups = grouped(found, given.over.split(","))
    asked = given.columns.split(",") if given.columns else []
    metrics = [name for name in asked if any(name in r.metrics for r in found)] if asked else _metrics(found)
    names = [name for name in asked if name not in metrics] if asked else list(groups[0].settings)
    header = [*names, "runs", *metrics]
    rows = []
    for group in groups:
        cells = [written(group.settings.get(n, group.runs[0].value(n))) for n in names]
        rows.append([*cells, str(len(group.runs)), *(_spread(group.mean(m)) for m in metrics)])
    right = [_is_number(found, n) for n in names] + [True] * (1 + len(metrics))
    return _written(header, rows, right, given, f"mean ± standard deviation over {given.over}")


def across(found: Sequence[Record], given: Any) -> str:
    """One line for each group, one column for each value of a setting, for one metric; means where there are several."""
    asked = given.columns.split(",") if given.columns else []
    metrics = [name for name in asked if any(name in r.metrics for r in found)]
    metric = metrics[0] if metrics else _metrics(found)[-1]
    spread = given.over.split(",") if given.over else []
    names = [n for n in varying(found) if n not in (*spread, given.across) and (not asked or n in asked)]
    values = list(dict.fromkeys(written(r.value(given.across)) for r in found))
    lines: dict[tuple[str, ...], dict[str, list[Record]]] = {}
    for r in found:
        line = lines.setdefault(tuple(written(r.value(n)) for n in names), {})
        line.setdefault(written(r.value(given.across)), []).append(r)
    rows = []
    for key, cells in lines.items():
        means = [Group({}, cells.get(v, [])).mean(metric) for v in values]
        rows.append([*key, *map(_spread, means)])
    header = [*names, *values]
    right = [_is_number(found, n) for n in names] + [True] * len(values)
    said = f"{metric}, mean ± standard deviation over {given.over or 'the runs of a line'}"
    return _written(header, rows, right, given, said)


def _written(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool], given: Any, said: str) -> str:
    if given.markdown:
        return "\n".join(markdown(header, rows, right))
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    return "\n".join([*aligned(header, rows, right, width=width), styled(said, DIM)])


def _spread(found: tuple[float, float | None] | None) -> str:
    if found is None:
        return "-"
    mean, sd = found
    return number(mean) if sd is None else f"{number(mean)} ± {number(sd)}"


def _csv(found: Sequence[Record]) -> None:
    settings = list(dict.fromkeys(k for r in found for k in r.settings))
    metrics = list(dict.fromkeys(k for r in found for k in r.metrics if k not in settings and k not in OWN))
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["run", "status", "started", "seconds", "progress", *settings, *metrics])
    for r in found:
        own = [r.name, r.status, time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(r.started)), r.seconds, r.progress]
        out.writerow([*own, *(r.settings.get(k) for k in settings), *(r.metrics.get(k) for k in metrics)])


def _draw(found: Sequence[Record], given: Any, place: Path) -> int:
    from dlopt.report.curves import of_groups
    from dlopt.report.figures import curves, save

    lines = grouped(found, given.over.split(",") if given.over else [])
    file = Path(given.png or f"outputs/reports/{'-'.join(place.parts[-3:]).replace('/', '-')}.png")
    try:
        panels = of_groups(lines)
        if not panels:
            raise ValueError("these runs have no curves yet")
        title = as_typed(place) + (f", mean ± sd over {given.over}" if given.over else "")
        save(curves(panels, title), file)
    except (OSError, ValueError) as error:
        print(f"dlopt runs: {error}", file=sys.stderr)
        return 2
    print(as_typed(file))
    return 0


def _status(record: Record) -> str:
    return record.status if record.progress is None else f"{record.status} {record.progress:.0%}"


def _cell(record: Record, name: str) -> str:
    value = record.value(name)
    if name in record.settings:
        return written(value)
    if name == "seconds":
        return duration(value)
    if name == "started":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return number(value) if isinstance(value, (int, float)) or value is None else str(value)


def _is_number(found: Sequence[Record], name: str) -> bool:
    values = [v for r in found if (v := r.value(name)) is not None]
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
