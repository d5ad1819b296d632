"""The cost of a run besides training, in a process that makes many runs, as a sweep does."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from rich.table import Table

from benchmarks.screen import make_console
from dlopt import console as dlopt_console
from dlopt.config.build import build
from dlopt.config.compose import groups
from dlopt.config.compose.flatten import flatten_settings
from dlopt.rundir.writer import RunWriter
from dlopt.runner.execute import run_one
from dlopt.runner.observer import Observer
from dlopt.storage import atomic
from dlopt.training.checkpointing import CheckpointSaver
from dlopt.training.recorder import Recorder
from dlopt.training.state import TrainState

RUNS = 200
TARGET = 5.0
"""Milliseconds besides training, including the sweep itself."""
NETS = {
    "linear": ["arch=linear"],
    "mlp": ["arch=mlp"],
    "mlp and more": ["arch=mlp", "preprocess=standardize", "regularization=[l2,dropout]"],
}
PARTS = ("all", "besides training", "of it the disk", "build", "create", "begin", "rows", "checkpoint", "end")


@dataclasses.dataclass
class Job:
    """Seconds of one run and of its parts, by their names."""

    parts: dict[str, float]

    def measure(self, owner: Any, name: str, part: str) -> Callable[[], None]:
        """Count the time of a function for a part; return a function that ends this."""
        original = getattr(owner, name)

        def call(*arguments: Any, **named: Any) -> Any:
            start = time.perf_counter()
            try:
                return original(*arguments, **named)
            finally:
                self.parts[part] += time.perf_counter() - start

        setattr(owner, name, call)
        return lambda: setattr(owner, name, original)


def main(rounds: int) -> None:
    """Measure each network and print one table: milliseconds of a run and of its parts."""
    console = make_console()
    table = Table(title=f"A run of 5 steps among {RUNS} in one process, {rounds} rounds, ms")
    table.add_column("")
    for name in NETS:
        table.add_column(name, justify="right")
    table.add_column("target", justify="right")
    with tempfile.TemporaryDirectory() as folder, console.status("jobs"):
        times = {name: _measure_runs(words, Path(folder) / name, rounds) for name, words in NETS.items()}
        disk = _measure_fsync(Path(folder) / "file")
    for part in PARTS:
        numbers = (f"{1e3 * times[name][part]:.2f}" for name in NETS)
        table.add_row(part, *numbers, f"{TARGET:.0f}" if part == "besides training" else "")
    console.print(table)
    console.print(f"one file of 100 bytes that reaches the disk: {1e3 * disk:.2f} ms")


def _measure_runs(words: list[str], folder: Path, rounds: int) -> dict[str, float]:
    """Return the median seconds of each part, without the first runs."""
    with initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
        typed = [*words, "data=mnist1d", "steps=5", "threads=1", "device=cpu"]
        config = compose("config", typed)
        settings = flatten_settings(OmegaConf.to_container(config, resolve=True), {"arch": words[0].partition("=")[2]})
    job = Job({})
    dlopt_console.quiet = True
    jobs = []
    with _count_parts(job):
        for number in range(rounds * RUNS):
            config.seed, config.optimizer.lr = number, 1e-3 * (1 + number % 7)
            job.parts = dict.fromkeys(PARTS, 0.0)
            start = time.perf_counter()
            experiment, notices = build(config, typed)
            built = time.perf_counter()
            path = folder / str(number)
            run = RunWriter.create(path, settings, device=experiment.settings.device, threads=experiment.threads)
            created = time.perf_counter()
            _, summary = run_one(experiment, run, Observer(), notices)
            end = time.perf_counter()
            p = job.parts
            p |= {"build": built - start, "create": created - built, "all": end - start}
            p["end"] -= p["checkpoint"]
            p["besides training"] = p["all"] - summary["seconds"]
            jobs.append(p)
    return {part: median(p[part] for p in jobs[len(jobs) // 10 :]) for part in PARTS}


@contextmanager
def _count_parts(job: Job) -> Iterator[None]:
    """Count the parts inside runs."""
    wrapped = (
        (os, "fsync", "of it the disk"),
        (TrainState, "__init__", "begin"),
        (Recorder, "__init__", "begin"),
        (Recorder, "log", "rows"),
        (CheckpointSaver, "save", "checkpoint"),
        (Recorder, "end", "end"),
    )
    undo = [job.measure(*one) for one in wrapped]
    try:
        yield
    finally:
        for restore in undo:
            restore()


def _measure_fsync(file: Path) -> float:
    """Return the median seconds to replace a small file."""
    times = []
    for _ in range(50):
        start = time.perf_counter()
        atomic.atomic_write_bytes(file, b"x" * 100)
        times.append(time.perf_counter() - start)
    return median(times)
