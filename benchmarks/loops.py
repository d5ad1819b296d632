"""Steps per second of whole dlopt runs against loops without logging, and against PyTorch Lightning.

The sides train the same network from the same weights on the same data, taking turns in one process and one thread. A
ratio is of two neighboring turns, so that a slow minute of the machine affects both.
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from typing import NamedTuple

import torch
from rich.table import Table
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.nn.utils import vector_to_parameters

from benchmarks import handwritten
from benchmarks.cases import CASES, Case, build_experiment
from benchmarks.data import load_examples
from benchmarks.screen import make_console
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.writer import RunWriter
from dlopt.training.loop import train

FEW = 3
"""Rounds of the slow sides."""

DLOPT, STRAIGHT, LOADER, LIGHTNING = "dlopt", "hand-written loop", "DataLoader loop", "Lightning"


class Turn(NamedTuple):
    """One training: seconds of wall and of processor time, and the loss on the training split after it."""

    wall: float
    cpu: float
    loss: float


def main(rounds: int) -> None:
    """Measure every case and print one table."""
    console = make_console()
    table = Table(title=f"Whole runs, {rounds} rounds ({min(rounds, FEW)} of the slow sides)")
    table.add_column("side")
    for column in ("steps/s", "train loss", "dlopt / side", "min", "max", "CPU time", "target"):
        table.add_column(column, justify="right")
    for case in CASES:
        with console.status(case.name):
            turns = take_turns(case, rounds)
        table.add_row(f"[bold]{case.name}, {case.steps} steps, threads={case.threads}")
        for side in turns:
            table.add_row(*format_row(case, side, turns[DLOPT], turns[side]))
        table.add_section()
    console.print(table)
    if not find_spec("lightning"):
        console.print("Lightning is not installed, and was left out: pip install -e '.\\[bench]'")


def format_row(case: Case, side: str, ours: list[Turn], others: list[Turn]) -> list[str]:
    """Return a side's speed and final loss, and dlopt's speed relative to it: median, minimum and maximum ratio.

    The ratio of processor times excludes waiting for the disk and other work of the machine.
    """
    own = [f"{case.steps / median(t.wall for t in others):,.0f}", f"{median(t.loss for t in others):.4f}"]
    if side == DLOPT:
        return [side, *own]
    pairs = list(zip(ours, others, strict=False))  # a slow side has fewer turns
    walls = [other.wall / our.wall for our, other in pairs]
    ratios = [median(walls), min(walls), max(walls), median(other.cpu / our.cpu for our, other in pairs)]
    return [side, *own, *(f"{x:.3f}" for x in ratios), f"{case.target:.2f}" if side == STRAIGHT else ""]


def take_turns(case: Case, rounds: int) -> dict[str, list[Turn]]:
    """Return the turns of every side; the order of the sides is reversed in every other round."""
    torch.set_num_threads(case.threads)
    x, y = load_examples(case.data)
    sides = [STRAIGHT, LOADER] + ([LIGHTNING] if find_spec("lightning") else [])
    turns: dict[str, list[Turn]] = {name: [] for name in (DLOPT, *sides)}
    for side in turns:
        take_turn(side, case, x, y, min(case.steps, 200))
    for i in range(rounds):
        names = list(turns) if i < FEW else [DLOPT, STRAIGHT]
        for side in names if i % 2 == 0 else reversed(names):
            turns[side].append(take_turn(side, case, x, y, case.steps))
    return turns


def take_turn(side: str, case: Case, x: Tensor, y: Tensor, steps: int) -> Turn:
    """Build a side, train it, and evaluate its loss. Building, which each turn needs, is not counted."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        experiment = build_experiment([*case.overrides, f"steps={steps}"])
        net: nn.Module = experiment.model
        if side == DLOPT:
            train_side: Callable[[], object] = partial(train, [experiment], [RunWriter.create(folder / "run")])
        else:
            net = handwritten.build_network(x[0], case.net)
            vector_to_parameters(experiment.w, net.parameters())
            if side == LIGHTNING:
                from benchmarks.lightning_loop import Fit

                train_side = Fit(net, case.lr, x, y, steps, folder)
            else:
                loop = handwritten.train_by_index if side == STRAIGHT else handwritten.train_by_loader
                train_side = partial(loop, net, handwritten.build_adam(net, case.lr), x, y, steps)
        gc.collect()
        wall, cpu = time.perf_counter(), time.process_time()
        train_side()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        if side == DLOPT:
            net.load_state_dict(RunDirectory(folder / "run").load("last")["model"])
        net.eval()
        with torch.no_grad():
            return Turn(wall, cpu, cross_entropy(net(x), y).item())
