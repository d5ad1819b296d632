"""Wall time of whole processes: help, lists, the way to the first step, and a default run."""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.processes import DLOPT, run
from benchmarks.screen import screen

IMPORT = "import os, time, torch; print(time.time() - float(os.environ['BENCHMARK_STARTED']), flush=True); os._exit(0)"
"""Import torch, and end where the first step ends: neither counts the interpreter's own end."""


def main(rounds: int) -> None:
    """Measure everything in turn and print one table."""
    console = screen()
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as name, console.status("start-up"):
        once(Path(name) / "warm-up")  # fills the caches of data, bytecode and files
        for i in range(rounds):
            for key, value in once(Path(name) / str(i)).items():
                found.setdefault(key, []).append(value)

    found["first step - import torch"] = [
        step - torch for step, torch in zip(found["first step"], found["import torch"], strict=True)
    ]
    found["(wall - first step) / seconds"] = [
        (wall - step) / seconds
        for wall, step, seconds in zip(*(found[k] for k in ("wall", "its first step", "seconds")), strict=True)
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
        numbers = [f(found[key]) for f in (median, min, max)]
        table.add_row(label, *(f"{x:.3f}{unit}" for x in numbers), target)
    console.print(table)


def once(folder: Path) -> dict[str, float]:
    """Each process once."""
    first = [sys.executable, "-m", "benchmarks.first_step"]
    found = {
        "help": run([DLOPT, "--help"])[0],
        "list": run([DLOPT, "list"])[0],
        "import torch": float(run([sys.executable, "-c", IMPORT])[1]),
        "first step": _first_step(run([*first, "stop", f"hydra.run.dir={folder / 'stopped'}"])[1]),
    }
    path = folder / "run"
    wall, said = run([*first, "go", f"hydra.run.dir={path}"])
    seconds = json.loads((path / "summary.json").read_text())["seconds"]
    return found | {"wall": wall, "its first step": _first_step(said), "seconds": seconds}


def _first_step(said: str) -> float:
    return next(float(line.split()[-1]) for line in said.splitlines() if line.startswith("first step "))
