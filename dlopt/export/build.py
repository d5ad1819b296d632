"""Build an exported file from a run, and compare it with the run's own outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from dlopt.config.problems import ConfigError
from dlopt.export import comparison
from dlopt.export.formats import Format
from dlopt.export.inference_module import InferenceModule, Output
from dlopt.export.metadata import describe, is_sequence
from dlopt.export.onnx_file import OnnxFile
from dlopt.export.safetensors_file import SafetensorsFile
from dlopt.export.torch_export_file import TorchExportFile
from dlopt.rundir.directory import RunDirectory
from dlopt.training.inference import Predictor

Target = Literal["onnx", "torch_export", "safetensors"]


class ExportedFile(NamedTuple):
    """The content of a file, and how far its outputs are from those of the run.

    difference   largest difference, relative to the largest output
    examples     number of examples that were compared
    engine       program that ran the file
    """

    content: bytes
    metadata: dict[str, str]
    difference: float
    examples: int
    engine: str


def build_file(
    run: RunDirectory, predictor: Predictor, to: Target, *, probabilities: bool, opset: int, tolerance: float
) -> ExportedFile:
    """Write the network of a run's predictor into a file's content, load it again, and compare outputs.

    The predictor computes in its own precision without autocast from here on, as the file does. Raises ConfigError.
    """
    output = choose_output(predictor, probabilities=probabilities)
    steps = list(run.config().get("preprocess") or {})
    predictor.problem.autocast = None
    with predictor.set_torch_switches():
        network = convert(predictor, to, output, steps, opset, tolerance)
        metadata = describe(
            run, predictor, output, *network.reference, any_length=network.any_length, longest=network.longest
        )
        content = network.file.save(metadata, any_length=network.any_length)
        difference = comparison.measure_difference(network.file.load(content), network.reference)
    return ExportedFile(content, metadata, difference, len(network.reference.inputs), network.file.engine)


class ConvertedNetwork(NamedTuple):
    """A network in a format, and the outputs that it must give.

    any_length   whether it takes sequences of other lengths
    longest      the longest one that it takes; None: there is no limit, or one length only
    """

    file: Format
    reference: comparison.Reference
    any_length: bool
    longest: int | None


@torch.no_grad()
def convert(
    predictor: Predictor, to: Target, output: Output, steps: Sequence[str], opset: int, tolerance: float
) -> ConvertedNetwork:
    """Convert a network, and find out whether it takes sequences of any length: a graph may be of one length only.

    steps are the names of the preprocessing steps. At other lengths, outputs may differ by the tolerance.
    """
    module = InferenceModule(predictor, output)

    def refer(inputs: Tensor) -> comparison.Reference:
        return comparison.Reference(inputs, module.interpret(predictor.predict(inputs)))

    reference = refer(comparison.draw_inputs(predictor))
    inputs = reference.inputs
    lengths = comparison.list_lengths(module, inputs) if is_sequence(inputs) else []
    others = [refer(comparison.resize(inputs, length)) for length in lengths]
    file = _make_file(to, module, inputs, steps, opset, any_length=bool(lengths))
    any_length = bool(others) and all(comparison.agrees(file.run, other, tolerance) for other in others)
    longest = inputs.shape[-1] if any_length and max(lengths) < inputs.shape[-1] else None
    return ConvertedNetwork(file, reference, any_length, longest)


def choose_output(predictor: Predictor, *, probabilities: bool) -> Output:
    """Return the meaning of the file's outputs. Raises ConfigError for a run that has no inputs, or no such outputs."""
    (split, *_) = predictor.splits["all"]
    if 0 in split.inputs.shape[1:]:
        wrong = "it has no inputs, so there is no network to export: its loss is a function of the weights alone"
        raise ConfigError([("run", f"{wrong}, which lie in its checkpoints")])
    if predictor.kind == "classes":
        return "probabilities" if probabilities else "scores"
    if probabilities:
        raise ConfigError([("--probabilities", "is for classes, and the run predicts numbers: leave it out")])
    return "numbers"


def _make_file(
    to: Target, module: InferenceModule, inputs: Tensor, steps: Sequence[str], opset: int, *, any_length: bool
) -> Format:
    if to == "onnx":
        return OnnxFile(module, inputs, opset, any_length=any_length)
    if to == "torch_export":
        return TorchExportFile(module, inputs, any_length=any_length)
    return SafetensorsFile(module, steps)
