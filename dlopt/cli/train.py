"""dlopt train: hands the command line to Hydra, runs what it composes, and says how it went."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.one import DONE, FAILED, INTERRUPTED, USAGE, run_one
from dlopt.config import paths

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlopt.cli.sweep import Sweep


TRUST = "--trust"
_codes: list[int] = []
_sweeps: list[Sweep] = []
"""The multirun under way, if there is one: Hydra calls for each run separately."""


def train(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    from dlopt import provenance, screen
    from dlopt.cli.resume import resume
    from dlopt.config import callback, nested, resolvers
    from dlopt.config.errors import own_folder

    provenance.begin()
    _codes.clear()
    callback.ready.clear()
    callback.held.clear()
    screen.quiet = any(a in ("-q", "--quiet") for a in argv)
    argv = sorted((a for a in argv if a not in ("-q", "--quiet")), key=_is_override)  # Hydra wants each in one piece
    settings = [(a.lstrip("+").partition("=")[0], a) for a in argv]
    resumed = [a.partition("=")[2].strip("'\"") for key, a in settings if key == "resume"]
    if resumed and resumed[-1] != "null":
        return resume(resumed[-1], [a for key, a in settings if key not in ("resume", TRUST)], trust=TRUST in argv)

    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look there: people's own classes
    if TRUST in argv:
        print(f"{TRUST} goes with resume=RUN: what you type yourself needs no more", file=sys.stderr)
        return USAGE

    resolvers.register()
    typed, sys.argv = sys.argv, ["dlopt train", *argv]
    full = callback.full_errors = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises instead of printing
    try:
        argv = [nested.in_full(a, [paths.CONF, *own_folder(argv)]) for a in argv]
        sys.argv[1:] = argv
        return _composed(argv, full=full)
    finally:
        sys.argv = typed
        if not full:
            os.environ.pop("HYDRA_FULL_ERROR", None)
        for sweep in _sweeps:
            sweep.close()
        _sweeps.clear()
        for lock in callback.held:
            lock.release()


def _composed(argv: Sequence[str], *, full: bool) -> int:
    """Let Hydra compose and call for each run; its errors are said in our words."""
    import hydra
    from hydra.errors import HydraException

    from dlopt.config.errors import explain, said
    from dlopt.config.problems import ConfigError

    try:
        hydra.main(version_base="1.3", config_path=str(paths.CONF), config_name="config")(_task)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE if end.code else max(_codes, default=DONE)
    except KeyboardInterrupt:
        for sweep in _sweeps:
            sweep.report()
        return INTERRUPTED
    except BrokenPipeError:
        raise
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
    for sweep in _sweeps:
        sweep.report()
    return max(_codes, default=DONE)


def _task(config: DictConfig) -> float | None:
    """What Hydra calls for each run, inside the run's directory."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from dlopt import durable
    from dlopt.config import callback, nested
    from dlopt.config.build import build
    from dlopt.config.flat import settings_of
    from dlopt.run import Run

    hydra = HydraConfig.get()
    path = Path(hydra.runtime.output_dir)
    typed = list(hydra.overrides.task)
    lock = callback.held.pop() if str(hydra.mode) == "RunMode.RUN" else None
    experiment, notices = callback.ready.pop() if callback.ready else build(config, typed)
    choices = {nested.in_short(k): v for k, v in hydra.runtime.choices.items()}
    chosen = {k: v for k, v in choices.items() if not k.startswith("hydra/") and v is not None}
    content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    settings = settings_of(content, chosen)
    sweep = _sweep(Path(hydra.sweep.dir)) if str(hydra.mode) == "RunMode.MULTIRUN" else None
    _codes.append(FAILED)  # unless it turns out otherwise
    title = sweep.title(map(nested.in_short, typed)) if sweep else ""
    # Hydra has left it with its interpolations, which another environment might resolve to something else.
    durable.replace(path / ".hydra" / "config.yaml", OmegaConf.to_yaml(OmegaConf.create(content)).encode())
    run = Run.create(path, settings, lock, device=experiment.settings.device, threads=experiment.threads)
    code, summary = run_one(experiment, run, notices, title=title, sweep=sweep)
    _codes[-1] = code
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return summary.get(experiment.objective)


def _sweep(folder: Path) -> Sweep:
    """What is seen of the multirun, from its first run on."""
    from dlopt.cli.sweep import Sweep
    from dlopt.config import callback, nested

    if not _sweeps:
        _sweeps.append(Sweep(folder, [[nested.in_short(o) for o in job] for job in callback.jobs]))
    return _sweeps[0]


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")
