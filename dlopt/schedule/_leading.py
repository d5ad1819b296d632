"""What schedules share that begin with a part of their own and continue with another schedule."""

from dlopt.parts import Schedule, TrainingTime, Unit, span


def count_leading_steps(length: float, unit: Unit, time: TrainingTime, part: str, least: int = 0) -> int:
    """Return the whole steps of the first part. Raises ValueError if it is longer than the run; part: its name."""
    exact = time.in_steps(length, unit)
    n = max(round(min(exact, time.steps + 1)), least)
    if n > time.steps:
        raise ValueError(f"a {part} of {exact:.10g} steps is longer than the run, {time.steps}; make length smaller")
    return n


def span_after(n: int, then: Schedule, time: TrainingTime) -> float | None:
    """Return the span of a first part of n steps and of the schedule after it; None if that has none."""
    rest = span(then, time.after(n)) if n < time.steps else None
    return None if rest is None else n + rest
