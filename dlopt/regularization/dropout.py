"""Dropout."""

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from dlopt import prng
from dlopt.parts import Regularization, StochasticSite
from dlopt.prng import Key
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class Dropout(Regularization):
    """In training hidden units are zero with probability p, and inputs with another, anew for each example and step.

        scale=train   training h <- m h / (1 - p),  inference h as it is
        scale=test    training h <- m h,            inference h <- (1 - p) h

    with m = 0 with probability p, else 1, for each unit of each example.
    Either way the next layer receives in inference what it received in training on average. Both are the same family of
    networks: with weights multiplied by 1 - p behind each place where units are dropped, scale=train computes what
    scale=test computes; but steps of the same size, and the same init, mean something else. Masks are a function of
    seed, step and place: a line search sees one fixed function. (The paper's p is the probability of keeping.)

    p       probability of dropping a hidden unit
    input   the same of an input; 0.2 is usual, 0 leaves inputs alone
    scale   when the scale is made up for: train (inverted dropout, as everybody has it today) or test (as in the paper)

    Slip: the NYU lecture scales by the dropout probability at test time; right is the probability of keeping, 1 - p.

    Slip: the CMU and KTH lectures drop parameters; dropout drops units, all weights that leave one at once, and what
    drops single weights is DropConnect.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, section 4; section 10 for scale=train.
    """

    p: Fraction
    input: Fraction
    scale: Literal["train", "test"]

    def inputs(self, inputs: Tensor, key: Key) -> Tensor:
        return self.drop_units(inputs, self.input, key) if self._drops_inputs else inputs

    def inference(self, inputs: Tensor) -> Tensor:
        return self.scale_units(inputs, self.input) if self._drops_inputs else inputs

    def module(self, site: int) -> StochasticSite:
        return DropoutSite(self, site)

    @property
    def _drops_inputs(self) -> bool:
        """Inputs that are left alone cost nothing, and may be whole numbers."""
        return isinstance(self.input, Tensor) or self.input > 0.0

    def drop_units(self, x: Tensor, p: float, key: Key) -> Tensor:
        """x in training."""
        scaled = x if self.scale == "test" else x / (1.0 - p)
        return scaled.masked_fill(prng.bernoulli(key, p, tuple(x.shape), x.device), 0.0)

    def scale_units(self, x: Tensor, p: float) -> Tensor:
        """x in inference."""
        return x if self.scale == "train" else x * (1.0 - p)


class DropoutSite(StochasticSite):
    """The dropout of one place in a network."""

    regularization: Dropout

    def forward(self, x: Tensor) -> Tensor:
        return (
            self.regularization.drop_units(x, self.regularization.p, self.next_key())
            if self.training
            else self.regularization.scale_units(x, self.regularization.p)
        )
