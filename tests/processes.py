"""Watch processes from a test: wait for a condition, list the processes of a session; a run that does not end."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from forked import ForkedProcess
from helpers import BLOBS

TESTS = str(Path(__file__).parent)
ENDLESS = ("train", "-q", *BLOBS, "threads=1", "epochs=1000000", "eval_every=100000", "checkpoint.every=10",
           "hydra.run.dir=run")  # fmt: skip
"""The arguments of a run that has to be stopped."""


def wait_for_file(job: ForkedProcess, file: Path) -> None:
    """Wait until a job has written a file; it must not end before."""
    wait_until(lambda: file.exists() or job.has_ended)
    assert file.exists(), job.wait()


def wait_until_training(job: ForkedProcess, folder: Path) -> None:
    """Wait until a job has written a checkpoint of the run in this folder."""
    wait_for_file(job, folder / "run/checkpoints/last.safetensors")


def wait_until(condition: Callable[[], Any], seconds: float = 300.0) -> Any:
    """Return the first true value of a condition; TimeoutError after so many seconds."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.002)
    return value


def process_state(pid: int) -> str:
    """Return the state of a process as ps shows it: Z for a zombie, empty if there is no such process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def have_ended(*pids: int) -> bool:
    """Return whether these processes have ended with all their threads: the main thread may be the first to go."""
    return all(process_state(pid) == "" or (process_state(pid) == "Z" and _count_threads(pid) <= 1) for pid in pids)


def _count_threads(pid: int) -> int:
    try:
        return len([*Path(f"/proc/{pid}/task").iterdir()])
    except (FileNotFoundError, ProcessLookupError):
        return 0


def list_session(leader: int) -> list[int]:
    """Return the living processes of a session."""
    members = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and not have_ended(int(folder.name)):
            try:
                is_member = os.getsid(int(folder.name)) == leader
            except ProcessLookupError:
                continue
            if is_member:
                members.append(int(folder.name))
    return members
