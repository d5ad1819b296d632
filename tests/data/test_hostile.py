"""Hostile data files: nothing in them is executed or written, and they take no more memory than is available."""

import gzip
import hashlib
import json
import math
import os
import subprocess
import sys
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
from dlopt.data.mnist import MNIST
from dlopt.data.table import TableData
from dlopt.parts import Data
from dlopt.storage import memory

PLAIN = make_option("data", "arrays")
TABLE = TableData(
    path=None, train_size=None, label_noise=0.0, drop_last=False,
    target="y", drop=[], categorical=[], missing="refuse", delimiter="auto", test_fraction=0.2, kind="auto", standardize_target=True,
)  # fmt: skip
LITTLE = 100_000_000
"""Bytes that are free in these tests."""


@pytest.fixture(autouse=True)
def _little_memory(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(memory, "get_available", lambda: LITTLE)
    _files.cache.clear()


def official(option, folder):
    return make_option("data", option, path=str(folder), url=None, verify=False)


# ------------------------------------------------------------------------------------------------ refused


@pytest.mark.parametrize("name", ARRAYS)
def test_hostile_arrays_are_refused(name, tmp_path):
    write, said = ARRAYS[name]
    file = write(tmp_path / "my.npz")
    assert file.stat().st_size < 2_000_000
    assert_refused(replace(PLAIN, path=str(file)).load, "path", "my.npz", said)


@pytest.mark.parametrize("name", TENSORS)
def test_hostile_tensors_are_refused(name, tmp_path):
    write, said = TENSORS[name]
    write(tmp_path / "my.pt")
    assert_refused(replace(PLAIN, path=str(tmp_path / "my.pt")).load, "path", "my.pt", said)


@pytest.mark.parametrize("name", IMAGES)
def test_hostile_images_are_refused(name, tmp_path):
    write, said = IMAGES[name]
    assert_refused(official("mnist", write(tmp_path)).load, "path", "train-images", said)


@pytest.mark.parametrize("name", PHOTOGRAPHS)
def test_hostile_archives_of_photographs_are_refused(name, tmp_path):
    write, said = PHOTOGRAPHS[name]
    assert_refused(official("cifar10", write(tmp_path)).load, "path", "cifar-10-binary.tar.gz", said)


@pytest.mark.parametrize("name", HARMLESS)
def test_other_files_in_an_archive_are_neither_read_nor_written(name, tmp_path):
    HARMLESS[name](tmp_path)
    before = {p for p in tmp_path.parent.rglob("*") if "cache" not in p.parts}
    assert len(official("cifar10", tmp_path).load().train) == 100
    assert {p for p in tmp_path.parent.rglob("*") if "cache" not in p.parts} == before


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


def test_a_table_of_a_gigabyte_is_refused_if_less_is_available(tmp_path):
    file = tmp_path / "my.csv"
    file.touch()
    os.truncate(file, GIGABYTE)
    assert_refused(replace(TABLE, path=str(file)).load, "path", "my.csv needs 1,074 MB of memory, and 100 MB are free")
    os.truncate(file, LITTLE // 5)
    assert_refused(replace(TABLE, path=str(file)).load, "path", "my.csv needs 120 MB of memory")


def test_a_table_of_many_small_cells_is_refused_if_less_is_available(tmp_path):
    file = tmp_path / "my.csv"
    file.write_text("x,y\n" + "1,2\n" * 450_000)
    assert_refused(replace(TABLE, path=str(file)).load, "path", "my.csv needs 117 MB of memory")


def test_a_long_cell_is_refused(tmp_path):
    (tmp_path / "my.csv").write_text("x,y\n1," + "2" * 1_000_000 + "\n")
    assert_refused(replace(TABLE, path=str(tmp_path / "my.csv")).load, "path", "line 2", "field")


@pytest.mark.parametrize("kind", ["a pipe", "zeros without end"])
@pytest.mark.parametrize("option", sorted(DATA_WRITERS))
def test_pipes_and_devices_are_refused(option, kind, tmp_path):
    write_data_files(option, tmp_path)
    (first,) = tmp_path.glob({"arrays": "my.npz", "table": "my.csv", "cifar10": "cifar*"}.get(option, "train-labels*"))
    first.unlink()
    os.mkfifo(first) if kind == "a pipe" else first.symlink_to("/dev/zero")
    data = official(option, tmp_path) if option in ("mnist", "fashion_mnist", "cifar10") else None
    data = data or replace(PLAIN if option == "arrays" else TABLE, path=str(first))
    assert_refused(data.load, "path", first.name)


def test_a_pipe_among_unpacked_batches_is_refused(tmp_path):
    place = tmp_path / "cifar-10-batches-bin"
    place.mkdir()
    os.mkfifo(place / "data_batch_1.bin")
    assert_refused(
        official("cifar10", tmp_path).load, "path", "data_batch_1.bin cannot be read: it is a folder, a pipe"
    )


def test_a_cached_file_that_is_too_large_is_made_again(tmp_path, monkeypatch):
    write_data_files("mnist", tmp_path)
    files = {file.name.removesuffix(".gz"): file for file in tmp_path.glob("*ubyte.gz")}
    content = {name: gzip.decompress(file.read_bytes()) for name, file in files.items()}
    monkeypatch.setattr(MNIST, "sha256", {name: hashlib.sha256(c).hexdigest() for name, c in content.items()})
    option = replace(official("mnist", tmp_path), verify=True)
    expected = option.load()
    (kept,) = (tmp_path / "cache" / "dlopt").iterdir()
    with np.load(kept) as stored:
        made_of = stored["made_of"]
    write_npz(kept, made_of=encode_npy(made_of), x=make_npy_header(f"({BOMB_BYTES},)", "|u1") + bytes(BOMB_BYTES))
    _files.cache.clear()
    with pytest.warns(UserWarning, match="damaged"):
        assert torch.equal(option.load().train.inputs, expected.train.inputs)


def _bytes(shape: tuple[int, ...]) -> bytes:
    """An array of uint8 of such a shape, all of it zero."""
    return make_npy_header(str(shape), "|u1") + bytes(math.prod(shape))


def _arrays(folder: Path, shape: tuple[int, ...], channels: str = "first", **others: bytes) -> Data:
    file = write_npz(folder / "my.npz", x=_bytes(shape), y=encode_npy(np.arange(shape[0]) % 2), **others)
    return replace(PLAIN, path=str(file), channels=channels)


def _categories(folder: Path, rows: int, columns: int) -> Data:
    """A table in which every column has half as many different texts as there are rows."""
    names = [f"x{i}" for i in range(columns)]
    lines = [",".join([*(f"a{row // 2}" for _ in names), str(row % 2)]) for row in range(rows)]
    (folder / "my.csv").write_text("\n".join([",".join([*names, "y"]), *lines]))
    return replace(TABLE, path=str(folder / "my.csv"))


def _images(folder: Path) -> Data:
    write_idx_files(folder)
    (folder / "train-images-idx3-ubyte.gz").write_bytes(gzip.compress(encode_idx(np.zeros((40_000, 25, 25))), 1))
    (folder / "train-labels-idx1-ubyte.gz").write_bytes(gzip.compress(encode_idx(np.arange(40_000) % 2)))
    return official("mnist", folder)


GROWING: dict[str, tuple[Callable[[Path], Data], str]] = {
    "whole numbers": (lambda folder: _arrays(folder, (14_000, 1000)), "needs 113 MB"),
    "channels behind": (lambda folder: _arrays(folder, (14_000, 100, 10), "last"), "needs 113 MB"),
    "whole numbers and a test": (
        lambda folder: _arrays(folder, (14_000, 1000), x_test=_bytes((14_000, 1000)), y_test=encode_npy(np.arange(14_000) % 2)),
        "needs 115 MB",
    ),
    "labels": (lambda folder: _arrays(folder, (2_000_000, 1)), "needs 204 MB"),
    "categories": (lambda folder: _categories(folder, 6000, 1), "needs 216 MB"),
    "categories in many columns": (lambda folder: _categories(folder, 1000, 40), "needs 240 MB"),
    "images": (_images, "needs 100 MB"),
}  # fmt: skip
"""Data sets with small files whose arrays exceed the available memory."""


@pytest.mark.parametrize("name", GROWING)
def test_data_that_would_exceed_the_memory_are_refused(name, tmp_path):
    make, said = GROWING[name]
    data = make(tmp_path)
    assert sum(file.stat().st_size for file in tmp_path.iterdir() if file.is_file()) < 1_000_000
    assert_refused(data.load, "path", said)


# ------------------------------------------------------------------------------------------------ the process

CHILD = """
import json, sys
import torch
from dlopt.storage import memory
free = memory.get_available
memory.get_available = lambda: min(100_000_000, free())
from dlopt.cli import main
for words in json.loads(sys.argv[1]):
    code = main(["train", "arch=linear", "device=cpu", "threads=1", *words])
    print(code, memory.peak_memory(torch.device("cpu")))
"""


def test_bombs_take_no_memory_and_are_reported_in_one_line(tmp_path):
    """The peak memory is compared with data that the same process refuses for a wrong name."""
    (tmp_path / "my.csv").write_text("x,y\n1,2\n")
    commands = [["data=table", f"data.path={tmp_path / 'my.csv'}", "data.target=z"]]
    for name, table in (
        ("zeros", ARRAYS),
        ("a long header", ARRAYS),
        ("compressed zeros", TENSORS),
        ("one number as terabytes", TENSORS),
    ):
        file = tmp_path / f"{name.replace(' ', '_')}{'.npz' if table is ARRAYS else '.pt'}"
        table[name][0](file)
        commands.append(["data=arrays", f"data.path={file}"])
    for name, option, table in (
        ("zeros behind the images", "mnist", IMAGES),
        ("a long name", "cifar10", PHOTOGRAPHS),
    ):
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        table[name][0](folder)
        commands.append([f"data={option}", f"data.path={folder}", "data.verify=false", "data.url=null"])
    done = subprocess.run(
        [sys.executable, "-c", CHILD, json.dumps(commands)], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    codes, peaks = zip(*(map(int, line.split()) for line in done.stdout.splitlines()), strict=True)
    assert codes == (2,) * len(commands)
    assert max(peaks) < peaks[0] + BOMB_BYTES / 4
    assert done.stderr.count("data.path") == len(commands) - 1
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "outputs").exists()


# ------------------------------------------------------------------------------------------------ honest


def test_large_honest_files_are_read(tmp_path, monkeypatch):
    """Compressed a thousand to one, and as large as a tenth of what is free."""
    monkeypatch.setattr(memory, "get_available", lambda: BOMB_BYTES)
    x = np.zeros((1_000_000, 8), np.float32)
    np.savez_compressed(tmp_path / "my.npz", x=x, y=np.arange(len(x)) % 2)
    assert replace(PLAIN, path=str(tmp_path / "my.npz")).load().shape == (8,)
    torch.save({"x": torch.from_numpy(x), "y": torch.arange(len(x)) % 2}, tmp_path / "my.pt")
    assert replace(PLAIN, path=str(tmp_path / "my.pt")).load().shape == (8,)


def test_zeros_may_follow_a_compressed_file(tmp_path):
    write_data_files("mnist", tmp_path)
    file: Path = tmp_path / "train-images-idx3-ubyte.gz"
    file.write_bytes(gzip.compress(gzip.decompress(file.read_bytes())) + bytes(1000))
    assert len(official("mnist", tmp_path).load().train) == 80


def test_a_command_ends_with_2(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = ARRAYS["a header of terabytes"][0](tmp_path / "my.npz")
    assert main(["train", "data=arrays", f"data.path={file}", "arch=linear"]) == 2
    assert "data.path" in capsys.readouterr().err
