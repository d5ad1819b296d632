"""Every augmentation on mini-batches: images (or series) per second, and its time relative to a training step.

The step is one of the small convolutional network on inputs of the same shape, without augmentation.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from statistics import median
from typing import Any, Literal, get_args, get_origin

import torch
from hydra.utils import get_object
from omegaconf import OmegaConf
from rich.table import Table

from benchmarks.cases import BATCH, build_experiment
from benchmarks.screen import make_console
from dlopt import prng
from dlopt.config.compose import groups
from dlopt.config.schema.signature import read_signature
from dlopt.errors import OptionError
from dlopt.parts import Augmentation
from dlopt.training.batches import to_probabilities
from dlopt.training.state import TrainState

SHAPES = {1: [(1, 40)], 2: [(1, 28, 28), (3, 32, 32)]}
"""Shapes of an example, by the number of spatial dimensions."""
STEPS = 60
CALLS = 40


def main(rounds: int) -> None:
    """Measure every option, with every combination of its named choices, and print one table."""
    torch.set_num_threads(1)
    console = make_console()
    table = Table(title=f"Augmentation of batches of {BATCH} in one thread, {rounds} rounds")
    for column in ("augmentation", "us a batch", "images/s", "share of a step", "min", "max"):
        table.add_column(column, justify="left" if column == "augmentation" else "right")
    for dims, shapes in SHAPES.items():
        for shape in shapes:
            augmentations = {name: a for name, a in iterate_options() if dims in a.dims and accepts(a, shape)}
            with console.status(f"{shape}"):
                steps, calls = measure(shape, augmentations, rounds)
            example = "x".join(map(str, shape))
            table.add_row(f"[bold]{example}, a step of the CNN", f"{median(steps) * 1e6:,.0f}")
            for name, times in calls.items():
                shares = [call / step for call, step in zip(times, steps, strict=True)]
                figures = [f"{f(shares):.1%}" for f in (median, min, max)]
                table.add_row(name, f"{median(times) * 1e6:,.0f}", f"{BATCH / median(times):,.0f}", *figures)
            table.add_section()
    console.print(table)


def iterate_options() -> Iterator[tuple[str, Augmentation]]:
    """Yield every option with each combination of the names that its fields may have."""
    for option in groups.list_option_names("augmentation"):
        content: Any = OmegaConf.to_container(OmegaConf.load(groups.CONF / "augmentation" / f"{option}.yaml")) or {}
        for node in content.values():
            if node["_target_"] == "???":
                continue
            kind = get_object(node.pop("_target_"))
            hints = {name: p.hint for name, p in read_signature(kind).parameters.items()}
            choices = {name: get_args(hint) for name, hint in hints.items() if get_origin(hint) is Literal}
            for names in itertools.product(*choices.values()):
                yield " ".join([option, *names]), kind(**node | dict(zip(choices, names, strict=True)))


def accepts(augmentation: Augmentation, shape: tuple[int, ...]) -> bool:
    """Return whether an augmentation takes inputs of this shape: some need colours."""
    try:
        augmentation(torch.rand(2, *shape), torch.rand(2, 10), prng.key(0))
    except OptionError:
        return False
    return True


def measure(
    shape: tuple[int, ...], augmentations: dict[str, Augmentation], rounds: int
) -> tuple[list[float], dict[str, list[float]]]:
    """Return seconds of processor time of a training step, and of each augmentation of a batch; they take turns."""
    inputs = torch.rand(BATCH, *shape)
    classes = torch.arange(BATCH) % 10
    steps: list[float] = []
    calls: dict[str, list[float]] = {name: [] for name in augmentations}
    for _ in range(rounds):
        steps.append(measure_step(shape))
        for name, augment in augmentations.items():
            targets = to_probabilities(classes, 10, inputs.dtype) if augment.mixes else classes
            augment(inputs, targets, prng.key(0))
            start = time.process_time()
            for i in range(CALLS):
                augment(inputs, targets, prng.key(i))
            calls[name].append((time.process_time() - start) / CALLS)
    return steps, calls


def measure_step(shape: tuple[int, ...]) -> float:
    """Return seconds of processor time of a training step of the small CNN."""
    overrides = [
        "data=custom", "data._target_=benchmarks.data.Synthetic", f"+data.shape=[{','.join(map(str, shape))}]",
        "arch=cnn", f"batch_size={BATCH}", "validation.fraction=0", "threads=1", "device=cpu",
    ]  # fmt: skip
    training = TrainState([build_experiment(overrides)])
    for i in range(STEPS + 1):
        if i == 1:  # after the first step, which warms up
            start = time.process_time()
        inputs, targets = training.next_batch()
        optimizer = training.optimizer()
        objective = training.objective(inputs, targets)
        result = optimizer.step(training.w, training.state, objective)
        training.apply_step(result, training.w, optimizer, objective)
        training.step += 1
    return (time.process_time() - start) / STEPS
