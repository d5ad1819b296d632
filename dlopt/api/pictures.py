"""Figures of curves that leave the settings of matplotlib as they were."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from dlopt.report.curves import Panel

INLINE = ("inline", "module://matplotlib_inline.backend_inline")
"""Names of the backend that shows figures in a notebook, if nothing else is chosen."""


def draw_curves(panels: Sequence[Panel], title: str) -> Figure:
    """Return a figure of these panels in dlopt's style. Raises ValueError if there are none."""
    if not panels:
        raise ValueError(f"{title}: there are no curves yet")
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        from dlopt.report.figures import plot_curves

        figure = plot_curves(panels, title)
    if find_shell() is not None and mpl.get_backend() in INLINE:
        import matplotlib_inline.backend_inline  # noqa: F401  (only then does a notebook show figures)
    return figure


def find_shell() -> Any:
    """Return the shell of IPython that executes this process, such as a notebook's; None outside of one."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()
