"""Checks of sequences: their padding, targets for each step, and the components that take them."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor

from dlopt import parts
from dlopt.base.mapped_inputs import Inputs
from dlopt.base.sequences import is_padded_series, mask_steps, mask_targets
from dlopt.config.compose import groups
from dlopt.config.compose.static_config import StaticConfig
from dlopt.config.problems import Problems
from dlopt.config.schema import targets


def describe_data(dataset: parts.Dataset) -> dict[str, Any]:
    """Return the arguments that tell an arch what examples and targets it is given."""
    sequences = {"tokens": dataset.tokens, "per_step": dataset.per_step, "padded": dataset.is_padded}
    return {"inputs": dataset.shape, "outputs": dataset.outputs, **sequences}


def check_arch(name: str, takes: Container[str], dataset: parts.Dataset, problems: Problems) -> bool:
    """Return whether an arch with these arguments fits sequences; add a problem if not."""
    needs = {
        "tokens": (dataset.tokens is not None, "takes numbers, and this data has tokens"),
        "per_step": (dataset.per_step, "predicts once for each example, and this data has a target for each step"),
        "padded": (dataset.is_padded, "takes examples of one size, and this data has sequences of different lengths"),
    }
    wrong = [reason for argument, (is_needed, reason) in needs.items() if is_needed and argument not in takes]
    if wrong:
        remedy = " or ".join(f"arch={option}" for option in _list_archs([key for key in needs if needs[key][0]]))
        problems.add("arch", f"{name} {wrong[0]}: use {remedy}")
    return not wrong


def _list_archs(arguments: list[str]) -> Iterator[str]:
    """Yield the archs of dlopt that take all of these arguments."""
    config = StaticConfig({})
    for option in groups.list_option_names("arch"):
        node = config.read_option("arch", option)
        target = None if option == "custom" else targets.resolve("arch", dict(node), Problems())
        if target is not None and all(name in targets.read_signature(target).parameters for name in arguments):
            yield option


def find_padding_error(x: Tensor, tokens: int | None) -> str | None:
    """Return the first error in the padding or in the tokens of sequences, or None."""
    if tokens is not None:
        if x.dtype != torch.int64 or x.ndim != 2:
            return f"tokens must be int64 of shape (N, length), got {x.dtype} of shape {tuple(x.shape)}"
        if x.numel() and not (int(x.min()) >= 0 and int(x.max()) < tokens):
            return f"tokens must be 0 to {tokens - 1}, got {int(x.min())} to {int(x.max())}"
    elif not is_padded_series(x):
        return None
    elif (x.isnan().any(1) & mask_steps(x)).any():
        return "a step of a series has NaN in some channels; padding has it in all"
    mask = mask_steps(x)
    if not mask[:, :1].all():
        return f"example {int((~mask[:, 0]).nonzero()[0])} has length zero or begins with padding"
    if (mask[:, 1:] & ~mask[:, :-1]).any():
        return "padding must be at the end of a sequence; some is within one"
    return None


def find_steps_error(x: Tensor, y: Tensor, dataset: parts.Dataset) -> str | None:
    """Return the first error in the shape of targets for each step, or None."""
    if not dataset.is_sequence:
        return f"targets of shape {tuple(y.shape)} need sequences as inputs, got shape {tuple(x.shape)}"
    if y.shape[1] != x.shape[-1] or y.ndim != 2 + y.is_floating_point():
        numbers = f" or (N, {x.shape[-1]}, {dataset.outputs})"
        return f"targets for each step must have shape (N, {x.shape[-1]}){numbers}, got {tuple(y.shape)}"
    mask = mask_targets(y)
    if not mask.any(1).all():
        return f"{int((~mask.any(1)).sum())} sequences have no step with a target; leave them out"
    if (mask & ~mask_steps(x)).any():
        return "a step of the padding has a target"
    return None


def fit_padded(part: parts.Preprocess, x: Tensor) -> dict[str, Tensor]:
    """Return the statistics of padded series. Raise ValueError if a preprocessing cannot leave out their padding."""
    wrong = "cannot leave out the padding of series of different lengths"
    message = f"{wrong}: use preprocess=per_channel, or cut the series to one length"
    try:
        statistics = part.fit(x)
    except Exception as error:
        raise ValueError(message) from error
    if not all(values.isfinite().all() for values in statistics.values()):
        raise ValueError(message)
    return statistics


def check_padding(before: Iterable[Inputs], after: Iterable[Inputs]) -> None:
    """Raise ValueError if a preprocessing has moved or filled the padding of series."""
    pairs = [(x, y) for x, y in zip(before, after, strict=True) if isinstance(x, Tensor) and isinstance(y, Tensor)]
    if any(is_padded_series(x) and not torch.equal(mask_steps(x), mask_steps(y)) for x, y in pairs):
        raise ValueError("must leave the padding of series as it is: NaN in all channels")
