"""A trained network as one module, with its preprocessing inside: raw inputs to outputs."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from functools import reduce
from typing import Literal

import torch
from torch import Tensor, nn

from dlopt.base.transforms import Preprocess
from dlopt.objective.auxiliary import get_output
from dlopt.training.inference import Predictor

Output = Literal["scores", "probabilities", "numbers"]
"""Meaning of the outputs: the network's own outputs of each class, probabilities of classes, or numbers in the units of
the target."""


class FittedStep(nn.Module):
    """A preprocessing with its statistics of the training split as buffers."""

    def __init__(self, part: Preprocess, statistics: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.part = part
        self.names = tuple(statistics)
        for name, value in statistics.items():
            self.register_buffer(f"statistic_{name}", value.clone())

    def statistics(self) -> dict[str, Tensor]:
        """Return the statistics by name: the buffers themselves."""
        return {name: self.get_buffer(f"statistic_{name}") for name in self.names}

    def forward(self, inputs: Tensor) -> Tensor:
        return self.part.apply(inputs, self.statistics())


class InferenceModule(nn.Module):
    """What Predictor.predict computes, as a module of its own: raw inputs, (B, *shape), to outputs, (B, outputs).

    With a target for each step of a sequence, outputs are (B, T, outputs). Nothing in it is random, and it shares no
    memory with the predictor.
    """

    def __init__(self, predictor: Predictor, output: Output) -> None:
        super().__init__()
        self.preprocessing = nn.ModuleList(FittedStep(*step) for step in predictor.preprocessing)
        self.network = copy.deepcopy(predictor.model)
        self.dtype = predictor.dtype
        self.rules = predictor.problem.regularization
        self.output = output
        self.loss = predictor.loss
        self.scale, self.middle = (predictor.encoding.get(key) or 0.0 for key in ("scale", "middle"))
        self.eval().requires_grad_(False)

    def forward(self, inputs: Tensor) -> Tensor:
        x = reduce(lambda x, step: step(x), self.preprocessing, inputs)
        x = x.to(self.dtype) if x.is_floating_point() else x
        x = reduce(lambda x, rule: rule.inference(x), self.rules, x)
        return self.interpret(get_output(self.network(x)))

    @property
    def steps(self) -> list[FittedStep]:
        """Return the preprocessing steps in order."""
        return [step for step in self.preprocessing if isinstance(step, FittedStep)]

    def interpret(self, outputs: Tensor) -> Tensor:
        """Return probabilities, or numbers in the units of the target, of the network's own outputs."""
        if self.output == "scores":
            return outputs
        predicted = self.loss.predict(outputs)
        if self.output == "probabilities" or not self.scale:
            return predicted
        return predicted * self.scale + self.middle

    def to_float32(self) -> InferenceModule:
        """Convert the module to float32, in place."""
        self.dtype = torch.float32
        return self.to(torch.float32)
