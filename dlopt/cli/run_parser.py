"""The arguments of the commands that open one run."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter


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
    """Return the value of a flag that takes a whole number from 1 on."""
    if not (text.isdecimal() and int(text) >= 1):
        raise ArgumentTypeError(f"must be a whole number of at least 1, got {text}")
    return int(text)
