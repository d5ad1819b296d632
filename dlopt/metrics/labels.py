"""Metrics of independent yes-or-no labels: logits and targets (..., N, labels), of shape (...).

A target counts as yes from 0.5 on, and a label is predicted if its logit is positive. Means over labels weigh each the
same. With one label, the metrics are scikit-learn's for two classes; with several, those of its multilabel indicators
with average="macro", except for accuracy: here it is the fraction of right labels.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from dlopt.metrics import functional


def compute_by_name(names: Sequence[str], logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return these metrics by name."""
    return {name: _METRICS[name](logits, targets >= 0.5).to(logits) for name in names}


def compute_of_classes(names: Sequence[str], logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return these metrics of classes, each of which has a logit of its own, against the rest."""
    is_own = functional.is_of_class(logits, targets)
    second = slice(1, None) if logits.shape[-1] == 2 else slice(None)  # of two classes, as for a softmax
    own = {
        "auc": lambda: _auc(logits, is_own),
        "average_precision": lambda: _average_precision(logits[..., second], is_own[..., second]),
        "calibration_error": lambda: functional.compute_ece(
            logits.amax(-1).sigmoid(), (is_own & functional.is_of_class(logits, logits.argmax(-1))).any(-1)
        ),
    }
    others = functional.compute_by_name([name for name in names if name not in own], logits, targets)
    return {name: own[name]().to(logits) if name in own else others[name] for name in names}


def _accuracy(logits: Tensor, is_true: Tensor) -> Tensor:
    return ((logits > 0) == is_true).to(logits.dtype).mean((-2, -1))


def _error(logits: Tensor, is_true: Tensor) -> Tensor:
    return 1.0 - _accuracy(logits, is_true)


def _auc(logits: Tensor, is_true: Tensor) -> Tensor:
    return functional.rank(functional.to_double(logits).mT, is_true.mT).compute_auc().nanmean(-1)


def _average_precision(logits: Tensor, is_true: Tensor) -> Tensor:
    return functional.rank(functional.to_double(logits).mT, is_true.mT).compute_average_precision().nanmean(-1)


def _precision(logits: Tensor, is_true: Tensor) -> Tensor:
    right, predicted, _ = _count(logits, is_true)
    return (right / predicted.clamp(min=1)).mean(-1)


def _recall(logits: Tensor, is_true: Tensor) -> Tensor:
    right, _, actual = _count(logits, is_true)
    return (right / actual.clamp(min=1)).mean(-1)


def _f1(logits: Tensor, is_true: Tensor) -> Tensor:
    right, predicted, actual = _count(logits, is_true)
    return (2 * right / (predicted + actual).clamp(min=1)).mean(-1)


def _balanced_accuracy(logits: Tensor, is_true: Tensor) -> Tensor:
    """Return the mean over labels of the mean of the recalls of yes and no; of one of them if the other is absent."""
    right = (logits > 0) == is_true
    masks = torch.stack([is_true, ~is_true])
    counts = masks.sum(-2).to(logits.dtype)
    recalls = (right & masks).sum(-2) / counts.clamp(min=1)
    return (recalls.sum(0) / (counts > 0).sum(0)).mean(-1)


def _calibration_error(logits: Tensor, is_true: Tensor) -> Tensor:
    return functional.compute_ece(logits.abs().sigmoid().flatten(-2), ((logits > 0) == is_true).flatten(-2))


def _count(logits: Tensor, is_true: Tensor) -> functional.Confusions:
    predicted = logits > 0
    masks = (predicted & is_true, predicted, is_true)
    return functional.Confusions(*(mask.sum(-2).to(logits.dtype) for mask in masks))


_METRICS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "accuracy": _accuracy, "error": _error, "auc": _auc, "f1": _f1, "precision": _precision, "recall": _recall,
    "average_precision": _average_precision, "balanced_accuracy": _balanced_accuracy,
    "calibration_error": _calibration_error,
}  # fmt: skip
