"""Whitening by principal components."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.linalg.pca import inverse_roots, principal_axes, transform
from dlopt.parts import ChunkedPreprocess
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Whiten(ChunkedPreprocess):
    """y = diag(lambda + eps lambda_1)^(-1/2) U^T (x - mu),  with the covariance  C = U diag(lambda) U^T.

    Each example is a vector of D numbers and keeps its shape. mu and C = E[(x - mu)(x - mu)^T] (divided by N) are
    computed from the training split in float64. On this split, the features of y are uncorrelated with variances
    lambda_i / (lambda_i + eps lambda_1), which is 1 for eps = 0. They are principal components, the largest variance
    lambda_1 first, and not pixels: for convolutions, use preprocess=zca, which keeps the image.

    A direction without variance in training becomes 0, since its scale would be arbitrary in other examples; there is
    one whenever N <= D. Directions of small variance are multiplied by at most 1 / (sqrt(eps) sigma_1), with the
    largest standard deviation sigma_1. For features with different units: preprocess=[standardize,whiten].

    eps   added to each variance, relative to the largest one: so it does not depend on units

    Cost: O(N D^2 + D^3) operations, and D^2 numbers in the run and each checkpoint.

    Slip: the NYU lecture says that whitening and decorrelation are not applied to images. Data sets of small images
    have been whitened, as in the source; for large images D^2 is prohibitive.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images", appendix A; Kessy, Lewin and
    Strimmer 2018, where it is PCA whitening.
    """

    eps: NonNegative

    def compute_statistics(self, chunks: Iterable[Tensor]) -> dict[str, Tensor]:
        mu, directions, variances = principal_axes(chunks)
        whitening = directions * inverse_roots(variances, self.eps)
        return {"mu": mu, "whitening": whitening}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return transform(inputs, statistics["mu"], statistics["whitening"])
