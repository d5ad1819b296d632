"""A cache of decoded images: a folder with one memory-mapped array and an index, per folder of images and size.

It is built in a hidden folder, written through to the disk, and renamed: a killed process leaves nothing that is used.
Processes that need the same cache wait for the one that builds it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shutil
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import PIL

from dlopt import console
from dlopt.data import _image_files, _images
from dlopt.data._cache import cache_dir
from dlopt.data._download import allow_interrupt
from dlopt.data._image_files import ImageFile
from dlopt.errors import OptionError
from dlopt.storage.mapped_array import MappedArray

ARRAY, INDEX = "images.npy", "index.json"
MAX_THREADS = 8
BATCH_BYTES = 1 << 24
"""Bytes of decoded images that are kept until they are written."""


class DecodedImages(NamedTuple):
    """Images, (N, channels, size, size) uint8 and mapped, in the order of their files; those of broken files are zero.

    broken holds the reason for each broken file by its place.
    """

    images: MappedArray
    broken: dict[int, str]


def load_images(root: Path, files: Sequence[ImageFile], size: int, channels: int | None) -> DecodedImages:
    """Return the decoded images of files below the root, from the cache if they have not changed.

    channels None: 1 if all images are grey, else 3. Raises OptionError if the cache cannot be written.
    """
    made_of = _image_files.digest(files, size, channels, _images.VERSION, PIL.__version__)
    name = f"{root.name}-{_image_files.digest((), str(root.resolve()), size, channels)[:16]}"
    folder = cache_dir() / "images" / name
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with allow_interrupt(), _lock(folder):
            cached = _open(folder, made_of, len(files))
            if cached is None:
                _build(folder, root, files, size, channels, made_of)
                cached = _open(folder, made_of, len(files))
    except OSError as error:
        remedy = "name another place for the cache with the environment variable XDG_CACHE_HOME"
        reason = error.strerror or error
        raise OptionError("path", f"the decoded images cannot be written to {folder} ({reason}); {remedy}") from error
    assert cached is not None
    return cached


def _open(folder: Path, made_of: str, count: int) -> DecodedImages | None:
    """Open the cache, or return None if it does not exist, or is of other files or damaged."""
    try:
        index = json.loads((folder / INDEX).read_text())
        if index["made_of"] != made_of:
            return None
        images = MappedArray(folder / ARRAY)
        if len(images) != count:
            raise ValueError("it holds another number of images")
        return DecodedImages(images, {int(i): str(reason) for i, reason in index["broken"].items()})
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        warnings.warn(f"{folder} is damaged and is made again ({error})", stacklevel=2)
        return None


def _build(folder: Path, root: Path, files: Sequence[ImageFile], size: int, channels: int | None, made_of: str) -> None:
    """Decode the files and write the cache."""
    for part in folder.parent.glob(f".{folder.name}.*.part"):  # of a process that was killed
        shutil.rmtree(part, ignore_errors=True)
    with _images.silence_warnings():
        if channels is None:
            channels = count_channels(root, files)
        shape = (len(files), channels, size, size)
        _check_space(folder.parent, int(np.prod(shape)))
        part = folder.with_name(f".{folder.name}.{os.getpid()}.part")
        part.mkdir()
        try:
            broken = _write_images(part / ARRAY, root, files, shape)
            with (part / INDEX).open("w") as stream:
                json.dump({"made_of": made_of, "broken": broken}, stream)
                _sync(stream.fileno())
            if folder.exists():
                outdated = folder.with_name(f".{folder.name}.outdated.part")
                os.replace(folder, outdated)
                shutil.rmtree(outdated, ignore_errors=True)
            with contextlib.suppress(FileExistsError):  # without locks another process may be faster
                part.rename(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)


def _write_images(file: Path, root: Path, files: Sequence[ImageFile], shape: tuple[int, ...]) -> dict[int, str]:
    """Decode the files in threads and write them in order; return the reasons of broken ones by their places."""
    broken: dict[int, str] = {}
    _, channels, size, _ = shape
    step = min(256, BATCH_BYTES // (channels * size * size))
    with file.open("wb") as stream, console.show_progress(f"decoding {root.name}", len(files)) as advance:
        np.lib.format.write_array_header_1_0(stream, {"descr": "|u1", "fortran_order": False, "shape": shape})
        for first, images, reasons in iter_decoded(root, files, size, channels, step):
            broken |= {first + i: reason for i, reason in reasons.items()}
            stream.write(images.tobytes())
            advance(len(images))
        stream.flush()
        _sync(stream.fileno())
    return broken


def iter_decoded(
    root: Path, files: Sequence[ImageFile], size: int, channels: int, step: int
) -> Iterator[tuple[int, np.ndarray, dict[int, str]]]:
    """Yield the place of the first of `step` files, or a few more, their images, and the reasons of broken ones.

    The images are (n, channels, size, size) uint8; those of broken files are zero.
    """
    blank = np.zeros((channels, size, size), np.uint8)

    def decode(file: ImageFile) -> np.ndarray | str:
        try:
            return _images.decode(root / file.name, size, channels)
        except ValueError as error:
            return str(error)

    threads = min(MAX_THREADS, os.cpu_count() or 1)
    step = max(threads, step)
    with ThreadPoolExecutor(threads, "decode") as executor:
        for first in range(0, len(files), step):
            results = list(executor.map(decode, files[first : first + step]))
            reasons = {i: reason for i, reason in enumerate(results) if isinstance(reason, str)}
            yield first, np.stack([blank if isinstance(x, str) else x for x in results]), reasons


def count_channels(root: Path, files: Sequence[ImageFile]) -> int:
    """Return 1 if all images are grey, else 3."""
    return 3 if any(_images.has_color(root / file.name) for file in files) else 1


def _check_space(folder: Path, needed: int) -> None:
    if needed > (free := shutil.disk_usage(folder).free):
        space = f"the decoded images need {needed / 1e6:,.0f} MB in {folder}, and {free / 1e6:,.0f} MB are free"
        raise OptionError("size", f"{space}; choose a smaller size, or another XDG_CACHE_HOME")


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


@contextlib.contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """Wait until no other process has the lock of a cache; it is released when this process ends, in any way."""
    file = folder.with_name(f".{folder.name}.lock")
    with contextlib.ExitStack() as stack:
        with contextlib.suppress(OSError):  # a read-only cache, or a file system without locks
            stream = stack.enter_context(file.open("w"))
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                with console.announce("waiting for another process, which decodes the same images"):
                    fcntl.flock(stream, fcntl.LOCK_EX)
        yield
