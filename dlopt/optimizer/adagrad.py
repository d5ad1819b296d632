"""Adagrad."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcdiv_scaled_, cache_chunks
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import NonNegative, Positive


class AdagradState(NamedTuple):
    total: Tensor  # (..., P), sum of g^2


@dataclass(frozen=True)
class Adagrad(Optimizer):
    """G <- G + g^2,  w <- w - lr g / (sqrt(G) + eps).

    Each weight has a rate of its own, which only falls, like 1 / sqrt(steps) where gradients keep their size: weights
    that are seldom in use keep a large one. G takes in g before it divides. eps stands outside the root, as in torch.
    (torch's lr_decay is schedule=inverse_time with schedule.unit=steps.)

    Slip: the KTH lecture divides by the sum before this step, which is zero at the first. The Georgia Tech lecture
    writes sqrt(G + eps), for which the usual eps of 1e-10 is as much as 1e-5 here.

    lr                    learning rate: the size of each weight's first step from G = 0
    eps                   keeps the division finite where gradients vanish
    initial_accumulator   start of G; above 0 it makes the first steps shorter

    Source: Duchi, Hazan and Singer 2011, section 1.1, diagonal; Goodfellow, Bengio and Courville 2016, algorithm 8.4.
    """

    lr: Positive
    eps: Positive
    initial_accumulator: NonNegative

    def init(self, w: Tensor, layout: Layout) -> AdagradState:
        return AdagradState(torch.zeros_like(w).add_(self.initial_accumulator))

    def step(self, w: Tensor, state: AdagradState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        update = self.update_fused if w.ndim == 1 and w.device.type == "cpu" else self.update_textbook
        return Step(*update(w, state, g), loss, g)

    def update_textbook(self, w: Tensor, state: AdagradState, g: Tensor) -> tuple[Tensor, AdagradState]:
        """The formula as it stands above, in place, for any leading dimensions."""
        for w_, total, g_ in cache_chunks(w, state.total, g):
            root = total.addcmul_(g_, g_).sqrt().add_(self.eps)
            addcdiv_scaled_(w_, -self.lr, g_, root)
        return w, state

    def update_fused(self, w: Tensor, state: AdagradState, g: Tensor) -> tuple[Tensor, AdagradState]:
        """The same in torch's fused kernel: one pass over memory, for a single run on a CPU.

        The kernel wants the number of steps for a decay of the rate, which is a schedule's business here.
        """
        torch._fused_adagrad_(
            [w], [g], [state.total], [torch.ones(())], lr=self.lr, lr_decay=0.0, weight_decay=0.0, eps=self.eps,
            maximize=False,
        )  # fmt: skip
        return w, state
