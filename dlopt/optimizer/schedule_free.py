"""Schedule-free learning."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, fused_available, is_positive
from dlopt.optimizer._adam import bias_correction, fused_adam_step_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, NonNegative, Positive, Range


class ScheduleFreeState(NamedTuple):
    z: Tensor  # (..., P), the iterate that is averaged
    v: Tensor  # (..., P), average of g^2; (..., 0) for sgd
    s: Tensor  # (..., 1), sum of the squared learning rates
    t: Tensor  # (), float32, steps taken by adam


@dataclass(frozen=True)
class ScheduleFree(Optimizer):
    """Schedule-Free AdamW or SGD: replaces the learning-rate schedule by iterate averaging.

        y = (1 - beta) z + beta x,  g = g(y),  v <- beta2 v + (1 - beta2) g^2,  v^ = v / (1 - beta2^t)
        form=adam   z <- z - lr (g / (sqrt(v^) + eps) + weight_decay y)
        form=sgd    z <- z - lr (g + weight_decay y)
        x <- (1 - c) x + c z  with  c = lr^2 / (sum of lr^2 so far)

    x is the average of all z, starts at z, and is w: the evaluated and saved iterate. The length of a run need not be
    known. Use schedule=warmup; steps with a small rate then have little weight in the average. beta = 0 is
    Polyak-Ruppert averaging of Adam or SGD; beta = 1 is primal averaging, with the gradient taken at the average.

    c is that of the algorithm, with the present lr. The authors' code takes the largest lr so far in its place, which
    differs only under a schedule that falls: there late iterates keep their full weight, here they lose it.

    Reported loss and gradient, and the statistics of batch normalization, are those at y, not at w. Use weight_decay
    instead of regularization=weight_decay, which would shrink x and not z.

    form           adam or sgd, the steps that are averaged
    lr             learning rate; null is 0.0025 for adam and 1.0 for sgd, the defaults of the authors' code
    beta           position of y between z (0) and x (1)
    beta2          of adam: decay of the average of squared gradients
    eps            of adam: keeps the division finite where gradients vanish
    weight_decay   decoupled decay of weights only, per step and as a multiple of lr

    Source: Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky 2024, algorithm 1; for sgd equations 3 to 5 with the c
    of the algorithm.
    """

    scales_with_lr: ClassVar[bool] = False

    form: Literal["adam", "sgd"]
    lr: Positive | None
    beta: Annotated[float, Range(ge=0, le=1)]
    beta2: Fraction
    eps: Positive
    weight_decay: NonNegative

    def __post_init__(self) -> None:
        if self.lr is None:
            object.__setattr__(self, "lr", DEFAULT_LR[self.form])

    def init(self, w: Tensor, layout: Layout) -> ScheduleFreeState:
        v = torch.zeros_like(w) if self.form == "adam" else w.new_zeros(*w.shape[:-1], 0)
        return ScheduleFreeState(w.clone(), v, w.new_zeros(*w.shape[:-1], 1), torch.zeros((), device=w.device))

    def step(self, w: Tensor, state: ScheduleFreeState, objective: ObjectiveOracle) -> Step:
        assert self.lr is not None  # since __post_init__
        z, s = state.z, state.s
        x = w.clone()
        y = w.lerp_(z, 1 - self.beta)  # in the memory of w, where a gradient needs no copy of the network
        loss, g = objective.gradient(y)
        if is_positive(self.weight_decay):
            axpy_(z, -self.lr * self.weight_decay, objective.layout.weight_mask(y) * y)
        if self.form == "sgd":
            axpy_(z, -self.lr, g)
        elif fused_available(w):  # Adam with beta1 = 0, where g is its own average
            t = state.t.add_(1)
            fused_adam_step_([z], [g], [g], [state.v], [t], lr=self.lr, beta1=0.0, beta2=self.beta2, eps=self.eps)
        else:
            v = state.v.lerp_(g.square(), 1 - self.beta2)
            v_hat = v / bias_correction(self.beta2, state.t.add_(1).to(v.dtype))
            axpy_(z, -self.lr, g / v_hat.sqrt_().add_(self.eps))
        square = self.lr * self.lr  # `**` would raise for a large rate
        s += square
        c = torch.where(s > 0, square / s, 0.0)  # a schedule may start at zero
        return Step(torch.lerp(x, z, c, out=w), state, loss, g)


DEFAULT_LR = {"adam": 0.0025, "sgd": 1.0}
"""The learning rates that lr=null stands for."""
