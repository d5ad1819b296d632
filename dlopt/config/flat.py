"""A configuration as flat pairs, `optimizer: adam`, `optimizer.lr: 0.001`, and what in it differs from the defaults."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from dlopt.config import paths


def flat(config: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """The choices and keys of a run. A group that takes several options stands for their names: none, l2, [l2,dropout].

    config is the composed configuration as plain dictionaries, chosen the option of each group.
    """
    order = ["experiment", "data", *_defaults()[1]]
    known = sorted(chosen, key=lambda group: order.index(group) if group in order else len(order))
    found: dict[str, Any] = {group: chosen[group] for group in known if isinstance(chosen[group], str)}
    for group in paths.groups():
        if group not in (*paths.SINGLE, "experiment"):
            names = [str(name) for name in config.get(group) or {}]
            found[group] = "none" if not names else names[0] if len(names) == 1 else f"[{','.join(names)}]"
    return found | dict(_pairs({k: v for k, v in config.items() if k not in ("hydra", "resume")}, ""))


def differing(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The pairs of a run that are not the defaults: of the groups, and of the keys of the option that was chosen."""
    defaults, groups = _defaults()
    found: dict[str, Any] = {}
    for group in groups:
        if group in settings and settings[group] != groups[group]:
            found[group] = settings[group]
        known = dict(_of_options(group, str(settings.get(group, groups[group]))))
        mine = {k: v for k, v in settings.items() if k.startswith(group + ".")}
        found |= {k: v for k, v in mine.items() if k not in known or not _same(v, known[k])}
    for key, value in settings.items():
        if key.partition(".")[0] not in groups and (key not in defaults or not _same(value, defaults[key])):
            found[key] = value
    return found


def _pairs(node: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for key, value in node.items():
        if isinstance(value, Mapping):
            yield from _pairs(value, f"{prefix}{key}.")
        elif key == "_target_" and not str(value).startswith("dlopt."):
            yield prefix + key, value  # a class of one's own is a setting; one of ours goes with its option
        elif not str(key).startswith("_"):
            yield f"{prefix}{key}", _plain(value)


def _plain(value: Any) -> Any:
    """A list as it is typed, anything else as it is."""
    if isinstance(value, list):
        return "[" + ",".join("null" if v is None else str(_plain(v)) for v in value) + "]"
    return value


def _of_options(group: str, chosen: str) -> Iterator[tuple[str, Any]]:
    """The keys of an option, or of several written as a list, with their defaults."""
    for option in chosen.strip("[]").split(","):
        file = paths.CONF / group / f"{option}.yaml"
        if file.is_file():
            node = {k: v for k, v in (_read(file) or {}).items() if k != "defaults"}
            yield from _pairs(node, f"{group}.")


@lru_cache(maxsize=1)
def _defaults() -> tuple[dict[str, Any], dict[str, Any]]:
    """The keys of no group, and the option of each group, without being asked for others."""
    content = _read(paths.CONF / "config.yaml")
    groups = {g: o for entry in content.pop("defaults") if isinstance(entry, dict) for g, o in entry.items()}
    return dict(_pairs({k: v for k, v in content.items() if k not in ("hydra", "resume")}, "")), groups


def _read(file: Path) -> Any:
    import yaml

    return yaml.load(file.read_text(), Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))


def _same(a: Any, b: Any) -> bool:
    """Equal, also where YAML leaves 1e-5 a text."""
    if a == b and isinstance(a, bool) == isinstance(b, bool):
        return True
    try:
        return not isinstance(a, bool) and not isinstance(b, bool) and float(a) == float(b)
    except (TypeError, ValueError):
        return False
