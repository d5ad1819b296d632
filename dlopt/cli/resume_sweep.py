"""dlopt train resume=SWEEP: the same command in the same directory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from dlopt.config.compose.yaml_dump import quote
from dlopt.rundir.display import display_path
from dlopt.rundir.find import SWEEP_FILE, find_sweep
from dlopt.storage.safe_read import to_printable

CHANGEABLE_SWEEP_KEYS = (
    "hydra.sweeper.n_trials",
    "hydra.sweeper.retry",
    "hydra.sweeper.storage",
    "hydra.launcher",
    "hydra/launcher",
)
"""Keys that may change when a sweep resumes: how long and where it runs, not what it searches."""
SWEEP_KEY_PREFIXES = ("hydra/sweeper", "hydra/launcher", "hydra.sweeper.", "hydra.launcher.", "hydra.sweep.")
"""How keys begin that only a sweep uses."""


def find_resumable_sweep(name: str) -> Path | None:
    """Return the directory of the sweep of this name, a path or a part of one; None if it is not a sweep."""
    folder = find_sweep(name)
    return folder if folder is not None and (folder / SWEEP_FILE).is_file() else None


def build_resume_command(folder: Path, arguments: Sequence[str], *, trust: bool) -> list[str]:
    """Return the command line that resumes a sweep. Raise ConfigError if it is refused.

    Code that the sweep's directory names is executed only with trust.
    """
    from dlopt.config.problems import Problems
    from dlopt.sweep import manifest

    problems = Problems()
    path = display_path(folder)
    command: list[str] = []
    storage = None
    try:
        content = manifest.read(folder)
        words, storage = content.get("command"), content.get("storage")
        if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
            raise ValueError("it has no command")
        command = words
    except (ValueError, OSError) as error:
        problems.add("resume", f"{path}/{SWEEP_FILE} is damaged: {error}")
    flags = [a for a in arguments if not is_override(a) and a not in ("-m", "--multirun")]
    overrides = [a for a in arguments if is_override(a)]
    changed = {override.partition("=")[0]: override for override in overrides}
    for key in changed:
        if not key.startswith(CHANGEABLE_SWEEP_KEYS):
            problems.add(key, f"cannot change when a search resumes (may change: {', '.join(CHANGEABLE_SWEEP_KEYS)})")
    for word in filter(_names_code, command if not trust else ()):
        problems.add("resume", f"{path} names user-defined code, {word}; add --trust if you trust it")
    is_given = any(word.lstrip("+").startswith("hydra.sweeper.storage=") for word in (*command, *overrides))
    if isinstance(storage, str) and "://" in storage and not is_given:
        message = f"must be given again, as {to_printable(storage)}: passwords are not stored"
        problems.add("hydra.sweeper.storage", message)
    problems.raise_if_any()
    former = [word for word in command if word.partition("=")[0] not in (*changed, "hydra.sweep.dir")]
    if "hydra/launcher" in changed and changed["hydra/launcher"] not in command:  # its keys are not the former's
        former = [word for word in former if not word.lstrip("+~").startswith("hydra.launcher.")]
    return [*flags, "-m", *former, f"hydra.sweep.dir={quote(str(folder))}", *overrides]


def list_resume_flags(command: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Return the flags that resuming a search needs, given its command and its folders of user-defined options."""
    folder_flags = [word for folder in folders for word in ("--config-dir", display_path(folder))]
    return [*folder_flags, *(["--trust"] if any(map(_names_code, command)) else [])]


def is_override(argument: str) -> bool:
    """Return whether an argument is an override, not a flag."""
    return "=" in argument and not argument.startswith("-")


def _names_code(word: str) -> bool:
    """Return whether an override may execute code that is not ours."""
    key, _, value = word.partition("=")
    if key.startswith(SWEEP_KEY_PREFIXES):
        return "_target_" in word or "${" in value
    dotted = key in ("optimizer.name", "schedule.name") and "." in value
    return key.lstrip("+~").startswith("hydra") or "_target_" in word or dotted
