"""Layer-sequential unit-variance initialization."""

import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.linalg.random_orthogonal import sample_orthogonal
from dlopt.parts import InitProbe
from dlopt.ranges import Count, Positive


@dataclass(frozen=True)
class Lsuv:
    """W starts orthonormal. Then, layer by layer in the order of execution, with the outputs z of the layer:

        while |Var z - 1| > tolerance, at most `tries` times:   W <- W / sqrt(Var z)

    Var is over all outputs of the layer on one mini-batch: examples, units and positions. z is taken before a
    normalization or an activation, so the variance is one at every depth, for any activation. One pass through the
    network suffices. With equal biases a single division is exact.

    A layer is a module with one weight. Others, such as recurrent ones, keep their orthonormal matrices.

    tolerance   largest deviation of a variance from one
    tries       largest number of divisions per layer

    Source: Mishkin and Matas 2016, algorithm 1.
    """

    tolerance: Positive
    tries: Count

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        rows = parameter.shape[0]
        return sample_orthogonal(rows, parameter.size // rows, generator).reshape(parameter.shape)

    def adjust(self, w: Tensor, start: InitProbe) -> Tensor:
        divisions: Counter[str] = Counter()

        def compute_factor(parameter: Parameter, outputs: Tensor) -> float | None:
            variance = float(outputs.var(correction=0))
            if not 0.0 < variance < math.inf:
                raise ValueError(f"the outputs of the layer of {parameter.name} have variance {variance:g}, not one")
            if abs(variance - 1.0) <= self.tolerance or divisions[parameter.name] == self.tries:
                return None
            divisions[parameter.name] += 1
            return 1.0 / math.sqrt(variance)

        return start.rescale_layers(w, compute_factor)
