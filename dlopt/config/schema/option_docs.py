"""Read the documentation of an option from its file and from the docstring of its target."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import takewhile
from typing import Any

from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import PARAMETER_GROUPS, SCHEDULES, parse_nested_defaults
from dlopt.config.compose.static_config import StaticConfig, parse_group_overrides, to_key_prefix
from dlopt.config.problems import Problems
from dlopt.config.schema import targets
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

    summary      first comment of its file; a user's file may lack it
    source       second comment of its file; `-` if there is none
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
        return [slip[0].upper() + slip[1:] for slip in self._find_paragraphs("Slip: ")]

    @property
    def sources(self) -> list[str]:
        return self._find_paragraphs("Source: ")

    def _find_paragraphs(self, word: str) -> list[str]:
        return [" ".join(p.removeprefix(word).split()) for p in self.paragraphs if p.startswith(word)]


def load_common_paragraphs(group: str) -> tuple[str, ...]:
    """Return the paragraphs about all options of a sweep group; none for a group of a run."""
    from hydra.utils import get_object

    return _paragraphs(get_object(groups.SWEEP_GROUPS[group])) if group in groups.SWEEP_GROUPS else ()


def load_option(group: str, name: str, config: StaticConfig) -> Option:
    """Load one option of these folders; its target is imported. Raises ConfigError if that fails."""
    from hydra.utils import get_object

    summary, source = read_header_comments(config, group, name)
    content = dict(config.read_option(group, name))
    if group in groups.SWEEP_GROUPS:  # the target is a plugin that takes any key: a class of this name documents it
        cls = get_object(f"{groups.SWEEP_GROUPS[group].rpartition('.')[0]}.{name.capitalize()}")
        sweep_keys = _iter_keys(cls, content, to_key_prefix(group))
        return Option(group, name, summary, source, _paragraphs(cls), tuple(sweep_keys), ())
    if group == groups.PRESETS:
        return Option(group, name, summary, source, (), (), ())
    companions = tuple(f"{other}={option}" for other, option in parse_group_overrides(content))
    nested = parse_nested_defaults({"defaults": content.pop("defaults", ())})
    node, prefix = content, group
    if "_target_" not in content and len(content) == 1:
        (key,) = content
        node, prefix = content[key], f"{group}.{key}"
    target = node.get("_target_", "???")
    if target == "???":
        return Option(group, name, summary, source, (), (), companions)
    problems = Problems()
    cls = targets.resolve(prefix, node, problems)
    problems.raise_if_any()
    meanings, supplied = _read_meanings(cls), groups.supplied_arguments(group)
    keys = list(_iter_keys(cls, {k: v for k, v in node.items() if k not in supplied}, prefix))
    for key, (other, default) in nested.items():
        keys.append(OptionKey(f"{prefix}.{key}", default, f"an option of {other}", meanings.get(key, "")))
    return Option(group, name, summary, source, _paragraphs(cls), tuple(keys), companions)


SCHEDULES_PARAGRAPHS = (
    "schedules.NAME=OPTION lets another hyperparameter than lr follow an option of the group schedule: at each step it "
    "is the configured value times the factor of the schedule.",
    "NAME is a hyperparameter of the optimizer, such as momentum; a regularization, such as l2, for its strength; or a "
    "hyperparameter of one, such as dropout.p. Keys of the schedule follow it: schedules.momentum.start=0.5.",
)
"""The description of `schedules`, which has no class."""


def load_settings() -> list[Option]:
    """Return the keys outside the groups as options: first those at the top, then each node with its own keys."""
    from dlopt.config.parameter_groups import ParameterGroup
    from dlopt.training.experiment import Settings

    content = StaticConfig({}).primary
    nodes = {
        name: p.hint for name, p in read_signature(Settings).parameters.items() if dataclasses.is_dataclass(p.hint)
    }
    names = [name for name in read_signature(Settings).parameters if name not in nodes]

    def make(name: str, target: Any, node: Mapping[str, Any], prefix: str) -> Option:
        summary, *paragraphs = _paragraphs(target)
        keys = tuple(_iter_keys(target, node, prefix))
        return Option(groups.SETTINGS, name, " ".join(summary.split()), "-", tuple(paragraphs), keys, ())

    top = make("run", Settings, {name: content[name] for name in names}, "")
    summary = "Schedules of other hyperparameters than the learning rate."
    schedules = Option(groups.SETTINGS, SCHEDULES, summary, "-", SCHEDULES_PARAGRAPHS, (), ())
    others = [make(name, cls, content[name], name) for name, cls in nodes.items()]
    keys = {field.name: None for field in dataclasses.fields(ParameterGroup)}
    groups_of_parameters = make(PARAMETER_GROUPS, ParameterGroup, keys, f"{PARAMETER_GROUPS}.NAME")
    return [top, *others, schedules, groups_of_parameters]


def _iter_keys(target: Any, node: Mapping[str, Any], prefix: str) -> Iterator[OptionKey]:
    """Yield the keys of a node, and the keys of the dataclasses inside it."""
    hints, meanings = read_signature(target).parameters, _read_meanings(target)
    for key, value in node.items():
        hint = hints[key].hint if key in hints else None
        if key in ("_target_", "defaults"):
            continue
        if dataclasses.is_dataclass(hint):
            yield from _iter_keys(hint, value, f"{prefix}.{key}")
            continue
        default = value if isinstance(value, str) else format_value(value)
        yield OptionKey(
            f"{prefix}.{key}" if prefix else key, default, describe(hint) if key in hints else "", meanings.get(key, "")
        )


def _paragraphs(target: Any) -> tuple[str, ...]:
    """Return the paragraphs of a target's own docstring; a dataclass without one is given its signature instead."""
    doc = inspect.cleandoc(target.__doc__ or "")
    return () if not doc or doc.startswith(f"{target.__name__}(") else tuple(doc.split("\n\n"))


def read_header_comments(config: StaticConfig, group: str, name: str) -> tuple[str, str]:
    """Return the first two comments of an option's file: its summary and its source, `-` if there is none."""
    file = config.find_file(group, name)
    header = takewhile(lambda line: line.startswith("#"), [] if file is None else file.read_text().splitlines())
    summary, source, *_ = *(line[1:].strip() for line in header if "@package" not in line), "", "-"
    return summary, source or "-"


def parse_key_line(line: str) -> tuple[str, str] | None:
    """Return the key and the first words of its meaning, if a docstring line starts a table entry."""
    match = re.match(r"(\w+(?:, \w+)*) {2,}(\S.*)", line)
    return (match[1], match[2]) if match else None


def is_table(paragraph: str) -> bool:
    """Return whether a docstring paragraph is a table of keys and meanings."""
    lines = paragraph.splitlines() or [""]
    return parse_key_line(lines[0]) is not None and all(parse_key_line(line) or line.startswith("  ") for line in lines)


def _read_meanings(target: Any) -> Mapping[str, str]:
    """Return the meaning of each key, from the docstring tables of a target and of its base classes."""
    meanings: dict[str, str] = {}
    names: list[str] = []
    for base in reversed(inspect.getmro(target) if inspect.isclass(target) else (target,)):
        tables = filter(is_table, (inspect.cleandoc(base.__doc__ or "")).split("\n\n"))
        for line in "\n".join(tables).splitlines():
            if (entry := parse_key_line(line)) is not None:
                names = entry[0].split(", ")
                meanings |= dict.fromkeys(names, entry[1])
            else:
                meanings |= {name: f"{meanings[name]} {line.strip()}" for name in names}
    return meanings
