"""What a run was created by, and how that differs from another process."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import BLOBS
from test_git import WHO, make_repository, write

from dlopt import __version__
from dlopt.cli import main
from dlopt.cli.show import describe_commit, describe_origin
from dlopt.rundir import provenance
from dlopt.rundir.find import find_run
from dlopt.rundir.provenance import describe_differences
from dlopt.rundir.writer import RunWriter


@pytest.fixture(autouse=True)
def _new_query(monkeypatch):
    """Look at repositories once in a test, not once in a process."""
    provenance._start_query.cache_clear()
    yield
    provenance._start_query.cache_clear()


def test_versions_equal_those_of_the_installed_packages(monkeypatch):
    versions = provenance.get_versions()
    assert versions["dlopt"] == __version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))
    assert versions["torch"] == torch.__version__
    for name in ("numpy", "hydra-core", "omegaconf", "tensorboard", "scikit-learn", "mnist1d"):
        assert versions[name] == importlib.metadata.version(name)
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "not-installed"))
    monkeypatch.setattr(provenance, "_installed_versions", provenance._installed_versions.__wrapped__)
    assert set(provenance.get_versions()) == {"dlopt", "python", "torch", "numpy"}


def test_versions_are_read_without_importing_the_packages():
    code = (
        "import sys; from dlopt.rundir import provenance as p; versions = p.get_versions(); p.describe_machine();"
        "assert {'torch', 'numpy', 'mnist1d'} <= set(versions), versions;"
        "assert not {'torch', 'numpy', 'hydra', 'tensorboard', 'sklearn', 'mnist1d'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(provenance.__file__).parents[2])


def test_the_machine_is_described():
    machine = provenance.describe_machine("cpu", 3)
    assert machine["capability"] == torch.backends.cpu.get_cpu_capability()
    assert (machine["device"], machine["threads"]) == ("cpu", 3)
    assert machine["cpu"]
    assert machine["cores"] >= 1
    assert "accelerator" not in machine
    assert provenance.describe_machine()["threads"] == torch.get_num_threads()
    json.dumps(machine)


@pytest.mark.parametrize(
    ("words", "command"),
    [
        (["python", "-m", "dlopt", "train", "name=a b"], "dlopt train 'name=a b'"),
        (["/usr/bin/python3", "/usr/bin/dlopt", "train", "-m", "seed=0,1"], "dlopt train -m seed=0,1"),
        (["python", "mine.py", "dlopt"], "python mine.py dlopt"),
        (["python", "-m", "pytest"], "python -m pytest"),
    ],
)
def test_the_command_can_be_typed_again(words, command, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", words)
    assert provenance.get_command() == command


def test_a_run_records_code_versions_and_machine(tmp_path, monkeypatch):
    folder = make_repository(tmp_path / "thesis", {"net.py": b"1\n"})
    write(folder / "net.py", b"2\n")
    monkeypatch.chdir(folder)
    run = RunWriter.create(tmp_path / "run", device="cpu", threads=2)
    status = run.status
    assert status["versions"] == provenance.get_versions()
    assert status["machine"] == provenance.describe_machine("cpu", 2)
    assert status["command"] == provenance.get_command()
    here = status["git"][0]
    patch = f"git-{here['patch_sha256'][:7]}.patch"
    assert (here["folder"], here["branch"], here["patch"]) == (str(folder), "main", patch)
    assert b"-1\n+2\n" in (run.path / patch).read_bytes()
    subprocess.run(["git", *WHO, "commit", "-qam", "second"], cwd=folder, check=True)
    another = RunWriter.create(tmp_path / "another", threads=2).status
    assert not describe_differences(status, another), "the code of a process is that of its start"
    provenance._start_query.cache_clear()
    again = run.resume(threads=2)
    assert (run.path / patch).exists(), "the patch of the first process is kept"
    assert again.status["git"][0]["patch"] is None
    (line,) = describe_differences(status, again.status)
    first, second = here["commit"][:7], again.status["git"][0]["commit"][:7]
    assert line == f"code of thesis: {first} with changes {here['patch_sha256'][:7]} then, {second} now"


@pytest.mark.parametrize("where", ["elsewhere", "inside"])
def test_the_checkout_of_dlopt_is_recorded_once(where, tmp_path, monkeypatch):
    """It is recorded next to the repository of the working directory, unless both are the same."""
    own = make_repository(tmp_path / "own", {"dlopt/rundir/provenance.py": b"1\n"})
    other = make_repository(tmp_path / "other", {"a.py": b"1\n"})
    monkeypatch.setattr(provenance, "__file__", str(own / "dlopt/rundir/provenance.py"))
    monkeypatch.chdir(other if where == "elsewhere" else own / "dlopt")
    folders = {name: repository.folder for name, repository in provenance.get_repositories().items()}
    assert folders == ({"git": other, "dlopt": own} if where == "elsewhere" else {"git": own})


def test_an_installed_package_is_not_a_checkout(tmp_path, monkeypatch):
    folder = make_repository(tmp_path / "thesis", {"a.py": b"1\n"})
    write(folder / "env/site-packages/dlopt/rundir/provenance.py", b"1\n")
    monkeypatch.setattr(provenance, "__file__", str(folder / "env/site-packages/dlopt/rundir/provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert provenance.get_repositories() == {}


def test_a_run_from_the_command_line_records_device_and_threads(here):
    assert main(["train", *BLOBS, "epochs=1", "threads=2", "-q"]) == 0
    machine = find_run().status["machine"]
    assert machine["device"] == torch.device(machine["device"]).type != "auto"
    assert machine["threads"] == 2


def test_show_prints_the_origin_of_a_run(here, capsys, monkeypatch):
    folder = make_repository(here / "thesis", {"net.py": b"1\n"})
    write(folder / "net.py", b"2\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "300")
    status = RunWriter.create("outputs/2026-01-01/one", {"seed": 0}, threads=1).status
    assert main(["show"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("by "))
    commit, patch = status["git"][0]["commit"][:9], status["git"][0]["patch"]
    assert line.startswith(f"by thesis at {commit} with {patch}, ")
    assert f"dlopt {__version__}, torch {torch.__version__}, python " in line
    assert line.endswith(f"cpu ({status['machine']['cpu']}), 1 thread")


def test_show_prints_the_origin_of_an_older_run():
    origin = describe_origin({"versions": {"dlopt": "0.1.0", "python": "3.11.7"}, "git": None})
    assert origin == "by dlopt 0.1.0, python 3.11.7"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({}, "thesis at aaaaaaaaa"),
        ({"commit": None, "digest": "c" * 64}, "thesis at no commit with git.patch"),
        ({"unknown": "git failed"}, "thesis at aaaaaaaaa with unknown changes"),
    ],
)
def test_show_marks_uncommitted_code(keys, text):
    assert describe_commit(state("/home/thesis", **keys)) == text


# ------------------------------------------------------------------------------------------------ differences


def state(folder: str, commit: str | None = "a" * 40, digest: str | None = None, unknown: str | None = None) -> dict:
    return {
        "folder": folder, "commit": commit, "branch": "main", "unknown": unknown,
        "patch": "git.patch" if digest else None, "patch_sha256": digest,
    }  # fmt: skip


THEN = {
    "versions": {"torch": "2.12.0", "python": "3.11.7", "tensorboard": "2.16.0"},
    "machine": {
        "host": "one", "release": "6.1", "cores": 4, "architecture": "x86_64", "cpu": "A", "device": "cpu", "threads": 1
    },
    "git": [state("/home/thesis")],
}  # fmt: skip


def test_only_differences_that_change_numbers_are_described():
    now = {
        "versions": {"torch": "2.13.0", "python": "3.11.7", "tensorboard": "2.17.0", "numpy": "2.0"},
        "machine": THEN["machine"]
        | {"host": "two", "release": "6.2", "cores": 8, "cpu": "B", "device": "cuda", "accelerator": "H200"},
        "git": [state("/elsewhere/thesis")],
    }
    assert describe_differences(THEN, now) == [
        "torch 2.12.0 then, 2.13.0 now",
        "CPU A then, B now",
        "device cpu then, cuda now",
    ]


@pytest.mark.parametrize(
    ("now", "lines"),
    [
        ([state("/other/name")], []),
        ([state("/home/thesis"), state("/home/dlopt", "b" * 40)], ["code of dlopt: none then, bbbbbbb now"]),
        ([], ["code of thesis: aaaaaaa then, none now"]),
        ([state("/x/thesis", "b" * 40)], ["code of thesis: aaaaaaa then, bbbbbbb now"]),
        ([state("/x/thesis", digest="c" * 64)], ["code of thesis: aaaaaaa then, aaaaaaa with changes ccccccc now"]),
        (
            [state("/x/thesis", None, unknown="git failed")],
            ["code of thesis: aaaaaaa then, no commit with unknown changes now"],
        ),
    ],
)
def test_other_code_is_described(now, lines):
    assert describe_differences(THEN, THEN | {"git": now}) == lines


@pytest.mark.parametrize("git", [None, "a" * 40])
def test_only_recorded_values_are_compared(git):
    then = {"versions": {"torch": "2.12.0"}, "git": git}
    assert describe_differences(then, {"versions": {"torch": "2.13.0"}}) == ["torch 2.12.0 then, 2.13.0 now"]
    assert provenance.list_repositories(then) == []
