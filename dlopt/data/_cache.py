"""Arrays that are slow to make, kept in a file beside their checksum."""

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
    """$XDG_CACHE_HOME/dlopt, or ~/.cache/dlopt."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "dlopt"


def load_or_make(file: Path, make: Callable[[], ArrayDict], made_of: str = "") -> ArrayDict:
    """The arrays in an .npz file; made and written there when it is missing or not as it was written.

    made_of names what they are made of, files with their times say: where the file holds arrays made of anything else,
    they are made anew and take its place. Where nothing can be written the arrays are made anew each time.
    """
    if file.is_file():
        try:
            arrays = _load(file, made_of)
            if arrays is not None:
                return arrays
        except Exception:  # a damaged archive fails in a dozen ways
            warnings.warn(f"{file} is damaged; its content is made anew", stacklevel=2)
    with _preserve_rng_state():
        arrays = make()
    beside = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with beside.open("wb") as out:
            digest = np.array(_digest(arrays, made_of))
            np.savez(out, sha256=digest, made_of=np.array(made_of), **arrays)  # type: ignore[arg-type]
        os.replace(beside, file)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
    return arrays


def _load(file: Path, made_of: str) -> ArrayDict | None:
    """The file's arrays, or None when they are made of something else; raises when they are not as written."""
    with regular_file.open_regular_file(file) as stream:
        stored = _npz.NpzArrays(stream)
        written = stored["made_of"].item() if "made_of" in stored else ""
        if written != made_of:
            return None
        arrays = {name: stored[name] for name in stored if name not in ("sha256", "made_of")}
        if stored["sha256"].item() != _digest(arrays, made_of):
            raise ValueError("the digest is another")
    return arrays


@contextlib.contextmanager
def _preserve_rng_state() -> Iterator[None]:
    """Python's and numpy's global generators as they were: what makes data may seed them, or import what draws."""
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
