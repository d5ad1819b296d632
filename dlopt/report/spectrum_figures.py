"""Figures of the eigenvalues of a Hessian or a Gauss-Newton matrix: at one checkpoint, or over training."""

from __future__ import annotations

import math
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LogNorm
from matplotlib.figure import Figure

from dlopt.landscape.spectrum import Spectrum
from dlopt.report.figures import COLOURS, STYLE, add_heading, format_power

BELOW_ONE = 30.0
"""The density is drawn down to the height of a single eigenvalue divided by this number."""
LINEAR = 0.02
"""The axis of eigenvalues over training is linear below the power of ten under this fraction of the largest one."""
GREY = "#666666"


def plot_density(found: Spectrum, heading: str) -> Figure:
    """Plot the logarithm of a density, and a mark for each outlier."""
    grid, density = (x.numpy() for x in found.density())
    one = found.peak_of_one()
    floor = one / BELOW_ONE
    outliers = [value for value, _ in found.outliers()]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(7.2, 3.8), layout="constrained")
        axes = figure.add_subplot()
        axes.fill_between(grid, floor, np.maximum(density, floor), color=COLOURS[0], alpha=0.15, linewidth=0)
        axes.semilogy(grid, np.maximum(density, floor), color=COLOURS[0], linewidth=1.3)
        axes.axvline(0.0, color=GREY, linewidth=0.8, zorder=1)
        axes.axhline(one, color=GREY, linewidth=0.8, linestyle=":", zorder=1)
        axes.text(0.995, one * 1.15, "a single eigenvalue", transform=axes.get_yaxis_transform(), fontsize=8,
                  color="#444444", ha="right", va="bottom")  # fmt: skip
        if outliers:
            axes.plot(outliers, [floor] * len(outliers), "|", color=COLOURS[1], markersize=13, markeredgewidth=1.4,
                      label=f"outliers ({len(outliers)})", clip_on=False)  # fmt: skip
            axes.legend(loc="upper right")
        axes.yaxis.set_major_formatter(format_power)
        axes.set_ylim(floor, 3 * density.max())
        axes.set_xlim(grid[0], grid[-1])
        axes.set_xlabel("eigenvalue")
        axes.set_ylabel("density")
        return add_heading(figure, heading)


def plot_over_training(spectra: Sequence[Spectrum], heading: str) -> Figure:
    """Plot the densities over the steps of training with the outliers, and the extreme eigenvalues and the trace."""
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10.5, 4.0), layout="constrained")
        axes, curves = figure.subplots(1, 2, width_ratios=(3, 2))
        _plot_densities(axes, spectra)
        steps = [found.step for found in spectra]
        largest = [found.values.max().item() for found in spectra]
        smallest = [found.values.min().item() for found in spectra]
        trace = [found.trace.value.item() for found in spectra]
        error = [found.trace.error.item() for found in spectra]
        curves.errorbar(steps, trace, None if np.isnan(error).any() else error, fmt="o-", color=COLOURS[2],
                        markersize=4, label="trace")  # fmt: skip
        curves.plot(steps, largest, "s-", color=COLOURS[1], markersize=4, label="largest eigenvalue")
        curves.plot(steps, smallest, "v-", color=COLOURS[0], markersize=4, label="smallest eigenvalue")
        linear = 10.0 ** math.floor(math.log10(LINEAR * max(map(abs, (*largest, *smallest))) or 1.0))
        for each in (axes, curves):
            each.set_yscale("symlog", linthresh=linear, linscale=1.5)
            each.yaxis.set_major_formatter(format_power)
        curves.set_ylabel("eigenvalue, trace")
        curves.set_xlabel("step")
        curves.legend(loc="best", fontsize=8)
        return add_heading(figure, heading)


def _plot_densities(axes: Axes, spectra: Sequence[Spectrum]) -> None:
    """Plot a column for each step, whose shades are the logarithm of the density; points are outliers.

    Each column has the points and the kernel of its own density: early spectra can be a hundred times as narrow as late
    ones. It is empty where the density is below the half of a single eigenvalue's.
    """
    steps = np.array([found.step for found in spectra], dtype=float)
    middle = (steps[1:] + steps[:-1]) / 2
    edges = np.array([1.5 * steps[0] - 0.5 * steps[1], *middle, 1.5 * steps[-1] - 0.5 * steps[-2]])
    columns = [tuple(x.numpy() for x in found.density()) for found in spectra]
    ones = [found.peak_of_one() for found in spectra]
    norm = LogNorm(min(ones), max(density.max() for _, density in columns))
    for left, right, (grid, density), one in zip(edges, edges[1:], columns, ones, strict=False):
        cells = (density[1:] + density[:-1]) / 2
        shades = np.ma.masked_less(cells[:, None], one / 2)  # a single eigenvalue shows with its own width
        picture = axes.pcolormesh([left, right], grid, shades, cmap="Blues", norm=norm, rasterized=True)
    for found in spectra:
        values = [value for value, _ in found.outliers()]
        axes.plot([found.step] * len(values), values, ".", color=COLOURS[1], markersize=4, zorder=3)
    axes.plot([], [], ".", color=COLOURS[1], label="outliers")
    axes.axhline(0.0, color=GREY, linewidth=0.8, zorder=2)
    axes.set_xlabel("step")
    axes.set_ylabel("eigenvalue")
    axes.set_xlim(edges[0], edges[-1])
    axes.set_ylim(min(grid[0] for grid, _ in columns), 1.5 * max(grid[-1] for grid, _ in columns))
    axes.legend(loc="lower right")
    axes.figure.colorbar(picture, ax=axes, label="density", pad=0.02, format=format_power)
