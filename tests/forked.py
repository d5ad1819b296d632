"""Real `dlopt` processes that start in a fraction of a second and can really be killed.

A server process has imported everything that training needs. For each job it forks a child with its own session, its
own output files and the signal handlers of a fresh Python process. The server has one thread, since a fork copies only
one, and ends with all its children when its input closes.
"""

from __future__ import annotations

import json
import multiprocessing.util
import os
import select
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
"""A sweep whose modules the server imports."""
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
        self._buffer = b""
        self._count = 0
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,
            env={k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES")}  # pytest-xdist sets them
            | {**ONE_THREAD, "PYTHONPATH": str(Path(dlopt.__file__).parents[1])},
        )
        try:
            self._answer("ready", time.monotonic() + TIMEOUT)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        assert self._server.stdin is not None
        assert self._server.stdout is not None
        self._server.stdin.close()
        try:
            self._server.wait(TIMEOUT)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
        self._server.stdout.close()
        shutil.rmtree(self._folder)

    def start(
        self, argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None, terminal: str | None = None
    ) -> ForkedProcess:
        """Start `dlopt ARGV` in a folder, with these variables added to the environment.

        The output goes to a terminal if its device is given; the result of the process has none then.
        """
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        out.touch()  # a job may be killed before it has opened them
        err.touch()
        places = {"out": terminal or str(out), "err": terminal or str(err)}
        self._ask({"argv": list(argv), "cwd": str(cwd), "env": dict(env or {}), **places})
        return ForkedProcess(self, self._answer("started", time.monotonic() + TIMEOUT), out, err)

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
        self._ask({"kill": pid, "signal": int(number)})
        self._answer("sent", time.monotonic() + TIMEOUT)

    def wait_for_end(self, pid: int, timeout: float) -> dict[str, int] | None:
        """Return what the server reports of an ended process; None if it has not ended after this many seconds."""
        deadline = time.monotonic() + timeout
        while pid not in self._endings and self._hear(deadline) is not None:
            pass
        return self._endings.get(pid)

    def _ask(self, question: Mapping[str, Any]) -> None:
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps(question).encode() + b"\n")

    def _answer(self, name: str, deadline: float) -> int:
        while True:
            message = self._hear(deadline)
            if message is None:
                raise TimeoutError(f"the server has not said '{name}'")
            if name in message:
                return int(message[name])

    def _hear(self, deadline: float) -> dict[str, int] | None:
        """Return the server's next message; None if there is none before the deadline."""
        assert self._server.stdout is not None
        while b"\n" not in self._buffer:
            if not select.select([self._server.stdout], [], [], max(0.0, deadline - time.monotonic()))[0]:
                return None
            part = self._server.stdout.read(65536)
            if not part:
                raise RuntimeError("the server of forks has ended; its message is on the standard error")
            self._buffer += part
        line, _, self._buffer = self._buffer.partition(b"\n")
        message: dict[str, int] = json.loads(line)
        if "ended" in message:
            self._endings[message["ended"]] = message
        return message


# ------------------------------------------------------------------------------------------- in the server


class ForkServer:
    """Reads requests, forks, and reports which of its children have ended."""

    def __init__(self) -> None:
        self.requests, self.answers = os.dup(0), os.dup(1)  # not inherited by what a job may start
        self.children: set[int] = set()
        nothing = os.open(os.devnull, os.O_RDWR)
        os.dup2(nothing, 0)
        os.dup2(2, 1)

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
        self.send_message(ready=os.getpid())
        buffer = b""
        while True:
            ready = select.select([self.requests, ended], [], [])[0]
            if ended in ready:
                os.read(ended, 65536)
                self.reap(os.WNOHANG)
            if self.requests in ready:
                part = os.read(self.requests, 65536)
                if not part:
                    break
                *lines, buffer = (buffer + part).split(b"\n")
                for line in lines:
                    self.handle_request(json.loads(line))
        for pid in self.children:
            try:
                os.killpg(pid, signal.SIGKILL)  # with what it has started
            except ProcessLookupError:  # it has no session yet
                os.kill(pid, signal.SIGKILL)
        self.reap(0)

    def handle_request(self, request: Mapping[str, Any]) -> None:
        if "kill" in request:
            if request["kill"] in self.children:
                os.kill(request["kill"], request["signal"])
            self.send_message(sent=request["signal"])
            return
        pid = self.fork(request)
        self.children.add(pid)
        self.send_message(started=pid)

    def fork(self, request: Mapping[str, Any]) -> int:
        """Return the child's pid. The child itself never returns."""
        everything = signal.valid_signals()
        signal.pthread_sigmask(signal.SIG_BLOCK, everything)  # no signal may reach the child in the server's code
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                os.close(self.requests)
                os.close(self.answers)
                code = run_child(request)
            except SystemExit as end:
                code = end.code if isinstance(end.code, int) else 1 if end.code else 0
            except KeyboardInterrupt:
                traceback.print_exc()
                code = 128 + signal.SIGINT
            except BaseException:
                traceback.print_exc()
            finally:
                signal.pthread_sigmask(signal.SIG_BLOCK, everything)  # later signals come after the end
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
            unit = 1 if sys.platform == "darwin" else 1024
            spent = int(1e6 * (usage.ru_utime + usage.ru_stime))
            if options:
                code = os.waitstatus_to_exitcode(status)
                self.send_message(ended=pid, code=code, memory=usage.ru_maxrss * unit, microseconds=spent)

    def send_message(self, **message: int) -> None:
        os.write(self.answers, json.dumps(message).encode() + b"\n")

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
    signal.pthread_sigmask(signal.SIG_UNBLOCK, signal.valid_signals())

    from dlopt.cli import main

    code = main(request["argv"])
    if "seen" in request and code == 0:
        Path(request["seen"]).write_text("\n".join(sys.modules))
    return code


if __name__ == "__main__":
    ForkServer().serve()
