"""One step of every optimizer on a given gradient, compared with the same optimizer of torch.optim.

dlopt updates one flat vector; torch updates each matrix and bias of a network: with foreach, and fused if it has such a
kernel. The sides take turns of some hundredths of a second of processor time, in one process and one thread. A ratio is
of two turns of the same round. An optimizer that needs more than gradients has a dash. torch_optim is torch's own
optimizer, by default without foreach, with an additional copy of the gradient.
"""

from __future__ import annotations

import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import torch
from rich.table import Table
from torch import Tensor, nn

from benchmarks.cases import MLP, build_experiment
from benchmarks.handwritten import build_network
from benchmarks.screen import make_console
from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import to_hydra
from dlopt.prng import Key
from dlopt.training.experiment import Experiment

NETS = ((40, (100, 100)), (784, (1024, 1024)))
"""Number of inputs and of units of each hidden layer; there are ten outputs."""
TURN = 0.03
"""Approximate seconds of a turn."""

VARIANTS: dict[str, tuple[dict[str, Any], ...]] = {
    "momentum": ({"dampening": 0.5},),
    "rmsprop": ({"momentum": 0.9}, {"centered": True}, {"momentum": 0.9, "centered": True}),
    "muon": ({"bfloat16": True},),
    "coordinate_descent": ({"blocks": 100, "order": "random"},),
}
"""Keys of an option with which its step does other operations than by default."""

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
"""The classes of torch.optim by option."""
ARGUMENTS: dict[str, dict[str, Any]] = {
    "momentum": {"momentum": 0.9},
    "nesterov": {"momentum": 0.9, "nesterov": True},
    "amsgrad": {"amsgrad": True},
}
"""Arguments of these classes by option."""


def main(rounds: int) -> None:
    """Measure every option on both networks, and print one table."""
    torch.set_num_threads(1)
    console = make_console()
    table = Table(
        title=f"One step on a given gradient, one thread, {rounds} rounds: milliseconds, and dlopt's speed-up"
    )
    table.add_column("rule")
    for column in ("dlopt", "foreach", "fused", "over foreach", "min", "max", "over fused"):
        table.add_column(column, justify="right")
    for inputs, widths in NETS:
        net = build_network(torch.zeros(inputs), MLP(widths))
        table.add_row(f"[bold]MLP {'-'.join(map(str, (inputs, *widths, 10)))}, {Layout.of(net).size:,} weights")
        for option, keys in iterate_options():
            name = " ".join([option, *(f"{k}={v}" for k, v in keys.items())])
            with console.status(f"{inputs} inputs, {name}"):
                times = {} if compares_values(option) else measure(make_sides(option, keys, inputs, widths), rounds)
                table.add_row(name, *format_row(times))
        table.add_section()
    console.print(table)


def iterate_options() -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield every option with its default keys, and with those of its variants."""
    for option in groups.list_option_names("optimizer"):
        if option != "custom":
            for keys in ({}, *VARIANTS.get(option, ())):
                yield option, keys


def compares_values(option: str) -> bool:
    """Return whether an optimizer compares values or products with gradients, so that a fixed gradient misleads it."""
    return build_option(option, {}, 4, (4,)).optimizer.needs_true_gradient


def format_row(times: dict[str, list[float]]) -> list[str]:
    """Return medians in milliseconds, and the speed-up of dlopt's step: median, minimum and maximum of the rounds."""
    if not times:
        return ["-"] * 7
    medians = {side: f"{median(turns) * 1e3:.3f}" for side, turns in times.items()}
    speedups = {side: [b / a for a, b in zip(times["dlopt"], turns, strict=True)] for side, turns in times.items()}
    ratios = [f"{f(speedups['foreach']):.2f}" for f in (median, min, max)] if "foreach" in speedups else ["-"] * 3
    fused = f"{median(speedups['fused']):.2f}" if "fused" in speedups else "-"
    return [medians["dlopt"], medians.get("foreach", "-"), medians.get("fused", "-"), *ratios, fused]


def measure(steps: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a step of each side by rounds; empty if an optimizer needs more than gradients.

    The first steps, which create the states, are not counted.
    """
    try:
        counts = {side: 1 + int(TURN / measure_seconds(step, 3)) for side, step in steps.items()}
    except MoreThanGradientsError:
        return {}
    times: dict[str, list[float]] = {side: [] for side in steps}
    for i in range(rounds):
        for side in steps if i % 2 == 0 else reversed(steps):
            measure_seconds(steps[side], 1)  # the other side has used the cache
            times[side].append(measure_seconds(steps[side], counts[side]))
    return times


def measure_seconds(step: Callable[[], object], count: int) -> float:
    """Return seconds of processor time of one of `count` steps."""
    start = time.process_time()
    for _ in itertools.repeat(None, count):
        step()
    return (time.process_time() - start) / count


def make_sides(
    option: str, keys: dict[str, Any], inputs: int, widths: tuple[int, ...]
) -> dict[str, Callable[[], object]]:
    """Return a step of the optimizer, and one of each form that torch has of it."""
    steps: dict[str, Callable[[], object]] = {"dlopt": FlatOptimizer(build_option(option, keys, inputs, widths)).step}
    kind = getattr(torch.optim, COUNTERPARTS.get(option, ""), None)
    if kind is not None:
        takes = inspect.signature(kind).parameters
        for form in ("foreach", "fused"):
            if form in takes:
                arguments = {**ARGUMENTS.get(option, {}), **keys, form: True}
                steps[form] = kind(make_parameters(inputs, widths), lr=1e-3, **arguments).step
        if "foreach" not in takes:  # Muon: only hidden matrices, and in bfloat16
            matrices = [p for p in make_parameters(inputs, widths) if p.ndim == 2]
            steps["foreach"] = kind(matrices[1:-1], lr=1e-3).step
    return steps


class MoreThanGradientsError(Exception):
    """An optimizer needs more than gradients."""


class FixedGradient:
    """An oracle with the same gradient everywhere."""

    def __init__(self, layout: Layout, g: Tensor) -> None:
        self.layout, self.g = layout, g
        self.bounds: dict[str, tuple[float, float]] = {}
        self.loss = torch.zeros(())

    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return self.loss, self.g

    def random_key(self, name: str) -> Key:
        return prng.key(0, name)

    def refuse(self, *arguments: object) -> Any:
        raise MoreThanGradientsError

    value = hvp = gauss_newton_product = hessian = kronecker_factors = activations = refuse


class FlatOptimizer:
    """The optimizer of an experiment on its weights, with noise as their gradient."""

    def __init__(self, experiment: Experiment, oracle: type[FixedGradient] = FixedGradient) -> None:
        layout = Layout.of(experiment.model)
        self.optimizer = experiment.optimizer
        self.w = experiment.w.clone()
        self.objective = oracle(layout, torch.randn(layout.size, generator=torch.Generator().manual_seed(1)))
        self.state = self.optimizer.init(self.w, layout)

    def step(self) -> None:
        step = self.optimizer.step(self.w, self.state, self.objective)
        self.w, self.state = step.w, step.state


def build_option(option: str, keys: dict[str, Any], inputs: int, widths: tuple[int, ...]) -> Experiment:
    """Build an experiment with the option on an MLP."""
    overrides = [
        "data=custom", "data._target_=benchmarks.data.Synthetic", f"+data.shape=[{inputs}]",
        "arch=mlp", f"arch.widths=[{','.join(map(str, widths))}]", "device=cpu", "threads=1",
        f"optimizer={option}", *(f"optimizer.{key}={value}" for key, value in keys.items()),
    ]  # fmt: skip
    return build_experiment([to_hydra(override) for override in overrides])


def make_parameters(inputs: int, widths: tuple[int, ...]) -> list[nn.Parameter]:
    """Return the parameters of the same network in plain torch, with noise as their gradients."""
    generator = torch.Generator().manual_seed(1)
    parameters = list(build_network(torch.zeros(inputs), MLP(widths)).parameters())
    for p in parameters:
        p.grad = torch.randn(p.shape, generator=generator)
    return parameters
