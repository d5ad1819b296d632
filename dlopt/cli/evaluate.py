"""dlopt evaluate: the metrics of a run's checkpoint on a split of its data, or on other data."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dlopt.config.compose import groups
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.display import display_path, make_report_path
from dlopt.storage.safe_read import to_printable

if TYPE_CHECKING:
    from torch import Tensor

    from dlopt.base.data import Split
    from dlopt.training.experiment import Experiment

SPLITS = ("train", "val", "test", "all")
TRAINING_KEYS = ("train_size", "label_noise", "drop_last", "test_fraction")
EPILOG = """\
  dlopt evaluate                                  the last run, its best weights, on its test split
  dlopt evaluate mlp-sgd --split val              another run, by a part of its name
  dlopt evaluate last --checkpoint last --png     at the last weights; draws the confusion matrix
  dlopt evaluate last --checkpoint 300            at those after 300 steps, where checkpoint.keep has kept them
  dlopt evaluate last --checkpoint average        at the averaged weights, where averaging was chosen
  dlopt evaluate last --data more.npz             on every example of another file, read as the run's own was
  dlopt evaluate last --data fashion_mnist        on another data set of the same shape

The preprocessing is that of the run, with the statistics of its training split.
"""


def build_parser() -> argparse.ArgumentParser:
    """What the command takes."""
    taken = argparse.ArgumentParser(
        prog="dlopt evaluate", description="Metrics of a run's checkpoint; for classes also by class.", epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    taken.add_argument("run", nargs="?", default="last", metavar="RUN", help="`last`, a directory, a part of its name")
    taken.add_argument("--split", choices=SPLITS, default="test", help="default test; all: every example there is")
    taken.add_argument("--checkpoint", default="best", metavar="best|last|average|STEP", help="default best")
    taken.add_argument("--data", action="append", default=[], metavar="OPTION|FILE|KEY=VALUE",
                        help="other data: a data set by name, another file, or keys such as data.path=...")  # fmt: skip
    taken.add_argument("--device", default="auto", help="auto, cpu, cuda, ...")
    taken.add_argument("--png", nargs="?", const="", metavar="FILE", help="draw it (default outputs/reports/)")
    taken.add_argument("--trust", action="store_true", help="execute code that the run names: classes of one's own")
    taken.add_argument("-q", "--quiet", action="store_true", help="no progress")
    return taken


def evaluate(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    given = build_parser().parse_args(argv)
    from dlopt import console
    from dlopt.runner.open_run import open_run

    console.quiet = given.quiet
    outcome = "it cannot be evaluated"
    return open_run(
        "dlopt evaluate", given.run, lambda run: _evaluate_run(run, given), trust=given.trust, outcome=outcome
    )


def _evaluate_run(run: RunDirectory, given: Any) -> int:
    from dlopt.formatting import format_metric

    experiment, content, name = _load_experiment(run, given)
    split = _select_split(experiment, given)
    outputs, targets, found = _predict(experiment, content, split, f"{given.split} split")
    title = f"{display_path(run.path)}, {name} checkpoint (step {content['step']})"
    whole = given.split == "all" or (bool(given.data) and split.inputs is experiment.train.inputs)
    said = "all examples" if whole else f"{given.split} split"
    of = f" of --data {' '.join(given.data)}" if given.data else ""
    print(f"{title}\n{said}{of}, {len(targets):,} examples\n")
    print("  ".join(f"{name} {format_metric(value)}" for name, value in found.items()))
    return _print_details(experiment, outputs, targets, given, run, f"{title}, {said}")


def _load_experiment(run: RunDirectory, given: Any) -> tuple[Experiment, dict[str, Any], str]:
    """The experiment built anew with the run's own statistics, and the checkpoint's content and name."""
    from dlopt.config.build import build
    from dlopt.config.checks.splits import FittedDataState
    from dlopt.config.problems import ConfigError
    from dlopt.config.reopen import load_run

    if given.data and given.split in ("train", "val"):
        raise ConfigError([("--split", "other data were not trained on; use test, or all")])
    fresh = {"resume": None, "device": given.device, "batch_size": "full", "threads": "auto", "compile": False}
    folders = [Path(text.rpartition("=")[2]).expanduser().parent for text in given.data]
    config = load_run.load_config(
        run, lambda former: former | _make_inference_config(former, given) | fresh, trust=given.trust, folders=folders
    )
    content, name = _load_checkpoint(run, given.checkpoint)
    fitted = FittedDataState(content["preprocessing"], content["encoding"], is_other_data=bool(given.data))
    experiment, _ = build(config, [], fitted)
    load_run.check(content, experiment, "--data" if given.data else "run", same_data=not given.data)
    return experiment, content, name


def _make_inference_config(former: Mapping[str, Any], given: Any) -> dict[str, Any]:
    """What is exchanged in a run's configuration to evaluate it: the data, if asked, and all that only training needs.

    People's own classes among the latter need not be trusted, then, nor even be there. Regularization is not: it may be
    a part of the network, as dropout is.
    """
    data = dict(former["data"])
    if given.data:
        data = _replace_data(data, given.data)
    return {
        "data": data | ({"label_noise": 0.0} if given.split == "all" else {}),
        "optimizer": {"_target_": "dlopt.optimizer.sgd.SGD", "lr": 1.0},
        "schedule": {"_target_": "dlopt.schedule.constant.ConstantSchedule"},
        "schedules": {},
        "init": {"_target_": "dlopt.init.none.KeepModuleInit"},
        "bias_init": {"_target_": "dlopt.init.none.KeepModuleInit"},
        "averaging": None,
        "augmentation": {},
        "diagnostic": {},
    }


def _load_checkpoint(run: RunDirectory, wanted: str) -> tuple[dict[str, Any], str]:
    """The content of a checkpoint, and what it is called: best, last, average, or the number of its steps.

    A run without an evaluation has none that is best, and its last one is taken. The last holds the best weights too.
    """
    from dlopt.config.problems import ConfigError
    from dlopt.errors import join_truncated
    from dlopt.storage.torch_file import load

    kept = {str(step): file for step, file in run.older_checkpoints().items()}
    if wanted in kept:
        return load(kept[wanted], links=run.follow_links), "kept"
    if wanted == "average":
        return _load_average(run), wanted
    if wanted not in ("best", "last"):
        known = join_truncated(["best", "last", *(["average"] if run.checkpoint("average").exists() else []), *kept])
        raise ConfigError([("--checkpoint", f"{display_path(run.path)} has none after step {wanted}; it has {known}")])
    damaged: list[str] = []
    if wanted == "best" and run.checkpoint("best").exists():
        try:
            return run.load("best"), wanted
        except ValueError as error:
            damaged = [f"{run.checkpoint('best').name} is damaged ({error})"]
    newest = run.latest_checkpoint()
    if newest is None and run.checkpoint("best").exists():
        said = f"; {damaged[0]}" if damaged else "; use best"
        raise ConfigError([("--checkpoint", f"{display_path(run.path)} has no last checkpoint{said}")])
    if newest is None:
        raise ConfigError([("run", f"{display_path(run.path)} has no checkpoint yet: it was not trained to its end")])
    for said in (*damaged, *newest.damage.values()):
        print(f"warning: {to_printable(said)}; the newest whole one is taken", file=sys.stderr)
    content = newest.content
    if wanted == "best" and content["best_step"] is not None:
        return content | {"model": content["best"], "step": content["best_step"]}, wanted
    return content, "last"


def _load_average(run: RunDirectory) -> dict[str, Any]:
    """The content of the checkpoint of the averaged weights, which the end of a run writes."""
    from dlopt.config.problems import ConfigError

    file = run.checkpoint("average")
    if not file.exists():
        said = f"{display_path(run.path)} has no averaged weights: it has no averaging, or was not trained to its end"
        raise ConfigError([("--checkpoint", said)])
    try:
        return run.load("average")
    except ValueError as error:
        raise ConfigError([("--checkpoint", f"{file.name} is damaged ({error})")]) from error


def _replace_data(former: Mapping[str, Any], said: Sequence[str]) -> dict[str, Any]:
    """Other data in the place of the run's: an option, a file, or keys of the data group.

    A file is read as the run's own was, or as arrays where the run was trained on none of people's files.
    """
    from omegaconf import OmegaConf

    from dlopt.config.problems import ConfigError
    from dlopt.errors import did_you_mean

    data = {**former, "train_size": None, "label_noise": 0.0}
    for text in said:
        key, equals, value = text.partition("=")
        if equals:
            key = key.removeprefix("data.")
            if key not in data:
                known = [f"data.{k}" for k in data if not k.startswith("_")]
                raise ConfigError([("--data", f"there is no key data.{key}{did_you_mean(f'data.{key}', known)}")])
            if key in TRAINING_KEYS:
                raise ConfigError([("--data", f"data.{key} is of training; all examples of other data are evaluated")])
            typed: Any = OmegaConf.to_container(OmegaConf.from_dotlist([f"x={value}"]), resolve=True)
            data[key] = typed["x"]
        elif text in groups.list_option_names("data"):
            data = _load_data_option(text)
        elif Path(text).exists():
            if "verify" not in data and "target" not in data:  # it reads no files of people's own
                data = _load_data_option("arrays")
            data["path"] = text
        else:
            options = did_you_mean(text, [o for o in groups.list_option_names("data") if o != "custom"])
            raise ConfigError([("--data", f"there is no file and no data set '{text}'{options}")])
    return data


def _load_data_option(name: str) -> dict[str, Any]:
    """A data option's keys and their defaults."""
    from omegaconf import OmegaConf

    node: Any = OmegaConf.to_container(OmegaConf.load(groups.CONF / "data" / f"{name}.yaml"))
    node.pop("defaults", None)
    return node


def _select_split(experiment: Experiment, given: Any) -> Split:
    import torch

    from dlopt.base.data import Split
    from dlopt.config.problems import ConfigError

    train, test, name = experiment.train, experiment.test, given.split
    if name == "val":
        if experiment.validation is None:
            raise ConfigError(
                [("--split", "the run has no validation split (validation.fraction=0); use train or test")]
            )
        return experiment.validation
    if name == "all":
        if test.inputs is train.inputs:
            return test  # a file without a test of its own is all of it
        pairs = zip((train.inputs, train.targets), (test.inputs, test.targets), strict=True)
        return Split(*(torch.cat(pair) for pair in pairs))
    return train if name == "train" else test


def _predict(
    experiment: Experiment, content: dict[str, Any], split: Split, title: str
) -> tuple[Tensor, Tensor, dict[str, float]]:
    """Outputs, targets and metrics, on the CPU."""
    import dataclasses

    from dlopt import console
    from dlopt.training import checkpointing
    from dlopt.training.evaluation import compute_metrics, predict_split
    from dlopt.training.loop import set_torch_switches
    from dlopt.training.state import TrainState

    with set_torch_switches(experiment):
        training = TrainState([dataclasses.replace(experiment, train=split)])
        checkpointing.load_weights(training, training.w, training.problem.running, content["model"])
        examples = training.examples
        with console.show_progress(title, examples.size) as advance:
            outputs, targets = predict_split(training.problem, training.w, examples, advance=advance)
        found = training.to_host(compute_metrics(training.problem, outputs, targets))[0]
        return outputs.cpu(), targets.cpu(), found


def _print_details(
    experiment: Experiment, outputs: Tensor, targets: Tensor, given: Any, run: RunDirectory, title: str
) -> int:
    """By class, or for numbers the picture alone."""
    from dlopt.report import classification as of_classes

    names = experiment.names
    classes = not targets.is_floating_point()
    if classes:
        names = names or tuple(str(i) for i in range(outputs.shape[-1]))
        found = targets.numpy(), outputs.argmax(-1).numpy()
        print(
            "\n"
            + "\n".join(
                [*of_classes.format_by_class(*found, names), "", *of_classes.format_confusion_matrix(*found, names)]
            )
        )
    scale, middle = (experiment.encoding.get(name) or default for name, default in (("scale", 1.0), ("middle", 0.0)))
    if not classes:
        outputs, targets = outputs * scale + middle, targets * scale + middle  # a table's, as its file has them
        error = outputs - targets
        rmse, mae = error.square().mean().sqrt().item(), error.abs().mean().item()
        print(f"\nin the units of the target: root mean squared error {rmse:.6g}, mean absolute error {mae:.6g}")
    if given.png is None:
        return 0
    from dlopt.report import figures

    what = f"{given.split}-{'confusion' if classes else 'fit'}"
    file = Path(given.png) if given.png else make_report_path(run.path, what)
    try:
        if classes:
            figure = figures.plot_confusion(*found, names, title)
        else:
            named = names or tuple(f"target {i}" for i in range(outputs.shape[-1]))
            columns = [dict(zip(named, x.T.tolist(), strict=True)) for x in (targets, outputs)]
            figure = figures.plot_predictions(columns[0], columns[1], title)
        figures.save_figure(figure, file)
    except (OSError, ValueError) as error:
        print(f"dlopt evaluate: --png {file}: {error}", file=sys.stderr)
        return 2
    print(f"\n{display_path(file)}")
    return 0
