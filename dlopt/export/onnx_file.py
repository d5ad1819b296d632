"""ONNX files, run by onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.export import ExportedProgram

from dlopt.config.problems import ConfigError, format_error
from dlopt.export.comparison import Run
from dlopt.export.formats import Format
from dlopt.export.inference_module import InferenceModule
from dlopt.export.silence import silence
from dlopt.export.tracing import find_layers, find_operation, trace

if TYPE_CHECKING:
    import onnx

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
LEAST_OPSET, DEFAULT_OPSET, LARGEST_OPSET = 18, 20, 23
"""Versions of the operators of ONNX: torch writes 18 and later ones, and onnxruntime 1.20 reads up to 23."""
LARGEST_FILE = 2**31 - 1
"""Bytes of a message of protobuf."""
FATAL = 4
"""The level of onnxruntime's log at which it writes nothing that an exception does not say."""
OTHER_FORMATS = "--to torch_export or --to safetensors writes it"


def check_packages() -> None:
    """Raise ConfigError if a package is missing."""
    missing = [name for name in PACKAGES if find_spec(name) is None]
    if missing:
        raise ConfigError([("--to", f"onnx needs {', '.join(missing)}: pip install 'dlopt[export]'")])


class OnnxFile(Format):
    """A graph of ONNX operators with its weights.

    Weights and numbers are float32: onnxruntime has no convolution of float64.
    """

    suffix = ".onnx"

    def __init__(self, module: InferenceModule, inputs: Tensor, opset: int, *, any_length: bool) -> None:
        module.to_float32()
        size = sum(tensor.nbytes for tensor in module.state_dict().values())
        if size > LARGEST_FILE:
            raise ConfigError([("--to", f"onnx files hold 2 GiB, and the weights are {size:,} bytes; {OTHER_FORMATS}")])
        self._length = inputs.shape[-1] if any_length else None
        self._model = _convert(trace(module, inputs, any_length=any_length), opset)
        self.run = self.load(self._model.SerializeToString())

    @property
    def engine(self) -> str:
        import onnxruntime

        return f"onnxruntime {onnxruntime.__version__}"

    def save(self, metadata: Mapping[str, str], *, any_length: bool) -> bytes:
        import onnx

        (model_input,), (output,) = self._model.graph.input, self._model.graph.output
        dims = model_input.type.tensor_type.shape.dim
        batch, length = dims[0].dim_param, dims[-1].dim_param if self._length else ""
        for dim in (*dims, *output.type.tensor_type.shape.dim):
            if dim.dim_param == batch:
                dim.dim_param = "batch"
            elif dim.dim_param and dim.dim_param == length:
                if any_length:
                    dim.dim_param = "length"
                else:
                    dim.dim_value = self._length
        onnx.helper.set_model_props(self._model, dict(metadata))
        return self._model.SerializeToString()

    def load(self, content: bytes) -> Run:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = torch.get_num_threads(), FATAL
        try:
            session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a class for each kind of error, and no common one
            raise ConfigError(
                [("--to", f"onnxruntime cannot load it ({format_error(error)}); {OTHER_FORMATS}")]
            ) from error
        (model_input,), (output,) = session.get_inputs(), session.get_outputs()

        def run(inputs: Tensor) -> Tensor:
            (outputs,) = session.run([output.name], {model_input.name: inputs.numpy()})
            return torch.from_numpy(outputs)

        return run


def _convert(program: ExportedProgram, opset: int) -> onnx.ModelProto:
    """Return the ONNX model of a graph, without the notes of the exporter about its nodes."""
    try:
        with silence():
            converted = torch.onnx.export(
                program,
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=["inputs"],
                output_names=["outputs"],
                custom_translation_table=_list_translations(),
            )
    except torch.onnx.OnnxExporterError as error:
        operation = find_operation(error)
        if operation is None:
            message = f"torch cannot convert the network ({format_error(error.__cause__ or error)})"
        else:
            layers = find_layers(program, operation)
            place = f"layer {', '.join(layers)}" if layers else "the network"
            message = f"{place} uses {operation}, which ONNX lacks"
        raise ConfigError([("arch", f"{message}; {OTHER_FORMATS}")]) from error
    assert converted is not None
    model = converted.model_proto
    model.producer_name = "dlopt"
    for entry in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        entry.ClearField("metadata_props")
    return model


def _list_translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return how operations become ONNX that torch would unroll, at one length of the sequence."""
    aten = torch.ops.aten
    return {aten.rnn_tanh.input: _make_rnn("Tanh"), aten.rnn_relu.input: _make_rnn("Relu")}


def _make_rnn(activation: str) -> Callable[..., Any]:
    """Return the function that writes torch.nn.RNN as ONNX's RNN, a layer at a time."""
    import onnxscript

    op: Any = onnxscript.opset18

    def stack(tensors: Sequence[Any]) -> Any:
        return op.Concat(*(op.Unsqueeze(tensor, [0]) for tensor in tensors), axis=0)

    def translate(
        x: Any, hx: Any, params: Sequence[Any], has_biases: bool, num_layers: int, dropout: float, train: bool,
        bidirectional: bool, batch_first: bool,
    ) -> tuple[Any, Any]:  # fmt: skip
        directions, each = 1 + bidirectional, 4 if has_biases else 2
        keys = {"direction": "bidirectional" if bidirectional else "forward", "hidden_size": hx.shape[2]}
        x = op.Transpose(x, perm=[1, 0, 2]) if batch_first else x
        finals = []
        for first in range(0, num_layers * directions, directions):
            mine = [params[each * i : each * (i + 1)] for i in range(first, first + directions)]
            biases = stack([op.Concat(*tensors[2:], axis=0) for tensors in mine]) if has_biases else None
            start = op.Slice(hx, [first], [first + directions], [0])
            weights = (stack([tensors[i] for tensors in mine]) for i in range(2))
            states, final = op.RNN(x, *weights, biases, None, start, activations=[activation] * directions, **keys)
            x = op.Reshape(op.Transpose(states, perm=[0, 2, 1, 3]), [0, 0, -1])  # (T, B, directions units)
            finals.append(final)
        return op.Transpose(x, perm=[1, 0, 2]) if batch_first else x, op.Concat(*finals, axis=0)

    return translate
