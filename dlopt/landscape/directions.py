"""Directions of a slice through the weights, and points of weight space in the coordinates of a slice."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.prng import Key


class SliceError(ValueError):
    """There is no slice of the wanted kind through these weights."""


class Projection(NamedTuple):
    """Points (n, P) in a slice: their coordinates (n, D), and their distances (n,) from it and from its center."""

    coordinates: Tensor
    outside: Tensor
    distance: Tensor

    @property
    def error(self) -> Tensor:
        """Return the relative projection error, (n,): outside / distance, from 0 in the slice to 1; 0 at the center."""
        return torch.where(self.distance > 0, self.outside / self.distance, 0.0)


def draw_direction(layout: Layout, w: Tensor, key: Key) -> Tensor:
    """Return a random direction, (P,), with the filter norms of the weights w; zero at biases and normalizations.

        d_ij <- (d_ij / |d_ij|) |w_ij|,   d_ij: filter j of layer i, normal before

    A filter is what one unit of a layer is given: a row of a matrix, or a kernel with all of its input channels. Then
    slices of networks whose weights differ in scale, but compute the same function, can be compared.

    Source: Li, Xu, Taylor, Studer and Goldstein 2018, Visualizing the loss landscape of neural nets, section 4.
    """
    d = torch.zeros_like(w)
    for p in layout:
        if p.kind != "weight":
            continue
        normal = prng.normal(prng.fold_in(key, p.name), (p.size,), w.device).to(w.dtype)
        norms = [p.split_units(x).norm(dim=(-3, -1), keepdim=True) for x in (w[p.slice], normal)]
        d[p.slice] = (p.split_units(normal) * (norms[0] / norms[1])).reshape(-1)
    return d


class PrincipalDirections(NamedTuple):
    """Orthonormal directions (D, P), and the share of the variance along each, (D,)."""

    directions: Tensor
    shares: Tensor


def find_principal_directions(points: Tensor, count: int) -> PrincipalDirections:
    """Return the directions of the largest variance of points, (n, P), n much smaller than P.

    They come from the (n, n) matrix of inner products, in float64. The last point lies in the positive half of each
    direction. Raises SliceError if the points span fewer directions.
    """
    x = points.double()
    x = x - x.mean(0)
    values, vectors = torch.linalg.eigh(x @ x.mT)
    values, vectors = values.flip(0).clamp(min=0.0), vectors.flip(1)
    rank = int((values > len(x) * torch.finfo(points.dtype).eps ** 2 * points.double().square().sum()).sum())
    if rank < count:
        which = "1 point, which spans" if len(points) == 1 else f"{len(points)} points, which span"
        raise SliceError(f"{which} {rank} dimension{'s' * (rank != 1)}")
    directions = vectors[:, :count].mT @ x / values[:count].sqrt().unsqueeze(-1)
    signs = torch.where((directions @ x[-1]) < 0, -1.0, 1.0)
    return PrincipalDirections((directions * signs.unsqueeze(-1)).to(points.dtype), values[:count] / values.sum())


def span_plane(a: Tensor, b: Tensor, c: Tensor) -> Tensor:
    """Return orthonormal directions, (2, P), of the plane through three points; the first one leads from a to b.

    Raises SliceError if the points lie on a line.

    Source: Garipov, Izmailov, Podoprikhin, Vetrov and Wilson 2018, Loss surfaces, mode connectivity, and fast
    ensembling of DNNs, appendix A.3.
    """
    u, v = b - a, c - a
    u = u / u.norm()
    rest = v - (v @ u) * u
    rest = rest - (rest @ u) * u
    if not rest.norm() > 1e-5 * v.norm():
        raise SliceError("the three points lie on a line")
    return torch.stack([u, rest / rest.norm()])


def project(points: Tensor, center: Tensor, directions: Tensor) -> Projection:
    """Return points, (n, P), in coordinates of the slice center + span(directions), by least squares in float64."""
    x, d = (points - center).double(), directions.double()
    coordinates = torch.linalg.solve(d @ d.mT, d @ x.mT).mT
    return Projection(coordinates.cpu(), (x - coordinates @ d).norm(dim=-1).cpu(), x.norm(dim=-1).cpu())
