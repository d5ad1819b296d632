"""Memory: what is free is what the system says, and a bound is kept."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from dlopt.storage import memory

LINUX = pytest.mark.skipif(sys.platform != "linux", reason="accounts and bounds are Linux's")


def end(program):
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


# ------------------------------------------------------------------------------------------------ what is free


@LINUX
def test_what_is_free_is_no_more_than_the_kernel_says():
    def said(field):
        return next(int(x.split()[1]) * 1024 for x in Path("/proc/meminfo").read_text().splitlines() if field in x)

    free = memory.available()
    assert isinstance(free, int)
    assert 0 < free < said("MemTotal")


FIRST = {
    "file": "4:memory:/a/b\n1:cpu:/\n",
    "at": "memory/a/b",
    "names": ("limit_in_bytes", "usage_in_bytes", "total_inactive_file"),
}
SECOND = {"file": "0::/a/b\n", "at": "a/b", "names": ("max", "current", "inactive_file")}  # fmt: skip


@pytest.mark.parametrize("version", [FIRST, SECOND], ids=["first", "second"])
def test_groups_bound_what_is_free_and_files_kept_in_memory_do_not_count(tmp_path, version):
    limit, usage, kept = version["names"]
    mine = tmp_path / "cgroup"
    mine.write_text(version["file"])
    inner = tmp_path / version["at"]
    inner.mkdir(parents=True)
    for group, most in ((inner, 1000), (inner.parent, 700), (inner.parent.parent, 5000)):
        (group / f"memory.{limit}").write_text(f"{most}\n")
        (group / f"memory.{usage}").write_text("400\n")
        (group / "memory.stat").write_text(f"anon 7\n{kept} 50\n")
    assert list(memory._iter_cgroup_free(tmp_path, mine)) == [650, 350, 4650]
    (inner / f"memory.{limit}").unlink()
    assert list(memory._iter_cgroup_free(tmp_path, mine)) == [350, 4650]


def test_groups_without_a_limit_or_that_are_not_there_bound_nothing(tmp_path):
    mine = tmp_path / "cgroup"
    assert list(memory._iter_cgroup_free(tmp_path, mine)) == []
    mine.write_text(SECOND["file"])
    assert list(memory._iter_cgroup_free(tmp_path, mine)) == []
    (tmp_path / "memory.max").write_text("max\n")
    (tmp_path / "memory.current").write_text("5\n")
    (tmp_path / "memory.stat").write_text("inactive_file 1\n")
    assert list(memory._iter_cgroup_free(tmp_path, mine)) == []


def test_what_needs_more_than_is_free_is_refused_with_both(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda: 5_000_000)
    memory.check(5_000_000)
    with pytest.raises(memory.NotEnoughMemoryError, match="x needs 7,001 MB of memory, and 5 MB are free"):
        memory.check(7_001_000_000, "x")
    monkeypatch.setattr(memory, "available", lambda: None)
    memory.check(10**18)


# ------------------------------------------------------------------------------------------------ the bound


@LINUX
@pytest.mark.parametrize(
    ("setup", "make", "error"),
    [("pass", "bytearray", "MemoryError"), ("import torch", "torch.ByteTensor", "RuntimeError")],
)
def test_what_goes_beyond_the_bound_fails_in_its_process_alone(setup, make, error):
    """Twice what is free: Linux gives it without a bound, and kills when it is used."""
    lines = (
        setup,
        "from dlopt.storage import memory",
        "with memory.limit_memory():",
        f"    {make}(2 * memory.available())",
    )
    ended = end("\n".join(lines))
    assert ended.returncode == 1
    assert error in ended.stderr


@LINUX
def test_little_by_little_the_bound_is_reached_too():
    program = """
from dlopt.storage import memory
memory.available = lambda: 200_000_000
with memory.limit_memory():
    kept = []
    try:
        while len(kept) < 400:
            kept.append(bytearray(1_000_000))
    except MemoryError:
        pass
    count = len(kept)
    kept.clear()
kept = [bytearray(1_000_000) for _ in range(400)]
print(count)
"""
    assert 150 < int(end(program).stdout) <= 200


@LINUX
def test_the_former_bound_comes_back():
    before = resource.getrlimit(resource.RLIMIT_DATA)
    with memory.limit_memory():
        bound = resource.getrlimit(resource.RLIMIT_DATA)
        assert bound[0] > 0
        assert bound[1] == before[1]
        with pytest.raises(KeyError), memory.limit_memory():
            assert resource.getrlimit(resource.RLIMIT_DATA)[0] <= bound[0]
            raise KeyError
        assert resource.getrlimit(resource.RLIMIT_DATA) == bound
    assert resource.getrlimit(resource.RLIMIT_DATA) == before


def test_torch_is_not_imported_to_look_at_files():
    program = "import sys, dlopt.storage.memory, dlopt.rundir.directory, dlopt.storage.torch_file, dlopt.data._npz; sys.exit('torch' in sys.modules)"
    assert end(program).returncode == 0
