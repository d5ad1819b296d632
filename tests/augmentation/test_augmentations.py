"""Every augmentation of the folder, with each of the names that its fields may hold: pure, and the same in lanes."""

import pytest
import torch

from benchmarks.augmentation import iterate_options
from dlopt import prng
from dlopt.training.batches import to_probabilities

KEY = prng.key(0, "augmentation")
SHAPES = {0: (12,), 1: (2, 12), 2: (2, 12, 9)}
BATCH, CLASSES = 20, 3


def variants():
    """Each part as its YAML has it, and with each combination of its choices, for each of its dims."""
    for name, part in iterate_options():
        yield from (pytest.param(part, dims, id=f"{name.replace(' ', '-')}-{dims}") for dims in part.dims)


augmentations = pytest.mark.parametrize(("part", "dims"), list(variants()))
precisions = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def batch(part, dims, dtype=torch.float64, lead=()):
    """Inputs and targets as a run would hand them over."""
    y = torch.randint(CLASSES, (*lead, BATCH))
    return torch.randn(*lead, BATCH, *SHAPES[dims], dtype=dtype), to_probabilities(
        y, CLASSES, dtype
    ) if part.mixes else y


@augmentations
@precisions
def test_lanes_get_what_runs_get_alone(part, dims, dtype):
    """Not a bit differs."""
    x, y = batch(part, dims, dtype, lead=(3,))
    keys = [prng.fold_in(KEY, i) for i in range(3)]
    together = prng.Key(*(torch.tensor(half) for half in zip(*keys, strict=True)))
    new_x, new_y = torch.vmap(part)(x, y, together)
    for i, key in enumerate(keys):
        alone = part(x[i], y[i], key)
        assert torch.equal(new_x[i], alone[0])
        assert torch.equal(new_y[i], alone[1])


@augmentations
def test_it_is_a_function_of_batch_and_key(part, dims):
    x, y = batch(part, dims)
    before, generator = (x.clone(), y.clone()), torch.get_rng_state()
    one, same, other = (part(x, y, key) for key in (KEY, KEY, prng.fold_in(KEY, 1)))
    assert all(torch.equal(a, b) for a, b in zip(one, same, strict=True))
    assert not torch.equal(one[0], other[0])
    assert torch.equal(x, before[0])
    assert torch.equal(y, before[1])
    assert torch.equal(torch.get_rng_state(), generator)


@augmentations
@precisions
def test_shapes_and_types_stay(part, dims, dtype):
    x, y = batch(part, dims, dtype)
    for old, new in zip((x, y), part(x, y, KEY), strict=True):
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        assert torch.isfinite(new).all()


@augmentations
def test_precision_changes_the_rounding_alone(part, dims):
    """The random numbers are the same."""
    x, y = batch(part, dims, torch.float32)
    double = part(x.double(), y.double() if part.mixes else y, KEY)
    for a, b in zip(part(x, y, KEY), double, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-5)


@augmentations
def test_targets_are_mixed_where_it_says_so_and_else_left_alone(part, dims):
    x, y = batch(part, dims)
    _, made = part(x, y, KEY)
    if part.mixes:
        assert not torch.equal(made, y)
        torch.testing.assert_close(made.sum(-1), torch.ones(BATCH, dtype=torch.float64))
        assert made.min() >= 0
    else:
        assert made is y


@augmentations
def test_two_examples_are_enough(part, dims):
    x, y = batch(part, dims)
    assert part(x[:2], y[:2], KEY)[0].shape == x[:2].shape
