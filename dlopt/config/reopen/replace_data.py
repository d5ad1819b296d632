"""Other data in place of a run's own, as `--data` names them: a data set, a file, or keys of the data group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from dlopt.config.compose import groups
from dlopt.config.problems import ConfigError
from dlopt.errors import did_you_mean

TRAINING_KEYS = ("train_size", "label_noise", "drop_last", "test_fraction")
"""Keys that only training uses; all examples of other data are evaluated."""


def replace_data(data: Mapping[str, Any], arguments: Sequence[str]) -> dict[str, Any]:
    """Return a run's data configuration with each argument applied in order.

    A file is read as the run's own was; if the run was trained on a known data set, the file is read as arrays.
    Raises ConfigError if an argument is neither a data set, a file nor a key.
    """
    node = {**data, "train_size": None, "label_noise": 0.0}
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals:
            key = key.removeprefix("data.")
            _check_key(key, node)
            typed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"x={value}"]), resolve=True)
            node[key] = typed["x"]
        elif argument in groups.list_option_names("data"):
            node = _load_data_option(argument)
        elif Path(argument).exists():
            if "verify" not in node and "target" not in node:  # a known data set, which reads no files of the user's
                node = _load_data_option("arrays")
            node["path"] = argument
        else:
            options = did_you_mean(argument, [o for o in groups.list_option_names("data") if o != "custom"])
            raise ConfigError([("--data", f"there is no file and no data set '{argument}'{options}")])
    return node


def _check_key(key: str, node: Mapping[str, Any]) -> None:
    if key not in node:
        known = [f"data.{name}" for name in node if not name.startswith("_")]
        raise ConfigError([("--data", f"there is no key data.{key}{did_you_mean(f'data.{key}', known)}")])
    if key in TRAINING_KEYS:
        message = f"data.{key} is used in training only; all examples of other data are evaluated"
        raise ConfigError([("--data", message)])


def _load_data_option(name: str) -> dict[str, Any]:
    """Load the keys and defaults of a data option."""
    node: Any = OmegaConf.to_container(OmegaConf.load(groups.CONF / "data" / f"{name}.yaml"))
    node.pop("defaults", None)
    return node
