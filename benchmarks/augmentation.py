"""Every augmentation on mini-batches: images (or series) per second, and its time beside a training step's.

The step is that of the small convolutional net on inputs of the same shape, without augmentation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, Literal, get_args, get_origin

import torch
from hydra import compose, initialize_config_dir
from hydra.utils import get_object
from omegaconf import OmegaConf
from rich.table import Table

from benchmarks.cases import BATCH
from benchmarks.screen import screen
from dlopt import prng
from dlopt.config.build import build
from dlopt.config.compose import groups
from dlopt.config.schema.signature import read_signature
from dlopt.parts import Augmentation
from dlopt.training.batches import to_probabilities
from dlopt.training.state import TrainState

SHAPES = {1: [(1, 40)], 2: [(1, 28, 28), (3, 32, 32)]}
"""Shapes of an example, by the number of spatial dimensions."""
STEPS = 60
CALLS = 40


def main(rounds: int) -> None:
    """Measure every option of the folder, with every choice among names that it has, and print one table."""
    torch.set_num_threads(1)
    console = screen()
    table = Table(title=f"Augmentation of batches of {BATCH} in one thread, {rounds} rounds")
    for column in ("augmentation", "us a batch", "images/s", "share of a step", "min", "max"):
        table.add_column(column, justify="left" if column == "augmentation" else "right")
    for dims, shapes in SHAPES.items():
        parts = {name: part for name, part in options() if dims in part.dims}
        for shape in shapes:
            with console.status(f"{shape}"):
                steps, calls = measured(shape, parts, rounds)
            example = "x".join(map(str, shape))
            table.add_row(f"[bold]{example}, a step of the CNN", f"{median(steps) * 1e6:,.0f}")
            for name, times in calls.items():
                shares = [mine / step for mine, step in zip(times, steps, strict=True)]
                figures = [f"{f(shares):.1%}" for f in (median, min, max)]
                table.add_row(name, f"{median(times) * 1e6:,.0f}", f"{BATCH / median(times):,.0f}", *figures)
            table.add_section()
    console.print(table)


def options() -> Iterator[tuple[str, Augmentation]]:
    """Every option as its YAML has it, and with each of the names that its fields may hold."""
    for option in groups.list_option_names("augmentation"):
        content: Any = OmegaConf.to_container(OmegaConf.load(groups.CONF / "augmentation" / f"{option}.yaml")) or {}
        for node in content.values():
            if node["_target_"] == "???":
                continue
            kind = get_object(node.pop("_target_"))
            hints = {name: p.hint for name, p in read_signature(kind).parameters.items()}
            choices = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
            for chosen in itertools.product(*choices.values()):
                yield " ".join([option, *chosen]), kind(**node | dict(zip(choices, chosen, strict=True)))


def measured(
    shape: tuple[int, ...], parts: dict[str, Augmentation], rounds: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Seconds of processor time of a training step, and of each augmentation of a batch; in turn."""
    inputs = torch.rand(BATCH, *shape)
    classes = torch.arange(BATCH) % 10
    steps: list[float] = []
    calls: dict[str, list[float]] = {name: [] for name in parts}
    for _ in range(rounds):
        steps.append(step(shape))
        for name, part in parts.items():
            targets = to_probabilities(classes, 10, inputs.dtype) if part.mixes else classes
            part(inputs, targets, prng.key(0))
            began = time.process_time()
            for i in range(CALLS):
                part(inputs, targets, prng.key(i))
            calls[name].append((time.process_time() - began) / CALLS)
    return steps, calls


def step(shape: tuple[int, ...]) -> float:
    """Seconds of processor time of a training step of the small CNN."""
    overrides: list[Any] = [
        "data=custom", "data._target_=benchmarks.data.Synthetic", f"+data.shape=[{','.join(map(str, shape))}]",
        "arch=cnn", f"batch_size={BATCH}", "validation.fraction=0", "threads=1", "device=cpu",
    ]  # fmt: skip
    with initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
        training = TrainState([build(compose("config", overrides))[0]])
    for i in range(STEPS + 1):
        if i == 1:  # after the first, which warms up
            began = time.process_time()
        inputs, targets = training.next_batch()
        optimizer = training.optimizer()
        objective = training.objective(inputs, targets)
        result = optimizer.step(training.w, training.state, objective)
        training.apply_step(result, training.w, optimizer, objective)
        training.step += 1
    return (time.process_time() - began) / STEPS
