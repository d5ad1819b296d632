"""The weights of another run, if they mean in a run what they mean in their own: the same function, the same loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor

from dlopt.base.data import Split
from dlopt.config.compose import groups
from dlopt.config.compose.static_config import flatten
from dlopt.config.problems import ConfigError
from dlopt.config.reopen.load_predictor import load_predictor
from dlopt.config.reopen.load_run import add_missing_keys
from dlopt.formatting import format_override
from dlopt.landscape.result_files import name_run
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path
from dlopt.rundir.find import RunNotFound, find_run
from dlopt.storage.safe_read import to_printable
from dlopt.training.checkpointing import find_mismatch
from dlopt.training.inference import Predictor

EXAMPLES = 100
"""Examples of the test split on which two runs are compared; their targets are compared, too, and nothing else."""
SAME, SIMILAR = 0.01, 0.1
"""Outputs that differ less are those of one function; up to the second number, those of preprocessing that was fitted
to another training split: another seed draws another one."""
FREE_KEYS = ("train_size", "label_noise", "drop_last", *groups.DATA_FILE_KEYS)
"""Keys of data that do not change what weights mean; the content of files is compared, not their place."""


class OtherRun(NamedTuple):
    """The weights of another run, (P,), after a step; its path for display, its name in files' names, and warnings."""

    w: Tensor
    step: int
    name: str
    file_name: str
    warnings: list[str]


def load_other(run: RunDirectory, predictor: Predictor, name: str, checkpoint: str, *, trust: bool) -> OtherRun:
    """Load a checkpoint of another run, and check that it has the function and the loss of the predictor's run.

    The predictor keeps its own weights. Raises ConfigError at --to.
    """
    try:
        other = find_run(name)
    except RunNotFound as error:
        raise ConfigError([("--to", str(error))]) from error
    other.follow_links = trust
    other.check_version()
    place = display_path(other.path)
    try:
        theirs, warnings = load_predictor(other, checkpoint, device=str(predictor.device), trust=trust)
    except ConfigError as error:
        raise ConfigError([_rename(place, *problem) for problem in error.problems]) from error
    differences = [*compare_settings(run.config(), other.config()), *_compare_files(predictor, theirs)]
    if differences:
        names = display_path(run.path), place
        lines = [f"{k} is {a} in {names[0]} and {b} in {names[1]}" for k, a, b in differences]
        raise ConfigError([("--to", f"{line}, so weights mean something else") for line in lines])
    if wrong := find_mismatch({"model": theirs.model.state_dict()}, predictor.model):
        raise ConfigError([("--to", f"{place}: {wrong}")])
    if not theirs.w.isfinite().all():
        raise ConfigError([("--to", f"the weights of {place} after step {theirs.step} are not finite")])
    difference = _compare_outputs(predictor, theirs)
    if not difference <= SIMILAR:
        wrong = f"the weights of {place} give other outputs here than there, by {difference:.0%} of their deviation"
        raise ConfigError([("--to", f"{wrong}: its fitted preprocessing, regularization or code differs")])
    if difference > SAME:
        used = f"the preprocessing and precision of {display_path(run.path)} are used"
        warnings = [*warnings, f"{used}: with its own, the outputs of {place} differ by {difference:.1%}"]
    pieces = {parameter: p.detach() for parameter, p in theirs.model.named_parameters()}
    w = predictor.problem.layout.flatten(pieces).to(predictor.w)
    return OtherRun(w, theirs.step, place, name_run(other), warnings)


def _rename(place: str, key: str, message: str) -> tuple[str, str]:
    """Return a problem of opening another run as one of this command."""
    if key == "--checkpoint":
        return "--to-checkpoint", message
    return "--to", message if place in message else f"{place}: {key} {message}"


def compare_settings(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[str, str, str]]:
    """Yield the keys, with both values, in which configurations differ that give a network its function and its loss.

    Regularizations may differ: they change training. Those that also act in inference are found by their outputs.
    """
    one, other = add_missing_keys(one), add_missing_keys(other)
    for group in groups.select_groups("needed_for_inference"):
        if group == "regularization":
            continue
        nodes = [_get_node(content, group) for content in (one, other)]
        mine, theirs = (_name_option(group, node) for node in nodes)
        if mine != theirs:
            yield group, mine, theirs
            continue
        a, b = (dict(flatten(node, f"{group}.")) for node in nodes)
        free = {f"data.{key}" for key in FREE_KEYS}
        for key in sorted((a.keys() | b.keys()) - free):
            if a.get(key) != b.get(key):
                yield key, _format(a.get(key)), _format(b.get(key))


def _get_node(content: Mapping[str, Any], group: str) -> dict[str, Any]:
    node = content.get(group)
    return node if isinstance(node, dict) else {}


def _name_option(group: str, node: Mapping[str, Any]) -> str:
    """Return the option of a group, or the class of a custom one; of a list, all names in order."""
    if groups.takes_several(group):
        return _format(list(node))
    target = str(node.get("_target_"))
    return _format(target.split(".")[-2] if target.startswith(f"dlopt.{group}.") else target)


def _format(value: Any) -> str:
    """Return a value as it is typed, shortened to fit a line."""
    text = to_printable(format_override(value))
    return text if len(text) <= 60 else f"{text[:57]}..."


def _compare_files(predictor: Predictor, theirs: Predictor) -> Iterator[tuple[str, str, str]]:
    """Yield the digests of the users' files of data, and the classes, if they differ."""
    for key, name in (("sha256", "data (SHA-256)"), ("classes", "data (classes)")):
        a, b = predictor.encoding.get(key), theirs.encoding.get(key)
        if a != b:
            yield name, _format(a), _format(b)


def _compare_outputs(predictor: Predictor, theirs: Predictor) -> float:
    """Return how far the outputs and targets of one network are apart in two runs, relative to their deviation.

    Both get the same examples, and the weights and stored statistics of `theirs`: what differs is the preprocessing,
    the encoding of data, and anything else around the weights.
    """
    (x, y), (their_x, their_y) = (_take_first(each.splits["test"][0]) for each in (predictor, theirs))
    kept = {name: x.clone() for name, x in predictor.model.state_dict().items()}
    try:
        predictor.model.load_state_dict(theirs.model.state_dict())
        outputs = predictor.predict(x)
    finally:
        predictor.model.load_state_dict(kept)
    return max(_compute_distance(outputs, theirs.predict(their_x)), _compute_distance(y, their_y))


def _take_first(split: Split) -> tuple[Tensor, Tensor]:
    """Return the inputs and targets of the first examples of a split."""
    rows = slice(EXAMPLES) if split.rows is None else split.rows[:EXAMPLES]
    return split.inputs[rows], split.targets[rows]


def _compute_distance(a: Tensor, b: Tensor) -> float:
    """Return |a - b| / |b - mean of b|, over examples."""
    if a.shape != b.shape:
        return math.inf
    if torch.equal(a, b):
        return 0.0
    a, b = a.double(), b.double()
    return ((a - b).norm() / (b - b.mean(0)).norm()).item()
