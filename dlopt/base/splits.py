"""Which examples are for training and which for validation, and what is done to the training labels."""

import torch
from torch import Tensor

from dlopt import prng
from dlopt.base.data import Split
from dlopt.prng import Key


def hold_out(train: Split, fraction: float, key: Key) -> tuple[Split, Split | None]:
    """Cut a random validation split of round(fraction N) examples from N; stratified where targets are classes."""
    rows = _rows(train)
    count = round(fraction * len(rows))
    if count == 0:
        return train, None
    held = _draw(train.targets[rows], count, key)
    return Split(train.inputs, train.targets, rows[~held]), Split(train.inputs, train.targets, rows[held])


def split_k_fold(train: Split, k: int, index: int, key: Key) -> tuple[Split, Split]:
    """All of k folds but one, and that one, 0 <= index < k <= N. Which examples make a fold depends on the key alone.

    The folds part the examples among themselves at random. Their sizes differ by one at most, and where targets are
    classes so do the numbers of each class in them.
    """
    rows = _rows(train)
    order = torch.randperm(len(rows), generator=prng.generator(key))
    if not train.targets.is_floating_point():
        order = order[train.targets[rows[order]].argsort(stable=True)]
    held = torch.zeros(len(rows), dtype=torch.bool)
    held[order[index::k]] = True  # dealt in turn, class after class
    return Split(train.inputs, train.targets, rows[~held]), Split(train.inputs, train.targets, rows[held])


def sample_subset(train: Split, size: int, key: Key) -> Split:
    """A random subset of the given size, the classes in proportion."""
    rows = _rows(train)
    return Split(train.inputs, train.targets, rows[_draw(train.targets[rows], size, key)])


def add_label_noise(train: Split, share: float, classes: int, key: Key) -> Split:
    """Replace round(share N) of the N labels, drawn at random, each by one of the other classes, all equally likely."""
    rows = _rows(train)
    order = torch.randperm(len(rows), generator=prng.generator(key))
    wrong = rows[order[: round(share * len(rows))]]
    offset = torch.randint(1, classes, (len(wrong),), generator=prng.generator(prng.fold_in(key, "class")))
    targets = train.targets.clone()
    targets[wrong] = (targets[wrong] + offset) % classes
    return Split(train.inputs, targets, train.rows)


def _rows(split: Split) -> Tensor:
    return torch.arange(len(split.targets)) if split.rows is None else split.rows


def _draw(targets: Tensor, count: int, key: Key) -> Tensor:
    """A mask of `count` examples. Of each class the share is that of the whole, rounded by largest remainders."""
    order = torch.randperm(len(targets), generator=prng.generator(key))
    mask = torch.zeros(len(targets), dtype=torch.bool)
    if targets.is_floating_point():
        mask[order[:count]] = True
        return mask
    classes, sizes = targets.unique(return_counts=True)
    quota = sizes.double() * count / len(targets)
    take = quota.floor().long()
    most = (quota - take).argsort(descending=True, stable=True)
    take[most[: count - int(take.sum())]] += 1
    for label, n in zip(classes, take.tolist(), strict=True):
        mine = order[targets[order] == label]
        mask[mine[:n]] = True
    return mask
