"""One weight vector: all trainable weights of a network as a flat tensor w of shape (P,).

The Layout says which slice of w is which parameter. Everything that thinks of training as w in R^P (update rules,
penalties, norms, curvature) works on w; only the network itself sees the pieces. A tensor of shape (E, P) is E
networks at once, and every method here takes leading dimensions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import torch
from torch import Tensor, nn

ParameterKind = Literal["weight", "bias", "norm"]


_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


@dataclass(frozen=True)
class Parameter:
    """One named piece of w.

    kind is `weight` for matrices and kernels (penalties and inits act on these), `bias` for additive vectors, and
    `norm` for the scale and shift of a normalization and any other vector: their own initial values are kept.
    fan_in and fan_out are the numbers of inputs and outputs of one unit, the receptive field included:
    for a kernel of shape (out, in, k...) they are in * prod(k) and out * prod(k).
    """

    name: str
    shape: tuple[int, ...]
    start: int
    kind: ParameterKind
    fan_in: int
    fan_out: int

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        return slice(self.start, self.start + self.size)


@dataclass(frozen=True)
class Layout:
    """Names, shapes and slices of the weight vector, in the order of `model.named_parameters()`."""

    parameters: tuple[Parameter, ...]

    @classmethod
    def of(cls, model: nn.Module) -> Layout:
        """The layout of a network's trainable parameters; frozen ones (requires_grad False) are not in w."""
        owner = {id(p): module for module in model.modules() for p in module.parameters(recurse=False)}
        found, start = [], 0
        for name, p in model.named_parameters():
            if p.requires_grad:
                shape = tuple(p.shape)
                field = math.prod(shape[2:])
                fan_out, fan_in = (shape[0] * field, shape[1] * field) if len(shape) > 1 else (p.numel(), p.numel())
                found.append(Parameter(name, shape, start, _classify(name, shape, owner[id(p)]), fan_in, fan_out))
                start += p.numel()
        return cls(tuple(found))

    @cached_property
    def size(self) -> int:
        """P, the number of trainable weights."""
        return sum(p.size for p in self.parameters)

    def views(self, w: Tensor) -> dict[str, Tensor]:
        """The pieces of w, (..., P), by name, each (..., *shape): views that share memory with w."""
        pieces = w.split([p.size for p in self.parameters], dim=-1)
        return {
            p.name: v.unflatten(-1, p.shape) if p.shape else v.squeeze(-1) for p, v in zip(self, pieces, strict=True)
        }

    def flatten(self, pieces: Mapping[str, Tensor]) -> Tensor:
        """The inverse of `views` for tensors of shape (*shape,): a new w of shape (P,)."""
        return torch.cat([pieces[p.name].reshape(-1) for p in self.parameters])

    def mask(self, *kinds: ParameterKind) -> Tensor:
        """A (P,) float32 tensor, one on the parameters of these kinds and zero elsewhere (on the CPU)."""
        return torch.cat([torch.full((p.size,), float(p.kind in kinds)) for p in self.parameters])

    def weight_mask(self, like: Tensor) -> Tensor:
        """The mask of weights, (P,), on the device and of the type of `like`: made once for each, not to be changed."""
        place = like.device, like.dtype
        if place not in self._weight_masks:
            with torch._C._DisableFuncTorch():  # a tensor made inside a transformation could not outlive it
                self._weight_masks[place] = self.mask("weight").to(*place)
        return self._weight_masks[place]

    @cached_property
    def _weight_masks(self) -> dict[tuple[torch.device, torch.dtype], Tensor]:
        return {}

    def layer_edges(self, like: Tensor) -> Tensor:
        """Where each layer begins in w, and P behind the last, (layers + 1,) int64, on the device of `like`.

        Made once for each device, not to be changed.
        """
        if like.device not in self._layer_edges:
            ends = [pieces[-1].stop for pieces in self.layers().values()]
            self._layer_edges[like.device] = torch.tensor([0, *ends], device=like.device)
        return self._layer_edges[like.device]

    @cached_property
    def _layer_edges(self) -> dict[torch.device, Tensor]:
        return {}

    def layers(self) -> dict[str, list[slice]]:
        """The slices of each layer (the module that owns the parameters), by the layer's name."""
        found: dict[str, list[slice]] = {}
        for p in self.parameters:
            found.setdefault(p.name.rpartition(".")[0] or p.name, []).append(p.slice)
        return found

    def __iter__(self) -> Iterator[Parameter]:
        return iter(self.parameters)


def map_tied_names(model: nn.Module) -> dict[str, str]:
    """Every name of every parameter, to the first name of the same one: tied parameters have several."""
    first = {id(p): name for name, p in model.named_parameters()}
    return {name: first[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}


def _classify(name: str, shape: tuple[int, ...], owner: nn.Module) -> ParameterKind:
    if isinstance(owner, _NORMS) or getattr(owner, "normalizes", False):
        return "norm"
    if len(shape) >= 2:
        return "weight"
    return "bias" if "bias" in name.rpartition(".")[2] else "norm"
