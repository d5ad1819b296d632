"""Products with the second derivatives of f(w), in reverse mode over reverse mode.

One run keeps the graph of the gradient at the w that its network is bound to. A first product with the Hessian then
takes the time of 2.6 gradients, and each further one at the same w of 1.5 (measured, MLPs of 15 thousand and 1.9
million weights). The functions of one lane take torch.func, which can be mapped over lanes.

Forward mode would do for the Gauss-Newton product, too, but was slower by a third on an MLP of 15 thousand weights, and
no faster on larger ones.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, vjp, vmap

from dlopt.objective.bound import BoundNetwork
from dlopt.objective.micro_batches import Evaluation, MicroBatch, Share, Targets
from dlopt.objective.problem import Problem
from dlopt.prng import Key

Varying = Mapping[tuple[int, str], Tensor]


class CurvatureGraph:
    """A graph of a bound network on a micro-batch, for products at the w at which it is built.

    evaluation is the evaluation that built it.
    """

    evaluation: Evaluation

    def __init__(self, problem: Problem, network: BoundNetwork, w: Tensor, batch: MicroBatch, key: Key) -> None:
        self.problem = problem
        self.network = network
        self.w = w
        self.at = w.detach().requires_grad_()  # penalties are functions of w itself
        self.build(batch, key)
        self._identity = self._identify()

    def build(self, batch: MicroBatch, key: Key) -> None:
        """Evaluate the network."""
        raise NotImplementedError

    def multiply(self, v: Tensor) -> Tensor:
        """Return the product with v, (P,)."""
        raise NotImplementedError

    def is_at(self, w: Tensor) -> bool:
        """Return whether the graph is that of w, and neither w nor the memory of the network has changed since."""
        return w is self.w and self._identity == self._identify()

    def _identify(self) -> tuple[int, int, bool]:
        return self.w._version, self.network.w._version, self.network in self.problem.bound_networks


class HessianGraph(CurvatureGraph):
    """The gradient of f, with its graph: products with the Hessian are its derivatives along v."""

    def build(self, batch: MicroBatch, key: Key) -> None:
        problem, x, y = self.problem, batch.inputs, batch.targets
        value, self.evaluation = problem.total(self.at, x, y, key, problem.varying, self.network, batch.share)
        self._sources = [*self.network.parameters, *([self.at] if problem.penalizes else [])]
        self._gradients = torch.autograd.grad(value, self._sources, create_graph=True, allow_unused=True)

    def multiply(self, v: Tensor) -> Tensor:
        weights = [*self.problem.layout.views(v).values(), v]
        pieces = _differentiate(self._gradients, self._sources, weights[: len(self._sources)])
        count = len(self.network.parameters)
        return _join(pieces[:count], pieces[count:])


class GaussNewtonGraph(CurvatureGraph):
    """The outputs z, J'u as a function of u, and the gradient of the loss by z, with their graphs.

    The derivative of J'u by u, along v, is J v.
    """

    def build(self, batch: MicroBatch, key: Key) -> None:
        problem, network = self.problem, self.network
        loss, *rules = problem.with_lane_values(problem.varying)
        self._outputs = problem.outputs(network, rules, self.at, batch.inputs, key, varying={}, part=batch.share.part)
        self._u = torch.zeros_like(self._outputs, requires_grad=True)
        self._transposed = torch.autograd.grad(
            self._outputs, network.parameters, self._u, create_graph=True, allow_unused=True
        )
        self._z = self._outputs.detach().requires_grad_()
        targets = problem.targets(rules, batch.targets)
        value, self.evaluation = problem.evaluate(loss, self._z, targets, network.pop_batch_stats())
        self._slopes = torch.autograd.grad(value * batch.share.fraction, self._z, create_graph=True)
        self._penalty_slopes: tuple[Tensor | None, ...] = ()
        if problem.penalizes and batch.share.part == 0:
            penalty = problem.penalty(rules, self.at) + 0.0 * self.at[0]  # a function of w, even if it is constant
            self._penalty_slopes = torch.autograd.grad(penalty, self.at, create_graph=True)

    def multiply(self, v: Tensor) -> Tensor:
        (jv,) = _differentiate(self._transposed, [self._u], list(self.problem.layout.views(v).values()))
        (hjv,) = _differentiate(self._slopes, [self._z], [jv])
        pieces = _differentiate([self._outputs], self.network.parameters, [hjv])
        penalties = _differentiate(self._penalty_slopes, [self.at], [v]) if self._penalty_slopes else []
        return _join(pieces, penalties)


def hessian_product(
    problem: Problem, share: Share, w: Tensor, x: Tensor, y: Targets, key: Key, varying: Varying, v: Tensor
) -> tuple[Tensor, Evaluation]:
    """Return H v of one lane on a micro-batch."""

    def directional(w: Tensor) -> tuple[Tensor, Evaluation]:
        def total(w: Tensor) -> tuple[Tensor, Evaluation]:
            return problem.total(w, x, y, key, varying, share=share)

        g, evaluation = grad(total, has_aux=True)(w)
        return g @ v, evaluation

    result: tuple[Tensor, Evaluation] = grad(directional, has_aux=True)(w)
    return result


def compute_hessian(
    problem: Problem, columns: int, share: Share, w: Tensor, x: Tensor, y: Targets, key: Key, varying: Varying
) -> tuple[Tensor, Evaluation]:
    """Return H of one lane on a micro-batch, (P, P), this number of columns at a time."""

    def total(w: Tensor) -> tuple[Tensor, Evaluation]:
        return problem.total(w, x, y, key, varying, share=share)

    linearized: Any = vjp(grad(total, has_aux=True), w, has_aux=True)  # mypy knows only the pair without has_aux
    _, transpose, evaluation = linearized
    eye = torch.eye(w.shape[-1], dtype=w.dtype, device=w.device)
    return vmap(lambda v: transpose(v)[0], chunk_size=columns)(eye), evaluation


def gauss_newton_product(
    problem: Problem, share: Share, w: Tensor, x: Tensor, y: Targets, key: Key, varying: Varying, v: Tensor
) -> tuple[Tensor, Evaluation]:
    """Return J' H_L J v of one lane on a micro-batch, plus the product of v with the Hessian of the penalties."""
    loss, *rules = problem.with_lane_values(varying)
    y = problem.targets(rules, y)

    def outputs(w: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        network = problem.functional
        z = problem.outputs(network, rules, w, x, key, varying=varying, part=share.part)
        return z, network.pop_batch_stats()

    def slopes(z: Tensor) -> Tensor:
        return grad(lambda z: problem.evaluate(loss, z, y, {})[0] * share.fraction)(z)

    linearized: Any = vjp(outputs, w, has_aux=True)  # as above
    z, transpose, statistics = linearized
    (jv,) = vjp(lambda u: transpose(u)[0], torch.zeros_like(z))[1](v)
    (hjv,) = vjp(slopes, z)[1](jv)
    (product,) = transpose(hjv)
    if problem.penalizes and share.part == 0:

        def penalty_slopes(w: Tensor) -> Tensor:
            return grad(lambda w: problem.penalty(rules, w) + 0.0 * w[0])(w)  # as above

        product = product + vjp(penalty_slopes, w)[1](v)[0]
    return product, problem.evaluate(loss, z, y, statistics)[1]


def _join(pieces: Sequence[Tensor], terms: Sequence[Tensor]) -> Tensor:
    """Return the sum of a vector (P,), given by its pieces, and of terms (P,)."""
    return sum(terms, start=torch.cat([piece.reshape(-1) for piece in pieces]))


def _differentiate(
    outputs: Sequence[Tensor | None], sources: Sequence[Tensor], weights: Sequence[Tensor]
) -> list[Tensor]:
    """Return the derivatives of the weighted sum of outputs by each source; zeros where it is constant."""
    pairs = [(o, v) for o, v in zip(outputs, weights, strict=True) if o is not None and o.requires_grad]
    if not pairs:
        return [torch.zeros_like(s) for s in sources]
    known, along = zip(*pairs, strict=True)
    found = torch.autograd.grad(known, list(sources), along, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(s) if d is None else d for s, d in zip(sources, found, strict=True)]
