"""Data sets: options of the group data, and the splits that they load."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base import sequences
from dlopt.base.group import Group
from dlopt.base.mapped_inputs import Inputs, select_inputs
from dlopt.prng import Key
from dlopt.ranges import Count, Fraction
from dlopt.storage.fingerprint import digest_files

TargetKind = Literal["classes", "numbers"]
Order = Literal["reshuffle", "replacement", "balanced", "once", "sequential", "online"]

PART_ROWS = 1 << 16
"""Examples of a part of a file, a multiple of those of a forward pass: then parts give the bits of the whole file."""


@dataclass(frozen=True, eq=False)
class Split:
    """Examples: inputs (N, *shape), and targets (N,) int64 for classes or (N, outputs) float for numbers.

    Sequences may have a target for each step, (N, T) or (N, T, outputs), and padding: see dlopt.base.sequences.

    rows, if given, are the indices of the examples of the split in these tensors. Training and validation split are
    rows of the same tensors, so runs that share data share memory. Inputs that exceed memory are MappedInputs.
    """

    inputs: Inputs
    targets: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets if self.rows is None else self.rows)

    def gather(self) -> tuple[Tensor, Tensor]:
        """Return inputs and targets of this split."""
        if self.rows is None:
            return self.inputs if isinstance(self.inputs, Tensor) else self.inputs[:], self.targets
        return self.inputs[self.rows], self.targets[self.rows]


class SourceRows(NamedTuple):
    """The rows of a user's table as text: the names of the columns, the cells, and the row of each example.

    delimiter and decimal are the characters between two cells and before decimals, if the table is a CSV file.
    """

    header: Sequence[str]
    cells: Sequence[Sequence[str]]
    rows: Sequence[int]
    delimiter: str = ","
    decimal: str = "."


@dataclass(frozen=True, eq=False)
class Dataset:
    """The result of loading: examples for training and validation (`train`), and a test split that is read at the end.

    outputs is the number of classes, or of numbers to predict; names, if given, are their names. encoding describes how
    user files became tensors, in numbers, text and lists. It is stored with the run, so that other files can be encoded
    in the same way. notices are printed before a run starts. If the data option has statistics to fit, the inputs may
    hold NaN for missing numbers, and numbers to predict may be unscaled.

    groups, (N,) int64, and times, (N,) of any real type, belong to the rows of the tensors of `train`; at most one is
    given. Examples of one group are never divided between training and validation. With times, validation is later than
    training. validation is the validation split, if the data have one of their own; no example of `train` is then held
    out.

    tokens is the number of different tokens, including the padding, if the inputs are sequences of tokens.
    predicts_next is whether the target of a step is the token of the next step. A network that sees later steps is then
    refused, since it would copy its targets.

    is_labeled is False for other data without targets, which are only to be predicted: their targets are zeros. source,
    for other data, is the table that they come from.
    """

    train: Split
    test: Split
    outputs: int
    names: tuple[str, ...] = ()
    encoding: Mapping[str, Any] = field(default_factory=dict)
    notices: tuple[str, ...] = ()
    groups: Tensor | None = None
    times: Tensor | None = None
    validation: Split | None = None
    tokens: int | None = None
    is_labeled: bool = True
    source: SourceRows | None = None
    predicts_next: bool = False

    @property
    def kind(self) -> TargetKind:
        return "numbers" if self.train.targets.is_floating_point() else "classes"

    @property
    def shape(self) -> tuple[int, ...]:
        """Return the shape of one example: (features,), (channels, length), (channels, height, width).

        A sequence of tokens has the shape (length,).
        """
        return tuple(self.train.inputs.shape[1:])

    @property
    def is_sequence(self) -> bool:
        """Return whether examples are sequences: of tokens, (length,), or of numbers, (channels, length)."""
        return self.tokens is not None or len(self.shape) == 2

    @property
    def per_step(self) -> bool:
        """Return whether there is a target for each step of a sequence."""
        return sequences.has_targets_per_step(self.train.targets)

    @property
    def is_padded(self) -> bool:
        """Return whether some sequences are shorter than others."""
        splits = [self.train, self.test] + ([] if self.validation is None else [self.validation])
        return self.is_sequence and any(sequences.is_padded(split.inputs) for split in splits)

    @property
    def has_inputs(self) -> bool:
        """Return whether examples have features. Without any, the loss is a function of the weights alone."""
        return 0 not in self.shape


class DataPart(NamedTuple):
    """Consecutive examples of a file, without their targets, and how much of the file is read at their end."""

    dataset: Dataset
    done: int


class DataStream(NamedTuple):
    """The examples of a file that may exceed memory, a part at a time.

    total     the amount to read, in bytes or examples, as `unit` says; None: unknown
    notices   return what is to be said about the parts that were read
    """

    parts: Iterator[DataPart]
    total: int | None
    unit: Literal["bytes", "examples"]
    notices: Callable[[], Sequence[str]]


def cut_into_parts(dataset: Dataset) -> DataStream:
    """Return the examples of a data set that is read already, in parts; its rows of text are left out."""
    split = dataset.train
    rows = torch.arange(len(split)) if split.rows is None else split.rows

    def iter_parts() -> Iterator[DataPart]:
        done = 0
        for chosen in rows.split(PART_ROWS):
            part = Split(select_inputs(split.inputs, chosen), split.targets[chosen])
            done += len(chosen)
            yield DataPart(replace(dataset, train=part, test=part, is_labeled=False, source=None), done)

    return DataStream(iter_parts(), len(rows), "examples", lambda: dataset.notices)


@Group("data", must_subclass=True, needed_for_inference=True, sets_cost=True)
@dataclass(frozen=True)
class Data:
    """A data set.

    path          file or folder to read, or folder for a copy; null: the default of the option
    train_size    size of a random subset of the training examples, stratified by class; null: all
    label_noise   fraction of training labels that are replaced by a random wrong class
    drop_last     leave out the last mini-batch of an epoch if it is smaller than the others
    order         the N examples of an epoch, for N training examples. reshuffle: each once, in a new order;
                  replacement: N draws, all examples equally likely; balanced: N draws of a class, all equally likely,
                  and of one of its examples; once: shuffled once, the same order in each epoch; sequential: the order
                  of the data; online: N fresh examples, for data that are generated, so that none is used twice. A
                  batch of all examples is in the order of the data, unless they are drawn
    """

    keeps_copy: ClassVar[bool] = False
    """True if path is the folder for a copy of the data, not the files to read."""

    path: str | None
    train_size: Count | None
    label_noise: Fraction
    drop_last: bool
    order: Order

    def files(self) -> list[Path]:
        """Return the user's files that it reads. Raise OptionError if one is missing. Known data have none."""
        return []

    def digest(self) -> str:
        """Return the digest by which a run recognizes these files: `sha256` in the encoding."""
        return digest_files(self.files())

    def load(self) -> Dataset:
        raise NotImplementedError

    def draw(self, key: Key, count: int) -> Split:
        """Return `count` fresh training examples, for order=online: a function of the key, without other randomness.

        Override it for data that are generated. The examples have the distribution, the shape and the type of those of
        `load`, before `transform_inputs`, and rows is None. It is called for each epoch, with another key.
        """
        raise NotImplementedError

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        """Load examples for a finished run, by the encoding of its training data.

        Data with an encoding put every example of a file without a test split into both splits, and accept a file
        without targets. Other data are loaded as usual and may lack the last classes.
        """
        dataset = self.load()
        return replace(dataset, outputs=max(dataset.outputs, len(encoding.get("classes", ()))))

    def stream(self, encoding: Mapping[str, Any]) -> DataStream:
        """Read a file for a finished run, by the encoding of its training data, to predict each of its examples.

        Each part has what `load_like` would give for its examples, but targets are not read: they are zeros. Override
        it for files that may exceed memory.
        """
        return cut_into_parts(self.load_like(encoding))

    def fit(self, train: Split, encoding: Mapping[str, Any]) -> Mapping[str, Any]:
        """Return the encoding of the data set with the statistics of the rows of a run's training split, if any.

        Its entry `tokens`, if given, is the size of a vocabulary that the encoded inputs have in place of that of the
        loaded ones. The texts of `notices` are printed before a run starts.
        """
        return encoding

    def transform_inputs(self, inputs: Tensor, encoding: Mapping[str, Any]) -> Tensor:
        """Return loaded inputs, (N, *shape), encoded by a run's statistics; the same tensor if nothing changes.

        Loaded tensors are shared by runs and must not be changed in place.
        """
        return inputs

    def transform_targets(self, targets: Tensor, encoding: Mapping[str, Any]) -> Tensor:
        """Return loaded targets encoded by a run's statistics; the same tensor if nothing changes."""
        return targets
