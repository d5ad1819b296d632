"""Facts that hold for every augmentation with every value of its choices: pure, and the same bits in lanes."""

import pytest
import torch

from benchmarks.augmentation import iterate_options
from dlopt import prng
from dlopt.training.batches import to_probabilities

KEY = prng.key(0, "augmentation")
SHAPES = {0: (12,), 1: (2, 12), 2: (3, 12, 9)}
BATCH, CLASSES = 20, 3

augmentations = pytest.mark.parametrize(
    ("option", "dims"),
    [
        pytest.param(option, dims, id=f"{name.replace(' ', '-')}-{dims}")
        for name, option in iterate_options()
        for dims in option.dims
    ],
)
dtypes = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


def make_batch(option, dims, dtype=torch.float64, lanes=()):
    """Return inputs and targets as a run passes them."""
    y = torch.randint(CLASSES, (*lanes, BATCH))
    draw = torch.rand if option.uses_pixels else torch.randn
    x = draw(*lanes, BATCH, *SHAPES[dims], dtype=dtype)
    return x, to_probabilities(y, CLASSES, dtype) if option.mixes else y


@augmentations
@dtypes
def test_lanes_have_the_bits_of_single_runs(option, dims, dtype):
    x, y = make_batch(option, dims, dtype, lanes=(3,))
    keys = [prng.fold_in(KEY, i) for i in range(3)]
    together = prng.Key(*(torch.tensor(half) for half in zip(*keys, strict=True)))
    new_x, new_y = torch.vmap(option)(x, y, together)
    for i, key in enumerate(keys):
        single_x, single_y = option(x[i], y[i], key)
        assert torch.equal(new_x[i], single_x)
        assert torch.equal(new_y[i], single_y)
        for old, new in ((x[i], single_x), (y[i], single_y)):
            assert (new.shape, new.dtype) == (old.shape, old.dtype)
            assert torch.isfinite(new).all()


@augmentations
def test_it_is_a_function_of_batch_and_key(option, dims):
    x, y = make_batch(option, dims)
    before, generator = (x.clone(), y.clone()), torch.get_rng_state()
    first, same, other = (option(x, y, key) for key in (KEY, KEY, prng.fold_in(KEY, 1)))
    assert all(map(torch.equal, first, same))
    assert not torch.equal(first[0], other[0])
    assert all(map(torch.equal, (x, y), before))
    assert torch.equal(torch.get_rng_state(), generator)
    assert option(x[:2], y[:2], KEY)[0].shape == x[:2].shape


@augmentations
def test_both_precisions_have_the_same_random_numbers(option, dims):
    x, y = make_batch(option, dims, torch.float32)
    double = option(x.double(), y.double() if option.mixes else y, KEY)
    for a, b in zip(option(x, y, KEY), double, strict=True):
        torch.testing.assert_close(a.double(), b.double(), rtol=1e-5, atol=1e-5)


@augmentations
def test_only_an_option_that_mixes_changes_targets(option, dims):
    x, y = make_batch(option, dims)
    _, targets = option(x, y, KEY)
    assert (targets is y) != option.mixes
    if option.mixes:
        assert not torch.equal(targets, y)
        torch.testing.assert_close(targets.sum(-1), torch.ones(BATCH, dtype=torch.float64))
        assert targets.min() >= 0
