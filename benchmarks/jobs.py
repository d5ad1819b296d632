"""What a run costs besides training, in a process that makes many one after another, as a sweep does."""

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

from benchmarks.screen import screen as table_screen
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
"""Milliseconds besides training, those of the sweep itself included."""
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

    def timed(self, owner: Any, name: str, part: str) -> Callable[[], None]:
        """Count the time of a function as a part's; returns what ends that."""
        whole = getattr(owner, name)

        def counted(*arguments: Any, **named: Any) -> Any:
            begun = time.perf_counter()
            try:
                return whole(*arguments, **named)
            finally:
                self.parts[part] += time.perf_counter() - begun

        setattr(owner, name, counted)
        return lambda: setattr(owner, name, whole)


def main(rounds: int) -> None:
    """Measure each net and print one table: milliseconds of a run, and their parts."""
    console = table_screen()
    table = Table(title=f"A run of 5 steps among {RUNS} in one process, {rounds} rounds, ms")
    table.add_column("")
    for name in NETS:
        table.add_column(name, justify="right")
    table.add_column("target", justify="right")
    with tempfile.TemporaryDirectory() as folder, console.status("jobs"):
        found = {name: _jobs(chosen, Path(folder) / name, rounds) for name, chosen in NETS.items()}
        disk = _fsync(Path(folder) / "file")
    for part in PARTS:
        numbers = (f"{1e3 * found[name][part]:.2f}" for name in NETS)
        table.add_row(part, *numbers, f"{TARGET:.0f}" if part == "besides training" else "")
    console.print(table)
    console.print(f"one file of 100 bytes that reaches the disk: {1e3 * disk:.2f} ms")


def _jobs(chosen: list[str], folder: Path, rounds: int) -> dict[str, float]:
    """The median seconds of each part, of a run that is neither among the first nor disturbed."""
    with initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
        typed = [*chosen, "data=mnist1d", "steps=5", "threads=1", "device=cpu"]
        config = compose("config", typed)
        settings = flatten_settings(OmegaConf.to_container(config, resolve=True), {"arch": chosen[0].partition("=")[2]})
    job = Job({})
    dlopt_console.quiet = True
    jobs = []
    with _measured(job):
        for number in range(rounds * RUNS):
            config.seed, config.optimizer.lr = number, 1e-3 * (1 + number % 7)
            job.parts = dict.fromkeys(PARTS, 0.0)
            begun = time.perf_counter()
            experiment, notices = build(config, typed)
            made = time.perf_counter()
            path = folder / str(number)
            run = RunWriter.create(path, settings, device=experiment.settings.device, threads=experiment.threads)
            created = time.perf_counter()
            _, summary = run_one(experiment, run, Observer(), notices)
            over = time.perf_counter()
            p = job.parts
            p |= {"build": made - begun, "create": created - made, "all": over - begun}
            p["end"] -= p["checkpoint"]
            p["besides training"] = p["all"] - summary["seconds"]
            jobs.append(p)
    return {part: median(p[part] for p in jobs[len(jobs) // 10 :]) for part in PARTS}


@contextmanager
def _measured(job: Job) -> Iterator[None]:
    """While this lasts, the parts inside a run are counted."""
    wrapped = (
        (os, "fsync", "of it the disk"),
        (TrainState, "__init__", "begin"),
        (Recorder, "__init__", "begin"),
        (Recorder, "log", "rows"),
        (CheckpointSaver, "save", "checkpoint"),
        (Recorder, "end", "end"),
    )
    undo = [job.timed(*one) for one in wrapped]
    try:
        yield
    finally:
        for back in undo:
            back()


def _fsync(file: Path) -> float:
    """The median seconds in which the content of a small file takes the place of the former."""
    took = []
    for _ in range(50):
        begun = time.perf_counter()
        atomic.atomic_write_bytes(file, b"x" * 100)
        took.append(time.perf_counter() - begun)
    return median(took)
