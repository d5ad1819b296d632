"""Open runs from Python: errors are raised, and name arguments instead of flags."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from dlopt.config.problems import ConfigError
from dlopt.runner.open_run import enter_run

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory

ARGUMENTS = {"--trust": "trust=True", "--config-dir": "config_dir", "add -m": "pass multirun=True"}
"""Flags of the command line in messages, and the arguments of functions that replace them."""


@contextlib.contextmanager
def open_directory(name: str, *, trust: bool, outcome: str) -> Iterator[RunDirectory]:
    """Yield the run of this name, of a sweep the best that is done, and confine the block unless the run is trusted.

    Raises RunError if it cannot be opened, and ConfigError, whose text begins with the outcome, for other problems.
    """
    try:
        with enter_run(name, trust=trust) as run:
            yield run
    except ConfigError as error:
        raise name_arguments(error, outcome) from None


def name_arguments(error: ConfigError, outcome: str = "nothing was started") -> ConfigError:
    """Return the problems of a command with the arguments of functions in place of flags. outcome: as for its text."""

    def rename(text: str) -> str:
        for flag, argument in ARGUMENTS.items():
            text = text.replace(flag, argument)
        return text.removeprefix("--")

    renamed = ConfigError([(rename(key), rename(message)) for key, message in error.problems])
    renamed.args = (renamed.text(outcome),)
    return renamed
