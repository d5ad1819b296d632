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
    """DropConnect: sets weights to zero at random in training.

        w_i <- m_i w_i / (1 - p)  with  m_i = 0 with probability p, else 1;  inference uses w

    Biases and normalization parameters are left out. One mask serves the whole mini-batch and every evaluation of a
    step; the paper draws one for each example. Dropped weights get only the gradient of penalties. Inference with the
    mean weights is the approximation of dropout; the paper samples from a normal fitted to the inputs of each unit.

    p   probability of dropping a weight

    Slip: the CMU and KTH lectures call dropping parameters dropout; that is DropConnect, dropout drops units.

    Source: Wan, Zeiler, Zhang, LeCun and Fergus 2013, section 3, with the scaling of inverted dropout.
    """

    p: Fraction

    def weights(self, w: Tensor, key: Key, layout: Layout) -> Tensor:
        left = (w / (1.0 - self.p)).masked_fill(prng.bernoulli(key, self.p, tuple(w.shape), w.device), 0.0)
        return torch.where(layout.kind_mask(w) > 0, left, w)
