"""Adagrad."""

from dataclasses import dataclass
from typing import Any, NamedTuple

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
    """Adagrad: divides each learning rate by the root of the sum of all squared gradients so far.

        G <- G + g^2,  w <- w - lr g / (sqrt(G) + eps)

    G includes the present gradient. The effective rate of a weight only falls, like 1 / sqrt(steps) if its gradients
    keep their size; weights that are rarely active keep a large one. eps is added outside the root, as in torch.
    schedule=inverse_time with schedule.unit=steps is torch's lr_decay.

    lr                    learning rate: the size of the first step of each weight if G starts at 0
    eps                   keeps the division finite where gradients vanish
    initial_accumulator   initial value of G; a positive value shortens the first steps

    Slip: the KTH lecture divides by the sum before this step, which is zero at the first. The Georgia Tech lecture
    writes sqrt(G + eps), where the usual eps of 1e-10 has the effect of 1e-5 here.

    Source: Duchi, Hazan and Singer 2011, section 1.1, diagonal; Goodfellow, Bengio and Courville 2016, algorithm 8.4.
    """

    lr: Positive
    eps: Positive
    initial_accumulator: NonNegative

    def init(self, w: Tensor, layout: Layout) -> AdagradState:
        return AdagradState(torch.zeros_like(w).add_(self.initial_accumulator))

    def step(self, w: Tensor, state: AdagradState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        if w.ndim == 1 and w.device.type == "cpu":  # one pass over memory; the step count is for a decay of the rate
            torch._fused_adagrad_(
                [w], [g], [state.total], [torch.ones(())], lr=self.lr, lr_decay=0.0, weight_decay=0.0, eps=self.eps,
                maximize=False,
            )  # fmt: skip
            return Step(w, state, loss, g)
        for w_, total, g_ in cache_chunks(w, state.total, g):
            addcdiv_scaled_(w_, -self.lr, g_, total.addcmul_(g_, g_).sqrt().add_(self.eps))
        return Step(w, state, loss, g)

    def stability_limit(self, state: Any) -> float | Tensor:
        return 2 / self.lr

    def preconditioner(self, state: AdagradState) -> Tensor:
        return state.total.sqrt().add_(self.eps)
