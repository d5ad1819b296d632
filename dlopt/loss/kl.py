"""Kullback-Leibler divergence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from dlopt import prng
from dlopt.loss.bce import to_labels
from dlopt.metrics import functional
from dlopt.parts import Loss, TargetKind
from dlopt.prng import Key

TOLERANCE = 1e-3
"""Largest error of the sum of a row of probabilities: those of a file have few digits."""


@dataclass(frozen=True)
class KullbackLeibler(Loss):
    """Kullback-Leibler divergence of the softmax from soft targets, in nats; zero if they agree.

        loss = mean over examples of  sum_j y_j (log y_j - log softmax(o)_j)

    The targets are rows of probabilities y, such as the votes of several people or the outputs of another network
    (data.kind=numbers, and data.standardize_target=false for a table), or classes. Its gradient is that of the cross
    entropy, which exceeds it by the entropy of the targets. It is torch's kl_div with reduction="batchmean".

    metrics   also reported, as for cross_entropy; the class of a row is its largest probability

    Raises ValueError before a run if a row is negative or does not sum to 1.

    Source: Kullback and Leibler 1951.
    """

    metrics: list[functional.ClassificationMetric]

    targets: ClassVar[TargetKind | Literal["both"]] = "both"

    def check(self, outputs: Tensor) -> None:
        functional.check(self.metrics, outputs)

    def check_targets(self, targets: Tensor) -> None:
        if not targets.is_floating_point():
            return
        rows = targets[~targets.isnan().any(-1)]
        wrong = (rows < 0).any(-1) | ((rows.sum(-1) - 1.0).abs() > TOLERANCE)
        if wrong.any():
            row = ", ".join(f"{x:.4g}" for x in rows[wrong][0][:5].tolist())
            hint = "use loss=mse for numbers; data.standardize_target=false leaves those of a table as they are"
            raise ValueError(f"needs rows of probabilities, which sum to 1; one of this data is {row}: {hint}")

    def losses(self, outputs: Tensor, targets: Tensor) -> Tensor:
        y = to_labels(targets, outputs)  # vmap runs kl_div of torch in a loop
        return (torch.xlogy(y, y) - y * outputs.log_softmax(-1)).sum(-1)

    def sample_targets(self, outputs: Tensor, key: Key) -> Tensor:
        return prng.categorical(key, outputs.softmax(-1))

    def constant_loss(self, labels: Tensor) -> float | None:
        return None if labels.is_floating_point() else functional.entropy(labels.bincount())

    def predict(self, outputs: Tensor) -> Tensor:
        return outputs.softmax(-1)

    def measure(self, outputs: Tensor, targets: Tensor) -> dict[str, Tensor]:
        return functional.compute_by_name(self.metrics, outputs, targets)
