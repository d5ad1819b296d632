"""Files of torch.save, held to be whole and harmless before torch reads them.

Such a file is a zip archive: a pickle, and beside it the numbers of each tensor, uncompressed.

    NAME/data.pkl               the pickle: containers, and for each tensor its shape and where its numbers lie
    NAME/data/0, 1, ...         the numbers
    NAME/version, byteorder, .format_version, .storage_alignment, .data/serialization_id

torch.load with weights_only calls nothing dangerous that a pickle names, but it passes over the checksums, so that a
flipped bit becomes another weight, and it takes a pickle's word for how much memory is needed.
"""

from __future__ import annotations

import re
import struct
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any

from dlopt.storage import memory, regular_file, tensor_pickle
from dlopt.storage.tensor_pickle import UnreadableTensorFile

LONGEST_PICKLE = 1 << 26
"""Bytes. The pickle of a network of ten thousand tensors, with an optimizer's state, has some 5 MB."""
FOLDER = 0x10
"""Among the attributes of a zip archive's member."""
CHUNK = 1 << 18
ENCRYPTED = 1
LOCAL_HEADER = 30
"""Bytes before a member's name and content, at the least."""
MEMBER = re.compile(
    r"(?P<root>[^/]+)/((?P<pickle>data\.pkl)|data/(?P<key>\d+)|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id)"
)
END = struct.Struct("<4sQHHIIQQQQ 4sIQI 4sHHHHIIH")
"""The end of an archive: zip's own, and before it the long form of the same, which torch always writes."""
OTHERWISE = "where you trust it, save it anew: torch.save(torch.load(FILE, weights_only=True), NEW)"


def load(file: Path, *, links: bool = True) -> Any:
    """What torch.save wrote: dictionaries, lists and tuples of tensors (on the CPU), text and numbers.

    Nothing in the file is executed. Every byte is held against its checksum, so that a file that was cut off or damaged
    is noticed. Tensors take no more memory than the file has bytes; those that share their numbers count each, and
    may have `tensor_pickle.SHARED` times as many in all. Raises UnreadableTensorFile, which says why, and OSError if
    there is no such file.
    """
    import torch

    with regular_file.open_regular_file(file, links=links) as stream:
        try:
            memory.check(regular_file.file_size(stream))
            _check(stream)
        except memory.NotEnoughMemoryError as error:
            raise UnreadableTensorFile(str(error)) from error
        except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError) as error:
            raise UnreadableTensorFile(f"it is damaged ({_line(error)})") from error
        stream.seek(0)
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # what is left depends on torch's version, and fails in a dozen ways
            raise UnreadableTensorFile(f"torch cannot read it ({_line(error)})") from error


def _check(stream: BufferedReader) -> None:
    """That the archive is of torch.save's form and whole, and its pickle makes tensors alone."""
    if stream.read(4) != b"PK\x03\x04":
        raise UnreadableTensorFile(f"it is no archive, which torch.save writes since version 1.6; {OTHERWISE}")
    _check_end(stream)
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        _check_places(members, archive.start_dir)
        pickle, storages = _parts(members)
        for member in members:
            _check_sum(archive, member)
        tensor_pickle.check_pickle(archive.read(pickle), storages)


def _parts(members: list[zipfile.ZipInfo]) -> tuple[zipfile.ZipInfo, dict[str, int]]:
    """The pickle, and the bytes of each row of numbers beside it; no files may lie there but torch.save's."""
    pickles, storages, roots = [], {}, set()
    for member in members:
        found = MEMBER.fullmatch(member.filename)
        if found is None:
            raise UnreadableTensorFile("it holds other files than torch.save writes")
        roots.add(found["root"])
        if found["key"]:
            storages[found["key"]] = member.file_size
        if found["pickle"]:
            pickles.append(member)
    if len(pickles) != 1 or len(roots) > 1 or len({member.filename for member in members}) < len(members):
        raise UnreadableTensorFile("it holds other files than torch.save writes, or one of them twice")
    if pickles[0].file_size > LONGEST_PICKLE:
        raise UnreadableTensorFile(f"its pickle has {pickles[0].file_size:,} bytes; up to {LONGEST_PICKLE:,} are read")
    return pickles[0], storages


def _check_end(stream: BufferedReader) -> None:
    """That the directory of members stands where each of its ends says: zipfile looks at one, torch at the other."""
    at = regular_file.file_size(stream) - END.size
    if at < 0:
        raise UnreadableTensorFile("it is damaged or cut off")
    stream.seek(at)
    found = END.unpack(stream.read())
    count, length, begin = found[7:10]
    expected = (
        *(b"PK\x06\x06", 44, *found[2:4], 0, 0, count, count, length, begin),
        *(b"PK\x06\x07", 0, at, 1),
        *(b"PK\x05\x06", 0, 0, *[min(count, 0xFFFF)] * 2, min(length, 0xFFFFFFFF), min(begin, 0xFFFFFFFF), 0),
    )
    if found != expected or begin + length != at:
        raise UnreadableTensorFile("it is damaged or cut off, or not as torch.save writes it")


def _check_places(members: list[zipfile.ZipInfo], directory: int) -> None:
    """That members are uncompressed, one behind the other from the beginning up to the directory."""
    place = 0
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED and member.compress_size == member.file_size
        if not stored or member.flag_bits & ENCRYPTED:
            raise UnreadableTensorFile("it is compressed or encrypted, which torch.save does not do")
        if member.external_attr & FOLDER:  # then torch would read nothing of it
            raise UnreadableTensorFile("one of its parts is marked as a folder")
        if member.header_offset < place:
            raise UnreadableTensorFile("its parts lie in one another")
        place = member.header_offset + LOCAL_HEADER + member.file_size
    if not members or members[0].header_offset != 0 or place > directory:
        raise UnreadableTensorFile("its parts lie in one another")


def _check_sum(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    with archive.open(member) as content:
        while content.read(CHUNK):  # zipfile compares the checksum at the end
            pass


def _line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
