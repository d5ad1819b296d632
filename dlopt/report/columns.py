"""Text in columns, for thousands of rows at once: plain, bold and dim where a terminal shows it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


def styled(text: str, style: str) -> str:
    """The text in an ANSI style, where standard output is a terminal that wants colours."""
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{style}m{text}\x1b[0m" if colours and style else text


def aligned(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    styles: Sequence[Sequence[str]] | None = None,
    width: int | None = None,
) -> list[str]:
    """Lines of a table, each column as wide as its widest cell; right-aligned where `right` says so.

    width: columns that no longer fit a line of this many characters are left out, and their names come last.
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    shown, used = 0, 0
    for w in widths:
        if width is not None and shown and used + w > width:
            break
        used += w + 2
        shown += 1

    def line(cells: Sequence[str], style: Sequence[str]) -> str:
        padded = [
            styled(c.rjust(w) if r else c.ljust(w), s)
            for c, w, r, s in zip(cells[:shown], widths, right, style, strict=False)
        ]
        return "  ".join(padded).rstrip()

    plain = [""] * len(header)
    lines = [line(header, [BOLD] * len(header))]
    lines += [line(row, styles[i] if styles else plain) for i, row in enumerate(rows)]
    if shown < len(header):
        lines.append(styled(f"(and {', '.join(header[shown:])}: a wider terminal, or --csv)", DIM))
    return lines


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """The lines of a table in Markdown."""
    rule = ["---:" if r else "---" for r in right]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
