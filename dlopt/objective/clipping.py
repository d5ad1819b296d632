"""Gradient clipping."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Layout, Parameter
from dlopt.linalg.inplace import clip_factor
from dlopt.ranges import Positive


@dataclass(frozen=True)
class Clip:
    """Clips each gradient, including penalties, before the optimizer gets it; the loss does not change.

        value   g_i <- min(max(g_i, -value), value)
        agc     g_u <- g_u min(1, agc max(|w_u|, agc_eps) / |g_u|),  for the weights w_u of each unit u
        norm    g <- g min(1, norm / |g|),  the Euclidean norm over all of w

    They act in this order: large entries are cut before they make the others small, and all limits hold. A gradient
    that is not finite stays so, and the run ends as diverged. regularization=gradient_noise adds noise to the clipped
    gradient.

    agc is adaptive gradient clipping: a limit for the change of a unit relative to its weights. A unit of a linear
    layer has a row of the matrix, one of a convolution the kernels of all its input channels. A vector, such as biases
    or the scales of a normalization, counts as one unit, as in the authors' code. Biases start at zero, so that agc_eps
    decides how long their gradient may be. The paper leaves out the last layer, here the layer of the last weight
    matrix.

    value        largest absolute value of an entry; null: do not clip entries
    agc          lambda, the largest ratio of the norms of gradient and weights of a unit: 0.01 in the paper, up to 0.16
                 for small batches; null: off
    agc_eps      least norm of weights in that ratio, so that units of zeros can move: 1e-3 in the paper
    agc_output   whether agc acts on the last layer, too
    norm         largest norm; null: do not clip by the norm

    Source: Pascanu, Mikolov and Bengio 2013, algorithm 1 (norm); Mikolov 2012 (value); Goodfellow, Bengio and Courville
    2016, section 10.11.1; Brock, De, Smith and Simonyan 2021, equation 3 (agc).
    """

    norm: Positive | None
    value: Positive | None
    agc: Positive | None
    agc_eps: Positive
    agc_output: bool

    @property
    def limits(self) -> dict[str, float]:
        """Return the limits that are on, by their keys."""
        limits = {"norm": self.norm, "value": self.value, "agc": self.agc}
        return {key: limit for key, limit in limits.items() if limit is not None}

    def __call__(self, g: Tensor, w: Tensor, layout: Layout) -> Tensor:
        """Return the clipped gradient at w, (..., P); g is not modified."""
        if self.value is not None:
            g = g.clamp(-self.value, self.value).masked_fill_(g.isinf(), torch.nan)
        if self.agc is not None:
            g = self._clip_units(self.agc, g, w, layout)
        return g if self.norm is None else g * clip_factor(g, self.norm)

    def _clip_units(self, ratio: float, g: Tensor, w: Tensor, layout: Layout) -> Tensor:
        clipped = g.clone()
        for p in self._list_parameters(layout):
            units, weights = (_view_units(p, x[..., p.slice]) for x in (clipped, w))
            norms = torch.linalg.vector_norm(weights, dim=(-3, -1), keepdim=True)
            units.mul_(clip_factor(units, ratio * norms.clamp(min=self.agc_eps), dim=(-3, -1)))
        return clipped

    def _list_parameters(self, layout: Layout) -> Iterator[Parameter]:
        """Yield the parameters that agc acts on."""
        last = [p.name for p in layout if p.kind == "weight"][-1:]
        left_out = [] if self.agc_output else [name.rpartition(".")[0] for name in last]
        return (p for p in layout if p.name.rpartition(".")[0] not in left_out)


def _view_units(p: Parameter, piece: Tensor) -> Tensor:
    """Return a parameter's part of w, (..., size), as (..., groups, inputs, units, rest); a vector is one unit."""
    return p.split_units(piece) if p.kind == "weight" else piece.unflatten(-1, (1, 1, 1, -1))
