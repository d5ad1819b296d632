"""The resolvers ${dlopt.name:} and ${dlopt.random:} of the configuration."""

import secrets
from typing import Any

from omegaconf import OmegaConf


def register() -> None:
    """Register the resolvers for one command, and draw the random part of its directory names."""
    random = secrets.token_hex(2)
    OmegaConf.register_new_resolver("dlopt.random", lambda: random, replace=True)
    OmegaConf.register_new_resolver("dlopt.name", _name, replace=True)


def _name(*, _root_: Any) -> str:
    """Return the given name, or <arch>-<optimizer>; a custom class is named by its class name."""
    typed = dict(str(o).partition("=")[::2] for o in _root_.hydra.overrides.task)

    def chosen(group: str) -> str:
        target = typed.get(f"{group}._target_", "")
        return target.rpartition(".")[2] or str(_root_.hydra.runtime.choices.get(group))

    return str(_root_.get("name") or f"{chosen('arch')}-{chosen('optimizer')}")
