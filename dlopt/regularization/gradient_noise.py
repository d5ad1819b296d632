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
    """Gaussian noise on gradients, with a variance that falls over time.

        g <- g + s n  with  s^2 = eta / (1 + t)^gamma,  n ~ N(0, 1) for each entry,  t = 0, 1, ... in steps

    The noise is added to all entries, including biases, after penalties and clipping. All gradients of a step get the
    same noise. Values and Hessian products have none, so optimizers that compare gradients with them cannot be used.
    The norm of the noise is s sqrt(P) for P weights, which may be far above that of the gradient at first.

    eta     variance at the first step; 0.01, 0.3 or 1 in the paper
    gamma   exponent of the decay; 0.55 in the paper, 0: constant

    Source: Neelakantan, Vilnis, Le, Sutskever, Kaiser, Kurach and Martens 2015, equation 1.
    """

    eta: NonNegative
    gamma: NonNegative

    def gradient(self, g: Tensor, key: Key, step: int, layout: Layout) -> Tensor:
        s = (self.eta * (1.0 + step) ** -self.gamma) ** 0.5  # zero where (1 + t)^gamma would overflow
        return g + s * prng.normal(key, tuple(g.shape), g.device).to(g.dtype)
