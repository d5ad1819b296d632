"""Ways to spoil a copy of an honest run directory, as an attacker might.

Each takes the run's directory and the path of a canary, a file that appears if code of the run is executed. Next to
the directory lie `victim`, a file, and `victims`, a folder with a file; neither belongs to the run.
"""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from bits import write_checkpoint

from dlopt.config.compose import groups
from dlopt.storage import checkpoint_file
from dlopt.storage.fingerprint import digest_files

Spoil = Callable[[Path, Path], Any]
SECRET = os.urandom(16).hex()
"""Text that no file holds, not even this one, and so no patch of it."""
ESCAPE = "\x1b]0;taken\x07\x1b[2J\u202e[bold red]\r\n"
CHECKPOINTS = ("best.safetensors", "last.safetensors")
FILES = ("status.json", "summary.json", "metrics.jsonl", ".hydra/config.yaml", ".hydra/hydra.yaml",
         *(f"checkpoints/{name}" for name in CHECKPOINTS), "train.log")  # fmt: skip


# ------------------------------------------------------------------------------------------------ ways


def _set(content: Any, pairs: dict[str, Any]) -> Any:
    """Set values of nested dictionaries by keys with __ for a dot, and return the dictionaries."""
    for key, value in pairs.items():
        *above, last = key.split("__")
        node = content
        for name in above:
            node = node[name]
        node[last] = value
    return content


def set_config(**pairs: Any) -> Spoil:
    """Set values of the configuration. CANARY in a text becomes the canary's path."""

    def spoil(run: Path, canary: Path) -> None:
        for folder in (run, run.parent):  # the parent is the working directory
            (folder / "evil.py").write_text(f"open({str(canary)!r}, 'w').close()\n")
        file = run / ".hydra/config.yaml"
        text = yaml.safe_dump(_set(yaml.safe_load(file.read_text()), pairs))
        file.write_text(text.replace("CANARY", str(canary)))

    return spoil


def append_config(text: str) -> Spoil:
    """Append lines to the configuration."""

    def spoil(run: Path, canary: Path) -> None:
        with (run / ".hydra/config.yaml").open("a") as stream:
            stream.write(text.replace("CANARY", str(canary)))

    return spoil


def set_json(name: str, /, **pairs: Any) -> Spoil:
    """Set values of status.json or summary.json."""
    return lambda run, _: (run / name).write_text(json.dumps(_set(json.loads((run / name).read_text()), pairs)))


def set_checkpoint(name: str, /, **pairs: Any) -> Spoil:
    """Set values of a checkpoint."""

    def spoil(run: Path, canary: Path) -> None:
        file = run / "checkpoints" / name
        write_checkpoint(file, _set(checkpoint_file.load(file), pairs))

    return spoil


def combine(*spoils: Spoil) -> Spoil:
    return lambda run, canary: [spoil(run, canary) for spoil in spoils]


def write_file(name: str, content: str) -> Spoil:
    return lambda run, _: (run / name).write_text(content)


def replace_by_link(name: str, target: str) -> Spoil:
    """Put a symbolic link in place of a file or a folder."""

    def spoil(run: Path, canary: Path) -> None:
        if (run / name).is_dir():
            (run / name).rename(run / "away")
        (run / name).unlink(missing_ok=True)
        (run / name).symlink_to(target)

    return spoil


def replace_by_pipe(name: str) -> Spoil:
    return lambda run, _: ((run / name).unlink(), os.mkfifo(run / name))


def make_sparse(name: str, size: int = 1 << 40, end: str = "") -> Spoil:
    """Extend a file by zeros that take no space, and by text."""

    def spoil(run: Path, canary: Path) -> None:
        os.truncate(run / name, size)
        with (run / name).open("a") as stream:
            stream.write(end)

    return spoil


# ------------------------------------------------------------------------------------------------ code

TOUCH = "touch CANARY"
SYSTEM = {"_target_": "os.system", "_args_": [TOUCH]}
TORCH_OPTIM = "dlopt.optimizer.torch_optim.TorchOptim"


def _wrapper(name: Any, **more: Any) -> Spoil:
    return set_config(optimizer={"_target_": TORCH_OPTIM, "name": name, "lr": 0.1, "options": {}, **more})


def _target(name: Any, /, **keys: Any) -> Spoil:
    return set_config(arch={"_target_": name, **keys})


CODE_CASES: dict[str, Spoil] = {
    **{f"a module next to the run as {group}": set_config(**{group: {"_target_": "evil.Part"}}) for group in groups.list_component_groups() if groups.is_single(group)},
    **{
        f"a module next to the run among {group}": set_config(**{group: {"x": {"_target_": "evil.Part"}}})
        for group in ("regularization", "augmentation", "preprocess", "diagnostic")
    },
    "os.system": _target("os.system", command=TOUCH),
    "eval": _target("builtins.eval", _args_=["open('CANARY', 'w').close()"]),
    "a process": _target("subprocess.run", args=["touch", "CANARY"]),
    "from pkgutil": _target("pkgutil.resolve_name", name="evil.Part"),
    "instantiate itself": _target("hydra.utils.instantiate", config=SYSTEM),
    "a method of Hydra's": _target("hydra.utils.get_method", path="evil.Part"),
    "a package": _target("torch.package.PackageImporter", file_or_buffer="x.pt"),
    "torch.hub": _target("torch.hub.load", repo_or_dir="evil", model="x", source="local"),
    "a path into torch.nn that leads out": _target("torch.nn.modules.module.torch.hub.load", repo_or_dir=".", model="x"),
    "a path into torch.optim that leads out": _target("torch.optim.adam.torch.hub.load", repo_or_dir=".", model="x"),
    "a path into dlopt that leads out": _target("dlopt.data.arrays.pickle.loads", _args_=["x"]),
    "a path into a component that leads out": _target("dlopt.optimizer.torch_optim.pkgutil.resolve_name", name="evil.Part"),
    "the parent of a component": _target("dlopt.data.mnist.IdxDataset", path=None),
    "dlopt's own command": _target("dlopt.cli.main", argv=["train"]),
    "a function of dlopt": _target("dlopt.data._download.fetch", url="http://localhost", file="CANARY", check=None, otherwise=""),
    "a module of no group": _target("dlopt.rundir.directory.RunDirectory", path="CANARY"),
    "a method of a class": _target("dlopt.data.mnist.MNIST.load"),
    "a method of torch's": _target("torch.nn.Module.register_module_forward_hook"),
    "a function of torch's": _target("torch.nn.init.xavier_uniform_"),
    "a parallel module": _target("torch.nn.DataParallel", module=SYSTEM),
    "unpickling": _target("torch.load", f="x.pt", weights_only=False),
    "no text": _target(["os.system"]),
    "empty text": _target(""),
    "a path of dots": _target("dlopt.arch..cnn.CNN"),
    "a path to a folder above": _target("dlopt.arch.../evil.Part"),
    "inside an option": set_config(schedule__then={"_target_": "evil.Part"}),
    "inside a list": _target("torch.nn.Sequential", _args_=[{"_target_": "torch.nn.Identity"}, [SYSTEM]]),
    "instantiated later": _target("torch.nn.Identity", later={"_target_": "os.system", "_partial_": True}),
    "not looked into": _target("torch.nn.Identity", _recursive_=False, later=SYSTEM),
    "as it is": _target("torch.nn.Identity", _convert_="none", later=SYSTEM),
    "in a key that is not read": set_config(nothing=SYSTEM),
    "in Hydra's node": set_config(hydra={"callbacks": {"x": SYSTEM}}),
    "an optimizer's name": _wrapper("evil.Part"),
    "an optimizer's name that leads out": _wrapper("torch.optim.adam.torch.hub.load"),
    "an optimizer's name with a colon": _wrapper("os.path:os.system"),
    "an optimizer's name that is not text": _wrapper(["evil.Part"]),
    "an optimizer's name by position": set_config(optimizer={"_target_": TORCH_OPTIM, "_args_": ["evil.Part", 0.1, {}]}),
    "an optimizer's options": _wrapper("Adam", options={"foreach": SYSTEM}),
    "an optimizer as another component": set_config(arch={"_target_": TORCH_OPTIM, "name": "evil.Part", "lr": 1, "options": {}}),
    "the environment": set_config(name="${oc.env:SECRET}"),
    "the environment in a path": set_config(data__path="${oc.env:SECRET}"),
    "the environment in a key": set_config(**{"${oc.env:SECRET}": 1}),
    "the environment, decoded": set_config(name="${oc.decode:${oc.env:SECRET}}"),
    "the environment, not there": set_config(name="${oc.env:NOTHING,x}"),
    "a made node": set_config(arch="${oc.create:{_target_:os.system}}"),
    "another key": set_config(name="${optimizer._target_}"),
    "a resolver of dlopt's": set_config(name="${dlopt.name:}"),
    "an escaped one": set_config(name="\\${oc.env:SECRET}"),
    "doublings": set_config(**{f"a{i}": f"${{a{i + 1}}}${{a{i + 1}}}" for i in range(40)}, a40="ha"),
    "a circle": set_config(name="${objective}", objective="${name}"),
    "another server": set_config(data={
        "_target_": "dlopt.data.mnist.MNIST", "path": None, "url": "http://localhost:9/", "verify": False,
        "train_size": None, "label_noise": 0.0, "drop_last": False, "order": "reshuffle",
    }),
    "a place to write to": set_config(data__path="victims"),
    "a place of official files": set_config(data={
        "_target_": "dlopt.data.mnist.MNIST", "path": "victims", "verify": True, "train_size": None,
        "url": "https://ossci-datasets.s3.amazonaws.com/mnist/", "label_noise": 0.0, "drop_last": False, "order": "reshuffle",
    }),
    "a tag that makes an object": append_config("evil: !!python/object/apply:os.system ['touch CANARY']\n"),
    "a tag that names a module": append_config("evil: !!python/module:evil\n"),
    "laughter": append_config(
        "a0: &a0 [ha, ha]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12))
    ),
    "merged laughter": append_config("a: &a {b: 1}\nc: {<<: [*a, *a]}\n"),
    "an alias of itself": append_config("a: &a {b: *a}\n"),
    "a deep configuration": append_config("a: " + "[" * 50_000 + "]" * 50_000 + "\n"),
    "endless steps": _wrapper("LBFGS", options={"max_iter": 10**12}),
    "endless layers": _target("torch.nn.LSTM", input_size=8, hidden_size=1, num_layers=10**9),
    "a large configuration": make_sparse(".hydra/config.yaml"),
    "no configuration": write_file(".hydra/config.yaml", "- a list\n"),
    "a piped configuration": replace_by_pipe(".hydra/config.yaml"),
    "a linked configuration": replace_by_link(".hydra/config.yaml", "/dev/zero"),
}  # fmt: skip
"""What an opened run could execute, read or download: every command that opens the configuration must refuse it."""


# ------------------------------------------------------------------------------------------------ text


def _read_option(name: str) -> dict[str, Any]:
    """Return the keys of a data set."""
    content = yaml.safe_load((groups.CONF / "data" / f"{name}.yaml").read_text())
    return {key: value for key, value in content.items() if key != "defaults"}


def set_hostile_class_names(run: Path, canary: Path) -> None:
    """Train on digits in a file of the run, whose class names hold escape sequences."""
    x, y = np.zeros((200, 1, 8, 8), np.float32), np.array([f"{i}{ESCAPE}" for i in range(10)])[np.arange(200) % 10]
    np.savez(run / "digits.npz", x=x, y=y)
    set_config(data={**_read_option("arrays"), "path": "run/digits.npz"})(run, canary)
    encoding = {"classes": sorted(set(y.tolist())), "uint8": False, "sha256": digest_files([run / "digits.npz"])}
    for name in CHECKPOINTS:
        set_checkpoint(name, encoding=encoding)(run, canary)


def change_losses(run: Path, canary: Path) -> None:
    """Change the rows, and add a metric whose name holds escape sequences."""
    lines = (run / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) | {"train/loss": 9.0, ESCAPE: 1.0} for line in lines]
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def set_original_config(run: Path, canary: Path) -> None:
    """Set an invalid learning rate, with which the run claims to have started."""
    set_config(optimizer__lr=ESCAPE)(run, canary)
    claim_config(run, canary)


def claim_config(run: Path, canary: Path) -> None:
    """Let the run claim to have started with its present configuration."""
    config = digest_files([run / ".hydra/config.yaml"])
    set_checkpoint("last.safetensors", config=config)(run, canary)
    set_json("status.json", config=config)(run, canary)


HOLDER = {"host": ESCAPE, "machine": "another", "pid": 1, "since": 1.0, "token": "x"}
REPOSITORY = {"folder": ESCAPE, "commit": ESCAPE, "patch": ESCAPE, "patch_sha256": ESCAPE, "unknown": False}

TEXT_CASES: dict[str, Spoil] = {
    **{f"the step of {name}": set_checkpoint(name, step=ESCAPE) for name in CHECKPOINTS},
    "the step of best weights": combine(set_checkpoint("last.safetensors", best_step=ESCAPE), lambda run, _: (run / "checkpoints/best.safetensors").unlink()),
    "settings of a checkpoint": set_checkpoint("last.safetensors", settings={ESCAPE: ESCAPE}),
    "classes": set_hostile_class_names,
    "versions": set_json("status.json", versions={"torch": ESCAPE}),
    "a machine": set_json("status.json", machine={"cpu": ESCAPE, "device": ESCAPE, "threads": ESCAPE}),
    "code": set_json("status.json", git=[REPOSITORY]),
    "numbers that differ": combine(change_losses, set_json("status.json", versions={"torch": ESCAPE}, git=[REPOSITORY])),
    "a setting": set_original_config,
    "a holder": write_file("lock.json", json.dumps(HOLDER)),
}  # fmt: skip
"""Text that commands might print."""


# ------------------------------------------------------------------------------------------------ files of the user


def _read_outside(option: str, name: str, **keys: str) -> Spoil:
    """Let the data be a file outside of the working directory, whose digest the run records."""

    def spoil(run: Path, canary: Path) -> None:
        home = run.parent.parent
        outside = {key: str(home / value) for key, value in keys.items()}
        set_config(data={**_read_option(option), "path": name if "/" in name else str(home / name), **outside})(
            run, canary
        )
        for file in CHECKPOINTS:
            set_checkpoint(file, encoding={"classes": [], "sha256": "0" * 64})(run, canary)

    return spoil


READ_CASES: dict[str, Spoil] = {
    "a table": _read_outside("table", "credentials"),
    "a table by a path that leads out": _read_outside("table", "run/../../credentials"),
    "a table by a link in the run": combine(
        lambda run, _: (run / "mine.csv").symlink_to(run.parent.parent / "credentials"), _read_outside("table", "run/mine.csv")
    ),
    "arrays": _read_outside("arrays", "credentials.npz"),
    "validation rows": combine(
        lambda run, _: (run / "own.csv").write_text("a,y\n" + "1,2.5\n2,3.5\n" * 40),
        _read_outside("table", "run/own.csv", validation_path="credentials"),
    ),
    "test arrays, and validation arrays that do not exist": _read_outside(
        "arrays", "run/x.npy", test_path="credentials.npz", validation_path="none.npz"
    ),
    "targets": _read_outside("arrays", "run/x.npy", target="credentials.npy"),
}  # fmt: skip
"""Files of the user who opens the run, named as its data: they must not be read."""


# ------------------------------------------------------------------------------------------------ files

WRITE_CASES: dict[str, Spoil] = {
    "rows into another file": replace_by_link("metrics.jsonl", "../victim"),
    "the log into another file": replace_by_link("train.log", "../victim"),
    "the status by another name": replace_by_link("status.json.tmp", "../victim"),
    "the summary by another name": replace_by_link("summary.json.tmp", "../victim"),
    "a link to what is not there yet": replace_by_link("summary.json.tmp", "../created"),
    "checkpoints into another folder": replace_by_link("checkpoints", "../victims"),
    "the configuration into another folder": replace_by_link(".hydra", "../victims"),
    "events into another file": replace_by_link("events.out.tfevents.1.x.1.0", "../victim"),
    "a second name of another file": lambda run, _: (
        (run / "metrics.jsonl").unlink(), os.link(run.parent / "victim", run / "metrics.jsonl")
    ),
}  # fmt: skip
"""Where a run that resumes would write: resuming must be refused."""

_VALUES = {"text": ESCAPE, "a list": [1, [2]], "a mapping": {"a": {"b": 1}}, "truth": True, "nothing": None,
           "a large number": 2**64, "an enormous number": 10**4000, "an infinite one": float("inf"), "none": float("nan"),
           "below zero": -1}  # fmt: skip

DAMAGE_CASES: dict[str, Spoil] = {
    **{f"a pipe: {name}": replace_by_pipe(name) for name in FILES},
    **{f"a device: {name}": replace_by_link(name, "/dev/zero") for name in FILES},
    **{f"another file: {name}": replace_by_link(name, "../../victim") for name in FILES},
    **{f"without end: {name}": make_sparse(name) for name in FILES[:5]},
    **{f"nothing: {name}": write_file(name, "") for name in FILES},
    **{f"a list: {name}": write_file(name, "[1, 2]\n") for name in FILES[:5]},
    **{f"deep: {name}": write_file(name, '{"a": ' + "[" * 50_000 + "]" * 50_000 + "}\n") for name in FILES[:5]},
    **{
        f"{key} is {kind}": set_json(file, **{f"{prefix}{key}": value})
        for file, prefix, keys in (
            ("status.json", "", ("status", "started", "ended", "message", "host", "pid", "settings", "versions", "git")),
            ("status.json", "settings__", ("optimizer", "epochs", "steps", "regularization", ESCAPE)),
            ("summary.json", "", ("seconds", "step", f"summary {ESCAPE}")),
        )
        for key in keys
        for kind, value in _VALUES.items()
    },
    **{
        f"metrics of {kind}": write_file(
            "summary.json", json.dumps(dict.fromkeys(("val/loss", "test/accuracy", "train/r2", "best/step"), value))
        )
        for kind, value in _VALUES.items()
    },
    **{
        f"rows of {kind}": write_file(
            "metrics.jsonl", (json.dumps(dict.fromkeys(("step", "epoch", "seconds", "train/loss", "val/loss"), value)) + "\n") * 3
        )
        for kind, value in _VALUES.items()
    },
    "a running process of another kind": set_json("status.json", status="running", pid="x"),
    "a running process of all": set_json("status.json", status="running", pid=-1),
    "a running process beyond all": set_json("status.json", status="running", pid=2**62),
    "a line of a gigabyte": make_sparse("metrics.jsonl", 1 << 30, '\n{"step": 1, "epoch": 1.0, "train/loss": 1.0}\n'),
    "lines that are not rows": write_file("metrics.jsonl", "1\nnull\n[]\n{}\n"),
    "an option of another folder": set_json("status.json", settings__optimizer="../../../laughter"),
    "options without number": set_json("status.json", settings__regularization="[" + "l2," * 50_000 + "l2]"),
    "a mapping of choices": write_file(".hydra/hydra.yaml", "hydra: {runtime: {choices: [1], cwd: 3}}"),
}  # fmt: skip
"""Shown, or reported as damaged: never a traceback, a wait or all of the memory."""
_TABLE = [name for name in DAMAGE_CASES if any(name.endswith(f" is {kind}") for kind in _VALUES)]
REPEATED_CASES = {name for i, name in enumerate(_TABLE) if (i + i // len(_VALUES)) % 3}
"""Repetitions for the long suite: the others try each key with a third of the kinds, and each kind with a third of keys."""
