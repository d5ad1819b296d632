"""The config groups and their options, read from the folders; each group's facts, read from its base class.

The configuration lies next to the package in a checkout, and inside the package if it was installed from a wheel.
"""

from pathlib import Path

from dlopt.base.group import declared_groups

_PACKAGE_PARENT = Path(__file__).resolve().parents[2]
CONF = next(
    (p for p in (_PACKAGE_PARENT / "conf", _PACKAGE_PARENT.parent / "conf") if (p / "config.yaml").is_file()),
    _PACKAGE_PARENT / "conf",
)

SETTINGS = "settings"
"""Name of the keys outside the groups, for `dlopt list`."""
PRESETS = "experiment"
"""The group whose options set keys of the others; it has no components."""

DATA_FILE_KEYS = ("path", "validation_path", "test_path")
"""The keys of the data group that name files of the user."""

SWEEP_GROUPS = {
    "hydra/sweeper": "dlopt.sweep.options.SweeperOptions",
    "hydra/launcher": "dlopt.sweep.options.LauncherOptions",
}
"""The groups of a sweep, each with the class of the keys that its options share.

Each option has a class with the same name in that module.
"""


def list_groups(folder: Path = CONF) -> list[str]:
    """Return the config groups of a run: the folders."""
    return sorted(p.name for p in folder.iterdir() if p.is_dir() and p.name != "hydra")


def list_component_groups() -> list[str]:
    """Return the config groups whose options are components: all but the presets."""
    return [name for name in list_groups() if name != PRESETS]


def list_all_groups() -> list[str]:
    """Return all groups: the groups of a run, then the groups of a sweep."""
    return [*list_groups(), *SWEEP_GROUPS]


def list_option_names(group: str, folder: Path = CONF) -> list[str]:
    """Return the options of a group: its files. `none` is first and `custom` last."""
    names = sorted(p.stem for p in (folder / group).glob("*.yaml"))
    return sorted(names, key=lambda n: {"none": 0, "custom": 2}.get(n, 1))


def takes_several(group: str) -> bool:
    """Return whether a run may have several options of a group, each under its own key."""
    return group in select_groups("multiple")


def is_single(group: str) -> bool:
    """Return whether a run has one component of a group, at the group's own key."""
    return group in declared_groups() and not takes_several(group)


def supplied_arguments(group: str) -> tuple[str, ...]:
    """Return the arguments that `build` passes to a group's component."""
    declared = declared_groups().get(group)
    return () if declared is None else declared.supplied


def select_groups(fact: str) -> list[str]:
    """Return the groups for which a fact of their declaration, such as changeable_on_resume, is true."""
    return [name for name, group in declared_groups().items() if getattr(group, fact)]
