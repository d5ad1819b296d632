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
from dlopt.config.checks.forward_probe import iter_monitors
from dlopt.config.compose.nested_options import SCHEDULES
from dlopt.config.problems import Problems, format_error
from dlopt.config.schema.signature import describe, describe_mismatch, read_signature
from dlopt.errors import did_you_mean
from dlopt.training.experiment import HyperparameterRef


def iter_schedules(tree: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each name below `schedules` with its node."""
    for key, node in tree.items():
        inner = isinstance(node, dict) and "_target_" not in node and any(isinstance(n, dict) for n in node.values())
        if inner:
            yield from iter_schedules(node, f"{above}{key}.")
        else:
            yield f"{above}{key}", node


def bind_schedules(
    schedules: Mapping[str, parts.Schedule],
    made: Mapping[str, Any],
    regularization: Mapping[str, parts.Regularization],
    problems: Problems,
) -> dict[HyperparameterRef, parts.Schedule]:
    """Return the schedules by the hyperparameters that their names stand for."""
    found: dict[HyperparameterRef, parts.Schedule] = {}
    for name, schedule in schedules.items():
        if "optimizer" in made and problems.has_no_problem(f"regularization.{name.partition('.')[0]}"):
            number = _find_hyperparameter(name, made["optimizer"], regularization, problems)
            if number is not None:
                found[number] = schedule
    return found


def _find_hyperparameter(
    name: str, optimizer: parts.Optimizer, regularization: Mapping[str, parts.Regularization], problems: Problems
) -> HyperparameterRef | None:
    """Return the hyperparameter that a name stands for; None with a problem added."""
    if name == "lr":
        problems.add(f"{SCHEDULES}.lr", "the rate has a group of its own: schedule=NAME")
        return None
    option, _, field = name.partition(".")
    if option in regularization:
        part: Any = regularization[option]
        if _can_stop_run(part):
            problems.add(
                f"{SCHEDULES}.{name}", f"no step has to do with {option}, which looks at evaluations: leave it out"
            )
            return None
        path = dotted_fields.find_field(part, field or "strength")
        where, at = option, f"regularization.{option}"
    else:
        part, path = optimizer, dotted_fields.find_field(optimizer, name)
        where, at = "optimizer", "optimizer"
    if path is not None and _is_hyperparameter(part, path):
        return HyperparameterRef(name, where, path)
    known = sorted(_list_hyperparameters(part) - {"lr"})
    if option in regularization:
        known = [f"{option}.{k}" for k in known]
        problems.add(f"{SCHEDULES}.{name}", f"{at} has no such number{did_you_mean(name, known) or '; it has none'}")
    else:
        others = (_list_schedulable_names(name, one) for name, one in regularization.items() if not _can_stop_run(one))
        names = [*known, *(name for some in others for name in some)]
        said = f"{type(optimizer).__name__} has no such number, and no such regularization is chosen"
        problems.add(f"{SCHEDULES}.{name}", said + did_you_mean(name, names))
    return None


def check(
    made: Mapping[str, Any],
    schedules: Mapping[HyperparameterRef, parts.Schedule],
    regularization: Mapping[str, parts.Regularization],
    steps: int,
    per_epoch: int,
    problems: Problems,
) -> None:
    """Check every schedule over a run of this many steps, and that averaging starts before its end."""
    if "schedule" in made:
        _check_lr_schedule(made["schedule"], made.get("optimizer"), steps, per_epoch, problems)
    for number, schedule in schedules.items():
        part = made["optimizer"] if number.part == "optimizer" else regularization[number.part]
        _check_hyperparameter(number, schedule, part, steps, per_epoch, problems)
    if made.get("averaging") is not None:
        _check_averaging(made["averaging"], steps, per_epoch, problems)


def _check_averaging(averaging: parts.Averaging, steps: int, per_epoch: int, problems: Problems) -> None:
    """Check that averaging starts before the end of the run."""
    try:
        first = averaging.first(parts.TrainingTime(0, steps, per_epoch))
    except Exception as error:
        problems.add("averaging", str(error) if isinstance(error, ValueError) else f"fails: {format_error(error)}")
        return
    if first >= steps:
        late = f"would take in its first iterate after step {first + 1}; the run ends after {steps}"
        problems.add("averaging", f"{late}: let it begin sooner")


def _check_lr_schedule(
    schedule: parts.Schedule, optimizer: parts.Optimizer | None, steps: int, per_epoch: int, problems: Problems
) -> None:
    """Check the schedule of the learning rate, and that the optimizer has one."""
    factors = _compute_factors("schedule", schedule, steps, per_epoch, problems)
    moves = any(factor != 1.0 for factor in factors.values()) or any(iter_monitors("schedule", schedule))
    if moves and optimizer is not None and dotted_fields.find_field(optimizer, "lr") is None:
        problems.add("schedule", f"{type(optimizer).__name__} has no rate lr to change; use schedule=constant")


def _check_hyperparameter(
    number: HyperparameterRef, schedule: parts.Schedule, part: Any, steps: int, per_epoch: int, problems: Problems
) -> None:
    """Check that the schedule of another hyperparameter keeps it within its range."""
    path = f"{SCHEDULES}.{number.name}"
    value, hint = dotted_fields.get_field(part, number.field), _hint(part, number.field)
    for step, factor in _compute_factors(path, schedule, steps, per_epoch, problems).items():
        wrong = describe_mismatch(value * factor, hint)
        if wrong:
            problems.add(path, f"at step {step} the factor {factor:.4g} makes {value:.10g} a number that {wrong}")
            return


def _compute_factors(
    path: str, schedule: parts.Schedule, steps: int, per_epoch: int, problems: Problems
) -> dict[int, float]:
    """Return at most about 1,000 factors over the run, by step; none, with a problem added, if one is invalid."""
    some = (*range(0, steps, 1 + steps // 999), steps - 1)
    try:
        factors = {t: schedule(parts.TrainingTime(t, steps, per_epoch)) for t in some}
    except Exception as error:
        problems.add(path, str(error) if isinstance(error, ValueError) else f"fails: {format_error(error)}")
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
    end = (
        f"where it is still {last:.4g}"
        if last == before
        else f"{'down' if last < before else 'up'} to the factor {last:.4g}"
    )
    return f"the run makes {steps} of the {span:.10g} steps of {name}, {end}"


def _list_hyperparameters(part: Any) -> set[str]:
    """Return the names of the hyperparameters of a component and of those inside it."""
    found = {name for name in dotted_fields.list_fields(part) if _is_hyperparameter(part, name)}
    return found.union(*(_list_hyperparameters(getattr(part, name)) for name in dotted_fields.list_fields(part)))


def _list_schedulable_names(option: str, part: parts.Regularization) -> list[str]:
    """Return the names of a regularization's hyperparameters; its own name stands for its strength."""
    return [option if n == "strength" else f"{option}.{n}" for n in sorted(_list_hyperparameters(part))]


def _can_stop_run(part: parts.Regularization) -> bool:
    """Whether a regularization decides when a run ends; then its hyperparameters have no part in a step."""
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
