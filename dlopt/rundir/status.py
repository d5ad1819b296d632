"""status.json: the state of a run, and the processes that have written it."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any, Literal

Status = Literal["running", "done", "diverged", "pruned", "failed", "interrupted"]
LARGEST_STATUS = 1 << 20
MOST_PROCESSES = 500
"""Former processes that a status keeps, the latest first. They fill at most half of its size."""


def make_status(
    provenance: Mapping[str, Any], started: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the status of a run that this process starts or resumes.

    provenance: command, versions, machine, git and config.
    started: started, the time of the first process; before, the entries of former processes; more if it resumes.
    """
    status: dict[str, Any] = {
        "status": "running",
        "host": socket.gethostname(),
        "pid": os.getpid(),
        "since": time.time(),
        "ended": None,
        "message": "",
        **provenance,
        **started,
        "settings": dict(settings),
    }
    before = status["before"][:MOST_PROCESSES]
    for entry in before[:1]:  # older entries were already compared with their successors
        for key in ("versions", "machine", "git", "config"):
            if entry.get(key) == status[key]:
                entry.pop(key, None)
    return status | {"before": before}


def list_processes(status: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return the entries of all processes that have written a run: the present one, then those before it."""
    before = status.get("before")
    present = {key: value for key, value in status.items() if key != "before"}
    return [present, *(dict(p) for p in (before if isinstance(before, list) else []) if isinstance(p, Mapping))]
