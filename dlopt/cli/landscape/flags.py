"""The flags of dlopt landscape: their meaning, their defaults, and the names of files that they make."""

from __future__ import annotations

from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from typing import Any

from dlopt.cli.run_parser import build_run_parser, parse_count, parse_seed

DIRECTIONS = ("random", "pca", "eigenvectors")
CHECKPOINTS = "best|last|average|STEP"
GRID_FLAGS = ("dims", "points", "extent", "seed", "metric", "statistics")
"""Flags that only a grid has."""
MAX_POINTS = 1_000_000
"""Largest number of points of a grid."""
EPILOG = """\
  dlopt landscape                              two random directions with the norms of the filters
  dlopt landscape RUN --dims 1 --split val     one direction, on the validation split
  dlopt landscape RUN --directions pca         the plane of the run's own trajectory, with its path
  dlopt landscape RUN --cka                    how similar each layer is to the end of training, without a grid
  dlopt landscape RUN --directions eigenvectors   the two largest eigenvectors of the Hessian
  dlopt landscape RUN --to RUN2                the line between two runs
  dlopt landscape RUN --to RUN2 --to RUN3      the plane through three runs

A trajectory consists of the weights that diagnostic=trajectory has stored, and of kept checkpoints (checkpoint.keep).
Batch normalization uses the statistics that the run has stored. Between runs, and with --statistics recomputed, they
are computed again on the training split at each point. A CSV file and pictures are written to RUN/landscape/ or --out,
with names that tell the flags. If the command is killed, the same command continues.

The projection error of a point of the path is its distance from the plane, or line, that is drawn, divided by its
distance from the center: 0 on the plane, 1 straight above or below the center.
"""


def build_parser() -> ArgumentParser:
    """Build the command's parser."""
    description = "Loss and metrics on a grid of weights around those of a run."
    parser = build_run_parser("landscape", description, EPILOG, quiet="no progress")
    directions = f"{', '.join(DIRECTIONS)}; default random"
    parser.add_argument("--directions", choices=DIRECTIONS, help=directions)
    to = "a second run, with the same function and loss; or twice, a plane"
    parser.add_argument("--to", action="append", default=[], metavar="RUN", help=to)
    dims = "1 or 2; default 2; with --to the number of other runs"
    parser.add_argument("--dims", type=parse_count, metavar="N", help=dims)
    parser.add_argument(
        "--points", type=parse_count, metavar="N", help="along each axis; default 51, in one dimension 101"
    )
    extent = "stretches the default range of the axes; default 1"
    parser.add_argument("--extent", type=parse_positive, metavar="X", help=extent)
    parser.add_argument("--seed", type=parse_seed, metavar="N", help="of the random directions; default 0")
    cka = "similarity of each layer's outputs along the trajectory to those at its end (linear CKA); without"
    parser.add_argument("--cka", action="store_true", help=f"{cka} --directions or --to, only this")
    checkpoint = "the center; default last"
    parser.add_argument("--checkpoint", default="last", metavar=CHECKPOINTS, help=checkpoint)
    other = "of the runs of --to; default: that of --checkpoint"
    parser.add_argument("--to-checkpoint", metavar=CHECKPOINTS, help=other)
    parser.add_argument("--split", choices=("train", "val"), default="train", help="default train")
    parser.add_argument("--examples", type=parse_count, metavar="N", help="random examples of the split; default: all")
    metric = "the metric that is drawn; the CSV file has all; default loss"
    parser.add_argument("--metric", metavar="METRIC", help=metric)
    statistics = "of batch normalization; default stored, between runs recomputed"
    parser.add_argument("--statistics", choices=("stored", "recomputed"), help=statistics)
    parser.add_argument("--out", metavar="DIR", help="folder of the pictures and the CSV files; default RUN/landscape/")
    parser.add_argument("--title", metavar="TEXT", help="the title of the pictures")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    return parser


def parse_positive(text: str) -> float:
    """Return the value of a flag that takes a positive number."""
    try:
        value = float(text)
    except ValueError:
        value = float("nan")
    if not 0 < value < float("inf"):
        raise ArgumentTypeError(f"must be a positive number, got {text}")
    return value


def check_flags(args: Any) -> bool:
    """Raise ConfigError for flags that contradict each other, set the defaults, and return whether there is a grid."""
    from dlopt.config.problems import ConfigError

    if len(args.to) > 2:
        raise ConfigError([("--to", f"takes one or two runs, got {len(args.to)}")])
    if args.to and args.directions is not None:
        raise ConfigError(
            [("--directions", f"with --to the directions lead to the other runs: leave {args.directions} out")]
        )
    if args.to and args.dims not in (None, len(args.to)):
        raise ConfigError([("--dims", f"{len(args.to)} --to makes {len(args.to)} dimensions, got {args.dims}")])
    if args.to_checkpoint and not args.to:
        raise ConfigError([("--to-checkpoint", "is of the runs of --to, and there are none")])
    if args.dims not in (None, 1, 2):
        raise ConfigError([("--dims", f"must be 1 or 2, got {args.dims}")])
    has_grid = bool(args.to or args.directions or not args.cka)
    given = [flag for flag in GRID_FLAGS if getattr(args, flag) is not None]
    if given and not has_grid:
        raise ConfigError([(f"--{flag}", "is of a grid, and --cka alone has none: add --directions") for flag in given])
    args.directions = None if args.to else args.directions or "random"
    if args.seed is not None and args.directions != "random":
        raise ConfigError([("--seed", "is of random directions: leave it out")])
    args.dims = len(args.to) or args.dims or 2
    args.is_default_size = args.points is None
    args.points = args.points or (51 if args.dims == 2 else 101)
    args.extent, args.seed, args.metric = args.extent or 1.0, args.seed or 0, args.metric or "loss"
    args.to_checkpoint = args.to_checkpoint or args.checkpoint
    if args.points < 2:
        raise ConfigError([("--points", f"must be at least 2, got {args.points}")])
    if args.points**args.dims > MAX_POINTS:
        wrong = f"must make at most {MAX_POINTS:,} points, got {args.points:,} along each of {args.dims} axes"
        raise ConfigError([("--points", wrong)])
    return has_grid


def name_grid(args: Any, others: Sequence[str]) -> str:
    """Return what the names of a grid's files begin with: the flags that are not defaults tell grids apart.

    others are the names of the runs of --to.
    """
    facts = {
        f"at-{args.to_checkpoint}": args.to_checkpoint != args.checkpoint,
        f"seed{args.seed}": args.seed,
        f"{args.points}points": not args.is_default_size,
        f"extent{args.extent!r}".removesuffix(".0"): args.extent != 1,
        f"{args.examples}examples": args.examples,
        str(args.statistics): args.statistics,
    }
    kind = "-".join(["to", *others]) if others else args.directions
    parts = [kind, f"{args.dims}d", args.split, args.checkpoint]
    return "-".join([*parts, *(name for name, holds in facts.items() if holds)])


def name_comparison(args: Any) -> str:
    """Return what the names of the files of --cka are."""
    return f"cka-{args.split}" + (f"-{args.examples}examples" if args.examples else "")
