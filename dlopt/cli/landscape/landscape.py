"""dlopt landscape: loss and metrics around the weights of a run, in one or two dimensions."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.landscape.flags import build_parser, check_flags, name_comparison, name_grid
from dlopt.cli.run_parser import open_named_run
from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from torch import Tensor

    from dlopt.landscape.other_runs import OtherRun
    from dlopt.landscape.slices import Slice
    from dlopt.landscape.trajectories import WeightTrajectory
    from dlopt.rundir.directory import RunDirectory
    from dlopt.training.batches import Examples
    from dlopt.training.inference import Predictor


def landscape(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    return open_named_run("landscape", args, _draw_run, "nothing was computed")


def _draw_run(run: RunDirectory, args: Any) -> int:
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_predictor
    from dlopt.landscape import result_files

    has_grid = check_flags(args)
    folder = result_files.choose_folder(run, args.out, "landscape")
    prefix = f"{result_files.name_run(run)}-" if args.out else ""
    predictor, warnings = load_predictor(run, args.checkpoint, device=args.device, trust=args.trust)
    _print_warnings(warnings)
    if args.split not in predictor.splits:
        raise ConfigError([("--split", "the run has no validation split (validation.fraction=0); use train")])
    if not predictor.w.isfinite().all():
        raise ConfigError(
            [("--checkpoint", f"the weights of step {predictor.step} are not finite: name an earlier one")]
        )
    trajectory = _load_trajectory(run, predictor, args)
    heading = f"{display_path(run.path)}, {predictor.checkpoint} checkpoint (step {predictor.step})"
    files = []
    with predictor.set_torch_switches():
        if has_grid:
            files += _draw_grid(run, predictor, trajectory, args, heading, folder, prefix)
        if args.cka:
            assert trajectory is not None
            files += _compare_layers(predictor, trajectory, args, heading, folder / f"{prefix}{name_comparison(args)}")
    print("\n".join(map(display_path, files)))
    return 0


def _print_warnings(warnings: Sequence[str]) -> None:
    for warning in warnings:
        print(f"warning: {to_printable(warning)}", file=sys.stderr)


def _load_trajectory(run: RunDirectory, predictor: Predictor, args: Any) -> WeightTrajectory | None:
    """Return the run's trajectory if the flags need one. Raise ConfigError if it has too few points."""
    from dlopt.config.problems import ConfigError
    from dlopt.landscape.trajectories import KEEP_MORE, load_trajectory

    if not (args.cka or args.directions == "pca"):
        return None
    trajectory = load_trajectory(run, predictor)
    _print_warnings(trajectory.warnings)
    if args.cka and len(trajectory.steps) < 2:
        wrong = f"needs a trajectory of at least 2 points, and the run has {len(trajectory.steps)}"
        raise ConfigError([("--cka", f"{wrong}; {KEEP_MORE}, or diagnostic=trajectory")])
    return trajectory


def _draw_grid(
    run: RunDirectory,
    predictor: Predictor,
    trajectory: WeightTrajectory | None,
    args: Any,
    heading: str,
    folder: Path,
    prefix: str,
) -> list[Path]:
    """Evaluate a grid, print what it shows, and return the files, whose names begin with `prefix`."""
    from dlopt import console
    from dlopt.config.problems import ConfigError
    from dlopt.landscape.other_runs import load_other
    from dlopt.landscape.slices import SliceEvaluator, evaluate_slice

    others = [load_other(run, predictor, name, args.to_checkpoint, trust=args.trust) for name in args.to]
    for other in others:
        _print_warnings(other.warnings)
    examples = predictor.examples(args.split, args.examples)
    is_recomputed = (args.statistics or ("recomputed" if others else "stored")) == "recomputed"
    statistics = predictor.examples("train", args.examples) if is_recomputed and predictor.problem.running else None
    evaluator = SliceEvaluator(predictor, examples, statistics, str(run.config_digest()))
    w = predictor.w.clone()
    evaluator.choose_threads()
    center = evaluator.measure(w)
    evaluator.restore(w)
    if args.metric not in center:
        raise ConfigError([("--metric", f"must be one of {', '.join(center)}, got {args.metric}")])
    grid = _build_slice(predictor, examples, trajectory, others, display_path(run.path), args)
    stem = prefix + name_grid(args, [other.file_name for other in others])
    partial = folder / f"{stem}.partial"
    count = len(grid.coordinates())
    with console.show_progress("landscape", count, "points") as advance:
        metrics = evaluate_slice(evaluator, grid, partial, advance)
    print(f"{heading}\n{args.split} split, {examples.size:,} examples, {count:,} points\n")
    print("\n".join(_describe(grid, center, metrics)) + "\n")
    files = _write_tables(grid, metrics, folder, stem)
    files += _draw_pictures(grid, metrics, args, args.title or f"{heading}, {args.split} {args.metric}", folder, stem)
    partial.unlink(missing_ok=True)
    return files


def _build_slice(
    predictor: Predictor,
    examples: Examples,
    trajectory: WeightTrajectory | None,
    others: Sequence[OtherRun],
    name: str,
    args: Any,
) -> Slice:
    """Return the slice that the flags describe. Raise ConfigError if the run, of this name, does not have it."""
    from dlopt import console
    from dlopt.config.problems import ConfigError
    from dlopt.landscape import build_slice
    from dlopt.landscape.curvature import SplitCurvature
    from dlopt.landscape.result_files import label_runs
    from dlopt.landscape.trajectories import KEEP_MORE
    from dlopt.objective.second_derivatives import LayerError

    size = (args.dims, args.points, args.extent)
    try:
        if others:
            runs = [(name, predictor.step), *((other.name, other.step) for other in others)]
            names = label_runs(runs)
            return build_slice.slice_between(predictor, [o.w for o in others], names, args.points, args.extent)
        if trajectory is not None and args.directions == "pca":
            return build_slice.slice_along_trajectory(predictor, trajectory, *size)
        if args.directions == "random":
            return build_slice.slice_at_random(predictor, *size, args.seed)
        total = examples.size * build_slice.count_products(predictor)
        with console.show_progress("eigenvectors", total) as advance:
            curvature = SplitCurvature(predictor, examples, "hessian", advance)
            return build_slice.slice_along_eigenvectors(predictor, curvature, *size)
    except LayerError as error:
        raise ConfigError([("arch", str(error))]) from error
    except build_slice.SliceError as error:
        wrong = str(error)
        if args.directions == "pca":
            needed = f"pca needs a trajectory that spans {args.dims} dimension{'s' * (args.dims > 1)}"
            wrong = f"{needed}, and the run has {error}; {KEEP_MORE}, or diagnostic=trajectory"
        raise ConfigError([("--to" if others else "--directions", wrong)]) from error


def _describe(grid: Slice, center: dict[str, float], metrics: dict[str, Tensor]) -> list[str]:
    """Return lines about the center, the extremes on the grid, the directions and the path."""
    import torch

    from dlopt.formatting import format_metric
    from dlopt.report.landscape_figures import ROUNDING

    lines = ["at the center: " + "  ".join(f"{name} {format_metric(value)}" for name, value in center.items())]
    loss = metrics["loss"]
    finite = loss[torch.isfinite(loss)]
    ends = "-"
    if len(finite):
        low, high = finite.min().item(), finite.max().item()
        ends = f"from {format_metric(low)} to {format_metric(high)}"
        if len(finite) > 1 and high - low <= ROUNDING * max(abs(low), abs(high)):
            ends += ", equal within rounding: a larger --extent shows more"
    lost = len(loss) - len(finite)
    lines.append(f"loss on the grid: {ends}" + (f"; NaN or infinite at {lost:,} points" if lost else ""))
    lines += [f"axis {i + 1}: {label}" for i, label in enumerate(grid.labels)]
    if grid.path is not None:
        lines += ["", f"{'step':>8}  {'distance':>9}  projection error"]
        columns = grid.path.steps, grid.path.points.distance.tolist(), grid.path.points.error.tolist()
        lines += [f"{s:>8,}  {d:>9.4g}  {error:>16.3f}" for s, d, error in zip(*columns, strict=True)]
    return lines


def _write_tables(grid: Slice, metrics: dict[str, Tensor], folder: Path, stem: str) -> list[Path]:
    """Write the grid, and the path if there is one."""
    from dlopt.landscape.result_files import write_csv

    names = ["a", "b"][: len(grid.axes)]
    columns = [*grid.coordinates().T.tolist(), *(values.tolist() for values in metrics.values())]
    files = [write_csv(folder / f"{stem}.csv", [*names, *metrics], zip(*columns, strict=True))]
    if grid.path is not None:
        points = grid.path.points
        numbers = [*points.coordinates.T, points.distance, points.outside, points.error]
        columns = [grid.path.steps, *(column.tolist() for column in numbers)]
        header = ["step", *names, "distance", "outside", "projection_error"]
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


def _compare_layers(
    predictor: Predictor, trajectory: WeightTrajectory, args: Any, heading: str, stem: Path
) -> list[Path]:
    """Write and draw the similarity of each layer along the trajectory to its end."""
    from dlopt import console
    from dlopt.landscape.representation import MAX_EXAMPLES, compare_layers
    from dlopt.landscape.result_files import write_csv
    from dlopt.report.figures import replace_picture
    from dlopt.report.landscape_figures import plot_similarity

    examples = predictor.examples(args.split, min(args.examples or MAX_EXAMPLES, MAX_EXAMPLES))
    with console.show_progress("CKA", len(trajectory.steps), "points") as advance:
        layers = compare_layers(predictor, trajectory, examples, advance)
    rows = zip(trajectory.steps, *(values.tolist() for values in layers.values()), strict=True)
    table = write_csv(stem.with_name(f"{stem.name}.csv"), ["step", *layers], rows)
    figure = plot_similarity(trajectory.steps, layers, args.title or f"{heading}, {args.split} split")
    return [table, replace_picture(figure, stem.with_name(f"{stem.name}.png"))]
