"""Files of torch.export, which torch loads without the code of the network."""

from __future__ import annotations

import io
from collections.abc import Mapping

import torch
from torch import Tensor

from dlopt.export.comparison import Run
from dlopt.export.formats import Format
from dlopt.export.inference_module import InferenceModule
from dlopt.export.silence import silence
from dlopt.export.tracing import trace


class TorchExportFile(Format):
    """A graph of torch operators with its weights, in the run's own precision. The metadata are extra files."""

    suffix = ".pt2"

    def __init__(self, module: InferenceModule, inputs: Tensor, *, any_length: bool) -> None:
        self._program = trace(module, inputs, any_length=any_length)
        self.run: Run = self._program.module()

    @property
    def engine(self) -> str:
        return f"torch {torch.__version__}"

    def save(self, metadata: Mapping[str, str], *, any_length: bool) -> bytes:
        stream = io.BytesIO()
        with silence():
            torch.export.save(self._program, stream, extra_files=dict(metadata))
        return stream.getvalue()

    def load(self, content: bytes) -> Run:
        with silence():
            return torch.export.load(io.BytesIO(content)).module()
