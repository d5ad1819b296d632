"""sweep.json: what a sweep searches, in its directory, for those who read it and for the same command again."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dlopt.rundir.find import SWEEP_FILE
from dlopt.storage import atomic, safe_read

FORMAT = 1


def write(folder: Path, content: Mapping[str, Any]) -> None:
    """Write it, whole at every instant."""
    text = json.dumps({"format": FORMAT, **content}, indent=2)
    if (folder / SWEEP_FILE).exists() and (folder / SWEEP_FILE).read_text() == text + "\n":
        return
    atomic.atomic_write_bytes(folder / SWEEP_FILE, text.encode() + b"\n")


def read(folder: Path) -> dict[str, Any]:
    """Its content. FileNotFoundError where there is none, ValueError where it is damaged."""
    return safe_read.read_json(folder / SWEEP_FILE, safe_read.SMALL)
