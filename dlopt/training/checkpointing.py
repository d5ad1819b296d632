"""Checkpoints: their content, and when the last, the best and the averaged weights are written.

The content is plain dictionaries of tensors and numbers, loaded without executing code. `model` is a state dict with
the network's own names, which plain PyTorch can load.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from dlopt.base.history import History
from dlopt.base.layout import map_tied_names
from dlopt.base.splits import count_classes
from dlopt.objective.guidance import drop_regressor
from dlopt.rundir.metrics_log import decode_evaluations
from dlopt.rundir.writer import RunWriter
from dlopt.training.best import Lane
from dlopt.training.experiment import Experiment
from dlopt.training.lanes import select_lanes
from dlopt.training.state import TrainState

STATE_KEYS = ("step", "evaluations", "model", "state", "average", "best", "best_step", "window", "diagnostics")
"""The entries of a last checkpoint that decide how the run resumes."""
FORMAT = 2
"""Version of the content; a checkpoint of another version is refused."""
BEST_EVERY = 10.0
"""Minimum number of seconds between two writes of the best checkpoint; the best weights stay on the device."""


# ------------------------------------------------------------------------------------------- content


def make_header(experiment: Experiment, run: RunWriter) -> dict[str, Any]:
    """Return the entries that all kinds of checkpoints share."""
    counted = [] if experiment.train.targets.is_floating_point() else [str(i) for i in range(experiment.outputs)]
    encoding = dict(experiment.encoding) or {"classes": counted}
    if experiment.loss.needs_counts:
        encoding["class_counts"] = count_classes(experiment.train, experiment.outputs).tolist()
    return {
        "format": FORMAT,
        "config": run.config_digest(),
        "settings": run.settings,
        "preprocessing": {name: dict(statistics) for name, statistics in experiment.preprocessing.items()},
        "encoding": encoding,
        **({} if experiment.teacher is None else {"teacher": dict(experiment.teacher.record)}),
    }


def capture_state(training: TrainState, i: int) -> dict[str, Any]:
    """Return all of the state of training that lane i needs to resume from here with the same bits."""
    known = {} if training.known_gradient is None else {"knows_gradient": True}
    return {
        "step": training.step,
        "evaluations": training.problem.evaluations,
        "model": model_state_dict(training, training.w, training.problem.running, i),
        "state": to_plain(training.state, i, training.solo),
        "average": to_plain(training.average, i, training.solo),
        **known,
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
    expected = {name: tuple(x.shape) for name, x in network.state_dict().items()}

    def describe(shape: tuple[int, ...] | None) -> str:
        return "is not there" if shape is None else f"has shape {shape}"

    for name in [*expected, *saved]:
        a, b = saved.get(name), expected.get(name)
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
    """Restore the state of a single run that `capture_state` returned."""
    training.step = content["step"]
    training.problem.evaluations = content["evaluations"]
    load_weights(training, training.w, training.problem.running, content["model"])
    training.state = from_plain(training.state, content["state"], training.device)
    training.average = from_plain(training.average, content["average"], training.device)
    training.histories = [History(decode_evaluations(content), training.histories[0].directions)]
    if content.get("knows_gradient"):
        training.evaluate_known_gradient()


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
    """Return the state that `to_plain` made plain, in the classes of a fresh state."""
    if hasattr(like, "load_state_dict"):
        like.load_state_dict(content)
        return like
    if hasattr(like, "_fields"):
        return type(like)(*(from_plain(v, content[k], device) for k, v in like._asdict().items()))
    if isinstance(content, Mapping):
        entries = like if isinstance(like, Mapping) else {}
        return {k: from_plain(entries.get(k), v, device) for k, v in content.items()}
    if isinstance(content, (tuple, list)):
        items = like if isinstance(like, (tuple, list)) else [None] * len(content)
        return type(content)(from_plain(a, b, device) for a, b in zip(items, content, strict=True))
    both = isinstance(like, Tensor) and isinstance(content, Tensor)
    if both and like.numel() and like.shape != content.shape:  # a state that starts empty may have any shape
        raise ValueError(f"it holds a tensor of shape {tuple(content.shape)} for one of {tuple(like.shape)}")
    if isinstance(like, int) and type(content) is not type(like):
        raise ValueError(f"it holds {content!r} for a whole number")
    return content.to(device) if isinstance(content, Tensor) else content


def _copy_lane(x: Tensor, i: int, solo: bool) -> Tensor:
    """Return a copy of one lane's part in its own memory; a slice would save all lanes."""
    return (x if solo or x.ndim == 0 else x[i]).detach().clone()


# ------------------------------------------------------------------------------------------- saving


class AveragedWeights(NamedTuple):
    """Averaged weights, (..., P), and the running statistics that belong to them."""

    w: Tensor
    running: Mapping[str, Tensor]


class CheckpointSaver:
    """Writes the checkpoints of one run or of E lanes, and holds their best weights on the device."""

    def __init__(self, training: TrainState) -> None:
        self.training = training
        self.best_w = training.w.clone()
        self.best_running = {name: b.clone() for name, b in training.problem.running.items()}
        self._last = time.monotonic()

    def is_due(self, step: int) -> bool:
        """Return whether the last checkpoint is due after this step; it is always written at the end of a run."""
        settings = self.training.settings.checkpoint
        if step >= self.training.steps:
            return False
        if settings.every is not None and step % settings.every == 0:
            return True
        return settings.minutes is not None and time.monotonic() - self._last >= 60 * settings.minutes

    def update_best(self, lanes: Sequence[Lane], which: Sequence[int], averaged: AveragedWeights | None) -> None:
        """Take the averaged weights of these lanes, or None: their current iterates, as their best so far."""
        t = self.training
        w, running = averaged or (t.w, t.problem.running)
        at = slice(None) if t.solo else torch.tensor(which, device=t.device)
        self.best_w[at] = w[at]
        for name, b in running.items():
            self.best_running[name][at] = b[at]
        for i in which:
            lanes[i].has_unsaved_best = True
        self.save_best(lanes, [i for i in which if time.perf_counter() - lanes[i].best_saved_at >= BEST_EVERY])

    def save_best(self, lanes: Sequence[Lane], which: Sequence[int], *, lasting: bool = True) -> None:
        """Write the best checkpoint of these lanes if it has changed; lasting as in RunWriter.save."""
        for i in which:
            lane = lanes[i]
            if lane.has_unsaved_best:
                assert lane.best is not None
                content = {"step": lane.best["step"], "model": drop_regressor(self._best(i))}
                lane.run.save("best", make_header(lane.experiment, lane.run) | content, lasting=lasting)
                lane.best_saved_at = time.perf_counter()
                lane.has_unsaved_best = False

    def save_average(self, lane: Lane, i: int, averaged: AveragedWeights) -> None:
        """Write the averaged weights of lane i at its end."""
        model = drop_regressor(model_state_dict(self.training, averaged.w, averaged.running, i))
        content = make_header(lane.experiment, lane.run) | {"step": self.training.step, "model": model}
        lane.run.save("average", content)

    def save(self, lanes: Sequence[Lane], which: Sequence[int], records: Sequence[Mapping[str, Any]]) -> None:
        """Write the last checkpoint of these lanes, each with its record from the recorder, and their best.

        Logged rows reach the disk before a checkpoint that counts them.
        """
        self.save_best(lanes, which, lasting=False)
        for i, record in zip(which, records, strict=True):
            lane = lanes[i]
            state = capture_state(self.training, i) | {"best": self._best(i), **lane.content(), **record}
            content = make_header(lane.experiment, lane.run) | {"logged": lane.run.flush()} | state
            lane.run.save("last", content, keep=self.training.settings.checkpoint.keep)
        self._last = time.monotonic()

    def restore(self, lane: Lane, content: Mapping[str, Any]) -> None:
        """Restore the evaluations and the best weights of a single run whose training state is restored already.

        Files of best and averaged weights may be of later steps than the checkpoint: they are replaced or removed.
        """
        lane.restore(content, self.training.histories[0])
        lane.run.checkpoint("average").unlink(missing_ok=True)
        if lane.best is None:
            lane.run.checkpoint("best").unlink(missing_ok=True)
            return
        load_weights(self.training, self.best_w, self.best_running, content["best"])
        lane.has_unsaved_best = True
        self.save_best([lane], [0])

    def select_lanes(self, stay: Tensor) -> None:
        """Keep only these lanes, given by their indices."""
        count = self.training.count
        self.best_w, self.best_running = select_lanes((self.best_w, self.best_running), stay, count)

    def _best(self, i: int) -> dict[str, Tensor]:
        return model_state_dict(self.training, self.best_w, self.best_running, i)
