"""Size of the gradient along depth, as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, NamedTuple

import torch
from torch import Tensor

from dlopt.base.diagnostic import Picture
from dlopt.base.layout import Layout
from dlopt.diagnostic._layer_norms import compute_layer_norms
from dlopt.parts import Diagnostic, Reading, StepRecord
from dlopt.ranges import Range


class FlowHistory(NamedTuple):
    columns: Tensor  # (..., layers, columns), log10 of the sizes; NaN for columns to come
    measured: int  # measurements
    stride: int  # measurements in a column
    first: int  # step of the first measurement


@dataclass(frozen=True)
class GradientFlow(Diagnostic):
    """Size of the gradient in each layer, along depth and over time, as a picture in TensorBoard's IMAGES.

        gradient_flow/layers   a picture: one row for each layer, the first on top, over the steps of training
        gradient_flow/ratio    size in the first layer over that in the last one: far below 1, gradients vanish on
                               their way back; far above 1, they explode

    The size is |g_l| / sqrt(n_l), the root mean square over the n_l weights and biases of a layer. The picture shows
    its base-10 logarithm. The gradient is that of loss and penalties, before clipping and noise. Layers are named as by
    diagnostic=gradients.

    When all columns are full, each two of them become one, their mean, and a column holds twice as many measurements as
    before. A picture is written when a column is complete. So memory does not grow, and the event file only with the
    logarithm of the length of the run: 530 pictures of 10,000 measurements.

    columns   largest number of columns; an odd one counts as the even number below it

    Cost: a pass over the weights per measurement, and 3 ms to draw a picture.

    Source: Glorot and Bengio 2010, section 4.2, for sizes along depth.
    """

    columns: Annotated[int, Range(ge=2)]

    def init(self, w: Tensor, layout: Layout) -> FlowHistory:
        shape = (*w.shape[:-1], len(layout.layers()), self.columns - self.columns % 2)
        return FlowHistory(w.new_full(shape, torch.nan), 0, 1, 0)

    def measure(self, moment: StepRecord, memory: FlowHistory) -> tuple[dict[str, Reading], FlowHistory]:
        layout = moment.layout
        norms = compute_layer_norms(moment.gradient, layout)
        counts = [sum(s.stop - s.start for s in slices) for slices in layout.layers().values()]
        sizes = torch.stack([norm / n**0.5 for norm, n in zip(norms.values(), counts, strict=True)], -1)
        tags: dict[str, Reading] = {"gradient_flow/ratio": sizes[..., 0] / sizes[..., -1]}
        first = memory.first or moment.step + 1
        columns, count, stride, _ = _add_column(memory, sizes.log10())
        if count % stride == 0:
            span, quantity = (first, moment.step + 1), "log10 of the gradient's size"
            tags["gradient_flow/layers"] = Picture(columns, tuple(norms), span, count // stride, quantity)
        return tags, FlowHistory(columns, count, stride, first)


def _add_column(memory: FlowHistory, values: Tensor) -> FlowHistory:
    """Return the history with one more measurement, (..., layers), in its last column."""
    columns, count, stride, first = memory
    size = columns.shape[-1]
    if count == size * stride:
        columns = torch.cat(
            [columns.unflatten(-1, (-1, 2)).mean(-1), torch.full_like(columns[..., : size // 2], torch.nan)], -1
        )
        stride *= 2
    at, done = divmod(count, stride)
    columns = columns.clone()
    columns[..., at] = values if done == 0 else torch.lerp(columns[..., at], values, 1 / (done + 1))
    return FlowHistory(columns, count + 1, stride, first)
