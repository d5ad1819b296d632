"""The max-norm constraint."""

from dataclasses import dataclass

from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import clip_factor
from dlopt.parts import Regularization
from dlopt.ranges import Positive


@dataclass(frozen=True)
class MaxNorm(Regularization):
    """After each step w_u <- w_u min(1, limit / |w_u|) for the weights w_u that come into each unit.

    A unit of a linear layer has a row of its matrix, one of a convolution the kernels of all channels that come in; of
    a weight of any other module the first dimension counts the units. Biases and normalization parameters are left out.
    It is a projection: within the limit nothing pulls at the weights, and whatever the rate, they do not leave it. The
    rule is not told: velocities are as they were. The initial weights are left as they are until the first step.

    limit   c, the largest Euclidean norm; 3 or 4 in the paper

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, section 5.1; Srebro and Shraibman 2005.
    """

    limit: Positive

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        limit = self.limit.unsqueeze(-1) if isinstance(self.limit, Tensor) else self.limit  # of (E, units, weights)
        for p in layout:
            if p.kind == "weight":
                units = w[..., p.slice].unflatten(-1, (p.shape[0], -1))
                units.mul_(clip_factor(units, limit))
        return w
