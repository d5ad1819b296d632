"""Read the type hints of a target from its source: its parameters, and the words that may be typed for them.

Nothing is imported: a target may import torch, which takes too long for completion. The modules of dlopt and of the
working directory are parsed.
"""

from __future__ import annotations

import ast
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from dlopt.formatting import format_override

PACKAGE = Path(__file__).resolve().parents[2]

Hint = tuple[ast.expr | None, str]
"""A type hint, and the module in which its names are defined."""


def list_allowed_values(target: str, names: Sequence[str]) -> list[str]:
    """Return the words that a hint allows for a key: `true` and `false` for a bool, the choices of a Literal."""
    hint, module = read_fields(target).get(names[0], (None, ""))
    if len(names) == 1:
        return _words(hint, module)
    # a node without its own target is a dataclass that a field holds
    return list_allowed_values(f"{module}.{hint.id}", names[1:]) if isinstance(hint, ast.Name) else []


def read_fields(target: str) -> dict[str, Hint]:
    """Return the parameters of a function, or of a class: of its __init__, or its fields with inherited ones."""
    module, _, name = target.rpartition(".")
    node, module = _find(module, name)
    if isinstance(node, ast.FunctionDef):
        return _parameters(node, module)
    if not isinstance(node, ast.ClassDef):
        return {}
    fields: dict[str, Hint] = {}
    for base in reversed(node.bases):
        if isinstance(base, ast.Name) and base.id != node.name:
            fields |= read_fields(f"{module}.{base.id}")
    for inner in node.body:
        match inner:
            case ast.FunctionDef(name="__init__"):
                return _parameters(inner, module)
            case ast.AnnAssign(target=ast.Name(id=field), annotation=hint) if _is_dataclass(node):
                if not field.startswith("_") and "ClassVar" not in ast.dump(hint):
                    fields[field] = hint, module
    return fields


def _is_dataclass(node: ast.ClassDef) -> bool:
    """Return whether annotated names in the body of a class are its fields."""
    return any("'dataclass'" in ast.dump(decorator) for decorator in node.decorator_list)


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
    """Return the definition of a name in a module, and the module that holds it; None if it cannot be read."""
    for node in _parse_module(module):
        match node:
            case ast.ClassDef(name=defined) | ast.FunctionDef(name=defined) if defined == name:
                return node, module
            case ast.Assign(targets=[ast.Name(id=defined)], value=value) if defined == name:
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
    for source in (file.with_name(f"{file.name}.py"), file / "__init__.py"):
        if source.is_file():
            try:
                return ast.parse(source.read_bytes()).body
            except (OSError, SyntaxError, ValueError):
                return []
    return []
