"""Races of optimizers on a surface: the path of each optimizer from each start, and where it ended."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt import prng
from dlopt.arch.surface import Surface
from dlopt.base import dotted_fields
from dlopt.base.layout import Layout
from dlopt.base.optimizer import Optimizer, Step
from dlopt.config.problems import ConfigError
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.training.experiment import Experiment
from dlopt.training.loop import set_torch_switches, step
from dlopt.training.state import TrainState

TOLERANCE = 1e-6
"""A path has converged if f - f* is at most this."""
STILL = 1e-10
"""A path ends at a step in which neither the gradient nor the change of w is longer than this."""
FAR = 1e3
"""A path ends farther from the origin than this many diagonals of the picture."""
NEAR = 0.01
"""A path has stopped at a saddle point that is nearer than this fraction of the diagonal of the picture."""
FLAT = 1e-3
"""... if its gradient is shorter than this fraction of the gradient at the start."""

Ending = Literal["steps", "still", "far", "infinite"]
"""Why a path has ended: after all steps, at rest, far away, or before a point at which w or f is not finite."""


class Track(NamedTuple):
    """The path of an optimizer from one start, over t steps, in float64.

    w             iterates, (t + 1, P)
    f             their values, (t + 1,)
    evaluations   values, gradients and Hessian products up to each iterate, (t + 1,); a dense Hessian is P products
    flatness      norm of the last gradient over the norm of the first
    ending        why it has ended
    """

    w: Tensor
    f: Tensor
    evaluations: Tensor
    flatness: float
    ending: Ending


class TrackResult(NamedTuple):
    """The end of a path.

    status        one of STATUSES
    steps         first step from which f - f* <= TOLERANCE holds to the end; None: there is none, or f* is unknown
    evaluations   evaluations to that step
    f             f - f* at the end, or f if f* is unknown
    distance      Euclidean distance from the end to the nearest known minimum; None: none is known
    """

    status: str
    steps: int | None
    evaluations: int | None
    f: float
    distance: float | None


@dataclass(frozen=True)
class Landmarks:
    """What is known of a surface: minima (M, P) and their value f*, saddle points (S, P), and the box of a picture."""

    minima: Tensor
    minimum: float | None
    saddles: Tensor
    box: tuple[tuple[float, float], tuple[float, float]] | None

    @property
    def diagonal(self) -> float:
        """Return the length of the diagonal of the picture; infinite if there is no box."""
        return math.inf if self.box is None else math.dist(*zip(*self.box, strict=True))

    @classmethod
    def of(cls, experiment: Experiment) -> Landmarks:
        """Return the landmarks of the function that an experiment minimizes; a custom one has none."""
        size = len(experiment.w)
        if not isinstance(experiment.model, Surface):
            return cls(torch.zeros(0, size), None, torch.zeros(0, size), None)
        known = experiment.model.surface
        points = (torch.tensor(p, dtype=torch.float64).reshape(-1, size) for p in (known.minima, known.saddles))
        minima, saddles = points
        return cls(minima, known.minimum, saddles, known.box)


def sample_starts(experiment: Experiment, count: int) -> Tensor:
    """Return starting points, (count, P): that of the experiment, then uniform ones in the box, drawn by its seed."""
    box = Landmarks.of(experiment).box
    size = len(experiment.w)
    if box is None:
        low, high = experiment.w - 2, experiment.w + 2
    else:
        low, high = torch.tensor([box[min(i, 1)] for i in range(size)], dtype=torch.float64).T
    generator = prng.generator(prng.key(experiment.settings.seed, "starts"))
    points = low + (high - low) * torch.rand(count - 1, size, generator=generator, dtype=torch.float64)
    return torch.cat([experiment.w.double().unsqueeze(0), points])


def check_starts(experiment: Experiment, starts: Tensor) -> None:
    """Raise ConfigError if f is not finite at a starting point; the first one is that of the experiment."""
    values = evaluate_points(experiment, starts)
    wrong = (~values.isfinite()).nonzero().flatten().tolist()
    if not wrong:
        return
    i = wrong[0]
    message = f"the surface is {values[i]:g} at the start [{', '.join(f'{x:.4g}' for x in starts[i].tolist())}]"
    if i:
        raise ConfigError([("--starts", f"{message}, which is random: leave it out, or try another seed=")])
    if isinstance(experiment.model, Surface):
        raise ConfigError([("start", f"{message}: start at a point where it is finite, such as start=[0.5,0.5]")])
    raise ConfigError([("surface", f"{message}: start at a point where it is finite, by the values of its parameters")])


def run_tracks(experiments: Sequence[Experiment]) -> list[Track]:
    """Run experiments that differ in starts and hyperparameters only: in lanes, or else one by one.

    An optimizer that decides on the host how often it evaluates, such as in a line search, runs one by one: lanes would
    count the evaluations of all of them.
    """
    optimizer = experiments[0].optimizer
    if len(experiments) > 1 and (optimizer.decides_on_host or not optimizer.lanes):
        return [track for experiment in experiments for track in run_tracks([experiment])]
    with set_torch_switches(1, deterministic=False):
        training = TrainState(experiments)
        tape = _Tape(training)
        while training.step < training.steps and len(tape.lanes):
            step(training, tape)
            tape.end_lanes()
        return tape.finish()


class _Tape:
    """Records the iterates of a run or of lanes, as the observer of its steps; lanes that have ended leave."""

    def __init__(self, training: TrainState) -> None:
        self.training = training
        self.lanes = torch.arange(training.count)
        self.limit = FAR * Landmarks.of(training.first).diagonal
        self.w = torch.full((training.count, training.steps + 1, training.w.shape[-1]), torch.nan, dtype=torch.float64)
        self.w[:, 0] = training.w
        self.evaluations = torch.zeros(training.steps + 1, dtype=torch.int64)
        self.slopes = torch.full((2, training.count), torch.nan, dtype=torch.float64)
        self.ends: list[tuple[int, Ending]] = [(training.steps, "steps")] * training.count

    def diagnostics_due(self) -> bool:
        return False

    def measure(
        self, objective: MiniBatchObjective, result: Step, before: Tensor, targets: Tensor, optimizer: Optimizer
    ) -> None:
        """Record the iterate after a step, and the length of the gradient before it."""
        t = self.training.step
        self.w[self.lanes, t + 1] = self.training.w
        self.evaluations[t + 1] = self.training.problem.evaluations
        self.slopes[int(t > 0), self.lanes] = result.gradient.norm(dim=-1)

    def end_lanes(self) -> None:
        """Let lanes leave that have ended with the last step."""
        t = self.training.step
        w, before = self.w[self.lanes, t], self.w[self.lanes, t - 1]
        length = w.norm(dim=-1)  # not finite if w is not
        still = ((w - before).norm(dim=-1) <= STILL) & (self.slopes[int(t > 1), self.lanes] <= STILL)
        stay = (length <= self.limit) & length.isfinite() & ~still
        if stay.all():
            return
        for i in (~stay).nonzero().flatten().tolist():
            ending: Ending = "still" if still[i] else "far" if length[i].isfinite() else "infinite"
            self.ends[int(self.lanes[i])] = (t - (ending == "infinite"), ending)
        self.lanes = self.lanes[stay]
        if len(self.lanes):
            self.training.select_lanes(stay.nonzero().flatten())

    def finish(self) -> list[Track]:
        """Return the paths, with f at every iterate, which is not counted."""
        values = evaluate_points(self.training.first, self.w)
        for i, (t, _) in enumerate(self.ends):
            wild = (~values[i, : t + 1].isfinite()).nonzero()
            if len(wild):  # after the start, which check_starts has checked
                self.ends[i] = (max(int(wild[0]) - 1, 0), "infinite")
        flatness = (self.slopes[1] / self.slopes[0]).tolist()
        return [
            Track(self.w[i, : t + 1], values[i, : t + 1], self.evaluations[: t + 1], flatness[i], ending)
            for i, (t, ending) in enumerate(self.ends)
        ]


def evaluate_points(experiment: Experiment, w: Tensor) -> Tensor:
    """Return f at points w, (..., P), as (...), in float64."""
    if isinstance(experiment.model, Surface):  # no torch.func, which takes a second to import
        return experiment.model.surface.formula(w)
    model = copy.deepcopy(experiment.model).double()
    layout = Layout.of(model)

    def call(point: Tensor) -> Tensor:
        outputs: Tensor = torch.func.functional_call(model, layout.views(point), (point.new_zeros(1, 0),))
        return outputs.squeeze()

    with torch.no_grad():
        return torch.func.vmap(call)(w.double().reshape(-1, w.shape[-1])).reshape(w.shape[:-1])


def start_at(experiment: Experiment, starts: Tensor, **fields: Any) -> list[Experiment]:
    """Return the experiment from each starting point, (S, P), with other fields replaced."""
    return [dataclasses.replace(experiment, w=point, **fields) for point in starts]


def has_no_minimum(experiment: Experiment) -> bool:
    """Return whether the function is known not to be bounded below."""
    return isinstance(experiment.model, Surface) and experiment.model.surface.minimum is None


def find_lr(experiment: Experiment) -> float | None:
    """Return the learning rate of an experiment's optimizer; None if it has none."""
    path = dotted_fields.find_field(experiment.optimizer, "lr")
    return None if path is None else float(dotted_fields.get_field(experiment.optimizer, path))


def judge(track: Track, landmarks: Landmarks) -> TrackResult:
    """Return where a path has ended."""
    w, f = track.w[-1], track.f[-1].item()
    gap = f - (landmarks.minimum or 0.0)
    steps = None
    if landmarks.minimum is not None and track.ending != "infinite":
        above = (~(track.f - landmarks.minimum <= TOLERANCE)).nonzero()
        first = int(above[-1]) + 1 if len(above) else 0
        steps = first if first < len(track.f) else None
    distance = _nearest(w, landmarks.minima)
    evaluations = None if steps is None else int(track.evaluations[steps])
    return TrackResult(_name_status(track, landmarks, gap), steps, evaluations, gap, distance)


def _name_status(track: Track, landmarks: Landmarks, gap: float) -> str:
    if landmarks.minimum is not None and gap <= TOLERANCE and track.ending != "infinite":
        return "converged"
    distance = _nearest(track.w[-1], landmarks.saddles)
    is_near = distance is not None and distance <= NEAR * landmarks.diagonal
    if is_near and (track.flatness <= FLAT or track.ending == "still"):
        return "at a saddle point"
    if distance is not None and not is_near and landmarks.minimum is None and track.f[-1] < 0:
        return "left the saddle"
    if track.ending == "steps":
        return "growing" if track.f[-1] > track.f[0] else "not converged"
    return "at rest" if track.ending == "still" else "diverged"


def _nearest(w: Tensor, points: Tensor) -> float | None:
    return float((points - w).norm(dim=-1).min()) if len(points) else None
