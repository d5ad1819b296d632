"""Downloads from a real server on this machine: complete and checked, or refused with nothing left behind."""

import multiprocessing
import os
import random
import signal
import socket

import helpers
import pytest
from serving import serve_files

from dlopt.data import _download
from dlopt.data._download import fetch
from dlopt.errors import OptionError

CONTENT = random.Random(0).randbytes(300_000)
OTHERWISE = "put it there yourself"


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
    fetch(f"{server.url}a.bin", file, check, OTHERWISE)


def assert_refused(server, file, *words, key="url"):
    helpers.assert_refused(lambda: download(server, file), key, *words)


def test_a_file_arrives_complete_and_its_folders_are_made(server, tmp_path):
    file = tmp_path / "some" / "where" / "a.bin"
    download(server, file)
    assert file.read_bytes() == CONTENT
    assert [p.name for p in file.parent.iterdir()] == ["a.bin"]
    assert server.requests == ["a.bin"]
    assert all(agent.startswith("dlopt/") for agent in server.agents)


def test_a_server_need_not_send_the_length(server, tmp_path):
    server.sends_length = False
    download(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_the_permissions_are_those_of_any_new_file(server, tmp_path):
    download(server, tmp_path / "a.bin")
    (tmp_path / "other").touch()
    assert (tmp_path / "a.bin").stat().st_mode == (tmp_path / "other").stat().st_mode


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


def test_no_server_is_reported_with_what_else_can_be_done(tmp_path):
    with socket.socket() as closed:  # bound, but not listening
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.bin"
        with pytest.raises(OptionError, match=f"{url} .*refused.*; {OTHERWISE}"):
            fetch(url, tmp_path / "new" / "a.bin", check, OTHERWISE)
    assert list(tmp_path.iterdir()) == []


def test_a_place_that_cannot_be_written_is_reported(server, tmp_path):
    (tmp_path / "file").touch()
    assert_refused(server, tmp_path / "file" / "a.bin", "cannot be written", key="path")
    (tmp_path / "a.bin").mkdir()
    assert_refused(server, tmp_path / "a.bin", "cannot be written", key="path")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.bin", "file"]


def _in_another_process(url, file):
    os.environ["no_proxy"] = "*"
    fetch(f"{url}a.bin", file, check, OTHERWISE)


def start(server, file):
    process = multiprocessing.get_context("spawn").Process(target=_in_another_process, args=(server.url, file))
    process.start()
    return process


def test_two_processes_do_not_disturb_each_other(server, tmp_path):
    server.gate.clear()
    processes = [start(server, tmp_path / "a.bin") for _ in range(2)]
    assert server.half_sent.wait(300)
    server.gate.set()
    download(server, tmp_path / "a.bin")
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


@pytest.mark.parametrize("kill", [signal.SIGKILL, signal.SIGINT])
def test_a_killed_download_never_looks_complete(server, tmp_path, kill):
    server.gate.clear()
    process = start(server, tmp_path / "a.bin")
    assert server.half_sent.wait(300)
    os.kill(process.pid, kill)
    process.join()
    assert process.exitcode != 0
    assert not (tmp_path / "a.bin").exists()
    if kill == signal.SIGINT:
        assert list(tmp_path.iterdir()) == []
    server.gate.set()
    download(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
