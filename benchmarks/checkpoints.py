"""The cost of checkpoints: the time to write one, and the time from `resume=` to the first step."""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.cases import CASES, Case, build_experiment
from benchmarks.processes import run
from benchmarks.screen import make_console
from dlopt.rundir.writer import RunWriter
from dlopt.training.checkpointing import CheckpointSaver
from dlopt.training.loop import train

EVERY = 30.0
"""Seconds between two checkpoints; writing one should take less than a hundredth of that."""
SAVES = 20
"""Checkpoints of a measured run."""


def main(rounds: int) -> None:
    """Measure both and print a table of each."""
    console = make_console()
    table = Table(title=f"Checkpoints, the last and the best, {rounds} rounds of {SAVES}")
    for column in ("case", "median", "max", f"of {EVERY:.0f} s", "target"):
        table.add_column(column, justify="left" if column == "case" else "right")
    with tempfile.TemporaryDirectory() as name, console.status("checkpoints"):
        for number, case in enumerate(CASES):
            times = [s for i in range(rounds) for s in _measure_saves(case, Path(name) / f"{number}-{i}")]
            share = median(times) / EVERY
            table.add_row(
                case.name, f"{1e3 * median(times):.1f} ms", f"{1e3 * max(times):.1f} ms", f"{share:.3%}", "1%"
            )
    console.print(table)

    with tempfile.TemporaryDirectory() as name, console.status("resuming"):
        resumed = Path(name) / "resumed"
        _measure_first_step(f"hydra.run.dir={resumed}")
        run([sys.executable, "-m", "dlopt", "train", "-q", f"resume={resumed}"])
        pairs = [
            (
                _measure_first_step(f"hydra.run.dir={Path(name) / str(i)}"),
                _measure_first_step(f"resume={resumed}", "epochs=200"),
            )
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


def _measure_saves(case: Case, folder: Path) -> list[float]:
    """Return the seconds of each checkpoint of a run."""
    steps = case.steps // 3
    experiment = build_experiment([*case.overrides, f"steps={steps}", f"checkpoint.every={steps // SAVES}"])
    times: list[float] = []
    save = CheckpointSaver.save

    def save_and_measure(*arguments: object) -> None:
        start = time.perf_counter()
        save(*arguments)  # type: ignore[arg-type]
        times.append(time.perf_counter() - start)

    CheckpointSaver.save = save_and_measure  # type: ignore[method-assign,assignment]
    try:
        train([experiment], [RunWriter.create(folder)])
    finally:
        CheckpointSaver.save = save  # type: ignore[method-assign]
    return times


def _measure_first_step(*arguments: str) -> float:
    output = run([sys.executable, "-m", "benchmarks.first_step", "stop", *arguments])[1]
    return next(float(line.split()[-1]) for line in output.splitlines() if line.startswith("first step "))
