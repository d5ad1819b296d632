"""The sigmoid-weighted linear unit."""

from dataclasses import dataclass

import torch.nn.functional as F
from torch import nn

from dlopt.activation._quadrature import mean_square


@dataclass(frozen=True)
class SiLU:
    """f(x) = x sigmoid(x) = x / (1 + e^-x), also known as swish with beta = 1.

    It is smooth and not monotone: its minimum is -0.278, at x = -1.278.
    With z ~ N(0, 1) E[f(z)^2] = 0.35578, by quadrature, hence the gain 1.6765, one over its root.

    Source: Elfwing, Uchibe and Doya 2018; Hendrycks and Gimpel 2016; swish: Ramachandran, Zoph and Le 2017.
    """

    @property
    def gain(self) -> float:
        return mean_square(F.silu) ** -0.5

    def __call__(self) -> nn.Module:
        return nn.SiLU()
