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
"""Bytes of one example: the label, then the red, green and blue values of 32x32 pixels."""
MAX_OTHER_BYTES = 1 << 24
"""Limit for the bytes of an archive besides the batches; the official one has a few hundred."""
CHUNK = 1 << 20


@dataclass(frozen=True)
class CIFAR10(DownloadedDataset):
    """Small photographs in ten classes: 50,000 colour images for training and 10,000 for the test.

    MLPs reach about 55%, small convolutional networks 70 to 80%, residual networks 93% and more. Inputs are in 0..1,
    of shape (3, 32, 32).

    The file is cifar-10-binary.tar.gz (170 MB), or the folder cifar-10-batches-bin unpacked from it. The archive is
    checked by its published checksum; the unpacked files, which have none, by their sizes and class counts.

    Source: Krizhevsky 2009, "Learning multiple layers of features from tiny images".
    """

    file_names: ClassVar[tuple[tuple[str, ...], ...]] = (("cifar-10-binary.tar.gz", FOLDER),)
    classes: ClassVar[tuple[str, ...]] = (
        "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
    )  # fmt: skip
    sha256: ClassVar[str] = "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd"
    """SHA-256 of the archive."""

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
                raise ValueError(f"it lacks {', '.join(missing)}")
            records = {name: self._records(name, batches[name]) for name in BATCHES}
            train, test = np.concatenate([records[name] for name in BATCHES[:5]]), records[BATCHES[5]]
            if self.verify:
                _check_counts(train, 5000)
                _check_counts(test, 1000)
        except ValueError as error:
            if isinstance(error, OptionError):
                raise
            more = "; put the official one there, or accept this one: data.verify=false" if self.verify else ""
            raise OptionError("path", f"{place}: {error}{more}") from error
        return {"x": _images(train), "y": train[:, 0], "x_test": _images(test), "y_test": test[:, 0]}

    def check(self, file: Path) -> None:
        if not self.verify:
            return
        with _files.open_data_file(file) as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        if digest != self.sha256:
            raise ValueError(f"it is not the official archive: its SHA-256 is {digest}, not {self.sha256}")

    def _records(self, name: str, content: bytes) -> np.ndarray:
        count, rest = divmod(len(content), RECORD)
        if rest or not count or (self.verify and count != 10000):
            expected = f"{10000 * RECORD} (10000 records)" if self.verify else f"a multiple of {RECORD}"
            raise ValueError(f"{name} has {len(content)} bytes; it must have {expected}")
        return np.frombuffer(content, np.uint8).reshape(count, RECORD)


class _BoundedReader:
    """Reads a stream, and fails after `left` bytes: neither tarfile nor gzip bounds what an archive unpacks to."""

    def __init__(self, stream: gzip.GzipFile, left: int) -> None:
        self._stream, self.left = stream, left

    def read(self, size: int) -> bytes:
        chunk = self._stream.read(min(size, self.left + 1))
        self.left -= len(chunk)
        if self.left < 0:
            raise ValueError(f"it holds more than {MAX_OTHER_BYTES} bytes besides the batches")
        return chunk


def _read_archive(archive: Path) -> dict[str, bytes]:
    """Return the batches in an archive by name. Nothing is written; links, holes and other files are skipped."""
    batches: dict[str, bytes] = {}
    with _files.open_data_file(archive) as stream:
        try:
            content = _BoundedReader(gzip.GzipFile(fileobj=stream), MAX_OTHER_BYTES)
            with tarfile.open(fileobj=content, mode="r|") as members:  # type: ignore[call-overload]
                for member in members:
                    folder, _, name = member.name.removeprefix("./").rpartition("/")
                    regular = member.type in (tarfile.REGTYPE, tarfile.AREGTYPE) and not member.issparse()
                    if not regular or folder != FOLDER or name not in BATCHES:
                        continue
                    if name in batches:
                        raise ValueError(f"it holds {name} twice")
                    memory.check(member.size, name)
                    content.left += member.size
                    batches[name] = members.extractfile(member).read()
            while content.read(CHUNK):  # gzip compares its checksum at the end
                pass
        except (tarfile.TarError, EOFError, OSError, zlib.error) as error:
            raise ValueError(f"the archive is damaged or truncated ({error})") from error
    return batches


def _check_counts(records: np.ndarray, each: int) -> None:
    counts = np.bincount(records[:, 0], minlength=10).tolist()
    if counts != [each] * 10:
        raise ValueError(f"it is not the official data: the classes have {counts} images, not {each} each")


def _images(records: np.ndarray) -> np.ndarray:
    return records[:, 1:].reshape(-1, 3, 32, 32)
