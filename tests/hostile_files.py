"""Files that an attacker might write; none takes much space on the disk.

Each function of a table writes one file. Code in a file creates a canary if it is executed.
"""

import builtins
import gzip
import io
import os
import pickle
import struct
import subprocess
import tarfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from helpers import encode_idx, make_cifar_batches, write_cifar_archive, write_idx_files

GIGABYTE = 1 << 30
BOMB_BYTES = 100_000_000
"""Bytes that bombs unpack to; a process that refuses them takes far fewer."""


class PickleCall:
    """A call that unpickling makes."""

    def __init__(self, function: Callable[..., Any], *given: Any) -> None:
        self.reduce_value = (function, given)

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return self.reduce_value


PAYLOADS: dict[str, Callable[[Path], PickleCall]] = {
    "a command": lambda canary: PickleCall(os.system, f"touch {canary}"),
    "an expression": lambda canary: PickleCall(builtins.eval, f"open({str(canary)!r}, 'w').close()"),
    "a program": lambda canary: PickleCall(builtins.exec, f"open({str(canary)!r}, 'w').close()"),
    "another pickle": lambda canary: PickleCall(pickle.loads, pickle.dumps(PickleCall(os.system, f"touch {canary}"))),
    "a path's method": lambda canary: PickleCall(Path.touch, canary),
    "a program of its own": lambda canary: PickleCall(subprocess.check_call, ["touch", str(canary)]),
}


def make_payload(name: str, canary: Path) -> PickleCall:
    """Return an object that creates a canary when it is unpickled."""
    return PAYLOADS[name](canary)


# ------------------------------------------------------------------------------------------------ files of tensors


def encode_int(value: int) -> bytes:
    size = value.bit_length() // 8 + 1
    return b"\x8a" + bytes([size]) + value.to_bytes(size, "little", signed=True)


def encode_text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def encode_ints(*values: int) -> bytes:
    return b"(" + b"".join(map(encode_int, values)) + b"t"


def encode_storage(count: int) -> bytes:
    head = encode_text("storage") + b"ctorch\nFloatStorage\n" + encode_text("0") + encode_text("cpu")
    return b"(" + head + encode_int(count) + b"tQ"


def encode_tensor(shape: tuple[int, ...], strides: tuple[int, ...], count: int, begin: int = 0) -> bytes:
    """Return the pickle of a tensor of float32 in a storage of this many numbers."""
    none = b"\x89ccollections\nOrderedDict\n)R"
    where = encode_storage(count) + encode_int(begin) + encode_ints(*shape) + encode_ints(*strides)
    return b"ctorch._utils\n_rebuild_tensor_v2\n(" + where + none + b"tR"


def encode_dict(*items: bytes) -> bytes:
    """Return the pickle of {"x": first, "y": second, ...}."""
    pairs = b"".join(encode_text(name) + item for name, item in zip("xyzuvw", items, strict=False))
    return b"\x80\x02}(" + pairs + b"u."


def write_archive(
    file: Path, members: Mapping[str, bytes] | list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED
) -> Path:
    """Write an archive with both ends, as torch does."""
    content = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(content, "w", method, compresslevel=1) as out:
        for name, data in members.items() if isinstance(members, Mapping) else members:
            out.writestr(f"my/{name}", data)
    whole = content.getvalue()
    count, length, begin = struct.unpack("<10xHII2x", whole[-22:])
    at = len(whole) - 22
    long = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 30, 45, 0, 0, count, count, length, begin)
    file.write_bytes(whole[:-22] + long + struct.pack("<4sIQI", b"PK\x06\x07", 0, at, 1) + whole[-22:])
    return file


FOUR = np.arange(4, dtype=np.float32).tobytes()


def pickle_writer(*items: bytes, whole: bytes | None = None) -> Callable[[Path], Path]:
    """Return a function that writes a file of this pickle and a storage of four numbers of float32."""
    content = whole or encode_dict(*items)
    return lambda file: write_archive(
        file, {"data.pkl": content, "data/0": FOUR, "version": b"3\n", "byteorder": b"little"}
    )


X = encode_tensor((2, 2), (2, 1), 4)
DOUBLED_TUPLES = b"(t" + b"".join(
    b"r" + struct.pack("<I", i) + b"j" + struct.pack("<I", i) + b"\x86" for i in range(60)
)
DEEP_LISTS = b"]" * 5000 + b"a" * 4999


def _torch_save_writer(content: Any, **keys: Any) -> Callable[[Path], Path]:
    def write(file: Path) -> Path:
        torch.save(content, file, **keys)
        return file

    return write


def _write_flipped_bit(file: Path) -> Path:
    torch.save({"x": torch.arange(10.0)}, file)
    whole = file.read_bytes()
    at = whole.index(torch.arange(10.0).numpy().tobytes()) + 9
    file.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
    return file


def _write_prefixed(file: Path) -> Path:
    whole = pickle_writer(X)(file).read_bytes()
    file.write_bytes(b"PK\x03\x04" + whole)
    return file


def _write_two_directories(file: Path) -> Path:
    """Write two: zipfile reads the directory before the ends, torch the one that the ends name."""
    whole = pickle_writer(X)(file).read_bytes()
    begin = struct.unpack("<Q", whole[-50:-42])[0]
    file.write_bytes(whole[:-50] + struct.pack("<Q", begin - 50) + whole[-42:])
    return file


TENSORS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "numbers that are not there": (pickle_writer(encode_tensor((10**6,), (1,), 10**6)), "1000000 numbers lie in 16 bytes"),
    "a shape beyond its numbers": (pickle_writer(encode_tensor((5,), (1,), 4)), "reaches beyond the 16 bytes"),
    "steps beyond its numbers": (pickle_writer(encode_tensor((2, 2), (10**12, 1), 4)), "reaches beyond"),
    "one number as terabytes": (pickle_writer(encode_tensor((10**6, 10**6), (0, 0), 4)), "the same numbers in many places"),
    "the same numbers in many tensors": (
        pickle_writer(whole=b"\x80\x02](" + X + b"q\x00" + b"h\x00" * 50_000 + b"e."), "share their numbers more than 8 times",
    ),
    "negative sizes": (pickle_writer(encode_tensor((-1, -4), (1, 1), 4)), "its pickle is damaged"),
    "tuples doubled sixty times": (pickle_writer(DOUBLED_TUPLES), "it holds more than"),
    "a doubled tuple as a key": (pickle_writer(whole=b"\x80\x02}" + DOUBLED_TUPLES + b"Ns."), "keys are neither text nor numbers"),
    "a shape as a key": (_torch_save_writer({torch.Size([1]): [0.0] * 9, torch.Size([2]): 1}), "keys are neither text nor numbers"),
    "a device as a key": (_torch_save_writer({torch.device("cpu"): 1}), "keys are neither text nor numbers"),
    "a list that holds itself": (pickle_writer(b"]q\x00h\x00a"), "it holds more than"),
    "lists inside lists": (pickle_writer(DEEP_LISTS), "100 containers in one another"),
    "millions of instructions": (pickle_writer(b"](" + b"N" * (1 << 21) + b"e"), "more than 2,097,152 instructions"),
    "memory by a call": (pickle_writer(b"ctorch.storage\nUntypedStorage\n(" + encode_int(10**13) + b"tR"), "calls torch.storage"),
    "memory by a tensor's class": (pickle_writer(b"ctorch\nFloatTensor\n(" + encode_int(10**12) + b"tR"), "names 'torch.FloatTensor'"),
    "a function of torch": (pickle_writer(b"ctorch._utils\n_rebuild_tensor_v2\n"), "neither a tensor"),
    "attributes of a tensor": (pickle_writer(X + b"}b"), "its pickle is damaged"),
    "hooks": (pickle_writer(X.replace(b")RtR", b")R(X\x01\x00\x00\x00aNutR")), "its pickle is damaged"),
    "a text longer than the file": (pickle_writer(b"X\xff\xff\xff\x7fa"), "its pickle is damaged"),
    "a pickle without an end": (pickle_writer(whole=b"\x80\x02}"), "its pickle is damaged"),
    "a sparse tensor": (pickle_writer(b"ctorch._utils\n_rebuild_sparse_tensor\n"), "names 'torch._utils._rebuild_sparse_tensor'"),
    "another protocol": (_torch_save_writer({"x": torch.zeros(1)}, pickle_protocol=4), "protocol 4"),
    "the old format": (_torch_save_writer({"x": torch.zeros(1)}, _use_new_zipfile_serialization=False), "save it again: torch.save("),
    "a plain pickle": (lambda file: file.write_bytes(pickle.dumps({"x": 1})) and file, "it is not an archive"),
    "nothing": (lambda file: file.touch() or file, "it is not an archive"),
    "a flipped bit of a number": (_write_flipped_bit, "damaged"),
    "an archive of another make": (lambda file: zipfile.ZipFile(file, "w").writestr("my/data.pkl", encode_dict()) or file, "damaged"),
    "something before the archive": (_write_prefixed, "damaged"),
    "two directories": (_write_two_directories, "damaged"),
    "compressed zeros": (
        lambda file: write_archive(file, {"data.pkl": encode_dict(encode_tensor((BOMB_BYTES // 4,), (1,), BOMB_BYTES // 4)), "data/0": bytes(BOMB_BYTES)}, zipfile.ZIP_DEFLATED),
        "it is compressed",
    ),
    "two pickles": (lambda file: write_archive(file, [("data.pkl", encode_dict()), ("data.pkl", encode_dict(X))]), "one of them twice"),
    "no pickle": (lambda file: write_archive(file, {"version": b"3"}), "other files"),
    "a program of TorchScript": (lambda file: write_archive(file, {"data.pkl": encode_dict(), "constants.pkl": b""}), "other files"),
    "a way out": (lambda file: write_archive(file, {"data.pkl": encode_dict(), "../../canary": b""}), "other files"),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ files of arrays


def make_npy_header(shape: str, kind: str = "<f4", length: int | None = None) -> bytes:
    """Return the header of an .npy file, true or not."""
    text = f"{{'descr': {kind!r}, 'fortran_order': False, 'shape': {shape}, }}\n".encode()
    return b"\x93NUMPY\x02\x00" + struct.pack("<I", len(text) if length is None else length) + text


def write_npz(file: Path, **arrays: bytes) -> Path:
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as out:
        for name, content in arrays.items():
            out.writestr(f"{name}.npy", content)
    return file


def encode_npy(array: np.ndarray) -> bytes:
    out = io.BytesIO()
    np.save(out, array, allow_pickle=True)
    return out.getvalue()


def _write_duplicate_array(file: Path) -> Path:
    with zipfile.ZipFile(file, "w") as out:
        out.writestr("x.npy", encode_npy(np.zeros((4, 2))))
        out.filelist.append(out.filelist[0])
    return file


Y = encode_npy(np.arange(4) % 2)
ARRAYS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a header of terabytes": (lambda file: write_npz(file, x=make_npy_header("(1000000, 1000000)"), y=Y), "x cannot be read as"),
    "negative shapes": (lambda file: write_npz(file, x=make_npy_header("(-2, -2)") + FOUR, y=Y), "x cannot be read as"),
    "a long header": (lambda file: write_npz(file, x=make_npy_header("(2, 2)", length=BOMB_BYTES) + b" " * BOMB_BYTES, y=Y), f"x needs {BOMB_BYTES / 1e6:,.0f} MB"),
    "a header of brackets": (lambda file: write_npz(file, x=make_npy_header("(" * 5000), y=Y), "x cannot be read as"),
    "a header that is a program": (lambda file: write_npz(file, x=make_npy_header("__import__('os').abort()"), y=Y), "x cannot be read as"),
    "a large type": (lambda file: write_npz(file, x=make_npy_header("(1,)", "|V999999999"), y=Y), "x cannot be read as"),
    "zeros": (lambda file: write_npz(file, x=make_npy_header(f"({BOMB_BYTES // 8}, 2)") + bytes(BOMB_BYTES), y=Y), f"x needs {BOMB_BYTES / 1e6:,.0f} MB of memory"),
    "bytes behind the numbers": (lambda file: write_npz(file, x=encode_npy(np.zeros((4, 2))) + b" ", y=Y), "x is damaged"),
    "two arrays of one name": (_write_duplicate_array, "two arrays"),
}  # fmt: skip


# ------------------------------------------------------------------------------------------------ official files


def _idx(content: bytes, zeros: int = 0) -> Callable[[Path], Path]:
    def write(folder: Path) -> Path:
        write_idx_files(folder)
        (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(content + bytes(zeros), 1))
        return folder

    return write


IMAGES: dict[str, tuple[Callable[[Path], Path], str]] = {
    "zeros behind the images": (_idx(encode_idx(np.zeros((2, 3, 4))), BOMB_BYTES), "40 bytes"),
    "zeros as images": (
        _idx(bytes([0, 0, 8, 3]) + struct.pack(">III", BOMB_BYTES // 100, 10, 10), BOMB_BYTES),
        "of memory",
    ),
    "a header of terabytes": (_idx(bytes([0, 0, 14, 3]) + b"\xff" * 12), "of memory"),
}


def make_tar_header(name: str, kind: bytes, size: int, zeros: int = 0) -> tuple[bytes, int]:
    """Return the header of a file in an archive with any size, and how many zeros follow."""
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname = kind, size, "canary"
    return info.tobuf(tarfile.GNU_FORMAT), zeros


BATCH = "cifar-10-batches-bin/data_batch_1.bin"


def _tar(*members: tuple[bytes, int], behind: int = 0) -> Callable[[Path], Path]:
    """Return a function that writes an archive of these members, the batches and zeros."""

    def write(folder: Path) -> Path:
        file = write_cifar_archive(folder, make_cifar_batches())
        before = b"".join(begins + bytes(zeros) for begins, zeros in members)
        file.write_bytes(gzip.compress(before + gzip.decompress(file.read_bytes()) + bytes(behind), 1))
        return folder

    return write


PHOTOGRAPHS: dict[str, tuple[Callable[[Path], Path], str]] = {
    "a batch of terabytes": (_tar(make_tar_header(BATCH, tarfile.REGTYPE, 10**13)), "data_batch_1.bin needs 10,000,000 MB"),
    "a batch twice": (_tar(make_tar_header(BATCH, tarfile.REGTYPE, 0)), "twice"),
    "a negative size": (_tar(make_tar_header(BATCH, tarfile.REGTYPE, -512)), "lacks"),
    "zeros beside the batches": (_tar(make_tar_header("readme", tarfile.REGTYPE, BOMB_BYTES, BOMB_BYTES)), "besides the batches"),
    "terabytes beside the batches": (_tar(make_tar_header("readme", tarfile.REGTYPE, 10**13, BOMB_BYTES)), "besides the batches"),
    "zeros behind the batches": (_tar(behind=BOMB_BYTES), "besides the batches"),
    "a long name": (_tar(make_tar_header("a", tarfile.GNUTYPE_LONGNAME, BOMB_BYTES, BOMB_BYTES)), "besides the batches"),
    "attributes": (_tar(make_tar_header("a", tarfile.XHDTYPE, BOMB_BYTES, BOMB_BYTES)), "besides the batches"),
}  # fmt: skip
HARMLESS = {
    "a link in a batch's place": _tar(make_tar_header(BATCH, tarfile.SYMTYPE, 0)),
    "a batch with holes": _tar(make_tar_header(BATCH, tarfile.GNUTYPE_SPARSE, 0)),
    "a device": _tar(make_tar_header(BATCH, tarfile.CHRTYPE, 0)),
    "a way out": _tar(
        make_tar_header("../../canary", tarfile.REGTYPE, 512, 512),
        make_tar_header("/canary", tarfile.REGTYPE, 512, 512),
    ),
}
"""Archives whose batches are read and whose other members are ignored."""
