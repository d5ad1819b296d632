"""Splits: partitions, proportions of classes, groups, times, and label noise."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import model_selection

from dlopt import prng
from dlopt.base import splits
from dlopt.parts import Split

some = settings(max_examples=60)
keys = st.integers(0, 1000).map(prng.key)
labels = st.lists(st.integers(0, 4), min_size=2, max_size=80).map(torch.tensor)
numbers = st.lists(st.floats(-9, 9), min_size=2, max_size=80).map(lambda values: torch.tensor(values).unsqueeze(-1))
fractions = st.floats(0, 0.99)
KEY = prng.key(0, "validation")


def make_split(targets):
    """Return a split whose inputs are the numbers of its rows."""
    return Split(torch.arange(len(targets)).float().unsqueeze(-1), targets)


def rows_of(split):
    """Return the rows of a split in the tensors, from its inputs; none for None."""
    return torch.tensor([], dtype=torch.long) if split is None else split.gather()[0].flatten().long()


def assert_partition(parts, whole):
    assert sorted(torch.cat(parts).tolist()) == sorted(whole.tolist())


def assert_proportional(chosen, targets, rows):
    shares = [(c, len(chosen) * (targets[rows] == c).sum() / len(rows)) for c in targets[rows].unique()]
    if all(1 <= share <= (targets[rows] == c).sum() - 1 for c, share in shares):  # else a class may be kept whole
        assert all(abs((targets[chosen] == c).sum() - share) < 1 for c, share in shares)


@some
@given(targets=labels | numbers, fraction=fractions, key=keys, size=st.integers(1, 80))
def test_subsets_and_validation_splits_are_stratified_partitions(targets, fraction, key, size):
    whole = make_split(targets)
    part = splits.sample_subset(whole, min(size, len(targets)), key)
    assert len(part) == len(rows_of(part).unique()) == min(size, len(targets))
    for split in (whole, part):
        train, validation = splits.hold_out(split, fraction, prng.fold_in(key, "hold"))
        assert len(rows_of(validation)) == round(fraction * len(split))
        assert_partition([rows_of(train), rows_of(validation)], rows_of(split))
        if targets.ndim == 1:
            assert_proportional(rows_of(validation), targets, rows_of(split))
    if targets.ndim == 1:
        assert_proportional(rows_of(part), targets, rows_of(whole))


def all_folds(split, k, key):
    """Return the rows of the training splits and of the validation splits of a cross-validation."""
    pairs = [splits.split_k_fold(split, k, i, key) for i in range(k)]
    return [rows_of(train) for train, _ in pairs], [rows_of(fold) for _, fold in pairs]


@some
@given(targets=labels | numbers, k=st.integers(2, 9), key=keys, data=st.data())
def test_folds_are_a_partition_into_equal_stratified_parts(targets, k, key, data):
    k = min(k, len(targets))
    size = data.draw(st.integers(k, len(targets)))
    part = splits.sample_subset(make_split(targets), size, prng.fold_in(key, "size"))
    training, folds = all_folds(part, k, key)
    assert_partition(folds, rows_of(part))
    for train, fold in zip(training, folds, strict=True):
        assert_partition([train, fold], rows_of(part))
    counts = [[len(fold) for fold in folds]]
    assert min(counts[0]) > 0
    if targets.ndim == 1:
        counts += [[int((targets[fold] == c).sum()) for fold in folds] for c in targets.unique()]
    assert all(max(n) - min(n) <= 1 for n in counts)


@pytest.mark.parametrize("numbers", [False, True])
def test_any_two_examples_of_a_class_share_a_fold_equally_often(numbers):
    n, k, seeds = 24, 4, 200
    targets = torch.zeros(n, 1) if numbers else torch.arange(n) // 12
    group = n if numbers else n // 2
    together = torch.zeros(n, n)
    for seed in range(seeds):
        for fold in all_folds(make_split(targets), k, prng.key(seed, "split"))[1]:
            together[fold.unsqueeze(1), fold] += 1
    p = (group // k - 1) / (group - 1)
    pairs = together[:group, :group][~torch.eye(group, dtype=torch.bool)]
    assert (pairs - seeds * p).abs().max() < 5 * (seeds * p * (1 - p)) ** 0.5


DRAWS = {
    "folds": lambda split, key: torch.cat(all_folds(split, 4, key)[1]),
    "validation": lambda split, key: rows_of(splits.hold_out(split, 0.25, key)[1]),
    "subset": lambda split, key: rows_of(splits.sample_subset(split, 20, key)),
    "label noise": lambda split, key: splits.add_label_noise(split, 0.5, 3, key).targets,
}


@pytest.mark.parametrize("name", DRAWS)
def test_a_split_is_a_random_function_of_its_key(name):
    for targets in (torch.randint(3, (60,)), torch.randn(60, 1)) if name != "label noise" else (torch.arange(60) % 3,):
        one, same, other = (DRAWS[name](make_split(targets), key) for key in (KEY, KEY, prng.key(1)))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


def test_examples_of_a_class_are_held_out_at_random():
    targets = torch.arange(4).repeat_interleave(25)
    counts = torch.zeros(100)
    for seed in range(200):
        counts[rows_of(splits.hold_out(make_split(targets), 0.2, prng.key(seed, "validation"))[1])] += 1
    # Each is held out 200 times with probability 1/5: mean 40, standard deviation sqrt(200 * 0.2 * 0.8).
    assert (counts - 40).abs().max() < 4 * 32**0.5


def test_splits_share_the_memory_of_the_data():
    whole = make_split(torch.randint(3, (30,)))
    for split in (*splits.hold_out(whole, 0.5, KEY), *splits.split_k_fold(whole, 3, 1, KEY)):
        assert split.inputs is whole.inputs
        assert split.targets is whole.targets
    assert splits.hold_out(whole, 0.0, KEY) == (whole, None)


@some
@given(targets=labels, fraction=fractions, key=keys, size=st.integers(1, 80))
def test_label_noise_changes_the_given_number_of_labels_and_nothing_else(targets, fraction, key, size):
    whole = make_split(targets)
    part, before = splits.sample_subset(whole, min(size, len(targets)), key), targets.clone()
    for split in (whole, part):
        rows = rows_of(split)
        noisy = splits.add_label_noise(split, fraction, 5, key)
        wrong = noisy.targets != targets
        assert wrong.sum() == round(fraction * len(rows))
        assert set(wrong.nonzero().flatten().tolist()) <= set(rows.tolist())
        assert ((noisy.targets >= 0) & (noisy.targets < 5)).all()
        assert torch.equal(rows_of(noisy), rows)
        assert noisy.inputs is split.inputs
    assert torch.equal(targets, before)


def test_every_wrong_class_is_equally_likely():
    n, c = 30_000, 4
    targets = torch.randint(c, (n,), generator=torch.Generator().manual_seed(0))
    noisy = splits.add_label_noise(make_split(targets), 1.0, c, KEY).targets
    for offset in range(1, c):
        share = ((noisy - targets) % c == offset).double().mean()
        assert abs(share - 1 / (c - 1)) < 4 * ((1 / 3) * (2 / 3) / n) ** 0.5


@some
@given(targets=labels, fraction=fractions, key=keys, size=st.integers(1, 80))
def test_the_training_split_keeps_every_class_if_it_can(targets, fraction, key, size):
    whole, count = make_split(targets), len(targets.unique())
    train, _ = splits.hold_out(whole, fraction, key)
    assert len(targets[rows_of(train)].unique()) == min(count, len(train)) or len(train) < count
    part = splits.sample_subset(whole, min(size, len(targets)), key)
    assert len(targets[rows_of(part)].unique()) == count or len(part) < count


def draw_by_largest_remainders(targets, count, key):
    """Return the rows that a split without rare classes has always had."""
    order = torch.randperm(len(targets), generator=prng.generator(key)).tolist()
    sizes = targets.bincount().tolist()
    take = [size * count // len(targets) for size in sizes]
    remainders = sorted(range(len(sizes)), key=lambda c: -((sizes[c] * count) % len(targets)))
    for c in remainders[: count - sum(take)]:
        take[c] += 1
    return sorted(i for c, n in enumerate(take) for i in [i for i in order if targets[i] == c][:n])


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_splits_without_rare_classes_are_those_of_largest_remainders(fraction):
    targets = torch.tensor([0] * 17 + [1] * 31 + [2] * 12)
    _, validation = splits.hold_out(make_split(targets), fraction, KEY)
    assert sorted(rows_of(validation).tolist()) == draw_by_largest_remainders(targets, round(fraction * 60), KEY)


# ------------------------------------------------------------------------------------------------ groups and times


def draw_units(seed):
    """Return a random data set of uneven groups or times, the numbers of those, and a random subset of its rows."""
    draw = np.random.default_rng(seed)
    size, n = int(draw.integers(8, 60)), int(draw.integers(2, 9))
    units = torch.from_numpy(draw.permutation(np.r_[np.arange(n), draw.integers(0, n, size - n)] * 7 - 9))
    whole = make_split(torch.from_numpy(draw.integers(0, 3, size)) if seed % 2 else torch.randn(size, 1))
    return whole, units, splits.sample_subset(whole, int(draw.integers(n, size + 1)), prng.key(seed))


def iter_pairs(split, kind, units, seed):
    """Yield training and validation rows of a holdout and of every fold."""
    key, of = prng.key(seed), {kind: units}
    count, noun = splits.count_units(split, **of)
    assert (count, noun) == (len(units[rows_of(split)].unique()), kind)
    pairs = [splits.hold_out(split, 0.4, key, **of)]
    k = 2 + seed % 3
    if k + (kind == "times") <= count:
        pairs += [splits.split_k_fold(split, k, i, key, **of) for i in range(k)]
    for train, validation in pairs:
        yield rows_of(train), rows_of(validation)


def test_no_group_lies_on_both_sides_and_no_validation_row_is_earlier_than_training():
    cuts = 0
    for seed in range(200):
        whole, units, part = draw_units(seed)
        for split in (whole, part):
            for train, validation in iter_pairs(split, "groups", units, seed):
                assert not set(units[train].tolist()) & set(units[validation].tolist())
                assert_partition([train, validation], rows_of(split))
            for train, validation in iter_pairs(split, "times", units, seed):
                rows = torch.cat([train, validation])
                assert len(rows.unique()) == len(rows)
                if len(train) and len(validation):
                    cuts += 1
                    assert units[validation].min() > units[train].max()
                    assert not ((units[rows_of(split)] < units[validation].min()).sum() - len(train))
    assert cuts > 600


@pytest.mark.parametrize("seed", range(20))
def test_groups_are_divided_as_by_scikit_learn(seed):
    """Held-out groups have its number, and folds its sizes; which groups of one size they hold is random."""
    whole, groups, _ = draw_units(seed)
    n, x = len(groups.unique()), np.zeros(len(groups))
    for fraction in (i / n for i in range(1, n)):
        theirs = model_selection.GroupShuffleSplit(1, test_size=fraction - 1e-9, random_state=0).split(x, groups=groups)
        for (_, test), (_, validation) in zip(theirs, [splits.hold_out(whole, fraction, KEY, groups)], strict=True):
            assert len(groups[test].unique()) == len(groups[rows_of(validation)].unique())
    for k in range(2, n + 1):
        theirs = model_selection.GroupKFold(k).split(x, groups=groups)
        ours = [splits.split_k_fold(whole, k, i, KEY, groups) for i in range(k)]
        assert [len(validation) for _, validation in ours] == [len(test) for _, test in theirs]
        assert_partition([rows_of(validation) for _, validation in ours], rows_of(whole))


@pytest.mark.parametrize(("n", "k"), [(6, 5), (20, 3), (23, 4), (100, 7)])
def test_folds_in_time_are_those_of_scikit_learn(n, k):
    order = torch.randperm(n)  # the row of each time
    times = torch.empty(n).index_copy(0, order, torch.arange(n) / 3 - 5)
    for i, (train, test) in enumerate(model_selection.TimeSeriesSplit(k).split(np.zeros(n))):
        pair = splits.split_k_fold(make_split(torch.randn(n, 1)), k, i, KEY, times=times)
        for ours, theirs in zip(pair, (train, test), strict=True):
            assert sorted(rows_of(ours).tolist()) == sorted(order[torch.from_numpy(theirs)].tolist())


def test_rows_of_one_time_count_once_and_groups_are_drawn_at_random():
    times = torch.tensor([5, 5, 5, 5, 1, 2, 2, 3, 4, 4])
    train, validation = splits.hold_out(make_split(torch.randn(10, 1)), 0.4, KEY, times=times)
    assert sorted(times[rows_of(validation)].tolist()) == [4, 4, 5, 5, 5, 5]
    counts = torch.zeros(5)
    for seed in range(200):
        train, _ = splits.hold_out(make_split(torch.randn(10, 1)), 0.4, prng.key(seed), times)
        counts[times[rows_of(train)].unique() - 1] += 1
    assert (counts - 120).abs().max() < 4 * 48**0.5
