"""Stochastic depth and spatial dropout: what is dropped together, how often, and what remains."""

import math

import pytest
import torch
from helpers import make_arch, make_option
from torch import nn

from dlopt import prng
from dlopt.normalization.batch import BatchNormalization
from dlopt.regularization.spatial_dropout import SpatialDropout
from dlopt.regularization.stochastic_depth import StochasticDepth

BATCH = BatchNormalization(1e-5, 0.1)


def run_site(site, x, step=0):
    site.set_key(prng.key(step, "site"))
    return site(x)


@pytest.mark.parametrize(
    ("shape", "feature_dim"), [((400, 30), 1), ((400, 30, 5), 1), ((400, 30, 3, 2), 1), ((400, 5, 30), -1)]
)
def test_a_feature_is_dropped_at_all_positions_and_kept_ones_are_scaled(shape, feature_dim):
    site = SpatialDropout(0.3).module(0)
    site.feature_dim = feature_dim
    x = 1 + torch.rand(shape, dtype=torch.float64)
    y = run_site(site, x).movedim(feature_dim, 1).flatten(2) if len(shape) > 2 else run_site(site, x).unsqueeze(-1)
    kept = y != 0
    assert torch.equal(kept.all(-1), kept.any(-1))
    assert abs((~kept[..., 0]).double().mean() - 0.3) < 4 * math.sqrt(0.3 * 0.7 / (400 * 30))
    original = x.movedim(feature_dim, 1).flatten(2) if len(shape) > 2 else x.unsqueeze(-1)
    torch.testing.assert_close(y[kept], original[kept] / 0.7)
    assert torch.equal(site.eval()(x), x)
    assert not torch.equal(run_site(site.train(), x, step=1) == 0, run_site(site, x) == 0)


@pytest.mark.parametrize("mode", ["row", "batch"])
@pytest.mark.parametrize("decay", ["linear", "uniform"])
def test_a_branch_is_left_out_for_an_example_or_a_batch_with_the_probability_of_its_depth(mode, decay):
    rule, x = StochasticDepth(0.6, decay, mode), 1 + torch.rand(50, 3, 2, dtype=torch.float64)
    for index in (0, 3):
        p = 0.6 * (index + 1) / 4 if decay == "linear" else 0.6
        site = rule.branch(index, 4)
        dropped = torch.stack([run_site(site, x, step).flatten(1) == 0 for step in range(300)])
        assert torch.equal(dropped.all(-1), dropped.any(-1))
        if mode == "batch":
            assert torch.equal(dropped.flatten(1).all(1), dropped.flatten(1).any(1))
        draws = dropped[..., 0].double() if mode == "row" else dropped[:, 0, 0].double()
        assert abs(draws.mean() - p) < 4 * math.sqrt(p * (1 - p) / draws.numel())
        y = run_site(site, x, step=7)
        torch.testing.assert_close(y[y != 0], x[y != 0] / (1 - p))
        assert torch.equal(site.eval()(x), x)


@pytest.mark.parametrize(("arch", "count", "keys"), [
    ("resnet", 6, {"channels": [3, 4], "blocks": 3}),
    ("transformer", 6, {"depth": 3, "width": 4, "heads": 2}),
])  # fmt: skip
def test_all_residual_branches_of_a_network_are_left_out_together_and_nothing_else(arch, count, keys):
    """With p near 1 and every branch left out, a residual network is its shortcuts, without the branches' weights."""
    rule = StochasticDepth(1 - 1e-12, "uniform", "batch")
    net = make_arch(
        arch, (2, 8), 3, normalization=BATCH, regularization=rule, **keys, **SEQUENCE.get(arch, {})
    ).double()
    sites = [m for m in net.modules() if type(m).__name__ == "StochasticDepthSite"]
    assert [(site.index, site.fraction) for site in sites] == [(i, 1.0) for i in range(count)]
    x = torch.randn(5, 2, 8, dtype=torch.float64)
    before = net(x)
    with torch.no_grad():
        for name, p in net.named_parameters():
            if ".branch" in name:
                p.normal_()
    torch.testing.assert_close(net(x), before)


SEQUENCE = {"transformer": {"causal": False, "tokens": None, "per_step": False, "padded": False}}


def test_a_recurrent_network_drops_the_same_features_at_every_step():
    net = make_arch(
        "gru",
        (2, 8),
        3,
        regularization=SpatialDropout(0.5),
        width=20,
        layers=2,
        tokens=None,
        per_step=True,
        padded=False,
    )
    layer = net.hidden[0]
    layer.dropout.set_key(prng.key(0, "site"))
    y = layer(torch.randn(4, 8, 2), None)
    assert torch.equal((y == 0).all(1), (y == 0).any(1))
    assert 0.2 < (y == 0).double().mean() < 0.8


def test_a_network_starts_as_its_shortcuts_if_gamma_is_zero_and_needs_a_normalization_for_it():
    keys = {"channels": [3, 4], "blocks": 2, "shortcut": "projection"}
    net = make_arch("resnet", (2, 8), 3, normalization=BATCH, zero_gamma=True, **keys).double()
    x = net.first(torch.randn(5, 2, 8, dtype=torch.float64))
    for block in net.blocks:
        assert torch.equal(block(x), block.activation(block.shortcut(x)))
        assert sum(int((m.weight == 0).all()) for m in block.modules() if hasattr(m, "running_mean")) == 1
        x = block(x)
    for wrong in (
        {},
        {"normalization": BATCH, "skip": False},
        {"normalization": make_option("normalization", "weight")},
    ):
        with pytest.raises(ValueError, match=r"a normalization with a learned scale|arch\.skip=true"):
            make_arch("resnet", (2, 8), 3, zero_gamma=True, **{"shortcut": "identity"}, **wrong)
    assert isinstance(net.output, nn.Linear)
