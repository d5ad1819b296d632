"""Decorrelation."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.linalg.pca import principal_axes, transform
from dlopt.parts import ChunkedPreprocess


@dataclass(frozen=True)
class Decorrelate(ChunkedPreprocess):
    """y = U^T (x - mu),  with the covariance  C = U diag(lambda) U^T:  a rotation to the principal axes, no scaling.

    Each example is a vector of D numbers and keeps its shape. mu and C (divided by N) are computed from the training
    split in float64. On this split, the covariance of y is diag(lambda), the largest variance first; distances
    between examples do not change. The axes of a linear layer's loss surface then align with its weights, which
    helps optimizers with a learning rate per weight; preprocess=whiten also equalizes the curvatures.

    Cost: O(N D^2 + D^3) operations, and D^2 numbers in the run and each checkpoint.

    Source: LeCun, Bottou, Orr and Mueller 1998, "Efficient BackProp", section 4.3.
    """

    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        mu, directions, _ = principal_axes(chunks)
        return {"mu": mu, "rotation": directions}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return transform(inputs, statistics["mu"], statistics["rotation"])
