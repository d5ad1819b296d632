"""Networks without inputs, for runs without data: functions of the weights alone."""

from __future__ import annotations

import inspect
from typing import Any

from torch import Tensor, nn

from dlopt import parts
from dlopt.config.problems import Problems


def check_inputs(name: str, network: Any, dataset: parts.Dataset, problems: Problems) -> bool:
    """Return whether a module, or a class of modules, takes inputs if and only if the data have some.

    Add a problem if not. Anything else than a module is not judged.
    """
    is_class = inspect.isclass(network)
    if not (issubclass(network, nn.Module) if is_class else isinstance(network, nn.Module)):
        return True
    forward, owner = inspect.signature(network.forward), (None,) * is_class
    if dataset.has_inputs and not _takes(forward, *owner, None):
        problems.add("arch", f"{name} is a function of its weights and takes no inputs: add data=none")
    elif not dataset.has_inputs and not _takes(forward, *owner):
        problems.add("arch", f"{name} needs inputs, and data=none has none: choose arch=surface, or other data")
    else:
        return True
    return False


def _takes(signature: inspect.Signature, *arguments: None) -> bool:
    try:
        signature.bind(*arguments)
    except TypeError:
        return False
    return True


def ignore_inputs(model: nn.Module) -> nn.Module:
    """Let a module without inputs be called like any network: its scalar is the output of one example, (1, 1).

    Hooks do this, not a module around it, so that its parameters keep their names.
    """
    model.register_forward_pre_hook(_drop_inputs)
    model.register_forward_hook(_to_outputs)
    return model


def _drop_inputs(module: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    return ()


def _to_outputs(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
    """Return a scalar as (1, 1), and anything else as it is, which the probe refuses."""
    return output.reshape(1, 1) if isinstance(output, Tensor) and output.numel() == 1 else output
