"""Metrics of outputs (..., N, outputs) and targets of N examples, of shape (...); the leading dimensions are runs.

Targets of classes are (..., N), or probabilities (..., N, outputs), which count as their most probable class. Targets
of numbers are (..., N, outputs). dlopt.metrics.labels has the metrics of several yes-or-no labels for each example.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dlopt.errors import OptionError

ClassificationMetric = Literal[
    "accuracy", "error", "top5", "auc", "f1", "precision", "recall", "average_precision", "balanced_accuracy",
    "calibration_error",
]  # fmt: skip
RegressionMetric = Literal["r2", "mae"]
BINS = 15
"""Bins of equal width of `calibration_error`, as in its source."""
ROUNDING = 1e-12
"""Largest error, absolute and relative, that rounding makes in a float64 log-odds of a thousand classes."""


def accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the fraction of examples whose class has the largest output."""
    return (outputs.argmax(-1) == _classes(targets)).to(outputs.dtype).mean(-1)


def error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the 0-1 loss: the fraction of examples whose class does not have the largest output."""
    return 1.0 - accuracy(outputs, targets)


def top5(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the fraction of examples whose class is among the five with the largest outputs.

    Of equal outputs, those of the first classes count as larger, as in `accuracy`. A class whose output is NaN is not
    among the five.
    """
    classes = _classes(targets).unsqueeze(-1)
    own = outputs.gather(-1, classes)
    earlier = torch.arange(outputs.shape[-1], device=outputs.device) < classes
    ahead = ~(outputs <= own) | (earlier & (outputs == own))  # `~(<=)`, so that NaN is ahead
    return (ahead.sum(-1) < 5).to(outputs.dtype).mean(-1)


def auc(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the area under the ROC curve of each class against the rest, averaged over the classes that occur.

        AUC = (sum of ranks of the P examples of the class - P (P + 1) / 2) / (P Q),   Q the number of other examples:

    the probability that an example of the class has a larger score than another example; ties count half, by midranks.
    The score is log(p / (1 - p)) for the softmax probability p of the class, because p itself rounds to one. Scores
    that differ by rounding only are ties: equal outputs at two places of a tensor can differ in the last bit of their
    scores. NaN if all examples are of one class or an output is NaN.

    Source: Hanley and McNeil 1982; one against the rest: Provost and Domingos 2000, but each class weighs the same.
    """
    scores = _log_odds(_widen(outputs)).mT  # (..., outputs, N)
    return rank(scores, is_of_class(outputs, targets).mT).compute_auc().nanmean(-1).to(outputs)


def average_precision(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the average precision of the second of two classes, or of each class against the rest, averaged.

        AP = mean over the examples of the class of the precision at the score of the example,

    the fraction of the class among the examples with this score or a larger one. Scores and ties are those of `auc`.
    The mean is over the classes that occur. NaN if an output is NaN.

    Source: Buckley and Voorhees 2000; scikit-learn's average_precision_score.
    """
    scores = _log_odds(_widen(outputs)).mT
    each = rank(scores, is_of_class(outputs, targets).mT).compute_average_precision()
    return (each[..., 1] if outputs.shape[-1] == 2 else each.nanmean(-1)).to(outputs)


class Ranking(NamedTuple):
    """Examples in ascending order of their scores, (..., classes, N).

    is_own        whether the example belongs to the class
    first, end    where the examples with the same score begin, and where those with a larger one do
    has_nan       (..., classes): whether a score of any class is NaN
    """

    is_own: Tensor
    first: Tensor
    end: Tensor
    has_nan: Tensor

    def compute_auc(self) -> Tensor:
        """Return the area under the ROC curve of each class, (..., classes); NaN if all or no examples are of it."""
        twice_rank = self.first + self.end + 1
        positive = self.is_own.sum(-1)
        negative = self.is_own.shape[-1] - positive
        # Integers up to here, so that sums of ranks are exact.
        twice_pairs = (twice_rank * self.is_own).sum(-1) - positive * (positive + 1)
        areas = twice_pairs.double() / (2 * positive * negative).double()
        return areas.masked_fill(self.has_nan, math.nan).where((positive > 0) & (negative > 0), math.nan)

    def compute_average_precision(self) -> Tensor:
        """Return the average precision of each class, (..., classes); NaN if no example is of it."""
        count = self.is_own.shape[-1]
        below = F.pad(self.is_own.cumsum(-1), (1, 0)).gather(-1, self.first)
        positive = self.is_own.sum(-1)
        precision = (positive.unsqueeze(-1) - below).double() / (count - self.first).double()
        average = (precision * self.is_own).sum(-1) / positive
        return average.masked_fill(self.has_nan, math.nan)


def rank(scores: Tensor, is_own: Tensor) -> Ranking:
    """Rank the examples by their scores, (..., classes, N) in float64. Scores that differ by rounding only are ties."""
    ordered, order = scores.sort(-1)
    tied = torch.isclose(ordered[..., 1:], ordered[..., :-1], rtol=ROUNDING, atol=ROUNDING)
    group = F.pad(~tied, (1, 0)).cumsum(-1)
    first, end = torch.searchsorted(group, group), torch.searchsorted(group, group, right=True)
    has_nan = scores.isnan().any(-1).any(-1, keepdim=True)
    return Ranking(is_own.to(scores.device).expand(scores.shape).gather(-1, order), first, end, has_nan)


def precision(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the fraction of the examples with a predicted class that are of it, and 0 if no example has it.

    Of two classes, it is that of the second; of more, the mean over the classes that occur or are predicted. It is
    scikit-learn's precision_score with average="binary" or "macro", and zero_division=0; so are `recall` and `f1`.
    """
    c = count_confusions(outputs, targets)
    return c.average(_divide(c.right, c.predicted))


def recall(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the fraction of the examples of a class that are predicted, averaged as `precision` is."""
    c = count_confusions(outputs, targets)
    return c.average(_divide(c.right, c.actual))


def f1(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the harmonic mean of precision and recall of a class, averaged as `precision` is.

    Source: van Rijsbergen 1979, Information Retrieval, chapter 7.
    """
    c = count_confusions(outputs, targets)
    return c.average(_divide(2 * c.right, c.predicted + c.actual))


def balanced_accuracy(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean recall of the classes that occur, of two classes too: 1 / classes for a constant prediction.

    Source: Brodersen, Ong, Stephan and Buhmann 2010.
    """
    c = count_confusions(outputs, targets)
    return _mean_where(_divide(c.right, c.actual), c.actual > 0)


class Confusions(NamedTuple):
    """Numbers of examples by class, (..., classes): predicted rightly, predicted, and of the class."""

    right: Tensor
    predicted: Tensor
    actual: Tensor

    def average(self, each: Tensor) -> Tensor:
        """Return the value of the second of two classes, or the mean over the classes that occur or are predicted."""
        return each[..., 1] if each.shape[-1] == 2 else _mean_where(each, (self.predicted + self.actual) > 0)


def count_confusions(outputs: Tensor, targets: Tensor) -> Confusions:
    """Count the right predictions, the predictions and the examples of each class."""
    predicted, actual = is_of_class(outputs, outputs.argmax(-1)), is_of_class(outputs, targets)
    masks = (predicted & actual, predicted, actual)
    return Confusions(*(mask.sum(-2).to(outputs.dtype) for mask in masks))


def calibration_error(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the expected calibration error: how far the probability of the predicted class is from its accuracy.

        ECE = sum over bins of  (examples in the bin / N) |accuracy of the bin - mean confidence of the bin|

    The confidence is the softmax probability of the predicted class. The 15 bins (0, 1/15], ..., (14/15, 1] have equal
    widths. NaN if an output is NaN.

    Source: Guo, Pleiss, Sun and Weinberger 2017, equation 3; Naeini, Cooper and Hauskrecht 2015.
    """
    confidence = outputs.softmax(-1).amax(-1)
    return compute_ece(confidence, outputs.argmax(-1) == _classes(targets))


def compute_ece(confidence: Tensor, is_right: Tensor) -> Tensor:
    """Return the expected calibration error, (...), of predictions (..., N) with these probabilities."""
    bins = (confidence * BINS).ceil().clamp(1, BINS).unsqueeze(-1)
    gaps = (is_right.to(confidence) - confidence).unsqueeze(-1)
    is_in = bins == torch.arange(1, BINS + 1, device=bins.device)  # a scatter would not be deterministic on a GPU
    return (gaps * is_in).sum(-2).abs().sum(-1) / confidence.shape[-1]  # NaN * 0 is NaN


def mae(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return the mean absolute error over examples and outputs, in the units of the targets."""
    return (outputs - targets).abs().mean((-2, -1))


def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return R^2 = 1 - (squared error) / (variance of the targets): 1 for perfect predictions, 0 for the mean.

    NaN if the targets do not vary.
    """
    residual = (outputs - targets).square().sum((-2, -1))
    spread = (targets - targets.mean(-2, keepdim=True)).square().sum((-2, -1))
    constant = (targets == targets[..., :1, :]).all(-1).all(-1)  # their mean can differ from them by rounding
    return 1.0 - residual / spread.masked_fill(constant | (spread == 0), math.nan)


def entropy(counts: Tensor) -> float:
    """Return the entropy in nats of the shares of classes with these numbers of examples, (classes,)."""
    shares = counts.double() / counts.sum()
    return torch.special.entr(shares).sum().item()


_METRICS = {
    metric.__name__: metric
    for metric in (
        accuracy, error, top5, auc, f1, precision, recall, average_precision, balanced_accuracy, calibration_error,
        r2, mae,
    )
}  # fmt: skip


def compute_by_name(names: Sequence[str], outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return these metrics by name."""
    values: dict[str, Tensor] = {}
    for name in names:
        cheap = name == "error" and "accuracy" in values
        values[name] = 1.0 - values["accuracy"] if cheap else _METRICS[name](outputs, targets)
    return values


def check(names: Sequence[str], outputs: Tensor) -> None:
    """Raise OptionError if a metric is constant for this number of outputs."""
    classes = outputs.shape[-1]
    if "top5" in names and classes <= 5:
        raise OptionError("metrics", f"top5 is always 1 with {classes} classes; leave it out")


def to_double(x: Tensor) -> Tensor:
    """Return a tensor in float64; of mps, which has no float64, on the CPU."""
    return (x.cpu() if x.device.type == "mps" else x).double()


def _widen(outputs: Tensor) -> Tensor:
    """Return the outputs in float64, minus the largest of each example."""
    wide = to_double(outputs)
    largest = wide.amax(-1, keepdim=True)
    return wide - largest.where(largest.isfinite(), 0.0)


def _log_odds(outputs: Tensor) -> Tensor:
    """Return log(p / (1 - p)) for the probability p of each class: its output minus the log-sum-exp of the others."""
    none = torch.full_like(outputs[..., :1], -math.inf)
    before = torch.cat([none, outputs.logcumsumexp(-1)[..., :-1]], dim=-1)
    after = torch.cat([outputs.flip(-1).logcumsumexp(-1).flip(-1)[..., 1:], none], dim=-1)
    return outputs - torch.logaddexp(before, after)


def _classes(targets: Tensor) -> Tensor:
    return targets.argmax(-1) if targets.is_floating_point() else targets


def is_of_class(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return whether an example is of a class, (..., N, outputs)."""
    return _classes(targets).unsqueeze(-1) == number_classes(outputs)


def number_classes(outputs: Tensor) -> Tensor:
    """Return the numbers of the classes, (outputs,), on the device of the outputs."""
    return torch.arange(outputs.shape[-1], device=outputs.device)


def _divide(part: Tensor, whole: Tensor) -> Tensor:
    """Return part / whole, and 0 for 0 / 0."""
    return part / whole.clamp(min=1)


def _mean_where(values: Tensor, mask: Tensor) -> Tensor:
    """Return the mean over the last dimension of the values in a mask."""
    return (values * mask).sum(-1) / mask.sum(-1)
