"""Check a run that resumes: which keys may change, whether its checkpoint fits, and what breaks exact resumption."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf

from dlopt.base.group import declared_groups
from dlopt.base.layout import Layout
from dlopt.base.schedule import Schedule, TrainingTime
from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import PARAMETER_GROUPS, SCHEDULES, from_hydra
from dlopt.config.compose.static_config import flatten
from dlopt.config.problems import ConfigError, Problems, format_error
from dlopt.config.reopen import load_run
from dlopt.config.schema.renamed_keys import describe_renamed_key
from dlopt.errors import did_you_mean
from dlopt.formatting import format_override
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path
from dlopt.rundir.status import list_processes
from dlopt.storage.safe_read import to_printable
from dlopt.training.batches import count_steps_per_epoch
from dlopt.training.checkpointing import from_plain
from dlopt.training.experiment import Experiment

CHANGEABLE_KEYS = (
    "epochs", "steps", "device", "threads", "deterministic", "log_every", "eval_every", "checkpoint", "clip", SCHEDULES,
    "micro_batch_size", "tolerance", *groups.select_groups("changeable_on_resume"),
)  # fmt: skip
"""Keys that may change when a run resumes. Any other (data, network, seed, batch size) would make it another run."""
BIT_PRESERVING_KEYS = (
    "epochs", "steps", "log_every", "checkpoint", "tolerance", "device", "threads", "deterministic",
    *(name for name, group in declared_groups().items() if not group.affects_training),
)  # fmt: skip
"""Keys that leave the numbers of each step unchanged, as far as a setting can.

Run length, logging interval and determinism have checks of their own. Each process records its device and threads,
which affect rounding.
"""


def merge_overrides(config: DictConfig, arguments: Sequence[str]) -> DictConfig:
    """Return a run's configuration with the overrides applied. Raises ConfigError for those that are not allowed."""
    problems = Problems()
    for argument in arguments:
        key, equals, _ = from_hydra(argument).partition("=")
        top = key.partition(".")[0]
        is_of_group = f"{key}.".startswith(f"{PARAMETER_GROUPS}.")
        if argument.startswith("-") or not equals:
            problems.add(argument, "does not go with resume, which takes KEY=VALUE")
        elif key.startswith(("+", "~")):
            problems.add(key, "keys cannot be added to a resumed run, or removed")
        elif key in groups.list_groups() or key.endswith("._target_") or _is_option(OmegaConf.select(config, key)):
            problems.add(key, "another option cannot be chosen in a resumed run; start a new one")
        elif top not in CHANGEABLE_KEYS and top in config:
            changeable = ", ".join(_list_changeable(config))
            problems.add(key, f"cannot change in a resumed run; start a new one (may change: {changeable})")
        elif is_of_group and (key == PARAMETER_GROUPS or key.endswith((".match", ".frozen"))):
            problems.add(
                key, "cannot change in a resumed run: the weights of a group are fixed; its factors may change"
            )
        elif not is_of_group and OmegaConf.select(config, key, default="???", throw_on_missing=False) == "???":
            parent = OmegaConf.select(config, key.rpartition(".")[0]) if "." in key else config
            names = [str(k) for k in parent if not str(k).startswith("_")] if OmegaConf.is_dict(parent) else []
            unknown = f"there is no such key{did_you_mean(key.rpartition('.')[2], names)}"
            problems.add(key, describe_renamed_key(key, names) or unknown)
        else:
            try:
                config = OmegaConf.merge(config, OmegaConf.from_dotlist([argument]))  # type: ignore[assignment]
            except Exception as error:  # YAML and OmegaConf raise many errors for an invalid value
                problems.add(key, f"cannot be set to this value: {format_error(error)}")
    problems.raise_if_any()
    return config


def _list_changeable(config: DictConfig) -> list[str]:
    """Return what may change when a run of this configuration resumes; KEY.* are the keys below KEY, if it has any."""
    plain: Any = OmegaConf.to_container(config)
    nodes = {key: plain[key] for key in CHANGEABLE_KEYS if key in config}
    return [
        f"{key}.*" if isinstance(node, dict) else key
        for key, node in nodes.items()
        if not isinstance(node, dict) or any(not name.startswith("_") for name, _ in flatten(node))
    ]


def _is_option(node: Any) -> bool:
    """Return whether a node of the configuration is an option of a group."""
    return isinstance(node, Mapping) and "_target_" in node


def check_configuration(run: RunDirectory, status: Mapping[str, Any], *checkpoint_digests: str | None) -> None:
    """Raise ConfigError if a run's configuration is not one that it was started or resumed with.

    checkpoint_digests are the digests of configurations in its checkpoints; status is empty if it is damaged.
    """
    digests = {*checkpoint_digests, *(process.get("config") for process in list_processes(status))} - {None}
    if digests and run.config_digest() not in digests:
        wrong = "differs from the configuration that the run was started with: damaged, or edited since"
        raise ConfigError([("resume", f"{run.config_file} {wrong}; start a new run")])


def check(content: Mapping[str, Any], experiment: Experiment, before: Mapping[str, Any] | None = None) -> None:
    """Raise ConfigError if a checkpoint does not fit network, optimizer or data, or is past the end of the run.

    before is the previous configuration, if it differs.
    """
    check_teacher(content.get("teacher"), experiment)
    load_run.check(content, experiment.model, experiment, "resume", same_data=True)
    state = experiment.optimizer.init(experiment.w.clone(), Layout.of(experiment.model))
    try:
        from_plain(state, content["state"], torch.device("cpu"))
    except Exception as error:
        raise ConfigError([("optimizer", f"cannot resume from its checkpoint: {format_error(error)}")]) from error
    settings, epoch, averaging = experiment.settings, _per_epoch(experiment), experiment.averaging
    length, step = settings.count_steps(epoch), content["step"]
    key = "steps" if settings.steps else "epochs"
    if length < step:
        raise ConfigError([(key, f"makes {length} steps, and {step} are done already")])
    if averaging is not None and before is not None:
        lengths = _count_steps(before, epoch), length
        previous, present = (averaging.first(TrainingTime(step, n, epoch)) for n in lengths)
        if present < step <= previous:
            wrong = f"makes {length} steps, so the average would start at step {present + 1}"
            raise ConfigError([(key, f"{wrong}; {step} are done without it: choose more steps")])


def check_teacher(former: Any, experiment: Experiment) -> None:
    """Raise ConfigError if the teacher has other weights than those that a status or a checkpoint records."""
    if experiment.teacher is None or not isinstance(former, Mapping):
        return
    record = experiment.teacher.record
    if former.get("digest") != record["digest"]:
        steps = f"of step {to_printable(str(former.get('step')))} then, and of step {record['step']} now"
        wrong = f"{display_path(Path(record['path']))} has other weights than those that have guided this run ({steps})"
        raise ConfigError([("distillation.teacher", f"{wrong}: restore that run, or start a new student")])


def find_breaks(status: Mapping[str, Any]) -> list[tuple[int, str]]:
    """Return the steps from which a run differs from an uninterrupted one, and why; the earliest first."""
    pairs = [(process.get("step"), process.get("breaks")) for process in reversed(list_processes(status))]
    recorded = [(step, reasons) for step, reasons in pairs if isinstance(step, int) and isinstance(reasons, list)]
    return [(step, "; ".join(map(str, reasons))) for step, reasons in recorded if reasons]


def diff_configs(before: DictConfig, after: DictConfig) -> dict[str, tuple[str, str]]:
    """Return the changed keys, each with its previous and present value as they would be typed."""
    old, new = (dict(flatten(OmegaConf.to_container(config))) for config in (before, after))  # type: ignore[arg-type]
    differ = [key for key in new if key != "resume" and old.get(key) != new[key]]
    return {key: (format_override(old.get(key)), format_override(new[key])) for key in differ}


def list_breaking_changes(
    changed: Mapping[str, tuple[str, str]],
    before: Mapping[str, Any],
    experiment: Experiment,
    step: int,
    last: Mapping[str, Any] = MappingProxyType({}),
) -> list[str]:
    """Return the changes that make the rest differ from an uninterrupted run with the present settings.

    before is the previous configuration; step is the number of steps done; last is the row of the last evaluation.
    """
    texts = {key: f"{key} {old} -> {new}" for key, (old, new) in changed.items()}
    breaks = [text for key, text in texts.items() if key.partition(".")[0] not in BIT_PRESERVING_KEYS]
    settings, epoch = experiment.settings, _per_epoch(experiment)
    previous, length = _count_steps(before, epoch), settings.count_steps(epoch)
    every = settings.log_every
    if "log_every" in changed and every and step % every != step % (before["log_every"] or epoch):
        breaks.append(f"{texts['log_every']}, and the next row of it covers other steps")
    if "deterministic" in changed and settings.device != "cpu":
        breaks.append(texts["deterministic"])
    if previous != length and step > 0:
        why = f"follows the length of the run, which was {previous} steps and is {length} now"
        schedules = (experiment.schedule, *experiment.schedules.values())
        if not all(_has_same_factors(schedule, previous, length, epoch, step) for schedule in schedules):
            breaks.append(f"the schedule {why}")
        if (averaging := experiment.averaging) is not None:
            firsts = {averaging.first(TrainingTime(0, n, epoch)) for n in (previous, length)}
            if len(firsts) > 1 and step > min(firsts):  # it started where it would not start now
                breaks.append(f"the average {why}")
    has_converged = last.get("step") == step and step % (epoch * before["eval_every"])  # by a tolerance that it had
    goes_on = step < length and not settings.tolerance.describe_reached(last)
    if goes_on and (step == previous or has_converged) and step % (epoch * settings.eval_every):
        breaks.append(f"the evaluation after step {step}, which was the end, is one more")
    return breaks


def _has_same_factors(schedule: Schedule, previous: int, length: int, per_epoch: int, step: int) -> bool:
    """Return whether a schedule gave the same factors at the steps done; at most about 1,000 are compared."""
    sampled = {*range(0, step, 1 + step // 999), step - 1}
    times = ([TrainingTime(t, n, per_epoch) for n in (previous, length)] for t in sampled)
    return all(schedule(old) == schedule(new) for old, new in times)


def _count_steps(config: Mapping[str, Any], per_epoch: int) -> int:
    """Return the number of steps of a run of this configuration."""
    return int(config["steps"] or config["epochs"] * per_epoch)


def _per_epoch(experiment: Experiment) -> int:
    count = len(experiment.train)
    return count_steps_per_epoch(count, experiment.settings.resolve_batch_size(count), drop_last=experiment.drop_last)
