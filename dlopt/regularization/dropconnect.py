"""DropConnect."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.parts import Regularization
from dlopt.prng import Key
from dlopt.ranges import Fraction


@dataclass(frozen=True)
class DropConnect(Regularization):
    """In training w_i <- m_i w_i / (1 - p), where m_i = 0 with probability p, else 1; inference uses w as it is.

    Biases and normalization parameters are left out. One mask serves the whole mini-batch, at every evaluation of a
    step; the paper draws one for each example, which costs a network for each. The gradient is that at the weights that
    are left: those that are dropped get none but the penalties'. Inference with the mean weights is what dropout does;
    the paper draws from a normal distribution fitted to the inputs of each unit.

    p   probability of dropping a weight

    Slip: the CMU and KTH lectures call it dropout to drop parameters; that is DropConnect, dropout drops units.

    Source: Wan, Zeiler, Zhang, LeCun and Fergus 2013, section 3, inverted as dropout is.
    """

    p: Fraction

    def weights(self, w: Tensor, key: Key, layout: Layout) -> Tensor:
        left = (w / (1.0 - self.p)).masked_fill(prng.bernoulli(key, self.p, tuple(w.shape), w.device), 0.0)
        return torch.where(layout.weight_mask(w) > 0, left, w)
