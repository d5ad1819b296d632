"""Files of torch.save are read as torch reads them, and hostile files are refused."""

import random
import warnings
from collections import OrderedDict

import pytest
import torch
from hostile_files import PAYLOADS, TENSORS, X, encode_dict, make_payload, pickle_writer
from torch import nn

from dlopt.storage import memory, torch_file
from dlopt.storage.torch_file import UnreadableTensorFile


def is_same(a, b):
    """Return whether two contents are the same, bit by bit."""
    if isinstance(a, torch.Tensor):
        return type(a) is type(b) and a.dtype == b.dtype and a.shape == b.shape and read_bits(a) == read_bits(b)
    if isinstance(a, dict):
        return type(a) is type(b) and list(a) == list(b) and all(is_same(a[k], b[k]) for k in a)
    if isinstance(a, (list, tuple)):
        return type(a) is type(b) and len(a) == len(b) and all(map(is_same, a, b))
    return type(a) is type(b) and repr(a) == repr(b)  # so that nan is nan


def read_bits(x):
    return x.detach().contiguous().flatten().view(torch.uint8).tolist()


@pytest.fixture
def file(tmp_path):
    return tmp_path / "my.pt"


# ------------------------------------------------------------------------------------------------ what is read

NET = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
WHOLE = torch.arange(12.0).reshape(4, 3)
KINDS = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.int16, torch.int8,
         torch.uint8, torch.bool, torch.uint16, torch.uint32, torch.uint64, torch.complex64, torch.complex128,
         torch.float8_e4m3fn)  # fmt: skip


def run_step(rule):
    """Return the state of an optimizer after one step."""
    optimizer = rule(NET.parameters())
    NET(WHOLE).sum().backward()
    optimizer.step()
    return optimizer.state_dict()


CONTENTS = {
    "a dictionary": {"x": WHOLE, "y": torch.arange(4)},
    "every type": {str(kind): torch.ones(3).to(kind) for kind in KINDS},
    "a part, a turned part and the whole": {"a": WHOLE[1:3], "b": WHOLE[:, 1:].T, "whole": WHOLE},
    "tied": {"a": WHOLE, "b": WHOLE},
    "a parameter": nn.Parameter(WHOLE),
    "needs a gradient": WHOLE.clone().requires_grad_(),
    "no numbers": torch.zeros(0, 3),
    "plain": {"a": [1, -5, 10**40, 0.5, None, True, "text", ()], 3: {"b": ((1, 2), (1, 2))}, None: float("nan")},
    "ordered": OrderedDict(b=1, a=2),
    "types, shapes and devices": [torch.float32, torch.bfloat16, WHOLE.shape, torch.device("cpu")],
    "a state dict": NET.state_dict(),
    "AdamW's state": run_step(torch.optim.AdamW),
}


@pytest.mark.parametrize("name", CONTENTS)
def test_files_of_torch_save_are_read_as_torch_reads_them(name, file):
    torch.save(CONTENTS[name], file)
    content = torch_file.load(file)
    assert is_same(content, torch.load(file, weights_only=True))
    assert is_same(content, CONTENTS[name])


# ------------------------------------------------------------------------------------------------ what is refused


def test_the_hostile_files_have_the_format_of_torch(file):
    pickle_writer(X)(file)
    expected = {"x": torch.arange(4.0).reshape(2, 2)}
    assert is_same(torch_file.load(file), expected)
    assert is_same(torch.load(file, weights_only=True), expected)


@pytest.mark.parametrize("name", TENSORS)
def test_hostile_files_are_refused_before_torch_sees_them(name, file, monkeypatch):
    write, words = TENSORS[name]
    write(file)
    monkeypatch.setattr(torch, "load", None)
    with pytest.raises(UnreadableTensorFile) as error:
        torch_file.load(file)
    assert words in str(error.value)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize("name", PAYLOADS)
@pytest.mark.parametrize("place", ["alone", "in a dictionary", "as a key", "in the old format"])
def test_nothing_in_a_file_is_called(name, place, file, tmp_path):
    canary = tmp_path / "canary"
    payload = make_payload(name, canary)
    content = {"alone": payload, "as a key": {payload: WHOLE}}.get(place, {"x": WHOLE, "y": payload})
    torch.save(content, file, _use_new_zipfile_serialization=place != "in the old format")
    with pytest.raises(UnreadableTensorFile):
        torch_file.load(file)
    assert not canary.exists()
    torch.load(file, weights_only=False)
    assert canary.exists(), "the payload works"


def test_a_file_beyond_the_available_memory_is_refused(file, monkeypatch):
    torch.save(torch.zeros(1_000_000), file)
    monkeypatch.setattr(memory, "get_available", lambda: 3_000_000)
    with pytest.raises(UnreadableTensorFile, match="needs 4 MB of memory, and 3 MB are free"):
        torch_file.load(file)


# ------------------------------------------------------------------------------------------------ damage


@pytest.fixture(scope="module")
def saved_file(tmp_path_factory):
    """Return the bytes and the content of a file of torch.save."""
    file = tmp_path_factory.mktemp("saved") / "my.pt"
    content = {"model": NET.state_dict(), "optimizer": run_step(torch.optim.AdamW), "step": 3}
    torch.save(content, file)
    return file.read_bytes(), content


def load_bytes(file, content):
    file.write_bytes(content)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return torch_file.load(file)


def test_a_file_that_is_cut_off_or_extended_is_refused(saved_file, file):
    whole, content = saved_file
    assert is_same(load_bytes(file, whole), content)
    for part in [whole + b"\0", *(whole[:size] for size in random.Random(0).sample(range(len(whole)), 60))]:
        with pytest.raises(UnreadableTensorFile):
            load_bytes(file, part)


def test_a_flipped_bit_is_noticed_or_harmless(saved_file, file):
    whole, content = saved_file
    draw, refused = random.Random(1), 0
    for _ in range(200):
        at, bit = draw.randrange(len(whole)), draw.randrange(8)
        try:
            assert is_same(load_bytes(file, whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :]), content)
        except UnreadableTensorFile:
            refused += 1
    assert 30 < refused < 200


def test_a_member_that_is_marked_as_a_folder_is_refused(file):
    """A bit of its attributes is flipped: torch then reads zeros, and zipfile the content."""
    torch.save({"w": torch.arange(5.0)}, file)
    content = bytearray(file.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 38] |= 0x10
    file.write_bytes(content)
    with pytest.raises(UnreadableTensorFile, match="marked as a folder"):
        torch_file.load(file)


def test_torch_itself_ignores_checksums(file):
    """The reason for torch_file, which could be shorter if torch compared them."""
    write, _ = TENSORS["a flipped bit of a number"]
    write(file)
    assert not torch.equal(torch.load(file, weights_only=True)["x"], torch.arange(10.0))


def test_a_pickle_of_random_instructions_is_refused_or_creates_what_torch_creates(file):
    draw, read = random.Random(2), 0
    good = encode_dict(X, X)
    for _ in range(300):
        pickled = bytearray(good)
        for _ in range(draw.randint(1, 2)):
            pickled[draw.randrange(2, len(good))] ^= 1 << draw.randrange(8)
        pickle_writer(whole=bytes(pickled))(file)
        try:
            content = torch_file.load(file)
        except UnreadableTensorFile:
            continue
        read += 1
        assert is_same(content, torch.load(file, map_location="cpu", weights_only=True))
    assert read > 3
