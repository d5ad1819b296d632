"""Flatten a configuration to pairs (`optimizer: adam`, `optimizer.lr: 0.001`), and find those that are not defaults."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.static_config import StaticConfig, flatten
from dlopt.formatting import format_override
from dlopt.storage.safe_read import LARGEST


def flatten_settings(config: Mapping[str, Any], choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return the choices and keys of a run. A group of several options holds their names: none, l2, [l2,dropout].

    config is the composed configuration in plain dictionaries; choices is the option of each group. A custom class is a
    setting; a class of dlopt is implied by its option.
    """
    order = [compose_groups.PRESETS, "data", *_defaults()]
    ordered = sorted(choices, key=lambda group: order.index(group) if group in order else len(order))
    settings: dict[str, Any] = {group: choices[group] for group in ordered if isinstance(choices[group], str)}
    for group in compose_groups.select_groups("multiple"):
        names = [str(name) for name in config.get(group) or {}]
        settings[group] = "none" if not names else names[0] if len(names) == 1 else f"[{','.join(names)}]"
    for key, value in flatten({k: v for k, v in config.items() if k not in ("hydra", "resume")}):
        name = key.rpartition(".")[2]
        if not name.startswith("_") or (name == "_target_" and not str(value).startswith("dlopt.")):
            settings[key] = format_override(value) if isinstance(value, list) else value
    return settings


@cache
def _defaults() -> Mapping[str, str]:
    """Return the default option of each group; cached, since a sweep needs it for every run."""
    return StaticConfig({}).default_options()


def filter_plain_settings(settings: Any) -> dict[str, Any]:
    """Return the recorded settings that have plain values. A run writes no others."""
    pairs = settings.items() if isinstance(settings, Mapping) else ()
    return {name: value for name, value in pairs if isinstance(name, str) and _is_plain(value)}


def _is_plain(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) < LARGEST
    return value is None or isinstance(value, (str, float))


def find_non_defaults(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the pairs of a run that are not defaults: of the groups, and of the keys of the chosen options."""
    groups = _defaults()
    static = StaticConfig({key: format_override(value) for key, value in settings.items() if value is not None})
    defaults = static.keys()
    for group in groups:
        defaults |= static.keys(group) | static.nested_keys(group)

    def is_default(key: str, value: Any) -> bool:
        return key in defaults and _is_same_value(value, defaults[key])

    changed: dict[str, Any] = {}
    for group, option in groups.items():
        if group in settings and settings[group] != option:
            changed[group] = settings[group]
        changed |= {k: v for k, v in settings.items() if k.startswith(f"{group}.") and not is_default(k, v)}
    return changed | {k: v for k, v in settings.items() if k.partition(".")[0] not in groups and not is_default(k, v)}


def _is_same_value(a: Any, b: Any) -> bool:
    """Return whether two values are equal as typed, or as numbers: YAML reads 1e-5 as text."""
    if format_override(a) == format_override(b):
        return True
    try:
        return not isinstance(a, bool) and not isinstance(b, bool) and float(a) == float(b)
    except (TypeError, ValueError):
        return False
