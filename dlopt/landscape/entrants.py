"""The entrants of a race: one checked experiment for each optimizer, all on the same surface."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from dlopt.config.build import build
from dlopt.config.compose import groups, nested_options
from dlopt.config.compose.hydra_app import HydraApp
from dlopt.config.compose.hydra_errors import explain
from dlopt.config.compose.plain import to_plain
from dlopt.config.compose.static_config import StaticConfig, parse_group_overrides
from dlopt.config.problems import ConfigError
from dlopt.landscape.arguments import RaceArguments
from dlopt.training.experiment import Experiment

NODE = "race"
"""The node below which the optimizers lie if they are composed together."""


def build_entrants(arguments: RaceArguments, flags: Sequence[str]) -> tuple[dict[str, Experiment], list[str]]:
    """Compose and check the run of each optimizer, as `dlopt train` does; return them by name, with notices.

    flags are those of Hydra, such as --config-dir. Raises ConfigError with all problems, at the keys of the race.
    """
    configs = _compose_together(arguments, flags)
    entrants, problems, notices = {}, [], []
    for name in arguments.optimizers:
        overrides = arguments.list_overrides(name)
        try:
            config = configs[name] if configs else _compose([*flags, *overrides])
            entrants[name], notes = build(config, overrides)
        except ConfigError as error:
            problems += [_rename(*problem, name) for problem in error.problems]
            continue
        notices += [note for note in notes if note not in notices]
        if entrants[name].settings.steps is None:
            problems.append(("steps", "must be a whole number >= 1, got null"))
    if problems:
        raise ConfigError(problems)
    return entrants, notices


def _compose_together(arguments: RaceArguments, flags: Sequence[str]) -> dict[str, Any]:
    """Return the configuration of each optimizer by its name, from one call of Hydra, which takes 0.2 s.

    Return nothing if that is refused, or if an optimizer chooses options of other groups: then each is composed alone.
    """
    from hydra.errors import HydraException

    names = arguments.optimizers
    options = [f"+optimizer@{NODE}.{name}={option}" for name, option in names.items()]
    argv = [*flags, *arguments.common, *options]
    try:
        folders = [groups.CONF, *HydraApp(flags).folders]
        read_option = StaticConfig({}, folders[1:]).read_option
        if any(list(parse_group_overrides(read_option("optimizer", option))) for option in names.values()):
            return {}
        for name in names:
            own = (nested_options.to_hydra(override, folders) for override in arguments.own[name])
            argv += [re.sub(r"^(\+*|.*@)optimizer\.", rf"\1{NODE}.{name}.", override) for override in own]
        with HydraApp(argv) as app:
            tree = to_plain(app.compose(multirun=False))
    except (ConfigError, HydraException, ValueError):
        return {}
    optimizers = tree.pop(NODE)
    return {name: {**tree, "optimizer": optimizers[name]} for name in names}


def _compose(argv: Sequence[str]) -> Any:
    """Return the configuration of a command line. Raises ConfigError with all problems."""
    from hydra.errors import HydraException

    try:
        with HydraApp(argv) as app:
            return app.compose(multirun=False)
    except (HydraException, ValueError) as error:
        raise ConfigError(explain(argv, error)) from error


def _rename(key: str, message: str, optimizer: str) -> tuple[str, str]:
    """Return a problem at the keys of `dlopt train` as one at the keys of the race."""
    top, dot, name = key.partition(".")
    message = message.replace("optimizer.", f"{optimizer}.").replace("arch.", "surface.")
    if top == "optimizer":
        return (f"{optimizer}.{name}", message) if dot else ("optimizer", f"{optimizer}: {message}")
    if key == "steps":
        message = message.replace(" or null", "")
    if key in ("arch.start", "arch.function"):
        return {"arch.start": "start", "arch.function": "surface"}[key], message
    return (f"surface{dot}{name}" if top == "arch" else key), message
