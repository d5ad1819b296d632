"""Largest eigenvalue of the Hessian and the stability limit of the optimizer."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt import prng
from dlopt.linalg.lanczos import tridiagonalize
from dlopt.parts import Diagnostic, StepRecord
from dlopt.ranges import Count


@dataclass(frozen=True)
class Sharpness(Diagnostic):
    """Largest eigenvalue of the Hessian, and the value of it at which the optimizer becomes unstable.

        sharpness/lambda_max       largest eigenvalue of the Hessian H
        sharpness/preconditioned   largest eigenvalue of D^-1 H, for an optimizer that divides gradients by D
        sharpness/limit            stability limit of the optimizer: of the preconditioned sharpness if there is one

    H is of loss and penalties, on the mini-batch of the step and at the iterate before it. Limits, with lr and momentum
    of the step:

        sgd                           2 / lr
        momentum                      2 (1 + momentum) / ((1 - dampening) lr)
        nesterov                      2 (1 + momentum) / ((1 + 2 momentum) lr)
        adagrad                       2 / lr
        rmsprop, rmsprop_nesterov     as momentum without dampening, as nesterov
        adam, adamw, amsgrad          (2 + 2 beta1) / ((1 - beta1) lr), 38 / lr for beta1 = 0.9
        nadam                         (2 + 2 beta1) / ((a (1 - beta1) + b (1 + beta1)) lr) for the step -lr (a m + b g)

    An optimizer declares them in `stability_limit` and `preconditioner`. Others have no limit. With batch_size=full,
    the sharpness of gradient descent rises to the limit and stays there (edge of stability), with small batches it
    stays below.

    The first measurement starts Lanczos at a random vector, each further one at the last eigenvector. So the first
    values may be far too small, and later ones follow a slowly changing eigenvector with few products. Up to
    rounding, a value is a lower bound.

    iterations   Hessian products per eigenvalue and measurement

    Cost: `iterations` Hessian products, twice if there is a preconditioner; in memory and in checkpoints a vector of P
    numbers for each eigenvalue.

    Measured on one core: 30 ms and 0.24 s, 1.3% and 1.6% of a run with the defaults (CNN of MNIST-1D, MLP of 1.9
    million weights).

    Source: Cohen et al. 2021, Gradient descent on neural networks typically occurs at the edge of stability, also for
    momentum; Cohen et al. 2022, Adaptive gradient methods at the edge of stability, for preconditioners.
    """

    uses_curvature = True

    iterations: Count

    def measure(self, record: StepRecord, memory: Any) -> tuple[dict[str, Tensor], Any]:
        w, vectors = record.before, dict(memory or {})

        def product(v: Tensor) -> Tensor:
            return record.objective.hvp(w, v)

        tags = {"sharpness/lambda_max": self._follow(product, "hessian", record, vectors)}
        divisor = record.optimizer.preconditioner(record.state)
        if divisor is not None:
            scale = divisor.rsqrt()  # D^-1/2 H D^-1/2 is symmetric and has the eigenvalues of D^-1 H
            value = self._follow(lambda v: scale * product(scale * v), "preconditioned", record, vectors)
            tags["sharpness/preconditioned"] = value
        limit = record.optimizer.stability_limit(record.state)
        if limit is not None:
            tags["sharpness/limit"] = torch.zeros_like(w[..., :1]).add(limit).squeeze(-1)
        return tags, vectors

    def _follow(
        self, product: Callable[[Tensor], Tensor], name: str, record: StepRecord, vectors: dict[str, Tensor]
    ) -> Tensor:
        """Return the largest eigenvalue of a matrix, and replace its vector in `vectors`."""
        w = record.before
        start = vectors.get(name)
        if start is None:
            key = prng.fold_in(record.objective.random_key("sharpness"), name)
            start = prng.normal(key, w.shape[-1:], w.device).to(w.dtype).expand_as(w)
        pairs = tridiagonalize(product, start, self.iterations).ritz_pairs()
        top = pairs.vectors[..., -1, :]
        vectors[name] = torch.where(top.isfinite().all(-1, keepdim=True), top, start)  # else it would stay NaN
        return pairs.values[..., -1]
