"""Processor time and peak memory of `dlopt predict` on tables of two sizes, each time in a new process.

python -m benchmarks.predict RUN FILE predicts it once and prints both.
"""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import islice
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.large_table import ROWS, write_table
from benchmarks.peak import measure_peak
from benchmarks.processes import run
from benchmarks.screen import make_console

TRAINING_ROWS, TARGET = 20_000, 20.0
SETTINGS = ["data=table", "data.target=y", "data.dates=[day]", "loss=mse", "epochs=1", "threads=1", "device=cpu"]


def main(rounds: int) -> None:
    """Measure both tables and print one line for each."""
    from dlopt.cli import main as dlopt

    console = make_console()
    table = Table(title=f"dlopt predict: a table of 20 columns to a CSV file, {rounds} rounds")
    for column in ("rows", "file", "CPU time", "min", "max", "target", "peak memory"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name, console.status("predict"):
        whole, training, part = (Path(name) / f"{kind}.csv" for kind in ("whole", "training", "part"))
        write_table(whole)
        for file, rows in ((training, TRAINING_ROWS), (part, ROWS // 4)):
            with whole.open() as lines, file.open("w") as out:
                out.writelines(islice(lines, rows + 1))
        trained = Path(name) / "run"
        if dlopt(["train", "-q", *SETTINGS, f"data.path={training}", f"hydra.run.dir={trained}"]):
            raise SystemExit("the run failed")
        for file, rows in ((part, ROWS // 4), (whole, ROWS)):
            command = [sys.executable, "-m", "benchmarks.predict", str(trained), str(file)]
            turns = [map(float, run(command)[1].split()[-2:]) for _ in range(rounds)]
            seconds, peak = zip(*turns, strict=True)
            times = [f"{f(seconds):.1f} s" for f in (median, min, max)]
            target = f"{TARGET * rows / ROWS:.0f} s"
            table.add_row(
                f"{rows:,}", f"{file.stat().st_size / 1e6:.0f} MB", *times, target, f"{median(peak):,.0f} MiB"
            )
    console.print(table)


def predict_table(trained: str, file: str) -> None:
    """Predict a table; print the seconds of processor time of this process, and its peak memory in MiB."""
    from dlopt.cli import main as dlopt

    if dlopt(["predict", trained, file, "--out", f"{file}.out.csv", "--trust", "-q"]):
        raise SystemExit("the table cannot be predicted")
    print(time.process_time(), measure_peak())


if __name__ == "__main__":
    predict_table(*sys.argv[1:])
