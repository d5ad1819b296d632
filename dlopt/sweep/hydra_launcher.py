"""Launchers that are not ours: Hydra's own, joblib's, submitit's for a cluster. They take runs in batches."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from dlopt.config.compose.yaml_dump import quote
from dlopt.runner.job import Job
from dlopt.sweep.context import SweepInvocation
from dlopt.sweep.pruning import PruningTicket

TICKET_VARIABLE = "DLOPT_TICKET"
"""The variable of a run's environment that holds its ticket."""
STORAGE_VARIABLE = "DLOPT_STORAGE"
"""The one with the address of a database, inherited from this process: what a job is given, Hydra writes to a file."""


class HydraLauncherWorkers:
    """Hands runs to a launcher, up to count at once, and waits for all of them."""

    def __init__(self, launcher: Any, count: int) -> None:
        self.count = 1 if type(launcher).__name__ == "BasicLauncher" else count  # which takes them one by one
        self._launcher = launcher
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self) -> list[tuple[Job, BaseException | None]]:
        jobs, self._jobs = self._jobs, []
        common = os.path.commonpath([job.path.parent for job in jobs])
        overrides = []
        for job in jobs:
            below = os.path.relpath(job.path, common)
            place = [f"hydra.sweep.dir={quote(common)}", f"hydra.sweep.subdir={quote(below)}"]
            overrides.append([*job.overrides, *place, *_ticket_overrides(job)])
        found = self._launcher.launch(overrides, initial_job_idx=0)
        return [(job, _error(ret)) for job, ret in zip(jobs, found, strict=True)]

    def close(self, *, at_once: bool = False) -> None:
        self._jobs.clear()


def make_task(invocation: SweepInvocation) -> Callable[[DictConfig], None]:
    """Return the task function for the launcher, which may call it in another process."""
    return partial(_perform_task, invocation.perform_elsewhere)


def _perform_task(perform: Callable[[Job], None], config: DictConfig) -> None:
    """Make the run that the launcher has composed."""
    from hydra.core.hydra_config import HydraConfig

    hydra = HydraConfig.get()
    tree: dict[str, Any] = OmegaConf.to_container(config, resolve=True)  # type: ignore[assignment]
    perform(Job.from_hydra(tree, hydra, Path(hydra.runtime.output_dir), read_ticket(os.environ)))


def read_ticket(environment: Mapping[str, str]) -> PruningTicket | None:
    """That of a run which a launcher has started."""
    text = environment.get(TICKET_VARIABLE)
    if not text:
        return None
    found = PruningTicket.from_dict(json.loads(bytes.fromhex(text)))
    return replace(found, storage=environment[STORAGE_VARIABLE]) if STORAGE_VARIABLE in environment else found


def _ticket_overrides(job: Job) -> list[str]:
    if not isinstance(job.ticket, PruningTicket):
        return []
    os.environ.pop(STORAGE_VARIABLE, None)
    if job.ticket.storage is not None:
        os.environ[STORAGE_VARIABLE] = job.ticket.storage
    content = replace(job.ticket, storage=None).to_dict()
    return [f"++hydra.job.env_set.{TICKET_VARIABLE}='{json.dumps(content).encode().hex()}'"]


def _error(ret: Any) -> BaseException | None:
    """What a job raised; asking for its value would raise it here."""
    found = getattr(ret, "_return_value", None)
    return found if isinstance(found, BaseException) else None
