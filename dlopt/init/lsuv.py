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
    """W begins orthonormal. Then, layer by layer in the order of execution, with z what the layer puts out:

        while |Var z - 1| > tolerance, at most `tries` times:   W <- W / sqrt(Var z)

    Var is over all numbers that the layer puts out on one mini-batch: examples, units and positions. z is taken before
    a normalization or an activation, so the variance is one at every depth, whatever the activation. One walk through
    the network does it. Where biases are alike a single division is exact.

    A layer is a module with one weight. Others, such as a recurrent one, keep their orthonormal matrices.

    tolerance   how far from one a variance may be
    tries       at most so many divisions for each layer

    Source: Mishkin and Matas 2016, algorithm 1.
    """

    tolerance: Positive
    tries: Count

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        rows = parameter.shape[0]
        return sample_orthogonal(rows, parameter.size // rows, generator).reshape(parameter.shape)

    def adjust(self, w: Tensor, start: InitProbe) -> Tensor:
        tried: Counter[str] = Counter()

        def factor(parameter: Parameter, outputs: Tensor) -> float | None:
            variance = float(outputs.var(correction=0))
            if not 0.0 < variance < math.inf:
                raise ValueError(f"what the layer of {parameter.name} puts out has variance {variance:g}, not one")
            if abs(variance - 1.0) <= self.tolerance or tried[parameter.name] == self.tries:
                return None
            tried[parameter.name] += 1
            return 1.0 / math.sqrt(variance)

        return start.rescale_layers(w, factor)
