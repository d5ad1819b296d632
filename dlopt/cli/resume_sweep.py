"""dlopt train resume=SWEEP: the same command again, in the same directory."""

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
"""What may be said anew where a sweep goes on: how much, how and where it is worked on, not what it searches."""


def find_resumable_sweep(name: str) -> Path | None:
    """The directory of the sweep of this name: a path, or a part of one that no run has; None where it is no sweep."""
    found = find_sweep(name)
    return found if found is not None and (found / SWEEP_FILE).is_file() else None


def build_resume_command(folder: Path, arguments: Sequence[str], *, trust: bool) -> list[str]:
    """The command line that goes on with a sweep; ConfigError where it is refused.

    A sweep's directory names no code that is executed unless it is trusted.
    """
    from dlopt.config.problems import Problems
    from dlopt.sweep import manifest

    problems = Problems()
    command: list[str] = []
    stored = None
    try:
        content = manifest.read(folder)
        found, stored = content.get("command"), content.get("storage")
        if not (isinstance(found, list) and all(isinstance(word, str) for word in found)):
            raise ValueError("it has no command")
        command = found
    except (ValueError, OSError) as error:
        problems.add("resume", f"{display_path(folder)}/{SWEEP_FILE} is damaged: {error}")
    kept = [a for a in arguments if a not in ("-m", "--multirun")]
    for argument in kept:
        key = argument.partition("=")[0]
        if _is_override(argument) and not key.startswith(CHANGEABLE_SWEEP_KEYS):
            problems.add(
                key, f"cannot change in a search that goes on (may change: {', '.join(CHANGEABLE_SWEEP_KEYS)})"
            )
    for word in command if not trust else ():
        if _names_code(word):
            problems.add("resume", f"{display_path(folder)} names code of its own, {word}; if you trust it add --trust")
    given = any(word.lstrip("+").startswith("hydra.sweeper.storage=") for word in (*command, *kept))
    if isinstance(stored, str) and "://" in stored and not given:
        problems.add("hydra.sweeper.storage", f"must be given again, as {to_printable(stored)}: a password is not kept")
    problems.raise_if_any()
    again = {argument.partition("=")[0] for argument in kept} | {"hydra.sweep.dir"}
    former = [word for word in command if word.partition("=")[0] not in again]
    if "hydra/launcher" in again and not {*command} & {a for a in kept if a.startswith("hydra/launcher=")}:
        former = [word for word in former if not word.lstrip("+~").startswith("hydra.launcher.")]  # another one's keys
    flags, anew = ([a for a in kept if _is_override(a) == is_one] for is_one in (False, True))
    return [*flags, "-m", *former, f"hydra.sweep.dir={quote(str(folder))}", *anew]


def list_resume_flags(command: Sequence[str], folders: Sequence[Path]) -> list[str]:
    """Those without which a search with this command, and these folders of options of one's own, does not go on."""
    own = [word for folder in folders for word in ("--config-dir", display_path(folder))]
    return [*own, *(["--trust"] if any(map(_names_code, command)) else [])]


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def _names_code(word: str) -> bool:
    """Whether an override may have something executed that is none of ours."""
    key, _, value = word.partition("=")
    if key.startswith(("hydra.sweeper.", "hydra.sweep.", "hydra/sweeper", "hydra/launcher", "hydra.launcher.")):
        return "_target_" in word or "${" in value
    dotted = key in ("optimizer.name", "schedule.name") and "." in value
    return key.lstrip("+~").startswith("hydra") or "_target_" in word or dotted
