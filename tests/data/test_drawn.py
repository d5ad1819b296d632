"""Sequences that are drawn, and digits as sequences: slow twins of their definitions, and what is known of them."""

import math

import numpy as np
import pytest
import torch
from helpers import assert_refused, make_option
from sklearn.datasets import load_digits

from dlopt.data import _files
from dlopt.storage import memory


def test_the_target_of_adding_is_the_sum_of_one_marked_number_in_each_half():
    data = make_option("data", "adding", length=7, size=500, test_size=300).load()
    for split, count in ((data.train, 500), (data.test, 300)):
        x, y = (tensor.double().numpy() for tensor in split.gather())
        assert x.shape == (count, 2, 7)
        for (numbers, marks), target in zip(x, y, strict=True):
            (first, second) = np.flatnonzero(marks)
            assert first < 3 <= second  # floor(7 / 2) steps are in the first half
            assert marks.sum() == 2
            assert target == np.float32(numbers[first] + numbers[second])


def test_adding_has_the_distribution_of_numpys_generator():
    """Frequencies and moments within four standard errors of the twin's, which draws the same way."""
    count, length = 20_000, 6
    x, y = make_option("data", "adding", length=length, size=count).load().train.gather()
    twin = np.random.default_rng(0)
    numbers = twin.uniform(size=(count, length))
    places = np.stack([twin.integers(0, 3, count), twin.integers(3, 6, count)], 1)
    sums = np.take_along_axis(numbers, places, 1).sum(1)
    assert y.mean().item() == pytest.approx(sums.mean(), abs=4 * math.sqrt(2 / 6 / count))
    assert y.var().item() == pytest.approx(1 / 6, abs=4 * math.sqrt(2 * 7 / 180 / count))
    expected = np.bincount(places.flatten(), minlength=length) / count
    np.testing.assert_allclose(x[:, 1].mean(0), expected, atol=4 * math.sqrt(2 * 2 / 9 / count))
    correlation = np.corrcoef(x[:, 0].T)
    assert abs(correlation - np.eye(length)).max() < 5 / math.sqrt(count)


def test_the_baseline_of_adding_is_a_sixth():
    y = make_option("data", "adding", length=2, size=200_000).load().train.targets.double()
    assert (y - 1).square().mean().item() == pytest.approx(1 / 6, rel=0.01)


def test_copying_is_the_word_after_the_delay():
    """Written out, as the paper describes it, symbol by symbol."""
    data = make_option("data", "copying", delay=5, word=3, letters=4, size=200, test_size=50).load()
    assert (data.outputs, data.tokens, data.shape, data.per_step) == (5, 7, (11,), True)
    letters = set()
    for x, y in zip(*(tensor.tolist() for tensor in data.train.gather()), strict=True):
        word = [token - 1 for token in x[:3]]
        letters |= set(word)
        blank, delimiter = 4, 5
        assert [token - 1 for token in x] == [*word, *[blank] * 4, delimiter, *[blank] * 3]
        assert y == [*[blank] * 8, *word]
    assert letters == set(range(4))


def test_the_letters_of_copying_are_equally_likely_at_each_place():
    y = make_option("data", "copying", delay=1, word=2, letters=3, size=9000).load().train.targets[:, -2:]
    pairs = (3 * y[:, 0] + y[:, 1]).bincount(minlength=9) / 9000
    np.testing.assert_allclose(pairs, 1 / 9, atol=4 * math.sqrt(1 / 9 / 9000))


@pytest.mark.parametrize("option", ["adding", "copying"])
def test_drawn_sequences_are_the_same_in_every_process_and_differ_between_the_splits(option):
    data = make_option("data", option)
    one = data.load()
    assert data.load() is one  # shared by the runs of a sweep
    _files.cache.clear()
    two = data.load()
    assert torch.equal(one.train.inputs, two.train.inputs)
    assert torch.equal(one.test.targets, two.test.targets)
    few = make_option("data", option, size=1000).load()
    assert torch.equal(few.test.inputs, one.test.inputs)  # the test stays if the training examples become fewer
    assert not torch.equal(few.test.inputs, few.train.inputs)


@pytest.mark.parametrize("option", ["adding", "copying"])
def test_wrong_keys_of_drawn_sequences_are_refused(option, monkeypatch):
    assert_refused(make_option("data", option, path="my.csv").load, "path", "drawn, not read")
    monkeypatch.setattr(memory, "get_available", lambda: 10_000_000)
    assert_refused(make_option("data", option, size=10**9).load, "size", "1,000,001,000 sequences needs", "free")


@pytest.mark.parametrize("permuted", [False, True])
def test_sequential_digits_are_the_pixels_of_scikit_learn_in_one_order(permuted):
    data = make_option("data", "sequential_digits", permuted=permuted).load()
    images = load_digits()
    pixels = (images.images.reshape(-1, 64) / 16).astype(np.float32)
    series = torch.cat([data.train.inputs, data.test.inputs])
    assert series.shape == (1797, 1, 64)
    assert torch.cat([data.train.targets, data.test.targets]).tolist() == images.target.tolist()
    if not permuted:
        np.testing.assert_array_equal(series[:, 0], pixels)
        return
    np.testing.assert_array_equal(series[:, 0].sort(1).values, np.sort(pixels, 1))
    assert not np.array_equal(series[:, 0], pixels)
    columns = {column.tobytes() for column in series[:, 0].T.contiguous().numpy()}  # one order for all images
    assert columns == {column.tobytes() for column in np.ascontiguousarray(pixels.T)}
    again = make_option("data", "sequential_digits", permuted=True).load()
    assert torch.equal(again.test.inputs, data.test.inputs)
