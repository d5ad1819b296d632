"""Results of a classifier by class: accuracy, most frequent errors, and the confusion matrix."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from dlopt.report.text_table import format_table
from dlopt.storage.safe_read import to_printable

MAX_TEXT_CLASSES = 20
"""Largest number of classes for which the whole matrix is printed."""
MAX_PLOT_CLASSES = 250
"""Largest number of classes for which it is drawn: the names of more would not be legible."""


def format_by_class(targets: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return lines with the examples of each class, its accuracy, and the two classes it is most often taken for."""
    names = [to_printable(name) for name in names]
    # Only pairs that occur: a full table of ten thousand classes would take 800 MB.
    wrong: dict[int, Counter[int]] = {}
    for (target, prediction), n in Counter(zip(targets.tolist(), predictions.tolist(), strict=True)).items():
        wrong.setdefault(target, Counter())[prediction] = n
    rows = []
    for i, name in enumerate(names):
        counts = wrong.get(i, Counter())
        total, right = counts.total(), counts.pop(i, 0)
        most = sorted(counts.items(), key=lambda x: (-x[1], x[0]))[:2]
        confusions = ", ".join(f"{names[j]} ({n})" for j, n in most)
        rows.append([name, str(total), f"{right / total:.4f}" if total else "-", confusions])
    return format_table(["class", "examples", "accuracy", "taken for, most often"], rows, [False, True, True, False])


def confusion_matrix(targets: np.ndarray, predictions: np.ndarray, count: int) -> np.ndarray:
    """Return the confusion matrix (count, count): one row per true class, one column per predicted class."""
    return np.bincount(targets * count + predictions, minlength=count * count).reshape(count, count)


def format_confusion_matrix(targets: np.ndarray, predictions: np.ndarray, names: Sequence[str]) -> list[str]:
    """Return the lines of the confusion matrix: one row per true class, one column per predicted class."""
    names = [to_printable(name) for name in names]
    if len(names) > MAX_TEXT_CLASSES:
        remedy = "; --png draws it" if len(names) <= MAX_PLOT_CLASSES else ""
        return [f"(the matrix of {len(names)} classes is too wide for text{remedy})"]
    short = [str(i) for i in range(len(names))] if max(map(len, names)) > 6 else list(names)
    counts = confusion_matrix(targets, predictions, len(names)).tolist()
    rows = [
        [name if name == s else f"{s} {name}", *(str(n) if n else "." for n in row)]
        for name, s, row in zip(names, short, counts, strict=True)
    ]
    return format_table(["true \\ predicted", *short], rows, [False, *(True for _ in names)])
