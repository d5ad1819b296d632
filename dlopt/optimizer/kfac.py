"""K-FAC: natural gradient descent with Kronecker-factored curvature."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.layout import Layout
from dlopt.linalg.inplace import axpy_
from dlopt.optimizer._kronecker import align
from dlopt.parts import ObjectiveOracle, Optimizer, Step
from dlopt.ranges import Count, Fraction, NonNegative, Positive
from dlopt.storage import memory


class KFACState(NamedTuple):
    factors: Tensor  # (..., K), averages of all A and G, one after the other
    inverses: Tensor  # (..., K), inverses of the damped A and G
    m: Tensor  # (..., P), momentum
    t: int  # steps taken, on the host, which has to know when factors and inverses are due


@dataclass(frozen=True)
class KFAC(Optimizer):
    """K-FAC: natural gradient descent with a Kronecker-factored approximation of the Fisher information.

        D = (G + (damping^(1/2) / pi) I)^-1 dW (A + pi damping^(1/2) I)^-1,   pi^2 = (tr A / inputs) / (tr G / units)
        m <- momentum m + c D,  W <- W - lr m,   c = min(1, (kl_clip / (lr^2 sum of D dW))^(1/2))

    W is a linear layer or a convolution (Conv1d, Conv2d) with its bias as another column, and dW its gradient. The
    Fisher information of W is taken as the Kronecker product of

        A = mean over examples of the sum over positions of a a',   a: inputs of a unit, and 1 for the bias
        G = mean over examples and positions of g g',   g: gradient of an example's loss by the outputs

    so inputs and gradients count as independent, and layers, too. A linear layer has one position. A and G are running
    averages, A <- beta A + (1 - beta) A_t with beta = min(1 - 1/k, decay) at the k-th update. The product of the damped
    factors is near A x G + damping I.

    All other weights (normalizations, layers of other kinds or with tied weights) take gradient steps, D = dW.
    Penalties are in the gradient, not in A and G.

    lr               factor of the step
    momentum         fraction of the last step that is kept
    damping          added to the curvature of every direction
    decay            of the averages of A and G
    factors_every    steps between two updates of A and G; one costs about two gradients
    inverses_every   steps between two updates of the inverses
    fisher           model: g belongs to targets drawn from the network's own distribution, as the Fisher information
                     does. empirical: to the targets of the mini-batch, which needs no random numbers; near a minimum
                     these gradients, and with them the curvature, vanish
    kl_clip          largest lr^2 sum of D dW, about twice the change of the model in nats; null: no limit. While it
                     shortens a step, the step does not depend on lr, nor on its schedule

    Departures: damping is fixed, where the sources adapt it, and momentum and step size come from keys instead of a
    quadratic model. The limit by kl_clip is that of Ba, Grosse and Martens.

    Rows hold optimizer/kl_factor, the mean of c: 1 if kl_clip shortens no step.

    Raises ValueError before a run if the network has no linear layer and no convolution without groups.

    Source: Martens and Grosse 2015, sections 3, 5 and 6.3; convolutions: Grosse and Martens 2016, theorem 1; kl_clip:
    Ba, Grosse and Martens 2017, section 5.
    """

    needs_true_gradient = True
    without_sampling = ("fisher", "empirical")

    lr: Positive
    momentum: Fraction
    damping: NonNegative
    decay: Fraction
    factors_every: Count
    inverses_every: Count
    fisher: Literal["model", "empirical"]
    kl_clip: Positive | None

    @property
    def scales_with_lr(self) -> bool:  # type: ignore[override]
        """Return False if the length of the direction depends on the rate, by which kl_clip limits it."""
        return self.kl_clip is None

    @property
    def samples_targets(self) -> bool:  # type: ignore[override]
        return self.fisher == "model"

    def init(self, w: Tensor, layout: Layout) -> KFACState:
        factors = w.new_zeros(*w.shape[:-1], _count_entries(layout))
        return KFACState(factors, torch.zeros_like(factors), torch.zeros_like(w), 0)

    def check(self, w: Tensor, layout: Layout) -> None:
        if not layout.affine:
            raise ValueError("it has no linear layer and no convolution without groups; use another optimizer")
        memory.check(COPIES * w.element_size() * _count_entries(layout), "the Kronecker factors of this network")

    def step(self, w: Tensor, state: KFACState, objective: ObjectiveOracle) -> Step:
        loss, g = objective.gradient(w)
        layers = objective.layout.affine
        factors, inverses = (_split(x, objective.layout) for x in (state.factors, state.inverses))
        if state.t % self.factors_every == 0:
            weight = 1 - _minimum(self.decay, 1 - 1 / (state.t // self.factors_every + 1))
            new = objective.kronecker_factors(w, sampled=self.fisher == "model")
            for old, found in zip(factors, (x for pair in new for x in pair), strict=True):
                old.lerp_(found, align(weight, old))
        if state.t % self.inverses_every == 0:
            for i in range(len(layers)):
                for inverse, found in zip(inverses[2 * i :], self._invert(*factors[2 * i : 2 * i + 2]), strict=False):
                    inverse.copy_(found)
        d = g.clone()
        for i, layer in enumerate(layers):
            layer.put(d, inverses[2 * i + 1] @ layer.join(g) @ inverses[2 * i])
        info: dict[str, Tensor] = {}
        if self.kl_clip is not None:
            length = self.lr**2 * (d * g).sum(-1, keepdim=True)
            c = torch.where(length > self.kl_clip, (self.kl_clip / length).sqrt(), 1.0)
            d *= c
            info["kl_factor"] = c.squeeze(-1)
        axpy_(w, -self.lr, state.m.mul_(self.momentum).add_(d))
        return Step(w, state._replace(t=state.t + 1), loss, g, info)

    def _invert(self, a: Tensor, g: Tensor) -> tuple[Tensor, Tensor]:
        """Return the inverses of the damped factors."""
        means = [x.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] for x in (a, g)]
        pi = (means[0] / means[1]).sqrt()
        pi = torch.where(means[0] * means[1] > 0, pi, 1.0)
        root = align(self.damping, a) ** 0.5
        return _invert_with(a, pi * root), _invert_with(g, root / pi)


def _count_entries(layout: Layout) -> int:
    """Return K, the number of entries of all factors."""
    return sum(n * n for layer in layout.affine for n in layer.sides)


def _split(x: Tensor, layout: Layout) -> Sequence[Tensor]:
    """Return the views of x, (..., K), as square matrices: A and G of each layer."""
    sides = [n for layer in layout.affine for n in layer.sides]
    return [piece.unflatten(-1, (n, n)) for n, piece in zip(sides, x.split([n * n for n in sides], -1), strict=True)]


def _invert_with(x: Tensor, damping: Any) -> Tensor:
    """Return (x + damping I)^-1 of matrices; a singular one has an inverse that is not finite, and stops no other."""
    eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
    inverse = torch.linalg.inv_ex(x + damping * eye)[0]
    return (inverse + inverse.mT) / 2


def _minimum(value: float | Tensor, other: float) -> Any:
    return value.clamp(max=other) if isinstance(value, Tensor) else min(value, other)


COPIES = 4
"""Copies of the factors in a step: themselves, inverses, new ones, and the work of an inversion."""
