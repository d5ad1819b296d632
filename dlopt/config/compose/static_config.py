"""Read groups, options, keys and their values from the YAML files, without Hydra.

Tab completion uses it, which must answer within a tenth of a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import SCHEDULES, parse_nested_defaults
from dlopt.formatting import format_override
from dlopt.storage import regular_file, safe_read

SETTINGS_TARGET = "dlopt.training.experiment.Settings"
"""The dataclass of the settings that belong to no group."""


class StaticConfig:
    """The configuration files that a command line selects.

    overrides   values of the typed overrides, by key
    folders     folders of options: ours, then the user's, which cannot replace ours
    """

    def __init__(self, typed: Mapping[str, str], folders: Sequence[Path] = ()) -> None:
        self.overrides = typed
        self.folders = [compose_groups.CONF, *filter(Path.is_dir, folders)]
        self._content_cache: dict[tuple[str, str], dict[str, Any]] = {}

    @cached_property
    def primary(self) -> dict[str, Any]:
        """The content of config.yaml."""
        return read_yaml_or_empty(compose_groups.CONF / "config.yaml")

    def list_groups(self) -> list[str]:
        """Return the groups of a run, then those of a sweep."""
        return [
            *sorted({group for folder in self.folders for group in compose_groups.list_groups(folder)}),
            *compose_groups.SWEEP_GROUPS,
        ]

    def list_options(self, group: str) -> list[str]:
        """Return the options of a group in all folders."""
        return list(
            dict.fromkeys(
                option for folder in self.folders for option in compose_groups.list_option_names(group, folder)
            )
        )

    def default_options(self) -> dict[str, str]:
        """Return the default option of each group; a list as it would be typed."""
        entries = [e for e in self.primary.get("defaults", ()) if isinstance(e, dict)]
        own = [(name.removeprefix("override "), option) for entry in entries for name, option in entry.items()]
        return {group: format_override(option) for group, option in own}

    @cached_property
    def choices(self) -> dict[str, str]:
        """The option of each group: from the command line, an experiment, another option, or the default.

        As in Hydra, the choices of a later group in config.yaml win over those of an earlier one.
        """
        defaults = self.default_options()
        found = {group: option for group, option in self.overrides.items() if "." not in group}
        for group in reversed(defaults):
            several = split_alternatives(found.get(group, defaults[group]))
            if len(several) == 1:  # else the runs of a sweep differ in it
                for option in several[0]:
                    for other, its in parse_group_overrides(self.read_option(group, option)):
                        found.setdefault(other, its)
        return defaults | found

    def read_option(self, group: str, option: str) -> dict[str, Any]:
        """Return the content of an option's file, merged over the options of its group that it extends."""
        if (group, option) not in self._content_cache:
            self._content_cache[group, option] = self._read_option(group, option)
        return self._content_cache[group, option]

    def _read_option(self, group: str, option: str) -> dict[str, Any]:
        if "/" in option:  # a file of another folder
            return {}
        for file in [folder / group / f"{option}.yaml" for folder in self.folders]:
            if file.is_file():
                own = read_yaml_or_empty(file)
                builds_on = [e for e in own.get("defaults", ()) if isinstance(e, str) and e not in ("_self_", option)]
                for name in builds_on:
                    own = read_yaml_or_empty(file.with_name(f"{name}.yaml")) | own
                return own
        return {}

    def keys(self, top: str = "") -> dict[str, Any]:
        """Return the dotted keys of a group, or of Hydra, with their values; for any other name the plain settings.

        If a sweep chooses several options, only keys that all of them have: a key is set in every run.
        """
        if top == "hydra":
            return dict(flatten({top: self.primary.get(top, {})})) | self._sweep_keys()
        if top == SCHEDULES:
            return self._schedule_keys()
        if top not in self.list_groups():
            found = dict(flatten({k: v for k, v in self.primary.items() if k not in ("defaults", "hydra")}))
        else:
            several = [
                dict(pair for option in one for pair in self._option_keys(top, option))
                for one in split_alternatives(self.choices.get(top, ""))
            ]
            found = {key: value for key, value in several[0].items() if all(key in one for one in several)}
        experiment = self.overrides.get(compose_groups.PRESETS, "")
        return found | {k: v for k, v in flatten(self.read_option(compose_groups.PRESETS, experiment)) if k in found}

    def _sweep_keys(self) -> dict[str, Any]:
        """Return the keys of the chosen sweeper and launcher."""
        found: dict[str, Any] = {}
        for group in compose_groups.SWEEP_GROUPS:
            found |= flatten(
                _without_defaults(self.read_option(group, self.choices.get(group, ""))), f"{to_key_prefix(group)}."
            )
        return found

    def _schedule_keys(self) -> dict[str, Any]:
        """Return the hyperparameters that a schedule can change, and the keys of the schedules that are typed."""
        of_rule = {key.rpartition(".")[2]: value for key, value in self.keys("optimizer").items()}
        changing = self.keys("regularization")
        of_others = {
            key.partition(".")[2].removesuffix(".strength"): value
            for key, value in changing.items()
            if f"{key.rpartition('.')[0]}.monitor" not in changing  # one that follows a metric has no part in a step
        }
        numbers = [k for k, v in (of_rule | of_others).items() if _is_float(v) and k != "lr"]
        found: dict[str, Any] = {f"{SCHEDULES}.{name}": None for name in numbers}
        for key, option in self.overrides.items():
            if key.startswith(f"{SCHEDULES}.") and self.read_option("schedule", option):
                found[key] = option
                found |= flatten({key: _without_defaults(self.read_option("schedule", option))})
                found |= {
                    f"{key}.{inner}": default
                    for inner, (_, default) in self._nested_options("schedule", option).items()
                }
        return found

    def _option_keys(self, top: str, option: str) -> Iterator[tuple[str, Any]]:
        """Yield the keys of an option, and of the options inside it."""
        yield from flatten({top: _without_defaults(self.read_option(top, option))})
        for key, (group, default) in self._nested_options(top, option).items():
            inner = self.overrides.get(f"{top}.{key}", default)
            yield f"{top}.{key}", inner
            if len(split_alternatives(inner)) == 1:
                yield from flatten({f"{top}.{key}": _without_defaults(self.read_option(group, inner))})

    def _nested_options(self, top: str, option: str) -> dict[str, tuple[str, str]]:
        """Return the keys of an option that hold a further option, with its group and the default."""
        return parse_nested_defaults(self.read_option(top, option))

    def nested_keys(self, top: str) -> dict[str, str]:
        """Return the keys at which a group's chosen options hold further ones, with their defaults."""
        chosen = [option for one in split_alternatives(self.choices.get(top, "")) for option in one]
        return {f"{top}.{key}": default for o in chosen for key, (_, default) in self._nested_options(top, o).items()}

    def find_group(self, key: str) -> str | None:
        """Return the group whose options a key takes: the key itself, or the group of an option inside an option."""
        if key in self.list_groups():
            return key
        top, _, name = key.partition(".")
        if top == SCHEDULES and name:
            above, _, last = key.rpartition(".")
            at = self.overrides.get(above)
            return "schedule" if at is None or last in self._nested_options("schedule", at) else None
        for one in split_alternatives(self.choices.get(top, "")):
            for option in one:
                if name in (inside := self._nested_options(top, option)):
                    return inside[name][0]
        return None

    def list_addable_keys(self, top: str) -> list[str]:
        """Return the parameters of a group's classes that its options do not set; a plus adds them."""
        from dlopt.config.schema.static_hints import read_fields

        keys = self.keys(top)
        nodes = [key.removesuffix("._target_") for key in keys if key.endswith("._target_")]
        return [
            f"{node}.{name}"
            for node in nodes
            for name in read_fields(self.find_target(f"{node}._", keys)[0])
            if not any(key == f"{node}.{name}" or key.startswith(f"{node}.{name}.") for key in keys)
            and name not in compose_groups.supplied_arguments(node)
        ]

    def find_target(self, key: str, keys: Mapping[str, Any]) -> tuple[str, list[str]]:
        """Return the class or function that takes a key, and the names that lead from it to the key."""
        for group, common in compose_groups.SWEEP_GROUPS.items():
            if key.startswith(f"{to_key_prefix(group)}."):
                return common, key.removeprefix(f"{to_key_prefix(group)}.").split(".")
        node, _, name = key.rpartition(".")
        names = [name]
        while node:
            target = self.overrides.get(f"{node}._target_", keys.get(f"{node}._target_"))
            if target:
                return str(target), names
            node, _, name = node.rpartition(".")
            names.insert(0, name)
        return SETTINGS_TARGET, names

    def suggest_values(self, key: str) -> list[str]:
        """Return what may be typed after `key=`: its present value, and the words that its type allows."""
        from dlopt.config.schema.static_hints import list_allowed_values

        keys = self.keys(key.partition(".")[0])
        allowed = list_allowed_values(*self.find_target(key, keys))
        now = [format_override(keys[key])] if key in keys else []
        # A value with ~ would have to be quoted twice, for the shell and for Hydra, and is not offered.
        return list(dict.fromkeys(w for w in (*now, *allowed) if w and "${" not in w and "~" not in w and w != "???"))


def to_key_prefix(group: str) -> str:
    """Return the prefix of a group's keys: hydra.sweeper for hydra/sweeper."""
    return group.replace("/", ".")


def read_yaml_or_empty(file: Path) -> dict[str, Any]:
    """Return a YAML file's content; nothing if there is none, or if it is too large to read quickly."""
    try:
        with regular_file.open_regular_file(file) as stream:
            content = stream.read(safe_read.SMALL + 1)
        return safe_read.parse_yaml(content, file, exponents=False) if len(content) <= safe_read.SMALL else {}
    except (OSError, safe_read.UnreadableFile):
        return {}


def flatten(node: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every value with its dotted key."""
    for name, value in node.items():
        if isinstance(value, dict):
            yield from flatten(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def split_alternatives(typed: str) -> list[list[str]]:
    """Return a group's options in each run of a sweep: `none,[l2,dropout]` is [[none], [l2, dropout]]."""
    found, depth = [""], 0
    for c in typed:
        depth += (c == "[") - (c == "]")
        if c == "," and depth == 0:
            found.append("")
        else:
            found[-1] += c
    return [[option.strip() for option in one.strip("[]").split(",")] for one in found]


def _is_float(value: Any) -> bool:
    """Whether a value is a float; YAML reads 1e-4 as text."""
    return isinstance(value, float) or (
        isinstance(value, str) and re.fullmatch(r"\d+(\.\d*)?e-?\d+", value) is not None
    )


def _without_defaults(content: Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in content.items() if k != "defaults"}


def parse_group_overrides(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the choices of other groups that an option makes: `override /loss@_global_.loss: mse`."""
    for entry in content.get("defaults", ()):
        for key, option in entry.items() if isinstance(entry, dict) else ():
            if str(key).startswith("override "):
                yield str(key).removeprefix("override ").strip(" /").partition("@")[0], format_override(option)
