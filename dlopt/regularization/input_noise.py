"""Gaussian noise on inputs."""

from dataclasses import dataclass

from torch import Tensor

from dlopt import prng
from dlopt.parts import Regularization
from dlopt.prng import Key
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class InputNoise(Regularization):
    """In training x <- x + std n with n ~ N(0, 1) for each number of each example, anew at each step; inference sees x.

    For a linear network with one output and squared loss it is on average the penalty std^2 |w|^2, that is l2 of
    strength 2 std^2; for others, with little noise, a penalty on the outputs' derivatives with respect to the inputs.

    std   standard deviation of the noise, in units of the inputs behind the preprocessing

    Inputs of whole numbers are refused.

    Source: Sietsma and Dow 1991; Bishop 1995, Training with noise is equivalent to Tikhonov regularization; Goodfellow,
    Bengio and Courville 2016, section 7.5.
    """

    std: NonNegative

    def inputs(self, inputs: Tensor, key: Key) -> Tensor:
        return inputs + self.std * prng.normal(key, tuple(inputs.shape), inputs.device).to(inputs.dtype)
