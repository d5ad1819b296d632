"""What an option says of itself, in its file and in the docstring of what that names."""

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
    """A key as it is typed, its default, what it may be, and what it means."""

    name: str
    default: str
    range: str
    meaning: str


@dataclass(frozen=True)
class Option:
    """An option of a group.

    what and source are the first two comments of its file; paragraphs are those of the docstring, each with its own
    lines: `text` without the table of keys, slips and sources. slips say where a lecture is wrong about it. chosen are
    the options of other groups that go with it.
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
    """All of a group, in the order in which they are listed."""
    return (load_option(group, name) for name in groups.list_option_names(group))


def load_common_paragraphs(group: str) -> tuple[str, ...]:
    """The paragraphs about all options of a group of a search; none for a group of a run."""
    from hydra.utils import get_object

    return _paragraphs(get_object(groups.SWEEP_GROUPS[group])) if group in groups.SWEEP_GROUPS else ()


def load_option(group: str, name: str) -> Option:
    """One of them; what it names is imported."""
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
    """An option of a search, which a class of its name speaks for: what it names is a plugin, which takes any key."""
    from hydra.utils import get_object

    found = get_object(f"{groups.SWEEP_GROUPS[group].rpartition('.')[0]}.{name.capitalize()}")
    keys = _iter_keys(found, StaticConfig({}).read_option(group, name), to_key_prefix(group))
    return Option(group, name, what, source, _paragraphs(found), tuple(keys), ())


def _iter_keys(target: Any, node: Mapping[str, Any], prefix: str) -> Iterator[OptionKey]:
    """The keys of a node that a target takes, and those of the dataclasses that it holds."""
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
    """The first two comments of an option's file: what it is, and its source."""
    comments = [line[1:].strip() for line in file.read_text().splitlines() if line.startswith("#")]
    comments = [c for c in comments if not c.startswith("@package")]
    return comments[0], comments[1]


def parse_key_line(line: str) -> tuple[str, str] | None:
    """A key and the beginning of its meaning, where a line of a docstring begins one."""
    found = re.match(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
    return (found[1], found[2]) if found else None


def is_table(paragraph: str) -> bool:
    """Whether a paragraph of a docstring says what keys mean, one to a line."""
    lines = paragraph.splitlines() or [""]
    return parse_key_line(lines[0]) is not None and all(parse_key_line(line) or line.startswith("  ") for line in lines)


def _read_meanings(target: Any) -> Mapping[str, str]:
    """What the tables in the docstrings of a target, and of what it inherits from, say of each key."""
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
