"""What a run was made by, and what of it differs from another time."""

import importlib.metadata
import json
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers import BLOBS
from test_git import WHO, make_repository, write

from dlopt import __version__
from dlopt.rundir import provenance
from dlopt.rundir.find import find_run
from dlopt.rundir.provenance import describe_differences
from dlopt.rundir.writer import RunWriter


@pytest.fixture(autouse=True)
def _anew(monkeypatch):
    """Repositories are looked at once in a process; here, once in a test."""
    provenance._start_query.cache_clear()
    yield
    provenance._start_query.cache_clear()


def test_versions_are_those_of_what_is_installed():
    found = provenance.get_versions()
    assert found["dlopt"] == __version__
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["torch"] == torch.__version__
    for name in ("numpy", "hydra-core", "omegaconf", "tensorboard", "scikit-learn", "mnist1d"):
        assert found[name] == importlib.metadata.version(name)


def test_what_is_not_installed_has_no_version(monkeypatch):
    monkeypatch.setattr(provenance, "PACKAGES", ("numpy", "nobody-wrote-this"))
    provenance._installed_versions.cache_clear()
    try:
        assert set(provenance.get_versions()) == {"dlopt", "python", "torch", "numpy"}
    finally:
        provenance._installed_versions.cache_clear()


def test_versions_are_told_without_importing_what_they_are_of():
    code = (
        "import sys; from dlopt.rundir import provenance as p; found = p.get_versions(); p.describe_machine();"
        "assert {'torch', 'numpy', 'mnist1d'} <= set(found), found;"
        "assert not {'torch', 'numpy', 'hydra', 'tensorboard', 'sklearn', 'mnist1d'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(provenance.__file__).parents[2])


def test_the_machine_is_told():
    found = provenance.describe_machine("cpu", 3)
    assert found["capability"] == torch.backends.cpu.get_cpu_capability()
    assert (found["device"], found["threads"]) == ("cpu", 3)
    assert found["cpu"]
    assert found["cores"] >= 1
    assert "accelerator" not in found
    assert provenance.describe_machine()["threads"] == torch.get_num_threads()
    json.dumps(found)


@pytest.mark.parametrize(
    ("words", "typed"),
    [
        (["python", "-m", "dlopt", "train", "name=a b"], "dlopt train 'name=a b'"),
        (["/usr/bin/python3", "/usr/bin/dlopt", "train", "-m", "seed=0,1"], "dlopt train -m seed=0,1"),
        (["python", "mine.py", "dlopt"], "python mine.py dlopt"),
        (["python", "-m", "pytest"], "python -m pytest"),
    ],
)
def test_the_command_is_what_was_typed(words, typed, monkeypatch):
    monkeypatch.setattr(sys, "orig_argv", words)
    assert provenance.get_command() == typed


def test_a_run_keeps_what_made_it(tmp_path, monkeypatch):
    folder = make_repository(tmp_path / "thesis", {"net.py": b"1\n"})
    write(folder / "net.py", b"2\n")
    monkeypatch.chdir(folder)
    run = RunWriter.create(tmp_path / "run", device="cpu", threads=2)
    status = run.status
    assert status["versions"] == provenance.get_versions()
    assert status["machine"] == provenance.describe_machine("cpu", 2)
    assert status["command"] == provenance.get_command()
    here = status["git"][0]
    assert (here["folder"], here["branch"], here["patch"]) == (
        str(folder),
        "main",
        f"git-{here['patch_sha256'][:7]}.patch",
    )
    assert b"-1\n+2\n" in (run.path / here["patch"]).read_bytes()
    subprocess.run(["git", *WHO, "commit", "-qam", "second"], cwd=folder, check=True)
    assert not describe_differences(status, RunWriter.create(tmp_path / "another", threads=2).status), (
        "one process runs one code"
    )
    provenance._start_query.cache_clear()
    again = run.resume(threads=2)
    assert (run.path / here["patch"]).exists(), "what made the first part is kept"
    assert again.status["git"][0]["patch"] is None
    (line,) = describe_differences(status, again.status)
    first, second = here["commit"][:7], again.status["git"][0]["commit"][:7]
    assert line == f"code of thesis: {first} with changes {here['patch_sha256'][:7]} then, {second} now"


def test_the_code_is_that_of_the_start(tmp_path, monkeypatch):
    folder = make_repository(tmp_path / "thesis", {"net.py": b"1\n"})
    monkeypatch.chdir(folder)
    provenance.start_git_query()
    provenance.get_repositories()
    write(folder / "net.py", b"2\n")
    assert provenance.get_repositories()["git"].patch == b""


@pytest.mark.parametrize("where", ["elsewhere", "inside"])
def test_the_own_repository_is_told_once(where, tmp_path, monkeypatch):
    """dlopt's checkout is told beside that of the working directory, unless it is the same."""
    own = make_repository(tmp_path / "own", {"dlopt/rundir/provenance.py": b"1\n"})
    other = make_repository(tmp_path / "other", {"a.py": b"1\n"})
    monkeypatch.setattr(provenance, "__file__", str(own / "dlopt/rundir/provenance.py"))
    monkeypatch.chdir(other if where == "elsewhere" else own / "dlopt")
    found = {name: repository.folder for name, repository in provenance.get_repositories().items()}
    assert found == ({"git": other, "dlopt": own} if where == "elsewhere" else {"git": own})


def test_a_package_that_is_installed_inside_a_repository_is_no_checkout(tmp_path, monkeypatch):
    folder = make_repository(tmp_path / "thesis", {"a.py": b"1\n"})
    write(folder / "env/site-packages/dlopt/rundir/provenance.py", b"1\n")
    monkeypatch.setattr(provenance, "__file__", str(folder / "env/site-packages/dlopt/rundir/provenance.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert provenance.get_repositories() == {}


def test_a_run_from_the_command_line_keeps_device_and_threads(here):
    from dlopt.cli import main

    assert main(["train", *BLOBS, "epochs=1", "threads=2", "-q"]) == 0
    machine = find_run().status["machine"]
    assert machine["device"] == torch.device(machine["device"]).type != "auto"
    assert machine["threads"] == 2


def test_show_says_what_made_a_run(here, capsys, monkeypatch):
    from dlopt.cli import main

    folder = make_repository(here / "thesis", {"net.py": b"1\n"})
    write(folder / "net.py", b"2\n")
    monkeypatch.chdir(folder)
    monkeypatch.setenv("COLUMNS", "300")
    status = RunWriter.create("outputs/2026-01-01/one", {"seed": 0}, threads=1).status
    assert main(["show"]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if line.startswith("by "))
    assert line.startswith(
        f"by thesis at {status['git'][0]['commit'][:9]} with git-{status['git'][0]['patch_sha256'][:7]}.patch, "
    )
    assert f"dlopt {__version__}, torch {torch.__version__}, python " in line
    assert line.endswith(f"cpu ({status['machine']['cpu']}), 1 thread")


def test_show_says_what_an_older_run_tells():
    from dlopt.cli.show import describe_origin

    assert (
        describe_origin({"versions": {"dlopt": "0.1.0", "python": "3.11.7"}, "git": None})
        == "by dlopt 0.1.0, python 3.11.7"
    )


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({}, "thesis at aaaaaaaaa"),
        ({"commit": None, "digest": "c" * 64}, "thesis at no commit with git.patch"),
        ({"unknown": "git failed"}, "thesis at aaaaaaaaa with unknown changes"),
    ],
)
def test_show_marks_what_was_not_committed(told, said):
    from dlopt.cli.show import describe_commit

    assert describe_commit(state("/home/thesis", **told)) == said


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


def test_a_thing_does_not_differ_from_itself():
    assert describe_differences(THEN, THEN) == []


def test_what_changes_numbers_is_said_and_nothing_else():
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
def test_other_code_is_said(now, lines):
    assert describe_differences(THEN, THEN | {"git": now}) == lines


@pytest.mark.parametrize("git", [None, "a" * 40])
def test_a_run_that_tells_less_is_compared_in_what_it_tells(git):
    then = {"versions": {"torch": "2.12.0"}, "git": git}
    assert describe_differences(then, {"versions": {"torch": "2.13.0"}}) == ["torch 2.12.0 then, 2.13.0 now"]
    assert provenance.list_repositories(then) == []


def test_the_command_can_be_typed_again(monkeypatch):
    words = ["dlopt", "train", "name=it's", "data.path=a b.csv"]
    monkeypatch.setattr(sys, "orig_argv", ["python", *words])
    assert shlex.split(provenance.get_command()) == words
