"""Decorrelation."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.linalg.pca import principal_axes, transform


@dataclass(frozen=True)
class Decorrelate:
    """y = U^T (x - mu),  with the covariance  C = U diag(lambda) U^T:  a rotation to the principal axes, no scaling.

    mu and C (divided by N) are those of the training split alone, computed in float64, each example as a vector of D
    numbers that comes back in its own shape. On it the covariance of y is diag(lambda), the largest variance first;
    distances between examples stay as they are. The axes of the loss surface of a linear layer then lie along the
    weights, which a rate for each weight can make use of; preprocess=whiten makes their curvatures equal, too.

    Cost: D^2 numbers that are kept with the run and each checkpoint, of the order of N D^2 + D^3 operations.

    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.3.
    """

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        mu, directions, _ = principal_axes(inputs)
        return {"mu": mu.to(inputs.dtype), "rotation": directions.to(inputs.dtype)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return transform(inputs, statistics["mu"], statistics["rotation"])
