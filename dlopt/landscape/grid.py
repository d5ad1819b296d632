"""The values of a function of two weights on a grid, for contours."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from dlopt.landscape.race import Landmarks, Track, evaluate_points
from dlopt.training.experiment import Experiment

POINTS = 241
"""Points along each axis."""
MARGIN = 0.08
"""Room around the box for starts outside of it, as a fraction of its sides."""


class ContourGrid(NamedTuple):
    """Values f, (y, x), at the points of the axes x and y."""

    x: Tensor
    y: Tensor
    f: Tensor


def make_grid(experiment: Experiment, landmarks: Landmarks, tracks: Sequence[Track]) -> ContourGrid | None:
    """Return the values on the box of the surface, widened to hold all starts; None unless there are two weights.

    The box of a function without one holds the middle 90% of the points of the paths, and the ends of those that have
    gone down.
    """
    if len(experiment.w) != 2:
        return None
    low, high = _choose_box(landmarks, tracks)
    x, y = (
        torch.linspace(*ends, POINTS, dtype=torch.float64) for ends in zip(low.tolist(), high.tolist(), strict=True)
    )
    return ContourGrid(x, y, evaluate_points(experiment, torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)))


def _choose_box(landmarks: Landmarks, tracks: Sequence[Track]) -> tuple[Tensor, Tensor]:
    """Return the lower left and the upper right corner of the picture."""
    starts = torch.stack([track.w[0] for track in tracks])
    if landmarks.box is not None:
        inner = torch.tensor(landmarks.box, dtype=torch.float64).T
        margin = MARGIN * (inner[1] - inner[0])
        first, last = starts.amin(0), starts.amax(0)
        low = torch.where(first < inner[0], first - margin, inner[0])
        return low, torch.where(last > inner[1], last + margin, inner[1])
    points = torch.cat([track.w for track in tracks])
    middle = torch.quantile(points[points.isfinite().all(-1)], torch.tensor([0.05, 0.95], dtype=points.dtype), dim=0)
    ends = [t.w[-1] for t in tracks if t.ending in ("steps", "still") and t.f[-1] <= t.f[0]]
    held = torch.stack([*starts, *middle, *ends])
    margin = MARGIN * (held.amax(0) - held.amin(0)).clamp_min(1e-3)
    return held.amin(0) - margin, held.amax(0) + margin
