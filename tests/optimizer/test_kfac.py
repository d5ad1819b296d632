"""K-FAC: dense twins, Newton's step, limits of the damping, and refusals."""

import math

import pytest
import torch
from helpers import assert_build_refused, build_blobs, load_weights, resume_run, train_runs
from objectives import KEYS, LANE_KEY, draw_data, make_problem
from torch import nn

from dlopt.loss.mse import MeanSquaredError
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.optimizer.kfac import KFAC


def kfac(lr=1.0, momentum=0.0, damping=0.0, decay=0.9, factors=1, inverses=1, fisher="model", kl_clip=None):
    return KFAC(lr, momentum, damping, decay, factors, inverses, fisher, kl_clip)


def test_one_undamped_step_is_newtons_for_a_linear_model_with_squared_loss():
    """With one output, for which the sampled gradients have the size of the Hessian's root."""
    torch.manual_seed(1)
    problem = Problem(nn.Linear(5, 1).double(), MeanSquaredError([]))
    w = torch.randn(6, dtype=torch.float64)
    x, y = torch.randn(20, 5, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
    objective = MiniBatchObjective(problem, x, y, KEYS[0])
    expected = w - torch.linalg.solve(objective.hessian(w), objective.gradient(w)[1])
    found = kfac().step(w.clone(), kfac().init(w, problem.layout), objective).w
    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(found, torch.linalg.lstsq(torch.cat([x, torch.ones(20, 1)], 1), y).solution.squeeze(-1))


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("fisher", ["model", "empirical"])
def test_steps_are_those_of_dense_kronecker_products(arch, fisher):
    """With averages, stale inverses, momentum, and batch normalization, which takes gradient steps."""
    rule = kfac(0.1, 0.5, 0.2, 0.6, 2, 3, fisher, None)
    problem, w = make_problem(arch, batch_norm=True)
    layout = problem.layout
    at, state, m = w.clone(), rule.init(w, layout), torch.zeros_like(w)
    averages = None
    for step in range(5):
        objective = MiniBatchObjective(problem, *draw_data(arch), KEYS[step % 3])
        g = objective.gradient(w)[1].clone()
        if step % 2 == 0:
            new = objective.kronecker_factors(w, sampled=fisher == "model")
            decay = min(1 - 1 / (step // 2 + 1), 0.6)
            averages = [
                tuple(decay * a + (1 - decay) * b for a, b in zip(old, now, strict=True))
                for old, now in zip(averages or new, new, strict=True)
            ]
        if step % 3 == 0:
            dense = []
            for a, b in averages:
                pi = math.sqrt((a.trace() / len(a)) / (b.trace() / len(b)))
                damped = a + pi * math.sqrt(0.2) * torch.eye(len(a)), b + math.sqrt(0.2) / pi * torch.eye(len(b))
                dense.append(torch.kron(damped[1], damped[0]))
        d = g.clone()
        for layer, matrix in zip(layout.affine, dense, strict=True):
            layer.put(d, torch.linalg.solve(matrix, layer.join(g).flatten()).view(layer.sides[::-1]))
        m = 0.5 * m + d
        w = w - 0.1 * m
        at, state, *_ = rule.step(at, state, objective)
        torch.testing.assert_close(at, w)
    norms = [p.slice for p in layout if p.kind == "norm"]
    assert norms
    assert all(torch.equal(d[part], g[part]) for part in norms)


def test_with_large_damping_it_is_gradient_descent():
    problem, w = make_problem("cnn")
    objective = MiniBatchObjective(problem, *draw_data("cnn"), KEYS[0])
    rule = kfac(lr=1e9, damping=1e10)
    found = rule.step(w.clone(), rule.init(w, problem.layout), objective).w
    torch.testing.assert_close(found, w - 0.1 * objective.gradient(w)[1], rtol=1e-4, atol=1e-6)


def test_kl_clip_limits_the_decrease_of_the_model():
    problem, w = make_problem("mlp")
    objective = MiniBatchObjective(problem, *draw_data(), KEYS[0])
    g = objective.gradient(w)[1]
    steps = [
        rule.step(w.clone(), rule.init(w, problem.layout), objective)
        for rule in (kfac(0.5, damping=0.1, kl_clip=clip) for clip in (None, 1e-3, 1e3))
    ]
    free, clipped, loose = (step.w - w for step in steps)
    assert -0.5 * g @ free > 1e-3
    assert -0.5 * g @ clipped < -0.5 * g @ free
    scale = (clipped @ g) / (free @ g)
    torch.testing.assert_close(clipped, scale * free)
    assert (scale**2 * 0.5 * -(g @ free)).item() == pytest.approx(1e-3)
    torch.testing.assert_close(loose, free)
    assert [step.info.get("kl_factor", 1) for step in steps] == pytest.approx([1, scale.item(), 1])


def test_lanes_equal_runs_alone():
    """Each with targets and a damping of its own."""
    dampings = [0.01, 0.1, 1.0]
    lanes, w = make_problem("cnn", lanes=3)
    x, y = draw_data("cnn", lanes=3)
    rule = kfac(0.1, 0.9, torch.tensor(dampings).double().unsqueeze(-1), kl_clip=0.01)
    at, state = w.clone(), rule.init(w, lanes.layout)
    for _ in range(2):
        at, state, *_ = rule.step(at, state, MiniBatchObjective(lanes, x, y, LANE_KEY))
    for i, damping in enumerate(dampings):
        problem, alone = make_problem("cnn", w=w[i])
        rule = kfac(0.1, 0.9, damping, kl_clip=0.01)
        state = rule.init(alone, problem.layout)
        for _ in range(2):
            alone, state, *_ = rule.step(alone, state, MiniBatchObjective(problem, x[i], y[i], KEYS[i]))
        torch.testing.assert_close(at[i], alone)


def test_a_run_resumes_with_the_same_bits(tmp_path):
    keys = ("optimizer=kfac", "normalization=batch")
    _, (whole,) = train_runs(tmp_path / "whole", build_blobs(*keys, "epochs=4"))
    _, (half,) = train_runs(tmp_path / "half", build_blobs(*keys, "epochs=2"))
    _, again = resume_run(half.path, build_blobs(*keys, "epochs=4"))
    assert torch.equal(load_weights(again), load_weights(whole))


def test_what_has_no_factors_is_refused_before_the_run():
    hinge = ("optimizer=kfac", "loss=hinge")
    assert_build_refused(lambda: build_blobs(*hinge), "optimizer.fisher", "use optimizer.fisher=empirical")
    assert build_blobs(*hinge, "optimizer.fisher=empirical")
    sam = ("optimizer=sam", "optimizer@optimizer.base_optimizer=kfac", "loss=hinge")
    assert_build_refused(
        lambda: build_blobs(*sam), "optimizer.base_optimizer.fisher", "use optimizer.base_optimizer.fisher=empirical"
    )
    assert_build_refused(lambda: build_blobs("optimizer=kfac", "clip.norm=1"), "clip.norm", "changes gradients")
    with pytest.raises(ValueError, match="no linear layer"):
        kfac().check(torch.zeros(4), Problem(nn.BatchNorm1d(2), MeanSquaredError([])).layout)
