"""Regularizations, and the modules of a network in which they draw random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from dlopt.base.data import TargetKind
from dlopt.base.group import Group
from dlopt.base.layout import Layout
from dlopt.prng import Key, fold_in


class StochasticSite(nn.Module):
    """A module in which a regularization draws random numbers. Regularization and key are set before each evaluation.

    The key is a function of the step and the site, so all evaluations of a step have the same masks. feature_dim is the
    dimension of the features in its inputs: the second, or the last one for the steps of a sequence.
    """

    feature_dim: int = 1

    def __init__(self, rule: Regularization, site: int) -> None:
        super().__init__()
        self.regularization = rule
        self.index = site
        self.set_key(Key(0, 0))

    def set_key(self, key: Key) -> None:
        """Set the key of an evaluation."""
        self._key = key
        self._calls = 0

    def next_key(self) -> Key:
        """Return the key of this call. Each use of the module in one evaluation has another key."""
        self._calls += 1
        return fold_in(self._key, self._calls)


@Group(
    "regularization",
    multiple=True,
    must_subclass=True,
    changeable_on_resume=True,
    needed_for_inference=True,
    lanes="class",
)
class Regularization:
    """A method against over-fitting. Override the methods in which it acts; the defaults change nothing.

    kinds are the supported kinds of targets. decays says that it shrinks weights in proportion to layout.weight_mask,
    which parameter groups can change.
    """

    kinds: ClassVar[tuple[TargetKind, ...]] = ("classes", "numbers")
    decays: ClassVar[bool] = False

    @property
    def mixes(self) -> bool:
        """Return whether `targets` mixes classes and needs probabilities: see Augmentation.mixes."""
        return False

    @property
    def needs_lr(self) -> bool:
        """Return whether `after` changes the iterate in proportion to lr, which some optimizers lack."""
        return False

    def inputs(self, inputs: Tensor, key: Key) -> Tensor:
        """Return the changed inputs of a training evaluation."""
        return inputs

    def inference(self, inputs: Tensor) -> Tensor:
        """Return the inputs of inference; nothing random."""
        return inputs

    def targets(self, targets: Tensor) -> Tensor:
        """Return the changed targets of a training evaluation: (B,), or numbers or probabilities (B, outputs)."""
        return targets

    def weights(self, w: Tensor, key: Key, layout: Layout) -> Tensor:
        """Return the weights, (P,), at which a training evaluation takes place."""
        return w

    def module(self, site: int) -> StochasticSite | None:
        """Return a module to insert after a hidden layer."""
        return None

    def branch(self, index: int, count: int) -> StochasticSite | None:
        """Return a module to insert at the end of a residual branch, by its index among `count` branches."""
        return None

    def penalty(self, w: Tensor, layout: Layout) -> Tensor | None:
        """Return a differentiable term of the objective, shape (), for w (P,)."""
        return None

    def gradient(self, g: Tensor, key: Key, step: int, layout: Layout) -> Tensor:
        """Return the changed gradient, (P,), at step 0, 1, ...; g includes penalties and must not be modified.

        Values and Hessian products do not change, so optimizers with needs_true_gradient refuse it.
        """
        return g

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        """Return the changed iterate after the step from `before`; both (..., P). w may be overwritten, before not.

        lr is a number or an (E, 1) column, or (..., P) if the optimizer has several learning rates.
        """
        return w

    def stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Return whether to stop the run, given the metrics of all evaluations so far, in order.

        In a run, history is a dlopt.parts.History, whose `fold` reads each evaluation once.
        """
        return False
