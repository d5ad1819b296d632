"""What an init may ask of the network on its first mini-batch, against the same written out by hand, in float64."""

import mine
import pytest
import torch
import torch.nn.functional as F
from helpers import DEVICE, assert_refused, build_blobs, build_experiment
from torch import nn

from dlopt import prng
from dlopt.config.problems import ConfigError
from dlopt.objective.init_probe import EXAMPLES, MiniBatchInitProbe
from dlopt.parts import Split
from dlopt.training.experiment import adjust_weights

KEY = prng.key(0, "first_batch")
DEEP = ("arch.widths=[7,6]", "activation=tanh", "precision=float64", "device=cpu", "init=xavier", "bias_init=constant")


def start_of(experiment):
    return MiniBatchInitProbe(experiment.model, experiment.loss, experiment.train, experiment.settings.dtype, KEY)


def of_net(model, inputs=(4,), count=12):
    """A net of one's own, its own weights, on random examples of two classes."""
    draw = torch.Generator().manual_seed(1)
    x = torch.randn(count, *inputs, generator=draw, dtype=torch.float64)
    start = MiniBatchInitProbe(
        model.double(), nn.functional.cross_entropy, Split(x, torch.arange(count) % 2), torch.float64, KEY
    )
    own = dict(model.named_parameters())
    return start, start.layout.flatten({p.name: own[p.name].detach() for p in start.layout})


def by_hand(start, w):
    """The MLP 4-7-6-3 with tanh, written out: inputs, what each layer puts out, and what its activation does."""
    v = start.layout.views(w)
    x = start.inputs
    seen = []
    for name in ("hidden.0", "hidden.2", "output"):
        z = F.linear(x, v[f"{name}.weight"], v[f"{name}.bias"])
        x = z.tanh() if name != "output" else z
        seen.append((f"{name}.weight", z, x))
    return seen


def test_the_mini_batch_is_of_the_training_split_and_the_seed_alone():
    one, again, other = (build_blobs("precision=float64", *more) for more in ((), ("batch_size=3",), ("seed=1",)))
    starts = [start_of(e) for e in (one, again)]
    assert torch.equal(starts[0].inputs, starts[1].inputs)
    assert starts[0].inputs.shape == (48, 4)
    train = {tuple(x.tolist()): int(y) for x, y in zip(*one.train.gather(), strict=True)}
    assert all(
        train[tuple(x.tolist())] == int(y) for x, y in zip(starts[0].inputs.float(), starts[0].targets, strict=True)
    )
    assert torch.equal(starts[0].all_targets, one.train.gather()[1])
    key = prng.key(1, "first_batch")
    there = MiniBatchInitProbe(other.model, other.loss, one.train, torch.float64, key)
    assert not torch.equal(there.inputs, starts[0].inputs)


def test_no_more_examples_than_are_needed():
    start = start_of(build_blobs("+data.count=600"))
    assert start.inputs.shape == (EXAMPLES, 4)
    assert len(start.inputs.unique(dim=0)) == EXAMPLES
    assert len(start.all_targets) == 480


def test_what_layers_put_out_and_hand_on():
    experiment = build_blobs(*DEEP)
    start, w = start_of(experiment), experiment.w
    wanted = by_hand(start, w)
    seen = []
    start.rescale_layers(w, lambda p, outputs: seen.append((p.name, outputs)))
    assert [name for name, _ in seen] == [name for name, _, _ in wanted]
    for (_, found), (_, z, _) in zip(seen, wanted, strict=True):
        torch.testing.assert_close(found, z)
    handed_on = start.layer_outputs(w)
    assert list(handed_on) == [name for name, _, _ in wanted]
    for name, _, h in wanted:
        torch.testing.assert_close(handed_on[name], h)
    torch.testing.assert_close(start.outputs(w), wanted[-1][1])


def test_gradients_at_both_ends_of_each_layer():
    experiment = build_blobs(*DEEP)
    start, w = start_of(experiment), experiment.w
    start.inputs.requires_grad_()
    (_, z1, h1), (_, z2, h2), (_, z3, _) = by_hand(start, w)
    wanted = torch.autograd.grad(F.cross_entropy(z3, start.targets), [start.inputs, z1, h1, z2, h2, z3])
    start.inputs.requires_grad_(False)
    found = start.gradients(w)
    assert list(found) == ["hidden.0.weight", "hidden.2.weight", "output.weight"]
    for g, g_by_hand in zip([end for pair in found.values() for end in pair], wanted, strict=True):
        torch.testing.assert_close(g, g_by_hand)


def test_a_walk_scales_layers_in_turn_and_shows_what_they_make_then():
    """Halved twice, each layer's weights are a quarter; and the walk goes on with what the scaled layer puts out."""
    experiment = build_blobs(*DEEP)
    start, w = start_of(experiment), experiment.w
    before = w.clone()
    seen = []

    def factor(p, outputs):
        seen.append((p.name, outputs))
        return 0.5 if sum(name == p.name for name, _ in seen) <= 2 else None

    scaled = start.rescale_layers(w, factor)
    assert torch.equal(w, before)
    for p in start.layout:
        torch.testing.assert_close(scaled[p.slice], w[p.slice] * (0.25 if p.kind == "weight" else 1.0))
    assert [name for name, _ in seen] == [name for name, _, _ in by_hand(start, w) for _ in range(3)]
    for (_, found), (_, z, _) in zip(seen[2::3], by_hand(start, scaled), strict=True):
        torch.testing.assert_close(found, z)


SHAPES = {"images": "[2,6,6]", "series": "[1,8]"}


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("normalization", ["batch", "layer"])
def test_asking_disturbs_nothing(shape, normalization):
    net = ("arch=cnn", "arch.channels=[3,3]", "arch.kernels=[3,2]", f"normalization={normalization}")
    data = ("data=custom", "data._target_=mine.Blobs", f"+data.shape={shape}", "batch_size=16", f"device={DEVICE}")
    experiment = build_experiment(*net, *data, "regularization=dropout", "precision=float64")
    model, start = experiment.model, start_of(experiment)
    before = {name: v.clone() for name, v in model.state_dict().items()}
    modes = [m.training for m in model.modules()]
    generator, w = torch.get_rng_state(), experiment.w.clone()
    first = (
        start.outputs(w),
        start.layer_outputs(w),
        start.gradients(w),
        start.rescale_layers(w, lambda p, outputs: None),
    )
    again = (
        start.outputs(w),
        start.layer_outputs(w),
        start.gradients(w),
        start.rescale_layers(w, lambda p, outputs: None),
    )
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
    start, w = start_of(experiment), experiment.w
    v = start.layout.views(w)
    z = F.linear(start.inputs, v["hidden.0.weight"], v["hidden.0.bias"])
    h = F.batch_norm(z, None, None, training=True).relu()
    torch.testing.assert_close(start.layer_outputs(w)["hidden.0.weight"], h)
    torch.testing.assert_close(start.outputs(w), F.linear(h, v["output.weight"], v["output.bias"]))


def test_a_weight_that_two_layers_share_is_met_once():
    start, w = of_net(mine.FrozenNet((4,), 2))
    met = []
    start.rescale_layers(w, lambda p, outputs: met.append(p.name))
    assert met == ["one.weight", "head.weight"], "and a frozen one not at all"
    assert list(start.layer_outputs(w)) == list(start.gradients(w)) == ["one.weight", "head.weight"]


class Recurrent(nn.Module):
    """Reads the input as a sequence; changes in place what its last layer puts out."""

    def __init__(self):
        super().__init__()
        self.rnn = nn.LSTM(1, 3, batch_first=True)
        self.middle = nn.Linear(3, 5)
        self.act = nn.ReLU(inplace=True)
        self.head = nn.Linear(5, 2)

    def forward(self, x):
        outputs, _ = self.rnn(x.unsqueeze(-1))
        return self.head(input=self.act(self.middle(outputs[:, -1]))).mul_(3.0)


def test_a_module_with_several_weights_is_no_layer_and_what_is_changed_in_place_is_seen_before():
    model = Recurrent()
    start, w = of_net(model)
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
    wanted = torch.autograd.grad(loss, [h, z, hidden, y])
    found = start.gradients(w)
    for g, g_by_hand in zip([*found["middle.weight"], *found["head.weight"]], wanted, strict=True):
        torch.testing.assert_close(g, g_by_hand)


def test_an_activation_belongs_to_the_layer_right_before_it():
    model = nn.Sequential(nn.Linear(4, 5), nn.Linear(5, 5), nn.Tanh(), nn.Sigmoid(), nn.Linear(5, 2))
    start, w = of_net(model)
    found = start.layer_outputs(w)
    z = model[0](start.inputs)
    torch.testing.assert_close(found["0.weight"], z)
    torch.testing.assert_close(found["1.weight"], model[1](z).tanh())


class Two(nn.Module):
    """A module with two weights of its own."""

    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Parameter(torch.ones(4, 4)), nn.Parameter(torch.ones(4, 4))

    def forward(self, x):
        return x @ self.one @ self.two


def test_which_of_two_weights_of_a_module_puts_out_what_nobody_can_say():
    start, w = of_net(nn.Sequential(Two(), nn.Linear(4, 2)))
    assert list(start.layer_outputs(w)) == list(start.gradients(w)) == ["1.weight"]


def test_whole_numbers_have_no_gradient():
    start = start_of(
        build_experiment(
            "data=custom",
            "data._target_=mine.IntegerBlobs",
            "arch=custom",
            "arch._target_=mine.EmbeddingNet",
            "batch_size=16",
        )
    )
    found = start.gradients(torch.ones(start.layout.size))
    assert found["table.weight"].inputs is None
    assert found["table.weight"].outputs is not None
    assert found["head.weight"].inputs is not None


class Looking:
    """An init that does what it is told once all is drawn."""

    def __init__(self, change):
        self.change = change

    def __call__(self, parameter, gain, generator):
        return None

    def adjust(self, w, start):
        return self.change(w, start)


def raising(error):
    def change(w, start):
        raise error

    return change


def test_weights_are_adjusted_first_and_only_by_inits_that_look():
    w = torch.zeros(3)
    first, second = Looking(lambda w, start: w + 1), Looking(lambda w, start: w * 2)
    assert adjust_weights(w, first, second, lambda: None).tolist() == [2.0, 2.0, 2.0]
    assert adjust_weights(w, mine.ConstantInit(), mine.ConstantInit(), lambda: pytest.fail("nobody looks")) is w


@pytest.mark.parametrize("group", ["init", "bias_init"])
def test_what_fails_is_said_of_its_group(group):
    def act(change):
        rules = {"init": mine.ConstantInit(), "bias_init": mine.ConstantInit()} | {group: Looking(change)}
        return lambda: adjust_weights(torch.zeros(3), rules["init"], rules["bias_init"], lambda: None)

    assert_refused(act(raising(ValueError("no such layer"))), group, "no such layer")
    assert_refused(act(raising(KeyError("x"))), group, "fails: KeyError: 'x'")
    assert_refused(act(lambda w, start: w / 0), group, "finite numbers of shape (3,)")
    assert_refused(act(lambda w, start: w[:2]), group, "finite numbers of shape (3,)")


@pytest.mark.parametrize("group", ["init", "bias_init"])
def test_a_part_of_ones_own_that_makes_the_wrong_shape_is_named(group):
    with pytest.raises(ConfigError) as found:
        build_blobs(f"{group}=custom", f"{group}._target_=mine.ConstantInit", f"+{group}.extra=1")
    ((key, said),) = found.value.problems
    assert key == group
    assert "needs values of shape" in said
