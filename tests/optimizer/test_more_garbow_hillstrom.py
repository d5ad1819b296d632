"""The optimizers with a line search on the problems 1 to 18 of More, Garbow and Hillstrom, next to scipy."""

import warnings
from statistics import median

import numpy as np
import pytest
import torch
from helpers import make_option
from more_garbow_hillstrom import PROBLEMS
from scipy.optimize import minimize

METHODS = {
    "bfgs": ("BFGS", {}),
    "lbfgs": ("L-BFGS-B", {"ftol": 0, "maxcor": 10}),
    "conjugate_gradient": ("CG", {}),
}
GTOL, MOST = 1e-5, 1500
"""Largest entry of the gradient at the end, for both sides, and largest number of evaluations."""
SLOWER = {
    ("bfgs", "10 meyer"): "a gradient of 1e-5 is below the rounding of f; scipy too ends without it",
    (
        "conjugate_gradient",
        "16 brown and dennis",
    ): "a gradient of 1e-5 is below the rounding of f = 85822; scipy too ends without it",
}
"""Problems that scipy solves, and that take more than three times its evaluations, with the reason."""


class Counted:
    """A problem that counts its evaluations, and returns a gradient that the step before has evaluated."""

    def __init__(self, problem):
        self.problem = problem
        self.evaluations = 0
        self.last = self.known = None

    def gradient(self, w):
        if self.known is not None:
            known, self.known = self.known, None
            return known
        self.evaluations += 1
        self.last = self.problem.gradient(w)
        return self.last


def solve(rule, problem):
    """Return the last value, and the evaluations until the gradient was flat."""
    objective, w = Counted(problem), torch.tensor(problem.start, dtype=torch.float64)
    state = rule.init(w, None)
    while True:
        count = objective.evaluations
        step = rule.step(w, state, objective)
        if step.gradient.abs().max() <= GTOL or count > MOST:
            return step.loss.item(), count
        w, state = step.w, step.state
        objective.known = objective.last if objective.last[1] is step.next_gradient else None


def is_minimum(f, problem):
    return any(abs(f - minimum) <= 1e-5 * max(minimum, 1e-3) for minimum in problem.minima)


@pytest.mark.parametrize("name", METHODS)
def test_problems_that_scipy_solves_are_solved_in_about_as_many_evaluations(name):
    """At most 1.3 times as many in the median, and at most three times for each but the exceptions."""
    method, options = METHODS[name]
    rule, ratios, unsolved, slower = make_option("optimizer", name), [], [], []
    for title, problem in PROBLEMS.items():

        def evaluate(x, problem=problem):
            value, g = problem.gradient(torch.tensor(x))
            return value.item(), g.numpy()

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of overflow on the way
            start = np.array(problem.start, dtype=np.float64)
            theirs = minimize(
                evaluate, start, jac=True, method=method, options={"gtol": GTOL, "maxiter": MOST, **options}
            )
        if is_minimum(theirs.fun, problem):
            f, count = solve(rule, problem)
            ratios.append(count / theirs.nfev)
            unsolved += [] if is_minimum(f, problem) else [title]
            slower += [(name, title)] if ratios[-1] > 3 else []
    assert unsolved == []
    assert slower == [case for case in SLOWER if case[0] == name]
    assert median(ratios) <= 1.3
    assert len(ratios) >= 10


@pytest.mark.parametrize("title", PROBLEMS)
def test_a_problem_has_its_value_at_the_solution_of_least_squares(title):
    """That scipy finds by another method; the problems are written right if it is a minimum of the paper."""
    from scipy.optimize import least_squares

    problem = PROBLEMS[title]

    def residuals(x):
        r = problem.residuals(*torch.tensor(x).unbind())
        return (torch.stack(r) if isinstance(r, tuple) else r).numpy()

    tight = {"xtol": 1e-15, "ftol": 1e-15, "gtol": 1e-15, "max_nfev": 5000}
    found = least_squares(residuals, np.array(problem.start, dtype=np.float64), method="lm", **tight)
    assert is_minimum(2 * found.cost, problem), 2 * found.cost
