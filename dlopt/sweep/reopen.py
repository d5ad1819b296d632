"""Reopen a sweep that may be someone else's: the command that resumes it, and a guard over its runs.

Without trust, the files of a sweep are data. The words of its command may only choose options of dlopt's folders and
set plain values; each word is parsed and judged before Hydra composes anything. The study can name values too, so the
guard judges the words and the configuration of every run again, before it is built.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import from_hydra, is_override, to_hydra
from dlopt.config.compose.yaml_dump import quote
from dlopt.config.problems import ConfigError, Problems
from dlopt.rundir.display import display_path
from dlopt.rundir.find import SWEEP_FILE
from dlopt.storage.safe_read import SMALL, read_json, to_printable

CHANGEABLE_KEYS = (
    "hydra.sweeper.n_trials",
    "hydra.sweeper.retry",
    "hydra.sweeper.storage",
    "hydra.launcher",
    "hydra/launcher",
)
"""Keys that may change when a sweep resumes: how long and where it runs, not what it searches."""
STORAGE = "hydra.sweeper.storage"
PATH_KEYS = (*(f"data.{key}" for key in groups.DATA_FILE_KEYS), "init.run")
"""The keys that name files of the user, relative to the directory where the sweep was started."""
PLAIN_HYDRA_KEY = re.compile(r"hydra\.launcher\.workers|hydra\.sweeper\.(?!params\b|storage\b)[a-z]\w*(\.[a-z]\w*)?")
"""The keys of Hydra that a sweep may set by itself; the others name code, files or variables."""
LONGEST_RANGE = 1_000_000
"""Largest number of values of a range."""
KEY = re.compile(r"[A-Za-z]\w*(\.\w*[A-Za-z0-9])*", re.ASCII)
"""A key of the configuration. Neither `_target_` nor another key with which Hydra builds components is one."""


@dataclass(frozen=True)
class Guard:
    """Refuses runs that could execute code of a sweep, or use files that the user has not chosen.

    folder   directory of the sweep
    folders  folders of options: dlopt's, and the one that the user names
    digests  SHA-256 of the data files that the search has read
    """

    folder: Path
    folders: tuple[Path, ...]
    digests: frozenset[str]

    def check_overrides(self, overrides: Sequence[str]) -> None:
        """Raise ConfigError unless the overrides of a run, in Hydra's form, are plain."""
        for override in overrides:
            word = from_hydra(override.lstrip("+"))
            if not is_plain(word, self.folders):
                raise ConfigError([(word.partition("=")[0], _refuse(self.folder, word))])

    def check_config(self, config: Any) -> None:
        """Raise ConfigError if a composed configuration names code of others, or files elsewhere."""
        from dlopt.config.reopen.load_run import check_untrusted

        check_untrusted(config, (Path.cwd(), self.folder), lambda: self.digests)


@dataclass(frozen=True)
class ReopenedSweep:
    """The arguments that resume a sweep, and the guard over its runs; None if the sweep is trusted."""

    arguments: list[str]
    guard: Guard | None


def reopen_sweep(folder: Path, arguments: Sequence[str], *, trust: bool) -> ReopenedSweep:
    """Return how to resume a sweep with further arguments. Raise ConfigError if it is refused."""
    from dlopt.config.compose.hydra_app import find_config_folders
    from dlopt.config.reopen.load_run import check_writable

    problems = Problems()
    path = display_path(folder)
    if "${" in str(folder):
        raise ConfigError([("resume", f"{path} would be read as an interpolation by Hydra; rename the directory")])
    try:
        content = read_json(folder / SWEEP_FILE, SMALL)
        command = _read_texts(content, "command")
        config_dir, digests = content.get("config_dir"), _read_texts(content, "data")
    except (ValueError, OSError) as error:
        raise ConfigError([("resume", f"{path}/{SWEEP_FILE} is damaged: {error}")]) from error
    flags = [a for a in arguments if not is_override(a) and a not in ("-m", "--multirun")]
    overrides = [a for a in arguments if is_override(a)]
    changed = {override.partition("=")[0]: override for override in overrides}
    for key in changed:
        if not key.startswith(CHANGEABLE_KEYS):
            problems.add(key, f"cannot change when a search resumes (may change: {', '.join(CHANGEABLE_KEYS)})")
    typed_folders = find_config_folders(arguments)
    if isinstance(config_dir, str) and not typed_folders:
        if trust:
            flags += ["--config-dir", config_dir]
        else:
            problems.add("resume", f"{path} was started with --config-dir {to_printable(config_dir)}; type it again")
    started_in = Path(str(content.get("cwd") or "."))
    words = (word for word in command if word.partition("=")[0] not in (*changed, "hydra.sweep.dir"))
    former = [_locate(word, started_in) for word in words]
    storage = content.get("storage")
    is_typed = any(word.lstrip("+").startswith(f"{STORAGE}=") for word in (*(former if trust else ()), *overrides))
    if isinstance(storage, str) and "://" in storage and not is_typed:
        former = [word for word in former if not word.startswith(f"{STORAGE}=")]
        problems.add(STORAGE, f"must be given again, as {to_printable(storage)}: it may lie elsewhere, with a password")
    guard = None if trust else Guard(folder, (groups.CONF, *typed_folders), frozenset(digests))
    if guard is not None:
        for word in former:
            if not is_plain(word, guard.folders, folder):
                problems.add("resume", _refuse(folder, word))
        problems.attempt(partial(check_writable, folder))
    problems.raise_if_any()
    if "hydra/launcher" in changed and changed["hydra/launcher"] not in command:  # it has other keys
        former = [word for word in former if not word.lstrip("+~").startswith("hydra.launcher.")]
    return ReopenedSweep([*flags, "-m", *former, f"hydra.sweep.dir={quote(str(folder))}", *overrides], guard)


def list_resume_flags(command: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the flags that resuming a search needs, given its command and its folders of user-defined options."""
    words = [word for word in command if word.partition("=")[0] != "hydra.sweep.dir"]
    needs_trust = bool(folders) or not all(is_plain(word, (groups.CONF,)) for word in words)
    return ["--trust"] if needs_trust else []


@lru_cache(maxsize=4096)
def is_plain(word: str, folders: tuple[Path, ...], sweep: Path | None = None) -> bool:
    """Return whether a word of a command can only choose an option of these folders or set a plain value.

    sweep: directory of the sweep, in which the journal of its study may lie.
    """
    try:
        return _judge(word, folders, sweep)
    except (ValueError, OverflowError, RecursionError):
        return False


def _judge(word: str, folders: tuple[Path, ...], sweep: Path | None) -> bool:
    key, equals, text = word.partition("=")
    if not equals or "${" in text:
        return False
    if key in groups.SWEEP_GROUPS:
        return text in groups.list_option_names(key)
    if not (KEY.fullmatch(key) or PLAIN_HYDRA_KEY.fullmatch(key)):
        return False
    values = list(_iter_values(word))
    if key == STORAGE:
        file = Path(str(values[0])).resolve()
        return sweep is not None and file.suffix == ".log" and file.is_relative_to(sweep.resolve())
    if key.startswith("hydra"):
        return bool(PLAIN_HYDRA_KEY.fullmatch(key)) and all(map(_is_plain_value, values))
    group = to_hydra(word, folders).lstrip("+").partition("=")[0].partition("@")[0]
    if "." not in group and any((folder / group).is_dir() for folder in folders):
        options = {name for folder in folders for name in groups.list_option_names(group, folder)}
        chosen = [name for value in values for name in (value if isinstance(value, list) else [value])]
        return all(isinstance(name, str) and name in options for name in chosen)
    names_class = key.endswith(".name") and any("." in str(value) for value in values)
    return not names_class and all(map(_is_plain_value, values))


def _iter_values(word: str) -> Iterator[Any]:
    """Yield the values of an override: one, or the values of an axis, or the ends of an interval or a range.

    Raises ValueError for what Hydra cannot parse, and for a range of too many values.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.core.override_parser.types import Glob, QuotedString, Transformer
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(word)
    except HydraException as error:
        raise ValueError(word) from error
    if not override.is_sweep_override():
        yield override.value()
    elif override.is_interval_sweep():
        interval: Any = override.value()
        yield from (interval.start, interval.end)
    elif override.is_range_sweep():
        steps: Any = override.value()
        if not abs(steps.stop - steps.start) <= LONGEST_RANGE * abs(steps.step):
            raise ValueError(word)
        yield from (steps.start, steps.stop, steps.step)
    elif not isinstance(override.value(), Glob):  # a glob selects existing options
        for value in override.sweep_iterator(Transformer.identity):
            yield value.text if isinstance(value, QuotedString) else value


def _is_plain_value(value: Any) -> bool:
    """Return whether a value is a number, text, null, or a list or dictionary of them that builds nothing."""
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and KEY.fullmatch(k) and _is_plain_value(v) for k, v in value.items())
    if isinstance(value, list):
        return all(map(_is_plain_value, value))
    return value is None or isinstance(value, (bool, int, float)) or (isinstance(value, str) and "${" not in value)


def _locate(word: str, started_in: Path) -> str:
    """Return a word whose relative path exists only where the sweep was started with the absolute path."""
    key, _, text = word.partition("=")
    path = Path(text.strip("'\"")).expanduser()
    if key not in PATH_KEYS or path.is_absolute() or path.exists() or not (started_in / path).exists():
        return word
    return f"{key}={quote(str(started_in / path))}"


def _refuse(folder: Path, word: str) -> str:
    reason = "which could execute code or use your files; add --trust if you trust it"
    return f"{display_path(folder)} names {to_printable(word)}, {reason}"


def _read_texts(content: Mapping[str, Any], name: str) -> list[str]:
    """Return a list of texts in sweep.json. Raise ValueError if it is something else; `data` may be missing."""
    value = content.get(name, [] if name == "data" else None)
    if not (isinstance(value, list) and all(isinstance(word, str) for word in value)):
        raise ValueError(f"it has no {name}")
    return value
