"""Tables of runs: a row for each run or group of repeats, a column for each value of a setting."""

from __future__ import annotations

import csv
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, TextIO

from dlopt.analysis.run_table import (
    IGNORED_SETTINGS,
    RECORD_FIELDS,
    RunGroup,
    RunRecord,
    find_varying_settings,
    merge_directions,
    omit_repeated,
    rank_value,
)
from dlopt.formatting import format_duration, format_metric, format_override
from dlopt.metrics.names import AVERAGE_HEADLINE, HEADLINE, higher_is_better
from dlopt.report.text_table import DIM, GREEN, RED, YELLOW, TextTable

STATUS_STYLES = {
    "done": GREEN, "dead": RED, "failed": RED, "damaged": RED, "diverged": YELLOW, "interrupted": YELLOW, "pruned": DIM,
}  # fmt: skip


def make_run_table(runs: Sequence[RunRecord], columns: Sequence[str] = (), sort: str = "") -> TextTable:
    """Return a table with a row for each run: status, the columns (by default what varies, and metrics), and time.

    The key of the order is a column, too. On a narrow terminal all settings that vary are kept, and one metric.
    """
    varying = find_varying_settings(runs) if len(runs) > 1 else ["optimizer"]
    metrics = [] if columns else choose_metrics(runs)
    names = [n for n in columns or [*varying, *metrics] if n not in ("run", "status", "time")]
    if sort and sort not in ("run", "status", "time", *names):
        names.append(sort)
    rows = [[r.name, _format_status(r), *(_format_cell(r, n) for n in names), format_duration(r.seconds)] for r in runs]
    styles = [["", STATUS_STYLES.get(r.status, ""), *("" for _ in names), DIM] for r in runs]
    right = [False, False, *(_is_numeric(runs, n) for n in names), True]
    droppable = [*(["time"] if sort != "time" else []), *_order_droppable(runs, metrics, sort)]
    if len({row[1] for row in rows}) == 1:
        droppable.insert(0, "status")
    keys = tuple(n for n in names if n not in metrics)
    header = ["run", "status", *names, "time"]
    return TextTable(header, rows, right, styles, keys=keys, droppable=tuple(droppable))


def make_mean_table(
    groups: Sequence[RunGroup], repeated: Sequence[str], columns: Sequence[str] = (), sort: str = ""
) -> TextTable:
    """Return a table of means and standard deviations, a row for each group of runs that differ only in `repeated`.

    If some run is not done, a column counts those of each group by status.
    """
    runs = [r for group in groups for r in group.runs]
    metrics = _select_metrics(runs, columns) if columns else choose_metrics(runs)
    names = [name for name in columns if name not in metrics] if columns else list(groups[0].settings)
    if sort and sort not in (*names, *metrics):
        (metrics if _select_metrics(runs, [sort]) else names).append(sort)
    counts, right_counts = ["runs"], [True]
    if any(r.status != "done" for r in runs):
        counts, right_counts = ["runs", "not done"], [True, False]
    rows = [
        [
            *(_format_setting(_get_setting(group, n)) for n in names),
            *[str(len(group.runs)), _count_not_done(group)][: len(counts)],
            *(_format_mean(group, m) for m in metrics),
        ]
        for group in groups
    ]
    right = [*(_is_numeric(runs, n) for n in names), *right_counts, *(True for _ in metrics)]
    footer = f"mean ± standard deviation over {', '.join(repeated)}"
    droppable = ("runs", *([] if columns else _order_droppable(runs, metrics, sort)))
    header = [*names, *counts, *metrics]
    return TextTable(header, rows, right, footer=footer, keys=tuple(names), droppable=droppable)


def format_best_group(groups: Sequence[RunGroup], metric: str, repeated: Sequence[str]) -> str:
    """Return a line with the best mean of a metric over groups whose runs are all done; empty if there is none."""
    higher = higher_is_better(metric, merge_directions(r for group in groups for r in group.runs))
    means = [(g, g.mean(metric)) for g in groups if all(r.status == "done" for r in g.runs)]
    found = [(group, mean) for group, mean in means if mean is not None]
    if not found:
        return ""
    group, (mean, sd, count) = min(found, key=lambda pair: -pair[1][0] if higher else pair[1][0])
    settings = " ".join(f"{name}={_format_setting(value)}" for name, value in group.settings.items())
    runs = f"{count} run{'' if count == 1 else 's'}"
    line = f"best mean {metric}: {format_uncertain(mean, sd)} over {', '.join(repeated)}, {runs}"
    return f"{line} ({settings})" if settings else line


class PivotTable:
    """A table of the mean of one metric, with a column for each value of a setting and a row for each group.

    names    settings that the rows differ in
    values   values of the setting that the columns differ in
    lines    settings of each row, and its runs by column
    """

    def __init__(
        self, runs: Sequence[RunRecord], key: str, repeated: Sequence[str], columns: Sequence[str] = ()
    ) -> None:
        metrics = _select_metrics(runs, columns) or [m for m in choose_metrics(runs) if m in HEADLINE][-1:]
        if not metrics:
            raise ValueError("these runs have no metric yet")
        self.metric, self.repeated = metrics[0], repeated
        self.runs = omit_repeated(runs) if repeated else runs
        varying = find_varying_settings(runs)
        self.names = [n for n in varying if n not in (*repeated, key) and (n in columns or not columns)]
        self.values = list(dict.fromkeys(format_override(r.value(key)) for r in self.runs))
        lines: dict[tuple[str, ...], dict[str, list[RunRecord]]] = {}
        for r in self.runs:
            line = lines.setdefault(tuple(format_override(r.value(n)) for n in self.names), {})
            line.setdefault(format_override(r.value(key)), []).append(r)
        self.lines = [
            (settings, {value: RunGroup({}, cells.get(value, [])) for value in self.values})
            for settings, cells in lines.items()
        ]

    def sort(self, key: str) -> None:
        """Sort the rows by a setting, or if the key is the metric by their best mean. Raises ValueError for others."""
        if key not in (*self.names, self.metric):
            shown = ", ".join([*self.names, self.metric])
            raise ValueError(f"--sort {key}: the table of --across does not show it; it can be sorted by {shown}")

        higher = higher_is_better(key, merge_directions(self.runs))

        def rank(line: tuple[tuple[str, ...], dict[str, RunGroup]]) -> tuple[int, float, str]:
            groups = [group for group in line[1].values() if group.runs]
            if key != self.metric:
                return rank_value(groups[0].runs[0].value(key), higher)
            return min(rank_value(mean and mean[0], higher) for mean in (group.mean(key) for group in groups))

        self.lines.sort(key=rank)

    def make_table(self) -> TextTable:
        """Return the table as text."""
        rows = [
            [*settings, *(_format_mean(group, self.metric) for group in cells.values())]
            for settings, cells in self.lines
        ]
        right = [_is_numeric(self.runs, n) for n in self.names] + [True] * len(self.values)
        footer = f"{self.metric}; mean ± standard deviation over {', '.join(self.repeated) or 'the runs of a cell'}"
        return TextTable([*self.names, *self.values], rows, right, footer=footer, keys=tuple(self.names))

    def write_csv(self, out: TextIO) -> None:
        """Write the table with three columns for each value of the setting: mean, standard deviation, number."""
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow([*self.names, *(name for value in self.values for name in _name_mean_columns(value))])
        for settings, cells in self.lines:
            writer.writerow([*settings, *(x for group in cells.values() for x in _split_mean(group, self.metric))])


def list_columns(runs: Sequence[RunRecord], columns: Sequence[str] = ()) -> list[str]:
    """Return the names of every setting and metric of these runs, or these columns, after run and status."""
    settings = list(dict.fromkeys(k for r in runs for k in r.settings))
    others = list(dict.fromkeys(k for r in runs for k in r.metrics if k not in settings and k not in RECORD_FIELDS))
    return list(dict.fromkeys(["run", "status", *(columns or ["started", "time", "progress", *settings, *others])]))


def write_csv(runs: Sequence[RunRecord], out: TextIO, columns: Sequence[str] = ()) -> None:
    """Write every setting and metric of every run, or these columns."""
    names = list_columns(runs, columns)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(names)
    for r in runs:
        started = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(r.started))
        writer.writerow([started if is_start(n, r) else r.value(n) for n in names])


def is_start(name: str, record: RunRecord) -> bool:
    """Return whether a column holds the start time of a run, in seconds."""
    return name == "started" and name not in record.settings


def tabulate_means(
    groups: Sequence[RunGroup], repeated: Sequence[str], columns: Sequence[str] = ()
) -> tuple[list[str], list[list[Any]]]:
    """Return the header and the rows of every setting of every group, and of every metric mean, sd and number of runs.

    Each value has a cell of its own. columns: only these settings and metrics.
    """
    runs = [r for group in groups for r in group.runs]
    settings = list(dict.fromkeys(k for r in runs for k in r.settings if k not in (*repeated, *IGNORED_SETTINGS)))
    numbers = (k for r in runs for k, value in r.metrics.items() if isinstance(value, (int, float)))
    metrics = [k for k in dict.fromkeys(numbers) if k not in (*settings, *repeated)]
    if columns:
        settings, metrics = [c for c in columns if c not in metrics], [c for c in columns if c in metrics]
    header = [*settings, "runs", "not done", *(name for m in metrics for name in _name_mean_columns(m))]
    rows = []
    for group in groups:
        own = [_get_setting(group, name) for name in settings]
        counts = [len(group.runs), sum(r.status != "done" for r in group.runs)]
        rows.append([*own, *counts, *(value for m in metrics for value in _split_mean(group, m))])
    return header, rows


def write_mean_csv(
    groups: Sequence[RunGroup], out: TextIO, repeated: Sequence[str], columns: Sequence[str] = ()
) -> None:
    """Write the table of `tabulate_means`."""
    header, rows = tabulate_means(groups, repeated, columns)
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)


def choose_metrics(runs: Sequence[RunRecord]) -> list[str]:
    """Return the headline metrics of validation and test; those of training if there are no others."""
    names = [m for m in (*HEADLINE, *AVERAGE_HEADLINE) if any(r.metrics.get(m) is not None for r in runs)]
    return [m for m in names if not m.startswith("train/")] or names


def _order_droppable(runs: Sequence[RunRecord], metrics: Sequence[str], sort: str) -> list[str]:
    """Return metrics in the order in which a narrow terminal omits them.

    The one sorted by is kept, else the common objective of the runs, else the last of the headline.
    """
    order = sorted(metrics, key=lambda m: (m in HEADLINE, m not in AVERAGE_HEADLINE))
    objectives = {str(r.settings.get("objective")) for r in runs}
    main = next(iter(objectives)) if len(objectives) == 1 else ""
    kept = next((name for name in (sort, main, *order[-1:]) if name in metrics), "")
    return [m for m in order if m != kept]


def _get_setting(group: RunGroup, name: str) -> Any:
    return group.settings.get(name, group.runs[0].value(name))


def _name_mean_columns(name: str) -> list[str]:
    return [f"{name} mean", f"{name} sd", f"{name} n"]


def _split_mean(group: RunGroup, metric: str) -> tuple[float | None, float | None, int]:
    return group.mean(metric) or (None, None, 0)


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
