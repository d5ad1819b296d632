"""Arrays that are slow to make, kept in a file beside their checksum."""

import hashlib
import os
import tempfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np

Arrays = dict[str, np.ndarray]


def folder() -> Path:
    """$XDG_CACHE_HOME/dlopt, or ~/.cache/dlopt."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dlopt"


def cached(file: Path, make: Callable[[], Arrays]) -> Arrays:
    """The arrays in an .npz file; made and written there when it is missing or not as it was written.

    Where nothing can be written the arrays are made anew each time.
    """
    try:
        with np.load(file, allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        digest = arrays.pop("sha256", np.array("")).item()
        if digest == _digest(arrays):
            return arrays
        warnings.warn(f"{file} is damaged; it is written anew", stacklevel=2)
    except FileNotFoundError:
        pass
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile):
        warnings.warn(f"{file} cannot be read; it is written anew", stacklevel=2)
    arrays = make()
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=file.parent, suffix=".npz")
        with os.fdopen(handle, "wb") as out:
            np.savez(out, sha256=np.array(_digest(arrays)), **arrays)  # type: ignore[arg-type]
        os.replace(beside, file)
    except OSError:
        pass
    return arrays


def _digest(arrays: Arrays) -> str:
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha.update(array.data)
    return sha.hexdigest()
