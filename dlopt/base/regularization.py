"""Regularizations, and the places in a network where they draw random numbers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from torch import Tensor, nn

from dlopt.base.data import TargetKind
from dlopt.base.group import Group
from dlopt.base.layout import Layout
from dlopt.prng import Key, fold_in


class StochasticSite(nn.Module):
    """A place in a network where a regularization draws random numbers; rule and key are set before each evaluation.

    The key is the step's own, folded with the site's address: the same masks at every evaluation of a step.
    """

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
        """The key of this call: a module that is used several times in one evaluation draws anew each time."""
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
    """Anything that works against over-fitting, at whichever of these places it works; each default does nothing.

    kinds names the kinds of targets that it can work on.
    """

    kinds: ClassVar[tuple[TargetKind, ...]] = ("classes", "numbers")

    @property
    def mixes(self) -> bool:
        """Whether `targets` mixes those of classes, and must get probabilities, as an augmentation that mixes does."""
        return False

    @property
    def needs_lr(self) -> bool:
        """Whether `after` changes the iterate in proportion to lr, which not every rule has."""
        return False

    def inputs(self, inputs: Tensor, key: Key) -> Tensor:
        """Changes the inputs of a training evaluation."""
        return inputs

    def inference(self, inputs: Tensor) -> Tensor:
        """What inference does to the inputs in place of `inputs`; nothing random."""
        return inputs

    def targets(self, targets: Tensor) -> Tensor:
        """Changes the targets of a training evaluation: (B,), (B, outputs) of numbers, or of probabilities."""
        return targets

    def weights(self, w: Tensor, key: Key, layout: Layout) -> Tensor:
        """Changes the weights, (P,), at which a training evaluation is made."""
        return w

    def module(self, site: int) -> StochasticSite | None:
        """A module to put behind a hidden layer."""
        return None

    def penalty(self, w: Tensor, layout: Layout) -> Tensor | None:
        """A differentiable term of the objective, shape (), for w (P,)."""
        return None

    def gradient(self, g: Tensor, key: Key, step: int, layout: Layout) -> Tensor:
        """Changes the gradient, (P,), that a rule gets at the step numbered 0, 1, ...; penalties are in it. g is kept.

        Values and Hessian products are left as they are: a rule that compares them with gradients refuses it.
        """
        return g

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        """Changes the iterate after the rule's step from `before`; both (..., P). w may be overwritten, before not."""
        return w

    def stop(self, history: Sequence[Mapping[str, float]]) -> bool:
        """Whether to end the run, given the metrics of every evaluation so far, in order."""
        return False
