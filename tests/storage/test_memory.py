"""Memory: the system and control groups say how much is available, and the limit holds."""

import resource
import subprocess
import sys

import psutil
import pytest
import torch

from dlopt.storage import memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="limits are only on Linux")


def run_program(program: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_available_and_peak_memory_agree_with_the_system():
    assert 0 < memory.get_available() < 1.2 * psutil.virtual_memory().available
    before = memory.peak_memory(torch.device("cpu"))
    assert before >= 0.9 * psutil.Process().memory_info().rss
    block = torch.ones(before // 4 + 10_000_000)
    assert memory.peak_memory(torch.device("cpu")) > block.nbytes


@pytest.mark.parametrize(
    ("line", "folder", "prefix", "limit", "usage"),
    [
        ("0::/a/b", ".", "", "memory.max", "memory.current"),
        ("4:memory:/a/b", "memory", "total_", "memory.limit_in_bytes", "memory.usage_in_bytes"),
    ],
)
def test_control_groups_limit_the_available_memory_without_cached_files(line, folder, prefix, limit, usage, tmp_path):
    own, inner = tmp_path / "cgroup", tmp_path / folder / "a/b"
    assert list(memory._iter_cgroup_free(tmp_path, own)) == []
    own.write_text(f"3:cpu,cpuacct:/x\n{line}\n")
    assert list(memory._iter_cgroup_free(tmp_path, own)) == []
    inner.mkdir(parents=True)
    for group, most in ((inner, "1000"), (inner.parent, "700"), (inner.parent.parent, "max")):
        (group / limit).write_text(f"{most}\n")
        (group / usage).write_text("400\n")
        (group / "memory.stat").write_text(f"anon 7\n{prefix}inactive_file 50\n")
    assert list(memory._iter_cgroup_free(tmp_path, own)) == [650, 350]
    (inner / limit).unlink()
    assert list(memory._iter_cgroup_free(tmp_path, own)) == [350]


def test_the_smallest_limit_counts(monkeypatch):
    monkeypatch.setattr(memory, "_iter_cgroup_free", lambda: iter([3000, 2000]))
    assert memory.get_available() == 2000
    monkeypatch.setattr(memory, "_iter_cgroup_free", lambda: iter([-5]))
    assert memory.get_available() == 0


def test_more_than_the_available_memory_is_refused(monkeypatch):
    monkeypatch.setattr(memory, "get_available", lambda: 5_000_000)
    memory.check(5_000_000)
    with pytest.raises(memory.NotEnoughMemoryError, match="x needs 7,001 MB of memory, and 5 MB are free"):
        memory.check(7_001_000_000, "x")


# ------------------------------------------------------------------------------------------------ the limit


@LINUX
@pytest.mark.parametrize(
    ("setup", "make", "error"),
    [("pass", "bytearray", "MemoryError"), ("import torch", "torch.ByteTensor", "RuntimeError")],
)
def test_an_allocation_beyond_the_limit_raises(setup, make, error):
    """Without a limit, Linux grants twice the available memory, and kills a process that uses it."""
    program = "from dlopt.storage import memory\nwith memory.limit_memory():\n    "
    process = run_program(f"{setup}\n{program}{make}(2 * memory.get_available())")
    assert process.returncode == 1
    assert error in process.stderr


@LINUX
def test_the_limit_counts_all_allocations_and_ends_with_the_block():
    program = """
from dlopt.storage import memory
memory.get_available = lambda: 200_000_000
with memory.limit_memory():
    blocks = []
    try:
        while len(blocks) < 400:
            blocks.append(bytearray(1_000_000))
    except MemoryError:
        pass
    count = len(blocks)
    blocks.clear()
blocks = [bytearray(1_000_000) for _ in range(400)]
print(count)
"""
    assert 150 < int(run_program(program).stdout) <= 200


@LINUX
def test_the_former_limit_comes_back():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory.limit_memory():
        limit = resource.getrlimit(resource.RLIMIT_DATA)
        assert limit[0] > 0
        assert limit[1] == before[1]
        with pytest.raises(KeyError), memory.limit_memory():
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] <= limit[0]
            raise KeyError
        assert resource.getrlimit(resource.RLIMIT_DATA) == limit
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_torch_is_not_imported_to_look_at_files():
    program = "import sys, dlopt.storage.memory, dlopt.rundir.directory, dlopt.storage.torch_file, dlopt.data._npz; sys.exit('torch' in sys.modules)"
    assert run_program(program).returncode == 0
