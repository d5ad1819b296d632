"""Cautious optimizers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dlopt.linalg.inplace import cache_chunks
from dlopt.optimizer._wrapped import WrappedOptimizer
from dlopt.parts import ObjectiveOracle, Step


@dataclass(frozen=True)
class Cautious(WrappedOptimizer):
    """Cautious version of another optimizer: leaves out those components of its step that go against the gradient.

        u = what a step of base_optimizer adds to w,  mask = 0 if u g > 0, else 1,  for each weight
        w <- w + u mask / max(mean of mask, 0.001)

    g is the gradient of this step's mini-batch at w. Momentum may move a weight uphill; such a component waits until
    the momentum agrees with the gradient. Division by the mean of the mask, over all weights of w, keeps the mean size
    of a step. If all components agree, it is the step of base_optimizer. Its state is that of base_optimizer. Schedules
    and weight decay use the learning rate of base_optimizer.

    u is all of the step: with base_optimizer=adamw, a decay that goes against the gradient is masked, too.
    regularization=weight_decay is outside of the mask, as in the source.

    Departures: the source also masks components whose gradient is zero, and counts them in the mean. Its steps get
    longer with each input and unit that a mini-batch leaves inactive: a hundred times for the words of an embedding.
    The authors' code divides each parameter by the mean of its own mask; the paper has all weights together, as here.
    The paper adds 1 to the number of weights that agree; the lower limit of the mean, 0.001, is that of the code.

    base_optimizer   the inner optimizer, with its own keys: optimizer.base_optimizer=lion

    Source: Liang, Chen, Liu and Liu 2024, algorithm 1.
    """

    def step(self, w: Tensor, state: Any, objective: ObjectiveOracle) -> Step:
        before = w.clone()
        result = self.base_optimizer.step(w, state, objective)
        kept = w.new_zeros(*w.shape[:-1], 1)
        for after_, before_, g_ in cache_chunks(result.w, before, result.gradient):
            u = after_.sub_(before_)
            mask = (u * g_).le_(0.0)
            u.mul_(mask)  # torch.where takes eight times as long; a NaN stays
            kept += mask.sum(-1, keepdim=True)
        mean = (kept / w.shape[-1]).clamp_(min=MIN_MEAN)
        return result._replace(w=torch.addcmul(before, result.w, 1 / mean, out=result.w), next_gradient=None)


MIN_MEAN = 1e-3
"""Minimum mean of a mask that a step is divided by, as in the authors' code."""
