"""Your own tables."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from dlopt.base.data import DataPart, DataStream
from dlopt.data import _columns, _dates, _files, _grouping, _own_splits, _table_stream, _unseen
from dlopt.data import _targets as data_targets
from dlopt.data._cells import (
    TableCells,
    TableText,
    are_numbers,
    find_missing,
    is_number,
    parse_code,
    select_rows,
    to_floats,
)
from dlopt.data._columns import FEW, Column
from dlopt.data._csv import format_count, read_csv
from dlopt.data._decimals import Decimal, convert_commas
from dlopt.data._parquet import is_parquet, read_parquet
from dlopt.data._targets import TargetKindOption, TestFraction
from dlopt.errors import OptionError, did_you_mean, join_truncated
from dlopt.parts import Data, Dataset, Split
from dlopt.storage.fingerprint import digest_files, fingerprint_files

COPIES, COPIES_TO_FIT = 3, 6
"""Copies of the inputs in memory as float32: all rows, the rows of training and test, and those of
preprocess=standardize. If there are statistics to apply, the first two are float64, and the result is one more."""


@dataclass(frozen=True)
class TableData(Data):
    """Your own table: a CSV file whose first line names the columns, or a Parquet file. One column is predicted.

    A Parquet file gives the same inputs as a CSV file of the same table; its lines are its rows, counted from 1.

    A column of numbers is one input, unchanged (preprocess=standardize gives it mean 0 and standard deviation 1). A
    column of text is one-hot encoded in sorted order. A column of numbers is refused if fewer than half of its rows
    hold text, and a column of text if more than half of its rows, and more than 20, are different. Empty cells, NA,
    N/A, NaN, None, null and ? are missing values. A first column without a name, as pandas writes the index, is left
    out. Notices report dates as text, whole numbers that increase from row to row as identifiers do, and text that
    becomes more than 50 inputs, or more than 20 with fewer than 10 rows for each.

    A column of dates is five inputs: the days since 1970-01-01 UTC less their mean in the run's training rows, and sine
    and cosine of 2 pi y and of 2 pi w, where y and w are the elapsed fractions of the year and of the week from Monday
    on. If any cell is not at midnight, sine and cosine of 2 pi d follow, where d is the elapsed fraction of the day.
    Times with a zone are converted to UTC, others are taken as UTC. Of a missing date, each input is filled.

    path                 the file
    target               the column to predict; its missing values cannot be filled
    drop                 columns to leave out
    categorical          columns of numbers to encode as categories: codes, years, house numbers; 1 and 1.0 are equal,
                         and 01 is another code
    dates                columns of dates
    date_format          of `dates` and `time`: a format of Python's strptime, such as %d/%m/%Y; auto: the format that
                         all cells of a column have, of 2024-12-31 and other forms of ISO 8601, 31/12/2024, 12/31/2024,
                         31.12.2024, 31-12-2024, 12-31-2024, 2024/12/31, 2024-12, 31 Dec 2024, 31-Dec-2024, Dec 31, 2024
                         and full names of months, with or without a time. Set it if day and month could be exchanged
    group                a column of groups, such as patients: no split divides a group, and fractions and folds count
                         groups, regardless of classes, as in scikit-learn's GroupShuffleSplit and GroupKFold
    time                 a column of numbers or dates: the latest rows are the test, and the latest of the others
                         validate; no split divides the rows of one time, and fractions count different times. The folds
                         of kfold are those of TimeSeriesSplit: each trains on all that is earlier. Cannot be used with
                         group; both are inputs only if they are in `categorical` or `dates`, too
    missing              refuse: report missing values; drop: leave out their rows; fill: replace numbers by the mean of
                         the run's training rows, and make missing text a category of its own, the last
    delimiter            the character between two cells, or comma, semicolon, tab, bar; auto: the one of these four
                         that gives the most columns in the first line
    decimal              how numbers are written: point (1234.5), comma (1.234,5 or 1234,5), or auto: comma if another
                         character delimits the cells and a column of numbers has commas that cannot separate thousands
    test_fraction        fraction of the rows held out for the test, unless they have a file: a random subset,
                         stratified by class, and the same for every seed
    validation_path      a file with the validation rows: none are then held out of the training rows
    test_path            a file with the test rows. Both are encoded as the training file. A category that it does not
                         have counts as other: it has zeros in all inputs of its column, and a notice reports it. So it
                         is for the tables of `dlopt evaluate --data` and of `dlopt predict`
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
    dates: list[str]
    date_format: str
    group: str | None
    time: str | None
    missing: Literal["refuse", "drop", "fill"]
    delimiter: str
    decimal: Decimal
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
        return _files.cache.load(
            self, fingerprint_files(files), lambda: _own_splits.add_splits(self, self._dataset(files))
        )

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        file, columns = _files.find_file(self.path), _read_stored_columns(encoding)
        text = self._read(file)
        table, target = self._to_cells(text), encoding["target"]
        _unseen.check_present(file, columns, list(table.columns))
        wanted = {name: table.columns[name] for name in (*columns, target) if name in table.columns}
        is_labeled = any(cell is not None for cell in wanted.get(target, ()))
        if not is_labeled:  # all get the first class, or 0
            wanted[target] = [*encoding["classes"], "0"][:1] * len(table.lines)
        table = self._drop_missing(TableCells(wanted, table.lines), target)
        others = _unseen.OtherCategories(columns)
        others.add(table)
        data = replace(self._encode(table, encoding, file), notices=tuple(others.notices()))
        return replace(data, is_labeled=is_labeled, source=text.locate(table.lines))

    def stream(self, encoding: Mapping[str, Any]) -> DataStream:
        file, columns = _files.find_file(self.path), _read_stored_columns(encoding)
        texts = _table_stream.open_table(file, self.delimiter, self.encoding, self.decimal)
        others, names = _unseen.OtherCategories(columns), tuple(encoding["names"])

        def iter_parts() -> Iterator[DataPart]:
            for text, done in texts.parts:
                _unseen.check_present(file, columns, text.header)
                cells = texts.convert(text.to_cells(columns), text.delimiter)
                table = self._drop_missing(cells, None)
                others.add(table)
                x = torch.from_numpy(self._encode_inputs(table, columns, file))
                split = Split(x, data_targets.make_zeros(len(x), len(names), is_classes=bool(encoding["classes"])))
                source = text.locate(table.lines)._replace(decimal=texts.decimal_mark)
                part = Dataset(split, split, len(names), names, encoding, is_labeled=False, source=source)
                yield DataPart(part, done)

        return DataStream(iter_parts(), texts.total, texts.unit, others.notices)

    def read_groups(self, path: str, key: str) -> set[Any] | None:
        """Return the groups in a file that a key names, or None if it has no such column."""
        assert self.group is not None
        cells = self._to_cells(self._read(_files.find_file(path, (), key))).columns
        return {parse_code(cell) or cell for cell in cells[self.group]} if self.group in cells else None

    def _read(self, file: Path) -> TableText:
        return read_parquet(file) if is_parquet(file) else read_csv(file, self.delimiter, self.encoding)

    def _to_cells(self, text: TableText) -> TableCells:
        return convert_commas(text.to_cells(), self.decimal, text.delimiter)

    def _dataset(self, files: Sequence[Path]) -> Dataset:
        file = files[0]
        table = self._to_cells(self._read(file))
        target = self._check_names(list(table.columns))
        table = self._drop_missing(table, target)
        goal, names = self._targets(target, table)
        groups = None if self.group is None else _grouping.number_groups(table.columns[self.group])
        times = None if self.time is None else _grouping.number_times(self.time, table, self.date_format)
        train = test = torch.arange(len(goal))
        if self.test_path is None:
            train, test = data_targets.split_test(goal, self.test_fraction, groups, times)
        if goal.is_floating_point() and (known := goal[train]).min() == known.max():
            raise OptionError("target", f"{target} is {known[0].item():g} in every training row")
        aside = {target, self.group, self.time} - {*self.categorical, *self.dates}
        inputs = [name for name in table.columns if name not in aside]
        kinds = dict.fromkeys(self.categorical, "categories") | dict.fromkeys(self.dates, "dates")
        columns = {name: _columns.detect_column(name, table, kinds.get(name), self.date_format) for name in inputs}
        is_typed = self.date_format != "auto" and self.time is None
        if is_typed and not _columns.have_format(columns, self.date_format):
            wrong = f"no column of data.dates has the format {self.date_format}"
            raise OptionError("date_format", f"{wrong}; correct it, or leave it out")
        encoding = {
            "target": target,
            "names": list(names),
            "classes": [] if goal.is_floating_point() else list(names),
            "text": not are_numbers(table.columns[target]),
            "sha256": digest_files(files),
            "middle": 0.0,
            "scale": 1.0,
            "columns": {name: column.to_plain() for name, column in columns.items()},
        }
        numbers = [name for name, column in columns.items() if isinstance(column, _columns.Numbers)]
        for name in [*([target] if goal.is_floating_point() else []), *numbers]:
            _columns.check_rounding(name, table)
        whole = self._encode(table, encoding, file)
        x, y = whole.train.inputs, whole.train.targets
        if not self.standardize_target:
            y = self.transform_targets(y, encoding)
        notices = ["the first column has no name, as an index, and is left out"] if table.has_index else []
        notices += _columns.list_notices(columns, table, self.categorical)
        groups, times = (None if units is None else units[train] for units in (groups, times))
        whole = replace(whole, notices=tuple(notices), groups=groups, times=times)
        return replace(whole, train=Split(x[train], y[train]), test=Split(x[test], y[test]))

    def fit(self, train: Split, encoding: Mapping[str, Any]) -> Mapping[str, Any]:
        assert isinstance(train.inputs, torch.Tensor)  # a table is never mapped
        rows = slice(None) if train.rows is None else train.rows
        columns = {
            name: column.fit(name, train.inputs[:, place], rows).to_plain()
            for name, column, place in _columns.iter_inputs(_columns.read_columns(encoding["columns"]))
        }
        return {**encoding, "columns": columns, **data_targets.fit_standardization(train)}

    def transform_inputs(self, inputs: torch.Tensor, encoding: Mapping[str, Any]) -> torch.Tensor:
        if inputs.dtype != torch.float64:  # then no column needs its statistics
            return inputs
        x = torch.empty(inputs.shape)
        for _, column, place in _columns.iter_inputs(_columns.read_columns(encoding["columns"])):
            x[:, place] = column.apply(inputs[:, place])
        return x

    def transform_targets(self, targets: torch.Tensor, encoding: Mapping[str, Any]) -> torch.Tensor:
        return data_targets.standardize(targets, encoding)

    def _encode(self, table: TableCells, encoding: Mapping[str, Any], file: Path) -> Dataset:
        """Encode all rows; both splits hold them. Inputs that need statistics are float64, as unscaled targets are."""
        names = tuple(encoding["names"])
        if encoding["classes"]:
            cells = table.columns[encoding["target"]]
            values = np.array([*cells]) if encoding["text"] else self._values(encoding["target"], table)
            y = data_targets.encode_known_classes(values, names)
        else:
            y = torch.from_numpy(_columns.read_numbers(encoding["target"], table)).unsqueeze(1)
        x = self._encode_inputs(table, _columns.read_columns(encoding["columns"]), file)
        split = Split(torch.from_numpy(x), y)
        return Dataset(split, split, len(names), names, encoding)

    def _encode_inputs(self, table: TableCells, columns: Mapping[str, Column], file: Path) -> np.ndarray:
        """Return the inputs of all rows, (N, width), in float64 if they need statistics."""
        width = sum(column.width for column in columns.values())
        needs_fit = any(column.needs_fit(table.columns[name]) for name, column in columns.items())
        _files.check_memory(file, (COPIES_TO_FIT if needs_fit else COPIES) * 4 * len(table.lines) * width)
        x = np.zeros((len(table.lines), width), np.float64 if needs_fit else np.float32)
        for name, column, place in _columns.iter_inputs(columns):
            column.encode(name, table, x[:, place])
        return x

    def _check_names(self, columns: Sequence[str]) -> str:
        """Check that the columns which the keys name exist. Return the target."""
        if self.target is None:
            raise OptionError("target", f"name the column to predict: data.target=...{did_you_mean('', columns)}")
        if self.target not in columns:
            header = " (the first line must hold the names of the columns)" if any(map(is_number, columns)) else ""
            similar = did_you_mean(self.target, columns)
            raise OptionError("target", f"there is no column '{self.target}'{similar}{header}")
        if self.date_format != "auto":
            if not self.dates and self.time is None:
                raise OptionError("date_format", "is for dates: add data.dates=[...] or data.time=..., or leave it out")
            _dates.check_format(self.date_format)
        units = _grouping.select_keys(self.group, self.time)
        by_key = {"drop": self.drop, "categorical": self.categorical, "dates": self.dates, **units}
        for key, names in by_key.items():
            for name in [names] if isinstance(names, str) else names:
                if name not in columns:
                    raise OptionError(key, f"there is no column '{name}'{did_you_mean(name, columns)}")
                if name == self.target:
                    more = "; for classes set data.kind=classes" if key == "categorical" else ""
                    raise OptionError(key, f"{name} is the target, not an input{more}")
        both = [name for name in self.dates if name in self.categorical]
        if both:
            raise OptionError("dates", f"{join_truncated(both)} is in data.categorical, too; leave one of the two out")
        aside = {*units.values()} - {*self.categorical, *self.dates}
        if not set(columns) - {*self.drop, self.target} - aside:
            raise OptionError("drop", "leaves no input column; drop fewer")
        return self.target

    def _drop_missing(self, table: TableCells, target: str | None) -> TableCells:
        """Return the table without the dropped columns and, if asked for, without incomplete rows.

        Without a target it is a part of another table, which holds only inputs.
        """
        needed = {} if target is None else {"target": target, **_grouping.select_keys(self.group, self.time)}
        dropped = {*self.drop} - {*needed.values()}
        columns = {name: cells for name, cells in table.columns.items() if name not in dropped}
        holes = {name: cells.count(None) for name, cells in columns.items() if None in cells}
        if self.missing == "drop" and holes:
            complete = np.flatnonzero(~np.any([find_missing(cells) for cells in columns.values()], axis=0))
            if not len(complete) and target is not None:
                raise OptionError("missing", "drop leaves no row: every row lacks a value; drop columns: data.drop")
            columns = {name: select_rows(cells, complete) for name, cells in columns.items()}
            return table._replace(columns=columns, lines=[table.lines[i] for i in complete.tolist()])
        for key, name in needed.items():
            if name in holes:
                first = table.lines[columns[name].index(None)]
                rows = f"{format_count(holes[name], 'row')}, the first in line {first}"
                raise OptionError(key, f"{name} is missing in {rows}; correct or drop them: data.missing=drop")
        if self.missing == "refuse" and holes:
            first = min(table.lines[columns[name].index(None)] for name in holes)
            where = join_truncated(f"{name} ({count})" for name, count in holes.items())
            remedy = f"set data.missing=drop, data.missing=fill or data.drop=[{','.join(holes)}]"
            if target is None:
                remedy = "set data.missing=fill or data.missing=drop, or complete the table"
            count = format_count(sum(holes.values()), "value")
            raise OptionError("missing", f"{count} missing, in {where}, the first in line {first}; {remedy}")
        return table._replace(columns=columns)

    def _targets(self, name: str, table: TableCells) -> tuple[torch.Tensor, tuple[str, ...]]:
        """Return targets, (N,) classes or (N, 1) numbers in float64, and the names of the outputs."""
        if self.kind != "classes":
            _columns.refuse_mixed(name, table, "target", "or use them as classes: data.kind=classes")
        values = self._values(name, table)
        if data_targets.infer_kind(values, self.kind) == "numbers":
            return torch.from_numpy(values.astype(np.float64)).unsqueeze(1), (name,)
        return data_targets.encode_classes(values, self.kind)

    def _values(self, name: str, table: TableCells) -> np.ndarray:
        """Return the cells of the target as integers, floats or text."""
        cells = table.columns[name]
        if not are_numbers(cells):
            return np.array([*cells])
        values = to_floats(cells)
        integers = self.kind == "auto" and (values == np.round(values)).all() and len(np.unique(values)) <= FEW
        return values.astype(np.int64) if integers else values


def _read_stored_columns(encoding: Mapping[str, Any]) -> dict[str, Column]:
    """Return the columns of a run's inputs. Raise OptionError if it was not trained on a table."""
    if "columns" not in encoding:
        raise OptionError("path", "a table needs a run that was trained on a table; this run was not")
    return _columns.read_columns(encoding["columns"])
