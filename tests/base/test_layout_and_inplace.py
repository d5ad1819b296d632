"""The weight vector and its layout: every weight has exactly one place and its own name."""

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.nn.init import _calculate_fan_in_and_fan_out as torch_fans

from dlopt.base.layout import Layout
from dlopt.normalization.batch import BatchNorm


class Scalar(nn.Module):
    """A network with a 0-dimensional parameter."""

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


def make_layout(name):
    net, shape = NETS[name]
    net = net.double()
    layout = Layout.of(net)
    return net, layout, torch.randn(layout.size, dtype=torch.float64), torch.randn(shape, dtype=torch.float64)


@nets
def test_the_slices_tile_the_vector_in_the_order_of_the_parameters(name):
    net, layout, _, _ = make_layout(name)
    assert [p.name for p in layout] == [n for n, _ in net.named_parameters()]
    assert [i for p in layout for i in range(p.slice.start, p.slice.stop)] == list(range(layout.size))
    assert layout.size == sum(p.numel() for p in net.parameters())


@nets
def test_views_share_memory_and_flatten_inverts_them(name):
    net, layout, w, _ = make_layout(name)
    assert torch.equal(layout.flatten(layout.views(w)), w)
    own = dict(net.named_parameters())
    views = layout.views(layout.flatten(own))
    assert views.keys() == own.keys()
    assert all(torch.equal(views[n], own[n]) and views[n].shape == own[n].shape for n in own)
    for p, view in zip(layout, layout.views(w).values(), strict=True):
        view.fill_(7.0)
        assert (w[p.slice] == 7.0).all()
    w.zero_()
    assert all((view == 0.0).all() for view in layout.views(w).values())


@nets
def test_leading_dimensions_go_through_views(name):
    _, layout, _, _ = make_layout(name)
    w = torch.randn(2, 3, layout.size)
    views = layout.views(w)
    for n, view in layout.views(w[1, 2]).items():
        assert views[n].shape == (2, 3, *view.shape)
        assert torch.equal(views[n][1, 2], view)


@nets
def test_a_network_called_with_views_has_these_weights_and_fans_equal_those_of_torch(name):
    net, layout, w, x = make_layout(name)
    outputs = functional_call(net, layout.views(w), (x,))
    with torch.no_grad():
        nn.utils.vector_to_parameters(w, net.parameters())
        assert torch.equal(outputs, net(x))
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
def test_kinds_of_parameters(name):
    _, layout, _, _ = make_layout(name)
    assert {p.name: p.kind for p in layout} == KINDS[name]
    assert torch.equal(sum(layout.mask(k) for k in ("weight", "bias", "norm")), torch.ones(layout.size))
    assert torch.equal(layout.mask("weight", "bias", "norm"), torch.ones(layout.size))
    for p in layout:
        assert (layout.mask(p.kind)[p.slice] == 1.0).all()


@pytest.mark.parametrize("make", [nn.BatchNorm1d, nn.BatchNorm2d, nn.RMSNorm, nn.LayerNorm])
def test_scale_and_shift_of_normalizations_are_not_weights(make):
    assert {p.kind for p in Layout.of(make(3))} == {"norm"}
    assert {p.kind for p in Layout.of(nn.LayerNorm((3, 4)))} == {"norm"}, "not even a matrix"


def test_the_biases_of_a_recurrent_network_are_biases():
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
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_mask_of_weights_is_cached_for_each_type(name, dtype):
    _, layout, w, _ = make_layout(name)
    mask = layout.weight_mask(w.to(dtype))
    assert torch.equal(mask, layout.mask("weight").to(dtype))
    assert mask.dtype == dtype
    assert layout.weight_mask(torch.ones(3, layout.size, dtype=dtype)) is mask


def test_the_mask_of_weights_outlives_the_transformation_in_which_it_is_created():
    layout, w = Layout.of(nn.Linear(4, 3)), torch.randn(15)

    def differentiate_twice(w):
        penalty = torch.func.grad(lambda w: (layout.weight_mask(w) * w * w).sum())
        return torch.func.grad(lambda w: penalty(w).sum())(w)

    first = differentiate_twice(w)
    assert torch.equal(differentiate_twice(w), first)
    assert torch.equal(layout.weight_mask(w) + 0.0, layout.mask("weight"))


@nets
def test_the_layers_are_the_modules_that_own_parameters_and_cover_the_vector(name):
    net, layout, _, _ = make_layout(name)
    layers = layout.layers()
    covered = torch.zeros(layout.size)
    for slices in layers.values():
        for s in slices:
            covered[s] += 1
    assert torch.equal(covered, torch.ones(layout.size))
    for module_name, module in net.named_modules():
        count = sum(p.numel() for p in module.parameters(recurse=False))
        if module_name and count:
            assert sum(s.stop - s.start for s in layers[module_name]) == count
