"""Labels of layers that are the same with and without normalization, dropout and other modules between them."""

from __future__ import annotations

from collections import Counter

from torch import nn

_NORMS = (nn.modules.batchnorm._NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)


def label_modules(model: nn.Module) -> dict[str, str]:
    """Return the label of each module by its name, so that curves of comparable layers are in one chart.

    A name has the position of a module in its nn.Sequential, among modules of every kind. A label numbers the modules
    of each kind. So hidden.3, a linear layer after a linear layer, a normalization and an activation, is hidden.1, as
    without the normalization. Its normalization is hidden.1.norm and its activation is hidden.1.activation. If labels
    would not be unique, they are the names.
    """
    labels = {"": ""}
    for name, module in model.named_modules():
        counts: Counter[str] = Counter()
        for child_name, child in module.named_children():
            suffix = _get_suffix(child) if isinstance(module, nn.Sequential) and child_name.isdecimal() else None
            own = child_name if suffix is None else f"{counts[suffix]}{suffix}"
            counts[suffix or ""] += 1
            labels[f"{name}.{child_name}".lstrip(".")] = f"{labels[name]}.{own}".lstrip(".")
    return labels if len(set(labels.values())) == len(labels) else {}


def is_normalization(module: nn.Module) -> bool:
    """Return whether a module normalizes: one of torch, or one with the attribute `normalizes`."""
    return isinstance(module, _NORMS) or bool(getattr(module, "normalizes", False))


def _get_suffix(module: nn.Module) -> str:
    """Return what the label of a module has after its number; a layer, or a block of layers, has nothing."""
    if is_normalization(module):
        return ".norm"
    if getattr(module, "activates", False) or type(module).__module__ == nn.modules.activation.__name__:
        return ".activation"
    return "" if any(p.ndim > 1 for p in module.parameters()) else f".{type(module).__name__.lower()}"
