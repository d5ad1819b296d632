"""Networks for sequences: padding has no influence, and each layer is the one of torch."""

import copy
from functools import partial

import pytest
import torch
from helpers import assert_refused, make_arch, make_option
from mine import TOKENS, Sequences
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap

from dlopt import prng
from dlopt.activation.tanh import Tanh
from dlopt.arch._attention import Rotary
from dlopt.arch._recurrent import HiddenStates
from dlopt.base.kernels import use_plain_operations
from dlopt.base.layout import Layout
from dlopt.base.sequences import mask_steps
from dlopt.bias_init.zeros import ZerosBias
from dlopt.normalization.batch import BatchNorm, BatchNormalization
from dlopt.normalization.group import GroupNormalization
from dlopt.normalization.layer import LayerNormalization
from dlopt.objective.activation_hooks import find_activations, record_outputs
from dlopt.training.experiment import sample_initial_weights

LENGTH, OUTPUTS = 6, 3
RECURRENT = {"rnn": partial(nn.RNN, nonlinearity="relu"), "tanh": nn.RNN, "gru": nn.GRU, "lstm": nn.LSTM}
LAYER = LayerNormalization(1e-5)
NETWORKS = {
    **{name: (name, {"width": 4, "layers": 2}) for name in ("rnn", "gru", "lstm")},
    "tanh": ("rnn", {"width": 4, "layers": 2, "activation": Tanh()}),
    "both directions": ("gru", {"width": 4, "layers": 2, "bidirectional": True}),
    "mean": ("lstm", {"width": 4, "pooling": "mean"}),
    "max, both directions": ("rnn", {"width": 4, "pooling": "max", "bidirectional": True}),
    "transformer": ("transformer", {"width": 8, "heads": 2, "normalization": LAYER}),
    "causal": ("transformer", {"width": 8, "heads": 2, "causal": True, "pooling": "last", "normalization": LAYER}),
    "rotary": ("transformer", {"width": 8, "heads": 2, "positions": "rotary", "feed_forward": "swiglu"}),
    "sinusoidal": ("transformer", {"width": 8, "heads": 2, "positions": "sinusoidal", "pooling": "max"}),
    "group": ("transformer", {"width": 8, "normalization": GroupNormalization(2, 1e-5)}),
}
"""Options with keys."""


def build(name: str, kind: str = "tokens", *, per_step: bool = False, padded: bool = True, **more: object) -> nn.Module:
    """Build a network of NETWORKS in float64, for the sequences of `sample`."""
    torch.manual_seed(0)
    option, keys = NETWORKS[name]
    shape, tokens = ((LENGTH,), TOKENS) if kind == "tokens" else ((2, LENGTH), None)
    described = {"tokens": tokens, "per_step": per_step, "padded": padded}
    return make_arch(option, shape, OUTPUTS, **described, **keys, **more).double()


def sample(kind: str = "tokens", count: int = 12, *, padded: bool = True) -> Tensor:
    """Return sequences of lengths 1, ..., 6, 1, ..."""
    x = (
        Sequences(None, None, 0.0, False, "reshuffle", kind=kind, padded=padded, length=LENGTH, count=count)
        .load()
        .train.inputs
    )
    return x.double() if x.is_floating_point() else x


def cut(x: Tensor, i: int) -> Tensor:
    """Return example i as a batch of its own, without padding."""
    return x[i : i + 1, ..., : int(mask_steps(x[i]).sum())]


@pytest.mark.parametrize("kind", ["tokens", "series"])
@pytest.mark.parametrize("per_step", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_the_outputs_of_a_padded_batch_are_those_of_the_single_sequences(name, per_step, kind):
    """Also the gradients, by a network that knows of no padding."""
    net, x = build(name, kind, per_step=per_step), sample(kind)
    alone = build(name, kind, per_step=per_step, padded=False)
    alone.load_state_dict(net.state_dict())
    outputs = net(x)
    assert outputs.isfinite().all()
    assert outputs.shape == ((12, LENGTH, OUTPUTS) if per_step else (12, OUTPUTS))
    mask, total = mask_steps(x), torch.zeros((), dtype=torch.float64)
    for i in range(len(x)):
        single = alone(cut(x, i))
        torch.testing.assert_close(
            outputs[i][mask[i]] if per_step else outputs[i : i + 1], single[0] if per_step else single
        )
        total = total + single.square().sum()
    ours = (outputs[mask] if per_step else outputs).square().sum()
    expected = torch.autograd.grad(total, [*alone.parameters()])
    for p, g, other in zip(net.parameters(), torch.autograd.grad(ours, [*net.parameters()]), expected, strict=True):
        torch.testing.assert_close(g, other, msg=lambda m, p=p: f"{tuple(p.shape)}: {m}")


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_operations_agree_with_the_kernels(name):
    net, x = build(name, "series", per_step=True), sample("series")
    with use_plain_operations():
        plain = net(x)
        gradients = torch.autograd.grad(plain.square().sum(), [*net.parameters()])
    fused = net(x)
    torch.testing.assert_close(plain, fused)
    torch.testing.assert_close(gradients, torch.autograd.grad(fused.square().sum(), [*net.parameters()]))


@pytest.mark.parametrize("name", NETWORKS)
def test_plain_operations_can_be_mapped_and_differentiated_twice(name):
    net, x = build(name), sample()
    weights = {key: torch.stack([p.detach(), 0.5 * p.detach()]) for key, p in net.named_parameters()}

    def compute(weights: dict[str, Tensor]) -> Tensor:
        return functional_call(net, weights, (x,)).square().sum()

    def product(weights: dict[str, Tensor]) -> dict[str, Tensor]:
        return grad(lambda w: sum((g * g).sum() for g in grad(compute)(w).values()))(weights)

    with use_plain_operations():
        both = vmap(product)(weights)
        for i in range(2):
            alone = product({key: value[i] for key, value in weights.items()})
            torch.testing.assert_close({key: value[i] for key, value in both.items()}, alone)


@pytest.mark.parametrize("name", RECURRENT)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("kind", ["tokens", "series"])
def test_a_recurrent_network_is_that_of_torch_on_packed_sequences(name, bidirectional, kind):
    net, x = build(name, kind, per_step=True, bidirectional=bidirectional), sample(kind)
    theirs = RECURRENT[name](4 if kind == "tokens" else 2, 4, 2, bidirectional=bidirectional, batch_first=True).double()
    for i, layer in enumerate(net.hidden):
        for cell, suffix in ((layer.cell, ""), (layer.reverse, "_reverse")):
            for key, p in () if cell is None else cell.named_parameters():
                getattr(theirs, key.replace("l0", f"l{i}{suffix}")).data = p.detach().clone()
    lengths = mask_steps(x).sum(1)
    steps = net.embedding(x) if kind == "tokens" else x.nan_to_num().mT
    packed = nn.utils.rnn.pack_padded_sequence(steps, lengths, batch_first=True, enforce_sorted=False)
    states, last = theirs(packed)
    states = nn.utils.rnn.pad_packed_sequence(states, batch_first=True)[0]
    torch.testing.assert_close(net(x), net.output(states))
    last = last[0] if name == "lstm" else last
    once = build(name, kind, bidirectional=bidirectional)
    once.load_state_dict(net.state_dict())
    torch.testing.assert_close(once(x), net.output(torch.cat([*last[-1 - bidirectional :]], -1)))


def test_a_simple_recurrent_network_takes_any_activation():
    net, x = build("rnn", "series", per_step=True, padded=False, activation=nn.Softsign), sample("series", padded=False)
    cell, h = net.hidden[0].cell, torch.zeros(12, 4, dtype=torch.float64)
    h = torch.zeros(12, 2, 4, dtype=torch.float64)
    for t in range(LENGTH):
        z = x[..., t]
        for i, layer in enumerate(net.hidden):
            cell = layer.cell
            z = nn.functional.softsign(
                z @ cell.weight_ih_l0.T + cell.bias_ih_l0 + h[:, i] @ cell.weight_hh_l0.T + cell.bias_hh_l0
            )
            h = h.index_put((torch.arange(12), torch.tensor(i)), z)
        torch.testing.assert_close(net(x)[:, t], net.output(z))


@pytest.mark.parametrize("kind", ["tokens", "series"])
def test_a_transformer_is_that_of_torch(kind):
    """Blocks of nn.TransformerEncoderLayer with norm_first, with the mask of padding and the causal mask."""
    x = sample(kind)
    for causal in (False, True):
        net = build("transformer", kind, per_step=True, causal=causal, positions="none")
        layers = [nn.TransformerEncoderLayer(8, 2, 32, 0.0, batch_first=True, norm_first=True).double() for _ in "ab"]
        for layer, attention, feed in zip(layers, net.blocks[::2], net.blocks[1::2], strict=True):
            pairs = {
                layer.norm1: attention.norm, layer.self_attn.out_proj: attention.branch.output, layer.norm2: feed.norm,
                layer.linear1: feed.branch.first, layer.linear2: feed.branch.second,
            }  # fmt: skip
            for theirs, ours in pairs.items():
                theirs.load_state_dict(ours.state_dict())
            layer.self_attn.in_proj_weight.data = attention.branch.projection.weight.detach()
            layer.self_attn.in_proj_bias.data = attention.branch.projection.bias.detach()
        hidden = net.embedding(x if kind == "tokens" else x.nan_to_num().mT)
        mask = mask_steps(x)
        later = torch.ones(LENGTH, LENGTH, dtype=torch.bool).triu(1) if causal else None
        for layer in layers:
            hidden = layer(hidden, src_mask=later, src_key_padding_mask=~mask)
        torch.testing.assert_close(net(x)[mask], net.output(net.norm(hidden))[mask])


@pytest.mark.parametrize("positions", ["learned", "rotary", "sinusoidal", "none"])
@pytest.mark.parametrize("plain", [False, True])
def test_causal_attention_never_sees_the_future(positions, plain):
    net = build("transformer", "series", per_step=True, padded=False, positions=positions)
    x = sample("series", padded=False).requires_grad_()
    for t in range(LENGTH):
        with use_plain_operations() if plain else torch.enable_grad():
            (g,) = torch.autograd.grad(net(x)[:, t].square().sum(), x)
        assert (g[..., : t + 1] != 0).any((0, 1)).all()
        assert (g[..., t + 1 :] == 0).all()


def test_rotary_positions_see_only_distances():
    """<R_s q, R_t k> depends on t - s, and a rotation keeps lengths."""
    rotary = Rotary(20, 8)
    q, k = torch.randn(2, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    queries, keys = rotary(q.expand(20, 8)), rotary(k.expand(20, 8))
    scores = queries @ keys.T
    for distance in range(-19, 20):
        diagonal = scores.diagonal(distance)
        torch.testing.assert_close(diagonal, diagonal[:1].expand_as(diagonal))
    torch.testing.assert_close(queries.norm(dim=-1), q.norm().expand(20))
    assert scores.diagonal(3)[0] != scores.diagonal(-3)[0]


def test_without_positions_the_order_has_no_effect():
    x = sample("series", padded=False)
    none, learned = (build("transformer", "series", padded=False, positions=p) for p in ("none", "learned"))
    torch.testing.assert_close(none(x), none(x.flip(-1)))
    assert (learned(x) - learned(x.flip(-1))).abs().max() > 1e-3


def test_sinusoidal_positions_are_those_of_the_paper():
    """PE(t, 2i) = sin(t / 10000^(2i/d)) and PE(t, 2i + 1) = cos(t / 10000^(2i/d))."""
    net = build("sinusoidal")
    for t in range(LENGTH):
        for i in range(8):
            angle = torch.tensor(t / 10000 ** (2 * (i // 2) / 8), dtype=torch.float64)
            torch.testing.assert_close(net.positions.table[t, i], angle.cos() if i % 2 else angle.sin())


def test_batch_normalization_takes_the_statistics_of_valid_steps():
    """As without a mask on the valid steps alone; also its stored statistics and gradients."""
    masked, plain = BatchNorm(3).double(), BatchNorm(3).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 3, dtype=torch.float64, generator=generator)
    mask = torch.rand(40, generator=generator) < 0.6
    x = torch.where(mask.unsqueeze(-1), x, 1e6)
    results = []
    for norm, y in ((masked, lambda x: masked(x, mask)[mask]), (plain, lambda x: plain(x[mask]))):
        leaf = x.clone().requires_grad_()
        outputs = y(leaf)
        results.append((outputs, torch.autograd.grad(outputs.pow(3).sum(), [leaf, *norm.parameters()])))
    torch.testing.assert_close(*results)
    assert masked.batch_stats.keys() == plain.batch_stats.keys()
    torch.testing.assert_close(masked.batch_stats, plain.batch_stats)


@pytest.mark.parametrize("kind", ["tokens", "series"])
def test_a_batch_normalized_transformer_leaves_padding_out(kind):
    """Statistics do not change if all sequences get more padding."""
    rule = BatchNormalization(1e-5, 0.1)
    net, x = build("rotary", kind, normalization=rule), sample(kind)
    more = copy.deepcopy(net)
    short = x[..., :4]  # all sequences of at most 4 steps, then with padding to 6
    keep = mask_steps(x).sum(1) <= 4
    torch.testing.assert_close(net(short[keep]), more(x[keep]))
    statistics = [[m.batch_stats for m in n.modules() if isinstance(m, BatchNorm)] for n in (net, more)]
    assert len(statistics[0]) == 5
    torch.testing.assert_close(*statistics)


@pytest.mark.parametrize("name", [*RECURRENT, "both directions"])
def test_diagnostics_see_the_states_of_a_recurrent_layer(name):
    """(B, units, T), zero at the padding, by the kernel and by plain operations alike."""
    net, x = build(name, "series", per_step=True), sample("series")
    activations = find_activations(net)
    assert list(activations) == ["hidden.0.activation", "hidden.1.activation"]
    assert all(isinstance(m, HiddenStates) for m in activations.values())
    with record_outputs(activations) as fused:
        outputs = net(x)
    with use_plain_operations(), record_outputs(activations) as plain:
        net(x)
    torch.testing.assert_close(fused, plain)
    states = fused["hidden.1.activation"]
    torch.testing.assert_close(outputs, net.output(states.mT))
    assert (states.mT[~mask_steps(x)] == 0).all()


@pytest.mark.parametrize(("name", "gates"), [("lstm", 4), ("gru", 3), ("rnn", 1), ("transformer", 3)])
def test_an_init_draws_each_gate_by_itself(name, gates):
    net = build(name)
    layout = Layout.of(net)
    key = "blocks.0.branch.projection.weight" if name == "transformer" else "hidden.0.cell.weight_hh_l0"
    p = next(p for p in layout if p.name == key)
    size = p.shape[1]
    assert (p.shape, p.stacked, p.fan_in, p.fan_out) == ((gates * size, size), gates, size, size)

    def draw(init: str, **keys: object) -> Tensor:
        rule = make_option("init", init, **keys)
        w = sample_initial_weights(net, layout, rule, ZerosBias(), 1.0, prng.key(0), torch.float64)
        return layout.views(w)[key]

    for block in draw("orthogonal", gain=1.0).chunk(gates):
        torch.testing.assert_close(block @ block.T, torch.eye(size, dtype=torch.float64), atol=1e-6, rtol=0)
    bound = (6 / (2 * size)) ** 0.5
    assert bound > draw("xavier", gain=1.0).abs().max() > 0.75 * bound


@pytest.mark.parametrize(
    ("shape", "tokens", "keys", "key", "words"),
    [
        ((2, 6), None, {"heads": 3}, "heads", "must divide arch.width=8"),
        ((2, 6), None, {"heads": 8, "positions": "rotary"}, "heads", "rotary"),
        ((6,), 9, {"max_length": 5}, "max_length", "up to 6 steps"),
    ],
)
def test_keys_of_the_transformer_that_do_not_fit_are_refused(shape, tokens, keys, key, words):
    described = {"tokens": tokens, "per_step": False, "padded": False}
    assert_refused(lambda: make_arch("transformer", shape, width=8, **described, **keys), key, words)


@pytest.mark.parametrize("name", ["rnn", "gru", "lstm", "transformer"])
@pytest.mark.parametrize("shape", [(4,), (1, 8, 8)])
def test_data_that_are_no_sequences_are_refused(name, shape):
    with pytest.raises(ValueError, match="needs sequences"):
        make_arch(name, shape, tokens=None, per_step=False, padded=False)
