"""Processes and their wall time."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DLOPT = str(Path(sys.executable).with_name("dlopt"))
STARTED = "BENCHMARK_STARTED"
"""Environment variable with the start time of a process, in seconds since the epoch."""


def run(command: list[str]) -> tuple[float, str]:
    """Run a process; return its seconds and its output."""
    started = time.time()
    process = subprocess.run(
        command, cwd=ROOT, env=os.environ | {STARTED: repr(started)}, stdout=subprocess.PIPE, text=True, check=True
    )
    return time.time() - started, process.stdout
