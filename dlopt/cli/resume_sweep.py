"""dlopt train resume=SWEEP: the same command in the same directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlopt.config.compose.yaml_dump import quote
from dlopt.rundir.display import display_path
from dlopt.rundir.find import SWEEP_FILE, find_sweep
from dlopt.storage.safe_read import SMALL, read_json, to_printable

CHANGEABLE_SWEEP_KEYS = (
    "hydra.sweeper.n_trials",
    "hydra.sweeper.retry",
    "hydra.sweeper.storage",
    "hydra.launcher",
    "hydra/launcher",
)
"""Keys that may change when a sweep resumes: how long and where it runs, not what it searches."""


def find_resumable_sweep(name: str) -> Path | None:
    """Return the directory of the sweep of this name, a path or a part of one; None if it is not a sweep."""
    folder = find_sweep(name)
    return folder if folder is not None and (folder / SWEEP_FILE).is_file() else None


def build_resume_command(folder: Path, arguments: Sequence[str], *, trust: bool) -> list[str]:
    """Return the command line that resumes a sweep. Raise ConfigError if it is refused.

    Code that the sweep's directory names is executed only with trust.
    """
    from dlopt.config.problems import Problems

    problems = Problems()
    command: list[str] = []
    stored = None
    try:
        content = read_json(folder / SWEEP_FILE, SMALL)
        words, stored = content.get("command"), content.get("storage")
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise ValueError("it has no command")
        command = words
    except (ValueError, OSError) as error:
        problems.add("resume", f"{display_path(folder)}/{SWEEP_FILE} is damaged: {error}")
    arguments = [a for a in arguments if a not in ("-m", "--multirun")]
    for argument in arguments:
        key = argument.partition("=")[0]
        if _is_override(argument) and not key.startswith(CHANGEABLE_SWEEP_KEYS):
            problems.add(key, f"cannot change when a search resumes (may change: {', '.join(CHANGEABLE_SWEEP_KEYS)})")
    for word in command if not trust else ():
        if _names_code(word):
            problems.add(
                "resume", f"{display_path(folder)} names user-defined code, {word}; add --trust if you trust it"
            )
    is_given = any(word.lstrip("+").startswith("hydra.sweeper.storage=") for word in (*command, *arguments))
    if isinstance(stored, str) and "://" in stored and not is_given:
        problems.add(
            "hydra.sweeper.storage", f"must be given again, as {to_printable(stored)}: passwords are not stored"
        )
    problems.raise_if_any()
    changed = {argument.partition("=")[0] for argument in arguments} | {"hydra.sweep.dir"}
    former = [word for word in command if word.partition("=")[0] not in changed]
    if "hydra/launcher" in changed and not {*command} & {a for a in arguments if a.startswith("hydra/launcher=")}:
        former = [
            word for word in former if not word.lstrip("+~").startswith("hydra.launcher.")
        ]  # the other one's keys
    flags, overrides = ([a for a in arguments if _is_override(a) == expected] for expected in (False, True))
    return [*flags, "-m", *former, f"hydra.sweep.dir={quote(str(folder))}", *overrides]


def list_resume_flags(command: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the flags that resuming a search needs, given its command and its folders of user-defined options."""
    own = [word for folder in folders for word in ("--config-dir", display_path(folder))]
    return [*own, *(["--trust"] if any(map(_names_code, command)) else [])]


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def _names_code(word: str) -> bool:
    """Return whether an override may execute code that is not ours."""
    key, _, value = word.partition("=")
    if key.startswith(("hydra.sweeper.", "hydra.sweep.", "hydra/sweeper", "hydra/launcher", "hydra.launcher.")):
        return "_target_" in word or "${" in value
    dotted = key in ("optimizer.name", "schedule.name") and "." in value
    return key.lstrip("+~").startswith("hydra") or "_target_" in word or dotted
