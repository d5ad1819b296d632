"""Where the configuration lies: beside the package in a checkout, inside it when installed from a wheel."""

from pathlib import Path

_HERE = Path(__file__).resolve().parents[2]
CONF = next((p for p in (_HERE / "conf", _HERE.parent / "conf") if (p / "config.yaml").is_file()), _HERE / "conf")

SINGLE_OPTION_GROUPS = (
    "data",
    "arch",
    "activation",
    "normalization",
    "init",
    "bias_init",
    "loss",
    "optimizer",
    "schedule",
    "averaging",
)
"""The groups of which a run has one option; in every other group it may have several, each under its own key."""

SWEEP_GROUPS = {
    "hydra/sweeper": "dlopt.sweep.options.SweeperOptions",
    "hydra/launcher": "dlopt.sweep.options.LauncherOptions",
}
"""The groups of a search, which are no part of a run, each with what its options have in common; an option is a class
beside that, of its own name."""

SUPPLIED_ARGUMENTS = {"arch": ("inputs", "outputs", "activation", "normalization", "dropout")}
"""What `build` passes to a group's target, of what its signature names."""


def list_groups(folder: Path = CONF) -> list[str]:
    """The config groups of a run, as the folders lie."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "hydra")


def list_all_groups() -> list[str]:
    """The groups that people choose from: those of a run, then those of a search."""
    return [*list_groups(), *SWEEP_GROUPS]


def list_option_names(group: str, folder: Path = CONF) -> list[str]:
    """The options of a group, as the files lie; `none` first and `custom` last."""
    names = sorted(p.stem for p in (folder / group).glob("*.yaml"))
    return sorted(names, key=lambda n: {"none": 0, "custom": 2}.get(n, 1))
