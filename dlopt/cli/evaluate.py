"""dlopt evaluate: metrics of a run's checkpoint on a split of its data, or on other data."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.run_parser import build_run_parser
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
  dlopt evaluate last --data fashion_mnist        on another data set of the same shape

Without a validation split, the best weights are those of the last step, as in the summary and in `dlopt show`.
The preprocessing is the run's own, with the statistics of its training split.
"""


def build_parser() -> ArgumentParser:
    """Build the command's parser."""
    description = "Metrics of a run's checkpoint, for classes also per class."
    parser = build_run_parser("evaluate", description, EPILOG, quiet="no progress")
    parser.add_argument("--split", choices=SPLITS, default="test", help="default test; all: every example there is")
    parser.add_argument(
        "--checkpoint",
        default="best",
        metavar="best|last|average|STEP",
        help="default best; without validation: the last",
    )
    data = "other data: a data set, another file, or keys such as data.path=..."
    parser.add_argument("--data", action="append", default=[], metavar="OPTION|FILE|KEY=VALUE", help=data)
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    parser.add_argument("--png", nargs="?", const="", metavar="FILE", help="draw a picture (default outputs/reports/)")
    return parser


def evaluate(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    from dlopt import console
    from dlopt.runner.open_run import open_run

    console.quiet = args.quiet
    outcome = "it cannot be evaluated"
    return open_run("dlopt evaluate", args.run, lambda run: _evaluate_run(run, args), trust=args.trust, outcome=outcome)


def _evaluate_run(run: RunDirectory, args: Any) -> int:
    from dlopt import console
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_predictor
    from dlopt.formatting import format_metric

    if args.data and args.split in ("train", "val"):
        raise ConfigError([("--split", f"other data were not trained on: use test or all, got {args.split}")])
    predictor, warnings = load_predictor(run, args.checkpoint, data=args.data, device=args.device, trust=args.trust)
    for warning in warnings:
        print(f"warning: {to_printable(warning)}", file=sys.stderr)
    if args.split not in predictor.splits:
        message = "the run has no validation split (validation.fraction=0); use train, test or all"
        raise ConfigError([("--split", message)])
    count = sum(map(len, predictor.splits[args.split]))
    with console.show_progress(f"{args.split} split", count) as advance:
        outputs, targets = predictor.predict_split(args.split, advance)
    metrics = predictor.measure(outputs, targets)

    title = f"{display_path(run.path)}, {predictor.checkpoint} checkpoint (step {predictor.step})"
    is_whole = args.split == "all" or (bool(args.data) and predictor.splits["all"] == predictor.splits["test"])
    examples = "all examples" if is_whole else f"{args.split} split"
    source = f" of --data {' '.join(args.data)}" if args.data else _describe_file(run, args.split)
    print(f"{title}\n{examples}{source}, {count:,} examples\n")
    print("  ".join(f"{name} {format_metric(value)}" for name, value in metrics.items()))
    picture = "fit" if targets.is_floating_point() else "confusion"
    file = None if args.png is None else args.png or make_report_path(run.path, f"{args.split}-{picture}")
    return _print_details(predictor, outputs.cpu(), targets.cpu(), file, f"{title}, {examples}")


def _describe_file(run: RunDirectory, split: str) -> str:
    """Return from which file a split comes if it has one of its own; else nothing."""
    key = {"val": "validation_path", "test": "test_path"}.get(split)
    file = (run.config().get("data") or {}).get(key)
    return f" of {to_printable(file)}" if isinstance(file, str) else ""


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
        scale = predictor.encoding.get("scale") or 1.0
        middle = predictor.encoding.get("middle") or 0.0
        outputs, targets = outputs * scale + middle, targets * scale + middle  # the units of a table's file
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
        figures.save_figure(figure, Path(file))
    except (OSError, ValueError) as error:
        print(f"dlopt evaluate: --png {file}: {error}", file=sys.stderr)
        return 2
    print(f"\n{display_path(Path(file))}")
    return 0
