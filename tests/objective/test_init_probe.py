"""The probe of data-dependent inits against the same network by hand, in float64."""

import mine
import pytest
import torch
import torch.nn.functional as F
from helpers import DEVICE, assert_build_refused, assert_refused, build_blobs, build_experiment, make_option
from torch import nn

from dlopt import prng
from dlopt.objective.init_probe import EXAMPLES, MiniBatchInitProbe
from dlopt.parts import Split
from dlopt.training.experiment import adjust_weights

KEY = prng.key(0, "first_batch")
DEEP = ("arch.widths=[7,6]", "activation=tanh", "precision=float64", "device=cpu", "init=xavier", "bias_init=constant")


def make_probe(experiment):
    return MiniBatchInitProbe(experiment.model, experiment.loss, experiment.train, experiment.settings.dtype, KEY)


CROSS_ENTROPY = make_option("loss", "cross_entropy")


def probe_net(model, inputs=(4,), count=12):
    """Return a probe of a network on random examples of two classes, and the weights of the network."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, *inputs, generator=draw, dtype=torch.float64)
    start = MiniBatchInitProbe(model.double(), CROSS_ENTROPY, Split(x, torch.arange(count) % 2), x.dtype, KEY)
    own = dict(model.named_parameters())
    return start, start.layout.flatten({p.name: own[p.name].detach() for p in start.layout})


def by_hand(start, w):
    """Return name, outputs and activation of each layer of the MLP 4-7-6-3 with tanh."""
    v = start.layout.views(w)
    x = start.inputs
    calls = []
    for name in ("hidden.0", "hidden.2", "output"):
        z = F.linear(x, v[f"{name}.weight"], v[f"{name}.bias"])
        x = z.tanh() if name != "output" else z
        calls.append((f"{name}.weight", z, x))
    return calls


def test_the_mini_batch_depends_on_training_split_and_seed_only():
    one, again, other = (build_blobs("precision=float64", *more) for more in ((), ("batch_size=3",), ("seed=1",)))
    starts = [make_probe(e) for e in (one, again)]
    assert torch.equal(starts[0].inputs, starts[1].inputs)
    assert starts[0].inputs.shape == (48, 4)
    train = {tuple(x.tolist()): int(y) for x, y in zip(*one.train.gather(), strict=True)}
    pairs = zip(starts[0].inputs.float(), starts[0].targets, strict=True)
    assert all(train[tuple(x.tolist())] == int(y) for x, y in pairs)
    assert torch.equal(starts[0].all_targets, one.train.gather()[1])
    key = prng.key(1, "first_batch")
    there = MiniBatchInitProbe(other.model, other.loss, one.train, torch.float64, key)
    assert not torch.equal(there.inputs, starts[0].inputs)


def test_the_number_of_examples_is_limited():
    start = make_probe(build_blobs("+data.count=600"))
    assert start.inputs.shape == (EXAMPLES, 4)
    assert len(start.inputs.unique(dim=0)) == EXAMPLES
    assert len(start.all_targets) == 480


def test_outputs_of_layers_and_of_their_activations():
    experiment = build_blobs(*DEEP)
    start, w = make_probe(experiment), experiment.w
    expected = by_hand(start, w)
    calls = []
    start.rescale_layers(w, lambda p, outputs: calls.append((p.name, outputs)))
    assert [name for name, _ in calls] == [name for name, _, _ in expected]
    for (_, outputs), (_, z, _) in zip(calls, expected, strict=True):
        torch.testing.assert_close(outputs, z)
    handed_on = start.layer_outputs(w)
    assert list(handed_on) == [name for name, _, _ in expected]
    for name, _, h in expected:
        torch.testing.assert_close(handed_on[name], h)
    torch.testing.assert_close(start.outputs(w), expected[-1][1])


def test_gradients_at_both_ends_of_each_layer():
    experiment = build_blobs(*DEEP)
    start, w = make_probe(experiment), experiment.w
    start.inputs.requires_grad_()
    (_, z1, h1), (_, z2, h2), (_, z3, _) = by_hand(start, w)
    expected = torch.autograd.grad(F.cross_entropy(z3, start.targets), [start.inputs, z1, h1, z2, h2, z3])
    start.inputs.requires_grad_(False)
    gradients = start.gradients(w)
    assert list(gradients) == ["hidden.0.weight", "hidden.2.weight", "output.weight"]
    for g, g_by_hand in zip([end for pair in gradients.values() for end in pair], expected, strict=True):
        torch.testing.assert_close(g, g_by_hand)


def test_layers_are_rescaled_in_turn():
    """Each layer is halved twice, and the next layer gets the outputs of the scaled one."""
    experiment = build_blobs(*DEEP)
    start, w = make_probe(experiment), experiment.w
    before = w.clone()
    calls = []

    def factor(p, outputs):
        calls.append((p.name, outputs))
        return 0.5 if sum(name == p.name for name, _ in calls) <= 2 else None

    scaled = start.rescale_layers(w, factor)
    assert torch.equal(w, before)
    for p in start.layout:
        torch.testing.assert_close(scaled[p.slice], w[p.slice] * (0.25 if p.kind == "weight" else 1.0))
    assert [name for name, _ in calls] == [name for name, _, _ in by_hand(start, w) for _ in range(3)]
    for (_, outputs), (_, z, _) in zip(calls[2::3], by_hand(start, scaled), strict=True):
        torch.testing.assert_close(outputs, z)


@pytest.mark.parametrize(("shape", "normalization"), [("[2,6,6]", "batch"), ("[1,8]", "layer")])
def test_the_probe_changes_nothing(shape, normalization):
    net = ("arch=cnn", "arch.channels=[3,3]", "arch.kernels=[3,2]", f"normalization={normalization}")
    data = ("data=custom", "data._target_=mine.Blobs", f"+data.shape={shape}", "batch_size=16", f"device={DEVICE}")
    experiment = build_experiment(*net, *data, "regularization=dropout", "precision=float64")
    model, start = experiment.model, make_probe(experiment)
    before = {name: v.clone() for name, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    generator, w = torch.get_rng_state(), experiment.w.clone()

    def ask():
        outputs = start.outputs(w), start.layer_outputs(w), start.gradients(w)
        return *outputs, start.rescale_layers(w, lambda p, outputs: None)

    first, again = ask(), ask()
    torch.testing.assert_close(first, again, rtol=0, atol=0)
    assert all(torch.equal(v, before[name]) for name, v in model.state_dict().items())
    assert modes == [m.training for m in model.modules()]
    assert not any(m._forward_hooks for m in model.modules())
    assert all(p.grad is None for p in model.parameters())
    assert not any(getattr(m, "batch_stats", None) for m in model.modules())
    assert torch.equal(generator, torch.get_rng_state())
    assert torch.equal(w, experiment.w)
    layers = [p.name for p in start.layout if p.kind == "weight"]
    assert list(first[1]) == layers == list(first[2])


def test_normalizations_use_the_batch_and_dropout_is_off():
    experiment = build_blobs("normalization=batch", "regularization=dropout", "precision=float64", "device=cpu")
    start, w = make_probe(experiment), experiment.w
    v = start.layout.views(w)
    z = F.linear(start.inputs, v["hidden.0.weight"], v["hidden.0.bias"])
    h = F.batch_norm(z, None, None, training=True).relu()
    torch.testing.assert_close(start.layer_outputs(w)["hidden.0.weight"], h)
    torch.testing.assert_close(start.outputs(w), F.linear(h, v["output.weight"], v["output.bias"]))


def test_a_shared_weight_is_visited_once_and_a_frozen_one_is_not():
    start, w = probe_net(mine.FrozenNet((4,), 2))
    visited = []
    start.rescale_layers(w, lambda p, outputs: visited.append(p.name))
    assert visited == ["one.weight", "head.weight"]
    assert list(start.layer_outputs(w)) == list(start.gradients(w)) == ["one.weight", "head.weight"]


class Recurrent(nn.Module):
    """Reads the input as a sequence, and modifies the outputs of its last layer in place."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(1, 3, batch_first=True)
        self.middle = nn.Linear(3, 5)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        outputs, _ = self.rnn(x.unsqueeze(-1))
        return self.head(input=self.act(self.middle(outputs[:, -1]))).mul_(3.0)


def test_a_module_with_several_weights_is_not_a_layer_and_outputs_are_those_before_changes_in_place():
    model = Recurrent()
    start, w = probe_net(model)
    assert start.owners["rnn.weight_hh_l0"] is model.rnn
    assert start.owners["head.bias"] is model.head
    assert list(start.layer_outputs(w)) == ["middle.weight", "head.weight"]
    h = model.rnn(start.inputs.unsqueeze(-1))[0][:, -1]
    z = model.middle(h)
    hidden = z.relu()
    y = model.head(hidden)
    torch.testing.assert_close(start.layer_outputs(w)["middle.weight"], hidden)
    torch.testing.assert_close(start.layer_outputs(w)["head.weight"], y)
    loss = F.cross_entropy(3 * y, start.targets)
    expected = torch.autograd.grad(loss, [h, z, hidden, y])
    gradients = start.gradients(w)
    for g, g_by_hand in zip([*gradients["middle.weight"], *gradients["head.weight"]], expected, strict=True):
        torch.testing.assert_close(g, g_by_hand)


def test_the_activation_of_a_recurrent_layer_is_not_that_of_the_layer_before_it():
    experiment = build_experiment(
        "data=custom", "data._target_=mine.Sequences", "loss=cross_entropy", "batch_size=16", "arch=gru"
    )  # fmt: skip
    start, w = make_probe(experiment), experiment.w
    vectors = start.layout.views(w)["embedding.weight"][start.inputs]
    torch.testing.assert_close(start.layer_outputs(w)["embedding.weight"], vectors)


def test_an_activation_belongs_to_the_layer_before_it():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Tanh(), nn.Sigmoid(), nn.Linear(5, 2))
    start, w = probe_net(model)
    outputs = start.layer_outputs(w)
    z = model[0](start.inputs)
    torch.testing.assert_close(outputs["0.weight"], z)
    torch.testing.assert_close(outputs["1.weight"], model[1](z).tanh())


class TwoWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return x @ self.one @ self.two


def test_a_module_with_two_weights_is_not_a_layer():
    start, w = probe_net(nn.Sequential(TwoWeights(), nn.Linear(4, 2)))
    assert list(start.layer_outputs(w)) == list(start.gradients(w)) == ["1.weight"]


def test_integer_inputs_have_no_gradient():
    custom = ("data=custom", "data._target_=mine.IntegerBlobs", "arch=custom", "arch._target_=mine.EmbeddingNet")
    start = make_probe(build_experiment(*custom, "batch_size=16"))
    gradients = start.gradients(torch.ones(start.layout.size))
    assert gradients["table.weight"].inputs is None
    assert gradients["table.weight"].outputs is not None
    assert gradients["head.weight"].inputs is not None


class AdjustingInit:
    """An init with this function as `adjust`."""

    def __init__(self, change):
        self.change = change

    def __call__(self, parameter, gain, generator):
        return None

    def adjust(self, w, start):
        return self.change(w, start)


def fail(error):
    raise error


def test_weights_are_adjusted_first_and_only_by_data_dependent_inits():
    w = torch.zeros(3)
    first, second = AdjustingInit(lambda w, start: w + 1), AdjustingInit(lambda w, start: w * 2)
    assert adjust_weights(w, first, second, lambda: None).tolist() == [2.0, 2.0, 2.0]
    assert adjust_weights(w, mine.ConstantInit(), mine.ConstantInit(), lambda: pytest.fail("no init needs data")) is w


@pytest.mark.parametrize("group", ["init", "bias_init"])
def test_a_failure_is_reported_for_its_group(group):
    def act(change):
        rules = {"init": mine.ConstantInit(), "bias_init": mine.ConstantInit()} | {group: AdjustingInit(change)}
        return lambda: adjust_weights(torch.zeros(3), rules["init"], rules["bias_init"], lambda: None)

    assert_refused(act(lambda w, start: fail(ValueError("no such layer"))), group, "no such layer")
    assert_refused(act(lambda w, start: fail(KeyError("x"))), group, "fails: KeyError: 'x'")
    assert_refused(act(lambda w, start: w / 0), group, "finite numbers of shape (3,)")
    assert_refused(act(lambda w, start: w[:2]), group, "finite numbers of shape (3,)")


@pytest.mark.parametrize("group", ["init", "bias_init"])
def test_a_custom_init_of_the_wrong_shape_is_reported(group):
    keys = (f"{group}=custom", f"{group}._target_=mine.ConstantInit", f"+{group}.extra=1")
    assert_build_refused(lambda: build_blobs(*keys), group, "needs values of shape")
