"""Watch processes from a test: wait for a condition, list the processes of a session."""

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any


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
    return all(process_state(pid) in ("", "Z") for pid in pids)


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
