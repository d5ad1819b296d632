"""Predictions of a trained network as text: a row for each example, and a summary."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from dlopt.base.data import SourceRows
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.config.reopen.predict_file import FilePredictor, PredictedPart

DIGITS = ".7g"
"""Format of predicted numbers and probabilities: float32 has seven digits."""

Columns = dict[str, Sequence[str]]

Values = Mapping[str, Sequence[str] | np.ndarray]
"""Columns of text and of numbers, (N,) float64."""


def format_targets(targets: Tensor, names: Sequence[str], label: str = "target") -> Columns:
    """Return columns of targets, (N,) classes or (N, outputs) numbers, given the names of the classes or numbers."""
    return format_values(list_targets(targets, names, label))


def format_predictions(predictions: Tensor, names: Sequence[str], *, is_classes: bool) -> Columns:
    """Return columns of predictions, (N, outputs): classes with these probabilities, or numbers."""
    return format_values(list_predictions(predictions, names, is_classes=is_classes, label="predicted"))


def format_values(values: Values, decimal: str = ".", digits: str = DIGITS) -> Columns:
    """Return columns as text, numbers with these digits and this character before decimals."""
    return {name: _format_column(column, decimal, digits) for name, column in values.items()}


def _format_column(column: Sequence[str] | np.ndarray, decimal: str, digits: str) -> Sequence[str]:
    if not isinstance(column, np.ndarray):
        return column
    texts = [format(x, digits) for x in column.tolist()]
    return texts if decimal == "." else [text.replace(".", decimal) for text in texts]


def list_targets(targets: Tensor, names: Sequence[str], label: str) -> Values:
    """Return columns of targets, (N,) classes or (N, outputs) numbers, given the names of the classes or numbers."""
    if not targets.is_floating_point():
        return {label: [names[i] for i in targets.tolist()]}
    labels = [label] if targets.shape[1] == 1 else [f"{label}_{name}" for name in names]
    return dict(zip(labels, targets.double().T.numpy(), strict=True))


def list_predictions(
    predictions: Tensor,
    names: Sequence[str],
    *,
    is_classes: bool,
    sd: Tensor | None = None,
    top: int | None = None,
    label: str = "prediction",
) -> Values:
    """Return columns of predictions, (N, outputs): classes with these probabilities, or numbers.

    sd    standard deviations of the predictions over several runs, for columns of their own
    top   the number of most probable classes, in place of the probability of every class
    """
    if not is_classes:
        spread = {} if sd is None else list_targets(sd, names, "sd")
        return {**list_targets(predictions, names, label), **spread}
    if top is not None:
        return _list_top(predictions, names, sd, top, label)
    columns = {**list_targets(predictions.argmax(-1), names, label)}
    for kind, values in (("probability", predictions), ("sd", sd)):
        if values is not None:
            columns |= {f"{kind}_{name}": column for name, column in zip(names, values.double().T.numpy(), strict=True)}
    return columns


def list_part(predictor: FilePredictor, part: PredictedPart, top: int | None) -> Values:
    """Return columns of the predictions of a part of a file."""
    is_classes = predictor.kind == "classes"
    return list_predictions(part.mean, predictor.names, is_classes=is_classes, sd=part.sd, top=top)


def _list_top(predictions: Tensor, names: Sequence[str], sd: Tensor | None, top: int, label: str) -> Values:
    """Return the most probable classes with their probabilities."""
    order = predictions.argsort(dim=-1, descending=True, stable=True)
    columns: dict[str, Sequence[str] | np.ndarray] = {}
    for place in range(top):
        chosen, end = order[:, place], f"_{place + 1}" if place else ""
        columns[f"{label}{end}"] = [names[i] for i in chosen.tolist()]
        for kind, values in (("probability", predictions), ("sd", sd)):
            if values is not None:
                columns[f"{kind}{end}"] = values.gather(1, chosen[:, None])[:, 0].numpy()
    return columns


def format_steps(is_scored: Tensor) -> Columns:
    """Return columns of where these steps, (N, T), are: the number of the example and of the step, from 0."""
    examples, steps = is_scored.nonzero().T.tolist()
    return {"example": list(map(str, examples)), "step": list(map(str, steps))}


def format_csv(columns: Mapping[str, Sequence[str]], source: SourceRows | None = None) -> str:
    """Return a CSV table of the columns; with a source, its rows in order with the columns of their examples added.

    A row without an example has empty cells. A column whose name the source has gets a name with an underscore.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    examples = list(zip(*columns.values(), strict=True))
    if source is None:
        writer.writerows([list(columns), *examples])
        return text.getvalue()
    example = dict(zip(source.rows, examples, strict=True))
    empty = [""] * len(columns)
    header = [*source.header, *name_columns(source.header, columns)]
    writer.writerow(header)
    writer.writerows([*cells, *example.get(i, empty)] for i, cells in enumerate(source.cells))
    return text.getvalue()


def name_columns(header: Sequence[str], columns: Iterable[str]) -> list[str]:
    """Return the names of columns that are added to a table: one that the table has gets an underscore."""
    taken, names = set(header), []
    for name in columns:
        free = next(f"{name}{'_' * i}" for i in range(len(taken) + 1) if f"{name}{'_' * i}" not in taken)
        taken.add(free)
        names.append(free)
    return names


def summarize(outputs: Tensor, names: Sequence[str], *, is_classes: bool) -> list[str]:
    """Return lines with how often each class is predicted, or with the range of the predicted numbers."""
    summary = Summary(names, is_classes=is_classes)
    summary.add(outputs)
    return summary.lines()


class Summary:
    """Counts the classes, or measures the numbers, of predictions that are made a part at a time."""

    def __init__(self, names: Sequence[str], *, is_classes: bool) -> None:
        self.count = 0
        self._names = names
        self._is_classes = is_classes
        self._classes = torch.zeros(len(names), dtype=torch.int64)
        self._mean, self._squares = (torch.zeros(len(names), dtype=torch.float64) for _ in range(2))
        self._low, self._high = (torch.full((len(names),), x, dtype=torch.float64) for x in (math.inf, -math.inf))

    def add(self, predictions: Tensor) -> None:
        """Add predictions, (N, outputs): probabilities of classes, or numbers."""
        count = len(predictions)
        if not count:
            return
        self.count += count
        if self._is_classes:
            self._classes += predictions.argmax(-1).bincount(minlength=len(self._names))
            return
        x = predictions.double()
        shift = x.mean(0) - self._mean  # the formula of Chan, Golub and LeVeque 1979 joins two sums of squares
        self._squares += (x - x.mean(0)).square().sum(0) + shift**2 * (count * (self.count - count) / self.count)
        self._mean += shift * (count / self.count)
        self._low, self._high = torch.minimum(self._low, x.amin(0)), torch.maximum(self._high, x.amax(0))

    def lines(self) -> list[str]:
        """Return lines with how often each class is predicted, or with the range of the predicted numbers."""
        if self._is_classes:
            counts = [(name, n) for name, n in zip(self._names, self._classes.tolist(), strict=True) if n]
            return ["predicted: " + ", ".join(f"{to_printable(name)} {n:,}" for name, n in counts)]
        lines = []
        columns = (self._mean, (self._squares / max(1, self.count)).sqrt(), self._low, self._high)
        for name, mean, sd, low, high in zip(self._names, *(x.tolist() for x in columns), strict=True):
            spread = f"standard deviation {sd:.6g}, from {low:.6g} to {high:.6g}"
            lines.append(f"predicted {to_printable(name)}: mean {mean:.6g}, {spread}")
        return lines
