"""Select runs by conditions, as `dlopt runs` and `dlopt.runs` do."""

from __future__ import annotations

from collections.abc import Sequence

from dlopt.analysis.run_table import RECORD_FIELDS, RunFilter, RunRecord, add_row_values, sort_runs
from dlopt.errors import did_you_mean


def select_runs(
    records: Sequence[RunRecord], where: Sequence[str] = (), sort: str | None = None, names: Sequence[str] = ()
) -> list[RunRecord]:
    """Return the runs that fulfil all conditions, sorted by a setting or metric, the best first.

    names: further settings and metrics that are wanted. Raises ValueError for one that no run has.
    """
    conditions = [RunFilter.parse(text) for text in where]
    keys = [key for key in (*(c.key for c in conditions), sort, *names) if key]
    records = add_row_values(records, set(keys) - _list_names(records))
    known = _list_names(records)
    for key in keys:
        if records and key not in known:
            close = did_you_mean(key, sorted(known))
            raise ValueError(f"no run has a setting or metric '{key}'{close if 'did you mean' in close else ''}")
    selected = [r for r in records if all(c.holds(r) for c in conditions)]
    return sort_runs(sort, selected) if sort else selected


def _list_names(records: Sequence[RunRecord]) -> set[str]:
    return {*RECORD_FIELDS, *(k for r in records for k in (*r.settings, *r.metrics))}
