"""Tables of text that fit the width of a terminal, and tables in Markdown and CSV."""

from __future__ import annotations

import csv
import os
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TextIO

BOLD, DIM, RED, GREEN, YELLOW = "1", "2", "31", "32", "33"
GAP = 2
"""Spaces between columns."""
MIN_TEXT_LENGTHS = (16, 8)
"""Characters that a shortened text keeps: before columns are omitted, and after it."""

Columns = dict[int, list[str]]
"""The shown columns by position: the name, then the cells."""


class TextTable(NamedTuple):
    """A table of text.

    right_aligned   whether each column is right-aligned
    styles          ANSI style of each cell
    footer          line below the table
    keys            names of columns that are dotted keys, which a narrow terminal shows by their last part
    droppable       columns that may be omitted, the first one first; all others are always shown
    remedy          advice in the line that names the omitted columns
    """

    header: list[str]
    rows: list[list[str]]
    right_aligned: list[bool]
    styles: list[list[str]] | None = None
    footer: str = ""
    keys: tuple[str, ...] = ()
    droppable: tuple[str, ...] = ()
    remedy: str = "--columns A,B chooses, --csv has all"

    def text(self, width: int | None = None) -> str:
        """Return the table in lines of at most this width, if that is possible without omitting more columns."""
        return "\n".join(self.lines(width) + ([apply_style(self.footer, DIM)] if self.footer else []))

    def lines(self, width: int | None = None) -> list[str]:
        """Return the lines of the table without the footer.

        If the table is wider than `width`, keys are abbreviated, columns with one value are omitted, texts are
        shortened, and further columns are omitted, in this order. If that does not suffice, each row becomes a
        paragraph of all its values.
        """
        columns = dict(enumerate(map(list, zip(self.header, *self.rows, strict=True))))
        if width is None or _measure(columns) <= width:
            return self._align(columns)
        notice = self._narrow(columns, width)
        if _measure(columns) > width:
            return self._stack(width)
        return self._align(columns) + [apply_style(line, DIM) for line in textwrap.wrap(notice, width)]

    def csv(self, out: TextIO) -> None:
        csv.writer(out, lineterminator="\n").writerows([self.header, *self.rows])

    def markdown(self) -> str:
        return "\n".join(format_markdown(self.header, self.rows, self.right_aligned))

    def _narrow(self, columns: Columns, width: int) -> str:
        """Shorten and omit columns until they fit the width, if possible. Return a line that names the omitted ones."""
        short = dict(zip(self.keys, shorten_keys(self.keys), strict=True))
        for i, name in enumerate(self.header):
            columns[i][0] = short.get(name, name)
        droppable = [self.header.index(name) for name in self.droppable if name in self.header]
        constant = {i: columns[i][1] for i in droppable if len(self.rows) > 1 and len(set(columns[i][1:])) == 1}

        def drop(positions: Iterable[int]) -> None:
            for i in positions:
                if _measure(columns) > width:
                    del columns[i]

        drop(constant)
        self._shorten_texts(columns, width, MIN_TEXT_LENGTHS[0])
        drop(i for i in droppable if i not in constant)
        self._shorten_texts(columns, width, MIN_TEXT_LENGTHS[1])
        omitted = [f"{n}={constant[i]}" if i in constant else n for i, n in enumerate(self.header) if i not in columns]
        return f"(left out: {', '.join(omitted)}; {self.remedy})" if omitted else ""

    def _shorten_texts(self, columns: Columns, width: int, shortest: int) -> None:
        """Shorten the longest texts until the columns fit the width, as far as different texts stay different."""
        texts = [i for i in columns if not self.right_aligned[i]]
        for i in sorted(texts, key=lambda i: -max(map(len, columns[i]))):
            excess = _measure(columns) - width
            if excess > 0:
                length = max(shortest, max(map(len, columns[i])) - excess)
                columns[i][1:] = _shorten_distinctly(columns[i][1:], length)

    def _align(self, columns: Columns) -> list[str]:
        """Return the lines of these columns, each as wide as its widest cell."""
        widths = {i: max(map(len, cells)) for i, cells in columns.items()}
        lines = []
        for k in range(len(self.rows) + 1):
            padded = []
            for i, cells in columns.items():
                style = BOLD if k == 0 else self.styles[k - 1][i] if self.styles else ""
                cell = cells[k].rjust(widths[i]) if self.right_aligned[i] else cells[k].ljust(widths[i])
                padded.append(apply_style(cell, style))
            lines.append((" " * GAP).join(padded).rstrip())
        return lines

    def _stack(self, width: int) -> list[str]:
        """Return a paragraph for each row: NAME=VALUE of every column that has a value there."""
        lines = []
        for row in self.rows:
            line = ""
            for pair in (f"{n}={cell}" for n, cell in zip(self.header, row, strict=True) if cell not in ("", "-")):
                if line and len(line) + GAP + len(pair) > width:
                    lines.append(line)
                    line = "  " + pair
                else:
                    line += (" " * GAP if line else "") + pair
            lines.append(line)
        return lines


def shorten_keys(keys: Sequence[str]) -> list[str]:
    """Return the last part of each key, or the whole key if another one ends in the same part."""
    ends = [key.rpartition(".")[2] for key in keys]
    return [end if ends.count(end) == 1 else key for key, end in zip(keys, ends, strict=True)]


def apply_style(text: str, style: str) -> str:
    """Return the text in an ANSI style if standard output is a terminal that accepts colours."""
    colours = sys.stdout.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
    return f"\x1b[{style}m{text}\x1b[0m" if colours and style else text


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Return the lines of a table, each column as wide as its widest cell; right: whether it is right-aligned."""
    return TextTable(list(header), [list(row) for row in rows], list(right)).lines()


def format_markdown(header: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[bool]) -> list[str]:
    """Return the lines of a table in Markdown."""
    rule = ["---:" if r else "---" for r in right]
    return ["| " + " | ".join(cells) + " |" for cells in (header, rule, *rows)]


def _measure(columns: Columns) -> int:
    """Return the number of characters in a line."""
    return sum(max(map(len, cells)) + GAP for cells in columns.values()) - GAP


def _shorten_distinctly(texts: Sequence[str], length: int) -> list[str]:
    """Shorten texts to a length, or to the next one at which different texts stay different."""
    longest = max(map(len, texts))
    while length < longest:
        short = [_shorten(text, length) for text in texts]
        if len(set(short)) == len(set(texts)):
            return short
        length += 1
    return list(texts)


def _shorten(text: str, length: int) -> str:
    """Return the end of a path, or the beginning of another text, with an ellipsis."""
    if len(text) <= length:
        return text
    return f"…{text[1 - length :]}" if "/" in text else f"{text[: length - 1]}…"
