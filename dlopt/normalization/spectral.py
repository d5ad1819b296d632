"""Spectral normalization."""

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dlopt.normalization._weights import WeightFunction, convert_layers
from dlopt.parts import BatchStatisticsModule
from dlopt.ranges import Count, Positive


@dataclass(frozen=True)
class SpectralNormalization:
    """Spectral normalization: the weights of each layer are divided by their largest singular value.

        W_SN = scale W / sigma,   sigma = |W v|,   v = W'u / |W'u|,   u <- W v / |W v|

    The power iteration for u goes on from step to step: W changes little in one, so `iterations` in each are enough.
    The gradient takes u and v for constants. A linear layer is then Lipschitz with the constant `scale`, as soon as u
    has converged, and with it the network, up to its activations. The kernel of a convolution counts as the matrix
    units x (inputs positions); its Lipschitz constant can be larger by the root of the number of positions.

    It normalizes every linear layer and convolution, the last one included, and no activations. Recurrent layers and
    embeddings stay as they are. u is a buffer that moves once per step; inference uses the stored one. It starts as the
    same random vector in every run, so sigma is too small in the first steps. The scale of the init has no effect, nor
    do penalties and weight decay, except on the effective learning rate.

    scale        largest singular value of each layer. With 1, as in the paper, a classifier cannot have large outputs
    iterations   power iterations in each step
    eps          added to the norms, so that zero weights do not divide by zero

    Source: Miyato, Kataoka, Koyama and Yoshida 2018, algorithm 1. torch.nn.utils.spectral_norm takes one half iteration
    more, and begins with 15.
    """

    scale: Positive
    iterations: Count
    eps: Positive

    def __call__(self, features: int, dims: int) -> None:
        return None

    def replace_weights(self, model: nn.Module) -> nn.Module:
        return convert_layers(model, SpectralWeight, self._configure)

    def initialize(self, w: Tensor, model: nn.Module, fixed: Collection[str]) -> Tensor:
        return w

    def _configure(self, layer: Any) -> None:
        layer.scale, layer.iterations, layer.eps, layer.batch_stats = self.scale, self.iterations, self.eps, {}


class SpectralWeight(WeightFunction, BatchStatisticsModule):
    """A layer with the parameter weight_orig, of the shape of the weight, and the buffer weight_u, (units,)."""

    normalizes = False
    uses_stored_statistics = True
    momentum = 1.0
    scale: float
    iterations: int
    eps: float
    weight_orig: Tensor
    weight_u: Tensor

    def prepare(self, weight: nn.Parameter) -> None:
        self.weight_orig = weight
        u = torch.randn(len(weight), generator=torch.Generator().manual_seed(0))
        self.register_buffer("weight_u", u / u.norm())

    def compute_weight(self) -> Tensor:
        matrix, u = self.weight_orig.flatten(1), self.weight_u
        with torch.no_grad():
            for _ in range(self.iterations if self.training else 1):
                v = self._scale_to_one(u @ matrix)
                product = matrix @ v
                u = self._scale_to_one(product)
        if self.training:
            self.batch_stats["weight_u"] = u
        return self.weight_orig * (self.scale / ((matrix @ v).norm() + self.eps))

    def _scale_to_one(self, x: Tensor) -> Tensor:
        return x / (x.norm() + self.eps)
