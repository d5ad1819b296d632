"""What is told of a git repository: a patch that restores the files, and nothing executed or changed on the way."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dlopt.rundir import git as module
from dlopt.rundir.git import find_repository, truncate_patch

WHO = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false")


@pytest.fixture(autouse=True)
def _own_settings(monkeypatch):
    """Nobody's own configuration of git has a say."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def git(folder: Path, *arguments: str, **options) -> str:
    words = ["git", *WHO, *arguments]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stderr
    assert "error:" not in done.stderr  # a patch that is cut off is applied in part, and called a success
    return done.stdout.strip()


def made(folder: Path, files: dict[str, bytes], *flags: str) -> Path:
    """A repository with one commit."""
    folder.mkdir(parents=True)
    git(folder, "init", *flags)
    for name, content in files.items():
        write(folder / name, content)
    git(folder, "add", "-A")
    git(folder, "commit", "-m", "first")
    return folder


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def files(folder: Path) -> dict[str, tuple[bytes, bool]]:
    """Every file but git's own: content (of a link: where it leads) and whether it can be executed."""
    found = {}
    for path in sorted(folder.rglob("*")):
        if ".git" not in path.relative_to(folder).parts and (path.is_symlink() or path.is_file()):
            link = path.is_symlink()
            content = os.fsencode(path.readlink()) if link else path.read_bytes()
            found[path.relative_to(folder).as_posix()] = (content, not link and os.access(path, os.X_OK))
    return found


def restored(folder: Path, elsewhere: Path) -> dict[str, tuple[bytes, bool]]:
    """The files of a clean checkout of the commit to which the patch is applied."""
    found = find_repository(folder)
    assert found is not None
    assert not found.unknown
    if found.commit:
        git(elsewhere.parent, "clone", str(folder), str(elsewhere))
        git(elsewhere, "checkout", found.commit)
    else:
        elsewhere.mkdir()
        git(elsewhere, "init", f"--object-format={git(folder, 'rev-parse', '--show-object-format')}")
    if found.patch:
        write(elsewhere.parent / "a.patch", found.patch)
        git(elsewhere, "apply", str(elsewhere.parent / "a.patch"))
    return files(elsewhere)


START = {
    "net.py": b"one\ntwo\nthree\n" * 20,
    "gone.py": b"old\n",
    "moved.py": b"a long file\nthat is moved\n" * 9,
    "image.bin": bytes(range(256)) * 4,
    "a folder/with spaces.py": b"x = 1\n",
    "größe-モデル.py": b"y = 2\n",
    "run.sh": b"#!/bin/sh\n",
    "no newline.txt": b"end",
    "turned.py": b"a file\n",
    "opened.py": b"becomes a folder\n",
    "closed.py/inner.py": b"becomes a file\n",
    ".gitignore": b"ignored.py\nbuild/\n",
}


def change_all(folder: Path) -> None:
    """Every kind of change that there is."""
    write(folder / "net.py", b"zero\n" + START["net.py"].replace(b"two", b"2", 1))
    (folder / "gone.py").unlink()
    (folder / "moved.py").rename(folder / "elsewhere.py")
    write(folder / "image.bin", bytes(reversed(range(256))) * 3)
    write(folder / "a folder/with spaces.py", b"x = 3\r\n")
    write(folder / "größe-モデル.py", b"y = 4\n")
    write(folder / "no newline.txt", b"another end")
    (folder / "run.sh").chmod(0o755)
    write(folder / "added.bin", b"\0\1\2staged")
    git(folder, "add", "added.bin")
    (folder / "turned.py").unlink()
    (folder / "turned.py").symlink_to("net.py")
    write(folder / "mine/part.py", b"class Mine: ...\n")
    write(folder / "mine/empty.py", b"")
    write(folder / "mine/größe ü.yaml", b"lr: 1\n")
    write(folder / '[odd] "name"*.toml', b"a = 1\n")
    (folder / "link.py").symlink_to("/nowhere")
    (folder / "opened.py").unlink()
    write(folder / "opened.py/inner.py", b"z = 1\n")
    shutil.rmtree(folder / "closed.py")
    write(folder / "closed.py", b"z = 2\n")


def test_a_patch_restores_the_files(tmp_path):
    folder = made(tmp_path / "it", START)
    change_all(folder)
    assert restored(folder, tmp_path / "again") == files(folder)


@pytest.mark.parametrize("format", ["sha1", "sha256"])
def test_a_repository_without_a_commit_is_restored_from_nothing(tmp_path, format):
    folder = tmp_path / "it"
    folder.mkdir()
    git(folder, "init", f"--object-format={format}")
    write(folder / "staged.bin", b"\0\1")
    git(folder, "add", "staged.bin")
    write(folder / "mine.py", b"x = 1\n")
    found = find_repository(folder)
    assert found is not None
    assert (found.commit, found.branch) == (None, None)
    assert restored(folder, tmp_path / "again") == files(folder)
    git(folder, "commit", "-m", "first")
    git(folder, "add", "mine.py")
    git(folder, "commit", "-m", "second")
    write(folder / "mine.py", b"x = 2\n")
    assert restored(folder, tmp_path / "later") == files(folder)


def test_a_change_within_the_same_second_and_of_the_same_size_is_seen(tmp_path):
    folder = made(tmp_path / "it", {"a.py": b"1\n"})
    os.utime(folder / "a.py", (1000, 1000))
    git(folder, "add", "a.py")
    os.utime(folder / ".git/index", (1000, 1000))
    write(folder / "a.py", b"2\n")
    os.utime(folder / "a.py", (1000, 1000))
    assert restored(folder, tmp_path / "again") == files(folder)


def test_a_clean_repository_has_no_patch(tmp_path):
    folder = made(tmp_path / "it", START)
    found = find_repository(folder / "a folder")
    assert found is not None
    assert found.folder == folder
    assert found.commit == git(folder, "rev-parse", "HEAD")
    assert (found.branch, found.patch, found.unknown) == ("main", b"", "")
    assert found.describe("git.patch") == {
        "folder": str(folder), "commit": found.commit, "branch": "main",
        "patch": None, "patch_sha256": None, "unknown": None,
    }  # fmt: skip
    git(folder, "checkout", "--detach")
    detached = find_repository(folder)
    assert detached is not None
    assert (detached.commit, detached.branch) == (found.commit, None)


def test_only_source_that_is_not_ignored_is_added(tmp_path):
    folder = made(tmp_path / "it", START)
    for name in (
        "notes.txt", "ignored.py", "build/x.py", "excluded.py", "everywhere.py", "large.py", "weights.pt",
        "outputs/1/.hydra/config.yaml", "outputs/multirun.yaml", "env/lib/site-packages/a/b.py",
    ):  # fmt: skip
        write(folder / name, b"x" * (100_001 if name == "large.py" else 1))
    write(folder / ".git/info/exclude", b"excluded.py\n")
    write(tmp_path / "ignore", b"everywhere.py\n")
    git(folder, "config", "core.excludesFile", str(tmp_path / "ignore"))
    made(folder / "another", {"own.py": b"1\n"})
    write(folder / "another/inner.py", b"1\n")
    found = find_repository(folder)
    assert found is not None
    assert found.patch == b"# left out: 1 untracked file\n"
    write(folder / "large.py", b"x" * 100_000)
    found = find_repository(folder)
    assert found is not None
    assert found.patch.count(b"diff --git") == 1
    assert b"b/large.py" in found.patch


def test_what_is_large_is_left_out_and_said(tmp_path, monkeypatch):
    folder = made(tmp_path / "it", {"big.bin": b"1", "a.py": b"1\n", "deep/b.py": b"1\n"})
    write(folder / "big.bin", os.urandom(3000))
    write(folder / "a.py", b"2\n")
    write(folder / "deep/b.py", b"".join(b"%d\n" % i for i in range(400)))
    monkeypatch.setattr(module, "LARGEST_PATCH", 1000)
    found = find_repository(folder)
    assert found is not None
    head = found.patch.decode().split("diff --git")[0]
    assert head == "# left out: big.bin\n# left out: deep/b.py\n"
    assert len(found.patch) <= 1000 + len(head)
    again = made(tmp_path / "again", {"big.bin": b"1", "a.py": b"1\n", "deep/b.py": b"1\n"})
    git(again, "apply", "-", input=found.patch.decode())
    assert (again / "a.py").read_bytes() == b"2\n"


def test_untracked_files_near_the_root_come_first(tmp_path, monkeypatch):
    folder = made(tmp_path / "it", {"a.py": b"1\n"})
    write(folder / "a/very/deep/one.py", b"x" * 60)
    write(folder / "zoo.py", b"y" * 60)
    monkeypatch.setattr(module, "LARGEST_PATCH", 100)
    assert module._sources(module._Git(folder, os.environ)) == (["zoo.py"], ["1 untracked file"])


def test_as_many_files_fit_as_possible():
    piece = "diff --git a/{0} b/{0}\n{1}\n".format
    parts = [piece("a", "x" * 50), piece("b c", "y" * 90), piece("d", "z" * 10)]
    whole = "".join(parts).encode()
    assert truncate_patch(whole, 1000) == (whole, [])
    assert truncate_patch(whole, len(parts[0] + parts[2])) == ((parts[0] + parts[2]).encode(), ["b c"])
    assert truncate_patch(whole, len(parts[0] + parts[2]) - 1) == (parts[2].encode(), ["a", "b c"])
    assert truncate_patch(b"", 10) == (b"", [])


def all_of(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}


def test_the_repository_is_not_changed(tmp_path):
    folder = made(tmp_path / "it", START)
    change_all(folder)
    (folder / "turned.py").unlink()
    (folder / "link.py").unlink()
    os.utime(folder / "net.py", (5, 5))  # git status would write a fresh index
    before = all_of(folder)
    assert find_repository(folder) is not None
    assert all_of(folder) == before


def test_nothing_in_a_repository_is_executed(tmp_path, monkeypatch):
    """Filters, diff drivers, monitors, hooks, pagers, aliases: each would leave a file behind."""
    folder = made(tmp_path / "it", {**START, "sub/x": b"1"})
    trap = tmp_path / "trap.sh"
    write(trap, b'#!/bin/sh\necho "$0 $@" >> ' + bytes(tmp_path / "sprung") + b"\ncat\n")
    trap.chmod(0o755)
    inner = made(tmp_path / "inner", {"i.py": b"1\n"})
    git(folder, "-c", "protocol.file.allow=always", "submodule", "add", str(inner), "module")
    git(folder, "commit", "-m", "second")
    write(folder / ".gitattributes", b"* filter=evil diff=evil\n")
    for name in (
        "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "diff.evil.command", "diff.evil.textconv",
        "diff.external", "core.fsmonitor", "core.pager", "pager.diff", "alias.diff", "core.sshCommand", "core.editor",
        "remote.origin.uploadpack", "credential.helper",
    ):  # fmt: skip
        for place in (folder, folder / "module"):
            git(place, "config", name, str(trap))
    git(folder, "config", "filter.evil.required", "true")
    git(folder, "config", "remote.origin.url", str(inner))
    git(folder, "config", "core.repositoryFormatVersion", "1")
    git(folder, "config", "extensions.partialClone", "origin")
    git(folder, "config", "remote.origin.promisor", "true")
    for hooks in (folder / ".git/hooks", folder / ".git/modules/module/hooks"):
        for hook in ("post-index-change", "pre-commit", "fsmonitor-watchman", "post-checkout"):
            shutil.copy(trap, hooks / hook)
    write(folder / "net.py", b"changed\n")
    write(folder / "mine.py", b"new\n")
    write(folder / "module/i.py", b"changed\n")
    os.utime(folder / "image.bin", (5, 5))
    found = find_repository(folder)
    assert found is not None
    assert not found.unknown
    assert b"+changed" in found.patch
    assert not (tmp_path / "sprung").exists()
    subprocess.run(["git", "diff", "HEAD"], cwd=folder, capture_output=True, check=False)
    assert (tmp_path / "sprung").exists(), "the traps are none"


def test_a_submodule_is_told_by_its_commit(tmp_path):
    inner = made(tmp_path / "inner", {"i.py": b"1\n"})
    folder = made(tmp_path / "it", {"a.py": b"1\n"})
    git(folder, "-c", "protocol.file.allow=always", "submodule", "add", str(inner), "module")
    git(folder, "commit", "-m", "second")
    write(folder / "module/i.py", b"2\n")
    found = find_repository(folder)
    assert found is not None
    assert found.patch == b""
    git(folder / "module", "commit", "-am", "another")
    found = find_repository(folder)
    assert found is not None
    assert b"+Subproject commit " + git(folder / "module", "rev-parse", "HEAD").encode() in found.patch


@pytest.mark.parametrize("worktree_config", [False, True])
def test_the_files_of_a_submodule_are_read_from_inside_it(tmp_path, worktree_config):
    inner = made(tmp_path / "inner", START)
    folder = made(tmp_path / "it", {"a.py": b"1\n"})
    git(folder, "-c", "protocol.file.allow=always", "submodule", "add", str(inner), "module")
    if worktree_config:  # then git keeps in another file where the files lie
        git(folder / "module", "sparse-checkout", "set", "--no-cone", "/*")
    change_all(folder / "module")
    found = find_repository(folder / "module/a folder")
    assert found is not None
    assert found.folder == folder / "module"
    assert restored(folder / "module", tmp_path / "again") == files(folder / "module")


def test_a_worktree_and_a_split_index_are_read(tmp_path):
    folder = made(tmp_path / "it", START)
    git(folder, "worktree", "add", "-b", "other", str(tmp_path / "tree"))
    git(tmp_path / "tree", "update-index", "--split-index")
    write(tmp_path / "tree/net.py", b"2\n")
    write(tmp_path / "tree/mine.py", b"2\n")
    found = find_repository(tmp_path / "tree")
    assert found is not None
    assert (found.folder, found.branch) == (tmp_path / "tree", "other")
    assert restored(tmp_path / "tree", tmp_path / "again") == files(tmp_path / "tree")
    content = Path(git(tmp_path / "tree", "rev-parse", "--git-path", "gitdir"))
    content.write_text(f"{os.path.relpath(tmp_path / 'tree/.git', content.parent)}\n")  # newer git can write it so
    found = find_repository(tmp_path / "tree")
    assert found is not None
    assert b"mine.py" in found.patch


def test_switches_of_the_configuration_count(tmp_path):
    folder = made(tmp_path / "it", {"run.sh": b"#!/bin/sh\n", "a.txt": b"1\n2\n"})
    git(folder, "config", "core.fileMode", "false")
    git(folder, "config", "core.autocrlf", "true")
    (folder / "run.sh").chmod(0o755)
    write(folder / "a.txt", b"1\r\n2\r\n")
    found = find_repository(folder)
    assert found is not None
    assert found.patch == b""


def test_files_in_conflict_are_restored(tmp_path):
    folder = made(tmp_path / "it", {"a.py": b"1\n", "b.py": b"1\n"})
    git(folder, "checkout", "-b", "side")
    write(folder / "a.py", b"2\n")
    git(folder, "commit", "-am", "side")
    git(folder, "checkout", "main")
    write(folder / "a.py", b"3\n")
    git(folder, "commit", "-am", "main")
    subprocess.run(["git", *WHO, "merge", "side"], cwd=folder, capture_output=True, check=False)
    write(folder / "b.py", b"2\n")
    assert restored(folder, tmp_path / "again") == files(folder)


def test_the_repository_of_a_hook_is_not_taken_for_that_of_the_folder(tmp_path, monkeypatch):
    folder = made(tmp_path / "it", {"a.py": b"1\n"})
    other = made(tmp_path / "other", {"b.py": b"1\n"})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    found = find_repository(folder)
    assert found is not None
    assert (found.folder, found.patch) == (folder, b"")


def test_where_there_is_no_repository_there_is_none(tmp_path, monkeypatch):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    assert find_repository(tmp_path / "plain") is None
    git(tmp_path, "init", "--bare", "bare")
    assert find_repository(tmp_path / "bare") is None
    folder = made(tmp_path / "it", START)
    assert find_repository(folder / ".git") is None
    assert find_repository(tmp_path / "nowhere") is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_repository(folder) is None


@pytest.mark.parametrize("broken", ["HEAD", "config"])
def test_a_damaged_repository_is_none(tmp_path, monkeypatch, broken):
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    folder = made(tmp_path / "it", START)
    write(folder / ".git" / broken, b"\0[[[")
    assert find_repository(folder) is None


def test_of_a_repository_with_damaged_objects_the_commit_is_told(tmp_path):
    folder = made(tmp_path / "it", START)
    commit = git(folder, "rev-parse", "HEAD")
    shutil.rmtree(folder / ".git/objects")
    (folder / ".git/objects").mkdir()
    write(folder / "net.py", b"2\n")
    found = find_repository(folder)
    assert found is not None
    assert (found.commit, found.patch, found.unknown) == (commit, b"", "git failed")
    assert found.describe("git.patch")["unknown"] == "git failed"


def test_a_damaged_index_leaves_the_changes_unknown(tmp_path):
    folder = made(tmp_path / "it", START)
    write(folder / ".git/index", b"DIRC nonsense")
    found = find_repository(folder)
    assert found is not None
    assert (found.patch, found.unknown) == (b"", "git failed")


def test_git_that_takes_too_long_is_not_waited_for(tmp_path, monkeypatch):
    folder = made(tmp_path / "it", START)
    real = module._Git.__call__

    def slow(self, *arguments, **options):
        if arguments[0] == "ls-files":
            self.until = 0.0
        return real(self, *arguments, **options)

    monkeypatch.setattr(module._Git, "__call__", slow)
    found = find_repository(folder)
    assert found is not None
    assert found.commit == git(folder, "rev-parse", "HEAD")
    assert found.unknown == "git took more than 5 s"
    monkeypatch.setattr(module, "SECONDS", 0.0)
    assert find_repository(folder) is None


# ------------------------------------------------------------------------------------------------ private files

SECRET = b"a key of nobody else\n"


def _worktree(home: Path, folder: Path) -> None:
    git(folder, "config", "core.worktree", "../../..")


def _inner_worktree(home: Path, folder: Path) -> None:
    """Into a folder that is not around this one."""
    git(folder, "config", "core.worktree", "../../../private")


def _file(home: Path, folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    write(folder / ".git", b"gitdir: ../../private/.git\n")


def _file_of_a_worktree(home: Path, folder: Path) -> None:
    git(home / "private", "worktree", "add", "-b", "other", str(home / "tree"))
    shutil.rmtree(folder / ".git")
    write(folder / ".git", b"gitdir: ../../private/.git/worktrees/tree\n")


def _made_up_worktree(home: Path, folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    write(folder / ".git", b"gitdir: ../worktrees/it\n")
    write(folder.parent / "worktrees/it/gitdir", f"{folder / '.git'}\n".encode())
    write(folder.parent / "worktrees/it/commondir", b"../../../private/.git\n")
    write(folder.parent / "worktrees/it/HEAD", b"ref: refs/heads/main\n")


def _link(home: Path, folder: Path) -> None:
    shutil.rmtree(folder / ".git")
    (folder / ".git").symlink_to("../../private/.git")


def _links_inside(home: Path, folder: Path) -> None:
    for name in ("objects", "refs"):
        shutil.rmtree(folder / ".git" / name)
        (folder / ".git" / name).symlink_to(f"../../../private/.git/{name}")


def _link_to_a_branch(home: Path, folder: Path) -> None:
    for store in (folder / ".git/objects", home / "private/.git/objects"):
        for file in store.rglob("*"):
            if file.is_file() and store.is_relative_to(home / "private"):
                other = folder / ".git/objects" / file.relative_to(store)
                other.parent.mkdir(exist_ok=True)
                if not other.exists():
                    other.symlink_to(file)
    (folder / ".git/refs/heads/main").unlink()
    (folder / ".git/refs/heads/main").symlink_to("../../../../../private/.git/refs/heads/main")


def _common(home: Path, folder: Path) -> None:
    write(folder / ".git/commondir", b"../../../private/.git\n")


def _alternates(home: Path, folder: Path) -> None:
    """The name of a commit is told to whoever is given a run."""
    commit = git(home / "private", "rev-parse", "HEAD")
    write(folder / ".git/objects/info/alternates", f"{home / 'private/.git/objects'}\n".encode())
    write(folder / ".git/refs/heads/main", f"{commit}\n".encode())


def _index(home: Path, folder: Path) -> None:
    write(folder / "--/--/.ssh/id_rsa", b"another\n")  # which stays the first in order
    git(folder, "add", "-A")
    index = (folder / ".git/index").read_bytes()[:-20].replace(b"--/--/.ssh", b"../../.ssh")
    (folder / ".git/index").write_bytes(index + hashlib.sha1(index).digest())


@pytest.mark.parametrize(
    "lead_out",
    [
        _worktree, _inner_worktree, _file, _file_of_a_worktree, _made_up_worktree, _link, _links_inside,
        _link_to_a_branch, _common, _alternates, _index,
    ],
)  # fmt: skip
@pytest.mark.parametrize("at", ["", "sub"])
def test_a_repository_shows_nothing_that_lies_outside_of_it(tmp_path, monkeypatch, lead_out, at):
    home = tmp_path / "home"
    write(home / ".ssh/id_rsa", SECRET)
    write(home / "secret.yaml", SECRET)
    made(home / "private", {"secret.py": SECRET})
    folder = made(home / "downloads/it", {".ssh/id_rsa": b"another\n", "sub/a.py": b"1\n"})
    lead_out(home, folder)
    found = find_repository(folder / at)
    if found is not None:
        assert found.folder == folder
        assert found.unknown
        assert found.patch == b""
        assert found.commit != git(home / "private", "rev-parse", "HEAD") or lead_out is _alternates
    monkeypatch.setattr(module, "_find_escape", lambda *given: "")
    monkeypatch.setattr(module, "_leads_out", lambda name: False)
    believed = find_repository(folder / at)
    harmless = lead_out is _inner_worktree  # git goes out of its own folder only where it is called inside
    assert harmless or (believed is not None and b"a key of nobody else" in believed.patch), "this leads nowhere"


@pytest.mark.parametrize("name", ["/a", "../a", "a/../b", "a/..", ".git/config", "a/.GIT/b"])
def test_a_name_that_leads_out_is_known(name):
    assert module._leads_out(name)
    assert not any(map(module._leads_out, ("a", "a/b", "..a/b", "a/...", ".gitignore", "a/.github/b")))


def test_the_repository_of_a_run_directory_is_not_looked_at(tmp_path):
    folder = made(tmp_path / "run", START)
    inner = made(tmp_path / "run/a/b", START)
    assert find_repository(inner) is not None
    write(folder / "status.json", b"{}")
    assert find_repository(folder) is not None, "projects may have such a file"
    (folder / ".hydra").mkdir()
    for place in (folder, folder / "a folder", inner):
        assert find_repository(place) is None
