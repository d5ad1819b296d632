"""dlopt export: a trained network in a file for other programs, checked against the run's own outputs."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.cli.run_parser import add_checkpoint_flag, build_run_parser, open_named_run
from dlopt.errors import join_truncated
from dlopt.rundir.display import display_path, make_export_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from dlopt.export.build import ExportedFile
    from dlopt.rundir.directory import RunDirectory

SUFFIXES = {"onnx": ".onnx", "torch_export": ".pt2", "safetensors": ".safetensors"}
"""The formats, and the endings of their files."""
EPILOG = """\
  dlopt export --to onnx                            the last run, its best weights, for onnxruntime and others
  dlopt export mlp-sgd --to onnx --out model.onnx   another run, named by a part of its name
  dlopt export --to onnx --probabilities            class probabilities in place of the network's own outputs
  dlopt export --to torch_export                    for torch.export.load, without the code of the network
  dlopt export --to safetensors                     the weights alone, for init=pretrained init.run=FILE and others
  dlopt export --to onnx --data new.csv             checked on other data, if the run's own are gone

The file takes raw inputs, as the data set gives them, in batches of any size: the preprocessing is inside. Numbers are
predicted in the units of the target. Class names, the encoding of a table and the configuration are in the metadata.
The file is loaded again and compared with the run's own outputs; if they differ by more than the tolerance, no file is
written, and the exit code is 1. docs/export.md shows how to use each file.
"""


def build_parser() -> ArgumentParser:
    """Build the command's parser."""
    description = "Writes a trained network into a file for other programs, and checks the file."
    parser = build_run_parser("export", description, EPILOG, quiet="print errors only")
    parser.add_argument("--to", required=True, choices=SUFFIXES, help="the format")
    parser.add_argument("--out", metavar="FILE", help="default: outputs/exports/, with the name of the run")
    add_checkpoint_flag(parser)
    parser.add_argument("--probabilities", action="store_true", help="outputs are probabilities of the classes")
    parser.add_argument(
        "--opset", type=int, metavar="N", help="of onnx: version of the operators, 18 to 23; default 20"
    )
    tolerance = "largest difference from the run's own outputs, relative to the largest output; default 1e-5"
    parser.add_argument("--tolerance", type=parse_tolerance, metavar="X", help=tolerance)
    data = "other data to compare on: a data set, another file, or keys such as data.path=..."
    parser.add_argument("--data", action="append", default=[], metavar="OPTION|FILE|KEY=VALUE", help=data)
    return parser


def parse_tolerance(text: str) -> float:
    """Return a number greater than 0 and less than 1."""
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0.0 < value < 1.0:
        raise ArgumentTypeError(f"must be greater than 0 and less than 1, got {text}")
    return value


def export(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    args = build_parser().parse_args(argv)
    return open_named_run("export", args, _export_run, "nothing was written")


def _export_run(run: RunDirectory, args: Any) -> int:
    from dlopt import console
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen.load_predictor import load_predictor
    from dlopt.export.build import build_file
    from dlopt.export.comparison import TOLERANCE
    from dlopt.export.onnx_file import DEFAULT_OPSET
    from dlopt.runner.execute import DONE, FAILED
    from dlopt.storage import atomic

    file = _check_arguments(run, args)
    try:
        predictor, warnings = load_predictor(run, args.checkpoint, data=args.data, device="cpu", trust=args.trust)
    except ConfigError as error:
        if not args.data and any(key.startswith("data") for key, _ in error.problems):
            error.problems.append(("--data", "names other data to compare on, such as a file with a few examples"))
        raise
    if predictor.problem.autocast is not None:
        warnings.append("the run computes in bfloat16 and the file in float32, which is what was compared")
    for warning in warnings:
        print(f"warning: {to_printable(warning)}", file=sys.stderr)
    tolerance, opset = args.tolerance or TOLERANCE, args.opset or DEFAULT_OPSET
    with console.announce(f"{display_path(run.path)}: writing and comparing"):
        exported = build_file(
            run, predictor, args.to, probabilities=args.probabilities, opset=opset, tolerance=tolerance
        )
    if not exported.difference <= tolerance:
        wrong = f"its outputs differ from the run's own by {_format_difference(exported)}, and {tolerance:g} is allowed"
        print(f"dlopt export: {file} was not written: {wrong} (--tolerance)", file=sys.stderr)
        return FAILED
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        atomic.atomic_write_bytes(file, exported.content)
    except OSError as error:
        raise ConfigError([("--out", f"{file}: {error.strerror or error}")]) from error
    if not args.quiet:
        step = f"{exported.metadata['checkpoint']} checkpoint (step {exported.metadata['step']})"
        print("\n".join([f"{display_path(run.path)}, {step}", "", *_format_lines(exported), "", display_path(file)]))
    return DONE


def _check_arguments(run: RunDirectory, args: Any) -> Path:
    """Return the file to write. Raises ConfigError for arguments that cannot be, before anything is loaded."""
    from dlopt.config.problems import Problems
    from dlopt.export.onnx_file import LARGEST_OPSET, LEAST_OPSET, check_packages
    from dlopt.rundir.directory import RunDirectory

    suffix, problems = SUFFIXES[args.to], Problems()
    file = make_export_path(run.path, suffix) if args.out is None else Path(args.out)
    if file.is_dir():
        problems.add("--out", f"{file} is a directory: name a file in it, such as {file / f'model{suffix}'}")
    elif file.suffix != suffix:
        problems.add("--out", f"must end in {suffix} for --to {args.to}, got {args.out}")
    elif any(RunDirectory(folder).status_file.exists() for folder in file.resolve().parents):
        problems.add("--out", f"{file} lies in a run, whose files it could replace; name another place")
    if args.opset is not None and args.to != "onnx":
        problems.add("--opset", f"is for --to onnx, got --to {args.to}: leave it out")
    elif args.opset is not None and not LEAST_OPSET <= args.opset <= LARGEST_OPSET:
        problems.add("--opset", f"must be from {LEAST_OPSET} to {LARGEST_OPSET}, got {args.opset}")
    if args.probabilities and args.to == "safetensors":
        problems.add("--probabilities", "is for files that compute; safetensors holds the weights alone: leave it out")
    problems.raise_if_any()
    if args.to == "onnx":
        check_packages()
    return file


def _format_difference(exported: ExportedFile) -> str:
    return f"{exported.difference:.1e} of the largest output, on {exported.examples} examples in {exported.engine}"


def _format_lines(exported: ExportedFile) -> list[str]:
    """Return what the file takes and gives, and how far it is from the run."""
    about = {key: json.loads(exported.metadata[key]) for key in ("inputs", "outputs", "names", "config")}
    inputs, outputs = about["inputs"], about["outputs"]
    longest = f"; at most {inputs['longest']} steps" if "longest" in inputs else ""
    steps, names = about["config"].get("preprocess"), to_printable(join_truncated(about["names"]))
    lines = {
        "inputs": f"{inputs['type']} {_format_shape(inputs['shape'])}: {inputs['meaning']}{longest}",
        "inside": ", ".join(steps) if steps else "no preprocessing",
        "outputs": f"{_format_shape(outputs['shape'])}: {outputs['meaning']}",
        exported.metadata["task"]: names,
        "differs": f"by at most {_format_difference(exported)}",
    }
    return [f"{key:<8}  {text}" for key, text in lines.items()]


def _format_shape(shape: Sequence[int | str]) -> str:
    return f"({', '.join(map(str, shape))})"
