"""Dropout."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.sequences import SERIES
from dlopt.linalg.inplace import is_positive
from dlopt.parts import Regularization, StochasticSite
from dlopt.prng import Key
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class Dropout(Regularization):
    """Dropout: sets hidden units to zero with probability p in training, and inputs with another probability.

        scale=train   training h <- m h / (1 - p),  inference h
        scale=test    training h <- m h,            inference h <- (1 - p) h

    m is drawn for each unit of each example at each step: 0 with probability p, else 1. (The paper's p is the
    probability of keeping a unit.) In both forms the next layer receives on average the same in inference and training.
    They describe the same family of networks, with weights multiplied by 1 - p after each dropout, but steps and
    initial weights of the same size differ in effect. Masks are a function of seed, step and position, so a line search
    sees one function.

    p       probability of dropping a hidden unit
    input   probability of dropping an input; 0.2 is usual, 0 leaves inputs unchanged
    scale   train (inverted dropout, the usual form) or test (as in the paper)

    Slip: the NYU lecture scales by the dropout probability at test time; right is the probability of keeping, 1 - p.

    Slip: the CMU and KTH lectures drop parameters; dropout drops units, all weights that leave one at once. Dropping
    single weights is DropConnect.

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, section 4; section 10 for scale=train.
    """

    p: Fraction
    input: Fraction
    scale: Literal["train", "test"]

    def inputs(self, inputs: Tensor, key: Key) -> Tensor:
        if not self._drops_inputs:
            return inputs
        dropped = self.drop_units(inputs, self.input, key)
        return torch.where(inputs.isnan(), inputs, dropped) if inputs.ndim == SERIES else dropped  # NaN is padding

    def inference(self, inputs: Tensor) -> Tensor:
        return self.scale_units(inputs, self.input) if self._drops_inputs else inputs

    def module(self, site: int) -> StochasticSite:
        return DropoutSite(self, site)

    @property
    def _drops_inputs(self) -> bool:
        """Return whether inputs change; if they do not, they may be integers."""
        return is_positive(self.input)

    def drop_units(self, x: Tensor, p: float, key: Key) -> Tensor:
        """Drop units of x, as in training."""
        scaled = x if self.scale == "test" else x / (1.0 - p)
        return scaled.masked_fill(prng.bernoulli(key, p, tuple(x.shape), x.device), 0.0)

    def scale_units(self, x: Tensor, p: float) -> Tensor:
        """Scale x, as in inference."""
        return x if self.scale == "train" else x * (1.0 - p)


class DropoutSite(StochasticSite):
    """Dropout at one site of a network."""

    regularization: Dropout

    def forward(self, x: Tensor) -> Tensor:
        rule = self.regularization
        return rule.drop_units(x, rule.p, self.next_key()) if self.training else rule.scale_units(x, rule.p)
