"""dlopt train resume=RUN: resume a run from its last checkpoint.

The configuration is read from the run's directory without Hydra, which would overwrite the files there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from dlopt.rundir.directory import Checkpoint, RunDirectory
    from dlopt.rundir.lock import Holder
    from dlopt.rundir.writer import RunWriter
    from dlopt.runner.observer import Observer
    from dlopt.training.experiment import Experiment


def resume(name: str, arguments: Sequence[str], observer: Observer, *, trust: bool) -> int:
    """Resume the run of this name with changed settings. Return the exit code."""
    from dlopt.runner.open_run import open_run

    return open_run(
        "resume", name, lambda run: resume_run(run, arguments, observer, trust), trust=trust, takes_sweep=False
    )


def resume_run(
    opened: RunDirectory, arguments: Sequence[str], observer: Observer, trust: bool, command: str | None = None
) -> int:
    """Resume a run that is open with changed settings. Return the exit code. command: recorded in place of this one."""
    from dlopt.config.reopen import load_run, resume_checks
    from dlopt.rundir.writer import RunWriter
    from dlopt.runner.execute import DONE

    run = RunWriter(opened.path, follow_links=trust)
    load_run.check_writable(run.path)
    former = load_run.load_config(run, trust=trust)
    config = resume_checks.merge_overrides(former, arguments)
    status = run.status_or_none()
    if status is not None and status["status"] == "done" and not resume_checks.diff_configs(former, config):
        advice = _explain_how_to_extend(run.summary, config)
        print(f"{display_path(run.path)} is done; there is nothing to resume{advice}")
        return DONE

    def notify(holder: Holder) -> None:
        print(f"waiting a minute for a heartbeat of {holder}, which wrote this run last ...", file=sys.stderr)

    run.lock.acquire(notify)
    try:
        return _resume_locked(run, arguments, observer, status, former, config, command)
    finally:
        run.lock.release()


def _resume_locked(
    run: RunWriter,
    arguments: Sequence[str],
    observer: Observer,
    status: Mapping[str, Any] | None,
    former: DictConfig,
    config: DictConfig,
    command: str | None,
) -> int:
    """Resume a run whose lock this process holds, with the configuration `config` in place of `former`."""
    from omegaconf import OmegaConf

    from dlopt import console
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen import resume_checks

    if run.status_or_none() != status:
        raise ConfigError(
            [("resume", "another process has just changed this run; look at it, then run the command again")]
        )
    changed = resume_checks.diff_configs(former, config)
    checkpoint = _find_checkpoint(run, status)
    state = None if checkpoint is None else checkpoint.content
    resume_checks.check_configuration(run, status or {}, (state or {}).get("config"))
    experiment, notices = build_from(config, arguments, state)
    resume_checks.check_teacher((status or {}).get("teacher"), experiment)
    step = 0 if state is None else state["step"]
    breaks: list[str] = []
    if state is not None:
        before: Mapping[str, Any] = OmegaConf.to_container(former)  # type: ignore[assignment]
        resume_checks.check(state, experiment, before)
        breaks = resume_checks.list_breaking_changes(changed, before, experiment, step, json.loads(state["row"]))
    for at, why in [*resume_checks.find_breaks(status or {}), *([(step, "; ".join(breaks))] if breaks else [])]:
        notices.append(f"from step {at} on this run differs from an uninterrupted one: {why}")
    content = OmegaConf.to_yaml(config).encode() if changed else None  # for the next resume
    changes = [f"{key} {old} -> {new}" for key, (old, new) in changed.items()]
    settings = _settings(status, state, config)
    record = {"settings": settings, "changes": changes, "breaks": breaks, "config": content, "command": command}
    if checkpoint is None:
        notices.append("the run has no checkpoint yet, so it starts again from step 0")
    elif not console.quiet:
        print(f"{display_path(run.path)} resumes after step {step}")
    return run_from(run, checkpoint, experiment, observer, notices, record, " ".join(arguments))[0]


def build_from(
    config: Mapping[str, Any], overrides: Sequence[str], state: Mapping[str, Any] | None
) -> tuple[Experiment, list[str]]:
    """Return an experiment with the network and the statistics of the data of a checkpoint, if any, and its notices."""
    from dlopt.config.build import build
    from dlopt.config.checks.splits import FittedDataState

    if state is None:
        return build(config, overrides)
    fitted = FittedDataState(None, state["encoding"], is_other_data=False)
    return build(config, overrides, fitted, state["model"])


def run_from(
    run: RunWriter,
    checkpoint: Checkpoint | None,
    experiment: Experiment,
    observer: Observer,
    notices: list[str],
    record: Mapping[str, Any],
    label: str = "",
) -> tuple[int, dict[str, Any]]:
    """Roll a run back to its checkpoint, and run it from there. Return the exit code and the summary.

    record: what RunWriter.resume records of this process.
    """
    from dlopt.rundir import provenance
    from dlopt.runner.execute import log_to_run, run_one

    status = run.status_or_none()
    state = None if checkpoint is None else checkpoint.content
    warnings = _roll_back(run, checkpoint)  # from here on the directory changes
    run.resume(0 if state is None else state["step"], **record, **experiment.describe_run())
    if status is None:
        warnings.append(f"{run.status_file.name} was damaged; it is rewritten")
    elif state is not None:
        different = provenance.describe_differences(status, run.status)
        notices += [f"the same bits are not promised: {'; '.join(different)}"] if different else []
    for warning in warnings:
        print(f"warning: {to_printable(warning)}", file=sys.stderr)
    with log_to_run(run) as log:
        if label:
            log.info("resume %s", label)
        for warning in warnings:
            log.warning(warning)
        return run_one(experiment, run, observer, notices, state=state)


def _explain_how_to_extend(summary: Mapping[str, Any], config: Any) -> str:
    """Say how to make a finished run longer, or that it ended early."""
    steps, epochs = summary.get("step"), summary.get("epoch")
    short = (steps or 0) < config.steps if config.steps else (epochs or 0) < config.epochs
    ended = f"{summary['ended_by']} ended it" if "ended_by" in summary else "it stopped early,"
    return f": {ended} after step {steps}" if short and steps else " (epochs=... makes it longer)"


def _find_checkpoint(run: RunDirectory, status: Mapping[str, Any] | None) -> Checkpoint | None:
    """Return the checkpoint to resume from, or None if an unfinished run has none."""
    from dlopt.config.problems import ConfigError

    try:
        checkpoint = run.latest_checkpoint()
    except ValueError as error:
        folder = display_path(run.checkpoint("last").parent)
        message = f"no checkpoint can be read ({error}); to start again from step 0, remove {folder}"
        raise ConfigError([("resume", message)]) from error
    if checkpoint is None and status is not None and status["status"] == "done":
        raise ConfigError(
            [("resume", f"{display_path(run.path)} is done, and its checkpoint is gone; start a new run")]
        )
    return checkpoint


def _settings(status: Mapping[str, Any] | None, state: Mapping[str, Any] | None, config: Any) -> dict[str, Any]:
    """Return the settings from now on: the chosen options, and each key as it is configured now.

    The options come from the checkpoint, which has a checksum, or else from the status.
    """
    from omegaconf import OmegaConf

    from dlopt.config.compose.flatten import filter_plain_settings, flatten_settings

    sources = [filter_plain_settings((source or {}).get("settings")) for source in (state, status)]
    return (sources[0] or sources[1]) | flatten_settings(OmegaConf.to_container(config), {})  # type: ignore[arg-type]


def _roll_back(run: RunWriter, checkpoint: Checkpoint | None) -> list[str]:
    """Roll the directory back to a checkpoint, or to its start. Return a warning for each damaged file."""
    if checkpoint is None:
        run.clear()
        return []
    step = checkpoint.content["step"]
    warnings = [f"{damage}; it is put aside" for damage in checkpoint.damage.values()]
    if warnings:
        warnings[-1] += f", and the run resumes from the checkpoint after step {step}"
    if not run.rollback(checkpoint):
        warnings.append(
            f"{run.metrics_file.name} is not what was written up to step {step}; it is put aside. Its "
            "readable rows are kept, and rows of evaluations come from the checkpoint"
        )
    return warnings
