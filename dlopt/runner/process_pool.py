"""Worker processes on this machine, kept from job to job, so that each imports torch once.

Each worker is a pool of one process of joblib's loky. A pool of many breaks as a whole when one of its processes is
lost, by kill -9 or for want of memory; so it is known whose job was lost, the others go on, and a fresh process takes
the place of the lost one.

A worker has the working directory and the sys.path of the process that starts it, and its share of the cores as
OMP_NUM_THREADS, which is where torch.get_num_threads() and so `threads=auto` get their number from. What it prints
goes nowhere: there is one terminal, and the parent draws on it.

It is a process group of its own. A terminal sends Ctrl-C to the group in front, of which the parent alone is a member;
a worker hears of it from the parent, in `close`, and so exactly once: a second signal would mean to end at once.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import threading
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from concurrent import futures
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import Any, Generic, NamedTuple

from joblib.externals.loky import BrokenProcessPool, ProcessPoolExecutor, cpu_count
from joblib.externals.loky.process_executor import TerminatedWorkerError

from dlopt.config.problems import ConfigError
from dlopt.config.schema.signature import describe_mismatch
from dlopt.ranges import Count
from dlopt.runner.signals import STOP_SIGNALS, handle_signals
from dlopt.runner.workers import JobT, WorkerLostError

GRACE = 20.0
"""Seconds that jobs under way have to finish their step and to save, once they are asked to stop."""
PARENT_CHECK_INTERVAL = 0.2
"""Seconds between two looks of a worker at whether its parent lives."""
THREADS = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "NUMEXPR_NUM_THREADS",
    "VECLIB_MAXIMUM_THREADS",
)


class _RunningJob(NamedTuple):
    job: Any
    executor: ProcessPoolExecutor
    process: BaseProcess | None


class WorkerPool(Generic[JobT]):
    """Workers on this machine, for the main thread; they start when they are first needed.

    count     workers, and jobs at once; each has its share of the cores, at least one
    perform   what does a job, a function of a module, which the worker imports; it runs in the worker's main thread and
              may handle signals, which raise KeyboardInterrupt in it as long as it does not
    """

    def __init__(self, count: int, perform: Callable[[JobT], None]) -> None:
        self.count = count
        self._perform = perform
        self._environment = _threads(max(1, cpu_count() // count))
        self._idle: list[ProcessPoolExecutor] = []
        self._running: dict[futures.Future[BaseException | None], _RunningJob] = {}
        self._finished_futures: queue.SimpleQueue[futures.Future[BaseException | None]] = queue.SimpleQueue()
        # A worker that has grown a lot is exchanged for a fresh one between two jobs; nobody need be told.
        warnings.filterwarnings("ignore", category=UserWarning, module=r"joblib\.externals\.loky")

    def submit(self, job: JobT) -> None:
        """Begin a job, in a worker that is idle or in a fresh one; see Workers."""
        resource_tracker.ensure_running()  # not inside: where it starts, Python 3.11 lets signals through again
        with _defer_signals():
            while self._idle:
                executor = self._idle.pop()
                try:
                    return self._begin(executor, job)
                except BrokenProcessPool:  # it was killed while it had nothing to do
                    executor.shutdown()
            fresh = ProcessPoolExecutor(1, initializer=_enter, initargs=(os.getpid(),), env=self._environment)
            return self._begin(fresh, job)

    def wait(self) -> list[tuple[JobT, BaseException | None]]:
        """The jobs that are over, with what they raised; see Workers."""
        if not self._running:
            return []
        over = [
            self._finished_futures.get()
        ]  # not futures.wait: a signal in it would leave locks that no thread gives back
        with _defer_signals():
            while not self._finished_futures.empty():
                over.append(self._finished_futures.get())
            return [self._collect(future) for future in over]

    def close(self, *, at_once: bool = False) -> None:
        """Ask the jobs under way to stop, give them GRACE to save unless it is at once, and end all workers.

        A signal meanwhile, as from a second Ctrl-C, ends them at once, too.
        """
        executors = [*self._idle, *(executor for _, executor, _ in self._running.values())]

        def send(number: signal.Signals) -> None:
            for executor in executors:
                for process in _processes(executor):
                    _send(process, number)

        with handle_signals(lambda *_: send(signal.SIGKILL)):
            if not at_once:
                send(signal.SIGINT)
                futures.wait(self._running, timeout=GRACE)
            send(signal.SIGKILL)  # all at once; loky would need pgrep to find what a worker has started
            for executor in executors:
                calls = executor._call_queue
                executor.shutdown(kill_workers=True)
                # Nobody else waits for its thread, which frees semaphores as it ends. Were Python ending too, their
                # tracker would not hear of it, and say that they are left.
                if calls._thread is not None:
                    calls._thread.join(timeout=1.0)
        self._idle.clear()
        self._running.clear()
        self._finished_futures = queue.SimpleQueue()

    def _begin(self, executor: ProcessPoolExecutor, job: JobT) -> None:
        future = executor.submit(_perform_job, self._perform, job)
        process = next(iter(_processes(executor)), None)
        self._running[future] = _RunningJob(job, executor, process)
        future.add_done_callback(self._finished_futures.put)

    def _collect(self, future: futures.Future[BaseException | None]) -> tuple[JobT, BaseException | None]:
        job, executor, process = self._running.pop(future)
        error = future.exception()
        if isinstance(error, BrokenProcessPool):
            executor.shutdown()
            lost = isinstance(error, TerminatedWorkerError)
            return job, _make_lost_error(process.exitcode if process else None) if lost else error
        self._idle.append(executor)
        return job, error or future.result()


def parse_worker_count(number: Any) -> int:
    """The number of workers that was asked for, where auto is that of the cores. ConfigError where it is none."""
    if number == "auto":
        return cpu_count()
    wrong = describe_mismatch(number, Count)
    if wrong:
        raise ConfigError([("hydra.launcher.workers", f"{wrong}, or auto: as many as there are cores")])
    return int(number)


def _threads(count: int) -> dict[str, str]:
    """The environment of a worker that may use so many threads; fewer where its own number is smaller."""
    given = {name: os.environ.get(name, "") for name in THREADS}
    return {name: str(min(count, int(own)) if own.isdecimal() else count) for name, own in given.items()}


def _processes(executor: ProcessPoolExecutor) -> list[BaseProcess]:
    """Its one process; none when that has ended."""
    return list(executor._processes.values())


def _send(process: BaseProcess, number: signal.Signals) -> None:
    """Send a worker a signal; to be killed is for what it has started, too."""
    if process.is_alive() and process.pid is not None:
        with contextlib.suppress(ProcessLookupError):
            if number == signal.SIGKILL and os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, number)
            else:
                os.kill(process.pid, number)


def _make_lost_error(code: int | None) -> WorkerLostError:
    if code is not None and code < 0:
        memory = ", as when memory runs out" if code == -signal.SIGKILL else ""
        return WorkerLostError(f"its process was ended by {signal.Signals(-code).name}{memory}")
    return WorkerLostError("its process ended before it" + (f", with exit code {code}" if code is not None else ""))


@contextlib.contextmanager
def _defer_signals() -> Iterator[None]:
    """Signals to stop are heard after this: in it nothing is left half done.

    They are blocked, too, for a process that is started here inherits that: it hears none before it can handle it.
    """
    heard: list[int] = []
    with handle_signals(lambda number, frame: heard.append(number)):
        before = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
    for number in heard:
        signal.raise_signal(number)


# ------------------------------------------------------------------------------------------- in the worker

_busy = False
_stop_requested = False
"""Whether a signal to stop came while there was no job; the next one is not begun."""


def _enter(parent: int) -> None:
    """What a worker does first; parent is the number of the process that started it."""
    os.setpgrp()
    threading.Thread(target=_watch, args=(parent,), name="watch over the parent", daemon=True).start()
    nothing = os.open(os.devnull, os.O_RDWR)
    for descriptor in range(3):
        os.dup2(nothing, descriptor)
    os.close(nothing)
    for number in STOP_SIGNALS:
        signal.signal(number, _handle_stop)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)


def _watch(parent: int) -> None:
    """End this process, with all that it has started, when its parent has ended.

    Linux could send a signal at the parent's end (PR_SET_PDEATHSIG), but does so at the end of the thread that started
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


def _perform_job(perform: Callable[[Any], None], job: Any) -> BaseException | None:
    """What a job raises, in a form that can be sent."""
    global _stop_requested, _busy  # noqa: PLW0603
    try:
        _busy = True
        if _stop_requested:
            raise KeyboardInterrupt
        perform(job)
    except BaseException as error:
        error.add_note(traceback.format_exc())
        return _to_picklable(error)
    finally:
        _busy = _stop_requested = False
    return None


def _to_picklable(error: BaseException) -> BaseException:
    """The error as it arrives elsewhere; one that cannot be sent becomes a RuntimeError of the same words."""
    try:
        arrived: BaseException = pickle.loads(pickle.dumps(error))
    except Exception:
        arrived = RuntimeError(f"{type(error).__name__}: {error}")
    return arrived
