"""Orthogonal initialization."""

from dataclasses import dataclass

import torch
from torch import Tensor

from dlopt.base.layout import Parameter
from dlopt.init._gain import Gain, resolve_gain
from dlopt.linalg.random_orthogonal import sample_orthogonal


@dataclass(frozen=True)
class Orthogonal:
    """W = gain Q, Q from the uniform (Haar) distribution on the (semi-)orthogonal matrices.

    W is out x in; a convolution's kernel is flattened to out x (in k). With out <= in the rows are orthogonal,
    W W^T = gain^2 I, else the columns, W^T W = gain^2 I. All singular values are gain: with gain 1 square linear layers
    preserve lengths at any depth, while products of Gaussian matrices lose one direction after another.

    gain   a factor, or auto: the gain of the activation (1 for tanh, sqrt(2) for ReLU)

    Source: Saxe, McClelland and Ganguli 2014; the signs: Mezzadri 2007.
    """

    gain: Gain

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor:
        factor = resolve_gain(self.gain, gain)
        rows, columns = parameter.shape[0], parameter.size // parameter.shape[0]
        return factor * sample_orthogonal(rows, columns, generator).reshape(parameter.shape)
