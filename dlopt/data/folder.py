"""Your own images in folders."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from dlopt.base.data import DataPart, DataStream, SourceRows
from dlopt.base.mapped_inputs import CHUNK_BYTES, MappedInputs
from dlopt.data import _files, _image_cache, _image_files
from dlopt.data import _targets as data_targets
from dlopt.data._image_files import ImageFile, Listing
from dlopt.data._targets import TestFraction
from dlopt.errors import OptionError, join_truncated
from dlopt.parts import Data, Dataset, Split
from dlopt.ranges import Count

IMAGES = 1 << 10
"""Largest number of images in a part of a folder that is predicted: those of a forward pass."""
SKIP = "or add data.broken=skip"


@dataclass(frozen=True)
class FolderData(Data):
    """Your own images: a folder with a folder of images for each class, as cats/1.jpg and dogs/7.png.

    The folders may lie in folders train, val and test, which are then the splits; val is optional. Without test,
    test_fraction of the training images are held out. Images are JPEG, PNG, GIF, BMP, WebP, TIFF or PPM of any size:
    the shorter side is scaled to `size`, and the square at the center is taken. Inputs are (channels, size, size) in
    0..1.

    Images are turned by their EXIF orientation; CMYK and palettes become RGB; transparent pixels are shown on white; of
    16 bits the upper 8 are taken, and of an animation the first frame. Hidden files are ignored; other files that are
    no images are counted in a notice. All images are decoded once, into dlopt's cache ($XDG_CACHE_HOME/dlopt/images),
    and again after a file was changed. From there they are read as they are needed, so they take no memory.

    `dlopt evaluate --data` takes such a folder, a folder of images without classes, or one image. `dlopt predict`
    writes a row for each image in a folder and its folders. A run recognizes its images by their names and sizes.

    path            the folder
    size            height and width of the inputs in pixels
    channels        1 (grey), 3 (RGB), or auto: 1 if all images are grey, else 3
    test_fraction   fraction of the images held out for the test if there is no folder test: a random subset, stratified
                    by class, and the same for every seed
    broken          what to do with images that cannot be decoded: refuse (with their names), or skip with a notice
    """

    size: Count
    channels: Literal["auto", 1, 3]
    test_fraction: TestFraction
    broken: Literal["refuse", "skip"]

    def files(self) -> list[Path]:
        return [_image_files.find_folder(self.path)]

    def digest(self) -> str:
        splits = _image_files.list_splits(*self.files())
        return _image_files.digest(_join_files(splits.values()), times=False)

    def load(self) -> Dataset:
        (root,) = self.files()
        splits = _image_files.list_splits(root)
        fingerprint = _image_files.digest(_join_files(splits.values()), str(root.resolve()))
        return _files.cache.load(self, fingerprint, lambda: self._dataset(root, splits))

    def load_like(self, encoding: Mapping[str, Any]) -> Dataset:
        """Load other images, encoded as in training; with folders of classes they are labeled."""
        root = Path(self.path or "").expanduser()
        splits = {} if root.is_file() else _image_files.list_splits(*self.files())
        is_labeled = any(listing.files for listing in splits.values())
        if not is_labeled:
            splits = {"train": _image_files.list_unlabeled(root)}
        root = root if root.is_dir() else root.parent
        listings = list(splits.values())
        classes = encoding.get("classes") or sorted({name for listing in listings for name in listing.classes})
        if is_labeled:
            _check_classes(listings, classes, "the run was trained on")
        if not any(listing.files for listing in listings):
            raise OptionError("path", f"there are no images in {self.path}")
        inputs, targets, kept, notices = self._decode(root, listings, classes, encoding)
        rows = torch.cat(kept)
        split = Split(inputs.select(rows), targets[rows])
        source = _make_source(listings, rows.tolist(), is_labeled=is_labeled)
        names = tuple(classes)
        return Dataset(split, split, len(names), names, {**encoding}, notices, is_labeled=is_labeled, source=source)

    def stream(self, encoding: Mapping[str, Any]) -> DataStream:
        root = Path(self.path or "").expanduser()
        listing = _image_files.list_unlabeled(root if root.is_file() else _image_files.find_folder(self.path))
        root, files = (root if root.is_dir() else root.parent), listing.files
        if not files:
            raise OptionError("path", f"there are no images in {self.path}")
        size, names = encoding.get("size", self.size), tuple(encoding.get("classes", ()))
        channels = encoding.get("channels") or _image_cache.count_channels(root, files)
        broken: dict[str, str] = {}

        def iter_parts() -> Iterator[DataPart]:
            step = _count_part(channels * size * size)
            for first, images, reasons in _image_cache.iter_decoded(root, files, size, channels, step):
                own = [file.name for file in files[first : first + len(images)]]
                broken.update((own[i], reason) for i, reason in reasons.items())
                if broken and self.broken == "refuse":
                    raise OptionError("path", f"{_describe_broken(broken)}; repair or remove them, {SKIP}")
                rows = [i for i in range(len(images)) if i not in reasons]
                inputs = MappedInputs(images[rows] if reasons else images, _scale)
                split = Split(inputs, data_targets.make_zeros(len(rows), len(names), is_classes=True))
                source = SourceRows(["file"], [[name] for name in own], rows)
                part = Dataset(split, split, len(names), names, encoding, is_labeled=False, source=source)
                yield DataPart(part, first + len(images))

        def list_notices() -> list[str]:
            return [
                *listing.notices(),
                *([f"{_describe_broken(broken)}; their rows are without a prediction"] if broken else []),
            ]

        return DataStream(iter_parts(), len(files), "examples", list_notices)

    def _dataset(self, root: Path, splits: Mapping[str, Listing]) -> Dataset:
        train = splits["train"]
        classes = sorted(set(train.classes))
        self._check_layout(root, splits, classes)
        inputs, targets, kept, notices = self._decode(root, list(splits.values()), classes, {})
        by_name = {name: Split(inputs.select(rows), targets[rows]) for name, rows in zip(splits, kept, strict=True)}
        counts = targets[kept[0]].bincount(minlength=len(classes))
        if empty := [name for name, count in zip(classes, counts, strict=True) if not count]:
            raise OptionError("path", f"all training images of {join_truncated(empty)} are broken; repair them")
        if "test" not in by_name:
            rows = data_targets.split_test(targets[kept[0]], self.test_fraction)
            by_name |= {
                name: Split(inputs.select(kept[0][chosen]), targets[kept[0][chosen]])
                for name, chosen in zip(("train", "test"), rows, strict=True)
            }
        encoding = {
            "classes": classes,
            "size": self.size,
            "channels": inputs.shape[1],
            "sha256": _image_files.digest(_join_files(splits.values()), times=False),
        }
        notices = (*notices, *_note_small_classes(by_name, classes))
        validation = by_name.get("validation")
        return Dataset(
            by_name["train"], by_name["test"], len(classes), tuple(classes), encoding, notices, validation=validation
        )

    def _check_layout(self, root: Path, splits: Mapping[str, Listing], classes: Sequence[str]) -> None:
        """Raise OptionError unless each split has images, and the training split has all classes, two or more."""
        train = splits["train"]
        reserved = {name for names in _image_files.SPLITS.values() for name in names}
        if not train.files or {name.lower() for name in classes} <= reserved:
            has_images = train.files or any(map(_image_files.is_image_name, train.others))
            found = "images but no folders of classes" if has_images else "no images"
            remedy = "put the images of each class into a folder with the name of the class"
            raise OptionError("path", f"{root} has {found}; {remedy}, such as {root.name}/cats/1.jpg")
        if len(classes) < 2:
            raise OptionError("path", f"all images in {root} are of one class, {classes[0]}; two or more are needed")
        for name, listing in splits.items():
            if not listing.files:
                raise OptionError("path", f"the folder of the {name} split in {root} has no images")
        _check_classes(list(splits.values())[1:], classes, "the training images are of")

    def _decode(
        self, root: Path, listings: Sequence[Listing], classes: Sequence[str], encoding: Mapping[str, Any]
    ) -> tuple[MappedInputs, Tensor, list[Tensor], tuple[str, ...]]:
        """Return inputs and targets of all files, the rows of each listing without broken files, and notices."""
        files = _join_files(listings)
        channels = encoding.get("channels") or (None if self.channels == "auto" else self.channels)
        images, broken = _image_cache.load_images(root, files, encoding.get("size", self.size), channels)
        notices = [notice for listing in listings for notice in listing.notices()]
        if broken:
            wrong = _describe_broken({files[i].name: reason for i, reason in broken.items()}, len(files))
            if self.broken == "refuse":
                raise OptionError("path", f"{wrong}; repair or remove them, {SKIP}")
            notices.append(f"{wrong}; they are left out")
        code = {name: i for i, name in enumerate(classes)}
        targets = torch.tensor([code.get(name, 0) for listing in listings for name in listing.classes])
        is_whole = torch.ones(len(files), dtype=torch.bool)
        is_whole[list(broken)] = False
        places = torch.arange(len(files)).split([len(listing.files) for listing in listings])
        return MappedInputs(images, _scale), targets, [rows[is_whole[rows]] for rows in places], tuple(notices)


def _count_part(pixels: int) -> int:
    """Return the number of images in a part, a multiple of those of a forward pass; `pixels` are those of an image."""
    step = max(1, min(IMAGES, CHUNK_BYTES // (4 * pixels)))
    return step * (IMAGES // step)


def _describe_broken(broken: Mapping[str, str], total: int | None = None) -> str:
    """Return which images cannot be decoded and why, among `total` if it is known."""
    images = f"image{'s' * (len(broken) > 1)}" if total is None else f"of {total:,} images"
    reasons = join_truncated(f"{name} ({reason})" for name, reason in broken.items())
    return f"{len(broken):,} {images} cannot be decoded: {reasons}"


def _scale(pixels: np.ndarray) -> Tensor:
    """Return pixels as float32 in 0..1."""
    return torch.from_numpy(pixels).float().div_(255)


def _join_files(listings: Any) -> list[ImageFile]:
    return [file for listing in listings for file in listing.files]


def _check_classes(listings: Sequence[Listing], classes: Sequence[str], known: str) -> None:
    """Raise OptionError if images are of other classes."""
    for listing in listings:
        if new := sorted(set(listing.classes) - set(classes)):
            place = listing.files[listing.classes.index(new[0])].name
            wrong = f"{place} is of an unknown class; unknown are {join_truncated(new)}"
            raise OptionError("path", f"{wrong}, and {known} {join_truncated(classes)}")


def _note_small_classes(splits: Mapping[str, Split], classes: Sequence[str]) -> Iterator[str]:
    """Yield a notice for each split without images of some classes."""
    for name, split in splits.items():
        counts = split.targets.bincount(minlength=len(classes)).tolist()
        if absent := [c for c, count in zip(classes, counts, strict=True) if not count]:
            yield f"the {name} split has no image of {join_truncated(absent)}"


def _make_source(listings: Sequence[Listing], rows: Sequence[int], *, is_labeled: bool) -> SourceRows:
    """Return the file of each image, and its class if there are classes, as a table."""
    files = [file.name for file in _join_files(listings)]
    classes = [name for listing in listings for name in listing.classes]
    header = ("file", "class")[: 1 + is_labeled]
    cells = [row[: len(header)] for row in zip(files, classes, strict=True)]
    return SourceRows(header, cells, rows)
