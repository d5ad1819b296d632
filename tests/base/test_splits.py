"""Splits: who goes where, in which proportion, and which labels are made wrong."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dlopt import prng
from dlopt.base import splits
from dlopt.parts import Split

relaxed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a slow machine is no failure
keys = st.integers(0, 1000).map(prng.key)
labels = st.lists(st.integers(0, 4), min_size=2, max_size=80).map(torch.tensor)
shares = st.floats(0, 0.99)
KEY = prng.key(0, "validation")


def classes(targets, rows=None):
    return Split(torch.arange(len(targets)).float().unsqueeze(-1), targets, rows)


def rows_of(split):
    """The rows of the underlying tensors, read off the inputs, which hold their own numbers."""
    return split.gather()[0].flatten().long()


def assert_proportional(targets, chosen):
    for c in targets.unique():
        share = len(chosen) * (targets == c).sum() / len(targets)
        assert abs((targets[chosen] == c).sum() - share) < 1


@relaxed
@given(targets=labels, fraction=shares, key=keys)
def test_training_and_validation_partition_the_examples(targets, fraction, key):
    train, held = splits.hold_out(classes(targets), fraction, key)
    count = round(fraction * len(targets))
    assert (0 if held is None else len(held)) == count
    both = rows_of(train).tolist() + ([] if held is None else rows_of(held).tolist())
    assert sorted(both) == list(range(len(targets)))


@relaxed
@given(targets=labels, fraction=shares, key=keys)
def test_the_classes_are_held_out_in_proportion(targets, fraction, key):
    _, held = splits.hold_out(classes(targets), fraction, key)
    if held is not None:
        assert_proportional(targets, rows_of(held))


@relaxed
@given(targets=labels, key=keys, data=st.data())
def test_a_subset_has_the_asked_size_and_the_classes_in_proportion(targets, key, data):
    size = data.draw(st.integers(1, len(targets)))
    part = splits.sample_subset(classes(targets), size, key)
    rows = rows_of(part)
    assert len(part) == len(rows) == len(rows.unique()) == size
    assert_proportional(targets, rows)


@relaxed
@given(targets=labels, key=keys, share=shares, size=st.integers(2, 60))
def test_cutting_a_part_cuts_that_part_alone(targets, key, share, size):
    part = splits.sample_subset(classes(targets), min(size, len(targets)), key)
    train, held = splits.hold_out(part, share, prng.fold_in(key, "hold"))
    both = rows_of(train).tolist() + ([] if held is None else rows_of(held).tolist())
    assert sorted(both) == sorted(rows_of(part).tolist())
    if held is not None:
        mine = targets[rows_of(part)]
        for c in mine.unique():
            share = len(held) * (mine == c).sum() / len(mine)
            assert abs((targets[rows_of(held)] == c).sum() - share) < 1


# ------------------------------------------------------------------------------------------------ folds

some_folds = st.integers(2, 9)
numbers = st.lists(st.floats(-9, 9), min_size=2, max_size=80).map(lambda values: torch.tensor(values).unsqueeze(-1))


def all_folds(split, k, key):
    """What each run of a cross-validation trains on, and the fold that it validates on, as rows."""
    pairs = [splits.split_k_fold(split, k, i, key) for i in range(k)]
    return [rows_of(train) for train, _ in pairs], [rows_of(held) for _, held in pairs]


@relaxed
@given(targets=labels | numbers, k=some_folds, key=keys, data=st.data())
def test_folds_part_the_examples_and_each_run_trains_on_the_others(targets, k, key, data):
    k = min(k, len(targets))
    part = splits.sample_subset(classes(targets), data.draw(st.integers(k, len(targets))), prng.fold_in(key, "size"))
    trained, held = all_folds(part, k, key)
    whole = sorted(rows_of(part).tolist())
    assert sorted(torch.cat(held).tolist()) == whole
    for mine, fold in zip(trained, held, strict=True):
        assert sorted([*mine.tolist(), *fold.tolist()]) == whole


@relaxed
@given(targets=labels | numbers, k=some_folds, key=keys, data=st.data())
def test_folds_and_the_classes_in_them_differ_by_one_example_at_most(targets, k, key, data):
    k = min(k, len(targets))
    part = splits.sample_subset(classes(targets), data.draw(st.integers(k, len(targets))), prng.fold_in(key, "size"))
    _, held = all_folds(part, k, key)
    sizes = [len(fold) for fold in held]
    assert min(sizes) > 0
    assert max(sizes) - min(sizes) <= 1
    for c in targets.unique() if targets.ndim == 1 else ():
        counts = [int((targets[fold] == c).sum()) for fold in held]
        assert max(counts) - min(counts) <= 1


@pytest.mark.parametrize("numbers", [False, True])
def test_folds_are_a_function_of_their_key(numbers):
    targets = torch.randn(60, 2) if numbers else torch.randint(3, (60,))
    one, same, other = (all_folds(classes(targets), 4, key)[1] for key in (KEY, KEY, prng.key(1)))
    assert all(map(torch.equal, one, same))
    assert not any(map(torch.equal, one, other))


@pytest.mark.parametrize("numbers", [False, True])
def test_any_two_examples_of_a_class_share_a_fold_as_often(numbers):
    """Drawn at random: neither neighbours nor those that are a number of folds apart are kept together."""
    n, k, seeds = 24, 4, 400
    targets = torch.zeros(n, 1) if numbers else torch.arange(n) // 12
    group = n if numbers else n // 2
    together = torch.zeros(n, n)
    for seed in range(seeds):
        for fold in all_folds(classes(targets), k, prng.key(seed, "split"))[1]:
            together[fold.unsqueeze(1), fold] += 1
    p = (group // k - 1) / (group - 1)
    mine = together[:group, :group][~torch.eye(group, dtype=torch.bool)]
    assert (mine - seeds * p).abs().max() < 5 * (seeds * p * (1 - p)) ** 0.5


def test_folds_share_the_memory_of_the_data():
    whole = classes(torch.randint(3, (30,)))
    for split in splits.split_k_fold(whole, 3, 1, KEY):
        assert split.inputs is whole.inputs
        assert split.targets is whole.targets


# ------------------------------------------------------------------------------------------------ in general


@pytest.mark.parametrize("numbers", [False, True])
def test_a_split_is_a_function_of_its_key(numbers):
    targets = torch.randn(60, 2) if numbers else torch.randint(3, (60,))
    one, same, other = (splits.hold_out(classes(targets), 0.25, key)[1] for key in (KEY, KEY, prng.key(1)))
    assert torch.equal(rows_of(one), rows_of(same))
    assert not torch.equal(rows_of(one), rows_of(other))
    one, same, other = (splits.sample_subset(classes(targets), 20, key) for key in (KEY, KEY, prng.key(1)))
    assert torch.equal(rows_of(one), rows_of(same))
    assert not torch.equal(rows_of(one), rows_of(other))


def test_numbers_are_split_at_random():
    train, held = splits.hold_out(classes(torch.randn(50, 1)), 0.3, KEY)
    assert sorted(rows_of(train).tolist() + rows_of(held).tolist()) == list(range(50))
    assert len(held) == 15
    assert rows_of(held).tolist() != list(range(15))


def test_examples_within_a_class_are_chosen_at_random():
    targets = torch.arange(4).repeat_interleave(25)
    picked = torch.zeros(100)
    for seed in range(200):
        picked[rows_of(splits.hold_out(classes(targets), 0.2, prng.key(seed, "validation"))[1])] += 1
    # Each is held out 200 times with probability 1/5: mean 40, standard deviation sqrt(200 * 0.2 * 0.8).
    assert (picked - 40).abs().max() < 4 * 32**0.5


def test_the_splits_share_the_memory_of_the_data():
    whole = classes(torch.randint(3, (30,)))
    train, held = splits.hold_out(whole, 0.5, KEY)
    assert train.inputs is held.inputs is whole.inputs
    assert train.targets is held.targets is whole.targets


def test_holding_out_nothing_leaves_the_split():
    whole = classes(torch.randint(3, (30,)))
    assert splits.hold_out(whole, 0.0, KEY) == (whole, None)


@relaxed
@given(targets=labels, share=shares, key=keys, size=st.integers(1, 80))
def test_label_noise_makes_the_asked_number_of_labels_wrong_and_touches_nothing_else(targets, share, key, size):
    whole = classes(targets)
    part = splits.sample_subset(whole, min(size, len(targets)), key)
    held, before = rows_of(part), targets.clone()
    for split, rows in ((whole, torch.arange(len(targets))), (part, held)):
        noisy = splits.add_label_noise(split, share, 5, key)
        wrong = noisy.targets != targets
        assert wrong.sum() == round(share * len(rows))
        assert set(wrong.nonzero().flatten().tolist()) <= set(rows.tolist())
        assert ((noisy.targets >= 0) & (noisy.targets < 5)).all()
        assert torch.equal(rows_of(noisy), rows)
        assert noisy.inputs is split.inputs
    assert torch.equal(targets, before)


def test_label_noise_is_a_function_of_its_key():
    targets = torch.randint(10, (200,))
    one, same, other = (splits.add_label_noise(classes(targets), 0.5, 10, k).targets for k in (KEY, KEY, prng.key(1)))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_every_wrong_class_is_equally_likely():
    n, c = 30_000, 4
    targets = torch.randint(c, (n,), generator=torch.Generator().manual_seed(0))
    noisy = splits.add_label_noise(classes(targets), 1.0, c, KEY).targets
    for offset in range(1, c):
        share = ((noisy - targets) % c == offset).double().mean()
        assert abs(share - 1 / (c - 1)) < 4 * ((1 / 3) * (2 / 3) / n) ** 0.5
