"""Training metrics, from outputs that the steps have made anyway."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from dlopt.objective import Evaluation, Problem

KEPT = 2**24
"""Numbers of outputs that are kept, at most, until metrics are computed from them."""
Sums = dict[str, Tensor]


class Window:
    """Losses, outputs and targets since the last flush; until then nothing is computed, and the host does not wait."""

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.kept: list[tuple[Evaluation, Tensor]] = []
        self.numbers = 0
        self.diverged: Tensor | None = None

    @property
    def full(self) -> bool:
        return self.numbers >= KEPT or len(self.kept) >= 4096

    def add(self, evaluation: Evaluation, targets: Tensor) -> None:
        self.kept.append((evaluation, targets))
        self.numbers += evaluation.outputs.numel()

    def flush(self, *into: Sums) -> None:
        """Add sums over the kept examples to each of `into`: examples, and loss and metrics times examples."""
        if not self.kept:
            return
        dim = 0 if self.problem.lanes is None else 1
        sizes = [y.shape[dim] for _, y in self.kept]
        losses = _exact(torch.stack([e.loss for e, _ in self.kept], dim=-1))
        outputs = _exact(torch.cat([e.outputs for e, _ in self.kept], dim=dim))
        targets = torch.cat([y for _, y in self.kept], dim=dim)
        targets = _exact(targets) if targets.is_floating_point() else targets
        count = sum(sizes)
        if len(set(sizes)) == 1:
            weighted = losses.sum(-1) * sizes[0]
        else:
            weighted = (losses * torch.tensor(sizes, dtype=losses.dtype, device=losses.device)).sum(-1)
        sums = {"train/loss": weighted, "examples": torch.tensor(float(count))}
        sums |= {f"train/{k}": v * count for k, v in self.problem.loss.metrics(outputs, targets).items()}
        bad = (~torch.isfinite(losses)).any(-1)
        self.diverged = bad if self.diverged is None else self.diverged | bad
        self.kept, self.numbers = [], 0
        for total in into:
            for name, value in sums.items():
                total[name] = total[name] + value if name in total else value

    def take_diverged(self) -> Tensor:
        """Whether a loss since the last call was not finite, per lane."""
        found, self.diverged = self.diverged, None
        if found is None:
            shape = () if self.problem.lanes is None else (self.problem.lanes,)
            return torch.zeros(shape)
        return found


def _exact(x: Tensor) -> Tensor:
    """In float64 (which mps lacks): so that it does not matter for a row when its window was flushed."""
    return x if x.device.type == "mps" else x.double()


def means(sums: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: total / sums["examples"] for name, total in sums.items() if name != "examples"}
