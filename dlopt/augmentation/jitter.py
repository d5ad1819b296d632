"""Random noise on the values of an example."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from dlopt import prng
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Jitter(Augmentation):
    """Adds Gaussian noise to each example: x' = x + std n, n ~ N(0, 1).

    std   standard deviation of the noise, in units of the preprocessed inputs
    each  value: n is independent for each number; channel: for each channel, whose numbers are raised or lowered
          together

    Other augmentations may follow it, such as time_mask. regularization=input_noise adds noise after all augmentations,
    and its std may have a schedule.

    Source: Um et al. 2017, Data augmentation of wearable sensor data, for series (value).
    """

    keeps_steps: ClassVar[bool] = True
    std: NonNegative
    each: Literal["value", "channel"]

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        shape = tuple(inputs.shape) if self.each == "value" else (*inputs.shape[:2], *(1,) * (inputs.ndim - 2))
        return inputs + self.std * prng.normal(key, shape, inputs.device).to(inputs.dtype), targets
