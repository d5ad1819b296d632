"""Gradient clipping: parity with torch's two functions, and what it leaves alone."""

import pytest
import torch
from helpers import build_blobs, interrupt_run, load_weights, read_rows, resume_run, train_runs
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parameters_to_vector, vector_to_parameters

from dlopt import prng
from dlopt.config.problems import ConfigError
from dlopt.objective.clipping import Clip
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.regularization.l2 import L2

NUMBERS = torch.tensor([[3.0, -4.0, 0.0, 12.0], [0.3, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def rows(clip):
    return clip(NUMBERS.clone())


# ------------------------------------------------------------------------------------------- the formulas


def test_a_norm_above_the_limit_becomes_the_limit_and_the_direction_stays():
    found = rows(Clip(2.0, None))
    torch.testing.assert_close(found[0], NUMBERS[0] * 2 / 13)
    assert torch.equal(found[1:], NUMBERS[1:])


def test_each_entry_is_cut_by_itself():
    found = rows(Clip(None, 2.0))
    assert found[0].tolist() == [2.0, -2.0, 0.0, 2.0]
    assert torch.equal(found[1:], NUMBERS[1:])


def test_entries_are_cut_before_the_norm_is_taken_and_both_limits_hold():
    found = rows(Clip(3.0, 2.0))
    torch.testing.assert_close(found[0], torch.tensor([2.0, -2.0, 0.0, 2.0]).double() * 3 / 12**0.5)
    assert torch.equal(found[1:], NUMBERS[1:])


@pytest.mark.parametrize("clip", [Clip(1.0, None), Clip(None, 1.0), Clip(1.0, 1.0)])
def test_the_gradient_that_is_given_is_kept_and_limits_are_not_exceeded(clip):
    g = torch.randn(5, 40, dtype=torch.float64) * 10
    before = g.clone()
    found = clip(g)
    assert torch.equal(g, before)
    assert found.abs().max() <= 1
    assert clip.norm is None or (found.norm(dim=-1) <= 1 + 1e-12).all()


@pytest.mark.parametrize("clip", [Clip(1.0, None), Clip(None, 1.0), Clip(1.0, 1.0)])
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_what_is_not_finite_stays_seen_in_its_own_lane_alone(clip, bad):
    g = torch.ones(2, 4)
    g[0, 1] = bad
    found = clip(g)
    assert not found[0].isfinite().all()
    assert found[1].isfinite().all()


def test_a_norm_too_large_for_its_type_is_not_taken_for_nothing():
    assert Clip(1.0, None)(torch.full((4,), 1e30)).isnan().all()


# ------------------------------------------------------------------------------------------- in training

SETTINGS = {
    "norm": ("clip.norm=0.2",),
    "value": ("clip.value=0.01",),
    "both": ("clip.norm=0.05", "clip.value=0.02"),
}


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("penalty", [(), ("regularization=l2", "regularization.l2.strength=0.5")])
def test_a_trajectory_is_that_of_torchs_own_functions(name, penalty, tmp_path):
    experiment = build_blobs(
        *SETTINGS[name], *penalty, "precision=float64", "optimizer=momentum", "optimizer.lr=0.1", "batch_size=full",
        "validation.fraction=0", "epochs=20",
    )  # fmt: skip
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    vector_to_parameters(experiment.w.clone(), model.parameters())
    rule = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    clip, cut = experiment.settings.clip, 0
    x, y = experiment.train.inputs.double(), experiment.train.targets
    for _ in range(20):
        rule.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        squares = sum(p.square().sum() for p in model.parameters() if p.ndim > 1)
        (loss + (0.25 * squares if penalty else 0.0)).backward()
        before = [p.grad.clone() for p in model.parameters()]
        if clip.value is not None:
            clip_grad_value_(model.parameters(), clip.value)
        if clip.norm is not None:
            clip_grad_norm_(model.parameters(), clip.norm)
        cut += any(not torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
        rule.step()
    assert cut > 5
    _, (run,) = train_runs(tmp_path, experiment)
    # torch adds 1e-6 to the norm that it divides by
    torch.testing.assert_close(
        load_weights(run), parameters_to_vector(model.parameters()).detach(), rtol=1e-4, atol=1e-5
    )


def test_the_loss_and_curvature_are_left_as_they_are_and_every_gradient_of_a_step_is_clipped():
    experiment = build_blobs("precision=float64")
    x, y = experiment.train.inputs.double(), experiment.train.targets
    model = experiment.model.double()
    clipped = Problem(model, experiment.loss, (L2(1.0),), clip=Clip(0.01, None))
    plain = Problem(model, experiment.loss, (L2(1.0),))
    w = experiment.w
    for problem in (clipped, plain):
        problem.bind(w.clone())
    one, other = (MiniBatchObjective(p, x, y, prng.key(0)) for p in (clipped, plain))
    for at in (w, w + 1, w):
        (loss, g), (expected, whole) = one.gradient(at), other.gradient(at)
        torch.testing.assert_close(loss, expected)
        torch.testing.assert_close(g, whole * 0.01 / whole.norm())
        torch.testing.assert_close(one.value(at), expected)
        torch.testing.assert_close(one.hvp(at, w), other.hvp(at, w))


CLIPPED = ("clip.norm=0.1", "clip.value=0.05", "precision=float64", "regularization=l2", "optimizer=momentum",
           "diagnostic=gradients", "log_every=1")  # fmt: skip


def test_lanes_are_clipped_each_by_its_own_norm(tmp_path):
    own = [(*CLIPPED, f"seed={seed}", f"regularization.l2.strength={s}") for seed, s in enumerate((0.0, 0.1, 3.0))]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*o) for o in own))
    for i, lane in enumerate(lanes):
        _, (alone,) = train_runs(tmp_path / f"alone{i}", build_blobs(*own[i]))
        torch.testing.assert_close(load_weights(lane), load_weights(alone), rtol=1e-9, atol=1e-9)
        for mine, other in zip(lane.rows(), alone.rows(), strict=True):
            assert mine["gradient/norm"] == pytest.approx(other["gradient/norm"])


def test_a_clipped_run_goes_on_in_the_same_bits(tmp_path):
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*CLIPPED))
    run = interrupt_run(tmp_path / "run", 4, build_blobs(*CLIPPED))
    _, run = resume_run(run.path, build_blobs(*CLIPPED))
    assert torch.equal(load_weights(run), load_weights(straight))
    assert read_rows(run) == read_rows(straight)


def test_the_instrument_sees_the_norm_before_it_is_clipped(tmp_path):
    _, (run,) = train_runs(tmp_path / "clipped", build_blobs(*CLIPPED))
    _, (free,) = train_runs(tmp_path / "free", build_blobs(*CLIPPED, "clip.norm=null", "clip.value=null"))
    assert run.rows()[0]["gradient/norm"] == free.rows()[0]["gradient/norm"]
    assert all(row["gradient/norm"] > 0.2 for row in run.rows()[:3])


@pytest.mark.parametrize("clip", SETTINGS.values())
def test_an_explosion_is_still_seen(clip, tmp_path):
    """The loss of the data is finite all the while, the gradient of the penalty is not."""
    exploding = build_blobs(*clip, "optimizer=sgd", "regularization=l2", "regularization.l2.strength=1e39")
    (summary,), _ = train_runs(tmp_path, exploding)
    assert summary["status"] == "diverged"


def test_a_limit_that_nothing_reaches_leaves_a_run_as_it_is_bit_for_bit(tmp_path):
    _, (run,) = train_runs(tmp_path / "high", build_blobs("clip.norm=1e6", "clip.value=1e6"))
    _, (plain,) = train_runs(tmp_path / "plain", build_blobs())
    assert torch.equal(load_weights(run), load_weights(plain))


@pytest.mark.parametrize("name", ["LBFGS", "torch.optim.LBFGS", "torch.optim.lbfgs.LBFGS"])
def test_a_line_search_is_not_given_clipped_gradients(name):
    rule = ("optimizer=torch_optim", f"optimizer.name={name}")
    assert build_blobs(*rule).optimizer.needs_true_gradient
    for key in ("clip.norm", "clip.value"):
        with pytest.raises(ConfigError) as found:
            build_blobs(*rule, f"{key}=1.0")
        ((at, said),) = found.value.problems
        assert at == key
        assert "LBFGS needs them as they are" in said
    assert not build_blobs("optimizer=torch_optim", "clip.norm=1.0").optimizer.needs_true_gradient
