"""Explain Hydra's errors: what is wrong, at which key, and the nearest right name."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dlopt.config.compose import groups, nested_options
from dlopt.config.compose.hydra_app import HydraApp, put_hydra_aside, set_key
from dlopt.config.compose.static_config import StaticConfig, to_key_prefix
from dlopt.config.problems import ConfigError
from dlopt.config.schema.renamed_keys import KEYS_OF_OTHER_TOOLS, describe_renamed_key, describe_renamed_option
from dlopt.errors import did_you_mean

ConfigProblem = tuple[str, str]
MAX_CANDIDATES = 3
"""Keys that are suggested in place of an unknown one."""


def explain(argv: Sequence[str], error: Exception, *, builds: bool = True) -> list[ConfigProblem]:
    """Return every problem of a command line that Hydra refused to compose.

    Hydra stops at the first problem. So the overrides are tried one by one, choices of options before keys. Those that
    fail are explained and omitted, and the others are checked as before a run, unless `builds` is false.
    """
    from hydra import compose, initialize_config_dir

    app = HydraApp(argv)
    accepted = [f"hydra.searchpath=[file://{folder}]" for folder in app.folders]
    static = StaticConfig({_key(o): o.partition("=")[2] for o in app.overrides}, app.folders)
    problems: list[ConfigProblem] = []
    failed: set[str] = set()

    def try_each(overrides: Iterable[str], accept: Callable[[str], object]) -> None:
        for override in overrides:
            if _is_at_or_below(_key(override), failed):
                continue
            try:
                single = _take_first_value(override) if app.arguments.multirun else override
                accept(single)
                accepted.append(single)
            except Exception as refusal:
                failed.add(_key(override))
                problems.append(_explain_override(override, refusal, static))

    try:
        with put_hydra_aside(), initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
            keys = [o for o in app.overrides if not _is_choice(o, [groups.CONF, *app.folders])]
            choices = [o for o in app.overrides if o not in keys]
            try_each(sorted(choices, key=_depth), lambda override: compose("config", [*accepted, override]))
            config = compose("config", accepted, return_hydra_config=True)
            try_each(keys, lambda override: set_key(config, override))
            if problems and builds:
                from dlopt.config.build import build
                from dlopt.config.compose.plain import to_plain
                from dlopt.config.implied import DataKinds, find_implied

                try:
                    while implied := find_implied(to_plain(config), accepted, DataKinds().find):
                        accepted += implied
                        config = compose("config", accepted)
                    build(compose("config", accepted), accepted)
                except ConfigError as more:
                    problems += [p for p in more.problems if not _is_at_or_below(p[0], failed)]
    except Exception as further:  # even composing again failed: report the error itself
        problems = problems or [locate(further)]
    return problems or [locate(error)]


def to_config_error(argv: Sequence[str], error: Exception, *, builds: bool = True) -> ConfigError:
    """Return the problems of a command that raised an error before anything was started. builds: as for `explain`."""
    from hydra.errors import HydraException

    if isinstance(error, ConfigError):
        return error
    is_refused = isinstance(error, (HydraException, ValueError))  # ValueError: a choice that is not a name
    return ConfigError(explain(argv, error, builds=builds) if is_refused else [locate(error)])


def locate(error: BaseException) -> ConfigProblem:
    """Return the key at which Hydra or OmegaConf met an error, if it says so, and its message."""
    return str(getattr(error, "full_key", None) or ""), format_hydra_error(error)


def _take_first_value(override: str) -> str:
    """Return the override with the first of its values, if it is a sweep: Hydra composes one run at a time."""
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import IntervalSweep
    from hydra.errors import HydraException

    try:
        loader = GlobalHydra.instance().config_loader()
        (parsed,) = OverridesParser.create(config_loader=loader).parse_overrides([override])
        if not parsed.is_sweep_override() or parsed.is_hydra_override():
            return override
        value = parsed.value()
        first = value.start if isinstance(value, IntervalSweep) else next(parsed.sweep_string_iterator())
    except (HydraException, StopIteration):  # reported when it is composed
        return override
    return f"{override.partition('=')[0]}={first}"


def format_hydra_error(error: BaseException) -> str:
    """Return the messages of an error and of its cause, without Hydra's advice to set variables."""
    noise = ("HYDRA_FULL_ERROR", "full_key:", "object_type=", "reference_type=")
    lines = [line for line in str(error).splitlines() if line.strip() and not any(x in line for x in noise)]
    text = " ".join(line.strip() for line in lines[:3]) or type(error).__name__
    cause = error.__cause__
    if cause is not None and str(cause).splitlines()[:1] and str(cause).splitlines()[0] not in text:
        text += f" ({str(cause).splitlines()[0]})"
    return text


def _key(override: str) -> str:
    return nested_options.from_hydra(override.lstrip("+~")).partition("=")[0]


def _is_nested_choice(override: str) -> bool:
    """Return whether an override chooses an option inside an option, as schedule@schedule.then=cosine does."""
    return "@" in override.partition("=")[0]


def _is_choice(override: str, folders: Iterable[Path]) -> bool:
    """Return whether an override may choose an option of a group; the others set keys."""
    name = override.lstrip("+~").partition("=")[0]
    return "/" in name or "@" in name or any((folder / name).is_dir() for folder in folders)


def _depth(override: str) -> int:
    """Return how many options lie around the chosen one."""
    return 1 + _key(override).count(".") if _is_nested_choice(override) else 0


def _is_at_or_below(key: str, others: Iterable[str]) -> bool:
    """Return whether a key is one of the others or below one."""
    return any(key == other or key.startswith(f"{other}.") for other in others)


def _explain_override(override: str, error: Exception, static: StaticConfig) -> ConfigProblem:
    """Explain one refused override."""
    from hydra.errors import MissingConfigException, OverrideParseException
    from omegaconf.errors import ConfigAttributeError, ConfigKeyError

    key, _, value = _key(override), *override.partition("=")[1:]
    text = str(error)
    cause: Any = error.__cause__
    if isinstance(error, OverrideParseException) or "Error parsing override" in text:
        if "=" not in override:
            return override, "is not a setting: write GROUP=OPTION or KEY=VALUE"
        if not value.startswith(("'", '"', "[", "{")) and ("=" in value or not value.isascii()):
            return key, f"cannot be read; quote an equals sign and letters that are not ASCII: \"{key}='{value}'\""
        return key, f"cannot be read: {override} (a list is [a,b]; quote values with spaces, commas or brackets)"
    if isinstance(error, MissingConfigException) and error.missing_cfg_file:
        group, _, option = error.missing_cfg_file.rpartition("/")
        known = groups.list_option_names(group) if group in groups.list_all_groups() else []
        options = known if group == "hydra/sweeper" else error.options or known  # Hydra's own sweeper is refused
        unknown = f"there is no option '{option}'{did_you_mean(option, options)}"
        return key if _is_nested_choice(override) else group, describe_renamed_option(group, option) or unknown
    if "must be a string or a list" in text:
        group = override.lstrip("+~").partition("=")[0].partition("@")[0]
        options = groups.list_option_names(group) if group in groups.list_all_groups() else []
        return key, f"needs the name of an option{did_you_mean('', options)}"
    if text.startswith("Multiple values for"):
        return key, "is chosen more than once; keep one"
    if "multirun" in text or "Ambiguous value" in text:
        of_search = key.startswith(("hydra.", "hydra/"))
        remedy = "; a search takes one" if of_search else ": add -m for a run of each (a list is written [a,b])"
        return key, f"has several values, {value}{remedy}"
    if isinstance(cause, (ConfigAttributeError, ConfigKeyError)) or "Could not override" in text:
        full_key = str(getattr(cause, "full_key", None) or "")  # below KEY in KEY={name: value}, or above it
        top = key.partition(".")[0]
        key = full_key if full_key.startswith(f"{key}.") or (full_key and top in ("hydra", full_key)) else key
        return key, _explain_unknown_key(key, cause, static)
    return key, format_hydra_error(error)


def _join(words: Sequence[str], conjunction: str) -> str:
    """Return `a, b or c`."""
    return f" {conjunction} ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)


def _explain_unknown_key(key: str, cause: Any, static: StaticConfig) -> str:
    """Explain a key that is not in the configuration."""
    parent, _, last = key.rpartition(".")
    node = getattr(cause, "parent_node", None)
    try:
        names = [str(k) for k in node if not str(k).startswith("_")] if node is not None else []
    except Exception:
        names = []
    if renamed := describe_renamed_key(key, names):
        return renamed
    group, _, option = key.partition(".")
    option = option.partition(".")[0]
    if groups.takes_several(group) and option in groups.list_option_names(group):
        if isinstance(node, Mapping) and str(node.get("_target_", "")).startswith("dlopt."):  # a custom one may have it
            return f"{option} has no key {last}{did_you_mean(last, names)}"
        if isinstance(node, Mapping) and "_target_" in node:
            return _explain_unknown_inner_key(key, node, names, "")
        return f"{group}={option} is not chosen: add {group}={option}, or '{group}=[...,{option}]'"
    if groups.takes_several(group) and parent != group and option not in names:
        return f"there is no option '{option}'{did_you_mean(option, groups.list_option_names(group))}"
    if group == nested_options.SCHEDULES and option:
        return f"{group}.{option} has no schedule yet: choose it, {group}.{option}=cosine"
    if "/" in key:
        return f"there is no such group{did_you_mean(key, groups.SWEEP_GROUPS)}"
    candidates = _join(static.find_keys(last)[:MAX_CANDIDATES], "or")
    if parent:
        return _explain_unknown_inner_key(key, node, names, candidates)
    if candidates:
        return f"there is no such key; did you mean {candidates}?"
    if key in KEYS_OF_OTHER_TOOLS:
        return f"there is no such key; use {KEYS_OF_OTHER_TOOLS[key]}"
    advice = did_you_mean(last, [n for n in (names or groups.list_groups()) if n != "hydra"])
    shown = "; dlopt list shows the groups, dlopt list settings the other keys"
    return f"there is no such group or key{advice if 'did you mean' in advice else shown}"


def _explain_unknown_inner_key(key: str, node: Any, names: Sequence[str], candidates: str) -> str:
    """Explain a key that a node lacks; names are the keys of the node, candidates the keys with this end elsewhere."""
    parent, _, last = key.rpartition(".")
    children = {name: node.get(name) for name in names} if node is not None else {}
    inner = [f"{parent}.{name}.{last}" for name, keys in children.items() if isinstance(keys, Mapping) and last in keys]
    if inner:
        return f"there is no such key here; there is {_join(inner, 'and')}"
    advice = did_you_mean(last, names)
    if "did you mean" in advice:
        return f"there is no such key{advice}"
    is_component = isinstance(node, Mapping) and not parent.startswith("hydra.")
    is_custom = is_component and not str(node.get("_target_", "dlopt.")).startswith("dlopt.")
    if is_custom or (node is not None and len(node) == 0):
        return f"there is no such key yet; add it with a plus: +{key}=..."
    group = next((g for g in groups.list_all_groups() if to_key_prefix(g) == parent), "")
    if group and not groups.takes_several(group):
        files = ((option, groups.CONF / group / f"{option}.yaml") for option in groups.list_option_names(group))
        takers = [f"{group}={option}" for option, file in files if last in nested_options.read_keys(file)]
        if takers:
            return f"there is no such key here; {_join(takers, 'or')} would have it"
    return f"there is no such key here; did you mean {candidates}?" if candidates else f"there is no such key{advice}"
