"""What a sweep adds to its runs: milliseconds a run, memory, and whether every directory is whole."""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from benchmarks.screen import screen
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


class Measured:
    """Seconds inside the runs of a sweep, of its loop, and the memory of the process after each run."""

    def __init__(self) -> None:
        self.inside: list[float] = []
        self.ends: list[float] = []
        self.memory: list[float] = []
        self.loop = 0.0

    def __enter__(self) -> Measured:
        self._perform, self._run = train._perform_on_screen, SearchRunner.run

        def here(screen: Any, job: Any) -> None:
            began = time.perf_counter()
            self._perform(screen, job)
            self.ends.append(time.perf_counter())
            self.inside.append(self.ends[-1] - began)
            self.memory.append(resident())

        def run(search: SearchRunner) -> None:
            began = time.perf_counter()
            self._run(search)
            self.loop = time.perf_counter() - began

        train._perform_on_screen, SearchRunner.run = here, run  # type: ignore[method-assign]
        return self

    def __exit__(self, *_: object) -> None:
        train._perform_on_screen, SearchRunner.run = self._perform, self._run  # type: ignore[method-assign]


def main(rounds: int) -> None:
    """One sweep of each kind; rounds are the runs themselves."""
    console = screen()
    table = Table(title=f"A run of 5 steps in a sweep of {RUNS} in one process ({RUNS // 5} for tpe), ms")
    for column in ("search", "all", "training", "besides", "of it the search", "target", "MB at 10%", "at the end"):
        table.add_column(column, justify="left" if column == "search" else "right")
    whole = {}
    with tempfile.TemporaryDirectory() as folder, console.status("sweep"):
        for name, words in SEARCHES.items():
            place = Path(folder) / name
            with Measured() as found:
                code = dlopt(["train", "-q", "-m", *TINY, *words, f"hydra.sweep.dir={place}"])
            assert code == 0
            whole[name] = checked(place)
            training = median(whole[name])
            gaps = [b - a for a, b in zip(found.ends, found.ends[1:], strict=False)]
            each, inside = median(gaps), median(found.inside)
            table.add_row(
                name,
                *(f"{1e3 * s:.2f}" for s in (each, training, each - training, each - inside)),
                f"{TARGET:.0f}",
                f"{found.memory[len(found.memory) // 10]:.0f}",
                f"{found.memory[-1]:.0f}",
            )
    console.print(table)
    console.print(", ".join(f"{len(found)} directories of {name} are whole" for name, found in whole.items()))


def checked(folder: Path) -> list[float]:
    """The seconds of training of each run; AssertionError where a directory is not that of a finished run."""
    found = []
    for path in (entry for entry in folder.iterdir() if entry.name.isdecimal()):
        run = RunDirectory(path)
        assert run.status["status"] == "done"
        assert run.last_row() is not None
        assert run.latest_checkpoint() is not None
        assert run.config()["seed"] == 0
        found.append(run.summary["seconds"])
    assert len(found) == json.loads((folder / "sweep.json").read_text())["trials"]
    return found


def resident() -> float:
    """Megabytes that this process holds."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
