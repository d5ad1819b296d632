"""A file is whole at every instant."""

import os
import stat

import pytest

from dlopt.storage import atomic


def names(folder):
    return sorted(p.name for p in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path):
    file = tmp_path / "x.json"
    atomic.atomic_write_bytes(file, b"one")
    atomic.atomic_write_bytes(file, b"two")
    assert file.read_bytes() == b"two"
    assert names(tmp_path) == ["x.json"]


def test_until_the_end_the_former_content_stands(tmp_path):
    file = tmp_path / "x"
    atomic.atomic_write_bytes(file, b"one")
    with atomic.atomic_write(file) as stream:
        stream.write(b"two")
        stream.flush()
        assert file.read_bytes() == b"one"
    assert file.read_bytes() == b"two"


@pytest.mark.parametrize("operation", ["fsync", "replace"])
def test_what_fails_leaves_the_former_content_and_nothing_beside(operation, tmp_path, monkeypatch):
    file = tmp_path / "x"
    atomic.atomic_write_bytes(file, b"one")

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, operation, fail)
    with pytest.raises(OSError, match="No space"):
        atomic.atomic_write_bytes(file, b"two")
    assert file.read_bytes() == b"one"
    assert names(tmp_path) == ["x"]


def test_the_content_reaches_the_disk_before_it_takes_the_place(tmp_path, monkeypatch):
    done = []
    fsync, replace = os.fsync, os.replace

    def seen(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        done.append(f"{kind} reached")
        fsync(descriptor)

    def moved(one, other):
        done.append("replaced")
        replace(one, other)

    monkeypatch.setattr(os, "fsync", seen)
    monkeypatch.setattr(os, "replace", moved)
    atomic.atomic_write_bytes(tmp_path / "x", b"one")
    assert done == ["file reached", "replaced", "folder reached"]
    done.clear()
    atomic.atomic_write_bytes(tmp_path / "x", b"two", lasting=False)
    assert done == ["file reached", "replaced"]


def test_the_former_content_can_be_kept_under_another_name(tmp_path):
    file, former = tmp_path / "x", tmp_path / "before"
    with atomic.atomic_write(file, former) as stream:
        stream.write(b"one")
    assert names(tmp_path) == ["x"]
    with atomic.atomic_write(file, former) as stream:
        stream.write(b"two")
    assert (file.read_bytes(), former.read_bytes()) == (b"two", b"one")


def test_a_link_that_lies_beside_is_not_followed(tmp_path):
    other = tmp_path / "other"
    other.write_text("mine")
    (tmp_path / "x.tmp").symlink_to(other)
    atomic.atomic_write_bytes(tmp_path / "x", b"one")
    assert other.read_text() == "mine"
    assert (tmp_path / "x").read_bytes() == b"one"
