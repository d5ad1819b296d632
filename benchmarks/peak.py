"""One training as a process of its own that prints the most memory it has held.

python -m benchmarks.peak dlopt|handwritten NAME FOLDER
"""

import resource
import sys
from pathlib import Path

from benchmarks.cases import CASES, Case


def dlopt(case: Case, folder: str) -> None:
    from dlopt.cli import main

    if main(["train", *case.overrides, f"hydra.run.dir={folder}"]):
        raise SystemExit("the run failed")


def handwritten(case: Case, folder: str) -> None:
    import torch

    from benchmarks.data import examples
    from benchmarks.handwritten import adam, network, straight

    torch.set_num_threads(1)
    x, y = examples(case.data)
    net = network(x[0], case.net)
    straight(net, adam(net, case.lr), x, y, case.steps)


def peak() -> float:
    """The peak of this process, in MiB.

    Linux's own getrusage would not do: it hands the peak of the process that started this one down to it.
    """
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    side, name, folder = sys.argv[1:]
    {"dlopt": dlopt, "handwritten": handwritten}[side](next(c for c in CASES if c.name == name), folder)
    print(f"peak {peak()}")
