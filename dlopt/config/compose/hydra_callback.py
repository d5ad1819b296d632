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

ready: list[tuple[Experiment, list[str]]] = []
"""The experiment of a single run, built by the check and taken up by the task."""
held: list[Lock] = []
"""The directory of a single run, held from here on: two processes may be given the same."""
dry_run = False
"""Whether a single run is only to be checked: Hydra, which would make its directory next, is stopped."""
planned: list[DictConfig] = []
"""The configuration of such a run."""
astray: list[str] = []
"""What was typed for a single run that says how to search."""
full_errors = False
"""Whether HYDRA_FULL_ERROR=1 was set by whoever started this, and not by us."""


class Check(Callback):
    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _Ends():
            from dlopt.config.build import build
            from dlopt.config.problems import ConfigError, Problems

            problems = Problems()
            check_directory(Path(config.hydra.run.dir), "hydra.run.dir", problems)
            if config.hydra.output_subdir != ".hydra":
                problems.add(
                    "hydra.output_subdir",
                    "must stay .hydra: a run cannot be shown or resumed without its configuration",
                )
            if astray:
                first, *others = dict.fromkeys(astray)
                more = f", like {' and '.join(others)}" if others else ""
                problems.add(first, f"is for a search{more}: add -m")
            try:
                ready[:] = [build(config, config.hydra.overrides.task)]
            except ConfigError as error:
                problems.found += error.problems
            problems.raise_any()
            if dry_run:
                planned[:] = [config]
                raise SystemExit(0)
            hold(Path(config.hydra.run.dir), "hydra.run.dir", problems)
            problems.raise_any()

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _Ends():
            from omegaconf import OmegaConf

            from dlopt.config.problems import ConfigError

            target = str(OmegaConf.select(config, "hydra.sweeper._target_"))
            if not target.startswith("hydra_plugins.dlopt_plugins."):  # whose sweep() checks every run itself
                raise ConfigError(
                    [("hydra/sweeper", f"choose one of grid, random, tpe, qmc; {target} is none of ours")]
                )


def check_directory(path: Path, key: str, problems: Any) -> None:
    """Whether a run can be made here: nothing holds the place already, and the directory can be made."""
    from dlopt.rundir.directory import Run
    from dlopt.rundir.lock import Held, holder

    if Run(path).status_file.exists():
        writer = None if held else holder(path)
        said = f"{path} already holds a run; choose another directory, or go on with it: resume={path}"
        problems.add(key, f"{Held(path, writer)}; choose another directory" if writer else said)
        return
    above = path
    while not above.exists() and above != above.parent:
        above = above.parent
    if not above.is_dir():
        problems.add(key, f"{path} cannot be made: {above} is a file")
    elif not os.access(above, os.W_OK):
        problems.add(key, f"{path} cannot be made: {above} cannot be written to")


def hold(path: Path, key: str, problems: Any) -> None:
    """Make a directory and keep other processes out of it."""
    from dlopt.rundir.lock import Held, Lock

    new = [folder for folder in (path, *path.parents) if not folder.exists()]
    lock = Lock(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        held[:] = [lock.take()]
    except Held as error:
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


class _Ends:
    """Says what went wrong and ends the process with code 2."""

    def __enter__(self) -> None: ...

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if error is None or isinstance(error, (SystemExit, KeyboardInterrupt)):
            return
        from dlopt.config.problems import ConfigError

        if isinstance(error, ConfigError):
            print(error.text(), file=sys.stderr)
        else:
            from dlopt.config.compose.hydra_errors import said

            if full_errors:
                traceback.print_exception(error)
            print(said(error), file=sys.stderr)
        raise SystemExit(2)
