"""What survival costs: the time of a checkpoint, and the way from `resume=` to the first step."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from hydra import compose, initialize_config_dir
from rich.table import Table

from benchmarks.cases import CASES, Case
from benchmarks.processes import run
from benchmarks.screen import screen
from dlopt.config.build import build
from dlopt.config.compose import groups
from dlopt.rundir.writer import RunWriter
from dlopt.training.checkpointing import CheckpointSaver
from dlopt.training.loop import train

EVERY = 30.0
"""Seconds between two checkpoints, of which one is to take less than a hundredth."""
SAVES = 20
"""Checkpoints of a measured run."""


def main(rounds: int) -> None:
    """Measure both and print a table of each."""
    console = screen()
    table = Table(title=f"Checkpoints, the last and the best, {rounds} rounds of {SAVES}")
    for column in ("case", "median", "max", f"of {EVERY:.0f} s", "target"):
        table.add_column(column, justify="left" if column == "case" else "right")
    with tempfile.TemporaryDirectory() as name, console.status("checkpoints"):
        for number, case in enumerate(CASES):
            took = [s for i in range(rounds) for s in _saves(case, Path(name) / f"{number}-{i}")]
            share = median(took) / EVERY
            table.add_row(case.name, f"{1e3 * median(took):.1f} ms", f"{1e3 * max(took):.1f} ms", f"{share:.3%}", "1%")
    console.print(table)

    with tempfile.TemporaryDirectory() as name, console.status("resuming"):
        resumed = Path(name) / "resumed"
        _first_step(f"hydra.run.dir={resumed}")
        run([sys.executable, "-m", "dlopt", "train", "-q", f"resume={resumed}"])
        pairs = [
            (_first_step(f"hydra.run.dir={Path(name) / str(i)}"), _first_step(f"resume={resumed}", "epochs=200"))
            for i in range(rounds)
        ]
    table = Table(title=f"From a process's start to its first step, {rounds} rounds")
    for column in ("", "median", "min", "max", "target"):
        table.add_column(column, justify="left" if not column else "right")
    fresh, again = zip(*pairs, strict=True)
    rows = {"a new run": fresh, "resume=RUN": again, "  the difference": [b - a for a, b in pairs]}
    for label, numbers in rows.items():
        target = "0.3 s" if label.startswith(" ") else ""
        table.add_row(label, *(f"{f(numbers):.3f} s" for f in (median, min, max)), target)
    console.print(table)


def _saves(case: Case, folder: Path) -> list[float]:
    """The seconds that each checkpoint of a run takes."""
    steps = case.steps // 3
    with initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
        overrides = [*case.overrides, f"steps={steps}", f"checkpoint.every={steps // SAVES}"]
        experiment = build(compose("config", overrides))[0]
    took: list[float] = []
    save = CheckpointSaver.save

    def timed(*arguments: object) -> None:
        begun = time.perf_counter()
        save(*arguments)  # type: ignore[arg-type]
        took.append(time.perf_counter() - begun)

    CheckpointSaver.save = timed  # type: ignore[method-assign,assignment]
    try:
        train([experiment], [RunWriter.create(folder)])
    finally:
        CheckpointSaver.save = save  # type: ignore[method-assign]
    return took


def _first_step(*arguments: str) -> float:
    said = run([sys.executable, "-m", "benchmarks.first_step", "stop", *arguments])[1]
    return next(float(line.split()[-1]) for line in said.splitlines() if line.startswith("first step "))
