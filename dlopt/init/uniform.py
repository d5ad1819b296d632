"""A uniform distribution."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.errors import OptionError


@dataclass(frozen=True)
class Uniform:
    """W ~ U(low, high), for any layer size; its variance is (high - low)^2 / 12.

    From -1 to 1 each layer of n units multiplies the mean square by n / 3: units saturate or explode with depth.
    init=fan_in_uniform and init=xavier derive their bounds from the size of the layer.

    low    smallest weight
    high   largest weight

    Source: Goodfellow, Bengio and Courville 2016, section 8.4.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise OptionError("low", f"must be at most high, got {self.low:g} and {self.high:g}")

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.empty(parameter.shape).uniform_(self.low, self.high, generator=generator)
