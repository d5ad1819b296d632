"""The structure of the code: imports point down, conf/ and dlopt/ mirror each other, every option is documented."""

import ast
import graphlib
import inspect
import re
import tempfile
from pathlib import Path

import yaml
from hydra.utils import get_object

from dlopt.base.group import declared_groups
from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import load_nested_defaults
from dlopt.config.compose.static_config import StaticConfig, flatten, to_key_prefix
from dlopt.config.schema import option_docs
from dlopt.config.schema.signature import describe, read_signature

ROOT = groups.CONF.parent
PACKAGE = ROOT / "dlopt"
GROUPS = groups.list_component_groups()

LOWER = ["errors", "formatting", "ranges", "prng", "console", "storage", "linalg", "metrics", "rundir", "base", "parts"]
UPPER = [
    "objective",
    "training",
    "config",
    "export",
    "landscape",
    "analysis",
    "report",
    "runner",
    "sweep",
    "cli",
    "api",
]
FLOORS = [*({name} for name in LOWER), set(GROUPS), *({name} for name in UPPER)]
"""Packages from the bottom up. A module imports from its own package or from lower floors; no group imports another."""

MAX_LINES, MAX_MODULES, MAX_LOOSE = 350, 20, 6
"""Lines of a module, modules of a folder of machinery, modules outside of the packages."""


def package_of(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def read_imports() -> dict[str, set[str]]:
    """Return the modules of dlopt that each module imports, also inside functions and for type checking."""
    known = {module_of(file) for file in files()}
    imports: dict[str, set[str]] = {}
    for file in files():
        names: set[str] = set()
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
                names |= inner or {node.module}
        imports[module_of(file)] = names & known
    return imports


def test_imports_point_down():
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    arrows = [(module, other) for module, imported in read_imports().items() for other in imported]
    pairs = {(module, other): (package_of(module), package_of(other)) for module, other in arrows}
    across = {arrow: (a, b) for arrow, (a, b) in pairs.items() if a not in ("", "__main__", b) and b}
    assert not [arrow for arrow, (a, b) in across.items() if floor[b] >= floor[a]]


def test_every_package_has_a_floor():
    packages = {package_of(module_of(f)) for f in files()} - {"", "__main__"}
    assert packages == set().union(*FLOORS)


def test_there_is_no_cycle_of_imports():
    """dlopt itself imports its public names when they are used."""
    graph = {module: imported - {"dlopt"} for module, imported in read_imports().items()}
    graphlib.TopologicalSorter(graph).prepare()  # raises CycleError


def test_modules_and_packages_are_small():
    lines = {str(f.relative_to(PACKAGE).with_suffix("")): len(f.read_text().splitlines()) for f in files()}
    assert not {name: count for name, count in lines.items() if count > MAX_LINES}
    machinery = {f.parent for f in files()} - {PACKAGE, *(PACKAGE / group for group in GROUPS)}
    modules = {folder: len(set(folder.glob("*.py")) - {folder / "__init__.py"}) for folder in machinery}
    assert not {folder: count for folder, count in modules.items() if count > MAX_MODULES}
    loose = {f.stem for f in PACKAGE.glob("*.py")} - {"__init__", "__main__"}
    assert len(loose) <= MAX_LOOSE, loose


def test_omegaconf_appears_above_the_training_loop_only():
    users = [f for f in files() if re.search(r"(from|import) omegaconf|DictConfig", f.read_text())]
    assert {package_of(module_of(f)) for f in users} <= {"config", "runner", "sweep", "cli"}


def test_every_group_is_declared_on_its_base_class_and_is_a_folder_in_both_trees():
    declared = declared_groups()
    assert set(declared) == set(GROUPS)
    assert all((PACKAGE / group / "__init__.py").exists() for group in GROUPS)
    for name, group in declared.items():
        assert group.load_base()
        assert not group.multiple or "none" in groups.list_option_names(name)


def test_every_option_has_its_module_and_every_module_its_option():
    """The modules of helpers begin with an underscore; each group has a custom.yaml."""
    offenders = []
    for group in GROUPS:
        modules = {f.stem for f in (PACKAGE / group).glob("*.py") if not f.stem.startswith("_")}
        options = set(groups.list_option_names(group))
        offenders += [f"{group}/{name}" for name in (modules - options) | ({"custom"} - options)]
        for option in options - {"custom"}:
            targets = [node["_target_"] for node in nodes(group, option)]
            offenders += [target for target in targets if not target.startswith(f"dlopt.{group}.{option}.")]
    assert not offenders


def nodes(group: str, option: str) -> list[dict]:
    content = yaml.safe_load((groups.CONF / group / f"{option}.yaml").read_text()) or {}
    content.pop("defaults", None)  # what else the option chooses
    if groups.is_single(group):
        return [content] if content else []
    assert set(content) in (set(), {option}), f"{group}/{option}: an option of a list contributes its own key"
    return list(content.values())


OPTIONS = [(group, option) for group in groups.list_all_groups() for option in groups.list_option_names(group)]


def test_every_option_says_what_it_is_and_names_its_source():
    offenders = []
    for group, option in OPTIONS:
        lines = (groups.CONF / group / f"{option}.yaml").read_text().splitlines()
        what, source = [line for line in lines if not line.startswith("# @package")][:2]
        if not (what.startswith("# ") and len(what) > 6 and source.startswith("# ") and len(source) > 2):
            offenders.append(f"{group}/{option}")
    assert not offenders


def test_every_option_states_every_hyperparameter():
    """The YAML holds each key of the signature; each is typed and documented, and Python has no default for it."""
    offenders = []
    for group, option in OPTIONS:
        for node in nodes(group, option) if group in GROUPS and option != "custom" else ():
            offenders += [f"{group}/{option}: {problem}" for problem in hyperparameter_problems(group, option, node)]
    assert not offenders


def hyperparameter_problems(group: str, option: str, node: dict) -> list[str]:
    target = get_object(node["_target_"])
    docs = [inspect.getdoc(base) or "" for base in inspect.getmro(target)]
    takes = {k: p for k, p in read_signature(target).parameters.items() if k not in groups.supplied_arguments(group)}
    inner = load_nested_defaults(groups.CONF / group / f"{option}.yaml")
    wrong = []
    if not docs[0] or ("\n" not in docs[0] and len(docs[0]) > 120):
        wrong.append("no docstring, or a long line")
    if (set(node) - {"_target_", "defaults"}) | set(inner) != set(takes):
        wrong.append("its keys are not those of the signature")
    wrong += [
        f"{default} is not an option" for o, default in inner.values() if default not in groups.list_option_names(o)
    ]
    for key, parameter in takes.items():
        if not parameter.required:
            wrong.append(f"{key} has a hidden default")
        if describe(parameter.hint) == "anything":
            wrong.append(f"{key} has no type")
        if not re.search(rf"^\s*{key}\b", "\n".join(docs), re.MULTILINE):
            wrong.append(f"{key} is not documented")
    return wrong


def test_every_option_of_a_sweep_states_every_key():
    """The YAML holds each key of the class of its name, down into the dataclasses that it holds, and no other."""
    for group, common in groups.SWEEP_GROUPS.items():
        for option in groups.list_option_names(group):
            content = StaticConfig({}).read_option(group, option)
            own_keys = {k: v for k, v in content.items() if k not in ("_target_", "defaults")}
            names = [key for key, _ in flatten(own_keys, f"{to_key_prefix(group)}.")]
            own = get_object(f"{common.rpartition('.')[0]}.{option.capitalize()}")
            assert set(own_keys) == set(read_signature(own).parameters), option
            listed = option_docs.load_option(group, option, StaticConfig({})).keys
            assert [key.name for key in listed] == names
            assert all(key.range not in ("", "anything") and key.meaning for key in listed), option
            assert issubclass(own, get_object(common))
            assert inspect.getdoc(own)


def test_no_file_names_a_path_of_a_machine():
    """Committed files hold no absolute paths, except those that every Unix has."""
    texts = [*files(), *groups.CONF.rglob("*.yaml"), ROOT / "README.md", ROOT / "Makefile", ROOT / ".ci/run"]
    for file in texts:
        text = file.read_text()
        path = re.search(r"(?<![\w.~$}>)*<-])/(?!usr/|dev/|proc/|sys/)\w+/|/home/\w", text)
        assert not path, f"{file}: {path}"
        for place in {ROOT, Path.home(), Path(tempfile.gettempdir())} - {Path("/")}:
            assert f"{place}/" not in text, f"{file}: {place}"
