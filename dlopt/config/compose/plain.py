"""A configuration as plain values."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf


def to_plain(config: DictConfig | Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as mappings, lists and values that are copies, without Hydra's own node."""

    def copy_value(key: str) -> Any:
        if isinstance(config, DictConfig) and OmegaConf.is_missing(config, key):
            return "???"
        value = config[key]
        return OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else copy.deepcopy(value)

    return {key: copy_value(key) for key in map(str, config) if key != "hydra"}
