"""dlopt spectrum: the eigenvalues of the Hessian of a run's loss, at one checkpoint or over training."""

from __future__ import annotations

import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.run_parser import build_run_parser, open_named_run, parse_count
from dlopt.formatting import format_count
from dlopt.rundir.display import display_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.landscape.spectrum import Spectrum
    from dlopt.rundir.directory import RunDirectory
    from dlopt.training.batches import Examples
    from dlopt.training.inference import Predictor

NAMES = {"hessian": "Hessian", "gauss_newton": "Gauss-Newton matrix"}
LANCZOS_STEPS, VECTORS = 80, 4
EPILOG = """\
  dlopt spectrum                          the Hessian of the last run, at its last weights, on its training split
  dlopt spectrum RUN --checkpoint best    at the best weights; a number of steps: at a kept checkpoint
  dlopt spectrum RUN --checkpoint all     at every checkpoint that checkpoint.keep has kept, as one picture
  dlopt spectrum RUN --matrix gauss_newton   without the curvature of the network: no negative eigenvalues
  dlopt spectrum RUN --examples 1000      on random examples of the split

The matrix is of the mean loss without penalties, in inference: dropout is off, and batch normalization uses its stored
statistics. The picture and a CSV file of the Ritz values are written to RUN/spectrum/ or --out,
with names that tell the flags.
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
    steps = f"steps of each Lanczos process, which are products with the matrix; default {LANCZOS_STEPS}"
    parser.add_argument("--lanczos-steps", type=parse_count, default=LANCZOS_STEPS, metavar="N", help=steps)
    vectors = f"random vectors, each the start of a Lanczos process; default {VECTORS}"
    parser.add_argument("--vectors", type=parse_count, default=VECTORS, metavar="N", help=vectors)
    parser.add_argument("--out", metavar="DIR", help="folder of the picture and the CSV file; default RUN/spectrum/")
    parser.add_argument("--title", metavar="TEXT", help="the title of the picture")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    return parser


def spectrum(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    return open_named_run("spectrum", args, _analyse_run, "nothing was computed")


def _analyse_run(run: RunDirectory, args: Any) -> int:
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_predictor
    from dlopt.landscape import result_files
    from dlopt.landscape.spectrum import CSV_HEADER, format_spectrum, list_rows
    from dlopt.objective.second_derivatives import LayerError
    from dlopt.storage import memory

    folder = result_files.choose_folder(run, args.out, "spectrum")
    if args.checkpoint == "all":
        predictor, names, warnings = _load_kept(run, args)
    else:
        predictor, warnings = load_predictor(run, args.checkpoint, device=args.device, trust=args.trust)
        names = [args.checkpoint]
        if not predictor.w.isfinite().all():
            wrong = f"the weights of step {predictor.step} are not finite: name a checkpoint before the run diverged"
            raise ConfigError([("--checkpoint", wrong)])
    for warning in warnings:
        print(f"warning: {to_printable(warning)}", file=sys.stderr)
    if args.split not in predictor.splits:
        raise ConfigError([("--split", "the run has no validation split (validation.fraction=0); use train")])
    examples = predictor.examples(args.split, args.examples)
    try:
        spectra = _estimate_spectra(run, predictor, names, examples, args)
    except LayerError as error:
        raise ConfigError([("arch", str(error))]) from error
    except Exception as error:
        if not memory.is_out_of_memory(error):
            raise
        raise ConfigError([_describe_memory(predictor, examples)]) from error

    what = f"{NAMES[args.matrix]} of the {args.split} loss"
    vectors, steps = spectra[-1].values.shape
    counts = f"{format_count(examples.size, 'example')}, {format_count(len(predictor.w), 'weight')}"
    print(f"{display_path(run.path)}: {what}, {counts}")
    print(f"{vectors} Lanczos process{'es' * (vectors > 1)} of {format_count(steps, 'step')}\n")
    print("\n\n".join("\n".join(format_spectrum(found)) for found in spectra))
    stem = (f"{result_files.name_run(run)}-" if args.out else "") + _name_files(args)
    table = result_files.write_csv(folder / f"{stem}.csv", CSV_HEADER, list_rows(spectra))
    picture = _draw(spectra, f"{display_path(run.path)}, {what}", args.title, folder / f"{stem}.png")
    print(f"\n{display_path(table)}\n{display_path(picture)}")
    return 0


def _name_files(args: Any) -> str:
    """Return the name of the files without its ending: the flags that are not defaults tell spectra apart."""
    facts = {
        f"{args.lanczos_steps}steps": args.lanczos_steps != LANCZOS_STEPS,
        f"{args.vectors}vectors": args.vectors != VECTORS,
        f"{args.examples}examples": args.examples,
    }
    return "-".join([args.matrix, args.split, args.checkpoint, *(name for name, holds in facts.items() if holds)])


def _load_kept(run: RunDirectory, args: Any) -> tuple[Predictor, list[str], list[str]]:
    """Return a predictor, the names of the kept checkpoints in the order of their steps, and warnings.

    Checkpoints that are damaged, of another network or with weights that are not finite are left out. Raises
    ConfigError if none is left.
    """
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_predictor, load_weights
    from dlopt.landscape.trajectories import KEEP_MORE, list_kept

    predictor: Predictor | None = None
    names: dict[int, str] = {}
    warnings: list[str] = []
    for name in list_kept(run):
        try:
            if predictor is None:
                predictor, more = load_predictor(run, name, device=args.device, trust=args.trust)
            else:
                more = load_weights(predictor, run, name).warnings
        except ConfigError as error:
            if predictor is None:
                raise  # what is wrong with the run is wrong with all of its checkpoints
            warnings.append(f"checkpoint {name} is left out: {error.problems[0][1]}")
            continue
        except (ValueError, OSError) as error:
            warnings.append(f"checkpoint {name} is left out: {error}")
            continue
        warnings += more
        if not predictor.w.isfinite().all():
            warnings.append(f"checkpoint {name} is left out: its weights are not finite")
        elif not more:  # otherwise it stands for an older one
            names[predictor.step] = name
    if predictor is None or not names:
        raise ConfigError([("--checkpoint", to_printable("; ".join(warnings)))])
    if len(names) == 1:
        warnings.append(f"only one checkpoint is kept; to keep more, {KEEP_MORE}")
    return predictor, [*names.values()], warnings


def _describe_memory(predictor: Predictor, examples: Examples) -> tuple[str, str]:
    """Return the key and the message for a lack of memory: what takes it, and which flags help."""
    from dlopt.training.evaluation import get_chunk_size

    vector = predictor.w.element_size() * len(predictor.w) / 1e6
    together = min(get_chunk_size(predictor.problem), examples.size)
    remedy = f"use fewer steps, each of which takes {vector:,.3g} MB"
    remedy += f", or less than {together:,} --examples, which a product takes together" if together > 1 else ""
    return ("--lanczos-steps", f"more memory is needed than available; {remedy}")


def _estimate_spectra(
    run: RunDirectory, predictor: Predictor, names: Sequence[str], examples: Examples, args: Any
) -> list[Spectrum]:
    """Return the spectrum at each of these checkpoints, and warn of those where the matrix is not finite.

    Raises ConfigError if none is left.
    """
    from dlopt import console, prng
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_weights
    from dlopt.landscape.curvature import SplitCurvature
    from dlopt.landscape.spectrum import estimate_spectrum

    products = len(names) * args.vectors * min(args.lanczos_steps, len(predictor.w))
    spectra, left_out = [], []
    with (
        console.show_progress(NAMES[args.matrix], products * examples.size) as advance,
        predictor.set_torch_switches(),
    ):
        for name in names:
            load_weights(predictor, run, name)
            curvature = SplitCurvature(predictor, examples, args.matrix, advance)
            found = estimate_spectrum(
                curvature.multiply, predictor.w, args.lanczos_steps, args.vectors, prng.key(0, "spectrum")
            )
            if found.values.isfinite().all():
                spectra.append(replace(found, checkpoint=predictor.checkpoint, step=predictor.step))
            else:
                left_out.append(f"the {NAMES[args.matrix]} at step {predictor.step} is not finite")
    if not spectra:
        raise ConfigError([("--checkpoint", f"{left_out[0]}: name a checkpoint before the run diverged")])
    for warning in left_out:
        print(f"warning: {warning}", file=sys.stderr)
    return spectra


def _draw(spectra: Sequence[Spectrum], heading: str, title: str | None, file: Path) -> Path:
    """Draw one spectrum or several; the title replaces the heading."""
    from dlopt.report.figures import replace_picture
    from dlopt.report.spectrum_figures import plot_density, plot_over_training

    if len(spectra) == 1:
        (found,) = spectra
        return replace_picture(plot_density(found, title or f"{heading}, step {found.step}"), file)
    return replace_picture(plot_over_training(spectra, title or heading), file)
