"""Translations by a share of height and of width."""

import pytest
import torch

from dlopt import prng
from dlopt.augmentation._integer_shift import shift_by
from dlopt.augmentation.translate import Translate

KEY = prng.key(0, "augmentation")
FILLS = ["zero", "edge", "reflect", "wrap"]


def places(most, height, width, n=5000):
    """Where a point in the middle of an image arrives."""
    x = torch.zeros(1, 1, height, width)
    x[..., height // 2, width // 2] = 1.0
    made, _ = Translate(most, "zero")(x.expand(n, 1, height, width), torch.zeros(n), KEY)
    return made.flatten(1).sum(0).reshape(height, width)


@pytest.mark.parametrize(
    ("most", "down", "across"), [(0.0, 0, 0), (0.09, 0, 1), (0.1, 1, 2), (0.25, 2, 5), (0.49, 5, 10)]
)
def test_the_largest_moves_are_a_share_of_height_and_of_width_rounded_down(most, down, across):
    counts = places(most, 11, 21)
    rows, columns = counts.sum(1).nonzero().flatten(), counts.sum(0).nonzero().flatten()
    assert rows.tolist() == list(range(5 - down, 5 + down + 1))
    assert columns.tolist() == list(range(10 - across, 10 + across + 1))
    assert (counts > 0).sum() == (2 * down + 1) * (2 * across + 1)


@pytest.mark.parametrize("fill", FILLS)
def test_each_image_is_moved_by_whole_pixels(fill):
    x = torch.randn(40, 2, 8, 6, dtype=torch.float64)
    made, _ = Translate(0.34, fill)(x, torch.zeros(40), KEY)
    steps = torch.cartesian_prod(torch.arange(-2, 3), torch.arange(-2, 3))
    all_moves = torch.stack([shift_by(x, by.expand(40, 2), fill) for by in steps])
    assert ((all_moves == made).flatten(2).all(-1).sum(0) == 1).all()


@pytest.mark.parametrize("most", [0.5, 0.99, 1 - 1e-9])
def test_some_of_the_image_is_always_in_view(most):
    x = torch.ones(3000, 1, 6, 5)
    made, _ = Translate(most, "zero")(x, torch.zeros(3000), KEY)
    assert made.flatten(1).any(1).all()


@pytest.mark.parametrize("fill", FILLS)
def test_a_translation_of_at_most_nothing_is_the_identity(fill):
    x = torch.randn(30, 2, 8, 5)
    assert torch.equal(Translate(0.0, fill)(x, torch.zeros(30), KEY)[0], x)
