"""Train from Python, by the path of the command line."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

from dlopt.api.arrays import store_arrays
from dlopt.api.opening import name_arguments, open_directory
from dlopt.api.process_state import keep_process_state
from dlopt.api.progress import RunProgress, make_progress
from dlopt.api.run import Run
from dlopt.api.sweep import Sweep
from dlopt.config.compose.nested_options import get_key
from dlopt.config.problems import ConfigError
from dlopt.runner.execute import INTERRUPTED, Invocation
from dlopt.storage.safe_read import mask_passwords

if TYPE_CHECKING:
    from dlopt.sweep.reopen import Guard


@overload
def train(
    overrides: str | Sequence[str] = (),
    *,
    multirun: Literal[False] = False,
    data: Any = None,
    directory: str | Path | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
    trust: bool = False,
) -> Run: ...


@overload
def train(
    overrides: str | Sequence[str] = (),
    *,
    multirun: Literal[True],
    data: Any = None,
    directory: str | Path | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
    trust: bool = False,
) -> Sweep: ...


def train(
    overrides: str | Sequence[str] = (),
    *,
    multirun: bool = False,
    data: Any = None,
    directory: str | Path | None = None,
    config_dir: str | Path | None = None,
    progress: bool = True,
    trust: bool = False,
) -> Run | Sweep:
    """Train as `dlopt train` does with these overrides, and return the run, or the sweep if `multirun` is set.

    The run is the one of the command line: the same checks, bits, files and directory. `dlopt show`, `rerun`, `verify`
    and `resume=` accept it.

        run = dlopt.train(["data=digits", "optimizer=adam", "optimizer.lr=0.003"])
        run = dlopt.train(["arch=mlp", "epochs=20"], data=(x, y))
        sweep = dlopt.train(["optimizer=sgd,adam", "seed=0,1,2"], multirun=True)
        run = dlopt.train(["resume=last", "epochs=40"])

    overrides    KEY=VALUE, as on the command line; `dlopt list` shows the options, `dlopt train --help` all keys
    multirun     try every combination of several values, or search with hydra/sweeper=tpe: `dlopt train -m`
    data         arrays of numpy or torch, or lists: a pair (x, y), or a mapping with x, y and optionally x_test and
                 y_test. They are written to outputs/arrays/, and the run reads them from there as data=arrays
    directory    the directory of the run or sweep, which must not hold one; by default a new one in outputs/
    config_dir   a folder of your own options
    progress     show a bar, notices and the result
    trust        with resume=RUN: execute code that the run names, such as custom classes

    A custom component is named by its module, as on the command line. A class of the notebook itself is __main__.NAME;
    only the same session can load such a run. Python imports a module once: after a change, reload it.

    Raises ConfigError with all problems before anything is started, RunError if a run to resume cannot be opened, and
    the error of a run that fails. An interrupt saves the run after the current step and raises KeyboardInterrupt: then
    resume=last continues it. The process is left as it was: random generators, torch's settings, logging, signals and
    Hydra. One run trains at a time; a second thread waits.
    """
    words = [overrides] if isinstance(overrides, str) else list(overrides)
    with keep_process_state(quiet=not progress):
        from dlopt.config.schema.targets import add_working_directory
        from dlopt.rundir import provenance

        _check_words(words, data)
        arguments = _describe_arguments(multirun, data, directory, config_dir, trust)
        command = mask_passwords(f"dlopt.train({words!r}{arguments})")
        provenance.start_git_query(again=True)
        resumed = [word.partition("=")[2].strip("'\"") for word in words if get_key(word) == "resume"]
        name = resumed[-1] if resumed and resumed[-1] != "null" else None
        rest = words if name is None else [word for word in words if get_key(word) != "resume"]
        if name is not None and not multirun:
            if data is not None or directory is not None:
                raise ConfigError([("resume", "the run keeps its data and directory: leave data and directory out")])
            return _resume(name, rest, command, make_progress(is_shown=progress), trust=trust)
        if trust and name is None:
            raise ConfigError([("trust", "is for resume=RUN: what you write yourself is trusted")])
        flags = ["--config-dir", str(config_dir)] if config_dir is not None else []
        if directory is not None:
            rest = [*rest, f"hydra.{'sweep' if multirun else 'run'}.dir={_quote(str(directory))}"]
        if name is not None:
            return _resume_sweep(name, [*flags, *rest], command, trust=trust)
        add_working_directory()
        with store_arrays(data) as data_overrides:
            argv = [*flags, *data_overrides, *rest]
            if multirun:
                return _sweep(["-m", *argv], command)
            return _run(argv, command, make_progress(is_shown=progress))


def _check_words(words: Sequence[str], data: Any) -> None:
    """Raise ConfigError for words that are not overrides, and for data that are given twice."""
    problems = []
    for word in words:
        if not isinstance(word, str) or ("=" not in word.lstrip("~") and not word.startswith("~")):
            problems.append((str(word), "is not an override: write KEY=VALUE"))
        elif word.startswith("-"):
            problems.append((word, "is a flag of the command line: train has keyword arguments"))
        elif data is not None and get_key(word) in ("data", "data.path"):
            problems.append((get_key(word), "is given twice: by an override and by the arrays of data"))
    if problems:
        raise ConfigError(problems)


def _describe_arguments(multirun: bool, data: Any, directory: Any, config_dir: Any, trust: bool) -> str:
    """Return the keyword arguments as they are recorded."""
    parts = [", multirun=True"] if multirun else []
    if data is not None:
        names = ", ".join(map(str, data)) if isinstance(data, Mapping) else "x, y"
        parts.append(f", data=({names})")
    parts += [f", {name}={str(v)!r}" for name, v in (("directory", directory), ("config_dir", config_dir)) if v]
    return "".join([*parts, ", trust=True" if trust else ""])


def _quote(text: str) -> str:
    """Return a text as a value of Hydra's grammar."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


@contextlib.contextmanager
def _explain_errors(argv: Sequence[str], invocation: Invocation, *, builds: bool = True) -> Iterator[None]:
    """Raise every error before the start of a run as a ConfigError with all problems. builds: see `explain`."""
    from hydra.errors import HydraException

    from dlopt.config.compose.hydra_errors import to_config_error

    try:
        yield
    except Exception as error:
        if invocation.has_started and not isinstance(error, ConfigError):
            raise
        cause = None if isinstance(error, ConfigError | HydraException) else error
        raise name_arguments(to_config_error(argv, error, builds=builds)) from cause


# ------------------------------------------------------------------------------------------- one run


def _run(argv: Sequence[str], command: str, progress: RunProgress) -> Run:
    from dlopt.config.compose.hydra_app import HydraApp
    from dlopt.runner.start_run import check_run, start_run

    invocation = Invocation(command=command, is_embedded=True)
    with _explain_errors(argv, invocation), HydraApp(argv, configures_logging=False) as app:
        if app.arguments.multirun:
            raise ConfigError([("experiment", "starts a sweep: pass multirun=True")])
        checked = check_run(app, [get_key(word) for word in argv])
        start_run(app, checked, invocation, progress)
    if progress.error is not None:
        raise progress.error
    return Run(checked.path, notices=progress.notices, is_trusted=True)


def _resume(name: str, overrides: Sequence[str], command: str, progress: RunProgress, *, trust: bool) -> Run:
    from dlopt.rundir.find import find_sweep
    from dlopt.runner.resume_run import resume_run

    if find_sweep(name) is not None:
        raise ConfigError([("resume", f"{name} is a sweep: pass multirun=True")])
    with open_directory(name, trust=trust, outcome="nothing was started") as opened:
        code = resume_run(opened, overrides, progress, trust, command)
    if progress.error is not None:
        raise progress.error
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return Run(opened.path, notices=progress.notices, is_trusted=trust)


# ------------------------------------------------------------------------------------------- a sweep


def _sweep(argv: Sequence[str], command: str, guard: Guard | None = None) -> Sweep:
    from dlopt.cli.train import prepare_sweep, run_sweep
    from dlopt.config.compose.hydra_app import HydraApp

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "IProgress not found")  # in a notebook: progress that is not used here
        import optuna  # noqa: F401  (the sweep imports it later)
    invocation = prepare_sweep(argv, Invocation(command=command, is_embedded=True, yes=True), guard)
    try:
        with (
            _explain_errors(argv, invocation, builds=guard is None),
            HydraApp(argv, configures_logging=False) as app,
        ):
            path = run_sweep(app, invocation)
    finally:
        invocation.display.close()
    return Sweep(path, is_trusted=guard is None)


def _resume_sweep(name: str, arguments: Sequence[str], command: str, *, trust: bool) -> Sweep:
    from dlopt.rundir.find import SWEEP_FILE, find_sweep
    from dlopt.runner.open_run import confine
    from dlopt.sweep.reopen import reopen_sweep

    sweep = find_sweep(name)
    if sweep is None or not (sweep / SWEEP_FILE).is_file():
        raise ConfigError([("resume", f"there is no sweep '{name}' to resume")])
    with contextlib.nullcontext() if trust else confine():
        reopened = reopen_sweep(sweep, arguments, trust=trust)
        return _sweep(reopened.arguments, command, reopened.guard)
