"""dlopt predict: predictions of a run, or of several as an ensemble, for each row of a file."""

from __future__ import annotations

import shutil
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.run_parser import add_checkpoint_flags, build_parser, find_conflict, mark_data_keys, parse_count
from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.config.reopen.predict_file import FilePredictor
    from dlopt.rundir.directory import RunDirectory

SHOWN, SHOWN_DIGITS = 10, ".4g"
"""Rows that are printed without --out, and the format of their predictions."""
EPILOG = """\
  dlopt predict last new.csv                                  the first rows of a table with predictions of the last run
  dlopt predict last new.csv --out predictions.csv            all rows; also to .parquet and .jsonl
  dlopt predict new.csv                                       the run may be left out: it is the last one
  dlopt predict last inbox --out predictions.csv              each image, or text, in a folder and its folders
  dlopt predict last photo.jpg                                one image, or one text in a .txt file
  dlopt predict last new.npz --data data.inputs=x_new         an array of another name than in training
  dlopt predict last new.csv data.missing=fill                other keys of the data
  dlopt predict SWEEP new.csv --ensemble --out mean.csv       the mean over seeds and folds of the best configuration
  dlopt predict RUN1 RUN2 RUN3 new.csv --out mean.csv         the mean over these runs

The file is read as the training file was, a part at a time, so it may exceed memory. The target is not read, and its
column may be missing. All columns are kept, and these are added; one that the file has gets an underscore at its end:
  prediction          the most probable class, or the number in the units of the target; of several: prediction_NAME
  probability_CLASS   the probability of each class; with --top N: probability, prediction_2, probability_2, ...
  sd_CLASS, sd        of an ensemble: sample standard deviation of the probability, or of the number, over its runs
An ensemble predicts the mean of the probabilities, and its class is the largest one, or the mean of the numbers.
"""


def build_predict_parser() -> ArgumentParser:
    """Build the command's parser."""
    description = "Predictions for each row of a table or array, each image or each text."
    parser = build_parser("predict", description, EPILOG, quiet="no progress")
    run = (
        "a directory, a part of a name, or `last` (the default); of a sweep its best finished run; several: an ensemble"
    )
    parser.add_argument("run", nargs="*", metavar="RUN", help=run)
    parser.add_argument("file", metavar="FILE", help="what to predict: a file or folder, of the kind of the run's data")
    out = "the file to write: .csv, .parquet or .jsonl; without it, or with -, the first rows are printed"
    parser.add_argument("--out", metavar="FILE", help=out)
    add_checkpoint_flags(parser)
    ensemble = "of a sweep, take all seeds and folds of the best configuration"
    parser.add_argument("--ensemble", action="store_true", help=ensemble)
    top = "the N most probable classes, in place of the probability of every class"
    parser.add_argument("--top", type=parse_count, metavar="N", help=top)
    data = "how to read the file, if it differs from training: KEY=VALUE of the data, or a data option"
    parser.add_argument("--data", action="append", default=[], metavar="KEY=VALUE|OPTION", help=data)
    size = "examples of one forward pass (default 1024, or fewer large ones)"
    parser.add_argument("--batch-size", type=parse_count, metavar="N", help=size)
    return parser


def predict(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_predict_parser().parse_intermixed_args(mark_data_keys(argv, ("--out",)))
    from dlopt import console
    from dlopt.rundir.find import RunNotFound
    from dlopt.runner.open_run import find_ensemble, open_runs

    console.quiet = args.quiet
    names = args.run or ["last"]
    try:
        if args.ensemble:
            names = [run for name in names for run in find_ensemble(name)]
    except RunNotFound as error:
        print(f"dlopt predict: {error}", file=sys.stderr)
        return 2
    outcome = "nothing was written"
    return open_runs("dlopt predict", names, lambda runs: _predict_runs(runs, args), trust=args.trust, outcome=outcome)


def _predict_runs(runs: Sequence[RunDirectory], args: Any) -> int:
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.predict_file import open_file
    from dlopt.runner.execute import INTERRUPTED
    from dlopt.runner.signals import handle_signals

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    out = None if args.out in (None, "-") else args.out
    data = _list_data(args)
    _check(runs, args, out)
    try:
        with handle_signals(interrupt):
            predictor, warnings = open_file(
                runs, data, args.checkpoint, device=args.device, trust=args.trust, batch_size=args.batch_size
            )
            _print_warnings(warnings)
            check_top(predictor, args.top)
            if out is None:
                _print_first(predictor, args)
                return 0
            return _write(predictor, args, Path(out))
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return INTERRUPTED
    except ConfigError as error:
        of_file = {"data.path"} if args.data else {"data.path", "--data"}
        raise ConfigError([("FILE" if key in of_file else key, text) for key, text in error.problems]) from error


def _list_data(args: Any) -> list[str]:
    """Return the file and the keys of the data in the order of `dlopt evaluate --data`: options, the file, keys."""
    from dlopt.config.compose.groups import list_option_names

    names = list_option_names("data")
    options = [word for word in args.data if word in names]
    file = f"./{args.file}" if args.file in names else args.file
    return [*options, file, *(word for word in args.data if word not in names)]


def _check(runs: Sequence[RunDirectory], args: Any, out: str | None) -> None:
    """Raise ConfigError unless the file exists and the predictions can be written."""
    from dlopt.config.problems import Problems
    from dlopt.errors import did_you_mean
    from dlopt.report.predictions.files import WRITERS

    problems = Problems()
    file = Path(args.file).expanduser()
    if not file.exists():
        similar = sorted(entry.name for entry in file.parent.iterdir()) if file.parent.is_dir() else []
        advice = did_you_mean(file.name, similar) if args.run else f"; after a run comes its file: {args.file} FILE"
        problems.add("FILE", f"there is no file {args.file}{advice}")
    if len({run.path.resolve() for run in runs}) < len(runs):
        problems.add("RUN", "names a run twice; an ensemble is of different runs")
    if out is not None:
        folder = Path(out).parent
        if wrong := find_conflict(out, runs, [args.file, *args.data]):
            problems.add("--out", wrong)
        elif Path(out).suffix.lower() not in WRITERS:
            problems.add("--out", f"must end in {' or '.join(WRITERS)}, got {out}")
        elif not folder.is_dir():
            problems.add("--out", f"there is no folder {folder}; make it first")
    problems.raise_if_any()


def check_top(predictor: FilePredictor, top: int | None) -> None:
    """Raise ConfigError if there are not so many classes."""
    from dlopt.config.problems import ConfigError

    if top is None:
        return
    if predictor.kind == "numbers":
        raise ConfigError([("--top", "is for classes, and the run predicts numbers; leave it out")])
    if top > len(predictor.names):
        raise ConfigError([("--top", f"must be at most {len(predictor.names)}, the number of classes, got {top}")])


def _write(predictor: FilePredictor, args: Any, out: Path) -> int:
    """Write the predictions and print a summary. Return the exit code."""
    from dlopt import console
    from dlopt.report.predictions.columns import Summary, list_part
    from dlopt.report.predictions.files import open_prediction_file

    summary, done = Summary(predictor.names, is_classes=predictor.kind == "classes"), 0
    try:
        with (
            open_prediction_file(out) as write,
            console.show_progress(Path(args.file).name, predictor.total, predictor.unit) as advance,
        ):
            for part in predictor:
                write(list_part(predictor, part, args.top), part.source)
                summary.add(part.mean)
                advance(part.done - done)
                done = part.done
    except OSError as error:
        print(f"dlopt predict: --out {out}: {error.strerror or error}", file=sys.stderr)
        return 2
    _print_warnings(predictor.notices())
    _print_title(predictor)
    print(f"{to_printable(args.file)}, {summary.count:,} examples\n")
    print("\n".join([*summary.lines(), "", display_path(out)]))
    return 0


def _print_first(predictor: FilePredictor, args: Any) -> None:
    """Print the first rows of the file with their predictions."""
    from dlopt.report.predictions.columns import format_values, list_part, name_columns
    from dlopt.report.text_table import TextTable

    part = next(iter(predictor))
    count, values = len(part.mean), list_part(predictor, part, args.top)
    columns, source = format_values(values, digits=SHOWN_DIGITS), part.source
    rows = [list(row) for row in zip(*columns.values(), strict=True)][:SHOWN]
    header = list(columns)
    numeric = [not isinstance(column, list) for column in values.values()]
    if source is not None:
        header = [*source.header, *name_columns(source.header, columns)]
        rows = [[*source.cells[i], *row] for i, row in zip(source.rows, rows, strict=False)]
        numeric = [False] * len(source.header) + numeric
    table = TextTable(
        [to_printable(name) for name in header],
        [[to_printable(cell) for cell in row] for row in rows],
        numeric,
        droppable=tuple(map(to_printable, source.header)) if source is not None else (),
        remedy="--out FILE has all",
    )
    _print_warnings(predictor.notices())
    _print_title(predictor)
    print(table.text(shutil.get_terminal_size().columns if sys.stdout.isatty() else None))
    more = "" if count <= SHOWN else f"the first {SHOWN} rows; "
    print(f"\n({more}--out predictions.csv writes a file)")


def _print_title(predictor: FilePredictor) -> None:
    for run in predictor.runs:
        print(f"{run.place}, {run.predictor.checkpoint} checkpoint (step {run.predictor.step})")


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in dict.fromkeys(warnings):
        print(f"warning: {to_printable(warning)}", file=sys.stderr)
