"""The weights before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from torch import Tensor, nn

from dlopt import streams
from dlopt.config.problems import ConfigError
from dlopt.experiment import Settings, adjusted_weights, initial_weights
from dlopt.first_batch import FirstBatch
from dlopt.mistakes import Mistake
from dlopt.parts import Split
from dlopt.weights import Layout


def initial(made: Mapping[str, Any], model: nn.Module, train: Split, settings: Settings) -> Tensor:
    """w, (P,), by the parts of groups init and bias among those that are made."""
    init, bias, gain = made["init"], made["bias"], getattr(made["activation"], "gain", 1.0)
    key = streams.key(settings.seed, "init")
    start = partial(FirstBatch, model, made["loss"], train, settings.dtype, streams.key(settings.seed, "first_batch"))
    try:
        w = initial_weights(model, Layout.of(model), init, bias, gain, key, settings.dtype)
        return adjusted_weights(w, init, bias, start)
    except Mistake as error:
        raise ConfigError([(error.key, str(error))]) from error
