"""Tables as text, and tables of runs: a row for each run or group of repeats, a column for each value of a setting."""

from __future__ import annotations

import csv
import os
import sys
import textwrap
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple, TextIO

from dlopt.analysis.run_table import RECORD_FIELDS, RunGroup, RunRecord, find_varying_settings, group_runs
from dlopt.formatting import format_duration, format_metric, format_override
from dlopt.metrics.names import AVERAGE_HEADLINE, HEADLINE

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"
STATUS_STYLES = {
    "done": GREEN, "dead": RED, "failed": RED, "damaged": RED, "diverged": YELLOW, "interrupted": YELLOW, "pruned": DIM,
}  # fmt: skip


class TextTable(NamedTuple):
    """A table of text.

    right_aligned      whether each column is right-aligned
    styles             ANSI style of each cell
    footer             line below the table
    priority_columns   columns that are omitted last if not all of them fit
    """

    header: list[str]
    rows: list[list[str]]
    right_aligned: list[bool]
    styles: list[list[str]] | None = None
    footer: str = ""
    priority_columns: tuple[str, ...] = ()

    def text(self, width: int | None = None) -> str:
        """Return aligned columns; those that do not fit the width are omitted."""
        lines = format_table(self.header, self.rows, self.right_aligned, self.styles, width, self.priority_columns)
        return "\n".join(lines + ([apply_style(self.footer, DIM)] if self.footer else []))

    def csv(self, out: TextIO) -> None:
        csv.writer(out, lineterminator="\n").writerows([self.header, *self.rows])

    def markdown(self) -> str:
        return "\n".join(format_markdown(self.header, self.rows, self.right_aligned))


def make_run_table(runs: Sequence[RunRecord], columns: Sequence[str] = ()) -> TextTable:
    """Return a table with a row for each run: status, the columns (by default what varies, and metrics), and time."""
    names = [n for n in columns if n not in ("run", "status", "time")]
    names = names or (find_varying_settings(runs) if len(runs) > 1 else ["optimizer"]) + choose_metrics(runs)
    rows = [[r.name, _format_status(r), *(_format_cell(r, n) for n in names), format_duration(r.seconds)] for r in runs]
    styles = [["", STATUS_STYLES.get(r.status, ""), *("" for _ in names), DIM] for r in runs]
    right = [False, False, *(_is_numeric(runs, n) for n in names), True]
    first = ["run", "status", "time", *reversed([n for n in names if n in HEADLINE])] if not columns else []
    return TextTable(["run", "status", *names, "time"], rows, right, styles, priority_columns=tuple(first))


def make_mean_table(runs: Sequence[RunRecord], repeated: Sequence[str], columns: Sequence[str] = ()) -> TextTable:
    """Return a table of means and standard deviations, a row for each group of runs that differ only in `repeated`.

    If some run is not done, a column counts those of each group by status.
    """
    groups = group_runs(runs, repeated)
    metrics = _select_metrics(runs, columns) if columns else choose_metrics(runs)
    names = [name for name in columns if name not in metrics] if columns else list(groups[0].settings)
    counts, right_counts = ["runs"], [True]
    if any(r.status != "done" for r in runs):
        counts, right_counts = ["runs", "not done"], [True, False]
    rows = [
        [
            *(_format_setting(group.settings.get(n, group.runs[0].value(n))) for n in names),
            *[str(len(group.runs)), _count_not_done(group)][: len(counts)],
            *(_format_mean(group, m) for m in metrics),
        ]
        for group in groups
    ]
    right = [*(_is_numeric(runs, n) for n in names), *right_counts, *(True for _ in metrics)]
    footer = f"mean ± standard deviation over {', '.join(repeated)}"
    return TextTable([*names, *counts, *metrics], rows, right, footer=footer)


def make_pivot_table(
    runs: Sequence[RunRecord], key: str, repeated: Sequence[str], columns: Sequence[str] = ()
) -> TextTable:
    """Return a table of the mean of one metric, with a column for each value of a setting and a row for each group."""
    metric = next(iter(_select_metrics(runs, columns)), None) or [m for m in choose_metrics(runs) if m in HEADLINE][-1]
    names = [n for n in find_varying_settings(runs) if n not in (*repeated, key) and (n in columns or not columns)]
    values = list(dict.fromkeys(format_override(r.value(key)) for r in runs))
    lines: dict[tuple[str, ...], dict[str, list[RunRecord]]] = {}
    for r in runs:
        line = lines.setdefault(tuple(format_override(r.value(n)) for n in names), {})
        line.setdefault(format_override(r.value(key)), []).append(r)
    rows = [
        [*settings, *(_format_mean(RunGroup({}, cells.get(v, [])), metric) for v in values)]
        for settings, cells in lines.items()
    ]
    right = [_is_numeric(runs, n) for n in names] + [True] * len(values)
    footer = f"{metric}; mean ± standard deviation over {', '.join(repeated) or 'the runs of a cell'}"
    return TextTable([*names, *values], rows, right, footer=footer)


def write_csv(runs: Sequence[RunRecord], out: TextIO) -> None:
    """Write every setting and metric of every run."""
    settings = list(dict.fromkeys(k for r in runs for k in r.settings))
    others = list(dict.fromkeys(k for r in runs for k in r.metrics if k not in settings and k not in RECORD_FIELDS))
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "status", "started", "time", "progress", *settings, *others])
    for r in runs:
        started = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(r.started))
        own = [r.name, r.status, started, r.seconds, r.progress]
        writer.writerow([*own, *(r.settings.get(k) for k in settings), *(r.metrics.get(k) for k in others)])


def choose_metrics(runs: Sequence[RunRecord]) -> list[str]:
    """Return the headline metrics of validation and test; those of training if there are no others."""
    names = [m for m in (*HEADLINE, *AVERAGE_HEADLINE) if any(r.metrics.get(m) is not None for r in runs)]
    return [m for m in names if not m.startswith("train/")] or names


def _select_metrics(runs: Sequence[RunRecord], columns: Sequence[str]) -> list[str]:
    return [name for name in columns if any(name in r.metrics for r in runs)]


def _format_mean(group: RunGroup, metric: str) -> str:
    result = group.mean(metric)
    if result is None:
        return "-"
    mean, sd, count = result
    coverage = "" if count == len(group.runs) else f" ({count} of {len(group.runs)})"
    return f"{format_uncertain(mean, sd)}{coverage}"


def format_uncertain(mean: float | None, sd: float | None) -> str:
    """Format a mean with its standard deviation, if known, to the same number of decimals."""
    if sd is None or mean is None:
        return format_metric(mean)
    return f"{format_metric(mean)} ± {f'{sd:.4f}' if 1e-3 <= abs(mean) < 1e4 else format_metric(sd)}"


def _count_not_done(group: RunGroup) -> str:
    """Count the runs of a group that do not contribute to its means, by status."""
    counts = Counter(r.status for r in group.runs if r.status != "done")
    return ", ".join(f"{n} {status}" for status, n in counts.items())


def _format_status(record: RunRecord) -> str:
    return record.status if record.progress is None else f"{record.status} {record.progress:.0%}"


def _format_cell(record: RunRecord, name: str) -> str:
    value = record.value(name)
    if name in record.settings:
        return _format_setting(value)
    if name == "time":
        return format_duration(value)
    if name == "started":
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(value))
    return format_metric(value) if isinstance(value, float) or value is None else str(value)


def _format_setting(value: Any) -> str:
    """Format a setting as an override; a float with six digits, which identify it within its search."""
    return f"{value:.6g}" if isinstance(value, float) else format_override(value)


def _is_numeric(runs: Sequence[RunRecord], name: str) -> bool:
    values = [v for r in runs if (v := r.value(name)) is not None]
    return all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)


# ------------------------------------------------------------------------------------------------ text


def apply_style(text: str, style: str) -> str:
    """Return the text in an ANSI style if standard output is a terminal that accepts colours."""
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{style}m{text}\x1b[0m" if colours and style else text


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    styles: Sequence[Sequence[str]] | None = None,
    width: int | None = None,
    first: Sequence[str] = (),
    remedy: str = "--columns A,B chooses, --csv has all",
) -> list[str]:
    """Return the lines of a table, each column as wide as its widest cell.

    right    whether each column is right-aligned
    width    largest number of characters of a line: the last columns that do not fit are omitted, and a line names them
    first    columns that are omitted only after all others
    remedy   advice in that line
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    order = sorted(range(len(header)), key=lambda i: first.index(header[i]) if header[i] in first else len(first))
    shown: list[int] = []
    used = 0
    for i in order:
        if width is not None and shown and used + widths[i] > width:
            break
        shown.append(i)
        used += widths[i] + 2
    shown.sort()

    def line(cells: Sequence[str], style: Sequence[str]) -> str:
        padded = [
            apply_style(cells[i].rjust(widths[i]) if right[i] else cells[i].ljust(widths[i]), style[i]) for i in shown
        ]
        return "  ".join(padded).rstrip()

    plain = [""] * len(header)
    lines = [line(header, [BOLD] * len(header))]
    lines += [line(row, styles[i] if styles else plain) for i, row in enumerate(rows)]
    missing = [name for i, name in enumerate(header) if i not in shown]
    if missing:
        notice = f"(left out: {', '.join(missing)}; {remedy})"
        lines += [apply_style(x, DIM) for x in textwrap.wrap(notice, width or 120)]
    return lines


def format_markdown(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Return the lines of a table in Markdown."""
    rule = ["---:" if r else "---" for r in right]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
