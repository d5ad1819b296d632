"""The max-norm constraint."""

from dataclasses import dataclass

from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import clip_factor
from dlopt.parts import Regularization
from dlopt.ranges import Positive


@dataclass(frozen=True)
class MaxNorm(Regularization):
    """Max-norm constraint on the incoming weights w_u of each unit: w_u <- w_u min(1, limit / |w_u|) after each step.

    A unit of a linear layer has a row of the matrix, one of a convolution, transposed or not, the kernels of all its
    input channels. For any other module, the first dimension of a weight counts the units. Biases and normalization
    parameters are left out. Within the limit the projection changes nothing. The state of the optimizer, such as
    velocities, does not change. The initial weights are projected after the first step.

    limit   c, the maximum Euclidean norm; 3 or 4 in the paper

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, section 5.1; Srebro and Shraibman 2005.
    """

    limit: Positive

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        limit = self.limit[..., None, None] if isinstance(self.limit, Tensor) else self.limit  # (E, 1, 1, 1)
        for p in layout:
            if p.kind == "weight":
                weights = p.split_units(w[..., p.slice])
                factors = clip_factor(weights.transpose(-3, -2).flatten(-2), limit)  # (..., groups, units, 1)
                weights.mul_(factors.unsqueeze(-3))
        return w
