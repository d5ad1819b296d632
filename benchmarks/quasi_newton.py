"""Time of an L-BFGS step besides its evaluations of the objective, at 1.9 million weights.

The step is that of training: mini-batch, two-loop recursion, line search, secant pair, and copying the result. A pass
over the history of ten pairs reads 150 MB. The time depends on the number of weights only, so its share falls with the
batch: L-BFGS is meant for full batches.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from rich.table import Table

from benchmarks.cases import MLP, build_experiment
from benchmarks.screen import make_console
from dlopt.training.state import TrainState

BATCHES = (100, 1000, "full")
WARM_UP = 12
"""Steps before the measurement, which fill the history."""


class Stopwatch:
    """Sums up the processor time that a function takes, and its calls."""

    def __init__(self) -> None:
        self.seconds, self.calls = 0.0, 0

    def wrap(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            start = time.process_time()
            result = function(*arguments)
            self.seconds += time.process_time() - start
            self.calls += 1
            return result

        return call


def main(rounds: int) -> None:
    """Measure `rounds` steps for each batch size, and print a table of medians."""
    torch.set_num_threads(1)
    console = make_console()
    table = Table(title="A step of lbfgs, MLP 784-1024-1024-10, one thread")
    for column in ("batch", "examples", "milliseconds", "evaluations", "besides them", "share"):
        table.add_column(column, justify="right")
    for batch in BATCHES:
        training = TrainState([build_experiment(list_overrides(batch))])
        steps = [measure_step(training) for _ in range(WARM_UP + rounds)][WARM_UP:]
        whole, calls, besides, share = (median(column) for column in zip(*steps, strict=True))
        numbers = f"{whole * 1e3:.0f}", f"{calls:g}", f"{besides * 1e3:.1f} ms", f"{share:.1%}"
        table.add_row(str(batch), str(training.batches.size), *numbers)
    console.print(table)


def list_overrides(batch: int | str) -> list[str]:
    data = ["data=custom", "data._target_=benchmarks.data.Synthetic", "validation.fraction=0"]
    return [*data, *MLP((1024, 1024)).overrides, f"batch_size={batch}", "optimizer=lbfgs", "device=cpu", "threads=1"]


def measure_step(training: TrainState) -> tuple[float, float, float, float]:
    """Return the processor time of a step, its evaluations, the time besides them, and its share."""
    start, watch = time.process_time(), Stopwatch()
    objective = training.objective(*training.next_batch())
    objective.gradient = watch.wrap(objective.gradient)  # type: ignore[method-assign]
    optimizer = training.optimizer()
    result = optimizer.step(training.w, training.state, objective)
    training.apply_step(result, training.w, optimizer, objective)
    training.step += 1
    whole = time.process_time() - start
    besides = whole - watch.seconds
    return whole, watch.calls, besides, besides / whole
