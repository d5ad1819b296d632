"""The content of checkpoints: plain dictionaries of tensors and numbers, loaded without executing anything.

`model` is a state dict with the network's own names, which plain PyTorch can load.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dlopt.training import Training

FORMAT = 1


def state(training: Training, i: int) -> dict[str, Any]:
    """All that lane i needs of the state of training to go on from here as if nothing had happened."""
    return {
        "format": FORMAT,
        "step": training.step,
        "evaluations": training.problem.evaluations,
        "model": model(training, training.w, training.problem.running, i),
        "state": plain(training.state, i, training.solo),
        "average": plain(training.average, i, training.solo),
    }


def model(training: Training, w: Tensor, running: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    """The network of lane i at w, (..., P), as a state dict."""
    pieces = training.layout.views(_lane(w, i, training.solo))
    buffers = {name: _lane(b, i, training.solo) for name, b in running.items()}
    return {name: view.detach() for name, view in pieces.items()} | buffers


def restore(training: Training, content: Mapping[str, Any]) -> None:
    """Put a single run back to where `state` was taken."""
    training.step = content["step"]
    training.problem.evaluations = content["evaluations"]
    fill(training, training.w, training.problem.running, content["model"])
    training.state = restored(training.state, content["state"], training.device)
    training.average = restored(training.average, content["average"], training.device)


def fill(training: Training, w: Tensor, running: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Overwrite w and running statistics with a saved network."""
    w.copy_(training.layout.flatten(saved))
    for name, b in running.items():
        b.copy_(saved[name])


def plain(x: Any, i: int, solo: bool) -> Any:
    """Lane i of a state, as nested dicts of tensors and numbers: loading a named tuple would import its class."""
    if isinstance(x, tuple):
        x = x._asdict() if hasattr(x, "_asdict") else dict(enumerate(x))
    if isinstance(x, Mapping):
        return {k: plain(v, i, solo) for k, v in x.items()}
    return _lane(x, i, solo) if isinstance(x, Tensor) else x


def restored(like: Any, content: Any, device: torch.device) -> Any:
    """The inverse of `plain`, in the classes of a fresh state."""
    if isinstance(like, tuple):
        values = [restored(v, content[k], device) for k, v in zip(content, like, strict=True)]
        return type(like)(*values) if hasattr(like, "_fields") else tuple(values)
    if isinstance(content, Mapping):
        return {k: restored(None, v, device) for k, v in content.items()}
    return content.to(device) if isinstance(content, Tensor) else content


def _lane(x: Tensor, i: int, solo: bool) -> Tensor:
    """A copy of one lane's part, of its own memory (a slice would save the whole)."""
    return (x if solo or x.ndim == 0 else x[i]).detach().clone()
