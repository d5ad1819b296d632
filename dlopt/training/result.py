"""The summary of a run: its metrics at the best and at the last weights, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dlopt.rundir.status import Status
from dlopt.storage.memory import peak_memory
from dlopt.training.best import Lane
from dlopt.training.state import TrainState


def summarize(
    training: TrainState,
    lane: Lane,
    test: Mapping[str, float],
    status: Status,
    *,
    validated: bool,
    seconds: float,
    steps_per_second: float | None,
) -> dict[str, Any]:
    """Return the summary of a run that has ended.

    Metrics without a prefix are of the best weights, or of the last if nothing was validated. `last/step` is the step
    of the last row: a run may have been interrupted after it.
    """
    chosen = lane.row if lane.best is None or not validated else lane.best
    last = {k: v for k, v in test.items() if k.startswith("last/")}
    average = {k: v for k, v in {**lane.row, **test}.items() if k.startswith("average/")}
    best = {k: v for k, v in test.items() if k not in last and k not in average}
    if lane.best is None:  # it diverged before its first evaluation
        best = {k.removeprefix("last/"): v for k, v in last.items()}
    return {
        "status": status,
        **_select_metrics(chosen),
        **best,
        **{f"last/{k}": v for k, v in _select_metrics(lane.row).items()},
        "last/step": lane.row.get("step"),
        **last,
        **average,
        "best/step": chosen.get("step"),
        "step": training.step,
        "epoch": training.step / training.per_epoch,
        "parameters": training.layout.size,
        "evaluations": training.problem.evaluations,
        "seconds": seconds,
        "steps_per_second": steps_per_second,
        "peak_memory": peak_memory(training.device),
    }


def _select_metrics(row: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in row.items() if k.startswith(("train/", "val/"))}
