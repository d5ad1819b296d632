"""Open runs from Python: errors are raised, and name arguments instead of flags."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dlopt.config.problems import ConfigError
from dlopt.runner.open_run import enter_run

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory


@contextlib.contextmanager
def open_directory(name: str, *, trust: bool, outcome: str) -> Iterator[RunDirectory]:
    """Yield the run of this name, of a sweep the best that is done, and confine the block unless the run is trusted.

    Raises RunError if it cannot be opened, and ConfigError, whose text begins with the outcome, for other problems.
    """
    try:
        with enter_run(name, trust=trust) as run:
            yield run
    except ConfigError as error:
        problems = ConfigError([(key.removeprefix("--"), _name_arguments(text)) for key, text in error.problems])
        problems.args = (problems.text(outcome),)
        raise problems from None


def _name_arguments(message: str) -> str:
    """Return a message of a command with the argument of a function in place of the flag."""
    return message.replace("--trust", "trust=True")
