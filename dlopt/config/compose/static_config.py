"""Read groups, options, keys and their values from the YAML files, without Hydra.

Tab completion uses it, which must answer within a tenth of a second.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from dlopt.config.compose import groups as compose_groups
from dlopt.config.compose.nested_options import PARAMETER_GROUPS, PARAMETER_KINDS, SCHEDULES, parse_nested_defaults
from dlopt.formatting import format_override, split_outside_brackets
from dlopt.storage import regular_file, safe_read

SETTINGS_TARGET = "dlopt.training.experiment.Settings"
"""The dataclass of the settings that belong to no group."""
PARAMETER_GROUP_TARGET = "dlopt.config.parameter_groups.ParameterGroup"
"""The dataclass of a parameter group."""


class StaticConfig:
    """The configuration files that a command line selects.

    overrides     values of the typed overrides, by key
    folders       folders of options: first dlopt's, then the user's, which cannot replace them
    read_option   returns the content of an option's file, merged over the options of its group that it extends
    """

    def __init__(self, overrides: Mapping[str, str], folders: Sequence[Path] = ()) -> None:
        self.overrides = overrides
        self.folders = [compose_groups.CONF, *filter(Path.is_dir, folders)]
        self.read_option = cache(self._read_option)

    @cached_property
    def primary(self) -> dict[str, Any]:
        """Return the content of config.yaml."""
        return read_yaml_or_empty(compose_groups.CONF / "config.yaml")

    def list_all_groups(self) -> list[str]:
        """Return the groups of a run, also those inside options of others, then the groups of a sweep."""
        groups = {group for folder in self.folders for group in compose_groups.list_groups(folder)}
        return [*sorted(groups), *compose_groups.SWEEP_GROUPS]

    def list_groups(self) -> list[str]:
        """Return the groups that a command can choose from, of a run and of a sweep."""
        nested = compose_groups.select_groups("nested")
        return [group for group in self.list_all_groups() if group not in nested]

    def list_options(self, group: str) -> list[str]:
        """Return the options of a group in all folders."""
        names = (name for folder in self.folders for name in compose_groups.list_option_names(group, folder))
        return list(dict.fromkeys(names))

    def find_file(self, group: str, option: str) -> Path | None:
        """Return the file of an option; None if there is none."""
        if "/" in option:  # a file of another folder
            return None
        files = (folder / group / f"{option}.yaml" for folder in self.folders)
        return next(filter(Path.is_file, files), None)

    def default_options(self) -> dict[str, str]:
        """Return the default option of each group; a list as it would be typed."""
        entries = [e for e in self.primary.get("defaults", ()) if isinstance(e, dict)]
        pairs = [pair for entry in entries for pair in entry.items()]
        return {name.removeprefix("override "): format_override(option) for name, option in pairs}

    @cached_property
    def choices(self) -> dict[str, str]:
        """Return the option of each group: from the command line, an experiment, another option, or the default.

        As in Hydra, the choices of a later group in config.yaml win over the choices of an earlier one.
        """
        defaults = self.default_options()
        choices = {group: option for group, option in self.overrides.items() if "." not in group}
        for group in reversed(defaults):
            alternatives = split_alternatives(choices.get(group, defaults[group]))
            if len(alternatives) == 1:  # else the runs of a sweep differ in it
                for option in alternatives[0]:
                    for other_group, other_option in parse_group_overrides(self.read_option(group, option)):
                        choices.setdefault(other_group, other_option)
        return defaults | choices

    def _read_option(self, group: str, option: str) -> dict[str, Any]:
        file = self.find_file(group, option)
        content = read_yaml_or_empty(file) if file else {}
        for entry in content.get("defaults", ()):
            if isinstance(entry, str) and entry not in ("_self_", option):
                content = self.read_option(group, entry) | content
        return content

    def keys(self, top: str = "") -> dict[str, Any]:
        """Return the dotted keys of a group, or of Hydra, with their values; for any other name the plain settings.

        If a sweep chooses several options, the keys of all: a key applies to the options that have it.
        """
        if top == "hydra":
            return dict(flatten({top: self.primary.get(top, {})})) | self._sweep_keys()
        if top == SCHEDULES:
            return self._schedule_keys()
        if top == PARAMETER_GROUPS:
            return self._parameter_group_keys()
        if top not in self.list_groups():
            keys = dict(flatten({k: v for k, v in self.primary.items() if k not in ("defaults", "hydra")}))
        else:
            keys = {}
            for option in self._list_chosen(top):
                keys |= {key: value for key, value in self._option_keys(top, option) if key not in keys}
        experiment = self.read_option(compose_groups.PRESETS, self.overrides.get(compose_groups.PRESETS, ""))
        return keys | {k: v for k, v in flatten(experiment) if k in keys}

    def find_keys(self, last: str) -> list[str]:
        """Return the keys of a run whose last part has this name."""
        tops = [top for top in ("", *self.list_groups()) if top not in compose_groups.SWEEP_GROUPS]
        keys = dict.fromkeys(key for top in tops for key in self.keys(top))
        return [key for key in keys if key.rpartition(".")[2] == last]

    def _sweep_keys(self) -> dict[str, Any]:
        """Return the keys of the chosen sweeper and launcher."""
        keys: dict[str, Any] = {}
        for group in compose_groups.SWEEP_GROUPS:
            keys |= self._flatten_option(to_key_prefix(group), group, self.choices.get(group, ""))
        return keys

    def _flatten_option(self, prefix: str, group: str, option: str) -> dict[str, Any]:
        """Return the keys of an option's file with their values, as they stand below a prefix."""
        content = self.read_option(group, option)
        return dict(flatten({k: v for k, v in content.items() if k != "defaults"}, f"{prefix}."))

    def _schedule_keys(self) -> dict[str, Any]:
        """Return the hyperparameters that a schedule can change, and the keys of the typed schedules."""
        hyperparameters = {key.rpartition(".")[2]: value for key, value in self.keys("optimizer").items()}
        regularization = self.keys("regularization")
        for key, value in regularization.items():
            if f"{key.rpartition('.')[0]}.monitor" not in regularization:  # one that monitors a metric acts on no step
                hyperparameters[key.partition(".")[2].removesuffix(".strength")] = value
        numbers = [name for name, value in hyperparameters.items() if _is_float(value) and name != "lr"]
        keys: dict[str, Any] = {f"{SCHEDULES}.{name}": None for name in numbers}
        for key, option in self.overrides.items():
            if key.startswith(f"{SCHEDULES}.") and self.read_option("schedule", option):
                keys |= {key: option, **self._flatten_option(key, "schedule", option)}
                nested = self._nested_options("schedule", option)
                keys |= {f"{key}.{name}": default for name, (_, default) in nested.items()}
        return keys

    def _parameter_group_keys(self) -> dict[str, Any]:
        """Return the keys of a parameter group of each kind, and of the typed groups."""
        from dlopt.config.schema.static_hints import read_fields

        prefix = f"{PARAMETER_GROUPS}."
        typed = [key.removeprefix(prefix).partition(".")[0] for key in self.overrides if key.startswith(prefix)]
        names = [name for name in dict.fromkeys([*typed, *PARAMETER_KINDS]) if name]
        return {f"{prefix}{name}.{key}": None for name in names for key in read_fields(PARAMETER_GROUP_TARGET)}

    def _option_keys(self, top: str, option: str) -> Iterator[tuple[str, Any]]:
        """Yield the keys of an option, and of the options inside it."""
        yield from self._flatten_option(top, top, option).items()
        for key, (group, default) in self._nested_options(top, option).items():
            inner = self.overrides.get(f"{top}.{key}", default)
            yield f"{top}.{key}", inner
            if len(split_alternatives(inner)) == 1:
                yield from self._flatten_option(f"{top}.{key}", group, inner).items()

    def _nested_options(self, top: str, option: str) -> dict[str, tuple[str, str]]:
        """Return the keys of an option that hold a further option, with its group and the default."""
        return parse_nested_defaults(self.read_option(top, option))

    def nested_keys(self, top: str) -> dict[str, str]:
        """Return the keys at which a group's chosen options hold further ones, with their defaults."""
        nested = [self._nested_options(top, option) for option in self._list_chosen(top)]
        return {f"{top}.{key}": default for options in nested for key, (_, default) in options.items()}

    def _list_chosen(self, group: str) -> list[str]:
        """Return every option of a group that a run, or any run of a sweep, has."""
        return [option for options in split_alternatives(self.choices.get(group, "")) for option in options]

    def find_group(self, key: str) -> str | None:
        """Return the group whose options a key takes: the key itself, or the group of an option inside an option."""
        if key in self.list_groups():
            return key
        top, _, name = key.partition(".")
        if top == SCHEDULES and name:
            above, _, last = key.rpartition(".")
            option = self.overrides.get(above)
            return "schedule" if option is None or last in self._nested_options("schedule", option) else None
        nested = (self._nested_options(top, option) for option in self._list_chosen(top))
        return next((options[name][0] for options in nested if name in options), None)

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
        if key.startswith(f"{PARAMETER_GROUPS}."):
            return PARAMETER_GROUP_TARGET, [key.rpartition(".")[2]]
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
        """Return the values to offer after `key=`: its present value, and the words that its type allows."""
        from dlopt.config.schema.static_hints import list_allowed_values

        keys = self.keys(key.partition(".")[0])
        allowed = list_allowed_values(*self.find_target(key, keys))
        present = [format_override(keys[key])] if key in keys else []
        # A value with ~ would have to be quoted twice, for the shell and for Hydra, and is not offered.
        words = (w for w in (*present, *allowed) if w and "${" not in w and "~" not in w and w != "???")
        return list(dict.fromkeys(words))


def to_key_prefix(group: str) -> str:
    """Return the prefix of a group's keys: hydra.sweeper for hydra/sweeper."""
    return group.replace("/", ".")


def read_yaml_or_empty(file: Path) -> dict[str, Any]:
    """Return a YAML file's content; empty if it cannot be read, or is too large to be read quickly."""
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


def split_alternatives(text: str) -> list[list[str]]:
    """Return a group's options in each run of a sweep: `none,[l2,dropout]` is [[none], [l2, dropout]]."""
    return [[option.strip() for option in one.strip("[]").split(",")] for one in split_outside_brackets(text)]


def _is_float(value: Any) -> bool:
    """Return whether a value is a float; YAML reads 1e-4 as text."""
    return isinstance(value, float) or re.fullmatch(r"\d+(\.\d*)?e-?\d+", str(value)) is not None


def parse_group_overrides(content: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the options of other groups that an option chooses: `override /loss@_global_.loss: mse`."""
    for entry in content.get("defaults", ()):
        for key, option in entry.items() if isinstance(entry, dict) else ():
            if str(key).startswith("override "):
                yield str(key).removeprefix("override ").strip(" /").partition("@")[0], format_override(option)
