"""The cost that a sweep adds to its runs: milliseconds per run, memory, and a check of every directory."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.screen import make_console
from dlopt.cli import main as dlopt
from dlopt.cli import train
from dlopt.rundir.directory import RunDirectory
from dlopt.sweep.search import SearchRunner

RUNS = 1000
TARGET = 5.0
"""Milliseconds of a run besides training."""
TINY = ("data=mnist1d", "arch=linear", "steps=5", "threads=1", "device=cpu")
SEARCHES = {
    "grid": [f"optimizer.lr=range(1,{RUNS + 1})", "optimizer=adam"],
    "random": ["hydra/sweeper=random", "optimizer.lr=tag(log,interval(1e-5,1e-1))", f"hydra.sweeper.n_trials={RUNS}"],
    "tpe": ["hydra/sweeper=tpe", "optimizer.lr=tag(log,interval(1e-5,1e-1))", f"hydra.sweeper.n_trials={RUNS // 5}"],
}


class RunTimes:
    """Seconds of the runs of a sweep and of its loop, and the memory of the process after each run."""

    def __init__(self) -> None:
        self.inside: list[float] = []
        self.ends: list[float] = []
        self.memory: list[float] = []
        self.loop = 0.0

    def __enter__(self) -> RunTimes:
        self._perform, self._run = train._perform_on_screen, SearchRunner.run

        def perform(screen: Any, job: Any) -> None:
            start = time.perf_counter()
            self._perform(screen, job)
            self.ends.append(time.perf_counter())
            self.inside.append(self.ends[-1] - start)
            self.memory.append(measure_memory())

        def run(search: SearchRunner) -> None:
            start = time.perf_counter()
            self._run(search)
            self.loop = time.perf_counter() - start

        train._perform_on_screen, SearchRunner.run = perform, run  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        train._perform_on_screen, SearchRunner.run = self._perform, self._run  # type: ignore[method-assign]


def main(rounds: int) -> None:
    """Run one sweep of each kind; rounds are the runs themselves."""
    console = make_console()
    table = Table(title=f"A run of 5 steps in a sweep of {RUNS} in one process ({RUNS // 5} for tpe), ms")
    for column in ("search", "all", "training", "besides", "of it the search", "target", "MB at 10%", "at the end"):
        table.add_column(column, justify="left" if column == "search" else "right")
    training_times = {}
    with tempfile.TemporaryDirectory() as folder, console.status("sweep"):
        for name, words in SEARCHES.items():
            place = Path(folder) / name
            with RunTimes() as times:
                code = dlopt(["train", "-q", "-m", *TINY, *words, f"hydra.sweep.dir={place}"])
            assert code == 0
            training_times[name] = check_runs(place)
            training = median(training_times[name])
            gaps = [b - a for a, b in zip(times.ends, times.ends[1:], strict=False)]
            each, inside = median(gaps), median(times.inside)
            table.add_row(
                name,
                *(f"{1e3 * s:.2f}" for s in (each, training, each - training, each - inside)),
                f"{TARGET:.0f}",
                f"{times.memory[len(times.memory) // 10]:.0f}",
                f"{times.memory[-1]:.0f}",
            )
    console.print(table)
    console.print(
        ", ".join(f"{len(times)} directories of {name} are complete" for name, times in training_times.items())
    )


def check_runs(folder: Path) -> list[float]:
    """Return the seconds of training of each run. Raises AssertionError if a directory is not of a finished run."""
    seconds = []
    for path in (entry for entry in folder.iterdir() if entry.name.isdecimal()):
        run = RunDirectory(path)
        assert run.status["status"] == "done"
        assert run.last_row() is not None
        assert run.latest_checkpoint() is not None
        assert run.config()["seed"] == 0
        seconds.append(run.summary["seconds"])
    assert len(seconds) == json.loads((folder / "sweep.json").read_text())["trials"]
    return seconds


def measure_memory() -> float:
    """Return the megabytes of memory of this process."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
