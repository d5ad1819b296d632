"""The arguments of the commands that open one run."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dlopt.rundir.directory import RunDirectory

MAX_DIGITS = 12
"""Largest number of digits of a flag's value, which may become part of a file's name."""


def build_run_parser(command: str, description: str, epilog: str, quiet: str) -> ArgumentParser:
    """Build the parser of a command that opens one run: RUN, --trust and --quiet, whose help is `quiet`."""
    parser = build_parser(command, description, epilog, quiet)
    run = "a directory, a part of a name, or `last` (the default); of a sweep its best finished run is taken"
    parser.add_argument("run", nargs="?", default="last", metavar="RUN", help=run)
    return parser


def build_parser(command: str, description: str, epilog: str, quiet: str) -> ArgumentParser:
    """Build the parser of a command that opens runs: --trust and --quiet, whose help is `quiet`."""
    parser = ArgumentParser(
        prog=f"dlopt {command}", description=description, epilog=epilog, allow_abbrev=False,
        formatter_class=RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--trust", action="store_true", help="execute code that the run names, such as custom classes")
    parser.add_argument("-q", "--quiet", action="store_true", help=quiet)
    return parser


def open_named_run(command: str, args: Any, work: Callable[[RunDirectory, Any], int], outcome: str) -> int:
    """Return the exit code of work(run, args) on the run that the arguments name, or of a message without it.

    outcome: as for `dlopt.runner.open_run.open_run`.
    """
    from dlopt import console
    from dlopt.runner.open_run import open_run

    console.quiet = args.quiet
    return open_run(f"dlopt {command}", args.run, lambda run: work(run, args), trust=args.trust, outcome=outcome)


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


# ------------------------------------------------------------------------------------------- other data and predictions


def add_checkpoint_flag(parser: ArgumentParser) -> None:
    """Add --checkpoint, by default the best one."""
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|last|average|STEP",
        help="default best; without validation: the last",
    )


def add_checkpoint_flags(parser: ArgumentParser) -> None:
    """Add the flags of a command that uses a trained network: --checkpoint and --device."""
    add_checkpoint_flag(parser)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")


def mark_data_keys(argv: Sequence[str], flags: Sequence[str]) -> list[str]:
    """Return the arguments with --data before each data.KEY=VALUE that has none: so messages about data write keys.

    flags are further ones whose value may look so.
    """
    marked = []
    for before, word in zip(["", *argv], argv, strict=False):
        is_key = word.startswith("data.") and "=" in word and not Path(word).exists()
        is_key &= before not in ("--data", *flags)
        marked += ["--data", word] if is_key else [word]
    return marked


def find_conflict(file: str, runs: Sequence[RunDirectory], inputs: Sequence[str]) -> str | None:
    """Return what is wrong if predictions would replace a file of data or of a run, or cannot be a file."""
    from dlopt.config.compose.groups import DATA_FILE_KEYS

    names: list[Any] = [*inputs, *(word.partition("=")[2] for word in inputs)]
    for run in runs:
        data = run.config().get("data") or {}
        names += [data.get(key) for key in DATA_FILE_KEYS]
    files = {Path(name).expanduser().resolve() for name in names if isinstance(name, str) and name}
    path = Path(file).resolve()
    is_data = path in files or (path.exists() and any(other.exists() and path.samefile(other) for other in files))
    wrong = "is a file of data" * is_data or "is a directory" * path.is_dir()
    wrong = wrong or "lies in the run" * any(path.is_relative_to(run.path.resolve()) for run in runs)
    return f"{file} {wrong}; name another one" if wrong else None
