"""A file is whole at every instant."""

import os
import stat

import pytest

from dlopt.storage import atomic


def list_names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_at_the_end_of_the_block(tmp_path):
    """The former content can be kept under another name, and a link with the temporary name is not followed."""
    file, victim = tmp_path / "x", tmp_path / "victim"
    victim.write_text("mine")
    atomic.temp_path(file).symlink_to(victim)
    atomic.atomic_write_bytes(file, b"one")
    with atomic.atomic_write(file) as stream:
        stream.write(b"two")
        stream.flush()
        assert file.read_bytes() == b"one"
    assert file.read_bytes() == b"two"
    assert victim.read_text() == "mine"
    assert list_names(tmp_path) == ["victim", "x"]
    for former in (tmp_path / "new/y", tmp_path / "former"):
        with atomic.atomic_write(file if former.name == "former" else tmp_path / "y", former) as stream:
            stream.write(b"three")
    assert ((tmp_path / "former").read_bytes(), file.read_bytes()) == (b"two", b"three")
    assert list_names(tmp_path) == ["former", "victim", "x", "y"]


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_a_failed_write_leaves_only_the_former_content(operation, tmp_path, monkeypatch):
    file = tmp_path / "x"
    atomic.atomic_write_bytes(file, b"one")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, operation, fail)
    with pytest.raises(OSError, match="No space"):
        atomic.atomic_write_bytes(file, b"two")
    assert file.read_bytes() == b"one"
    assert list_names(tmp_path) == ["x"]


def test_the_content_reaches_the_disk_before_it_replaces_the_file(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def record_fsync(descriptor):
        calls.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(one, other):
        calls.append("replace")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(os, "replace", record_replace)
    for lasting in (True, False):
        atomic.atomic_write_bytes(tmp_path / "x", b"one", lasting=lasting)
    assert calls == ["file", "replace", "folder", "file", "replace"]
