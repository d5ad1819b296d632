"""People's own tables."""

from __future__ import annotations

import csv
import io
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch

from dlopt.data import _files
from dlopt.data import _targets as data_targets
from dlopt.data._targets import TargetKindOption, TestFraction
from dlopt.errors import OptionError, did_you_mean, join_truncated
from dlopt.parts import Data, Dataset, Split
from dlopt.storage.fingerprint import digest_files

MISSING = frozenset({"", "na", "nan", "null", "?"})
"""How tables write that there is no value, in small letters."""
DELIMITERS = {"comma": ",", "semicolon": ";", "tab": "\t", "bar": "|"}
LARGEST = float(np.finfo(np.float32).max)
WHOLE = 6
"""Bytes that are taken for each byte of a file on the way to cells, as text and as lines."""
COPIES = 3
"""Of the inputs: all rows, those of training and test, and what preprocess=standardize takes after that."""
CELL = 130
"""Bytes that a cell takes in the lists of cells, measured with texts of up to 16 letters."""
FEW = 20
"""Different whole numbers of a target up to which they are classes; different texts of a column, always a category."""

Cell = str | None
"""What a row has in a column; None where it has nothing."""


class TableCells(NamedTuple):
    """The cells of a table, a list for each column, and the line of the file in which each row begins."""

    columns: dict[str, list[Cell]]
    lines: list[int]


@dataclass(frozen=True)
class TableData(Data):
    """Your own table, a CSV file in UTF-8 whose first line names the columns: one of them is learnt from the others.

    A column of numbers is an input as it is (preprocess=standardize gives it mean 0 and standard deviation 1); a column
    of text becomes as many inputs as it has different texts: one is 1 and the others are 0, in sorted order. Refused
    are columns of numbers with text in less than half of the rows, and columns of text in which more than half of the
    rows, and more than 20, are different. Empty cells, NA, NaN, null and ? are missing values.

    path                 the file
    target               the column to predict; one that is missing cannot be filled
    drop                 columns to leave out
    categorical          columns of numbers to take as categories: codes, years, house numbers
    missing              refuse; drop leaves out rows in which a value is missing; fill puts the mean of the training
                         rows in the place of numbers, and makes missing text a category of its own, the last
    delimiter            what stands between two cells: a character, or comma, semicolon, tab, bar; auto: the one of
                         these four that makes most columns of the first line
    test_fraction        share of the rows cut off for the test; drawn at random, the classes in proportion, and the
                         same whatever the run's seed
    kind                 what the target is: classes, numbers, or auto: text and whole numbers are classes, the latter
                         when at most 20 different ones occur, and other numbers are numbers
    standardize_target   of numbers y: learn (y - mu) / sigma, with mean mu and standard deviation sigma (of N, not
                         N - 1) of the training rows. Then the loss of a prediction by the mean is 1 there, and R^2
                         stays what it is
    """

    target: str | None
    drop: list[str]
    categorical: list[str]
    missing: Literal["refuse", "drop", "fill"]
    delimiter: str
    test_fraction: TestFraction
    kind: TargetKindOption
    standardize_target: bool

    def files(self) -> list[Path]:
        return [_files.find_file(self.path)]

    def load(self) -> Dataset:
        (file,) = self.files()
        return _files.cache.load(self, [file], lambda: self._dataset(file))

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        (file,) = self.files()
        if "columns" not in encoding:
            raise OptionError("path", "a table can be read for a run that was trained on one alone; this one was not")
        table = read_csv(file, self.delimiter)
        missing = [name for name in (*encoding["columns"], encoding["target"]) if name not in table.columns]
        if missing:
            raise OptionError(
                "path",
                f"{file} lacks {join_truncated(missing)}; the run was trained on {join_truncated(encoding['columns'])}",
            )
        wanted = {name: table.columns[name] for name in (*encoding["columns"], encoding["target"])}
        return self._encode(self._drop_missing(TableCells(wanted, table.lines), encoding["target"]), encoding, file)

    def _dataset(self, file: Path) -> Dataset:
        table = read_csv(file, self.delimiter)
        target = self._check_names(list(table.columns))
        table = self._drop_missing(table, target)
        goal, names = self._targets(target, table)
        train, test = data_targets.split_test(goal, self.test_fraction)
        middle, scale = 0.0, 1.0
        if goal.is_floating_point():
            known = goal[train]
            if known.min() == known.max():
                raise OptionError(
                    "target", f"{target} is {known[0].item():g} in every training row; nothing can be learnt"
                )
            if self.standardize_target:
                middle, scale = known.mean().item(), known.std(correction=0).item()
        inputs = [name for name in table.columns if name != target]
        encoding = {
            "target": target,
            "names": list(names),
            "classes": [] if goal.is_floating_point() else list(names),
            "text": not all(map(_is_number, table.columns[target])),
            "sha256": digest_files([file]),
            "middle": middle,
            "scale": scale,
            "columns": {name: self._encoding(name, table, train.numpy()) for name in inputs},
        }
        whole = self._encode(table, encoding, file)
        x, y = whole.train.inputs, whole.train.targets
        return replace(whole, train=Split(x[train], y[train]), test=Split(x[test], y[test]))

    def _encode(self, table: TableCells, encoding: Mapping[str, Any], file: Path) -> Dataset:
        """Every row, as both splits."""
        names = tuple(encoding["names"])
        if encoding["classes"]:
            cells = np.array(table.columns[encoding["target"]])
            values = cells if encoding["text"] else self._values(encoding["target"], table)
            y = data_targets.encode_known_classes(values, names)
        else:
            numbers = torch.from_numpy(_numbers(encoding["target"], table, 0.0)).unsqueeze(1)
            y = ((numbers - encoding["middle"]) / encoding["scale"]).float()
        ways = encoding["columns"]
        begins = np.cumsum([0, *(_width(how) for how in ways.values())]).tolist()
        _files.check_memory(file, COPIES * 4 * len(table.lines) * begins[-1])
        x = np.zeros((len(table.lines), begins[-1]), np.float32)
        for (name, how), begin, end in zip(ways.items(), begins, begins[1:], strict=False):
            _fill(x[:, begin:end], name, table, how)
        split = Split(torch.from_numpy(x), y)
        return Dataset(split, split, len(names), names, encoding)

    def _check_names(self, columns: Sequence[str]) -> str:
        """That the columns which keys name are there; returns the target's."""
        if self.target is None:
            raise OptionError(
                "target", f"name the column to predict: data.target=...; there is {join_truncated(columns)}"
            )
        if self.target not in columns:
            header = "" if not any(map(_is_number, columns)) else " (the first line must hold the columns' names)"
            raise OptionError(
                "target", f"there is no column '{self.target}'{did_you_mean(self.target, columns)}{header}"
            )
        for key, names in (("drop", self.drop), ("categorical", self.categorical)):
            for name in names:
                if name not in columns:
                    raise OptionError(key, f"there is no column '{name}'{did_you_mean(name, columns)}")
                if name == self.target:
                    more = "; for classes say data.kind=classes" if key == "categorical" else ""
                    raise OptionError(key, f"{name} is the target, which is no input{more}")
        if not set(columns) - {*self.drop, self.target}:
            raise OptionError("drop", "leaves no column to learn from")
        return self.target

    def _drop_missing(self, table: TableCells, target: str) -> TableCells:
        """The table without the columns to drop and the rows to leave out."""
        columns = {name: cells for name, cells in table.columns.items() if name not in self.drop}
        holes = {name: cells.count(None) for name, cells in columns.items() if None in cells}
        if self.missing == "drop" and holes:
            whole = [i for i, row in enumerate(zip(*columns.values(), strict=True)) if None not in row]
            if not whole:
                raise OptionError(
                    "missing", "drop leaves no row: each of them lacks a value; leave columns out by data.drop"
                )
            columns = {name: [cells[i] for i in whole] for name, cells in columns.items()}
            return TableCells(columns, [table.lines[i] for i in whole])
        if target in holes:
            first = table.lines[columns[target].index(None)]
            raise OptionError(
                "target",
                f"{target} is missing in {_format_count(holes[target], 'row')}, the first in line {first}; mend them, or "
                "leave such rows out: data.missing=drop",
            )
        if self.missing == "refuse" and holes:
            first = min(table.lines[columns[name].index(None)] for name in holes)
            where = join_truncated(f"{name} ({count})" for name, count in holes.items())
            raise OptionError(
                "missing",
                f"{_format_count(sum(holes.values()), 'value')} missing, in {where}, the first in line {first}; leave such "
                f"rows out: data.missing=drop, fill them: data.missing=fill, or leave the columns out: "
                f"data.drop=[{','.join(holes)}]",
            )
        return TableCells(columns, table.lines)

    def _targets(self, name: str, table: TableCells) -> tuple[torch.Tensor, tuple[str, ...]]:
        """(N,) classes or (N, 1) numbers, float64, and what they are called."""
        if self.kind != "classes":
            _refuse_mixed(name, table, "target", "or take them as classes: data.kind=classes")
        values = self._values(name, table)
        if data_targets.infer_kind(values, self.kind) == "numbers":
            return torch.from_numpy(values.astype(np.float64)).unsqueeze(1), (name,)
        return data_targets.encode_classes(values, self.kind)

    def _values(self, name: str, table: TableCells) -> np.ndarray:
        """The target's cells: integers, numbers or text."""
        cells = table.columns[name]
        if not all(map(_is_number, cells)):
            return np.array(cells)
        values = np.array([float(cell or "") for cell in cells])
        whole = self.kind == "auto" and (values == np.round(values)).all() and len(np.unique(values)) <= FEW
        return values.astype(np.int64) if whole else values

    def _encoding(self, name: str, table: TableCells, train: np.ndarray) -> float | list[Cell]:
        """How a column becomes inputs: by its mean in training, which fills what is missing, or by its categories."""
        cells = table.columns[name]
        present = [cell for cell in cells if cell is not None]
        if not present:
            raise OptionError("missing", f"{name} has no value in any row; leave it out: data.drop=[{name}]")
        if name not in self.categorical:
            if all(map(_is_number, present)):
                known = [float(cell) for i in train if (cell := cells[i]) is not None]
                if not known:
                    raise OptionError(
                        "missing", f"{name} has no value in any training row; leave it out: data.drop=[{name}]"
                    )
                return math.fsum(known) / len(known)
            ways = f"take the column as categories: data.categorical=[{name}], or leave it out: data.drop=[{name}]"
            _refuse_mixed(name, table, "categorical", ways)
        found = sorted(set(present))
        if name not in self.categorical and len(found) > max(FEW, len(present) / 2):
            raise OptionError(
                "drop",
                f"{name} has {len(found)} different texts in {len(present)} rows, each of which would be an input; "
                f"leave it out: data.drop=[{name}], or take it all the same: data.categorical=[{name}]",
            )
        return [*found, *([None] if None in cells else [])]


def read_csv(file: Path, delimiter: str) -> TableCells:
    """The cells of a CSV file, spaces around them cut off."""
    content = _files.read_data_file(file)
    _files.check_memory(file, WHOLE * len(content))
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise OptionError(
            "path", f"{file} is not in UTF-8: line {line} has the byte {content[error.start]:#04x}; save it as UTF-8"
        ) from error
    if not text.strip():
        raise OptionError("path", f"{file} is empty")
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if delimiter == "auto":
        header = text.lstrip().partition("\n")[0]
        between = max(DELIMITERS.values(), key=lambda d: len(next(csv.reader([header], delimiter=d))))
    else:
        between = DELIMITERS.get(delimiter, delimiter)
        if len(between) != 1 or between in '"\r\n':
            raise OptionError("delimiter", f"must be auto, {', '.join(DELIMITERS)} or one character, got {delimiter!r}")
    _files.check_memory(file, CELL * (text.count(between) + text.count("\n")))
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=between, skipinitialspace=True, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        begins = 1
        for row in reader:
            if len(row) > 1 or "".join(row).strip():  # else an empty line
                rows.append([cell.strip() for cell in row])
                lines.append(begins)
            begins = reader.line_num + 1
    except csv.Error as error:
        raise OptionError("path", f"{file}, line {reader.line_num}: {error}") from error
    names = rows[0]
    _check_shape(file, names, rows, lines)
    cells = [[None if cell.lower() in MISSING else cell for cell in row] for row in rows[1:]]
    return TableCells({name: [row[i] for row in cells] for i, name in enumerate(names)}, lines[1:])


def _check_shape(file: Path, header: Sequence[str], rows: Sequence[Sequence[str]], lines: Sequence[int]) -> None:
    if all(_is_number(name) or name.lower() in MISSING for name in header):
        raise OptionError("path", f"{file} begins with numbers; its first line must hold the columns' names")
    if "" in header:
        raise OptionError("path", f"{file}: column {header.index('') + 1} has no name in the first line; give it one")
    twice = [name for name, count in Counter(header).items() if count > 1]
    if twice:
        raise OptionError("path", f"{file} has more than one column called {join_truncated(twice)}; rename them")
    uneven = [(line, len(row)) for row, line in zip(rows, lines, strict=True) if len(row) != len(header)]
    if uneven:
        more = f", and {_format_count(len(uneven) - 1, 'other line')} too" if len(uneven) > 1 else ""
        raise OptionError(
            "path",
            f"{file}: line {uneven[0][0]} has {_format_count(uneven[0][1], 'cell')} for "
            f"{_format_count(len(header), 'column')}{more}",
        )
    if len(rows) == 1:
        raise OptionError("path", f"{file} has a first line, and no rows")


def _width(how: float | Sequence[Cell]) -> int:
    """How many inputs a column becomes."""
    return 1 if isinstance(how, float) else len(how)


def _fill(x: np.ndarray, name: str, table: TableCells, how: float | Sequence[Cell]) -> None:
    """Put a column into (N, 1) zeros as numbers, or into (N, categories) of them as a one in each row."""
    if isinstance(how, float):
        x[:, 0] = _numbers(name, table, how)
        return
    cells = table.columns[name]
    code = {category: i for i, category in enumerate(how)}
    new = [i for i, cell in enumerate(cells) if cell not in code]
    if new:
        found = "a missing value" if cells[new[0]] is None else repr(cells[new[0]])
        known = join_truncated(text for text in how if text is not None)
        raise OptionError("path", f"{name} has {found} in line {table.lines[new[0]]}; in training there was {known}")
    x[np.arange(len(cells)), [code[cell] for cell in cells]] = 1.0


def _numbers(name: str, table: TableCells, missing: float) -> np.ndarray:
    """The numbers of a column (N,), float64, and in place of those that are missing this one."""
    cells = table.columns[name]
    other = [i for i, cell in enumerate(cells) if cell is not None and not _is_number(cell)]
    if other:
        where = f"{cells[other[0]]!r} in line {table.lines[other[0]]}"
        raise OptionError("path", f"{name} held numbers in training; here it has {where}")
    x = np.array([missing if cell is None else float(cell) for cell in cells])
    different, left = len(np.unique(x)), len(np.unique(x.astype(np.float32)))
    if different > 1 and 2 * left <= different:
        raise OptionError(
            "drop", f"{name} has {different} different numbers, {left} in float32; subtract the least one first"
        )
    return x


def _is_number(cell: str | None) -> bool:
    """Whether a cell is a number that float32 can hold. Python would also read 1_000, and digits of other scripts."""
    if not cell or "_" in cell or not cell.isascii():
        return False
    try:
        return abs(float(cell)) < LARGEST
    except ValueError:
        return False


def _refuse_mixed(name: str, table: TableCells, key: str, otherwise: str) -> None:
    """Refuse text in a column of which half or more are numbers, and numbers written with commas."""
    cells = table.columns[name]
    other = [i for i, cell in enumerate(cells) if cell is not None and not _is_number(cell)]
    if not other:
        return
    present = len(cells) - cells.count(None)
    first = f"{cells[other[0]]!r} in line {table.lines[other[0]]}"
    if all(re.fullmatch(r"[-+]?[\d.]*(,\d+)+", cells[i] or "") for i in other):
        raise OptionError(
            key, f"{name} has numbers written with a comma, the first {first}; write 1.5 for 1,5, or 1500 for 1,500"
        )
    if 2 * len(other) <= present:
        more = f", nor are {len(other) - 1} more" if len(other) > 1 else ""
        raise OptionError(key, f"{name} has numbers, and {first} is none{more}; mend the table, {otherwise}")


def _format_count(count: int, what: str) -> str:
    return f"{count} {what}" + ("" if count == 1 else "s")
