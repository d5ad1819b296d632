"""Problems 1 to 18 of More, Garbow and Hillstrom 1981, Testing unconstrained optimization software.

Each is a sum of squares of residuals, with its standard starting point and the values of its known minima.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class LeastSquares(NamedTuple):
    """f(x) = sum of residuals(x)^2."""

    residuals: Callable[..., tuple[Tensor, ...] | Tensor]
    start: tuple[float, ...]
    minima: tuple[float, ...]

    def value(self, x: Tensor) -> Tensor:
        r = self.residuals(*x.unbind(-1))
        return (torch.stack(r, -1) if isinstance(r, tuple) else r).square().sum(-1)

    def gradient(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = x.detach().clone().requires_grad_()
        value = self.value(x)
        return value.detach(), torch.autograd.grad(value.sum(), x)[0]


def numbers(text: str) -> Tensor:
    return torch.tensor([float(word) for word in text.split()], dtype=torch.float64)


def count(m: int) -> Tensor:
    return torch.arange(1, m + 1, dtype=torch.float64)


exp = torch.exp
BARD = numbers("0.14 0.18 0.22 0.25 0.29 0.32 0.35 0.39 0.37 0.58 0.73 0.96 1.34 2.10 4.39")
GAUSSIAN = numbers(
    "0.0009 0.0044 0.0175 0.0540 0.1295 0.2420 0.3521 0.3989 0.3521 0.2420 0.1295 0.0540 0.0175 0.0044 0.0009"
)
MEYER = numbers("34780 28610 23650 19630 16370 13720 11540 9744 8261 7030 6005 5147 4427 3820 3307 2872")
KOWALIK = numbers("0.1957 0.1947 0.1735 0.1600 0.0844 0.0627 0.0456 0.0342 0.0323 0.0235 0.0246")
KOWALIK_U = numbers("4 2 1 0.5 0.25 0.167 0.125 0.1 0.0833 0.0714 0.0625")
OSBORNE = numbers(
    "0.844 0.908 0.932 0.936 0.925 0.908 0.881 0.850 0.818 0.784 0.751 0.718 0.685 0.658 0.628 0.603 0.580 0.558 0.538 "
    "0.522 0.506 0.490 0.478 0.467 0.457 0.448 0.438 0.431 0.424 0.420 0.414 0.411 0.406"
)


def helical_valley(a, b, c):
    theta = torch.atan(b / a) / (2 * torch.pi) + torch.where(a < 0, 0.5, 0.0)
    return 10 * (c - 10 * theta), 10 * ((a**2 + b**2).sqrt() - 1), c


def bard(a, b, c):
    u, v = count(15), 16 - count(15)
    return BARD - (a + u / (v * b + torch.minimum(u, v) * c))


def gulf(a, b, c):
    t = count(99) / 100
    y = 25 + (-50 * t.log()) ** (2 / 3)
    return exp(-((y - b).abs() ** c) / a) - t


def box(a, b, c):
    t = count(10) / 10
    return exp(-t * a) - exp(-t * b) - c * (exp(-t) - exp(-10 * t))


def kowalik(a, b, c, d):
    u = KOWALIK_U
    return KOWALIK - a * (u**2 + u * b) / (u**2 + u * c + d)


def brown_dennis(a, b, c, d):
    t = count(20) / 5
    return (a + t * b - exp(t)) ** 2 + (c + d * t.sin() - t.cos()) ** 2


def osborne(a, b, c, d, e):
    t = 10 * (count(33) - 1)
    return OSBORNE - (a + b * exp(-t * d) + c * exp(-t * e))


def biggs(a, b, c, d, e, f):
    t = count(13) / 10
    y = exp(-t) - 5 * exp(-10 * t) + 3 * exp(-4 * t)
    return c * exp(-t * a) - d * exp(-t * b) + f * exp(-t * e) - y


PROBLEMS = {
    "1 rosenbrock": LeastSquares(lambda a, b: (10 * (b - a**2), 1 - a), (-1.2, 1), (0.0,)),
    "2 freudenstein and roth": LeastSquares(
        lambda a, b: (-13 + a + ((5 - b) * b - 2) * b, -29 + a + ((b + 1) * b - 14) * b),
        (0.5, -2),
        (0.0, 48.98425367924),
    ),
    "3 powell badly scaled": LeastSquares(lambda a, b: (1e4 * a * b - 1, exp(-a) + exp(-b) - 1.0001), (0, 1), (0.0,)),
    "4 brown badly scaled": LeastSquares(lambda a, b: (a - 1e6, b - 2e-6, a * b - 2), (1, 1), (0.0,)),
    "5 beale": LeastSquares(
        lambda a, b: (1.5 - a * (1 - b), 2.25 - a * (1 - b**2), 2.625 - a * (1 - b**3)), (1, 1), (0.0,)
    ),
    "6 jennrich and sampson": LeastSquares(
        lambda a, b: 2 + 2 * count(10) - (exp(count(10) * a) + exp(count(10) * b)), (0.3, 0.4), (124.36218235562,)
    ),
    "7 helical valley": LeastSquares(helical_valley, (-1, 0, 0), (0.0,)),
    "8 bard": LeastSquares(bard, (1, 1, 1), (8.214877306579e-3, 17.42869333333)),
    "9 gaussian": LeastSquares(
        lambda a, b, c: a * exp(-b * ((8 - count(15)) / 2 - c) ** 2 / 2) - GAUSSIAN, (0.4, 1, 0), (1.127932769619e-8,)
    ),
    "10 meyer": LeastSquares(
        lambda a, b, c: a * exp(b / (45 + 5 * count(16) + c)) - MEYER, (0.02, 4000, 250), (87.94585517,)
    ),
    "11 gulf": LeastSquares(gulf, (5, 2.5, 0.15), (0.0,)),
    "12 box": LeastSquares(box, (0, 10, 20), (0.0,)),
    "13 powell singular": LeastSquares(
        lambda a, b, c, d: (a + 10 * b, 5**0.5 * (c - d), (b - 2 * c) ** 2, 10**0.5 * (a - d) ** 2),
        (3, -1, 0, 1),
        (0.0,),
    ),
    "14 wood": LeastSquares(
        lambda a, b, c, d: (
            *(10 * (b - a**2), 1 - a, 90**0.5 * (d - c**2), 1 - c),
            *(10**0.5 * (b + d - 2), (b - d) / 10**0.5),
        ),
        (-3, -1, -3, -1),
        (0.0,),
    ),
    "15 kowalik and osborne": LeastSquares(kowalik, (0.25, 0.39, 0.415, 0.39), (3.075056038493e-4,)),
    "16 brown and dennis": LeastSquares(brown_dennis, (25, 5, -5, -1), (85822.20162635,)),
    "17 osborne": LeastSquares(osborne, (0.5, 1.5, -1, 0.01, 0.02), (5.464894697483e-5,)),
    "18 biggs": LeastSquares(biggs, (1, 2, 1, 1, 1, 1), (0.0, 5.655649925e-3)),
}
