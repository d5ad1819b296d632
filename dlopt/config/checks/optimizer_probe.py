"""Let a custom optimizer make one step on a small problem of its own, so that a first mistake ends before a run."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import signature

import torch
from torch import Tensor

from dlopt import parts, prng
from dlopt.base.layout import Layout
from dlopt.base.optimizer import check_info
from dlopt.config.problems import Problems, describe_failure

RETURNS = "must return Step(w, state, loss, gradient)"


class Bowl:
    """The objective f(w) = w'w / 2, with the methods of an objective that an optimizer may query."""

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.bounds: Mapping[str, tuple[float, float]] = {}

    def value(self, w: Tensor) -> Tensor:
        return w.square().sum(-1) / 2

    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        return self.value(w), w.clone()

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:
        return v.clone()

    gauss_newton_product = hvp

    def hessian(self, w: Tensor) -> Tensor:
        return torch.eye(w.shape[-1], dtype=w.dtype)

    def kronecker_factors(self, w: Tensor, *, sampled: bool) -> list[tuple[Tensor, Tensor]]:
        sides = [layer.sides for layer in self.layout.affine]
        return [(torch.eye(a, dtype=w.dtype), torch.eye(g, dtype=w.dtype)) for a, g in sides]

    def gauss_newton_diagonal(self, w: Tensor) -> Tensor:
        return torch.ones_like(w)

    def activations(self, w: Tensor) -> dict[str, Tensor]:
        return {}

    def random_key(self, name: str) -> prng.Key:
        return prng.key(0, name)


def probe_step(optimizer: parts.Optimizer, w: Tensor, layout: Layout, problems: Problems) -> None:
    """Add a problem if an optimizer has a wrong signature, cannot make its state, or returns no Step.

    An error that the step raises is not a problem here: the bowl has no network, and the step may need one.
    """
    name = type(optimizer).__name__
    for method, arguments in (("init", (w, layout)), ("step", (w, (), None))):
        try:
            signature(getattr(optimizer, method)).bind(*arguments)
        except TypeError as error:
            wanted = "init(self, w, layout)" if method == "init" else "step(self, w, state, objective)"
            problems.add("optimizer", f"{name}.{method} does not take the arguments of {wanted}: {error}")
            return
    try:
        state = optimizer.init(w.clone(), layout)
    except Exception as error:
        problems.add("optimizer", f"{name}.init {describe_failure(error)}")
        return
    try:
        with torch.random.fork_rng(devices=[]):
            step = optimizer.step(w.clone(), state, Bowl(layout))
    except Exception:
        return
    if not isinstance(step, parts.Step):
        problems.add("optimizer", f"{name}.step {RETURNS}; it returns a {type(step).__name__}")
    elif not isinstance(step.w, Tensor) or step.w.shape != w.shape:
        problems.add("optimizer", f"{name}.step {RETURNS} with w of shape {tuple(w.shape)}, as it got it")
    elif not isinstance(step.info, Mapping):
        problems.add("optimizer", f"{name}.step must return info as a mapping, got a {type(step.info).__name__}")
    else:
        try:
            check_info(step)
        except ValueError as error:
            problems.add("optimizer", f"{name}: {error}")
