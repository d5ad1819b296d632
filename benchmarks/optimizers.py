"""One step of every optimizer that has public implementations, at 1.9 million weights: a table in Markdown.

The network is the MLP 784-1024-1024-10. dlopt updates one flat vector; the others each matrix and bias. All sides take
turns in one process and one thread. Before each step gradients are restored, off the clock, because some optimizers
overwrite them. A turn takes at least a few hundredths of a second. For an optimizer whose costly steps come at
intervals, it covers whole intervals. Times are processor times; a ratio compares two turns of the same round.

An optimizer that asks for two gradients or for curvatures gets the same tensors every time: the step is measured, not
the network.
"""

from __future__ import annotations

import inspect
import itertools
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from importlib import import_module, metadata
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from benchmarks.rules import FixedGradient, FlatOptimizer, build_option, make_parameters
from benchmarks.screen import make_console
from dlopt.config.compose import groups

INPUTS, WIDTHS = 784, (1024, 1024)
TURN = 0.05
"""Approximate seconds of a turn."""
PERIODS = {"soap": 10, "shampoo": 10, "sophia": 10, "lookahead": 5}
"""Steps between two costly steps, for the same keys on all sides."""
KEYS: dict[str, dict[str, Any]] = {"cautious": {"base_optimizer": "lion"}, "muon": {"bfloat16": "true"}}
"""Keys with which an option computes what its public implementations do."""


class Counterpart(NamedTuple):
    """A public implementation: its class, by module and name, and its arguments.

    takes is the form of its step: nothing, a `closure` for the second gradient, or the diagonal of a `hessian`.
    """

    module: str
    name: str
    arguments: dict[str, Any] = {}  # noqa: RUF012
    takes: str = ""


class Side(NamedTuple):
    """A step to measure, and what has to be done before it, off the clock."""

    prepare: Callable[[], object]
    step: Callable[[], object]


TORCH, PUBLIC = "torch.optim", "pytorch_optimizer"
SGD = {"base_optimizer": torch.optim.SGD, "lr": 0.1, "momentum": 0.9}
SHAMPOO = {"block_size": 256, "preconditioning_compute_steps": 10, "start_preconditioning_step": 1, "nesterov": False,
           "shape_interpretation": False, "graft_type": 3}  # fmt: skip
COUNTERPARTS: dict[str, tuple[Counterpart, ...]] = {
    "adadelta": (Counterpart(TORCH, "Adadelta"),),
    "adafactor": (Counterpart(TORCH, "Adafactor"), Counterpart(PUBLIC, "AdaFactor", {"betas": (None, 0.999)})),
    "adagrad": (Counterpart(TORCH, "Adagrad"),),
    "adam": (Counterpart(TORCH, "Adam"),),
    "adamw": (Counterpart(TORCH, "AdamW"),),
    "adan": (Counterpart(PUBLIC, "Adan"),),
    "ademamix": (Counterpart(PUBLIC, "AdEMAMix"),),
    "adopt": (Counterpart(PUBLIC, "ADOPT"),),
    "amsgrad": (Counterpart(TORCH, "Adam", {"amsgrad": True}),),
    "asam": (Counterpart(PUBLIC, "SAM", {**SGD, "adaptive": True}, "closure"),),
    "cautious": (Counterpart(PUBLIC, "Lion", {"cautious": True}),),
    "lamb": (Counterpart(PUBLIC, "Lamb", {"weight_decay": 0.01, "max_grad_norm": 0.0}),),
    "lars": (Counterpart(PUBLIC, "LARS", {"weight_decay": 1e-4}),),
    "lion": (Counterpart(PUBLIC, "Lion"),),
    "lookahead": (Counterpart(PUBLIC, "Lookahead", {"optimizer": torch.optim.Adam}),),
    "mars": (Counterpart(PUBLIC, "MARS", {"optimize_1d": True}),),
    "momentum": (Counterpart(TORCH, "SGD", {"momentum": 0.9}),),
    "muon": (Counterpart(TORCH, "Muon"), Counterpart(PUBLIC, "Muon")),
    "nadam": (Counterpart(TORCH, "NAdam"),),
    "nesterov": (Counterpart(TORCH, "SGD", {"momentum": 0.9, "nesterov": True}),),
    "prodigy": (Counterpart(PUBLIC, "Prodigy", {"bias_correction": True}),),
    "psgd_kron": (Counterpart(PUBLIC, "Kron"),),
    "radam": (Counterpart(TORCH, "RAdam"), Counterpart(PUBLIC, "RAdam")),
    "rmsprop": (Counterpart(TORCH, "RMSprop"),),
    "rprop": (Counterpart(TORCH, "Rprop"),),
    "sam": (Counterpart(PUBLIC, "SAM", SGD, "closure"),),
    "schedule_free": (Counterpart(PUBLIC, "ScheduleFreeAdamW"),),
    "sgd": (Counterpart(TORCH, "SGD"),),
    "shampoo": (
        Counterpart(PUBLIC, "ScalableShampoo", SHAMPOO),
        Counterpart(PUBLIC, "ScalableShampoo", {**SHAMPOO, "use_svd": True}),
    ),
    "soap": (Counterpart(PUBLIC, "SOAP", {"weight_decay": 0.0}),),
    "sophia": (Counterpart(PUBLIC, "SophiaH", takes="hessian"),),
}
"""Public implementations by option, with the settings of the option's defaults that change what a step computes."""


def main(rounds: int) -> None:
    """Measure every option that has counterparts, and print the table."""
    torch.set_num_threads(1)
    console = make_console()
    lines = list(make_header(rounds))
    for option in groups.list_option_names("optimizer"):
        if option in COUNTERPARTS:
            with console.status(option):
                sides, failed = split_usable({"dlopt": make_own_side(option), **dict(iterate_public_sides(option))})
                lines.append(format_row(option, measure(sides, option, rounds), failed))
    print("\n".join(lines))


def make_header(rounds: int) -> Iterator[str]:
    """Yield the lines above the rows."""
    weights = sum(p.numel() for p in make_parameters(INPUTS, WIDTHS))
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in ("torch", PUBLIC))
    yield f"One step on {weights:,} weights (MLP 784-1024-1024-10), float32, one thread of {describe_processor()}."
    yield f"Medians of {rounds} rounds in milliseconds; {versions}. Speed-up: fastest public implementation over dlopt."
    yield ""
    yield "| optimizer | dlopt | fastest public | which | speed-up | min | max | other public |"
    yield "| --- | ---: | ---: | --- | ---: | ---: | ---: | --- |"


def describe_processor() -> str:
    """Return the name of the processor."""
    file = Path("/proc/cpuinfo")
    lines = file.read_text().splitlines() if file.exists() else []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def split_usable(sides: dict[str, Side]) -> tuple[dict[str, Side], list[str]]:
    """Make a step of each side; return the sides that can, and the names of the others.

    Without the package opt_einsum, Kron asks for terabytes.
    """
    failed = []
    for name, side in sides.items():
        try:
            measure_turn(side, 1)
        except RuntimeError:
            if name == "dlopt":
                raise
            failed.append(name)
    return {name: side for name, side in sides.items() if name not in failed}, failed


def format_row(option: str, times: dict[str, list[float]], failed: Sequence[str]) -> str:
    """Return a row: medians in milliseconds, and the speed-up: median, minimum and maximum of the rounds."""
    medians = {side: median(turns) for side, turns in times.items()}
    public = sorted((side for side in times if side != "dlopt"), key=medians.__getitem__)
    others = ", ".join([*(f"{side} {medians[side] * 1e3:.2f}" for side in public[1:]), *(f"{f} fails" for f in failed)])
    if not public:
        return f"| {option} | {medians['dlopt'] * 1e3:.2f} | - | - | - | - | - | {others} |"
    ratios = [b / a for a, b in zip(times["dlopt"], times[public[0]], strict=True)]
    numbers = [f"{f(ratios):.2f}" for f in (median, min, max)]
    columns = option, f"{medians['dlopt'] * 1e3:.2f}", f"{medians[public[0]] * 1e3:.2f}", public[0], *numbers, others
    return f"| {' | '.join(columns)} |"


def measure(sides: dict[str, Side], option: str, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of a step of each side by rounds; the first steps, which create states, are not counted."""
    period = PERIODS.get(option, 1)
    counts = {
        name: period * (1 + int(TURN / (period * measure_turn(side, 2 + period)))) for name, side in sides.items()
    }
    times: dict[str, list[float]] = {name: [] for name in sides}
    for i in range(rounds):
        for name in sides if i % 2 == 0 else reversed(sides):
            times[name].append(measure_turn(sides[name], counts[name]))
    return times


def measure_turn(side: Side, count: int) -> float:
    """Return seconds of processor time of one of `count` steps."""
    seconds = 0.0
    for _ in itertools.repeat(None, count):
        side.prepare()
        start = time.process_time()
        side.step()
        seconds += time.process_time() - start
    return seconds / count


# ------------------------------------------------------------------------------------------- dlopt


class FixedDerivatives(FixedGradient):
    """An oracle whose derivatives are the same everywhere."""

    def value(self, w: Tensor) -> Tensor:  # type: ignore[override]
        return self.loss

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:  # type: ignore[override]
        return self.g

    def gauss_newton_diagonal(self, w: Tensor) -> Tensor:
        return self.g


def make_own_side(option: str) -> Side:
    """Return the side of dlopt."""
    optimizer = FlatOptimizer(build_option(option, KEYS.get(option, {}), INPUTS, WIDTHS), FixedDerivatives)
    g = optimizer.objective.g.clone()
    return Side(lambda: optimizer.objective.g.copy_(g), optimizer.step)


# ------------------------------------------------------------------------------------------- public ones


def iterate_public_sides(option: str) -> Iterator[tuple[str, Side]]:
    """Yield each public implementation by its name and form: a loop over parameters, foreach or fused."""
    for kind in COUNTERPARTS[option]:
        taken = inspect.signature(find_class(kind).__init__).parameters
        if kind.name == "Lookahead":
            taken = inspect.signature(torch.optim.Adam.__init__).parameters
        forms = [{form: value} for form, value in (("foreach", True), ("fused", True)) if form in taken]
        forms = forms + ([{"foreach": False}] if "foreach" in taken else []) or [{}]
        for form in forms:
            words = [key if value else "loop" for key, value in form.items()]
            words += ["svd"] * kind.arguments.get("use_svd", False)
            yield " ".join([kind.module.partition(".")[0], kind.name, *words]), make_public_side(kind, form)


def find_class(kind: Counterpart) -> Any:
    return getattr(import_module(kind.module), kind.name)


def make_public_side(kind: Counterpart, form: dict[str, bool]) -> Side:
    """Return the side of a public implementation."""
    parameters = make_parameters(INPUTS, WIDTHS)
    gradients = [p.grad.clone() for p in parameters if p.grad is not None]
    optimizers = list(make_optimizers(kind, parameters, form))

    def prepare() -> None:
        for p, g in zip(parameters, gradients, strict=True):
            p.grad = g.clone() if p.grad is None else p.grad.copy_(g)

    steps = [make_step(optimizer, kind, gradients, prepare) for optimizer in optimizers]
    return Side(prepare, partial(run_all, steps))


def make_optimizers(kind: Counterpart, parameters: Sequence[nn.Parameter], form: dict[str, bool]) -> Iterator[Any]:
    """Yield the optimizers that make a step together: Muon leaves some parameters to Adam."""
    make, arguments = find_class(kind), {**kind.arguments, **form}
    if kind.name == "Lookahead":
        yield make(arguments["optimizer"](parameters, **form))
    elif kind.name == "Muon":
        hidden = [p for p in parameters if p.ndim == 2][1:-1]
        rest = [p for p in parameters if all(p is not q for q in hidden)]
        if kind.module == TORCH:
            yield make(hidden, lr=1e-3)
            yield torch.optim.Adam(rest, fused=True)
        else:
            yield make([{"params": hidden, "use_muon": True}, {"params": rest, "use_muon": False}], **arguments)
    else:
        yield make(parameters, **arguments)


def make_step(
    optimizer: Any, kind: Counterpart, gradients: Sequence[Tensor], prepare: Callable[[], None]
) -> Callable[[], object]:
    """Return the function that makes a step; curvatures are given as often as the optimizer would compute them."""
    if kind.takes == "closure":
        return partial(optimizer.step, prepare)
    if kind.takes != "hessian":
        return optimizer.step  # type: ignore[no-any-return]
    hessian, turns = [g.clone() for g in gradients], itertools.count()
    period = optimizer.update_period
    optimizer.update_period = 10**9  # it computes none itself
    return lambda: optimizer.step(hessian=hessian if next(turns) % period == 0 else None)


def run_all(steps: Sequence[Callable[[], object]]) -> None:
    for step in steps:
        step()
