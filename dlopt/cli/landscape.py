"""dlopt landscape: loss and metrics around the weights of a run, in one or two dimensions."""

from __future__ import annotations

import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.run_parser import build_run_parser, parse_count
from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from torch import Tensor

    from dlopt.landscape.slices import Slice
    from dlopt.rundir.directory import RunDirectory
    from dlopt.training.batches import Examples
    from dlopt.training.inference import Predictor

DIRECTIONS = ("random", "pca", "eigenvectors")
EPILOG = """\
  dlopt landscape                              two random directions with the norms of the filters
  dlopt landscape RUN --dims 1 --split val     one direction, on the validation split
  dlopt landscape RUN --directions pca         the plane of the run's own trajectory, with its path
  dlopt landscape RUN --directions pca --cka   also how similar each layer is to the end of training
  dlopt landscape RUN --directions eigenvectors   the two largest eigenvectors of the Hessian
  dlopt landscape RUN --to RUN2                the line between two runs
  dlopt landscape RUN --to RUN2 --to RUN3      the plane through three runs

A trajectory consists of the weights that diagnostic=trajectory has stored, and of kept checkpoints (checkpoint.keep).
Batch normalization uses the statistics that the run has stored. Between runs, and with --statistics recomputed, they
are computed again on the training split at each point. A CSV file and pictures are written to RUN/landscape/ or --out.
If the command is killed, the same command continues.
"""


def build_parser() -> ArgumentParser:
    """Build the command's parser."""
    description = "Loss and metrics on a grid of weights around those of a run."
    parser = build_run_parser("landscape", description, EPILOG, quiet="no progress")
    directions = f"{', '.join(DIRECTIONS)}; default random"
    parser.add_argument("--directions", choices=DIRECTIONS, help=directions)
    parser.add_argument("--to", action="append", default=[], metavar="RUN", help="a second run; or twice, a plane")
    dims = "1 or 2; default 2; with --to the number of other runs"
    parser.add_argument("--dims", type=parse_count, metavar="N", help=dims)
    parser.add_argument(
        "--points", type=parse_count, metavar="N", help="along each axis; default 51, in one dimension 101"
    )
    extent = "stretches the default range of the axes; default 1"
    parser.add_argument("--extent", type=parse_positive, default=1.0, metavar="X", help=extent)
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the random directions; default 0")
    cka = "with pca: also draw how similar each layer's outputs are to those at the end of the path (linear CKA)"
    parser.add_argument("--cka", action="store_true", help=cka)
    checkpoint = "the center; default last"
    parser.add_argument("--checkpoint", default="last", metavar="best|last|average|STEP", help=checkpoint)
    parser.add_argument("--split", choices=("train", "val"), default="train", help="default train")
    parser.add_argument("--examples", type=parse_count, metavar="N", help="random examples of the split; default: all")
    metric = "the metric that is drawn; the CSV file has all; default loss"
    parser.add_argument("--metric", default="loss", metavar="METRIC", help=metric)
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


def landscape(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    from dlopt import console
    from dlopt.runner.open_run import open_run

    console.quiet = args.quiet
    outcome = "nothing was computed"
    return open_run("dlopt landscape", args.run, lambda run: _draw_run(run, args), trust=args.trust, outcome=outcome)


def _draw_run(run: RunDirectory, args: Any) -> int:
    from dlopt import console
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_predictor
    from dlopt.landscape import result_files
    from dlopt.landscape.slices import SliceEvaluator, evaluate_slice

    _check_flags(args)
    folder = result_files.choose_folder(run, args.out, "landscape")
    predictor, warnings = load_predictor(run, args.checkpoint, device=args.device, trust=args.trust)
    for warning in warnings:
        print(f"warning: {to_printable(warning)}", file=sys.stderr)
    if args.split not in predictor.splits:
        raise ConfigError([("--split", "the run has no validation split (validation.fraction=0); use train")])
    if not predictor.w.isfinite().all():
        raise ConfigError(
            [("--checkpoint", f"the weights of step {predictor.step} are not finite: name an earlier one")]
        )
    examples = predictor.examples(args.split, args.examples)
    place = f"{display_path(run.path)}, {predictor.checkpoint} checkpoint (step {predictor.step})"
    with predictor.set_torch_switches():
        grid = _build_slice(run, predictor, examples, args)
        is_recomputed = (args.statistics or ("recomputed" if args.to else "stored")) == "recomputed"
        statistics = predictor.examples("train", args.examples) if is_recomputed and predictor.problem.running else None
        evaluator = SliceEvaluator(predictor, examples, statistics)
        evaluator.choose_threads()
        center = evaluator.measure(grid.center)
        evaluator.restore(grid.center)
        if args.metric not in center:
            raise ConfigError([("--metric", f"must be one of {', '.join(center)}, got {args.metric}")])
        stem = _name_files(args)
        partial = folder / f"{stem}.partial"
        count = len(grid.coordinates())
        with console.show_progress("landscape", count, "points") as advance:
            metrics = evaluate_slice(evaluator, grid, partial, advance)
    print(f"{place}\n{args.split} split, {examples.size:,} examples, {count:,} points\n")
    print("\n".join(_describe(grid, center, metrics)) + "\n")
    files = _write_tables(grid, metrics, folder, stem)
    files += _draw_pictures(grid, metrics, args, args.title or f"{place}, {args.split} {args.metric}", folder, stem)
    if args.cka:
        files += _compare_layers(run, predictor, args, f"{place}, {args.split} split", folder / f"{stem}-cka")
    partial.unlink(missing_ok=True)
    print("\n".join(map(display_path, files)))
    return 0


def _check_flags(args: Any) -> None:
    """Raise ConfigError for flags that contradict each other; set the dimensions and the number of points."""
    from dlopt.config.problems import ConfigError

    if len(args.to) > 2:
        raise ConfigError([("--to", f"takes one or two runs, got {len(args.to)}")])
    if args.to and args.directions is not None:
        raise ConfigError(
            [("--directions", f"with --to the directions lead to the other runs: leave {args.directions} out")]
        )
    if args.to and args.dims not in (None, len(args.to)):
        raise ConfigError([("--dims", f"{len(args.to)} --to makes {len(args.to)} dimensions, got {args.dims}")])
    if args.dims not in (None, 1, 2):
        raise ConfigError([("--dims", f"must be 1 or 2, got {args.dims}")])
    if args.cka and args.directions != "pca":
        raise ConfigError([("--cka", "compares the points of a trajectory: add --directions pca")])
    args.dims = len(args.to) or args.dims or 2
    args.points = args.points or (51 if args.dims == 2 else 101)
    if args.points < 2:
        raise ConfigError([("--points", f"must be at least 2, got {args.points}")])


def _build_slice(run: RunDirectory, predictor: Predictor, examples: Examples, args: Any) -> Slice:
    """Return the slice that the flags describe. Raise ConfigError if the run does not have it."""
    from dlopt.config.problems import ConfigError
    from dlopt.landscape import build_slice
    from dlopt.landscape.curvature import SplitCurvature
    from dlopt.landscape.trajectories import KEEP_MORE, load_trajectory
    from dlopt.objective.second_derivatives import LayerError

    size = (args.dims, args.points, args.extent)
    if args.to:
        names = [display_path(run.path)]
        others = _load_others(predictor, args, names)
        try:
            return build_slice.slice_between(predictor, others, names, args.points, args.extent)
        except ValueError as error:
            raise ConfigError([("--to", str(error))]) from error
    if args.directions == "pca":
        trajectory = load_trajectory(run, predictor)
        try:
            return build_slice.slice_along_trajectory(predictor, trajectory, *size)
        except ValueError as error:
            needed = f"pca needs a trajectory that spans {args.dims} dimension{'s' * (args.dims > 1)}"
            wrong = f"{needed}, and the run has {error}; {KEEP_MORE}, or diagnostic=trajectory"
            raise ConfigError([("--directions", wrong)]) from error
    if args.directions == "eigenvectors":
        try:
            curvature = SplitCurvature(predictor, examples, "hessian")
            return build_slice.slice_along_eigenvectors(predictor, curvature, *size)
        except LayerError as error:
            raise ConfigError([("arch", str(error))]) from error
    try:
        return build_slice.slice_at_random(predictor, *size, args.seed)
    except ValueError as error:
        raise ConfigError([("--directions", f"{error}; use eigenvectors or pca")]) from error


def _load_others(predictor: Predictor, args: Any, names: list[str]) -> list[Tensor]:
    """Return the weights of the other runs, and add their names; the predictor keeps its own."""
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_checkpoint
    from dlopt.config.reopen.load_run import check, check_links
    from dlopt.rundir.find import RunNotFound, find_run

    wanted = args.checkpoint if args.checkpoint in ("best", "last", "average") else "last"
    others = []
    for name in args.to:
        try:
            other = find_run(name)
        except RunNotFound as error:
            raise ConfigError([("--to", str(error))]) from error
        if not args.trust:
            check_links(other)
        content = load_checkpoint(other, wanted).content
        check(content, predictor.model, None, "--to", same_data=True)
        w = predictor.problem.layout.flatten(content["model"]).to(predictor.w)
        if not w.isfinite().all():
            raise ConfigError([("--to", f"the weights of {display_path(other.path)} are not finite")])
        others.append(w)
        names.append(display_path(other.path))
    return others


def _name_files(args: Any) -> str:
    """Return what the names of all files begin with."""
    kind = "between-runs" if args.to else args.directions or "random"
    return f"{kind}-{args.dims}d-{args.split}-{args.checkpoint}"


def _describe(grid: Slice, center: dict[str, float], metrics: dict[str, Tensor]) -> list[str]:
    """Return lines about the center, the extremes on the grid, the directions and the path."""
    import torch

    from dlopt.formatting import format_metric

    lines = ["at the center: " + "  ".join(f"{name} {format_metric(value)}" for name, value in center.items())]
    loss = metrics["loss"]
    finite = loss[torch.isfinite(loss)]
    ends = f"from {format_metric(finite.min().item())} to {format_metric(finite.max().item())}" if len(finite) else "-"
    lost = len(loss) - len(finite)
    lines.append(f"loss on the grid: {ends}" + (f"; not finite at {lost:,} points" if lost else ""))
    lines += [f"axis {i + 1}: {label}" for i, label in enumerate(grid.labels)]
    if grid.path is not None:
        lines += ["", f"{'step':>8}  {'distance':>9}  outside"]
        for step, outside, distance in zip(
            grid.path.steps, grid.path.points.outside, grid.path.points.distance, strict=True
        ):
            share = (outside / distance).item() if distance > 0 else 0.0
            lines.append(f"{step:>8,}  {distance.item():>9.4g}  {share:>7.1%}")
    return lines


def _write_tables(grid: Slice, metrics: dict[str, Tensor], folder: Path, stem: str) -> list[Path]:
    """Write the grid, and the path if there is one."""
    from dlopt.landscape.result_files import write_csv

    names = ["a", "b"][: len(grid.axes)]
    columns = [*grid.coordinates().T.tolist(), *(values.tolist() for values in metrics.values())]
    files = [write_csv(folder / f"{stem}.csv", [*names, *metrics], zip(*columns, strict=True))]
    if grid.path is not None:
        points = grid.path.points
        columns = [grid.path.steps, *points.coordinates.T.tolist(), points.outside.tolist(), points.distance.tolist()]
        header = ["step", *names, "outside", "distance"]
        files.append(write_csv(folder / f"{stem}-path.csv", header, zip(*columns, strict=True)))
    return files


def _draw_pictures(
    grid: Slice, metrics: dict[str, Tensor], args: Any, heading: str, folder: Path, stem: str
) -> list[Path]:
    """Draw the pictures of the metric, unless it is finite nowhere."""
    from dlopt.report import landscape_figures as figures
    from dlopt.report.figures import replace_picture

    values = metrics[args.metric]
    if not values.isfinite().any():
        print(f"warning: {args.metric} is finite nowhere, so there is no picture", file=sys.stderr)
        return []
    stem = f"{stem}-{args.metric}"
    if len(grid.axes) == 1:
        figure = figures.plot_profile(grid, metrics, args.metric, heading)
        return [replace_picture(figure, folder / f"{stem}.png")]
    plots: dict[str, Callable[..., Any]] = {"contours": figures.plot_contours, "surface": figures.plot_surface}
    return [
        replace_picture(plot(grid, values, args.metric, heading), folder / f"{stem}-{name}.png")
        for name, plot in plots.items()
    ]


def _compare_layers(run: RunDirectory, predictor: Predictor, args: Any, heading: str, stem: Path) -> list[Path]:
    """Write and draw the similarity of each layer along the trajectory to its end."""
    from dlopt import console
    from dlopt.landscape.representation import MAX_EXAMPLES, compare_layers
    from dlopt.landscape.result_files import write_csv
    from dlopt.landscape.trajectories import load_trajectory
    from dlopt.report.figures import replace_picture
    from dlopt.report.landscape_figures import plot_similarity

    trajectory = load_trajectory(run, predictor)
    examples = predictor.examples(args.split, min(args.examples or MAX_EXAMPLES, MAX_EXAMPLES))
    with (
        console.show_progress("CKA", len(trajectory.steps), "points") as advance,
        predictor.set_torch_switches(),
    ):
        layers = compare_layers(predictor, trajectory, examples, advance)
    rows = zip(trajectory.steps, *(values.tolist() for values in layers.values()), strict=True)
    table = write_csv(stem.with_name(f"{stem.name}.csv"), ["step", *layers], rows)
    figure = plot_similarity(trajectory.steps, layers, args.title or heading)
    return [table, replace_picture(figure, stem.with_name(f"{stem.name}.png"))]
