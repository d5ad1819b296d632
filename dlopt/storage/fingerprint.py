"""Fingerprints of files: by their times, to notice a change at once, or by their content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from dlopt.storage import regular_file


def fingerprint_files(paths: Iterable[Path]) -> str:
    """Return place, size, times and inode of each file, and of each file in a folder: they differ after a change."""
    lines = []
    for path in paths:
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            status = file.stat()
            times = f"{status.st_mtime_ns} {status.st_ctime_ns}"  # copying tools set mtime, and cannot set ctime
            lines.append(f"{file.resolve()} {status.st_size} {times} {status.st_ino}")
    return "\n".join(lines)


def digest_files(paths: Iterable[Path]) -> str:
    """Return the SHA-256 of the contents; a run stores it to recognize its data later."""
    sha = hashlib.sha256()
    for path in paths:
        with regular_file.open_regular_file(path) as stream:
            while chunk := stream.read(1 << 20):
                sha.update(chunk)
    return sha.hexdigest()
