"""dlopt train: compose the configuration, check it, train, and report."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Collection, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.config.compose.nested_options import get_key, is_override
from dlopt.rundir.display import display_path
from dlopt.rundir.find import SWEEP_FILE, find_sweep
from dlopt.runner import sweep_run
from dlopt.runner.execute import DONE, FAILED, INTERRUPTED, USAGE_ERROR, Invocation
from dlopt.runner.start_run import LOADING, YES, CheckedRun, check_run, start_run

if TYPE_CHECKING:
    from dlopt.cli.progress import SweepConsole
    from dlopt.config.compose.hydra_app import HydraApp
    from dlopt.runner.job import Job
    from dlopt.sweep.context import SweepInvocation
    from dlopt.sweep.reopen import Guard
    from dlopt.training.experiment import Experiment

TRUST = "--trust"
DRY_RUN = "--dry-run"


def train(argv: Sequence[str]) -> int:
    """Run the command. Return the exit code."""
    from dlopt import console
    from dlopt.config.problems import ConfigError
    from dlopt.rundir import provenance

    provenance.start_git_query()
    console.quiet = any(a in ("-q", "--quiet") for a in argv)
    argv = ["-m" if a == "hydra.mode=MULTIRUN" else a for a in argv]  # Hydra's other word for it
    flags = {flag for flag in (TRUST, DRY_RUN, YES) if flag in argv}
    argv = sorted((a for a in argv if a not in ("-q", "--quiet", *flags)), key=is_override)  # Hydra wants flags first
    resumed = [a.partition("=")[2].strip("'\"") for a in argv if get_key(a) == "resume"]
    if resumed and resumed[-1] != "null":
        try:
            return _resume(resumed[-1], [a for a in argv if get_key(a) != "resume"], flags)
        except ConfigError as error:
            print(error.text(), file=sys.stderr)
            return USAGE_ERROR
    if TRUST in flags:
        print(f"{TRUST} needs resume=RUN: what you type yourself is trusted", file=sys.stderr)
        return USAGE_ERROR
    return _start(argv, flags)


def _resume(name: str, rest: Sequence[str], flags: set[str]) -> int:
    """Resume the sweep or the run of this name."""
    from dlopt import console
    from dlopt.cli.progress import Progress
    from dlopt.runner.resume_run import resume

    trust = TRUST in flags
    sweep = find_sweep(name)
    if sweep is not None and (sweep / SWEEP_FILE).is_file():
        from dlopt.runner.open_run import confine
        from dlopt.sweep.reopen import reopen_sweep

        with contextlib.nullcontext() if trust else confine():
            reopened = reopen_sweep(sweep, rest, trust=trust)
            if not console.quiet:
                print(f"resuming the sweep {display_path(sweep)}", file=sys.stderr)
            return _start(reopened.arguments, flags, reopened.guard)
    misplaced = ", ".join(sorted(flags - {TRUST}))
    if misplaced:
        print(f"{misplaced}: {name} is not a sweep; dlopt show prints what a run has done", file=sys.stderr)
        return USAGE_ERROR
    return resume(name, rest, Progress(), trust=trust)


def preview(overrides: Sequence[str], inspect: Callable[[Experiment, Sequence[str]], int]) -> int:
    """Compose and check a run, and call `inspect` with its experiment and notices. Return the exit code."""
    return _start(overrides, (), inspect=inspect)


def _start(
    argv: Sequence[str],
    flags: Collection[str],
    guard: Guard | None = None,
    inspect: Callable[[Experiment, Sequence[str]], int] | None = None,
) -> int:
    """Start a new run or a sweep, or print the output of a flag of Hydra. Return the exit code.

    guard: judges the runs of a sweep that is not trusted. inspect: see Invocation.
    """
    from dlopt.config.compose.hydra_app import HydraApp
    from dlopt.config.schema.targets import add_working_directory

    if guard is None:
        add_working_directory()
    invocation = Invocation(yes=YES in flags, dry_run=DRY_RUN in flags, inspect=inspect)
    sweep: SweepInvocation | None = None
    try:
        with HydraApp(argv) as app:
            if app.show():
                code = DONE
            elif app.arguments.multirun:
                invocation = sweep = prepare_sweep(argv, invocation, guard)
                run_sweep(app, sweep)
                code = DONE
            else:
                code = _run(app, [*map(get_key, argv), *[YES] * invocation.yes], invocation)
    except SystemExit as end:  # from the parser of Hydra's flags
        code = end.code if isinstance(end.code, int) else USAGE_ERROR
    except KeyboardInterrupt:
        code = INTERRUPTED
    except Exception as error:
        code = _report_error(argv, error, invocation, builds=guard is None)
    finally:
        if sweep is not None:
            sweep.display.close()
    if sweep is None:
        return code
    from dlopt.sweep.reopen import list_resume_flags

    sweep.display.report(sweep.counts, list_resume_flags(sweep.overrides, app.folders))
    has_failures = sweep.counts is not None and sweep.counts.by_verdict.get("failed")
    return max(code, FAILED if has_failures else DONE)


def _report_error(argv: Sequence[str], error: Exception, invocation: Invocation, *, builds: bool) -> int:
    """Print the problems of the command, or the error that ended its runs. Return the exit code.

    builds: whether the parts of the command that Hydra accepts may be built, to find further problems.
    """
    from dlopt.config.compose.hydra_errors import format_hydra_error, to_config_error
    from dlopt.config.problems import ConfigError
    from dlopt.sweep.storage import StorageUnavailable

    if isinstance(error, StorageUnavailable):
        print(f"stopped: {error}", file=sys.stderr)
        print("  finished runs are kept; the same command resumes once the database answers", file=sys.stderr)
        return FAILED
    if not isinstance(error, ConfigError):
        if invocation.full_errors:
            raise error
        if invocation.has_started:
            print(f"stopped: {format_hydra_error(error)}", file=sys.stderr)
            return FAILED
        error = to_config_error(argv, error, builds=builds)
    print(error.text(), file=sys.stderr)
    return USAGE_ERROR


# ------------------------------------------------------------------------------------------- one run


def _run(app: HydraApp, keys: Sequence[str], invocation: Invocation) -> int:
    """Compose, check and execute one run. Raise ConfigError with all problems before a directory exists."""
    from dlopt.cli.progress import Progress

    checked = check_run(app, keys)
    if invocation.inspect is not None:
        return invocation.inspect(checked.experiment, checked.notices)
    if invocation.dry_run:
        return _print_plan(checked)
    return start_run(app, checked, invocation, Progress())


def _print_plan(checked: CheckedRun) -> int:
    """Print what a single run would do."""
    from omegaconf import OmegaConf

    from dlopt.cli.dry_run import print_run_plan
    from dlopt.runner.job import Job

    config = checked.config
    values = {str(key): config[key] for key in config if key != "hydra"}  # hydra needs values of a real run
    tree = {key: OmegaConf.to_container(v, resolve=True) if OmegaConf.is_config(v) else v for key, v in values.items()}
    job = Job.from_hydra(tree, config.hydra, checked.path)
    return print_run_plan(job, checked.experiment, checked.notices)


# ------------------------------------------------------------------------------------------- a sweep


def prepare_sweep(argv: Sequence[str], invocation: Invocation, guard: Guard | None) -> SweepInvocation:
    """Return the invocation of a sweep: with its screen, and the functions that execute its runs."""
    from dlopt.cli.sweep_screen import SweepScreen
    from dlopt.rundir import provenance
    from dlopt.sweep.context import SweepInvocation

    screen = SweepScreen()
    command = invocation.command or provenance.get_command()
    return SweepInvocation(
        **vars(invocation),
        overrides=[a for a in argv if is_override(a)],
        perform=partial(_perform_on_screen, screen, command=command),
        perform_elsewhere=partial(sweep_run.perform_in_worker, command=command),
        display=screen,
        guard=guard,
    )


def _perform_on_screen(screen: SweepConsole, job: Job, command: str) -> None:
    """Execute a run of a sweep in this process. Raise KeyboardInterrupt if it was interrupted."""
    from dlopt.cli.progress import Progress

    code, _ = sweep_run.perform(job, Progress(job.title, screen), command)
    if code == INTERRUPTED:
        raise KeyboardInterrupt


def run_sweep(app: HydraApp, invocation: SweepInvocation) -> Path:
    """Compose and execute a sweep, which checks every run before it starts the first. Return its directory."""
    from hydra.core.plugins import Plugins
    from omegaconf import OmegaConf

    from dlopt import console
    from dlopt.config.compose.hydra_app import list_overrides
    from dlopt.config.problems import ConfigError

    config = app.compose(multirun=True)
    context = app.make_context(config)
    target = str(OmegaConf.select(config, "hydra.sweeper._target_"))
    if not target.startswith("hydra_plugins.dlopt_plugins."):  # another sweeper would not check the runs
        raise ConfigError(
            [("hydra/sweeper", f"choose one of grid, random, tpe, qmc, greedy; {target} is not one of ours")]
        )
    context.callbacks.on_multirun_start(config=config, config_name=app.config_name)
    with console.announce(LOADING):
        # Our sweeper takes the invocation in place of Hydra's task function.
        sweeper: Any = Plugins.instance().instantiate_sweeper(
            config=config,
            hydra_context=context,
            task_function=invocation,  # type: ignore[arg-type]
        )
    sweeper.sweep(list_overrides(config.hydra))
    context.callbacks.on_multirun_end(config=config, config_name=app.config_name)
    return Path(config.hydra.sweep.dir)
