"""The cells of a large CSV file, read by polars.

polars reads a simple file in a tenth of the time of Python's csv module, but other files in another way: see _csv.py.
So it reads a file only if all of its rows have as many cells as the header, and if quotes enclose whole cells without
quotes, delimiters and line ends. Then both find the same cells, and row i begins in line i + 2.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from dlopt.data._cells import LARGEST, MISSING, Cell, NumberCells, TableText
from dlopt.storage.frame_rows import FrameRows

if TYPE_CHECKING:
    import polars

LARGE = 20_000_000
"""Characters of a file from which on polars reads it: the csv module takes 2 s for it, and polars 0.7 s to import."""
SPACES = "\x1c\x1d\x1e\x1f"
"""Characters that Python's strip removes, and that of polars does not."""
LONGEST = csv.field_size_limit()
"""Characters of a cell that the csv module reads."""
QUOTED = '^"([^"]*)"$'
"""A cell in quotes, and its text."""


class LargeText(TableText):
    """The text of a large table; its rows are those of a frame."""

    __slots__ = ()

    def list_columns(self, names: Collection[str]) -> Iterable[Sequence[Cell]]:
        assert isinstance(self.rows, FrameRows)
        columns = zip(self.header, self.rows.frame.iter_columns(), strict=True)
        return (_read_cells(column) for name, column in columns if name in names)


def split_cells(text: str, delimiter: str) -> LargeText | None:
    """Return the cells of a text with \\n line ends, without the spaces around them.

    Return None if the csv module could find other cells, or an error.
    """
    import polars  # 0.7 s

    first, _, body = text.partition("\n")
    try:
        reader = csv.reader([first], delimiter=delimiter, skipinitialspace=True, strict=True)
        header = [name.strip() for name in next(reader, [])]
        names = [str(i) for i in range(len(header))]  # polars renames columns of the same name
        content = "\n".join((delimiter.join(names), body.rstrip("\n"), "")).encode()
    except (csv.Error, UnicodeEncodeError):
        return None
    del body
    if any(space in text for space in SPACES) or not _is_rectangular(content, delimiter, len(header)):
        return None
    schema = dict.fromkeys(names, polars.String)
    frame = polars.read_csv(content, schema=schema, separator=delimiter, quote_char=None)
    del content
    columns, has_quotes = [], '"' in text
    for texts in frame.iter_columns():
        cells = texts.fill_null("")
        if has_quotes:
            if not (cells.str.contains(QUOTED) | ~cells.str.contains('"', literal=True)).all():
                return None
            cells = cells.str.replace(QUOTED, "$1")
        columns.append(cells.str.strip_chars())
    return LargeText(header, FrameRows(polars.DataFrame(columns)), range(2, len(frame) + 2), delimiter)


def _is_rectangular(content: bytes, delimiter: str, width: int) -> bool:
    """Return whether each of two lines or more has `width` cells, two or more, and no cell is too long for csv."""
    characters = np.frombuffer(content, np.uint8)
    ends, delimiters = (np.flatnonzero(characters == ord(character)) for character in ("\n", delimiter))
    if width < 2 or len(ends) < 2 or len(delimiters) != len(ends) * (width - 1):
        return False
    begins, by_line = np.append(0, ends[:-1] + 1), delimiters.reshape(len(ends), width - 1)
    is_within = (by_line[:, 0] >= begins).all() and (by_line[:, -1] < ends).all()
    return bool(is_within and (ends - begins).max() < LONGEST)


def _read_cells(texts: polars.Series) -> Sequence[Cell]:
    """Return the cells of a column; missing values are None."""
    import polars

    values = texts.cast(polars.Float64, strict=False).fill_null(math.nan).to_numpy()
    is_other = ~(np.abs(values) < LARGEST)
    if all(text.lower() in MISSING for text in texts.filter(polars.Series(is_other)).unique().to_list()):
        return NumberCells(texts, np.where(is_other, math.nan, values))
    cell = {text: None if text.lower() in MISSING else text for text in texts.unique().to_list()}
    return [cell[text] for text in texts.to_list()]  # equal cells share one text
