"""The command: `python -m benchmarks [NAME] [--rounds N]`; without a name, all of them but bits.

`python -m benchmarks bits` measures nothing. It records what training computes: see benchmarks/bits.py.
"""

import argparse
from importlib import import_module

NAMES = ("loops", "startup", "memory", "jobs", "sweep", "pool", "checkpoints", "lanes", "augmentation", "rules")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = (*NAMES, "bits")
    parser.add_argument("name", nargs="?", choices=names, help="what to measure; default: all but bits")
    parser.add_argument("words", nargs="*", metavar="...", help="for bits: record FILE, or compare FILE [OTHER]")
    parser.add_argument("--rounds", type=int, default=7, help="how often each side has its turn (default 7)")
    parser.add_argument("--only", default="", metavar="TEXT", help="for bits: only cases whose name contains TEXT")
    given = parser.parse_args()
    if given.name == "bits":
        raise SystemExit(import_module("benchmarks.bits").main(given.words, given.only))
    if given.words:
        parser.error(f"{given.name} takes no further argument, got {given.words[0]}")
    for name in [given.name] if given.name else NAMES:
        import_module(f"benchmarks.{name}").main(given.rounds)


main()
