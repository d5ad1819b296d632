"""Decoding of image files by Pillow to square images of 8 bits per channel."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from dlopt.storage.regular_file import open_regular_file

VERSION = 1
"""Version of what `decode` makes."""
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM")
"""No others: some formats that Pillow reads run other programs."""
MAX_PIXELS = 89_478_485
"""Largest number of pixels, as in Pillow: small files can claim more than fits into memory."""


def decode(file: Path, size: int, channels: int) -> np.ndarray:
    """Return the image of a file, (channels, size, size) uint8: its shorter side scaled to size, then its center.

    It is turned as its EXIF orientation says. Transparent pixels are shown on white, of 16 bits the upper 8 are taken,
    and of several frames the first. Raises ValueError with the reason if the file cannot be decoded.
    """
    mode = "L" if channels == 1 else "RGB"
    with _open(file) as image:
        image.draft(mode, (2 * size, 2 * size))  # a JPEG is decoded at a fraction of its size, if that is large enough
        is_turned = image.getexif().get(ExifTags.Base.Orientation, 1) != 1
        upright = ImageOps.exif_transpose(image) if is_turned else image
        square = ImageOps.fit(_convert(upright, mode), (size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(square)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


def has_color(file: Path) -> bool:
    """Return whether an image may have colors, by its header. A broken one has none."""
    try:
        with _open(file) as image:
            if image.mode == "P" and (palette := image.getpalette()) is not None:
                return not palette[::3] == palette[1::3] == palette[2::3]
            return not image.mode.startswith(("1", "L", "I", "F")) or image.mode == "LAB"
    except ValueError:
        return False


@contextmanager
def _open(file: Path) -> Iterator[Image.Image]:
    """Open an image file. Raises ValueError with the reason if it cannot be read, here or in the context."""
    try:
        with open_regular_file(file) as stream, Image.open(stream, formats=FORMATS) as image:
            if image.width * image.height > MAX_PIXELS:
                raise ValueError(f"{image.width} x {image.height} pixels are more than {MAX_PIXELS:,}")
            yield image
    except UnidentifiedImageError as error:
        wrong = "it is empty" if file.stat().st_size == 0 else f"it is not an image ({', '.join(FORMATS)})"
        raise ValueError(wrong) from error
    except Exception as error:  # broken files raise a dozen kinds of errors
        raise ValueError(str(error).partition("\n")[0] or type(error).__name__) from error


@contextmanager
def silence_warnings() -> Iterator[None]:
    """Ignore what Pillow warns of while files are decoded; broken files are reported otherwise."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _convert(image: Image.Image, mode: str) -> Image.Image:
    """Return an image of any kind as grey (L) or RGB."""
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers, which have no known range")
    if image.mode.startswith("I"):
        wide = np.asarray(image)
        if wide.min() < 0 or wide.max() > 0xFFFF:
            raise ValueError("its pixels are integers of more than 16 bits")
        image = Image.fromarray(np.round(wide / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image if image.mode == mode else image.convert(mode)
