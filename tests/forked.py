"""Real `dlopt` processes that start in a fraction of a second and can really be killed.

A server process has imported everything that training needs. For each job it forks a child with its own session, its
own output files and the signal handlers of a fresh Python process. The server has one thread, since a fork copies only
one, and ends with all its children when its connection closes.
"""

from __future__ import annotations

import contextlib
import multiprocessing.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing import connection
from pathlib import Path
from types import TracebackType
from typing import Any

import dlopt

ONE_THREAD = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "MKL", "OPENBLAS", "NUMEXPR", "VECLIB")}
WARM_UP = (
    "train", "-q", "data=digits", "data.train_size=100", "arch=mlp", "arch.widths=[4]", "steps=8", "batch_size=20",
    "threads=1", "device=cpu", "checkpoint.every=2", "optimizer=torch_optim", "regularization=[dropout,early_stopping]",
    "diagnostic=[gradients,activations,histograms]",
)  # fmt: skip
"""A run whose modules the server imports. It reads no data file except the digits."""
SEARCH = (*WARM_UP, "-m", "hydra/sweeper=random", "hydra.sweeper.n_trials=1", "optimizer.lr=interval(1e-3,1e-2)")
LARGE_MODULES = ("torch._dynamo", "sklearn.datasets", "optuna", "hydra.core.plugins", "dlopt.sweep.sweeper")
"""Modules that the server imports first, so that the warm-up does not import them a second time."""
TIMEOUT = 300.0
"""Seconds after which a process that has not answered counts as hanging."""


@dataclass(frozen=True)
class ProcessResult:
    """How a process ended.

    code      exit code, or the negative number of the signal that ended the process
    out, err  output
    memory    peak memory in bytes, including what is shared with the server
    seconds   processor time
    """

    code: int
    out: str
    err: str
    memory: int
    seconds: float


class ForkedProcess:
    """A process of `dlopt`, running or ended."""

    def __init__(self, forks: Forks, pid: int, out: Path, err: Path) -> None:
        self.pid = pid
        self._forks, self._out, self._err = forks, out, err

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal, unless the process has ended."""
        self._forks.send(self.pid, number)

    @property
    def has_ended(self) -> bool:
        return self._forks.wait_for_end(self.pid, 0.0) is not None

    def wait(self, timeout: float = TIMEOUT) -> ProcessResult:
        """Return how the process ended. Raise TimeoutError if it has not after this many seconds."""
        ending = self._forks.wait_for_end(self.pid, timeout)
        if ending is None:
            raise TimeoutError(f"process {self.pid} has not ended after {timeout} s")
        out, err = (file.read_text(errors="replace") for file in (self._out, self._err))
        return ProcessResult(ending["code"], out, err, ending["memory"], ending["microseconds"] / 1e6)


class Forks:
    """The client of the server, for tests."""

    def __enter__(self) -> Forks:
        self._folder = Path(tempfile.mkdtemp(prefix="forks"))
        self._endings: dict[int, dict[str, int]] = {}
        self._count = 0
        self._connection, other = multiprocessing.Pipe()
        with other:
            self._server = subprocess.Popen(
                [sys.executable, __file__, str(other.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=2,
                pass_fds=[other.fileno()],
                start_new_session=True,
                env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}  # pytest-xdist sets them
                | {**ONE_THREAD, "PYTHONPATH": str(Path(dlopt.__file__).parents[1])},
            )
        try:
            self._receive("ready")
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._connection.close()
        try:
            self._server.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        shutil.rmtree(self._folder)

    def start(
        self,
        argv: Sequence[str],
        cwd: Path,
        env: Mapping[str, str] | None = None,
        terminal: str | None = None,
        ignored: Sequence[int] = (),
    ) -> ForkedProcess:
        """Start `dlopt ARGV` in a folder, with these variables added to the environment and these signals ignored.

        The output goes to a terminal if its device is given; the result of the process has none then.
        """
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        out.touch()  # a job may be killed before it has opened them
        err.touch()
        places = {"out": terminal or str(out), "err": terminal or str(err)}
        request = {"argv": list(argv), "cwd": str(cwd), "env": dict(env or {}), "ignored": [*map(int, ignored)]}
        self._connection.send({**request, **places})
        return ForkedProcess(self, self._receive("started"), out, err)

    def run(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> ProcessResult:
        """Start a process and wait for its end. Kill it and raise TimeoutError if it hangs."""
        job = self.start(argv, cwd, env)
        try:
            return job.wait()
        except TimeoutError:
            job.kill()
            raise

    def send(self, pid: int, number: int) -> None:
        """Send a signal through the server, since only the server knows whether the pid is still its child's."""
        self._connection.send({"kill": pid, "signal": int(number)})
        self._receive("sent")

    def wait_for_end(self, pid: int, timeout: float) -> dict[str, int] | None:
        """Return what the server reports of an ended process; None if it has not ended after this many seconds."""
        deadline = time.monotonic() + timeout
        while pid not in self._endings and self._connection.poll(max(0.0, deadline - time.monotonic())):
            self._read_message()
        return self._endings.get(pid)

    def _receive(self, name: str) -> int:
        """Return the value of the server's next message of this name."""
        while self._connection.poll(TIMEOUT):
            message = self._read_message()
            if name in message:
                return message[name]
        raise TimeoutError(f"the server has not said '{name}'")

    def _read_message(self) -> dict[str, int]:
        try:
            message: dict[str, int] = self._connection.recv()
        except (EOFError, ConnectionError) as error:
            raise RuntimeError("the server of forks has ended; its message is on the standard error") from error
        if "ended" in message:
            self._endings[message["ended"]] = message
        return message


# ------------------------------------------------------------------------------------------- in the server


class ForkServer:
    """Reads requests, forks, and reports which of its children have ended."""

    def __init__(self, descriptor: int) -> None:
        os.set_inheritable(descriptor, False)  # not inherited by what a job may start
        self.connection = connection.Connection(descriptor)
        self.children: set[int] = set()

    def serve(self) -> None:
        self._import_all()
        threads = len(list(Path("/proc/self/task").iterdir())) if Path("/proc/self/task").is_dir() else 1
        if threads != 1:
            raise RuntimeError(f"a process with {threads} threads cannot be forked")
        ended, wake = os.pipe()
        os.set_blocking(wake, False)
        os.set_blocking(ended, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        self.connection.send({"ready": os.getpid()})
        with contextlib.suppress(EOFError, ConnectionError):  # the client has closed the connection or was killed
            while True:
                ready = connection.wait([self.connection, ended])
                if ended in ready:
                    os.read(ended, 65536)
                    self.reap(os.WNOHANG)
                if self.connection in ready:
                    self.handle_request(self.connection.recv())
        for pid in self.children:
            try:
                os.killpg(pid, signal.SIGKILL)  # with what it has started
            except ProcessLookupError:  # it has no session yet
                os.kill(pid, signal.SIGKILL)
        self.reap(0)

    def handle_request(self, request: Mapping[str, Any]) -> None:
        if "kill" not in request:
            pid = self.fork(request)
            self.children.add(pid)
            self.connection.send({"started": pid})
            return
        if request["kill"] in self.children:
            os.kill(request["kill"], request["signal"])
        self.connection.send({"sent": request["signal"]})

    def fork(self, request: Mapping[str, Any]) -> int:
        """Return the child's pid. The child itself never returns."""
        everything = signal.valid_signals()
        signal.pthread_sigmask(signal.SIG_BLOCK, everything)  # no signal may reach the child in the server's code
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                self.connection.close()
                code = run_child(request)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1 if end.code else 0
            except KeyboardInterrupt:
                traceback.print_exc()
                code = 128 + signal.SIGINT
            except BaseException:
                traceback.print_exc()
            finally:
                _ignore_stop_signals()
                threading._shutdown()
                multiprocessing.util._exit_function()  # not all exit handlers: most are the server's
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, everything)
        return pid

    def reap(self, options: int) -> None:
        """Wait for the children that have ended; with options 0, for all."""
        while self.children:
            pid, status, usage = os.wait4(-1, options)
            if pid == 0:
                return
            self.children.discard(pid)
            if options:
                memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
                spent = int(1e6 * (usage.ru_utime + usage.ru_stime))
                code = os.waitstatus_to_exitcode(status)
                self.connection.send({"ended": pid, "code": code, "memory": memory, "microseconds": spent})

    def _import_all(self) -> None:
        """Import the modules of a run. A child makes the run and lists them, so the server itself never makes one."""
        from importlib import import_module

        for name in LARGE_MODULES:
            import_module(name)
        with tempfile.TemporaryDirectory() as folder:
            for argv in (WARM_UP, SEARCH):
                seen = Path(folder, "seen")
                job = {"argv": argv, "cwd": folder, "env": {}, "out": f"{folder}/out", "err": f"{folder}/err"}
                self.children.add(self.fork({**job, "seen": str(seen)}))
                self.reap(0)
                if not seen.exists():
                    raise RuntimeError(f"the first run failed: {Path(folder, 'err').read_text()}")
                for name in seen.read_text().split():
                    try:
                        import_module(name)
                    except ImportError:
                        continue  # an entry that a package has added to sys.modules itself
                seen.unlink()
        import torch

        torch.set_num_threads(1)


def _ignore_stop_signals() -> None:
    """Let signals that come from now on be too late, whichever thread receives them."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        while signal.getsignal(number) != signal.SIG_IGN:
            with contextlib.suppress(KeyboardInterrupt):  # of a signal that came a moment ago
                signal.signal(number, signal.SIG_IGN)


def run_child(request: Mapping[str, Any]) -> int:
    """Become the process that a request describes and run `dlopt`. Return the exit code."""
    os.setsid()
    for i, name in ((1, "out"), (2, "err")):
        file = os.open(request[name], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        os.dup2(file, i)
        os.close(file)
    os.chdir(request["cwd"])
    os.environ.update(request["env"])
    sys.path[:1] = [p for p in request["env"].get("PYTHONPATH", "").split(os.pathsep) if p]  # for this script's folder
    sys.argv = ["dlopt", *request["argv"]]
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request.get("ignored", ()):
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())

    from dlopt.cli import main

    code = main(request["argv"])
    if "seen" in request and code == 0:
        Path(request["seen"]).write_text("\n".join(sys.modules))
    return code


if __name__ == "__main__":
    ForkServer(int(sys.argv[1])).serve()
