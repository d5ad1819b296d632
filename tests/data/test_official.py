"""Official files: search, download, checksums, formats and cache."""

import gzip
import hashlib
import os
import socket
from dataclasses import replace
from pathlib import Path

import helpers
import numpy as np
import pytest
import torch
from helpers import (
    encode_idx,
    make_cifar_batches,
    make_images,
    require_package,
    write_cifar_archive,
    write_idx_files,
)
from serving import serve_files

from dlopt.cli import main
from dlopt.data import _files, _idx
from dlopt.data.cifar10 import CIFAR10
from dlopt.data.fashion_mnist import FashionMNIST
from dlopt.data.mnist import MNIST

NAMES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache, no network, and nothing in memory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    _files.cache.clear()
    yield tmp_path / "cache" / "dlopt"
    _files.cache.clear()


@pytest.fixture
def offline(monkeypatch):
    def fail(*_, **__):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket, "getaddrinfo", fail)


@pytest.fixture
def folder(tmp_path):
    write_idx_files(tmp_path)
    return tmp_path


def option(kind=MNIST, path=None, url=None, verify=False):
    path = None if path is None else str(path)
    return kind(path=path, train_size=None, label_noise=0.0, drop_last=False, order="reshuffle", url=url, verify=verify)


def expect_refusal(data, *words, key="path"):
    helpers.assert_refused(data.load, key, *words)


def make_official(monkeypatch, folder, kind=MNIST):
    """Make the files in a folder the official ones, by their checksums."""
    content = {name: _idx.decompress((folder / f"{name}.gz").read_bytes()) for name in NAMES}
    monkeypatch.setattr(kind, "sha256", {name: hashlib.sha256(c).hexdigest() for name, c in content.items()})


# ------------------------------------------------------------------------------------------------ the real ones


def test_fashion_mnist_is_the_official_one(offline, monkeypatch):
    """Counts and first labels as its authors state them, images as they lie in the file."""
    place = FashionMNIST.debian[1]
    require_package(place, FashionMNIST.debian[0])
    data = option(FashionMNIST, verify=True).load()
    assert data.train.inputs.shape == (60000, 1, 28, 28)
    assert data.test.inputs.shape == (10000, 1, 28, 28)
    assert data.train.targets[:5].tolist() == [9, 0, 0, 3, 0]
    assert data.train.targets.bincount().tolist() == [6000] * 10
    assert data.test.targets.bincount().tolist() == [1000] * 10
    assert data.names[9] == "ankle boot"
    raw = gzip.decompress((Path(place) / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
    assert torch.equal(
        (data.test.inputs * 255).round().byte().flatten(), torch.frombuffer(bytearray(raw), dtype=torch.uint8)
    )
    _files.cache.clear()
    monkeypatch.setattr(FashionMNIST, "read", None)  # the second time from the cache
    again = option(FashionMNIST, verify=True).load()
    assert torch.equal(again.train.inputs, data.train.inputs)
    assert torch.equal(again.test.targets, data.test.targets)


# ------------------------------------------------------------------------------------------------ IDX files


@pytest.mark.parametrize("compress", [True, False])
def test_images_equal_those_in_the_files(tmp_path, offline, compress):
    write_idx_files(tmp_path, compress=compress)
    data = option(path=tmp_path).load()
    for split, count in ((data.train, 80), (data.test, 40)):
        x, y = make_images(count, (6, 5), seed=count)
        assert torch.equal(split.inputs, torch.from_numpy(x).float()[:, None] / 255)
        assert torch.equal(split.targets, torch.from_numpy(y).long())
    assert data.outputs == 10
    assert data.names == ()


def test_one_of_the_files_stands_for_its_folder_and_labels_give_the_number_of_classes(folder):
    assert len(option(path=folder / f"{NAMES[2]}.gz").load().train) == 80
    (folder / f"{NAMES[3]}.gz").write_bytes(encode_idx(np.arange(40) % 26))
    assert option(path=folder).load().outputs == 26


def test_the_second_load_uses_the_cache(folder, cache, monkeypatch):
    make_official(monkeypatch, folder)
    data = option(path=folder, verify=True)
    first = data.load()
    assert first.names == tuple("0123456789")
    assert [file.name.partition("-")[0] for file in cache.iterdir()] == ["mnist"]
    assert data.load() is first
    assert replace(data, train_size=10, label_noise=0.1, drop_last=True).load() is first
    _files.cache.clear()
    monkeypatch.setattr(MNIST, "read", None)
    assert torch.equal(data.load().train.inputs, first.train.inputs)


def test_an_exchanged_or_damaged_file_is_read_again_even_if_only_its_time_differs(folder, cache, monkeypatch):
    make_official(monkeypatch, folder)
    data = option(path=folder, verify=True)
    data.load()
    file = folder / f"{NAMES[1]}.gz"
    old = file.stat()
    labels = (np.arange(80) + 1) % 10
    file.write_bytes(gzip.compress(encode_idx(labels), mtime=0).ljust(old.st_size, b"\0"))  # zeros may follow
    assert file.stat().st_size == old.st_size
    os.utime(file, ns=(old.st_atime_ns, old.st_mtime_ns + 1))
    make_official(monkeypatch, folder)
    for _ in range(2):
        assert data.load().train.targets[:3].tolist() == [1, 2, 3]
        _files.cache.clear()
    assert len(list(cache.iterdir())) == 1
    file.write_bytes(file.read_bytes()[:30])
    expect_refusal(data, file, "damaged")


def test_each_folder_has_its_own_cached_file(folder, cache, tmp_path, monkeypatch):
    other = tmp_path / "other"
    other.mkdir()
    write_idx_files(other, train=50)
    for place, count in ((folder, 80), (other, 50), (folder, 80)):
        make_official(monkeypatch, place)
        assert len(option(path=place, verify=True).load().train) == count
    assert len(list(cache.iterdir())) == 2


def test_unverified_files_are_not_cached(folder, cache, monkeypatch):
    assert not option(path=folder).load().names
    assert not cache.exists()
    expect_refusal(option(path=folder, verify=True), "not the official file")
    make_official(monkeypatch, folder)
    assert option(path=folder, verify=True).load().names
    assert not option(path=folder).load().names


@pytest.mark.parametrize("compress", [True, False])
@pytest.mark.parametrize("which", NAMES)
def test_a_flipped_byte_is_reported_with_both_checksums(tmp_path, monkeypatch, which, compress, cache):
    write_idx_files(tmp_path)
    make_official(monkeypatch, tmp_path)
    content = _idx.decompress((tmp_path / f"{which}.gz").read_bytes())
    (tmp_path / f"{which}.gz").unlink()
    damaged = content[:-3] + bytes([content[-3] ^ 1]) + content[-2:]
    file = tmp_path / (f"{which}.gz" if compress else which)
    file.write_bytes(gzip.compress(damaged) if compress else damaged)
    words = ("not the official file", hashlib.sha256(damaged).hexdigest(), MNIST.sha256[which], "data.verify=false")
    expect_refusal(option(path=tmp_path, verify=True), file, *words)
    assert not cache.exists()


WRONG = {
    "not images": (NAMES[0], np.zeros((80, 30)), "got uint8 of (80, 30)"),
    "not labels": (NAMES[1], np.zeros((80, 2)), "got uint8 of (80, 2)"),
    "fewer labels": (NAMES[1], np.zeros(79), "has 79 labels for 80 images"),
    "fewer test images": (NAMES[2], np.zeros((39, 6, 5)), "t10k-labels-idx1-ubyte.gz has 40 labels for 39 images"),
}


@pytest.mark.parametrize("name", WRONG)
def test_files_that_do_not_fit_together_are_refused(name, folder, cache):
    which, array, words = WRONG[name]
    (folder / f"{which}.gz").write_bytes(gzip.compress(encode_idx(array)))
    expect_refusal(option(path=folder), folder, words)
    assert not cache.exists()


def test_labels_of_one_class_are_refused(folder):
    for name, count in ((NAMES[1], 80), (NAMES[3], 40)):
        (folder / f"{name}.gz").write_bytes(encode_idx(np.zeros(count)))
    expect_refusal(option(path=folder), "one class")


def test_missing_files_and_all_folders_are_named(folder, offline, cache, monkeypatch):
    for name in NAMES[1:3]:
        (folder / f"{name}.gz").unlink()
    expect_refusal(option(path=folder), f"{NAMES[1]}.gz, {NAMES[2]}.gz not found in {folder}", "data.url")
    expect_refusal(option(path=folder / "nowhere"), ", ".join(f"{name}.gz" for name in NAMES), folder / "nowhere")
    assert not (folder / "nowhere").exists()
    monkeypatch.setattr(FashionMNIST, "debian", ("dataset-fashion-mnist", str(folder / "debian")))
    expect_refusal(
        option(FashionMNIST), folder / "debian", cache / "fashion_mnist", "Debian's package dataset-fashion-mnist"
    )
    expect_refusal(option(MNIST), f"not found in {cache / 'mnist'}")
    assert not cache.exists()


def test_a_file_in_place_of_the_folder_and_a_folder_in_place_of_a_file_are_refused(folder):
    (folder / "file").touch()
    expect_refusal(option(path=folder / "file"), "is a file; name the folder")
    (folder / f"{NAMES[0]}.gz").unlink()
    (folder / f"{NAMES[0]}.gz").mkdir()
    expect_refusal(option(path=folder), f"{NAMES[0]}.gz cannot be read")


# ------------------------------------------------------------------------------------------------ downloaded


@pytest.fixture
def server(tmp_path):
    there = tmp_path / "there"
    there.mkdir()
    write_idx_files(there)
    with serve_files() as server:
        server.content = {file.name: file.read_bytes() for file in there.iterdir()}
        yield server


def test_missing_files_are_downloaded_into_the_cache(server, cache):
    data = option(url=server.url).load()
    assert len(data.train) == 80
    assert sorted(p.name for p in (cache / "mnist").iterdir()) == sorted(server.content)
    _files.cache.clear()
    server.status = 500
    option(url=server.url).load()
    assert len(server.requests) == 4


def test_only_what_is_missing_is_downloaded_into_the_path(server, tmp_path, cache):
    place = tmp_path / "place"
    place.mkdir()
    (place / NAMES[0]).write_bytes(gzip.decompress(server.content[f"{NAMES[0]}.gz"]))
    option(path=place, url=server.url.rstrip("/")).load()
    assert server.requests == [f"{name}.gz" for name in NAMES[1:]]
    assert len(list(place.iterdir())) == 4


def test_a_download_with_the_wrong_content_is_removed(server, tmp_path, monkeypatch):
    make_official(monkeypatch, tmp_path / "there")
    place = tmp_path / "place"
    server.content[f"{NAMES[1]}.gz"] = gzip.compress(encode_idx(np.ones(80)))
    expect_refusal(option(path=place, url=server.url, verify=True), "removed", "SHA-256", key="url")
    assert [p.name for p in place.iterdir()] == [f"{NAMES[0]}.gz"]
    server.content[f"{NAMES[0]}.gz"] = b"<html>log in first</html>"
    expect_refusal(option(path=tmp_path / "other", url=server.url), "removed", "IDX", key="url")
    assert not (tmp_path / "other").exists()
    expect_refusal(option(url="ftp://example.org"), "http://", "ftp://example.org", key="url")


def test_a_failed_download_names_address_folder_and_package(server, tmp_path, monkeypatch, cache):
    monkeypatch.setattr(FashionMNIST, "debian", ("dataset-fashion-mnist", str(tmp_path / "debian")))
    server.status = 503
    words = (f"{server.url}{NAMES[0]}.gz", NAMES[3], cache / "fashion_mnist", "package dataset-fashion-mnist")
    expect_refusal(option(FashionMNIST, url=server.url), *words, key="url")
    assert not cache.exists()
    words = (f"into {tmp_path / 'place'} yourself", "package dataset-fashion-mnist and leave data.path out")
    expect_refusal(option(FashionMNIST, tmp_path / "place", url=server.url), *words, key="url")
    expect_refusal(option(MNIST, url=server.url), "into", "or name another folder: data.path=", key="url")


def test_a_command_whose_download_failed_can_be_repeated(server, here, capsys):
    command = ["train", "data=mnist", "data.path=place", f"data.url={server.url}", "data.verify=false", "arch=linear",
               "epochs=1", "batch_size=10", "device=cpu"]  # fmt: skip
    server.cut_after = 1000
    assert main(command) == 2
    assert "data.url" in capsys.readouterr().err
    assert not (here / "place").exists()
    assert not (here / "outputs").exists()
    server.cut_after = None
    assert main(command) == 0
    assert sorted(p.name for p in (here / "place").iterdir()) == sorted(server.content)


# ------------------------------------------------------------------------------------------------ CIFAR-10


@pytest.fixture
def archive(tmp_path):
    return write_cifar_archive(tmp_path, make_cifar_batches())


def write_batches(folder, batches):
    place = folder / "cifar-10-batches-bin"
    place.mkdir()
    for name, content in batches.items():
        (place / name).write_bytes(content)
    return place


def test_cifar10_is_read_from_the_archive_or_its_folder(tmp_path, archive, offline, cache):
    before = set(tmp_path.iterdir())
    from_archive = option(CIFAR10, tmp_path).load()
    assert set(tmp_path.iterdir()) == before
    assert not cache.exists()
    archive.unlink()
    place = write_batches(tmp_path, make_cifar_batches())
    for path in (tmp_path, place):
        from_folder = option(CIFAR10, path).load()
        for name in ("train", "test"):
            one, other = getattr(from_archive, name), getattr(from_folder, name)
            assert torch.equal(one.inputs, other.inputs)
            assert torch.equal(one.targets, other.targets)
    assert from_archive.shape == (3, 32, 32)
    assert len(from_archive.train) == 100
    x, y = make_images(20, (3072,), seed=2)  # the third batch, byte by byte: red, green, blue, each row by row
    assert from_archive.train.targets[40:60].tolist() == y.tolist()
    third = from_archive.train.inputs[45]
    assert [round(255 * third[c, h, w].item()) for c, h, w in ((0, 0, 1), (1, 2, 3), (2, 31, 31))] == [
        x[5, 1], x[5, 1024 + 2 * 32 + 3], x[5, 3071],
    ]  # fmt: skip


def test_the_official_archive_is_checked_by_its_checksum(tmp_path, archive, monkeypatch):
    digest = hashlib.sha256(archive.read_bytes()).hexdigest()
    expect_refusal(option(CIFAR10, tmp_path, verify=True), archive, "not the official archive", digest, CIFAR10.sha256)
    monkeypatch.setattr(CIFAR10, "sha256", digest)
    expect_refusal(option(CIFAR10, tmp_path, verify=True), "61460 bytes; it must have 30730000")
    whole = archive.read_bytes()
    archive.write_bytes(whole[:200] + bytes([whole[200] ^ 1]) + whole[201:])
    expect_refusal(option(CIFAR10, tmp_path, verify=True), "not the official archive")


def test_unpacked_official_files_are_checked_by_sizes_and_counts(tmp_path):
    records = np.zeros((10000, 3073), np.uint8)
    records[:, 0] = np.arange(10000) % 10
    whole = records.tobytes()
    place = write_batches(tmp_path, dict.fromkeys(make_cifar_batches(), whole))
    images = option(CIFAR10, place, verify=True).read([place])
    assert images["x"].shape == (50000, 3, 32, 32)
    assert images["x_test"].shape == (10000, 3, 32, 32)
    (place / "test_batch.bin").write_bytes(b"\x01" + whole[1:])
    expect_refusal(option(CIFAR10, place, verify=True), place, "999, 1001, 1000", "not 1000 each")
    (place / "test_batch.bin").write_bytes(whole[:-1])
    expect_refusal(option(CIFAR10, place, verify=True), "test_batch.bin has 30729999 bytes")


def test_a_damaged_archive_is_refused(tmp_path, archive):
    whole = archive.read_bytes()
    for content in (whole[: len(whole) // 2], whole[:-6], b"", b"no archive", gzip.compress(b"no archive")):
        archive.write_bytes(content)
        expect_refusal(option(CIFAR10, tmp_path), archive)
    batches = make_cifar_batches()
    archive.write_bytes(whole[:20000] + bytes([whole[20000] ^ 1]) + whole[20001:])
    expect_refusal(option(CIFAR10, tmp_path), "damaged")
    write_cifar_archive(tmp_path, {name: content for name, content in batches.items() if name != "test_batch.bin"})
    expect_refusal(option(CIFAR10, tmp_path), "lacks test_batch.bin")
    write_cifar_archive(tmp_path, batches | {"data_batch_2.bin": batches["data_batch_2.bin"][:-1]})
    expect_refusal(option(CIFAR10, tmp_path), "data_batch_2.bin has 61459 bytes; it must have a multiple of 3073")


def test_the_archive_is_downloaded(tmp_path, archive):
    with serve_files() as server:
        server.content = {archive.name: archive.read_bytes()}
        assert len(option(CIFAR10, tmp_path / "place", url=server.url).load().train) == 100
        place = tmp_path / "other"
        expect_refusal(option(CIFAR10, place, url=server.url, verify=True), "removed", CIFAR10.sha256, key="url")
        assert not place.exists()
