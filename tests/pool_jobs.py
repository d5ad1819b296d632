"""Jobs for the workers of a pool, which import them from here."""

import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from processes import wait_until

from dlopt.config.problems import ConfigError


@dataclass(frozen=True)
class Act:
    """One of the functions below, by name; it gets the folder, and leaves its files there under the job's name."""

    what: str
    name: str
    folder: Path

    @property
    def file(self) -> Path:
        return self.folder / self.name

    @property
    def pid_file(self) -> Path:
        """Holds the number of the process that performs it."""
        return self.folder / f"{self.name}.begun"


def perform(act: Act) -> None:
    write(act.pid_file, str(os.getpid()))
    ACTS[act.what](act)


def write(file: Path, text: str) -> None:
    """In one step: a reader finds all of it or nothing."""
    beside = file.with_name(file.name + ".tmp")
    beside.write_text(text)
    beside.rename(file)


def nothing(act: Act) -> None:
    pass


def threads(act: Act) -> None:
    from dlopt.config.checks.forward_probe import AVAILABLE_THREADS

    write(act.file, str(AVAILABLE_THREADS))


def wait_for_go(act: Act) -> None:
    """Goes on until the file NAME.go appears."""
    wait_until(act.folder.joinpath(f"{act.name}.go").exists)


def save_on_signal(act: Act) -> None:
    """As training does: a signal lets the step under way be the last, a second ends at once; then it saves."""
    asked = []

    def stop(number: int, frame: Any) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)

    former = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    write(act.folder / f"{act.name}.ready", "")
    wait_until(lambda: asked)
    time.sleep(0.05)  # its step is not over at once; a second signal would end it here
    write(act.file, "saved")
    for number, handler in former.items():
        signal.signal(number, handler)


def stubborn(act: Act) -> None:
    """Hears signals and does not stop."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: write(act.folder / f"{act.name}.heard", ""))
    write(act.folder / f"{act.name}.ready", "")
    while True:
        pass


def compute(act: Act) -> None:
    """Long products of matrices in torch, which hold no lock of Python's."""
    import torch

    a = torch.ones(1500, 1500)
    while True:
        a @ a


def fork(act: Act) -> None:
    """Has a process of its own, and waits for that."""
    child = os.fork()
    if not child:
        time.sleep(600)
        os._exit(0)
    write(act.folder / f"{act.name}.child", str(child))
    os.waitpid(child, 0)


def refuse_configuration(act: Act) -> None:
    raise ConfigError([("a.b", "is wrong"), ("c", "too")])


def refuse(act: Act) -> None:
    raise ValueError("not this one")


class OddError(Exception):
    """One that cannot be made again from what it says."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(f"{first} and {second}")


def odd(act: Act) -> None:
    raise OddError("this", "that")


def leave(act: Act) -> None:
    sys.exit(3)


def vanish(act: Act) -> None:
    os._exit(7)


def kill(act: Act) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def talk(act: Act) -> None:
    print("over the screen", flush=True)
    print("over the screen", file=sys.stderr, flush=True)
    os.write(1, b"over the screen\n")
    os.write(2, b"over the screen\n")
    assert sys.stdin.read() == ""


def here(act: Act) -> None:
    """Where it is, and what it finds there."""
    import found_here

    write(act.file, f"{Path.cwd()} {found_here.ANSWER}")


ACTS = {
    f.__name__: f
    for f in (
        nothing,
        threads,
        wait_for_go,
        save_on_signal,
        stubborn,
        compute,
        fork,
        refuse,
        refuse_configuration,
        odd,
        leave,
        vanish,
        kill,
        talk,
        here,
    )
}
