"""The arguments of the commands that open one run."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter

MAX_DIGITS = 12
"""Largest number of digits of a flag's value, which may become part of a file's name."""


def build_run_parser(command: str, description: str, epilog: str, quiet: str) -> ArgumentParser:
    """Build the parser of a command that opens one run: RUN, --trust and --quiet, whose help is `quiet`."""
    parser = ArgumentParser(
        prog=f"dlopt {command}", description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )  # fmt: skip
    run = "a directory, a part of a name, or `last` (the default); of a sweep its best finished run is taken"
    parser.add_argument("run", nargs="?", default="last", metavar="RUN", help=run)
    parser.add_argument("--trust", action="store_true", help="execute code that the run names, such as custom classes")
    parser.add_argument("-q", "--quiet", action="store_true", help=quiet)
    return parser


def parse_count(text: str) -> int:
    """Return the value of a flag that takes a number of things."""
    return _parse_whole_number(text, 1)


def parse_seed(text: str) -> int:
    """Return the value of a flag that takes the seed of random numbers."""
    return _parse_whole_number(text, 0)


def _parse_whole_number(text: str, least: int) -> int:
    if not (text.isdecimal() and len(text) <= MAX_DIGITS and int(text) >= least):
        raise ArgumentTypeError(
            f"must be a whole number of at most {MAX_DIGITS} digits and at least {least}, got {text}"
        )
    return int(text)
