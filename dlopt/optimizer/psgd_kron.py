"""PSGD with Kronecker factors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.layout import Layout, Parameter
from dlopt.linalg.inplace import axpy_
from dlopt.optimizer._adam import bias_correction
from dlopt.optimizer._kronecker import align
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, Fraction, Positive, Probability


class PSGDKronState(NamedTuple):
    m: Tensor  # (..., P), average of g
    factors: Tensor  # (..., K), Q of each side of each parameter, one after the other
    t: int  # steps taken, on the host, which has to know when an update is due
    waited: int  # steps since the last update of the factors


class Side(NamedTuple):
    """A side of a parameter: the slice of its factor, n x n, or n x 1 for the diagonal of one."""

    place: slice
    shape: tuple[int, int]


class Factored(NamedTuple):
    """A parameter as a matrix, with a factor of the rows, and one of the columns if it is no vector."""

    place: slice
    shape: tuple[int, int]
    sides: tuple[Side, ...]

    def view(self, x: Tensor) -> Tensor:
        """Return the view of x, (..., P), as this matrix."""
        return x[..., self.place].unflatten(-1, self.shape)

    def select_factors(self, factors: Tensor) -> list[Tensor]:
        """Return the views of the factors of its sides."""
        return [factors[..., side.place].unflatten(-1, side.shape) for side in self.sides]


@dataclass(frozen=True)
class PSGDKron(Optimizer):
    """PSGD: preconditioned SGD, here with Kronecker factors, for each weight matrix W (out x in).

        M <- momentum M + (1 - momentum) G,  M^ = M / (1 - momentum^t)
        A = Ql M^ Qr',  B = Ql^-T Z Qr^-1,  Z ~ N(0, 1)
        Ql <- Ql - mu triu(A A' - B B') Ql / |A A' + B B'|,  Qr <- Qr - mu triu(A' A - B' B) Qr / |A' A + B' B|
        U = Ql' Ql M^ Qr' Qr,  W <- W - lr U min(1, max_rms / rms(U))

    The preconditioner P = Q' Q, with Q = Qr kron Ql, minimizes E[g' P g + z' P^-1 z]: then P E[g g'] P = I, so that it
    whitens the gradient. Ql and Qr are upper triangular, and each update is a step of relative size mu on their group:
    no inverse and no decomposition is computed. | | is a lower bound of the spectral norm from one step of the power
    method, from the longest row. A side that is longer than max_size, and a vector such as a bias, have a diagonal Q.
    Kernels of a convolution are matrices of shape out x (in * field).

    Each of the first full_updates steps updates the factors. Then the interval is exp((t - full_updates) / growth),
    at most max_interval steps: a fitted preconditioner changes slowly.

    lr                learning rate: updates are whitened, so it is about the root mean square of a step
    momentum          decay of the average of gradients, of which P is fitted
    precondition_lr   mu, the relative size of a step of the factors
    init_scale        Q is init_scale I at first, its root for each of two factors
    max_size          largest side with a triangular factor
    max_rms           largest root mean square of the update U of a parameter; larger ones are scaled down
    full_updates      steps with an update of the factors each
    growth            steps in which the interval between updates grows by the factor e
    max_interval      largest number of steps between two updates

    Departures: the public implementation has a factor for each dimension of a kernel. It updates at the frequency that
    is here the inverse of the interval, 0.03 at least. It balances the largest entries of Ql and Qr at random steps;
    here they are balanced at every 100th step, which changes nothing but the range of numbers.

    Cost: about ten products of each matrix with its factors in a step with an update, two in others; zeros of
    triangular factors are left out by blocks of rows.

    Source: Li 2018; Pooladzandi and Li 2024; learning rate, limits and intervals: kron_torch.
    """

    lr: Positive
    momentum: Fraction
    precondition_lr: Probability
    init_scale: Positive
    max_size: Count
    max_rms: Positive
    full_updates: Count
    growth: Count
    max_interval: Count

    def init(self, w: Tensor, layout: Layout) -> PSGDKronState:
        factors = []
        for p in self._list_parameters(layout):
            for side in p.sides:
                n, columns = side.shape
                identity = torch.eye(n) if columns > 1 else torch.ones(n, 1)
                factors.append(identity.flatten().to(w) * self.init_scale ** (1 / len(p.sides)))
        stacked = torch.cat(factors, -1)
        return PSGDKronState(torch.zeros_like(w), stacked.expand(*w.shape[:-1], -1).clone().to(w.dtype), 0, 0)

    def step(self, w: Tensor, state: PSGDKronState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        parameters = self._list_parameters(objective.layout)
        m, factors, before, waited = state
        mean = m.lerp_(g, 1 - self.momentum) / bias_correction(self.momentum, before + 1)
        waited += 1
        if waited >= self._get_interval(before):
            noise = prng.normal(objective.random_key("psgd_kron"), w.shape[-1:], w.device).to(w.dtype).expand_as(w)
            for p in parameters:
                update_factors_(p.select_factors(factors), p.view(mean), p.view(noise), self.precondition_lr)
            waited = 0
        if before % BALANCE_EVERY == 0:
            for p in parameters:
                balance_(p.select_factors(factors))
        for p in parameters:
            u = precondition(p.select_factors(factors), p.view(mean)).flatten(-2)
            rms = u.square().mean(-1, keepdim=True).sqrt()
            axpy_(w[..., p.place], -self.lr, u * (self.max_rms / (rms + 1e-6)).clamp(max=1.0))
        return Step(w, PSGDKronState(m, factors, before + 1, waited), loss, g)

    def _get_interval(self, t: int) -> float:
        """Return the number of steps between two updates after t steps."""
        return math.exp(min(max(t - self.full_updates, 0) / self.growth, math.log(self.max_interval)))

    def _list_parameters(self, layout: Layout) -> list[Factored]:
        parameters: list[Factored] = []
        start = 0
        for p in layout:
            parameters.append(self._factor(p, start))
            start = parameters[-1].sides[-1].place.stop
        return parameters

    def _factor(self, p: Parameter, start: int) -> Factored:
        """Return a parameter with its sides, whose factors begin at `start`."""
        rows = p.shape[0] if p.shape else 1
        shape = rows, p.size // rows
        sides: list[Side] = []
        for n in shape if len(p.shape) > 1 else shape[:1]:
            columns = n if n <= self.max_size and len(p.shape) > 1 else 1
            sides.append(Side(slice(start, start + n * columns), (n, columns)))
            start += n * columns
        return Factored(p.slice, shape, tuple(sides))


def precondition(factors: Sequence[Tensor], x: Tensor) -> Tensor:
    """Return Ql' Ql X Qr' Qr for matrices X, (..., rows, columns)."""
    for k, q in enumerate(factors):
        x = _flip(_multiply_transposed(q, _multiply(q, _flip(x, k))), k)
    return x


def update_factors_(factors: Sequence[Tensor], m: Tensor, z: Tensor, mu: float | Tensor) -> None:
    """Take a step of relative size mu on the factors of matrices, (..., rows, columns), for gradients m and noise z."""
    a, b = m, z
    for k, q in enumerate(factors):
        a, b = _flip(_multiply(q, _flip(a, k)), k), _flip(_solve(q, _flip(b, k)), k)
    for k, q in enumerate(factors):
        ours, others = _flip(a, k), _flip(b, k)
        if q.shape[-1] == 1:
            plus, minus = (x.square().sum(-1, keepdim=True) for x in (ours, others))
            bound = (plus + minus).amax(-2, keepdim=True)
            q.sub_((plus - minus) * q * (align(mu, q) / (bound + TINY)))
        else:
            plus, minus = ours @ ours.mT, others @ others.mT
            bound = bound_spectral_norm(plus + minus)
            change = (plus - minus).triu_().mul_(align(mu, q) / (bound + TINY))
            for at in _split_rows(q):  # from above: a row depends on those below it
                q[..., at, at.start :].sub_(change[..., at, at.start :] @ q[..., at.start :, at.start :])


def bound_spectral_norm(a: Tensor) -> Tensor:
    """Return lower bounds, (..., 1, 1), of the spectral norms of symmetric matrices: a power step from the longest row.

    Source: X.-L. Li, psgd_torch, norm_lower_bound.
    """
    scale = a.abs().amax((-2, -1), keepdim=True).clamp(min=TINY)
    a = a / scale
    longest = a.square().sum(-1).argmax(-1)[..., None, None]
    x = torch.take_along_dim(a, longest, dim=-2) @ a
    x = x / torch.linalg.vector_norm(x, dim=-1, keepdim=True).clamp(min=TINY)
    return scale * torch.linalg.vector_norm(x @ a, dim=-1, keepdim=True)


def balance_(factors: Sequence[Tensor]) -> None:
    """Give the two factors of a matrix the same largest entry, without changing their product."""
    if len(factors) == 2:
        left, right = (q.abs().amax((-2, -1), keepdim=True) for q in factors)
        factors[0].mul_((right / left).sqrt())
        factors[1].mul_((left / right).sqrt())


def _multiply(q: Tensor, x: Tensor) -> Tensor:
    """Return Q X, for an upper triangular factor (..., n, n) or the diagonal of one, (..., n, 1)."""
    if q.shape[-1] != q.shape[-2]:
        return q * x
    return torch.cat([q[..., at, at.start :] @ x[..., at.start :, :] for at in _split_rows(q)], dim=-2)


def _multiply_transposed(q: Tensor, x: Tensor) -> Tensor:
    """Return Q' X."""
    if q.shape[-1] != q.shape[-2]:
        return q * x
    return torch.cat([q.mT[..., at, : at.stop] @ x[..., : at.stop, :] for at in _split_rows(q)], dim=-2)


def _split_rows(q: Tensor) -> list[slice]:
    """Return blocks of the rows of a triangular matrix: products then leave out most of its zeros."""
    n = q.shape[-1]
    return [slice(i, min(i + ROWS, n)) for i in range(0, n, ROWS)]


def _solve(q: Tensor, x: Tensor) -> Tensor:
    """Return Q^-T X."""
    return torch.linalg.solve_triangular(q.mT, x, upper=False) if q.shape[-1] == q.shape[-2] else x / q


def _flip(x: Tensor, k: int) -> Tensor:
    """Return matrices with side k as their rows."""
    return x.mT if k else x


ROWS = 128
"""Rows of a block of a triangular matrix."""
BALANCE_EVERY = 100
"""Steps between two balances."""
TINY = 1e-38
"""Number that keeps divisions finite in float32; a factor of a parameter without gradients grows until it counts."""
