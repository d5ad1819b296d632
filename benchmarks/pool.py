"""Worker processes: their time to start, the cost of a job, and the speed-up of many runs.

Each run has one thread. The sides take turns of a few runs in one process, so that a slow minute of the machine affects
both; the first turn of the workers includes their start.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from rich.table import Table

from benchmarks.cases import build_experiment
from benchmarks.screen import make_console
from dlopt.rundir.writer import RunWriter
from dlopt.runner.process_pool import WorkerPool
from dlopt.runner.workers import InProcess, Workers
from dlopt.training.loop import train

WORKERS = 2
RUNS, TURNS = 16, 4
STEPS = 2000
TRIVIAL = 200


class Job(NamedTuple):
    """A run with this many steps in a directory; 0: only import torch."""

    folder: Path
    steps: int


def perform(job: Job) -> None:
    if job.steps:
        experiment = build_experiment(["arch=cnn", f"steps={job.steps}", "threads=1", "device=cpu"])
        train([experiment], [RunWriter.create(job.folder)])


def main(rounds: int) -> None:
    """Measure everything and print one table."""
    console = make_console()
    table = Table(title=f"{WORKERS} workers, {rounds} rounds of their start, {RUNS} runs of {STEPS} steps")
    table.add_column("what")
    for column in ("median", "min", "max", "target"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name, console.status("pool"):
        folder = Path(name)
        perform(Job(folder / "warm-up", 10))
        starts, ends, costs = zip(*(measure_start(folder) for _ in range(rounds)), strict=True)
        ratios, seconds = measure_speedup(folder)
    for what, numbers, unit, target in (
        ("start of all workers, torch imported", starts, " s", ""),
        ("a job that does nothing", costs, " ms", ""),
        ("end of all workers", ends, " s", ""),
        ("a run by itself", seconds, " s", ""),
        (f"runs one after another / with {WORKERS} workers", ratios, "", "1.8"),
    ):
        table.add_row(what, *(f"{f(numbers):.3f}{unit}" for f in (median, min, max)), target)
    console.print(table)


def measure_start(folder: Path) -> tuple[float, float, float]:
    """Return seconds to start workers, seconds to end them, and milliseconds of a job."""
    pool = WorkerPool(WORKERS, perform)
    started = time.perf_counter()
    perform_all(pool, [Job(folder, 0)] * WORKERS)
    ready = time.perf_counter()
    perform_all(pool, [Job(folder, 0)] * TRIVIAL)
    done = time.perf_counter()
    pool.close()
    return ready - started, time.perf_counter() - done, 1000 * (done - ready) / TRIVIAL


def measure_speedup(folder: Path) -> tuple[list[float], list[float]]:
    """Return the speed-up by workers in each turn and, last, in all turns, and the seconds of a single run."""
    alone, pool = InProcess(perform), WorkerPool(WORKERS, perform)
    walls: list[tuple[float, float]] = []
    for turn in range(TURNS):
        sides = [
            perform_all(side, [Job(folder / f"{turn}-{side.count}-{i}", STEPS) for i in range(RUNS // TURNS)])
            for side in (alone, pool)
        ]
        walls.append((sides[0], sides[1]))
    pool.close()
    one, many = map(sum, zip(*walls, strict=True))
    return [a / b for a, b in walls] + [one / many], [a / (RUNS // TURNS) for a, _ in walls]


def perform_all(workers: Workers[Job], jobs: list[Job]) -> float:
    """Return the seconds until all jobs are done."""
    started = time.perf_counter()
    waiting, active = list(jobs), 0
    while waiting or active:
        while waiting and active < workers.count:
            workers.submit(waiting.pop())
            active += 1
        for _, error in workers.wait():
            active -= 1
            if error is not None:
                raise error
    return time.perf_counter() - started
