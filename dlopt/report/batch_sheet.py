"""Contact sheets: the examples of a mini-batch as small images or line plots, each with its label."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from typing import NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dlopt.report.figures import COLOURS, STYLE, add_heading
from dlopt.report.first_batch import Examples, FirstBatch
from dlopt.storage.safe_read import to_printable

WIDTH_INCHES = 11.0
WIDEST_CELL, TALLEST_CELL = 2.5, 2.0
"""Limits of width/height of a cell and of its inverse; longer examples have margins."""
SERIES_SHAPE = 1.6
"""Width/height of a line plot."""
CELLS_ACROSS = 8
LABEL_HEIGHT, GAP, GROUP_GAP = 0.26, 0.08, 0.3
"""Sizes in units of the height of a cell: a label, the gap within a pair and between pairs."""
CHARACTERS_PER_INCH = 11
"""Characters of a heading."""
MAX_LABEL = 26
MAX_CHANNELS = 8
"""Channels of a series that are drawn."""

Draw = Callable[[Axes, "Cell", np.ndarray], None]


class Cell(NamedTuple):
    """The place of an example: its left and upper edge and its width; its height is 1, and y grows downwards."""

    left: float
    top: float
    width: float


def plot_batch(batch: FirstBatch, heading: str) -> Figure:
    """Plot images (N, channels, height, width) or series (N, channels, length), without and with augmentation.

    Raises ValueError for inputs of another shape.
    """
    shape = batch.plain.inputs.shape[1:]
    both = [batch.plain] if batch.seen is None else [batch.plain, batch.seen]
    if len(shape) == 3:
        scale = find_image_scale(both)
        ratio = min(max(shape[2] / shape[1], 1 / TALLEST_CELL), WIDEST_CELL)
        note = f"black is {scale[0]:.3g} and white {scale[1]:.3g}"
        return _plot_cells(both, ratio, heading, f"{batch.title}; {note}", _make_image_drawer(scale))
    if len(shape) == 2:
        limits = find_series_limits(both)
        drawn = f", {MAX_CHANNELS} of {shape[0]} channels" if shape[0] > MAX_CHANNELS else ""
        note = f"values from {limits[0]:.3g} to {limits[1]:.3g}{drawn}"
        return _plot_cells(both, SERIES_SHAPE, heading, f"{batch.title}; {note}", _make_line_drawer(limits))
    raise ValueError(f"draws images and series; an example of this data has shape {tuple(shape)}")


def find_image_scale(both: list[Examples]) -> tuple[float, float]:
    """Return the values that are drawn black and white: 0 and 1 if all values lie between, else those of the data."""
    low, high = _find_range([both[0].inputs])
    whole_low, whole_high = _find_range([examples.inputs for examples in both])
    return (0.0, 1.0) if whole_low >= 0 and whole_high <= 1 else (low, high if high > low else low + 1.0)


def find_series_limits(both: list[Examples]) -> tuple[float, float]:
    """Return the values at the lower and upper edge of a line plot."""
    low, high = _find_range([examples.inputs for examples in both])
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _find_range(arrays: list[np.ndarray]) -> tuple[float, float]:
    finite = np.concatenate([array[np.isfinite(array)].ravel() for array in arrays])
    return (float(finite.min()), float(finite.max())) if len(finite) else (0.0, 1.0)


def _place_cells(count: int, pair: int, ratio: float) -> Iterator[tuple[float, float]]:
    """Yield the left and upper edge of each example, whose cells lie side by side."""
    width = pair * ratio + (pair - 1) * GAP + GROUP_GAP
    per_row = _count_per_row(pair)
    for i in range(count):
        row, column = divmod(i, per_row)
        yield column * width, row * (1 + LABEL_HEIGHT + GROUP_GAP / 2)


def _count_per_row(pair: int) -> int:
    return CELLS_ACROSS // pair


def _plot_cells(both: list[Examples], ratio: float, heading: str, note: str, draw: Draw) -> Figure:
    """Plot each example with its label, below a heading and a note; with augmentation, side by side."""
    count, pair = len(both[0].labels), len(both)
    places = list(_place_cells(count, pair, ratio))
    cell_step = ratio + GAP
    across = max(left for left, _ in places) + pair * cell_step
    down = max(top for _, top in places) + 1 + LABEL_HEIGHT
    full = min(count, _count_per_row(pair)) / _count_per_row(pair)
    width = max(WIDTH_INCHES * full, 5.5)
    with mpl.rc_context(STYLE | {"axes.grid": False}):
        figure = Figure(figsize=(width, width * down / across + 0.6), layout="constrained")
        axes = figure.add_subplot()
        axes.set_axis_off()
        for i, (left, top) in enumerate(places):
            for k, examples in enumerate(both):
                cell = Cell(left + k * cell_step, top, ratio)
                draw(axes, cell, examples.inputs[i])
                if k == 0 or examples.labels != both[0].labels:
                    label = _wrap_label(to_printable(examples.labels[i]))
                    axes.text(cell.left, top + 1.04, label, va="top", fontsize=7, clip_on=False)
        axes.set_xlim(0, across)
        axes.set_ylim(down, 0)
        axes.set_aspect("equal")
        kinds = "left: without augmentation, right: with it" if pair > 1 else "no augmentation"
        lines = [
            textwrap.fill(line, max(int(width * CHARACTERS_PER_INCH), 1)) for line in (heading, f"{note}; {kinds}")
        ]
        return add_heading(figure, "\n".join(lines))


def _wrap_label(label: str) -> str:
    """Return a label in at most two lines: a long mixture has a line for each of its first two classes."""
    lines = [label] if len(label) <= MAX_LABEL else label.replace(" + ", "\n+ ").splitlines()
    return "\n".join(x if len(x) <= MAX_LABEL else f"{x[: MAX_LABEL - 1]}…" for x in lines[:2])


def _make_image_drawer(scale: tuple[float, float]) -> Draw:
    low, high = scale

    def draw(axes: Axes, cell: Cell, image: np.ndarray) -> None:
        shown = np.clip((image - low) / (high - low), 0, 1)
        if len(shown) != 3:  # gray, or channels that are not colours
            shown = np.repeat(shown.mean(0, keepdims=True), 3, 0)
        height, width = shown.shape[1:]
        used = min(cell.width, width / height)  # centred, if it is narrower than the cell
        tall = used * height / width
        left, top = cell.left + (cell.width - used) / 2, cell.top + (1 - tall) / 2
        axes.imshow(np.moveaxis(shown, 0, -1), extent=(left, left + used, top + tall, top), aspect="auto")

    return draw


def _make_line_drawer(limits: tuple[float, float]) -> Draw:
    low, high = limits

    def draw(axes: Axes, cell: Cell, series: np.ndarray) -> None:
        x = cell.left + cell.width * np.linspace(0, 1, series.shape[-1])
        ends = [cell.left, cell.left + cell.width]
        axes.fill_between(ends, cell.top, cell.top + 1, color="#f3f3f3", linewidth=0, zorder=0)
        if low < 0 < high:
            axes.plot(ends, [cell.top + high / (high - low)] * 2, color="#cccccc", linewidth=0.5, zorder=1)
        for channel, colour in zip(series[:MAX_CHANNELS], COLOURS, strict=False):
            style = "." if len(x) == 1 else "-"
            axes.plot(x, cell.top + (high - channel) / (high - low), style, color=colour, linewidth=0.8, zorder=2)

    return draw
