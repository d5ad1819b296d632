"""dlopt train resume=RUN: go on with a run from its last checkpoint.

Its configuration is read from its directory, without Hydra, which would overwrite what is there.
"""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from dlopt.cli.places import as_typed

if TYPE_CHECKING:
    from dlopt.lock import Holder
    from dlopt.run import Checkpoint, Run


def resume(name: str, arguments: Sequence[str], *, trust: bool) -> int:
    """The command; returns the exit code."""
    from dlopt.cli.one import USAGE
    from dlopt.config.problems import ConfigError, named
    from dlopt.finding import RunNotFound, find
    from dlopt.lock import Held

    try:
        return _resumed(find(name), arguments, trust)
    except (RunNotFound, Held) as error:
        print(f"resume: {error}", file=sys.stderr)
    except ConfigError as error:
        print(error.text(), file=sys.stderr)
    except Exception as error:  # a damaged file fails in a dozen ways
        print(f"resume: {name} cannot be gone on with ({named(error)})", file=sys.stderr)
    return USAGE


def _resumed(run: Run, arguments: Sequence[str], trust: bool) -> int:
    from omegaconf import OmegaConf

    from dlopt import provenance, screen
    from dlopt.cli.one import DONE, run_one
    from dlopt.config import continued, reopen
    from dlopt.config.build import build
    from dlopt.config.flat import settings_of
    from dlopt.config.problems import ConfigError

    former = reopen.configuration(run, trust=trust)
    config = continued.merged(former, arguments)
    status = run.status_or_none()
    done = status is not None and status["status"] == "done"
    if done and not arguments:
        print(f"{as_typed(run.path)} is done; nothing to go on with (epochs=... makes it longer)")
        return DONE
    run.lock.take(_said)
    try:
        checkpoint = run.newest()
        if checkpoint is None and done:
            raise ConfigError(
                [("resume", f"{as_typed(run.path)} is done, and its checkpoint is gone; start a new run")]
            )
        experiment, notices = build(config, arguments)
        changed = continued.changes(former, config)
        content: dict[str, Any] = OmegaConf.to_container(config)  # type: ignore[assignment]
        settings = (status or {}).get("settings") or settings_of(content, {})
        step, state = 0, None
        if checkpoint is None:
            notices.append("it has no checkpoint yet, so it begins anew")
            run.clear()
        else:
            state = checkpoint.content
            continued.check(run, state, experiment, status or {})
            step, settings = state["step"], (status or {}).get("settings") or state["settings"]
            breaks = continued.breaking(changed, OmegaConf.to_container(former), experiment, step)  # type: ignore[arg-type]
            if breaks:
                said = "; ".join(breaks)
                notices.append(f"from step {step} on this is another run than an uninterrupted one would be: {said}")
            notices += _gone_back(run, checkpoint)
        if status is None:
            notices.append(f"{run.status_file.name} is damaged; it is written anew")
        settings |= {key: OmegaConf.select(config, key) for key in changed}
        kept = OmegaConf.to_yaml(config).encode() if changed else None  # so that the next resume knows of them
        set_anew = [f"{key} {old} -> {new}" for key, (old, new) in changed.items()]
        run.go_on(step, settings, set_anew, kept, device=experiment.settings.device, threads=experiment.threads)
        if status is not None and state is not None:
            different = provenance.differences(status, run.status)
            notices += [f"the same bits are not promised: {'; '.join(different)}"] if different else []
        if not screen.quiet:
            print(f"{as_typed(run.path)} goes on after step {step}")
        with _logged(run, arguments):
            return run_one(experiment, run, notices, state=state)[0]
    finally:
        run.lock.release()


def _gone_back(run: Run, checkpoint: Checkpoint) -> list[str]:
    """Bring the directory back to a checkpoint; returns what was found damaged in it."""
    step = checkpoint.content["step"]
    found = [f"{file.name} is damaged ({wrong}); it is put aside" for file, wrong in checkpoint.damaged.items()]
    if found:
        found[-1] += f", and the run goes on from the checkpoint after step {step}"
    if not run.go_back(checkpoint):
        found.append(
            f"{run.metrics_file.name} is not what was written up to step {step}; it is put aside, its rows that can be "
            "read are kept, and those of evaluations come from the checkpoint"
        )
    return found


@contextlib.contextmanager
def _logged(run: Run, arguments: Sequence[str]) -> Iterator[None]:
    """Log to the run's own file, as Hydra would have it."""
    handler = logging.FileHandler(run.log_file)
    handler.setFormatter(logging.Formatter("[%(asctime)s][%(name)s][%(levelname)s] %(message)s"))
    log = logging.getLogger("dlopt")
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        log.info("resume %s", " ".join(arguments))
        yield
    finally:
        log.removeHandler(handler)
        handler.close()


def _said(holder: Holder) -> None:
    print(f"waiting a minute for a sign of life of {holder}, which wrote this run last ...", file=sys.stderr)
