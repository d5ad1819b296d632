"""Block coordinate descent."""

from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, Positive


class CoordinateState(NamedTuple):
    t: Tensor  # (), int64, steps taken


@dataclass(frozen=True)
class CoordinateDescent(Optimizer):
    """w_i <- w_i - lr g_i for i in block k, the other coordinates stay;  k = t mod n  or  k uniform on 0 ... n - 1.

    A step of gradient descent in some of the coordinates: in those of one layer, weights and biases, or in so many that
    lie next to each other in w (the last block may be smaller). With blocks of one and lr = 1 / H_ii on a quadratic
    each step is the exact minimum along its coordinate, and a cycle a sweep of Gauss and Seidel. Here each step costs a
    whole gradient, as back-propagation has it, and uses n times less of it than sgd does: this is to see how the method
    behaves, not to gain time.

    It does badly where coordinates hold each other fast. On (x1 - x2)^2 + a (x1^2 + x2^2) with a small a each one goes
    to where the other is, nearly, and a cycle of exact steps brings both closer to zero by a factor 1 / (1 + a)^2 only.

    lr       learning rate
    blocks   layers, or the number of coordinates of a block
    order    cyclic: in turn; random: each step draws its block, with replacement

    Source: Goodfellow, Bengio and Courville 2016, section 8.7.2; Wright 2015, Coordinate descent algorithms.
    """

    lr: Positive
    blocks: Literal["layers"] | Count
    order: Literal["cyclic", "random"]

    def init(self, w: Tensor, layout: Layout) -> CoordinateState:
        return CoordinateState(torch.zeros((), dtype=torch.int64, device=w.device))

    def step(self, w: Tensor, state: CoordinateState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        start, end = self._block(state.t, w, objective)
        places = torch.arange(w.shape[-1], device=w.device)
        for w_, g_, place in cache_chunks(w, g, places):
            axpy_(w_, -self.lr, g_ * ((place >= start) & (place < end)))
        state.t.add_(1)
        return Step(w, state, loss, g)

    def _block(self, t: Tensor, w: Tensor, objective: ObjectiveOracle) -> tuple[Tensor, Tensor]:
        """Where this step's block starts and ends, of shape (), (1,) or (E, 1)."""
        size: Any = self.blocks
        if isinstance(size, str):
            edges = objective.layout.layer_edges(w)
            k = self._number(t, len(edges) - 1, w, objective)
            return edges.take(k), edges.take(k + 1)  # an index in brackets would be brought to the host
        start = self._number(t, -(-w.shape[-1] // size), w, objective) * size
        return start, start + size

    def _number(self, t: Tensor, n: Any, w: Tensor, objective: ObjectiveOracle) -> Tensor:
        """k, which of n blocks this step moves."""
        if self.order == "cyclic":
            return t % n
        return (prng.uniform(objective.random_key("coordinate_descent"), (1,), w.device) * n).long()
