"""Check that the metrics that a run selects, stops or is ranked by are among those that it writes."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from dlopt import parts
from dlopt.config.problems import Problems
from dlopt.config.schema.signature import read_signature
from dlopt.errors import did_you_mean, join_truncated
from dlopt.metrics.names import AVERAGE, DISTILLATION, KNOWN_DIRECTIONS, Direction, find_direction
from dlopt.training.experiment import Settings


def check_metrics(
    metrics: Sequence[str] | None,
    validates: bool,
    settings: Settings,
    components: Mapping[str, Any],
    problems: Problems,
    *,
    can_validate: bool = True,
) -> None:
    """Check that the metrics named by the objective and by components are among those that the run writes.

    validates      whether the run has a validation split
    can_validate   whether the data have examples to hold out for one
    """
    if metrics is None:
        return
    loss, names = components["loss"], ["loss", *metrics]
    averages = components.get("averaging") is not None or not problems.has_no_problem("averaging")
    possible = [f"{split}/{name}" for split in ("val", "train", f"{AVERAGE}val") for name in names]
    distances = [] if components.get("distillation") is None else [DISTILLATION]
    splits = (*(("val",) if validates else ()), "train", *((f"{AVERAGE}val",) if validates and averages else ()))
    available = [*(f"{split}/{name}" for split in splits for name in names), *distances]

    def check_available(key: str, metric: str, advice: str) -> None:
        if metric not in (*possible, *distances):
            problems.add(key, _describe_missing_metric(metric, available, loss))
        elif metric.startswith(AVERAGE) and not averages:
            problems.add(key, "needs averaged weights; add averaging=ema, or another option of averaging")
        elif metric not in available:
            remedy = f"set validation.fraction above 0{advice}" if can_validate else f"use train/{remove_split(metric)}"
            problems.add(key, f"needs a validation split; {remedy}")

    if validates or settings.objective != "val/loss":  # for which train/loss is used
        instead = f"train/{remove_split(settings.objective)}"
        check_available("objective", settings.objective, f", or objective={instead}")
    if not _check_directions(loss, problems):
        return
    monitors = list(iter_monitors("", components))
    for key, metric in [("objective", settings.objective), *monitors]:
        if metric in possible and find_direction(metric, loss.directions) is None:
            name, owner = remove_split(metric), type(loss).__name__
            problems.add(
                key,
                f"{metric} may improve by rising or by falling; declare it in the class {owner}: "
                f'directions = {{"{name}": "max"}}, or "min"',
            )
    for key, monitor in monitors:
        check_available(key, monitor, "")


def remove_split(metric: str) -> str:
    """Return the loss's own name of a metric."""
    return metric.removeprefix(AVERAGE).removeprefix("val/").removeprefix("train/")


def _describe_missing_metric(metric: str, available: Sequence[str], loss: Any) -> str:
    """Say how to measure a metric that the loss can report, or name those that it can."""
    name = remove_split(metric)
    measured = list(getattr(loss, "metrics", ()))
    choices = list_possible_metrics(type(loss))
    if name != metric and name in choices and name not in measured:
        return f"'{name}' is not measured; add it: loss.metrics=[{','.join([*measured, name])}]"
    if name != metric and name in KNOWN_DIRECTIONS and name not in ("loss", *measured):
        possible = join_truncated(["loss", *choices, *(m for m in measured if m not in choices)])
        return f"{type(loss).__name__} does not measure {name}; it measures {possible}"
    return f"no run writes '{metric}'{did_you_mean(metric, available)}"


def list_possible_metrics(loss: Any) -> list[str]:
    """Return the metrics that a class of losses can measure, by the type of its parameter `metrics`."""
    parameter = read_signature(loss).parameters.get("metrics")
    return [choice for inner in get_args(parameter and parameter.hint) for choice in get_args(inner)]


def _check_directions(loss: parts.Loss, problems: Problems) -> bool:
    """Return whether the directions that a loss declares are valid; the known ones may be repeated, not reversed."""
    directions, key = loss.directions, "loss.directions"
    if not isinstance(directions, Mapping) or not all(d in get_args(Direction) for d in directions.values()):
        problems.add(key, f'must map names of metrics to "min" or "max", got {directions!r}')
        return False
    for name, direction in directions.items():
        if (known := KNOWN_DIRECTIONS.get(name, direction)) != direction:
            problems.add(key, f'{name} is known as "{known}", got "{direction}"; give the metric another name')
            return False
    return True


def iter_monitors(key: str, part: Any) -> Iterator[tuple[str, str]]:
    """Yield the key and the metric of every `monitor` in a component, or in components by name, and inside them."""
    monitor = getattr(part, "monitor", None)
    if monitor is not None:
        yield f"{key}.monitor", monitor
    inner = part if isinstance(part, Mapping) else {}
    if dataclasses.is_dataclass(part):
        inner = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    for name, value in inner.items():
        yield from iter_monitors(f"{key}.{name}" if key else name, value)
