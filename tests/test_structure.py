"""The house: imports point down, conf/ and dlopt/ are one tree, and every option says what it is."""

import ast
import inspect
import re
import tempfile
from pathlib import Path

import pytest
import yaml
from hydra.utils import get_object

from dlopt.config.compose import groups
from dlopt.config.compose.nested_options import load_nested_defaults
from dlopt.config.schema.signature import describe, read_signature

ROOT = groups.CONF.parent
PACKAGE = ROOT / "dlopt"
GROUPS = [g for g in groups.list_groups() if g != "experiment"]

FLOORS: list[set[str]] = [
    {
        "ranges",
        "fields",
        "weights",
        "streams",
        "moves",
        "moments",
        "clip",
        "gaussian",
        "merit",
        "principal",
        "cache",
        "events",
        "memory",
        "metrics",
        "values",
        "screen",
        "histogram",
        "haar",
        "hidden",
        "mistakes",
        "idx",
        "fetch",
        "durable",
        "lock",
        "repository",
        "provenance",
        "reading",
        "plain_file",
        "array_file",
        "tensor_pickle",
        "tensor_file",
    },
    {"parts", "run"},
    {"objective", "first_batch", "splits", "watch", "finding", "source", "official", "examples"},
    set(GROUPS),
    {
        "batches",
        "experiment",
        "course",
        "window",
        "lanes",
        "evaluate",
        "checkpoint",
        "training",
        "saving",
        "journal",
        "train",
        "rehearsal",
        "again",
    },
    {"report"},
    {"config"},
    {"sweep"},
    {"cli"},
]
"""From the ground up; a module imports from its own floor or from those below, and no group from another group."""


def room(module: str) -> str:
    return module.split(".")[1] if "." in module else ""


def imports(file: Path) -> set[str]:
    """Every module of dlopt that a file imports, those imported inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return {name for name in found if name.split(".")[0] == "dlopt"}


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def module_of(file: Path) -> str:
    return ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def known(name: str) -> bool:
    path = ROOT.joinpath(*name.split("."))
    return path.with_suffix(".py").exists() or (path / "__init__.py").exists()


@pytest.mark.parametrize("file", files(), ids=module_of)
def test_imports_point_down(file):
    floor = {name: i for i, names in enumerate(FLOORS) for name in names}
    me = room(module_of(file))
    for other in filter(known, imports(file)):
        if me in GROUPS and room(other) in GROUPS:
            assert other in (f"dlopt.{me}", module_of(file)), f"{module_of(file)} imports another part, {other}"
        elif me not in ("", "__main__") and room(other) not in ("", me):
            assert floor[room(other)] <= floor[me], f"{module_of(file)} imports {other}, from a floor above"


def test_every_module_lies_on_a_floor():
    rooms = {room(module_of(f)) for f in files()} - {"", "__main__"}
    assert rooms == set().union(*FLOORS)


def test_no_circle_of_imports():
    graph = {module_of(f): {m for m in imports(f) if known(m)} for f in files()}
    done: set[str] = set()

    def visit(name: str, path: tuple[str, ...]) -> None:
        assert name not in path, " -> ".join([*path, name])
        if name not in done:
            for other in graph.get(name, set()):
                visit(other, (*path, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_dict_config_appears_above_the_loop_only():
    for file in files():
        if room(module_of(file)) not in ("config", "sweep", "cli"):
            assert not re.search(r"(from|import) omegaconf|DictConfig", file.read_text()), file


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_a_folder_in_both_trees(group):
    """Each module has an option of its name; each option of ours has its module, and each group its custom.yaml."""
    modules = {f.stem for f in (PACKAGE / group).glob("*.py")} - {"__init__"}
    options = set(groups.list_option_names(group))
    assert modules <= options
    assert "custom" in options
    for option in options - {"custom"}:
        for node in nodes(group, option):
            assert node["_target_"].startswith(f"dlopt.{group}.{option}.")


def nodes(group: str, option: str) -> list[dict]:
    content = yaml.safe_load((groups.CONF / group / f"{option}.yaml").read_text()) or {}
    content.pop("defaults", None)  # what else the option chooses
    if group in groups.SINGLE_OPTION_GROUPS:
        return [content] if content else []
    assert set(content) in (set(), {option}), "an option of a list contributes its own key"
    return list(content.values())


OPTIONS = [(group, option) for group in groups.list_all_groups() for option in groups.list_option_names(group)]


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_an_option_says_what_it_is_and_where_it_comes_from(group, option):
    lines = (groups.CONF / group / f"{option}.yaml").read_text().splitlines()
    comments = [line for line in lines if not line.startswith("# @package")][:2]
    assert all(line.startswith("# ") and len(line) > 2 for line in comments)
    assert len(comments[0]) > 6


@pytest.mark.parametrize(
    ("group", "option"), [o for o in OPTIONS if o[0] not in ("experiment", *groups.SWEEP_GROUPS) and o[1] != "custom"]
)
def test_an_option_states_every_hyperparameter(group, option):
    """The YAML holds each key of the signature; each has a type and stands in the docstring; Python has no default."""
    from dlopt.config.compose.groups import SUPPLIED_ARGUMENTS

    for node in nodes(group, option):
        target = get_object(node["_target_"])
        doc = inspect.getdoc(target)
        assert doc
        assert "\n" in doc or len(doc) < 121
        inherited = "".join(inspect.getdoc(base) or "" for base in inspect.getmro(target)[1:])
        takes = {
            k: p for k, p in read_signature(target).parameters.items() if k not in SUPPLIED_ARGUMENTS.get(group, ())
        }
        inner = load_nested_defaults(groups.CONF / group / f"{option}.yaml")
        assert set(node) - {"_target_", "defaults"} | set(inner) == set(takes)
        assert all(default in groups.list_option_names(other) for other, default in inner.values())
        for key, parameter in takes.items():
            assert parameter.required, f"{key} has a hidden default"
            assert describe(parameter.hint) != "anything"
            assert re.search(rf"^\s*{key}\b", doc + "\n" + inherited, re.MULTILINE), f"{key} is not documented"


@pytest.mark.parametrize(("group", "option"), [o for o in OPTIONS if o[0] in groups.SWEEP_GROUPS])
def test_an_option_of_a_search_states_every_key(group, option):
    """The YAML holds each key of the class of its name, down into the dataclasses that it holds, and no other."""
    from dlopt.config.compose.static_config import StaticConfig, flatten, to_key_prefix
    from dlopt.config.schema import option_docs

    content = StaticConfig({}).read_option(group, option)
    prefix = to_key_prefix(group)
    found = [
        key for key, _ in flatten({k: v for k, v in content.items() if k not in ("_target_", "defaults")}, f"{prefix}.")
    ]
    own = get_object(f"{groups.SWEEP_GROUPS[group].rpartition('.')[0]}.{option.capitalize()}")
    assert {key.removeprefix(f"{prefix}.").partition(".")[0] for key in found} == set(read_signature(own).parameters)
    listed = option_docs.load_option(group, option).keys
    assert [key.name for key in listed] == found
    assert all(key.range not in ("", "anything") and key.meaning for key in listed)
    assert issubclass(own, get_object(groups.SWEEP_GROUPS[group]))
    assert inspect.getdoc(own)


def test_the_project_speaks_of_itself_alone():
    """No path of anybody's machine in what is committed: none that begins at the root, but for what every Unix has."""
    texts = [*files(), *groups.CONF.rglob("*.yaml"), ROOT / "README.md", ROOT / "Makefile", ROOT / ".ci/run"]
    for file in texts:
        text = file.read_text()
        found = re.search(r"(?<![\w.~$}>)*<-])/(?!usr/|dev/|proc/|sys/)\w+/|/home/\w", text)
        assert not found, f"{file}: {found}"
        for place in {ROOT, Path.home(), Path(tempfile.gettempdir())} - {Path("/")}:
            assert f"{place}/" not in text, f"{file}: {place}"
