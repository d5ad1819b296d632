"""Where the configuration lies: beside the package in a checkout, inside it when installed from a wheel."""

from pathlib import Path

_HERE = Path(__file__).resolve().parent.parent
CONF = next((p for p in (_HERE / "conf", _HERE.parent / "conf") if (p / "config.yaml").is_file()), _HERE / "conf")

SINGLE = ("data", "arch", "activation", "normalization", "init", "bias_init", "loss", "optimizer", "schedule", "averaging")
"""The groups of which a run has one option; in every other group it may have several, each under its own key."""

SEARCH = {"hydra/sweeper": "dlopt.sweep.options.Keys", "hydra/launcher": "dlopt.sweep.options.Launcher"}
"""The groups of a search, which are no part of a run, each with what its options have in common; an option is a class
beside that, of its own name."""

SUPPLIED = {"arch": ("inputs", "outputs", "activation", "normalization", "dropout")}
"""What `build` passes to a group's target, of what its signature names."""


def groups(folder: Path = CONF) -> list[str]:
    """The config groups of a run, as the folders lie."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "hydra")


def listed() -> list[str]:
    """The groups that people choose from: those of a run, then those of a search."""
    return [*groups(), *SEARCH]


def options(group: str, folder: Path = CONF) -> list[str]:
    """The options of a group, as the files lie; `none` first and `custom` last."""
    names = sorted(p.stem for p in (folder / group).glob("*.yaml"))
    return sorted(names, key=lambda n: {"none": 0, "custom": 2}.get(n, 1))
