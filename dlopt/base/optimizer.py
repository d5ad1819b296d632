"""Optimizers, the objective they query, and the step they return."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from dlopt.base.group import Group
from dlopt.base.layout import Layout
from dlopt.prng import Key


class ObjectiveOracle(Protocol):
    """What an optimizer may ask of the objective, at any w: see dlopt.objective.oracle.MiniBatchObjective."""

    layout: Layout
    bounds: Mapping[str, tuple[float, float]]

    def value(self, w: Tensor) -> Tensor: ...
    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]: ...
    def hvp(self, w: Tensor, v: Tensor) -> Tensor: ...
    def hessian(self, w: Tensor) -> Tensor: ...
    def activations(self, w: Tensor) -> dict[str, Tensor]: ...
    def random_key(self, name: str) -> Key: ...


class Step(NamedTuple):
    """What a rule returns: the next iterate and state, and the loss and gradient at the iterate it started from.

    A rule that evaluates at another point alone (schedule_free) returns those at that point, and says so.
    """

    w: Tensor
    state: Any
    loss: Tensor
    gradient: Tensor
    info: Mapping[str, Tensor] = {}


@Group("optimizer", must_subclass=True, changeable_on_resume=True, lanes="class")
class Optimizer:
    """An update rule: a frozen dataclass of hyperparameters with two methods.

    Written for w of shape (..., P), reducing over the last dimension with keepdim. A hyperparameter is a float, or an
    (E, 1) column when E runs share the arithmetic (w is then (E, P)): use it in tensor arithmetic, never in an `if`.
    A rule that cannot comply says lanes = False. A field may hold a further rule: where the rate lr is the inner one's,
    schedules and lanes find it there (dlopt/base/dotted_fields.py).

    One that compares gradients with values or with Hessian products, as a line search does, says
    needs_true_gradient = True: then nothing may clip a gradient or add noise to it.

    A step owns the w and the state it is given and may overwrite both in place: at 1.9 million weights a second
    copy of w costs 3% of a whole step on a CPU. Whoever needs the former iterate keeps a copy.
    """

    lanes: ClassVar[bool] = True
    needs_true_gradient: ClassVar[bool] = False

    def init(self, w: Tensor, layout: Layout) -> Any:
        """The state before the first step: a NamedTuple of tensors, or () for none.

        A tensor of the state has w's leading dimensions, or none at all when every run would hold the same number. An
        int, such a number too, can be read without waiting for the device.
        A rule without lanes may have any object with state_dict() and load_state_dict(), of tensors and numbers.
        """
        return ()

    def check(self, w: Tensor, layout: Layout) -> None:
        """Raise, before a run starts, what says why the rule cannot train these initial weights, (P,)."""

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        raise NotImplementedError
