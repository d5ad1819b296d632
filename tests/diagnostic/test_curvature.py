"""diagnostic=curvature against dense Hessians."""

import pytest
import torch
from objectives import KEYS, SETTINGS, make_objective, make_problem
from torch import nn
from torch.special import ndtr

from dlopt import prng
from dlopt.base.diagnostic import Histogram
from dlopt.diagnostic.curvature import LABELS, Curvature, _count_decades
from dlopt.linalg.lanczos import tridiagonalize
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.objective.second_derivatives import LayerError
from dlopt.parts import StepRecord


def measure(objective, w, **keys):
    record = StepRecord(0, w, w + 1, torch.zeros(()), torch.zeros_like(w), 0.1, objective.layout, objective)
    diagnostic = Curvature(None, **keys, columns=4)
    tags, memory = diagnostic.measure(record, diagnostic.init(w, objective.layout))
    assert tags.pop("curvature/spectrum").values is memory.columns
    return tags.pop("histogram/curvature/density"), {k.removeprefix("curvature/"): v.item() for k, v in tags.items()}


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_with_as_many_steps_as_weights_all_is_that_of_the_dense_hessian(arch, setting):
    problem, w = make_problem(arch, *SETTINGS[setting])
    objective = make_objective(problem, arch=arch)
    values, vectors = torch.linalg.eigh(objective.hessian(w))
    _, g = objective.gradient(w)
    _, tags = measure(objective, w, iterations=len(w), probes=2, top=3, bins=10)
    assert tags["lambda_max"] == pytest.approx(values[-1].item(), rel=1e-9)
    assert tags["lambda_min"] == pytest.approx(values[0].item(), rel=1e-9)
    share = (vectors[:, -3:].T @ g).square().sum() / g.square().sum()
    assert tags["gradient_share"] == pytest.approx(share.item(), rel=1e-6)
    if values.abs().min() > 1e-9:  # else the Hessian is singular
        assert tags["condition"] == pytest.approx((values.abs().max() / values.abs().min()).item(), rel=1e-4)
    assert tags["condition"] > 1


def test_trace_and_negative_share_are_means_over_random_vectors():
    problem, w = make_problem("mlp", *SETTINGS["all"])
    objective = make_objective(problem)
    values = torch.linalg.eigvalsh(objective.hessian(w))
    density, tags = measure(objective, w, iterations=16, probes=60, top=1, bins=10)
    assert abs(tags["trace"] - values.sum().item()) < 4 * tags["trace_error"] < 0.6 * values.sum().item()
    assert tags["negative_share"] == pytest.approx((values < 0).double().mean().item(), abs=0.1)
    assert density.counts.sum().item() == pytest.approx(len(w))


def test_the_trace_is_hutchinsons_with_its_standard_error():
    problem, w = make_problem()
    objective = make_objective(problem)
    _, tags = measure(objective, w, iterations=2, probes=5, top=1, bins=10)
    keys = (prng.fold_in(objective.random_key("curvature"), i) for i in range(5))
    v = torch.stack([prng.rademacher(key, (len(w),)).to(w.dtype) for key in keys])
    terms = ((v @ objective.hessian(w)) * v).sum(-1)
    assert tags["trace"] == pytest.approx(terms.mean().item())
    assert tags["trace_error"] == pytest.approx(terms.std().item() / 5**0.5)


def test_eigenvalues_within_rounding_of_zero_are_not_negative():
    """A positive semidefinite matrix of rank 3 and size 12."""
    factor = torch.randn(12, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    problem, w = make_problem()
    objective, w = make_objective(problem), w[:12]
    objective.hvp = lambda w, v: factor @ (factor.T @ v)
    objective.true_gradient = lambda w: (None, factor[:, 0])
    _, tags = measure(objective, w, iterations=12, probes=2, top=3, bins=10)
    assert tags["negative_share"] == 0
    assert tags["gradient_share"] == pytest.approx(1)


def test_one_random_vector_has_no_error_of_the_trace():
    problem, w = make_problem()
    _, tags = measure(make_objective(problem), w, iterations=2, probes=1, top=1, bins=10)
    assert "trace_error" not in tags


def test_the_quadrature_gives_moments_of_the_density():
    """q'A^j q for j < 2 k, and all eigenvalues, also repeated ones, if k = P."""
    g = torch.Generator().manual_seed(3)
    a = torch.randn(12, 12, generator=g, dtype=torch.float64)
    a = a + a.T
    start = torch.randn(12, generator=g, dtype=torch.float64)
    q = start / start.norm()
    nodes, weights, _ = tridiagonalize(lambda v: a @ v, start, 4).quadrature()
    assert weights.sum().item() == pytest.approx(1)
    for j in range(8):
        moment = q @ torch.linalg.matrix_power(a, j) @ q
        torch.testing.assert_close((weights * nodes**j).sum(), moment)


def test_buckets_hold_gaussians_of_the_deviation_of_a_bucket():
    nodes = torch.tensor([[0.0, 1.0, 4.0], [2.0, 2.0, 2.0], [0.0, torch.nan, 1.0]], dtype=torch.float64)
    masses = torch.tensor([1.0, 2.0, 5.0], dtype=torch.float64).expand(3, 3)
    histogram = Histogram.of_nodes(nodes, masses, 4)
    edges = torch.tensor([-torch.inf, 1, 2, 3, torch.inf], dtype=torch.float64)
    for i in range(4):
        share = sum(m * (ndtr(edges[i + 1] - x) - ndtr(edges[i] - x)) for x, m in zip(nodes[0], masses[0], strict=True))
        assert histogram.counts[0, i].item() == pytest.approx(share.item())
    assert histogram.counts.sum(-1).tolist() == pytest.approx([8, 8, 0])
    assert histogram.low.tolist() == [0, 2, 0]
    assert histogram.high.tolist() == [4, 2, 0]


def test_the_picture_counts_eigenvalues_in_powers_of_ten():
    nodes = torch.tensor([2e3, 50.0, 20.0, 1e-5, -1e-4, -0.02, -5e3], dtype=torch.float64)
    masses = torch.tensor([1.0, 2, 3, 4, 5, 6, 7], dtype=torch.float64)
    counts = dict(zip(LABELS, _count_decades(nodes, masses).tolist(), strict=True))
    expected = {"> 1e3": 1, "> 1e1": 5, "|x| < 1e-3": 9, "< -1e-2": 6, "< -1e3": 7}
    assert counts == {label: expected.get(label, 0) for label in LABELS}
    assert list(counts)[:2] == ["> 1e3", "> 1e2"]


class Attention(nn.Module):
    """Attention over four positions, whose fused kernel has no second derivative, and a layer that may have none."""

    def __init__(self, last=None):
        super().__init__()
        self.embed = nn.Linear(1, 4)
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.last = last or nn.Identity()
        self.output = nn.Linear(4, 3)

    def forward(self, x):
        h = self.embed(x.unsqueeze(-1))
        h, _ = self.attention(h, h, h, need_weights=False)
        return self.output(self.last(h).mean(1))


def make_attention_objective(last=None):
    torch.manual_seed(0)
    model = Attention(last).double()
    problem = Problem(model, CrossEntropy([], None))
    w = problem.bind(nn.utils.parameters_to_vector(model.parameters()).detach())
    return MiniBatchObjective(problem, torch.randn(6, 4, dtype=torch.float64), torch.randint(3, (6,)), KEYS[0]), w


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.GRU(4, 4, batch_first=True)

    def forward(self, x):
        return self.layer(x)[0]


@pytest.mark.parametrize("last", [None, Recurrent])
def test_attention_and_recurrent_layers_take_kernels_that_have_second_derivatives(last):
    objective, w = make_attention_objective(last and last())
    _, tags = measure(objective, w, iterations=len(w), probes=1, top=1, bins=10)
    values = torch.linalg.eigvalsh(objective.hessian(w))
    assert tags["lambda_max"] == pytest.approx(values[-1].item())
    assert tags["lambda_min"] == pytest.approx(values[0].item())


class Distances(nn.Module):
    def forward(self, x):
        return torch.cdist(x, x)


def test_a_layer_without_second_derivative_is_named():
    objective, w = make_attention_objective(Distances())
    with pytest.raises(LayerError, match=r"^last \(Distances\) has no second derivative .* put another layer"):
        measure(objective, w, iterations=2, probes=1, top=1, bins=10)
