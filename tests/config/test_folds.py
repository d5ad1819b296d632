"""Splits of a configured run: folds, their preprocessing and label noise, and the seed."""

import dataclasses

import mine
import pytest
import torch
from helpers import assert_build_refused, build_blobs, build_experiment

from dlopt import prng
from dlopt.base import splits

DIGITS = ("data=digits", "arch=linear", "batch_size=full", "validation.scheme=kfold")


def build_folds(*overrides, k):
    """Return the experiments of a cross-validation."""
    return [build_experiment(*DIGITS, f"validation.k={k}", f"validation.fold={i}", *overrides) for i in range(k)]


def test_the_seed_sets_the_folds(seed=7):
    whole = build_experiment("data=digits", "arch=linear", "validation.fraction=0").train
    for i, experiment in enumerate(build_folds(f"seed={seed}", k=2)):
        train, validation = splits.split_k_fold(whole, 2, i, prng.key(seed, "split"))
        assert torch.equal(experiment.train.rows, train.rows)
        assert torch.equal(experiment.validation.rows, validation.rows)


def test_folds_differ_in_the_split_only():
    one, two = build_folds(k=2)
    assert torch.equal(one.w, two.w)
    assert torch.equal(one.test.inputs, two.test.inputs)
    validation = dataclasses.replace(one.settings.validation, fold=1)
    assert dataclasses.replace(one.settings, validation=validation) == two.settings


def test_preprocessing_is_fitted_on_the_training_rows_of_each_fold():
    raw = build_experiment("data=digits", "arch=linear").train.inputs.double()
    experiments = build_folds("preprocess=standardize", k=2)
    for experiment in experiments:
        train = raw[experiment.train.rows]
        mu, sigma = train.mean(0), train.std(0, correction=0)
        sigma[sigma == 0] = 1  # a constant pixel is only centred
        torch.testing.assert_close(
            dict(experiment.preprocessing["standardize"]), {"mu": mu.float(), "sigma": sigma.float()}
        )
        for split in (experiment.train, experiment.validation):
            torch.testing.assert_close(
                split.gather()[0], ((raw[split.rows] - mu) / sigma).float(), atol=1e-5, rtol=1e-5
            )
    means = [experiment.preprocessing["standardize"]["mu"] for experiment in experiments]
    assert not any(torch.equal(means[0], other) for other in means[1:])


def test_label_noise_changes_training_rows_only():
    clean = build_experiment("data=digits", "arch=linear").train.targets
    for experiment in build_folds("data.label_noise=0.25", k=2):
        wrong = experiment.train.targets != clean
        assert wrong.sum() == round(0.25 * len(experiment.train))
        assert wrong[experiment.train.rows].sum() == wrong.sum()
        assert torch.equal(experiment.validation.gather()[1], clean[experiment.validation.rows])


def test_folds_partition_the_subset_of_train_size():
    subset = build_experiment("data=digits", "arch=linear", "validation.fraction=0", "data.train_size=203").train.rows
    experiments = build_folds("data.train_size=203", k=2)
    assert sorted(len(e.validation) for e in experiments) == [101, 102]
    assert torch.equal(torch.cat([e.validation.rows for e in experiments]).sort().values, subset.sort().values)


def test_a_fold_may_be_one_example():
    experiment = build_blobs("validation.scheme=kfold", "validation.k=60", "validation.fold=59")
    assert (len(experiment.train), len(experiment.validation)) == (59, 1)


# ------------------------------------------------------------------------------------------------ groups and times

VISITS = ("data._target_=mine.Visits", "batch_size=full")


def read_units(experiment):
    """Return the groups or times of the training and of the validation examples."""
    units = mine.number_visits(60)
    return units[experiment.train.rows], units[experiment.validation.rows]


@pytest.mark.parametrize("how", ["groups", "times"])
@pytest.mark.parametrize("size", ["null", "40"])
def test_own_data_with_groups_or_times_are_never_divided(how, size):
    common = (*VISITS, f"+data.how={how}", f"data.train_size={size}", "data.label_noise=0.2")
    folds = [
        build_blobs(*common, "validation.scheme=kfold", f"validation.fold={i}", "validation.k=3") for i in range(3)
    ]
    for experiment in (build_blobs(*common, "validation.fraction=0.3"), *folds):
        train, validation = read_units(experiment)
        assert len(train)
        assert len(validation)
        assert not set(train.tolist()) & set(validation.tolist())
        assert how == "groups" or validation.min() > train.max()
    validated = torch.cat([experiment.validation.rows for experiment in folds])
    assert (
        len(validated.unique())
        == len(validated)
        == (int(size) if how == "groups" and size != "null" else len(validated))
    )


WRONG_UNITS = {
    "float groups": ("data", "groups must be int64, got torch.float32"),
    "few times": ("data", "times must be a tensor of shape (60,), one for each training input, got (9,)"),
    "late": ("data", "times must be finite"),
    "both": ("data", "both groups and times; give one of them"),
    "a list": ("data", "groups must be a tensor of shape (60,), one for each training input, got list"),
}


@pytest.mark.parametrize("how", WRONG_UNITS)
def test_wrong_groups_and_times_of_own_data_are_refused(how):
    assert_build_refused(lambda: build_blobs(*VISITS, f"+data.how='{how}'"), *WRONG_UNITS[how])


@pytest.mark.parametrize(("how", "key", "value", "words"), [
    ("groups", "k", 13, "13 folds of 12 training groups: some would be empty; make fewer"),
    ("times", "k", 12, "12 folds need 13 different times, and the training split has 12; make fewer"),
    ("groups", "fraction", 0.01, "0.01 of 12 groups rounds to zero"),
    ("times", "fraction", 0.99, "leaves nothing to train on of 12 times; hold out less"),
])  # fmt: skip
def test_too_few_groups_or_times_are_refused(how, key, value, words):
    scheme = ("validation.scheme=kfold", "validation.fold=0") if key == "k" else ()
    overrides = (*VISITS, f"+data.how={how}", *scheme, f"validation.{key}={value}")
    assert_build_refused(lambda: build_blobs(*overrides), f"validation.{key}", words)


# ------------------------------------------------------------------------------------------------ own validation split

VALIDATED = ("data._target_=mine.ValidatedBlobs", "batch_size=full")


def test_an_own_validation_split_is_used_whole_and_preprocessed_as_the_training_split():
    raw = mine.ValidatedBlobs(None, None, 0.0, False, "reshuffle").load()
    experiment = build_blobs(*VALIDATED, "preprocess=standardize", "data.label_noise=0.2")
    assert (len(experiment.train), len(experiment.validation)) == (60, 20)
    assert torch.equal(experiment.validation.targets, raw.validation.targets)
    x = raw.train.inputs
    expected = (raw.validation.inputs - x.mean(0)) / x.std(0, correction=0)
    torch.testing.assert_close(experiment.validation.inputs, expected, atol=1e-5, rtol=1e-5)
    assert len(build_blobs(*VALIDATED, "data.train_size=10").validation) == 20


@pytest.mark.parametrize("how", ["shape", "label", "empty"])
def test_a_wrong_validation_split_is_refused(how):
    message = {"shape": "validation examples have shape (5,), training ones (4,)", "empty": "the validation split is empty",
               "label": "validation: labels must be 0 to 2, got 1 to 3"}  # fmt: skip
    assert_build_refused(lambda: build_blobs(*VALIDATED, f"+data.how={how}"), "data", message[how])


@pytest.mark.parametrize("typed", ["fraction=0.1", "fraction=0", "scheme=holdout"])
def test_what_would_hold_out_training_examples_is_refused(typed):
    key = f"validation.{typed.partition('=')[0]}"
    words = "this data has a validation split of its own: leave it out"
    assert_build_refused(lambda: build_blobs(*VALIDATED, f"validation.{typed}"), key, words)


def test_a_batch_larger_than_a_whole_training_split_is_refused_without_a_wrong_cause():
    assert_build_refused(
        lambda: build_blobs(*VALIDATED, "batch_size=61"), "batch_size", "60 training examples; use fewer"
    )
