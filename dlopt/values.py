"""Values as people type them."""

from typing import Any


def written(value: Any) -> str:
    """A value as it stands behind `key=` on the command line."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "[" + ",".join(map(written, value)) + "]" if isinstance(value, list) else str(value)
