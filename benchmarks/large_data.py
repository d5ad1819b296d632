"""Whole runs on data in files against the same data in memory: cached images of a folder, and mapped arrays.

The sides train the same network and take turns; both have the same weights at the end. Decoding the images is measured
once, and not counted in the turns.
"""

from __future__ import annotations

import gc
import os
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from rich.table import Table

from benchmarks.cases import build_experiment
from benchmarks.screen import make_console
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.writer import RunWriter
from dlopt.training.loop import train

IMAGES, ROWS = 10_000, 200_000
COMMON = ["threads=1", "device=cpu", "batch_size=100", "preprocess=per_channel"]
PAIRS = {
    "10,000 JPEGs of 32x32, CNN": ("images", ["arch=cnn", "epochs=1"], 1.0),
    "200,000 rows of 20 numbers, MLP 20-100-100-10": ("rows", ["arch=mlp", "arch.widths=[100,100]", "steps=1500"], 0.9),
    "the pixels of the images, MLP 3072-100-10": ("pixels", ["arch=mlp", "arch.widths=[100]", "steps=500"], 0.9),
}


class Turn(NamedTuple):
    """One run: steps per second, seconds of processor time of all threads, and the weights at the end."""

    rate: float
    cpu: float
    weights: torch.Tensor


def main(rounds: int) -> None:
    """Measure every pair and print one table."""
    console = make_console()
    table = Table(title=f"Data in files, {rounds} rounds")
    table.add_column("data")
    for column in ("in memory", "in files", "files / memory", "min", "max", "CPU time", "target"):
        table.add_column(column, justify="right")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        seconds = write_data(folder)
        for title, (data, overrides, target) in PAIRS.items():
            sides = {side: [*COMMON, *overrides, *choose_data(folder, data, side)] for side in ("memory", "files")}
            turns: dict[str, list[Turn]] = {side: [] for side in sides}
            with console.status(title):
                for i in range(rounds + 1):  # the first is a warm-up
                    order = list(sides) if i % 2 else list(reversed(sides))
                    for side in order:
                        turns[side].append(take_turn(sides[side], folder))
                    if not torch.equal(turns["memory"][-1].weights, turns["files"][-1].weights):
                        raise SystemExit(f"{title}: the weights differ")
            pairs = list(zip(turns["files"][1:], turns["memory"][1:], strict=True))
            ratios = [file.rate / memory.rate for file, memory in pairs]
            figures = [median(ratios), min(ratios), max(ratios), median(m.cpu / f.cpu for f, m in pairs)]
            rates = [f"{median(turn.rate for turn in turns[side][1:]):,.0f} steps/s" for side in sides]
            table.add_row(title, *rates, *(f"{x:.3f}" for x in figures), f"{target:.2f}")
    console.print(table)
    console.print(f"decoding {IMAGES:,} JPEGs of 32x32 into the cache: {seconds:.1f} s")


def write_data(folder: Path) -> float:
    """Write images, their pixels and rows of numbers; return the seconds of the first reading of the images."""
    rng = np.random.default_rng(0)
    for i in range(IMAGES):
        file = folder / "images" / str(i % 10) / f"{i:05}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        blocks = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(blocks.repeat(8, 0).repeat(8, 1)).save(file)
    start = time.perf_counter()
    experiment = build_experiment(choose_data(folder, "images", "files"))
    seconds = time.perf_counter() - start
    inputs = experiment.train.inputs
    assert not isinstance(inputs, torch.Tensor)
    files = sorted((folder / "images").rglob("*.jpg"))
    for name in ("pixels", "rows"):
        (folder / name).mkdir()
    pixels = np.stack([np.asarray(Image.open(file)).transpose(2, 0, 1) for file in files])
    np.save(folder / "pixels" / "x.npy", pixels)
    np.save(folder / "pixels" / "y.npy", np.array([int(file.parent.name) for file in files]))
    np.save(folder / "rows" / "x.npy", rng.normal(size=(ROWS, 20)).astype(np.float32))
    np.save(folder / "rows" / "y.npy", rng.integers(0, 10, ROWS))
    return seconds


def choose_data(folder: Path, data: str, side: str) -> list[str]:
    """Return overrides for data of a side."""
    if data == "images" and side == "files":
        return ["data=folder", f"data.path={folder / 'images'}", "data.size=32"]
    place = folder / ("pixels" if data == "images" else data)
    return ["data=arrays", f"data.path={place}", f"data.memory_map={str(side == 'files').lower()}"]


def take_turn(overrides: list[str], folder: Path) -> Turn:
    """Train a run; building it is not counted."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        experiment = build_experiment(overrides)
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        (summary,) = train([experiment], [RunWriter.create(Path(name) / "run")])
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        weights = RunDirectory(Path(name) / "run").load("last")["model"].values()
        return Turn(summary["step"] / wall, cpu, torch.cat([x.flatten() for x in weights]))
