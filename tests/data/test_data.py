"""Data sets: shapes, ranges and counts that their sources state, and the file that keeps them."""

import random

import numpy as np
import pytest
import torch
from helpers import compose_config, write_data_files
from hydra.utils import instantiate

from dlopt.config.compose import groups
from dlopt.data import _files
from dlopt.data import digits as digits_module
from dlopt.data import mnist1d as mnist1d_module

NAMES = [name for name in groups.list_option_names("data") if name != "custom"]


def load(name, folder):
    folder.mkdir(exist_ok=True)
    brought = write_data_files(name, folder) or [f"data.path={folder}"]
    return instantiate(compose_config(f"data={name}", *brought).data).load()


def forget():
    """What a new process would not know."""
    digits_module._load.cache_clear()
    mnist1d_module._load.cache_clear()
    _files.cache.clear()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A cache that is empty at first."""
    forget()
    yield tmp_path_factory.mktemp("cache")
    forget()


@pytest.fixture(params=NAMES)
def dataset(request, folder):
    return load(request.param, folder)


def test_every_data_set_is_of_numbers_that_fit_together(dataset):
    for split in (dataset.train, dataset.test):
        x, y = split.gather()
        assert len(x) == len(y) == len(split) > 0
        assert tuple(x.shape[1:]) == dataset.shape
        assert x.dtype == torch.float32
        assert x.isfinite().all()
        if dataset.kind == "classes":
            assert y.dtype == torch.int64
            assert y.unique().tolist() == list(range(dataset.outputs))
        else:
            assert y.shape == (len(x), dataset.outputs)
            assert y.isfinite().all()


def test_no_test_example_is_a_training_example(dataset):
    train = {x.numpy().tobytes() for x in dataset.train.gather()[0]}
    assert not any(x.numpy().tobytes() in train for x in dataset.test.gather()[0])


def test_mnist1d_has_4000_and_1000_series_of_40_samples(folder):
    data = load("mnist1d", folder)
    assert data.train.inputs.shape == (4000, 1, 40)
    assert data.test.inputs.shape == (1000, 1, 40)
    assert data.outputs == 10
    counts = torch.cat([data.train.targets, data.test.targets]).bincount()
    assert (counts == 500).all()
    assert data.kind == "classes"


def test_digits_have_1437_and_360_images_in_zero_to_one(folder):
    data = load("digits", folder)
    assert data.train.inputs.shape == (1437, 1, 8, 8)
    assert data.test.inputs.shape == (360, 1, 8, 8)
    every = torch.cat([data.train.inputs, data.test.inputs])
    assert every.min() == 0
    assert every.max() == 1
    assert torch.equal((16 * every).round(), 16 * every)  # the file holds whole numbers from 0 to 16
    counts = torch.cat([data.train.targets, data.test.targets]).bincount()
    assert counts.tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]  # as the UCI archive states


@pytest.mark.parametrize("name", NAMES)
def test_making_a_data_set_leaves_the_global_generators_alone(name, tmp_path):
    forget()
    random.seed(123)
    np.random.seed(456)  # noqa: NPY002
    torch.manual_seed(789)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()  # noqa: NPY002
    load(name, tmp_path)
    assert random.getstate() == states[0]
    after = np.random.get_state()  # noqa: NPY002
    assert after[0] == states[1][0]
    assert np.array_equal(after[1], states[1][1])
    assert after[2:] == states[1][2:]
    assert torch.equal(torch.get_rng_state(), states[2])


@pytest.mark.parametrize("name", NAMES)
def test_the_data_do_not_depend_on_the_global_generators(name, tmp_path, folder):
    one = load(name, folder)
    forget()
    random.seed(1)
    np.random.seed(2)  # noqa: NPY002
    torch.manual_seed(3)
    other = load(name, tmp_path)
    assert torch.equal(one.train.inputs, other.train.inputs)
    assert torch.equal(one.test.targets, other.test.targets)


@pytest.mark.parametrize(("module", "maker"), [(mnist1d_module, "_generate"), (digits_module, "_read")])
def test_a_kept_file_is_used_until_a_byte_of_it_is_flipped(module, maker, tmp_path, monkeypatch):
    name = module.__name__.rpartition(".")[2]
    make, made = getattr(module, maker), []
    monkeypatch.setattr(module, maker, lambda: made.append(name) or make())
    forget()
    first = load(name, tmp_path)
    (file,) = tmp_path.iterdir()
    forget()
    second = load(name, tmp_path)
    assert len(made) == 1
    assert torch.equal(first.train.inputs, second.train.inputs)

    whole = file.read_bytes()
    middle = len(whole) // 2
    file.write_bytes(whole[:middle] + bytes([whole[middle] ^ 0x10]) + whole[middle + 1 :])
    forget()
    with pytest.warns(UserWarning, match="damaged"):
        third = load(name, tmp_path)
    assert len(made) == 2
    assert torch.equal(third.train.inputs, first.train.inputs)
    forget()
    load(name, tmp_path)
    assert len(made) == 2
    forget()


def test_a_tilde_in_the_path_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    forget()
    instantiate(compose_config("data=digits", "data.path='~/kept'").data).load()
    assert (tmp_path / "kept" / "digits.npz").is_file()
    forget()
