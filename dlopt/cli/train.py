"""dlopt train: hands the command line to Hydra, runs what it composes, and says how it went."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from dlopt.cli.one import DONE, FAILED, INTERRUPTED, USAGE, hparams_of, run_one
from dlopt.config import paths

if TYPE_CHECKING:
    from omegaconf import DictConfig


_codes: list[int] = []


def train(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    import hydra
    from hydra.errors import HydraException

    from dlopt.cli.resume import resume
    from dlopt.config import callback, nested, resolvers
    from dlopt.config.errors import explain, own_folder, said
    from dlopt.config.problems import ConfigError

    _codes.clear()
    callback.ready.clear()
    argv = sorted(argv, key=_is_override)  # Hydra's parser wants flags and overrides each in one piece
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # a console script does not look there: people's own classes
    settings = [(a.lstrip("+").partition("=")[0], a) for a in argv]
    resumed = [a.partition("=")[2].strip("'\"") for key, a in settings if key == "resume"]
    if resumed and resumed[-1] != "null":
        return resume(resumed[-1], [a for key, a in settings if key != "resume"])

    resolvers.register()
    typed, sys.argv = sys.argv, ["dlopt train", *argv]
    full = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # so that Hydra raises instead of printing
    try:
        argv = [nested.in_full(a, [paths.CONF, *own_folder(argv)]) for a in argv]
        sys.argv[1:] = argv
        hydra.main(version_base="1.3", config_path=str(paths.CONF), config_name="config")(_task)()
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else USAGE if end.code else max(_codes, default=DONE)
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        raise
    except Exception as error:
        if full:
            raise
        if _codes:
            print(f"stopped: {said(error)}", file=sys.stderr)
            return FAILED
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

    from dlopt.config import callback, nested
    from dlopt.config.build import build

    hydra = HydraConfig.get()
    path = Path(hydra.runtime.output_dir)
    typed = list(hydra.overrides.task)
    experiment, notices = callback.ready.pop() if callback.ready else build(config, typed)
    choices = {nested.in_short(k): v for k, v in hydra.runtime.choices.items()}
    chosen = {k: v for k, v in choices.items() if not k.startswith("hydra/") and v is not None}
    flat = hparams_of(OmegaConf.to_container(config, resolve=True), chosen)  # type: ignore[arg-type]
    many = str(hydra.mode) == "RunMode.MULTIRUN"
    title = " ".join(map(nested.in_short, typed)) if many else ""
    _codes.append(FAILED)  # unless it turns out otherwise
    code, summary = run_one(experiment, path, flat, notices, title=title, many=many)
    _codes[-1] = code
    if code == INTERRUPTED:
        raise KeyboardInterrupt
    return summary.get(experiment.objective)


def _is_override(argument: str) -> bool:
    return "=" in argument and not argument.startswith("-")
