"""Replace torch's BatchNorm and Dropout in custom networks by the modules of dlopt, with the same parameters and names.

torch's BatchNorm updates its running statistics at each evaluation, and torch's Dropout draws from a global generator:
an optimizer that evaluates its objective twice in a step would see two functions.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from dlopt.normalization.batch import BatchNorm
from dlopt.regularization.dropout import Dropout

_BATCH_NORM_TYPES = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)  # exactly: a subclass has its own forward
_FIRST_SITE = 10_000
"""First site number of replaced Dropout modules; larger than any that a network asks for itself."""


def replace_stateful_modules(model: Any) -> Any:
    """Return the network with pure modules; anything that is not a Module is returned unchanged."""
    if not isinstance(model, nn.Module):
        return model
    replacements: dict[nn.Module, nn.Module] = {}
    site = _FIRST_SITE
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and type(module) in _BATCH_NORM_TYPES:
            replacements[module] = _convert_batch_norm(module)
        elif type(module) is nn.Dropout:
            if module.p == 1:
                raise ValueError("Dropout(1.0) drops everything; p must be below 1")
            replacements[module] = Dropout(module.p, 0.0, "train").module(site)
            site += 1
    for parent in list(model.modules()):
        for name, child in list(parent._modules.items()):
            if child in replacements:
                setattr(parent, name, replacements[child])
    return replacements.get(model, model)


def _convert_batch_norm(module: nn.modules.batchnorm._BatchNorm) -> nn.Module:
    if not module.affine or module.running_mean is None or module.running_var is None or module.momentum is None:
        raise ValueError("BatchNorm in a net must be affine, track running statistics and have a momentum")
    converted = BatchNorm(module.num_features, module.eps, module.momentum)
    converted.weight, converted.bias = module.weight, module.bias
    converted.running_mean.copy_(module.running_mean)
    converted.running_var.copy_(module.running_var)
    return converted
