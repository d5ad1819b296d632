"""Open a run for a command within the available memory, with one message for any problem."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlopt.config.problems import ConfigError
from dlopt.rundir.display import display_path
from dlopt.runner.execute import USAGE_ERROR

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory


class RunError(Exception):
    """A run or sweep cannot be opened: there is none of this name, or its files cannot be read.

    try:
        predictor = dlopt.load("my-run")
    except dlopt.RunError as error:
        print(error)   # no run in outputs/ is called 'my-run'; ...
    """


@contextlib.contextmanager
def confine() -> Iterator[None]:
    """Keep a run or sweep that is not trusted within the available memory, and away from the working directory."""
    import torch

    from dlopt.config.schema.targets import distrust_working_directory
    from dlopt.storage import memory

    # CUDA reserves far more address space than it uses, and would fail within a limit.
    limit = contextlib.nullcontext() if torch.cuda.is_available() else memory.limit_memory()
    with distrust_working_directory(), limit:
        yield


def open_run(
    command: str,
    name: str,
    act: Callable[[RunDirectory], int],
    *,
    trust: bool,
    outcome: str = "nothing was started",
    takes_sweep: bool = True,
) -> int:
    """Return act(run) for the run of this name, or USAGE_ERROR after a message if the run cannot be opened.

    command and outcome are words of the message. takes_sweep: of a sweep, open the best run that is done.
    """
    try:
        with enter_run(name, trust=trust, takes_sweep=takes_sweep) as run:
            return act(run)
    except ConfigError as error:
        message = error.text(outcome)
    except RunError as error:
        message = str(error)
    print(f"{command}: {message}", file=sys.stderr)
    return USAGE_ERROR


@contextlib.contextmanager
def enter_run(name: str, *, trust: bool, takes_sweep: bool = True) -> Iterator[RunDirectory]:
    """Yield the run of this name; in the block one that is not trusted is confined. takes_sweep: as for `open_run`.

    Raises RunError if the run cannot be opened, or anything in the block fails; problems of its configuration stay a
    ConfigError.
    """
    from dlopt.config.problems import describe_failure
    from dlopt.rundir.directory import EarlierVersionError
    from dlopt.rundir.find import RunNotFound, find_sweep
    from dlopt.rundir.lock import LockedError
    from dlopt.storage import memory
    from dlopt.storage.safe_read import to_printable

    place = name
    try:
        sweep = find_sweep(name) if takes_sweep else None
        run = _find_run(name) if sweep is None else _find_best_run(sweep)
        run.follow_links = trust
        place = display_path(run.path)
        run.check_version()
        with contextlib.nullcontext() if trust else confine():  # after the message for an unknown name
            yield run
    except ConfigError:
        raise
    except (RunNotFound, LockedError, EarlierVersionError) as error:
        raise RunError(str(error)) from error
    except OSError as error:
        where = error.filename or place
        file = display_path(Path(where)) if isinstance(where, str | Path) else place
        raise RunError(f"{file}: {error.strerror or error}") from error
    except Exception as error:  # damaged files raise many kinds of errors
        if memory.is_out_of_memory(error) and not isinstance(error, ValueError):
            raise RunError(f"{place} needs more memory than is available") from error
        raise RunError(f"{place} cannot be read ({to_printable(describe_failure(error))})") from error


def open_runs(
    command: str, names: Sequence[str], act: Callable[[list[RunDirectory]], int], *, trust: bool, outcome: str
) -> int:
    """Return act(runs) for the runs of these names, or USAGE_ERROR after a message, as `open_run` does for one."""

    def open_next(opened: list[RunDirectory]) -> int:
        if len(opened) == len(names):
            return act(opened)
        name = names[len(opened)]
        return open_run(command, name, lambda run: open_next([*opened, run]), trust=trust, outcome=outcome)

    return open_next([])


def find_ensemble(name: str) -> list[str]:
    """Return the runs of the best configuration of a sweep, over its seeds and folds, and say which they are.

    Raises RunNotFound if there is no such sweep, or if none of its runs is done.
    """
    from dlopt.analysis.search_record import find_best_ensemble
    from dlopt.formatting import format_metric
    from dlopt.rundir.find import RunNotFound, find_sweep

    sweep = find_sweep(name)
    if sweep is None:
        raise RunNotFound(f"{name} is not a sweep, whose runs an ensemble is of; or name several runs")
    best, value, objective = find_best_ensemble(sweep)
    place = display_path(sweep)
    if not best:
        raise RunNotFound(f"{place} is a sweep, and none of its runs is done")
    runs = [str(run.path.relative_to(sweep)) for run in best]
    noun = "run" if len(runs) == 1 else f"{len(runs)} runs"
    found = f"its best configuration has the {noun} {', '.join(runs)}"
    _announce(f"{place} is a sweep; {found} ({objective} {format_metric(value)})")
    return [str(run.path) for run in best]


def _find_run(name: str) -> RunDirectory:
    """Return the run of this name, and say which it is if the name is not its path."""
    from dlopt.rundir.find import find_run

    run = find_run(name)
    if run.path != Path(name):
        _announce(f"{name} is {display_path(run.path)}")
    return run


def _find_best_run(sweep: Path) -> RunDirectory:
    """Return the best finished run of a sweep, and say which it is. Raises RunNotFound if none is finished."""
    from dlopt.analysis.search_record import find_best_run
    from dlopt.formatting import format_metric
    from dlopt.rundir.directory import RunDirectory
    from dlopt.rundir.find import RunNotFound

    place = display_path(sweep)
    best, objective = find_best_run(sweep)
    if best is None:
        raise RunNotFound(f"{place} is a sweep, and none of its runs is done; name one, such as {place}/0")
    value = format_metric(best.metrics[objective])
    _announce(f"{place} is a sweep; its best run is {display_path(best.path)} ({objective} {value})")
    return RunDirectory(best.path)


def _announce(choice: str) -> None:
    from dlopt import console
    from dlopt.storage.safe_read import to_printable

    if not console.quiet:
        print(to_printable(choice), file=sys.stderr)
