"""Only one process at a time writes a directory.

The file lock.json names the process: host, pid, and since when. The process holds it by flock, which the operating
system releases when the process ends, in any way. A file that no process holds was left by a dead process.

Machines that share a file system do not always see each other's flock. So the holder also touches the file every ten
seconds. A process of another machine takes the directory over after a minute without a touch. If the former holder
continues after a long sleep, it finds another name in the file and writes nothing more.

Why not filelock.SoftFileLease (measured with filelock 4.3): a stopped process (SIGSTOP) loses its lease on the same
machine when it expires, after 3.0 s of 3 s, but keeps a flock. An empty file, left by a crash, is not taken over within
8 s. There is no public way to ask who holds a lease, as `find_holder` does.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from dlopt.storage.safe_read import to_printable

LOCK_FILE = "lock.json"
HEARTBEAT_SECONDS = 10.0
"""Seconds between two touches."""
STALE_SECONDS = 60.0
"""Seconds without a touch after which a process of another machine counts as gone."""
LONGEST = 4096
"""Bytes of the file that are read."""


class Holder(NamedTuple):
    """A process that holds or held a directory. `machine` changes with every start of a machine."""

    host: str
    machine: str
    pid: int
    since: float
    token: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"process {self.pid} on {to_printable(self.host)}, since {since}"

    @property
    def is_local(self) -> bool:
        return self.machine == get_machine_id()

    @property
    def is_dead(self) -> bool:
        """Return whether it was a process of this machine that has ended."""
        import psutil

        return self.is_local and not psutil.pid_exists(self.pid)


class LockedError(Exception):
    """Another process writes this directory."""

    def __init__(self, folder: Path, holder: Holder | None) -> None:
        self.holder = holder
        super().__init__(f"{folder} is being written by {holder or 'another process'}")


class LockLostError(Exception):
    """Another process has taken over a directory that this process held."""


class Lock:
    """A directory that this process holds from `acquire` to `release`, or until the lock is garbage-collected."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / LOCK_FILE
        self._descriptor: int | None = None
        self._content = b""
        self._checked = -math.inf

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, waiting: Callable[[Holder], None] = lambda holder: None) -> Lock:
        """Hold the directory. Raises LockedError if another process does.

        waiting: called before up to a minute is spent waiting for a touch by a process of another machine.
        """
        while self._descriptor is None:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                if not _try_flock(descriptor, fcntl.LOCK_EX):
                    holder = _read_holder(descriptor)
                    # A process locks the file before it writes its name: a dead process is not the holder.
                    raise LockedError(self.folder, None if holder is None or holder.is_dead else holder)
                try:
                    is_removed = not os.path.samestat(os.fstat(descriptor), self.file.lstat())
                except FileNotFoundError:
                    is_removed = True
                if is_removed:  # its former holder has just released it
                    os.close(descriptor)
                    continue
                former = _read_holder(descriptor)
                if former is not None and not former.is_local and _is_touched(descriptor, former, waiting):
                    raise LockedError(self.folder, former)
                this_process = Holder(
                    socket.gethostname(), get_machine_id(), os.getpid(), time.time(), os.urandom(8).hex()
                )
                self._content = json.dumps(this_process._asdict()).encode() + b"\n"
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, self._content, 0)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
        _start_heartbeat(self)
        return self

    def check(self, lately: float = 0.0) -> None:
        """Raise LockLostError if another process has written its name into the file, or the file is gone.

        lately: do nothing if the last check is at most this many seconds ago; on a network disk it takes milliseconds.
        """
        if time.monotonic() - self._checked < lately:
            return
        try:
            content = self.file.read_bytes()
        except FileNotFoundError as error:
            message = f"{self.file} is gone: the directory was removed or renamed; nothing more is written"
            raise LockLostError(message) from error
        self._checked = time.monotonic()
        if self._descriptor is None or content != self._content:
            holder = _parse_holder(content) or "another process"
            raise LockLostError(f"{self.folder} was taken over by {holder}; nothing more is written")

    def release(self) -> None:
        """Remove the file and its lock."""
        if self._descriptor is None:
            return
        with contextlib.suppress(LockLostError, OSError):
            self.check()
            self.file.unlink()
        with _heartbeat_lock:  # the number of the descriptor may be reused: another file must not be touched
            os.close(self._descriptor)
            self._descriptor = None

    def touch(self) -> None:
        """Show other machines that this process is alive."""
        with _heartbeat_lock, contextlib.suppress(OSError):
            if self._descriptor is not None:
                os.utime(self._descriptor)

    def __del__(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)


def find_holder(folder: Path) -> Holder | None:
    """Return the process that writes a directory now, or None if none does, as far as this machine can tell."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        holder = _read_holder(descriptor)
        if holder is None:
            return None
        if not holder.is_local:
            return holder if time.time() - os.fstat(descriptor).st_mtime < 2 * STALE_SECONDS else None
        return None if _try_flock(descriptor, fcntl.LOCK_SH) else holder
    except OSError:
        return None
    finally:
        os.close(descriptor)


def get_machine_id() -> str:
    """Return an id of this machine since its last start; host names are not unique."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _try_flock(descriptor: int, kind: int) -> bool:
    """Lock an open file and return True, or return False if a living process has locked it."""
    for _ in range(5):  # find_holder locks it for an instant
        try:
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            time.sleep(0.002)
        except OSError:  # a file system without flock
            holder = _read_holder(descriptor)
            return holder is None or not holder.is_local or holder.is_dead
    return False


def _is_touched(descriptor: int, holder: Holder, waiting: Callable[[Holder], None]) -> bool:
    """Return whether a process of another machine touches the file within the time after which it counts as gone."""
    last = os.fstat(descriptor).st_mtime_ns
    if not -STALE_SECONDS < time.time() - last / 1e9 < 10 * STALE_SECONDS:  # too long ago, even if clocks differ
        return False
    waiting(holder)
    deadline = time.monotonic() + STALE_SECONDS
    while time.monotonic() < deadline:
        time.sleep(min(1.0, STALE_SECONDS / 10))
        if os.fstat(descriptor).st_mtime_ns != last:
            return True
    return False


def _read_holder(descriptor: int) -> Holder | None:
    return _parse_holder(os.pread(descriptor, LONGEST, 0))


def _parse_holder(content: bytes) -> Holder | None:
    """Return the process that a file names, or None if it is empty or damaged."""
    try:
        host, machine, pid, since, token = (json.loads(content)[name] for name in Holder._fields)
        return Holder(str(host), str(machine), int(pid), float(since), str(token))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return None


_heartbeat_lock = threading.RLock()
_held_locks: weakref.WeakSet[Lock] = weakref.WeakSet()
_heartbeat_thread: threading.Thread | None = None


def _start_heartbeat(lock: Lock) -> None:
    """Let one thread touch all locks of this process."""
    global _heartbeat_thread  # noqa: PLW0603
    with _heartbeat_lock:
        _held_locks.add(lock)
    if _heartbeat_thread is None or not _heartbeat_thread.is_alive():
        _heartbeat_thread = threading.Thread(target=_run_heartbeat, name="heartbeat", daemon=True)
        _heartbeat_thread.start()


def _run_heartbeat() -> None:
    while True:
        time.sleep(HEARTBEAT_SECONDS)
        with _heartbeat_lock:
            locks = list(_held_locks)
        for lock in locks:
            lock.touch()
