"""Runs in lanes compared with single runs: steps per second of all runs together, by the number of lanes."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from rich.table import Table

from benchmarks.cases import build_experiment
from benchmarks.screen import make_console
from dlopt.rundir.writer import RunWriter
from dlopt.training.loop import train

NETS = {
    "MLP 40-100-100-10": ["arch=mlp"],
    "the same, batch norm and dropout": ["arch=mlp", "normalization=batch", "regularization=dropout"],
    "CNN of MNIST-1D": ["arch=cnn"],
}
LANES = (1, 4, 16) if not torch.cuda.is_available() else (1, 10, 100)


def main(rounds: int) -> None:
    """Measure every network and number of lanes and print one table; on the GPU if there is one."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    console = make_console()
    table = Table(title=f"Lanes on {device}, {min(rounds, 3)} rounds")
    for column in ("net", "lanes", "steps/s of all", "against one run"):
        table.add_column(column, justify="left" if column == "net" else "right")
    for name, overrides in NETS.items():
        rates: dict[int, list[float]] = {lanes: [] for lanes in LANES}
        with console.status(name):
            _measure_rate(overrides, 2, 20, device)  # warm-up
            for _ in range(min(rounds, 3)):
                for lanes in LANES:
                    rates[lanes].append(
                        _measure_rate(overrides, lanes, 500 if device == "cuda" else 1600 // lanes, device)
                    )
        for lanes in LANES:
            ratio = median(a / b for a, b in zip(rates[lanes], rates[1], strict=True))
            table.add_row(name, str(lanes), f"{median(rates[lanes]):,.0f}", f"{ratio:.2f}")
    console.print(table)


def _measure_rate(overrides: list[str], lanes: int, steps: int, device: str) -> float:
    """Return steps per second of all lanes together, for whole runs without building them."""
    common = [*overrides, f"steps={steps}", f"device={device}", "eval_every=1000000", "threads=1"]
    experiments = [build_experiment([*common, f"seed={i}", f"optimizer.lr={1e-3 * 1.01**i}"]) for i in range(lanes)]
    with tempfile.TemporaryDirectory() as folder:
        runs = [RunWriter.create(Path(folder) / str(i)) for i in range(lanes)]
        start = time.perf_counter()
        train(experiments, runs)
        return lanes * steps / (time.perf_counter() - start)
