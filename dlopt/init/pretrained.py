"""The weights of another run."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import torch
from torch import Tensor, nn

from dlopt.base.layout import Layout, Parameter, matches, number_layers
from dlopt.base.network import freeze
from dlopt.errors import OptionError, did_you_mean, join_truncated
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
    best one. Names and shapes must match; init.match takes only a part of these layers, so that the rest may differ.
    The group bias_init sets the biases that are not copied.

    frozen=false trains all layers; frozen=true trains only what is not copied. A frozen normalization uses its running
    statistics in training, too, and keeps them. Copied weights can also learn more slowly than others:
    optimizer.groups.pretrained.lr=0.1, or the slower the further from the output:
    optimizer.groups.pretrained.layer_decay=0.8.

    The checkpoints of a run contain the copied weights. The other run is needed to start the run, not to resume or
    evaluate it.

    run       a run directory, a unique part of its name, a checkpoint file, or a file of a state dict of torch:
              FILE.safetensors, or FILE.pt as torch.save writes it. Nothing in a file is executed
    layers    k; null: all; 0: none, the baseline of a sweep over k
    match     patterns of the parameters to copy among these layers, or of modules: a name, a pattern such as
              hidden.*.weight, or a list; null: all
    frozen    whether the copied weights stay fixed
    default   the init of the other layers: init.default=he

    Source: Yosinski, Clune, Bengio and Lipson 2014, section 2: transfer of the first k layers, frozen or fine-tuned.
    """

    run: str | None
    layers: Annotated[int, Range(ge=0)] | None
    match: str | list[str] | None
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
        names = self._select(names)
        if self.frozen and {p.name for p in Layout.of(model)} <= set(names):
            raise OptionError("frozen", "leaves nothing to train; set init.layers or init.match, or frozen=false")
        source = self._network() if saved is None else saved
        own = model.state_dict()
        _check_shapes({name: own[name] for name in names}, source)
        for name in names:
            own[name].copy_(source[name])
        if self.frozen:
            freeze(model, set(names))
        return names

    def _select(self, names: Sequence[str]) -> list[str]:
        """Return the names that init.match takes. Raise OptionError for a pattern that matches none of them."""
        if self.match is None:
            return list(names)
        patterns = [self.match] if isinstance(self.match, str) else self.match
        taken = [name for name in names if any(matches(name, pattern) for pattern in patterns)]
        for pattern in patterns:
            if not any(matches(name, pattern) for name in names):
                raise OptionError("match", f"{pattern} matches no parameter{did_you_mean(pattern, names)}")
        if not taken:
            raise OptionError("match", "names no pattern; leave it out to copy all layers")
        return taken

    def _network(self) -> Mapping[str, Tensor]:
        """Return the state dict of the other run."""
        name = find.check_name(self.run, "run")
        file = Path(name)
        try:
            if file.is_file():
                is_safetensors = file.suffix == checkpoint_file.SUFFIX
                content = (checkpoint_file.load_any if is_safetensors else torch_file.load)(file)
            else:
                content = _load_checkpoint(find.find_run(name))
        except find.RunNotFound as error:
            raise OptionError("run", str(error)) from error
        except (OSError, ValueError) as error:
            raise OptionError("run", f"{name} cannot be read ({error})") from error
        network = _find_state_dict(content)
        if network is None:
            raise OptionError("run", f"{name} is neither a checkpoint of a run nor a state dict of tensors")
        return network


def _find_state_dict(content: Any) -> Mapping[str, Tensor] | None:
    """Return the network of a checkpoint, or a state dict that is the content itself; None if there is none."""
    if not isinstance(content, dict):
        return None
    nodes = (content.get("model"), content.get("state_dict"), content)
    found = (
        {name: value for name, value in node.items() if isinstance(value, Tensor)}
        for node in nodes
        if isinstance(node, dict)
    )
    return next(filter(None, found), None)


def _check_shapes(own: Mapping[str, Tensor], source: Mapping[str, Tensor]) -> None:
    """Raise OptionError with all names and shapes if tensors are not in the source, or have other shapes there."""
    wrong = []
    for name, value in own.items():
        there = source.get(name)
        if there is None or there.shape != value.shape:
            state = "is missing" if there is None else f"is {tuple(there.shape)}"
            wrong.append(f"{name}, of shape {tuple(value.shape)} here, {state} there")
    if not wrong:
        return
    unknown = [f"{name} {tuple(value.shape)}" for name, value in source.items() if name not in own]
    others = f"; others there: {join_truncated(unknown)}" if unknown else ""
    advice = "take the same network, fewer layers (init.layers), or init.match to say which to copy"
    raise OptionError("run", f"{'; '.join(wrong)}{others}; {advice}")


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
