"""A uniform distribution of a given width."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.errors import OptionError


@dataclass(frozen=True)
class Uniform:
    """W ~ U(low, high), whatever the layer's size; its variance is (high - low)^2 / 12.

    From -1 to 1 each layer of n units multiplies the mean square by n / 3: units saturate, or blow up with depth.
    init=fan_in_uniform and init=xavier take their bounds from the size of the layer.

    low    the least that a weight can be
    high   the most

    Source: Goodfellow, Bengio and Courville 2016, section 8.4.
    """

    low: float
    high: float

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise OptionError("low", f"must be at most high, got {self.low:g} and {self.high:g}")

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        return torch.empty(parameter.shape).uniform_(self.low, self.high, generator=generator)
