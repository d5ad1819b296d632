"""Wall time of processes: help, lists, the time to the first step, and a default run."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.processes import DLOPT, run
from benchmarks.screen import make_console

IMPORT = "import os, time, torch; print(time.time() - float(os.environ['BENCHMARK_STARTED']), flush=True); os._exit(0)"
"""Import torch and exit at once, as the first step does, without the shutdown of the interpreter."""


def main(rounds: int) -> None:
    """Measure all processes in turns and print one table."""
    console = make_console()
    times: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, console.status("start-up"):
        measure_processes(Path(name) / "warm-up")  # fills the caches of data, bytecode and files
        for i in range(rounds):
            for key, value in measure_processes(Path(name) / str(i)).items():
                times.setdefault(key, []).append(value)

    times["first step - import torch"] = [
        step - torch for step, torch in zip(times["first step"], times["import torch"], strict=True)
    ]
    times["(wall - first step) / seconds"] = [
        (wall - step) / seconds
        for wall, step, seconds in zip(*(times[k] for k in ("wall", "its first step", "seconds")), strict=True)
    ]
    table = Table(title=f"Start-up, {rounds} rounds")
    table.add_column("what")
    for column in ("median", "min", "max", "target"):
        table.add_column(column, justify="right")
    for key, label, unit, target in (
        ("help", "dlopt --help", " s", "0.1 s"),
        ("list", "dlopt list", " s", "0.3 s"),
        ("import torch", "python: import torch", " s", ""),
        ("first step", "dlopt train: process start to first step", " s", ""),
        ("first step - import torch", "  of this, beyond import torch", " s", "0.5 s"),
        ("wall", "default run: wall time of the process", " s", ""),
        ("seconds", "  its summary's seconds", " s", ""),
        ("(wall - first step) / seconds", "  (wall - its start to first step) / seconds", "", "1.5"),
    ):
        numbers = [f(times[key]) for f in (median, min, max)]
        table.add_row(label, *(f"{x:.3f}{unit}" for x in numbers), target)
    console.print(table)


def measure_processes(folder: Path) -> dict[str, float]:
    """Run each process once and return its seconds."""
    first = [sys.executable, "-m", "benchmarks.first_step"]
    times = {
        "help": run([DLOPT, "--help"])[0],
        "list": run([DLOPT, "list"])[0],
        "import torch": float(run([sys.executable, "-c", IMPORT])[1]),
        "first step": _parse_first_step(run([*first, "stop", f"hydra.run.dir={folder / 'stopped'}"])[1]),
    }
    path = folder / "run"
    wall, output = run([*first, "go", f"hydra.run.dir={path}"])
    seconds = json.loads((path / "summary.json").read_text())["seconds"]
    return times | {"wall": wall, "its first step": _parse_first_step(output), "seconds": seconds}


def _parse_first_step(output: str) -> float:
    return next(float(line.split()[-1]) for line in output.splitlines() if line.startswith("first step "))
