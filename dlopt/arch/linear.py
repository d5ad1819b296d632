"""One linear layer."""

import math

from torch import Tensor, nn


class LinearModel(nn.Module):
    """outputs = W x + b on the flattened input: softmax regression with cross entropy, least squares with mse."""

    def __init__(self, inputs: tuple[int, ...], outputs: int) -> None:
        super().__init__()
        self.output = nn.Linear(math.prod(inputs), outputs)

    def forward(self, x: Tensor) -> Tensor:
        return self.output(x.flatten(1))
