"""The weights of another run."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from dlopt.base.layout import Layout, Parameter, number_layers
from dlopt.base.network import freeze
from dlopt.errors import OptionError
from dlopt.parts import DataDependentInit, Init, InPlaceInit
from dlopt.ranges import Range
from dlopt.rundir import find
from dlopt.rundir.directory import RunDirectory
from dlopt.storage import checkpoint_file, torch_file


@dataclass(frozen=True)
class Pretrained:
    """Copy w of layers 1, ..., k from the same layers of another run; `default` draws those of layers k + 1, ...

    A layer is a module with weights and everything up to the next one. Its parameters, those of a normalization after
    it and its running statistics are copied from the best checkpoint of the other run, or from its newest if it has no
    best one. Names and shapes must match. The group bias_init sets the biases of the other layers.

    frozen=false trains all layers; frozen=true trains only the layers after the copied ones. A frozen normalization
    uses its running statistics in training, too, and keeps them.

    The checkpoints of a run contain the copied weights. The other run is needed to start the run, not to resume or
    evaluate it.

    run       a run directory, a unique part of its name, or a checkpoint file
    layers    k; null: all; 0: none, so that a sweep over k has its base line
    frozen    whether the copied weights stay fixed
    default   the init of the other layers: init.default=he

    Source: Yosinski, Clune, Bengio and Lipson 2014, section 2: transfer of the first k layers, frozen or fine-tuned.
    """

    run: str | None
    layers: Annotated[int, Range(ge=0)] | None
    frozen: bool
    default: Init

    def __post_init__(self) -> None:
        if isinstance(self.default, (DataDependentInit, InPlaceInit)):
            raise OptionError(
                "default", f"{type(self.default).__name__} is for a whole network; take one that draws, such as he"
            )

    def __call__(self, parameter: Parameter, gain: float, generator: torch.Generator) -> Tensor | None:
        return self.default(parameter, gain, generator)

    def prepare(self, model: nn.Module, saved: Mapping[str, Tensor] | None) -> Collection[str]:
        names = list_first_layers(model, self.layers)
        if not names:
            return ()
        if self.frozen and {p.name for p in Layout.of(model)} <= set(names):
            raise OptionError("frozen", "leaves nothing to train; set init.layers, or frozen=false")
        source = self._network() if saved is None else saved
        own = model.state_dict()
        for name in names:
            other = source.get(name)
            if other is None or other.shape != own[name].shape:
                problem = "lacks it" if other is None else f"has shape {tuple(other.shape)} there"
                advice = "take the same network" + ("" if name == names[0] else ", or fewer layers")
                raise OptionError("run", f"{name}, of shape {tuple(own[name].shape)}, {problem}; {advice}")
            own[name].copy_(other)
        if self.frozen:
            freeze(model, set(names))
        return names

    def _network(self) -> Mapping[str, Tensor]:
        """Return the state dict of the other run."""
        if self.run is None:
            raise OptionError("run", "name a run: its directory, or a unique part of its name")
        if self.run == "last":
            raise OptionError("run", "last is another run tomorrow; name it by its directory, or a part of its name")
        file = Path(self.run)
        try:
            if file.is_file():
                content = (checkpoint_file if file.suffix == checkpoint_file.SUFFIX else torch_file).load(file)
            else:
                content = _load_checkpoint(find.find_run(self.run))
        except find.RunNotFound as error:
            raise OptionError("run", str(error)) from error
        except (OSError, ValueError) as error:
            raise OptionError("run", f"{self.run} cannot be read ({error})") from error
        network = content.get("model") if isinstance(content, dict) else None
        if not isinstance(network, dict):
            raise OptionError("run", f"{self.run} is not a checkpoint of a run")
        return network


def list_first_layers(model: nn.Module, layers: int | None) -> list[str]:
    """Return the names of parameters and buffers of the first layers in the network's order; None: of all."""
    numbers = number_layers(model)
    count = max(numbers.values())
    if layers is not None and layers > count:
        raise OptionError("layers", f"must be at most {count}, the layers of this network, got {layers}")
    return [name for name, number in numbers.items() if layers is None or number <= layers]


def _load_checkpoint(run: RunDirectory) -> Any:
    """Return the content of the best checkpoint, or of the newest."""
    if run.checkpoint("best").exists():
        return run.load("best")
    newest = run.latest_checkpoint()
    if newest is None:
        raise ValueError("it has no checkpoint yet")
    return newest.content
