"""The arrays in files of numpy and torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dlopt.data import _npz, _varying
from dlopt.data._npy_files import open_numpy_file
from dlopt.errors import OptionError
from dlopt.storage import torch_file
from dlopt.storage.mapped_array import MappedArray


@contextmanager
def open_archive(file: Path, key: str) -> Iterator[_npz.NpzArrays]:
    """Open an .npz file. Errors become an OptionError at the key."""
    with open_numpy_file(file, key, b"PK", ".npz") as stream:
        yield _npz.NpzArrays(stream)


def read_tensors(file: Path, inputs: str, target: str) -> Mapping[str, Any]:
    """Return the tensors in a .pt file by name; a pair has these names. Raise OptionError if it holds others."""
    try:
        content = torch_file.load(file)
    except (torch_file.UnreadableTensorFile, OSError) as error:
        reason = getattr(error, "strerror", None) or error
        remedy = f"write tensors with torch.save({{'{inputs}': ..., '{target}': ...}}, ...)"
        raise OptionError("path", f"{file}: {reason}; {remedy}") from error
    if isinstance(content, (tuple, list)) and len(content) == 2:
        return {inputs: content[0], target: content[1]}
    if isinstance(content, dict):
        return {str(name): value for name, value in content.items()}
    raise OptionError("path", f"{file} must hold a dictionary or a pair of tensors, got a {type(content).__name__}")


def to_array(value: Any, name: str, file: Path) -> Any:
    """Return what a file holds under this name as an array of numpy; a mapped one unchanged."""
    if isinstance(value, MappedArray):
        return value
    if isinstance(value, torch.Tensor):
        value = value.detach()
        short = value.is_floating_point() and value.itemsize < 4  # numpy lacks some of these types
        return (value.float() if short else value).numpy()
    if isinstance(value, list):
        return _varying.to_objects(value)
    if not isinstance(value, np.ndarray):
        raise OptionError("path", f"{name} in {file} is a {type(value).__name__}, not a tensor")
    return value
