"""Worker processes on this machine, reused from job to job, so that each imports torch once.

Each worker is one process and one pipe. If a process is lost, by kill -9 or because memory runs out, only its job is
lost. The other workers continue, and a new process replaces it. A loky executor would fail all of its jobs, and shows
no process to signal. loky starts the processes: unlike multiprocessing's "spawn" it does not run the main module again.

A worker has the working directory and the sys.path of its parent. It has an equal share of the cores as
OMP_NUM_THREADS, from which torch.get_num_threads() and so `threads=auto` take their number. Its output is discarded:
the parent draws on the only terminal.

A worker is a process group of its own. A terminal sends Ctrl-C to the foreground group, which holds the parent only.
`close` forwards the signal to each worker once: a second signal would mean to end at once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from multiprocessing import connection, resource_tracker
from typing import Any, Generic

from loky import cpu_count
from loky.backend import get_context

from dlopt.config.problems import ConfigError
from dlopt.config.schema.signature import describe_mismatch
from dlopt.ranges import Count
from dlopt.runner.signals import STOP_SIGNALS, handle_signals, list_heeded_signals
from dlopt.runner.workers import JobT, WorkerLostError

GRACE = 20.0
"""Seconds in which running jobs may finish their step and save after they are asked to stop."""
PARENT_CHECK_INTERVAL = 0.2
"""Seconds between two checks of a worker that its parent is alive."""
THREADS = tuple(f"{name}_THREADS" for name in ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "NUMEXPR_NUM", "VECLIB_MAXIMUM"))
"""Environment variables that limit the threads of a process."""

SAFE_PATH = "PYTHONSAFEPATH"
"""Environment variable with which Python does not put the working directory first on sys.path."""


class WorkerPool(Generic[JobT]):
    """Workers on this machine, used from the main thread; they start when they are first needed.

    count     number of workers, and of concurrent jobs; each has its share of the cores, at least one
    perform   performs a job: a function of a module, which the worker imports. It runs in the worker's main thread and
              may handle signals. A signal that it does not handle raises KeyboardInterrupt in it.
    """

    def __init__(self, count: int, perform: Callable[[JobT], None]) -> None:
        self.count = count
        self._perform = perform
        self._environment = _thread_limits(max(1, cpu_count() // count))
        self._idle: list[_Worker] = []
        self._running: dict[_Worker, JobT] = {}

    def submit(self, job: JobT) -> None:
        """Begin a job in an idle worker or in a new one; see Workers."""
        message = pickle.dumps((self._perform, job))
        with _safe_path():
            resource_tracker.ensure_running()  # not inside: its start in Python 3.11 unblocks the signals
        with _defer_signals():
            worker = self._take_idle() or _Worker(self._environment)
            with contextlib.suppress(OSError):  # it was just killed, which `wait` reports
                worker.connection.send_bytes(message)
            self._running[worker] = job

    def wait(self) -> list[tuple[JobT, BaseException | None]]:
        """Return the jobs that have ended, each with what it raised; see Workers."""
        if not self._running:
            return []
        ready = set(_wait_for_any(self._running))
        with _defer_signals():
            return [self._collect(worker) for worker in [*self._running] if worker in ready]

    def close(self, *, at_once: bool = False) -> None:
        """Ask running jobs to stop, give them GRACE seconds to save unless at_once, and end all workers.

        A signal meanwhile, as from a second Ctrl-C, ends all workers at once.
        """
        workers = [*self._idle, *self._running]

        def send(number: signal.Signals) -> None:
            for worker in workers:
                worker.send_signal(number)

        with handle_signals(lambda *_: send(signal.SIGKILL)):
            # A worker ignores the same signals as this process, from which it has inherited them.
            if not at_once and (heeded := list_heeded_signals()):
                send(heeded[0])
                unfinished, deadline = set(self._running), time.monotonic() + GRACE
                while unfinished and (remaining := deadline - time.monotonic()) > 0:
                    unfinished -= set(_wait_for_any(unfinished, remaining))
            send(signal.SIGKILL)
            for worker in workers:
                worker.remove()
        self._idle.clear()
        self._running.clear()

    def _take_idle(self) -> _Worker | None:
        while self._idle:
            worker = self._idle.pop()
            if worker.process.is_alive():
                return worker
            worker.remove()  # it was killed while idle
        return None

    def _collect(self, worker: _Worker) -> tuple[JobT, BaseException | None]:
        job = self._running.pop(worker)
        try:
            if not worker.connection.poll():  # the process has ended, and one that it started holds the pipe open
                raise EOFError
            error: BaseException | None = worker.connection.recv()
        except (EOFError, OSError):
            code = worker.remove()
            reason = f"its process ended before it with exit code {code}"
            if code is not None and code < 0:
                reason = f"its process was ended by {signal.Signals(-code).name}"
                reason += ", as when memory runs out" if code == -signal.SIGKILL else ""
            return job, WorkerLostError(reason)
        self._idle.append(worker)
        return job, error


class _Worker:
    """A worker process, and the parent's end of the pipe to it."""

    def __init__(self, environment: dict[str, str]) -> None:
        context = get_context("loky")
        self.connection, other_end = context.Pipe()
        with _safe_path() as former:
            self.process = context.Process(target=_serve, args=(other_end, os.getpid(), former), env=environment)
            self.process.start()
        other_end.close()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the process; SIGKILL also goes to the processes that it has started."""
        if self.process.is_alive() and self.process.pid is not None:
            with contextlib.suppress(ProcessLookupError):
                if number == signal.SIGKILL and os.getpgid(self.process.pid) == self.process.pid:
                    os.killpg(self.process.pid, number)
                else:
                    os.kill(self.process.pid, number)

    def remove(self) -> int | None:
        """Wait for the end of the process, which was killed or is lost, and return its exit code."""
        self.connection.close()
        self.process.join()
        return self.process.exitcode


def _wait_for_any(workers: Iterable[_Worker], timeout: float | None = None) -> list[_Worker]:
    """Return the workers that have sent something or have ended, at least one unless the time is over."""
    owners = {source: w for w in workers for source in (w.connection, w.process.sentinel)}
    return [owners[source] for source in connection.wait(list(owners), timeout)]


def parse_worker_count(number: Any) -> int:
    """Return the number of workers; "auto" is the number of cores. Raises ConfigError if it is invalid."""
    if number == "auto":
        return cpu_count()
    if mismatch := describe_mismatch(number, Count):
        raise ConfigError([("hydra.launcher.workers", f"{mismatch}, or auto: the number of cores")])
    return int(number)


def _thread_limits(count: int) -> dict[str, str]:
    """Return the environment variables that limit a worker to `count` threads; a smaller limit in force stays."""
    limits = {name: os.environ.get(name, "") for name in THREADS}
    return {name: str(min(count, int(own)) if own.isdecimal() else count) for name, own in limits.items()}


@contextlib.contextmanager
def _safe_path() -> Iterator[str | None]:
    """Keep the working directory off the sys.path with which processes start; yield the variable's former value.

    Python puts it first, where a random.py in it replaces Python's own. A worker then gets the parent's sys.path.
    """
    former = os.environ.get(SAFE_PATH)
    os.environ[SAFE_PATH] = "1"
    try:
        yield former
    finally:
        _restore_safe_path(former)


def _restore_safe_path(former: str | None) -> None:
    if former is None:
        os.environ.pop(SAFE_PATH, None)
    else:
        os.environ[SAFE_PATH] = former


@contextlib.contextmanager
def _defer_signals() -> Iterator[None]:
    """Deliver signals to stop after this block, so that nothing in it is left half done.

    They are also blocked, which a process that is started here inherits: it receives none before it can handle it.
    """
    received: list[int] = []
    with handle_signals(lambda number, frame: received.append(number)):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number in received:
        signal.raise_signal(number)


# ------------------------------------------------------------------------------------------- in the worker

_busy = False
_stop_requested = False
"""Whether a stop signal came while there was no job; then the next job does not begin."""


def _serve(pipe: connection.Connection, parent: int, safe_path: str | None) -> None:
    """Perform the jobs that come through the pipe until the parent closes it.

    parent is its process id, safe_path its value of the variable SAFE_PATH.
    """
    _restore_safe_path(safe_path)
    os.setpgrp()
    threading.Thread(target=_end_with_parent, args=(parent,), name="parent watch", daemon=True).start()
    null = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(null, descriptor)
    os.close(null)
    for number in list_heeded_signals():
        signal.signal(number, _handle_stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    with contextlib.suppress(EOFError, OSError):
        while True:
            pipe.send(_perform_job(pipe.recv_bytes()))


def _end_with_parent(parent: int) -> None:
    """End this process, with all that it has started, when its parent has ended.

    Linux could send a signal at the parent's end (PR_SET_PDEATHSIG). It does so at the end of the thread that started
    the process, which need not be the parent's main thread, and no other system has it.
    """
    while os.getppid() == parent:
        time.sleep(PARENT_CHECK_INTERVAL)
    os.killpg(0, signal.SIGKILL)


def _handle_stop(number: int, frame: Any) -> None:
    global _stop_requested  # noqa: PLW0603
    _stop_requested = True
    if _busy:
        raise KeyboardInterrupt


def _perform_job(message: bytes) -> BaseException | None:
    """Perform a pickled job. Return the exception that it raises, as a RuntimeError if it cannot be pickled."""
    global _stop_requested, _busy  # noqa: PLW0603
    try:
        perform, job = pickle.loads(message)
        _busy = True
        if _stop_requested:
            raise KeyboardInterrupt
        perform(job)
    except BaseException as error:
        error.add_note(traceback.format_exc())
        try:
            return pickle.loads(pickle.dumps(error))
        except Exception:
            return RuntimeError(f"{type(error).__name__}: {error}")
    finally:
        _busy = _stop_requested = False
    return None
