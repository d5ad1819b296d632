"""The network's own initial weights."""

from dataclasses import dataclass

import torch

from dlopt.base.layout import Parameter


@dataclass(frozen=True)
class KeepModuleInit:
    """Keeps the values with which each module was constructed: torch's defaults, or a custom network's; seeded."""

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> None:
        return None
