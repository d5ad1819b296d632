"""Split the data of a run, preprocess the splits, and check them against the settings."""

from __future__ import annotations

import dataclasses
import weakref
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt import parts, prng
from dlopt.base import splits
from dlopt.config.problems import Problems, describe_failure
from dlopt.training.experiment import Settings, ValidationSettings


class FittedDataState(NamedTuple):
    """What a finished run knows of its data.

    statistics      the statistics of each preprocessing
    encoding        how the user's own files became tensors
    is_other_data   the data to load are not those of training; they are not split into training and validation
    """

    statistics: Mapping[str, Mapping[str, Tensor]]
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
    train, count = dataset.train, len(dataset.train)
    seed = prng.key(settings.seed)
    if data.train_size is not None:
        if data.train_size > count:
            origin = f"the examples without the {len(dataset.test)} of the test split"
            problems.add("data.train_size", f"must be at most {count} ({origin}), got {data.train_size}")
            return None
        train = splits.sample_subset(train, data.train_size, prng.fold_in(seed, "train_size"))
    both = _hold_out(train, settings.validation, prng.fold_in(seed, "split"), problems)
    if both is None:
        return None
    train, validation = both
    if data.label_noise > 0:
        if dataset.kind != "classes" or dataset.outputs < 2:
            problems.add("data.label_noise", "needs classes; the targets of this data are numbers")
            return None
        train = splits.add_label_noise(train, data.label_noise, dataset.outputs, prng.fold_in(seed, "label_noise"))
    return train, validation


def check_validation(validation: ValidationSettings, typed: Collection[str], problems: Problems) -> None:
    """Check that no key of the other validation scheme was typed, and that the fold exists."""
    k, index = validation.k, validation.fold
    if validation.scheme == "holdout":
        for key, given in (("k", "validation.k" in typed), ("fold", index is not None)):
            if given:
                problems.add(f"validation.{key}", "is for validation.scheme=kfold: add that, or leave it out")
        return
    if "validation.fraction" in typed:
        said = f"is for validation.scheme=holdout, and a fold is one of validation.k={k} parts"
        problems.add("validation.fraction", f"{said}: leave it out")
    if index is None:
        said = f"a run holds out one of the {k} folds: add -m for a run of each"
        problems.add("validation.fold", f"{said}, or choose one: validation.fold=0")
    elif index >= k:
        problems.add("validation.fold", f"must be 0 to {k - 1}, one of validation.k={k} folds, got {index}")


def _hold_out(
    train: parts.Split, validation: ValidationSettings, key: prng.Key, problems: Problems
) -> tuple[parts.Split, parts.Split | None] | None:
    """Return the training split and the validation split, if any; None with a problem added."""
    count, share = len(train), validation.fraction
    held = round(share * count)
    if count == 0:
        problems.add("data", "has no examples: there is nothing to train on")
    elif validation.fold is not None:
        if validation.k <= count:
            return splits.split_k_fold(train, validation.k, validation.fold, key)
        said = f"{validation.k} folds of {count} training examples: some would be empty"
        problems.add("validation.k", f"{said}; make fewer of them, or take more data")
    elif held == count:
        said = f"leaves nothing to train on of {count} examples; hold out less or take more data"
        problems.add("validation.fraction", said)
    elif share > 0 and held == 0:
        problems.add("validation.fraction", f"{share:g} of {count} examples is none; hold out more, or 0")
    else:
        return splits.hold_out(train, share, key)
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
    for name, part in preprocess.items():
        before = train.inputs
        same = test.inputs is before  # one file for both, of a run that is over
        try:
            statistics[name] = part.fit(train.gather()[0]) if fitted is None else dict(fitted.statistics[name])
            inputs = part.apply(before, statistics[name])
            tested = inputs if same else part.apply(test.inputs, statistics[name])
        except Exception as error:
            problems.add(f"preprocess.{name}", describe_failure(error))
            return None
        train = dataclasses.replace(train, inputs=inputs)
        validation = None if validation is None else dataclasses.replace(validation, inputs=inputs)
        test = dataclasses.replace(test, inputs=tested)
    return PreparedData(train, validation, test, statistics)


_valid_datasets: weakref.WeakValueDictionary[int, parts.Dataset] = weakref.WeakValueDictionary()
"""Data sets that passed the check, by id: checking a large one takes a second."""


def check_dataset(dataset: parts.Dataset, problems: Problems) -> bool:
    """Whether a loaded data set keeps the contract of dlopt.parts.Dataset; a shared one is checked once."""
    if _valid_datasets.get(id(dataset)) is not dataset and _is_in_order(dataset, problems):
        _valid_datasets[id(dataset)] = dataset
    return _valid_datasets.get(id(dataset)) is dataset


def _is_in_order(dataset: parts.Dataset, problems: Problems) -> bool:
    before = len(problems.errors)
    for name, split in (("train", dataset.train), ("test", dataset.test)):
        x, y = split.inputs, split.targets
        if not (isinstance(x, Tensor) and isinstance(y, Tensor)):
            problems.add(
                "data", f"{name}: inputs and targets must be tensors, got {type(x).__name__}, {type(y).__name__}"
            )
        elif len(x) != len(y):
            problems.add("data", f"{name}: {len(x)} inputs and {len(y)} targets; there must be as many of each")
        elif not y.is_floating_point() and (y.dtype != torch.int64 or y.ndim != 1):
            problems.add(
                "data", f"{name}: classes must be int64 of shape (N,), got {y.dtype} of shape {tuple(y.shape)}"
            )
        elif y.is_floating_point() and tuple(y.shape[1:]) != (dataset.outputs,):
            problems.add("data", f"{name}: numbers must have shape (N, {dataset.outputs}), got {tuple(y.shape)}")
        elif not y.is_floating_point() and len(y) and not (int(y.min()) >= 0 and int(y.max()) < dataset.outputs):
            problems.add(
                "data", f"{name}: labels must be 0 to {dataset.outputs - 1}, got {int(y.min())} to {int(y.max())}"
            )
        elif x.is_floating_point() and x.numel() and not all(torch.isfinite(bound) for bound in x.aminmax()):
            problems.add("data", f"{name}: the inputs hold numbers that are not finite")
    if len(problems.errors) == before and dataset.test.inputs.shape[1:] != dataset.train.inputs.shape[1:]:
        problems.add(
            "data", f"test examples have shape {tuple(dataset.test.inputs.shape[1:])}, training ones {dataset.shape}"
        )
    if len(problems.errors) == before and len(dataset.test) == 0 and len(dataset.train) > 0:
        problems.add("data", "the test split is empty")
    return len(problems.errors) == before


def check_batch(settings: Settings, train: parts.Split, problems: Problems) -> None:
    """Check that a mini-batch is not larger than the training split."""
    if settings.batch_size != "full" and settings.batch_size > len(train):
        left = f"{len(train)} training examples{_describe_holdout(settings.validation)}"
        problems.add("batch_size", f"{settings.batch_size} is more than the {left}; use fewer, or full")


def _describe_holdout(validation: ValidationSettings) -> str:
    """Return in words what holds examples out, if anything does."""
    if validation.scheme == "kfold":
        return f" left by a fold of validation.k={validation.k}"
    return f" left by validation.fraction={validation.fraction:g}" if validation.fraction else ""


def check_dims(augmentation: Mapping[str, parts.Augmentation], dataset: parts.Dataset, problems: Problems) -> None:
    dims = len(dataset.shape) - 1
    words = {0: "features", 1: "series (1-D)", 2: "images (2-D)"}
    for name, part in augmentation.items():
        if dims not in part.dims:
            made_for = " or ".join(words[d] for d in part.dims)
            problems.add(
                f"augmentation.{name}",
                f"works on {made_for}; this data is {words.get(dims, f'{dims}-D')}, each of shape {dataset.shape}",
            )
