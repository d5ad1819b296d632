"""Write a configuration as YAML, as OmegaConf would, 40 times faster."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from typing import Any

from dlopt.storage.safe_read import NUMERALS


def dump_yaml(tree: Mapping[str, Any] | list[Any]) -> str:
    """Return plain mappings, lists and values as YAML, in order. Text is read back as text, `1e-5` too."""
    import yaml

    return yaml.dump(tree, Dumper=_dumper(), sort_keys=False, default_flow_style=False, allow_unicode=True)


def quote(text: str) -> str:
    """Return text quoted for Hydra, to be typed after `key=`; unquoted, 1e5 would be a number and null no value."""
    # Inside quotes a backslash is literal, except before a quote.
    return "'" + re.sub(r"(\\*)('|\Z)", lambda m: m[1] * 2 + ("\\'" if m[2] else ""), text) + "'"


@cache
def _dumper() -> Any:
    """Return PyYAML's safe dumper, the C one if available, that quotes what OmegaConf would read as a number."""
    import yaml

    class Dumper(getattr(yaml, "CSafeDumper", yaml.SafeDumper)):  # type: ignore[misc]
        def ignore_aliases(self, data: Any) -> bool:
            """Write a shared list twice: our readers accept no aliases."""
            return True

    with_exponent = re.compile(r"[-+]?(?:[0-9][0-9_]*\.?[0-9_]*|\.[0-9_]+)[eE][-+]?[0-9]+$")
    Dumper.add_implicit_resolver("tag:yaml.org,2002:float", with_exponent, [".", *NUMERALS])
    return Dumper
