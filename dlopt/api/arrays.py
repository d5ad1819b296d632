"""Arrays from memory as the data of a run: written to a file that the run and all later commands read."""

from __future__ import annotations

import contextlib
import hashlib
import io
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from dlopt.config.problems import ConfigError
from dlopt.rundir.find import ROOT
from dlopt.storage import atomic

FOLDER = ROOT / "arrays"
"""Folder of the files."""


@contextlib.contextmanager
def store_arrays(data: Any) -> Iterator[list[str]]:
    """Yield the overrides that read these arrays from a file in outputs/arrays, which is written unless it exists.

    The name of the file is a digest of its content: runs on the same arrays share it, and it never changes. If the
    block raises ConfigError, a new file is removed.

    data: a pair (x, y), or a mapping with x, y and optionally x_test, y_test and others that `data=arrays` can read.
    """
    if data is None:
        yield []
        return
    arrays = _to_arrays(data)
    digest = hashlib.sha256()
    for name, array in sorted(arrays.items()):
        digest.update(f"{name} {array.dtype.str} {array.shape} ".encode())
        digest.update(np.ascontiguousarray(array).view(np.uint8).data if array.size else b"")
    file = FOLDER / f"{digest.hexdigest()[:16]}.npz"
    is_new = not file.exists()
    if is_new:
        FOLDER.mkdir(parents=True, exist_ok=True)
        content = io.BytesIO()
        np.savez(content, **arrays)  # type: ignore[arg-type]
        atomic.atomic_write_bytes(file, content.getvalue())
    try:
        yield ["data=arrays", f"data.path={file}"]
    except ConfigError:
        if is_new:
            file.unlink(missing_ok=True)
            for folder in (FOLDER, ROOT):
                with contextlib.suppress(OSError):  # it holds other files
                    folder.rmdir()
        raise


def _to_arrays(data: Any) -> dict[str, np.ndarray]:
    """Return named arrays. Raises ConfigError if the data are not two arrays or a mapping of arrays."""
    if isinstance(data, Mapping):
        pairs = {str(name): value for name, value in data.items()}
    elif isinstance(data, tuple | list) and len(data) == 2:
        pairs = dict(zip(("x", "y"), data, strict=True))
    else:
        message = "must be a pair (x, y), or a mapping with the arrays x and y and optionally x_test and y_test"
        raise ConfigError([("data", f"{message}, got {type(data).__name__}")])
    return {name: _to_array(name, value) for name, value in pairs.items()}


def _to_array(name: str, value: Any) -> np.ndarray:
    """Return a tensor, an array, a column of a frame or a list as an array of numbers or text."""
    try:
        array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
    except (ValueError, TypeError) as error:
        raise ConfigError([("data", f"{name} is not an array: {error}")]) from error
    if array.dtype.hasobject and array.size and all(isinstance(item, str) for item in array.flat):
        array = array.astype(str)
    if array.dtype.hasobject:
        raise ConfigError([("data", f"{name} holds Python objects; it must hold numbers or text")])
    return array
