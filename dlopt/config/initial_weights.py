"""Build the weights before the first step."""

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
    components: Mapping[str, Any],
    model: nn.Module,
    settings: Settings,
    saved: Mapping[str, Tensor] | None,
    problems: Problems,
) -> Collection[str]:
    """Let the init give values to parameters in the network itself; return their names."""
    if "init" not in components:
        return ()
    try:
        return prepare_network(model.to(settings.dtype), components["init"], saved)
    except OptionError as error:
        problems.add(error.key, str(error))
        return ()


def build_initial_weights(
    components: Mapping[str, Any],
    model: nn.Module,
    train: Split,
    settings: Settings,
    given: Collection[str],
    *,
    resumes: bool,
) -> Tensor:
    """Return the initial weights w, (P,), by the components of the groups init and bias_init.

    given are the parameters that already have their values. A run that resumes will load w from its checkpoint, so no
    init evaluates data then.
    """
    init, bias, gain = components["init"], components["bias_init"], getattr(components["activation"], "gain", 1.0)
    key = prng.key(settings.seed, "init")
    start = partial(
        MiniBatchInitProbe, model, components["loss"], train, settings.dtype, prng.key(settings.seed, "first_batch")
    )
    try:
        w = sample_initial_weights(model, Layout.of(model), init, bias, gain, key, settings.dtype, given)
        return w if resumes else adjust_weights(w, init, bias, start)
    except OptionError as error:
        raise ConfigError([(error.key, str(error))]) from error
