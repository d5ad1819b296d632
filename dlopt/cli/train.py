"""dlopt train: hands the command line to Hydra, runs what it composes, and says how it went."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.config.compose import groups
from dlopt.runner.run_one import DONE, FAILED, INTERRUPTED, USAGE_ERROR

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlopt.sweep.compose import Job

TRUST = "--trust"
DRY_RUN = "--dry-run"
YES = "--yes"
SWEEP_KEY_PREFIXES = ("hydra/sweeper", "hydra/launcher", "hydra.sweeper.", "hydra.launcher.", "hydra.sweep.")
"""What the keys that a single run has no use for begin with."""
_exit_codes: list[int] = []
"""How the runs ended that Hydra has called for."""


def train(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    from dlopt import console
    from dlopt.config.problems import ConfigError
    from dlopt.rundir import provenance

    provenance.start_git_query()
    console.quiet = any(a in ("-q", "--quiet") for a in argv)
    argv = ["-m" if a == "hydra.mode=MULTIRUN" else a for a in argv]  # Hydra's other word for it
    flags = {flag for flag in (TRUST, DRY_RUN, YES) if flag in argv}
    argv = sorted((a for a in argv if a not in ("-q", "--quiet", *flags)), key=_is_override)  # Hydra wants them so
    resumed = [a.partition("=")[2].strip("'\"") for a in argv if _key(a) == "resume"]
    if resumed and resumed[-1] != "null":
        try:
            return _resume(resumed[-1], [a for a in argv if _key(a) != "resume"], flags)
        except ConfigError as error:
            print(error.text(), file=sys.stderr)
            return USAGE_ERROR
    if TRUST in flags:
        print(f"{TRUST} goes with resume=RUN: what you type yourself needs no more", file=sys.stderr)
        return USAGE_ERROR
    return _start(argv, flags)


def _resume(name: str, rest: Sequence[str], flags: set[str]) -> int:
    """Go on with the sweep or the run of this name."""
    from dlopt.cli.resume_sweep import build_resume_command, find_resumable_sweep
    from dlopt.runner.resume_run import resume

    sweep = find_resumable_sweep(name)
    if sweep is not None:
        return _start(build_resume_command(sweep, rest, trust=TRUST in flags), flags)
    if flags - {TRUST}:
        print(
            f"{', '.join(sorted(flags - {TRUST}))}: {name} is no sweep; what a run has done: dlopt show",
            file=sys.stderr,
        )
        return USAGE_ERROR
    return resume(name, rest, trust=TRUST in flags)


def _start(argv: Sequence[str], flags: Collection[str]) -> int:
    """A new run, or a sweep; argv is what is left for Hydra."""
    from dlopt.config.compose import hydra_callback, nested_options, resolvers
    from dlopt.config.compose.hydra_errors import find_config_folders

    _exit_codes.clear()
    hydra_callback.ready_experiments.clear()
    hydra_callback.planned_configs.clear()
    hydra_callback.held_locks.clear()
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look there: people's own classes
    resolvers.register()
    typed, sys.argv = sys.argv, ["dlopt train", *argv]
    full = hydra_callback.full_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises instead of printing
    try:
        in_full = [nested_options.to_hydra(a, [groups.CONF, *find_config_folders(argv)]) for a in argv]
        sys.argv[1:] = in_full
        if "-m" in argv or "--multirun" in argv:
            return _run_sweep(in_full, argv, flags, full=full)
        hydra_callback.misplaced_keys[:] = [key for key in map(_key, argv) if key.startswith(SWEEP_KEY_PREFIXES)]
        hydra_callback.misplaced_keys += [YES] if YES in flags else []
        hydra_callback.dry_run = DRY_RUN in flags
        code = _compose(in_full, full=full)
        return _print_plan(hydra_callback.planned_configs.pop()) if hydra_callback.planned_configs else code
    finally:
        sys.argv = typed
        hydra_callback.dry_run = False
        if not full:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        for lock in hydra_callback.held_locks:
            lock.release()


def _run_sweep(argv: Sequence[str], typed: Sequence[str], flags: Collection[str], *, full: bool) -> int:
    """A sweep, on its screen."""
    from functools import partial

    from dlopt.cli.resume_sweep import list_resume_flags as flags_to_go_on
    from dlopt.cli.sweep_screen import SweepScreen
    from dlopt.config.compose.hydra_errors import find_config_folders
    from dlopt.rundir import provenance
    from dlopt.runner import execute
    from dlopt.sweep import context

    screen = SweepScreen()
    here = context.current = context.SweepContext(
        command=[a for a in typed if _is_override(a)],
        perform=partial(execute.perform_in_process, stage=screen),
        perform_elsewhere=execute.perform_in_worker,
        screen=screen,
        yes=YES in flags,
        dry_run=DRY_RUN in flags,
    )
    os.environ[provenance.COMMAND_VARIABLE] = provenance.get_command()
    try:
        code = _compose(argv, full=full)
    finally:
        del os.environ[provenance.COMMAND_VARIABLE]
        screen.close()
        context.current = None
    screen.report(here.counts, flags_to_go_on(here.command, find_config_folders(typed)))
    return max(code, FAILED if here.counts is not None and here.counts.by_verdict.get("failed") else DONE)


def _compose(argv: Sequence[str], *, full: bool) -> int:
    """Let Hydra compose, and call for what is to be done; its errors are said in our words."""
    import hydra
    from hydra.errors import HydraException

    from dlopt.config.compose.hydra_errors import explain, format_hydra_error
    from dlopt.config.problems import ConfigError
    from dlopt.sweep import context
    from dlopt.sweep.signals import StorageUnavailable

    try:
        hydra.main(version_base="1.3", config_path=str(groups.CONF), config_name="config")(_task)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE_ERROR if end.code else max(_exit_codes, default=DONE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except ConfigError as error:
        print(error.text(), file=sys.stderr)
        return USAGE_ERROR
    except StorageUnavailable as error:
        print(f"stopped: {error}", file=sys.stderr)
        print("  what is over is kept; the same command goes on once the database answers", file=sys.stderr)
        return FAILED
    except Exception as error:
        if full:
            raise
        if _exit_codes or (context.current is not None and context.current.has_started):
            print(f"stopped: {format_hydra_error(error)}", file=sys.stderr)
            return FAILED
        refused = isinstance(error, (HydraException, ValueError))  # a ValueError where a choice is no name
        problems = explain(argv, error) if refused else [("", format_hydra_error(error))]
        print(ConfigError(problems).text(), file=sys.stderr)
        return USAGE_ERROR
    return max(_exit_codes, default=DONE)


def _task(config: DictConfig) -> None:
    """What Hydra calls for a single run, and for each run of a sweep that a launcher of others' has started."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from dlopt.config.compose import hydra_callback
    from dlopt.runner.execute import perform, perform_in_worker
    from dlopt.sweep import hydra_launcher

    hydra = HydraConfig.get()
    tree: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    job = replace(_make_job(tree, hydra, Path(hydra.runtime.output_dir)), ticket=hydra_launcher.read_ticket(os.environ))
    if str(hydra.mode) != "RunMode.RUN":
        perform_in_worker(job)
        return
    lock = hydra_callback.held_locks.pop()
    _exit_codes.append(FAILED)  # unless it turns out otherwise
    _exit_codes[-1], _ = perform(
        job, lock=lock, built=hydra_callback.ready_experiments.pop() if hydra_callback.ready_experiments else None
    )
    if _exit_codes[-1] == INTERRUPTED:
        raise KeyboardInterrupt


def _make_job(tree: Mapping[str, Any], hydra: Any, path: Path) -> Job:
    """The run that Hydra has composed; tree is its configuration."""
    from dlopt.sweep.compose import Job, get_choices

    return Job(
        path=path,
        title="",
        overrides=tuple(hydra.overrides.task),
        config=tree,
        choices=get_choices(hydra),
        hydra="",
    )


def _print_plan(config: DictConfig) -> int:
    """Say what a single run would be."""
    from omegaconf import OmegaConf

    from dlopt.cli.dry_run import print_run_plan
    from dlopt.config.compose import hydra_callback

    tree = {}
    for key in config:
        if key != "hydra":  # which has values that only a run has
            value = config[key]
            tree[str(key)] = OmegaConf.to_container(value, resolve=True) if OmegaConf.is_config(value) else value
    return print_run_plan(
        _make_job(tree, config.hydra, Path(config.hydra.run.dir)), *hydra_callback.ready_experiments.pop()
    )


def _key(argument: str) -> str:
    return argument.lstrip("+~").partition("=")[0]


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")
