"""L-BFGS with strong_wolfe next to torch.optim.LBFGS, on full batches and after equally many evaluations."""

from statistics import median

import pytest
import torch
import torch.nn.functional as F
from helpers import make_option
from sklearn.datasets import load_digits

EVALUATIONS = 100


class Digits:
    """Cross-entropy of 250 handwritten digits and an l2 penalty, as a function of the weights of a network."""

    def __init__(self, *widths, strength):
        inputs, targets = load_digits(return_X_y=True)
        self.inputs, self.targets = torch.tensor(inputs[:250] / 16), torch.tensor(targets[:250])
        sizes = [64, *widths, 10]
        self.shapes = [shape for a, b in zip(sizes, sizes[1:], strict=False) for shape in ((a, b), (b,))]
        self.strength = strength
        self.smallest = []

    def draw_start(self, seed):
        count = sum(torch.Size(shape).numel() for shape in self.shapes)
        return 0.3 * torch.randn(count, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

    def value(self, w):
        """Return f(w), and record the smallest value of all evaluations so far."""
        pieces = w.split([torch.Size(shape).numel() for shape in self.shapes])
        outputs, *layers = self.inputs, *(p.view(s) for p, s in zip(pieces, self.shapes, strict=True))
        for i in range(0, len(layers), 2):
            outputs = (outputs.tanh() if i else outputs) @ layers[i] + layers[i + 1]
        value = F.cross_entropy(outputs, self.targets) + self.strength / 2 * w @ w
        self.smallest.append(min([value.item(), *self.smallest[-1:]]))
        return value

    def gradient(self, w):
        w = w.detach().clone().requires_grad_()
        value = self.value(w)
        return value.detach(), torch.autograd.grad(value, w)[0]


def train_ours(problem, w):
    rule = make_option("optimizer", "lbfgs")
    state, known = rule.init(w, None), None

    class Objective:
        def gradient(self, w):
            nonlocal known
            answer, known = known or problem.gradient(w), None
            self.last = answer
            return answer

    objective = Objective()
    while len(problem.smallest) < EVALUATIONS:
        w, state, *_, g = rule.step(w, state, objective)
        known = objective.last if objective.last[1] is g else None
    return problem.smallest[EVALUATIONS - 1]


def train_theirs(problem, w):
    w = w.requires_grad_()
    most = {"max_iter": EVALUATIONS, "max_eval": EVALUATIONS, "tolerance_grad": 0, "tolerance_change": 0}
    optimizer = torch.optim.LBFGS([w], history_size=10, line_search_fn="strong_wolfe", **most)

    def closure():
        optimizer.zero_grad()
        value = problem.value(w)
        value.backward()
        return value

    optimizer.step(closure)
    return problem.smallest[:EVALUATIONS][-1]


@pytest.mark.parametrize("widths", [(), (12,)], ids=["logistic regression", "a network"])
def test_its_loss_is_as_low_after_as_many_evaluations(widths):
    """In the median of three starts; of the convex problem, to a thousandth for each."""
    ratios = []
    for seed in range(3):
        sides = [Digits(*widths, strength=1e-3) for _ in range(2)]
        start = sides[0].draw_start(seed)
        ratios.append(train_ours(sides[0], start.clone()) / train_theirs(sides[1], start.clone()))
    assert median(ratios) <= 1.001
    assert widths or max(ratios) <= 1.001
