"""Test surfaces: functions of a few weights whose minima are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import pi
from typing import Literal

import torch
from torch import Tensor

from dlopt import prng
from dlopt.errors import OptionError
from dlopt.linalg.random_orthogonal import sample_orthogonal

SurfaceName = Literal[
    "beale",
    "rosenbrock",
    "long_valley",
    "ravine",
    "saddle",
    "monkey_saddle",
    "himmelblau",
    "branin",
    "booth",
    "coupled_quadratic",
    "ill_conditioned",
]
Point = tuple[float, ...]


@dataclass(frozen=True, eq=False)
class SurfaceDefinition:
    """A test function f of n weights.

    formula   maps w, (..., n), to f(w), (...)
    source    where it comes from
    start     the standard starting point
    minima    the known global minima; none if f is not bounded below
    minimum   f at the minima; None if f is not bounded below
    saddles   the known saddle points
    box       ends of the axes of a picture, of the first and of the second weight
    hessian   the Hessian, (n, n), if the formula is only w'Hw / 2, else None
    """

    formula: Callable[[Tensor], Tensor]
    source: str
    start: Point
    minima: tuple[Point, ...]
    minimum: float | None
    box: tuple[tuple[float, float], tuple[float, float]]
    saddles: tuple[Point, ...] = ()
    hessian: Tensor | None = None


@dataclass(frozen=True)
class Family:
    """A surface with parameters: their defaults, and the function that makes it from their values."""

    make: Callable[..., SurfaceDefinition]
    defaults: Mapping[str, float | None] = field(default_factory=dict)


def make_surface(name: SurfaceName, **parameters: float | None) -> SurfaceDefinition:
    """Return the surface of this name; a parameter that is None has its default.

    Raises OptionError for a parameter that the surface does not have.
    """
    family = FAMILIES.get(name)
    defaults = {} if family is None else family.defaults
    given = {key: value for key, value in parameters.items() if value is not None}
    for key in given.keys() - defaults.keys():
        owner = next(other for other, f in FAMILIES.items() if key in f.defaults)
        raise OptionError(key, f"is a parameter of {owner}, and {name} has none of this name: leave it out")
    return SURFACES[name] if family is None else family.make(**{**defaults, **given})


def quadratic_form(w: Tensor, hessian: Tensor) -> Tensor:
    """Return w'Hw / 2, (...), for w of shape (..., n)."""
    return ((w @ hessian) * w).sum(-1) / 2


def beale(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return sum(((c - x * (1 - y**k)) ** 2 for k, c in ((1, 1.5), (2, 2.25), (3, 2.625))), start=torch.zeros_like(x))


def rosenbrock(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def long_valley(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return (x**2 - 4) ** 2 / 64 + 5 * y**2


def ravine(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return 10 * x**2 + y**2 / 2


def saddle(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return x**2 - y**2


def monkey_saddle(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return x**3 - 3 * x * y**2


def himmelblau(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return (x**2 + y - 11) ** 2 + (x + y**2 - 7) ** 2


def branin(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return (y - 5.1 / (4 * pi**2) * x**2 + 5 / pi * x - 6) ** 2 + 10 * (1 - 1 / (8 * pi)) * torch.cos(x) + 10


def booth(w: Tensor) -> Tensor:
    x, y = w.unbind(-1)
    return (x + 2 * y - 7) ** 2 + (2 * x + y - 5) ** 2


def _make_coupled_quadratic(a: float) -> SurfaceDefinition:
    def formula(w: Tensor) -> Tensor:
        x, y = w.unbind(-1)
        return (x - y) ** 2 + a * (x**2 + y**2)

    return SurfaceDefinition(
        formula,
        source="Goodfellow, Bengio and Courville 2016, section 8.7.1",
        start=(1.5, 0.5),
        minima=((0.0, 0.0),),
        minimum=0.0,
        box=((-2.0, 2.0), (-1.5, 1.5)),
    )


def _make_ill_conditioned(n: int, condition: float, rotation: int | None) -> SurfaceDefinition:
    eigenvalues = condition ** torch.linspace(0, 1, n, dtype=torch.float64)
    rotations = torch.eye(n, dtype=torch.float64)
    if rotation is not None:
        rotations = sample_orthogonal(n, n, prng.generator(prng.key(rotation, "rotation")))
    hessian = (rotations * eigenvalues) @ rotations.T
    hessian = (hessian + hessian.T) / 2  # symmetric to the last bit
    return SurfaceDefinition(
        lambda w: quadratic_form(w, hessian.to(w)),
        source="a convex quadratic; KTH lecture, ill-conditioning",
        start=(1.0,) * n,
        minima=((0.0,) * n,),
        minimum=0.0,
        box=((-1.5, 1.5), (-1.5, 1.5)),
        hessian=hessian,
    )


FAMILIES: Mapping[str, Family] = {
    "coupled_quadratic": Family(_make_coupled_quadratic, {"a": 0.1}),
    "ill_conditioned": Family(_make_ill_conditioned, {"n": 2, "condition": 100.0, "rotation": None}),
}

SURFACES: Mapping[str, SurfaceDefinition] = {
    "beale": SurfaceDefinition(
        beale,
        source="Beale 1958; start: Moré, Garbow and Hillstrom 1981, problem 5",
        start=(1.0, 1.0),
        minima=((3.0, 0.5),),
        minimum=0.0,
        box=((-1.0, 4.5), (-2.0, 2.0)),
        saddles=((0.0, 1.0),),
    ),
    "rosenbrock": SurfaceDefinition(
        rosenbrock,
        source="Rosenbrock 1960; start: Moré, Garbow and Hillstrom 1981, problem 1",
        start=(-1.2, 1.0),
        minima=((1.0, 1.0),),
        minimum=0.0,
        box=((-2.0, 2.0), (-1.0, 3.0)),
    ),
    "long_valley": SurfaceDefinition(
        long_valley,
        source="after the animation by Radford that the NYU lecture shows in figure 16, without a formula",
        start=(0.01, 1.0),
        minima=((-2.0, 0.0), (2.0, 0.0)),
        minimum=0.0,
        box=((-0.75, 3.0), (-1.25, 1.25)),
        saddles=((0.0, 0.0),),
    ),
    "ravine": SurfaceDefinition(
        ravine,
        source="after the NYU lecture, figures 12 to 14: much steeper along the first weight",
        start=(1.0, 9.0),
        minima=((0.0, 0.0),),
        minimum=0.0,
        box=((-4.0, 4.0), (-3.0, 10.0)),
    ),
    "saddle": SurfaceDefinition(
        saddle,
        source="after the animation by Radford that lectures link to; start: on the ridge but for 0.001",
        start=(1.0, 0.001),
        minima=(),
        minimum=None,
        box=((-1.5, 1.5), (-2.0, 2.0)),
        saddles=((0.0, 0.0),),
    ),
    "monkey_saddle": SurfaceDefinition(
        monkey_saddle,
        source="Hilbert and Cohn-Vossen 1932; three valleys meet, and the Hessian at the saddle is zero",
        start=(1.0, 0.01),
        minima=(),
        minimum=None,
        box=((-2.0, 2.0), (-2.0, 2.0)),
        saddles=((0.0, 0.0),),
    ),
    "himmelblau": SurfaceDefinition(
        himmelblau,
        source="Himmelblau 1972",
        start=(0.0, 0.0),
        minima=(
            (3.0, 2.0),
            (-2.805118086952745, 3.131312518250573),
            (-3.779310253377747, -3.2831859912861696),
            (3.5844283403304917, -1.8481265269644036),
        ),
        minimum=0.0,
        box=((-5.0, 5.0), (-5.0, 5.0)),
        saddles=(
            (0.08667750455539636, 2.884254701174776),
            (3.385154183607021, 0.07385187983774928),
            (-3.0730257507643897, -0.08135304428796751),
            (-0.12796134673068008, -1.9537149802445763),
        ),
    ),
    "branin": SurfaceDefinition(
        branin,
        source="Branin 1972; constants: Dixon and Szegő 1978",
        start=(2.5, 12.5),
        minima=((-pi, 12.275), (pi, 2.275), (3 * pi, 2.475)),
        minimum=5 / (4 * pi),
        box=((-5.0, 10.0), (0.0, 15.0)),
        saddles=((0.0, 6.0), (2 * pi, 1.1)),
    ),
    "booth": SurfaceDefinition(
        booth,
        source="Booth; Jamil and Yang 2013, function 17",
        start=(-5.0, -5.0),
        minima=((1.0, 3.0),),
        minimum=0.0,
        box=((-8.0, 8.0), (-8.0, 8.0)),
    ),
}
"""The surfaces without parameters. The infinite minima and saddles of branin outside of its box are left out."""
