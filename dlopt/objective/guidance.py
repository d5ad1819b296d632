"""The term of a teacher in the objective, and the regressor of the student's guided layer.

f(w) = (1 - weight) loss + weight distance(student, teacher) + sum of penalties(w)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlopt.base.data import TargetKind
from dlopt.base.loss import Distillation
from dlopt.base.sequences import mask_targets
from dlopt.objective.micro_batches import GuidedTargets, Targets

REGRESSOR = "hint_regressor"
"""Name of the regressor among the modules of a network that is trained."""


class HintRegressor(nn.Module):
    """Maps the outputs of a guided layer to the entries of a hint, (B, entries), inside the forward of the network.

    It is a module of the network so that its parameters are a part of w. `forward` returns its inputs: the network may
    be an nn.Sequential, which calls all of its modules.
    """

    def __init__(self, regress: nn.Module) -> None:
        super().__init__()
        self.map = regress
        self.collects = False
        self._hint: Tensor | None = None

    def forward(self, x: Tensor) -> Tensor:
        return x

    def attach(self, model: nn.Module, layer: nn.Module) -> None:
        """Become a module of a network, and follow one of its layers."""
        model.add_module(REGRESSOR, self)
        layer.register_forward_hook(self._record)

    def _record(self, layer: nn.Module, inputs: Any, output: Tensor) -> None:
        if self.collects:
            self._hint = self.map(output.flatten(1) if isinstance(self.map, nn.Linear) else output).flatten(1)

    def pop(self) -> Tensor:
        """Return what the last forward has made; later ones make nothing until `collects` is set again."""
        hint, self._hint, self.collects = self._hint, None, False
        assert hint is not None
        return hint


def drop_regressor(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return a state dict without the regressor, which inference does not need."""
    return {name: value for name, value in state.items() if not name.startswith(f"{REGRESSOR}.")}


@dataclass(frozen=True, eq=False)
class DistillationTerm:
    """The distance of a student from its teacher, for targets of this kind."""

    option: Distillation
    kind: TargetKind

    def measure(self, student: Tensor, targets: GuidedTargets) -> Tensor:
        """Return the mean distance, shape (), of (B, outputs) or (B, T, outputs).

        As in `Loss.mean`, only steps with a target count, and each sequence counts the same.
        """
        if student.ndim == 2:
            return self.option.losses(student, targets.teacher, self.kind).mean()
        valid = mask_targets(targets.own)
        pair = student.flatten(0, 1), targets.teacher.flatten(0, 1)
        losses = self.option.losses(*pair, self.kind).unflatten(0, valid.shape)
        return (torch.where(valid, losses, 0.0).sum(-1) / valid.sum(-1)).mean()


class Guide(NamedTuple):
    """A term, the targets of an evaluation, and the output of the regressor if layers are compared."""

    term: DistillationTerm
    targets: GuidedTargets
    hint: Tensor | None


def separate_guide(
    term: DistillationTerm | None, outputs: Tensor, targets: Targets
) -> tuple[Tensor, Tensor, Guide | None]:
    """Return the outputs without a hint, the targets without a teacher, and the guide if there is one."""
    if not isinstance(targets, GuidedTargets):
        return outputs, targets, None
    assert term is not None
    if not term.option.compares_layers:
        return outputs, targets.own, Guide(term, targets, None)
    outputs, hint = outputs.tensor_split([-targets.teacher.shape[-1]], 1)
    return outputs, targets.own, Guide(term, targets, hint)


def add_guide(loss: Tensor, guide: Guide | None, output: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
    """Return the weighted sum of the loss and the distance from a teacher, and the distance, if there is a teacher.

    With weight 0 or 1 it is one of the two itself: 0 times infinity would be NaN.
    """
    if guide is None:
        return loss, ()
    distance = guide.term.measure(output if guide.hint is None else guide.hint, guide.targets)
    weight = guide.term.option.weight
    total = loss if weight == 0 else distance if weight == 1 else (1 - weight) * loss + weight * distance
    return total, (distance.detach(),)
