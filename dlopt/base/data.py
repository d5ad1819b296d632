"""Data sets: splits, and what a data option loads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from dlopt.base.group import Group
from dlopt.ranges import Count, Fraction

TargetKind = Literal["classes", "numbers"]


@dataclass(frozen=True, eq=False)
class Split:
    """Examples: inputs (N, *shape), and targets (N,) int64 for classes or (N, outputs) float for numbers.

    rows, if given, are the indices into these tensors that belong to the split: a training and a validation split
    are two sets of rows of one tensor, and runs that share data share its memory.
    """

    inputs: Tensor
    targets: Tensor
    rows: Tensor | None = None

    def __len__(self) -> int:
        return len(self.targets if self.rows is None else self.rows)

    def gather(self) -> tuple[Tensor, Tensor]:
        """Inputs and targets of this split alone."""
        return (self.inputs, self.targets) if self.rows is None else (self.inputs[self.rows], self.targets[self.rows])


@dataclass(frozen=True, eq=False)
class Dataset:
    """What a data option loads: everything to learn from, and a test split that is read once, at the end.

    outputs is the number of classes, or of numbers to predict; names, if given, is what each of them is called.
    encoding, of people's own files, says how they became tensors, in plain numbers, text and lists: it is stored with
    the run, so that other files can be read alike. A training and a validation split are cut from `train` by the run.
    """

    train: Split
    test: Split
    outputs: int
    names: tuple[str, ...] = ()
    encoding: Mapping[str, Any] = field(default_factory=dict)

    @property
    def kind(self) -> TargetKind:
        return "numbers" if self.train.targets.is_floating_point() else "classes"

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one example: (features,), (channels, length) or (channels, height, width)."""
        return tuple(self.train.inputs.shape[1:])


@Group("data", must_subclass=True, needed_for_inference=True, sets_cost=True)
@dataclass(frozen=True)
class Data:
    """A data set.

    path          the file or folder to read or to keep a copy in; null is the option's own place
    train_size    keep this many training examples (a random subset, the classes in proportion); null keeps all
    label_noise   the share of training labels that are replaced by a wrong class drawn at random
    drop_last     leave out the last mini-batch of an epoch when it is smaller than the others
    """

    keeps_copy: ClassVar[bool] = False
    """Whether path is the place for a copy of what is made, and not of files to be read."""

    path: str | None
    train_size: Count | None
    label_noise: Fraction
    drop_last: bool

    def files(self) -> list[Path]:
        """The files that it reads as people's own, whatever they hold; none for known data, and for what it makes.

        Raises what `load` would, where they are not there.
        """
        return []

    def load(self) -> Dataset:
        raise NotImplementedError

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        """Examples for a run that is over, by the encoding of the data that it was trained on.

        What has an encoding puts every example of a file without a test of its own into both splits; anything else is
        loaded as ever, and may lack the last of the classes.
        """
        found = self.load()
        classes = encoding.get("classes", ())
        return replace(found, outputs=len(classes)) if len(classes) > found.outputs else found
