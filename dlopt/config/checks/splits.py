"""Split the data of a run, preprocess the splits, and check them against the settings."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Collection, Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt import parts, prng
from dlopt.base import sequences, splits
from dlopt.base.mapped_inputs import MappedInputs, map_inputs
from dlopt.config.checks.sequences import check_padding, find_padding_error, find_steps_error, fit_padded
from dlopt.config.problems import Problems, describe_failure
from dlopt.errors import join_truncated
from dlopt.training.experiment import Settings, ValidationSettings


class FittedDataState(NamedTuple):
    """The state of a finished run's data.

    statistics      the statistics of each preprocessing; None: fit them again
    encoding        the encoding of the user's own files as tensors
    is_other_data   whether other data than in training are loaded; they are not split into training and validation
    """

    statistics: Mapping[str, Mapping[str, Tensor]] | None
    encoding: Mapping[str, Any]
    is_other_data: bool


class PreparedData(NamedTuple):
    """The preprocessed splits, and the statistics of each preprocessing."""

    train: parts.Split
    validation: parts.Split | None
    test: parts.Split
    statistics: dict[str, dict[str, Tensor]]


def split_dataset(
    data: parts.Data,
    dataset: parts.Dataset,
    settings: Settings,
    fitted: FittedDataState | None,
    problems: Problems,
) -> tuple[parts.Split, parts.Split | None] | None:
    """Return the training split, with label noise if chosen, and the validation split; None with a problem added."""
    if fitted is not None and fitted.is_other_data:
        return dataset.train, dataset.test
    if not problems.has_no_problem("validation"):
        return None
    _check_order(data, dataset, problems)
    train, count = dataset.train, len(dataset.train)
    seed = prng.key(settings.seed)
    if data.train_size is not None:
        if data.train_size > count:
            limit = f"{count} (the examples without the {len(dataset.test)} of the test split)"
            problems.add("data.train_size", f"must be at most {limit}, got {data.train_size}")
            return None
        train = splits.sample_subset(train, data.train_size, prng.fold_in(seed, "train_size"))
    pair = _hold_out(train, settings.validation, prng.fold_in(seed, "split"), dataset, problems)
    if pair is None:
        return None
    train, validation = pair
    _note_missing_classes(dataset, train, validation, problems)
    if data.label_noise > 0:
        if dataset.kind != "classes" or dataset.outputs < 2 or dataset.per_step:
            actual = f"{dataset.kind} for each step" if dataset.per_step else "numbers"
            problems.add(
                "data.label_noise", f"needs classes, one for each example; the targets of this data are {actual}"
            )
            return None
        train = splits.add_label_noise(train, data.label_noise, dataset.outputs, prng.fold_in(seed, "label_noise"))
    return train, validation


def _check_order(data: parts.Data, dataset: parts.Dataset, problems: Problems) -> None:
    """Check that the data have what the order of their examples needs."""
    if data.order == "balanced" and (dataset.kind != "classes" or dataset.per_step):
        what = "numbers" if dataset.kind == "numbers" else "classes of each step of a sequence"
        problems.add(
            "data.order", f"balanced needs examples of one class each, and the targets of this data are {what}"
        )
    if data.order == "online" and not parts.overrides(data, "draw", parts.Data):
        wrong = f"online needs data that are generated, and {type(data).__name__} has a fixed number of examples"
        problems.add("data.order", f"{wrong}; use reshuffle, or replacement for independent draws")


def _note_missing_classes(
    dataset: parts.Dataset, train: parts.Split, validation: parts.Split | None, problems: Problems
) -> None:
    """Add a notice about classes of the data that the training split lacks."""
    if dataset.kind != "classes":
        return

    def count(split: parts.Split | None) -> Tensor:
        targets = torch.empty(0, dtype=torch.int64) if split is None else split.targets
        targets = targets if split is None or split.rows is None else targets[split.rows]
        return sequences.list_targets(targets).bincount(minlength=dataset.outputs)

    held_out = {"validation": count(validation), "test": count(dataset.test)}
    absent = ((count(train) == 0) & (count(dataset.train) + held_out["test"] > 0)).nonzero().flatten().tolist()
    if absent:
        names = [dataset.names[i] if dataset.names else str(i) for i in absent]
        rows = " and ".join(f"{n} in the {name} split" for name, c in held_out.items() if (n := int(c[absent].sum())))
        where = f"; {rows}" if rows else ""
        problems.notices.append(f"data: the training split has no example of {join_truncated(names)}{where}")


def check_validation(validation: ValidationSettings, typed_keys: Collection[str], problems: Problems) -> None:
    """Check that no key of the other validation scheme was typed, and that the fold exists."""
    k, index = validation.k, validation.fold
    if validation.scheme == "holdout":
        for key, is_set in (("k", "validation.k" in typed_keys), ("fold", index is not None)):
            if is_set:
                problems.add(f"validation.{key}", "is for validation.scheme=kfold: add that, or leave it out")
        return
    if "validation.fraction" in typed_keys:
        wrong = f"is for validation.scheme=holdout, and a fold is one of validation.k={k} parts"
        problems.add("validation.fraction", f"{wrong}: leave it out")
    if index is None:
        wrong = f"a run holds out one of the {k} folds: add -m for a run of each"
        problems.add("validation.fold", f"{wrong}, or choose one: validation.fold=0")
    elif index >= k:
        problems.add("validation.fold", f"must be 0 to {k - 1}, one of validation.k={k} folds, got {index}")


def check_own_splits(
    data: parts.Data,
    dataset: parts.Dataset,
    validation: ValidationSettings,
    typed_keys: Collection[str],
    problems: Problems,
) -> None:
    """Check that nothing is to be held out for a split that the data have of their own."""
    if getattr(data, "test_path", None) is not None and "data.test_fraction" in typed_keys:
        problems.add("data.test_fraction", "holds out no test examples of data.test_path: leave one of the two out")
    if dataset.validation is None:
        return
    keys = [key for key in ("scheme", "fraction") if f"validation.{key}" in typed_keys]
    if validation.scheme == "kfold":  # typed, or set by an experiment
        keys = ["scheme"]
    has_path = getattr(data, "validation_path", None) is not None
    for key in keys:
        wrong = "holds out training examples, and this data has a validation split of its own"
        problems.add(f"validation.{key}", f"{wrong}: leave it out" + ", or data.validation_path" * has_path)


def _hold_out(
    train: parts.Split, validation: ValidationSettings, key: prng.Key, dataset: parts.Dataset, problems: Problems
) -> tuple[parts.Split, parts.Split | None] | None:
    """Return the training split and the validation split, if any; None with a problem added."""
    groups, times, fraction = dataset.groups, dataset.times, validation.fraction
    count, noun = splits.count_units(train, groups, times)
    held_out = round(fraction * count)
    if count == 0:
        problems.add("data", "has no examples: there is nothing to train on")
    elif dataset.validation is not None or not dataset.has_inputs:
        return train, dataset.validation
    elif validation.fold is not None:
        k = validation.k
        if k + (times is not None) <= count:
            return splits.split_k_fold(train, k, validation.fold, key, groups, times)
        wrong = f"{k} folds of {count} training {noun}: some would be empty"
        if times is not None:
            wrong = f"{k} folds need {k + 1} different times, and the training split has {count}"
        problems.add("validation.k", f"{wrong}; make fewer of them, or take more data")
    elif held_out == count:
        wrong = f"leaves nothing to train on of {count} {noun}; hold out less or take more data"
        problems.add("validation.fraction", wrong)
    elif fraction > 0 and held_out == 0:
        problems.add("validation.fraction", f"{fraction:g} of {count} {noun} rounds to zero; hold out more, or 0")
    else:
        return splits.hold_out(train, fraction, key, groups, times)
    return None


def apply_preprocessing(
    train: parts.Split,
    validation: parts.Split | None,
    test: parts.Split,
    preprocess: Mapping[str, parts.Preprocess],
    problems: Problems,
    fitted: FittedDataState | None = None,
) -> PreparedData | None:
    """Fit each preprocessing on the training rows only, then apply it to all splits; None with a problem added.

    The statistics of a finished run are applied unchanged.
    """
    statistics: dict[str, dict[str, Tensor]] = {}
    saved = None if fitted is None else fitted.statistics
    for name, part in preprocess.items():
        try:
            statistics[name] = _fit(part, train) if saved is None else dict(saved[name])
            apply = partial(part.apply, statistics=statistics[name])
            shared = {id(split.inputs): split.inputs for split in (train, validation, test) if split is not None}
            changed = {key: map_inputs(apply, inputs) for key, inputs in shared.items()}
            check_padding(shared.values(), changed.values())
        except Exception as error:
            problems.add(f"preprocess.{name}", describe_failure(error))
            return None
        train = dataclasses.replace(train, inputs=changed[id(train.inputs)])
        if validation is not None:
            validation = dataclasses.replace(validation, inputs=changed[id(validation.inputs)])
        test = dataclasses.replace(test, inputs=changed[id(test.inputs)])
    return PreparedData(train, validation, test, statistics)


def _fit(part: parts.Preprocess, train: parts.Split) -> dict[str, Tensor]:
    """Return the statistics of the training rows; those of mapped inputs in chunks, if the part can do that."""
    if isinstance(train.inputs, MappedInputs) and isinstance(part, parts.ChunkedPreprocess):
        return part.fit_chunks(train.inputs.select(train.rows).chunks(), train.inputs.dtype)
    x = train.gather()[0]
    return fit_padded(part, x) if sequences.is_padded_series(x) else part.fit(x)


_valid_datasets: weakref.WeakValueDictionary[tuple[int, bool], parts.Dataset] = weakref.WeakValueDictionary()
"""Data sets that passed the check, by id and may_lack: checking a large one takes a second."""


def check_dataset(dataset: parts.Dataset, problems: Problems, *, may_lack: bool = False) -> bool:
    """Return whether a data set keeps the contract of dlopt.parts.Dataset; a shared one is checked once.

    may_lack is whether NaN in the inputs stands for missing numbers.
    """
    key = id(dataset), may_lack
    if _valid_datasets.get(key) is not dataset and _is_in_order(dataset, problems, may_lack=may_lack):
        _valid_datasets[key] = dataset
    return _valid_datasets.get(key) is dataset


def _is_in_order(dataset: parts.Dataset, problems: Problems, *, may_lack: bool) -> bool:
    by_name = {"train": dataset.train, "test": dataset.test}
    if dataset.validation is not None:
        by_name["validation"] = dataset.validation
    errors = {name: _find_split_error(split, dataset, may_lack=may_lack) for name, split in by_name.items()}
    wrong = [f"{name}: {error}" for name, error in errors.items() if error]
    for name, split in by_name.items() if not wrong else ():
        if split.inputs.shape[1:] != dataset.train.inputs.shape[1:]:
            wrong.append(f"{name} examples have shape {tuple(split.inputs.shape[1:])}, training ones {dataset.shape}")
        elif len(split) == 0 and len(dataset.train) > 0:
            wrong.append(f"the {name} split is empty")
    wrong += _find_unit_errors(dataset) if not wrong else []
    for message in wrong:
        problems.add("data", message)
    return not wrong


def _find_unit_errors(dataset: parts.Dataset) -> list[str]:
    """Return the errors in the groups and the times of the training examples."""
    count, errors = len(dataset.train.inputs), []
    for name in ("groups", "times"):
        x = getattr(dataset, name)
        if x is None:
            continue
        if not isinstance(x, Tensor) or x.shape != (count,):
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            errors.append(f"{name} must be a tensor of shape ({count},), one for each training input, got {shape}")
        elif name == "groups" and x.dtype != torch.int64:
            errors.append(f"groups must be int64, got {x.dtype}")
        elif x.is_complex() or (x.is_floating_point() and not x.isfinite().all()):
            errors.append(f"{name} must be finite real numbers")
    if not errors and dataset.groups is not None and dataset.times is not None:
        errors.append("has both groups and times; give one of them")
    return errors


def _find_split_error(split: parts.Split, dataset: parts.Dataset, *, may_lack: bool) -> str | None:
    """Return the first error in the inputs or targets of a split, or None."""
    x, y = split.inputs, split.targets
    if not (isinstance(x, Tensor | MappedInputs) and isinstance(y, Tensor)):
        return f"inputs and targets must be tensors, got {type(x).__name__}, {type(y).__name__}"
    if len(x) != len(y):
        return f"{len(x)} inputs and {len(y)} targets; there must be as many of each"
    if y.is_floating_point() and (y.ndim not in (2, 3) or y.shape[-1] != dataset.outputs):
        return f"numbers must have shape (N[, T], {dataset.outputs}), got {tuple(y.shape)}"
    if not y.is_floating_point() and (y.dtype != torch.int64 or y.ndim not in (1, 2)):
        return f"classes must be int64 of shape (N[, T]), got {y.dtype} of shape {tuple(y.shape)}"
    if isinstance(x, Tensor) and dataset.per_step and (error := find_steps_error(x, y, dataset)):
        return error
    y = sequences.list_targets(y)
    if not y.is_floating_point() and len(y) and not (int(y.min()) >= 0 and int(y.max()) < dataset.outputs):
        return f"labels must be 0 to {dataset.outputs - 1}, got {int(y.min())} to {int(y.max())}"
    if isinstance(x, MappedInputs) or (may_lack and (dataset.tokens is None or x.dtype == torch.uint8)):
        return None  # a data option checks the files that it maps, and makes tokens of bytes
    if error := find_padding_error(x, dataset.tokens):
        return error
    if x.is_floating_point() and x.numel() and not _is_finite(x):
        return "the inputs hold numbers that are not finite"
    return None


def _is_finite(x: Tensor) -> bool:
    """Return whether all numbers of the inputs are finite, but for the padding of series."""
    if sequences.is_padded_series(x):
        x = sequences.fill_padding(x, sequences.mask_steps(x))
    return all(torch.isfinite(bound) for bound in x.aminmax())


def check_batch(settings: Settings, train: parts.Split, dataset: parts.Dataset, problems: Problems) -> None:
    """Check that a mini-batch is not larger than the training split, and a micro-batch not larger than it."""
    if not dataset.has_inputs:
        return  # one example: batch_size does not matter
    if settings.batch_size != "full" and settings.batch_size > len(train):
        validation = settings.validation
        held_out = validation.fraction if dataset.validation is None else 0
        cause = f" left by validation.fraction={held_out:g}" if held_out else ""
        if validation.scheme == "kfold":
            cause = f" left by a fold of validation.k={validation.k}"
        limit = f"{len(train)} training examples{cause}"
        problems.add("batch_size", f"{settings.batch_size} is more than the {limit}; use fewer, or full")
        return
    size, micro = settings.resolve_batch_size(len(train)), settings.micro_batch_size
    if micro is not None and micro > size:
        problems.add(
            "micro_batch_size", f"must be at most batch_size ({size}), or null for the whole batch; got {micro}"
        )
