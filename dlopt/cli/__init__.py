"""The command line: one word picks a command, whose module is imported only then."""

import os
import signal
import sys
from collections.abc import Sequence

COMMANDS = {
    "train": "dlopt.cli.train:train",
    "list": "dlopt.cli.list:list_options",
    "runs": "dlopt.cli.runs:runs",
    "show": "dlopt.cli.show:show",
    "evaluate": "dlopt.cli.evaluate:evaluate",
    "verify": "dlopt.cli.verify:verify",
    "rerun": "dlopt.cli.rerun:rerun",
    "tensorboard": "dlopt.cli.tensorboard:tensorboard",
    "completion": "dlopt.cli.completion:completion",
}

HELP = """\
dlopt: a command-line laboratory for the optimization of deep networks

usage: dlopt COMMAND ...

Train
  dlopt train                                    the default: MNIST-1D, a small CNN, Adam
  dlopt train optimizer=momentum init=xavier     one run with other options
  dlopt train -m optimizer=sgd,adam seed=0,1,2   a grid of runs
  dlopt train -m hydra/sweeper=tpe ...           a search of intervals; dlopt list hydra/sweeper
  dlopt train resume=RUN|SWEEP                   go on with what was stopped or killed
  dlopt train --help                             every group, key and default

Look
  dlopt list [GROUP [OPTION]]                    what there is; for one option its formula, keys and ranges
  dlopt runs [DIR|SWEEP]                         many runs in one table: what varies, metrics, time; --over seed
  dlopt show [RUN|SWEEP]                         one run: settings, curves, results; a sweep: its best, what matters
  dlopt evaluate [RUN]                           a checkpoint on a split or on other data, class by class
  dlopt tensorboard [DIR|RUN]                    curves, in a browser

Check
  dlopt verify [RUN]                             makes a part of a run again: is it the same, bit for bit?
  dlopt rerun [RUN]                              does the whole again, beside it, and compares the curves

  dlopt completion bash|zsh                      completion by the tab key: eval "$(dlopt completion bash)"
  dlopt --version
  dlopt --help

RUN is `last`, a run's directory, or a part of its name.
Exit codes: 0 done, 1 a run failed or came out differently, 2 usage or configuration, 130 interrupted.
"""


def main(argv: Sequence[str] | None = None) -> int:
    """The `dlopt` command; returns the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    command = argv[0] if argv else "--help"
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
    before = signal.signal(signal.SIGINT, lambda *_: os._exit(130))  # while modules are imported nothing is to be saved
    try:
        code = getattr(import_module(module), function)(argv[1:])
        sys.stdout.flush()
        return code
    except BrokenPipeError:  # the reader, such as head, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    finally:
        signal.signal(signal.SIGINT, before)
