"""Random amplitudes of a series."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from dlopt import prng
from dlopt.parts import Augmentation
from dlopt.prng import Key
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class Scaling(Augmentation):
    """Multiplies each channel of a series by its own random factor: x' = f x, f ~ N(1, std^2).

    std   standard deviation of the factor; above about 0.3, some factors are negative

    The factor is relative to zero, so the series should be centred: preprocess=per_channel.

    Source: Um et al. 2017, Data augmentation of wearable sensor data.
    """

    dims: ClassVar[tuple[int, ...]] = (1,)
    keeps_steps: ClassVar[bool] = True
    std: NonNegative

    def __call__(self, inputs: Tensor, targets: Tensor, key: Key) -> tuple[Tensor, Tensor]:
        n = prng.normal(key, (*inputs.shape[:2], 1), inputs.device).to(inputs.dtype)
        return inputs * (1.0 + self.std * n), targets
