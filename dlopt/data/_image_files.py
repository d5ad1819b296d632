"""The image files of a folder: their classes, splits, sizes and times."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from dlopt.errors import OptionError, did_you_mean, join_truncated

SUFFIXES = frozenset(
    (".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm")
)
SPLITS = {"train": ("train", "training"), "validation": ("val", "valid", "validation"), "test": ("test", "testing")}
"""Names of the folder of a split, in small letters."""
CLUTTER = frozenset(("thumbs.db", "desktop.ini", "__macosx"))
"""Files and folders of operating systems, which are ignored as hidden ones are."""


class ImageFile(NamedTuple):
    """An image file: its name below the root, its size in bytes, and its time of change."""

    name: str
    size: int
    mtime: int


@dataclass
class Listing:
    """The images of one split in order: files, the class of each (its folder; empty: none), and what is left out.

    others are files whose names are not names of images; empty are folders of classes without images.
    """

    files: list[ImageFile] = field(default_factory=list)
    classes: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    empty: list[str] = field(default_factory=list)

    def notices(self) -> Iterator[str]:
        """Yield a notice for each kind of thing that is left out."""
        if self.empty:
            yield f"folders without images are no classes: {join_truncated(self.empty)}"
        if self.others:
            kinds = "files that are no images by their names, or lie outside the folders of the classes"
            yield f"{len(self.others):,} {kinds}, are left out: {join_truncated(self.others)}"


def find_folder(path: str | None) -> Path:
    """Return the folder at a path. Raise OptionError if there is none."""
    if path is None:
        raise OptionError("path", "name the folder that holds a folder of images for each class: data.path=...")
    folder = Path(path).expanduser()
    if not folder.exists():
        if not folder.parent.is_dir():
            raise OptionError("path", f"there is no folder {path}; there is no folder {folder.parent} either")
        similar = sorted(entry.name for entry in folder.parent.iterdir() if entry.is_dir())
        raise OptionError("path", f"there is no folder {path}{did_you_mean(folder.name, similar)}")
    if not folder.is_dir():
        raise OptionError("path", f"{path} is a file; name a folder that holds a folder of images for each class")
    return folder


def list_splits(root: Path) -> dict[str, Listing]:
    """Return the images of each split that has a folder of its own: train, validation, test; else all as train."""
    try:
        folders = {entry.name: Path(entry.path) for entry in os.scandir(root) if entry.is_dir()}
    except OSError as error:
        raise OptionError("path", f"{root} cannot be read: {error.strerror or error}") from error
    by_split = {
        split: [folder for name, folder in sorted(folders.items()) if name.lower() in names]
        for split, names in SPLITS.items()
    }
    if not any(_has_folders(folder) for folder in by_split["train"]):
        return {"train": list_classes(root, root)}
    for split, found in by_split.items():
        if len(found) > 1:
            raise OptionError("path", f"{root} has two folders of the {split} split: {join_truncated(map(str, found))}")
    return {split: list_classes(root, found[0]) for split, found in by_split.items() if found}


def list_classes(root: Path, folder: Path) -> Listing:
    """Return the images in the folders of a folder, which are the classes; names are below the root."""
    listing = Listing()
    for entry in _scan(folder):
        if not entry.is_dir():
            listing.others.append(_name(entry, root))
            continue
        images = list(_list_images(entry.path, root, listing.others))
        listing.files += images
        listing.classes += [entry.name] * len(images)
        if not images:
            listing.empty.append(_name(entry, root))
    return listing


def list_unlabeled(path: Path) -> Listing:
    """Return the images of a folder without folders of classes, or one image file."""
    if not path.is_dir():
        status = path.stat()
        return Listing([ImageFile(path.name, status.st_size, status.st_mtime_ns)], [""])
    listing = Listing()
    listing.files += _list_images(str(path), path, listing.others)
    listing.classes += [""] * len(listing.files)
    return listing


def digest(files: Iterable[ImageFile], *about: object, times: bool = True) -> str:
    """Return a SHA-256 of the names, sizes and, if chosen, times of files, and of anything else."""
    sha = hashlib.sha256(repr(about).encode())
    for file in files:
        sha.update(repr(file if times else file[:2]).encode("utf-8", "surrogateescape"))
    return sha.hexdigest()


def is_image_name(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES


def _has_folders(folder: Path) -> bool:
    return any(entry.is_dir() for entry in _scan(folder))


def _scan(folder: Path | str) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name, without hidden ones."""
    try:
        entries = [e for e in os.scandir(folder) if not e.name.startswith(".") and e.name.lower() not in CLUTTER]
    except OSError as error:
        raise OptionError("path", f"{folder} cannot be read: {error.strerror or error}") from error
    return sorted(entries, key=lambda entry: entry.name)


def _list_images(folder: str, root: Path, others: list[str]) -> Iterator[ImageFile]:
    """Yield the images in a folder and the folders in it, and add the names of other files to `others`."""
    for entry in _scan(folder):
        if entry.is_dir(follow_symlinks=False):
            yield from _list_images(entry.path, root, others)
            continue
        try:
            status = entry.stat()
        except OSError:  # a link to nowhere
            status = None
        if is_image_name(entry.name) and status is not None and stat.S_ISREG(status.st_mode):
            yield ImageFile(_name(entry, root), status.st_size, status.st_mtime_ns)
        else:
            others.append(_name(entry, root))


def _name(entry: os.DirEntry[str], root: Path) -> str:
    return entry.path.removeprefix(f"{root}{os.sep}").replace(os.sep, "/")
