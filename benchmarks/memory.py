"""Peak memory of whole dlopt runs compared with the hand-written loop, each in its own process."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.cases import CASES, MLP, Case
from benchmarks.processes import run
from benchmarks.screen import make_console

TARGET = 1.10


def main(rounds: int) -> None:
    """Measure the MLPs and print one table."""
    console = make_console()
    table = Table(title=f"Peak memory of a process, dlopt / hand-written loop, {rounds} rounds")
    table.add_column("case")
    for column in ("ratio", "min", "max", "target", "dlopt", "hand-written"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name, console.status("memory"):
        for number, case in enumerate(c for c in CASES if isinstance(c.net, MLP)):
            pairs = []
            for i in range(rounds):
                folder = Path(name) / f"{number}-{i}"
                pairs.append((_measure_peak("dlopt", case, folder), _measure_peak("handwritten", case, folder)))
            ratios = [ours / other for ours, other in pairs]
            sides = [f"{median(column):,.0f} MiB" for column in zip(*pairs, strict=True)]
            table.add_row(case.name, *(f"{f(ratios):.3f}" for f in (median, min, max)), f"{TARGET:.2f}", *sides)
    console.print(table)


def _measure_peak(side: str, case: Case, folder: Path) -> float:
    output = run([sys.executable, "-m", "benchmarks.peak", side, case.name, str(folder)])[1]
    return float(output.split()[-1])
