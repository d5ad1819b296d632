"""`dlopt train` as a process of its own that prints, at its first step, the seconds since it was started.

    python -m benchmarks.first_step stop|go [what dlopt train takes]

With stop it ends there; with go it trains on.
"""

import os
import sys
import time

from benchmarks.processes import STARTED
from dlopt.cli import main
from dlopt.training.state import TrainState

_next_batch = TrainState.next_batch


def first(self: TrainState) -> object:
    """Report the first batch; later ones are dlopt's own."""
    print(f"first step {time.time() - float(os.environ[STARTED])}", flush=True)
    if sys.argv[1] == "stop":
        os._exit(0)
    TrainState.next_batch = _next_batch
    return _next_batch(self)


arguments = sys.argv[2:]
TrainState.next_batch = first
sys.exit(main(["train", *arguments]))
