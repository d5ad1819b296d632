"""dlopt race: optimizers on a test surface, with pictures and a table."""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from dlopt.rundir.display import display_path

if TYPE_CHECKING:
    from dlopt.landscape.arguments import RaceArguments
    from dlopt.landscape.budget import LearningRateRange
    from dlopt.landscape.race import Track
    from dlopt.training.experiment import Experiment

EPILOG = """\
  dlopt race surface=beale optimizer=sgd,momentum,rmsprop,adam,newton steps=500
  dlopt race surface=beale optimizer=sgd,adam sgd.lr=0.01 adam.lr=0.3     learning rates that you choose
  dlopt race surface=rosenbrock --tune lr=1e-4:1                          the best learning rate of each optimizer
  dlopt race surface=himmelblau --starts 10 seed=1                        random starts in the picture's box
  dlopt race surface=long_valley 'start=[0.3,0.5]' optimizer=newton,saddle_free_newton \\
      newton.solver=dense newton.damping=0 newton.adapt=none              textbook Newton ends at a saddle point
  dlopt race surface=rosenbrock optimizer=lbfgs,armijo:lbfgs armijo.linesearch=armijo   variants, with names
  dlopt race surface=ill_conditioned surface.n=20 surface.condition=1e4   more than two weights: no contours
  dlopt race surface=custom surface._target_=mine.F optimizer=custom,adam \\
      custom._target_=mine.MyOptimizer +custom.lr=0.1                     + adds a key that the option does not have

surface=NAME is a function of `dlopt list arch surface`, surface.KEY=VALUE one of its keys. optimizer=A,B names options
of `dlopt list optimizer`, A.KEY=VALUE sets a key of one. optimizer=NAME:A gives option A a name for its keys and rows,
so that variants of it can race. Further keys: steps, start, seed. The defaults are surface=beale, steps=500, seed=0,
the standard start, and optimizer={optimizers}.

Without --tune, optimizers race at the default learning rates of their options. With it, each tries {candidates}
learning rates, log-spaced in the range, for all steps and starts. The best has
{criterion}.

The table has the steps and evaluations after which f - f* stays at most 1e-6. An evaluation is one value, gradient
or Hessian product; a dense Hessian is one product per weight. With several starts, steps and evaluations are the
medians over the converged ones, and f - f* and distance (to the nearest known minimum) the medians over all. A path
ends early if it rests or diverges.
Statuses:
{statuses}
"""


def build_parser() -> argparse.ArgumentParser:
    """Build the command's parser."""
    from dlopt.landscape.arguments import OPTIMIZERS
    from dlopt.landscape.budget import CANDIDATES, CRITERION
    from dlopt.landscape.statuses import describe_statuses

    epilog = EPILOG.format(
        optimizers=OPTIMIZERS, candidates=CANDIDATES, criterion=CRITERION, statuses=describe_statuses()
    )
    parser = argparse.ArgumentParser(
        prog="dlopt race", description="Race optimizers on a test surface.",
        epilog=epilog, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("words", nargs="*", metavar="KEY=VALUE", help="surface, optimizers and their keys; see below")
    starts = "number of starts: the standard one, and random ones in the box of the picture"
    parser.add_argument("--starts", type=int, default=1, metavar="N", help=starts)
    tune = "find the learning rate of each optimizer in a range: --tune lr=1e-4:1"
    parser.add_argument("--tune", metavar="lr=LOW:HIGH", help=tune)
    parser.add_argument("--title", metavar="TEXT", help="the title of the pictures (default: surface, steps and keys)")
    parser.add_argument("--out", metavar="DIR", help="a new folder for the files (default: below outputs/race)")
    parser.add_argument("--config-dir", metavar="DIR", help="a folder with options of your own")
    parser.add_argument("--quiet", "-q", action="store_true", help="print only the table and the files")
    return parser


def race(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_intermixed_args(argv)
    from dlopt import console
    from dlopt.config.problems import ConfigError
    from dlopt.config.schema.targets import add_working_directory

    console.quiet = args.quiet
    add_working_directory()
    try:
        return _race(args)
    except ConfigError as error:
        print(error.text(), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130


def _race(args: Any) -> int:
    """Race, print the table and write the files. Raise ConfigError before anything is written."""
    from dlopt import console
    from dlopt.config.problems import ConfigError

    typed, tuned, folder = _check(args)
    with console.announce("loading torch ..."):
        from dlopt.landscape import race as races
        from dlopt.landscape.entrants import build_entrants
        from dlopt.landscape.tuning import tune

        flags = [] if args.config_dir is None else ["--config-dir", args.config_dir]
        entrants, notices = build_entrants(typed, flags)
    for notice in notices if not args.quiet else ():
        print(notice, file=sys.stderr)
    first = next(iter(entrants.values()))
    if tuned is not None and races.has_no_minimum(first):
        wrong = f"surface={typed.surface} is not bounded below, so no learning rate is the best"
        raise ConfigError([("--tune", f"{wrong}: leave it out, and type those that you want, such as sgd.lr=0.1")])
    landmarks, starts = races.Landmarks.of(first), races.sample_starts(first, args.starts)
    races.check_starts(first, starts)
    tracks, lrs = {}, {}
    for i, (name, experiment) in enumerate(entrants.items(), 1):
        with console.announce(f"{i}/{len(entrants)}  {name} ..."):
            if tuned is not None:
                lrs[name], tracks[name] = tune(experiment, starts, landmarks, tuned)
            else:
                lrs[name] = races.find_lr(experiment)
                tracks[name] = races.run_tracks(races.start_at(experiment, starts))

    from dlopt.report.race.table import make_table

    outcomes = {name: [races.judge(track, landmarks) for track in each] for name, each in tracks.items()}
    table = make_table(outcomes, lrs, has_minimum=landmarks.minimum is not None)
    print(table.text(shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    if not args.quiet:
        if args.starts > 1:
            print(f"medians: steps and evaluations of the converged starts, the others of all {args.starts}")
        print(_describe_learning_rates(args.tune))
        typed_keys = {name: " ".join(typed.list_typed_keys(name)) for name in tracks}
        print("".join(f"{name}: {keys}\n" for name, keys in typed_keys.items() if keys), end="")
    title = f"{typed.label_surface()}: {first.settings.steps:,} steps, {_name_learning_rates(args.tune, typed)}"
    title = title if args.title is None else args.title
    labels = {name: typed.label_optimizer(name, lrs[name] if args.tune else None) for name in tracks}
    from dlopt.runner.signals import handle_signals

    with handle_signals(signal.default_int_handler):  # so that a half-written folder is removed
        return _write(first, tracks, labels, folder, title)


def _check(args: Any) -> tuple[RaceArguments, LearningRateRange | None, Path]:
    """Return the parsed words, the range of --tune and the folder. Raise ConfigError with all problems."""
    from dlopt.config.problems import Problems
    from dlopt.landscape.arguments import check_flags, parse
    from dlopt.landscape.budget import parse_range

    problems = Problems()
    typed = problems.attempt(lambda: parse(args.words))
    tuned = problems.attempt(lambda: None if args.tune is None else parse_range(args.tune))
    problems.attempt(lambda: check_flags(typed.value, args.starts, tunes=args.tune is not None))
    folder = problems.attempt(lambda: _choose_folder(args.out, typed.value.surface))
    problems.raise_if_any()
    return typed.value, tuned.value_or_none, folder.value


def _choose_folder(out: str | None, surface: str) -> Path:
    """Return a folder that does not exist yet. Raise ConfigError otherwise, or if it cannot be made."""
    from dlopt.config.problems import ConfigError
    from dlopt.landscape.result_files import check_folder

    if out is None:
        return Path("outputs/race", time.strftime("%Y-%m-%d"), f"{time.strftime('%H-%M-%S')}-{surface}-{token_hex(2)}")
    folder = Path(out).expanduser()
    if folder.exists():
        raise ConfigError([("--out", f"{out} exists; name a new folder")])
    check_folder(folder)
    return folder


def _name_learning_rates(tune: str | None, typed: RaceArguments) -> str:
    if tune is not None:
        return f"learning rates tuned in {tune.partition('=')[2]}"
    return "default keys except those in the legend" if any(typed.own.values()) else "default learning rates"


def _describe_learning_rates(tune: str | None) -> str:
    """Return how the learning rates were chosen."""
    from dlopt.landscape.budget import CANDIDATES, CRITERION

    if tune is None:
        return "learning rates: the defaults of the options or typed ones; --tune lr=1e-4:1 finds the best of each"
    low, _, high = tune.partition("=")[2].partition(":")
    return f"learning rates: the best of {CANDIDATES} from {low} to {high} for each, by {CRITERION}"


def _write(
    first: Experiment, tracks: Mapping[str, Sequence[Track]], labels: Mapping[str, str], folder: Path, title: str
) -> int:
    """Write the files and print their names. Return the exit code."""
    from dlopt import console
    from dlopt.landscape.grid import make_grid
    from dlopt.landscape.race import Landmarks
    from dlopt.report.race.figures import Race
    from dlopt.report.race.files import write_race

    landmarks = Landmarks.of(first)
    grid = make_grid(first, landmarks, [track for each in tracks.values() for track in each])
    try:
        with console.announce("drawing ..."):
            files = write_race(Race(title, tracks, labels, landmarks, grid), folder)
    except (OSError, ValueError) as error:
        print(f"dlopt race: {getattr(error, 'strerror', None) or error}", file=sys.stderr)
        return 1
    print("\n".join(["", *map(display_path, files)]))
    if grid is None and not console.quiet:
        print(f"the surface has {len(first.w)} weights: contours and the animation need two")
    return 0
