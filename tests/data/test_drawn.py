"""Examples that are drawn, and digits as sequences: slow twins of their definitions, and what is known of them."""

import math

import numpy as np
import pytest
import torch
from helpers import assert_refused, build_experiment, make_option
from numpy.polynomial.legendre import legvander
from scipy.stats import kstest
from sklearn.datasets import load_diabetes, load_digits, make_moons
from sklearn.linear_model import LinearRegression

from dlopt.data import _files
from dlopt.data.two_moons import locate
from dlopt.storage import memory

DRAWN = ("adding", "copying", "two_moons", "spirals", "polynomial")


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


@pytest.mark.parametrize("option", DRAWN)
def test_drawn_examples_are_the_same_in_every_process_and_differ_between_the_splits(option):
    data = make_option("data", option)
    one = data.load()
    assert data.load() is one  # shared by the runs of a sweep
    _files.cache.clear()
    two = data.load()
    assert torch.equal(one.train.inputs, two.train.inputs)
    assert torch.equal(one.test.targets, two.test.targets)
    few = make_option("data", option, size=17).load()
    assert torch.equal(few.test.inputs, one.test.inputs)  # the test stays if the training examples become fewer
    assert not torch.equal(few.test.inputs[:17], few.train.inputs)


@pytest.mark.parametrize("option", DRAWN)
def test_wrong_keys_of_drawn_examples_are_refused(option, monkeypatch):
    assert_refused(make_option("data", option, path="my.csv").load, "path", "drawn, not read")
    monkeypatch.setattr(memory, "get_available", lambda: 10_000_000)
    assert_refused(make_option("data", option, size=10**9).load, "size", "examples needs", "free")


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


def test_the_places_of_two_moons_are_those_of_scikit_learn():
    points, classes = make_moons(101, shuffle=False)
    y = torch.from_numpy(classes)
    t = torch.cat([torch.linspace(0, math.pi, n, dtype=torch.float64) for n in (50, 51)])
    np.testing.assert_allclose(locate(t, y), points, atol=1e-12)


def test_the_places_of_spirals_are_those_of_lang_and_witbrock():
    """Their program: 97 points, and the same points mirrored at the origin for the other class."""
    i = np.arange(97)
    radius, angle = 6.5 * (104 - i) / 104, i * math.pi / 16
    theirs = np.stack([radius * np.sin(angle), radius * np.cos(angle)], 1)
    spirals = make_option("data", "spirals", classes=2, turns=3.25, noise=0)
    t = torch.from_numpy((104 - i) / 104)
    for k, expected in enumerate((theirs, -theirs)):
        np.testing.assert_allclose(6.5 * spirals.locate(t, torch.full((97,), k)), expected, atol=1e-12)


@pytest.mark.parametrize(("option", "classes"), [("two_moons", 2), ("spirals", 3)])
def test_points_have_normal_noise_and_classes_of_equal_size(option, classes):
    sizes = {"size": 9001, "test_size": 100}
    bare, noisy = (make_option("data", option, noise=noise, **sizes).load().train for noise in (0.0, 0.5))
    counts = noisy.targets.bincount()
    assert counts.max() - counts.min() <= 1
    assert torch.equal(bare.targets, noisy.targets)
    noise = ((noisy.inputs - bare.inputs) / 0.5).double()
    assert kstest(noise.flatten(), "norm").pvalue > 0.01
    assert abs(np.corrcoef(noise.T)[0, 1]) < 4 / math.sqrt(9001)
    t = (
        bare.inputs.double().norm(dim=1)
        if option == "spirals"
        else bare.inputs[bare.targets == 0, 0].double().acos() / math.pi
    )
    assert kstest(t, "uniform").pvalue > 0.01


def test_polynomial_is_the_sum_of_numpys_legendre_polynomials_plus_noise():
    keys = {"true_degree": 4, "size": 400}
    data = make_option("data", "polynomial", degree=9, noise=0.0, **keys).load()
    for split in (data.train, data.test):
        x, y = (tensor.double().numpy() for tensor in split.gather())
        expected = legvander(x[:, 0], 9)[:, 1:]
        np.testing.assert_allclose(x, expected, atol=1e-5)
        np.testing.assert_allclose(y[:, 0], expected[:, :4].sum(1), atol=1e-5)
        assert kstest(x[:, 0], "uniform", (-1, 2)).pvalue > 0.01
    noisy = make_option("data", "polynomial", degree=2, noise=0.7, **keys).load().train
    assert torch.equal(noisy.inputs, data.train.inputs[:, :2])
    assert kstest((noisy.targets - data.train.targets).flatten() / 0.7, "norm").pvalue > 0.01


def test_the_test_error_of_least_squares_descends_twice():
    """By numpy, with minimum norm: noise^2 = 0.09 is the least error."""
    errors = {}
    for degree in (1, 3, 10, 19, 100, 400):
        data = make_option("data", "polynomial", degree=degree, size=20, noise=0.3).load()
        (a, y), (b, t) = ([tensor.double().numpy() for tensor in split.gather()] for split in (data.train, data.test))
        coefficients = np.linalg.lstsq(np.c_[np.ones(20), a], y, rcond=None)[0]
        errors[degree] = ((np.c_[np.ones(len(b)), b] @ coefficients - t) ** 2).mean()
    assert errors[1] > errors[3] < errors[10] < errors[19] > errors[100] > errors[400]
    assert 0.08 < errors[3] < 0.12
    assert errors[19] > 1e3
    assert errors[400] < errors[10]


def test_diabetes_is_that_of_scikit_learn_with_targets_scaled_by_the_training_rows():
    theirs = load_diabetes(scaled=False)
    experiment = build_experiment("data=diabetes", "batch_size=50")
    data = make_option("data", "diabetes").load()
    np.testing.assert_array_equal(torch.cat([data.train.inputs, data.test.inputs]), theirs.data.astype(np.float32))
    np.testing.assert_array_equal(torch.cat([data.train.targets, data.test.targets])[:, 0], theirs.target)
    rows = theirs.target[experiment.train.rows]
    y = experiment.train.gather()[1].double()
    assert (y.mean().item(), y.std(correction=0).item()) == pytest.approx((0.0, 1.0), abs=1e-6)
    assert experiment.encoding == pytest.approx({"middle": rows.mean(), "scale": rows.std()})
    scaled = (theirs.target[353:, None] - rows.mean()) / rows.std()
    np.testing.assert_allclose(experiment.test.targets, scaled, rtol=1e-6)
    raw = build_experiment("data=diabetes", "batch_size=50", "data.standardize_target=false")
    assert raw.test.targets.flatten().tolist() == theirs.target[353:].tolist()
    fit = LinearRegression().fit(theirs.data[:353], theirs.target[:353])
    assert 0.45 < fit.score(theirs.data[353:], theirs.target[353:]) < 0.6
