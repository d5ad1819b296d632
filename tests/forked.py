"""Real `dlopt` processes that start in a fraction of a second and can really be killed.

A server, a process of its own, has imported all that training needs; for each job it forks a child, which is then what
a process of `dlopt` is: a session of its own, its own files for output, the signals as Python has them at its start.
The server has one thread, since a fork takes along no other, and ends with all its children when its input closes.
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
"""A run whose modules are those that the server imports; it needs no file but that of the digits."""
SEARCH = (*WARM_UP, "-m", "hydra/sweeper=random", "hydra.sweeper.n_trials=1", "optimizer.lr=interval(1e-3,1e-2)")
"""A sweep, whose modules it imports too."""
TIMEOUT = 300.0
"""Seconds after which a process that should have answered is taken to hang."""


@dataclass(frozen=True)
class ProcessResult:
    """How a process ended.

    code     its exit code; of a process that a signal ended, the negative signal
    out, err what it wrote
    memory   bytes that it held at the most (those that it shared with the server included)
    seconds  of the processor that it took
    """

    code: int
    out: str
    err: str
    memory: int
    seconds: float


class ForkedProcess:
    """A process of `dlopt`, under way or ended."""

    def __init__(self, forks: Forks, pid: int, out: Path, err: Path) -> None:
        self.pid = pid
        self._forks, self._out, self._err = forks, out, err

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Send a signal; a process that has ended hears nothing."""
        self._forks.send(self.pid, number)

    @property
    def has_ended(self) -> bool:
        return self._forks.wait_for_end(self.pid, 0.0) is not None

    def wait(self, timeout: float = TIMEOUT) -> ProcessResult:
        """How it ended; TimeoutError when it has not after so many seconds."""
        found = self._forks.wait_for_end(self.pid, timeout)
        if found is None:
            raise TimeoutError(f"process {self.pid} has not ended after {timeout} s")
        out, err = (file.read_text(errors="replace") for file in (self._out, self._err))
        return ProcessResult(found["code"], out, err, found["memory"], found["microseconds"] / 1e6)


class Forks:
    """The server, seen from the tests."""

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
            env={**os.environ, **ONE_THREAD, "PYTHONPATH": str(Path(dlopt.__file__).parents[1])},
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

    def start(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> ForkedProcess:
        """`dlopt ARGV` in a folder, with these variables added to the environment."""
        self._count += 1
        out, err = (self._folder / f"{self._count}.{name}" for name in ("out", "err"))
        out.touch()  # a job may be killed before it has opened them
        err.touch()
        self._ask({"argv": list(argv), "cwd": str(cwd), "env": dict(env or {}), "out": str(out), "err": str(err)})
        return ForkedProcess(self, self._answer("started", time.monotonic() + TIMEOUT), out, err)

    def run(self, argv: Sequence[str], cwd: Path, env: Mapping[str, str] | None = None) -> ProcessResult:
        """Start a process and wait for its end; one that hangs is killed, and TimeoutError raised."""
        job = self.start(argv, cwd, env)
        try:
            return job.wait()
        except TimeoutError:
            job.kill()
            raise

    def send(self, pid: int, number: int) -> None:
        """A signal by way of the server, which alone knows whether the number is still that of its child."""
        self._ask({"kill": pid, "signal": int(number)})
        self._answer("sent", time.monotonic() + TIMEOUT)

    def wait_for_end(self, pid: int, timeout: float) -> dict[str, int] | None:
        """What the server says of a process that has ended; None when it has not after so many seconds."""
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
        """The server's next message; None where there is none before the deadline."""
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
    """Reads requests, forks, and says which of its children have ended."""

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
        """The child's number; the child itself never returns."""
        everything = signal.valid_signals()
        signal.pthread_sigmask(signal.SIG_BLOCK, everything)  # none may find the child in the server's code
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
                signal.pthread_sigmask(signal.SIG_BLOCK, everything)  # what comes now comes after the end
                threading._shutdown()
                multiprocessing.util._exit_function()  # not all that is asked for at exit: much of it is the server's
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, everything)
        return pid

    def reap(self, options: int) -> None:
        """Take in the children that have ended, or with no option wait for all."""
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
        """Import what a run imports: a child trains one and tells, so that no run has happened in the server itself."""
        from importlib import import_module

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
                        continue  # what a package has put among the modules by hand
                seen.unlink()
        import torch

        torch.set_num_threads(1)


def run_child(request: Mapping[str, Any]) -> int:
    """Become the process that a request describes, and be `dlopt`; returns the exit code."""
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
