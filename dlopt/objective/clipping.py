"""Gradient clipping."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.linalg.inplace import clip_factor
from dlopt.ranges import Positive


@dataclass(frozen=True)
class Clip:
    """Clips each gradient, including penalties, before the optimizer gets it; the loss does not change.

        value   g_i <- min(max(g_i, -value), value)
        norm    g <- g min(1, norm / |g|),  the Euclidean norm over all of w

    With both, value comes first: large entries are cut before they make the others small, and both limits hold. A
    gradient that is not finite stays so, and the run ends as diverged. regularization=gradient_noise adds noise to the
    clipped gradient.

    value   largest absolute value of an entry; null: do not clip entries
    norm    largest norm; null: do not clip by the norm

    Source: Pascanu, Mikolov and Bengio 2013, algorithm 1 (norm); Mikolov 2012 (value); Goodfellow, Bengio and Courville
    2016, section 10.11.1.
    """

    norm: Positive | None
    value: Positive | None

    @property
    def is_on(self) -> bool:
        return self.norm is not None or self.value is not None

    def __call__(self, g: Tensor) -> Tensor:
        """Return the clipped gradient (..., P); g is not modified."""
        if self.value is not None:
            g = g.clamp(-self.value, self.value).masked_fill_(g.isinf(), torch.nan)
        return g if self.norm is None else g * clip_factor(g, self.norm)
