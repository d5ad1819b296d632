"""dlopt spectrum: the eigenvalues of the Hessian of a run's loss, at one checkpoint or over training."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.run_parser import build_run_parser, parse_count
from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.landscape.spectrum import Spectrum
    from dlopt.rundir.directory import RunDirectory
    from dlopt.training.batches import Examples
    from dlopt.training.inference import Predictor

NAMES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix"}
EPILOG = """\
  dlopt spectrum                          the Hessian of the last run, at its last weights, on its training split
  dlopt spectrum RUN --checkpoint best    at the best weights; a number of steps: at a kept checkpoint
  dlopt spectrum RUN --checkpoint all     at every checkpoint that checkpoint.keep has kept, as one picture
  dlopt spectrum RUN --matrix gauss_newton   without the curvature of the network: no negative eigenvalues
  dlopt spectrum RUN --examples 1000      on random examples of the split

The matrix is of the mean loss without penalties, in inference: dropout is off, and batch normalization uses its stored
statistics. The picture and a CSV file of the Ritz values are written to RUN/spectrum/ or --out.
"""


def build_parser() -> ArgumentParser:
    """Build the command's parser."""
    description = (
        "The density of the eigenvalues of a run's Hessian or Gauss-Newton matrix, its outliers and its trace."
    )
    parser = build_run_parser("spectrum", description, EPILOG, quiet="no progress")
    checkpoint = "default last; all: the kept ones"
    parser.add_argument("--checkpoint", default="last", metavar="best|last|average|STEP|all", help=checkpoint)
    parser.add_argument("--matrix", choices=tuple(NAMES), default="hessian", help="default hessian")
    parser.add_argument("--split", choices=("train", "val"), default="train", help="default train")
    parser.add_argument("--examples", type=parse_count, metavar="N", help="random examples of the split; default: all")
    steps = "steps of each Lanczos process, which are products with the matrix; default 80"
    parser.add_argument("--lanczos-steps", type=parse_count, default=80, metavar="N", help=steps)
    vectors = "random vectors, each the start of a Lanczos process; default 4"
    parser.add_argument("--vectors", type=parse_count, default=4, metavar="N", help=vectors)
    parser.add_argument("--out", metavar="DIR", help="folder of the picture and the CSV file; default RUN/spectrum/")
    parser.add_argument("--title", metavar="TEXT", help="the title of the picture")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    return parser


def spectrum(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    from dlopt import console
    from dlopt.runner.open_run import open_run

    console.quiet = args.quiet
    outcome = "nothing was computed"
    return open_run("dlopt spectrum", args.run, lambda run: _analyse_run(run, args), trust=args.trust, outcome=outcome)


def _analyse_run(run: RunDirectory, args: Any) -> int:
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_predictor
    from dlopt.landscape import result_files
    from dlopt.landscape.spectrum import CSV_HEADER, format_spectrum, list_rows
    from dlopt.landscape.trajectories import KEEP_MORE, list_kept
    from dlopt.objective.second_derivatives import LayerError

    folder = result_files.choose_folder(run, args.out, "spectrum")
    names = list_kept(run) if args.checkpoint == "all" else [args.checkpoint]
    predictor, warnings = load_predictor(run, names[0], device=args.device, trust=args.trust)
    if args.checkpoint == "all" and len(names) == 1:
        warnings = [*warnings, f"only one checkpoint is kept; to keep more, {KEEP_MORE}"]
    for warning in warnings:
        print(f"warning: {to_printable(warning)}", file=sys.stderr)
    if args.split not in predictor.splits:
        raise ConfigError([("--split", "the run has no validation split (validation.fraction=0); use train")])
    examples = predictor.examples(args.split, args.examples)
    try:
        spectra = _estimate_spectra(run, predictor, names, examples, args)
    except LayerError as error:
        raise ConfigError([("arch", str(error))]) from error

    what = f"{NAMES[args.matrix]} of the {args.split} loss"
    vectors, steps = spectra[-1].values.shape
    print(f"{display_path(run.path)}: {what}, {examples.size:,} examples, {len(predictor.w):,} weights")
    print(f"{vectors} Lanczos process{'es' * (vectors > 1)} of {steps} steps\n")
    print("\n\n".join("\n".join(format_spectrum(found)) for found in spectra))
    stem = f"{args.matrix}-{args.split}-{args.checkpoint}"
    table = result_files.write_csv(folder / f"{stem}.csv", CSV_HEADER, list_rows(spectra))
    picture = _draw(spectra, f"{display_path(run.path)}, {what}", args.title, folder / f"{stem}.png")
    print(f"\n{display_path(table)}\n{display_path(picture)}")
    return 0


def _estimate_spectra(
    run: RunDirectory, predictor: Predictor, names: Sequence[str], examples: Examples, args: Any
) -> list[Spectrum]:
    """Return the spectrum at each of these checkpoints, of which the predictor has loaded the first."""
    from dlopt import console, prng
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_weights
    from dlopt.landscape.curvature import SplitCurvature
    from dlopt.landscape.spectrum import estimate_spectrum

    products = len(names) * args.vectors * min(args.lanczos_steps, len(predictor.w))
    spectra = []
    with (
        console.show_progress(NAMES[args.matrix], products * examples.size) as advance,
        predictor.set_torch_switches(),
    ):
        for i, name in enumerate(names):
            if i:
                load_weights(predictor, run, name)
            if not predictor.w.isfinite().all():
                wrong = (
                    f"the weights of step {predictor.step} are not finite: name a checkpoint before the run diverged"
                )
                raise ConfigError([("--checkpoint", wrong)])
            curvature = SplitCurvature(predictor, examples, args.matrix, advance)
            found = estimate_spectrum(
                curvature.multiply, predictor.w, args.lanczos_steps, args.vectors, prng.key(0, "spectrum")
            )
            spectra.append(replace(found, checkpoint=predictor.checkpoint, step=predictor.step))
    return spectra


def _draw(spectra: Sequence[Spectrum], heading: str, title: str | None, file: Path) -> Path:
    """Draw one spectrum or several; the title replaces the heading."""
    from dlopt.report.figures import replace_picture
    from dlopt.report.spectrum_figures import plot_density, plot_over_training

    if len(spectra) == 1:
        (found,) = spectra
        return replace_picture(plot_density(found, title or f"{heading}, step {found.step}"), file)
    return replace_picture(plot_over_training(spectra, title or heading), file)
