"""Load the data set of a run and encode it by the statistics of the training rows."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from dlopt import parts
from dlopt.base.mapped_inputs import MappedInputs
from dlopt.config.checks.splits import FittedDataState, check_dataset
from dlopt.config.make_parts import build_component, call
from dlopt.config.problems import Problems
from dlopt.config.schema import targets


class LoadedData(NamedTuple):
    """A data option and the data set that it has loaded."""

    option: parts.Data
    dataset: parts.Dataset


class EncodedData(NamedTuple):
    """The data of a run, encoded by its statistics: the data set, and its training and validation split."""

    dataset: parts.Dataset
    train: parts.Split
    validation: parts.Split | None


def load_whole(data: parts.Data, encoding: Mapping[str, Any]) -> parts.Dataset:
    """Load other data than in training, by the encoding of those."""
    return data.load_like(encoding)


def load_data(
    node: targets.Node,
    fitted: FittedDataState | None,
    problems: Problems,
    load_other: Callable[[parts.Data, Mapping[str, Any]], parts.Dataset] = load_whole,
) -> LoadedData | None:
    """Build the data option and load its data set; None with a problem added.

    load_other loads other data than in training, by the encoding of those.
    """
    option = build_component("data", "data", node, problems)
    if option is None:
        return None
    encoding = fitted.encoding if fitted is not None and fitted.is_other_data else None
    dataset = call("data", lambda: option.load() if encoding is None else load_other(option, encoding), problems)
    if dataset is None:
        return None
    if not isinstance(dataset, parts.Dataset):
        problems.add("data", f"load() must return a dlopt.parts.Dataset, got a {type(dataset).__name__}")
        return None
    if fitted is not None and encoding is None and fitted.encoding.get("sha256") != dataset.encoding.get("sha256"):
        message = "the file has changed since the run read it, so its splits differ"
        problems.add("data.path", f"{message}; evaluate the present file with --data FILE, or train again")
        return None
    problems.notices += [f"data: {notice}" for notice in dataset.notices]
    may_lack = parts.overrides(option, "transform_inputs", parts.Data)
    return LoadedData(option, dataset) if check_dataset(dataset, problems, may_lack=may_lack) else None


def encode_data(
    data: LoadedData,
    train: parts.Split,
    validation: parts.Split | None,
    fitted: FittedDataState | None,
    problems: Problems,
) -> EncodedData | None:
    """Fit the data option on the training rows only, then apply it to all splits; None with a problem added.

    The statistics of a finished run are applied unchanged. Splits share the same tensors as before, and runs share
    those that do not change.
    """
    option, dataset = data
    results: dict[int, Tensor] = {}

    def encode() -> EncodedData:
        encoding = option.fit(train, dataset.encoding) if fitted is None else fitted.encoding
        if not isinstance(encoding, Mapping):
            raise ValueError(f"fit() must return a mapping, got a {type(encoding).__name__}")

        def transform(tensor: Tensor, method: Callable[[Tensor, Mapping[str, Any]], Tensor]) -> Tensor:
            if id(tensor) not in results:
                results[id(tensor)] = method(tensor, encoding)
            return results[id(tensor)]

        def encode_split(split: Any) -> Any:
            if split is None:
                return None
            inputs = split.inputs
            if not isinstance(inputs, MappedInputs):  # mapped inputs have no statistics of the data option
                inputs = transform(inputs, option.transform_inputs)
            return parts.Split(inputs, transform(split.targets, option.transform_targets), split.rows)

        whole = dataclasses.replace(
            dataset,
            train=encode_split(dataset.train),
            test=encode_split(dataset.test),
            validation=encode_split(dataset.validation),
            tokens=encoding.get("tokens", dataset.tokens),
            encoding=encoding,
        )
        return EncodedData(whole, encode_split(train), encode_split(validation))

    encoded = call("data", encode, problems)
    if encoded is None:
        return None
    is_same = all(id(tensor) == original for original, tensor in results.items())
    return encoded if check_dataset(dataset if is_same else encoded.dataset, problems) else None
