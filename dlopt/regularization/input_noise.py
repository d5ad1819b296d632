"""Gaussian noise on inputs."""

from dataclasses import dataclass

from torch import Tensor

from dlopt import prng
from dlopt.parts import Regularization
from dlopt.prng import Key
from dlopt.ranges import NonNegative


@dataclass(frozen=True)
class InputNoise(Regularization):
    """Gaussian noise on the inputs of training.

        x <- x + std n  with  n ~ N(0, 1) for each number of each example at each step;  inference uses x

    For a linear network with one output and squared loss it is on average the penalty std^2 |w|^2: l2 of strength
    2 std^2. For other networks and little noise, it penalizes derivatives of the outputs with respect to the inputs.

    std   standard deviation of the noise, in units of the preprocessed inputs

    Integer inputs are refused before a run.

    Source: Sietsma and Dow 1991; Bishop 1995, Training with noise is equivalent to Tikhonov regularization; Goodfellow,
    Bengio and Courville 2016, section 7.5.
    """

    std: NonNegative

    def inputs(self, inputs: Tensor, key: Key) -> Tensor:
        return inputs + self.std * prng.normal(key, tuple(inputs.shape), inputs.device).to(inputs.dtype)
