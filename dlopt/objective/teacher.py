"""A teacher: a trained network that guides the training of another one, frozen and in inference."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlopt.base.loss import Loss
from dlopt.base.regularization import Regularization
from dlopt.base.transforms import PixelScale, Preprocess
from dlopt.objective.activation_hooks import record_outputs
from dlopt.objective.guidance import DistillationTerm
from dlopt.objective.problem import Problem

CHUNK = 4096
"""Maximum number of examples of one pass."""


class InputMap(NamedTuple):
    """How the inputs of a teacher follow from those of its student.

    scale           undoes the preprocessing of the student: an affine map of each entry; None: nothing is undone
    preprocessing   the teacher's own steps, with their statistics, that are applied then
    """

    scale: PixelScale | None
    preprocessing: Sequence[tuple[Preprocess, Mapping[str, Tensor]]]

    def __call__(self, inputs: Tensor) -> Tensor:
        inputs = inputs if self.scale is None else self.scale.to_pixels(inputs)
        for part, statistics in self.preprocessing:
            inputs = part.apply(inputs, statistics)
        return inputs

    def place(self, device: torch.device, dtype: torch.dtype) -> InputMap:
        """Return the same map with its tensors on the device, and its numbers in the type."""

        def move(x: Tensor) -> Tensor:
            return x.to(device, dtype if x.is_floating_point() else x.dtype)

        scale = None if self.scale is None else PixelScale(*map(move, self.scale))
        steps = [(part, {name: move(x) for name, x in statistics.items()}) for part, statistics in self.preprocessing]
        return InputMap(scale, steps)


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained network with what is needed to ask it about the mini-batches of a student.

    term        the term of the objective that compares them
    layer       name of the hint layer; None: the outputs are compared
    inputs      maps the inputs of the student
    record      path of its run, checkpoint, step, and the digest of the weights
    """

    term: DistillationTerm
    model: nn.Module
    loss: Loss
    regularization: tuple[Regularization, ...]
    layer: str | None
    inputs: InputMap
    record: Mapping[str, Any]

    def place(
        self, device: torch.device, dtype: torch.dtype, precision: torch.dtype | None, chunk: int | None
    ) -> PlacedTeacher:
        """Return a copy on a device, in the type and the precision of a run, that takes `chunk` examples at once."""
        model = copy.deepcopy(self.model).to(device, dtype)
        problem = Problem(model, self.loss, self.regularization, precision=precision)
        w = problem.bind(problem.layout.flatten({name: p.detach() for name, p in model.named_parameters()}))
        return PlacedTeacher(self, problem, w, self.inputs.place(device, dtype), chunk or CHUNK)


class PlacedTeacher(NamedTuple):
    """A teacher on the device of a run."""

    teacher: Teacher
    problem: Problem
    w: Tensor
    inputs: InputMap
    chunk: int

    def __call__(self, inputs: Tensor) -> Tensor:
        """Return the outputs, (B, outputs) or (B, T, outputs), or the entries of the hint layer, (B, entries)."""
        return torch.cat([self._ask(self.inputs(x)) for x in inputs.split(self.chunk)])

    def _ask(self, x: Tensor) -> Tensor:
        name = self.teacher.layer
        modules = {} if name is None else {name: self.problem.model.get_submodule(name)}
        with record_outputs(modules) as recorded:
            outputs = self.problem.predict(self.w, x)
        return outputs if name is None else recorded[name].flatten(1).to(self.w.dtype)
