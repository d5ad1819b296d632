"""Zero-phase whitening."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.linalg.pca import inverse_roots, principal_axes, transform
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class ZCA:
    """y = U diag(lambda + eps lambda_1)^(-1/2) U^T (x - mu),  with the covariance  C = U diag(lambda) U^T.

    It is preprocess=whiten turned back by U: the whitening whose matrix is symmetric, C^(-1/2), and of all whitenings
    the one whose result lies nearest to x - mu, in mean square. So feature i remains about feature i, and an image an
    image, with its edges sharpened: convolutions still see neighbours.

    mu and C (divided by N) are those of the training split alone, computed in float64, each example as a vector of D
    numbers. Directions in which it does not vary become 0, a constant feature too. eps matters for images, whose
    smallest variances are noise: they are multiplied by 1 / (sqrt(eps) sigma_1) at most, sigma_1 the largest deviation.

    eps   added to each variance, as a share of the largest: so the units do not matter

    Cost: D^2 numbers that are kept with the run and each checkpoint, of the order of N D^2 + D^3 operations.

    Source: Bell and Sejnowski 1997; Krizhevsky 2009, appendix A; nearest: Kessy, Lewin and Strimmer
    2018.
    """

    eps: NonNegative

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        mu, directions, variances = principal_axes(inputs)
        whitening = (directions * inverse_roots(variances, self.eps)) @ directions.mT
        return {"mu": mu.to(inputs.dtype), "whitening": whitening.to(inputs.dtype)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return transform(inputs, statistics["mu"], statistics["whitening"])
