"""Options inside options: schedule=warmup holds a further schedule, which schedule.then=cosine chooses.

An option's file declares it in its defaults, `- /schedule@then: constant`. Hydra writes the choice as
schedule@schedule.then=cosine. This module converts between the two forms. A schedule for another hyperparameter than
the learning rate is converted too: schedules.momentum=ramp becomes +schedule@schedules.momentum=ramp.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from dlopt.config.compose import groups

SCHEDULES = "schedules"
"""The key below which each name is a hyperparameter with its own schedule."""
PARAMETER_GROUPS = "optimizer.groups"
"""The key below which each name is a group of parameters: optimizer.groups.bias.lr=2 becomes ++optimizer.groups..."""
PARAMETER_KINDS = ("all", "weight", "bias", "norm", "linear", "conv", "recurrent", "embedding", "pretrained")
"""The words that stand for a kind of parameters in a group, instead of a pattern of their names."""


def load_nested_defaults(file: Path) -> dict[str, tuple[str, str]]:
    """Return the keys of an option's file that hold a further option, each with its group and default option."""
    text = file.read_text()
    if "defaults:" not in text:  # most have none, and reading YAML takes a millisecond
        return {}
    import yaml

    return parse_nested_defaults(yaml.safe_load(text) or {})


def find_places(group: str) -> list[str]:
    """Return the keys at which options of other groups hold an option of this group: optimizer.linesearch."""
    files = ((outer, file) for outer in groups.list_groups() for file in sorted((groups.CONF / outer).glob("*.yaml")))
    nested = ((outer, load_nested_defaults(file)) for outer, file in files if outer != group)
    return sorted({f"{outer}.{key}" for outer, keys in nested for key, (inner, _) in keys.items() if inner == group})


def parse_nested_defaults(content: Mapping[str, Any]) -> dict[str, tuple[str, str]]:
    """Return the keys of an option's content that hold a further option, each with its group and default option."""
    nested = {}
    for name, option in iter_defaults(content):
        group, _, key = name.removeprefix("/").partition("@")
        if key and " " not in name:  # else it overrides a choice of another group
            nested[key] = (group, option)
    return nested


def iter_defaults(content: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the name and the option of each choice in the defaults list of a file's content."""
    for entry in content.get("defaults") or ():
        if isinstance(entry, dict):
            yield from entry.items()


def read_keys(file: Path) -> set[str]:
    """Return all keys of an option's file."""
    import yaml

    content = yaml.safe_load(file.read_text()) or {}
    return (content.keys() - {"_target_", "defaults"}) | parse_nested_defaults(content).keys()


def is_override(argument: str) -> bool:
    """Return whether an argument of a command is an override, not a flag."""
    return "=" in argument and not argument.startswith("-")


def get_key(override: str) -> str:
    """Return the key of an override, without a plus or a tilde."""
    return override.lstrip("+~").partition("=")[0]


def to_hydra(argument: str, folders: Iterable[Path] = (groups.CONF,)) -> str:
    """Return an override in Hydra's form: schedule.then=cosine becomes schedule@schedule.then=cosine."""
    key, equals, value = argument.partition("=")
    if equals and (key == PARAMETER_GROUPS or key.startswith(f"{PARAMETER_GROUPS}.")):
        return f"++{argument}"
    group, _, path = key.partition(".")
    if equals and not path and _needs_plus(group, folders):
        return f"+{argument}"
    if not (equals and path) or value.startswith("{"):
        return argument
    inner = _find_group(group, path, list(folders))
    if inner is None and group == SCHEDULES:
        above, _, last = path.rpartition(".")
        if above and _find_group("schedule", last, list(folders)):
            return f"schedule@{argument}"
        if not above or last not in _keys("schedule", folders) or _is_regularization_key(above, last, folders):
            return f"+schedule@{argument}"
    return f"{inner}@{argument}" if inner else argument


def _needs_plus(key: str, folders: Iterable[Path]) -> bool:
    """Return whether a key is a group without a default in config.yaml: Hydra takes a choice of it only with a plus."""
    return key.isidentifier() and any((folder / key).is_dir() for folder in folders) and key not in _default_groups()


@cache
def _default_groups() -> frozenset[str]:
    """Return the groups that have a default in config.yaml; read by a pattern: YAML takes milliseconds."""
    text = (groups.CONF / "config.yaml").read_text()
    return frozenset(re.findall(r"^  - (\w+):", text, re.MULTILINE))


def from_hydra(argument: str) -> str:
    """Return the short form of an override: schedule@schedule.then=cosine becomes schedule.then=cosine."""
    key, equals, value = argument.partition("=")
    key = key.removeprefix("++") if key.startswith(f"++{PARAMETER_GROUPS}") else key
    return key.rpartition("@")[2] + equals + value


def _is_regularization_key(option: str, key: str, folders: Iterable[Path]) -> bool:
    """Return whether a schedule's key is also a key of a regularization that has no `strength`."""
    import yaml

    for file in (folder / "regularization" / f"{option}.yaml" for folder in folders):
        keys = (yaml.safe_load(file.read_text()) or {}).get(option, {}) if file.is_file() else {}
        if key in keys and "strength" not in keys:
            return True
    return False


def _keys(group: str, folders: Iterable[Path]) -> set[str]:
    """Return the keys of all options of a group."""
    return {
        key for folder in folders for file in (folder / group).glob("*.yaml") for key in (*read_keys(file), "_target_")
    }


def _find_group(group: str, path: str, folders: Sequence[Path]) -> str | None:
    """Return the group whose options the key GROUP.PATH can hold, if any."""
    for file in (file for folder in folders for file in sorted((folder / group).glob("*.yaml"))):
        for key, (inner, _) in load_nested_defaults(file).items():
            if path == key:
                return inner
            if path.startswith(f"{key}.") and (deeper := _find_group(inner, path.removeprefix(f"{key}."), folders)):
                return deeper
    return None
