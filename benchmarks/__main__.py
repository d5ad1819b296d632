"""The command: `python -m benchmarks [NAME] [--rounds N]`; without a name, all of them but bits.

`python -m benchmarks bits` measures nothing. It records what training computes: see benchmarks/bits.py.
"""

import argparse
from importlib import import_module

NAMES = (
    *("loops", "startup", "memory", "jobs", "sweep", "pool", "checkpoints", "lanes", "augmentation"),
    *("rules", "optimizers", "curvature", "quasi_newton", "race", "diagnostics", "landscape"),
    *("large_data", "large_table", "predict"),
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = (*NAMES, "bits")
    parser.add_argument("name", nargs="?", choices=names, help="what to measure; default: all but bits")
    parser.add_argument("words", nargs="*", metavar="...", help="for bits: record FILE, or compare FILE [OTHER]")
    parser.add_argument("--rounds", type=int, default=7, help="number of turns of each side (default 7)")
    parser.add_argument("--only", default="", metavar="TEXT", help="for bits: only cases whose name contains TEXT")
    arguments = parser.parse_args()
    if arguments.name == "bits":
        raise SystemExit(import_module("benchmarks.bits").main(arguments.words, arguments.only))
    if arguments.words:
        parser.error(f"{arguments.name} takes no further argument, got {arguments.words[0]}")
    for name in [arguments.name] if arguments.name else NAMES:
        import_module(f"benchmarks.{name}").main(arguments.rounds)


main()
