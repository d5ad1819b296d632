"""dlopt train resume=RUN: go on with a run from its last checkpoint.

Its configuration is read from its directory, without Hydra, which would overwrite what is there.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.rundir.directory import Checkpoint, RunDirectory
    from dlopt.rundir.lock import Holder
    from dlopt.rundir.writer import RunWriter


def resume(name: str, arguments: Sequence[str], *, trust: bool) -> int:
    """The command; returns the exit code."""
    from dlopt.rundir.writer import RunWriter
    from dlopt.runner.open_run import open_run

    def act(run: RunDirectory) -> int:
        return _resume_run(RunWriter(run.path, follow_links=run.follow_links), arguments, trust)

    return open_run("resume", name, act, trust=trust)


def _resume_run(run: RunWriter, arguments: Sequence[str], trust: bool) -> int:
    from omegaconf import OmegaConf

    from dlopt import console
    from dlopt.config.build import build
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen import load_run, resume_checks
    from dlopt.rundir import provenance
    from dlopt.runner.run_one import DONE, log_to_run, run_one

    load_run.check_writable(run)
    former = load_run.load_config(run, trust=trust)
    config = resume_checks.merge_overrides(former, arguments)
    status = run.status_or_none()
    changed = resume_checks.diff_configs(former, config)
    if status is not None and status["status"] == "done" and not changed:
        print(f"{display_path(run.path)} is done; nothing to go on with{_explain_how_to_extend(run.summary, config)}")
        return DONE
    run.lock.acquire(_print_waiting)
    try:
        if run.status_or_none() != status:
            raise ConfigError([("resume", "another process has just left this run; look at it, and say so again")])
        checkpoint = _find_checkpoint(run, status)
        state = None if checkpoint is None else checkpoint.content
        resume_checks.check_configuration(run, status or {}, (state or {}).get("config"))
        experiment, notices = build(config, arguments, saved=None if state is None else state["model"])
        step = 0 if state is None else state["step"]
        breaks: list[str] = []
        if state is not None:
            before: Mapping[str, Any] = OmegaConf.to_container(former)  # type: ignore[assignment]
            resume_checks.check(state, experiment, before)
            breaks = resume_checks.list_breaking_changes(changed, before, experiment, step)
        for at, said in [*resume_checks.find_breaks(status or {}), *([(step, "; ".join(breaks))] if breaks else [])]:
            notices.append(f"from step {at} on this is another run than an uninterrupted one would be: {said}")
        settings = _settings(status, state, config)
        kept = OmegaConf.to_yaml(config).encode() if changed else None  # so that the next resume knows of them
        set_anew = [f"{key} {old} -> {new}" for key, (old, new) in changed.items()]

        warnings = _roll_back(run, checkpoint)  # from here on the directory changes
        device, threads = experiment.settings.device, experiment.threads
        run.resume(step, settings, set_anew, breaks, kept, device=device, threads=threads)
        if status is None:
            warnings.append(f"{run.status_file.name} was damaged; it is written anew")
        elif state is not None:
            different = provenance.describe_differences(status, run.status)
            notices += [f"the same bits are not promised: {'; '.join(different)}"] if different else []
        for warning in warnings:
            print(f"warning: {to_printable(warning)}", file=sys.stderr)
        if checkpoint is None:
            notices.append("it has no checkpoint yet, so it begins anew")
        elif not console.quiet:
            print(f"{display_path(run.path)} goes on after step {step}")
        with log_to_run(run) as log:
            log.info("resume %s", " ".join(arguments))
            for warning in warnings:
                log.warning(warning)
            return run_one(experiment, run, notices, state=state)[0]
    finally:
        run.lock.release()


def _explain_how_to_extend(summary: Mapping[str, Any], config: Any) -> str:
    """What would make a finished run longer."""
    steps, epochs = summary.get("step"), summary.get("epoch")
    short = (steps or 0) < config.steps if config.steps else (epochs or 0) < config.epochs
    return f": it stopped early, after step {steps}" if short and steps else " (epochs=... makes it longer)"


def _find_checkpoint(run: RunDirectory, status: Mapping[str, Any] | None) -> Checkpoint | None:
    """The checkpoint to go on from; None where the run begins anew, which one that is done does not."""
    from dlopt.config.problems import ConfigError

    try:
        checkpoint = run.latest_checkpoint()
    except ValueError as error:
        said = f"no checkpoint is whole ({error}); to begin anew, remove {display_path(run.checkpoint('last').parent)}"
        raise ConfigError([("resume", said)]) from error
    if checkpoint is None and status is not None and status["status"] == "done":
        raise ConfigError(
            [("resume", f"{display_path(run.path)} is done, and its checkpoint is gone; start a new run")]
        )
    return checkpoint


def _settings(status: Mapping[str, Any] | None, state: Mapping[str, Any] | None, config: Any) -> dict[str, Any]:
    """Those that the run has from here on: its options as they were chosen, and each key as it is configured now.

    Of options a checkpoint tells, which has a checksum, before the status does.
    """
    from omegaconf import OmegaConf

    from dlopt.config.compose.flatten import filter_plain_settings, flatten_settings

    chosen = filter_plain_settings((state or {}).get("settings")) or filter_plain_settings(
        (status or {}).get("settings")
    )
    return chosen | flatten_settings(OmegaConf.to_container(config), {})  # type: ignore[arg-type]


def _roll_back(run: RunWriter, checkpoint: Checkpoint | None) -> list[str]:
    """Bring the directory back to a checkpoint, or to its beginning; returns what was damaged in it."""
    if checkpoint is None:
        run.clear()
        return []
    step = checkpoint.content["step"]
    found = [f"{wrong}; it is put aside" for wrong in checkpoint.damage.values()]
    if found:
        found[-1] += f", and the run goes on from the checkpoint after step {step}"
    if not run.rollback(checkpoint):
        found.append(
            f"{run.metrics_file.name} is not what was written up to step {step}; it is put aside, its rows that can be "
            "read are kept, and those of evaluations come from the checkpoint"
        )
    return found


def _print_waiting(holder: Holder) -> None:
    print(f"waiting a minute for a sign of life of {holder}, which wrote this run last ...", file=sys.stderr)
