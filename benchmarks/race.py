"""Wall time of `dlopt race`: ten optimizers with 500 steps each on one surface, with table, picture and animation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from statistics import median

from rich.table import Table

from benchmarks.processes import DLOPT, run
from benchmarks.screen import make_console

OPTIMIZERS = "sgd,momentum,nesterov,adagrad,rmsprop,adam,adadelta,newton,saddle_free_newton,lbfgs"
SURFACES = ("beale", "rosenbrock", "himmelblau")


def main(rounds: int) -> None:
    """Measure a race on each surface and print one table."""
    console = make_console()
    table = Table(title=f"dlopt race of ten optimizers, 500 steps, {rounds} rounds")
    for column in ("surface", "median", "min", "max", "animation", "target"):
        table.add_column(column, justify="left" if column == "surface" else "right")
    with tempfile.TemporaryDirectory() as name, console.status("races"):
        for surface in SURFACES:
            folders = [Path(name) / f"{surface}-{i}" for i in range(rounds)]
            words = [DLOPT, "race", f"surface={surface}", f"optimizer={OPTIMIZERS}", "--out"]
            seconds = [run([*words, str(folder)])[0] for folder in folders]
            size = (folders[0] / "race.gif").stat().st_size / 1e6
            numbers = [f"{f(seconds):.1f} s" for f in (median, min, max)]
            table.add_row(surface, *numbers, f"{size:.1f} MB", "10 s, 3 MB")
    console.print(table)
