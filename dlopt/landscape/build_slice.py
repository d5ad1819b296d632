"""Slices through the weights of a run: random, principal or Hessian directions, and the space between runs."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dlopt import prng
from dlopt.landscape.curvature import SplitCurvature
from dlopt.landscape.directions import SliceError, draw_direction, find_principal_directions, project, span_plane
from dlopt.landscape.slices import Mark, Slice, TrajectoryPath
from dlopt.landscape.trajectories import WeightTrajectory
from dlopt.linalg.lanczos import tridiagonalize
from dlopt.training.inference import Predictor

LANCZOS_STEPS = 40
"""Products with the Hessian for its largest eigenvectors."""
MARGIN = 0.25
"""Room around the points of a path or a plane, as a fraction of their extent."""
LINE = (-0.5, 1.5)
"""The part of the line between two runs: they lie at 0 and 1."""


def slice_at_random(predictor: Predictor, dims: int, points: int, extent: float, seed: int) -> Slice:
    """Return a slice along filter-normalized random directions, from -extent to extent.

    Raises SliceError if the network has no filters, or they are all zero.
    """
    w, layout = predictor.w.clone(), predictor.problem.layout
    directions = [draw_direction(layout, w, prng.key(seed, "landscape", i)) for i in range(dims)]
    if not directions[0].any():
        missing = "the network has no matrices or kernels other than zero, whose norms random directions take"
        raise SliceError(f"{missing}; use eigenvectors or pca")
    labels = tuple(f"random direction {i + 1}, filter-normalized" for i in range(dims))
    axis = _center_axis(points, extent)
    return Slice(w, torch.stack(directions), (axis,) * dims, labels)


def slice_along_trajectory(
    predictor: Predictor, trajectory: WeightTrajectory, dims: int, points: int, extent: float
) -> Slice:
    """Return a slice along the principal components of a trajectory, which it covers.

    Raises SliceError if the trajectory spans fewer dimensions.
    """
    w = predictor.w.clone()
    found = find_principal_directions(trajectory.points, dims)
    path = TrajectoryPath(trajectory.steps, project(trajectory.points, w, found.directions))
    shares = found.shares.tolist()
    labels = tuple(f"principal component {i + 1} ({share:.1%} of the variance)" for i, share in enumerate(shares))
    axes = _cover(torch.cat([path.points.coordinates, torch.zeros(1, dims).double()]), points, extent)
    return Slice(w, found.directions, axes, labels, (), path, is_metric=True)


def count_products(predictor: Predictor) -> int:
    """Return the number of products with the Hessian that `slice_along_eigenvectors` takes."""
    return min(LANCZOS_STEPS, len(predictor.w))


def slice_along_eigenvectors(
    predictor: Predictor, curvature: SplitCurvature, dims: int, points: int, extent: float
) -> Slice:
    """Return a slice along the eigenvectors of the largest eigenvalues of a Hessian, from -extent to extent.

    Raises SliceError if there are fewer eigenvectors.
    """
    w = predictor.w.clone()
    if len(w) < dims:
        raise SliceError(f"the network has only {len(w)} weight: use --dims 1")
    start = prng.normal(prng.key(0, "eigenvectors"), (len(w),), w.device).to(w.dtype)
    pairs = tridiagonalize(curvature.multiply, start, LANCZOS_STEPS).ritz_pairs()
    top = pairs.values.argsort(descending=True)[:dims]
    rounding = torch.finfo(w.dtype).eps * pairs.values.abs().max()
    numbers = zip(pairs.values[top].tolist(), pairs.residuals[top].clamp(min=rounding).tolist(), strict=True)
    labels = tuple(
        f"eigenvector {i} (eigenvalue {value:.4g}, residual {residual:.1e})"
        for i, (value, residual) in enumerate(numbers, 1)
    )
    axis = _center_axis(points, extent)
    return Slice(w, pairs.vectors[top], (axis,) * dims, labels, is_metric=True)


def slice_between(
    predictor: Predictor, others: Sequence[Tensor], names: Sequence[str], points: int, extent: float
) -> Slice:
    """Return the line from a run to another one, or the plane through it and two others; names has one for each.

    Raises SliceError if two of the points are equal, or three lie on a line.
    """
    w = predictor.w.clone()
    if any(torch.equal(w, other) for other in others):
        raise SliceError("the runs have the same weights: name another run, or another --to-checkpoint")
    if len(others) == 1:
        low, high = (0.5 + extent * (end - 0.5) for end in LINE)
        axis = torch.linspace(low, high, points, dtype=torch.float64)
        if axis[1] - axis[0] < 1 <= high:  # the points that are nearest to the runs become the runs themselves
            for run in (0.0, 1.0):
                axis[(axis - run).abs().argmin()] = run
        ends = (Mark(names[0], (0.0,)), Mark(names[1], (1.0,)))
        return Slice(w, (others[0] - w).unsqueeze(0), (axis,), (f"from {names[0]} to {names[1]}",), ends)
    directions = span_plane(w, others[0], others[1])
    at = project(torch.stack([w, *others]), w, directions).coordinates
    marks = tuple(Mark(name, tuple(a)) for name, a in zip(names, at.tolist(), strict=True))
    labels = (f"distance along the line from {names[0]} to {names[1]}", "distance from this line")
    return Slice(w, directions, _cover(at, points, extent), labels, marks, is_metric=True)


def _center_axis(points: int, extent: float) -> Tensor:
    """Return coordinates from -extent to extent; with an odd number of points, the middle one is zero itself."""
    return extent * (2 * torch.arange(points, dtype=torch.float64) - (points - 1)) / (points - 1)


def _cover(coordinates: Tensor, points: int, extent: float) -> tuple[Tensor, ...]:
    """Return axes that cover points (n, D) with a margin; `extent` stretches them around their middle."""
    low, high = coordinates.amin(0), coordinates.amax(0)
    middle = (low + high) / 2
    half = extent * torch.maximum((0.5 + MARGIN) * (high - low), 0.1 * (high - low).max())
    return tuple(
        torch.linspace(a, b, points, dtype=torch.float64)
        for a, b in zip((middle - half).tolist(), (middle + half).tolist(), strict=True)
    )
