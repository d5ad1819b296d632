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

    A unit of a linear layer has a row of the matrix, one of a convolution the kernels of all its input channels. For
    any other module, the first dimension of a weight counts the units. Biases and normalization parameters are left
    out. Within the limit the projection changes nothing. The state of the optimizer, such as velocities, does not
    change. The initial weights are projected after the first step.

    limit   c, the maximum Euclidean norm; 3 or 4 in the paper

    Source: Srivastava, Hinton, Krizhevsky, Sutskever and Salakhutdinov 2014, section 5.1; Srebro and Shraibman 2005.
    """

    limit: Positive

    def after(self, w: Tensor, before: Tensor, lr: float | Tensor, layout: Layout) -> Tensor:
        limit = self.limit.unsqueeze(-1) if isinstance(self.limit, Tensor) else self.limit  # (E, 1, 1)
        for p in layout:
            if p.kind == "weight":
                units = w[..., p.slice].unflatten(-1, (p.shape[0], -1))
                units.mul_(clip_factor(units, limit))
        return w
