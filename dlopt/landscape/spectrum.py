"""The density of a symmetric matrix's eigenvalues, and its outliers, from products with vectors."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt import prng
from dlopt.linalg.conjugate_gradients import Product
from dlopt.linalg.diagonal import Estimate
from dlopt.linalg.lanczos import tridiagonalize
from dlopt.prng import Key
from dlopt.storage import memory

CONVERGED = 1e-2
"""Largest residual of an outlier, as a fraction of its size."""
FLAT = 1e-3
"""Eigenvalues below this fraction of the largest size count as zero."""
WIDTH = 1 / 250
"""Deviation of the Gaussian around each Ritz value, as a fraction of the range of eigenvalues."""
GRID = 2000
"""Points at which the density is computed."""
SHOWN = 12
"""Largest number of outliers in the text."""
CSV_HEADER = ("step", "vector", "ritz_value", "weight", "residual")


@dataclass(frozen=True)
class Spectrum:
    """What Lanczos processes from n random vectors tell about the eigenvalues of a matrix of size P, on the host.

    values     (n, k), Ritz values in ascending order: the nodes of Gauss quadratures of the density
    weights    (n, k), their weights, whose sum is 1 for each vector
    residuals  (n, k), an eigenvalue lies within this distance of the Ritz value
    trace      sum of the eigenvalues, with its standard error
    size       P
    checkpoint, step   the weights at which the matrix was taken
    """

    values: Tensor
    weights: Tensor
    residuals: Tensor
    trace: Estimate
    size: int
    checkpoint: str = ""
    step: int = 0

    def outliers(self) -> list[tuple[float, float]]:
        """Return the eigenvalues that stand apart at both ends, the largest in size first, with their residuals.

        From each end inwards, they are the Ritz values of the first vector whose residual is at most CONVERGED of their
        size, and whose distance to the next one is more than two widths of the density's kernel.
        """
        values, residuals = self.values[0], self.residuals[0]
        found: list[tuple[float, float]] = []
        for inwards in (range(len(values) - 1, 0, -1), range(len(values) - 1)):
            step = inwards.step
            for i in inwards:
                value, residual = values[i].item(), residuals[i].item()
                is_apart = abs(value - values[i + step].item()) > 2 * self.width
                if not is_apart or residual > CONVERGED * abs(value) or (value, residual) in found:
                    break
                found.append((value, residual))
        return sorted(found, key=lambda pair: -abs(pair[0]))

    @property
    def width(self) -> float:
        """Return the deviation of the density's kernel."""
        return WIDTH * ((self.values.max() - self.values.min()).item() or 1.0)

    def shares(self) -> tuple[float, float, float]:
        """Return the estimated fractions of eigenvalues that are negative, count as zero, and are positive."""
        flat = FLAT * self.values.abs().max()
        parts = (self.values < -flat, self.values.abs() <= flat, self.values > flat)
        negative, zero, positive = ((self.weights * part).sum(-1).mean().item() for part in parts)
        return negative, zero, positive

    def density(self) -> tuple[Tensor, Tensor]:
        """Return points of the real line and the density there, each Ritz value widened to a Gaussian."""
        width = self.width
        low, high = self.values.min().item() - 6 * width, self.values.max().item() + 6 * width
        grid = torch.linspace(low, high, GRID, dtype=self.values.dtype)
        z = (grid.unsqueeze(-1) - self.values.flatten()) / width
        kernel = (-z.square() / 2).exp() / (width * (2 * torch.pi) ** 0.5)
        return grid, kernel @ self.weights.flatten() / len(self.values)

    def peak_of_one(self) -> float:
        """Return the largest density of a single eigenvalue."""
        return 1 / (self.size * self.width * (2 * torch.pi) ** 0.5)


def estimate_spectrum(product: Product, like: Tensor, steps: int, vectors: int, key: Key) -> Spectrum:
    """Return the spectrum of A by stochastic Lanczos quadrature, from vectors * min(steps, P) products.

        density(t) = (1 / n) sum over vectors v, i of  tau_i^2 N(t; theta_i, width^2)

    theta_i are the Ritz values of a Lanczos process from a random vector v, tau_i the first entries of the eigenvectors
    of its tridiagonal matrix. The first step of each process also gives Hutchinson's estimate of the trace, v'Av for
    entries of 1 and -1. like, (P,), has the shape, type and device of the vectors. Raises NotEnoughMemoryError for the
    bases, which are held one at a time.

    Source: Ghorbani, Krishnan and Xiao 2019, An investigation into neural net optimization via Hessian eigenvalue
    density, section 2; Golub and Welsch 1969 for the quadrature.
    """
    size = len(like)
    k = min(steps, size)
    memory.check(k * size * like.element_size(), f"a Lanczos process of {k} steps on {size:,} weights")
    rows = []
    for i in range(vectors):
        start = prng.rademacher(prng.fold_in(key, i), (size,), like.device).to(like.dtype)
        process = tridiagonalize(product, start, k)
        values, weights, residuals = process.quadrature(torch.float64)
        residuals = residuals.clamp(min=torch.finfo(like.dtype).eps * values.abs().max())
        rows.append([x.double().cpu() for x in (values, weights, residuals, size * process.alpha[0])])
    values, weights, residuals, traces = (torch.stack(column) for column in zip(*rows, strict=True))
    error = traces.std() / vectors**0.5 if vectors > 1 else torch.tensor(torch.nan)
    return Spectrum(values, weights, residuals, Estimate(traces.mean(), error), size)


# ------------------------------------------------------------------------------------------- text


def format_spectrum(found: Spectrum) -> list[str]:
    """Return the lines of a text about a spectrum."""
    outliers = found.outliers()
    value, error = found.trace.value.item(), found.trace.error.item()
    uncertain = "" if math.isnan(error) else f" ± {error:.2g}"
    negative, flat, positive = found.shares()
    lines = [
        f"{found.checkpoint} checkpoint, step {found.step}",
        f"  largest {found.values.max().item():.6g}   smallest {found.values.min().item():.6g}   "
        f"trace {value:.5g}{uncertain}   mean {value / found.size:.3g}",
        f"  negative {negative:.1%}   below {FLAT:g} of the largest size {flat:.1%}   positive {positive:.1%}",
    ]
    if not outliers:
        return [*lines, "  no eigenvalue is known to stand apart; more --lanczos-steps may tell"]
    lines += ["", f"  {'outlier':>12}  {'residual':>8}"]
    lines += [f"  {value:>12.6g}  {residual:>8.1e}" for value, residual in outliers[:SHOWN]]
    more = len(outliers) - SHOWN
    return [*lines, f"  and {more} more"] if more > 0 else lines


def list_rows(spectra: Sequence[Spectrum]) -> Iterator[tuple[int | float, ...]]:
    """Yield the rows of a table of all Ritz values, with the columns of CSV_HEADER."""
    for found in spectra:
        for i in range(len(found.values)):
            columns = (x[i].tolist() for x in (found.values, found.weights, found.residuals))
            yield from ((found.step, i, *numbers) for numbers in zip(*columns, strict=True))
