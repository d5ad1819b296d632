"""Tables as text for thousands of rows, styled if the terminal supports it."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Sequence

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"


def apply_style(text: str, style: str) -> str:
    """Return the text in an ANSI style if standard output is a terminal that accepts colours."""
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{style}m{text}\x1b[0m" if colours and style else text


def format_table(
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    right: Sequence[bool],
    styles: Sequence[Sequence[str]] | None = None,
    width: int | None = None,
    first: Sequence[str] = (),
    remedy: str = "--columns A,B chooses, --csv has all",
) -> list[str]:
    """Return the lines of a table, each column as wide as its widest cell.

    right    whether each column is right-aligned
    width    largest number of characters of a line: the last columns that do not fit are omitted, and a line names them
    first    columns that are omitted only after all others
    remedy   advice in that line
    """
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    order = sorted(range(len(header)), key=lambda i: first.index(header[i]) if header[i] in first else len(first))
    shown: list[int] = []
    used = 0
    for i in order:
        if width is not None and shown and used + widths[i] > width:
            break
        shown.append(i)
        used += widths[i] + 2
    shown.sort()

    def line(cells: Sequence[str], style: Sequence[str]) -> str:
        padded = [
            apply_style(cells[i].rjust(widths[i]) if right[i] else cells[i].ljust(widths[i]), style[i]) for i in shown
        ]
        return "  ".join(padded).rstrip()

    plain = [""] * len(header)
    lines = [line(header, [BOLD] * len(header))]
    lines += [line(row, styles[i] if styles else plain) for i, row in enumerate(rows)]
    missing = [name for i, name in enumerate(header) if i not in shown]
    if missing:
        notice = f"(left out: {', '.join(missing)}; {remedy})"
        lines += [apply_style(x, DIM) for x in textwrap.wrap(notice, width or 120)]
    return lines


def format_markdown(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Return the lines of a table in Markdown."""
    rule = ["---:" if r else "---" for r in right]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]
