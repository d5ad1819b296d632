"""The objective of one step: an oracle for f(w) on its mini-batch, at any w.

It is a pure function of w. All evaluations of a step see the same masks, and asking changes nothing in the network.
One run takes the bound network. Lanes take torch.func over the functional network.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.func import grad_and_value

from dlopt import prng
from dlopt.objective import activation_hooks
from dlopt.objective.curvature import (
    CurvatureGraph,
    GaussNewtonGraph,
    HessianGraph,
    compute_hessian,
    gauss_newton_product,
    hessian_product,
)
from dlopt.objective.example_gradients import iterate_example_gradients
from dlopt.objective.kronecker import compute_factors
from dlopt.objective.micro_batches import (
    Evaluation,
    GuidedTargets,
    MicroBatch,
    Share,
    Targets,
    combine,
    split_batch,
)
from dlopt.objective.problem import Problem
from dlopt.objective.sampled_targets import compute_sampled_gradient
from dlopt.objective.second_derivatives import second_derivatives
from dlopt.prng import Key

HESSIAN_COLUMNS = 256
"""Columns of a Hessian that are computed together: each takes the memory of a backward pass."""


class KnownGradient(NamedTuple):
    """What `gradient` returned at w: value (...) and gradient (..., P).

    raw       the gradient of f, without clipping
    version   of w, which counts the changes of w in place: with another version, it is another point
    """

    w: Tensor
    value: Tensor
    gradient: Tensor
    raw: Tensor
    evaluation: Evaluation
    version: int


class MiniBatchObjective:
    """The oracle of one step: inputs (B, ...) and the key of the step, or (E, B, ...) and a batch of keys.

    Evaluations at any w are allowed, in any order and number; all see one function. first is the first of them.
    A batch larger than the problem's micro_batch_size is evaluated in parts, one after another, whose terms are added.

    is_fixed   every step of the run has this function
    teacher    the outputs of the teacher for the inputs, if there is one
    known      an evaluation by the step before, which counts as the first evaluation of this one: if this step begins
               with `gradient` at the same w, it is returned
    """

    def __init__(
        self,
        problem: Problem,
        inputs: Tensor,
        targets: Tensor,
        key: Key,
        step: int = 0,
        *,
        is_fixed: bool = False,
        known: KnownGradient | None = None,
        teacher: Tensor | None = None,
    ) -> None:
        self.problem = problem
        self.layout = problem.layout
        self.bounds: Mapping[str, tuple[float, float]] = problem.bounds
        self.inputs = inputs
        self.targets = targets
        self._dim = 0 if problem.lanes is None else 1
        self.batch_size = targets.shape[self._dim]
        guided = targets if teacher is None else GuidedTargets(targets, teacher)
        self._batches = split_batch(inputs, guided, problem.micro_batch_size, self._dim)
        self.key = key
        self.step = step
        self.is_fixed = is_fixed
        self._known = known
        self._last_gradient = known
        self._last: Evaluation | None = None
        self.first: Evaluation | None = None if known is None else known.evaluation
        self._counts = True
        self._buffer_used = False
        self._keeps_graphs = problem.binds and not problem.compiled  # a compiled network is differentiated only once
        self._graphs: dict[type[CurvatureGraph], CurvatureGraph] = {}
        self._gradient_pair: tuple[Tensor, Tensor] | None = None if known is None else (known.gradient, known.raw)

    @contextmanager
    def pause_counting(self) -> Iterator[None]:
        """Do not count the evaluations inside this block: diagnostics ask for them, not the optimizer."""
        self._counts = False
        try:
            yield
        finally:
            self._counts = True

    def first_evaluation(self, w: Tensor) -> Evaluation:
        """Return the first evaluation of this step, made at w if the optimizer has asked for none."""
        if self.first is None:
            self.value(w)
        assert self.first is not None
        return self.first

    def random_key(self, name: str) -> Key:
        """Return the key of an optimizer's own random numbers at this step, for dlopt.prng.uniform and similar."""
        return prng.fold_in(self.key, name)

    def value(self, w: Tensor) -> Tensor:
        """Return f(w), shape (...)."""
        with torch.no_grad():
            (value,) = self._add_terms(self._bound_value if self.problem.binds else self._functional_value, w)
        return value

    def gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(w), shape (...), and its gradient g, (..., P), clipped, then changed by regularizations.

        No later call of this step overwrites g, nor does the first call of the next step: an optimizer may keep it in
        its state.
        """
        if self._known is not None and w is self._known.w and w._version == self._known.version:
            known, self._known = self._known, None  # later, w may have changed in place
            return known.value, known.gradient
        value, g = self.true_gradient(w)
        changed = self.problem.transform_gradient(g, w, self.key, self.step)
        if self._gradient_pair is None:
            self._gradient_pair = (changed, g)
        if self._last is not None:
            self._last_gradient = KnownGradient(w, value, changed, g, self._last, w._version)
        return value, changed

    def true_gradient(self, w: Tensor) -> tuple[Tensor, Tensor]:
        """Return f(w), shape (...), and its own gradient, (..., P), neither clipped nor changed by regularizations."""
        value, g = self._add_terms(self._bound_gradient if self.problem.binds else self._functional_gradient, w)
        return value, g

    def find_known(self, w: Tensor, g: Tensor | None) -> KnownGradient | None:
        """Return what is known of w, a point with the gradient g, if the last call of `gradient` returned g.

        Nothing is known if the next step may have another function.
        """
        last = self._last_gradient
        if last is None or not self.is_fixed or g is not last.gradient:
            return None
        return last._replace(w=w, version=w._version)

    def example_gradients(self, w: Tensor, count: int) -> Iterator[Tensor]:
        """Yield gradients, (..., n, P), of the losses of the first examples of the mini-batch, `count` at most in all.

        They are of the first micro-batch, without penalties. See dlopt.objective.example_gradients.
        """
        batch = self._batches[0]
        count = min(count, batch.inputs.shape[self._dim])
        return iterate_example_gradients(self.problem, w, batch, self.key, count)

    def raw_gradient(self, g: Tensor) -> Tensor:
        """Return the gradient of f itself if g is the first gradient that `gradient` returned, else g."""
        return self._gradient_pair[1] if self._gradient_pair is not None and self._gradient_pair[0] is g else g

    def hvp(self, w: Tensor, v: Tensor) -> Tensor:
        """Return the Hessian-vector product H(w) v, (..., P).

        At one w of one run, a further product takes 0.6 of the time of the first.
        """
        return self._multiply(HessianGraph, hessian_product, w, v)

    def gauss_newton_product(self, w: Tensor, v: Tensor) -> Tensor:
        """Return the Gauss-Newton product (J' H_L J + H_R) v, (..., P).

        J is the Jacobian at w of the outputs of the mini-batch, H_L the Hessian of its loss by these outputs, and H_R
        the Hessian of the penalties. Without the curvature of the network, the matrix is positive semidefinite if loss
        and penalties are convex. At one w of one run, a further product takes half of the time of the first.
        """
        return self._multiply(GaussNewtonGraph, gauss_newton_product, w, v)

    def hessian(self, w: Tensor) -> Tensor:
        """Return the Hessian H(w), (..., P, P), one product per column. It counts as P evaluations."""
        compute = partial(compute_hessian, self.problem, HESSIAN_COLUMNS)
        with self._second_derivatives():
            (h,) = self._add_terms(lambda w, batch: self._map(partial(compute, batch.share), w, batch), w)
        self.problem.evaluations += self._counts * (w.shape[-1] - 1)
        return h

    def kronecker_factors(self, w: Tensor, *, sampled: bool) -> list[tuple[Tensor, Tensor]]:
        """Return A and G of each layer of layout.affine, for the Fisher information A x G of its weights.

            A = mean over examples of the sum over positions of a a',  a: inputs of the layer, and 1 for the bias
            G = mean over examples and positions of g g',  g: gradient of the example's loss by the outputs of the layer

        A is (..., inputs, inputs), G is (..., units, units). sampled: the losses are those of targets drawn from the
        model, by `Loss.sample_targets`, else those of the mini-batch.
        """
        compute = partial(compute_factors, self.problem, sampled)
        factors = self._add_terms(lambda w, batch: self._map(partial(compute, batch.share), w, batch), w)
        return list(zip(factors[::2], factors[1::2], strict=True))

    def gauss_newton_diagonal(self, w: Tensor) -> Tensor:
        """Return an unbiased estimate, (..., P), of the diagonal of the Gauss-Newton matrix J' H_L J of the loss.

            B g * g,   g: gradient of the mean loss of B examples, for targets drawn by `Loss.sample_targets`

        Penalties are left out. The estimate is never negative, and costs about a gradient.

        Source: Liu, Li, Hall, Liang and Ma 2023, algorithm 2 (Gauss-Newton-Bartlett).
        """
        compute = partial(compute_sampled_gradient, self.problem)
        (g,) = self._add_terms(lambda w, batch: self._map(partial(compute, batch.share), w, batch), w)
        return g.square().mul_(self.batch_size)

    def activations(self, w: Tensor) -> dict[str, Tensor]:
        """Return the outputs of each activation of the network at w, in training: name -> (..., B, features, ...).

        `bounds` holds the limits of those that have two, by the same names.
        """
        problem = self.problem

        def call(
            share: Share, w: Tensor, x: Tensor, y: Targets, key: Key, varying: dict[Any, Tensor]
        ) -> tuple[dict[str, Tensor], Evaluation]:
            with activation_hooks.record_outputs(problem.activations) as recorded:
                _, evaluation = problem.total(w, x, y, key, varying, share=share)
            return {name: outputs.to(w.dtype) for name, outputs in recorded.items()}, evaluation

        with torch.no_grad():
            results = [self._map(partial(call, batch.share), w, batch) for batch in self._batches]
        parts: list[dict[str, Tensor]] = [recorded for recorded, _ in results]
        self._count([evaluation for _, evaluation in results])
        if len(parts) == 1:
            return parts[0]
        return {name: torch.cat([part[name] for part in parts], self._dim) for name in parts[0]}

    def _add_terms(self, evaluate: Callable[..., tuple[*tuple[Tensor, ...], Evaluation]], w: Tensor) -> list[Tensor]:
        """Return the sums of what a function (w, micro-batch) returns before its evaluation."""
        first, *others = self._batches
        *sums, evaluation = evaluate(w, first)
        evaluations = [evaluation]
        for batch in others:
            *terms, evaluation = evaluate(w, batch)
            sums = [a + b for a, b in zip(sums, terms, strict=True)]
            evaluations.append(evaluation)
        self._count(evaluations)
        return sums

    def _bound_value(self, w: Tensor, batch: MicroBatch) -> tuple[Tensor, Evaluation]:
        problem = self.problem
        network = problem.network_at(w)
        return problem.total(w, batch.inputs, batch.targets, self.key, problem.varying, network, batch.share)

    def _functional_value(self, w: Tensor, batch: MicroBatch) -> tuple[Tensor, Evaluation]:
        result: tuple[Tensor, Evaluation] = self._map(partial(self.problem.total, share=batch.share), w, batch)
        return result

    def _bound_gradient(self, w: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor, Evaluation]:
        """Differentiate by the network's own parameters, and penalties by w."""
        problem = self.problem
        network = problem.network_at(w)
        at = w.detach().requires_grad_() if problem.penalizes else w
        value, evaluation = problem.total(
            at, batch.inputs, batch.targets, self.key, problem.varying, network, batch.share
        )
        sources = [*network.parameters, at] if problem.penalizes else network.parameters
        pieces = torch.autograd.grad(value, sources, allow_unused=True)
        reuse = not self._buffer_used and w is problem.bound_w
        self._buffer_used |= reuse
        g = network.gather_gradient(pieces[: len(network.parameters)], reuse=reuse)
        if problem.penalizes and pieces[-1] is not None:
            g.add_(pieces[-1])
        return value.detach(), g, evaluation

    def _functional_gradient(self, w: Tensor, batch: MicroBatch) -> tuple[Tensor, Tensor, Evaluation]:
        total = partial(self.problem.total, share=batch.share)
        g, (value, evaluation) = self._map(grad_and_value(total, has_aux=True), w, batch)
        return value, g, evaluation

    def _multiply(self, kind: type[CurvatureGraph], product: Callable[..., Any], w: Tensor, v: Tensor) -> Tensor:
        """Return products with v by a graph of the bound network, or else by a function of one lane."""

        def bound(w: Tensor, batch: MicroBatch) -> tuple[Tensor, Evaluation]:
            graph = self._get_graph(kind, w, batch)
            return graph.multiply(v), graph.evaluation

        def functional(w: Tensor, batch: MicroBatch) -> tuple[Tensor, Evaluation]:
            result: tuple[Tensor, Evaluation] = self._map(partial(product, self.problem, batch.share), w, batch, v)
            return result

        with self._second_derivatives():
            (products,) = self._add_terms(bound if self._keeps_graphs else functional, w)
        return products

    def _second_derivatives(self) -> AbstractContextManager[None]:
        inputs = self.inputs if self.problem.lanes is None else self.inputs[0]
        return second_derivatives(self.problem.model, inputs[:2], is_recurrent=self.problem.is_recurrent)

    def _get_graph(self, kind: type[CurvatureGraph], w: Tensor, batch: MicroBatch) -> CurvatureGraph:
        """Return the graph of the last product if it still holds, else a new one; that of a micro-batch is not kept."""
        graph = self._graphs.get(kind)
        if graph is None or not graph.is_at(w):
            self._graphs.pop(kind, None)  # frees its memory first
            graph = kind(self.problem, self.problem.network_at(w), w, batch, self.key)
            if len(self._batches) == 1:
                self._graphs[kind] = graph
        return graph

    def _map(self, function: Any, w: Tensor, batch: MicroBatch, *more: Tensor) -> Any:
        """Call a function of one lane, (w, inputs, targets, key, varying, *more), for all lanes."""
        problem = self.problem
        return problem.map_lanes(function)(w, batch.inputs, batch.targets, self.key, problem.varying, *more)

    def _count(self, evaluations: Sequence[Evaluation]) -> None:
        """Count one evaluation of the mini-batch, in parts."""
        self.problem.evaluations += self._counts
        self._known = None
        if self.is_fixed:
            self._last = combine(evaluations, self._batches, self._dim)
        if self.first is None:
            self.first = self._last or combine(evaluations, self._batches, self._dim)
