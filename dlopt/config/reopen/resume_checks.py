"""Check a run that resumes: which keys may change, whether its checkpoint fits, and what breaks exact resumption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dlopt.base.group import declared_groups
from dlopt.base.layout import Layout
from dlopt.base.optimizer import Averaging
from dlopt.base.schedule import Schedule, TrainingTime
from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import SCHEDULES, from_hydra
from dlopt.config.compose.static_config import flatten
from dlopt.config.problems import ConfigError, Problems, format_error
from dlopt.config.reopen import load_run
from dlopt.config.schema.renamed_keys import describe_renamed_key
from dlopt.errors import did_you_mean
from dlopt.formatting import format_override
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.status import list_processes
from dlopt.training.batches import count_steps_per_epoch
from dlopt.training.checkpointing import from_plain
from dlopt.training.experiment import Experiment, Settings

CHANGEABLE_KEYS = (
    "epochs", "steps", "device", "threads", "deterministic", "log_every", "eval_every", "checkpoint", "clip", SCHEDULES,
    *groups.select_groups("changeable_on_resume"),
)  # fmt: skip
"""What may change when a run resumes. Anything else (data, network, seed, batch size) would make it another run."""
BIT_PRESERVING_KEYS = (
    "epochs", "steps", "log_every", "checkpoint", "device", "threads", "deterministic",
    *(name for name, group in declared_groups().items() if not group.affects_training),
)  # fmt: skip
"""Keys that leave the numbers of each step unchanged, as far as a setting can.

Run length, logging interval and determinism have checks of their own. The effect of the device and of the number of
threads on rounding is judged by what each process has recorded.
"""


def merge_overrides(config: DictConfig, arguments: Sequence[str]) -> DictConfig:
    """Return a run's configuration with the overrides applied. Raises ConfigError for those that are not allowed."""
    problems = Problems()
    for argument in arguments:
        key, equals, _ = from_hydra(argument).partition("=")
        top = key.partition(".")[0]
        if argument.startswith("-") or not equals:
            problems.add(argument, "does not go with resume, which takes KEY=VALUE")
        elif key.startswith(("+", "~")):
            problems.add(key, "nothing can be added to a run that goes on, or taken away")
        elif key in groups.list_groups() or key.endswith("._target_") or _is_option(OmegaConf.select(config, key)):
            problems.add(key, "another option cannot be chosen in a run that goes on; start a new one")
        elif top not in CHANGEABLE_KEYS and top in config:
            problems.add(
                key, f"cannot change in a run that goes on; start a new one (may change: {', '.join(CHANGEABLE_KEYS)})"
            )
        elif OmegaConf.select(config, key, default="???", throw_on_missing=False) == "???":
            above = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
            names = [str(k) for k in above if not str(k).startswith("_")] if OmegaConf.is_dict(above) else []
            unknown = f"there is no such key{did_you_mean(key.rpartition('.')[2], names)}"
            problems.add(key, describe_renamed_key(key, names) or unknown)
        else:
            try:
                config = OmegaConf.merge(config, OmegaConf.from_dotlist([argument]))  # type: ignore[assignment]
            except Exception as error:  # YAML and OmegaConf raise many errors for an invalid value
                problems.add(key, f"cannot be set so: {format_error(error)}")
    problems.raise_if_any()
    return config


def _is_option(node: Any) -> bool:
    """Whether a node of the configuration is an option of a group."""
    return isinstance(node, Mapping) and "_target_" in node


def check_configuration(run: RunDirectory, status: Mapping[str, Any], *known: str | None) -> None:
    """Raise ConfigError if a run's configuration is not one that it was started or resumed with.

    known are the digests of configurations in its checkpoints; status is empty if it is damaged.
    """
    told = {*known, *(process.get("config") for process in list_processes(status))} - {None}
    if told and run.config_digest() not in told:
        said = f"{run.config_file} is not what the run was started with: damaged, or edited since; start a new run"
        raise ConfigError([("resume", said)])


def check(content: Mapping[str, Any], experiment: Experiment, before: Mapping[str, Any] | None = None) -> None:
    """Raise ConfigError if a checkpoint does not fit network, optimizer or data, or is past the end of the run.

    before is the former configuration, if it differs.
    """
    load_run.check(content, experiment.model, experiment, "resume", same_data=True)
    state = experiment.optimizer.init(experiment.w.clone(), Layout.of(experiment.model))
    try:
        from_plain(state, content["state"], torch.device("cpu"))
    except Exception as error:
        raise ConfigError([("optimizer", f"cannot go on from its checkpoint: {format_error(error)}")]) from error
    settings, epoch, averaging = experiment.settings, _per_epoch(experiment), experiment.averaging
    length, step = settings.count_steps(epoch), content["step"]
    key = "steps" if settings.steps else "epochs"
    if length < step:
        raise ConfigError([(key, f"makes {length} steps, and {step} are done already")])
    if averaging is not None and before is not None:
        former, present = (averaging.first(TrainingTime(step, n, epoch)) for n in (_count_steps(before, epoch), length))
        if present < step <= former:
            said = f"makes {length} steps, where the average would take in all from step {present + 1} on"
            raise ConfigError([(key, f"{said}; {step} are done without it: make more of them")])


def find_breaks(status: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the steps from which a run differs from an uninterrupted one, and why; the earliest first."""
    told = [(process.get("step"), process.get("breaks")) for process in reversed(list_processes(status))]
    return [
        (step, "; ".join(map(str, why)))
        for step, why in told
        if isinstance(step, int) and isinstance(why, list) and why
    ]


def diff_configs(before: DictConfig, after: DictConfig) -> dict[str, tuple[str, str]]:
    """The keys that are set anew, with the former and the present value as they are typed."""
    old, new = (dict(flatten(OmegaConf.to_container(config))) for config in (before, after))  # type: ignore[arg-type]
    differ = [key for key in new if key != "resume" and old.get(key) != new[key]]
    return {key: (format_override(old.get(key)), format_override(new[key])) for key in differ}


def list_breaking_changes(
    changed: Mapping[str, tuple[str, str]], before: Mapping[str, Any], experiment: Experiment, step: int
) -> list[str]:
    """Return the changes that make the rest differ from an uninterrupted run with the present settings.

    before is the former configuration; step is the number of steps done.
    """
    found = [
        f"{key} {old} -> {new}"
        for key, (old, new) in changed.items()
        if key.partition(".")[0] not in BIT_PRESERVING_KEYS
    ]
    length, epoch = experiment.settings.count_steps(_per_epoch(experiment)), _per_epoch(experiment)
    former = _count_steps(before, epoch)
    if "log_every" in changed and step % epoch:
        old, new = changed["log_every"]
        found.append(f"log_every {old} -> {new}, and the next row covers other steps")
    if "deterministic" in changed and experiment.settings.device != "cpu":
        old, new = changed["deterministic"]
        found.append(f"deterministic {old} -> {new}")
    if former != length and step > 0:
        schedules = (experiment.schedule, *experiment.schedules.values())
        if not all(_has_same_factors(schedule, former, length, epoch, step) for schedule in schedules):
            found.append(f"the schedule follows the length of the run, which was {former} steps and is {length} now")
        if not _has_same_average_start(experiment.averaging, former, length, epoch, step):
            found.append(f"the average follows the length of the run, which was {former} steps and is {length} now")
        if step == former and step % (epoch * experiment.settings.eval_every):
            found.append(f"the evaluation after step {step}, which was the end, is one more")
    return found


def _has_same_factors(schedule: Schedule, former: int, length: int, per_epoch: int, step: int) -> bool:
    """Whether a schedule gave the same factors at the steps done; at most about 1,000 are compared."""
    some = {*range(0, step, 1 + step // 999), step - 1}
    return all(
        schedule(TrainingTime(t, former, per_epoch)) == schedule(TrainingTime(t, length, per_epoch)) for t in some
    )


def _has_same_average_start(averaging: Averaging | None, former: int, length: int, per_epoch: int, step: int) -> bool:
    """Whether averaging, if it has started, started where it would now."""
    firsts = {0 if averaging is None else averaging.first(TrainingTime(0, n, per_epoch)) for n in (former, length)}
    return len(firsts) == 1 or step <= min(firsts)


def _count_steps(config: Mapping[str, Any], per_epoch: int) -> int:
    """Return the number of steps of a run of this configuration."""
    return int(config["steps"] or config["epochs"] * per_epoch)


def _per_epoch(experiment: Experiment) -> int:
    settings: Settings = experiment.settings
    count = len(experiment.train)
    return count_steps_per_epoch(count, settings.resolve_batch_size(count), drop_last=experiment.drop_last)
