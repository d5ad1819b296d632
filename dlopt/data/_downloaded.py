"""Data sets of images in official files: found or downloaded, held against their checksums, kept for faster reading."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch

from dlopt.base.data import Data, Dataset, Split
from dlopt.data import _cache, _idx
from dlopt.data import _files as data_files
from dlopt.data._download import fetch
from dlopt.errors import OptionError


@dataclass(frozen=True)
class DownloadedDataset(Data):
    """Images in files that are the same everywhere.

    The files are looked for in `path`; without one, where Debian's package puts them, then in dlopt's cache; missing
    ones are downloaded. What was read of official files is kept as whole numbers in the cache, under their names, sizes
    and times: when one of them is exchanged, all are read and checked again.

    path     folder of the files, and the place for those that are downloaded; null: Debian's, else dlopt's cache
    url      address, without their names, from which missing files are downloaded; null: nothing is
    verify   true: the files must be the official ones, by their SHA-256; false: any files of this format, such as your
             own. Sizes then come from the files, and there are as many classes as the largest label, and one
    """

    url: str | None
    verify: bool

    file_names: ClassVar[tuple[tuple[str, ...], ...]]
    """For each file the names it may have, that of the downloaded one first."""
    classes: ClassVar[tuple[str, ...]]
    debian: ClassVar[tuple[str, str] | None] = None
    """Debian's package, and the folder of its files."""

    def read(self, files: Sequence[Path]) -> _cache.ArrayDict:
        """Images x and x_test (N, channels, height, width) uint8 and labels y and y_test (N,) of the files."""
        raise NotImplementedError

    def check(self, file: Path) -> None:
        """Raise ValueError when a downloaded file is not what it should be."""
        raise NotImplementedError

    def load(self) -> Dataset:
        files = self._files()
        return data_files.cached_dataset(self, files, lambda: self._dataset(files))

    @property
    def _name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    def _dataset(self, files: Sequence[Path]) -> Dataset:
        place = hashlib.sha256(str(files[0].parent.resolve()).encode()).hexdigest()[:8]
        if self.verify:
            kept = _cache.cache_dir() / f"{self._name}-{place}.npz"
            arrays = _cache.load_or_make(kept, lambda: self.read(files), data_files.file_fingerprint(files))
        else:  # a small file may hold any number of zeros, which would stay in the cache
            arrays = self.read(files)
        data_files.check_memory(files[0], 4 * sum(arrays[name].size for name in ("x", "x_test")))
        labels = [arrays["y"], arrays["y_test"]]
        outputs = len(self.classes) if self.verify else 1 + max(int(y.max(initial=0)) for y in labels)
        if outputs < 2:
            raise OptionError("path", f"the labels in {files[0].parent} are of one class only")
        return Dataset(
            _split(arrays["x"], arrays["y"]),
            _split(arrays["x_test"], arrays["y_test"]),
            outputs,
            self.classes if self.verify else (),
        )

    def _files(self) -> list[Path]:
        """The files, downloaded where they are missing."""
        if self.path is None:
            folders = [_cache.cache_dir() / self._name]
            if self.debian is not None:
                folders.insert(0, Path(self.debian[1]))
        else:
            folders = [self._folder(Path(self.path).expanduser())]
        for folder in folders:
            found = [_find_file(folder, names) for names in self.file_names]
            if all(found):
                return [file for file in found if file]
        missing = [names[0] for names, file in zip(self.file_names, found, strict=True) if not file]
        package = f"install Debian's package {self.debian[0]}" if self.debian is not None else ""
        if package and self.path is not None:
            package += " and leave data.path out"
        if self.url is None:
            places = " and ".join(map(str, folders))
            raise OptionError(
                "path",
                f"{', '.join(missing)}: not in {places}; put {'it' if len(missing) == 1 else 'them'} there, "
                + (f"{package}, " if package else "")
                + "or give a data.url to download from",
            )
        if not self.url.startswith(("http://", "https://")):
            raise OptionError("url", f"must be an address that begins with http:// or https://, got {self.url}")
        here = f"put {', '.join(missing)} into {folder} yourself, or {package or 'name another folder: data.path=...'}"
        for name in missing:
            fetch(f"{self.url.rstrip('/')}/{name}", folder / name, self.check, here)
        return [file for names in self.file_names if (file := _find_file(folder, names))]

    def _folder(self, path: Path) -> Path:
        if any(path.name in names for names in self.file_names):  # one of the files: its folder is meant
            path = path.parent
        if path.exists() and not path.is_dir():
            raise OptionError("path", f"{path} is a file; name the folder that holds {self.file_names[0][0]}")
        return path


def _find_file(folder: Path, names: Sequence[str]) -> Path | None:
    return next((folder / name for name in names if (folder / name).exists()), None)


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    x = torch.from_numpy(np.require(images, requirements="W"))
    return Split(x.float().div_(255), torch.from_numpy(labels.astype(np.int64)))


@dataclass(frozen=True)
class IdxDataset(DownloadedDataset):
    """Grey images and their labels in four IDX files, compressed by gzip or not.

    Checksums are of the uncompressed bytes: the same content is found under more than one gzip header.
    """

    sha256: ClassVar[dict[str, str]]
    """Of the uncompressed content of each file."""

    FILES: ClassVar[tuple[str, ...]] = (
        "train-images-idx3-ubyte",
        "train-labels-idx1-ubyte",
        "t10k-images-idx3-ubyte",
        "t10k-labels-idx1-ubyte",
    )
    file_names: ClassVar[tuple[tuple[str, ...], ...]] = tuple((f"{name}.gz", name) for name in FILES)

    def read(self, files: Sequence[Path]) -> _cache.ArrayDict:
        arrays = {}
        for name, file in zip(("x", "y", "x_test", "y_test"), files, strict=True):
            try:
                arrays[name] = self._array(file, images=name.startswith("x"))
            except ValueError as error:
                more = "; put the official file there, or take it as it is: data.verify=false" if self.verify else ""
                raise OptionError("path", f"{file}: {error}{more}") from error
        for x, y, file in (("x", "y", files[1]), ("x_test", "y_test", files[3])):
            if len(arrays[x]) != len(arrays[y]):
                raise OptionError("path", f"{file} has {len(arrays[y])} labels for {len(arrays[x])} images")
            arrays[x] = arrays[x][:, None]
        return arrays

    def check(self, file: Path) -> None:
        name = file.name.removesuffix(".part")
        self._array(file, images="images" in name)

    def _array(self, file: Path, *, images: bool) -> np.ndarray:
        content = _idx.decompress(data_files.read_data_file(file))
        if self.verify:
            name = file.name.removesuffix(".part").removesuffix(".gz")
            found, expected = hashlib.sha256(content).hexdigest(), self.sha256[name]
            if found != expected:
                raise ValueError(
                    f"it is not the official file: the SHA-256 of its uncompressed content is {found}, not {expected}"
                )
        array = _idx.read(content)
        if images and not (array.ndim == 3 and array.dtype == np.uint8):
            raise ValueError(f"images are uint8 of shape (N, height, width), got {array.dtype} of {array.shape}")
        if not images and not (array.ndim == 1 and array.dtype.kind in "ui" and array.min(initial=0) >= 0):
            raise ValueError(f"labels are whole numbers from 0, of shape (N,), got {array.dtype} of {array.shape}")
        return array
