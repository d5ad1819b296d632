"""Data sets: shapes, ranges and counts stated by their sources, and the cached file."""

import random

import numpy as np
import pytest
import torch
from helpers import compose_config, write_data_files
from hydra.utils import instantiate

from dlopt import prng
from dlopt.config.compose import groups
from dlopt.data import _files
from dlopt.data import diabetes as diabetes_module
from dlopt.data import digits as digits_module
from dlopt.data import mnist1d as mnist1d_module
from dlopt.data.text import BYTE_VALUES
from dlopt.parts import Data, overrides

WITHOUT_COPY = ("adding", "characters", "copying", "polynomial", "quadratic", "spirals", "two_moons")
NAMES = [name for name in groups.list_option_names("data") if name not in ("custom", "none")]


def load(name, folder, place=None):
    """Load a data set as a new process would: user's files from a folder, generated data from a place or the cache."""
    for module in (diabetes_module, digits_module, mnist1d_module):
        module._load.cache_clear()
    _files.cache.clear()
    overrides = write_data_files(name, folder) or (
        [] if place is None or name in WITHOUT_COPY else [f"data.path={place}"]
    )
    return instantiate(compose_config(f"data={name}", *overrides).data).load()


def read_generators():
    return random.getstate(), np.random.get_state(), torch.get_rng_state().numpy()  # noqa: NPY002


@pytest.fixture(params=NAMES, scope="module")
def name(request):
    return request.param


@pytest.fixture(scope="module")
def dataset(name, tmp_path_factory):
    return load(name, tmp_path_factory.mktemp("cache"))


def test_inputs_and_targets_are_consistent_and_the_splits_disjoint(dataset):
    for split in (dataset.train, dataset.test):
        x, y = split.gather()
        assert len(x) == len(y) == len(split) > 0
        assert tuple(x.shape[1:]) == dataset.shape
        assert x.dtype == {None: torch.float32, BYTE_VALUES: torch.uint8}.get(dataset.tokens, torch.int64)
        assert x.isfinite().all()
        if dataset.kind == "classes":
            assert y.dtype == torch.int64
            assert y.unique().tolist() == list(range(dataset.outputs)) or (dataset.per_step and split is dataset.test)
            assert 0 <= y.min() <= y.max() < dataset.outputs
        else:
            assert y.shape == (len(x), dataset.outputs)
            assert y.isfinite().all()
    train = {x.numpy().tobytes() for x in dataset.train.gather()[0]}
    assert not any(x.numpy().tobytes() in train for x in dataset.test.gather()[0])


def test_loading_neither_uses_nor_changes_the_global_generators(name, dataset, tmp_path):
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    before = read_generators()
    other = load(name, tmp_path, tmp_path)
    for one, two in zip(before, read_generators(), strict=True):
        np.testing.assert_equal(one, two)
    assert torch.equal(dataset.train.gather()[0], other.train.gather()[0])
    assert torch.equal(dataset.test.targets, other.test.targets)


def test_known_data_have_the_published_sizes_ranges_and_counts(name, dataset):
    every = torch.cat([dataset.train.gather()[0], dataset.test.gather()[0]])
    targets = torch.cat([dataset.train.targets, dataset.test.targets]).flatten()
    counts = None if targets.is_floating_point() else targets.bincount().tolist()
    sizes = dataset.train.inputs.shape, dataset.test.inputs.shape
    if name == "mnist1d":
        assert sizes == ((4000, 1, 40), (1000, 1, 40))
        assert counts == [500] * 10
    if name == "digits":
        assert sizes == ((1437, 1, 8, 8), (360, 1, 8, 8))
        assert (every.min(), every.max()) == (0, 1)
        assert torch.equal((16 * every).round(), 16 * every)  # the file holds integers from 0 to 16
        assert counts == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as the UCI archive states


@pytest.mark.parametrize(
    ("module", "maker"),
    [
        (digits_module, "_read"),
        (diabetes_module, "_read"),
        pytest.param(mnist1d_module, "_generate", marks=pytest.mark.long),
    ],
)
def test_a_cached_file_is_used_until_a_byte_is_flipped(module, maker, tmp_path, monkeypatch):
    name = module.__name__.rpartition(".")[2]
    make, calls = getattr(module, maker), []
    monkeypatch.setattr(module, maker, lambda: calls.append(name) or make())
    first = load(name, tmp_path, tmp_path)
    (file,) = tmp_path.iterdir()
    assert torch.equal(load(name, tmp_path, tmp_path).train.inputs, first.train.inputs)
    assert len(calls) == 1

    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(load(name, tmp_path, tmp_path).train.inputs, first.train.inputs)
    load(name, tmp_path, tmp_path)
    assert len(calls) == 2


def test_a_tilde_in_the_path_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    digits_module._load.cache_clear()
    instantiate(compose_config("data=digits", "data.path='~/folder'").data).load()
    assert (tmp_path / "folder" / "digits.npz").is_file()


GENERATED = ["adding", "copying", "mnist1d", "polynomial", "quadratic", "spirals", "two_moons"]


@pytest.mark.parametrize("name", GENERATED)
def test_fresh_examples_are_like_the_loaded_ones_and_a_function_of_the_key(name):
    option = instantiate(compose_config(f"data={name}").data)
    loaded, before = option.load(), read_generators()
    x, y = option.draw(prng.key(0, "a"), 300).gather()
    known, labels = loaded.train.gather()
    assert (x.shape[1:], x.dtype, y.shape[1:], y.dtype) == (
        known.shape[1:],
        known.dtype,
        labels.shape[1:],
        labels.dtype,
    )
    again, other = option.draw(prng.key(0, "a"), 300), option.draw(prng.key(0, "b"), 300)
    assert torch.equal(again.inputs, x)
    assert torch.equal(again.targets, y)
    assert not torch.equal(other.inputs, x)
    assert repr(read_generators()) == repr(before)
    for a, b in ((x.double(), known.double()), (y.double(), labels.double())):
        assert a.mean().item() == pytest.approx(b.mean().item(), abs=5 * (b.std().item() / 300**0.5) + 1e-9)
        assert a.std().item() == pytest.approx(b.std().item(), rel=0.2, abs=1e-9)


def test_only_generated_data_can_be_drawn():
    options = [instantiate(compose_config(f"data={name}").data) for name in NAMES]
    assert [n for n, o in zip(NAMES, options, strict=True) if overrides(o, "draw", Data)] == GENERATED


def test_fresh_series_are_made_and_scaled_as_those_of_mnist1d():
    loaded = instantiate(compose_config("data=mnist1d").data).load()
    x = torch.cat([loaded.train.inputs, loaded.test.inputs]).squeeze(1)
    mean, deviation = mnist1d_module._measure_scale()["scale"]
    raw = mnist1d_module._transform_templates(np.repeat(np.arange(10), 500).tolist(), 42)
    expected = torch.from_numpy((raw - mean) / deviation).float()
    torch.testing.assert_close(x[x[:, 0].argsort()], expected[expected[:, 0].argsort()], rtol=0, atol=1e-5)
