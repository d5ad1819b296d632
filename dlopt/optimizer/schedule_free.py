"""Schedule-free learning."""

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_, fused_available
from dlopt.optimizer._adam import fused_adam_step_
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Fraction, NonNegative, Positive, Range


class ScheduleFreeState(NamedTuple):
    z: Tensor  # (..., P), the iterate of the steps that are averaged
    v: Tensor  # (..., P), average of g^2; (..., 0) without
    s: Tensor  # (..., 1), sum of the squares of the rates
    t: Tensor  # (), float32, steps taken by adam


@dataclass(frozen=True)
class ScheduleFree(Optimizer):
    """y = (1 - beta) z + beta x,  g = g(y),
    z <- z - lr (g / (sqrt(v^) + eps) + decay y),  x <- (1 - c) x + c z  with  c = lr^2 / (sum of lr^2 so far),

    with v <- beta2 v + (1 - beta2) g^2 and v^ = v / (1 - beta2^t) as in Adam; with form=sgd, z <- z - lr (g + decay y).

    x, which equals z at the start, is the average of all z so far, and it is w: what is evaluated, saved and called
    the iterate. Averaging takes the place of a falling rate, so the length of a run need not be known before; warming
    up is of use still (schedule=warmup), and small rates then count little in the average. beta = 0 is Polyak and
    Ruppert's average of the iterates of Adam or SGD, beta = 1 primal averaging: the gradient is taken at the average.

    The gradient is asked for at y, between the two, once a step: loss and gradient that are reported, and the
    statistics that a batch normalization sees, are those at y, not at w. Use decay in place of
    regularization=weight_decay, which would shrink x and not z.

    form    of the steps that are averaged: adam or sgd
    lr      learning rate
    beta    place of y between z (0) and x (1)
    beta2   of adam: decay of the average of squared gradients
    eps     of adam: keeps the division finite where gradients vanish
    weight_decay   decoupled weight decay, of weights alone

    Source: Defazio, Yang, Mehta, Mishchenko, Khaled and Cutkosky 2024, algorithm 1, and for sgd equations 3 to 5
    with the c of the algorithm.
    """

    form: Literal["adam", "sgd"]
    lr: Positive
    beta: Annotated[float, Range(ge=0, le=1)]
    beta2: Fraction
    eps: Positive
    weight_decay: NonNegative

    def init(self, w: Tensor, layout: Layout) -> ScheduleFreeState:
        v = torch.zeros_like(w) if self.form == "adam" else w.new_zeros(*w.shape[:-1], 0)
        return ScheduleFreeState(w.clone(), v, w.new_zeros(*w.shape[:-1], 1), torch.zeros((), device=w.device))

    def step(self, w: Tensor, state: ScheduleFreeState, objective: ObjectiveOracle) -> Step:
        z, s = state.z, state.s
        x = w.clone()
        y = w.lerp_(z, 1 - self.beta)  # in the place of w, where a gradient costs no copy of the network
        loss, g = objective.gradient(y)
        if isinstance(self.weight_decay, Tensor) or self.weight_decay > 0.0:
            axpy_(z, -self.lr * self.weight_decay, objective.layout.weight_mask(y) * y)
        if self.form == "sgd":
            axpy_(z, -self.lr, g)
        else:
            fits = fused_available(w)
            (self.update_fused if fits else self.update_textbook)(z, state, g)
        square = self.lr * self.lr  # a power of a number that is too large would raise
        s += square
        c = torch.where(s > 0, square / s, 0.0)  # a schedule may begin at zero
        return Step(torch.lerp(x, z, c, out=w), state, loss, g)

    def update_textbook(self, z: Tensor, state: ScheduleFreeState, g: Tensor) -> tuple[Tensor, ScheduleFreeState]:
        """The formula for z as it stands above, in place, for any leading dimensions, but for decay."""
        v = state.v.lerp_(g.square(), 1 - self.beta2)
        v_hat = v / (1 - self.beta2 ** state.t.add_(1).to(v.dtype))
        return axpy_(z, -self.lr, g / v_hat.sqrt_().add_(self.eps)), state

    def update_fused(self, z: Tensor, state: ScheduleFreeState, g: Tensor) -> tuple[Tensor, ScheduleFreeState]:
        """The same in one pass over memory, for a single run: torch's fused Adam with beta1 = 0.

        Its average of gradients is then g, which stands in for it and is written back unchanged.
        """
        t = state.t.add_(1)
        fused_adam_step_([z], [g], [g], [state.v], [t], lr=self.lr, beta1=0.0, beta2=self.beta2, eps=self.eps)
        return z, state
