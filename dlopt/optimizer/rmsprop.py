"""RMSProp."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcdiv_scaled_, axpy_, cache_chunks, fused_available
from dlopt.optimizer._adam import fused_adam_step_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class RMSPropState(NamedTuple):
    square: Tensor  # (..., P), average of g^2
    mean: Tensor  # (..., P), average of g; (..., 0) unless centered
    v: Tensor  # (..., P), velocity; (..., 0) without momentum


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """E <- decay E + (1 - decay) g^2,  w <- w - lr g / (sqrt(E) + eps).

    With centered E gives way to the variance E - m^2, where m <- decay m + (1 - decay) g; where gradients hardly vary
    steps become long. (Where rounding leaves it a little below zero it counts as zero; torch's rule makes NaN of it.)
    With momentum v <- momentum v + g / (sqrt(E) + eps), w <- w - lr v.

    E starts at zero and is not corrected for it, so that the first step of each weight has the size
    lr / sqrt(1 - decay): 3.2 lr for decay 0.9, 10 lr for torch's 0.99. eps stands outside the root, as in torch; inside
    of it, as in Goodfellow, Bengio and Courville's algorithm 8.5, 1e-8 would be as much as 1e-4 here.

    Slip: the Georgia Tech, CMU and NYU lectures write sqrt(E + eps) and do not say that eps then has another size; the
    KTH lecture divides by the E of the step before, which is zero at the first.

    lr         learning rate
    decay      of the average of squared gradients, and of m
    eps        keeps the division finite where gradients vanish
    momentum   share of the velocity that a step keeps
    centered   whether to divide by the standard deviation

    Source: Tieleman and Hinton 2012, lecture 6e; centered: Graves 2013, equations 38 to 41 (eps inside the root there).
    """

    lr: Positive
    decay: Fraction
    eps: Positive
    momentum: Fraction
    centered: bool

    def init(self, w: Tensor, layout: Layout) -> RMSPropState:
        none = w.new_zeros(*w.shape[:-1], 0)
        gathers = isinstance(self.momentum, Tensor) or self.momentum > 0.0  # lanes all do where one of them does
        return RMSPropState(
            torch.zeros_like(w),
            torch.zeros_like(w) if self.centered else none,
            torch.zeros_like(w) if gathers else none.clone(),
        )

    def step(self, w: Tensor, state: RMSPropState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        plain = not self.centered and state.v.shape[-1] == 0
        update = self.update_fused if plain and fused_available(w) else self.update_textbook
        return Step(*update(w, state, g), loss, g)

    def update_textbook(self, w: Tensor, state: RMSPropState, g: Tensor) -> tuple[Tensor, RMSPropState]:
        """The formulas as they stand above, in place, for any leading dimensions."""
        gathers = state.v.shape[-1] > 0
        for w_, square, mean, v, g_ in cache_chunks(w, *state, g):
            square.lerp_(g_ * g_, 1 - self.decay)
            if self.centered:
                mean.lerp_(g_, 1 - self.decay)
                root = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0.0).sqrt_()
            else:
                root = square.sqrt()
            root.add_(self.eps)
            if gathers:
                axpy_(w_, -self.lr, v.mul_(self.momentum).addcdiv_(g_, root))
            else:
                addcdiv_scaled_(w_, -self.lr, g_, root)
        return w, state

    def update_fused(self, w: Tensor, state: RMSPropState, g: Tensor) -> tuple[Tensor, RMSPropState]:
        """The plain rule in one pass over memory, for a single run: torch's fused Adam with beta1 = 0 and t infinite.

        With beta1 = 0 the average of gradients is g, which stands in for it and is written back unchanged; at t = oo
        nothing is left of Adam's corrections.
        """
        t = torch.full((), torch.inf, device=w.device)
        fused_adam_step_([w], [g], [g], [state.square], [t], lr=self.lr, beta1=0.0, beta2=self.decay, eps=self.eps)
        return w, state
