"""Configuration problems: collected by the checks, reported together."""

from __future__ import annotations

import sys
import sysconfig
import traceback
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Generic, TypeVar

from dlopt.storage.safe_read import to_printable

T = TypeVar("T")


class ConfigError(Exception):
    """A configuration that cannot be run.

    problems holds pairs: a key, and a message that says what is wrong there and what would be right.

        try:
            dlopt.train(["epochs=0"])
        except dlopt.ConfigError as error:
            print(error.problems)   # [("epochs", "must be >= 1, got 0")]
    """

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = list(dict.fromkeys(problems))
        super().__init__(self.text())

    def __reduce__(self) -> tuple[Any, ...]:
        return ConfigError, (self.problems,), vars(self)  # not the text: worker processes send it as a pickle

    def summarize(self) -> str:
        """Return all problems in one line."""
        return "; ".join(f"{key}: {problem}" for key, problem in self.problems)

    def text(self, outcome: str = "nothing was started") -> str:
        """Return all problems, one to a line, below their number and the outcome."""
        count = len(self.problems)
        width = min(max((len(key) for key, _ in self.problems), default=0), 34)
        head = "1 problem" if count == 1 else f"{count} problems"
        lines = [f"  {key:<{width}}  {message}" if key else f"  {message}" for key, message in self.problems]
        return "\n".join([f"{head}, {outcome}:", *(to_printable(x) for line in lines for x in line.splitlines())])


class Attempt(Generic[T]):
    """The outcome of a stage of `build`: a value, or the problems that prevented it."""

    def __init__(self, value: T | None, problems: Problems) -> None:
        self._value = value
        self._problems = problems

    @property
    def value(self) -> T:
        """Return the value. Raises ConfigError with all problems so far if the stage failed."""
        if self._value is None:
            raise ConfigError(self._problems.errors)
        return self._value

    @property
    def value_or_none(self) -> T | None:
        """Return the value, or None if the stage failed."""
        return self._value


class Problems:
    """The problems that checks have found so far, and notices about choices that have no effect."""

    def __init__(self) -> None:
        self.errors: list[tuple[str, str]] = []
        self.notices: list[str] = []

    def add(self, key: str, message: str) -> None:
        """Add a problem at a key."""
        self.errors.append((key, message))

    def has_no_problem(self, *keys: str) -> bool:
        """Return whether nothing is wrong at these keys or below them."""
        return not any(at == key or at.startswith(key + ".") for at, _ in self.errors for key in keys)

    def raise_if_any(self) -> None:
        """Raise ConfigError with all problems, if there are any."""
        if self.errors:
            raise ConfigError(self.errors)

    def attempt(self, stage: Callable[[], T | None]) -> Attempt[T]:
        """Run a stage that returns a value, or None after it has added a problem, or raises ConfigError.

        A stage that reads the `value` of a failed stage is skipped: its problems would only be consequences.
        """
        try:
            return Attempt(stage(), self)
        except ConfigError as error:
            self.errors += [problem for problem in error.problems if problem not in self.errors]
            return Attempt(None, self)


def format_error(error: BaseException) -> str:
    """Return an error's class and the first line of its message."""
    return f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"


def locate_error(error: BaseException) -> str:
    """Return an error's class and message, with file and line if it was raised in code that is not in a package."""
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error}"  # it names file and line
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not _is_installed(f.filename)]
    place = f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
    return format_error(error) + place


def _is_installed(file: str) -> bool:
    """Return whether a file is a module of dlopt, of Python or of an installed package."""
    packages = (path for path in sys.path if Path(path).name in ("site-packages", "dist-packages"))
    folders = (Path(__file__).parents[1], *map(Path, (sysconfig.get_path("stdlib"), *packages)))
    return file.startswith("<") or any(Path(file).is_relative_to(folder) for folder in folders)


def describe_failure(error: BaseException) -> str:
    """Return the message of a ValueError, which is written for users; of any other error also its class."""
    return str(error) if isinstance(error, ValueError) else f"fails: {format_error(error)}"
