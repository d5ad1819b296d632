"""A configuration as text: the YAML that OmegaConf would write, in a fortieth of its time."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from dlopt.storage.safe_read import NUMERALS


def dump_yaml(tree: Mapping[str, Any] | list[Any]) -> str:
    """Plain mappings, lists and values in YAML, in their order; what is text is read as text again, `1e-5` too."""
    import yaml

    return yaml.dump(tree, Dumper=_dumper(), sort_keys=False, default_flow_style=False, allow_unicode=True)


def quote(text: str) -> str:
    """Text as Hydra reads it behind `key=`, whatever is in it: 1e5 would be a number, and null nothing."""
    # In its quotes a backslash stands for itself, but in front of a quote.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


@cache
def _dumper() -> Any:
    """PyYAML's safe dumper, the fast one where it is there, which puts into quotes what OmegaConf takes for numbers."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            """A list that stands in two places is written twice: no reader of ours takes aliases."""
            return True

    with_exponent = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$")
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", with_exponent, [".", *NUMERALS])
    return Dumper
