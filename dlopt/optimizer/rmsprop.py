"""RMSProp."""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import addcdiv_scaled_, axpy_, cache_chunks, fused_available, is_positive
from dlopt.optimizer._adam import fused_adam_step_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, Positive


class RMSPropState(NamedTuple):
    square: Tensor  # (..., P), average of g^2
    mean: Tensor  # (..., P), average of g; (..., 0) unless centered
    v: Tensor  # (..., P), velocity; (..., 0) without momentum


@dataclass(frozen=True)
class RMSProp(Optimizer):
    """RMSProp: divides the gradient by the root of a moving average of its square.

        E <- decay E + (1 - decay) g^2,  d = g / (sqrt(E) + eps),  w <- w - lr d
        momentum > 0   v <- momentum v + d,  w <- w - lr v
        centered       sqrt(E - m^2) in place of sqrt(E),  m <- decay m + (1 - decay) g

    The centered form takes long steps where gradients hardly vary. A variance below zero by rounding counts as zero;
    torch returns NaN there. E starts at zero without bias correction, so the first step of each weight is
    lr / sqrt(1 - decay): 3.2 lr for decay 0.9, 10 lr for torch's 0.99. eps is added outside the root, as in torch.
    Inside it, as in algorithm 8.5 of Goodfellow, Bengio and Courville, 1e-8 would have the effect of 1e-4.

    lr         learning rate
    decay      decay of both averages
    eps        keeps the division finite where gradients vanish
    momentum   fraction of the velocity that a step keeps
    centered   divide by the standard deviation

    Slip: the Georgia Tech, CMU and NYU lectures write sqrt(E + eps) and do not say that eps then has another size; the
    KTH lecture divides by the E of the step before, which is zero at the first.

    Source: Tieleman and Hinton 2012, lecture 6e; centered: Graves 2013, equations 38 to 41, with eps inside the root.
    """

    lr: Positive
    decay: Fraction
    eps: Positive
    momentum: Fraction
    centered: bool

    def init(self, w: Tensor, layout: Layout) -> RMSPropState:
        has_velocity = is_positive(self.momentum)  # lanes: if any of them has
        mean, v = (
            torch.zeros_like(w) if used else w.new_zeros(*w.shape[:-1], 0) for used in (self.centered, has_velocity)
        )
        return RMSPropState(torch.zeros_like(w), mean, v)

    def step(self, w: Tensor, state: RMSPropState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        has_velocity = state.v.shape[-1] > 0
        if fused_available(w) and not self.centered and not has_velocity:
            # Adam with beta1 = 0, where g is its own average, and t infinite, where the corrections are 1.
            t = torch.full((), torch.inf, device=w.device)
            fused_adam_step_([w], [g], [g], [state.square], [t], lr=self.lr, beta1=0.0, beta2=self.decay, eps=self.eps)
            return Step(w, state, loss, g)
        for w_, square, mean, v, g_ in cache_chunks(w, *state, g):
            square.lerp_(g_ * g_, 1 - self.decay)
            if self.centered:
                mean.lerp_(g_, 1 - self.decay)
                root = torch.addcmul(square, mean, mean, value=-1).clamp_(min=0.0).sqrt_()
            else:
                root = square.sqrt()
            root.add_(self.eps)
            if has_velocity:
                axpy_(w_, -self.lr, v.mul_(self.momentum).addcdiv_(g_, root))
            else:
                addcdiv_scaled_(w_, -self.lr, g_, root)
        return Step(w, state, loss, g)

    def stability_limit(self, state: Any) -> float | Tensor:
        return 2 * (1 + self.momentum) / self.lr

    def preconditioner(self, state: RMSPropState) -> Tensor:
        square = state.square
        if self.centered:
            square = torch.addcmul(square, state.mean, state.mean, value=-1).clamp_(min=0.0)
        return square.sqrt().add_(self.eps)
