"""Results by class, against counting one by one."""

import tracemalloc
from collections import Counter

import numpy as np
import pytest

from dlopt.report.classification import (
    MAX_PLOT_CLASSES,
    MAX_TEXT_CLASSES,
    confusion_matrix,
    format_by_class,
    format_confusion_matrix,
)

NAMES = ("cat", "dog", "hen")
TARGETS = np.array([0] * 6 + [1] * 10)
PREDICTED = np.array([0] * 5 + [1] + [0] * 2 + [1] * 6 + [2] * 2)


def test_by_class_and_the_matrix():
    head, *rows = format_by_class(TARGETS, PREDICTED, NAMES)
    assert head.split()[:3] == ["class", "examples", "accuracy"]
    assert [r.split()[:3] for r in rows] == [["cat", "6", "0.8333"], ["dog", "10", "0.6000"], ["hen", "0", "-"]]
    assert "dog (1)" in rows[0]
    assert rows[1].index("cat (2)") < rows[1].index("hen (2)")
    assert [line.split()[1:] for line in format_confusion_matrix(TARGETS, PREDICTED, NAMES)[1:]] == [
        ["5", "1", "."],
        ["2", "6", "2"],
        [".", ".", "."],
    ]


@pytest.mark.parametrize("count", [2, MAX_TEXT_CLASSES])
def test_every_pair_is_counted(count):
    rng = np.random.default_rng(count)
    targets, predicted = rng.integers(0, count, (2, 300))
    pairs = Counter(zip(targets.tolist(), predicted.tolist(), strict=True))
    assert confusion_matrix(targets, predicted, count).tolist() == [
        [pairs[i, j] for j in range(count)] for i in range(count)
    ]
    for i, line in enumerate(format_by_class(targets, predicted, [f"n{i}" for i in range(count)])[1:]):
        total = sum(pairs[i, j] for j in range(count))
        wrong = sorted((j for j in range(count) if j != i and pairs[i, j]), key=lambda j: -pairs[i, j])[:2]
        taken = ", ".join(f"n{j} ({pairs[i, j]})" for j in wrong)
        assert line.split(maxsplit=3) == [f"n{i}", str(total), f"{pairs[i, i] / total:.4f}", taken][: 3 + bool(taken)]


def test_memory_does_not_grow_with_pairs_that_do_not_occur():
    names = [str(i) for i in range(10_000)]
    targets, predicted = np.arange(10_000), np.arange(10_000)[::-1]
    tracemalloc.start()
    lines = format_by_class(targets, predicted, names)
    matrix = format_confusion_matrix(targets, predicted, names)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20_000_000
    assert len(lines) == 10_001
    assert "9999 (1)" in lines[1]
    assert matrix == ["(the matrix of 10000 classes is too wide for text)"]
    assert "--png" in format_confusion_matrix(TARGETS, PREDICTED, names[:MAX_PLOT_CLASSES])[0]
