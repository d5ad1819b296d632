"""dlopt evaluate: metrics and predictions of a run's checkpoint on a split of its data, or on other data."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.run_parser import add_checkpoint_flags, build_run_parser, find_conflict, mark_data_keys, open_named_run
from dlopt.rundir.display import display_path, make_report_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from torch import Tensor

    from dlopt.rundir.directory import RunDirectory
    from dlopt.training.inference import Predictor

SPLITS = ("train", "val", "test", "all")
EPILOG = """\
  dlopt evaluate                                  the last run, its best weights, on its test split
  dlopt evaluate mlp-sgd --split val              another run, named by a part of its name
  dlopt evaluate last --checkpoint last --png     at the last weights; draws the confusion matrix
  dlopt evaluate last --checkpoint 300            at the weights after 300 steps, if checkpoint.keep has kept them
  dlopt evaluate last --checkpoint average        at the averaged weights, if the run has averaging
  dlopt evaluate last --data more.npz             on every example of another file, read as the run's own was
  dlopt evaluate last --data new.csv data.missing=drop   with other keys of the data
  dlopt evaluate last --data fashion_mnist        on another data set of the same shape
  dlopt evaluate last --data new.csv --predictions out.csv   writes a prediction for each row; needs no target column

Without a validation split, the best weights are those of the last step, as in the summary and in `dlopt show`.
The preprocessing is the run's own, with the statistics of its training split.
"""


def build_parser() -> ArgumentParser:
    """Build the command's parser."""
    description = "Metrics of a run's checkpoint, for classes also per class, and its predictions."
    parser = build_run_parser("evaluate", description, EPILOG, quiet="no progress")
    parser.add_argument("--split", choices=SPLITS, help="default test; all: every example there is")
    add_checkpoint_flags(parser)
    data = "other data: a data set, another file, or keys such as data.path=..."
    parser.add_argument("--data", action="append", default=[], metavar="OPTION|FILE|KEY=VALUE", help=data)
    predictions = (
        "write a CSV file with a row for each example: the predicted class and the probability of each class, "
    )
    predictions += "or the predicted numbers; the rows of a table of --data keep their columns"
    parser.add_argument("--predictions", metavar="FILE", help=predictions)
    parser.add_argument("--png", nargs="?", const="", metavar="FILE", help="draw a picture (default outputs/reports/)")
    title = "the title of the picture (default: the directory, the checkpoint and the split)"
    parser.add_argument("--title", metavar="TEXT", help=title)
    return parser


def evaluate(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(mark_data_keys(argv, ("--predictions", "--title")))
    if args.title is not None and args.png is None:
        print("dlopt evaluate: --title is for a picture: add --png", file=sys.stderr)
        return 2
    return open_named_run("evaluate", args, _evaluate_run, "it cannot be evaluated")


def _evaluate_run(run: RunDirectory, args: Any) -> int:
    from dlopt import console
    from dlopt.base.loss import flatten_steps
    from dlopt.base.sequences import mask_targets
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_predictor
    from dlopt.formatting import format_metric

    is_split_typed, args.split = args.split is not None, args.split or "test"
    if args.data and args.split in ("train", "val"):
        raise ConfigError([("--split", f"other data were not trained on: use test or all, got {args.split}")])
    if args.predictions is not None and (wrong := find_conflict(args.predictions, [run], args.data)):
        raise ConfigError([("--predictions", wrong)])
    predictor, warnings = load_predictor(run, args.checkpoint, data=args.data, device=args.device, trust=args.trust)
    for warning in warnings:
        print(f"warning: {to_printable(warning)}", file=sys.stderr)
    if args.split not in predictor.splits:
        message = "the run has no validation split (validation.fraction=0); use train, test or all"
        raise ConfigError([("--split", message)])
    has_no_split = bool(args.data) and predictor.splits["all"] == predictor.splits["test"]
    if has_no_split and is_split_typed and args.split == "test":
        message = f"{' '.join(args.data)} has no test split: all of its examples are evaluated; leave --split out"
        raise ConfigError([("--split", message)])
    if not predictor.is_labeled:
        _check_unlabeled(args, predictor.encoding.get("target"))
    has_targets = predictor.is_labeled and predictor.loss.uses_targets
    if args.png is not None and not has_targets:
        raise ConfigError([("--png", "draws targets, and the loss of the run has none: leave it out")])
    count = sum(map(len, predictor.splits[args.split]))
    with console.show_progress(f"{args.split} split", count) as advance:
        outputs, targets = predictor.predict_split(args.split, advance)
    metrics = predictor.measure(outputs, targets) if predictor.is_labeled else {}
    outputs, targets = outputs.cpu(), targets.cpu()
    is_scored = mask_targets(targets) if outputs.ndim == 3 else None  # each step is predicted
    outputs, targets = flatten_steps(outputs, targets)
    steps = "" if is_scored is None else f", {len(targets):,} steps"

    title = f"{display_path(run.path)}, {predictor.checkpoint} checkpoint (step {predictor.step})"
    examples = "all examples" if args.split == "all" or has_no_split else f"{args.split} split"
    source = f" of --data {' '.join(args.data)}" if args.data else _describe_file(run, args.split)
    print(f"{title}\n{examples}{source}, {count:,} examples{steps}\n")
    code = 0
    if predictor.is_labeled:
        print("  ".join(f"{name} {format_metric(value)}" for name, value in metrics.items()))
        picture = "fit" if targets.is_floating_point() else "confusion"
        file = None if args.png is None else args.png or make_report_path(run.path, f"{args.split}-{picture}")
        heading = f"{title}, {examples}" if args.title is None else args.title
        code = _print_details(predictor, outputs, targets, file, heading) if has_targets else 0
    if args.predictions is not None:
        code = max(code, _write_predictions(predictor, outputs, targets, is_scored, Path(args.predictions)))
    return code


def _check_unlabeled(args: Any, target: str | None) -> None:
    """Raise ConfigError unless data without targets, in a column of this name, are only to be predicted."""
    from dlopt.config.problems import ConfigError

    problems = []
    if args.predictions is None:
        missing = "no targets" if target is None else f"no values of the target {to_printable(target)}"
        wrong = f"{' '.join(args.data)} has {missing}, which metrics need"
        problems.append(("--data", f"{wrong}; add --predictions FILE.csv for the predictions alone"))
    if args.png is not None:
        problems.append(("--png", f"needs targets, and {' '.join(args.data)} has none: leave it out"))
    if problems:
        raise ConfigError(problems)


def _describe_file(run: RunDirectory, split: str) -> str:
    """Return from which file a split comes if it has one of its own; else nothing."""
    key = {"val": "validation_path", "test": "test_path"}.get(split)
    file = (run.config().get("data") or {}).get(key)
    return f" of {to_printable(file)}" if isinstance(file, str) else ""


def _write_predictions(
    predictor: Predictor, outputs: Tensor, targets: Tensor, is_scored: Tensor | None, file: Path
) -> int:
    """Write a row for each example, or for each of these steps; without targets, also print a summary.

    Return the exit code.
    """
    from dlopt.report.predictions import columns as predictions
    from dlopt.storage import atomic

    is_classes, names = predictor.kind == "classes", predictor.name_outputs(outputs.shape[-1])
    outputs = predictor.interpret(outputs)
    targets = targets if is_classes else predictor.to_units(targets.double())
    columns = predictions.format_predictions(outputs, names, is_classes=is_classes)
    if predictor.is_labeled and predictor.source is None and predictor.loss.uses_targets:
        columns = predictions.format_targets(targets, names) | columns
    if is_scored is not None:
        columns = predictions.format_steps(is_scored) | columns
    if not predictor.is_labeled:
        print("\n".join(predictions.summarize(outputs, names, is_classes=is_classes)))
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.atomic_write_bytes(file, predictions.format_csv(columns, predictor.source).encode())
    except OSError as error:
        print(f"dlopt evaluate: --predictions {file}: {error.strerror or error}", file=sys.stderr)
        return 2
    print(f"\n{display_path(file)}")
    return 0


def _print_details(predictor: Predictor, outputs: Tensor, targets: Tensor, file: Path | str | None, title: str) -> int:
    """Print the metrics per class, or the errors in units of the target; draw the picture if a file is given."""
    from dlopt.report import classification

    names = predictor.names
    is_classes = not targets.is_floating_point()
    if is_classes:
        names = names or tuple(str(i) for i in range(outputs.shape[-1]))
        labels = targets.numpy(), outputs.argmax(-1).numpy()
        lines = classification.format_by_class(*labels, names)
        print("\n" + "\n".join([*lines, "", *classification.format_confusion_matrix(*labels, names)]))
    else:
        outputs, targets = (predictor.to_units(x) for x in (predictor.loss.predict(outputs), targets))
        error = outputs - targets
        rmse, mae = error.square().mean().sqrt().item(), error.abs().mean().item()
        print(f"\nin the units of the target: root mean squared error {rmse:.6g}, mean absolute error {mae:.6g}")
    if file is None:
        return 0
    from dlopt.report import figures

    try:
        if is_classes:
            figure = figures.plot_confusion(*labels, names, title)
        else:
            names = names or tuple(f"target {i}" for i in range(outputs.shape[-1]))
            columns = [dict(zip(names, x.T.tolist(), strict=True)) for x in (targets, outputs)]
            figure = figures.plot_predictions(columns[0], columns[1], title)
        print(f"\n{display_path(figures.save_figure(figure, Path(file)))}")
    except ValueError as error:
        print(f"dlopt evaluate: {error}", file=sys.stderr)
        return 2
    return 0
