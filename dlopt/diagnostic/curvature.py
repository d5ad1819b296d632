"""Eigenvalues of the Hessian: extremes, trace, condition and density."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.diagnostic import Bins, Columns, Histogram
from dlopt.base.layout import Layout
from dlopt.diagnostic._column_history import ColumnHistory
from dlopt.linalg.lanczos import tridiagonalize
from dlopt.parts import Diagnostic, Reading, StepRecord
from dlopt.ranges import Count

DECADES = range(-3, 4)
"""Powers of ten between the rows of the picture."""
LABELS = (
    *(f"> 1e{k}" for k in reversed(DECADES)),
    f"|x| < 1e{DECADES[0]}",
    *(f"< -1e{k}" for k in DECADES),
)
"""The rows of the picture, from large eigenvalues to negative ones."""
FEW = 0.1
"""A number of eigenvalues that counts as none."""


@dataclass(frozen=True)
class Curvature(Diagnostic):
    """Eigenvalues of the Hessian H of loss and penalties, on the mini-batch of the step and at the iterate before it.

        curvature/lambda_max            largest eigenvalue
        curvature/lambda_min            smallest eigenvalue
        curvature/gradient_share        |V'g|^2 / |g|^2, V the eigenvectors of the `top` largest eigenvalues
        curvature/trace                 sum of the eigenvalues
        curvature/trace_error           standard error of the trace; not for one probe
        curvature/condition             max |lambda| / min |lambda|
        curvature/negative_share        fraction of the eigenvalues that are negative
        histogram/curvature/density     estimated number of eigenvalues in each bucket, in TensorBoard, and on a
                                        logarithmic axis in the pictures of `dlopt show --png`
        curvature/spectrum              a picture: the logarithm of this number in powers of ten, over time

    All come from Lanczos processes from `probes` random vectors v with entries of 1 and -1, of k = `iterations` steps:
    Ritz values theta_i with weights tau_i, which sum to 1.

        trace             mean over v of v'Hv, P times the first diagonal entry of each process (Hutchinson)
        density           P / probes  sum over v, i of  tau_i  at theta_i, widened by one bucket in the histogram
        negative_share    1 / probes  sum over v, i of  tau_i, theta_i < -rounding

    What it can see: Ritz values lie inside the spectrum. Extreme ones are accurate to some percent if the eigenvalues
    there stand apart, as the outliers of a network do; diagnostic=sharpness follows the largest one more closely.
    If the eigenvectors have not converged, gradient_share is inaccurate, usually too small.

    What it cannot see: Ritz values inside the spectrum need not be near an eigenvalue. For a definite Hessian,
    condition is a lower bound of the condition number. For an indefinite one it is no bound: a Ritz value may be near
    zero where no eigenvalue is. With iterations >= P all Ritz values are eigenvalues, and the first
    three and condition are exact. negative_share has a random error; eigenvalues within rounding of zero do not count.

    iterations   Hessian products per random vector
    probes       random vectors
    top          dimension of the top eigenspace; that many outliers are usual for as many classes
    bins         buckets of the histogram
    columns      largest number of columns of the picture, as for diagnostic=gradient_flow

    Cost: iterations * probes Hessian products, one gradient, and the memory of `iterations` weight vectors.

    Measured on one core: 79 ms and 0.76 s, 1.4% and 2.0% of a run with the defaults (CNN of MNIST-1D, MLP of 1.9
    million weights).

    Slip: the Georgia Tech lecture has the condition number as smallest over largest eigenvalue; right: largest over
    smallest, of absolute values.

    Source: Ghorbani, Krishnan and Xiao 2019, An investigation into neural net optimization via Hessian eigenvalue
    density, section 2; Gur-Ari, Roberts and Dyer 2018, Gradient descent happens in a tiny subspace; Yao, Gholami,
    Keutzer and Mahoney 2020, PyHessian.
    """

    uses_curvature = True

    iterations: Count
    probes: Count
    top: Count
    bins: Bins
    columns: Columns

    def init(self, w: Tensor, layout: Layout) -> ColumnHistory:
        return ColumnHistory.start(w, len(LABELS), self.columns)

    def measure(self, record: StepRecord, memory: ColumnHistory) -> tuple[dict[str, Reading], ColumnHistory]:
        oracle, w = record.objective, record.before
        size, key = w.shape[-1], oracle.random_key("curvature")
        _, g = oracle.true_gradient(w)
        nodes, weights, traces = [], [], []
        share = torch.zeros_like(w[..., 0])
        for i in range(self.probes):
            start = prng.rademacher(prng.fold_in(key, i), (size,), w.device).to(w.dtype).expand_as(w)
            process = tridiagonalize(lambda v: oracle.hvp(w, v), start, self.iterations)
            if i == 0:
                top = process.ritz_pairs().vectors[..., -self.top :, :]
                parts = (top @ g.unsqueeze(-1)).squeeze(-1)
                size_of_g = g.square().sum(-1)
                share = torch.where(size_of_g > 0, parts.square().sum(-1) / size_of_g, 0.0)
            values, masses, _ = process.quadrature()
            nodes.append(values)
            weights.append(masses / self.probes)
            traces.append(size * process.alpha[..., 0])
        theta, tau, trace = torch.cat(nodes, -1), torch.cat(weights, -1), torch.stack(traces, -1)
        sizes = theta.abs()
        rounding = 10 * self.iterations * torch.finfo(w.dtype).eps * sizes.amax(-1, keepdim=True)
        tags: dict[str, Reading] = {
            "curvature/lambda_max": theta.amax(-1),
            "curvature/lambda_min": theta.amin(-1),
            "curvature/gradient_share": share,
            "curvature/trace": trace.mean(-1),
            "curvature/condition": sizes.amax(-1) / sizes.amin(-1),
            "curvature/negative_share": (tau * (theta < -rounding)).sum(-1),
            "histogram/curvature/density": Histogram.of_nodes(theta, size * tau, self.bins),
        }
        if self.probes > 1:
            tags["curvature/trace_error"] = trace.std(-1) / self.probes**0.5
        history = memory.add(_count_decades(theta, size * tau).clamp(min=FEW).log10(), record.step + 1)
        if picture := history.draw(LABELS, record.step + 1, "log10 of the number of eigenvalues"):
            tags["curvature/spectrum"] = picture
        return tags, history


def _count_decades(nodes: Tensor, masses: Tensor) -> Tensor:
    """Return the sum of masses, (..., n), at nodes, (..., n), in each row of LABELS."""
    edges = [10.0**k for k in DECADES]
    counts = [
        *((nodes > low) & (nodes <= high) for low, high in zip([*edges[::-1]], [math.inf, *edges[:0:-1]], strict=True)),
        nodes.abs() <= edges[0],
        *((-nodes > low) & (-nodes <= high) for low, high in zip(edges, [*edges[1:], math.inf], strict=True)),
    ]
    return torch.stack([(masses * inside).sum(-1) for inside in counts], -1)
