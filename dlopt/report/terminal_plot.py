"""Curves drawn with characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlopt.report.curves import Panel

SIDE_BY_SIDE = 96
"""Columns from which on two panels stand beside each other."""
COLOURS = ("blue", "orange", "green", "magenta", "cyan", "red")


def render(panels: Sequence[Panel], width: int, height: int = 15, *, coloured: bool = True) -> str:
    """The panels as text of at most so many columns."""
    import plotext

    panels = [p for p in panels if p.curves][:2]
    beside = len(panels) if width >= SIDE_BY_SIDE else 1
    width = min(width, 70 * beside)
    plotext.main()  # what was drawn before may have left it inside one of its panels, which alone would be cleared
    plotext.clear_figure()
    plotext.limit_size(False, False)
    plotext.subplots(-(-len(panels) // beside), beside)
    plotext.plotsize(width, height * (-(-len(panels) // beside)))
    for i, panel in enumerate(panels):
        plotext.subplot(i // beside + 1, i % beside + 1)
        plotext.theme("clear")
        for curve in panel.curves:
            colour = COLOURS[curve.colour % len(COLOURS)]
            marker = "dot" if curve.is_dashed else "braille"  # told apart without colours too
            plotext.plot(curve.x, curve.y, marker=marker, label=curve.label, color=colour)
        plotext.xticks(_ticks(max(x for curve in panel.curves for x in curve.x)))
        plotext.title(panel.title)
        plotext.xlabel("epoch")
    text = plotext.build()
    lines = [line.rstrip() for line in text.splitlines()]
    return "\n".join(lines if coloured else map(plotext.uncolorize, lines))


def _ticks(end: float) -> list[float]:
    """About five round numbers from 0 to the end."""
    step = 10.0 ** math.floor(math.log10(max(end, 1e-9) / 5))
    step *= next(m for m in (1, 2, 5, 10) if end / (m * step) <= 6)
    return [i * step if step < 1 else int(i * step) for i in range(int(end / step) + 1)]
