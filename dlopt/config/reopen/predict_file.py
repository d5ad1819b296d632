"""Predictions of the examples of a file by one or several runs, a part at a time: the file may exceed memory.

for part in open_file([find_run("last")], ["new.csv"]):
    part.mean                                      # probabilities or numbers, (N, outputs)
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.base.data import Data, Dataset, DataStream, SourceRows, Split, TargetKind
from dlopt.config.make_parts import call
from dlopt.config.problems import ConfigError, Problems
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.errors import join_truncated
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path
from dlopt.training.inference import Predictor


class PredictedPart(NamedTuple):
    """Predictions of consecutive examples of a file.

    mean     probabilities of the classes, or numbers in the units of the data, (N, outputs) float64; of several runs
             their mean
    sd       sample standard deviation over the runs, (N, outputs); None for one run
    source   the rows of the file that the examples come from, if it has any
    done     the amount of the file that is read
    """

    mean: Tensor
    sd: Tensor | None
    source: SourceRows | None
    done: int


class RunStream:
    """A run that predicts a file, a part at a time."""

    def __init__(self, run: RunDirectory, predictor: Predictor, option: Data, stream: DataStream) -> None:
        self.place = display_path(run.path)
        self.predictor = predictor
        self.stream = stream
        self._option = option

    def predict(self, part: Dataset, batch_size: int | None) -> Tensor:
        """Return probabilities or numbers, (N, outputs) float64. Raises ConfigError if there are some for each step."""
        predictor, x = self.predictor, part.train.inputs
        if not len(x):
            return torch.empty(0, part.outputs, dtype=torch.float64)
        x = self._option.transform_inputs(x, predictor.encoding) if isinstance(x, Tensor) else x
        outputs = predictor.predict_examples(Split(x, part.train.targets), batch_size).cpu()
        if outputs.ndim > 2:
            wrong = "predicts each step of a sequence, not an example"
            raise ConfigError([("run", f"{self.place} {wrong}: use dlopt evaluate RUN --data FILE --predictions OUT")])
        return predictor.interpret(outputs)


class FilePredictor:
    """Runs that predict the examples of one file. It can be iterated once.

    Attributes:
        runs    the runs, each with its predictor
        names   names of the classes, or of the predicted numbers
        kind    classes or numbers
        total   the amount of the file, in bytes or examples, as `unit` says; None: unknown
    """

    def __init__(self, runs: Sequence[RunStream], outputs: int, batch_size: int | None) -> None:
        first = runs[0]
        self.runs = runs
        self.names = first.predictor.name_outputs(outputs)
        self.kind: TargetKind = first.predictor.kind
        self.total: int | None = first.stream.total
        self.unit: Literal["bytes", "examples"] = first.stream.unit
        self._batch_size = batch_size

    def __iter__(self) -> Iterator[PredictedPart]:
        """Yield the predictions in the order of the file. Raises ConfigError for an example that cannot be read."""
        problems = Problems()
        while True:
            parts = [call("data", partial(next, run.stream.parts, END), problems) for run in self.runs]
            problems.raise_if_any()
            if parts[0] is END:
                return
            if len({len(part.dataset.train) for part in parts}) > 1:
                message = "the runs do not leave out the same rows (data.missing): predict with each of them alone"
                raise ConfigError([("run", message)])
            values = [run.predict(part.dataset, self._batch_size) for run, part in zip(self.runs, parts, strict=True)]
            stacked = torch.stack(values)
            sd = stacked.std(0) if len(values) > 1 else None
            yield PredictedPart(stacked.mean(0), sd, parts[0].dataset.source, parts[0].done)

    def notices(self) -> list[str]:
        """Return what is to be said about the examples that were predicted, such as unknown categories."""
        return list(dict.fromkeys(notice for run in self.runs for notice in run.stream.notices()))


END = object()
"""Stands for the end of a file."""


def open_file(
    runs: Sequence[RunDirectory],
    data: Sequence[str],
    checkpoint: str = "best",
    *,
    device: str = "auto",
    trust: bool = False,
    batch_size: int | None = None,
) -> tuple[FilePredictor, list[str]]:
    """Open a file for runs that predict it; return the predictor, and warnings about damage.

    data        the file, and keys of the data, as `dlopt evaluate --data` takes them; targets are not read
    batch_size  examples of one forward pass; None: that of an evaluation
    The others are arguments of `load_predictor`. Raises ConfigError if a run cannot be opened, does not fit the file,
    or predicts something else than the first one.
    """
    streams, warnings = [], []
    outputs = 0
    for run in runs:
        opened: dict[str, Any] = {}
        try:
            predictor, messages = load_predictor(
                run, checkpoint, data=data, device=device, trust=trust, load_other=_open_first(opened)
            )
        except ConfigError as error:
            place = f"{display_path(run.path)}: " if len(runs) > 1 else ""
            raise ConfigError([(key, f"{place}{message}") for key, message in error.problems]) from error
        streams.append(RunStream(run, predictor, opened["option"], opened["stream"]))
        warnings += messages
        outputs = opened["outputs"]
    for other in streams[1:]:
        _check_same_task(streams[0], other)
    return FilePredictor(streams, outputs, batch_size), warnings


def _open_first(opened: dict[str, Any]) -> Callable[[Data, Mapping[str, Any]], Dataset]:
    """Return a function that opens a file and loads its first part, and keeps what it has opened."""

    def load(option: Data, encoding: Mapping[str, Any]) -> Dataset:
        stream = option.stream(encoding)
        first = next(stream.parts)
        rest = stream._replace(parts=itertools.chain([first], stream.parts))
        opened.update(option=option, stream=rest, outputs=first.dataset.outputs)
        return first.dataset

    return load


def _check_same_task(one: RunStream, other: RunStream) -> None:
    """Raise ConfigError unless two runs predict the same from the same columns."""

    def describe(run: RunStream) -> dict[str, Any]:
        predictor, encoding = run.predictor, run.predictor.encoding
        what = ", ".join(predictor.names) or f"{predictor.kind} without names"
        return {
            "predicts": f"{encoding.get('target') or predictor.kind} ({what})",
            "reads the columns": join_truncated(sorted(encoding.get("columns", ()))),
        }

    ours, theirs = describe(one), describe(other)
    wrong = [
        f"{other.place} {key} {theirs[key]}, and {one.place} {ours[key]}" for key in ours if ours[key] != theirs[key]
    ]
    if wrong:
        raise ConfigError([("run", f"{message}; the runs of an ensemble must agree") for message in wrong])
