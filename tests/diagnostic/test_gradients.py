"""diagnostic=gradients against norms taken directly."""

import pytest
import torch
from torch import nn

from dlopt.base.layout import Layout
from dlopt.diagnostic.gradients import Gradients
from dlopt.parts import StepRecord

NET = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))
LAYOUT = Layout.of(NET)
LAYERS = {"0": slice(0, 15), "1": slice(15, 23)}


def make_record(before, after, gradient):
    return StepRecord(0, before, after, torch.zeros(()), gradient, 0.1, LAYOUT, None)


def draw_tensors(*lead):
    return (torch.randn(*lead, LAYOUT.size, dtype=torch.float64) for _ in range(3))


def test_norms_and_ratios_are_those_of_the_slices():
    before, after, g = draw_tensors()
    tags, _ = Gradients(None).measure(make_record(before, after, g), None)
    torch.testing.assert_close(tags.pop("gradient/norm"), (g * g).sum().sqrt())
    for layer, s in LAYERS.items():
        torch.testing.assert_close(tags.pop(f"gradient/norm/{layer}"), g[s].norm())
        torch.testing.assert_close(tags.pop(f"update/ratio/{layer}"), (after - before)[s].norm() / before[s].norm())
    assert not tags


@pytest.mark.parametrize(("factor", "cosine"), [(3.0, 1.0), (-0.1, -1.0)])
def test_the_cosine_is_with_the_gradient_measured_before(factor, cosine):
    before, after, g = draw_tensors()
    tags, memory = Gradients(None).measure(make_record(before, after, g), None)
    assert "gradient/cosine" not in tags
    tags, _ = Gradients(None).measure(make_record(before, after, factor * g), memory)
    assert tags["gradient/cosine"].item() == pytest.approx(cosine)
    other = torch.randn_like(g)
    tags, _ = Gradients(None).measure(make_record(before, after, other), memory)
    torch.testing.assert_close(tags["gradient/cosine"], nn.functional.cosine_similarity(g, other, dim=0))


def test_the_memory_is_not_the_gradients_own_buffer():
    before, after, g = draw_tensors()
    copy = g.clone()
    _, memory = Gradients(None).measure(make_record(before, after, g), None)
    g.zero_()
    assert torch.equal(memory, copy)


def test_zeros_give_zero_and_not_nan():
    zero = torch.zeros(LAYOUT.size, dtype=torch.float64)
    _, memory = Gradients(None).measure(make_record(zero, zero, zero), None)
    tags, _ = Gradients(None).measure(make_record(zero, zero + 1, zero), memory)
    for name, value in tags.items():
        assert value == 0, name


def test_lanes_are_measured_as_runs_alone():
    before, after, g = draw_tensors(3)
    _, memory = Gradients(None).measure(make_record(before, after, after), None)
    together, _ = Gradients(None).measure(make_record(before, after, g), memory)
    for i in range(3):
        _, own = Gradients(None).measure(make_record(before[i], after[i], after[i]), None)
        alone, _ = Gradients(None).measure(make_record(before[i], after[i], g[i]), own)
        assert alone.keys() == together.keys()
        for name, value in alone.items():
            torch.testing.assert_close(together[name][i], value)


def test_measuring_changes_nothing():
    tensors = list(draw_tensors())
    copies = [t.clone() for t in tensors]
    Gradients(None).measure(make_record(*tensors), copies[0].clone())
    assert all(torch.equal(t, c) for t, c in zip(tensors, copies, strict=True))
