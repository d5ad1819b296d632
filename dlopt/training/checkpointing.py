"""What is in a checkpoint: plain dictionaries of tensors and numbers, loaded without executing anything.

`model` is a state dict with the network's own names, which plain PyTorch can load.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dlopt.base.layout import map_tied_names
from dlopt.rundir.metrics_log import decode_evaluations
from dlopt.rundir.writer import RunWriter
from dlopt.training.experiment import Experiment
from dlopt.training.state import TrainState

STATE_KEYS = ("step", "evaluations", "model", "state", "average", "best", "best_step", "window", "diagnostics")
"""The entries of a last checkpoint that decide how the run resumes."""
FORMAT = 2
"""Version of the content; a checkpoint of another version is refused."""


def make_header(experiment: Experiment, run: RunWriter) -> dict[str, Any]:
    """Return what checkpoints of all kinds hold."""
    counted = [] if experiment.train.targets.is_floating_point() else [str(i) for i in range(experiment.outputs)]
    return {
        "format": FORMAT,
        "config": run.config_digest(),
        "settings": run.settings,
        "preprocessing": {name: dict(statistics) for name, statistics in experiment.preprocessing.items()},
        "encoding": dict(experiment.encoding) or {"classes": counted},
    }


def capture_state(training: TrainState, i: int) -> dict[str, Any]:
    """Return all of the state of training that lane i needs to resume from here with the same bits."""
    return {
        "step": training.step,
        "evaluations": training.problem.evaluations,
        "model": model_state_dict(training, training.w, training.problem.running, i),
        "state": to_plain(training.state, i, training.solo),
        "average": to_plain(training.average, i, training.solo),
    }


def model_state_dict(training: TrainState, w: Tensor, running: Mapping[str, Tensor], i: int) -> dict[str, Tensor]:
    """Return the network of lane i at w, (..., P), as a state dict with its frozen parameters and buffers."""
    network = training.problem.model
    pieces = {n: v.detach() for n, v in training.layout.views(_copy_lane(w, i, training.solo)).items()}
    pieces |= {name: _copy_lane(b, i, training.solo) for name, b in running.items()}
    tied = map_tied_names(network)
    return {name: pieces.get(tied.get(name, name), value.detach()) for name, value in network.state_dict().items()}


def find_mismatch(content: Mapping[str, Any], network: nn.Module) -> str | None:
    """Return how a checkpoint does not fit this network, or None if it does."""
    saved = {name: tuple(x.shape) for name, x in content["model"].items()}
    mine = {name: tuple(x.shape) for name, x in network.state_dict().items()}

    def describe(shape: tuple[int, ...] | None) -> str:
        return "is not there" if shape is None else f"has shape {shape}"

    for name in [*mine, *saved]:
        a, b = saved.get(name), mine.get(name)
        if a != b:
            return f"the checkpoint is of another network: {name} {describe(a)} in it, and {describe(b)} in the network"
    return None


def find_differences(one: Any, other: Any, place: str = "") -> Iterator[str]:
    """Yield where nested dictionaries and lists of tensors and numbers differ, bit for bit; NaN equals itself."""
    if isinstance(one, Mapping) and isinstance(other, Mapping) and one.keys() == other.keys():
        for key in one:
            yield from find_differences(one[key], other[key], f"{place}/{key}")
    elif isinstance(one, (list, tuple)) and isinstance(other, (list, tuple)) and len(one) == len(other):
        for i, pair in enumerate(zip(one, other, strict=True)):
            yield from find_differences(*pair, f"{place}/{i}")
    elif isinstance(one, Tensor) and isinstance(other, Tensor):
        alike = (one.dtype, one.shape) == (other.dtype, other.shape)
        if not alike or not torch.equal(*(x.contiguous().reshape(-1).view(torch.uint8) for x in (one, other))):
            yield place
    elif repr(one) != repr(other):
        yield place


def restore(training: TrainState, content: Mapping[str, Any]) -> None:
    """Restore a single run to where `capture_state` was called."""
    training.step = content["step"]
    training.problem.evaluations = content["evaluations"]
    load_weights(training, training.w, training.problem.running, content["model"])
    training.state = from_plain(training.state, content["state"], training.device)
    training.average = from_plain(training.average, content["average"], training.device)
    training.histories = [tuple(decode_evaluations(content))]


def load_weights(training: TrainState, w: Tensor, running: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Overwrite w and running statistics by a saved network."""
    w.copy_(training.layout.flatten(saved))
    for name, b in running.items():
        b.copy_(saved[name])


def to_plain(x: Any, i: int, solo: bool) -> Any:
    """Return lane i of a state as nested dicts of tensors and numbers: loading a named tuple would import its class."""
    if hasattr(x, "state_dict"):
        x = x.state_dict()
    if hasattr(x, "_asdict"):
        x = x._asdict()
    if isinstance(x, Mapping):
        return {k: to_plain(v, i, solo) for k, v in x.items()}
    if isinstance(x, (tuple, list)):
        return type(x)(to_plain(v, i, solo) for v in x)
    return _copy_lane(x, i, solo) if isinstance(x, Tensor) else x


def from_plain(like: Any, content: Any, device: torch.device) -> Any:
    """Return the state from what `to_plain` returned, in the classes of a fresh state."""
    if hasattr(like, "load_state_dict"):
        like.load_state_dict(content)
        return like
    if hasattr(like, "_fields"):
        return type(like)(*(from_plain(v, content[k], device) for k, v in like._asdict().items()))
    if isinstance(content, Mapping):
        of = like if isinstance(like, Mapping) else {}
        return {k: from_plain(of.get(k), v, device) for k, v in content.items()}
    if isinstance(content, (tuple, list)):
        each = like if isinstance(like, (tuple, list)) else [None] * len(content)
        return type(content)(from_plain(a, b, device) for a, b in zip(each, content, strict=True))
    both = isinstance(like, Tensor) and isinstance(content, Tensor)
    if both and like.numel() and like.shape != content.shape:  # what a rule would leave empty may be full
        raise ValueError(f"it holds a tensor of shape {tuple(content.shape)} for one of {tuple(like.shape)}")
    if isinstance(like, int) and type(content) is not type(like):
        raise ValueError(f"it holds {content!r} for a whole number")
    return content.to(device) if isinstance(content, Tensor) else content


def _copy_lane(x: Tensor, i: int, solo: bool) -> Tensor:
    """Return a copy of one lane's part in memory of its own (a slice would save the whole)."""
    return (x if solo or x.ndim == 0 else x[i]).detach().clone()
