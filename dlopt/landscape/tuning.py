"""The best learning rate of an optimizer on a surface, on a fixed budget."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

from torch import Tensor

from dlopt.base import dotted_fields
from dlopt.landscape.budget import CANDIDATES, LearningRateRange
from dlopt.landscape.race import Landmarks, Track, TrackResult, judge, run_tracks, start_at
from dlopt.training.experiment import Experiment


def tune(
    experiment: Experiment, starts: Tensor, landmarks: Landmarks, tuned: LearningRateRange
) -> tuple[float | None, list[Track]]:
    """Return the best learning rate of a range, and the paths with it; None if the optimizer has no learning rate.

    Every candidate runs from every start for all steps of the race, in lanes if the optimizer allows them and they
    count its evaluations.
    """
    path = dotted_fields.find_field(experiment.optimizer, "lr")
    if path is None:
        return None, run_tracks(start_at(experiment, starts))
    lrs = tuned.spread(CANDIDATES)
    optimizers = [dotted_fields.replace_fields(experiment.optimizer, {path: lr}) for lr in lrs]
    entrants = [e for optimizer in optimizers for e in start_at(experiment, starts, optimizer=optimizer)]
    tracks = run_tracks(entrants)
    groups = [tracks[i : i + len(starts)] for i in range(0, len(tracks), len(starts))]
    scores = [_score([judge(track, landmarks) for track in group]) for group in groups]
    best = scores.index(min(scores))
    return lrs[best], groups[best]


def _score(outcomes: Sequence[TrackResult]) -> tuple[int, float, float]:
    """Return what CRITERION says of the outcomes from all starts; smaller is better."""
    reached = [o.evaluations for o in outcomes if o.evaluations is not None]
    ends = [math.inf if o.status == "diverged" else o.f for o in outcomes]
    return -len(reached), statistics.fmean(reached) if reached else math.inf, statistics.median(ends)
