"""Activations: makers of modules."""

from __future__ import annotations

from typing import Protocol

from torch import nn

from dlopt.base.group import Group


@Group("activation", needed_for_inference=True, lanes="value")
class Activation(Protocol):
    """Makes an activation module. gain is the factor by which an init makes up for what it does to the variance.

    A module of one's own whose outputs lie between two limits says so by `bounds`, a tuple (low, high).
    """

    gain: float

    def __call__(self) -> nn.Module: ...
