"""Whitening by principal components."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from dlopt.linalg.pca import inverse_roots, principal_axes, transform
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Whiten:
    """y = diag(lambda + eps lambda_1)^(-1/2) U^T (x - mu),  with the covariance  C = U diag(lambda) U^T.

    Each example counts as a vector of D numbers and comes back in its own shape; mu and C = E[(x - mu)(x - mu)^T]
    (divided by N) are those of the training split alone, computed in float64. On it the features of y are uncorrelated,
    with variances lambda_i / (lambda_i + eps lambda_1): one, but for what eps takes. They are principal components, the
    one of the largest variance lambda_1 first, and no pixels: for convolutions preprocess=zca keeps the picture.

    A direction in which the training split does not vary, as there always is one when N <= D, becomes 0: its share of
    other examples would be multiplied by any number. Small variances are multiplied by 1 / (sqrt(eps) sigma_1) at most,
    sigma_1 the largest deviation. Where features have different units: preprocess=[standardize,whiten].

    eps   added to each variance, as a share of the largest: so the units do not matter

    Cost: D^2 numbers that are kept with the run and each checkpoint, of the order of N D^2 + D^3 operations.

    Slip: The NYU lecture says that whitening and decorrelation are not applied to images; of small ones whole data sets
    were whitened, as in the source. What forbids it for large ones is D^2.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images", appendix A; Kessy, Lewin and
    Strimmer 2018, where it is PCA whitening.
    """

    eps: NonNegative

    def fit(self, inputs: Tensor) -> dict[str, Tensor]:
        mu, directions, variances = principal_axes(inputs)
        whitening = directions * inverse_roots(variances, self.eps)
        return {"mu": mu.to(inputs.dtype), "whitening": whitening.to(inputs.dtype)}

    def apply(self, inputs: Tensor, statistics: Mapping[str, Tensor]) -> Tensor:
        return transform(inputs, statistics["mu"], statistics["whitening"])
