"""Downloads from a real server on this machine: gone on with, refused, checked, and never half in place."""

import multiprocessing
import os
import random
import socket
import threading

import helpers
import pytest
from serving import serve_files

from dlopt.data import _download as module
from dlopt.data._download import fetch
from dlopt.errors import OptionError

CONTENT = random.Random(0).randbytes(300_000)
ELSE = "put it there yourself"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("no_proxy", "*")
    with serve_files() as found:
        found.content["a.bin"] = CONTENT
        yield found


def check(file):
    if file.read_bytes() != CONTENT:
        raise ValueError("other bytes")


def bring(server, file):
    fetch(f"{server.url}a.bin", file, check, ELSE)


def refused(server, file, *said, key="url"):
    helpers.assert_refused(lambda: bring(server, file), key, *said)


def test_a_file_comes_whole_into_folders_that_are_made(server, tmp_path):
    file = tmp_path / "some" / "where" / "a.bin"
    bring(server, file)
    assert file.read_bytes() == CONTENT
    assert [p.name for p in file.parent.iterdir()] == ["a.bin"]
    assert server.requests == [("a.bin", None)]
    assert all(agent.startswith("dlopt/") for agent in server.agents)


@pytest.mark.parametrize("sized", [True, False])
def test_a_transfer_that_breaks_off_goes_on_where_it_was(server, tmp_path, sized):
    file, part = tmp_path / "a.bin", tmp_path / "a.bin.part"
    server.cut_after = 100_000
    refused(server, file, "broke off after 100,000 of 300,000 bytes", "the same command goes on from there")
    assert part.read_bytes() == CONTENT[:100_000]
    assert not file.exists()
    refused(server, file, "broke off after 200,000 of 300,000 bytes")
    server.cut_after, server.sends_length = None, sized
    bring(server, file)
    assert file.read_bytes() == CONTENT
    assert not part.exists()
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-", "bytes=200000-"]


def test_a_server_without_ranges_sends_all_of_it_again(server, tmp_path):
    server.cut_after = 100_000
    refused(server, tmp_path / "a.bin", "broke off")
    server.cut_after, server.supports_ranges = None, False
    bring(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_server_that_begins_elsewhere_than_asked_is_asked_for_all_of_it(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:1000])
    server.shift = 5
    bring(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == ["bytes=1000-", None]


def test_a_server_that_sends_a_part_nobody_asked_for_is_refused(server, tmp_path):
    server.partial = True
    refused(server, tmp_path / "a.bin", "a part of the file alone", ELSE)


def test_a_length_that_is_no_number_says_nothing(server, tmp_path):
    server.length = "many"
    bring(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


def test_a_part_that_is_whole_already_is_put_in_place(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT)
    bring(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert server.requests == [("a.bin", "bytes=300000-")]


def test_a_part_that_is_longer_than_the_file_is_begun_anew(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(bytes(400_000))
    bring(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == CONTENT


@pytest.mark.parametrize("kept", [b"", bytes(1000)])
def test_what_is_not_the_right_content_is_removed_and_said(server, tmp_path, kept):
    """Whether the server has it wrong, or the part was of something else."""
    if kept:
        (tmp_path / "a.bin.part").write_bytes(kept)
    else:
        server.content["a.bin"] = CONTENT[:-1] + b"?"
    refused(server, tmp_path / "a.bin", server.url, "not the right file and is removed: other bytes")
    assert list(tmp_path.iterdir()) == []
    server.content["a.bin"] = CONTENT
    bring(server, tmp_path / "a.bin")


@pytest.mark.parametrize("status", [404, 500, 403])
def test_a_server_that_refuses_is_quoted(server, tmp_path, status):
    server.status = status
    refused(server, tmp_path / "new" / "a.bin", f"{server.url}a.bin answers {status}", ELSE)
    assert list(tmp_path.iterdir()) == []


def test_a_part_is_kept_when_the_server_refuses(server, tmp_path):
    (tmp_path / "a.bin.part").write_bytes(CONTENT[:10])
    server.status = 503
    refused(server, tmp_path / "a.bin", "503")
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:10]


def test_a_short_answer_of_unknown_length_is_found_by_the_check(server, tmp_path):
    server.cut_after, server.sends_length = 100_000, False
    refused(server, tmp_path / "a.bin", "not the right file")
    assert list(tmp_path.iterdir()) == []


def test_no_server_is_said_with_what_else_can_be_done(tmp_path):
    with socket.socket() as closed:  # bound, and nobody listens
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/a.bin"
        with pytest.raises(OptionError, match=f"{url} cannot be reached .*; {ELSE}"):
            fetch(url, tmp_path / "new" / "a.bin", check, ELSE)
    assert list(tmp_path.iterdir()) == []


def test_a_server_that_falls_silent_is_given_up(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TIMEOUT", 1.0)  # the first half comes sooner on a busy machine, too
    server.gate.clear()
    refused(server, tmp_path / "a.bin", "broke off after 150,000 of 300,000 bytes")
    assert (tmp_path / "a.bin.part").read_bytes() == CONTENT[:150_000]


def test_a_folder_that_cannot_be_made_is_said(server, tmp_path):
    (tmp_path / "file").touch()
    refused(server, tmp_path / "file" / "a.bin", "cannot be made", key="path")
    (tmp_path / "a.bin.part").mkdir()
    refused(server, tmp_path / "a.bin", "a.bin.part cannot be written", key="path")


def test_a_file_that_came_meanwhile_is_left_as_it_is(server, tmp_path):
    (tmp_path / "a.bin").write_bytes(b"there")
    bring(server, tmp_path / "a.bin")
    assert (tmp_path / "a.bin").read_bytes() == b"there"
    assert server.requests == []
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]


def _in_another_process(url, file):
    os.environ["no_proxy"] = "*"
    fetch(f"{url}a.bin", file, check, ELSE)


def test_two_processes_do_not_disturb_each_other(server, tmp_path, capfd):
    """The second waits for the first, and asks for nothing."""
    server.gate.clear()
    processes = [
        multiprocessing.get_context("spawn").Process(target=_in_another_process, args=(server.url, tmp_path / "a.bin"))
        for _ in range(2)
    ]
    for process in processes:
        process.start()
    assert server.half_sent.wait(300)
    mine = threading.Thread(target=bring, args=(server, tmp_path / "a.bin"))
    mine.start()
    server.gate.set()
    mine.join()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
    assert server.requests == [("a.bin", None)]


def halfway(server, file):
    """A transfer that will fail, in a thread, once its first half has come; and where its mistake will be."""
    failed: list[Exception] = []

    def first():
        try:
            bring(server, file)
        except OptionError as error:
            failed.append(error)

    one = threading.Thread(target=first)
    one.start()
    assert server.half_sent.wait(300)
    return one, failed


def test_whoever_waited_for_a_transfer_that_failed_takes_it_up(server, tmp_path):
    server.gate.clear()
    server.cut_after = 100_000
    one, failed = halfway(server, tmp_path / "a.bin")
    two = threading.Thread(target=bring, args=(server, tmp_path / "a.bin"))
    server.cut_after = None
    two.start()
    server.gate.set()
    one.join()
    two.join()
    assert len(failed) == 1
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [asked for _, asked in server.requests] == [None, "bytes=100000-"]


def test_whoever_waited_for_a_part_that_was_removed_begins_anew(server, tmp_path):
    """The lock was on a file that is no longer there."""
    server.gate.clear()
    server.content["a.bin"] = bytes(300_000)
    one, failed = halfway(server, tmp_path / "a.bin")
    server.content["a.bin"] = CONTENT
    two = threading.Thread(target=bring, args=(server, tmp_path / "a.bin"))
    two.start()
    server.gate.set()
    one.join()
    two.join()
    assert len(failed) == 1
    assert (tmp_path / "a.bin").read_bytes() == CONTENT
    assert [p.name for p in tmp_path.iterdir()] == ["a.bin"]
