"""Hydra's callback: every check runs before any directory exists.

Hydra turns exceptions in a callback into warnings, but not SystemExit: so everything is caught, said, and ended by
that. Modules are imported inside: Hydra makes its callbacks for --help too.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.experimental.callback import Callback

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlopt.rundir.lock import Lock
    from dlopt.training.experiment import Experiment

ready_experiments: list[tuple[Experiment, list[str]]] = []
"""The experiment of a single run, built by the check and taken up by the task."""
held_locks: list[Lock] = []
"""The directory of a single run, held from here on: two processes may be given the same."""
dry_run = False
"""Whether a single run is only to be checked: Hydra, which would make its directory next, is stopped."""
planned_configs: list[DictConfig] = []
"""The configuration of such a run."""
misplaced_keys: list[str] = []
"""What was typed for a single run that says how to search."""
full_errors = False
"""Whether HYDRA_FULL_ERROR=1 was set by whoever started this, and not by us."""


class CheckCallback(Callback):
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _ExitOnError():
            from dlopt.config.build import build
            from dlopt.config.problems import ConfigError, Problems

            problems = Problems()
            check_directory(Path(config.hydra.run.dir), "hydra.run.dir", problems)
            if config.hydra.output_subdir != ".hydra":
                problems.add(
                    "hydra.output_subdir",
                    "must stay .hydra: a run cannot be shown or resumed without its configuration",
                )
            if misplaced_keys:
                first, *others = dict.fromkeys(misplaced_keys)
                more = f", like {' and '.join(others)}" if others else ""
                problems.add(first, f"is for a search{more}: add -m")
            try:
                ready_experiments[:] = [build(config, config.hydra.overrides.task)]
            except ConfigError as error:
                problems.errors += error.problems
            problems.raise_if_any()
            if dry_run:
                planned_configs[:] = [config]
                raise SystemExit(0)
            lock_directory(Path(config.hydra.run.dir), "hydra.run.dir", problems)
            problems.raise_if_any()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _ExitOnError():
            from omegaconf import OmegaConf

            from dlopt.config.problems import ConfigError

            target = str(OmegaConf.select(config, "hydra.sweeper._target_"))
            if not target.startswith("hydra_plugins.dlopt_plugins."):  # whose sweep() checks every run itself
                raise ConfigError(
                    [("hydra/sweeper", f"choose one of grid, random, tpe, qmc; {target} is none of ours")]
                )


def check_directory(path: Path, key: str, problems: Any) -> None:
    """Whether a run can be made here: nothing holds the place already, and the directory can be made."""
    from dlopt.rundir.directory import RunDirectory
    from dlopt.rundir.lock import LockedError, find_holder

    if RunDirectory(path).status_file.exists():
        writer = None if held_locks else find_holder(path)
        said = f"{path} already holds a run; choose another directory, or go on with it: resume={path}"
        problems.add(key, f"{LockedError(path, writer)}; choose another directory" if writer else said)
        return
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        problems.add(key, f"{path} cannot be made: {above} is a file")
    elif not os.access(above, os.W_OK):
        problems.add(key, f"{path} cannot be made: {above} cannot be written to")


def lock_directory(path: Path, key: str, problems: Any) -> None:
    """Make a directory and keep other processes out of it."""
    from dlopt.rundir.lock import Lock, LockedError

    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    lock = Lock(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        held_locks[:] = [lock.acquire()]
    except LockedError as error:
        problems.add(key, f"{error}; choose another directory")
    except OSError as error:
        problems.add(key, f"{path} cannot be made: {error.strerror or error}")
        with contextlib.suppress(OSError):  # nothing is left of what could not be begun
            if new:
                lock.file.unlink(missing_ok=True)
            for folder in new:
                folder.rmdir()
    else:
        check_directory(path, key, problems)  # another may have begun and ended there since


class _ExitOnError:
    """Says what went wrong and ends the process with code 2."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, (SystemExit, KeyboardInterrupt)):
            return
        from dlopt.config.problems import ConfigError

        if isinstance(error, ConfigError):
            print(error.text(), file=sys.stderr)
        else:
            from dlopt.config.compose.hydra_errors import format_hydra_error

            if full_errors:
                traceback.print_exception(error)
            print(format_hydra_error(error), file=sys.stderr)
        raise SystemExit(2)
