"""Metrics of outputs (..., N, outputs) and targets of N examples, of shape (...); the leading dimensions are runs.

Targets of classes are (..., N), or probabilities (..., N, outputs), which count as their most probable class. Targets
of numbers are (..., N, outputs).
"""

import math
from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from dlopt.errors import OptionError

ClassificationMetric = Literal["accuracy", "error", "top5", "auc"]
RegressionMetric = Literal["r2"]
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
    ordered, order = scores.sort(-1)
    tied = torch.isclose(ordered[..., 1:], ordered[..., :-1], rtol=ROUNDING, atol=ROUNDING)
    group = F.pad(~tied, (1, 0)).cumsum(-1)
    twice_rank = torch.searchsorted(group, group) + torch.searchsorted(group, group, right=True) + 1
    labels = _classes(targets).to(scores.device).unsqueeze(-2).expand(scores.shape).gather(-1, order)
    of_class = labels == torch.arange(scores.shape[-2], device=scores.device).unsqueeze(-1)
    positive = of_class.sum(-1)
    negative = of_class.shape[-1] - positive
    # Integers up to here, so that sums of ranks are exact.
    twice_pairs = (twice_rank * of_class).sum(-1) - positive * (positive + 1)
    areas = twice_pairs.double() / (2 * positive * negative).double()
    areas = areas.masked_fill(scores.isnan().any(-1).any(-1, keepdim=True), math.nan)
    return areas.where((positive > 0) & (negative > 0), math.nan).nanmean(-1).to(outputs)


def r2(outputs: Tensor, targets: Tensor) -> Tensor:
    """Return R^2 = 1 - (squared error) / (variance of the targets): 1 for perfect predictions, 0 for the mean.

    NaN if the targets do not vary.
    """
    residual = (outputs - targets).square().sum((-2, -1))
    spread = (targets - targets.mean(-2, keepdim=True)).square().sum((-2, -1))
    constant = (targets == targets[..., :1, :]).all(-1).all(-1)  # their mean can differ from them by rounding
    return 1.0 - residual / spread.masked_fill(constant | (spread == 0), math.nan)


def entropy(labels: Tensor) -> float:
    """Return the entropy of the classes' shares among these labels, (N,), in nats."""
    shares = labels.bincount().double() / len(labels)
    return torch.special.entr(shares).sum().item()


_METRICS = {metric.__name__: metric for metric in (accuracy, error, top5, auc, r2)}


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


def _widen(outputs: Tensor) -> Tensor:
    """Return the outputs in float64, minus the largest of each example. On mps, which has no float64, use the CPU."""
    wide = (outputs.cpu() if outputs.device.type == "mps" else outputs).double()
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
