"""Sequences of different lengths in one tensor: the marks of their padding.

Sequences of tokens are integers (N, T), series of numbers are (N, channels, T). A shorter sequence is padded at its
end: with the token 0, or with NaN in all channels. A target for each step of a sequence is a class, (N, T), or numbers,
(N, T, outputs); a step without a target has the class -1, or NaN.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dlopt.base.mapped_inputs import Inputs, MappedInputs

SERIES = 3
"""Dimensions of a batch of series, (N, channels, T)."""
PADDING_TOKEN = 0
"""The token after the end of a sequence."""
PADDING_CLASS = -1
"""The class of a step without a target, such as one after the end of a sequence."""


def mask_steps(inputs: Tensor) -> Tensor:
    """Return which steps, (..., T), of tokens (..., T) or of series (..., channels, T) belong to the sequence."""
    return ~inputs[..., 0, :].isnan() if inputs.is_floating_point() else inputs != PADDING_TOKEN


def is_padded(inputs: Inputs) -> bool:
    """Return whether some sequences are shorter than others; mapped ones never are.

    Only the last step is read: padding is at the end.
    """
    if isinstance(inputs, MappedInputs):
        return False
    return inputs.numel() > 0 and not bool(mask_steps(inputs[..., -1:]).all())


def is_padded_series(inputs: Inputs) -> bool:
    """Return whether inputs are series, (N, channels, T), of which some are shorter than others."""
    return len(inputs.shape) == SERIES and inputs.is_floating_point() and is_padded(inputs)


def fill_padding(inputs: Tensor, mask: Tensor, value: float = 0.0) -> Tensor:
    """Return series (..., channels, T) with a number in place of their padding: NaN times 0 would be NaN."""
    return torch.where(mask.unsqueeze(-2), inputs, value)


def has_targets_per_step(targets: Tensor) -> bool:
    """Return whether targets are one for each step of a sequence: (N, T) classes or (N, T, outputs) numbers."""
    return targets.ndim > (2 if targets.is_floating_point() else 1)


def mask_targets(targets: Tensor) -> Tensor:
    """Return which steps, (..., T), have a target: classes (..., T), numbers or probabilities (..., T, outputs)."""
    return ~targets.isnan().any(-1) if targets.is_floating_point() else targets != PADDING_CLASS


def list_targets(targets: Tensor) -> Tensor:
    """Return the targets of all examples, or of all steps that have one: (N,) classes or (N, outputs) numbers."""
    return targets[mask_targets(targets)] if has_targets_per_step(targets) else targets
