"""Helpers of many tests: configurations, runs, and files of data."""

import copy
import gzip
import inspect
import io
import os
import random
import re
import tarfile
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.utils import get_class, instantiate
from omegaconf import DictConfig, OmegaConf
from PIL import Image

from dlopt.activation.relu import ReLU
from dlopt.config.build import build
from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import find_places, load_nested_defaults, to_hydra
from dlopt.config.problems import ConfigError
from dlopt.errors import OptionError
from dlopt.normalization.none import NoNormalization
from dlopt.rundir.directory import RunDirectory
from dlopt.rundir.writer import RunWriter
from dlopt.training.control import TrainingControl
from dlopt.training.experiment import Experiment
from dlopt.training.loop import train

DEVICE = os.environ.get("DLOPT_TEST_DEVICE", "cpu")
"""Device of the tests; DLOPT_TEST_DEVICE=cuda make test runs them on a GPU."""
BLOBS = (
    "data=custom",
    "data._target_=mine.Blobs",
    "arch=mlp",
    "arch.widths=[8]",
    "batch_size=16",
    "epochs=3",
    f"device={DEVICE}",
)
"""A tiny problem: 48 examples for training, 12 for validation, three steps per epoch, 67 weights."""


def read_tree(folder: Path) -> dict[str, bytes | None]:
    """Return the content of every file below a folder, and None for a folder, by path; without Python's caches."""
    paths = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*"))}
    return {k: p.read_bytes() if p.is_file() else None for k, p in paths.items() if "__pycache__" not in p.parts}


def make_counting_row() -> Any:
    """Return a class of rows that counts in `reads` how often a value of any of them is read."""

    class Row(dict[str, float]):
        reads = 0

        def __getitem__(self, key: str) -> float:
            Row.reads += 1
            return super().__getitem__(key)

    return Row


def list_options(group: str) -> list[str]:
    """Return the options of a group without `custom`."""
    return [name for name in groups.list_option_names(group) if name != "custom"]


def find_key(group: str) -> str:
    """Return the key at which an option of a group is chosen; of a nested group, inside an option of another."""
    return find_places(group)[0] if group in groups.select_groups("nested") else group


def choose_option(group: str, option: str) -> list[str]:
    """Return overrides, as Hydra takes them, that choose an option; of a nested group, in the first one that has it."""
    key = find_key(group)
    outer, _, name = key.partition(".")
    files = sorted((groups.CONF / outer).glob("*.yaml")) if name else []
    holder = [f"{outer}={file.stem}" for file in files if name in load_nested_defaults(file)][:1]
    return [*holder, to_hydra(f"{key}={option}")]


def make_option(group: str, option: str, **keys: Any) -> Any:
    """Build the component of an option, with some of its keys changed."""
    return instantiate(_read_option(group, option) | keys)


def _read_option(group: str, option: str) -> dict[str, Any]:
    """Return the content of an option's file, with the options nested in it."""
    file = groups.CONF / group / f"{option}.yaml"
    own = {key: value for key, value in OmegaConf.load(file).items() if key != "defaults"}
    return own | {key: _read_option(*inner) for key, inner in load_nested_defaults(file).items()}


def make_arch(
    name: str,
    shape: tuple[int, ...],
    outputs: int = 10,
    activation: Any = None,
    normalization: Any = None,
    regularization: Any = None,
    **own: Any,
) -> Any:
    """Build a model from the keys of its YAML file and the common components that its signature names."""
    keys = OmegaConf.to_container(OmegaConf.load(groups.CONF / "arch" / f"{name}.yaml"))
    target = get_class(keys.pop("_target_"))
    keys.pop("defaults", None)
    components = {
        "inputs": shape,
        "outputs": outputs,
        "activation": activation or ReLU(),
        "normalization": normalization or NoNormalization(),
        "dropout": regularization.module if regularization else lambda site: None,
        "drop_path": regularization.branch if regularization else lambda index, count: None,
    }
    names = inspect.signature(target).parameters
    return target(**{k: v for k, v in components.items() if k in names}, **keys | own)


def compose_config(*overrides: str, hydra: bool = False) -> DictConfig:
    """Compose a configuration; with Hydra's own node if asked for.

    Composing takes 0.12 s and a copy 0.005 s, so each choice of options is composed once per session. Overrides of
    single keys are then applied to a copy, by the code that Hydra uses itself.
    """
    if hydra:
        return copy.deepcopy(_compose(overrides, hydra=True))
    choices, keys = [], []
    for override in map(_parse_override, overrides):
        is_choice = (groups.CONF / override.key_or_group).is_dir() and not isinstance(override.value(), dict)
        (choices if is_choice else keys).append(override)
    config = copy.deepcopy(_compose(tuple(str(o.input_line) for o in choices), hydra=False))
    ConfigLoaderImpl._apply_overrides_to_config(keys, config)
    return config


@cache
def _parse_override(override: str) -> Override:
    return OverridesParser.create().parse_override(override)


@cache
def _compose(overrides: tuple[str, ...], *, hydra: bool) -> DictConfig:
    with initialize_config_dir(version_base="1.3", config_dir=str(groups.CONF)):
        return compose("config", list(overrides), return_hydra_config=hydra)


@cache
def compose_every_option() -> dict[tuple[str, str], dict[str, Any]]:
    """Return what Hydra composes for the component of every option, by group and option; not to be changed.

    Without the options of nested groups, which have no key of their own.
    """
    nested = groups.select_groups("nested")
    options = {group: list_options(group) for group in groups.list_component_groups() if group not in nested}
    trees: dict[tuple[str, str], dict[str, Any]] = {}
    for i in range(max(map(len, options.values()))):  # each option once, in as few configurations as possible
        chosen = {group: names[i % len(names)] for group, names in options.items()}
        config: Any = OmegaConf.to_container(compose_config(*(f"{g}={o}" for g, o in chosen.items())))
        config["optimizer"].pop("groups")  # build takes the parameter groups out
        trees |= {choice: config.get(choice[0]) or {} for choice in chosen.items()}
    return trees


def build_experiment(*overrides: str, saved: Any = None) -> Experiment:
    """Build an experiment; `saved` is the network of a run that resumes."""
    return build(compose_config(*overrides), overrides, saved=saved)[0]


def build_blobs(*overrides: str) -> Experiment:
    """Build an experiment on BLOBS."""
    return build_experiment(*BLOBS, *overrides)


def train_runs(
    folder: Path, *experiments: Experiment, control: TrainingControl | None = None
) -> tuple[list[dict[str, Any]], list[RunWriter]]:
    """Train one run, or several in lanes, in the run directories folder/0, folder/1, ..."""
    runs = [RunWriter.create(folder / str(i)) for i in range(len(experiments))]
    return train(experiments, runs, control), runs


def train_configured(folder: Path, *overrides: str) -> RunWriter:
    """Train a run with its configuration in the directory, as the command does, so that it can be opened."""
    folder.joinpath(".hydra").mkdir(parents=True)
    OmegaConf.save(compose_config(*overrides), folder / ".hydra" / "config.yaml")
    run = RunWriter.create(folder)
    train([build_experiment(*overrides)], [run])
    return run


def interrupt_run(folder: Path, last: int, experiment: Experiment) -> RunWriter:
    """Train a run that is interrupted after `last` steps."""
    run = RunWriter.create(folder)
    (summary,) = train([experiment], [run], TrainingControl(until=last))
    assert summary["status"] == run.status["status"] == "interrupted"
    assert summary["step"] == last
    return run


def resume_run(
    folder: Path, experiment: Experiment, control: TrainingControl | None = None
) -> tuple[dict[str, Any], RunWriter]:
    """Resume a run from its newest undamaged checkpoint, or from the start without one, as a new process would."""
    run = RunWriter(folder)
    run.lock.acquire()
    checkpoint = run.latest_checkpoint()
    if checkpoint is None:
        run.clear()
        run.resume()
        return train([experiment], [run], control)[0], run
    run.rollback(checkpoint)
    run.resume(checkpoint.content["step"])
    return train([experiment], [run], control, checkpoint.content)[0], run


def load_weights(run: RunDirectory, which: Any = "last") -> torch.Tensor:
    """Return parameters and buffers of a checkpoint's network as one vector."""
    return torch.cat([v.double().flatten() for v in run.load(which)["model"].values()])


def read_rows(run: RunDirectory) -> list[dict[str, Any]]:
    """Return the logged rows without the clock."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "time/steps_per_second")} for row in run.rows()]


def read_histograms(run: RunDirectory) -> dict[tuple[str, int], list[list[float]]]:
    """Return the histograms of a run's event files by tag and step, read by TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    reader = EventAccumulator(str(run.path), size_guidance={"tensors": 0})
    reader.Reload()
    tags = [tag for tag in reader.Tags()["tensors"] if tag.startswith("histogram/")]
    return {(tag, e.step): make_ndarray(e.tensor_proto).tolist() for tag in tags for e in reader.Tensors(tag)}


def read_pictures(run: RunDirectory) -> dict[tuple[str, int], bytes]:
    """Return the PNG files in a run's event files by tag and step, read by TensorBoard."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    reader = EventAccumulator(str(run.path), size_guidance={"tensors": 0})
    reader.Reload()
    tags = [t for t in reader.Tags()["tensors"] if reader.SummaryMetadata(t).plugin_data.plugin_name == "images"]
    return {(tag, e.step): e.tensor_proto.string_val[2] for tag in tags for e in reader.Tensors(tag)}


def assert_refused(act: Callable[[], Any], key: str, *words: object) -> None:
    """Assert that an OptionError has this key and, in one line, these words in order."""
    with pytest.raises(OptionError, match=".*".join(re.escape(str(word)) for word in words)) as refusal:
        act()
    assert refusal.value.key == key
    assert len(str(refusal.value).splitlines()) == 1


def assert_build_refused(build: Callable[[], Any], key: str, words: str) -> None:
    """Assert that an experiment is refused for one problem, with this key and these words."""
    with pytest.raises(ConfigError) as refusal:
        build()
    ((name, message),) = refusal.value.problems
    assert name == key
    assert words in message


# ------------------------------------------------------------------------------------------------ files of data


def require_package(folder: str, package: str) -> None:
    """Skip a test if a Debian package is not installed; with CI set, fail."""
    if not Path(folder).is_dir():
        report = pytest.fail if os.environ.get("CI") else pytest.skip
        report(f"needs {folder}: apt-get install {package}")


def encode_idx(array: np.ndarray) -> bytes:
    """Return an array of uint8 in the IDX format."""
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.astype(np.uint8).tobytes()


def make_images(count: int, shape: tuple[int, ...], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Return random images of uint8 and their labels, ten classes in turn."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, *shape), np.uint8), (np.arange(count) % 10).astype(np.uint8)


def write_idx_files(folder: Path, train: int = 80, test: int = 40, *, compress: bool = True) -> None:
    """Write small files in the format of MNIST."""
    for name, count in (("train", train), ("t10k", test)):
        x, y = make_images(count, (6, 5), seed=count)
        for kind, array in (("images-idx3", x), ("labels-idx1", y)):
            content = encode_idx(array)
            file = folder / f"{name}-{kind}-ubyte"
            if compress:
                file = file.with_name(f"{file.name}.gz")
            file.write_bytes(gzip.compress(content) if compress else content)


def make_cifar_batches(each: int = 20) -> dict[str, bytes]:
    """Return the contents of CIFAR-10's files, with few records."""
    batches = {}
    for i, name in enumerate([*(f"data_batch_{k}.bin" for k in range(1, 6)), "test_batch.bin"]):
        x, y = make_images(each, (3072,), seed=i)
        batches[name] = np.concatenate([y[:, None], x], axis=1).tobytes()
    return batches


def write_cifar_archive(folder: Path, batches: dict[str, bytes]) -> Path:
    file = folder / "cifar-10-binary.tar.gz"
    with tarfile.open(file, "w:gz") as archive:
        for name, content in batches.items():
            member = tarfile.TarInfo(f"cifar-10-batches-bin/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return file


def _write_downloads(folder: Path) -> list[str]:
    write_idx_files(folder)
    write_cifar_archive(folder, make_cifar_batches())
    return [f"data.path={folder}", "data.verify=false", "data.url=null"]


def _write_arrays(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    np.savez(folder / "my.npz", x=rng.normal(size=(120, 4)), y=np.arange(120) % 3)
    return [f"data.path={folder / 'my.npz'}"]


def _write_table(folder: Path) -> list[str]:
    rng = np.random.default_rng(0)
    rows = [f"{rng.normal():.4f},{'red' if i % 3 else 'blue'},{'yes' if i % 2 else 'no'}" for i in range(120)]
    (folder / "my.csv").write_text("\n".join(["size,colour,answer", *rows]))
    return [f"data.path={folder / 'my.csv'}", "data.target=answer"]


def write_images(folder: Path, classes: Sequence[str] = ("ant", "bee", "cat"), each: int = 40) -> Path:
    """Write grey images of 8x8 random pixels for each class, and return the folder."""
    rng = np.random.default_rng(len(classes))
    for name in classes:
        (folder / name).mkdir(parents=True, exist_ok=True)
        for i in range(each):
            Image.fromarray(rng.integers(0, 256, (8, 8), dtype=np.uint8)).save(folder / name / f"{i:03}.png")
    return folder


def _write_folder(folder: Path) -> list[str]:
    return [f"data.path={write_images(folder / 'photos')}", "data.size=8"]


def make_reviews(count: int, seed: int = 0) -> list[tuple[str, str]]:
    """Return texts of different lengths and their labels: one word of each text decides."""
    rng, words = (
        random.Random(seed),
        ["the", "film", "a", "story", "of", "plain", "people", "with", "some", "music", "and", "long", "scenes"],
    )
    reviews = []
    for i in range(count):
        text = rng.choices(words, k=rng.randint(2, 9))
        text.insert(rng.randrange(len(text)), rng.choice([["bad", "dull", "poor"], ["good", "fine", "great"]][i % 2]))
        reviews.append((" ".join(text), ["no", "yes"][i % 2]))
    return reviews


def _write_texts(folder: Path) -> list[str]:
    lines = ["text,label", *(f"{text},{label}" for text, label in make_reviews(120))]
    (folder / "texts.csv").write_text("\n".join(lines))
    return [f"data.path={folder / 'texts.csv'}"]


DATA_WRITERS: dict[str, Callable[[Path], list[str]]] = {
    "fashion_mnist": _write_downloads,
    "mnist": _write_downloads,
    "cifar10": _write_downloads,
    "arrays": _write_arrays,
    "folder": _write_folder,
    "table": _write_table,
    "text": _write_texts,
}


def write_data_files(option: str, folder: Path) -> list[str]:
    """Write small files that a data option can read, and return the overrides that name them."""
    return DATA_WRITERS[option](folder) if option in DATA_WRITERS else []
