"""Hydra's own launcher and external ones, such as joblib, and submitit for a cluster. They take runs in batches."""

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
"""Environment variable of a run with its pruning ticket."""
STORAGE_VARIABLE = "DLOPT_STORAGE"
"""Environment variable with the address of a database. It is inherited, because Hydra writes a job's own to a file."""


class HydraLauncherWorkers:
    """Passes up to count runs at once to a launcher, and waits for all of them."""

    def __init__(self, launcher: Any, count: int) -> None:
        self.count = 1 if type(launcher).__name__ == "BasicLauncher" else count  # it makes one run after another
        self._launcher = launcher
        self._jobs: list[Job] = []

    def submit(self, job: Job) -> None:
        self._jobs.append(job)

    def wait(self) -> list[tuple[Job, BaseException | None]]:
        jobs, self._jobs = self._jobs, []
        common = os.path.commonpath([job.path.parent for job in jobs])
        overrides = []
        for job in jobs:
            subdir = os.path.relpath(job.path, common)
            folder = [f"hydra.sweep.dir={quote(common)}", f"hydra.sweep.subdir={quote(subdir)}"]
            overrides.append([*job.overrides, *folder, *_make_ticket_overrides(job)])
        returns = self._launcher.launch(overrides, initial_job_idx=0)
        errors = [getattr(ret, "_return_value", None) for ret in returns]  # `return_value` would raise it
        return [(job, e if isinstance(e, BaseException) else None) for job, e in zip(jobs, errors, strict=True)]

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
    """Return the pruning ticket of a run started by a launcher."""
    text = environment.get(TICKET_VARIABLE)
    if not text:
        return None
    ticket = PruningTicket.from_dict(json.loads(bytes.fromhex(text)))
    return replace(ticket, storage=environment.get(STORAGE_VARIABLE))


def _make_ticket_overrides(job: Job) -> list[str]:
    if not isinstance(job.ticket, PruningTicket):
        return []
    os.environ.pop(STORAGE_VARIABLE, None)
    if job.ticket.storage is not None:
        os.environ[STORAGE_VARIABLE] = job.ticket.storage
    content = replace(job.ticket, storage=None).to_dict()
    return [f"++hydra.job.env_set.{TICKET_VARIABLE}='{json.dumps(content).encode().hex()}'"]
