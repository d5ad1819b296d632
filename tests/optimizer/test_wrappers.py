"""Optimizers around another one: Lookahead, cautious optimizers and ASAM."""

import copy
import dataclasses

import pytest
import pytorch_optimizer
import torch
import torch.nn.functional as F
from helpers import build_blobs, interrupt_run, list_options, load_weights, make_option, resume_run, train_runs
from layered import make_cnn
from test_optimizers import Quartic, draw_start, run, trace
from torch import nn

from dlopt.base.dotted_fields import find_field
from dlopt.optimizer.adam import Adam
from dlopt.optimizer.asam import ASAM
from dlopt.optimizer.cautious import Cautious
from dlopt.optimizer.lookahead import Lookahead
from dlopt.optimizer.momentum import HeavyBall
from dlopt.optimizer.sgd import SGD
from dlopt.training.checkpointing import from_plain, to_plain

STEPS = 50
BASES = list_options("optimizer")
INNER = [
    (Adam(0.05, 0.9, 0.99, 1e-8), lambda p: torch.optim.Adam(p, 0.05, (0.9, 0.99))),
    (HeavyBall(0.05, 0.9, 0.0), lambda p: torch.optim.SGD(p, 0.05, momentum=0.9)),
]
"""Optimizers and their twins in torch."""


def trace_flat(rule, objective):
    """Return w after each step."""
    w = draw_start()
    state, iterates = rule.init(w, objective.layout), []
    for _ in range(STEPS):
        w, state, *_ = rule.step(w, state, objective)
        iterates.append(w.clone())
    return torch.stack(iterates)


def trace_twin(make, objective, change=lambda before, after, g: after):
    """Return w after each step of an optimizer of torch, and of a change of its steps."""
    p = nn.Parameter(draw_start())
    twin, iterates = make([p]), []
    for _ in range(STEPS):
        before, p.grad = p.detach().clone(), objective.gradient(p.detach())[1]
        twin.step()
        p.data.copy_(change(before, p.detach(), p.grad))
        iterates.append(p.detach().clone())
    return torch.stack(iterates)


@pytest.mark.parametrize(("base", "twin"), INNER)
@pytest.mark.parametrize(("k", "alpha"), [(5, 0.5), (3, 0.8), (1, 0.3)])
def test_lookahead_takes_the_steps_of_pytorch_optimizer(base, twin, k, alpha):
    ours = trace_flat(Lookahead(base, k, alpha), Quartic())
    theirs = trace_twin(lambda p: pytorch_optimizer.Lookahead(twin(p), k=k, alpha=alpha), Quartic())
    torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(("base", "twin"), INNER)
def test_cautious_steps_are_those_of_the_paper_around_optimizers_of_torch(base, twin):
    """Liang et al. 2024, algorithm 1, with the limit of the authors' code."""
    opposed = []

    def change(before, after, g):
        u = before - after
        mask = (u * g > 0).to(g.dtype)
        opposed.append((1 - mask).sum())
        return before - u * mask / mask.mean().clamp(min=1e-3)

    expected = trace_twin(twin, Quartic(), change)
    assert torch.stack(opposed).any()
    torch.testing.assert_close(trace_flat(Cautious(base), Quartic()), expected, rtol=1e-9, atol=1e-10)


def test_cautious_components_without_a_gradient_follow_the_base_and_do_not_lengthen_the_step():
    class Dead(Quartic):
        def gradient(self, w):
            value, g = super().gradient(w)
            return value, g.index_fill(-1, torch.tensor([0, 1, 2]), 0.0)

    g = Dead().gradient(draw_start())[1]
    base = HeavyBall(0.1, 0.9, 0.0)
    state = base.init(g, Dead.layout)
    state = type(state)(*(torch.ones_like(x) * g.where(g != 0, 1.0) if x.shape == g.shape else x for x in state))
    both = [rule.step(draw_start(), copy.deepcopy(state), Dead()).w for rule in (Cautious(base), base)]
    torch.testing.assert_close(*both, rtol=1e-12, atol=1e-12)
    assert (both[0] != draw_start())[:3].all()


def test_a_nan_of_the_inner_step_is_not_masked():
    class Broken(Quartic):
        def gradient(self, w):
            value, g = super().gradient(w)
            return value, g.index_fill(-1, torch.tensor([3]), torch.nan)

    assert Cautious(SGD(0.1)).step(draw_start(), (), Broken()).w[3].isnan()


@pytest.mark.parametrize(("rho", "eta"), [(0.5, 0.01), (2.0, 0.0), (0.1, 1.0)])
def test_asam_takes_the_steps_of_the_authors_code(rho, eta):
    """Kwon et al. 2021, algorithm 1, parameter by parameter: T = |w| + eta for weights and 1 for biases."""
    torch.manual_seed(1)
    x, y = torch.randn(STEPS, 10, 2, 7, dtype=torch.float64), torch.randint(3, (STEPS, 10))
    twin = make_cnn()
    inner, iterates = torch.optim.SGD(twin.parameters(), 0.1, momentum=0.9), []

    def differentiate(t):
        inner.zero_grad()
        F.cross_entropy(twin(x[t]), y[t]).backward()

    for t in range(STEPS):
        differentiate(t)
        with torch.no_grad():
            sizes = [p.abs() + eta if "weight" in name else torch.ones_like(p) for name, p in twin.named_parameters()]
            norm = torch.stack([(s * p.grad).norm() for s, p in zip(sizes, twin.parameters(), strict=True)]).norm()
            shifts = [rho * s**2 * p.grad / norm for s, p in zip(sizes, twin.parameters(), strict=True)]
            for p, e in zip(twin.parameters(), shifts, strict=True):
                p.add_(e)
        differentiate(t)
        with torch.no_grad():
            for p, e in zip(twin.parameters(), shifts, strict=True):
                p.sub_(e)
        inner.step()
        iterates.append(nn.utils.parameters_to_vector(twin.parameters()).detach())
    ours, *_ = trace(ASAM(HeavyBall(0.1, 0.9, 0.0), rho, eta), make_cnn(), x, y)
    torch.testing.assert_close(ours, torch.stack(iterates), rtol=1e-7, atol=1e-9)


def test_the_loss_that_asam_minimizes_is_the_same_for_rescaled_layers():
    """f depends on products of two weights only; its value at the perturbed point does not see who is large."""

    class Product(Quartic):
        def value(self, w):
            return (w[..., :4] * w[..., 4:] - 1).square().sum(-1)

        def gradient(self, w):
            self.queries.append(w.clone())
            leaf = w.clone().requires_grad_()
            return self.value(w), torch.autograd.grad(self.value(leaf), leaf)[0]

    values = []
    for scale in (1.0, 30.0):
        objective = Product()
        w = draw_start() * torch.tensor([scale] * 4 + [1 / scale] * 4)
        ASAM(SGD(0.1), 0.5, 0.0).step(w, (), objective)
        values.append(objective.value(objective.queries[1]))
    torch.testing.assert_close(*values)
    assert values[0] > objective.value(draw_start())


@pytest.mark.parametrize("name", BASES)
def test_around_every_optimizer(name):
    """Lookahead that does not come back is the inner optimizer. Restored states go on with the same bits."""
    base = make_option("optimizer", name)
    plain, _ = run(base, Quartic(), draw_start(), 7)
    for rule in (Lookahead(base, 100, 0.5), Lookahead(base, 3, 1.0)):
        assert torch.equal(run(rule, Quartic(), draw_start(), 7)[0], plain)
    for rule in (Lookahead(base, 3, 0.5), Cautious(base)):
        objective, w = Quartic(), draw_start()
        whole, _ = run(rule, objective, w, 7)
        state = rule.init(w, objective.layout)
        for _ in range(7):
            w, state, *_ = rule.step(w, state, objective)
            w, saved = w.clone(), to_plain(state, 0, solo=True)
            state = from_plain(rule.init(w, objective.layout), saved, w.device)
        assert torch.equal(w, whole)
        assert rule.lanes == base.lanes
        if not rule.lanes:
            continue
        alphas = torch.tensor([[0.5], [0.9]]).double()
        both = dataclasses.replace(rule, alpha=alphas) if isinstance(rule, Lookahead) else rule
        lanes, _ = run(both, objective, draw_start((2,)), 7)
        for i in range(2):
            alone = dataclasses.replace(rule, alpha=alphas[i].item()) if isinstance(rule, Lookahead) else rule
            solo, _ = run(alone, objective, draw_start((2,))[i], 7)
            torch.testing.assert_close(lanes[i], solo, rtol=1e-9, atol=1e-10)


NESTED = (
    "optimizer=lookahead", "optimizer.k=3", "optimizer@optimizer.base_optimizer=cautious",
    "optimizer@optimizer.base_optimizer.base_optimizer=adamw", "optimizer.base_optimizer.base_optimizer.lr=0.01",
    "precision=float64", "epochs=2", "schedule=cosine", "regularization=weight_decay",
)  # fmt: skip


def test_wrappers_compose_and_a_run_resumes_with_all_their_states(tmp_path):
    experiment = build_blobs(*NESTED)
    assert find_field(experiment.optimizer, "lr") == "base_optimizer.base_optimizer.lr"
    _, (whole,) = train_runs(tmp_path / "whole", experiment)
    assert whole.rows()[0]["lr"] < 0.01
    half = interrupt_run(tmp_path / "half", 4, build_blobs(*NESTED))
    _, half = resume_run(half.path, build_blobs(*NESTED))
    assert torch.equal(load_weights(half), load_weights(whole))
