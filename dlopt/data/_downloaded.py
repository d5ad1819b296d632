"""Data sets of images in official files: search, download, checksums and cache."""

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
from dlopt.storage.fingerprint import fingerprint_files


@dataclass(frozen=True)
class DownloadedDataset(Data):
    """Images in official files.

    The files are searched in `path`. If it is null, they are searched in the folder of Debian's package, then in
    dlopt's cache. Missing files are downloaded. The cache keeps the arrays of official files as integers, with a
    fingerprint of the files (names, sizes, times): if a file changes, all are read and checked again.

    path     folder of the files, also for downloads; null: Debian's folder, else dlopt's cache
    url      address of the folder from which missing files are downloaded; null: never download
    verify   true: the files must be the official ones, by their SHA-256; false: any files of this format, such as your
             own. Sizes then come from the files, and the number of classes is the largest label plus one
    """

    url: str | None
    verify: bool

    file_names: ClassVar[tuple[tuple[str, ...], ...]]
    """The possible names of each file; the first is the name of the download."""
    classes: ClassVar[tuple[str, ...]]
    debian: ClassVar[tuple[str, str] | None] = None
    """Debian's package and the folder of its files."""

    def read(self, files: Sequence[Path]) -> _cache.ArrayDict:
        """Read images x, x_test (N, channels, height, width) uint8 and labels y, y_test (N,)."""
        raise NotImplementedError

    def check(self, file: Path) -> None:
        """Raise ValueError if a downloaded file is not the right one."""
        raise NotImplementedError

    def load(self) -> Dataset:
        files = self._files()
        return data_files.cache.load(self, fingerprint_files(files), lambda: self._dataset(files))

    @property
    def _name(self) -> str:
        return type(self).__module__.rpartition(".")[2]

    def _dataset(self, files: Sequence[Path]) -> Dataset:
        if self.verify:
            folder = hashlib.sha256(str(files[0].parent.resolve()).encode()).hexdigest()[:8]
            cached = _cache.cache_dir() / f"{self._name}-{folder}.npz"
            arrays = _cache.load_or_make(cached, lambda: self.read(files), fingerprint_files(files))
        else:  # a small hostile file can unpack to gigabytes of zeros, which would stay in the cache
            arrays = self.read(files)
        data_files.check_memory(files[0], 4 * sum(arrays[name].size for name in ("x", "x_test")))
        labels = [arrays["y"], arrays["y_test"]]
        outputs = len(self.classes) if self.verify else 1 + max(int(y.max(initial=0)) for y in labels)
        if outputs < 2:
            raise OptionError("path", f"all labels in {files[0].parent} are of one class; two or more are needed")
        return Dataset(
            _split(arrays["x"], arrays["y"]),
            _split(arrays["x_test"], arrays["y_test"]),
            outputs,
            self.classes if self.verify else (),
        )

    def _files(self) -> list[Path]:
        """Return the files; download the missing ones."""
        if self.path is None:
            folders = [_cache.cache_dir() / self._name]
            if self.debian is not None:
                folders.insert(0, Path(self.debian[1]))
        else:
            folders = [self._folder(Path(self.path).expanduser())]
        for folder in folders:
            if len(files := self._find_files(folder)) == len(self.file_names):
                return list(files.values())
        missing = [names[0] for names in self.file_names if names not in files]
        listed = ", ".join(missing)
        package = f"install Debian's package {self.debian[0]}" if self.debian is not None else ""
        if package and self.path is not None:
            package += " and leave data.path out"
        if self.url is None:
            remedy = f"put the files there, {package + ', ' if package else ''}or set data.url to download from"
            raise OptionError("path", f"{listed} not found in {' and '.join(map(str, folders))}; {remedy}")
        if not self.url.startswith(("http://", "https://")):
            raise OptionError("url", f"must be an address that begins with http:// or https://, got {self.url}")
        remedy = f"put {listed} into {folder} yourself, or {package or 'name another folder: data.path=...'}"
        for name in missing:
            fetch(f"{self.url.rstrip('/')}/{name}", folder / name, self.check, remedy)
        return list(self._find_files(folder).values())

    def _find_files(self, folder: Path) -> dict[tuple[str, ...], Path]:
        """Return the existing files in a folder by their possible names."""
        paths = {names: [folder / name for name in names if (folder / name).exists()] for names in self.file_names}
        return {names: files[0] for names, files in paths.items() if files}

    def _folder(self, path: Path) -> Path:
        if any(path.name in names for names in self.file_names):  # one of the files stands for its folder
            path = path.parent
        if path.exists() and not path.is_dir():
            raise OptionError("path", f"{path} is a file; name the folder that holds {self.file_names[0][0]}")
        return path


def _split(images: np.ndarray, labels: np.ndarray) -> Split:
    x = torch.from_numpy(np.require(images, requirements="W"))
    return Split(x.float().div_(255), torch.from_numpy(labels.astype(np.int64)))


@dataclass(frozen=True)
class IdxDataset(DownloadedDataset):
    """Grey images and their labels in four IDX files, compressed by gzip or not.

    The checksums are of the uncompressed content, because the same content exists under several gzip headers.
    """

    sha256: ClassVar[dict[str, str]]
    """SHA-256 of the uncompressed content of each file."""

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
                more = "; put the official file there, or accept this one: data.verify=false" if self.verify else ""
                raise OptionError("path", f"{file}: {error}{more}") from error
        for x, y, file in (("x", "y", files[1]), ("x_test", "y_test", files[3])):
            if len(arrays[x]) != len(arrays[y]):
                raise OptionError("path", f"{file} has {len(arrays[y])} labels for {len(arrays[x])} images")
            arrays[x] = arrays[x][:, None]
        return arrays

    def check(self, file: Path) -> None:
        self._array(file, images="images" in file.name)

    def _array(self, file: Path, *, images: bool) -> np.ndarray:
        content = _idx.decompress(data_files.read_data_file(file))
        if self.verify:
            digest, official = hashlib.sha256(content).hexdigest(), self.sha256[file.name.partition(".")[0]]
            if digest != official:
                raise ValueError(
                    f"not the official file: its uncompressed content has SHA-256 {digest}, not {official}"
                )
        array = _idx.read(content)
        if images and not (array.ndim == 3 and array.dtype == np.uint8):
            raise ValueError(f"images must be uint8 of shape (N, height, width), got {array.dtype} of {array.shape}")
        if not images and not (array.ndim == 1 and array.dtype.kind in "ui" and array.min(initial=0) >= 0):
            raise ValueError(f"labels must be integers >= 0 of shape (N,), got {array.dtype} of {array.shape}")
        return array
