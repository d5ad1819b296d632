"""The cost of diagnostics with their defaults, as a fraction of a run, and the memory of a long run with all."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import psutil
from rich.table import Table

from benchmarks.cases import CASES, Case, build_experiment
from benchmarks.screen import make_console
from dlopt.base.diagnostic import Diagnostic
from dlopt.config.compose import groups
from dlopt.rundir.writer import RunWriter
from dlopt.training.batches import count_steps_per_epoch
from dlopt.training.experiment import Experiment
from dlopt.training.loop import train

MEASURED = [case for case in CASES if case.name in ("CNN of MNIST-1D", "MLP 784-1024-1024-10")]
EACH, TOGETHER = 0.05, 0.15
"""Targets: the largest fraction of a run that one diagnostic takes, and that all of them take."""
MEASUREMENTS = 12
"""Measurements of a diagnostic in a run; the first ones, which start caches, are among them."""
LONG = 10_000
"""Steps of the run whose memory is measured."""


def main(rounds: int) -> None:
    """Measure the cases, then the memory, and print a table."""
    console = make_console()
    names = [name for name in groups.list_option_names("diagnostic") if name not in ("custom", "none")]
    table = Table(title=f"Diagnostics with their defaults, {rounds} rounds; a row at each epoch")
    for column in ("diagnostic", *(f"{case.name}: one, every, of a run" for case in MEASURED), "target"):
        table.add_column(column, justify="left" if column == "diagnostic" else "right")
    with console.status("diagnostics"):
        shares = [_measure_case(case, names, rounds) for case in MEASURED]
    for name in names:
        cells = [
            f"{1e3 * seconds:.2f} ms, {every:,} steps, {share:.1%}"
            for seconds, every, share in (s[name] for s in shares)
        ]
        table.add_row(name, *cells, f"{EACH:.0%}")
    table.add_row("together", *(f"{sum(share for *_, share in s.values()):.1%}" for s in shares), f"{TOGETHER:.0%}")
    console.print(table)
    with console.status("memory"):
        early, late = _measure_memory(MEASURED[0], names)
    when = f"{early:,.0f} MiB after {LONG // 5:,} steps of {MEASURED[0].name}, {late:,.0f} MiB after {LONG:,}"
    console.print(f"Memory of the process with all diagnostics: {when}")


def _measure_case(case: Case, names: Sequence[str], rounds: int) -> dict[str, tuple[float, int, float]]:
    """Return the median seconds of a measurement, its interval in steps, and its fraction of a run, by diagnostic.

    Seconds are of the processor, which other work of the machine affects little.
    """
    defaults = _build(case, names, 1)
    size = len(defaults.train)
    per_epoch = count_steps_per_epoch(size, defaults.settings.resolve_batch_size(size), drop_last=defaults.drop_last)
    intervals = {name: d.interval(per_epoch) or per_epoch for name, d in defaults.diagnostic.items()}
    steps = max(20, min(60, case.steps // 20))
    plain = min(_time_run(_build(case, [], 10 * steps)) for _ in range(rounds)) / (10 * steps)
    results = {}
    for name in names:
        every = max(1, steps // MEASUREMENTS) if name != "dead" else 1  # an epoch, the only one
        experiment = _build(case, [name], per_epoch if name == "dead" else steps, f"diagnostic.{name}.every={every}")
        times: list[float] = []
        _watch(experiment.diagnostic[name], times)
        for _ in range(rounds if name != "dead" else 2):
            _time_run(experiment)
        seconds = median(times)
        results[name] = seconds, intervals[name], seconds / (intervals[name] * plain)
    return results


def _build(case: Case, names: Sequence[str], steps: int, *more: str) -> Experiment:
    chosen = [f"diagnostic=[{','.join(names)}]"] if names else []
    return build_experiment([*case.overrides, f"steps={steps}", *chosen, *more])


def _watch(diagnostic: Diagnostic, times: list[float]) -> None:
    """Append the seconds of the processor for each measurement to `times`."""

    def measure(original: Callable[..., Any], record: Any, memory: Any) -> Any:
        start = time.process_time()
        result = original(record, memory)
        times.append(time.process_time() - start)
        return result

    object.__setattr__(diagnostic, "measure", partial(measure, diagnostic.measure))


def _time_run(experiment: Experiment) -> float:
    """Return the seconds of the processor for a run."""
    with tempfile.TemporaryDirectory() as folder:
        start = time.process_time()
        train([experiment], [RunWriter.create(Path(folder) / "run")])
        return time.process_time() - start


def _measure_memory(case: Case, names: Sequence[str]) -> tuple[float, float]:
    """Return the memory of this process, in MiB, after a fifth of a long run with all diagnostics and at its end."""
    experiment, process, sizes = _build(case, names, LONG), psutil.Process(), []

    def measure(original: Callable[..., Any], record: Any, memory: Any) -> Any:
        sizes.append(process.memory_info().rss / 2**20)
        return original(record, memory)

    watched: Mapping[str, Diagnostic] = experiment.diagnostic
    object.__setattr__(watched["gradients"], "measure", partial(measure, watched["gradients"].measure))
    _time_run(experiment)
    return sizes[len(sizes) // 5], sizes[-1]
