"""A run that goes on: what may be set anew, what its checkpoint must agree with, and what is no longer as it was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dlopt.base.averaging import Averaging
from dlopt.base.layout import Layout
from dlopt.base.schedule import Schedule, Time
from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import in_short
from dlopt.config.compose.static_config import flat
from dlopt.config.problems import ConfigError, Problems, named
from dlopt.config.reopen import load_run
from dlopt.errors import nearest
from dlopt.formatting import written
from dlopt.rundir.directory import Run, processes
from dlopt.training.batches import per_epoch
from dlopt.training.checkpointing import restored
from dlopt.training.experiment import Experiment, Settings

MAY_CHANGE = (
    "epochs", "steps", "device", "threads", "deterministic", "log_every", "eval_every", "checkpoint",
    "clip", "optimizer", "schedule", "schedules", "regularization", "augmentation", "diagnostic",
)  # fmt: skip
"""What can be set anew. Anything else (the data, the net, the seed, the batches) would make it another run."""
SAME_BITS = ("epochs", "steps", "log_every", "checkpoint", "diagnostic", "device", "threads", "deterministic")
"""What leaves the numbers of each step as they are, as far as a setting can. Lengths, the rhythm of rows and
determinism are looked at on their own; what a device or a number of threads does to rounding is told by what the
processes say of themselves."""


def merged(config: DictConfig, arguments: Sequence[str]) -> DictConfig:
    """A run's configuration with what is set anew; ConfigError names what cannot be."""
    problems = Problems()
    for argument in arguments:
        key, equals, _ = in_short(argument).partition("=")
        top = key.partition(".")[0]
        if argument.startswith("-") or not equals:
            problems.add(argument, "does not go with resume, which takes KEY=VALUE")
        elif key.startswith(("+", "~")):
            problems.add(key, "nothing can be added to a run that goes on, or taken away")
        elif key in groups.groups() or key.endswith("._target_") or _is_option(OmegaConf.select(config, key)):
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
            try:
                config = OmegaConf.merge(config, OmegaConf.from_dotlist([argument]))  # type: ignore[assignment]
            except Exception as error:  # what YAML and OmegaConf make of a value that is none
                problems.add(key, f"cannot be set so: {named(error)}")
    problems.raise_any()
    return config


def _is_option(node: Any) -> bool:
    """Whether a part of the configuration is an option of a group."""
    return isinstance(node, Mapping) and "_target_" in node


def check_configuration(run: Run, status: Mapping[str, Any], *known: str | None) -> None:
    """ConfigError where a run's configuration is none that it was started or gone on with, as far as its files tell.

    known are the digests of configurations that checkpoints name; status is empty where it is damaged.
    """
    told = {*known, *(process.get("config") for process in processes(status))} - {None}
    if told and run.config_digest() not in told:
        said = f"{run.config_file} is not what the run was started with: damaged, or edited since; start a new run"
        raise ConfigError([("resume", said)])


def check(content: Mapping[str, Any], experiment: Experiment, before: Mapping[str, Any] | None = None) -> None:
    """ConfigError where a checkpoint is not one of this network, rule and data, or lies behind the end.

    before is the former configuration, where it was another.
    """
    load_run.check(content, experiment, "resume", same_data=True)
    state = experiment.optimizer.init(experiment.w.clone(), Layout.of(experiment.model))
    try:
        restored(state, content["state"], torch.device("cpu"))
    except Exception as error:
        raise ConfigError([("optimizer", f"cannot go on from its checkpoint: {named(error)}")]) from error
    settings, epoch, averaging = experiment.settings, _per_epoch(experiment), experiment.averaging
    length, step = settings.length(epoch), content["step"]
    key = "steps" if settings.steps else "epochs"
    if length < step:
        raise ConfigError([(key, f"makes {length} steps, and {step} are done already")])
    if averaging is not None and before is not None:
        former, present = (averaging.first(Time(step, n, epoch)) for n in (_length(before, epoch), length))
        if present < step <= former:
            said = f"makes {length} steps, where the average would take in all from step {present + 1} on"
            raise ConfigError([(key, f"{said}; {step} are done without it: make more of them")])


def broken(status: Mapping[str, Any]) -> list[tuple[int, str]]:
    """From which steps on a run was no longer what an uninterrupted one would be, and why; the earliest first."""
    told = [(process.get("step"), process.get("breaks")) for process in reversed(processes(status))]
    return [
        (step, "; ".join(map(str, why)))
        for step, why in told
        if isinstance(step, int) and isinstance(why, list) and why
    ]


def changes(before: DictConfig, after: DictConfig) -> dict[str, tuple[str, str]]:
    """The keys that are set anew, with the former and the present value as they are typed."""
    old, new = (dict(flat(OmegaConf.to_container(config))) for config in (before, after))  # type: ignore[arg-type]
    differ = [key for key in new if key != "resume" and old.get(key) != new[key]]
    return {key: (written(old.get(key)), written(new[key])) for key in differ}


def breaking(
    changed: Mapping[str, tuple[str, str]], before: Mapping[str, Any], experiment: Experiment, step: int
) -> list[str]:
    """What of these changes makes the rest another run than an uninterrupted one with the present settings would be.

    before is the former configuration, step how many steps are done.
    """
    found = [f"{key} {old} -> {new}" for key, (old, new) in changed.items() if key.partition(".")[0] not in SAME_BITS]
    length, epoch = experiment.settings.length(_per_epoch(experiment)), _per_epoch(experiment)
    former = _length(before, epoch)
    if "log_every" in changed and step % epoch:
        old, new = changed["log_every"]
        found.append(f"log_every {old} -> {new}, and the next row covers other steps")
    if "deterministic" in changed and experiment.settings.device != "cpu":
        old, new = changed["deterministic"]
        found.append(f"deterministic {old} -> {new}")
    if former != length and step > 0:
        schedules = (experiment.schedule, *experiment.schedules.values())
        if not all(_same_course(schedule, former, length, epoch, step) for schedule in schedules):
            found.append(f"the schedule follows the length of the run, which was {former} steps and is {length} now")
        if not _same_average(experiment.averaging, former, length, epoch, step):
            found.append(f"the average follows the length of the run, which was {former} steps and is {length} now")
        if step == former and step % (epoch * experiment.settings.eval_every):
            found.append(f"the evaluation after step {step}, which was the end, is one more")
    return found


def _same_course(schedule: Schedule, former: int, length: int, per_epoch: int, step: int) -> bool:
    """Whether the rate was the same at the steps done, of which no more than a thousand are looked at."""
    some = {*range(0, step, 1 + step // 999), step - 1}
    return all(schedule(Time(t, former, per_epoch)) == schedule(Time(t, length, per_epoch)) for t in some)


def _same_average(averaging: Averaging | None, former: int, length: int, per_epoch: int, step: int) -> bool:
    """Whether the average of the steps done, if there is one yet, began where it does now."""
    firsts = {0 if averaging is None else averaging.first(Time(0, n, per_epoch)) for n in (former, length)}
    return len(firsts) == 1 or step <= min(firsts)


def _length(config: Mapping[str, Any], per_epoch: int) -> int:
    """The steps of a run of this configuration."""
    return int(config["steps"] or config["epochs"] * per_epoch)


def _per_epoch(experiment: Experiment) -> int:
    settings: Settings = experiment.settings
    count = len(experiment.train)
    return per_epoch(count, settings.batch(count), drop_last=experiment.drop_last)
