"""Checkpoint files: every value comes back with its bits, and damaged or hostile files are refused."""

import hashlib
import json
import os
import struct

import pytest
import torch
from bits import write_checkpoint
from helpers import build_blobs, train_runs
from safetensors.torch import load_file, save
from torch import nn

from dlopt.storage import checkpoint_file
from dlopt.storage.checkpoint_file import DTYPES, UnreadableCheckpoint
from dlopt.training.checkpointing import find_differences

CONTENT = {
    "step": 3,
    "none": None,
    "numbers": [True, -5, 2**63, 0.1, float("nan"), float("-inf"), 1e-300],
    "pairs": ((1, 2), [], {}, ("a",)),
    "text": 'größe "sha256":"' + "0" * 64,
    "state": {0: {"m": torch.arange(6.0).reshape(2, 3).T}, "a/b": torch.zeros(0, 3)},
    "a": {"b": torch.tensor(3.0)},
    "a/b": torch.ones(2),
    "types": {name: torch.ones(3).to(getattr(torch, name)) for name in DTYPES},
    "parameter": nn.Parameter(torch.full((2,), 0.1)),
}


@pytest.fixture
def file(tmp_path):
    return tmp_path / "last.safetensors"


def test_every_value_comes_back_with_its_bits(file):
    write_checkpoint(file, CONTENT)
    content = checkpoint_file.load(file)
    assert list(find_differences(content, CONTENT)) == []
    assert [type(x) for x in content["pairs"]] == [tuple, list, dict, tuple]


def test_the_order_of_dimensions_in_memory_comes_back(file):
    """A product with a transposed matrix rounds differently than one with its copy."""
    tensors = {
        "transposed": torch.randn(5, 7).T,
        "permuted": torch.randn(2, 3, 4).permute(2, 0, 1),
        "plain": torch.randn(3, 4),
        "one": torch.randn(1, 4).T,
        "strided": torch.randn(8)[::2],
    }
    write_checkpoint(file, tensors)
    content = checkpoint_file.load(file)
    for name, tensor in tensors.items():
        assert torch.equal(content[name], tensor)
        if name != "strided":  # it is not dense in memory
            assert content[name].stride() == tensor.stride() or content[name].is_contiguous() == tensor.is_contiguous()
    assert content["transposed"].stride() == (1, 7)
    assert load_file(file)["transposed"].shape == (7, 5)


@pytest.mark.parametrize("order", [[0], [0, 0], [0, 2], [-1, 0], "ab", {"0": 1}, [True, False, 1]])
def test_an_order_that_is_not_a_permutation_is_refused(order):
    with pytest.raises(UnreadableCheckpoint, match="order"):
        checkpoint_file._restore_layout(torch.zeros(2, 3), order)


@pytest.mark.parametrize("name", ["AdamW", "LBFGS"])
def test_safetensors_reads_the_tensors_under_their_paths(name, tmp_path):
    keys = ("optimizer=torch_optim", f"optimizer.name={name}", "epochs=1", "normalization=batch")
    _, (run,) = train_runs(tmp_path, build_blobs(*keys))
    content = run.load("last")
    tensors = load_file(run.checkpoint("last"))
    assert all(torch.equal(tensors[f"model/{key}"], value) for key, value in content["model"].items())
    assert content["state"]


def test_a_value_that_is_not_plain_is_not_written(file):
    with pytest.raises(TypeError, match=r"a/x.*object"):
        write_checkpoint(file, {"a": {"x": object()}})


def test_every_flipped_bit_and_every_cut_is_noticed(file):
    write_checkpoint(file, {"step": 3, "w": torch.arange(5.0)})
    whole = file.read_bytes()
    for at in range(len(whole)):
        file.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << at % 8]) + whole[at + 1 :])
        with pytest.raises(UnreadableCheckpoint):
            checkpoint_file.load(file)
        file.write_bytes(whole[:at])
        with pytest.raises(UnreadableCheckpoint):
            checkpoint_file.load(file)
    file.write_bytes(whole + b"\0")
    with pytest.raises(UnreadableCheckpoint):
        checkpoint_file.load(file)


def encode(content: object, tensors: dict[str, object] | None = None, data: bytes = b"") -> bytes:
    """Return a file with a correct digest and any header."""
    text = content if isinstance(content, str) else json.dumps(content)
    metadata = {"content": text, "sha256": "0" * 64}
    header = json.dumps({"__metadata__": metadata, **(tensors or {})}, separators=(",", ":")).encode()
    whole = struct.pack("<Q", len(header)) + header + data
    return whole.replace(b'"sha256":"' + b"0" * 64, b'"sha256":"' + hashlib.sha256(whole).hexdigest().encode(), 1)


def tensor(shape: list[int], begin: int, end: int, kind: str = "F32") -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}


HOSTILE = {
    "another safetensors file": save({"x": torch.zeros(3)}),
    "empty": b"",
    "zeros": bytes(100),
    "a huge header": struct.pack("<Q", 1 << 60),
    "a header that is not JSON": struct.pack("<Q", 4) + b"{[[[",
    "no metadata": struct.pack("<Q", 2) + b"{}",
    "a pickle": b"\x80\x02}.",
    "a shape of terabytes": encode({"tensor": "x"}, {"x": tensor([10**6, 10**6], 0, 16)}, bytes(16)),
    "an overflowing shape": encode({"tensor": "x"}, {"x": tensor([2**62, 8], 0, 16)}, bytes(16)),
    "tensors that share bytes": encode({"dict": []}, {"x": tensor([4], 0, 16), "y": tensor([4], 0, 16)}, bytes(16)),
    "a tensor beyond the file": encode({"dict": []}, {"x": tensor([8], 0, 32)}, bytes(16)),
    "an unknown type": encode({"dict": []}, {"x": tensor([4], 0, 16, "OBJECT")}, bytes(16)),
    "a tensor that is missing": encode({"dict": [["x", {"tensor": "x"}]]}),
    "not a dictionary": encode([1, 2]),
    "deep lists": encode("[" * 100_000 + "]" * 100_000),
    "deep dictionaries": encode('{"dict":[["x",' * 200 + "1" + "]]}" * 200),
    "an unknown kind": encode({"call": ["os.system", "touch canary"]}),
    "a list as a key": encode({"dict": [[[1], 2]]}),
    "a number of many digits": encode('{"dict":[["step",' + "9" * 5000 + "]]}"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_refused(name, file):
    file.write_bytes(HOSTILE[name])
    with pytest.raises(UnreadableCheckpoint) as error:
        checkpoint_file.load(file)
    assert len(str(error.value).splitlines()) == 1


def test_the_hostile_files_have_the_format_of_checkpoints(file):
    file.write_bytes(encode({"dict": [["x", {"tensor": "x"}]]}, {"x": tensor([4], 0, 16)}, bytes(16)))
    assert torch.equal(checkpoint_file.load(file)["x"], torch.zeros(4))


def test_pipes_and_links_are_refused_and_large_files_not_read(file, tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OSError, match="pipe"):
        checkpoint_file.load(tmp_path / "pipe")
    write_checkpoint(file, {"w": torch.zeros(1000)})
    (tmp_path / "link").symlink_to(file)
    assert checkpoint_file.load(tmp_path / "link")
    with pytest.raises(OSError, match="link"):
        checkpoint_file.load(tmp_path / "link", links=False)
    os.truncate(file, 1 << 40)
    with pytest.raises(UnreadableCheckpoint, match="memory"):
        checkpoint_file.load(file)
