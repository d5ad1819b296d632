"""Whole processes and their wall time."""

import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DLOPT = str(Path(sys.executable).with_name("dlopt"))
STARTED = "BENCHMARK_STARTED"
"""Environment variable that tells a process when it was started, in seconds since the epoch."""


def run(command: list[str]) -> tuple[float, str]:
    """Seconds until the process is over, and what it printed."""
    started = time.time()
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {STARTED: repr(started)}, stdout=subprocess.PIPE, text=True, check=True
    )
    return time.time() - started, done.stdout
