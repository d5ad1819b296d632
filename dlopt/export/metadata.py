"""The metadata of an exported file: its inputs and outputs, and the run that it is from.

dlopt        version of dlopt
run          directory of the run, below outputs/
checkpoint   best, last, average or kept, and `step`, the number of steps at it
metrics      the run's own metrics at the best or last weights, in JSON
task         classes or numbers
names        names of the classes, or of the numbers, in JSON
inputs       type, shape and meaning of the inputs, in JSON
outputs      shape and meaning of the outputs, in JSON
columns      of a table: the column of each input and how its cells become numbers, in JSON
encoding     how the data file became tensors, as the run stores it, in JSON
config       the options that inference needs, without names of files, in JSON
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor

from dlopt import __version__
from dlopt.base.sequences import SERIES
from dlopt.config.compose.groups import DATA_FILE_KEYS, select_groups
from dlopt.export.inference_module import Output
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import identify_run
from dlopt.training.inference import Predictor

MEANINGS: Mapping[Output, str] = {
    "scores": "outputs of the network, as the loss takes them; the largest is the predicted class",
    "probabilities": "probabilities of the classes",
    "numbers": "predicted numbers in the units of the target",
}


def describe(
    run: RunDirectory,
    predictor: Predictor,
    output: Output,
    inputs: Tensor,
    outputs: Tensor,
    *,
    any_length: bool,
    longest: int | None,
) -> dict[str, str]:
    """Return the metadata of a file, given some raw inputs and the outputs for them.

    any_length   whether it takes sequences of other lengths, of at most `longest` steps if there is a limit
    """
    encoding = {key: value for key, value in predictor.encoding.items() if key != "notices"}
    values: dict[str, Any] = {
        "metrics": read_metrics(run, predictor.checkpoint),
        "names": list_names(predictor, outputs, output),
        "inputs": describe_inputs(predictor, inputs, any_length=any_length),
        "outputs": {"shape": _make_shape(outputs, any_length and outputs.ndim == 3, 1), "meaning": MEANINGS[output]},
        "encoding": encoding,
        "config": strip_config(run.config()),
    }
    if longest is not None:
        values["inputs"]["longest"] = longest
    if "columns" in encoding:
        values["columns"] = list(iter_columns(encoding["columns"]))
    return {
        "dlopt": __version__,
        "run": identify_run(run.path),
        "checkpoint": predictor.checkpoint,
        "step": str(predictor.step),
        "task": "numbers" if output == "numbers" else "classes",
        **{key: json.dumps(value) for key, value in values.items()},
    }


def list_names(predictor: Predictor, outputs: Tensor, output: Output) -> list[str]:
    """Return the names of the classes or numbers; their places, if they have no names."""
    count = outputs.shape[-1]
    return [*predictor.names] or (["target"] if output == "numbers" and count == 1 else [*map(str, range(count))])


def read_metrics(run: RunDirectory, checkpoint: str) -> dict[str, float]:
    """Return the metrics of the run's splits at its best or last weights; empty for other checkpoints."""
    prefix = {"best": "", "last": "last/"}.get(checkpoint)
    if prefix is None:
        return {}
    splits = tuple(f"{prefix}{split}/" for split in ("train", "val", "test"))
    return {key.removeprefix(prefix): value for key, value in run.summary.items() if key.startswith(splits)}


def describe_inputs(predictor: Predictor, inputs: Tensor, *, any_length: bool) -> dict[str, Any]:
    """Return type, shape and meaning of the inputs, and the range of the numbers in the examples given."""
    shape = _make_shape(inputs, any_length, inputs.ndim - 1)
    about: dict[str, Any] = {"type": str(inputs.dtype).removeprefix("torch."), "shape": shape}
    if not inputs.is_floating_point():
        return about | {"meaning": "tokens of a sequence; 0 after its end"}
    known = inputs[inputs.isfinite()]
    if len(known):
        about["range"] = [known.min().item(), known.max().item()]
    if "columns" in predictor.encoding:
        meaning = "a row of the table, encoded as `columns` says"
    elif is_sequence(inputs):
        meaning = "a series: channels, steps" + ("; NaN after its end" if len(known) < inputs.numel() else "")
    elif inputs.ndim == SERIES + 1:
        meaning = "an image: channels, height, width"
    else:
        meaning = "features"
    return about | {"meaning": meaning}


def is_sequence(inputs: Tensor) -> bool:
    """Return whether inputs are sequences of tokens, (B, T), or series, (B, channels, T)."""
    return inputs.ndim == SERIES if inputs.is_floating_point() else inputs.ndim == SERIES - 1


def _make_shape(tensor: Tensor, any_length: bool, place: int) -> list[int | str]:
    shape: list[int | str] = ["batch", *tensor.shape[1:]]
    if any_length:
        shape[place] = "length"
    return shape


def iter_columns(columns: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield each column of a table with the places of its inputs and how a cell becomes them."""
    begin = 0
    for name, plain in columns.items():
        about: dict[str, Any]
        if isinstance(plain, Mapping):
            means = plain["means"]
            about = {"kind": "date", "width": len(means), **plain}
        elif isinstance(plain, list):
            about = {"kind": "categories", "width": len(plain), "categories": plain}
        else:
            about = {"kind": "number", "width": 1, "fill": plain}
        width = about.pop("width")
        yield {"column": name, "inputs": [*range(begin, begin + width)], **about}
        begin += width


def strip_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options that inference needs, without the names of files of the user."""
    needed = {group: config[group] for group in select_groups("needed_for_inference") if config.get(group)}
    data = needed.get("data") or {}
    needed["data"] = {key: value for key, value in data.items() if key not in (*DATA_FILE_KEYS, "url")}
    return needed
