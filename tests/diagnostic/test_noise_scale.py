"""diagnostic=noise against gradients taken one by one."""

import pytest
import torch
from helpers import build_blobs, make_option, read_rows, train_runs
from objectives import CLASSES, KEYS, LANE_KEY, SETTINGS, draw_data, make_objective, make_problem
from torch import nn
from torch.func import vmap
from torch.nn.functional import cross_entropy

from dlopt.diagnostic.noise import Noise
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.objective import example_gradients
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import StepRecord


def measure(objective, w, examples, smoothing=0.0, memory=None):
    diagnostic = Noise(None, examples, smoothing)
    record = StepRecord(0, w, w + 1, torch.zeros(()), torch.zeros_like(w), 0.1, objective.layout, objective)
    tags, memory = diagnostic.measure(record, memory or diagnostic.init(w, objective.layout))
    return {name.removeprefix("noise/"): value.item() for name, value in tags.items()}, memory


def test_the_noise_scale_is_that_of_its_definition_from_1000_gradients():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3)).double()
    x, y = torch.randn(1000, 5, dtype=torch.float64), torch.randint(3, (1000,))
    parameters = list(model.parameters())
    g = torch.stack(
        [torch.cat([p.flatten() for p in torch.autograd.grad(cross_entropy(model(a[None]), b[None]), parameters)])
         for a, b in zip(x, y, strict=True)]
    )  # fmt: skip
    problem = Problem(model, CrossEntropy([], None))
    w = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
    tags, _ = measure(MiniBatchObjective(problem, x, y, KEYS[0]), problem.bind(w), 1000)
    trace = g.var(0).sum().item()  # unbiased
    signal = g.mean(0).square().sum().item() - trace / 1000
    assert tags["variance"] == pytest.approx(trace, rel=1e-9)
    assert tags["signal"] == pytest.approx(signal, rel=1e-9)
    assert tags["scale"] == tags["critical_batch_size"] == pytest.approx(trace / signal, rel=1e-9)
    assert tags["ratio"] == pytest.approx(1000 * signal / trace, rel=1e-9)


@pytest.mark.parametrize("arch", ["mlp", "cnn"])
@pytest.mark.parametrize("setting", ["plain", "l2", "batch norm"])
def test_the_mean_of_the_gradients_is_that_of_the_loss(arch, setting):
    """Without the penalty; with batch normalization it holds because each loss is differentiated within the batch."""
    problem, w = make_problem(arch, *SETTINGS[setting])
    objective = make_objective(problem, arch=arch)
    gradients = torch.cat([*objective.example_gradients(w, 100)])
    plain, _ = make_problem(arch, setting == "batch norm")
    _, g = make_objective(plain, arch=arch).gradient(w)
    assert len(gradients) == objective.batch_size
    torch.testing.assert_close(gradients.mean(0), g)


def test_within_a_batch_a_gradient_is_the_derivative_of_one_loss():
    problem, w = make_problem("mlp", batch_norm=True)
    x, y = draw_data()
    gradients = torch.cat([*MiniBatchObjective(problem, x, y, KEYS[0]).example_gradients(w, 3)])
    assert len(gradients) == 3
    at = w.clone().requires_grad_()
    losses = cross_entropy(
        torch.func.functional_call(problem.model, problem.layout.views(at), (x,)), y, reduction="none"
    )
    for i in range(3):
        (g,) = torch.autograd.grad(losses[i], at, retain_graph=True)
        torch.testing.assert_close(gradients[i], g)


def test_each_example_has_a_mask_of_its_own():
    """The same example many times: only dropout makes its gradients differ."""
    problem, w = make_problem("mlp", *SETTINGS["dropout"])
    x, y = draw_data()
    same = MiniBatchObjective(problem, x[:1].expand(200, -1), y[:1].expand(200), KEYS[0])
    gradients = torch.cat([*same.example_gradients(w, 200)])
    assert len(gradients.unique(dim=0)) > 100
    means = [MiniBatchObjective(problem, x[:1].expand(2000, -1), y[:1].expand(2000), k).gradient(w)[1] for k in KEYS]
    error = (gradients.mean(0) - torch.stack(means).mean(0)).norm() / gradients.std(0).norm()
    assert error < 4 / 200**0.5


@pytest.mark.parametrize("setting", SETTINGS)
def test_chunks_do_not_matter(setting, monkeypatch):
    problem, w = make_problem("mlp", *SETTINGS[setting])
    whole, _ = measure(make_objective(problem), w, 7)
    monkeypatch.setattr(example_gradients, "MAX_NUMBERS", 3 * len(w))
    assert [len(g) for g in make_objective(problem).example_gradients(w, 7)] == [3, 3, 1]
    assert measure(make_objective(problem), w, 7)[0] == pytest.approx(whole, rel=1e-9)


@pytest.mark.parametrize("together", [1, 2, 90])
def test_backward_passes_of_a_batch_are_bounded(together, monkeypatch):
    """Each gradient takes the memory of a backward pass of the whole batch."""
    problem, w = make_problem("mlp", *SETTINGS["batch norm"])
    whole, _ = measure(make_objective(problem), w, 7)
    size = make_objective(problem).batch_size
    monkeypatch.setattr(example_gradients, "MAX_EXAMPLES", together * size + (size - 1) * (together > 1))
    sizes = []
    monkeypatch.setattr(example_gradients, "vmap", lambda f, **keys: sizes.extend(keys.values()) or vmap(f, **keys))
    assert measure(make_objective(problem), w, 7)[0] == pytest.approx(whole, rel=1e-9)
    assert sizes == [together]


def test_the_critical_batch_size_is_a_ratio_of_averages():
    problem, w = make_problem()
    results, memory = [], None
    for step in range(3):
        x, y = draw_data()
        objective = MiniBatchObjective(problem, x + step, y, KEYS[step])
        tags, memory = measure(objective, w, 8, 0.9, memory)
        results.append(tags)
    shares = [0.9**2, 0.9, 1.0]
    variance, signal = (sum(s * r[k] for s, r in zip(shares, results, strict=True)) for k in ("variance", "signal"))
    assert results[-1]["critical_batch_size"] == pytest.approx(variance / signal if signal > 0 else float("inf"))


def test_without_a_signal_the_scale_is_infinite_and_the_ratio_zero():
    """Two examples with opposite gradients."""
    problem, w = make_problem()
    x, y = draw_data()
    objective = MiniBatchObjective(problem, x, y, KEYS[0])
    g = torch.stack([torch.ones_like(w), -torch.ones_like(w)])
    objective.example_gradients = lambda w, count: iter([g])
    tags, _ = measure(objective, w, 2)
    assert tags["variance"] == 2 * len(w)
    assert tags["signal"] == -len(w)
    assert (tags["scale"], tags["ratio"]) == (float("inf"), 0.0)


def test_a_batch_of_one_example_has_no_noise(tmp_path):
    _, (run,) = train_runs(
        tmp_path, build_blobs("batch_size=1", "steps=2", "diagnostic=noise", "diagnostic.noise.every=1")
    )
    assert not any(name.startswith("noise/") for row in read_rows(run) for name in row)


def test_only_the_first_micro_batch_is_used():
    problem, w = make_problem("mlp", *SETTINGS["plain"], micro_batch_size=4)
    whole, _ = make_problem()
    first = torch.cat([*make_objective(problem).example_gradients(w, 100)])
    torch.testing.assert_close(first, torch.cat([*make_objective(whole).example_gradients(w, 100)])[:4])


@pytest.mark.parametrize("setting", SETTINGS)
def test_gradients_of_lanes_are_those_of_runs_alone(setting):
    problem, w = make_problem("mlp", *SETTINGS[setting], lanes=3)
    x, y = draw_data(lanes=3)
    together = torch.cat([*MiniBatchObjective(problem, x, y, LANE_KEY).example_gradients(w, 5)], 1)
    for i in range(3):
        alone, own = make_problem("mlp", *SETTINGS[setting], w=w[i])
        objective = MiniBatchObjective(alone, x[i], y[i], KEYS[i])
        torch.testing.assert_close(together[i], torch.cat([*objective.example_gradients(own, 5)]))


class Recurrent(nn.Module):
    """A recurrent layer of torch over the features of an example; normalization makes examples depend on each other."""

    def __init__(self, layer, *after):
        super().__init__()
        self.layer = layer(1, 4, batch_first=True)
        self.head = nn.Sequential(*after, nn.Linear(4, CLASSES))

    def forward(self, x):
        return self.head(self.layer(x.unsqueeze(-1))[0][:, -1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("layer", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("normalizes", [False, True])
def test_recurrent_layers_of_torch_have_gradients_of_examples(normalizes, layer, dtype):
    """They have no rule for vmap in some precisions."""
    torch.manual_seed(3)
    problem = Problem(
        Recurrent(layer, *[make_option("normalization", "batch")(4, 1)] * normalizes).to(dtype), CrossEntropy([], None)
    )
    w = torch.nn.utils.parameters_to_vector(problem.model.parameters()).detach()
    x, y = draw_data()
    objective = MiniBatchObjective(problem, x.to(dtype), y, KEYS[0])
    gradients = torch.cat([*objective.example_gradients(w, 100)])
    assert len(gradients) == len(y)
    torch.testing.assert_close(gradients.mean(0), objective.true_gradient(w)[1], rtol=1e-4, atol=1e-6)
