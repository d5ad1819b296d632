"""The declaration of a config group, written once, on the group's base class.

`dlopt list`, completion and `--help` need these facts without importing torch. So `declared_groups` reads the
decorators of the classes in this folder from their source, and imports none of them.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Literal, NamedTuple, TypeVar

T = TypeVar("T")


class Group(NamedTuple):
    """A config group: the folders conf/NAME and dlopt/NAME. It decorates the base class of the group's components.

    Arguments must be literals.

    name                   the name of both folders
    multiple               a run may have several options, each under its own key
    optional               a run may have no option
    must_subclass          components must derive from the base class
    changeable_on_resume   hyperparameters may change when a run resumes
    affects_training       it changes the numbers of training; false: it only measures
    needed_for_inference   needed to evaluate a trained network
    nested                 its options are chosen only inside an option of another group: optimizer.linesearch=armijo
    lanes                  what runs in lanes must agree in: the component's value, its class, or nothing
    sets_cost              its hyperparameters, such as widths, change the time of a step
    supplied               arguments that `build` passes to the component, if its signature names them
    base                   dotted path of the base class; set by `declared_groups`
    """

    name: str
    multiple: bool = False
    optional: bool = False
    must_subclass: bool = False
    changeable_on_resume: bool = False
    affects_training: bool = True
    needed_for_inference: bool = False
    nested: bool = False
    lanes: Literal["value", "class", None] = None
    sets_cost: bool = False
    supplied: tuple[str, ...] = ()
    base: str = ""

    def __call__(self, cls: type[T]) -> type[T]:
        """Return the decorated class unchanged."""
        return cls

    def load_base(self) -> type:
        """Import and return the base class."""
        module, _, name = self.base.rpartition(".")
        base: type = getattr(import_module(module), name)
        return base


@cache
def declared_groups() -> Mapping[str, Group]:
    """Return the declared groups by name, sorted."""
    groups = {}
    for file in Path(__file__).parent.glob("*.py"):
        source = file.read_text(encoding="utf-8")
        if "\n@Group(" not in source:
            continue
        for node in ast.parse(source).body:
            if not isinstance(node, ast.ClassDef):
                continue
            for decorator in node.decorator_list:
                if ast.unparse(decorator).startswith("Group("):
                    group = _evaluate(decorator)
                    groups[group.name] = group._replace(base=f"{__package__}.{file.stem}.{node.name}")
    return dict(sorted(groups.items()))


def _evaluate(call: ast.expr) -> Group:
    """Return the group that a decorator's literals describe."""
    assert isinstance(call, ast.Call)
    keywords = {k.arg: ast.literal_eval(k.value) for k in call.keywords if k.arg is not None}
    return Group(*map(ast.literal_eval, call.args), **keywords)
