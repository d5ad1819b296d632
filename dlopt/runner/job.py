"""A run before it starts: its configuration and its directory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from dlopt.config.compose.hydra_app import list_overrides
from dlopt.config.compose.nested_options import from_hydra
from dlopt.config.compose.yaml_dump import dump_yaml
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.metrics_log import Row
from dlopt.storage import atomic


class Reporter(Protocol):
    """Reports the rows of a run to a search."""

    def replay(self, rows: Iterable[Row]) -> bool:
        """Report the rows of a run that resumes. Return whether the search ends it after the last."""

    def should_prune(self, row: Row) -> bool:
        """Report a row. Return whether the search ends the run after it."""


class Ticket(Protocol):
    """Data with which a run, in any process, can report to its search."""

    def open_reporter(self) -> Reporter:
        """Connect to the search."""


@dataclass(frozen=True)
class Job:
    """All that a process needs to perform one run.

    path       the run's directory
    title      label that distinguishes the run from the others of its sweep
    overrides  the overrides in Hydra's form
    config     the complete configuration, resolved
    choices    the option of each group
    hydra      the text of .hydra/hydra.yaml; "" if Hydra writes the files and configures the logging itself
    ticket     connection to the search, if the run can be pruned
    """

    path: Path
    title: str
    overrides: tuple[str, ...]
    config: Mapping[str, Any]
    choices: Mapping[str, Any]
    hydra: str
    ticket: Ticket | None = None

    @property
    def config_text(self) -> bytes:
        """The content of .hydra/config.yaml."""
        return dump_yaml(self.config).encode()

    @classmethod
    def from_hydra(cls, config: Mapping[str, Any], hydra: Any, path: Path, ticket: Ticket | None = None) -> Job:
        """Return the job of a configuration that Hydra has composed. hydra: its node of that name."""
        return cls(path, "", tuple(list_overrides(hydra)), config, get_choices(hydra), "", ticket)


def get_choices(hydra: Any) -> dict[str, Any]:
    """Return the chosen option of each group of dlopt."""
    choices = {from_hydra(k): v for k, v in hydra.runtime.choices.items()}
    return {k: v for k, v in choices.items() if not k.startswith("hydra/") and v is not None}


def prepare_run(job: Job, path: Path) -> RunDirectory:
    """Write the configuration into a directory. Return the run directory."""
    run = RunDirectory(path)
    run.config_file.parent.mkdir(parents=True, exist_ok=True)
    atomic.atomic_write_bytes(run.config_file, job.config_text, lasting=False)
    if job.hydra:
        run.hydra_file.write_text(job.hydra)
        run.overrides_file.write_text(dump_yaml(list(job.overrides)))
    return run
