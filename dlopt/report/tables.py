"""Tables of many runs: one line for each, for each group of repetitions, or a column for each value of a setting."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

from dlopt.analysis.run_table import OWN, Group, Record, grouped, varying
from dlopt.formatting import duration, number, written
from dlopt.metrics.names import AVERAGED, HEADLINE
from dlopt.report.text_table import DIM, GREEN, RED, YELLOW, aligned, markdown, styled

STYLES = {
    "done": GREEN, "dead": RED, "failed": RED, "damaged": RED, "diverged": YELLOW, "interrupted": YELLOW, "pruned": DIM,
}  # fmt: skip


class Table(NamedTuple):
    """Cells as text, which columns hold numbers, the cells' styles, what is said below, and what must not be left out.

    first names the columns that come first where not all of them fit.
    """

    header: list[str]
    rows: list[list[str]]
    right: list[bool]
    styles: list[list[str]] | None = None
    below: str = ""
    first: tuple[str, ...] = ()

    def text(self, width: int | None = None) -> str:
        """Aligned columns; those that do not fit into so many characters are left out."""
        lines = aligned(self.header, self.rows, self.right, self.styles, width, self.first)
        return "\n".join(lines + ([styled(self.below, DIM)] if self.below else []))

    def csv(self, out: TextIO) -> None:
        csv.writer(out, lineterminator="\n").writerows([self.header, *self.rows])

    def markdown(self) -> str:
        return "\n".join(markdown(self.header, self.rows, self.right))


def each(found: Sequence[Record], columns: Sequence[str] = ()) -> Table:
    """A line for each run: its status, the columns (else what varies, and metrics), and its time."""
    names = [n for n in columns if n not in ("run", "status", "time")]
    names = names or (varying(found) if len(found) > 1 else ["optimizer"]) + metrics(found)
    rows = [[r.name, _status(r), *(_cell(r, n) for n in names), duration(r.seconds)] for r in found]
    styles = [["", STYLES.get(r.status, ""), *("" for _ in names), DIM] for r in found]
    right = [False, False, *(_is_number(found, n) for n in names), True]
    first = ["run", "status", "time", *reversed([n for n in names if n in HEADLINE])] if not columns else []
    return Table(["run", "status", *names, "time"], rows, right, styles, first=tuple(first))


def over(found: Sequence[Record], repeated: Sequence[str], columns: Sequence[str] = ()) -> Table:
    """A line for each group of runs that differ in the repeated keys alone: means and standard deviations.

    Where a run is not done, a column says of each group how many are not, and what they are.
    """
    groups = grouped(found, repeated)
    shown = [name for name in columns if any(name in r.metrics for r in found)] if columns else metrics(found)
    names = [name for name in columns if name not in shown] if columns else list(groups[0].settings)
    others = any(r.status != "done" for r in found)
    counts = ["runs", "not done"] if others else ["runs"]
    rows = [
        [
            *(_short(group.settings.get(n, group.runs[0].value(n))) for n in names),
            str(len(group.runs)),
            *([_not_done(group)] if others else []),
            *(_spread(group, m) for m in shown),
        ]
        for group in groups
    ]
    right = [*(_is_number(found, n) for n in names), True, *([False] if others else []), *(True for _ in shown)]
    said = f"mean ± standard deviation over {', '.join(repeated)}"
    return Table([*names, *counts, *shown], rows, right, below=said)


def across(found: Sequence[Record], key: str, repeated: Sequence[str], columns: Sequence[str] = ()) -> Table:
    """One metric, a column for each value of a setting, a line for each group; means where there are several runs."""
    asked = [name for name in columns if any(name in r.metrics for r in found)]
    metric = asked[0] if asked else [m for m in metrics(found) if m in HEADLINE][-1]
    names = [n for n in varying(found) if n not in (*repeated, key) and (n in columns or not columns)]
    values = list(dict.fromkeys(written(r.value(key)) for r in found))
    lines: dict[tuple[str, ...], dict[str, list[Record]]] = {}
    for r in found:
        line = lines.setdefault(tuple(written(r.value(n)) for n in names), {})
        line.setdefault(written(r.value(key)), []).append(r)
    rows = [[*at, *(_spread(Group({}, cells.get(v, [])), metric) for v in values)] for at, cells in lines.items()]
    right = [_is_number(found, n) for n in names] + [True] * len(values)
    said = f"{metric}; mean ± standard deviation over {', '.join(repeated) or 'the runs of a cell'}"
    return Table([*names, *values], rows, right, below=said)


def write_csv(found: Sequence[Record], out: TextIO) -> None:
    """Every setting and metric of every run."""
    settings = list(dict.fromkeys(k for r in found for k in r.settings))
    others = list(dict.fromkeys(k for r in found for k in r.metrics if k not in settings and k not in OWN))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "status", "started", "time", "progress", *settings, *others])
    for r in found:
        began = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(r.started))
        own = [r.name, r.status, began, r.seconds, r.progress]
        writer.writerow([*own, *(r.settings.get(k) for k in settings), *(r.metrics.get(k) for k in others)])


def metrics(found: Sequence[Record]) -> list[str]:
    """The metrics worth a column: of validation and test, or of training where there is nothing else."""
    names = [m for m in (*HEADLINE, *AVERAGED) if any(r.metrics.get(m) is not None for r in found)]
    return [m for m in names if not m.startswith("train/")] or names


def _spread(group: Group, metric: str) -> str:
    found = group.mean(metric)
    if found is None:
        return "-"
    mean, sd, count = found
    some = "" if count == len(group.runs) else f" ({count} of {len(group.runs)})"  # the others have no such number
    if sd is None:
        return number(mean) + some
    shown = f"{sd:.4f}" if 1e-3 <= abs(mean) < 1e4 else number(sd)  # as many decimals as the mean has
    return f"{number(mean)} ± {shown}{some}"


def _not_done(group: Group) -> str:
    """The runs of a group that take no part in its means, by their states."""
    counts = Counter(r.status for r in group.runs if r.status != "done")
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def _status(record: Record) -> str:
    return record.status if record.progress is None else f"{record.status} {record.progress:.0%}"


def _cell(record: Record, name: str) -> str:
    value = record.value(name)
    if name in record.settings:
        return _short(value)
    if name == "time":
        return duration(value)
    if name == "started":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return number(value) if isinstance(value, float) or value is None else str(value)


def _short(value: Any) -> str:
    """A setting as it is typed; a drawn number with six digits, which tell it from any other of its search."""
    return f"{value:.6g}" if isinstance(value, float) else written(value)


def _is_number(found: Sequence[Record], name: str) -> bool:
    values = [v for r in found if (v := r.value(name)) is not None]
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
