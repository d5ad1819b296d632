"""Arrays that are slow to make, kept in a file beside their checksum."""

import contextlib
import hashlib
import os
import random
import warnings
from collections.abc import Callable, Iterator
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
    if file.is_file():
        try:
            with file.open("rb") as stream, np.load(stream, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            if arrays.pop("sha256").item() == _digest(arrays):
                return arrays
        except Exception:  # a damaged archive fails in a dozen ways
            pass
        warnings.warn(f"{file} is damaged; its content is made anew", stacklevel=2)
    with _undisturbed():
        arrays = make()
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as out:
            np.savez(out, sha256=np.array(_digest(arrays)), **arrays)  # type: ignore[arg-type]
        os.replace(beside, file)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
    return arrays


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Python's and numpy's global generators as they were: what makes data may seed them, or import what draws."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _digest(arrays: Arrays) -> str:
    sha = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha.update(array.data)
    return sha.hexdigest()
