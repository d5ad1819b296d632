"""Loss and metrics on a grid of weights around those of a run, in one or two dimensions."""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt import __version__
from dlopt.landscape.directions import Projection
from dlopt.storage import atomic, checkpoint_file
from dlopt.training.batches import Examples
from dlopt.training.evaluation import evaluate, recompute_statistics
from dlopt.training.inference import Predictor

SAVE_EVERY = 2.0
"""Seconds between two writes of the file with the points that are done."""


class Mark(NamedTuple):
    """A point of a slice with a name."""

    label: str
    coordinates: tuple[float, ...]


class TrajectoryPath(NamedTuple):
    """The projection of the points of a run after these steps."""

    steps: list[int]
    points: Projection


@dataclass(frozen=True)
class Slice:
    """The weights w(a) = center + sum over i of a_i directions_i, on a grid.

    center       (P,)
    directions   (D, P), D = 1 or 2
    axes         for each direction the coordinates of the grid, ascending
    labels       what each direction is
    marks        points to name in a picture
    path         the run's trajectory
    is_metric    whether the directions are orthonormal, so that distances can be read from both axes
    """

    center: Tensor
    directions: Tensor
    axes: tuple[Tensor, ...]
    labels: tuple[str, ...]
    marks: tuple[Mark, ...] = ()
    path: TrajectoryPath | None = None
    is_metric: bool = False

    def coordinates(self) -> Tensor:
        """Return the coordinates of all points of the grid, (N, D); the first one changes fastest."""
        return torch.cartesian_prod(*self.axes[::-1]).view(-1, len(self.axes)).flip(-1)

    def weights(self, coordinates: Tensor) -> Tensor:
        """Return w(a), (P,), for coordinates (D,)."""
        at = coordinates.to(self.center)
        return self.center + at @ self.directions


@dataclass(frozen=True)
class SliceEvaluator:
    """Evaluates the network of a predictor at any weights, on examples.

    statistics   examples over which the statistics of batch normalization are computed again at each point; None: those
                 that are stored with the loaded weights
    identity     the digest of what else the values depend on, such as activations: that of the run's configuration
    """

    predictor: Predictor
    examples: Examples
    statistics: Examples | None = None
    identity: str = ""
    _stored: dict[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._stored.update({name: b.clone() for name, b in self.predictor.problem.running.items()})

    def measure(self, w: Tensor) -> dict[str, float]:
        """Return loss and metrics at w, (P,), without penalties.

        The network is evaluated in the memory of its own parameters, one point after another: on one core this takes a
        quarter of the time of lanes, for the mnist1d CNN (measured).
        """
        problem, bound = self.predictor.problem, self.predictor.w
        bound.copy_(w)
        if self.statistics is not None:
            for name, value in recompute_statistics(problem, bound, self.statistics).items():
                problem.running[name].copy_(value)
        metrics = evaluate(problem, bound, self.examples)
        names, values = list(metrics), torch.stack([value.to(bound.dtype) for value in metrics.values()])
        return dict(zip(names, values.tolist(), strict=True))

    def choose_threads(self) -> None:
        """Set the number of torch's threads to one if this is faster: more slow down small networks."""
        seconds: dict[int, float] = {}
        w = self.predictor.w.clone()
        for threads in dict.fromkeys((torch.get_num_threads(), 1)):
            torch.set_num_threads(threads)
            for _ in range(2):  # the first evaluation starts threads
                start = time.perf_counter()
                self.measure(w)
                seconds[threads] = time.perf_counter() - start
        self.restore(w)
        torch.set_num_threads(min(seconds, key=lambda threads: seconds[threads]))

    def restore(self, w: Tensor) -> None:
        """Load w and the stored statistics again."""
        self.predictor.w.copy_(w)
        for name, value in self._stored.items():
            self.predictor.problem.running[name].copy_(value)

    def digest(self, grid: Slice) -> str:
        """Return the SHA-256 of everything that the values on a grid depend on."""
        inputs = [grid.center, grid.directions, *grid.axes, *self._stored.values(), *self.examples.all()]
        inputs += self.statistics.all() if self.statistics is not None else ()
        problem = self.predictor.problem
        facts = (self.identity, self.predictor.loss, problem.autocast, self.statistics is None, self.predictor.device)
        digest = hashlib.sha256(repr((*facts, __version__, torch.__version__)).encode())
        for tensor in inputs:
            digest.update(str((tensor.dtype, tuple(tensor.shape))).encode())
            digest.update(tensor.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def evaluate_slice(
    evaluator: SliceEvaluator, grid: Slice, partial: Path, advance: Callable[[int], None]
) -> dict[str, Tensor]:
    """Return loss and metrics at the points of a grid, each (N,), in the order of `Slice.coordinates`.

    partial    file of the points that are done, which continues an evaluation of the same grid that was killed; it is
               the caller's to remove
    advance    is called with the number of points that are done
    """
    digest = evaluator.digest(grid)
    rows, names = _load_partial(partial, digest)
    coordinates = grid.coordinates()
    if rows and (names != list(evaluator.measure(grid.center)) or len(rows) > len(coordinates)):
        rows = []  # of a run from someone else
    advance(len(rows))
    saved = time.monotonic()
    try:
        for at in coordinates[len(rows) :]:
            metrics = evaluator.measure(grid.weights(at))
            names = list(metrics)
            rows.append(list(metrics.values()))
            advance(1)
            if time.monotonic() - saved >= SAVE_EVERY:
                _save_partial(partial, digest, rows, names)
                saved = time.monotonic()
    finally:
        evaluator.restore(grid.center)
    columns = torch.tensor(rows, dtype=torch.float64).unbind(1)
    return dict(zip(names, columns, strict=True))


def _load_partial(file: Path, digest: str) -> tuple[list[list[float]], list[str]]:
    """Return the values of the points that are done, and the names of the metrics."""
    with contextlib.suppress(OSError, ValueError, KeyError, AttributeError, TypeError):
        content = checkpoint_file.load(file, links=False)
        values, names = content["values"], content["names"]
        if content["digest"] == digest and values.shape == (len(values), len(names)) and values.is_floating_point():
            return values.tolist(), names
    return [], []


def _save_partial(file: Path, digest: str, rows: list[list[float]], names: list[str]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"digest": digest, "names": names, "values": torch.tensor(rows, dtype=torch.float64)}
    with atomic.atomic_write(file, lasting=False) as stream:
        checkpoint_file.write(stream, content)
