"""Polynomial regression by Legendre polynomials."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt import prng
from dlopt.data import _drawn
from dlopt.parts import Data, Dataset, Split
from dlopt.ranges import Count, NonNegative


@dataclass(frozen=True)
class Polynomial(Data):
    """Noisy values of a polynomial, with the Legendre polynomials of a number as inputs.

        inputs (P_1(z), ..., P_d(z)),   y = P_1(z) + ... + P_D(z) + noise,   z ~ U[-1, 1),  d = degree,  D = true_degree

        P_0 = 1,   P_1 = z,   (k + 1) P_(k+1) = (2 k + 1) z P_k - k P_(k-1)

    The bias of arch=linear, which this option selects, stands for P_0. Least squares underfits for d < D. From D on it
    fits more and more of the noise, and at d + 1 = n, the number of training examples, it interpolates them with a very
    large test error. Beyond, the solution of minimum norm becomes better again: double descent. init=zeros and gradient
    descent lead to it. Powers of z in place of P_k have no second descent, since they are nearly dependent. Set
    validation.fraction=0 to train on all n. With n = 20 and noise=0.3, least squares has the test error 0.10 at d = 3,
    3e13 at d = 19 and 0.16 at d = 400.

    Test targets have noise, too: their squared error is at least noise^2 in the mean. The numbers z and their noise are
    the same for every seed and degree.

    degree        d, the number of inputs
    true_degree   D, the degree of the polynomial
    noise         standard deviation of the noise of the targets
    size          n, the number of training examples, of which some validate
    test_size     number of test examples
    path          has no effect: must be null

    Source: NYU lecture, figures 17 and 18; Belkin, Hsu, Ma and Mandal 2019 for double descent.
    """

    degree: Count
    true_degree: Count
    noise: NonNegative
    size: Count
    test_size: Count

    def load(self) -> Dataset:
        example_bytes = 32 * max(self.degree, self.true_degree)
        return _drawn.load_drawn(self, (self.size, self.test_size), example_bytes, self.draw, outputs=1)

    def draw(self, key: prng.Key, count: int) -> Split:
        z = 2.0 * prng.uniform(prng.fold_in(key, "places"), (count,)).double() - 1.0
        terms = compute_legendre(z, max(self.degree, self.true_degree))
        noise = prng.normal(prng.fold_in(key, "noise"), (count,)).double()
        y = terms[:, : self.true_degree].sum(-1) + self.noise * noise
        return Split(terms[:, : self.degree].float(), y.float().unsqueeze(-1))


def compute_legendre(z: Tensor, degree: int) -> Tensor:
    """Return the Legendre polynomials of degrees 1 to `degree`, (N, degree), of numbers (N,)."""
    before, current, terms = torch.ones_like(z), z, [z]
    for k in range(1, degree):
        before, current = current, ((2 * k + 1) * z * current - k * before) / (k + 1)
        terms.append(current)
    return torch.stack(terms, -1)
