"""Gaussian noise on weights."""

from dataclasses import dataclass

from torch import Tensor

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.parts import Regularization
from dlopt.prng import Key
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class WeightNoise(Regularization):
    """Gaussian noise on the weights of training.

        each step is evaluated at w + std n  with  n ~ N(0, 1) for each weight;  inference uses w

    The gradient is taken at the noisy weights and applied to w. Biases and normalization parameters are left out. One
    noise vector serves the mini-batch and every evaluation of a step. It favours flat minima: to second order, the mean
    loss grows by (std^2 / 2) times the trace of the Hessian.

    std   standard deviation of the noise, in units of the weights

    Source: Graves 2011, Practical variational inference for neural networks; Jim, Giles and Horne 1996; Goodfellow,
    Bengio and Courville 2016, section 7.5.
    """

    std: NonNegative

    def weights(self, w: Tensor, key: Key, layout: Layout) -> Tensor:
        noise = prng.normal(key, tuple(w.shape), w.device).to(w.dtype)
        return w + self.std * (noise * layout.kind_mask(w))
