"""One call of `dlopt train`."""

from __future__ import annotations

import os
from dataclasses import dataclass, field


@dataclass(kw_only=True)
class Invocation:
    """Options of the command besides the configuration, and whether a run has started.

    yes          start even a very large grid
    dry_run      show the plan without running it
    full_errors  raise unexpected errors with their traceback
    has_started  whether a run may have started: from then on an error is a failed run, not a wrong command
    """

    yes: bool = False
    dry_run: bool = False
    full_errors: bool = field(default_factory=lambda: os.environ.get("HYDRA_FULL_ERROR") == "1")
    has_started: bool = False
