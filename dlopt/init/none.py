"""The network's own initial weights."""

from dataclasses import dataclass

import torch

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class KeepModuleInit:
    """Keeps the values that each module drew as it was made (torch's defaults, or your own net's), from the seed."""

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> None:
        return None
