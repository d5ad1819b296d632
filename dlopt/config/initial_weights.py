"""The weights before the first step."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from dlopt import prng
from dlopt.base.data import Split
from dlopt.base.layout import Layout
from dlopt.config.problems import ConfigError, Problems
from dlopt.errors import Mistake
from dlopt.objective.init_probe import FirstBatch
from dlopt.training.experiment import Settings, adjusted_weights, initial_weights, prepared


def kept(
    made: Mapping[str, Any],
    model: nn.Module,
    settings: Settings,
    saved: Mapping[str, Tensor] | None,
    problems: Problems,
) -> Collection[str]:
    """The parameters that the init has given values already, in the network itself."""
    if "init" not in made:
        return ()
    try:
        return prepared(model.to(settings.dtype), made["init"], saved)
    except Mistake as error:
        problems.add(error.key, str(error))
        return ()


def initial(
    made: Mapping[str, Any],
    model: nn.Module,
    train: Split,
    settings: Settings,
    given: Collection[str],
    *,
    goes_on: bool,
) -> Tensor:
    """w, (P,), by the parts of groups init and bias among those that are made; given is what they need not draw.

    A run that goes on will take it from its checkpoint: then nobody looks at data.
    """
    init, bias, gain = made["init"], made["bias_init"], getattr(made["activation"], "gain", 1.0)
    key = prng.key(settings.seed, "init")
    start = partial(FirstBatch, model, made["loss"], train, settings.dtype, prng.key(settings.seed, "first_batch"))
    try:
        w = initial_weights(model, Layout.of(model), init, bias, gain, key, settings.dtype, given)
        return w if goes_on else adjusted_weights(w, init, bias, start)
    except Mistake as error:
        raise ConfigError([(error.key, str(error))]) from error
