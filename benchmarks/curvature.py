"""Products with curvature matrices in gradients, the largest eigenvalue, and a dense step of Newton's method.

Each product is measured at the same w, as conjugate gradients and Lanczos ask for it: the first, which builds a graph,
and a further one. A step of Newton's method with the whole Hessian is measured against torch.func.hessian and solve.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Sequence
from statistics import median

import torch
from rich.table import Table
from torch import Tensor
from torch.func import functional_call, grad, hessian

from benchmarks.cases import BATCH, build_experiment
from benchmarks.screen import make_console
from dlopt import prng
from dlopt.linalg.lanczos import tridiagonalize
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.training.experiment import Experiment

NETS = {
    "MLP 40-100-100-10": ((40,), ["arch=mlp", "arch.widths=[100,100]"]),
    "CNN of MNIST-1D": ((1, 40), ["arch=cnn"]),
    "MLP 784-1024-1024-10": ((784,), ["arch=mlp", "arch.widths=[1024,1024]"]),
}
DENSE = ((40,), ["arch=mlp", "arch.widths=[19]", "activation=tanh"])
"""A network of 979 weights."""
NEWTON = ["optimizer=newton", "optimizer.solver=dense", "optimizer.adapt=none"]
TURN = 0.3
"""Seconds of a turn."""
MAX_PRODUCTS = 30
STEPS = 30
"""Steps of Adam before the largest eigenvalue is measured."""


def main(rounds: int) -> None:
    """Measure and print three tables."""
    torch.set_num_threads(1)
    console = make_console()
    table = Table(title=f"Products in gradients, batches of {BATCH}, one thread, {rounds} rounds; at most 3.0")
    for column in ("network", "weights", "gradient, ms", "H v, first", "H v", "GN v, first", "GN v"):
        table.add_column(column, justify="left" if column == "network" else "right")
    for name, (shape, keys) in NETS.items():
        with console.status(name):
            table.add_row(name, *format_products(shape, keys, rounds))
    console.print(table)
    with console.status("the largest eigenvalue"):
        name = "MLP 784-1024-1024-10"
        console.print(f"{name}, products for the largest eigenvalue to 1% (at most {MAX_PRODUCTS}): ", end="")
        first, later = (count_products(*NETS[name], steps) for steps in (0, STEPS))
        console.print(f"{first} at the initial weights, {later} after {STEPS} steps of Adam")
    with console.status("Newton's method"):
        console.print(describe_newton(rounds))


def format_products(shape: Sequence[int], keys: list[str], rounds: int) -> list[str]:
    """Return the number of weights, the milliseconds of a gradient, and the time of products in gradients."""
    experiment = build(shape, keys)
    problem, w, x, y = prepare(experiment, shape)
    v = torch.randn_like(w)
    kept = MiniBatchObjective(problem, x, y, prng.key(0, 1))

    def make() -> MiniBatchObjective:
        return MiniBatchObjective(problem, x, y, prng.key(0, 1))

    times = measure(
        {
            "gradient": lambda: kept.gradient(w),
            "first": lambda: make().hvp(w, v),
            "further": lambda: kept.hvp(w, v),
            "first, GN": lambda: make().gauss_newton_product(w, v),
            "further, GN": lambda: kept.gauss_newton_product(w, v),
        },
        rounds,
    )
    base = times.pop("gradient")
    ratios = [median(a / b for a, b in zip(turns, base, strict=True)) for turns in times.values()]
    return [f"{len(w):,}", f"{median(base) * 1e3:.2f}", *(f"{ratio:.2f}" for ratio in ratios)]


def count_products(shape: Sequence[int], keys: list[str], steps: int) -> str:
    """Return the smallest number of products after which the largest eigenvalue is within 1%, after steps of Adam.

    The reference is that of 100 products.
    """
    experiment = build(shape, keys)
    problem, w, x, y = prepare(experiment, shape)
    state = experiment.optimizer.init(w, problem.layout)
    for step in range(steps):
        w, state, *_ = experiment.optimizer.step(w, state, MiniBatchObjective(problem, x, y, prng.key(0, step)))
    objective = MiniBatchObjective(problem, x, y, prng.key(0, steps))
    start = torch.randn(w.shape, generator=torch.Generator().manual_seed(0))
    matrix = tridiagonalize(lambda v: objective.hvp(w, v), start, 100).matrix()
    values = [torch.linalg.eigvalsh(matrix[:k, :k])[-1].item() for k in range(1, 101)]
    return str(next(k for k, value in enumerate(values, 1) if abs(value - values[-1]) <= 0.01 * abs(values[-1])))


def describe_newton(rounds: int) -> str:
    """Return how long a dense step of Newton's method takes, next to torch.func.hessian and torch.linalg.solve."""
    shape, keys = DENSE
    experiment = build(shape, [*keys, *NEWTON])
    problem, w, x, y = prepare(experiment, shape)
    rule, damping = experiment.optimizer, torch.eye(len(w))

    def loss(w: Tensor) -> Tensor:
        return problem.loss(functional_call(problem.model, problem.layout.views(w), (x,)), y)

    times = measure(
        {
            "dlopt": lambda: rule.step(
                w.clone(), rule.init(w, problem.layout), MiniBatchObjective(problem, x, y, prng.key(0, 1))
            ),
            "torch.func": lambda: w - torch.linalg.solve(hessian(loss)(w) + damping, grad(loss)(w)),
        },
        rounds,
    )
    ours, theirs = (median(times[side]) * 1e3 for side in ("dlopt", "torch.func"))
    ratios = [b / a for a, b in zip(times["dlopt"], times["torch.func"], strict=True)]
    figures = ", ".join(f"{f(ratios):.2f}" for f in (median, min, max))
    return (
        f"A dense step of newton on {len(w):,} weights: {ours:.1f} ms, torch.func.hessian and solve {theirs:.1f} ms; "
        f"speed-up {figures} (median, min, max; at least 1.0)"
    )


def build(shape: Sequence[int], keys: list[str]) -> Experiment:
    """Build an experiment with this network on inputs of this shape."""
    data = ["data=custom", "data._target_=benchmarks.data.Synthetic", f"+data.shape=[{','.join(map(str, shape))}]"]
    return build_experiment([*data, *keys, "device=cpu", "threads=1"])


def prepare(experiment: Experiment, shape: Sequence[int]) -> tuple[Problem, Tensor, Tensor, Tensor]:
    """Return the problem, its bound weights, and a batch of noise."""
    problem = Problem(experiment.model, experiment.loss)
    generator = torch.Generator().manual_seed(0)
    x, y = torch.randn(BATCH, *shape, generator=generator), torch.randint(10, (BATCH,), generator=generator)
    return problem, problem.bind(experiment.w.clone()), x, y


def measure(sides: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds of processor time of each side by rounds; the sides take turns."""
    counts = {side: 1 + int(TURN / measure_seconds(call, 3)) for side, call in sides.items()}
    times: dict[str, list[float]] = {side: [] for side in sides}
    for i in range(rounds):
        for side in sides if i % 2 == 0 else reversed(sides):
            times[side].append(measure_seconds(sides[side], counts[side]))
    return times


def measure_seconds(call: Callable[[], object], count: int) -> float:
    """Return seconds of processor time of one of `count` calls."""
    start = time.process_time()
    for _ in itertools.repeat(None, count):
        call()
    return (time.process_time() - start) / count
