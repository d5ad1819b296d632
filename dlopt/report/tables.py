"""Tables of many runs: one line for each, for each group of repetitions, or a column for each value of a setting."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

from dlopt.analysis.run_table import RECORD_FIELDS, RunGroup, RunRecord, find_varying_settings, group_runs
from dlopt.formatting import format_duration, format_metric, format_override
from dlopt.metrics.names import AVERAGE_HEADLINE, HEADLINE
from dlopt.report.text_table import DIM, GREEN, RED, YELLOW, apply_style, format_markdown, format_table

STATUS_STYLES = {
    "done": GREEN, "dead": RED, "failed": RED, "damaged": RED, "diverged": YELLOW, "interrupted": YELLOW, "pruned": DIM,
}  # fmt: skip


class TextTable(NamedTuple):
    """Cells as text, which columns hold numbers, the cells' styles, what is said below, and what must not be left out.

    first names the columns that come first where not all of them fit.
    """

    header: list[str]
    rows: list[list[str]]
    right_aligned: list[bool]
    styles: list[list[str]] | None = None
    footer: str = ""
    priority_columns: tuple[str, ...] = ()

    def text(self, width: int | None = None) -> str:
        """Aligned columns; those that do not fit into so many characters are left out."""
        lines = format_table(self.header, self.rows, self.right_aligned, self.styles, width, self.priority_columns)
        return "\n".join(lines + ([apply_style(self.footer, DIM)] if self.footer else []))

    def csv(self, out: TextIO) -> None:
        csv.writer(out, lineterminator="\n").writerows([self.header, *self.rows])

    def markdown(self) -> str:
        return "\n".join(format_markdown(self.header, self.rows, self.right_aligned))


def make_run_table(found: Sequence[RunRecord], columns: Sequence[str] = ()) -> TextTable:
    """A line for each run: its status, the columns (else what varies, and metrics), and its time."""
    names = [n for n in columns if n not in ("run", "status", "time")]
    names = names or (find_varying_settings(found) if len(found) > 1 else ["optimizer"]) + choose_metrics(found)
    rows = [[r.name, _status(r), *(_cell(r, n) for n in names), format_duration(r.seconds)] for r in found]
    styles = [["", STATUS_STYLES.get(r.status, ""), *("" for _ in names), DIM] for r in found]
    right = [False, False, *(_is_number(found, n) for n in names), True]
    first = ["run", "status", "time", *reversed([n for n in names if n in HEADLINE])] if not columns else []
    return TextTable(["run", "status", *names, "time"], rows, right, styles, priority_columns=tuple(first))


def make_mean_table(found: Sequence[RunRecord], repeated: Sequence[str], columns: Sequence[str] = ()) -> TextTable:
    """A line for each group of runs that differ in the repeated keys alone: means and standard deviations.

    Where a run is not done, a column says of each group how many are not, and what they are.
    """
    groups = group_runs(found, repeated)
    shown = [name for name in columns if any(name in r.metrics for r in found)] if columns else choose_metrics(found)
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
    return TextTable([*names, *counts, *shown], rows, right, footer=said)


def make_pivot_table(
    found: Sequence[RunRecord], key: str, repeated: Sequence[str], columns: Sequence[str] = ()
) -> TextTable:
    """One metric, a column for each value of a setting, a line for each group; means where there are several runs."""
    asked = [name for name in columns if any(name in r.metrics for r in found)]
    metric = asked[0] if asked else [m for m in choose_metrics(found) if m in HEADLINE][-1]
    names = [n for n in find_varying_settings(found) if n not in (*repeated, key) and (n in columns or not columns)]
    values = list(dict.fromkeys(format_override(r.value(key)) for r in found))
    lines: dict[tuple[str, ...], dict[str, list[RunRecord]]] = {}
    for r in found:
        line = lines.setdefault(tuple(format_override(r.value(n)) for n in names), {})
        line.setdefault(format_override(r.value(key)), []).append(r)
    rows = [[*at, *(_spread(RunGroup({}, cells.get(v, [])), metric) for v in values)] for at, cells in lines.items()]
    right = [_is_number(found, n) for n in names] + [True] * len(values)
    said = f"{metric}; mean ± standard deviation over {', '.join(repeated) or 'the runs of a cell'}"
    return TextTable([*names, *values], rows, right, footer=said)


def write_csv(found: Sequence[RunRecord], out: TextIO) -> None:
    """Every setting and metric of every run."""
    settings = list(dict.fromkeys(k for r in found for k in r.settings))
    others = list(dict.fromkeys(k for r in found for k in r.metrics if k not in settings and k not in RECORD_FIELDS))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "status", "started", "time", "progress", *settings, *others])
    for r in found:
        began = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(r.started))
        own = [r.name, r.status, began, r.seconds, r.progress]
        writer.writerow([*own, *(r.settings.get(k) for k in settings), *(r.metrics.get(k) for k in others)])


def choose_metrics(found: Sequence[RunRecord]) -> list[str]:
    """The metrics worth a column: of validation and test, or of training where there is nothing else."""
    names = [m for m in (*HEADLINE, *AVERAGE_HEADLINE) if any(r.metrics.get(m) is not None for r in found)]
    return [m for m in names if not m.startswith("train/")] or names


def _spread(group: RunGroup, metric: str) -> str:
    found = group.mean(metric)
    if found is None:
        return "-"
    mean, sd, count = found
    some = "" if count == len(group.runs) else f" ({count} of {len(group.runs)})"  # the others have no such number
    if sd is None:
        return format_metric(mean) + some
    shown = f"{sd:.4f}" if 1e-3 <= abs(mean) < 1e4 else format_metric(sd)  # as many decimals as the mean has
    return f"{format_metric(mean)} ± {shown}{some}"


def _not_done(group: RunGroup) -> str:
    """The runs of a group that take no part in its means, by their states."""
    counts = Counter(r.status for r in group.runs if r.status != "done")
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def _status(record: RunRecord) -> str:
    return record.status if record.progress is None else f"{record.status} {record.progress:.0%}"


def _cell(record: RunRecord, name: str) -> str:
    value = record.value(name)
    if name in record.settings:
        return _short(value)
    if name == "time":
        return format_duration(value)
    if name == "started":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return format_metric(value) if isinstance(value, float) or value is None else str(value)


def _short(value: Any) -> str:
    """A setting as it is typed; a drawn number with six digits, which tell it from any other of its search."""
    return f"{value:.6g}" if isinstance(value, float) else format_override(value)


def _is_number(found: Sequence[RunRecord], name: str) -> bool:
    values = [v for r in found if (v := r.value(name)) is not None]
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
