"""Train in a process of its own, and print its peak memory.

python -m benchmarks.peak dlopt|handwritten NAME FOLDER
"""

import resource
import sys
from pathlib import Path

from benchmarks.cases import CASES, Case


def train_dlopt(case: Case, folder: str) -> None:
    from dlopt.cli import main

    if main(["train", *case.overrides, f"hydra.run.dir={folder}"]):
        raise SystemExit("the run failed")


def train_by_hand(case: Case, folder: str) -> None:
    import torch

    from benchmarks.data import load_examples
    from benchmarks.handwritten import build_adam, build_network, train_by_index

    torch.set_num_threads(1)
    x, y = load_examples(case.data)
    net = build_network(x[0], case.net)
    train_by_index(net, build_adam(net, case.lr), x, y, case.steps)


def measure_peak() -> float:
    """Return the peak memory of this process in MiB. On Linux getrusage also counts the peak of the parent process."""
    status = Path("/proc/self/status")
    if status.exists():
        return next(int(line.split()[1]) for line in status.read_text().splitlines() if line.startswith("VmHWM")) / 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


if __name__ == "__main__":
    side, name, folder = sys.argv[1:]
    {"dlopt": train_dlopt, "handwritten": train_by_hand}[side](next(c for c in CASES if c.name == name), folder)
    print(f"peak {measure_peak()}")
