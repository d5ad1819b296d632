"""Type hints as the source has them: what a target takes, and the words that may be typed for it.

Nothing is imported, since what a target names may import torch, which takes longer than people wait for completion.
The modules of dlopt are read, and those of the working directory.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dlopt.formatting import format_override

PACKAGE = Path(__file__).resolve().parents[2]

Hint = tuple[ast.expr | None, str]
"""A type hint, and the module in whose words it is written."""


def list_allowed_values(target: str, names: Sequence[str]) -> list[str]:
    """The words that a target's hint allows for a key: `true` and `false` of a bool, the choices of a Literal."""
    hint, module = read_fields(target).get(names[0], (None, ""))
    if len(names) == 1:
        return _words(hint, module)
    # a node without a target of its own is a dataclass that a field holds
    return list_allowed_values(f"{module}.{hint.id}", names[1:]) if isinstance(hint, ast.Name) else []


def read_fields(target: str) -> dict[str, Hint]:
    """Of a class its fields, inherited ones too, or what its __init__ takes; of a function what it takes."""
    node, module = _find(*_split(target))
    if isinstance(node, ast.FunctionDef):
        return _parameters(node, module)
    if not isinstance(node, ast.ClassDef):
        return {}
    found: dict[str, Hint] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id != node.name:
            found |= read_fields(f"{module}.{base.id}")
    for inner in node.body:
        match inner:
            case ast.FunctionDef(name="__init__"):
                return _parameters(inner, module)
            case ast.AnnAssign(target=ast.Name(id=field), annotation=hint) if _is_key(field, hint):
                found[field] = hint, module
    return found


def _is_key(field: str, hint: ast.expr) -> bool:
    """Whether a field is one that can be given: a class's own variables are not, nor what it keeps to itself."""
    return not field.startswith("_") and "ClassVar" not in ast.dump(hint)


def _parameters(node: ast.FunctionDef, module: str) -> dict[str, Hint]:
    return {a.arg: (a.annotation, module) for a in (*node.args.args, *node.args.kwonlyargs) if a.arg != "self"}


def _words(hint: ast.expr | None, module: str) -> list[str]:
    match hint:
        case ast.BinOp(left=left, right=right):
            return _words(left, module) + _words(right, module)
        case ast.Subscript(value=ast.Name(id="Literal"), slice=inner):
            choices = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            return [format_override(choice.value) for choice in choices if isinstance(choice, ast.Constant)]
        case ast.Subscript(value=ast.Name(id="Annotated"), slice=ast.Tuple(elts=[inner, *_])):
            return _words(inner, module)
        case ast.Constant(value=None):
            return ["null"]
        case ast.Name(id="bool"):
            return ["true", "false"]
        case ast.Name(id=name):
            alias, where = _find(module, name)
            return _words(alias, where) if isinstance(alias, ast.expr) else []
    return []


def _find(module: str, name: str) -> tuple[ast.AST | None, str]:
    """What a name of a module stands for, and the module that says so; None for what is not there to be read."""
    for node in _parse_module(module):
        match node:
            case ast.ClassDef(name=found) | ast.FunctionDef(name=found) if found == name:
                return node, module
            case ast.Assign(targets=[ast.Name(id=found)], value=value) if found == name:
                return value, module
            case ast.ImportFrom(module=str(source), level=0, names=names):
                for alias in names:
                    if (alias.asname or alias.name) == name and source != module:
                        return _find(source, alias.name)
    return None, module


@cache
def _parse_module(module: str) -> Sequence[ast.stmt]:
    first, *rest = module.split(".")
    file = (PACKAGE if first == "dlopt" else Path(first)).joinpath(*rest)
    for place in (file.with_name(f"{file.name}.py"), file / "__init__.py"):
        if place.is_file():
            try:
                return ast.parse(place.read_bytes()).body
            except (OSError, SyntaxError, ValueError):
                return []
    return []


def _split(target: str) -> tuple[str, str]:
    module, _, name = target.rpartition(".")
    return module, name
