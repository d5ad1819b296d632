"""Names that the configuration may use: ${dlopt.name:} and ${dlopt.random:}."""

import secrets
from typing import Any

from omegaconf import OmegaConf


def register() -> None:
    """Tell OmegaConf, for one command: the random part of its directories' names is drawn here."""
    random = secrets.token_hex(2)
    OmegaConf.register_new_resolver("dlopt.random", lambda: random, replace=True)
    OmegaConf.register_new_resolver("dlopt.name", _name, replace=True)


def _name(*, _root_: Any) -> str:
    """The name that was given, or <arch>-<optimizer>; a class of one's own counts by its name."""
    typed = dict(str(o).partition("=")[::2] for o in _root_.hydra.overrides.task)

    def chosen(group: str) -> str:
        target = typed.get(f"{group}._target_", "")
        return target.rpartition(".")[2] or str(_root_.hydra.runtime.choices.get(group))

    return str(_root_.get("name") or f"{chosen('arch')}-{chosen('optimizer')}")
