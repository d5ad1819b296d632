"""Names that the configuration may use: ${dlopt.name:} and ${dlopt.random:}."""

import secrets
from typing import Any

from omegaconf import OmegaConf

_RANDOM = secrets.token_hex(2)


def register() -> None:
    """Tell OmegaConf; once is enough, more do no harm."""
    OmegaConf.register_new_resolver("dlopt.random", lambda: _RANDOM, replace=True)
    OmegaConf.register_new_resolver("dlopt.name", _name, replace=True)


def _name(*, _root_: Any) -> str:
    """The name that was given, or <arch>-<optimizer>."""
    choices = _root_.hydra.runtime.choices
    return str(_root_.get("name") or "-".join(str(choices.get(group)) for group in ("arch", "optimizer")))
