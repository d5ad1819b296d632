"""A truncated normal distribution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.init._truncation import sample_truncated_normal
from dlopt.ranges import Positive


@dataclass(frozen=True)
class TruncatedNormal:
    """W ~ N(0, std^2) under the condition |W| <= 2 std, for any layer size.

    No weight starts far from the others. The standard deviation of the weights is 0.88 std.

    std   standard deviation before the truncation

    Source: Schneider, Balles and Hennig 2019, DeepOBS, mnist_2c2d; the initializer truncated_normal of TensorFlow.
    """

    std: Positive

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return (sample_truncated_normal(parameter.shape, generator) * self.std).float()
