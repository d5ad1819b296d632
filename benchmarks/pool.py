"""Worker processes: how long they take to start, what a job costs, and how much sooner many runs are done.

The runs are of one thread each. The sides have their turns of a few runs in one process, so that a slow minute of the
machine slows down both; the workers' start is in the first turn of theirs.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from hydra import compose, initialize_config_dir
from rich.table import Table

from benchmarks.screen import screen
from dlopt.config.build import build
from dlopt.config.compose import groups
from dlopt.rundir.writer import RunWriter
from dlopt.runner.process_pool import WorkerPool
from dlopt.runner.workers import InProcess, Workers
from dlopt.training.loop import train

WORKERS = 2
RUNS, TURNS = 16, 4
STEPS = 2000
TRIVIAL = 200


class Job(NamedTuple):
    """A run of so many steps in a directory; with none, torch is imported and no more."""

    folder: Path
    steps: int


def perform(job: Job) -> None:
    if job.steps:
        overrides = ["arch=cnn", f"steps={job.steps}", "threads=1", "device=cpu"]
        with initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
            experiment, _ = build(compose("config", overrides), overrides)
        train([experiment], [RunWriter.create(job.folder)])


def main(rounds: int) -> None:
    """Measure everything and print one table."""
    console = screen()
    table = Table(title=f"{WORKERS} workers, {rounds} rounds of their start, {RUNS} runs of {STEPS} steps")
    table.add_column("what")
    for column in ("median", "min", "max", "target"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name, console.status("pool"):
        folder = Path(name)
        perform(Job(folder / "warm-up", 10))
        starts, ends, costs = zip(*(once(folder) for _ in range(rounds)), strict=True)
        ratios, seconds = sped_up(folder)
    for what, numbers, unit, target in (
        ("start of all workers, torch imported", starts, " s", ""),
        ("a job that does nothing", costs, " ms", ""),
        ("end of all workers", ends, " s", ""),
        ("a run by itself", seconds, " s", ""),
        (f"runs one after another / with {WORKERS} workers", ratios, "", "1.8"),
    ):
        table.add_row(what, *(f"{f(numbers):.3f}{unit}" for f in (median, min, max)), target)
    console.print(table)


def once(folder: Path) -> tuple[float, float, float]:
    """Seconds to start workers, seconds to end them, and milliseconds of a job between."""
    pool = WorkerPool(WORKERS, perform)
    started = time.perf_counter()
    performed(pool, [Job(folder, 0)] * WORKERS)
    ready = time.perf_counter()
    performed(pool, [Job(folder, 0)] * TRIVIAL)
    done = time.perf_counter()
    pool.close()
    return ready - started, time.perf_counter() - done, 1000 * (done - ready) / TRIVIAL


def sped_up(folder: Path) -> tuple[list[float], list[float]]:
    """How much sooner runs are done by workers, in each turn and, last, in all; seconds of a run by itself."""
    alone, pool = InProcess(perform), WorkerPool(WORKERS, perform)
    walls: list[tuple[float, float]] = []
    for turn in range(TURNS):
        sides = [
            performed(side, [Job(folder / f"{turn}-{side.count}-{i}", STEPS) for i in range(RUNS // TURNS)])
            for side in (alone, pool)
        ]
        walls.append((sides[0], sides[1]))
    pool.close()
    one, many = map(sum, zip(*walls, strict=True))
    return [a / b for a, b in walls] + [one / many], [a / (RUNS // TURNS) for a, _ in walls]


def performed(workers: Workers[Job], jobs: list[Job]) -> float:
    """Seconds until all jobs are done."""
    started = time.perf_counter()
    left, under_way = list(jobs), 0
    while left or under_way:
        while left and under_way < workers.count:
            workers.submit(left.pop())
            under_way += 1
        for _, error in workers.wait():
            under_way -= 1
            if error is not None:
                raise error
    return time.perf_counter() - started
