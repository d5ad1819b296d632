"""Read the documentation of an option from its file and from the docstring of its target."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import parse_nested_defaults
from dlopt.config.compose.static_config import StaticConfig, parse_group_overrides, to_key_prefix
from dlopt.config.schema.signature import describe, format_value, read_signature


@dataclass(frozen=True)
class OptionKey:
    """A key as typed, its default, its range and its meaning."""

    name: str
    default: str
    range: str
    meaning: str


@dataclass(frozen=True)
class Option:
    """An option of a group.

    summary      first comment of its file
    source       second comment of its file
    paragraphs   paragraphs of the docstring; `text` leaves out the table of keys, slips and sources
    keys         its keys
    companions   options of other groups that it chooses
    """

    group: str
    name: str
    summary: str
    source: str
    paragraphs: tuple[str, ...]
    keys: tuple[OptionKey, ...]
    companions: tuple[str, ...]

    @property
    def text(self) -> list[str]:
        return [p for p in self.paragraphs if not p.startswith(("Slip: ", "Source: ")) and not is_table(p)]

    @property
    def slips(self) -> list[str]:
        return self._find_paragraphs("Slip: ")

    @property
    def sources(self) -> list[str]:
        return self._find_paragraphs("Source: ")

    def _find_paragraphs(self, word: str) -> list[str]:
        return [" ".join(p.removeprefix(word).split()) for p in self.paragraphs if p.startswith(word)]


def load_options(group: str) -> Iterator[Option]:
    """Load all options of a group, in listing order."""
    return (load_option(group, name) for name in groups.list_option_names(group))


def load_common_paragraphs(group: str) -> tuple[str, ...]:
    """Return the paragraphs about all options of a sweep group; none for a group of a run."""
    from hydra.utils import get_object

    return _paragraphs(get_object(groups.SWEEP_GROUPS[group])) if group in groups.SWEEP_GROUPS else ()


def load_option(group: str, name: str) -> Option:
    """Load one option; its target is imported."""
    import yaml

    file = groups.CONF / group / f"{name}.yaml"
    what, source = read_header_comments(file)
    if group in groups.SWEEP_GROUPS:
        return _load_sweep_option(group, name, what, source)
    content: dict[str, Any] = yaml.safe_load(file.read_text()) or {}
    if group == groups.PRESETS:
        return Option(group, name, what, source, (), (), ())
    chosen = tuple(f"{other}={its}" for other, its in parse_group_overrides(content))
    inside = parse_nested_defaults({"defaults": content.pop("defaults", ())})
    node, prefix = content, group
    if "_target_" not in content and len(content) == 1:
        (key,) = content
        node, prefix = content[key], f"{group}.{key}"
    target = node.get("_target_", "???")
    if target == "???":
        return Option(group, name, what, source, (), (), chosen)

    from hydra.utils import get_object

    found = get_object(target)
    keys = list(_iter_keys(found, {k: v for k, v in node.items() if k not in groups.supplied_arguments(group)}, prefix))
    meanings = _read_meanings(found)
    keys += [
        OptionKey(f"{prefix}.{key}", default, f"an option of {other}", meanings.get(key, ""))
        for key, (other, default) in inside.items()
    ]
    return Option(group, name, what, source, _paragraphs(found), tuple(keys), chosen)


def _load_sweep_option(group: str, name: str, what: str, source: str) -> Option:
    """Load an option of a sweep. Its target is a plugin that takes any key, so a class of its name documents it."""
    from hydra.utils import get_object

    found = get_object(f"{groups.SWEEP_GROUPS[group].rpartition('.')[0]}.{name.capitalize()}")
    keys = _iter_keys(found, StaticConfig({}).read_option(group, name), to_key_prefix(group))
    return Option(group, name, what, source, _paragraphs(found), tuple(keys), ())


def _iter_keys(target: Any, node: Mapping[str, Any], prefix: str) -> Iterator[OptionKey]:
    """Yield the keys of a node, and those of the dataclasses inside it."""
    hints, meanings = read_signature(target).parameters, _read_meanings(target)
    for key, value in node.items():
        hint = hints[key].hint if key in hints else None
        if key in ("_target_", "defaults"):
            continue
        if dataclasses.is_dataclass(hint):
            yield from _iter_keys(hint, value, f"{prefix}.{key}")
            continue
        default = value if isinstance(value, str) else format_value(value)
        yield OptionKey(f"{prefix}.{key}", default, describe(hint) if key in hints else "", meanings.get(key, ""))


def _paragraphs(target: Any) -> tuple[str, ...]:
    return tuple((inspect.getdoc(target) or "").split("\n\n"))


def read_header_comments(file: Path) -> tuple[str, str]:
    """Return the first two comments of an option's file: its summary and its source."""
    comments = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
    comments = [c for c in comments if not c.startswith("@package")]
    return comments[0], comments[1]


def parse_key_line(line: str) -> tuple[str, str] | None:
    """Return the key and the first words of its meaning, if a docstring line starts a table entry."""
    found = re.match(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
    return (found[1], found[2]) if found else None


def is_table(paragraph: str) -> bool:
    """Whether a docstring paragraph is a table of keys and meanings."""
    lines = paragraph.splitlines() or [""]
    return parse_key_line(lines[0]) is not None and all(parse_key_line(line) or line.startswith("  ") for line in lines)


def _read_meanings(target: Any) -> Mapping[str, str]:
    """Return the meaning of each key, from the docstring tables of a target and of its base classes."""
    found: dict[str, str] = {}
    for base in reversed(inspect.getmro(target) if inspect.isclass(target) else (target,)):
        for paragraph in filter(is_table, (inspect.cleandoc(base.__doc__ or "")).split("\n\n")):
            found |= _parse_table(paragraph.splitlines())
    return found


def _parse_table(lines: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        if (begun := parse_key_line(line)) is not None:
            names = begun[0].split(", ")
            found |= dict.fromkeys(names, begun[1])
        else:
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found
