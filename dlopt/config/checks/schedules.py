"""Bind and check schedules: of the learning rate, and of others by schedules.momentum=ramp, schedules.l2=cosine.

A name below `schedules` is a hyperparameter of the optimizer (momentum), a regularization, for its strength (l2), or a
hyperparameter of a regularization (dropout.p).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from dlopt import parts
from dlopt.base import dotted_fields
from dlopt.config.checks.metrics import iter_monitors
from dlopt.config.compose.nested_options import SCHEDULES
from dlopt.config.problems import Problems, describe_failure
from dlopt.config.schema.signature import describe, describe_mismatch, read_signature
from dlopt.errors import did_you_mean
from dlopt.training.experiment import HyperparameterRef


def iter_schedules(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each name below `schedules` with its node."""
    for key, node in tree.items():
        if isinstance(node, dict) and "_target_" not in node and any(isinstance(n, dict) for n in node.values()):
            yield from iter_schedules(node, f"{above}{key}.")
        else:
            yield f"{above}{key}", node


def bind_schedules(
    schedules: Mapping[str, parts.Schedule],
    components: Mapping[str, Any],
    regularization: Mapping[str, parts.Regularization],
    problems: Problems,
) -> dict[HyperparameterRef, parts.Schedule]:
    """Return the schedules by the hyperparameters that their names stand for."""
    bound: dict[HyperparameterRef, parts.Schedule] = {}
    for name, schedule in schedules.items():
        if "optimizer" in components and problems.has_no_problem(f"regularization.{name.partition('.')[0]}"):
            ref = _find_hyperparameter(name, components["optimizer"], regularization, problems)
            if ref is not None:
                bound[ref] = schedule
    return bound


def _find_hyperparameter(
    name: str, optimizer: parts.Optimizer, regularization: Mapping[str, parts.Regularization], problems: Problems
) -> HyperparameterRef | None:
    """Return the hyperparameter that a name stands for; None with a problem added."""
    if name == "lr":
        problems.add(f"{SCHEDULES}.lr", "the learning rate has its own group: schedule=NAME")
        return None
    option, _, field = name.partition(".")
    part: Any = regularization.get(option, optimizer)
    if option in regularization and _can_stop_run(part):
        message = f"{option} acts on evaluations, not on steps: leave it out"
        problems.add(f"{SCHEDULES}.{name}", message)
        return None
    path = dotted_fields.find_field(part, name if part is optimizer else field or "strength")
    if path is not None and _is_hyperparameter(part, path):
        return HyperparameterRef(name, "optimizer" if part is optimizer else option, path)
    names = sorted(_list_hyperparameters(part) - {"lr"})
    if option in regularization:
        advice = did_you_mean(name, [f"{option}.{k}" for k in names]) or "; it has none"
        problems.add(f"{SCHEDULES}.{name}", f"regularization.{option} has no such hyperparameter{advice}")
    else:
        for other, regularizer in regularization.items():
            if not _can_stop_run(regularizer):  # the name of a regularization stands for its strength
                fields = sorted(_list_hyperparameters(regularizer))
                names += [other if f == "strength" else f"{other}.{f}" for f in fields]
        message = f"{type(optimizer).__name__} has no such hyperparameter, and no such regularization is chosen"
        problems.add(f"{SCHEDULES}.{name}", message + did_you_mean(name, names))
    return None


def check(
    components: Mapping[str, Any],
    schedules: Mapping[HyperparameterRef, parts.Schedule],
    regularization: Mapping[str, parts.Regularization],
    steps: int,
    per_epoch: int,
    problems: Problems,
) -> None:
    """Check every schedule over a run of this many steps, and that averaging starts before its end."""
    if "schedule" in components:
        _check_lr_schedule(components["schedule"], components.get("optimizer"), steps, per_epoch, problems)
    for ref, schedule in schedules.items():
        part = components["optimizer"] if ref.part == "optimizer" else regularization[ref.part]
        _check_hyperparameter(ref, schedule, part, steps, per_epoch, problems)
    averaging = components.get("averaging")
    if averaging is None:
        return
    try:
        first = averaging.first(parts.TrainingTime(0, steps, per_epoch))
    except Exception as error:
        problems.add("averaging", describe_failure(error))
        return
    if first >= steps:
        late = f"would start after step {first + 1}; the run ends after step {steps}"
        problems.add("averaging", f"{late}: start it earlier")


def suggest_fixed_step(optimizer: parts.Optimizer) -> list[str]:
    """Return the choice that gives an optimizer with a line search a learning rate instead; none for others."""
    path = dotted_fields.find_part(optimizer, parts.LineSearch)
    return [] if path is None else [f"optimizer.{path}=fixed"]


def _check_lr_schedule(
    schedule: parts.Schedule, optimizer: parts.Optimizer | None, steps: int, per_epoch: int, problems: Problems
) -> None:
    """Check the schedule of the learning rate, and that the optimizer has one."""
    factors = _compute_factors("schedule", schedule, steps, per_epoch, problems)
    moves = any(factor != 1.0 for factor in factors.values()) or any(iter_monitors("schedule", schedule))
    if moves and optimizer is not None and dotted_fields.find_field(optimizer, "lr") is None:
        remedies = ["schedule=constant", *suggest_fixed_step(optimizer)]
        wrong = f"{type(optimizer).__name__} has no learning rate to change"
        problems.add("schedule", f"{wrong}; use {' or '.join(remedies)}")


def _check_hyperparameter(
    ref: HyperparameterRef, schedule: parts.Schedule, part: Any, steps: int, per_epoch: int, problems: Problems
) -> None:
    """Check that the schedule of another hyperparameter keeps it within its range."""
    path = f"{SCHEDULES}.{ref.name}"
    value, hint = dotted_fields.get_field(part, ref.field), _hint(part, ref.field)
    for step, factor in _compute_factors(path, schedule, steps, per_epoch, problems).items():
        wrong = describe_mismatch(value * factor, hint)
        if wrong:
            problems.add(path, f"at step {step}, {value:.10g} times the factor {factor:.4g} {wrong}")
            return


def _compute_factors(
    path: str, schedule: parts.Schedule, steps: int, per_epoch: int, problems: Problems
) -> dict[int, float]:
    """Return at most about 1,000 factors over the run, by step; none, with a problem added, if one is invalid."""
    sampled = (*range(0, steps, 1 + steps // 999), steps - 1)
    try:
        factors = {t: schedule(parts.TrainingTime(t, steps, per_epoch)) for t in sampled}
    except Exception as error:
        problems.add(path, describe_failure(error))
        return {}
    for factor in factors.values():
        if not (isinstance(factor, (int, float)) and 0 <= factor < math.inf):
            problems.add(path, f"must make finite numbers >= 0, it makes {factor}")
            return {}
    length = _describe_length_mismatch(schedule, steps, per_epoch)
    if length:
        problems.notices.append(f"{path}: {length}")
    return factors


def _describe_length_mismatch(schedule: parts.Schedule, steps: int, per_epoch: int) -> str | None:
    """Return what happens to a schedule in a run that is longer or shorter than its formula describes."""
    span = parts.span(schedule, parts.TrainingTime(0, steps, per_epoch))
    if span is None or abs(span - steps) < 0.5:
        return None
    name = type(schedule).__module__.rpartition(".")[2]
    before, last = (schedule(parts.TrainingTime(t, steps, per_epoch)) for t in (max(steps - 2, 0), steps - 1))
    if span < steps:
        return f"{name} ends after {span:.10g} of the run's {steps} steps and stays at {last:.4g}"
    direction = f"{'down' if last < before else 'up'} to the factor {last:.4g}"
    end = f"where it is still {last:.4g}" if last == before else direction
    return f"the run makes {steps} of the {span:.10g} steps of {name}, {end}"


def _list_hyperparameters(part: Any) -> set[str]:
    """Return the names of the hyperparameters of a component and of those inside it."""
    fields = dotted_fields.list_fields(part)
    inner = (_list_hyperparameters(getattr(part, name)) for name in fields)
    return {name for name in fields if _is_hyperparameter(part, name)}.union(*inner)


def _can_stop_run(part: parts.Regularization) -> bool:
    """Return whether a regularization decides when a run ends. A step does not use its hyperparameters."""
    return parts.overrides(part, "stop", parts.Regularization)


def _is_hyperparameter(part: Any, path: str) -> bool:
    value = dotted_fields.get_field(part, path)
    return (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and describe(_hint(part, path)).startswith("a number")
    )


def _hint(part: Any, path: str) -> Any:
    owner, _, field = path.rpartition(".")
    holder = dotted_fields.get_field(part, owner) if owner else part
    return read_signature(type(holder)).parameters[field].hint
