"""Muon, against torch's and against the singular value decomposition."""

import pytest
import torch
import torch.nn.functional as F
from helpers import build_blobs, build_experiment, load_weights, make_option, train_runs
from test_optimizers import STEPS, trace
from torch import nn

from dlopt import prng
from dlopt.activation.tanh import Tanh
from dlopt.arch.cnn import CNN
from dlopt.arch.mlp import MLP
from dlopt.base.dotted_fields import get_field
from dlopt.base.layout import Layout
from dlopt.config.problems import ConfigError
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.none import NoNormalization
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.optimizer.muon import SMALL, A, B, C, orthogonalize

KEYS = {"lr": 0.02, "momentum": 0.9, "scaling": "match_rms_adamw", "adam_lr_scale": 0.3, "beta2": 0.99}


def make_muon(**keys):
    return make_option("optimizer", "muon", **keys)


def make_network():
    """Square, tall and wide matrices, two of one shape, and biases."""
    torch.manual_seed(0)
    return MLP((6,), 3, Tanh(), NoNormalization(), lambda site: None, [6, 6, 6, 9, 4], None, None).double()


def draw_batches(steps=STEPS):
    torch.manual_seed(1)
    return torch.randn(50, 10, 6, dtype=torch.float64)[:steps], torch.randint(3, (50, 10))[:steps]


def trace_torch(rule, twin, x, y):
    """Return w after each step of torch.optim.Muon and torch.optim.Adam."""
    matrices = [p for p in twin.parameters() if p.ndim == 2]
    matrices = matrices[1:-1] if rule.hidden_only else matrices
    rest = [p for p in twin.parameters() if all(p is not q for q in matrices)]
    both = [
        torch.optim.Muon(
            matrices, rule.lr, 0.0, rule.momentum, rule.nesterov, ns_steps=rule.ns_steps, adjust_lr_fn=rule.scaling
        ),
        torch.optim.Adam(rest, rule.lr * rule.adam_lr_scale, (rule.beta1, rule.beta2), rule.eps),
    ]
    iterates = []
    for step in range(len(x)):
        twin.zero_grad()
        F.cross_entropy(twin(x[step]), y[step]).backward()
        for optimizer in both:
            optimizer.step()
        iterates.append(nn.utils.parameters_to_vector(twin.parameters()).detach())
    return torch.stack(iterates)


@pytest.mark.parametrize("keys", [{}, {"nesterov": False, "hidden_only": False, "ns_steps": 3}, KEYS])
def test_steps_are_those_of_torch_without_its_rounding(keys, monkeypatch):
    """torch iterates in bfloat16; here that conversion is left out of it."""
    rule = make_muon(**keys)
    monkeypatch.setattr(torch.Tensor, "bfloat16", torch.Tensor.clone)
    ours, _, _ = trace(rule, make_network(), *draw_batches())
    torch.testing.assert_close(ours, trace_torch(rule, make_network(), *draw_batches()), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("bfloat16", [False, True])
def test_a_step_is_that_of_torch_at_its_precision(bfloat16):
    rule, batches = make_muon(bfloat16=bfloat16), draw_batches(1)
    start = nn.utils.parameters_to_vector(make_network().parameters()).detach()
    ours = trace(rule, make_network(), *batches)[0][0] - start
    theirs = trace_torch(rule, make_network(), *batches)[0] - start
    assert (ours - theirs).norm() < 0.2 * theirs.norm()  # its rounding grows with the iteration's slope, 3.4 each time


def test_in_bfloat16_the_iteration_is_rounded_and_nothing_else_is():
    """bfloat16 has eight bits: a step differs by that, and not in what Adam moves."""
    start = nn.utils.parameters_to_vector(make_network().parameters()).detach()
    full, rounded = (
        trace(make_muon(bfloat16=b), make_network(), *draw_batches(1))[0][0] - start for b in (False, True)
    )
    layout = Layout.of(make_network())
    hidden = {p.name for p in [p for p in layout if p.kind == "weight"][1:-1]}
    for name, moved in layout.views(rounded).items():
        error = (moved - layout.views(full)[name]).norm() / moved.norm()
        assert bool(error > 1e-4) is (name in hidden)
        assert error < 0.3  # of gradients that are nearly singular


@pytest.mark.parametrize(("shape", "steps"), [((5, 5), 1), ((3, 7), 5), ((7, 3), 5), ((1, 6), 1)])
def test_the_iteration_is_its_polynomial_on_singular_values(shape, steps):
    torch.manual_seed(0)
    x = torch.randn(2, 3, *shape, dtype=torch.float64)
    u, s, v = torch.linalg.svd(x, full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    for _ in range(steps):
        s = A * s + B * s**3 + C * s**5
    torch.testing.assert_close(orthogonalize(x, steps), u @ torch.diag_embed(s) @ v, rtol=1e-9, atol=1e-10)


def test_after_five_steps_singular_values_are_near_one():
    torch.manual_seed(0)
    values = torch.linalg.svdvals(orthogonalize(torch.randn(50, 30, 50, dtype=torch.float64), 5))
    assert values.min() > 0.65
    assert values.max() < 1.25


def test_a_matrix_of_zeros_stays_zero_and_does_not_disturb_others():
    torch.manual_seed(0)
    x = torch.randn(3, 4, 5)
    x[1] = 0
    x[2, 0, 0] = float("nan")
    y = orthogonalize(x, 5)
    assert torch.equal(y[1], torch.zeros(4, 5))
    torch.testing.assert_close(y[0], orthogonalize(x[0], 5))
    assert y[0].isfinite().all()
    assert torch.equal(orthogonalize(torch.full((2, 2), SMALL * 1e-9), 1) > 0, torch.ones(2, 2).bool())


def test_lanes_with_numbers_of_their_own_equal_runs_alone(tmp_path):
    common = ("optimizer=muon", "arch.widths=[8,8,5]", "precision=float64", "epochs=2")
    variants = [
        ("optimizer.lr=0.1", "schedule=cosine"),
        ("optimizer.momentum=0.5", "optimizer.adam_lr_scale=0.2", "seed=1"),
    ]
    _, lanes = train_runs(tmp_path / "lanes", *(build_blobs(*common, *v) for v in variants))
    for i, v in enumerate(variants):
        _, (run,) = train_runs(tmp_path / f"solo{i}", build_blobs(*common, *v))
        torch.testing.assert_close(load_weights(lanes[i]), load_weights(run), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("optimizer", ["muon", "sam"])
@pytest.mark.parametrize("scales", [(0.3,), (0.3, 0.1)])
def test_weights_decay_at_the_rate_of_the_part_that_updates_them(optimizer, scales, tmp_path):
    """As in the authors' code, where each group of parameters has its learning rate."""
    key = "optimizer" if optimizer == "muon" else "optimizer.base_optimizer"
    common = ("arch.widths=[8,8]", "precision=float64", "steps=1", f"optimizer={optimizer}",
              *(["optimizer@optimizer.base_optimizer=muon"] if optimizer == "sam" else []))  # fmt: skip
    lasts = []
    for strength in (0.0, 0.5):
        decay = ("regularization=weight_decay", f"regularization.weight_decay.strength={strength}")
        runs = [build_blobs(*common, *decay, f"{key}.adam_lr_scale={scale}") for scale in scales]
        layout, start = Layout.of(runs[0].model), runs[0].w
        lasts.append([load_weights(run) for run in train_runs(tmp_path / str(strength), *runs)[1]])
    lr = get_field(runs[0], f"{key}.lr")
    weights = [p for p in layout if p.kind == "weight"]
    for scale, free, decayed in zip(scales, *lasts, strict=True):
        for p in layout:
            rate = 0.0 if p.kind != "weight" else lr if p in weights[1:-1] else lr * scale
            moved = (decayed - free)[p.slice]
            torch.testing.assert_close(moved, -0.5 * rate * start[p.slice], rtol=1e-9, atol=1e-14)


def test_lanes_agree_in_the_number_of_steps(tmp_path):
    common = ("optimizer=muon", "arch.widths=[8,8]")
    with pytest.raises(ValueError, match="must agree in ns_steps: 5 and 3"):
        train_runs(tmp_path, build_blobs(*common), build_blobs(*common, "optimizer.ns_steps=3"))


def test_kernels_are_matrices_and_all_else_is_adams():
    """With a rate of Adam's that is nothing only the kernels move, and by the orthogonal factor of their gradient."""
    torch.manual_seed(0)
    model = CNN((2, 9), 3, Tanh(), NoNormalization(), lambda site: None, [4, 5, 3], [3, 3, 3], 1, 1).double()
    problem = Problem(model, CrossEntropy([], None))
    w = problem.layout.flatten(dict(model.named_parameters())).detach()
    objective = MiniBatchObjective(problem, torch.randn(6, 2, 9, dtype=torch.float64), torch.arange(6) % 3, prng.key(0))
    rule = make_muon(adam_lr_scale=1e-300, lr=0.1, momentum=0.0)
    moment = rule.step(w.clone(), rule.init(w, problem.layout), objective)
    steps, g = (problem.layout.views(x) for x in (moment.w - w, moment.gradient))
    names = [p.name for p in problem.layout if p.kind == "weight"][1:-1]
    assert len(names) == 2
    for name, moved in steps.items():
        if name in names:
            rows, columns = moved.shape[0], moved[0].numel()
            expected = -0.1 * max(1, rows / columns) ** 0.5 * orthogonalize(g[name].flatten(1), 5)
            torch.testing.assert_close(moved.flatten(1), expected)
        else:
            assert moved.abs().max() < 1e-12


@pytest.mark.parametrize("arch", [("arch=mlp", "arch.widths=[8]"), ("arch=linear",)])
def test_a_net_without_hidden_matrices_is_refused(arch):
    data = ("data=custom", "data._target_=mine.Blobs", "batch_size=16")
    with pytest.raises(ConfigError, match=r"optimizer\.hidden_only=false"):
        build_experiment(*data, *arch, "optimizer=muon")
    assert build_experiment(*data, *arch, "optimizer=muon", "optimizer.hidden_only=false")
