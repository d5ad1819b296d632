"""Your own tables."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dlopt.data import _files, _grouping, _own_splits
from dlopt.data import _targets as data_targets
from dlopt.data._csv import Cell, TableCells, format_count, is_number, parse_code, read_csv
from dlopt.data._targets import TargetKindOption, TestFraction
from dlopt.errors import OptionError, did_you_mean, join_truncated
from dlopt.parts import Data, Dataset, Split
from dlopt.storage.fingerprint import digest_files

COPIES, COPIES_TO_FILL = 3, 6
"""Copies of the inputs in memory as float32: all rows, the rows of training and test, and those of
preprocess=standardize. If numbers are missing, the first two are float64, and the filled rows are one more."""
FEW = 20
"""Up to this many different integers a target is classes; up to this many different texts a column is categories."""


@dataclass(frozen=True)
class TableData(Data):
    """Your own table: a CSV file whose first line names the columns. One column is predicted from the others.

    A column of numbers is one input, unchanged (preprocess=standardize gives it mean 0 and standard deviation 1). A
    column of text is one-hot encoded in sorted order. A column of numbers is refused if fewer than half of its rows
    hold text, and a column of text if more than half of its rows, and more than 20, are different. Empty cells, NA,
    N/A, NaN, None, null and ? are missing values. A first column without a name, as pandas writes the index, is left
    out.

    path                 the file
    target               the column to predict; its missing values cannot be filled
    drop                 columns to leave out
    categorical          columns of numbers to encode as categories: codes, years, house numbers; 1 and 1.0 are equal,
                         and 01 is another code
    group                a column of groups, such as patients: no split divides a group, and fractions and folds count
                         groups, regardless of classes, as in scikit-learn's GroupShuffleSplit and GroupKFold
    time                 a column of numbers or ISO dates (2024-01-31): the latest rows are the test, and the latest of
                         the others validate; fractions count different times. The folds of kfold are those of
                         TimeSeriesSplit: each trains on all that is earlier. Cannot be used with group; both are inputs
                         only if they are in `categorical`, too
    missing              refuse: report missing values; drop: leave out their rows; fill: replace numbers by the mean of
                         the run's training rows, and make missing text a category of its own, the last
    delimiter            the character between two cells, or comma, semicolon, tab, bar; auto: the one of these four
                         that gives the most columns in the first line
    test_fraction        fraction of the rows held out for the test, unless they have a file: a random subset,
                         stratified by class, and the same for every seed
    validation_path      a file with the validation rows: none are then held out of the training rows
    test_path            a file with the test rows. Both are encoded as the training file; new categories are refused
    kind                 classes, numbers, or auto: text is classes, and so are integers with at most 20 different
                         values; other numbers are numbers
    standardize_target   for numbers y: predict (y - mu) / sigma, with the mean mu and the standard deviation sigma
                         (divided by N) of the run's training rows. The squared error of the mean is then 1 there; R^2
                         does not change. Targets that are equal in all of these rows are only centred
    encoding             of the file: auto, UTF-8 or what its byte order mark says; or a name such as latin-1, cp1252
    """

    target: str | None
    drop: list[str]
    categorical: list[str]
    group: str | None
    time: str | None
    missing: Literal["refuse", "drop", "fill"]
    delimiter: str
    test_fraction: TestFraction
    validation_path: str | None
    test_path: str | None
    kind: TargetKindOption
    standardize_target: bool
    encoding: str

    def files(self) -> list[Path]:
        return [_files.find_file(self.path), *_own_splits.find_files(self)]

    def load(self) -> Dataset:
        files = self.files()
        return _files.cache.load(self, files, lambda: _own_splits.add_splits(self, self._dataset(files)))

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        file = _files.find_file(self.path)
        if "columns" not in encoding:
            raise OptionError("path", "a table needs a run that was trained on a table; this run was not")
        text = read_csv(file, self.delimiter, self.encoding)
        table, target = text.to_cells(), encoding["target"]
        missing = [name for name in encoding["columns"] if name not in table.columns]
        if missing:
            trained = join_truncated(encoding["columns"])
            raise OptionError(
                "path", f"{file} lacks the columns {join_truncated(missing)}; the run was trained on {trained}"
            )
        wanted = {name: table.columns[name] for name in (*encoding["columns"], target) if name in table.columns}
        is_labeled = any(cell is not None for cell in wanted.get(target, ()))
        if not is_labeled:  # all get the first class, or 0
            wanted[target] = [*encoding["classes"], "0"][:1] * len(table.lines)
        table = self._drop_missing(TableCells(wanted, table.lines), target)
        return replace(self._encode(table, encoding, file), is_labeled=is_labeled, source=text.locate(table.lines))

    def _dataset(self, files: Sequence[Path]) -> Dataset:
        file = files[0]
        table = read_csv(file, self.delimiter, self.encoding).to_cells()
        target = self._check_names(list(table.columns))
        table = self._drop_missing(table, target)
        goal, names = self._targets(target, table)
        groups = None if self.group is None else _grouping.number_groups(table.columns[self.group])
        times = None if self.time is None else _grouping.number_times(self.time, table)
        train = test = torch.arange(len(goal))
        if self.test_path is None:
            train, test = data_targets.split_test(goal, self.test_fraction, groups, times)
        if goal.is_floating_point() and (known := goal[train]).min() == known.max():
            raise OptionError("target", f"{target} is {known[0].item():g} in every training row")
        aside = {target, self.group, self.time} - {*self.categorical}
        inputs = [name for name in table.columns if name not in aside]
        encoding = {
            "target": target,
            "names": list(names),
            "classes": [] if goal.is_floating_point() else list(names),
            "text": not all(map(is_number, table.columns[target])),
            "sha256": digest_files(files),
            "middle": 0.0,
            "scale": 1.0,
            "columns": {name: self._encoding(name, table) for name in inputs},
        }
        whole = self._encode(table, encoding, file)
        x, y = whole.train.inputs, whole.train.targets
        if not self.standardize_target:
            y = self.transform_targets(y, encoding)
        notices = ("the first column has no name, as an index, and is left out",) if table.has_index else ()
        groups, times = (None if units is None else units[train] for units in (groups, times))
        whole = replace(whole, notices=notices, groups=groups, times=times)
        return replace(whole, train=Split(x[train], y[train]), test=Split(x[test], y[test]))

    def fit(self, train: Split, encoding: Mapping[str, Any]) -> Mapping[str, Any]:
        rows = slice(None) if train.rows is None else train.rows
        encodings = encoding["columns"]
        means = {
            name: _mean(name, train.inputs[:, i], rows)
            for (name, column), i in zip(encodings.items(), _begins(encodings), strict=False)
            if isinstance(column, float)
        }
        fitted = {**encoding, "columns": {**encodings, **means}}
        if train.targets.dtype == torch.float64:
            y = train.targets[rows]
            fitted["middle"] = y.mean().item()
            fitted["scale"] = y.std(correction=0).item() if y.min() < y.max() else 1.0
        return fitted

    def transform_inputs(self, inputs: torch.Tensor, encoding: Mapping[str, Any]) -> torch.Tensor:
        if inputs.dtype != torch.float64:  # then nothing is missing
            return inputs
        filled = inputs.float()
        for column, i in zip(encoding["columns"].values(), _begins(encoding["columns"]), strict=False):
            if isinstance(column, float):
                filled[:, i].nan_to_num_(column)
        return filled

    def transform_targets(self, targets: torch.Tensor, encoding: Mapping[str, Any]) -> torch.Tensor:
        if targets.dtype != torch.float64:
            return targets
        return ((targets - encoding["middle"]) / encoding["scale"]).float()

    def _encode(self, table: TableCells, encoding: Mapping[str, Any], file: Path) -> Dataset:
        """Encode all rows; both splits hold them. Missing numbers are NaN, in float64 like unscaled targets."""
        names = tuple(encoding["names"])
        if encoding["classes"]:
            cells = np.array(table.columns[encoding["target"]])
            values = cells if encoding["text"] else self._values(encoding["target"], table)
            y = data_targets.encode_known_classes(values, names)
        else:
            y = torch.from_numpy(_numbers(encoding["target"], table)).unsqueeze(1)
        encodings = encoding["columns"]
        begins = _begins(encodings)
        lacks = any(isinstance(column, float) and None in table.columns[name] for name, column in encodings.items())
        _files.check_memory(file, (COPIES_TO_FILL if lacks else COPIES) * 4 * len(table.lines) * begins[-1])
        x = np.zeros((len(table.lines), begins[-1]), np.float64 if lacks else np.float32)
        for (name, column), begin, end in zip(encodings.items(), begins, begins[1:], strict=False):
            _fill(x[:, begin:end], name, table, column)
        split = Split(torch.from_numpy(x), y)
        return Dataset(split, split, len(names), names, encoding)

    def _check_names(self, columns: Sequence[str]) -> str:
        """Check that the columns which the keys name exist. Return the target."""
        if self.target is None:
            raise OptionError("target", f"name the column to predict: data.target=...{did_you_mean('', columns)}")
        if self.target not in columns:
            header = " (the first line must hold the names of the columns)" if any(map(is_number, columns)) else ""
            similar = did_you_mean(self.target, columns)
            raise OptionError("target", f"there is no column '{self.target}'{similar}{header}")
        units = _grouping.select_keys(self.group, self.time)
        for key, names in {"drop": self.drop, "categorical": self.categorical, **units}.items():
            for name in [names] if isinstance(names, str) else names:
                if name not in columns:
                    raise OptionError(key, f"there is no column '{name}'{did_you_mean(name, columns)}")
                if name == self.target:
                    more = "; for classes set data.kind=classes" if key == "categorical" else ""
                    raise OptionError(key, f"{name} is the target, not an input{more}")
        if not set(columns) - {*self.drop, self.target} - ({*units.values()} - {*self.categorical}):
            raise OptionError("drop", "leaves no input column; drop fewer")
        return self.target

    def _drop_missing(self, table: TableCells, target: str) -> TableCells:
        """Return the table without the dropped columns and, if asked for, without incomplete rows."""
        needed = {"target": target, **_grouping.select_keys(self.group, self.time)}
        dropped = {*self.drop} - {*needed.values()}
        columns = {name: cells for name, cells in table.columns.items() if name not in dropped}
        holes = {name: cells.count(None) for name, cells in columns.items() if None in cells}
        if self.missing == "drop" and holes:
            complete = [i for i, row in enumerate(zip(*columns.values(), strict=True)) if None not in row]
            if not complete:
                raise OptionError("missing", "drop leaves no row: every row lacks a value; drop columns: data.drop")
            columns = {name: [cells[i] for i in complete] for name, cells in columns.items()}
            return table._replace(columns=columns, lines=[table.lines[i] for i in complete])
        for key, name in needed.items():
            if name in holes:
                first = table.lines[columns[name].index(None)]
                rows = f"{format_count(holes[name], 'row')}, the first in line {first}"
                raise OptionError(key, f"{name} is missing in {rows}; correct or drop them: data.missing=drop")
        if self.missing == "refuse" and holes:
            first = min(table.lines[columns[name].index(None)] for name in holes)
            where = join_truncated(f"{name} ({count})" for name, count in holes.items())
            remedy = f"set data.missing=drop, data.missing=fill or data.drop=[{','.join(holes)}]"
            count = format_count(sum(holes.values()), "value")
            raise OptionError("missing", f"{count} missing, in {where}, the first in line {first}; {remedy}")
        return table._replace(columns=columns)

    def _targets(self, name: str, table: TableCells) -> tuple[torch.Tensor, tuple[str, ...]]:
        """Return targets, (N,) classes or (N, 1) numbers in float64, and the names of the outputs."""
        if self.kind != "classes":
            _refuse_mixed(name, table, "target", "or use them as classes: data.kind=classes")
        values = self._values(name, table)
        if data_targets.infer_kind(values, self.kind) == "numbers":
            return torch.from_numpy(values.astype(np.float64)).unsqueeze(1), (name,)
        return data_targets.encode_classes(values, self.kind)

    def _values(self, name: str, table: TableCells) -> np.ndarray:
        """Return the cells of the target as integers, floats or text."""
        cells = table.columns[name]
        if not all(map(is_number, cells)):
            return np.array(cells)
        values = np.array([float(cell or "") for cell in cells])
        integers = self.kind == "auto" and (values == np.round(values)).all() and len(np.unique(values)) <= FEW
        return values.astype(np.int64) if integers else values

    def _encoding(self, name: str, table: TableCells) -> float | list[Cell]:
        """Return the encoding of a column: its categories, or NaN for numbers, in whose place `fit` puts their mean."""
        cells = table.columns[name]
        present = [cell for cell in cells if cell is not None]
        if not present:
            raise OptionError("missing", f"{name} has no value in any row; set data.drop=[{name}]")
        if name not in self.categorical:
            if all(map(is_number, present)):
                return math.nan
            remedy = f"or set data.categorical=[{name}] or data.drop=[{name}]"
            _refuse_mixed(name, table, "categorical", remedy)
        categories = _merge_equal_numbers(sorted(set(present)))
        if name not in self.categorical and len(categories) > max(FEW, len(present) / 2):
            count = f"{len(categories)} different texts in {len(present)} rows, and each would be an input"
            raise OptionError("drop", f"{name} has {count}; set data.drop=[{name}] or data.categorical=[{name}]")
        return [*categories, *([None] if None in cells else [])]


def _merge_equal_numbers(categories: list[str]) -> list[str]:
    """Return the categories, only the first of those that are one number if all are numbers."""
    if not all(map(is_number, categories)):
        return categories
    unique: dict[float | str, str] = {}
    for category in categories:
        number = parse_code(category)
        unique.setdefault(category if number is None else number, category)
    return list(unique.values())


def _width(encoding: float | Sequence[Cell]) -> int:
    """Return the number of inputs that a column becomes."""
    return 1 if isinstance(encoding, float) else len(encoding)


def _begins(encodings: Mapping[str, float | Sequence[Cell]]) -> list[int]:
    """Return the first input of each column, and the number of inputs."""
    return np.cumsum([0, *map(_width, encodings.values())]).tolist()


def _mean(name: str, x: torch.Tensor, rows: torch.Tensor | slice) -> float:
    """Return the mean of a column, (N,), in these rows."""
    known = x[rows].double()
    if not x.isnan().any():
        return known.mean().item()
    values = known[~known.isnan()].tolist()
    if not values:
        raise OptionError("missing", f"{name} has no value in the training rows of this run; set data.drop=[{name}]")
    return math.fsum(values) / len(values)


def _fill(x: np.ndarray, name: str, table: TableCells, encoding: float | Sequence[Cell]) -> None:
    """Write a column into zeros x: numbers into (N, 1), or one-hot categories into (N, categories)."""
    if isinstance(encoding, float):
        x[:, 0] = _numbers(name, table)
        return
    cells = table.columns[name]
    code = {category: i for i, category in enumerate(encoding)}
    if all(category is None or is_number(category) for category in encoding):  # else 1.0 may name a version
        by_number = {number: i for category, i in code.items() if (number := parse_code(category)) is not None}
        others = {cell: parse_code(cell) for cell in set(cells) - code.keys()}
        code |= {cell: by_number[number] for cell, number in others.items() if number in by_number}
    new = next((i for i, cell in enumerate(cells) if cell not in code), None)
    if new is not None:
        cell = "a missing value" if cells[new] is None else repr(cells[new])
        known = join_truncated(text for text in encoding if text is not None)
        raise OptionError("path", f"{name} has {cell} in line {table.lines[new]}; the training data have {known}")
    x[np.arange(len(cells)), [code[cell] for cell in cells]] = 1.0


def _numbers(name: str, table: TableCells) -> np.ndarray:
    """Return the numbers of a column, (N,) float64, and NaN for the missing ones."""
    cells = table.columns[name]
    text = next((i for i, cell in enumerate(cells) if cell is not None and not is_number(cell)), None)
    if text is not None:
        raise OptionError(
            "path", f"{name} was numeric in training, but has {cells[text]!r} in line {table.lines[text]}"
        )
    x = np.array([math.nan if cell is None else float(cell) for cell in cells])
    different, in_float32 = len(np.unique(x)), len(np.unique(x.astype(np.float32)))
    if different > 1 and 2 * in_float32 <= different:
        count = f"{different} different numbers, {in_float32} in float32"
        raise OptionError("drop", f"{name} has {count}; subtract the smallest one first")
    return x


def _refuse_mixed(name: str, table: TableCells, key: str, remedy: str) -> None:
    """Refuse text in a column in which half or more are numbers, and numbers written with commas."""
    cells = table.columns[name]
    texts = [i for i, cell in enumerate(cells) if cell is not None and not is_number(cell)]
    if not texts:
        return
    present = len(cells) - cells.count(None)
    first = f"{cells[texts[0]]!r} in line {table.lines[texts[0]]}"
    if all(re.fullmatch(r"[-+]?[\d.]*(,\d+)+", cells[i] or "") for i in texts):
        remedy = "write 1.5 for 1,5, or 1500 for 1,500"
        raise OptionError(key, f"{name} has numbers written with a comma, the first {first}; {remedy}")
    if 2 * len(texts) <= present:
        more = f", and {len(texts) - 1} more" if len(texts) > 1 else ""
        raise OptionError(key, f"{name} has numbers, but also text: {first}{more}; correct the table, {remedy}")
