"""Check that files of torch.save are whole and harmless before torch reads them.

Such a file is a zip archive of a pickle and the numbers of each storage, uncompressed:

    NAME/data.pkl               the pickle: containers, and for each tensor its shape and where its numbers lie
    NAME/data/0, 1, ...         the numbers
    NAME/version, byteorder, .format_version, .storage_alignment, .data/serialization_id

torch.load with weights_only executes nothing dangerous. But it ignores the checksums, so a flipped bit changes a
weight, and it allocates as much memory as the pickle says.
"""

from __future__ import annotations

import re
import struct
import zipfile
from io import BufferedReader
from pathlib import Path
from typing import Any

from dlopt.formatting import get_first_line
from dlopt.storage import memory, regular_file, tensor_pickle
from dlopt.storage.tensor_pickle import UnreadableTensorFile

LONGEST_PICKLE = 1 << 26
"""Bytes. The pickle of ten thousand tensors with the state of an optimizer has 5 MB."""
FOLDER = 0x10
"""Attribute of a member of a zip archive."""
CHUNK = 1 << 18
ENCRYPTED = 1
LOCAL_HEADER = 30
"""Minimum number of bytes before the name and content of a member."""
MEMBER = re.compile(
    r"(?P<root>[^/]+)/((?P<pickle>data\.pkl)|data/(?P<key>\d+)|version|byteorder|\.format_version|\.storage_alignment"
    r"|\.data/serialization_id)"
)
END = struct.Struct("<4sQHHIIQQQQ 4sIQI 4sHHHHIIH")
"""The end of an archive: the long form, which torch always writes, and the short form of zip."""
REMEDY = "if you trust it, save it again: torch.save(torch.load(FILE, weights_only=True), NEW)"


def load(file: Path, *, links: bool = True) -> Any:
    """Return the content of a file of torch.save: containers of tensors (on the CPU), text and numbers.

    Nothing in the file is executed, and every byte is compared with its checksum. A tensor takes no more memory than
    the file has bytes; all tensors together, each counted where it occurs, at most `tensor_pickle.SHARED` times that.
    Raises UnreadableTensorFile with the reason, and OSError if there is no such file.
    """
    import torch

    with regular_file.open_regular_file(file, links=links) as stream:
        try:
            memory.check(regular_file.file_size(stream))
            _check(stream)
        except memory.NotEnoughMemoryError as error:
            raise UnreadableTensorFile(str(error)) from error
        except (zipfile.BadZipFile, NotImplementedError, EOFError, UnicodeDecodeError) as error:
            raise UnreadableTensorFile(f"it is damaged ({get_first_line(error)})") from error
        stream.seek(0)
        try:
            return torch.load(stream, map_location="cpu", weights_only=True)
        except Exception as error:  # torch raises many errors, by version
            raise UnreadableTensorFile(f"torch cannot read it ({get_first_line(error)})") from error


def _check(stream: BufferedReader) -> None:
    """Check that the archive has the form of torch.save and is whole, and that its pickle creates only tensors."""
    if stream.read(4) != b"PK\x03\x04":
        raise UnreadableTensorFile(f"it is not an archive, as torch.save writes since version 1.6; {REMEDY}")
    _check_end(stream)
    with zipfile.ZipFile(stream) as archive:
        members = archive.infolist()
        _check_places(members, archive.start_dir)
        pickle, storages = _parts(members)
        for member in members:
            _check_sum(archive, member)
        tensor_pickle.check_pickle(archive.read(pickle), storages)


def _parts(members: list[zipfile.ZipInfo]) -> tuple[zipfile.ZipInfo, dict[str, int]]:
    """Return the pickle and the bytes of each storage. Refuses files that torch.save does not write."""
    pickles, storages, roots = [], {}, set()
    for member in members:
        match = MEMBER.fullmatch(member.filename)
        if match is None:
            raise UnreadableTensorFile("it holds other files than torch.save writes")
        roots.add(match["root"])
        if match["key"]:
            storages[match["key"]] = member.file_size
        if match["pickle"]:
            pickles.append(member)
    if len(pickles) != 1 or len(roots) > 1 or len({member.filename for member in members}) < len(members):
        raise UnreadableTensorFile("it holds other files than torch.save writes, or one of them twice")
    if pickles[0].file_size > LONGEST_PICKLE:
        raise UnreadableTensorFile(f"its pickle has {pickles[0].file_size:,} bytes; up to {LONGEST_PICKLE:,} are read")
    return pickles[0], storages


def _check_end(stream: BufferedReader) -> None:
    """Check that both ends of the archive name the same directory: zipfile reads one of them, torch the other."""
    at = regular_file.file_size(stream) - END.size
    if at < 0:
        raise UnreadableTensorFile("it is damaged or cut off")
    stream.seek(at)
    fields = END.unpack(stream.read())
    count, length, begin = fields[7:10]
    expected = (
        *(b"PK\x06\x06", 44, *fields[2:4], 0, 0, count, count, length, begin),
        *(b"PK\x06\x07", 0, at, 1),
        *(b"PK\x05\x06", 0, 0, *[min(count, 0xFFFF)] * 2, min(length, 0xFFFFFFFF), min(begin, 0xFFFFFFFF), 0),
    )
    if fields != expected or begin + length != at:
        raise UnreadableTensorFile("it is damaged or cut off, or not as torch.save writes it")


def _check_places(members: list[zipfile.ZipInfo], directory: int) -> None:
    """Check that members are uncompressed and follow each other from the beginning to the directory."""
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
