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


class Grid(NamedTuple):
    """Values f, (y, x), at the points of the axes x and y."""

    x: Tensor
    y: Tensor
    f: Tensor


def make_grid(experiment: Experiment, landmarks: Landmarks, tracks: Sequence[Track]) -> Grid | None:
    """Return the values on the box of the surface, widened to hold all starts; None unless there are two weights.

    The box of a function without one holds the middle 90% of the points of the paths.
    """
    if len(experiment.w) != 2:
        return None
    if landmarks.box is None:
        points = torch.cat([track.w for track in tracks])
        inner = torch.quantile(points[points.isfinite().all(-1)], torch.tensor([0.05, 0.95], dtype=points.dtype), dim=0)
    else:
        inner = torch.tensor(landmarks.box, dtype=torch.float64).T
    starts = torch.stack([track.w[0] for track in tracks])
    margin = MARGIN * (inner[1] - inner[0]).clamp_min(1e-3)
    first, last = starts.amin(0), starts.amax(0)
    low = torch.where(first < inner[0], first - margin, inner[0])
    high = torch.where(last > inner[1], last + margin, inner[1])
    x, y = (
        torch.linspace(*ends, POINTS, dtype=torch.float64) for ends in zip(low.tolist(), high.tolist(), strict=True)
    )
    return Grid(x, y, evaluate_points(experiment, torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)))
