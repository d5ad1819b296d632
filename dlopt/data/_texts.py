"""Labelled texts in a CSV file, or in a folder for each class."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from dlopt.base.data import SourceRows
from dlopt.data import _decoding, _files
from dlopt.data._cells import TableText
from dlopt.data._csv import choose_delimiter, format_count, read_csv
from dlopt.data._csv_stream import iter_csv
from dlopt.errors import OptionError, did_you_mean, join_truncated

FILES = 1 << 12
"""Files of a folder that are read before they are predicted."""
PER_BYTE = 4
"""Bytes of memory per byte of a text while it is decoded."""


class LabelledTexts(NamedTuple):
    """Texts, the label of each, where each is, and the rows of the table that they come from.

    labels is None if there are none.
    """

    texts: list[str]
    labels: list[str] | None
    places: list[str]
    source: SourceRows


def list_files(path: str | None, key: str = "path") -> list[Path]:
    """Return the file of a table, or the .txt files in a folder and in its folders. Raise OptionError without any."""
    folder = None if path is None else Path(path).expanduser()
    if folder is None or not folder.is_dir():
        return [_files.find_file(path, (), key)]
    files = sorted(file for pattern in ("*.txt", "*/*.txt") for file in folder.glob(pattern) if file.is_file())
    if not files:
        inside = sorted(entry.name for entry in folder.iterdir())
        wrong = f"{path} has no folder with .txt files, one folder for each class"
        parts = [name for name in inside if any((folder / name).glob("*/*.txt"))]
        remedy = f"; name one of its folders, such as {path}/{parts[0]}" if parts else did_you_mean("", inside)
        raise OptionError(key, wrong + remedy)
    return files


def read_texts(path: str, text: str, target: str | None, delimiter: str, encoding: str) -> LabelledTexts:
    """Read the texts at a path: the columns `text` and `target` of a CSV file, or the .txt files of a folder.

    Raises OptionError for an empty text, and for labels that only some texts have.
    """
    if Path(path).expanduser().is_dir():
        read = _read_folder(path, encoding)
    else:
        read = _read_table(path, text, target, delimiter, encoding)
    refuse_empty(path, read)
    return read


def iter_texts(path: str, text: str, delimiter: str, encoding: str) -> Iterator[tuple[LabelledTexts, int]]:
    """Yield the texts at a path without labels, a part at a time, and how many bytes of them are read then.

    They are the column `text` of a CSV file, the .txt files of a folder, or one .txt file without such a column.
    """
    folder, done = Path(path).expanduser(), 0
    if not folder.is_dir() and not _is_text(folder, text, delimiter, encoding):
        for table, done in iter_csv(_files.find_file(path), delimiter, encoding):
            yield _take_column(path, text, table), done
        return
    files = list_files(path)
    for first in range(0, len(files), FILES):
        part = files[first : first + FILES]
        names = [str(file.relative_to(folder)) if folder.is_dir() else file.name for file in part]
        source = SourceRows(["file"], [[name] for name in names], range(len(names)))
        done += sum(file.stat().st_size for file in part)
        yield LabelledTexts(list(_iter_contents(part, encoding)), None, names, source), done


def _is_text(file: Path, text: str, delimiter: str, encoding: str) -> bool:
    """Return whether a .txt file is one text: it is no table with this column in its first line."""
    if file.suffix.lower() != ".txt" or not file.is_file():
        return False
    with _files.open_data_file(file) as stream:
        first = next(_decoding.iter_text(file, stream, encoding), "").lstrip().partition("\n")[0]
    return text not in (cell.strip(' "') for cell in first.split(choose_delimiter(first, delimiter)))


def _take_column(path: str, text: str, table: TableText) -> LabelledTexts:
    """Return the texts in a column of a table. Raise OptionError if there is no such column."""
    if text not in table.header:
        raise OptionError("text", f"there is no column '{text}' in {path}{did_you_mean(text, table.header)}")
    column, source = table.header.index(text), table.locate(table.lines)
    return LabelledTexts([row[column] for row in table.rows], None, [f"line {n}" for n in table.lines], source)


def refuse_empty(path: str, read: LabelledTexts) -> None:
    """Raise OptionError if a text is empty."""
    empty = [place for place, content in zip(read.places, read.texts, strict=True) if not content]
    if empty:
        more = f", and {format_count(len(empty) - 1, 'other')}" if len(empty) > 1 else ""
        raise OptionError("path", f"{path} has an empty text in {empty[0]}{more}; leave it out")


def count_labels(labels: Sequence[str]) -> dict[str, int]:
    """Return how many texts have each label."""
    names, counts = np.unique(np.array(labels), return_counts=True)
    return dict(zip(names.tolist(), counts.tolist(), strict=True))


def _read_table(path: str, text: str, target: str | None, delimiter: str, encoding: str) -> LabelledTexts:
    table = read_csv(_files.find_file(path), delimiter, encoding)
    read, labels = _take_column(path, text, table), None
    if target in table.header:
        labels = [row[table.header.index(target)] for row in table.rows]
        missing = [line for line, label in zip(table.lines, labels, strict=True) if not label]
        if 0 < len(missing) < len(labels):
            more = f" and in {format_count(len(missing) - 1, 'other line')}" if len(missing) > 1 else ""
            raise OptionError("target", f"{target} is missing in line {missing[0]}{more}; leave out such rows")
        labels = None if missing else labels
    return read._replace(labels=labels)


def _read_folder(path: str, encoding: str) -> LabelledTexts:
    folder, files = Path(path).expanduser(), list_files(path)
    texts = list(_iter_contents(files, encoding))
    without = [file for file in files if file.parent == folder]
    if 0 < len(without) < len(files):
        wrong = f"{without[0]} lies next to the folders of the classes"
        raise OptionError("path", f"{wrong}; every text must be in the folder of its class")
    names = [str(file.relative_to(folder)) for file in files]
    labels = None if without else [file.parent.name for file in files]
    return LabelledTexts(texts, labels, names, SourceRows(["file"], [[name] for name in names], range(len(names))))


def _iter_contents(files: Sequence[Path], encoding: str) -> Iterator[str]:
    for file in files:
        content = _files.read_data_file(file)
        _files.check_memory(file, PER_BYTE * len(content))
        yield _decoding.decode(file, content, encoding).strip()


def check_labels(labels: Sequence[str], target: str, *, needs_two: bool) -> None:
    """Raise OptionError unless labels are classes, with two texts of each if one must be held out."""
    counts = count_labels(labels)
    if 2 * len(counts) > len(labels) and len(counts) > 2:
        wrong = f"{target} has {len(counts)} different values in {len(labels)} texts"
        raise OptionError("target", f"{wrong}; labels must be classes with several texts each")
    single = [name for name, count in counts.items() if count == 1]
    if single and needs_two:
        wrong = f"there is one text of {join_truncated(single)}, and training and test need one each"
        raise OptionError("target", f"{wrong}; add texts or leave the class out")
