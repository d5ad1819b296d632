"""Optimizers of torch.optim, and custom ones with the same interface."""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.parts import ObjectiveOracle, Optimizer, Step, Wrapper
from dlopt.ranges import Positive


@dataclass(frozen=True)
class TorchOptim(Optimizer, Wrapper):
    """Any class of torch.optim, or a custom class with that interface.

    The class sees the parameters of the network in their own shapes, as views of w: matrices are matrices to Muon and
    Adafactor. step() gets a closure, as torch.optim.LBFGS needs it: loss and gradient of this step's mini-batch, where
    each call counts as an evaluation and the first must be at w. A class whose step() takes no closure finds its
    gradients in place. Before a run, the class takes a step on a copy of w, so its errors (such as Muon's for a bias)
    are reported then.

    name      a class of torch.optim (AdamW), or the import path of a custom one (my_rule.Lion)
    lr        learning rate, set in all parameter groups at each step. A schedule does not change the steps of Rprop,
              where lr is the size of the first step; ASGD follows it one step later
    options   other arguments of the class; omitted ones have the default of the class

    Runs cannot share lanes. On a CPU a small network trains 20 to 40% slower than with the same optimizer of dlopt
    (adam), or 10 to 20% with +optimizer.options.fused=true, which some classes take.
    """

    lanes: ClassVar[bool] = False
    reserved_arguments: ClassVar[tuple[str, ...]] = ("params", "lr")

    name: str
    lr: Positive
    options: dict[str, Any]

    @property
    def needs_true_gradient(self) -> bool:  # type: ignore[override]
        """Return True for LBFGS, which fits a curvature to gradients and compares them with values."""
        cls = self.resolve(self.name)
        return isinstance(cls, type) and issubclass(cls, torch.optim.LBFGS)

    @property
    def scales_with_lr(self) -> bool:  # type: ignore[override]
        return not self.needs_true_gradient

    @classmethod
    def names(cls) -> list[str]:
        classes = {n: c for n, c in vars(torch.optim).items() if isinstance(c, type)}
        return sorted(n for n, c in classes.items() if issubclass(c, torch.optim.Optimizer) and n != "Optimizer")

    @classmethod
    def resolve(cls, name: str) -> Callable[..., Any]:
        if "." in name:
            return pkgutil.resolve_name(name)
        if name not in cls.names():
            raise LookupError(f"there is no {name} in torch.optim")
        return getattr(torch.optim, name)

    def init(self, w: Tensor, layout: Layout) -> ParameterViews:
        return ParameterViews(self.resolve(self.name), {"lr": self.lr, **self.options}, w, layout)

    def step(self, w: Tensor, state: ParameterViews, objective: ObjectiveOracle) -> Step:
        loss, g = state.step(w, self.lr, lambda: objective.gradient(w))
        return Step(w, state, loss, g)

    def check(self, w: Tensor, layout: Layout) -> None:
        w = w.clone()
        self.init(w, layout).step(w, self.lr, lambda: (torch.zeros((), dtype=w.dtype), torch.ones_like(w)))


class ParameterViews:
    """A torch optimizer on the pieces of w, leaves that share its memory: the state of the option."""

    def __init__(self, make: Callable[..., Any], options: Mapping[str, Any], w: Tensor, layout: Layout) -> None:
        self.layout = layout
        self.w = w
        self.pieces = [v.detach().requires_grad_() for v in layout.views(w).values()]
        # A copy: changes in place must not reach the gradient of the step.
        self.gradient = torch.zeros_like(w)
        self.gradients = list(layout.views(self.gradient).values())
        self.optimizer = make(self.pieces, **options)
        self.arguments = set(inspect.signature(make).parameters)
        self.takes_closure = bool(inspect.signature(self.optimizer.step).parameters)

    def step(self, w: Tensor, lr: float, evaluate: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Take a step of the optimizer on w, and return loss and gradient of the first evaluation."""
        if w is not self.w:
            self.w = w
            for piece, view in zip(self.pieces, self.layout.views(w).values(), strict=True):
                piece.data = view
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        first: list[tuple[Tensor, Tensor]] = []

        def closure() -> Tensor:
            loss, g = evaluate()
            if not first:
                first.append((loss, g))
            self.gradient.copy_(g)
            for piece, gradient in zip(self.pieces, self.gradients, strict=True):
                piece.grad = gradient
            return loss

        if self.takes_closure:
            self.optimizer.step(closure)
        else:
            closure()
            self.optimizer.step()
        if not first:
            raise TypeError(f"{type(self.optimizer).__name__}.step(closure) does not call its closure")
        return first[0]

    def state_dict(self) -> dict[str, Any]:
        return {"class": _path(self.optimizer), **self.optimizer.state_dict()}

    def load_state_dict(self, content: Mapping[str, Any]) -> None:
        """Restore a saved state, except for arguments, which may have been changed on resume."""
        if content["class"] != _path(self.optimizer):
            raise ValueError(f"the saved state is of {content['class']}, not of {_path(self.optimizer)}")
        groups = self.optimizer.param_groups
        arguments = [{k: v for k, v in group.items() if k in self.arguments - {"params"}} for group in groups]
        self.optimizer.load_state_dict({k: v for k, v in content.items() if k != "class"})
        for group, own in zip(self.optimizer.param_groups, arguments, strict=True):
            group.update(own)
        # torch casts floating point to the type of the parameters; scalars of a class may have another.
        order = [piece for group in self.optimizer.param_groups for piece in group["params"]]
        for i, saved in content["state"].items():
            own = self.optimizer.state[order[i]]
            own.update({k: v.to(own[k].device) for k, v in saved.items() if isinstance(v, Tensor)})


def _path(x: object) -> str:
    return f"{type(x).__module__}.{type(x).__qualname__}"
