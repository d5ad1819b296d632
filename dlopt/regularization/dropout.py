"""Dropout."""

from dataclasses import dataclass

from torch import Tensor

from dlopt import streams
from dlopt.parts import Regularization, Site
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class Dropout(Regularization):
    """In training each hidden unit is zero with probability p, else divided by 1 - p; inference uses all as they are.

    The division keeps the expectation of what the next layer receives, which is the same as scaling by the
    probability of keeping, 1 - p, at test time. Masks are a function of seed, step and place: a line search sees one
    fixed function.

    p   probability of dropping a unit

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, in the inverted form.
    """

    p: Fraction

    def module(self, site: int) -> Site:
        return Mask(self, site)


class Mask(Site):
    """The dropout of one place in a network."""

    rule: Dropout

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        dropped = streams.bernoulli(self.key(), self.rule.p, tuple(x.shape), x.device)
        return (x / (1.0 - self.rule.p)).masked_fill(dropped, 0.0)
