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
from dlopt.errors import OptionError
from dlopt.objective.init_probe import MiniBatchInitProbe
from dlopt.training.experiment import Settings, adjust_weights, prepare_network, sample_initial_weights


def apply_in_place_init(
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
        return prepare_network(model.to(settings.dtype), made["init"], saved)
    except OptionError as error:
        problems.add(error.key, str(error))
        return ()


def build_initial_weights(
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
    start = partial(
        MiniBatchInitProbe, model, made["loss"], train, settings.dtype, prng.key(settings.seed, "first_batch")
    )
    try:
        w = sample_initial_weights(model, Layout.of(model), init, bias, gain, key, settings.dtype, given)
        return w if goes_on else adjust_weights(w, init, bias, start)
    except OptionError as error:
        raise ConfigError([(error.key, str(error))]) from error
