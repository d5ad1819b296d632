"""The max-norm constraint: each unit by itself, linear and convolutional, and it is a projection."""

import pytest
import torch
from helpers import build_blobs, train_runs
from torch import nn

from dlopt.base.layout import Layout
from dlopt.normalization.batch import BatchNorm
from dlopt.regularization.max_norm import MaxNorm

NET = nn.Sequential(
    nn.Conv2d(2, 4, 3), BatchNorm(4), nn.Flatten(), nn.Linear(16, 3), nn.Linear(3, 5, bias=False)
).double()
LAYOUT = Layout.of(NET)


def list_units(w):
    """Return the weights into each unit of each layer."""
    pieces = LAYOUT.views(w)
    return [pieces[f"{layer}.weight"][u].flatten() for layer, n in (("0", 4), ("3", 3), ("4", 5)) for u in range(n)]


@pytest.mark.parametrize("limit", [0.1, 2.0, 100.0])
def test_each_unit_is_shortened_to_the_limit_and_keeps_its_direction(limit):
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    shrunk = MaxNorm(limit).after(w.clone(), w, 0.1, LAYOUT)
    for before, after in zip(list_units(w), list_units(shrunk), strict=True):
        expected = before if before.norm() <= limit else before * limit / before.norm()
        torch.testing.assert_close(after, expected)
        assert after.norm() <= limit + 1e-12


LAYERS = [
    (nn.Linear(4, 3), (4,)),
    (nn.Conv1d(4, 6, 3, groups=2), (4, 5)),
    (nn.ConvTranspose1d(4, 6, 3), (4, 5)),
    (nn.ConvTranspose2d(4, 6, (2, 3), stride=2, groups=2), (4, 3, 3)),
    (nn.ConvTranspose3d(2, 3, 2), (2, 2, 2, 2)),
]


@pytest.mark.parametrize("lanes", [False, True])
@pytest.mark.parametrize(("layer", "shape"), LAYERS, ids=lambda x: type(x).__name__)
def test_the_weights_of_a_unit_are_those_that_its_output_depends_on(layer, shape, lanes):
    """Found from the gradient of each output channel for positive inputs."""
    layer = layer.double()
    outputs = layer(torch.rand(1, *shape, dtype=torch.float64) + 0.1)[0].flatten(1 if len(shape) > 1 else 0)
    w, limits = nn.utils.parameters_to_vector(layer.parameters()).detach(), (0.3, 0.1)
    layout = Layout.of(layer)
    if lanes:
        shrunk = MaxNorm(torch.tensor(limits).double().unsqueeze(-1)).after(w.repeat(2, 1), w, 0.1, layout)
    else:
        shrunk = MaxNorm(limits[0]).after(w.clone(), w, 0.1, layout).unsqueeze(0)
    expected = w.repeat(len(shrunk), 1)
    for output in outputs:
        g = torch.autograd.grad(output.sum(), layer.weight, retain_graph=True)[0]
        unit = torch.cat([g.flatten() != 0, torch.zeros(layer.bias.numel()).bool()])
        for row, limit in zip(expected, limits, strict=False):
            row[unit] *= min(1.0, limit / row[unit].norm().item())
    torch.testing.assert_close(shrunk, expected)
    assert not torch.equal(shrunk[0], w)


def test_it_is_a_projection():
    """Applying it twice changes nothing, and no other point of the set is nearer."""
    w = torch.randn(LAYOUT.size, dtype=torch.float64)
    rule = MaxNorm(1.5)
    nearest = rule.after(w.clone(), w, 0.1, LAYOUT)
    torch.testing.assert_close(rule.after(nearest.clone(), w, 0.1, LAYOUT), nearest)
    for _ in range(20):
        other = rule.after(nearest + 0.1 * torch.randn_like(w), w, 0.1, LAYOUT)
        other = torch.where(LAYOUT.mask("weight").bool(), other, nearest)
        assert (w - other).norm() >= (w - nearest).norm()


def test_units_of_zeros_stay_zero_and_weights_that_are_not_finite_stay_so():
    w = torch.zeros(LAYOUT.size, dtype=torch.float64)
    assert torch.equal(MaxNorm(1.0).after(w.clone(), w, 0.1, LAYOUT), w)
    for bad in (float("nan"), float("inf"), 1e200):
        exploded = w.clone()
        exploded[5] = bad
        assert not MaxNorm(1.0).after(exploded, w, 0.1, LAYOUT).isfinite().all()


def test_a_trained_network_keeps_to_it_at_any_rate(tmp_path):
    wild = ("optimizer=sgd", "optimizer.lr=10", "regularization=max_norm", "regularization.max_norm.limit=0.5")
    _, (run,) = train_runs(tmp_path, build_blobs(*wild, "precision=float64"))
    model = run.load("last")["model"]
    norms = torch.cat([v.norm(dim=1) for name, v in model.items() if name.endswith("weight")])
    assert (norms <= 0.5 + 1e-12).all()
    assert (norms > 0.49).any()
