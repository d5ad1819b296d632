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
    """Block coordinate descent: a gradient step in one block of coordinates at a time.

        w_i <- w_i - lr g_i  for i in block k,  k = t mod n  or  k uniform on 0 ... n - 1

    A block is a layer (weights and biases), or a number of consecutive coordinates of w; the last block may be smaller.
    With blocks of one and lr = 1 / H_ii on a quadratic, each step minimizes along its coordinate and a cycle is a sweep
    of Gauss-Seidel. Each step costs a whole gradient and uses 1 / n of it, so this shows how the method behaves; it
    does not save time.

    It is slow if coordinates are strongly coupled. On (x1 - x2)^2 + a (x1^2 + x2^2) with a small a, a cycle of exact
    steps reduces both coordinates only by a factor 1 / (1 + a)^2.

    lr       learning rate
    blocks   layers, or the number of coordinates in a block
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
        start, end = self._select_block(state.t, w, objective)
        positions = torch.arange(w.shape[-1], device=w.device)
        for w_, g_, i in cache_chunks(w, g, positions):
            axpy_(w_, -self.lr, g_ * ((i >= start) & (i < end)))
        state.t.add_(1)
        return Step(w, state, loss, g)

    def _select_block(self, t: Tensor, w: Tensor, objective: ObjectiveOracle) -> tuple[Tensor, Tensor]:
        """Return where the block of this step starts and ends, each (), (1,) or (E, 1)."""
        size: Any = self.blocks
        edges = objective.layout.layer_edges(w) if isinstance(size, str) else None
        n = -(-w.shape[-1] // size) if edges is None else len(edges) - 1
        if self.order == "cyclic":
            k = t % n
        else:
            k = (prng.uniform(objective.random_key("coordinate_descent"), (1,), w.device) * n).long()
        if edges is None:
            return k * size, k * size + size
        return edges.take(k), edges.take(k + 1)  # an index in brackets would wait for the device
