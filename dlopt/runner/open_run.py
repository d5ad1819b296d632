"""Open a run for a command within the available memory, with one message for any problem."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dlopt.rundir.display import display_path
from dlopt.runner.execute import USAGE_ERROR

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory


def open_run(
    command: str, name: str, act: Callable[[RunDirectory], int], *, trust: bool, outcome: str = "nothing was started"
) -> int:
    """Return act(run) for the run of this name, or USAGE_ERROR after a message if the run cannot be opened.

    command and outcome are words of the message.
    """
    from dlopt.config.problems import ConfigError, format_error
    from dlopt.rundir.directory import EarlierVersionError
    from dlopt.rundir.find import RunNotFound, find_run
    from dlopt.rundir.lock import LockedError
    from dlopt.storage import memory
    from dlopt.storage.safe_read import to_printable

    place = name
    try:
        run = find_run(name)
        run.follow_links = trust
        place = display_path(run.path)
        run.check_version()
        import torch  # after the message for an unknown name

        # CUDA reserves far more address space than it uses, and would fail within a limit.
        with contextlib.nullcontext() if trust or torch.cuda.is_available() else memory.limit_memory():
            return act(run)
    except (RunNotFound, LockedError, EarlierVersionError) as error:
        message = str(error)
    except ConfigError as error:
        message = error.text(outcome)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = error.filename or place
        file = display_path(Path(where)) if isinstance(where, str | Path) else place
        message = f"{file}: {error.strerror or error}"
    except MemoryError:
        message = f"{place} needs more memory than is available"
    except Exception as error:  # damaged files raise many kinds of errors
        message = f"{place} cannot be read ({to_printable(format_error(error))})"
    print(f"{command}: {message}", file=sys.stderr)
    return USAGE_ERROR
