"""dlopt train: hands the command line to Hydra, runs what it composes, and says how it went."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlopt.cli.one import DONE, FAILED, INTERRUPTED, USAGE
from dlopt.config import paths

if TYPE_CHECKING:
    from omegaconf import DictConfig


TRUST = "--trust"
DRY_RUN = "--dry-run"
YES = "--yes"
_codes: list[int] = []
"""How the runs ended that Hydra has called for."""


def train(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    from dlopt import provenance, screen
    from dlopt.cli.continued import continued, goes_on
    from dlopt.cli.resume import resume
    from dlopt.config import callback, nested, resolvers
    from dlopt.config.errors import own_folder
    from dlopt.config.problems import ConfigError

    provenance.begin()
    _codes.clear()
    callback.ready.clear()
    callback.held.clear()
    screen.quiet = any(a in ("-q", "--quiet") for a in argv)
    flags = {flag for flag in (TRUST, DRY_RUN, YES) if flag in argv}
    argv = sorted((a for a in argv if a not in ("-q", "--quiet", *flags)), key=_is_override)  # Hydra wants them so
    settings = [(a.lstrip("+").partition("=")[0], a) for a in argv]
    resumed = [a.partition("=")[2].strip("'\"") for key, a in settings if key == "resume"]
    if resumed and resumed[-1] != "null":
        rest = [a for key, a in settings if key != "resume"]
        sweep = continued(resumed[-1])
        if sweep is None:
            return resume(resumed[-1], rest, trust=TRUST in flags)
        try:
            argv = goes_on(sweep, rest, trust=TRUST in flags)
        except ConfigError as error:
            print(error.text(), file=sys.stderr)
            return USAGE
    elif TRUST in flags:
        print(f"{TRUST} goes with resume=RUN: what you type yourself needs no more", file=sys.stderr)
        return USAGE

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look there: people's own classes
    resolvers.register()
    typed, sys.argv = sys.argv, ["dlopt train", *argv]
    full = callback.full_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises instead of printing
    try:
        short = argv
        argv = [nested.in_full(a, [paths.CONF, *own_folder(argv)]) for a in argv]
        sys.argv[1:] = argv
        if "-m" in argv or "--multirun" in argv:
            return _search(argv, short, flags, full=full)
        return _composed(argv, full=full)
    finally:
        sys.argv = typed
        if not full:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        for lock in callback.held:
            lock.release()


def _search(argv: Sequence[str], typed: Sequence[str], flags: Collection[str], *, full: bool) -> int:
    """A sweep, on its screen."""
    from functools import partial

    from dlopt import provenance
    from dlopt.cli import job
    from dlopt.cli.sweep import Sweep
    from dlopt.sweep import session

    screen = Sweep()
    here = session.current = session.Session(
        command=[a for a in typed if _is_override(a)],
        perform=partial(job.here, stage=screen),
        elsewhere=job.elsewhere,
        screen=screen,
        yes=YES in flags,
        dry_run=DRY_RUN in flags,
    )
    os.environ[provenance.COMMAND] = provenance.command()
    try:
        code = _composed(argv, full=full)
    finally:
        del os.environ[provenance.COMMAND]
        screen.close()
        session.current = None
    if here.counts is None:
        return code
    screen.report(here.counts)
    return max(code, FAILED if here.counts.ended.get("failed") else DONE)


def _composed(argv: Sequence[str], *, full: bool) -> int:
    """Let Hydra compose, and call for what is to be done; its errors are said in our words."""
    import hydra
    from hydra.errors import HydraException

    from dlopt.config.errors import explain, said
    from dlopt.config.problems import ConfigError
    from dlopt.sweep.stopping import Away

    try:
        hydra.main(version_base="1.3", config_path=str(paths.CONF), config_name="config")(_task)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE if end.code else max(_codes, default=DONE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except ConfigError as error:
        print(error.text(), file=sys.stderr)
        return USAGE
    except Away as error:
        print(f"stopped: {error}", file=sys.stderr)
        print("  what is over is kept; the same command goes on once the database answers", file=sys.stderr)
        return FAILED
    except Exception as error:
        if full:
            raise
        if _codes:
            print(f"stopped: {said(error)}", file=sys.stderr)
            return FAILED
        refused = isinstance(error, (HydraException, ValueError))  # a ValueError where a choice is no name
        problems = explain(argv, error) if refused else [("", said(error))]
        print(ConfigError(problems).text(), file=sys.stderr)
        return USAGE
    return max(_codes, default=DONE)


def _task(config: DictConfig) -> None:
    """What Hydra calls for a single run, and for each run of a sweep that a launcher of others' has started."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from dlopt.cli.job import elsewhere, perform
    from dlopt.config import callback, nested
    from dlopt.sweep import launched
    from dlopt.sweep.jobs import Job

    hydra = HydraConfig.get()
    single = str(hydra.mode) == "RunMode.RUN"
    choices = {nested.in_short(k): v for k, v in hydra.runtime.choices.items()}
    job = Job(
        path=Path(hydra.runtime.output_dir),
        title="",
        overrides=tuple(hydra.overrides.task),
        config=OmegaConf.to_container(config, resolve=True),  # type: ignore[arg-type]
        choices={k: v for k, v in choices.items() if not k.startswith("hydra/") and v is not None},
        hydra="",
        ticket=launched.ticket(os.environ),
    )
    if not single:
        elsewhere(job)
        return
    lock = callback.held.pop()
    _codes.append(FAILED)  # unless it turns out otherwise
    _codes[-1], _ = perform(job, lock=lock, built=callback.ready.pop() if callback.ready else None)
    if _codes[-1] == INTERRUPTED:
        raise KeyboardInterrupt


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")
