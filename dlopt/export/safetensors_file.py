"""Files of safetensors: the weights and statistics alone, as a checkpoint has them.

The file is laid out as a checkpoint, so init=pretrained reads it, and safetensors reads it without dlopt:

    model/NAME                 a tensor of the network's state dict
    preprocessing/STEP/NAME    a statistic of a preprocessing step
"""

from __future__ import annotations

import copy
import io
from collections.abc import Mapping, Sequence

import torch

from dlopt.export.comparison import Run
from dlopt.export.formats import Format
from dlopt.export.inference_module import InferenceModule
from dlopt.storage import checkpoint_file

MODEL, PREPROCESSING = "model", "preprocessing"


class SafetensorsFile(Format):
    """Weights and statistics, in the run's own precision. steps are the names of the preprocessing steps."""

    suffix = ".safetensors"

    def __init__(self, module: InferenceModule, steps: Sequence[str]) -> None:
        self._module, self._steps = module, steps
        self.run: Run = module

    @property
    def engine(self) -> str:
        return "the network with the tensors of the file"

    def save(self, metadata: Mapping[str, str], *, any_length: bool) -> bytes:
        fitted = zip(self._steps, self._module.steps, strict=True)
        content = {
            MODEL: self._module.network.state_dict(),
            PREPROCESSING: {name: step.statistics() for name, step in fitted},
        }
        stream = io.BytesIO()
        checkpoint_file.write(stream, content, metadata)
        return stream.getvalue()

    def load(self, content: bytes) -> Run:
        from safetensors.torch import load

        tensors = load(content)
        module = copy.deepcopy(self._module)
        for tensor in module.state_dict().values():
            tensor.fill_(torch.nan if tensor.is_floating_point() else 0)  # what the file lacks must show
        for path, tensor in tensors.items():
            kind, _, name = path.partition("/")
            if kind == MODEL:
                module.network.state_dict()[name].copy_(tensor)
            else:
                step, _, statistic = name.partition("/")
                module.steps[self._steps.index(step)].statistics()[statistic].copy_(tensor)
        return module
