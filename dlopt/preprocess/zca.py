"""Zero-phase whitening."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.linalg.pca import inverse_roots, principal_axes, transform
from dlopt.parts import ChunkedPreprocess
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class ZCA(ChunkedPreprocess):
    """y = U diag(lambda + eps lambda_1)^(-1/2) U^T (x - mu),  with the covariance  C = U diag(lambda) U^T.

    This is preprocess=whiten rotated back by U: the whitening with the symmetric matrix C^(-1/2), and of all whitenings
    the one with the smallest mean squared distance to x - mu. Feature i stays close to feature i, and an image remains
    an image with sharper edges, so that convolutions still see neighbours.

    Each example is a vector of D numbers. mu and C (divided by N) are computed from the training split in float64.
    Directions without variance in training, and constant features, become 0. eps matters for images, whose smallest
    variances are noise: they are multiplied by at most 1 / (sqrt(eps) sigma_1), with the largest standard deviation
    sigma_1.

    eps   added to each variance, relative to the largest one: so it does not depend on units

    Cost: O(N D^2 + D^3) operations, and D^2 numbers in the run and each checkpoint.

    Source: Bell and Sejnowski 1997; Krizhevsky 2009, appendix A; nearest: Kessy, Lewin and Strimmer
    2018.
    """

    eps: NonNegative

    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        mu, directions, variances = principal_axes(chunks)
        whitening = (directions * inverse_roots(variances, self.eps)) @ directions.mT
        return {"mu": mu, "whitening": whitening}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return transform(inputs, statistics["mu"], statistics["whitening"])
