"""Hostile data files: nothing in them is executed or written, and they take no more memory than is available."""

import contextlib
import gzip
import io
import math
import multiprocessing
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import DATA_WRITERS, assert_refused, encode_idx, make_option, write_data_files, write_idx_files
from hostile_files import (
    ARRAYS,
    BOMB_BYTES,
    GIGABYTE,
    HARMLESS,
    IMAGES,
    PAYLOADS,
    PHOTOGRAPHS,
    TENSORS,
    encode_npy,
    make_npy_header,
    make_payload,
    write_npz,
)

from dlopt.cli import main
from dlopt.data import _files
from dlopt.parts import Data
from dlopt.storage import memory

PLAIN = make_option("data", "arrays")
TABLE = make_option("data", "table", target="y")
LITTLE = 25_000_000
"""Available bytes in these tests."""


@pytest.fixture(autouse=True)
def _little_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(memory, "get_available", lambda: LITTLE)
    _files.cache.clear()


def official(option, folder):
    return make_option("data", option, path=str(folder), url=None, verify=False)


# ------------------------------------------------------------------------------------------------ refused


CASES = {
    **{f"arrays, {name}": case for name, case in ARRAYS.items()},
    **{f"tensors, {name}": case for name, case in TENSORS.items()},
    **{f"images, {name}": case for name, case in IMAGES.items()},
    **{f"photographs, {name}": case for name, case in PHOTOGRAPHS.items()},
}


@pytest.mark.parametrize("name", CASES)
def test_hostile_files_are_refused(name, tmp_path):
    write, words = CASES[name]
    kind = name.partition(",")[0]
    file = {"arrays": "my.npz", "tensors": "my.pt", "images": "train-images", "photographs": "cifar-10-binary.tar.gz"}[
        kind
    ]
    if kind in ("arrays", "tensors"):
        write(tmp_path / file)
        data = replace(PLAIN, path=str(tmp_path / file))
    else:
        data = official("mnist" if kind == "images" else "cifar10", write(tmp_path))
    assert sum(file.stat().st_size for file in tmp_path.iterdir()) < 5_000_000
    assert_refused(data.load, "path", file, words)


@pytest.mark.parametrize("name", HARMLESS)
def test_other_files_in_an_archive_are_neither_read_nor_written(name, tmp_path):
    folder = tmp_path / "outer" / "inner"
    folder.mkdir(parents=True)
    HARMLESS[name](folder)
    before = set(tmp_path.rglob("*"))
    assert len(official("cifar10", folder).load().train) == 100
    assert set(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("form", [".npz", ".npy", ".pt"])
def test_no_code_in_data_is_executed(name, form, tmp_path):
    canary, file = tmp_path / "canary", tmp_path / f"my{form}"
    objects = np.array([make_payload(name, canary)] * 4, object)
    if form == ".pt":
        torch.save({"x": torch.zeros(4, 2), "y": objects}, file)
    elif form == ".npz":
        np.savez(file, x=objects, y=np.arange(4))
    else:
        np.save(file, objects, allow_pickle=True)
    assert_refused(replace(PLAIN, path=str(file), target=file.name if form == ".npy" else "y").load, "path", file.name)
    assert not canary.exists()


def test_tables_that_exceed_the_memory_are_refused(tmp_path):
    file = tmp_path / "my.csv"
    table = replace(TABLE, path=str(file))
    file.touch()
    os.truncate(file, GIGABYTE)
    assert_refused(table.load, "path", "my.csv needs 1,074 MB of memory, and 25 MB are free")
    os.truncate(file, LITTLE // 5)
    assert_refused(table.load, "path", "my.csv needs 30 MB of memory")
    file.write_text("x,y\n" + "1,2\n" * 112_500)
    assert_refused(table.load, "path", "my.csv needs 29 MB of memory")
    file.write_text("x,y\n1," + "2" * 1_000_000 + "\n")
    assert_refused(table.load, "path", "line 2", "field")


@pytest.mark.parametrize("kind", ["a pipe", "zeros without end"])
@pytest.mark.parametrize("option", sorted(DATA_WRITERS.keys() - {"folder"}))
def test_pipes_and_devices_are_refused(option, kind, tmp_path):
    write_data_files(option, tmp_path)
    (first,) = tmp_path.glob(
        {"arrays": "my.npz", "table": "my.csv", "text": "texts.csv", "cifar10": "cifar*"}.get(option, "train-labels*")
    )
    first.unlink()
    os.mkfifo(first) if kind == "a pipe" else first.symlink_to("/dev/zero")
    own = {"arrays": PLAIN, "table": TABLE, "text": make_option("data", "text")}.get(option)
    data = official(option, tmp_path) if own is None else replace(own, path=str(first))
    assert_refused(data.load, "path", first.name)


def test_a_pipe_among_unpacked_batches_is_refused(tmp_path):
    place = tmp_path / "cifar-10-batches-bin"
    place.mkdir()
    os.mkfifo(place / "data_batch_1.bin")
    assert_refused(
        official("cifar10", tmp_path).load, "path", "data_batch_1.bin cannot be read: it is a folder, a pipe"
    )


def _bytes(shape: tuple[int, ...]) -> bytes:
    """Return a zero array of uint8 as an .npy file."""
    return make_npy_header(str(shape), "|u1") + bytes(math.prod(shape))


def _arrays(folder: Path, shape: tuple[int, ...], channels: str = "first", **others: bytes) -> Data:
    file = write_npz(folder / "my.npz", x=_bytes(shape), y=encode_npy(np.arange(shape[0]) % 2), **others)
    return replace(PLAIN, path=str(file), channels=channels)


def _categories(folder: Path, rows: int, columns: int) -> Data:
    """Write a table in which every column has half as many different texts as rows."""
    names = [f"x{i}" for i in range(columns)]
    lines = [",".join([*(f"a{row // 2}" for _ in names), str(row % 2)]) for row in range(rows)]
    (folder / "my.csv").write_text("\n".join([",".join([*names, "y"]), *lines]))
    return replace(TABLE, path=str(folder / "my.csv"))


def _images(folder: Path) -> Data:
    write_idx_files(folder)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode_idx(np.zeros((10_000, 25, 25))), 1))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode_idx(np.arange(10_000) % 2)))
    return official("mnist", folder)


SHAPE = (3500, 1000)
TEST = {"x_test": _bytes(SHAPE), "y_test": encode_npy(np.arange(SHAPE[0]) % 2)}
GROWING: dict[str, tuple[Callable[[Path], Data], str]] = {
    "integers": (lambda folder: _arrays(folder, SHAPE), "needs 28 MB"),
    "channels last": (lambda folder: _arrays(folder, (3500, 100, 10), "last"), "needs 28 MB"),
    "integers and a test": (lambda folder: _arrays(folder, SHAPE, **TEST), "needs 29 MB"),
    "labels": (lambda folder: _arrays(folder, (500_000, 1)), "needs 51 MB"),
    "categories": (lambda folder: _categories(folder, 3000, 1), "needs 54 MB"),
    "categories in many columns": (lambda folder: _categories(folder, 500, 40), "needs 60 MB"),
    "images": (_images, "needs 25 MB"),
}
"""Data sets with small files whose arrays exceed the available memory."""


@pytest.mark.parametrize("name", GROWING)
def test_data_that_would_exceed_the_memory_are_refused(name, tmp_path):
    make, words = GROWING[name]
    data = make(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir() if file.is_file()) < 1_000_000
    assert_refused(data.load, "path", words)


# ------------------------------------------------------------------------------------------------ the process


def refuse_in_fork(commands, pipe):
    """Run commands in a forked process; send their exit codes, peak memories and messages."""
    with contextlib.redirect_stderr(io.StringIO()) as err:
        results = [(main(words), memory.peak_memory(torch.device("cpu"))) for words in commands]
    pipe.send((results, err.getvalue()))


def test_bombs_take_no_memory_and_are_reported_in_one_line(here):
    """The peak memory is compared with data that the same process refuses for a wrong name."""
    (here / "my.csv").write_text("x,y\n1,2\n")
    sources = [["data=table", "data.path=my.csv", "data.target=z"]]
    for name, cases, file in (("zeros", ARRAYS, "my.npz"), ("compressed zeros", TENSORS, "my.pt")):
        cases[name][0](here / file)
        sources.append(["data=arrays", f"data.path={file}"])
    for name, cases, option in (("zeros behind the images", IMAGES, "mnist"), ("a long name", PHOTOGRAPHS, "cifar10")):
        (here / option).mkdir()
        cases[name][0](here / option)
        sources.append([f"data={option}", f"data.path={option}", "data.verify=false", "data.url=null"])
    commands = [["train", "arch=linear", "device=cpu", "threads=1", *source] for source in sources]
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=refuse_in_fork, args=(commands, sender))
    process.start()
    results, err = receiver.recv() if receiver.poll(300) else ([], "")
    process.join()
    codes, peaks = zip(*results, strict=True)
    assert codes == (2,) * len(commands)
    assert max(peaks) < peaks[0] + BOMB_BYTES / 2
    assert err.count("data.path") == len(commands) - 1
    assert "Traceback" not in err
    assert not (here / "outputs").exists()


# ------------------------------------------------------------------------------------------------ honest


def test_large_honest_files_are_read(tmp_path, monkeypatch):
    """They are compressed a thousand to one and need a third of the available memory."""
    monkeypatch.setattr(memory, "get_available", lambda: BOMB_BYTES)
    x = np.zeros((250_000, 8), np.float32)
    np.savez_compressed(tmp_path / "my.npz", x=x, y=np.arange(len(x)) % 2)
    assert replace(PLAIN, path=str(tmp_path / "my.npz")).load().shape == (8,)
    torch.save({"x": torch.from_numpy(x), "y": torch.arange(len(x)) % 2}, tmp_path / "my.pt")
    assert replace(PLAIN, path=str(tmp_path / "my.pt")).load().shape == (8,)


def test_zeros_may_follow_a_compressed_file(tmp_path):
    write_data_files("mnist", tmp_path)
    file: Path = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())) + bytes(1000))
    assert len(official("mnist", tmp_path).load().train) == 80
