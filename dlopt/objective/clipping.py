"""Gradient clipping."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.linalg.inplace import clip_factor
from dlopt.ranges import Positive


@dataclass(frozen=True)
class Clip:
    """What is done to each gradient, penalties in it, before a rule gets it; the loss is left as it is.

        value   g_i <- min(max(g_i, -value), value)
        norm    g <- g min(1, norm / |g|),  the Euclidean norm over all of w

    With both, value comes first, so that a few large entries are cut before they make all the others small; then both
    limits hold. A gradient that is not finite stays so, and ends the run as diverged. The noise of
    regularization=gradient_noise is added to what is clipped.

    value   the largest entry, in size; null: not by entries
    norm    the largest norm; null: not by the norm

    Source: Pascanu, Mikolov and Bengio 2013, algorithm 1 (norm); Mikolov 2012 (value); Goodfellow, Bengio and Courville
    2016, section 10.11.1.
    """

    norm: Positive | None
    value: Positive | None

    @property
    def is_on(self) -> bool:
        return self.norm is not None or self.value is not None

    def __call__(self, g: Tensor) -> Tensor:
        """The gradient (..., P), clipped; g is kept."""
        if self.value is not None:
            g = g.clamp(-self.value, self.value).masked_fill_(g.isinf(), torch.nan)
        return g if self.norm is None else g * clip_factor(g, self.norm)
