"""Gaussian noise on gradients."""

from dataclasses import dataclass

from torch import Tensor

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.parts import Regularization
from dlopt.prng import Key
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class GradientNoise(Regularization):
    """g <- g + s n with s^2 = eta / (1 + t)^gamma and n ~ N(0, 1) for each entry, at the steps t = 0, 1, ...

    All entries get it, biases too, behind penalties and clipping: clip limits the gradient, not the noise. Every
    gradient of a step gets the same noise, so differences between them have none. Values and Hessian products are left
    as they are, and rules that compare gradients with them refuse it. The norm of the noise is s sqrt(P) for P
    weights, which may be far above that of the gradient at first.

    eta     variance at the first step; 0.01, 0.3 or 1 in the paper
    gamma   how fast it falls; 0.55 in the paper, 0: never

    Source: Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach and Martens 2015, equation 1.
    """

    eta: NonNegative
    gamma: NonNegative

    def gradient(self, g: Tensor, key: Key, step: int, layout: Layout) -> Tensor:
        s = (self.eta * (1.0 + step) ** -self.gamma) ** 0.5  # which becomes zero where the power itself would overflow
        return g + s * prng.normal(key, tuple(g.shape), g.device).to(g.dtype)
