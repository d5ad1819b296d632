"""Processor time and peak memory of building a run on a large CSV file, each time in a new process.

python -m benchmarks.large_table FILE builds it once and prints both: the file is read, encoded, split and standardized.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
import polars
from rich.table import Table

from benchmarks.cases import build_experiment
from benchmarks.peak import measure_peak
from benchmarks.processes import run
from benchmarks.screen import make_console

ROWS, TARGET = 1_000_000, 10.0
COMMON = ["threads=1", "device=cpu", "preprocess=standardize"]


def main(rounds: int) -> None:
    """Measure the file and print one table."""
    console = make_console()
    table = Table(title=f"A CSV file of {ROWS:,} rows: 15 columns of numbers, 3 of text, 1 of dates, {rounds} rounds")
    for column in ("file", "CPU time", "min", "max", "target", "peak memory, at the start"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name, console.status("large table"):
        file = Path(name) / "table.csv"
        write_table(file)
        command = [sys.executable, "-m", "benchmarks.large_table", str(file)]
        turns = [[float(figure) for figure in run(command)[1].split()] for _ in range(rounds)]
        seconds, start, peak = zip(*turns, strict=True)
        times = [f"{f(seconds):.1f} s" for f in (median, min, max)]
        memory = f"{median(peak):,.0f}, {median(start):,.0f} MiB"
        table.add_row(f"{file.stat().st_size / 1e6:.0f} MB", *times, f"{TARGET:.0f} s", memory)
    console.print(table)


def write_table(file: Path) -> None:
    """Write a table of numbers with six digits, whole numbers, categories, days and a number to predict."""
    rng = np.random.default_rng(0)
    columns = {f"x{i}": rng.normal(size=ROWS).round(6) for i in range(12)}
    columns |= {f"count{i}": rng.integers(0, 1000, ROWS) for i in range(3)}
    columns |= {f"colour{i}": rng.choice(["red", "green", "blue", "violet"], ROWS) for i in range(3)}
    columns["day"] = (np.datetime64("2015-01-01") + rng.integers(0, 3650, ROWS)).astype(str)
    columns["y"] = rng.normal(size=ROWS).round(6)
    polars.DataFrame(columns).write_csv(file)


def read_table(file: str) -> None:
    """Build a run on a table; print the seconds of processor time, and the peak memory before and after in MiB."""
    build_experiment(["data=digits", *COMMON])  # imports all modules
    start, begin = measure_peak(), time.process_time()
    build_experiment(["data=table", f"data.path={file}", "data.target=y", "data.dates=[day]", "loss=mse", *COMMON])
    print(time.process_time() - begin, start, measure_peak())


if __name__ == "__main__":
    read_table(sys.argv[1])
