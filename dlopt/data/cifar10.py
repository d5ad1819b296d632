"""CIFAR-10."""

import gzip
import hashlib
import tarfile
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from dlopt.data import _files
from dlopt.data._cache import ArrayDict
from dlopt.data._downloaded import DownloadedDataset
from dlopt.errors import OptionError
from dlopt.storage import memory

FOLDER = "cifar-10-batches-bin"
BATCHES = (*(f"data_batch_{i}.bin" for i in range(1, 6)), "test_batch.bin")
RECORD = 1 + 3 * 32 * 32
"""Bytes of one example: its label, then the red, green and blue of its 32x32 pixels."""
MAX_OTHER_BYTES = 1 << 26
"""Bytes that an archive may hold beside the batches; in the official one there are some hundred."""


@dataclass(frozen=True)
class CIFAR10(DownloadedDataset):
    """Small photographs in ten classes: 50,000 colour images for training and 10,000 for the test.

    MLPs reach about 55%, small convolutional nets 70 to 80%, residual nets 93% and more. Inputs are in 0..1, of shape
    (3, 32, 32).

    The file is cifar-10-binary.tar.gz (170 MB), or the folder cifar-10-batches-bin unpacked from it. The archive has a
    published checksum; of the unpacked files, which have none, sizes and the count of each class are checked.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """

    file_names: ClassVar[tuple[tuple[str, ...], ...]] = (("cifar-10-binary.tar.gz", FOLDER),)
    classes: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    sha256: ClassVar[str] = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    """Of the archive."""

    def read(self, files: Sequence[Path]) -> ArrayDict:
        (place,) = files
        try:
            if place.is_dir():
                batches = {name: _files.read_data_file(place / name) for name in BATCHES if (place / name).exists()}
            else:
                self.check(place)
                batches = _read_archive(place)
            missing = [name for name in BATCHES if name not in batches]
            if missing:
                raise ValueError(f"{', '.join(missing)} not in it")
            records = {name: self._records(name, batches[name]) for name in BATCHES}
            train, test = np.concatenate([records[name] for name in BATCHES[:5]]), records[BATCHES[5]]
            if self.verify:
                _check_counts(train, 5000)
                _check_counts(test, 1000)
        except ValueError as error:
            if isinstance(error, OptionError):
                raise
            more = "; put the official one there, or take it as it is: data.verify=false" if self.verify else ""
            raise OptionError("path", f"{place}: {error}{more}") from error
        return {"x": _images(train), "y": train[:, 0], "x_test": _images(test), "y_test": test[:, 0]}

    def check(self, file: Path) -> None:
        if not self.verify:
            return
        try:
            with _files.open_data_file(file) as stream:
                found = hashlib.file_digest(stream, "sha256").hexdigest()
        except OSError as error:
            raise OptionError("path", f"{file} cannot be read: {error.strerror or error}") from error
        if found != self.sha256:
            raise ValueError(f"it is not the official archive: its SHA-256 is {found}, not {self.sha256}")

    def _records(self, name: str, content: bytes) -> np.ndarray:
        count, rest = divmod(len(content), RECORD)
        if rest or not count or (self.verify and count != 10000):
            expected = f"{10000 * RECORD} (10000 records)" if self.verify else f"a multiple of {RECORD}"
            raise ValueError(f"{name} has {len(content)} bytes; it must have {expected}")
        return np.frombuffer(content, np.uint8).reshape(count, RECORD)


def _read_archive(archive: Path) -> dict[str, bytes]:
    """The batches in an archive, by their names; nothing is written.

    Its headers are read one by one, and what they speak of is passed over unless it is a batch: links, holes and long
    names, which would be made room for, are none.
    """
    found: dict[str, bytes] = {}
    left = MAX_OTHER_BYTES
    try:
        with _files.open_data_file(archive) as stream, gzip.GzipFile(fileobj=stream) as content:
            while any(block := content.read(tarfile.BLOCKSIZE)):
                member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
                size = max(0, member.size)  # the format has negative numbers too
                folder, _, name = member.name.removeprefix("./").rpartition("/")
                if member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and folder == FOLDER and name in BATCHES:
                    if name in found:
                        raise ValueError(f"{name} is twice in it")
                    memory.check(size, name)
                    found[name] = content.read(size)
                    if len(found[name]) < size:
                        raise EOFError(f"{name} ends early")
                    size = 0
                left -= _skip(content, min(size, left + 1))
                _skip(content, -member.size % tarfile.BLOCKSIZE)
                if left < 0:
                    break
            else:
                left -= _skip(content, left + 1)  # to the end, where gzip's own checksum stands
    except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
        raise ValueError(f"the archive is damaged or cut off ({error})") from error
    if left < 0:
        raise ValueError(f"it holds more than {MAX_OTHER_BYTES} bytes beside the batches")
    return found


def _skip(content: gzip.GzipFile, size: int) -> int:
    """Read so many bytes, or fewer where the content ends; returns how many there were."""
    left = size
    while left and (chunk := content.read(min(left, 1 << 20))):
        left -= len(chunk)
    return size - left


def _check_counts(records: np.ndarray, each: int) -> None:
    counts = np.bincount(records[:, 0], minlength=10).tolist()
    if counts != [each] * 10:
        raise ValueError(f"it is not the official data: the classes have {counts} images, not {each} each")


def _images(records: np.ndarray) -> np.ndarray:
    return records[:, 1:].reshape(-1, 3, 32, 32)
