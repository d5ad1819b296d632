"""One process at a time writes a directory.

The file lock.json in it names the process: host, pid, and since when. The process holds it by flock, which the
operating system ends with the process, however that ends; a file that nobody holds is one that a dead process left.

Machines that share a file system do not always see each other's flock. So a holder also touches the file every ten
seconds, and a process of another machine believes it to be gone when nothing has stirred for a minute. Should it
return from a long sleep, it finds another's name in the file, and writes nothing more.

Why not filelock.SoftFileLease (tried with filelock 4.3): a stopped process (SIGSTOP) on the same machine
loses its lease when that expires (3.0 s of a lease of 3 s), where it keeps a flock; an empty file that a crash
left blocks everyone (no take-over in 8 s); and there is no public way to ask who holds a lease, as `find_holder` does.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from dlopt.storage.safe_read import to_printable

try:
    import fcntl
except ImportError:  # pragma: no cover
    fcntl = None  # type: ignore[assignment]

LOCK_FILE = "lock.json"
HEARTBEAT_SECONDS = 10.0
"""Seconds between two signs of life."""
STALE_SECONDS = 60.0
"""Seconds without a sign of life after which a process of another machine counts as gone."""
_LONGEST = 4096


class Holder(NamedTuple):
    """A process that holds a directory, or did. machine tells apart machines, and starts of one machine."""

    host: str
    machine: str
    pid: int
    since: float
    token: str

    def __str__(self) -> str:
        since = time.strftime("%Y-%m-%d %H:%M", time.localtime(self.since))
        return f"process {self.pid} on {to_printable(self.host)}, since {since}"


class LockedError(Exception):
    """Another process writes this directory."""

    def __init__(self, folder: Path, holder: Holder | None) -> None:
        self.holder = holder
        super().__init__(f"{folder} is being written by {holder or 'another process'}")


class LockLostError(Exception):
    """Another process has taken over a directory that this one held."""


class Lock:
    """A directory held by this process, from `take` to `release`; a lock that is forgotten is released."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.file = folder / LOCK_FILE
        self._descriptor: int | None = None
        self._read_option = b""
        self._checked = -math.inf

    @property
    def is_held(self) -> bool:
        return self._descriptor is not None

    def acquire(self, waiting: Callable[[Holder], None] = lambda holder: None) -> Lock:
        """Hold the directory; Held says who does so already.

        waiting is called before a minute's wait for a sign of life of a process of another machine.
        """
        while True:
            descriptor = os.open(self.file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o644)
            try:
                before = _parse_holder(os.pread(descriptor, _LONGEST, 0))
                if not _try_lock(descriptor, before):
                    raise LockedError(self.folder, _read_live_holder(os.pread(descriptor, _LONGEST, 0)))
                if not _is_at(descriptor, self.file):  # its holder was just about to remove it
                    os.close(descriptor)
                    continue
                before = _parse_holder(os.pread(descriptor, _LONGEST, 0))
                if (
                    before is not None
                    and before.machine != get_machine_id()
                    and _heartbeat_seen(descriptor, before, waiting)
                ):
                    raise LockedError(self.folder, before)
                mine = Holder(socket.gethostname(), get_machine_id(), os.getpid(), time.time(), os.urandom(8).hex())
                self._read_option = json.dumps(mine._asdict()).encode() + b"\n"
                os.ftruncate(descriptor, 0)
                os.pwrite(descriptor, self._read_option, 0)
            except BaseException:
                os.close(descriptor)
                raise
            self._descriptor = descriptor
            _start_heartbeat(self)
            return self

    def check(self, lately: float = 0.0) -> None:
        """Raise Lost where another process has put its name in the file, or the file is gone.

        lately: seconds in which it is enough to have looked once; on a network's disk a look may take milliseconds.
        """
        if time.monotonic() - self._checked < lately:
            return
        try:
            found = self.file.read_bytes()
        except FileNotFoundError as error:
            raise LockLostError(
                f"{self.file} is gone: the directory was removed or renamed; nothing more is written"
            ) from error
        self._checked = time.monotonic()
        if self._descriptor is None or found != self._read_option:
            raise LockLostError(
                f"{self.folder} was taken over by {_parse_holder(found) or 'another process'}; nothing more is written"
            )

    def release(self) -> None:
        """Leave the directory to others."""
        if self._descriptor is None:
            return
        with contextlib.suppress(LockLostError, OSError):
            self.check()
            self.file.unlink()
        with _heartbeat_lock:  # else a sign of life might go to whatever has got the number of the descriptor by then
            os.close(self._descriptor)
            self._descriptor = None

    def touch(self) -> None:
        """A sign of life."""
        with _heartbeat_lock, contextlib.suppress(OSError):
            if self._descriptor is not None:
                os.utime(self._descriptor)

    def __del__(self) -> None:
        if self._descriptor is not None:
            with contextlib.suppress(OSError):
                os.close(self._descriptor)


def find_holder(folder: Path) -> Holder | None:
    """Who writes a directory now; None where nobody does, as far as can be seen from here."""
    try:
        descriptor = os.open(folder / LOCK_FILE, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        found = _parse_holder(os.pread(descriptor, _LONGEST, 0))
        if found is None:
            return None
        if found.machine != get_machine_id():
            return found if time.time() - os.fstat(descriptor).st_mtime < 2 * STALE_SECONDS else None
        return None if _try_lock(descriptor, found, shared=True) else found
    except OSError:
        return None
    finally:
        os.close(descriptor)


def get_machine_id() -> str:
    """A name of this machine as it was started last: two machines may be called alike."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return socket.gethostname()


def _try_lock(descriptor: int, named: Holder | None, *, shared: bool = False) -> bool:
    """Whether the file could be had; where the system has no flock, whether the process it names is gone."""
    if fcntl is not None:
        for _ in range(5):  # a reader holds it for an instant, to see whether it can
            try:
                fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
                return True
            except BlockingIOError:
                time.sleep(0.002)
            except OSError:  # a file system without it
                break
        else:
            return False
    return named is None or named.machine != get_machine_id() or not _pid_alive(named.pid)


def _read_live_holder(content: bytes) -> Holder | None:
    """Who has taken the file; None where it has not put its name there yet: that of a dead process stands in it."""
    found = _parse_holder(content)
    return None if found is not None and found.machine == get_machine_id() and not _pid_alive(found.pid) else found


def _heartbeat_seen(descriptor: int, named: Holder, waiting: Callable[[Holder], None]) -> bool:
    """Whether a process of another machine gives a sign of life, waited for as long as it may take."""
    last = os.fstat(descriptor).st_mtime_ns
    if (
        not -STALE_SECONDS < time.time() - last / 1e9 < 10 * STALE_SECONDS
    ):  # long ago, or never, whatever the clocks say
        return False
    waiting(named)
    until = time.monotonic() + STALE_SECONDS
    while time.monotonic() < until:
        time.sleep(min(1.0, STALE_SECONDS / 10))
        if os.fstat(descriptor).st_mtime_ns != last:
            return True
    return False


def _is_at(descriptor: int, file: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), file.lstat())
    except FileNotFoundError:
        return False


def _pid_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _parse_holder(content: bytes) -> Holder | None:
    """Who is named in a lock's content; None where it names nobody, being empty or torn."""
    try:
        found: dict[str, Any] = json.loads(content)
        return Holder(
            str(found["host"]), str(found["machine"]), int(found["pid"]), float(found["since"]), str(found["token"])
        )
    except (ValueError, TypeError, KeyError, RecursionError):
        return None


_heartbeat_lock = threading.RLock()
_held_locks: weakref.WeakSet[Lock] = weakref.WeakSet()
_heartbeat_thread: threading.Thread | None = None


def _start_heartbeat(lock: Lock) -> None:
    """Have one thread touch all locks of this process."""
    global _heartbeat_thread  # noqa: PLW0603
    with _heartbeat_lock:
        _held_locks.add(lock)
    if _heartbeat_thread is None or not _heartbeat_thread.is_alive():
        _heartbeat_thread = threading.Thread(target=_run_heartbeat, name="signs of life", daemon=True)
        _heartbeat_thread.start()


def _run_heartbeat() -> None:
    while True:
        time.sleep(HEARTBEAT_SECONDS)
        with _heartbeat_lock:
            held = list(_held_locks)
        for lock in held:
            lock.touch()
