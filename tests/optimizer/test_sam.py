"""SAM around other optimizers."""

import pytest
import torch
from helpers import build_blobs, interrupt_run, list_options, load_weights, make_option, resume_run, train_runs
from test_optimizers import STEPS, Quadratic, Quartic, draw_start, run

from dlopt.optimizer.momentum import HeavyBall
from dlopt.optimizer.sam import SAM
from dlopt.optimizer.sgd import SGD

BASES = [name for name in list_options("optimizer") if name != "sam"]


def test_steps_are_those_of_the_paper():
    """Foret, Kleiner, Mobahi and Neyshabur 2021, algorithm 1, the gradients by differentiation."""
    objective, w, v = Quartic(), draw_start(), torch.zeros_like(draw_start())

    def g(w):
        leaf = w.clone().requires_grad_()
        return torch.autograd.grad(objective.value(leaf), leaf)[0]

    for _ in range(STEPS):
        e = 0.3 * g(w) / g(w).square().sum().sqrt()  # equation 2, p = 2
        v = 0.9 * v + g(w + e)  # equation 3
        w = w - 0.02 * v
    last, _ = run(SAM(HeavyBall(0.02, 0.9, 0.0), 0.3), objective, draw_start())
    torch.testing.assert_close(last, w, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", BASES)
def test_with_a_vanishing_radius_it_is_the_base_optimizer(name):
    base = make_option("optimizer", name)
    last, _ = run(SAM(base, 1e-11), Quartic(), draw_start(), 8)
    expected, _ = run(base, Quartic(), draw_start(), 8)
    torch.testing.assert_close(last, expected, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("name", BASES)
def test_lanes_with_radii_of_their_own_equal_runs_alone_around_every_optimizer(name):
    base = make_option("optimizer", name)
    radii = [0.01, 1.0]
    rule = SAM(base, torch.tensor(radii, dtype=torch.float64).unsqueeze(-1))
    assert rule.lanes == base.lanes
    w = draw_start((2,))
    last, _ = run(rule, Quartic(), w, 8) if rule.lanes else (None, None)
    for i, rho in enumerate(radii if rule.lanes else []):
        alone, _ = run(SAM(base, rho), Quartic(), w[i], 8)
        torch.testing.assert_close(last[i], alone, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("a", [0.5, 3.0])
def test_on_a_parabola_it_ends_by_bouncing_across_the_minimum(a):
    """On a w^2 / 2 with steps of gradient descent |w'| = |(1 - lr a) |w| - lr a rho|, which rests where
    |w| = lr a rho / (2 - lr a)."""
    lr, rho = 0.3, 0.2

    class Parabola(Quadratic):
        def gradient(self, w):
            return a * (w**2).sum(-1) / 2, a * w

    w, rule = torch.tensor([1.0], dtype=torch.float64), SAM(SGD(lr), rho)
    signs = []
    for _ in range(200):
        w, *_ = rule.step(w, (), Parabola())
        signs.append(w.sign().item())
    assert w.abs().item() == pytest.approx(lr * a * rho / (2 - lr * a))
    assert signs[-2] == -signs[-1]


@pytest.mark.parametrize("scale", [0.0, 1e-30, 1e-10, 1e10])
def test_a_gradient_of_any_size_makes_a_step_that_is_finite(scale):
    """In single precision, where the square of a small gradient is zero, and in one lane of two."""

    class Flat(Quadratic):
        def gradient(self, w):
            self.queries.append(w.clone())
            return w.sum(-1) * 0, torch.full_like(w, scale) * torch.tensor([[1.0], [0.0]])

    objective, w = Flat(), draw_start((2,)).float()
    after, *_ = SAM(SGD(0.1), 0.5).step(w.clone(), (), objective)
    assert after.isfinite().all()
    far = (objective.queries[1] - objective.queries[0]).norm(dim=-1)
    expected = 0.5 if scale > 1e-20 else 0.0
    torch.testing.assert_close(far, torch.tensor([expected, 0.0]), rtol=1e-4, atol=1e-4)


def test_a_step_evaluates_twice_and_reports_the_values_at_w(tmp_path):
    """The first row of a run is that of its base: loss, accuracy and gradient are those at the initial weights."""
    common = ("log_every=1", "normalization=batch", "diagnostic=gradients", "schedule=cosine")
    (summary,), (one,) = train_runs(
        tmp_path / "sam",
        build_blobs("optimizer=sam", "optimizer@optimizer.base_optimizer=sgd", "optimizer.rho=2", *common),
    )
    _, (other,) = train_runs(tmp_path / "base", build_blobs("optimizer=sgd", *common))
    first, expected = one.rows()[0], other.rows()[0]
    shared = [k for k in first if k in expected and k.startswith(("recent/", "gradient/", "lr"))]
    assert {"recent/train/loss", "recent/train/accuracy", "gradient/norm", "lr"} <= set(shared)
    assert [first[k] for k in shared] == pytest.approx([expected[k] for k in shared])
    assert summary["evaluations"] == 2 * summary["step"]
    assert one.rows()[1]["recent/train/loss"] != pytest.approx(expected["recent/train/loss"])


@pytest.mark.parametrize("base", ["torch_optim", "sam"])
def test_a_run_resumes_with_the_state_of_its_base_optimizer(base, tmp_path):
    chosen = ("optimizer=sam", f"optimizer@optimizer.base_optimizer={base}", "precision=float64", "epochs=2")
    _, (whole,) = train_runs(tmp_path / "whole", build_blobs(*chosen))
    half = interrupt_run(tmp_path / "half", 3, build_blobs(*chosen))
    _, half = resume_run(half.path, build_blobs(*chosen))
    assert torch.equal(load_weights(half), load_weights(whole))
