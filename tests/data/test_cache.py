"""The cache of arrays: it returns the right arrays whatever happens to the file."""

import io
import warnings

import numpy as np
import pytest

from dlopt.data._cache import cache_dir, load_or_make
from dlopt.storage import memory


def arrays():
    return {"x": np.arange(6, dtype=np.float32).reshape(2, 3) / 7, "y": np.array([3, 1, 2])}


class Maker:
    def __init__(self):
        self.times = 0

    def __call__(self):
        self.times += 1
        return arrays()


def assert_right(loaded):
    expected = arrays()
    assert loaded.keys() == expected.keys()
    for name, array in expected.items():
        assert loaded[name].dtype == array.dtype
        np.testing.assert_array_equal(loaded[name], array)


def test_arrays_are_made_once(tmp_path):
    make, file = Maker(), tmp_path / "some" / "where" / "a.npz"
    for _ in range(3):
        assert_right(load_or_make(file, make))
    assert make.times == 1
    assert [p.name for p in file.parent.iterdir()] == ["a.npz"]


def test_arrays_of_another_source_replace_the_old_ones(tmp_path):
    make, file = Maker(), tmp_path / "a.npz"
    for made_of, times in (("a 1", 1), ("a 1", 1), ("a 2", 2), ("a 2", 2), ("", 3), ("a 2", 4)):
        assert_right(load_or_make(file, make, made_of))
        assert make.times == times
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


@pytest.mark.parametrize("change", [{"made_of": np.array("a 2")}, {"y": np.array([3, 1, 1])}])
def test_an_exchanged_array_or_source_is_noticed(tmp_path, change):
    make, file = Maker(), tmp_path / "a.npz"
    load_or_make(file, make, "a 1")
    with np.load(file) as stored:
        content = dict(stored)
    np.savez(file, **content | change)
    made_of = str(change.get("made_of", "a 1"))
    with pytest.warns(UserWarning, match=r"a\.npz is damaged"):
        assert_right(load_or_make(file, make, made_of))
    assert_right(load_or_make(file, make, made_of))
    assert make.times == 2


def encode_npy(array):
    out = io.BytesIO()
    np.save(out, array)
    return out.getvalue()


@pytest.mark.parametrize("content", [b"", b"PK", b"not an archive", encode_npy(np.ones(3)), b"PK\x03\x04" + bytes(100)])
def test_another_file_is_rewritten(tmp_path, content):
    make, file = Maker(), tmp_path / "a.npz"
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="damaged"):
        assert_right(load_or_make(file, make))
    assert_right(load_or_make(file, make))
    assert make.times == 1


def test_a_file_that_exceeds_the_memory_is_rewritten(tmp_path, monkeypatch):
    file = tmp_path / "a.npz"
    np.savez_compressed(file, made_of=np.array(""), sha256=np.array(""), x=np.zeros(10_000_000))
    monkeypatch.setattr(memory, "get_available", lambda: 1_000_000)
    with pytest.warns(UserWarning, match="damaged"):
        assert_right(load_or_make(file, arrays))


def test_a_truncated_file_is_rewritten(tmp_path):
    make, file = Maker(), tmp_path / "a.npz"
    load_or_make(file, make)
    whole = file.read_bytes()
    for size in range(0, len(whole), 100):
        file.write_bytes(whole[:size])
        with pytest.warns(UserWarning, match="damaged"):
            assert_right(load_or_make(file, make))


@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.long)])
def test_no_flipped_byte_anywhere_gives_wrong_arrays_or_an_error(tmp_path, every):
    file = tmp_path / "a.npz"
    load_or_make(file, arrays)
    good = file.read_bytes()
    for at in range(0, len(good), every):
        file.write_bytes(good[:at] + bytes([good[at] ^ 1 << at % 8]) + good[at + 1 :])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # some bytes do not matter
            assert_right(load_or_make(file, arrays))


def test_without_write_access_the_arrays_are_made_each_time(tmp_path):
    (tmp_path / "file").write_text("in the folder's place")
    make = Maker()
    for _ in range(2):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert_right(load_or_make(tmp_path / "file" / "a.npz", make))
    assert make.times == 2


def test_a_failed_write_leaves_nothing_behind(tmp_path):
    (tmp_path / "a.npz").mkdir()
    assert_right(load_or_make(tmp_path / "a.npz", arrays))
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_the_folder_follows_the_conventions_of_the_system(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_dir() == tmp_path / "dlopt"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_dir() == tmp_path / ".cache" / "dlopt"
