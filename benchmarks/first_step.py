"""`dlopt train` as a process of its own that prints, at its first step, the seconds since it was started.

    python -m benchmarks.first_step stop|go [what dlopt train takes]

With stop it ends there; with go it trains on.
"""

import os
import sys
import time

from benchmarks.processes import STARTED
from dlopt.cli import main
from dlopt.training.loop import Training

_draw = Training.draw


def first(self: Training) -> object:
    """The first draw; later ones are dlopt's own."""
    print(f"first step {time.time() - float(os.environ[STARTED])}", flush=True)
    if sys.argv[1] == "stop":
        os._exit(0)
    Training.draw = _draw
    return _draw(self)


arguments = sys.argv[2:]
Training.draw = first
sys.exit(main(["train", *arguments]))
