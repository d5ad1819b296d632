"""dlopt train: hands the command line to Hydra, runs what it composes, and says how it went."""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.config import paths

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlopt.experiment import Experiment

DONE, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130

_codes: list[int] = []


def train(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    import hydra
    from hydra.errors import HydraException

    from dlopt.config import resolvers
    from dlopt.config.errors import explain, said
    from dlopt.config.problems import ConfigError

    _codes.clear()
    argv = sorted(argv, key=_is_override)  # Hydra's parser wants flags and overrides each in one piece
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look there: people's own classes
    resumed = [a.partition("=")[2] for a in argv if a.startswith("resume=") and a != "resume=null"]
    if resumed:
        return _resume(resumed[-1], [a for a in argv if not a.startswith("resume=")])

    resolvers.register()
    typed, sys.argv = sys.argv, ["dlopt train", *argv]
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises instead of printing
    try:
        hydra.main(version_base="1.3", config_path=str(paths.CONF), config_name="config")(_task)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE if end.code else max(_codes, default=DONE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except Exception as error:
        if full:
            raise
        problems = explain(argv, error) if isinstance(error, HydraException) else [("", said(error))]
        print(ConfigError(problems).text(), file=sys.stderr)
        return USAGE
    finally:
        sys.argv = typed
        if not full:
            os.environ.pop("HYDRA_FULL_ERROR", None)
    return max(_codes, default=DONE)


def _task(config: DictConfig) -> float | None:
    """What Hydra calls for each run, inside the run's directory."""
    from hydra.core.hydra_config import HydraConfig
    from omegaconf import OmegaConf

    from dlopt.config import callback
    from dlopt.config.build import build

    hydra = HydraConfig.get()
    path = Path(hydra.runtime.output_dir)
    typed = list(hydra.overrides.task)
    experiment, notices = callback.ready.pop() if callback.ready else build(config, typed)
    chosen = {k: v for k, v in hydra.runtime.choices.items() if not k.startswith("hydra/") and v is not None}
    flat = _hparams(OmegaConf.to_container(config, resolve=True), chosen)  # type: ignore[arg-type]
    many = str(hydra.mode) == "RunMode.MULTIRUN"
    title = " ".join(typed) if many else ""
    code, summary = run_one(experiment, path, flat, notices, title=title, many=many)
    _codes.append(code)
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return summary.get(experiment.objective)


def run_one(
    experiment: Experiment,
    path: Path,
    hparams: dict[str, Any],
    notices: Sequence[str] = (),
    *,
    title: str = "",
    many: bool = False,
    again: bool = False,
) -> tuple[int, dict[str, Any]]:
    """Train one experiment in its directory; returns the exit code and the summary. Nothing is raised."""
    from dlopt.cli.progress import Progress
    from dlopt.run import Run
    from dlopt.train import train as run_loop

    log = logging.getLogger("dlopt")
    for notice in notices:
        log.info(notice)
        print(f"note: {notice}", file=sys.stderr)
    run = Run.create(path, hparams, again=again)
    progress = Progress(title or _shown(path), many=many)
    progress.steps = experiment.settings.steps or 0
    before = {s: signal.signal(s, _stopper(progress)) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        log.info("start in %s", run.path)
        with progress:
            (summary,) = run_loop([experiment], [run], progress)
    except KeyboardInterrupt:
        run.finish("interrupted", message="stopped at once; the last checkpoint is older")
        return INTERRUPTED, {}
    except Exception as error:
        log.exception("failed")
        run.finish("failed", message=f"{type(error).__name__}: {error}")
        print(
            f"the run failed: {type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}\n"
            f"  the traceback is in {_shown(run.log_file)}",
            file=sys.stderr,
        )
        if os.environ.get("DLOPT_TRACEBACK"):
            raise
        return FAILED, {}
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    log.info("%s: %s", summary["status"], summary)
    progress.report(run, summary, _shown(path))
    return (INTERRUPTED if summary["status"] == "interrupted" else DONE), summary


def _resume(name: str, overrides: Sequence[str]) -> int:
    """Go on with a run from its last checkpoint. Its configuration is read from its directory, without Hydra."""
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    from dlopt.config.build import build
    from dlopt.config.problems import ConfigError
    from dlopt.run import RunNotFound, find

    try:
        run = find(name)
        config = OmegaConf.load(run.config_file)
        OmegaConf.set_struct(config, True)
        config.merge_with_dotlist([o for o in overrides if not o.startswith("-")])
        config.resume = str(run.path)
        experiment, notices = build(config, overrides)  # type: ignore[arg-type]
    except RunNotFound as error:
        print(f"resume: {error}", file=sys.stderr)
        return USAGE
    except (ConfigError, OmegaConfBaseException, OSError) as error:
        print(str(error).splitlines()[0] if not isinstance(error, ConfigError) else error.text(), file=sys.stderr)
        return USAGE
    status = run.status["status"]
    if status == "done" and not overrides:
        print(f"{_shown(run.path)} is done; nothing to go on with (epochs=... makes it longer)")
        return DONE
    handler = logging.FileHandler(run.log_file)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    log = logging.getLogger("dlopt")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        hparams = _hparams(OmegaConf.to_container(config, resolve=True), run.choices())  # type: ignore[arg-type]
        return run_one(experiment, run.path, hparams, notices, again=True)[0]
    finally:
        log.removeHandler(handler)
        handler.close()


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")


def _stopper(progress: Any) -> Any:
    """The first signal lets the step under way be the last; a second ends at once."""

    def stop(signum: int, frame: Any) -> None:
        if progress.stop:
            raise KeyboardInterrupt
        progress.stop = True

    return stop


def _hparams(config: dict[str, Any], chosen: dict[str, str]) -> dict[str, Any]:
    """The choices and numbers of a run, flat, as TensorBoard's HPARAMS table shows them."""
    found: dict[str, Any] = {group: option for group, option in chosen.items() if isinstance(option, str)}

    def walk(node: dict[str, Any], prefix: str) -> None:
        for key, value in node.items():
            if isinstance(value, dict):
                walk(value, f"{prefix}{key}.")
            elif not key.startswith("_") and isinstance(value, (bool, int, float, str)):
                found[prefix + key] = value

    walk({k: v for k, v in config.items() if k not in ("hydra", "resume")}, "")
    return found


def _shown(path: Path) -> str:
    """A path as people would type it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except ValueError:
        return str(path)
