"""The rows of a CSV file, a part at a time: the file may exceed memory.

The cells are those of `read_csv`. polars reads a large file as long as it would find the same cells as Python's csv
module, which reads the rest.
"""

from __future__ import annotations

import csv
import itertools
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import BinaryIO

from dlopt.base.data import PART_ROWS
from dlopt.data import _decoding, _files, _large_csv
from dlopt.data._cells import TableText
from dlopt.data._csv import DELIMITERS, check_header, choose_delimiter, describe_uneven, iter_lines
from dlopt.errors import OptionError
from dlopt.storage.regular_file import file_size

STEP = 1 << 10
"""The rows of a part but the last are a multiple of it."""
MAX_CELLS, MAX_CHARACTERS = 1 << 18, 1 << 22
"""Cells and characters of a part that the csv module reads, if they are more than one step."""


def iter_csv(file: Path, delimiter: str, encoding: str) -> Iterator[tuple[TableText, int]]:
    """Yield consecutive rows of a CSV file, and how many of its bytes are read then.

    Raise OptionError if the file is not a table.
    """
    with _files.open_data_file(file) as stream:
        blocks = _decoding.iter_text(file, stream, encoding)
        text = next(blocks, "")
        if not text.strip():
            raise OptionError("path", f"{file} is empty")
        separator = choose_delimiter(text, delimiter)
        is_empty = True
        for part in _iter_parts(file, stream, text, blocks, separator):
            if is_empty:
                check_header(file, part.header, index=part.has_index)
            is_empty = False
            yield part, stream.tell()
        if is_empty:
            raise OptionError("path", f"{file} has a first line but no rows")


def _iter_parts(file: Path, stream: BinaryIO, text: str, blocks: Iterator[str], separator: str) -> Iterator[TableText]:
    header, line = None, 1
    if file_size(stream) >= _large_csv.LARGE and separator in DELIMITERS.values():
        header, text, line = yield from _iter_large(text, blocks, separator)
    yield from _iter_rows(file, _Lines(text, blocks, line), separator, header)


def _iter_large(
    text: str, blocks: Iterator[str], separator: str
) -> Generator[TableText, None, tuple[list[str] | None, str, int]]:
    """Yield parts as long as polars reads them. Return the header, the text that is left, and the line of its begin."""
    first, _, text = text.partition("\n")
    header, line = None, 2
    while True:
        while not (size := _measure_steps(text)) and (block := next(blocks, "")):
            text += block
        size = size or len(text)  # the end of the file
        if not size:
            return header, "", line
        part = _large_csv.split_cells(f"{first}\n{text[:size]}", separator)
        if part is None:
            return (None, f"{first}\n{text}", 1) if header is None else (header, text, line)
        header = part.header
        yield part._replace(lines=range(line, line + len(part.rows)))
        line += text.count("\n", 0, size)
        text = text[size:] + next(blocks, "")


def _measure_steps(text: str) -> int:
    """Return the length of the largest number of whole lines that is a multiple of STEP."""
    end = text.rfind("\n") + 1
    for _ in range(text.count("\n") % STEP):
        end = text.rfind("\n", 0, end - 1) + 1
    return end


def _iter_rows(file: Path, lines: _Lines, separator: str, header: list[str] | None) -> Iterator[TableText]:
    """Yield the parts that the csv module reads; the first row is the header if it is not known."""
    reader = csv.reader(lines, delimiter=separator, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    begins: list[int] = []
    while True:
        begin, lines.is_blank = lines.number, None
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise OptionError("path", f"{file}, line {lines.number - 1}: {error}") from error
        if row is None:
            break
        if len(row) <= 1 and lines.is_blank:
            continue
        cells = [cell.strip() for cell in row]
        if header is None:
            header = cells
            continue
        if len(cells) != len(header):
            raise OptionError("path", describe_uneven(file, begin, len(cells), len(header)))
        rows.append(cells)
        begins.append(begin)
        is_large = len(rows) * len(header) >= MAX_CELLS or lines.characters >= MAX_CHARACTERS
        if len(rows) == PART_ROWS or (is_large and len(rows) % STEP == 0):
            yield TableText(header, rows, begins, separator)
            rows, begins, lines.characters = [], [], 0
    if rows and header is not None:
        yield TableText(header, rows, begins, separator)


class _Lines:
    """The lines of a text and of the blocks after it.

    number       the line of the file that is read next
    is_blank     whether the first line since this was set to None is blank
    characters   of the lines since this was set to 0
    """

    def __init__(self, text: str, blocks: Iterator[str], number: int = 1) -> None:
        self.number = number
        self.is_blank: bool | None = None
        self.characters = 0
        self._lines = self._iter_lines(text, blocks)

    def __iter__(self) -> _Lines:
        return self

    def __next__(self) -> str:
        line = next(self._lines)
        self.number += 1
        self.characters += len(line)
        if self.is_blank is None:
            self.is_blank = not line.strip()
        return line

    @staticmethod
    def _iter_lines(text: str, blocks: Iterator[str]) -> Iterator[str]:
        rest = ""
        for block in itertools.chain([text], blocks):
            whole, end, begun = (rest + block).rpartition("\n")
            yield from iter_lines(whole + end)
            rest = begun
        yield from iter_lines(rest)
