"""One step of every update rule on a given gradient, beside torch.optim's same rule on a network's own parameters.

Ours moves one flat vector, torch's the matrices and biases one by one: with foreach, and fused where it has such a
kernel. The sides have their turns one after another, in one process and one thread, each some hundredths of a second of
processor time; a ratio is that of two turns of the same round. A rule that asks for more than gradients has a dash.
torch_optim is torch's own rule, without foreach unless that is asked for, and a copy of the gradient more.
"""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from rich.table import Table
from torch import Tensor, nn

from benchmarks.cases import MLP
from benchmarks.handwritten import network
from benchmarks.screen import screen
from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.config.build import build
from dlopt.config.compose import groups
from dlopt.prng import Key
from dlopt.training.experiment import Experiment

NETS = ((40, (100, 100)), (784, (1024, 1024)))
"""Inputs and the units of each hidden layer; there are ten outputs."""
TURN = 0.03
"""Seconds of a turn, about."""

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "momentum": ({"dampening": 0.5},),
    "rmsprop": ({"momentum": 0.9}, {"centered": True}, {"momentum": 0.9, "centered": True}),
    "muon": ({"bfloat16": True},),
    "coordinate_descent": ({"blocks": 100, "order": "random"},),
}
"""Keys of an option with which it does other work than with those of its YAML."""

COUNTERPARTS: dict[str, str] = {
    "sgd": "SGD",
    "momentum": "SGD",
    "nesterov": "SGD",
    "adagrad": "Adagrad",
    "rmsprop": "RMSprop",
    "adadelta": "Adadelta",
    "adam": "Adam",
    "adamw": "AdamW",
    "amsgrad": "Adam",
    "nadam": "NAdam",
    "rprop": "Rprop",
    "muon": "Muon",
    "torch_optim": "AdamW",
}
"""The classes of torch.optim that have the rule of an option."""
ARGUMENTS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "amsgrad": {"amsgrad": True},
}
"""What makes it the option's rule."""


def main(rounds: int) -> None:
    """Measure every option of the folder on both networks, and print one table."""
    torch.set_num_threads(1)
    console = screen()
    table = Table(
        title=f"One step on a given gradient, one thread, {rounds} rounds: milliseconds, and dlopt's speed-up"
    )
    table.add_column("rule")
    for column in ("dlopt", "foreach", "fused", "over foreach", "min", "max", "over fused"):
        table.add_column(column, justify="right")
    for inputs, widths in NETS:
        net = network(torch.zeros(inputs), MLP(widths))
        table.add_row(f"[bold]MLP {'-'.join(map(str, (inputs, *widths, 10)))}, {Layout.of(net).size:,} weights")
        for option, keys in rules():
            name = " ".join([option, *(f"{k}={v}" for k, v in keys.items())])
            with console.status(f"{inputs} inputs, {name}"):
                table.add_row(name, *row(measured(sides(option, keys, inputs, widths), rounds)))
        table.add_section()
    console.print(table)


def rules() -> Iterator[tuple[str, dict[str, Any]]]:
    """Every option of the folder as its YAML has it, and with the keys of its variants."""
    for option in groups.list_option_names("optimizer"):
        if option != "custom":
            for keys in ({}, *VARIANTS.get(option, ())):
                yield option, keys


def row(times: dict[str, list[float]]) -> list[str]:
    """Medians in milliseconds; and how many times as fast dlopt's step is, median, least and greatest of the rounds."""
    if not times:
        return ["-"] * 7
    found = {side: f"{median(turns) * 1e3:.3f}" for side, turns in times.items()}
    over = {side: [b / a for a, b in zip(times["dlopt"], turns, strict=True)] for side, turns in times.items()}
    ratios = [f"{f(over['foreach']):.2f}" for f in (median, min, max)] if "foreach" in over else ["-"] * 3
    fused = f"{median(over['fused']):.2f}" if "fused" in over else "-"
    return [found["dlopt"], found.get("foreach", "-"), found.get("fused", "-"), *ratios, fused]


def measured(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of a step of each side, by rounds; none at all where a rule asks for more than gradients.

    The first steps, which make the states, are not counted.
    """
    try:
        counts = {side: 1 + int(TURN / seconds(step, 3)) for side, step in steps.items()}
    except MoreThanGradientsError:
        return {}
    times: dict[str, list[float]] = {side: [] for side in steps}
    for i in range(rounds):
        for side in steps if i % 2 == 0 else reversed(steps):
            seconds(steps[side], 1)  # what the side before has left in the cache is not its fault
            times[side].append(seconds(steps[side], counts[side]))
    return times


def seconds(step: Callable[[], object], count: int) -> float:
    """Of processor time, of one of so many steps."""
    began = time.process_time()
    for _ in itertools.repeat(None, count):
        step()
    return (time.process_time() - began) / count


def sides(option: str, keys: dict[str, Any], inputs: int, widths: tuple[int, ...]) -> dict[str, Callable[[], object]]:
    """A step of the rule, and one of each form that torch has of it."""
    found: dict[str, Callable[[], object]] = {"dlopt": Ours(built(option, keys, inputs, widths)).step}
    kind = getattr(torch.optim, COUNTERPARTS.get(option, ""), None)
    if kind is not None:
        takes = inspect.signature(kind).parameters
        for form in ("foreach", "fused"):
            if form in takes:
                arguments = {**ARGUMENTS.get(option, {}), **keys, form: True}
                found[form] = kind(with_gradients(inputs, widths), lr=1e-3, **arguments).step
        if "foreach" not in takes:  # Muon: the hidden matrices, in its own way, which is in bfloat16
            matrices = [p for p in with_gradients(inputs, widths) if p.ndim == 2]
            found["foreach"] = kind(matrices[1:-1], lr=1e-3).step
    return found


class MoreThanGradientsError(Exception):
    """A rule asks for what there is none of here."""


class Given:
    """An oracle with one gradient, the same everywhere."""

    def __init__(self, layout: Layout, g: Tensor) -> None:
        self.layout, self.g = layout, g
        self.bounds: dict[str, tuple[float, float]] = {}
        self.loss = torch.zeros(())

    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return self.loss, self.g

    def random_key(self, name: str) -> Key:
        return prng.key(0, name)

    def refuse(self, *asked: object) -> Any:
        raise MoreThanGradientsError

    value = hvp = hessian = activations = refuse


class Ours:
    """An experiment's rule on its weights, with noise for their gradient."""

    def __init__(self, experiment: Experiment) -> None:
        layout = Layout.of(experiment.model)
        self.regularization = experiment.optimizer
        self.w = experiment.w.clone()
        self.objective = Given(layout, torch.randn(layout.size, generator=torch.Generator().manual_seed(1)))
        self.state = self.regularization.init(self.w, layout)

    def step(self) -> None:
        moment = self.regularization.step(self.w, self.state, self.objective)
        self.w, self.state = moment.w, moment.state


def built(option: str, keys: dict[str, Any], inputs: int, widths: tuple[int, ...]) -> Experiment:
    """The option on an MLP, as dlopt itself makes it."""
    overrides = [
        "data=custom", "data._target_=benchmarks.data.Synthetic", f"+data.shape=[{inputs}]",
        "arch=mlp", f"arch.widths=[{','.join(map(str, widths))}]", "device=cpu", "threads=1",
        f"optimizer={option}", *(f"optimizer.{key}={value}" for key, value in keys.items()),
    ]  # fmt: skip
    with initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
        return build(compose("config", overrides))[0]


def with_gradients(inputs: int, widths: tuple[int, ...]) -> list[nn.Parameter]:
    """The parameters of the same network in plain torch, with noise for their gradients."""
    generator = torch.Generator().manual_seed(1)
    parameters = list(network(torch.zeros(inputs), MLP(widths)).parameters())
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    return parameters
