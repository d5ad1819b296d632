"""Auxiliary outputs: what further heads of a network predict in training, from inner layers.

    loss = loss(output) + auxiliary_weight * sum over heads k of loss(auxiliary output k)

A network with heads returns (output, auxiliary outputs) in training and has an attribute `auxiliary_weight`. Inference
uses only the output.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def has_heads(result: Any) -> bool:
    """Return whether a network has returned auxiliary outputs."""
    return isinstance(result, (tuple, list)) and len(result) > 1


def list_outputs(result: Any) -> list[Tensor]:
    """Return the output of a network and its auxiliary outputs, which may be one tensor or several."""
    if not has_heads(result):
        return [result]
    output, *others = result
    return [output, *(x for other in others for x in (other if has_heads(other) else [other]))]


def get_output(result: Any) -> Tensor:
    """Return the output of a network without its auxiliary outputs."""
    output: Tensor = result[0] if has_heads(result) else result
    return output


def stack_outputs(result: Any) -> Tensor:
    """Return output and auxiliary outputs as one tensor, (B, 1 + heads, outputs)."""
    return torch.stack(list_outputs(result), 1)


def add_losses(losses: Sequence[Tensor], weight: float | None) -> Tensor:
    """Return the loss of the output plus the weighted losses of the auxiliary outputs."""
    loss, *auxiliary = losses
    return loss if weight is None else loss + weight * sum(auxiliary)
