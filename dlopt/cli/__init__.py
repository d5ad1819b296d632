"""The command line: the first word selects a command, and only its module is imported."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from dlopt.cli.streams import OutputLost, prepare_streams

COMMANDS = {
    "train": "dlopt.cli.train:train",
    "race": "dlopt.cli.landscape.race:race",
    "list": "dlopt.cli.list_options:list_options",
    "runs": "dlopt.cli.runs:runs",
    "show": "dlopt.cli.show:show",
    "evaluate": "dlopt.cli.evaluate:evaluate",
    "predict": "dlopt.cli.predict:predict",
    "export": "dlopt.cli.export:export",
    "landscape": "dlopt.cli.landscape.landscape:landscape",
    "spectrum": "dlopt.cli.landscape.spectrum:spectrum",
    "verify": "dlopt.cli.verify:verify",
    "rerun": "dlopt.cli.rerun:rerun",
    "tensorboard": "dlopt.cli.tensorboard:tensorboard",
    "completion": "dlopt.cli.completion:completion",
}

TRAINING_COMMANDS = ("train", "verify", "rerun")

HELP = """\
dlopt: a command-line laboratory for the optimization of deep networks

usage: dlopt COMMAND ...

Train
  dlopt train                                    the default: MNIST-1D, a small CNN, Adam
  dlopt train optimizer=momentum init=xavier     one run with other options
  dlopt train -m optimizer=sgd,adam seed=0,1,2   a grid of runs
  dlopt train -m hydra/sweeper=tpe ...           a search of intervals; dlopt list hydra/sweeper
  dlopt train resume=RUN|SWEEP                   resume a run or sweep that was stopped or killed
  dlopt train --help                             every group, key and default

Race
  dlopt race surface=beale optimizer=sgd,adam    optimizers on a test surface: a table, a picture and an animation

Look
  dlopt list [GROUP [OPTION]]                    the options; for one option its formula, keys and ranges
  dlopt runs [DIR|SWEEP]                         many runs in one table: settings that vary, metrics, time; --over seed
  dlopt show [RUN|SWEEP]                         a run: settings, curves, results; a sweep: best runs, importance
  dlopt show --batch [RUN|OVERRIDE...]           what training sees: examples with augmentation and labels
  dlopt evaluate [RUN|SWEEP]                     evaluate a checkpoint on a split or on other data, by class
  dlopt predict [RUN|SWEEP] FILE                 predictions for each row of a table, image or text; --out FILE
  dlopt landscape [RUN|SWEEP]                    the loss around a run's weights, along its path, or between runs
  dlopt spectrum [RUN|SWEEP]                     eigenvalues of the Hessian: density, outliers, over training
  dlopt tensorboard [DIR|RUN|SWEEP]              curves in a browser

Use
  dlopt export [RUN|SWEEP] --to onnx             a file for other programs, checked: onnx, torch_export, safetensors

Check
  dlopt verify [RUN|SWEEP]                       repeat a part of a run and compare it bit by bit
  dlopt rerun [RUN|SWEEP]                        repeat a whole run in a new directory and compare the curves

  dlopt completion bash|zsh                      tab completion: eval "$(dlopt completion bash)"
  dlopt --version
  dlopt --help

RUN or SWEEP is a directory, a unique part of its name, or `last`: the sweep or single run that was started or resumed
last. Commands that need a run take the best finished run of a sweep.
Exit codes: 0 done or diverged, 1 a run failed or is not the same, 2 wrong usage or configuration, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the `dlopt` command. Return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else "--help"
    with prepare_streams(lasting=command in TRAINING_COMMANDS):
        try:
            code = _run_command(command, argv)
            sys.stdout.flush()
            return code
        except OutputLost as error:
            if error.is_closed_pipe:  # by its reader, such as head
                return 0
            print(f"dlopt {command}: the output cannot be written: {error}", file=sys.stderr)
            return 1


def _run_command(command: str, argv: Sequence[str]) -> int:
    if command in ("--help", "-h", "help"):
        print(HELP, end="")
        return 0
    if command in ("--version", "-V"):
        from dlopt import __version__

        print(f"dlopt {__version__}")
        return 0
    if command not in COMMANDS:
        from dlopt.errors import did_you_mean

        print(f"dlopt: there is no command '{command}'{did_you_mean(command, COMMANDS)}", file=sys.stderr)
        return 2
    from importlib import import_module

    module, _, function = COMMANDS[command].partition(":")
    before = signal.getsignal(signal.SIGINT)
    if before != signal.SIG_IGN:
        signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # nothing to save during imports
    try:
        return getattr(import_module(module), function)(argv[1:])
    finally:
        signal.signal(signal.SIGINT, before)
