"""Comparison of an exported network with the run's own outputs."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from dlopt.training.inference import Predictor, select_examples

EXAMPLES = 256
"""Number of examples that are compared, if the data have so many."""
TOLERANCE = 1e-5
"""Largest allowed difference, relative to the largest output. Kernels of other programs add in another order: networks
of the catalogue differ by about 1e-7, the precision of float32, and a wrong operation by far more than 1e-5."""

Run = Callable[[Tensor], Tensor]
"""A function from raw inputs, (B, *shape), to outputs."""


class Reference(NamedTuple):
    """Raw inputs and the outputs that the run's Predictor gives for them."""

    inputs: Tensor
    outputs: Tensor

    @property
    def scale(self) -> float:
        """Return the largest finite output in absolute value; 1 if all are zero."""
        finite = self.outputs[self.outputs.isfinite()].abs()
        return (finite.max().item() if len(finite) else 0.0) or 1.0


def draw_inputs(predictor: Predictor, count: int = EXAMPLES) -> Tensor:
    """Return raw inputs of the run's data: evenly spaced ones of all examples, at most `count`."""
    pieces = predictor.splits["all"]
    total = sum(map(len, pieces))
    rows = torch.arange(min(count, total)) * total // min(count, total)
    inputs = torch.cat([split.gather()[0] for split in select_examples(pieces, rows)])
    return inputs.float() if inputs.is_floating_point() else inputs


def measure_difference(run: Run, reference: Reference) -> float:
    """Return the largest difference of outputs, relative to the largest one; infinite if their shapes differ.

    All examples run as one batch, and the first one alone: a file must take any number of examples.
    """
    inputs, outputs = reference
    pairs = [(run(inputs), outputs), (run(inputs[:1]), outputs[:1])]
    return max(_find_largest_gap(a.double(), b.double()) for a, b in pairs) / reference.scale


def agrees(run: Run, reference: Reference, tolerance: float) -> bool:
    """Return whether a function takes these inputs and gives these outputs, up to a tolerance."""
    try:
        return measure_difference(run, reference) <= tolerance
    except Exception:  # each program raises its own for inputs of a shape that it does not take
        return False


def _find_largest_gap(a: Tensor, b: Tensor) -> float:
    if a.shape != b.shape:
        return torch.inf
    equal = (a == b) | (a.isnan() & b.isnan())
    return torch.where(equal, 0.0, (a - b).abs()).nan_to_num(torch.inf, torch.inf).max().item()


# ------------------------------------------------------------------------------------------- lengths of sequences


def resize(inputs: Tensor, length: int) -> Tensor:
    """Return sequences, (..., T), cut to a length, or with each step repeated; padding stays at the end."""
    repeated = inputs.repeat_interleave(-(-length // inputs.shape[-1]), -1)
    return repeated[..., :length]


def list_lengths(module: nn.Module, inputs: Tensor) -> list[int]:
    """Return further lengths of sequences, (B, ..., T), that a network takes; empty if it does not take shorter ones.

    Half the length and one step less are tried, and twice the length.
    """
    length = inputs.shape[-1]
    shorter = sorted({length // 2, length - 1} - {0})
    if not shorter or not all(_takes(module, resize(inputs[:2], n)) for n in shorter):
        return []
    return [*shorter, 2 * length] if _takes(module, resize(inputs[:2], 2 * length)) else shorter


def _takes(module: nn.Module, inputs: Tensor) -> bool:
    try:
        module(inputs)
    except Exception:  # any network raises its own for a length that it does not take
        return False
    return True
