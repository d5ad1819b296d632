"""Curves drawn with characters, for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dlopt.report.curves import Panel

SIDE_BY_SIDE = 96
"""Smallest width for two panels side by side."""
COLOURS = ("blue", "orange", "green", "magenta", "cyan", "red")


def render(panels: Sequence[Panel], width: int, height: int = 15, *, coloured: bool = True) -> str:
    """Return the first two panels as text of at most `width` columns."""
    import plotext

    panels = [p for p in panels if p.curves][:2]
    per_row = len(panels) if width >= SIDE_BY_SIDE else 1
    width = min(width, 70 * per_row)
    plotext.main()  # an earlier plot may have left a panel active, and only that one would be cleared
    plotext.clear_figure()
    plotext.limit_size(False, False)
    rows = -(-len(panels) // per_row)
    plotext.subplots(rows, per_row)
    plotext.plotsize(width, height * rows)
    for i, panel in enumerate(panels):
        plotext.subplot(i // per_row + 1, i % per_row + 1)
        plotext.theme("clear")
        for curve in panel.curves:
            colour = COLOURS[curve.colour % len(COLOURS)]
            marker = "dot" if curve.is_dashed else "braille"  # distinct without colours too
            plotext.plot(curve.x, curve.y, marker=marker, label=curve.label, color=colour)
        plotext.xticks(_choose_ticks(max(x for curve in panel.curves for x in curve.x)))
        plotext.title(panel.title)
        plotext.xlabel("epoch")
    lines = [line.rstrip() for line in plotext.build().splitlines()]
    return "\n".join(lines if coloured else map(plotext.uncolorize, lines))


def _choose_ticks(end: float) -> list[float]:
    """Return about five round numbers from 0 to the end."""
    step = 10.0 ** math.floor(math.log10(max(end, 1e-9) / 5))
    step *= next(m for m in (1, 2, 5, 10) if end / (m * step) <= 6)
    return [i * step if step < 1 else int(i * step) for i in range(int(end / step) + 1)]
