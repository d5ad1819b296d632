"""diagnostic=activations against outputs computed by hand, counted one by one."""

import math

import pytest
import torch
from helpers import DEVICE, build_blobs, build_experiment, read_rows, train_runs
from torch import nn
from torch.nn.functional import conv1d, linear

from dlopt import prng
from dlopt.activation.relu import ReLU
from dlopt.activation.tanh import Tanh
from dlopt.arch.cnn import CNN
from dlopt.arch.mlp import MLP
from dlopt.diagnostic.activations import Activations
from dlopt.loss.cross_entropy import CrossEntropy
from dlopt.normalization.batch import BatchNormalization
from dlopt.normalization.none import NoNormalization
from dlopt.objective.activation_hooks import MarkedActivationFactory
from dlopt.objective.oracle import MiniBatchObjective
from dlopt.objective.problem import Problem
from dlopt.parts import StepRecord
from dlopt.regularization.dropout import Dropout

KEY = prng.key(3, "objective", 1)


def make_record(problem, w, x, y, key=KEY):
    objective = MiniBatchObjective(problem, x, y, key)
    return StepRecord(0, w, w + 1, torch.zeros(()), torch.zeros_like(w), 0.1, problem.layout, objective)


def make_problem(model, w=None, lanes=None, rules=()):
    problem = Problem(model.double(), CrossEntropy([], None), rules, lanes=lanes)
    lead = () if lanes is None else (lanes,)
    return problem, torch.randn(*lead, problem.layout.size, dtype=torch.float64) * 0.7


def draw_examples(*shape):
    return torch.randn(*shape, dtype=torch.float64), torch.randint(3, shape[:1])


def mlp(activation, widths=(6, 5), normalization=None, dropout=lambda site: None):
    return MLP(
        (4,),
        3,
        MarkedActivationFactory(activation),
        normalization or NoNormalization(),
        dropout,
        list(widths),
        None,
        None,
    )


def cnn(activation):
    return CNN(
        (2, 9), 3, MarkedActivationFactory(activation), NoNormalization(), lambda site: None, [3, 2], [3, 2], 2, 1
    )


def count_outputs(outputs, bounds=None, margin=0.05):
    """Return mean, deviation and fractions of outputs (B, units, positions), one number after the other."""
    values = [v for example in outputs.tolist() for unit in example for v in unit]
    mean = sum(values) / len(values)
    tags = {"mean": mean, "std": math.sqrt(sum((v - mean) ** 2 for v in values) / len(values))}
    units = outputs.shape[1]
    tags["dead"] = sum(all(v == 0 for v in outputs[:, u].flatten().tolist()) for u in range(units)) / units
    if bounds is not None:
        edge = margin * (bounds[1] - bounds[0])
        tags["saturated"] = sum(v <= bounds[0] + edge or v >= bounds[1] - edge for v in values) / len(values)
    return tags


def compute_outputs(problem, w, x, activate):
    """Return the outputs of the two hidden layers, (B, units, positions)."""
    v = problem.layout.views(w)
    outputs, h = {}, x
    for layer, name in ((0, "hidden.0"), (2, "hidden.1")):
        weight, bias = v[f"hidden.{layer}.weight"], v[f"hidden.{layer}.bias"]
        h = activate(linear(h, weight, bias) if weight.ndim == 2 else conv1d(h, weight, bias, 2, 1))
        outputs[name] = h.flatten(2) if h.ndim > 2 else h.unsqueeze(-1)
    return outputs


@pytest.mark.parametrize("activation", [ReLU(), Tanh()])
@pytest.mark.parametrize(("net", "shape"), [(mlp, (8, 4)), (cnn, (8, 2, 9))])
def test_fractions_and_moments_are_those_counted_one_by_one(net, shape, activation):
    problem, w = make_problem(net(activation))
    x, y = draw_examples(*shape)
    tags, memory = Activations(None, 0.05).measure(make_record(problem, w, x, y), None)
    assert memory is None
    bounds = (-1.0, 1.0) if isinstance(activation, Tanh) else None
    for layer, outputs in compute_outputs(problem, w, x, activation()).items():
        for name, value in count_outputs(outputs, bounds).items():
            assert tags.pop(f"activation/{name}/{layer}").item() == pytest.approx(value, rel=1e-12, abs=1e-15)
    assert not tags


def test_a_unit_is_dead_when_it_is_zero_on_every_example_and_position():
    """One is never above zero, one at a single position of a single example, one always."""
    problem, w = make_problem(cnn(ReLU()))
    x, y = draw_examples(8, 2, 9)
    v = problem.layout.views(w)
    v["hidden.0.bias"].copy_(torch.tensor([-1e3, 0.0, 1e3]))
    highest = conv1d(x, v["hidden.0.weight"], None, 2, 1)[:, 1].max()
    v["hidden.0.bias"][1] = -highest * (1 - 1e-6)
    tags, _ = Activations(None, 0.05).measure(make_record(problem, w, x, y), None)
    assert tags["activation/dead/hidden.0"] == pytest.approx(1 / 3)
    outputs = compute_outputs(problem, w, x, torch.relu)["hidden.0"]
    assert (outputs[:, 1] > 0).sum() == 1


@pytest.mark.parametrize("margin", [0.0, 0.01, 0.25])
def test_saturation_is_within_the_margin_of_either_limit(margin):
    class Steps(nn.Module):
        """Return the input."""

        bounds = (2.0, 6.0)
        activates = True

        def forward(self, x):
            return x

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.steps = Steps()
            self.head = nn.Linear(5, 3)

        def forward(self, x):
            return self.head(self.steps(x))

    problem, w = make_problem(Net())
    x = torch.tensor([2.0, 2.04, 3.0, 4.0, 6.0], dtype=torch.float64).repeat(2, 1)
    tags, _ = Activations(None, margin).measure(make_record(problem, w, x, torch.tensor([0, 1])), None)
    expected = {0.0: 2, 0.01: 3, 0.25: 4}[margin] / 5
    assert tags["activation/saturated/steps"] == pytest.approx(expected)


def test_only_bounded_activations_saturate():
    problem, w = make_problem(mlp(ReLU()))
    tags, _ = Activations(None, 0.05).measure(make_record(problem, w, *draw_examples(8, 4)), None)
    assert {name.split("/")[1] for name in tags} == {"mean", "std", "dead"}


def test_the_network_is_seen_as_training_sees_it():
    """Normalized by the batch, and with the masks of this step."""
    rule = Dropout(0.5, 0.0, "train")
    model = mlp(ReLU(), normalization=BatchNormalization(1e-5, 0.1), dropout=rule.module)
    problem, w = make_problem(model, rules=(rule,))
    problem.bind(w)
    x, y = draw_examples(8, 4)
    outputs_by_name = {}
    for name in ("hidden.2", "hidden.6"):
        problem.model.get_submodule(name).register_forward_hook(
            lambda m, i, out, name=name: outputs_by_name.update({name: out})
        )
    objective = MiniBatchObjective(problem, x, y, KEY)
    objective.value(w)
    trained_on = dict(outputs_by_name)
    tags = objective.activations(w)
    assert set(tags) == {"hidden.2", "hidden.6"}
    for name, outputs in tags.items():
        torch.testing.assert_close(outputs, trained_on[name])
    other = MiniBatchObjective(problem, x, y, prng.key(4)).activations(w)
    assert not torch.equal(other["hidden.6"], tags["hidden.6"]), "the masks are those of the step"


def test_measuring_changes_nothing():
    rule = Dropout(0.5, 0.0, "train")
    problem, w = make_problem(
        mlp(ReLU(), normalization=BatchNormalization(1e-5, 0.1), dropout=rule.module), rules=(rule,)
    )
    w = problem.bind(w)
    x, y = draw_examples(8, 4)
    untouched = MiniBatchObjective(problem, x, y, KEY).gradient(w)
    objective = MiniBatchObjective(problem, x, y, KEY)
    objective.activations(w + 1)
    assert objective.first is not None
    objective = MiniBatchObjective(problem, x, y, KEY)
    loss, g = objective.gradient(w)
    first, state = objective.first, {n: b.clone() for n, b in problem.model.state_dict().items()}
    before = problem.evaluations
    for at in (w, w + 1):
        objective.activations(at)
    assert problem.evaluations == before + 2, "an oracle's answers are counted"
    assert objective.first is first
    assert all(torch.equal(b, state[n]) for n, b in problem.model.state_dict().items())
    assert all(not m.batch_stats for m in problem.model.modules() if hasattr(m, "seen"))
    assert not any(m._forward_hooks for m in problem.model.modules())
    for one, two in zip(objective.gradient(w), untouched, strict=True):
        assert torch.equal(one, two)
    assert torch.equal(loss, untouched[0])
    assert torch.equal(g, untouched[1])


@pytest.mark.parametrize("activation", [ReLU(), Tanh()])
def test_lanes_are_measured_as_runs_alone(activation):
    rule = Dropout(0.3, 0.0, "train")

    def net():
        return mlp(activation, normalization=BatchNormalization(1e-5, 0.1), dropout=rule.module)

    keys = [prng.key(i) for i in range(3)]
    problem, w = make_problem(net(), lanes=3, rules=(rule,))
    x, y = torch.randn(3, 8, 4, dtype=torch.float64), torch.randint(3, (3, 8))
    key = prng.Key(*(torch.tensor(half) for half in zip(*keys, strict=True)))
    together, _ = Activations(None, 0.05).measure(make_record(problem, w, x, y, key), None)
    for i in range(3):
        alone, _ = make_problem(net(), rules=(rule,))
        tags, _ = Activations(None, 0.05).measure(make_record(alone, w[i], x[i], y[i], keys[i]), None)
        assert tags.keys() == together.keys()
        for name, value in tags.items():
            torch.testing.assert_close(together[name][i], value, rtol=1e-12, atol=1e-14)


def test_bfloat16_is_measured_in_the_precision_of_the_weights():
    problem = Problem(mlp(Tanh()), CrossEntropy([], None), precision=torch.bfloat16)
    w = torch.randn(problem.layout.size)
    x, y = draw_examples(8, 4)
    tags = MiniBatchObjective(problem, x.float(), y, KEY).activations(w)
    assert {v.dtype for v in tags.values()} == {torch.float32}


def test_no_activation_no_tags(tmp_path):
    linear = build_experiment("data=custom", "data._target_=mine.Blobs", "arch=linear", "epochs=1", "batch_size=16", f"device={DEVICE}",
                   "diagnostic=[activations,histograms]", "diagnostic.histograms.of=[activation]")  # fmt: skip
    (summary,), (run,) = train_runs(tmp_path, linear)
    assert summary["status"] == "done"
    assert not any("activation" in name for row in run.rows() for name in row)


def test_a_run_measures_at_the_iterate_before_the_step(tmp_path):
    """The first step's row is that of the initial weights."""
    experiment = build_blobs(
        "batch_size=full", "diagnostic=activations", "log_every=1", "precision=float64", "activation=tanh"
    )
    _, (run,) = train_runs(tmp_path, experiment)
    x = experiment.train.gather()[0].double()
    hidden = experiment.model.double().hidden
    nn.utils.vector_to_parameters(experiment.w.double(), experiment.model.parameters())
    with torch.no_grad():
        expected = count_outputs(hidden(x).unsqueeze(-1), (-1.0, 1.0))
    first = read_rows(run)[0]
    assert {name: first[f"activation/{name}/hidden.0"] for name in expected} == pytest.approx(expected, rel=1e-9)


def test_a_custom_network_is_measured_too(tmp_path):
    """Its torch modules are recognized by their class."""
    own = build_experiment("data=custom", "data._target_=mine.Blobs", "arch=custom", "arch._target_=mine.SigmoidNet", "epochs=1",
                "batch_size=16", f"device={DEVICE}", "diagnostic=activations")  # fmt: skip
    _, (run,) = train_runs(tmp_path, own)
    tags = {name for name in run.rows()[0] if name.startswith("activation/saturated")}
    assert tags == {"activation/saturated/0"}
