"""A cache of arrays that are slow to make: .npz files with a checksum of their content."""

import contextlib
import hashlib
import os
import random
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from dlopt.data import _npz
from dlopt.storage import regular_file

ArrayDict = dict[str, np.ndarray]


def cache_dir() -> Path:
    """Return the folder of dlopt's cache: on Linux $XDG_CACHE_HOME/dlopt, else ~/.cache/dlopt."""
    from platformdirs import user_cache_path

    return user_cache_path("dlopt", appauthor=False)


def load_or_make(file: Path, make: Callable[[], ArrayDict], made_of: str = "") -> ArrayDict:
    """Load the arrays of an .npz file, or make them and write the file if it is missing, damaged or outdated.

    made_of identifies the source of the arrays, such as the fingerprint of files: a cached file with another one is
    outdated. If the file cannot be written, the arrays are made each time.
    """
    if file.is_file():
        try:
            arrays = _load(file, made_of)
            if arrays is not None:
                return arrays
        except Exception:  # a damaged archive raises a dozen kinds of errors
            warnings.warn(f"{file} is damaged and is made again", stacklevel=2)
    with preserve_rng_state():
        arrays = make()
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as out:
            digest = np.array(_digest(arrays, made_of))
            np.savez(out, sha256=digest, made_of=np.array(made_of), **arrays)  # type: ignore[arg-type]
        os.replace(temporary, file)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink()
    return arrays


def _load(file: Path, made_of: str) -> ArrayDict | None:
    """Load the arrays, or return None if they are outdated. Raise an error if the content has changed."""
    with regular_file.open_regular_file(file) as stream:
        stored = _npz.NpzArrays(stream)
        if (stored["made_of"].item() if "made_of" in stored else "") != made_of:
            return None
        arrays = {name: stored[name] for name in stored if name not in ("sha256", "made_of")}
        if stored["sha256"].item() != _digest(arrays, made_of):
            raise ValueError("the content does not match its checksum")
    return arrays


@contextlib.contextmanager
def preserve_rng_state() -> Iterator[None]:
    """Restore the global generators of Python and numpy afterwards: generators of data may seed them or draw."""
    states = random.getstate(), np.random.get_state()  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])  # noqa: NPY002


def _digest(arrays: ArrayDict, made_of: str) -> str:
    sha = hashlib.sha256(made_of.encode())
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        sha.update(f"{name} {array.dtype.str} {array.shape}".encode())
        sha.update(array.data)
    return sha.hexdigest()
