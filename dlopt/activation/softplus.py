"""Softplus."""

from dataclasses import dataclass

from torch import nn

from dlopt.activation._quadrature import mean_square
from dlopt.ranges import Positive

_THRESHOLD = 40.0  # f(x) = x above this beta x; at torch's 20 it would jump by 2e-9, which float64 resolves


@dataclass(frozen=True)
class Softplus:
    """f(x) = log(1 + e^(beta x)) / beta, a smooth max(0, x), larger by at most log(2) / beta, at x = 0.

    Its derivative is the sigmoid of beta x, so no unit is ever dead. Its outputs are positive, like the sigmoid's. With
    z ~ N(0, 1) E[f(z)^2] is computed by quadrature, and the gain is one over its root: 1.0419 for beta = 1, and sqrt(2)
    for large beta, as for ReLU.

    beta   sharpness: the larger, the closer to ReLU

    Source: Dugas, Bengio, Belisle, Nadeau and Garcia 2001; Glorot, Bordes and Bengio 2011, section 3.1.
    """

    beta: Positive

    @property
    def gain(self) -> float:
        return mean_square(self()) ** -0.5

    def __call__(self) -> nn.Module:
        return nn.Softplus(self.beta, _THRESHOLD)
