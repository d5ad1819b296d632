"""What a classifier does with each class: the confusion matrix, and accuracy by class."""

from __future__ import annotations

from collections.abc import Sequence

from dlopt.reading import printable
from dlopt.report.columns import aligned

WIDEST = 20
"""Classes up to which the whole matrix is printed."""


def by_class(counts: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    """Lines: examples of each class, the share that was recognized, and what the others were taken for most often."""
    names = [printable(name) for name in names]
    rows = []
    for i, row in enumerate(counts):
        total = sum(row)
        wrong = sorted(((n, names[j]) for j, n in enumerate(row) if j != i and n), key=lambda x: -x[0])
        taken = ", ".join(f"{name} ({n})" for n, name in wrong[:2])
        rows.append([names[i], str(total), f"{row[i] / total:.4f}" if total else "-", taken])
    return aligned(["class", "examples", "accuracy", "taken for, most often"], rows, [False, True, True, False])


def matrix(counts: Sequence[Sequence[int]], names: Sequence[str]) -> list[str]:
    """Lines of the confusion matrix: a row for each true class, a column for each that was predicted."""
    names = [printable(name) for name in names]
    if len(names) > WIDEST:
        return [f"(the matrix of {len(names)} classes is too wide for text; --png draws it)"]
    short = [str(i) for i in range(len(names))] if max(map(len, names)) > 6 else names
    rows = [
        [name if name == s else f"{s} {name}", *(str(n) if n else "." for n in row)]
        for name, s, row in zip(names, short, counts, strict=True)
    ]
    return aligned(["true \\ predicted", *short], rows, [False, *(True for _ in names)])
