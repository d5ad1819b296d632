"""Checkpoint files: nested dictionaries of tensors and plain values in one safetensors file.

Tensors lie under their path (`model/hidden.0.weight`), so that `safetensors.torch.load_file` reads them without dlopt.
The metadata of the header holds the rest:

    content   JSON of the whole structure; {"tensor": NAME} stands for a tensor, with "order" for one whose dimensions
              lie in another order in memory
    sha256    the SHA-256 of the file, computed with 64 zeros in the place of this digest

Loading executes nothing. A file that is larger than the available memory is refused. safetensors checks that the
tensors fill the file without overlap. The digest detects a single flipped bit, which safetensors does not.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, BinaryIO

from dlopt.formatting import get_first_line
from dlopt.storage import memory, regular_file

SUFFIX = ".safetensors"
LONGEST_HEADER = 1 << 26
"""Bytes. The header of a network of ten thousand tensors, saved twice (last and best weights), has 3.4 MB."""
DEEPEST = 100
"""Levels of containers inside containers."""
KEY = b'"sha256":"'
"""The text before the digest in the header. JSON escapes quotes, so it does not occur inside another value."""
EMPTY_DIGEST = "0" * 64
DTYPES = {
    "float64": "F64", "float32": "F32", "float16": "F16", "bfloat16": "BF16", "complex64": "C64",
    "int64": "I64", "int32": "I32", "int16": "I16", "int8": "I8",
    "uint64": "U64", "uint32": "U32", "uint16": "U16", "uint8": "U8", "bool": "BOOL",
}  # fmt: skip
"""The names of torch's types in the format."""


class UnreadableCheckpoint(ValueError):
    """A file is not a whole checkpoint; the message has one line."""


def write(stream: BinaryIO, content: Mapping[str, Any], metadata: Mapping[str, str] = MappingProxyType({})) -> None:
    """Write nested dictionaries, lists and tuples of tensors, text and numbers.

    metadata are further entries of the header, which `load` does not return.

    The layout is written here and not by safetensors.torch.save, which copies all tensors: on one busy core 120 MB took
    0.5 s here and 0.9 s there. torch.save without a digest takes 0.12 s on a free core, and this 0.16 s.
    """
    tensors: dict[str, Any] = {}
    text = json.dumps(_encode(content, "", tensors))
    names = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))  # so that every tensor is aligned
    header: dict[str, Any] = {"__metadata__": {**metadata, "content": text, "sha256": EMPTY_DIGEST}}
    end = 0
    for name in names:
        tensor = tensors[name]
        begin, end = end, end + tensor.nbytes
        kind = DTYPES[str(tensor.dtype).removeprefix("torch.")]
        header[name] = {"dtype": kind, "shape": list(tensor.shape), "data_offsets": [begin, end]}
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    head = len(head).to_bytes(8, "little") + head
    parts = [_tensor_bytes(tensors[name]) for name in names]
    digest = hashlib.sha256(head)
    for part in parts:
        digest.update(part)
    stream.write(head.replace(KEY + EMPTY_DIGEST.encode(), KEY + digest.hexdigest().encode(), 1))
    for part in parts:
        stream.write(part)


def load(file: Path, *, links: bool = True) -> dict[str, Any]:
    """Return the content of a checkpoint, its tensors on the CPU.

    links: whether the file may be a symbolic link.
    Raises UnreadableCheckpoint, and OSError if there is no such file.
    """
    return _parse(_read(file, links=links))


def load_any(file: Path) -> dict[str, Any]:
    """Return the content of a checkpoint, or the tensors of a safetensors file that another program has written.

    Raises UnreadableCheckpoint, and OSError if there is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    data = _read(file, links=True)
    try:
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        if "content" not in header.get("__metadata__", {}):
            return parse(data)
    except (SafetensorError, RecursionError, ValueError, AttributeError, TypeError) as error:
        raise UnreadableCheckpoint(f"it is damaged, or not a safetensors file ({get_first_line(error)})") from error
    return _parse(data)


def _read(file: Path, *, links: bool) -> bytes:
    """Return the bytes of a file that fits into the available memory twice."""
    with regular_file.open_regular_file(file, links=links) as stream:
        size = regular_file.file_size(stream)
        try:
            memory.check(2 * size)  # the bytes of the file and the tensors
        except memory.NotEnoughMemoryError as error:
            raise UnreadableCheckpoint(str(error)) from error
        return stream.read(size)


def _parse(data: bytes) -> dict[str, Any]:
    """Return the content of a checkpoint from its bytes."""
    from safetensors import SafetensorError
    from safetensors.torch import load as parse

    try:
        metadata = _read_metadata(data)
        content = _decode(json.loads(metadata["content"]), parse(data), 0)
    except (SafetensorError, RecursionError, ValueError, KeyError, TypeError) as error:
        if isinstance(error, UnreadableCheckpoint):
            raise
        raise UnreadableCheckpoint(f"it is damaged, or not a checkpoint of dlopt ({get_first_line(error)})") from error
    if not isinstance(content, dict):
        raise UnreadableCheckpoint("its content is not a dictionary")
    return content


def _read_metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of a whole file."""
    length = int.from_bytes(data[:8], "little")
    if length > min(len(data), LONGEST_HEADER):
        raise UnreadableCheckpoint("it is damaged or cut off, or its header is too large")
    header = data[8 : 8 + length]
    metadata: dict[str, str] = json.loads(header)["__metadata__"]
    digest = metadata["sha256"].encode()
    begin = 8 + header.index(KEY + digest) + len(KEY)
    actual = hashlib.sha256(data[:begin])
    actual.update(EMPTY_DIGEST.encode())
    actual.update(memoryview(data)[begin + len(digest) :])
    if actual.hexdigest().encode() != digest:
        raise UnreadableCheckpoint("it is damaged: its SHA-256 is not the recorded one")
    return metadata


def _encode(value: Any, path: str, tensors: dict[str, Any]) -> Any:
    """Return the JSON structure of a value, and add its tensors to `tensors`."""
    from torch import Tensor

    def encode(inner: Any, key: object) -> Any:
        return _encode(inner, f"{path}/{key}" if path else str(key), tensors)

    if isinstance(value, Tensor):
        name = f"{path}#{len(tensors)}" if path in tensors else path
        tensor = value.detach().cpu()
        tensors[name] = tensor.contiguous()
        # Kernels round differently on another memory layout, such as the layout of a transposed matrix.
        strides = tensor.stride()
        order = sorted(range(tensor.ndim), key=lambda i: -strides[i])
        if not tensor.is_contiguous() and tensor.permute(order).is_contiguous():
            return {"tensor": name, "order": order}
        return {"tensor": name}
    if isinstance(value, Mapping):
        return {"dict": [[key, encode(inner, key)] for key, inner in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [encode(inner, i) for i, inner in enumerate(value)]}
    if isinstance(value, list):
        return [encode(inner, i) for i, inner in enumerate(value)]
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"{path}: a checkpoint holds tensors, text and numbers, got a {type(value).__name__}")


def _tensor_bytes(tensor: Any) -> Any:
    """Return the memory of a contiguous tensor, without a copy."""
    import torch

    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _decode(node: Any, tensors: Mapping[str, Any], depth: int) -> Any:
    """Return the value of a JSON structure."""
    if depth > DEEPEST:
        raise UnreadableCheckpoint(f"it is nested more than {DEEPEST} levels deep")
    if isinstance(node, list):
        return [_decode(inner, tensors, depth + 1) for inner in node]
    if not isinstance(node, dict):
        return node
    if "tensor" in node:
        return _restore_layout(tensors[node["tensor"]], node.get("order"))
    ((kind, inner),) = node.items()
    if kind == "tuple":
        return tuple(_decode(inner, tensors, depth))
    if kind == "dict":
        return {key: _decode(value, tensors, depth + 1) for key, value in inner}
    raise UnreadableCheckpoint(f"it holds an unknown kind of value, {kind[:80]!r}")


def _restore_layout(tensor: Any, order: Any) -> Any:
    """Return the tensor with its dimensions laid out in memory in this order, the slowest first."""
    if order is None:
        return tensor
    if not isinstance(order, list) or sorted(order) != list(range(tensor.ndim)):
        raise UnreadableCheckpoint(f"it holds a tensor of {tensor.ndim} dimensions in the order {str(order)[:80]}")
    return tensor.permute(order).contiguous().permute([order.index(i) for i in range(tensor.ndim)])
