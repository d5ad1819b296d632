"""Predictions of a trained network as text: a row for each example, and a summary."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from dlopt.base.data import SourceRows
from dlopt.storage.safe_read import to_printable

DIGITS = ".7g"
"""Format of predicted numbers and probabilities: float32 has seven digits."""

Columns = dict[str, Sequence[str]]


def format_targets(targets: Tensor, names: Sequence[str], label: str = "target") -> Columns:
    """Return columns of targets, (N,) classes or (N, outputs) numbers, given the names of the classes or numbers."""
    if not targets.is_floating_point():
        return {label: [names[i] for i in targets.tolist()]}
    labels = [label] if targets.shape[1] == 1 else [f"{label}_{name}" for name in names]
    return {name: [format(x, DIGITS) for x in column] for name, column in zip(labels, targets.T.tolist(), strict=True)}


def format_predictions(predictions: Tensor, names: Sequence[str], *, is_classes: bool) -> Columns:
    """Return columns of predictions, (N, outputs): classes with these probabilities, or numbers."""
    if not is_classes:
        return format_targets(predictions, names, "predicted")
    columns = format_targets(predictions.argmax(-1), names, "predicted")
    for name, column in zip(names, predictions.T.tolist(), strict=True):
        columns[f"probability_{name}"] = [format(p, DIGITS) for p in column]
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
    header = list(source.header)
    for name in columns:
        header.append(name + "_" * next(i for i in range(len(header) + 1) if name + "_" * i not in header))
    writer.writerow(header)
    writer.writerows([*cells, *example.get(i, empty)] for i, cells in enumerate(source.cells))
    return text.getvalue()


def summarize(outputs: Tensor, names: Sequence[str], *, is_classes: bool) -> list[str]:
    """Return lines with how often each class is predicted, or with the range of the predicted numbers."""
    if is_classes:
        counts = outputs.argmax(-1).bincount(minlength=len(names)).tolist()
        return ["predicted: " + ", ".join(f"{to_printable(n)} {c:,}" for n, c in zip(names, counts, strict=True) if c)]
    lines = []
    for name, x in zip(names, outputs.double().T, strict=True):
        spread = f"standard deviation {x.std(correction=0):.6g}, from {x.min():.6g} to {x.max():.6g}"
        lines.append(f"predicted {to_printable(name)}: mean {torch.mean(x):.6g}, {spread}")
    return lines
