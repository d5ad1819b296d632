"""The cells of a CSV file as text, with the line in which each row begins.

This is Python's csv module, and polars only for large and simple files (_large_csv.py). polars.read_csv takes 0.7 s to
import and gives no line numbers: it fills short rows and empty lines with nulls, renames columns of the same name,
reads quotes after a space as text, and does not know \\r as the end of a line. scikit-learn's encoders do not report
lines either, and would replace ten lines of table.py.
"""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from dlopt.data import _decoding, _files, _large_csv
from dlopt.data._cells import MISSING, TableText, is_number
from dlopt.errors import OptionError, join_truncated

DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
WHOLE = 6
"""Bytes of memory per byte of a file while it is split into cells."""
CELL = 130
"""Bytes of memory per cell, measured with texts of up to 16 letters."""


def read_csv(file: Path, delimiter: str, encoding: str) -> TableText:
    """Read the cells of a CSV file without the spaces around them. Raise OptionError if the file is not a table."""
    content = _files.read_data_file(file)
    _files.check_memory(file, WHOLE * len(content))
    text = _decoding.decode(file, content, encoding)
    del content
    if not text.strip():
        raise OptionError("path", f"{file} is empty")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    separator = choose_delimiter(text, delimiter)
    if len(text) >= _large_csv.LARGE and separator in DELIMITERS.values():
        large = _large_csv.split_cells(text, separator)
        if large is not None:
            check_header(file, large.header, index=large.has_index)
            return large
    _files.check_memory(file, CELL * (text.count(separator) + text.count("\n")))
    rows: list[list[str]] = []
    lines: list[int] = []
    reader = csv.reader(iter_lines(text), delimiter=separator, skipinitialspace=True, strict=True)
    blank = {number for number, line in enumerate(iter_lines(text), 1) if not line.strip()}
    try:
        first_line = 1
        for row in reader:
            if len(row) > 1 or first_line not in blank:  # the line "" is a row with one empty cell
                rows.append([cell.strip() for cell in row])
                lines.append(first_line)
            first_line = reader.line_num + 1
    except csv.Error as error:
        raise OptionError("path", f"{file}, line {reader.line_num}: {error}") from error
    table = TableText(rows[0], rows[1:], lines[1:], separator)
    check_header(file, table.header, index=table.has_index)
    _check_rows(file, rows, lines)
    return table


def choose_delimiter(text: str, delimiter: str) -> str:
    """Return the character that data.delimiter says, given the text of the file or its beginning."""
    if delimiter == "auto":
        return max(DELIMITERS.values(), key=lambda d: _count_columns(text.lstrip(), d))
    separator = DELIMITERS.get(delimiter, delimiter)
    if len(separator) != 1 or separator in '"\r\n':
        raise OptionError("delimiter", f"must be auto, {', '.join(DELIMITERS)} or one character, got {delimiter!r}")
    return separator


def _count_columns(text: str, delimiter: str) -> int:
    """Return the number of columns in the header, whose names may contain line ends."""
    try:
        return len(next(csv.reader(iter_lines(text), delimiter=delimiter, skipinitialspace=True)))
    except csv.Error:
        return 0


def iter_lines(text: str) -> Iterator[str]:
    """Yield the lines of a text; io.StringIO would copy all of it, with four bytes for each character."""
    begin = 0
    while begin < len(text):
        end = text.find("\n", begin) + 1 or len(text)
        yield text[begin:end]
        begin = end


def check_header(file: Path, header: Sequence[str], *, index: bool) -> None:
    """Check that the first line of a table holds the names of its columns."""
    named = header[1:] if index else header
    is_counted = list(named) == [str(i) for i in range(len(named))]  # as pandas writes columns without names
    if not is_counted and all(is_number(name) or name.lower() in MISSING for name in header):
        raise OptionError("path", f"{file} begins with numbers; its first line must hold the names of the columns")
    check_names(file, header)


def _check_rows(file: Path, rows: Sequence[Sequence[str]], lines: Sequence[int]) -> None:
    """Check that the rows below the header, the first row, exist and have as many cells as it has."""
    header = rows[0]
    uneven = [(line, len(row)) for row, line in zip(rows, lines, strict=True) if len(row) != len(header)]
    if uneven:
        more = f"; {format_count(len(uneven) - 1, 'other line')} of a wrong length" if len(uneven) > 1 else ""
        raise OptionError("path", describe_uneven(file, *uneven[0], len(header)) + more)
    if len(rows) == 1:
        raise OptionError("path", f"{file} has a first line but no rows")


def describe_uneven(file: Path, line: int, cells: int, columns: int) -> str:
    """Return what is wrong with a line that has another number of cells than the header."""
    return f"{file}: line {line} has {format_count(cells, 'cell')} for {format_count(columns, 'column')}"


def check_names(file: Path, header: Sequence[str]) -> None:
    """Check that columns have different names; only the first of several may have none."""
    named = header[1:] if len(header) > 1 and not header[0] else header
    if "" in named:
        column = header.index("", len(header) - len(named)) + 1
        raise OptionError("path", f"{file}: column {column} has no name in the first line; give it one")
    duplicates = [name for name, count in Counter(header).items() if count > 1]
    if duplicates:
        raise OptionError("path", f"{file} has more than one column named {join_truncated(duplicates)}; rename them")


def format_count(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
