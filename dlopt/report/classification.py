"""What a classifier does with each class: the confusion matrix, and accuracy by class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from dlopt.report.text_table import format_table
from dlopt.storage.safe_read import to_printable

MAX_TEXT_CLASSES = 20
"""Classes up to which the whole matrix is printed."""
MAX_PLOT_CLASSES = 250
"""Classes up to which it is drawn: the names of more could not be read beside each other."""


def format_by_class(targets: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[str]:
    """Lines: examples of each class, the share that was recognized, and what the others were taken for most often."""
    names = [to_printable(name) for name in names]
    count = len(names)
    right = targets == predicted
    totals, recognized = (np.bincount(x, minlength=count).tolist() for x in (targets, targets[right]))
    # Only what occurs: of all pairs of ten thousand classes a table would have 800 MB.
    pairs, frequencies = np.unique(targets[~right] * count + predicted[~right], return_counts=True)
    wrong: dict[int, list[tuple[int, int]]] = {}
    for pair, n in zip(pairs.tolist(), frequencies.tolist(), strict=True):
        wrong.setdefault(pair // count, []).append((n, pair % count))
    rows = []
    for i, (name, total) in enumerate(zip(names, totals, strict=True)):
        most = sorted(wrong.get(i, ()), key=lambda x: -x[0])[:2]
        taken = ", ".join(f"{names[j]} ({n})" for n, j in most)
        rows.append([name, str(total), f"{recognized[i] / total:.4f}" if total else "-", taken])
    return format_table(["class", "examples", "accuracy", "taken for, most often"], rows, [False, True, True, False])


def confusion_matrix(targets: np.ndarray, predicted: np.ndarray, count: int) -> np.ndarray:
    """The confusion matrix (count, count): a row for each true class, a column for each that was predicted."""
    return np.bincount(targets * count + predicted, minlength=count * count).reshape(count, count)


def format_confusion_matrix(targets: np.ndarray, predicted: np.ndarray, names: Sequence[str]) -> list[str]:
    """Lines of the confusion matrix: a row for each true class, a column for each that was predicted."""
    names = [to_printable(name) for name in names]
    if len(names) > MAX_TEXT_CLASSES:
        drawn = "; --png draws it" if len(names) <= MAX_PLOT_CLASSES else ""
        return [f"(the matrix of {len(names)} classes is too wide for text{drawn})"]
    short = [str(i) for i in range(len(names))] if max(map(len, names)) > 6 else list(names)
    counts = confusion_matrix(targets, predicted, len(names)).tolist()
    rows = [
        [name if name == s else f"{s} {name}", *(str(n) if n else "." for n in row)]
        for name, s, row in zip(names, short, counts, strict=True)
    ]
    return format_table(["true \\ predicted", *short], rows, [False, *(True for _ in names)])
