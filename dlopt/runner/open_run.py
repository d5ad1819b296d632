"""Commands that open a run: what is wrong with it is said in one message, and it takes no more memory than there is."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from dlopt.rundir.display import display_path
from dlopt.runner.run_one import USAGE_ERROR

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory


def open_run(
    command: str, name: str, act: Callable[[RunDirectory], int], *, trust: bool, outcome: str = "nothing was started"
) -> int:
    """What act returns for the run of this name; the exit code for wrong usage where it cannot be opened.

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
        import torch  # later than what is said of a name that is none

        # CUDA sets aside far more than it takes, and would fail within a bound.
        with contextlib.nullcontext() if trust or torch.cuda.is_available() else memory.limit_memory():
            return act(run)
    except (RunNotFound, LockedError, EarlierVersionError) as error:
        said = str(error)
    except ConfigError as error:
        said = error.text(outcome)
    except BrokenPipeError:
        raise
    except OSError as error:
        where = error.filename or place
        said = f"{display_path(Path(where)) if isinstance(where, str | Path) else place}: {error.strerror or error}"
    except MemoryError:
        said = f"{place} needs more memory than there is"
    except Exception as error:  # a damaged file fails in a dozen ways
        said = f"{place} cannot be read ({to_printable(format_error(error))})"
    print(f"{command}: {said}", file=sys.stderr)
    return USAGE_ERROR
