"""The weight vector and its layout: every weight lies in exactly one place, under its own name."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.init import _calculate_fan_in_and_fan_out as torch_fans

from dlopt.base.layout import Layout
from dlopt.linalg import inplace
from dlopt.linalg.inplace import axpy_, cache_chunks
from dlopt.normalization.batch import BatchNorm


class Scalar(nn.Module):
    """A net with a 0-dimensional parameter."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 2)
        self.temperature = nn.Parameter(torch.tensor(2.0))

    def forward(self, x):
        return self.linear(x) / self.temperature


NETS = {
    "linear": (nn.Linear(4, 3), (5, 4)),
    "no bias": (nn.Linear(4, 3, bias=False), (5, 4)),
    "series": (nn.Sequential(nn.Conv1d(2, 3, 5), BatchNorm(3), nn.PReLU(), nn.Flatten(), nn.Linear(12, 2)), (4, 2, 8)),
    "images": (nn.Sequential(nn.Conv2d(2, 4, (3, 2)), nn.GroupNorm(2, 4), nn.Flatten()), (4, 2, 5, 5)),
    "grouped": (nn.Conv1d(4, 6, 3, groups=2), (2, 4, 7)),
    "layer norm": (nn.Sequential(nn.Linear(4, 3), nn.LayerNorm(3), nn.Tanh(), nn.Linear(3, 2)), (5, 4)),
    "scalar": (Scalar(), (5, 3)),
}
nets = pytest.mark.parametrize("name", NETS)


def setting(name):
    net, shape = NETS[name]
    net = net.double()
    layout = Layout.of(net)
    return net, layout, torch.randn(layout.size, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


@nets
def test_the_slices_tile_the_vector_in_the_order_of_the_parameters(name):
    net, layout, _, _ = setting(name)
    assert [p.name for p in layout] == [n for n, _ in net.named_parameters()]
    assert [i for p in layout for i in range(p.slice.start, p.slice.stop)] == list(range(layout.size))
    assert layout.size == sum(p.numel() for p in net.parameters())


@nets
def test_flatten_is_the_inverse_of_views(name):
    net, layout, w, _ = setting(name)
    assert torch.equal(layout.flatten(layout.views(w)), w)
    own = dict(net.named_parameters())
    again = layout.views(layout.flatten(own))
    assert again.keys() == own.keys()
    assert all(torch.equal(again[n], own[n]) and again[n].shape == own[n].shape for n in own)


@nets
def test_views_share_memory_with_the_vector(name):
    _, layout, w, _ = setting(name)
    for p, view in zip(layout, layout.views(w).values(), strict=True):
        view.fill_(7.0)
        assert (w[p.slice] == 7.0).all()
    w.zero_()
    assert all((view == 0.0).all() for view in layout.views(w).values())


@nets
def test_leading_dimensions_go_through_views(name):
    _, layout, _, _ = setting(name)
    w = torch.randn(2, 3, layout.size)
    pieces = layout.views(w)
    for i in range(2):
        for j in range(3):
            for n, piece in layout.views(w[i, j]).items():
                assert pieces[n].shape == (2, 3, *piece.shape)
                assert torch.equal(pieces[n][i, j], piece)


@nets
def test_a_net_called_with_views_is_the_net_with_these_weights(name):
    net, layout, w, x = setting(name)
    called = functional_call(net, layout.views(w), (x,))
    with torch.no_grad():
        nn.utils.vector_to_parameters(w, net.parameters())
        assert torch.equal(called, net(x))


@nets
def test_fans_are_those_of_torch(name):
    net, layout, _, _ = setting(name)
    own = dict(net.named_parameters())
    for p in layout:
        if len(p.shape) > 1:
            assert (p.fan_in, p.fan_out) == torch_fans(own[p.name])


KINDS = {
    "linear": {"weight": "weight", "bias": "bias"},
    "no bias": {"weight": "weight"},
    "series": {
        **{"0.weight": "weight", "0.bias": "bias", "1.weight": "norm", "1.bias": "norm"},
        **{"2.weight": "norm", "4.weight": "weight", "4.bias": "bias"},
    },
    "images": {"0.weight": "weight", "0.bias": "bias", "1.weight": "norm", "1.bias": "norm"},
    "grouped": {"weight": "weight", "bias": "bias"},
    "layer norm": {
        **{"0.weight": "weight", "0.bias": "bias", "1.weight": "norm", "1.bias": "norm"},
        **{"3.weight": "weight", "3.bias": "bias"},
    },
    "scalar": {"linear.weight": "weight", "linear.bias": "bias", "temperature": "norm"},
}


@nets
def test_kinds_tell_matrices_from_biases_and_both_from_what_normalizes(name):
    assert {p.name: p.kind for p in setting(name)[1]} == KINDS[name]


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.BatchNorm2d, nn.RMSNorm, nn.LayerNorm])
def test_scale_and_shift_of_torchs_normalizations_are_no_weights(make):
    assert {p.kind for p in Layout.of(make(3))} == {"norm"}


def test_a_matrix_inside_a_layer_norm_is_no_weight_either():
    assert {p.kind for p in Layout.of(nn.LayerNorm((3, 4)))} == {"norm"}


def test_the_biases_of_a_recurrent_net_are_biases():
    kinds = {p.name: p.kind for p in Layout.of(nn.LSTM(3, 4))}
    assert kinds == {n: "bias" if "bias" in n else "weight" for n in kinds}


def test_frozen_parameters_are_left_out():
    net = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    net[0].weight.requires_grad_(False)
    layout = Layout.of(net)
    assert [p.name for p in layout] == ["0.bias", "1.weight", "1.bias"]
    assert layout.size == 3 + 6 + 2


def test_a_parameter_that_two_layers_share_is_one_piece():
    net = nn.Sequential(nn.Linear(3, 3, bias=False), nn.Linear(3, 3, bias=False))
    net[1].weight = net[0].weight
    assert [p.name for p in Layout.of(net)] == ["0.weight"]


@nets
def test_the_masks_of_the_three_kinds_sum_to_one_everywhere(name):
    _, layout, _, _ = setting(name)
    assert torch.equal(sum(layout.mask(k) for k in ("weight", "bias", "norm")), torch.ones(layout.size))
    assert torch.equal(layout.mask("weight", "bias", "norm"), torch.ones(layout.size))
    for p in layout:
        assert (layout.mask(p.kind)[p.slice] == 1.0).all()


@nets
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mask_of_weights_is_made_once_for_each_type(name, dtype):
    _, layout, w, _ = setting(name)
    mask = layout.weight_mask(w.to(dtype))
    assert torch.equal(mask, layout.mask("weight").to(dtype))
    assert mask.dtype == dtype
    assert layout.weight_mask(torch.ones(3, layout.size, dtype=dtype)) is mask


@pytest.mark.parametrize(
    "transformed", [torch.func.grad, lambda f: torch.func.grad(lambda w: torch.func.grad(f)(w).sum())]
)
def test_the_mask_of_weights_outlives_a_transformation_in_which_it_was_made(transformed):
    net, w = nn.Linear(4, 3), torch.randn(15)
    layout = Layout.of(net)
    first = transformed(lambda w: (layout.weight_mask(w) * w * w).sum())(w)
    assert torch.equal(transformed(lambda w: (layout.weight_mask(w) * w * w).sum())(w), first)
    assert torch.equal(layout.weight_mask(w) + 0.0, layout.mask("weight"))


@nets
def test_the_layers_are_the_modules_that_own_parameters_and_cover_the_vector(name):
    net, layout, _, _ = setting(name)
    layers = layout.layers()
    seen = torch.zeros(layout.size)
    for slices in layers.values():
        for s in slices:
            seen[s] += 1
    assert torch.equal(seen, torch.ones(layout.size))
    for module_name, module in net.named_modules():
        count = sum(p.numel() for p in module.parameters(recurse=False))
        if module_name and count:
            assert sum(s.stop - s.start for s in layers[module_name]) == count


@pytest.mark.parametrize(
    ("a", "shape"), [(-0.3, (5,)), (0.7, (3, 5)), (torch.tensor([[0.5], [-2.0], [0.0]]), (3, 5)), (2, (5,))]
)
def test_add_scaled_adds_in_place(a, shape):
    w, x = torch.randn(shape, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)
    a = a.double() if isinstance(a, torch.Tensor) else a
    expected, untouched = w + a * x, x.clone()
    out = axpy_(w, a, x)
    assert out is w
    torch.testing.assert_close(w, expected, rtol=1e-14, atol=1e-14)
    assert torch.equal(x, untouched)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("size", [1, 7, 100])
def test_portions_are_views_of_every_number_once_and_small(lead, size, monkeypatch):
    monkeypatch.setattr(inplace, "CHUNK_SIZE", 8)
    w, shared = torch.zeros(*lead, size), torch.arange(size)
    empty = torch.zeros(*lead, 0)
    found = list(cache_chunks(w, shared, empty))
    for part, places, none in found:
        part.add_(places + 1)
        assert part.numel() < 8 + (lead or (1,))[0]
        assert none.shape == (*lead, 0)
    assert torch.equal(w, (shared + 1.0).expand(*lead, size))
    assert torch.equal(torch.cat([places for _, places, _ in found]), shared)


def test_what_is_short_comes_whole():
    w = torch.zeros(inplace.CHUNK_SIZE)
    ((one, other),) = cache_chunks(w, w)
    assert one is other is w
