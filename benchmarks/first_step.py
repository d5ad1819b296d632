"""Run `dlopt train`, and print at its first step the seconds since the process was started.

    python -m benchmarks.first_step stop|go [arguments of dlopt train]

With stop the process ends there; with go it continues.
"""

import os
import sys
import time

from benchmarks.processes import STARTED
from dlopt.cli import main
from dlopt.training.state import TrainState

_next_batch = TrainState.next_batch


def report_first_batch(self: TrainState) -> object:
    """Report the first batch, and restore the original method."""
    print(f"first step {time.time() - float(os.environ[STARTED])}", flush=True)
    if sys.argv[1] == "stop":
        os._exit(0)
    TrainState.next_batch = _next_batch
    return _next_batch(self)


arguments = sys.argv[2:]
TrainState.next_batch = report_first_batch
sys.exit(main(["train", *arguments]))
