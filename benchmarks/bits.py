"""Record what training computes, bit for bit, and compare two versions of the code.

`python -m benchmarks bits record FILE` trains about fifty small cases. It writes one JSON file with their metrics rows,
their summaries and the digests of all tensors in their checkpoints. `bits compare FILE` records again and reports what
differs from FILE. `bits compare FILE OTHER` compares two recordings. `--only TEXT` takes only the cases whose name
contains TEXT. Two recordings are comparable if they come from one machine and one version of torch.

A case is typed with the newest names of options and keys. GROUPS, OPTIONS and KEYS give the earlier names, which are
used if the files in conf/ have them. Three functions depend on more of the package than its options: `run_command`,
`train_lanes` and `load_checkpoint`.
"""

from __future__ import annotations

import contextlib
import csv
import hashlib
import io
import json
import os
import platform
import random
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

CONF = Path(__file__).resolve().parent.parent / "conf"

GROUPS = {"bias_init": "bias"}
"""Groups with two names: the newest -> the earlier one."""
OPTIONS = {"init": {"layer_scale": "search"}}
"""Options with two names, by group."""
KEYS = {
    "regularization/early_stopping": {
        "early_stopping.min_delta": "early_stopping.min_change",
        "early_stopping.check_every": "early_stopping.interval",
        "early_stopping.warmup_evaluations": "early_stopping.ignore",
    },
    "schedule/plateau": {"threshold": "min_change", "min_factor": "floor"},
    "optimizer/schedule_free": {"weight_decay": "decay"},
    "optimizer/muon": {"ns_steps": "steps", "adam_lr_scale": "adam_rate"},
    "optimizer/soap": {"precondition_frequency": "every"},
    "optimizer/sam": {"base_optimizer": "base"},
    "averaging/swa": {"start_fraction": "start"},
    "init/pretrained": {"default": "rest"},
    "hydra/sweeper/grid": {
        "n_trials": "trials",
        "hyperband.min_resource": "hyperband.least",
        "hyperband.reduction_factor": "hyperband.reduction",
        "median.n_startup_trials": "median.startup",
        "median.n_warmup_steps": "median.warmup",
        "tpe.n_startup_trials": "tpe.startup",
        "tpe.n_ei_candidates": "tpe.candidates",
    },
}
"""Keys with two names, by the YAML file that has them."""

COMMON = "device=cpu threads=1 epochs=6 batch_size=50"
SERIES = "data=mnist1d data.train_size=300"
"""240 examples for training, 60 for validation; five steps an epoch, the last one with fewer examples."""
MLP = f"{SERIES} arch=mlp arch.widths=[24,16]"
CNN = f"{SERIES} arch=cnn arch.channels=[6,8,8]"
IMAGES = "data=digits data.train_size=300 arch=cnn arch.channels=[6,8,8]"
SWEEP = f"-m {MLP} epochs=3"
STOP = "diagnostic.custom._target_=benchmarks.interrupt.Interrupt +diagnostic.custom.marker={folder}/marker"

CASES: dict[str, str | tuple[str, ...]] = {
    # ---------------------------------------------------------------------------------------------- optimizers
    "sgd": f"{MLP} optimizer=sgd schedule=cosine schedule.final=0.1 regularization=[l1,label_smoothing] "
    "regularization.l1.proximal=true regularization.l1.strength=0.003",
    "momentum": f"{CNN} optimizer=momentum optimizer.dampening=0.1 normalization=batch schedules.momentum=ramp",
    "nesterov": f"{MLP} optimizer=nesterov schedule=warmup schedule.length=2 schedule.then=cosine "
    "regularization=dropout regularization.dropout.input=0.1",
    "adam": f"{CNN} optimizer=adam log_every=3 diagnostic=[gradients,activations,histograms] "
    "diagnostic.histograms.of=[weight,gradient,activation] diagnostic.gradients.every=2",
    "adamw": f"{MLP} optimizer=adamw optimizer.lr=0.01 clip.norm=0.5 averaging=ema averaging.decay=0.9 "
    "regularization=[gradient_noise,weight_noise]",
    "rmsprop": f"{MLP} optimizer=rmsprop optimizer.centered=true optimizer.momentum=0.5 clip.value=0.01 "
    "schedule=plateau schedule.patience=0 schedule.threshold=0.5 schedule.min_factor=0.05 schedule.factor=0.5",
    "muon": f"{MLP} arch.widths=[16,16,16] optimizer=muon optimizer.ns_steps=4 optimizer.adam_lr_scale=0.1 "
    "normalization=layer activation=tanh",
    "soap": f"{MLP} optimizer=soap optimizer.precondition_frequency=3 schedule=one_cycle regularization=max_norm "
    "regularization.max_norm.limit=1.0",
    "sam": f"{CNN} optimizer=sam optimizer.base_optimizer=adam optimizer.base_optimizer.lr=0.01 normalization=batch "
    "averaging=swa averaging.start_fraction=0.4",
    "schedule_free adam": f"{CNN} optimizer=schedule_free optimizer.weight_decay=0.1 optimizer.lr=0.02 "
    "normalization=batch",
    "schedule_free sgd": f"{MLP} optimizer=schedule_free optimizer.form=sgd optimizer.lr=0.1 averaging=polyak",
    "torch_optim": f"{MLP} optimizer=torch_optim optimizer.name=Adagrad +optimizer.options.weight_decay=0.01 "
    "optimizer.lr=0.05 schedule=step schedule.every=2",
    "rprop": f"{MLP} optimizer=rprop batch_size=full epochs=20 eval_every=4 regularization=l2",
    "coordinate_descent": f"{MLP} optimizer=coordinate_descent optimizer.blocks=100 optimizer.order=random",
    "other optimizers": f"{SWEEP} optimizer=adadelta,adagrad,amsgrad,delta_bar_delta,lion,nadam,rmsprop_nesterov",
    "a diverging run": f"{MLP} optimizer=sgd optimizer.lr=1e6",
    # -------------------------------------------------------------------------------------------- regularization
    "early_stopping": f"{MLP} epochs=30 optimizer.lr=0.02 regularization=[early_stopping,dropconnect] "
    "regularization.early_stopping.patience=1 regularization.early_stopping.min_delta=0.02 "
    "regularization.early_stopping.check_every=2 regularization.early_stopping.warmup_evaluations=1 "
    "regularization.dropconnect.p=0.2",
    "penalties and noise": f"{MLP} regularization=[elastic_net,weight_decay,input_noise,l2] "
    "regularization.elastic_net.proximal=true regularization.elastic_net.l1=0.01 schedules.l2=cosine",
    # --------------------------------------------------------------------------- data, preprocessing, augmentation
    "images": f"{IMAGES} preprocess=per_channel normalization=group normalization.groups=2 "
    "augmentation=[flip_horizontal,crop,rotate,translate,cowmix] augmentation.crop.padding=1 "
    "augmentation.cowmix.sigma_low=1 augmentation.cowmix.sigma_high=2 loss.metrics=[top5] eval_every=2",
    "series": f"{CNN} augmentation=shift preprocess=[standardize,zca] data.label_noise=0.2 data.drop_last=true",
    "preprocess": f"{SWEEP} preprocess=center,decorrelate,mean_image,minmax,per_channel,standardize,whiten,zca",
    "table of classes": "data=table data.path={folder}/people.csv data.target=class data.missing=fill "
    "loss.metrics=[accuracy,auc] objective=val/auc",
    "table of numbers": "data=table data.path={folder}/people.csv data.target=income data.missing=drop "
    "data.categorical=[rooms] data.drop=[class] arch.widths=[16] loss=mse",
    "arrays of numbers": "data=arrays data.path={folder}/numbers.npz arch=mlp arch.widths=[16] loss=mse "
    "optimizer.lr=0.01 preprocess=standardize",
    "arrays of images": "data=arrays data.path={folder}/images.npz data.channels=last arch=resnet "
    "arch.channels=[4,8] arch.blocks=1 loss=hinge loss.power=2",
    "experiment": "experiment=mnist1d_paper steps=60 batch_size=100",
    # ---------------------------------------------------------------------------------- networks, loss, precision
    "init": f"{SWEEP} epochs=1 init=constant,fan_in_uniform,he,he_uniform,layer_scale,lecun_normal,lsuv,none,normal,"
    "orthogonal,random_walk,sparse,uniform,xavier,xavier_normal,zeros",
    "pretrained": (
        f"{MLP} optimizer=adam",
        f"{MLP} init=pretrained init.run={{folder}}/0 init.layers=2 init.frozen=true init.default=orthogonal "
        "bias_init=constant bias_init.value=0.2",
    ),
    "bias_init": f"{SWEEP} epochs=1 bias_init=class_prior,constant,none,zeros",
    "arch": f"-m {SERIES} epochs=2 arch=linear,maxout,mlp,resnet",
    "activation": f"{SWEEP} epochs=2 activation=elu,gelu,leaky_relu,linear,prelu,relu,selu,sigmoid,silu,softplus,tanh",
    "schedule": f"{SWEEP} schedule=constant,exponential,harmonic,inverse_sqrt,inverse_time,linear,polynomial,ramp,"
    "warm_restarts",
    "hinge": f"{MLP} loss=hinge loss.margin=0.5",
    "bfloat16": f"{CNN} precision=bfloat16 clip.norm=1.0",
    "float64": f"{MLP} precision=float64 validation.fraction=0 optimizer=momentum",
    # ----------------------------------------------------------------------------------- resumed and longer runs
    "a resumed run": (
        f"{CNN} epochs=8 optimizer=momentum normalization=batch regularization=[dropout,gradient_noise] averaging=ema "
        "schedule=plateau schedule.patience=0 schedule.threshold=0.05 schedule.factor=0.7 log_every=2 "
        f"diagnostic=[gradients,custom] {STOP} +diagnostic.custom.every=17",
        "resume={folder}/0 --trust",
    ),
    "a lengthened run": (f"{MLP} optimizer=soap epochs=3", "resume={folder}/0 epochs=7"),
    # ----------------------------------------------------------------------------------------------------- sweeps
    "grid": f"{SWEEP} optimizer=momentum optimizer.lr=0.01,0.1 normalization=none,batch",
    "a resumed grid": (
        f"{SWEEP} optimizer.lr=0.001,0.003,0.01 diagnostic=custom {STOP} +diagnostic.custom.every=7",
        "resume={folder}/0 --trust",
    ),
    "random": f"{SWEEP} hydra/sweeper=random hydra.sweeper.n_trials=4 hydra.sweeper.seed=1 "
    "optimizer.lr=tag(log,interval(1e-4,1e-1)) arch.widths=[8],[24,16]",
    "qmc": f"{SWEEP} hydra/sweeper=qmc hydra.sweeper.n_trials=4 optimizer.lr=tag(log,interval(1e-4,1e-1)) "
    "optimizer.beta1=interval(0.5,0.99)",
    "tpe": f"{SWEEP} hydra/sweeper=tpe hydra.sweeper.n_trials=8 hydra.sweeper.tpe.n_startup_trials=3 "
    "hydra.sweeper.tpe.n_ei_candidates=12 optimizer.lr=tag(log,interval(1e-4,1e-1)) optimizer=sgd,adam",
    "kfold": f"{SWEEP} validation.scheme=kfold validation.k=3 optimizer.lr=0.001,0.01",
    "seeds, median pruner": f"{SWEEP} epochs=6 optimizer=sgd optimizer.lr=0.3,0.1,0.003,0.001 hydra.sweeper.seeds=3 "
    "hydra.sweeper.pruner=median hydra.sweeper.median.n_startup_trials=1 hydra.sweeper.median.n_warmup_steps=1",
    "hyperband pruner": f"{SWEEP} epochs=9 optimizer=sgd optimizer.lr=0.3,0.2,0.1,0.05,0.02,0.01,0.005,0.002,0.001 "
    "hydra.sweeper.pruner=hyperband hydra.sweeper.hyperband.min_resource=1 hydra.sweeper.hyperband.reduction_factor=2",
    "pool": f"{SWEEP} hydra/launcher=pool hydra.launcher.workers=2 optimizer.lr=0.001,0.01 seed=0,1",
}
"""Arguments of `dlopt train`. A case may have several commands, which run one after another.

{folder} is the folder of the case. Command i writes to {folder}/i, unless it resumes a run or a sweep.
"""

LANES: dict[str, tuple[str, tuple[str, ...]]] = {
    "lanes: momentum": (
        f"{MLP} optimizer=momentum normalization=batch regularization=[dropout,l2] schedule=cosine "
        "diagnostic=[gradients] clip.norm=1.0",
        ("seed=0", "seed=1 optimizer.lr=0.1", "seed=2 optimizer.momentum=0.5 regularization.dropout.p=0.2"),
    ),
    "lanes: some leave early": (
        f"{MLP} epochs=8 optimizer=sgd averaging=ema regularization=early_stopping "
        "regularization.early_stopping.patience=1 regularization.early_stopping.min_delta=0.05",
        ("seed=0", "seed=1 optimizer.lr=1e6", "seed=2 optimizer.lr=0.01", "seed=3 optimizer.lr=0.3"),
    ),
    "lanes: sam, folds": (
        f"{CNN} epochs=3 optimizer=sam augmentation=shift validation.scheme=kfold validation.k=3",
        ("validation.fold=0", "validation.fold=1 optimizer.rho=0.1", "validation.fold=2 schedule=linear"),
    ),
}
"""Runs that are trained in lanes: the overrides of all of them, and those of each."""

CLOCK = ("seconds", "steps_per_second", "peak_memory")
"""Values of rows and summaries that differ between two runs of the same code, as do all below time/."""
SHOWN = 2
"""Maximum number of differences printed for each part of a run."""
LINES = 8
"""Maximum number of lines printed for each case."""
INTERRUPTED = 130


# --------------------------------------------------------------------------------------------------------- commands


def main(words: Sequence[str], only: str = "") -> int:
    """Record or compare. Return 0 if all is the same, 1 if a case failed or differs, 2 if the arguments are wrong."""
    if not any(only in name for name in {**CASES, **LANES}):
        print(f"--only: no case has {only} in its name", file=sys.stderr)
        return 2
    match words:
        case ["record", file]:
            recording = record(only)
            Path(file).write_text(json.dumps(recording, indent=1) + "\n")
            failed = [name for name, case in recording["cases"].items() if "failed" in case]
            print(
                f"{len(recording['cases'])} cases, {count_runs(recording)} runs; failed: {', '.join(failed) or 'none'}"
            )
            return 1 if failed else 0
        case ["compare", file, *other] if len(other) <= 1:
            former = json.loads(Path(file).read_text())
            return compare(former, json.loads(Path(other[0]).read_text()) if other else record(only), only)
        case _:
            print("python -m benchmarks bits record FILE | compare FILE [OTHER]   [--only TEXT]", file=sys.stderr)
            return 2


def record(only: str) -> dict[str, Any]:
    """Run the cases whose name contains `only`, and return what they computed."""
    for library in ("OMP", "MKL", "OPENBLAS"):  # read when torch and numpy are imported, which is below
        os.environ[f"{library}_NUM_THREADS"] = "1"
    cases: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        os.environ["XDG_CACHE_HOME"] = place  # generated data sets are generated again
        for number, (name, case) in enumerate({**CASES, **LANES}.items()):
            if only in name:
                folder = Path(place) / f"case-{number}"
                folder.mkdir()
                cases[name] = record_case(name, case, folder)
    import torch

    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "processor": f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}",
    }
    return {"about": about, "cases": cases}


def record_case(name: str, case: Any, folder: Path) -> dict[str, Any]:
    """Run one case; return what its runs computed, or why it failed."""
    print(name, end=" ", flush=True, file=sys.stderr)
    screen = io.StringIO()
    try:
        with contextlib.redirect_stdout(screen), contextlib.redirect_stderr(screen):
            if name in LANES:
                train_lanes(folder, *case)
            else:
                run_commands(folder, (case,) if isinstance(case, str) else case)
        runs = {str(path.relative_to(folder)): read_run(path) for path in find_runs(folder)}
        if not runs:
            raise RuntimeError("there is no run")
    except Exception as error:
        output = [*screen.getvalue().splitlines(), *traceback.format_exc().splitlines()]
        print(f"failed: {error}", *output[-20:], sep="\n    ", file=sys.stderr)
        return {"failed": f"{type(error).__name__}: {error}"}
    print(f"({len(runs)})", file=sys.stderr)
    return {"runs": runs}


def count_runs(recording: Mapping[str, Any]) -> int:
    """Return the number of runs in a recording."""
    return sum(len(case.get("runs", ())) for case in recording["cases"].values())


# ---------------------------------------------------------------------------------------------------- running cases


def run_commands(folder: Path, commands: Sequence[str]) -> None:
    """Run the commands of a case; RuntimeError if one ends with another exit code than it should."""
    write_files(folder)
    for i, text in enumerate(commands):
        words = translate(text.format(folder=folder).split())
        if not text.startswith("resume="):
            place = "hydra.sweep.dir" if "-m" in words else "hydra.run.dir"
            words = [*COMMON.split(), *words, f"{place}={folder}/{i}"]
        expected = INTERRUPTED if STOP.split(maxsplit=1)[0] in words else 0
        code = run_command(["train", "-q", *keep_last(words)])
        if code != expected:
            raise RuntimeError(f"exit code {code}, not {expected}")


def run_command(argv: list[str]) -> int:
    """Run the `dlopt` command in this process and return its exit code."""
    from dlopt.__main__ import main as dlopt

    return dlopt(argv)


def train_lanes(folder: Path, shared: str, own: Sequence[str]) -> None:
    """Train runs in lanes, each in its own directory: folder/0, folder/1, ..."""
    from hydra import compose, initialize_config_dir

    from dlopt.config.build import build
    from dlopt.rundir.writer import RunWriter
    from dlopt.training.loop import train

    experiments = []
    for text in own:
        words = keep_last(translate([*COMMON.split(), *shared.split(), *text.split()]))
        with initialize_config_dir(version_base="1.3", config_dir=str(CONF)):
            experiments.append(build(compose("config", words))[0])
    train(experiments, [RunWriter.create(folder / str(i)) for i in range(len(experiments))])


def keep_last(words: Sequence[str]) -> list[str]:
    """Drop overrides that a later one replaces, such as epochs=6 before epochs=3."""
    return list({word.partition("=")[0]: word for word in words}.values())


def write_files(folder: Path) -> None:
    """Write the data files that cases read: a table and two files of arrays."""
    import numpy as np

    draw = random.Random(0)
    with (folder / "people.csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["age", "town", "rooms", "height", "income", "class"])
        for _ in range(240):
            age, height, rooms = draw.randrange(18, 90), draw.gauss(170, 10), draw.randrange(1, 6)
            town = draw.choice(["Bath", "Oslo", "Rome", "New York"])
            income = 20 + age / 2 + 10 * rooms + draw.gauss(0, 5)
            row = [age, town, rooms, f"{height:.2f}", f"{income:.3f}", "high" if income > 75 else "low"]
            table.writerow(["" if i in (0, 1, 3) and draw.random() < 0.05 else cell for i, cell in enumerate(row)])
    rng = np.random.default_rng(0)
    x = rng.normal(size=(250, 6)).astype("float32")
    np.savez(folder / "numbers.npz", x=x, y=np.sin(x[:, :2]) + x[:, 2:4] * x[:, 4:])
    y = rng.integers(0, 4, size=250)
    np.savez(folder / "images.npz", x=rng.normal(size=(250, 8, 8, 3)) + y[:, None, None, None] / 4, y=y)


# ------------------------------------------------------------------------------------------------ names of options


def translate(words: Sequence[str]) -> list[str]:
    """Return overrides with the names that this version of the package has."""
    return [translate_word(word, words) for word in words]


def translate_word(word: str, words: Sequence[str]) -> str:
    """Return one of the overrides `words` with the names that this version has."""
    key, sign, value = word.partition("=")
    prefix = re.match(r"[+~]*", key)[0]  # type: ignore[index]
    key = key.removeprefix(prefix)
    for new, old in OPTIONS.get(key, {}).items():
        if not (CONF / key / f"{new}.yaml").exists():
            value = re.sub(rf"\b{new}\b", old, value)
    for file, names in KEYS.items():
        group, _, option = file.rpartition("/")
        if group == "hydra/sweeper" or chooses(words, group, option):
            for new, old in names.items():
                if is_within(key, f"{group.replace('/', '.')}.{new}") and not has_key(file, new):
                    if not has_key(file, old):
                        raise LookupError(f"conf/{file}.yaml has neither {new} nor {old}")
                    start = f"{group.replace('/', '.')}."
                    key = start + old + key.removeprefix(start + new)
    for new, old in GROUPS.items():
        if is_within(key, new) and not (CONF / new).is_dir():
            key = old + key.removeprefix(new)
    return prefix + key + sign + value


def is_within(key: str, other: str) -> bool:
    """Return whether a dotted key is another one or below it."""
    return key == other or key.startswith(f"{other}.")


def chooses(words: Sequence[str], group: str, option: str) -> bool:
    """Return whether overrides choose an option of a group."""
    return any(re.search(rf"\b{option}\b", w.partition("=")[2]) for w in words if w.startswith(f"{group}="))


def has_key(file: str, key: str) -> bool:
    """Return whether the YAML file of an option has a dotted key, with a value or with a nested option."""
    import yaml

    node = yaml.safe_load((CONF / f"{file}.yaml").read_text())
    nested = [name for entry in node.get("defaults", []) if isinstance(entry, dict) for name in entry]
    if any(name.endswith(f"@{key}") for name in nested):
        return True
    for name in key.split("."):
        if not isinstance(node, dict) or name not in node:
            return False
        node = node[name]
    return True


# ---------------------------------------------------------------------------------------------------- reading runs


def find_runs(folder: Path) -> list[Path]:
    """Return the directories of all runs below a folder."""
    return sorted({file.parent for name in ("metrics.jsonl", "summary.json") for file in folder.rglob(name)})


def read_run(path: Path) -> dict[str, Any]:
    """Return the parts of what a run computed, each with a SHA-256 and its values or digests by name."""
    summary = path / "summary.json"
    rows = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    parts: dict[str, dict[str, Any]] = {
        "rows": {f"row {i} {key}": value for i, row in enumerate(rows) for key, value in without_clock(row)},
        "summary": dict(without_clock(json.loads(summary.read_text()) if summary.exists() else {})),
        "histograms": read_histograms(path),
    }
    for name in ("last", "best", "average"):
        content = load_checkpoint(path / "checkpoints", name)
        if content is not None:
            parts[f"{name} weights"] = digests(content["model"])
            if name == "last":
                parts["best weights in last"] = digests(content["best"])
                parts["state"] = digests({"optimizer": content["state"], "average": content["average"]})
                parts["preprocessing"] = digests(content["preprocessing"])
    return {name: {"sha256": digest_part(name, values), "values": values} for name, values in parts.items() if values}


def digest_part(name: str, values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a part. Names in a state may change, and so may the order of its tensors."""
    content = sorted(values.values()) if name in ("state", "preprocessing") else sorted(values.items())
    return hashlib.sha256(json.dumps(content).encode()).hexdigest()


def without_clock(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the items of a row or summary that do not depend on time or memory."""
    return ((key, value) for key, value in row.items() if key not in CLOCK and not key.startswith("time/"))


def load_checkpoint(folder: Path, name: str) -> dict[str, Any] | None:
    """Return the content of a checkpoint as nested dictionaries, or None if there is none.

    Its keys: model and best (tensors by the names of the network), state (of the optimizer), average (of the weights),
    preprocessing; model and preprocessing alone in a checkpoint that is not the last one.
    """
    files = list(folder.glob(f"{name}.*"))
    if not files:
        return None
    if len(files) > 1:
        raise ValueError(f"{folder} has several checkpoints of one name: {', '.join(map(str, files))}")
    if files[0].suffix == ".pt":
        import torch

        return torch.load(files[0], map_location="cpu", weights_only=True)
    if files[0].suffix == ".safetensors":
        from dlopt.storage import checkpoint_file

        return checkpoint_file.load(files[0])
    raise ValueError(f"{files[0]} is in a format that is not known here")


def digests(content: Any, place: str = "") -> dict[str, str]:
    """Return the type, shape and digest of every tensor in nested dictionaries and lists, by its place."""
    import torch

    if isinstance(content, torch.Tensor):
        data = content.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        return {place: f"{content.dtype} {list(content.shape)} {hashlib.sha256(data).hexdigest()}"}
    items: Any = ()
    if isinstance(content, Mapping):
        items = content.items()
    elif isinstance(content, (list, tuple)):
        items = enumerate(content)
    return {k: v for key, value in items for k, v in digests(value, f"{place}/{key}" if place else str(key)).items()}


def read_histograms(path: Path) -> dict[str, str]:
    """Return a digest of every histogram in the event files of a run, by tag and step."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    found = {}
    for file in sorted(path.glob("events.out.tfevents.*")):
        if b"histogram/" in file.read_bytes():
            for event in EventFileLoader(str(file)).Load():
                for value in event.summary.value:
                    if value.tag.startswith("histogram/"):
                        raw = value.tensor.SerializeToString(deterministic=True)
                        found[f"{value.tag} {event.step}"] = hashlib.sha256(raw).hexdigest()
    return found


# -------------------------------------------------------------------------------------------------------- comparing


def compare(one: Mapping[str, Any], other: Mapping[str, Any], only: str) -> int:
    """Print in which cases two recordings differ; return 1 if they do in any."""
    for key, value in one["about"].items():
        if other["about"].get(key) != value:
            print(f"note: {key} differs, {value} and {other['about'].get(key)}: bits may differ for this reason alone")
    names = [name for name in {**one["cases"], **other["cases"]} if only in name]
    differing = []
    for name in names:
        lines = list(compare_cases(one["cases"].get(name), other["cases"].get(name)))
        if lines:
            differing.append(name)
            more = [f"{len(lines) - LINES} more lines"] if len(lines) > LINES else []
            print(name, *lines[:LINES], *more, sep="\n    ")
    if differing:
        print(f"{len(differing)} of {len(names)} cases differ: {'; '.join(differing)}")
        return 1
    print(f"no difference in {len(names)} cases, {count_runs(other)} runs")
    return 0


def compare_cases(one: Any, other: Any) -> Iterator[str]:
    """Yield what differs between two recordings of a case."""
    if one is None or other is None:
        yield f"only in the {'second' if one is None else 'first'} recording"
        return
    for which, case in (("first", one), ("second", other)):
        if "failed" in case:
            yield f"failed in the {which} recording: {case['failed']}"
    former, latter = one.get("runs", {}), other.get("runs", {})
    for run in sorted({*former, *latter}):
        if run not in former or run not in latter:
            yield f"run {run}: only in the {'second' if run not in former else 'first'} recording"
            continue
        for part in dict.fromkeys([*former[run], *latter[run]]):
            a, b = former[run].get(part), latter[run].get(part)
            if a is None or b is None:
                yield f"run {run}: {part}: only in the {'second' if a is None else 'first'} recording"
            elif a["sha256"] != b["sha256"]:
                yield f"run {run}: {part}: {describe(a['values'], b['values'])}"


def describe(one: Mapping[str, Any], other: Mapping[str, Any]) -> str:
    """Return the first differences between two parts, with short digests, and how many more there are."""
    names = [name for name in {**one, **other} if one.get(name, "absent") != other.get(name, "absent")]
    shown = [f"{name}: {one.get(name, 'absent')} -> {other.get(name, 'absent')}" for name in names[:SHOWN]]
    more = [f"{len(names) - SHOWN} more"] if len(names) > SHOWN else []
    return re.sub(r"\b([0-9a-f]{8})[0-9a-f]{56}\b", r"\1", "; ".join([*shown, *more]))
