"""dlopt train resume=RUN: go on with a run from its last checkpoint.

Its configuration is read from its directory, without Hydra, which would overwrite what is there.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, Sequence
from typing import Any

MAY_CHANGE = (
    "epochs", "steps", "device", "threads", "deterministic", "log_every", "eval_every", "checkpoint",
    "optimizer", "schedule", "regularization", "augmentation", "diagnostic",
)  # fmt: skip
"""What can be set anew. Anything else (the data, the net, the seed, the batches) would make it another run."""


def resume(name: str, arguments: Sequence[str]) -> int:
    """The command; returns the exit code."""
    from dlopt.cli.one import DONE, USAGE, run_one
    from dlopt.cli.places import as_typed
    from dlopt.config.build import build
    from dlopt.config.flat import settings_of
    from dlopt.config.problems import ConfigError, named
    from dlopt.run import RunNotFound, find, replace_file

    trust = "--trust" in arguments
    arguments = [a for a in arguments if a != "--trust"]
    try:
        run = find(name)
        status = run.status["status"]
        config = merged(run, arguments, trust=trust)
        if status == "done" and not arguments:
            print(f"{as_typed(run.path)} is done; nothing to go on with (epochs=... makes it longer)")
            return DONE
        experiment, notices = build(config, arguments)
        check(run, experiment)
        choices = run.choices()
    except RunNotFound as error:
        print(f"resume: {error}", file=sys.stderr)
        return USAGE
    except ConfigError as error:
        print(error.text(), file=sys.stderr)
        return USAGE
    except Exception as error:  # a damaged file fails in a dozen ways
        print(f"resume: {name} cannot be read ({named(error)})", file=sys.stderr)
        return USAGE
    from omegaconf import OmegaConf

    if arguments:  # so that the next resume, and whoever reads the configuration, know of them
        kept = OmegaConf.to_yaml(OmegaConf.merge(config, {"resume": None}))
        replace_file(run.config_file, kept.encode())
    handler = logging.FileHandler(run.log_file)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    log = logging.getLogger("dlopt")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    log.info("resume %s", " ".join(arguments))
    if not run.checkpoint("last").exists():
        print("note: it has no checkpoint yet, so it begins anew", file=sys.stderr)
    try:
        content: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
        return run_one(experiment, run.path, settings_of(content, choices), notices, again=True)[0]
    finally:
        log.removeHandler(handler)
        handler.close()


def merged(run: Any, arguments: Sequence[str], *, trust: bool = False) -> Any:
    """The run's configuration with what is set anew; ConfigError names what cannot be."""
    from omegaconf import OmegaConf

    from dlopt.config import paths
    from dlopt.config.nested import in_short
    from dlopt.config.problems import Problems
    from dlopt.config.reopen import configuration, writable
    from dlopt.mistakes import nearest

    problems = Problems()
    if run.alive:
        problems.add("resume", f"{run.path} is still running (process {run.status['pid']})")
    writable(run)
    config: Any = configuration(run, trust=trust)
    for argument in arguments:
        key, equals, _ = in_short(argument).partition("=")
        top = key.partition(".")[0]
        if argument.startswith("-") or not equals:
            problems.add(argument, "does not go with resume, which takes KEY=VALUE")
        elif key.startswith(("+", "~")):
            problems.add(key, "nothing can be added to a run that goes on, or taken away")
        elif key in paths.groups() or key.endswith("._target_") or _is_option(OmegaConf.select(config, key)):
            problems.add(key, "another option cannot be chosen in a run that goes on; start a new one")
        elif top not in MAY_CHANGE and top in config:
            problems.add(
                key, f"cannot change in a run that goes on; start a new one (may change: {', '.join(MAY_CHANGE)})"
            )
        elif OmegaConf.select(config, key, default="???", throw_on_missing=False) == "???":
            above = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
            names = [str(k) for k in above if not str(k).startswith("_")] if OmegaConf.is_dict(above) else []
            problems.add(key, f"there is no such key{nearest(key.rpartition('.')[2], names)}")
        else:
            config = OmegaConf.merge(config, OmegaConf.from_dotlist([argument]))
    problems.raise_any()
    config.resume = str(run.path)
    return config


def _is_option(node: Any) -> bool:
    """Whether a part of the configuration is an option of a group."""
    return isinstance(node, Mapping) and "_target_" in node


def check(run: Any, experiment: Any) -> None:
    """Whether the last checkpoint is one of this network, this rule and these data, and where it can go on to."""
    import torch

    from dlopt.batches import per_epoch
    from dlopt.checkpoint import restored
    from dlopt.config import reopen
    from dlopt.config.problems import ConfigError, named
    from dlopt.weights import Layout

    if not run.checkpoint("last").exists():
        if run.status["status"] == "done":
            raise ConfigError([("resume", f"{run.path} is done, and its checkpoint is gone; start a new run")])
        return
    content, rows = run.load("last"), run.rows()
    for row in rows:
        if not isinstance(row.get("step"), int) or not all(
            v is None or isinstance(v, (int, float)) for v in row.values()
        ):
            raise ValueError(f"{run.metrics_file} holds a line that is no row")
    if content["best_step"] not in (None, *(row["step"] for row in rows)):
        raise ValueError(f"{run.metrics_file} lacks the row of step {content['best_step']}, the best")
    reopen.check(content, experiment, "resume", same_data=True)
    state = experiment.optimizer.init(experiment.w.clone(), Layout.of(experiment.model))
    try:
        restored(state, content["state"], torch.device("cpu"))
    except Exception as error:
        raise ConfigError([("optimizer", f"cannot go on from its checkpoint: {named(error)}")]) from error
    settings, count = experiment.settings, len(experiment.train)
    length = settings.length(per_epoch(count, settings.batch(count), drop_last=experiment.drop_last))
    if length < content["step"]:
        key = "steps" if settings.steps else "epochs"
        raise ConfigError([(key, f"makes {length} steps, and {content['step']} are done already")])
