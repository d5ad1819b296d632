"""The first mini-batch of a run as training sees it: examples, labels, and a table of features."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from torch import Tensor

from dlopt.base.sequences import PADDING_TOKEN
from dlopt.formatting import format_metric
from dlopt.report.text_table import TextTable
from dlopt.storage.safe_read import to_printable
from dlopt.training.experiment import Experiment
from dlopt.training.state import TrainState

LEAST_SHARE = 0.005
"""Smaller shares of a class in a mixture are not written."""
MAX_STEPS = 8
"""Targets of a sequence that a label shows."""
PADDING, UNKNOWN = "[PAD]", "[UNK]"
"""How the tokens 0 and 1 of texts are shown."""
MAX_TOKENS = 30
"""Tokens of a sequence that the table shows."""


class Examples(NamedTuple):
    """Inputs (N, *shape) and the label of each."""

    inputs: np.ndarray
    labels: list[str]


class FirstBatch(NamedTuple):
    """The first examples of the first mini-batch, without and with augmentation; seen is None without any.

    pieces are the texts of the tokens, if they are known.
    """

    plain: Examples
    seen: Examples | None
    column_names: list[str]
    pieces: Sequence[str] = ()

    @property
    def title(self) -> str:
        """Return what is shown, in words."""
        count = len(self.plain.labels)
        return f"first {count} examples of the first mini-batch" if count > 1 else "the first example of training"


def take_first_batch(experiment: Experiment, count: int) -> FirstBatch:
    """Return the first `count` examples of the first mini-batch of a run."""
    state = TrainState([experiment])

    def describe(inputs: Tensor, targets: Tensor) -> Examples:
        shown = targets[:count].cpu()
        names = None if experiment.train.targets.is_floating_point() else experiment.names
        labels = [describe_target(target, names, experiment.encoding) for target in shown]
        return Examples(inputs[:count].cpu().numpy(), labels)

    plain = describe(*state.batches(0))
    seen = describe(*state.next_batch()) if experiment.augmentation else None
    columns = name_columns(experiment.encoding.get("columns") or {}, plain.inputs.shape[-1])
    return FirstBatch(plain, seen, columns, name_tokens(experiment.encoding))


def describe_target(target: Tensor, names: Sequence[str] | None, encoding: Mapping[str, Any]) -> str:
    """Return a target in words: a class, a mixture such as `0.7 cat + 0.3 dog`, or numbers in the units of the file.

    target is that of one example: a class, probabilities or numbers; of a sequence, one for each step. names are those
    of the classes, which may lack; None for numbers.
    """
    if names is not None and not target.is_floating_point():
        if target.ndim == 0:
            return _name_class(int(target), names)
        steps = [_name_class(label, names) for label in target.tolist() if label >= 0]
        return " ".join(steps[:MAX_STEPS]) + " ..." * (len(steps) > MAX_STEPS)
    values: list[float] = target.double().flatten().tolist()
    if names is not None:
        shares = sorted(((share, i) for i, share in enumerate(values) if share >= LEAST_SHARE), reverse=True)
        if len(shares) == 1:
            return _name_class(shares[0][1], names)
        return " + ".join(f"{share:.2f}".rstrip("0") + f" {_name_class(i, names)}" for share, i in shares)
    scale, middle = encoding.get("scale") or 1.0, encoding.get("middle") or 0.0
    shown = [format_metric(x * scale + middle) for x in values[:MAX_STEPS]]
    return " ".join(shown) + " ..." * (len(values) > MAX_STEPS)


def _name_class(label: int, names: Sequence[str]) -> str:
    return names[label] if label < len(names) else str(label)


def name_columns(columns: Mapping[str, Any], width: int) -> list[str]:
    """Return a name for each feature of a table, by its encoding: NAME, NAME=CATEGORY, or NAME[i] of a date."""
    named: list[str] = []
    for name, plain in columns.items():
        if isinstance(plain, list):
            named += [f"{name}={'' if category is None else category}" for category in plain]
        elif isinstance(plain, dict):
            named += [f"{name}[{i}]" for i in range(len(plain.get("means", ())))]
        else:
            named.append(name)
    return named if len(named) == width else [f"x{i}" for i in range(width)]


def format_features(batch: FirstBatch) -> TextTable:
    """Return a table of features or tokens, a row for each example, with its augmented form below it."""
    has_tokens = np.issubdtype(batch.plain.inputs.dtype, np.integer)
    names = ["tokens"] if has_tokens else batch.column_names
    rows = []
    for i, examples in itertools.product(range(len(batch.plain.labels)), filter(None, (batch.plain, batch.seen))):
        x = examples.inputs[i]
        cells = [_format_tokens(x, batch.pieces)] if has_tokens else [f"{value:.4g}" for value in x]
        rows.append([str(i) if examples is batch.plain else "", examples.labels[i], *cells])
    return TextTable(
        ["", "target", *names],
        rows,
        [True, False, *(not has_tokens for _ in names)],
        footer="of each example the second row is augmented" if batch.seen is not None else "",
        droppable=() if has_tokens else tuple(reversed(names)),
        remedy="a wider terminal shows more",
    )


def name_tokens(encoding: Mapping[str, Any]) -> list[str]:
    """Return the text of each token of a run, by its encoding: of characters, or of a tokenizer; else nothing."""
    if "characters" in encoding:
        return [PADDING, UNKNOWN, *encoding["characters"]]
    if "tokenizer" not in encoding:
        return []
    vocabulary: dict[str, int] = json.loads(encoding["tokenizer"])["model"]["vocab"]
    return sorted(vocabulary, key=vocabulary.__getitem__)


def _format_tokens(x: np.ndarray, pieces: Sequence[str]) -> str:
    """Return the tokens before the padding, or the first ones: their texts if they are known, else their numbers."""
    tokens = x[x != PADDING_TOKEN].tolist()
    shown = [to_printable(pieces[i]) if i < len(pieces) else str(i) for i in tokens[:MAX_TOKENS]]
    are_characters = bool(pieces) and max(map(len, pieces[len((PADDING, UNKNOWN)) :])) == 1
    return ("" if are_characters else " ").join(shown) + " ..." * (len(tokens) > MAX_TOKENS)
