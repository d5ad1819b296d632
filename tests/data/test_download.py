"""Downloads from a real server on this machine: complete and checked, or refused with nothing left behind."""

import random
import signal
import socket
import subprocess
import sys

import helpers
import pytest
from serving import serve_files

from dlopt.data import _download
from dlopt.data._download import fetch
from dlopt.errors import OptionError

CONTENT = random.Random(0).randbytes(300_000)
REMEDY = "put it there yourself"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serve_files() as server:
        server.content["a.bin"] = CONTENT
        yield server


def check(file):
    if file.read_bytes() != CONTENT:
        raise ValueError("other bytes")


def download(server, file):
    fetch(f"{server.url}a.bin", file, check, REMEDY)


def assert_refused(server, file, *words, key="url"):
    helpers.assert_refused(lambda: download(server, file), key, *words)


@pytest.mark.parametrize("sends_length", [True, False])
def test_a_file_arrives_complete_with_its_folders_and_usual_permissions(server, tmp_path, sends_length):
    server.sends_length = sends_length
    file = tmp_path / "some" / "where" / "a.bin"
    download(server, file)
    assert file.read_bytes() == CONTENT
    assert [p.name for p in file.parent.iterdir()] == ["a.bin"]
    assert server.requests == ["a.bin"]
    assert all(agent.startswith("dlopt/") for agent in server.agents)
    (tmp_path / "other").touch()
    assert file.stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize(
    "fault", ["cut off", "cut off, of unknown length", "other content", "404", "503", "a wrong length", "silent"]
)
def test_a_failed_download_leaves_nothing_behind(server, tmp_path, monkeypatch, fault):
    words = {"404": "404", "503": "503", "other content": "other bytes", "cut off, of unknown length": "other bytes"}
    if fault.startswith("cut off"):
        server.cut_after, server.sends_length = 100_000, fault == "cut off"
    elif fault == "other content":
        server.content["a.bin"] = CONTENT[:-1] + b"?"
    elif fault == "a wrong length":
        server.length = "many"
    elif fault == "silent":
        monkeypatch.setattr(_download, "TIMEOUT", 0.5)
        server.gate.clear()
    else:
        server.status = int(fault)
    assert_refused(server, tmp_path / "new" / "a.bin", f"{server.url}a.bin", words.get(fault, ""))
    assert list(tmp_path.iterdir()) == []


def test_a_missing_server_is_reported_with_the_remedy(tmp_path):
    with socket.socket() as closed:  # bound, but not listening
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.bin"
        with pytest.raises(OptionError, match=f"{url} .*refused.*; {REMEDY}"):
            fetch(url, tmp_path / "new" / "a.bin", check, REMEDY)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_not_writable_is_reported(server, tmp_path):
    (tmp_path / "file").touch()
    assert_refused(server, tmp_path / "file" / "a.bin", "cannot be written", key="path")
    (tmp_path / "a.bin").mkdir()
    assert_refused(server, tmp_path / "a.bin", "cannot be written", key="path")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "file"]


PROGRAM = """
import sys
from pathlib import Path
from dlopt.data._download import fetch
fetch(sys.argv[1], Path(sys.argv[2]), lambda file: None, "")
"""


def start(server, file):
    """Download in another process, which does not import torch."""
    return subprocess.Popen([sys.executable, "-c", PROGRAM, f"{server.url}a.bin", str(file)], stderr=subprocess.DEVNULL)


def test_two_processes_do_not_disturb_each_other(server, tmp_path):
    server.gate.clear()
    processes = [start(server, tmp_path / "a.bin") for _ in range(2)]
    assert server.half_sent.wait(300)
    server.gate.set()
    download(server, tmp_path / "a.bin")
    assert [process.wait() for process in processes] == [0, 0]
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_never_looks_complete(server, tmp_path, kill):
    server.gate.clear()
    process = start(server, tmp_path / "a.bin")
    assert server.half_sent.wait(300)
    process.send_signal(kill)
    assert process.wait() != 0
    assert not (tmp_path / "a.bin").exists()
    if kill == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
    server.gate.set()
    download(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
