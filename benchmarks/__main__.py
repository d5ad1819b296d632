"""The command: `python -m benchmarks [NAME] [--rounds N]`; without a name, all of them."""

import argparse
from importlib import import_module

NAMES = ("loops", "startup", "memory", "jobs", "sweep", "pool", "checkpoints", "lanes", "augmentation", "rules")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", nargs="?", choices=NAMES, help="what to measure; all of them unless given")
    parser.add_argument("--rounds", type=int, default=7, help="how often each side has its turn (default 7)")
    given = parser.parse_args()
    for name in [given.name] if given.name else NAMES:
        import_module(f"benchmarks.{name}").main(given.rounds)


main()
