"""Optimizers, the objective they query, the step they return, and averages of their iterates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, NamedTuple, Protocol

from torch import Tensor

from dlopt.base.group import Group
from dlopt.base.layout import Layout
from dlopt.base.schedule import TrainingTime
from dlopt.prng import Key


class ObjectiveOracle(Protocol):
    """The objective at any w, as an optimizer sees it: see dlopt.objective.oracle.MiniBatchObjective."""

    layout: Layout
    bounds: Mapping[str, tuple[float, float]]

    def value(self, w: Tensor) -> Tensor: ...
    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]: ...
    def hvp(self, w: Tensor, v: Tensor) -> Tensor: ...
    def gauss_newton_product(self, w: Tensor, v: Tensor) -> Tensor: ...
    def hessian(self, w: Tensor) -> Tensor: ...
    def kronecker_factors(self, w: Tensor, *, sampled: bool) -> list[tuple[Tensor, Tensor]]: ...
    def gauss_newton_diagonal(self, w: Tensor) -> Tensor: ...
    def activations(self, w: Tensor) -> dict[str, Tensor]: ...
    def random_key(self, name: str) -> Key: ...


class Step(NamedTuple):
    """The result of a step: the next iterate and state, and loss and gradient at the iterate before it.

    An optimizer that evaluates only at another point (schedule_free) returns loss and gradient there, and documents it.

    info holds what the optimizer decided in this step, such as its damping: a number of each run, a tensor of shape
    (...), by name. Rows hold optimizer/NAME, its mean over the same steps as train/loss, and recent/optimizer/NAME with
    log_every. A step may leave names out: the mean is over the steps that have them. A bool counts as 0 or 1.

    next_gradient is the gradient at the new w, if the last call of objective.gradient returned it. If every step has
    the same objective, the first call of the next step then returns it again, without an evaluation.
    """

    w: Tensor
    state: Any
    loss: Tensor
    gradient: Tensor
    info: Mapping[str, Tensor] = {}
    next_gradient: Tensor | None = None


def check_info(step: Step) -> None:
    """Raise ValueError if an entry of a step's info is not a tensor of shape (...)."""
    shape = tuple(step.w.shape[:-1])
    for name, value in step.info.items():
        found = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"
        if found != f"shape {shape}":
            raise ValueError(f"info[{name!r}] of the optimizer's step must be a tensor of shape {shape}, got {found}")


@Group("optimizer", must_subclass=True, changeable_on_resume=True, lanes="class")
class Optimizer:
    """An update rule: a frozen dataclass of hyperparameters with two methods, init and step.

    Write it for w of shape (..., P), and reduce over the last dimension with keepdim. A hyperparameter is a float, or
    an (E, 1) column if E runs share the arithmetic (w is then (E, P)): use it in tensor arithmetic, never in an `if`.
    An optimizer that cannot do this sets lanes = False. A field may hold another optimizer: if it has the learning rate
    lr, schedules and lanes find it there (dlopt/base/dotted_fields.py).

    An optimizer that compares gradients with values or Hessian products, such as a line search, sets
    needs_true_gradient = True: then clipping and gradient noise are refused. One that uses second derivatives sets
    uses_curvature = True: then a network with kinks, such as those of ReLU, gets a notice. Both are refused with
    precision=bfloat16. One whose step reads numbers from the device, such as to end an iteration early, sets
    decides_on_host = True. One whose lr is a factor of a step size that it estimates sets estimates_lr = True: then
    regularizations that shrink weights in proportion to lr are refused. One that has a field lr, and whose steps are
    not lr times a direction that lr does not change, such as one that averages its iterates, sets scales_with_lr =
    False: then parameter groups cannot have learning rates of their own.

    One that asks for gauss_newton_diagonal, or for Kronecker factors of sampled targets, sets samples_targets = True:
    then losses without `sample_targets` are refused. without_sampling is the choice that needs no such targets, if
    there is one: ("fisher", "empirical").

    `step` owns the w and the state that it gets and may overwrite both: at 1.9 million weights a second copy of w costs
    3% of a step on a CPU. The caller keeps a copy of the previous iterate if it is needed.
    """

    lanes: ClassVar[bool] = True
    needs_true_gradient: ClassVar[bool] = False
    uses_curvature: ClassVar[bool] = False
    decides_on_host: ClassVar[bool] = False
    scales_with_lr: ClassVar[bool] = True
    samples_targets: ClassVar[bool] = False
    without_sampling: ClassVar[tuple[str, str] | None] = None
    estimates_lr: ClassVar[bool] = False

    def init(self, w: Tensor, layout: Layout) -> Any:
        """Return the state before the first step: a NamedTuple of tensors and states inside it, or () for no state.

        A tensor of the state has the leading dimensions of w, or no dimensions if all runs hold the same number. Such a
        number may also be an int, which can be read without waiting for the device. An optimizer without lanes may
        return any object with state_dict() and load_state_dict(), of tensors and numbers.
        """
        return ()

    def check(self, w: Tensor, layout: Layout) -> None:
        """Raise an error, before a run starts, if the optimizer cannot train these initial weights, (P,)."""

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        raise NotImplementedError

    def lr_factors(self, w: Tensor, layout: Layout) -> Tensor | None:
        """Return the learning rate of each weight as a multiple of lr, of the shape of w; None if all have lr.

        Regularizations that shrink weights in proportion to the learning rate use it.
        """
        return None

    def stability_limit(self, state: Any) -> float | Tensor | None:
        """Return the largest curvature, a number or (..., 1), at which steps are stable; None if unknown.

        On a quadratic with full batches, the iterates diverge along an eigenvector of the Hessian once its eigenvalue
        exceeds the limit. If there is a preconditioner D, these are eigenvalues of D^-1 H. The limit is for steps with
        the coefficients of the last one, from the state after it.
        """
        return None

    def preconditioner(self, state: Any) -> Tensor | None:
        """Return D, (..., P), by which the last step has divided gradients, from the state after it; None for 1."""
        return None


@Group("averaging", optional=True, must_subclass=True, lanes="value")
class Averaging:
    """A running average of the iterates. It is evaluated in addition to the last iterate."""

    def first(self, time: TrainingTime) -> int:
        """Return the number of the first step whose iterate is averaged. The average exists from its end on."""
        return 0

    def init(self, w: Tensor) -> Any:
        """Return the state before the first iterate, in the form of an optimizer's state."""
        raise NotImplementedError

    def update(self, state: Any, w: Tensor, time: TrainingTime) -> Any:
        """Return the state after one more iterate; state may be overwritten, w not."""
        raise NotImplementedError

    def value(self, state: Any) -> Tensor:
        """Return the average, (..., P), after at least one update."""
        raise NotImplementedError
