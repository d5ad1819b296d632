"""Parts of networks for sequences: embedding of the steps, normalization of each step, and pooling over steps."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn

from dlopt.base.network import BatchStatisticsModule
from dlopt.base.regularization import StochasticSite
from dlopt.base.sequences import fill_padding, mask_steps

Pooling = Literal["last", "mean", "max"]


def make_dropout(dropout: Callable[[int], nn.Module | None], site: int) -> nn.Module | None:
    """Return the dropout of a site whose inputs are steps (B, T, features), if there is one."""
    module = dropout(site)
    for part in () if module is None else module.modules():
        if isinstance(part, StochasticSite):
            part.feature_dim = -1
    return module


def read_steps(inputs: Tensor, *, padded: bool) -> tuple[Tensor, Tensor | None]:
    """Return tokens (B, T), or numbers as (B, T, channels), and the mask (B, T) of valid steps if some are padding."""
    mask = mask_steps(inputs) if padded else None
    if not inputs.is_floating_point():
        return inputs, mask
    return (inputs if mask is None else fill_padding(inputs, mask)).mT, mask


def check_shape(name: str, inputs: tuple[int, ...], tokens: int | None) -> None:
    """Raise ValueError if examples are not sequences."""
    if len(inputs) != (2 if tokens is None else 1):
        raise ValueError(
            f"{name} needs sequences: tokens, or series (channels, length); the data has shape {inputs}: use arch=mlp"
        )


def pool_steps(x: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """Return one vector of each sequence, (B, features), from its valid steps in x (B, T, features)."""
    if mask is None:
        return x[:, -1] if pooling == "last" else x.mean(1) if pooling == "mean" else x.amax(1)
    lengths = mask.sum(1, keepdim=True)
    if pooling == "last":
        return x.gather(1, (lengths - 1).unsqueeze(-1).expand(-1, -1, x.shape[-1])).squeeze(1)
    if pooling == "mean":
        return torch.where(mask.unsqueeze(-1), x, 0.0).sum(1) / lengths
    return torch.where(mask.unsqueeze(-1), x, -torch.inf).amax(1)


def normalize_steps(norm: nn.Module | None, x: Tensor, mask: Tensor | None) -> Tensor:
    """Normalize each step of x (B, T, features) by itself, or by statistics of the valid steps of the batch."""
    if norm is None:
        return x
    steps = x.flatten(0, 1)
    if mask is not None and isinstance(norm, BatchStatisticsModule):
        return norm(steps, mask.flatten()).unflatten(0, x.shape[:2])
    return norm(steps).unflatten(0, x.shape[:2])


def reverse_steps(x: Tensor, mask: Tensor | None) -> Tensor:
    """Reverse the order of the valid steps of x (B, T, features); the padding stays at the end."""
    if mask is None:
        return x.flip(1)
    steps = torch.arange(x.shape[1], device=x.device)
    source = torch.where(mask, mask.sum(1, keepdim=True) - 1 - steps, steps)
    return x.gather(1, source.unsqueeze(-1).expand_as(x))
