"""Splits of the examples into training and validation, subsets and label noise.

A split can keep examples together: all of one group, or all of one time. The examples are then cut by group or by time,
and fractions and folds count groups or different times, as in scikit-learn's GroupShuffleSplit, GroupKFold and
TimeSeriesSplit. `groups` and `times` are values for each row of the tensors, as in Dataset; only one may be given.
"""

import heapq
import math

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.data import Split
from dlopt.prng import Key


def hold_out(
    train: Split, fraction: float, key: Key, groups: Tensor | None = None, times: Tensor | None = None
) -> tuple[Split, Split | None]:
    """Cut a random validation split of round(fraction N) examples from N; stratified if targets are classes.

    The training split keeps an example of each class, if it is large enough. Of N groups, random ones are held out, and
    of N different times the latest; neither is stratified.
    """
    rows = _rows(train)
    units = _number_units(rows, groups, times)
    n = len(rows) if units is None else len(units.unique())
    count = round(fraction * n)
    if count == 0:
        return train, None
    if units is None:
        mask = _draw(train.targets[rows], count, key, spare=1)
    elif times is not None:
        mask = units >= n - count
    else:
        mask = torch.isin(units, torch.randperm(n, generator=prng.generator(key))[:count])
    return _cut(train, rows, mask)


def split_k_fold(
    train: Split, k: int, index: int, key: Key, groups: Tensor | None = None, times: Tensor | None = None
) -> tuple[Split, Split]:
    """Return the training split of all folds but one and the validation split of this fold, 0 <= index < k <= N.

    The examples are partitioned into k folds at random, as a function of the key. Fold sizes differ by at most one,
    and so do the numbers of examples of each class. Groups are dealt from the largest to the smallest, each to the fold
    with the fewest examples; the key orders groups of one size.

    Of N different times, k < N, the folds are the last k of k + 1 consecutive blocks: all have N // (k + 1) times, and
    the block before them has the rest. The training split of a fold is all that is earlier.
    """
    rows = _rows(train)
    units = _number_units(rows, groups, times)
    if units is None:
        order = torch.randperm(len(rows), generator=prng.generator(key))
        if _are_classes(train.targets):
            order = order[train.targets[rows[order]].argsort(stable=True)]
        mask = torch.zeros(len(rows), dtype=torch.bool)
        mask[order[index::k]] = True  # dealt in turn, class after class
    elif times is None:
        mask = _deal_groups(units.bincount(), k, key)[units] == index
    else:
        n = len(units.unique())
        size = n // (k + 1)
        begin = n - (k - index) * size
        rows, units = rows[units < begin + size], units[units < begin + size]
        mask = units >= begin
    return _cut(train, rows, mask)


def count_units(train: Split, groups: Tensor | None = None, times: Tensor | None = None) -> tuple[int, str]:
    """Return the number of what a split cuts, and its name: examples, groups or different times."""
    rows = _rows(train)
    units = _number_units(rows, groups, times)
    if units is None:
        return len(rows), "examples"
    return len(units.unique()), "groups" if times is None else "times"


def sample_subset(train: Split, size: int, key: Key) -> Split:
    """Return a random subset of the given size, stratified by class, with an example of each class if it has room."""
    rows = _rows(train)
    return Split(train.inputs, train.targets, rows[_draw(train.targets[rows], size, key, least=1)])


def add_label_noise(train: Split, share: float, classes: int, key: Key) -> Split:
    """Replace round(share N) of the N labels, drawn at random, each by one of the other classes, all equally likely."""
    rows = _rows(train)
    order = torch.randperm(len(rows), generator=prng.generator(key))
    wrong = rows[order[: round(share * len(rows))]]
    offset = torch.randint(1, classes, (len(wrong),), generator=prng.generator(prng.fold_in(key, "class")))
    targets = train.targets.clone()
    targets[wrong] = (targets[wrong] + offset) % classes
    return Split(train.inputs, targets, train.rows)


def count_classes(split: Split, classes: int) -> Tensor:
    """Return the number of examples of each class in a split, (classes,); of sequences, the number of their steps."""
    labels = split.targets if split.rows is None else split.targets[split.rows]
    return labels[labels >= 0].bincount(minlength=classes)


def _are_classes(targets: Tensor) -> bool:
    """Return whether each example has one class, by which to stratify."""
    return targets.ndim == 1 and not targets.is_floating_point()


def _rows(split: Split) -> Tensor:
    return torch.arange(len(split.targets)) if split.rows is None else split.rows


def _number_units(rows: Tensor, groups: Tensor | None, times: Tensor | None) -> Tensor | None:
    """Return the number of the group or the time of each row, from 0 in sorted order; None without either."""
    values = groups if times is None else times
    return None if values is None else values[rows].unique(return_inverse=True)[1]


def _deal_groups(sizes: Tensor, k: int, key: Key) -> Tensor:
    """Return the fold of each group, given the number of examples of each."""
    order = torch.randperm(len(sizes), generator=prng.generator(key))
    order = order[sizes[order].argsort(descending=True, stable=True)]
    folds = torch.empty(len(sizes), dtype=torch.int64)
    loads = [(0, fold) for fold in range(k)]
    for group, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        load, fold = loads[0]
        folds[group] = fold
        heapq.heapreplace(loads, (load + size, fold))
    return folds


def _cut(split: Split, rows: Tensor, mask: Tensor) -> tuple[Split, Split]:
    return Split(split.inputs, split.targets, rows[~mask]), Split(split.inputs, split.targets, rows[mask])


def _draw(targets: Tensor, count: int, key: Key, *, least: int = 0, spare: int = 0) -> Tensor:
    """Return a random mask of `count` examples, stratified by class, with quotas rounded by largest remainders.

    It holds at least `least` examples of each class and leaves at least `spare`, if both are possible.
    """
    order = torch.randperm(len(targets), generator=prng.generator(key))
    mask = torch.zeros(len(targets), dtype=torch.bool)
    if not _are_classes(targets):
        mask[order[:count]] = True
        return mask
    classes, sizes = targets.unique(return_counts=True)
    quota = sizes.double() * count / len(targets)
    take = quota.floor().long()
    most = (quota - take).argsort(descending=True, stable=True)
    take[most[: count - int(take.sum())]] += 1
    take = _move_into_bounds(take, quota, sizes.clamp(max=least), sizes - spare)
    for label, n in zip(classes, take.tolist(), strict=True):
        mask[order[targets[order] == label][:n]] = True
    return mask


def _move_into_bounds(take: Tensor, quota: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Return counts within bounds and with the same sum, changed where they stay nearest to the quotas.

    The counts are returned unchanged if the bounds do not allow their sum.
    """
    if not low.sum() <= take.sum() <= high.sum():
        return take
    bounded = take.clamp(low, high)
    while missing := int(take.sum() - bounded.sum()):
        sign = 1 if missing > 0 else -1
        room = (high - bounded if missing > 0 else bounded - low) > 0
        bounded[(sign * (quota - bounded)).masked_fill(~room, -math.inf).argmax()] += sign
    return bounded
