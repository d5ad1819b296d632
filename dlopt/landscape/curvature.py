"""Products with the second derivatives of a network's loss over a whole split, at its loaded weights."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import reduce

import torch
from torch import Tensor

from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.prng import Key
from dlopt.training.batches import Examples
from dlopt.training.evaluation import get_chunk_size
from dlopt.training.inference import Predictor

PRODUCTS: dict[str, Callable[[MiniBatchObjective, Tensor, Tensor], Tensor]] = {
    "hessian": MiniBatchObjective.hvp,
    "gauss_newton": MiniBatchObjective.gauss_newton_product,
}
"""The products of the objective, by the names of the matrices."""


class SplitCurvature:
    """The matrix A of the mean loss over a split, as in inference: `multiply` returns A v.

    Dropout is off, and batch normalization uses its stored statistics: the loss is the one that `evaluate` reports,
    without penalties. Examples are taken in chunks, so memory does not depend on the size of the split.
    """

    def __init__(
        self, predictor: Predictor, examples: Examples, matrix: str, advance: Callable[[int], None] = lambda count: None
    ) -> None:
        """Copy the network at its present weights. advance is called with the number of examples of each chunk."""
        self.examples = examples
        self._rules = predictor.problem.regularization
        model, precision = copy.deepcopy(predictor.model), predictor.problem.autocast
        self._problem = Problem(model, predictor.loss, precision=precision)
        self._problem.model.eval()
        self.w = self._problem.bind(predictor.w.clone())
        self._product = PRODUCTS[matrix]
        self._chunk = get_chunk_size(predictor.problem)
        self._advance = advance
        self._kept: MiniBatchObjective | None = None

    def multiply(self, v: Tensor) -> Tensor:
        """Return A v, (P,). Raises LayerError if a layer has no second derivative."""
        total = torch.zeros_like(v)
        for objective in self._objectives():
            count = len(objective.targets)
            total += self._product(objective, self.w, v) * (count / self.examples.size)
            self._advance(count)
        return total

    def _objectives(self) -> Iterator[MiniBatchObjective]:
        """Yield the objective of each chunk; a single one is kept with its graph, which the next product uses again."""
        if self._kept is not None:
            yield self._kept
            return
        for x, y in self._chunks():
            objective = MiniBatchObjective(self._problem, x, y, Key(0, 0))
            if len(y) == self.examples.size:
                self._kept = objective
            yield objective

    def _chunks(self) -> Iterator[tuple[Tensor, Tensor]]:
        for x, y in self.examples.chunks(self._chunk):
            yield reduce(lambda x, rule: rule.inference(x), self._rules, x), y
