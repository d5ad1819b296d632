"""Gradient clipping: parity with the two functions of torch, and what it does not change."""

import math

import pytest
import torch
from helpers import assert_build_refused, build_blobs, interrupt_run, load_weights, read_rows, resume_run, train_runs
from pytorch_optimizer.optimizer.agc import agc
from torch import nn
from torch.nn.utils import clip_grad_norm_, clip_grad_value_, parameters_to_vector, vector_to_parameters

from dlopt import prng
from dlopt.base.layout import Layout
from dlopt.normalization.batch import BatchNorm
from dlopt.objective.clipping import Clip
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.regularization.l2 import L2

ROWS = torch.tensor([[3.0, -4.0, 0.0, 12.0], [0.3, 0.4, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)


def make_clip(norm, value=None, agc=None, eps=1e-3, output=True):
    return Clip(norm, value, agc, eps, output)


def clip_rows(clip, g):
    """Clip gradients of a unit whose weights are one."""
    return clip(g, torch.ones_like(g), Layout.of(nn.Linear(g.shape[-1], 1, bias=False)))


CLIPS = [make_clip(1.0), make_clip(None, 1.0), make_clip(1.0, 1.0), make_clip(None, None, 0.1)]


# ------------------------------------------------------------------------------------------- the formulas


@pytest.mark.parametrize(
    ("clip", "first"),
    [
        (make_clip(2.0, None), ROWS[0] * 2 / 13),
        (make_clip(None, 2.0), torch.tensor([2.0, -2.0, 0.0, 2.0]).double()),
        (make_clip(3.0, 2.0), torch.tensor([2.0, -2.0, 0.0, 2.0]).double() * 3 / 12**0.5),
        (make_clip(None, None, 3.0), ROWS[0] * 3 * 2 / 13),
        (make_clip(1.0, 2.0, 0.5), torch.tensor([2.0, -2.0, 0.0, 2.0]).double() / 12**0.5),
    ],
    ids=["norm", "value", "value before norm", "agc", "value, agc and norm"],
)
def test_only_gradients_above_a_limit_are_clipped(clip, first):
    clipped = clip_rows(clip, ROWS.clone())
    torch.testing.assert_close(clipped[0], first)
    assert torch.equal(clipped[1:], ROWS[1:])


@pytest.mark.parametrize("clip", CLIPS)
def test_the_gradient_is_not_modified_and_no_limit_is_exceeded(clip):
    g = torch.randn(5, 40, dtype=torch.float64) * 10
    before = g.clone()
    clipped = clip_rows(clip, g)
    assert torch.equal(g, before)
    assert clipped.abs().max() <= 1
    assert clip.norm is None or (clipped.norm(dim=-1) <= 1 + 1e-12).all()


@pytest.mark.parametrize("clip", CLIPS)
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
def test_a_value_that_is_not_finite_stays_visible_in_its_lane_only(clip, bad):
    g = torch.ones(2, 4)
    g[0, 1] = bad
    clipped = clip_rows(clip, g)
    assert not clipped[0].isfinite().all()
    assert clipped[1].isfinite().all()


def test_an_overflow_of_the_norm_is_nan_not_zero():
    assert clip_rows(make_clip(1.0), torch.full((4,), 1e30)).isnan().all()


# ------------------------------------------------------------------------------------------- units


def make_layers():
    """A module of each kind of units, with small and large weights, and biases of zero."""
    torch.manual_seed(0)
    layers = nn.ModuleList([
        nn.Conv2d(2, 4, 3), BatchNorm(4), nn.ConvTranspose2d(4, 6, 2, groups=2), nn.LSTM(3, 2), nn.Conv1d(3, 5, 2),
        nn.Linear(5, 3),
    ]).double()  # fmt: skip
    with torch.no_grad():
        for layer in layers[::2]:
            next(layer.parameters()).mul_(1e-4)
        layers[0].bias.zero_()
    return layers


def clip_units(w, g, ratio, eps):
    """Brock et al. 2021, equation 3: clip the gradients of units, each a list of weights, one unit after another."""
    for weights, gradients in zip(w, g, strict=True):
        largest = ratio * max(math.sqrt(sum(float(x) ** 2 for x in weights.flatten())), eps)
        length = math.sqrt(sum(float(x) ** 2 for x in gradients.flatten()))
        yield gradients * (largest / length) if length > largest else gradients


def split_units(layer, p):
    """Return the weights of each unit of a parameter."""
    if p.ndim == 1:
        return [p]
    if isinstance(layer, nn.ConvTranspose2d):  # (in, out / groups, k, k): half of the inputs reach an output
        return [p[2 * group : 2 * group + 2, i] for group in range(2) for i in range(3)]
    return list(p)


@pytest.mark.parametrize("output", [False, True])
@pytest.mark.parametrize(("ratio", "eps"), [(0.3, 1e-3), (3.0, 0.5)])
def test_adaptive_clipping_is_that_of_the_paper_unit_by_unit(ratio, eps, output):
    layers = make_layers()
    layout = Layout.of(layers)
    w = parameters_to_vector(layers.parameters()).detach()
    w, g = torch.stack([w, 2 * w]), torch.randn(2, len(w), dtype=torch.float64)
    clipped, before, count = make_clip(None, None, ratio, eps, output)(g, w, layout), g.clone(), 0
    assert torch.equal(g, before)
    for i in range(2):
        weights, gradients, ours = (layout.views(x[i]) for x in (w, g, clipped))
        for name in weights:
            layer = layers[int(name.partition(".")[0])]
            if layer is layers[-1] and not output:
                assert torch.equal(ours[name], gradients[name])
                continue
            pieces = [split_units(layer, x[name]) for x in (weights, gradients, ours)]
            for mine, expected in zip(pieces[2], clip_units(*pieces[:2], ratio, eps), strict=True):
                torch.testing.assert_close(mine, expected, rtol=1e-12, atol=1e-15)
            count += int(not torch.equal(ours[name], gradients[name]))
            if layer in (layers[0], layers[-1]):  # of kernels in one dimension, that function joins no positions
                torch.testing.assert_close(ours[name], agc(weights[name], gradients[name], eps, ratio))
    assert count > 10


# ------------------------------------------------------------------------------------------- in training

SETTINGS = {
    "norm": ("clip.norm=0.2",),
    "value": ("clip.value=0.01",),
    "both": ("clip.norm=0.05", "clip.value=0.02"),
    "agc": ("clip.agc=0.02", "clip.agc_eps=1e-2", "clip.agc_output=true"),
}


PENALTY = ("regularization=l2", "regularization.l2.strength=0.5")


@pytest.mark.parametrize(("name", "penalty"), [("norm", PENALTY), ("value", ()), ("both", PENALTY), ("agc", ())])
def test_a_trajectory_equals_one_with_the_functions_of_torch(name, penalty, tmp_path):
    experiment = build_blobs(
        *SETTINGS[name], *penalty, "precision=float64", "optimizer=momentum", "optimizer.lr=0.1", "batch_size=full",
        "validation.fraction=0", "epochs=12",
    )  # fmt: skip
    model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)).double()
    vector_to_parameters(experiment.w.clone(), model.parameters())
    rule = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    clip, cut = experiment.settings.clip, 0
    x, y = experiment.train.inputs.double(), experiment.train.targets
    for _ in range(12):
        rule.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x), y)
        squares = sum(p.square().sum() for p in model.parameters() if p.ndim > 1)
        (loss + (0.25 * squares if penalty else 0.0)).backward()
        before = [p.grad.clone() for p in model.parameters()]
        if clip.value is not None:
            clip_grad_value_(model.parameters(), clip.value)
        if clip.agc is not None:
            for p in model.parameters():
                p.grad = agc(p.detach(), p.grad, clip.agc_eps, clip.agc)
        if clip.norm is not None:
            clip_grad_norm_(model.parameters(), clip.norm)
        cut += any(not torch.equal(p.grad, g) for p, g in zip(model.parameters(), before, strict=True))
        rule.step()
    assert cut > 5
    _, (run,) = train_runs(tmp_path, experiment)
    # torch adds 1e-6 to the norm in the denominator
    torch.testing.assert_close(
        load_weights(run), parameters_to_vector(model.parameters()).detach(), rtol=1e-4, atol=1e-5
    )


def test_every_gradient_of_a_step_is_clipped_but_neither_loss_nor_curvature():
    experiment = build_blobs("precision=float64")
    x, y = experiment.train.inputs.double(), experiment.train.targets
    model = experiment.model.double()
    clipped = Problem(model, experiment.loss, (L2(1.0),), clip=make_clip(0.01, None))
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


CLIPPED = ("clip.norm=0.1", "clip.value=0.05", "clip.agc=0.05", "precision=float64", "regularization=l2", "optimizer=momentum",
           "diagnostic=gradients", "log_every=1")  # fmt: skip


def test_lanes_are_clipped_each_by_its_own_norm(tmp_path):
    own = [(*CLIPPED, f"seed={seed}", f"regularization.l2.strength={s}") for seed, s in enumerate((0.0, 0.1, 3.0))]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*o) for o in own))
    for i, lane in enumerate(lanes):
        _, (alone,) = train_runs(tmp_path / f"alone{i}", build_blobs(*own[i]))
        torch.testing.assert_close(load_weights(lane), load_weights(alone), rtol=1e-9, atol=1e-9)
        for mine, other in zip(lane.rows(), alone.rows(), strict=True):
            assert mine["gradient/norm"] == pytest.approx(other["gradient/norm"])


def test_a_clipped_run_resumes_in_the_same_bits_and_diagnostics_see_the_unclipped_norm(tmp_path):
    _, (straight,) = train_runs(tmp_path / "straight", build_blobs(*CLIPPED))
    run = interrupt_run(tmp_path / "run", 4, build_blobs(*CLIPPED))
    _, run = resume_run(run.path, build_blobs(*CLIPPED))
    assert torch.equal(load_weights(run), load_weights(straight))
    assert read_rows(run) == read_rows(straight)
    _, (free,) = train_runs(
        tmp_path / "free", build_blobs(*CLIPPED, "clip.norm=null", "clip.value=null", "clip.agc=null")
    )
    assert straight.rows()[0]["gradient/norm"] == free.rows()[0]["gradient/norm"]
    assert all(row["gradient/norm"] > 0.2 for row in straight.rows()[:3])


@pytest.mark.parametrize("clip", SETTINGS.values())
def test_a_divergence_is_still_detected(clip, tmp_path):
    """The loss of the data stays finite, the gradient of the penalty does not."""
    exploding = build_blobs(*clip, "optimizer=sgd", "regularization=l2", "regularization.l2.strength=1e39")
    (summary,), _ = train_runs(tmp_path, exploding)
    assert summary["status"] == "diverged"


def test_an_unreached_limit_changes_no_bit_of_a_run(tmp_path):
    _, (run,) = train_runs(tmp_path / "high", build_blobs("clip.norm=1e6", "clip.value=1e6", "clip.agc=1e9"))
    _, (plain,) = train_runs(tmp_path / "plain", build_blobs())
    assert torch.equal(load_weights(run), load_weights(plain))


@pytest.mark.parametrize("name", ["LBFGS", "torch.optim.LBFGS", "torch.optim.lbfgs.LBFGS"])
def test_clipping_is_refused_for_a_line_search(name):
    rule = ("optimizer=torch_optim", f"optimizer.name={name}")
    keys = ("clip.norm", "clip.value", "clip.agc") if name == "LBFGS" else ("clip.norm",)
    for key in keys:
        assert_build_refused(lambda key=key: build_blobs(*rule, f"{key}=1.0"), key, "LBFGS needs them as they are")


def test_only_a_line_search_needs_true_gradients():
    assert not build_blobs("optimizer=torch_optim", "clip.norm=1.0").optimizer.needs_true_gradient
