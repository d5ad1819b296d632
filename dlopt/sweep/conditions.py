"""Find the keys of a sweep that some options of an axis have and others lack."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import from_hydra
from dlopt.config.compose.static_config import StaticConfig
from dlopt.sweep.axis import Choice
from dlopt.sweep.compose import Composer
from dlopt.sweep.space import Condition, Space


def add_conditions(space: Space, folders: Sequence[Path], composer: Composer) -> Space:
    """Return a space in which the keys that some options of an axis lack apply to the other options only.

    A key that no option has stays a key of every run, and is refused when the runs are checked.

    folders: of options, the user's included
    """
    names = {name for folder in folders for name in groups.list_groups(folder)}
    choices = {from_hydra(a.key): a for a in space.axes if isinstance(a, Choice) and _is_choice(a.key, names)}
    if not choices:
        return space

    @cache
    def read_keys(overrides: tuple[str, ...], top: str) -> list[str]:
        """Return the keys of a group as its options' files state them."""
        typed = dict(from_hydra(override).lstrip("+").partition("=")[::2] for override in overrides)
        return list(StaticConfig(typed, folders[1:]).keys(top))

    def has_key(key: str, point: Sequence[Any]) -> bool:
        """Return whether the runs with the options of a point have a key: by the files, else as Hydra composes them."""
        typed = {from_hydra(o).lstrip("+").partition("=")[0]: o for o in space.overrides(point)}
        above = [k for k in typed if "." not in k or key.startswith(f"{k}.")]
        overrides = tuple(typed[k] for k in above if _is_choice(typed[k].partition("=")[0], names))
        stated = read_keys(overrides, key.partition(".")[0])
        return any(f"{k}.".startswith(f"{key}.") for k in stated) or _is_composed(key, overrides, composer)

    for key in sorted(_list_inner_keys(space), key=lambda key: key.count(".")):  # a choice before the keys below it
        for among in _list_deciding_choices(key, choices, space):
            found = []
            for parent in among:
                having = [v for v in choices[parent].values if has_key(key, space.point_with({parent: v}))]
                if 0 < len(having) < choices[parent].size:
                    found.append(Condition(key, parent, tuple(sorted(having))))
            if found:
                # Of a key that depends on several axes, the run that lacks it is refused.
                space = replace(space, conditions=(*space.conditions, *found[: len(found) == 1]))
                break
    return space


def _is_choice(key: str, names: set[str]) -> bool:
    """Return whether a key, in Hydra's form, holds an option of a group, or of the group of an inner option."""
    return "@" in key or key.lstrip("+") in names


def _list_inner_keys(space: Space) -> list[str]:
    """Return the keys below others that a run must have; a plus adds a key, and a tilde removes one."""
    keys = [*(axis.key for axis in space.axes), *(o.partition("=")[0] for o in space.fixed_overrides)]
    return [from_hydra(key) for key in keys if "." in key and not key.startswith(("+", "~"))]


def _list_deciding_choices(key: str, choices: Mapping[str, Choice], space: Space) -> Iterator[list[str]]:
    """Yield the axes whose options can decide whether a run has a key: first those nearest to it.

    If no override chooses the option of its group, the options of other groups may, such as those of an experiment.
    """
    above = [parent for parent in choices if key.startswith(f"{parent}.")]
    yield from ([parent] for parent in sorted(above, key=len, reverse=True))
    top = key.partition(".")[0]
    if not any(from_hydra(o).lstrip("+").partition("=")[0] == top for o in (*choices, *space.fixed_overrides)):
        yield [parent for parent in choices if "." not in parent]


def _is_composed(key: str, overrides: Sequence[str], composer: Composer) -> bool:
    """Return whether Hydra composes a configuration with a key; also if it cannot compose one, which is refused later.

    An experiment can set keys that the file of an option lacks, and an option can extend others.
    """
    from hydra.errors import HydraException

    try:
        node: Any = composer.compose_job(Path(), overrides, 0).config
    except (HydraException, ValueError):
        return True
    for name in key.split("."):
        if isinstance(node, list) and name.isdecimal() and int(name) < len(node):
            node = node[int(name)]
        elif isinstance(node, Mapping) and name in node:
            node = node[name]
        else:
            return False
    return True
