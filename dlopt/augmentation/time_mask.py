"""Random masks of intervals of a series."""

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal

import torch
from torch import Tensor

from dlopt import prng
from dlopt.errors import OptionError
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import Count, Range


@dataclass(frozen=True)
class TimeMask(Augmentation):
    """Replaces intervals of each series, in all channels.

    The length of an interval is uniform in 0, ..., most, and its beginning uniform among the positions at which it lies
    in the series. Intervals may overlap. In a padded series they lie before the padding; one that is longer than the
    series covers all of it.

    most    maximum length of an interval, in positions; at most the length of the series, else ValueError
    count   number of intervals
    fill    content: zero (0, which is the mean of centred data) or mean (of each channel of the series)

    Source: Park et al. 2019, SpecAugment, section 2: time masking.
    """

    dims: ClassVar[tuple[int, ...]] = (1,)
    keeps_steps: ClassVar[bool] = True
    most: Annotated[int, Range(ge=0)]
    count: Count
    fill: Literal["zero", "mean"]

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        if self.most > inputs.shape[-1]:
            raise OptionError("most", f"must be at most {inputs.shape[-1]}, the length of a series, got {self.most}")
        is_step = ~inputs.isnan().all(1, keepdim=True)  # padding is NaN in all channels
        masked = self._draw_intervals(is_step.sum(-1), inputs, key) & is_step
        content = inputs.nanmean(-1, keepdim=True) if self.fill == "mean" else torch.zeros_like(inputs[..., :1])
        return torch.where(masked, content, inputs), targets

    def _draw_intervals(self, lengths: Tensor, like: Tensor, key: Key) -> Tensor:
        """Return whether each position lies in an interval, (B, 1, length), for series of these lengths (B, 1)."""
        u = prng.uniform(key, (2, len(like), self.count), like.device)
        size = (u[0] * (self.most + 1)).floor()  # one longer than the series covers it, wherever it begins
        begin = (u[1] * (lengths - size + 1)).floor()
        position = torch.arange(like.shape[-1], device=like.device)
        begin, end = begin.unsqueeze(-1), (begin + size).unsqueeze(-1)
        return ((position >= begin) & (position < end)).any(1, keepdim=True)
