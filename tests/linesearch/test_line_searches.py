"""Line searches on functions of one variable: the conditions at accepted points, failures, and scipy as a reference."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy.optimize import line_search

from dlopt.base.linesearch import LinePoint, interpolate_cubic, interpolate_quadratic
from dlopt.linesearch.armijo import Armijo
from dlopt.linesearch.exact import Exact
from dlopt.linesearch.strong_wolfe import StrongWolfe

STARTS = (1e-3, 1e-1, 1e1, 1e3)
"""First step lengths of More and Thuente's tables."""


def yanai(beta1, beta2):
    """Return the function 4 to 6 of More and Thuente."""
    g1, g2 = ((1 + b * b) ** 0.5 - b for b in (beta1, beta2))
    return lambda a: g1 * ((1 - a) ** 2 + beta2**2) ** 0.5 + g2 * (a**2 + beta1**2) ** 0.5


def piecewise(a):
    """Return the function 3 of More and Thuente, with beta = 0.01 and l = 39."""
    beta, l = 0.01, 39
    outer = torch.where(a <= 1 - beta, 1 - a, a - 1)
    middle = (a - 1) ** 2 / (2 * beta) + beta / 2
    wave = 2 * (1 - beta) / (l * math.pi) * torch.sin(l * math.pi / 2 * a)
    return torch.where((a - 1).abs() <= beta, middle, outer) + wave


CURVES = {
    "1": lambda a: -a / (a**2 + 2),
    "2": lambda a: (a + 0.004) ** 5 - 2 * (a + 0.004) ** 4,
    "3": piecewise,
    "4": yanai(0.001, 0.001),
    "5": yanai(0.01, 0.001),
    "6": yanai(0.001, 0.01),
    "a wall of NaN": lambda a: torch.where(a < 1.3, a**2 - 2.5 * a, torch.nan),
    "a wall of infinity": lambda a: torch.where(a < 0.02, (a - 0.015) ** 2, torch.inf),
    "a hole of minus infinity": lambda a: torch.where(a < 1.3, a**2 - 2.5 * a, -torch.inf),
    "logarithm": lambda a: a - torch.log(a + 1e-3),
    "tiny": lambda a: 1e-12 * (a - 3e-3) ** 2,
    "steep": lambda a: 1e12 * (a - 2e3) ** 2,
}
"""Functions of alpha, decreasing at 0: More and Thuente 1994, section 5, and others with walls."""


HOPELESS = {
    "kink": lambda a: (a - 0.7).abs(),
    "cusp": lambda a: (a - 0.7).abs().sqrt() * 2,
    "wall": lambda a: torch.where(a == 0, -a, torch.nan),
    "cliff": lambda a: torch.where(a == 0, -a, 1.0 + a),
    "fall": lambda a: -a,
}
"""Functions on which no point has a flat slope, or none that is as small as the start."""
ALL = CURVES | HOPELESS


class Curves:
    """A function of one weight for each lane, with lanes as the leading dimension, and all alphas that were asked for."""

    def __init__(self, *curves):
        self.curves = curves
        self.asked = []

    def value(self, w):
        self.asked.append(w.detach().clone())
        return torch.stack([f(w[i, 0]) for i, f in enumerate(self.curves)])

    def gradient(self, w):
        w = w.detach().clone().requires_grad_()
        value = self.value(w)
        return value.detach(), torch.autograd.grad(value.sum(), w)[0]

    def hvp(self, w, v):
        w = w.detach().clone().requires_grad_()
        (g,) = torch.autograd.grad((self.value(w) + 0 * w[:, 0] ** 2).sum(), w, create_graph=True)
        return torch.autograd.grad((g * v).sum(), w)[0]


def search(rule, first, *names, c2=0.9, scale=1.0):
    """Search from 0 along the positive direction on these curves, each a lane."""
    objective = Curves(*(ALL[name] for name in names))
    w = torch.zeros(len(names), 1, dtype=torch.float64)
    loss, g = objective.gradient(w)
    objective.asked.clear()
    d = torch.full_like(w, scale)
    return rule.search(w, d, loss, g, objective, torch.full_like(w, first), c2), objective


def differentiate(name, alpha):
    """Return value and slope of a curve."""
    a = torch.tensor(alpha, dtype=torch.float64, requires_grad=True)
    value = ALL[name](a)
    return value.item(), torch.autograd.grad(value, a)[0].item()


FACTORS = [(n, *c) for n in CURVES for c in ((1e-4, 0.9), (1e-4, 0.1), (0.1, 0.1))]
FACTORS += [(n, 0.001, 0.001) for n in ("4", "5", "6")]  # as in the paper: on others, values differ by rounding only


def test_conditions_that_may_exclude_each_other_are_refused():
    with pytest.raises(ValueError, match=r"c1 must not be above c2, got c1 = 0\.2 and c2 = 0\.1"):
        StrongWolfe(0.2, 0.1, 20)


@pytest.mark.parametrize(("name", "c1", "c2"), FACTORS)
def test_strong_wolfe_finds_a_point_that_satisfies_both_conditions(name, c1, c2):
    f0, slope0 = differentiate(name, 0.0)
    for first in STARTS:
        step, objective = search(StrongWolfe(c1, c2, 60), first, name)
        alpha = step.alpha.item()
        f, slope = differentiate(name, alpha)
        assert not step.failed, (first, alpha)
        assert -math.inf < f <= f0 + c1 * alpha * slope0
        assert abs(slope) <= c2 * abs(slope0)
        assert step.w.item() == alpha
        assert step.gradient.item() == slope
        assert step.evaluations.item() == len(objective.asked)


@pytest.mark.parametrize("name", HOPELESS)
@pytest.mark.parametrize(
    "rule", [StrongWolfe(1e-4, 0.1, 12), Armijo(1e-4, 12), Exact(1.0, 12)], ids=lambda r: type(r).__name__
)
def test_a_search_without_an_acceptable_point_says_so_and_is_no_worse_than_the_start(name, rule):
    f0, _ = differentiate(name, 0.0)
    for first in STARTS:
        step, objective = search(rule, first, name)
        (alpha,) = step.alpha.tolist()[0]
        f, _ = differentiate(name, alpha)
        trials = [f0, *(v for a in objective.asked if not math.isnan(v := differentiate(name, a.item())[0]))]
        assert step.evaluations.item() == len(objective.asked)
        if step.failed:
            assert f == min(trials)
        assert f <= f0
        assert step.w.item() == alpha
        if isinstance(rule, StrongWolfe) or name in ("wall", "cliff"):
            assert step.failed


@pytest.mark.parametrize("name", CURVES)
@pytest.mark.parametrize("first", STARTS)
def test_armijo_shortens_the_step_until_it_decreases_enough(name, first):
    """Every earlier trial does not, and each is between a tenth and a half of the one before."""
    step, objective = search(Armijo(0.1, 40), first, name)
    f0, slope0 = differentiate(name, 0.0)
    trials = [a.item() for a in objective.asked]
    values = [differentiate(name, a)[0] for a in trials]
    enough = [-math.inf < f <= f0 + 0.1 * a * slope0 for a, f in zip(trials, values, strict=True)]
    assert enough == [False] * (len(enough) - 1) + [True]
    assert trials[0] == first
    assert trials[-1] == step.alpha.item() == step.w.item()
    for a, b in pairwise(trials):
        assert 0.1 * (1 - 1e-12) <= b / a <= 0.5 * (1 + 1e-12)
    assert step.gradient is None
    assert step.evaluations.item() == len(trials)


@pytest.mark.parametrize("name", [name for name in CURVES if "wall" not in name and "hole" not in name])
@pytest.mark.parametrize("c2", [0.1, 0.9])
def test_strong_wolfe_needs_about_as_many_evaluations_as_scipy(name, c2):
    """From alpha = 1, at most two more. scipy may fail where this search does not."""
    step, _ = search(StrongWolfe(1e-4, c2, 60), 1.0, name)
    f, slope = (lambda x, i=i: np.array(differentiate(name, x.item())[i]).reshape((1,) * i) for i in (0, 1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        alpha, values, _, _, _, _ = line_search(f, slope, np.zeros(1), np.ones(1), c1=1e-4, c2=c2)
    assert alpha is None or step.evaluations.item() <= values + 2


def test_exact_reaches_the_minimum_of_a_parabola_along_any_direction():
    torch.manual_seed(0)
    a = torch.randn(3, 6, 6, dtype=torch.float64)
    a = a @ a.mT + torch.eye(6)
    w, d = torch.randn(2, 3, 6, dtype=torch.float64)

    class Parabolas:
        def gradient(self, w):
            g = (a @ w.unsqueeze(-1)).squeeze(-1)
            return (w * g).sum(-1) / 2, g

        def hvp(self, w, v):
            return (a @ v.unsqueeze(-1)).squeeze(-1)

    loss, g = Parabolas().gradient(w)
    d = -d * torch.sign((g * d).sum(-1, keepdim=True))
    step = Exact(1.0, 5).search(w.clone(), d, loss, g, Parabolas(), torch.ones(3, 1))
    torch.testing.assert_close((step.gradient * d).sum(-1), torch.zeros(3).double(), rtol=0, atol=1e-12)
    torch.testing.assert_close(step.w, w + step.alpha * d)
    assert step.evaluations.tolist() == [2, 2, 2]


@pytest.mark.parametrize("scale", [0.5, 8.0])
def test_exact_takes_a_step_of_max_step_where_the_curvature_is_not_positive(scale):
    """On 1 at 0, where its curvature is negative, and on a line: |alpha d| = max_step whatever the length of d."""
    step, _ = search(Exact(0.25, 10), 1.0, "fall", scale=scale)
    assert step.w.item() == pytest.approx(0.25)
    assert not step.failed


RULES = {"strong_wolfe": StrongWolfe(1e-4, 0.1, 30), "armijo": Armijo(1e-4, 30), "exact": Exact(1.0, 30)}


@pytest.mark.parametrize("name", RULES)
def test_lanes_take_the_steps_of_runs_alone(name):
    names = list(ALL)
    together, objective = search(RULES[name], 10.0, *names)
    assert len(objective.asked) <= together.evaluations.max() + 2
    for i, one in enumerate(names):
        alone, _ = search(RULES[name], 10.0, one)
        for field in ("alpha", "w", "evaluations", "failed"):
            assert torch.equal(getattr(together, field)[i], getattr(alone, field)[0]), (one, field)
        if alone.gradient is not None:
            assert torch.equal(together.gradient[i], alone.gradient[0])


def test_each_lane_has_hyperparameters_of_its_own():
    c2 = torch.tensor([[0.9], [0.001]], dtype=torch.float64)
    both, _ = search(StrongWolfe(1e-4, c2, 30), 10.0, "1", "1")
    for i in range(2):
        alone, _ = search(StrongWolfe(1e-4, c2[i].item(), 30), 10.0, "1")
        assert both.alpha[i] == alone.alpha
    assert both.alpha[0] != both.alpha[1]


@pytest.mark.parametrize("name", RULES)
@pytest.mark.parametrize(("loss", "g"), [(math.nan, -1.0), (0.0, math.nan), (math.inf, -1.0), (0.0, 1.0), (0.0, 0.0)])
def test_without_a_direction_of_descent_no_step_is_taken(name, loss, g):
    """A lane that cannot search does not keep another from it. At a stationary point a search has not failed."""
    objective = Curves(CURVES["1"], CURVES["1"])
    w = torch.zeros(2, 1, dtype=torch.float64)
    losses, slopes = objective.gradient(w)
    losses[0], slopes[0] = loss, g
    d = torch.tensor([[g], [1.0]]) if math.isnan(g) else torch.ones_like(w)
    step = RULES[name].search(w.clone(), d.to(w), losses, slopes, objective, torch.ones_like(w))
    assert step.w[0] == step.alpha[0] == 0
    assert step.w[1] > 0
    assert step.failed.tolist() == [g != 0, 0]


@pytest.mark.parametrize("first", [1e-70, 1e-3, 1e110, 1e300])
@pytest.mark.parametrize("rule", [Armijo(1e-4, 300), StrongWolfe(1e-4, 0.9, 300)], ids=lambda r: type(r).__name__)
def test_a_line_without_a_fall_ends_in_failure_from_any_first_step(rule, first):
    """Powers of alpha overflow and underflow on the way."""
    trials = rule.trials(LinePoint(0.0, 1.0, -1.0), first, 0.9)
    alpha = next(trials)
    with pytest.raises(StopIteration) as end:
        while True:
            alpha = trials.send(LinePoint(alpha, 2.0, 0.5))
    assert end.value.value.failed


def test_interpolations_are_those_of_polynomials():
    """A parabola and a cubic, from their values and slopes at two points; a cubic without a minimum has none."""

    def at(coefficients, alpha):
        p = np.polynomial.Polynomial(coefficients)
        return LinePoint(alpha, p(alpha), p.deriv()(alpha))

    parabola, cubic = [1.0, -3.0, 2.0], [1.0, -3.0, -2.0, 1.5]
    minimum = max(np.polynomial.Polynomial(cubic).deriv().roots())
    assert interpolate_quadratic(at(parabola, 0.2), at(parabola, 3.0)) == pytest.approx(0.75)
    for a, b in ((0.0, 2.5), (2.5, 0.0), (0.3, 0.9)):
        assert interpolate_cubic(at(cubic, a), at(cubic, b)) == pytest.approx(minimum)
        assert interpolate_cubic(at(parabola, a), at(parabola, b)) == pytest.approx(0.75)
    assert math.isnan(interpolate_cubic(at([0.0, -1.0, 0.0, -1.0], 0.0), at([0.0, -1.0, 0.0, -1.0], 1.0)))
    assert math.isnan(interpolate_quadratic(at([0.0, -1.0], 0.0), at([0.0, -1.0], 1.0)))
