"""Measurements over time in a fixed number of columns, for heat maps."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.base.diagnostic import Picture


class ColumnHistory(NamedTuple):
    """A column for each measurement. When all columns are full, each two of them become one, their mean.

    So memory does not grow, and pictures of complete columns are few: 526 of 10,000 measurements in 128 columns.

    columns    (..., rows, columns); NaN for columns to come
    measured   number of measurements
    stride     measurements in a column
    first      step of the first measurement
    """

    columns: Tensor
    measured: int
    stride: int
    first: int

    @classmethod
    def start(cls, w: Tensor, rows: int, columns: int) -> ColumnHistory:
        """Return an empty history for weights (..., P); an odd number of columns counts as the even one below it."""
        return cls(w.new_full((*w.shape[:-1], rows, columns - columns % 2), torch.nan), 0, 1, 0)

    def add(self, values: Tensor, step: int) -> ColumnHistory:
        """Return the history with one more measurement, (..., rows), made at a step."""
        columns, stride, size = self.columns, self.stride, self.columns.shape[-1]
        if self.measured == size * stride:
            pairs = columns.unflatten(-1, (-1, 2)).mean(-1)
            columns = torch.cat([pairs, torch.full_like(pairs, torch.nan)], -1)
            stride *= 2
        at, done = divmod(self.measured, stride)
        columns = columns.clone()
        columns[..., at] = values if done == 0 else torch.lerp(columns[..., at], values, 1 / (done + 1))
        return ColumnHistory(columns, self.measured + 1, stride, self.first or step)

    def draw(self, labels: tuple[str, ...], step: int, quantity: str) -> Picture | None:
        """Return a picture up to a step, or None if the last column is not complete."""
        if self.measured % self.stride:
            return None
        return Picture(self.columns, labels, (self.first, step), self.measured // self.stride, quantity)
