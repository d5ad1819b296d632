"""A test surface: a function of the weights themselves."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from torch import Tensor, nn

from dlopt.arch._surfaces import SurfaceName, make_surface, quadratic_form
from dlopt.errors import OptionError
from dlopt.ranges import NonNegative, Range


class Surface(nn.Module):
    """A function f(w) of a few weights w, without data: the surfaces on which optimizers are raced.

    With w = (x, y), and f = 0 at the minima unless said otherwise:

        beale = (1.5 - x + xy)^2 + (2.25 - x + xy^2)^2 + (2.625 - x + xy^3)^2
            minimum at (3, 0.5)
        rosenbrock = (1 - x)^2 + 100 (y - x^2)^2
            a curved valley; minimum at (1, 1)
        long_valley = (x^2 - 4)^2 / 64 + 5 y^2
            a saddle at (0, 0) in a long valley; minima at (-2, 0) and (2, 0)
        ravine = 10 x^2 + y^2 / 2
            twenty times steeper along x; minimum at (0, 0)
        saddle = x^2 - y^2
            a saddle at (0, 0); no minimum
        monkey_saddle = x^3 - 3 x y^2
            a saddle at (0, 0) whose Hessian is zero; no minimum
        himmelblau = (x^2 + y - 11)^2 + (x + y^2 - 7)^2
            four minima, four saddles and a maximum
        branin = (y - 5.1 x^2 / (4 pi^2) + 5 x / pi - 6)^2
            + 10 (1 - 1 / (8 pi)) cos x + 10
            three minima, with f = 5 / (4 pi) = 0.397887
        booth = (x + 2y - 7)^2 + (2x + y - 5)^2
            minimum at (1, 3)
        coupled_quadratic = (x - y)^2 + a (x^2 + y^2)
            slow for coordinate descent if a is small; minimum at (0, 0)
        ill_conditioned = w'Hw / 2
            n weights; eigenvalues of H from 1 to `condition`, log-spaced

    The parameter is one vector, `w`, which no init changes.

    function    the function
    start       the starting point, a list of n numbers; null: the standard one of the literature or of the lectures
    a           of coupled_quadratic: the weight of its convex term; null: 0.1
    n           of ill_conditioned: the number of weights; null: 2
    condition   of ill_conditioned: the ratio of the largest eigenvalue to the smallest; null: 100
    rotation    of ill_conditioned: seed of a random rotation of the eigenvectors; null: they are the axes

    Source: Moré, Garbow and Hillstrom 1981; Jamil and Yang 2013; each function names its own in
    dlopt/arch/_surfaces.py. The NYU lecture, figures 12 to 16, gives no formula for the ravine and the long valley:
    these have the properties that it describes.
    """

    hessian: Tensor | None

    def __init__(
        self,
        function: SurfaceName,
        start: list[float] | None,
        a: NonNegative | None,
        n: Annotated[int, Range(ge=2)] | None,
        condition: Annotated[float, Range(ge=1)] | None,
        rotation: Annotated[int, Range(ge=0)] | None,
    ) -> None:
        super().__init__()
        self.surface = make_surface(function, a=a, n=n, condition=condition, rotation=rotation)
        point = list(self.surface.start if start is None else start)
        if len(point) != len(self.surface.start) or not all(map(math.isfinite, point)):
            raise OptionError("start", f"must be {len(self.surface.start)} finite numbers, got {start}")
        self.w = nn.Parameter(torch.tensor(point, dtype=torch.float64))
        self.register_buffer("hessian", self.surface.hessian, persistent=False)

    def forward(self) -> Tensor:
        if self.hessian is None:
            return self.surface.formula(self.w)
        return quadratic_form(self.w, self.hessian)
