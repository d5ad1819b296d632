"""Networks and the parts that they are built from: activations and normalizations."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

from torch import Tensor, nn

from dlopt.base.group import Group


@Group(
    "arch",
    needed_for_inference=True,
    lanes="value",
    sets_cost=True,
    supplied=(
        "inputs",
        "outputs",
        "tokens",
        "per_step",
        "padded",
        "activation",
        "normalization",
        "dropout",
        "drop_path",
    ),
)
class Arch(Protocol):
    """A network: any torch.nn.Module.

    `build` passes these arguments to its __init__ if the signature names them: inputs, the shape of one example;
    outputs, their number; activation and normalization, factories of modules; dropout, a function that returns a module
    or None for the index of a hidden layer; drop_path, a function that returns a module or None for the end of a
    residual branch, by its index and the number of branches.

    Further arguments describe sequences (see dlopt.base.sequences). Data that need one are refused if the signature
    does not name it: tokens, the number of different tokens, or None for inputs that are numbers; per_step, whether
    there is a target for each step; padded, whether some sequences are shorter than others. Padding must not influence
    the outputs of other steps, and the outputs at the padding itself may be any finite numbers.

    In training a network may return (outputs, auxiliary outputs), where the auxiliary outputs are a tensor of the shape
    of the outputs or several. Their losses are added to that of the outputs, times the network's attribute
    `auxiliary_weight`: the network keeps the argument of this name of its __init__. In inference only the outputs
    count, and the network should compute nothing else: `self.training` is False.
    """

    def __call__(self, inputs: Tensor) -> Tensor | tuple[Any, ...]:
        """Map inputs (B, *shape) to outputs (B, outputs), or (B, T, outputs) for a target at each of T steps."""


@Group("activation", needed_for_inference=True, lanes="value")
class Activation(Protocol):
    """Makes an activation module. An init multiplies weights by gain, to correct for the change of the variance.

    A custom module whose outputs are bounded declares the limits in an attribute `bounds`, a tuple (low, high).
    """

    gain: float

    def __call__(self) -> nn.Module: ...


@Group("normalization", needed_for_inference=True, lanes="value")
class Normalization(Protocol):
    """Makes a normalization for inputs (B, features, *dims), or None for no normalization.

    The steps of a sequence are normalized as examples of their own, with dims=0.
    """

    def __call__(self, features: int, dims: int) -> nn.Module | None: ...


@runtime_checkable
class NormalizationOfWeights(Normalization, Protocol):
    """A normalization of the weights of a network in place of its activations: __call__ returns None."""

    def replace_weights(self, model: nn.Module) -> nn.Module:
        """Return the network with weights that are functions of other parameters; it may be changed in place.

        Raise ValueError if it has no weights to replace.
        """

    def initialize(self, w: Tensor, model: nn.Module, fixed: Collection[str]) -> Tensor:
        """Return the initial weights, (P,), after the inits have drawn them; parameters in `fixed` keep theirs."""


class BatchStatisticsModule(nn.Module):
    """A module that uses statistics of the batch in training and their moving average in inference.

    `forward` must not modify buffers: it stores the statistics of the batch in `batch_stats`, by the buffer's name. The
    training loop updates the buffers once per step, from the first evaluation of the step:
    buffer <- (1 - momentum) buffer + momentum batch_stats. An optimizer may evaluate the objective several times.

    For steps of sequences of different lengths, `forward` is called with inputs (B, features) and a second argument,
    the mask (B,) of the steps that are not padding; the statistics must leave out the others.

    A module that also reads its buffers in training sets uses_stored_statistics = True.

    A frozen module stays in inference: `train` leaves `training` False, so the stored statistics are used and kept.
    """

    normalizes: ClassVar[bool] = True
    uses_stored_statistics: ClassVar[bool] = False
    frozen: bool = False
    momentum: float
    batch_stats: dict[str, Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.batch_stats = {}

    def train(self, mode: bool = True) -> Self:
        return super().train(mode and not self.frozen)


def freeze(model: nn.Module, names: Collection[str]) -> None:
    """Exclude parameters from training, and freeze each normalization by batch statistics that then trains nothing.

    names are those of a state dict. A normalization is frozen if one of its parameters or buffers is named and none of
    its parameters is trained any more. torch's own batch normalizations are replaced when a run builds its network.
    """
    for name, parameter in model.named_parameters(remove_duplicate=False):
        if name in names:
            parameter.requires_grad_(False)
    for name, module in model.named_modules():
        is_named = any(f"{name}.{key}".lstrip(".") in names for key in module.state_dict())
        if is_named and isinstance(module, BatchStatisticsModule) and not _is_trained(module):
            module.frozen = True
            module.eval()


def _is_trained(module: nn.Module) -> bool:
    return any(parameter.requires_grad for parameter in module.parameters())
