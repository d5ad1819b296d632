"""The rules of torch.optim, and people's own of the same protocol."""

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
    """The update of a torch.optim.Optimizer, parameter by parameter.

    It sees the network's parameters in their own shapes, as views of w: matrices are matrices to Muon and Adafactor.
    step() is handed a closure, as torch.optim.LBFGS needs it: loss and gradient of this step's mini-batch, counted at
    each call. Its first call must be made at w. A class whose step() takes no closure finds its gradients in place.
    Whatever the class refuses (such as Muon a bias) is said before the run starts: it takes a step on a copy of w.

    name      a class of torch.optim (AdamW), or the path of one like them (my_rule.Lion)
    lr        learning rate, set anew in all parameter groups at each step: schedules move it, but for Rprop, where
              it is the size of the first step, and in ASGD a step later
    options   the other arguments of the class; what is left out has the value that the class gives it

    One run at a time: lanes do not share it. On a CPU a small net's run is 20 to 40% slower than with the same rule of
    ours (adam), 10 to 20% with +optimizer.options.fused=true, which some classes take.
    """

    lanes: ClassVar[bool] = False
    reserved_arguments: ClassVar[tuple[str, ...]] = ("params", "lr")

    name: str
    lr: Positive
    options: dict[str, Any]

    @property
    def needs_true_gradient(self) -> bool:  # type: ignore[override]
        """LBFGS fits a curvature to gradients, and its line search compares them with values."""
        made = self.resolve(self.name)
        return isinstance(made, type) and issubclass(made, torch.optim.LBFGS)

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
    """A torch optimizer on the pieces of w, leaves that share its memory; it is the state of the rule."""

    def __init__(self, make: Callable[..., Any], options: Mapping[str, Any], w: Tensor, layout: Layout) -> None:
        self.layout = layout
        self.w = w
        self.pieces = [v.detach().requires_grad_() for v in layout.views(w).values()]
        # Memory of its own: what a rule does to its gradients in place must not reach those of the step.
        self.gradient = torch.zeros_like(w)
        self.gradients = list(layout.views(self.gradient).values())
        self.optimizer = make(self.pieces, **options)
        self.arguments = set(inspect.signature(make).parameters)
        self.takes_closure = bool(inspect.signature(self.optimizer.step).parameters)

    def step(self, w: Tensor, lr: float, evaluate: Callable[[], tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Move w by a step of the optimizer; returns the loss and the gradient of the first evaluation."""
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
        """Take over what was saved, but for the arguments: a run that goes on may have been given others."""
        if content["class"] != _path(self.optimizer):
            raise ValueError(f"the state saved is that of {content['class']}, not of {_path(self.optimizer)}")
        groups = self.optimizer.param_groups
        given = [{k: v for k, v in group.items() if k in self.arguments - {"params"}} for group in groups]
        self.optimizer.load_state_dict({k: v for k, v in content.items() if k != "class"})
        for group, own in zip(self.optimizer.param_groups, given, strict=True):
            group.update(own)
        # torch casts all floating point to the parameters' type; a rule's own scalars may have another, and kept it.
        order = [piece for group in self.optimizer.param_groups for piece in group["params"]]
        for i, saved in content["state"].items():
            own = self.optimizer.state[order[i]]
            own.update({k: v.to(own[k].device) for k, v in saved.items() if isinstance(v, Tensor)})


def _path(x: object) -> str:
    return f"{type(x).__module__}.{type(x).__qualname__}"
