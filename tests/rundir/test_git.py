"""Git repositories: a patch restores the files, and nothing is executed, changed or read from elsewhere."""

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from dlopt.rundir import git as module
from dlopt.rundir.git import find_repository, truncate_patch

WHO = ("-c", "user.name=A", "-c", "user.email=a@b.c", "-c", "init.defaultBranch=main", "-c", "commit.gpgsign=false", "-c", "protocol.file.allow=always")  # fmt: skip


@pytest.fixture(autouse=True)
def _git_settings(monkeypatch, tmp_path):
    """Let the user have settings that change what git prints."""
    for name in [name for name in os.environ if name.startswith("GIT_")]:
        monkeypatch.delenv(name)
    settings = "[diff]\ncontext = 0\norderFile = /nowhere\nnoprefix = true\nexternal = false\n[color]\nui = always\n"
    write(tmp_path / "gitconfig", settings.encode())
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(tmp_path / "gitconfig"))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")


def git(folder: Path, *arguments: str, check: bool = True, **options) -> str:
    process = subprocess.run(
        ["git", *WHO, *arguments], cwd=folder, env=os.environ | {"GIT_CONFIG_GLOBAL": os.devnull},
        capture_output=True, text=True, check=False, timeout=30, **options,
    )  # fmt: skip
    assert not check or process.returncode == 0, process.stderr
    assert "error:" not in process.stderr or not check  # a truncated patch is applied in part, with exit code 0
    return process.stdout.strip()


def write(file: Path, content: bytes) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)


def make_repository(folder: Path, files: dict[str, bytes], *flags: str, commit: bool = True) -> Path:
    folder.mkdir(parents=True)
    git(folder, "init", *flags)
    for name, content in files.items():
        write(folder / name, content)
    git(folder, "add", "-A")
    if commit:
        git(folder, "commit", "-m", "first")
    return folder


def read_files(folder: Path) -> dict[str, tuple[bytes, bool]]:
    """Return every file except git's: the content (of a link: the target) and whether it is executable."""
    files = {}
    for path in sorted(folder.rglob("*")):
        if ".git" not in path.relative_to(folder).parts and (path.is_symlink() or path.is_file()):
            link = path.is_symlink()
            content = os.fsencode(path.readlink()) if link else path.read_bytes()
            files[path.relative_to(folder).as_posix()] = (content, not link and os.access(path, os.X_OK))
    return files


def restore(folder: Path, copy: Path) -> dict[str, tuple[bytes, bool]]:
    """Return the files of a clean checkout of the recorded commit, with the patch applied."""
    repository = find_repository(folder)
    assert repository is not None
    assert (repository.folder, repository.unknown) == (folder, "")
    if repository.commit:
        git(copy.parent, "clone", str(folder), str(copy))
        git(copy, "checkout", repository.commit)
    else:
        copy.mkdir()
        git(copy, "init", f"--object-format={git(folder, 'rev-parse', '--show-object-format')}")
    if repository.patch:
        write(copy.parent / "a.patch", repository.patch)
        git(copy, "apply", str(copy.parent / "a.patch"))
    return read_files(copy)


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


CHANGES = {
    "net.py": b"zero\n" + START["net.py"].replace(b"two", b"2", 1),
    "image.bin": bytes(reversed(range(256))) * 3,
    "a folder/with spaces.py": b"x = 3\r\n",
    "größe-モデル.py": b"y = 4\n",
    "no newline.txt": b"another end",
    "mine/part.py": b"class Mine: ...\n",
    "mine/empty.py": b"",
    "mine/größe ü.yaml": b"lr: 1\n",
    '[odd] "name"*.toml': b"a = 1\n",
    "opened.py/inner.py": b"z = 1\n",
    "closed.py": b"z = 2\n",
}


def change_everything(folder: Path) -> Path:
    """Make every kind of change."""
    for name in ("gone.py", "turned.py", "opened.py"):
        (folder / name).unlink()
    shutil.rmtree(folder / "closed.py")
    (folder / "moved.py").rename(folder / "elsewhere.py")
    (folder / "run.sh").chmod(0o755)
    (folder / "turned.py").symlink_to("net.py")
    (folder / "link.py").symlink_to("/nowhere")
    write(folder / "added.bin", b"\0\1\2staged")
    git(folder, "add", "added.bin")
    for name, content in CHANGES.items():
        write(folder / name, content)
    return folder


def make_changes(kind: str, tmp_path: Path) -> Path:
    """Make a repository of this kind with changes."""
    flags = ["--object-format=sha256"] if "sha256" in kind else []
    small = {"a.py": b"1\n", "b.py": b"1\n"}
    if "plain" in kind:
        return change_everything(make_repository(tmp_path / "it", START, *flags))
    if "no commit" in kind:
        folder = make_repository(tmp_path / "it", {"staged.bin": b"\0\1"}, *flags, commit=False)
        write(folder / "mine.py", b"x = 1\n")
        return folder
    folder = make_repository(tmp_path / "it", START if "worktree" in kind else small)
    if "submodule" in kind:
        git(folder, "submodule", "add", str(make_repository(tmp_path / "inner", START)), "module")
        folder = change_everything(folder / "module")
        if "sparse" in kind:  # git then stores the place of the files in config.worktree
            git(folder, "sparse-checkout", "set", "--no-cone", "/*")
    elif "worktree" in kind:
        tree = tmp_path / "tree"
        git(folder, "worktree", "add", "-b", "other", str(tree))
        git(tree, "update-index", "--split-index")
        folder = change_everything(tree)
        if "relative" in kind:  # as newer versions of git can write it
            file = Path(git(tree, "rev-parse", "--git-path", "gitdir"))
            file.write_text(f"{os.path.relpath(tree / '.git', file.parent)}\n")
    elif kind == "a conflict":
        for branch, content in (("side", b"2\n"), ("main", b"3\n")):
            git(folder, "checkout", *(["-b"] if branch == "side" else []), branch)
            write(folder / "a.py", content)
            git(folder, "commit", "-am", branch)
        git(folder, "merge", "side", check=False)
        write(folder / "b.py", b"2\n")
    elif kind == "a replaced commit":
        write(folder / "a.py", b"2\n")
        git(folder, "commit", "-am", "second")
        git(folder, "replace", "HEAD", "HEAD~1")
        write(folder / "a.py", b"3\n")
    else:  # a change of the same size in the second of the index
        os.utime(folder / "a.py", (1000, 1000))
        git(folder, "add", "a.py")
        os.utime(folder / ".git/index", (1000, 1000))
        write(folder / "a.py", b"2\n")
        os.utime(folder / "a.py", (1000, 1000))
    return folder


@pytest.mark.parametrize(
    "kind",
    ["plain", "plain, sha256", "no commit", "no commit, sha256", "a submodule", "a sparse submodule", "a worktree",
     "a worktree with relative paths", "a conflict", "a replaced commit",
     "a change of the same size in the second of the index"],
)  # fmt: skip
def test_a_patch_restores_the_files(kind, tmp_path):
    folder = make_changes(kind, tmp_path)
    assert restore(folder, tmp_path / "again") == read_files(folder)


def test_a_clean_repository_has_no_patch(tmp_path):
    folder = make_repository(tmp_path / "it", START)
    repository = find_repository(folder / "a folder")
    assert repository.describe("git.patch") == {
        "folder": str(folder), "commit": git(folder, "rev-parse", "HEAD"), "branch": "main",
        "patch": None, "patch_sha256": None, "unknown": None,
    }  # fmt: skip
    git(folder, "checkout", "--detach")
    assert find_repository(folder).branch is None
    git(folder, "config", "core.fileMode", "false")
    git(folder, "config", "core.autocrlf", "true")
    (folder / "run.sh").chmod(0o755)
    write(folder / "gone.py", b"old\r\n")
    assert find_repository(folder).patch == b"", "settings of the repository are respected"


def test_a_submodule_is_recorded_by_its_commit(tmp_path):
    module = make_changes("a submodule", tmp_path)
    git(module.parent, "commit", "-m", "second")
    assert find_repository(module.parent).patch == b""
    git(module, "commit", "-am", "another")
    assert f"+Subproject commit {git(module, 'rev-parse', 'HEAD')}".encode() in find_repository(module.parent).patch


def test_the_patch_holds_only_small_source_files_that_are_not_ignored(tmp_path):
    folder = make_repository(tmp_path / "it", START)
    for name in (
        "notes.txt", "ignored.py", "build/x.py", "excluded.py", "everywhere.py", "large.py", "weights.pt",
        "outputs/1/.hydra/config.yaml", "outputs/multirun.yaml", "env/lib/site-packages/a/b.py",
    ):  # fmt: skip
        write(folder / name, b"x" * (100_001 if name == "large.py" else 1))
    write(folder / ".git/info/exclude", b"excluded.py\n")
    write(tmp_path / "ignore", b"everywhere.py\n")
    git(folder, "config", "core.excludesFile", str(tmp_path / "ignore"))
    make_repository(folder / "another", {"own.py": b"1\n"})
    assert find_repository(folder).patch == b"# left out: 1 untracked file\n"
    write(folder / "large.py", b"x" * 100_000)
    patch = find_repository(folder).patch
    assert patch.count(b"diff --git") == 1
    assert b"b/large.py" in patch


def test_a_patch_has_a_limit_and_names_the_files_left_out(tmp_path, monkeypatch):
    files = {"big.bin": b"1", "a.py": b"1\n", "deep/b.py": b"1\n"}
    folder, copy = make_repository(tmp_path / "it", files), make_repository(tmp_path / "again", files)
    for name, content in {
        "big.bin": os.urandom(3000), "a.py": b"2\n", "deep/b.py": b"".join(b"%d\n" % i for i in range(400)),
        "a/very/deep/one.py": b"x" * 600, "zoo.py": b"y" * 600,
    }.items():  # fmt: skip
        write(folder / name, content)
    monkeypatch.setattr(module, "LARGEST_PATCH", 1000)
    patch = find_repository(folder).patch.decode()
    head = patch.split("diff --git")[0]
    assert head == "# left out: 1 untracked file\n# left out: big.bin\n# left out: deep/b.py\n"
    assert len(patch) <= 1000 + len(head)
    git(copy, "apply", "-", input=patch)
    assert (copy / "a.py").read_bytes() == b"2\n"
    assert (copy / "zoo.py").exists(), "files near the root come first"


def test_as_many_files_fit_as_possible():
    texts = ("a", 50), ("b c", 90), ("d", 10)
    parts = [f"diff --git a/{name} b/{name}\n{'x' * count}\n".encode() for name, count in texts]
    whole, limit = b"".join(parts), len(parts[0] + parts[2])
    assert truncate_patch(whole, 1000) == (whole, [])
    assert truncate_patch(whole, limit) == (parts[0] + parts[2], ["b c"])
    assert truncate_patch(whole, limit - 1) == (parts[2], ["a", "b c"])
    assert truncate_patch(b"", 10) == (b"", [])


def test_the_repository_is_not_changed(tmp_path):
    def read_all(folder: Path) -> dict[str, tuple[bytes, int]]:
        return {str(p): (p.read_bytes(), p.stat().st_mtime_ns) for p in sorted(folder.rglob("*")) if p.is_file()}

    folder = make_changes("plain", tmp_path)
    (folder / "turned.py").unlink()
    (folder / "link.py").unlink()
    os.utime(folder / "net.py", (5, 5))  # git status would then write a new index
    before = read_all(folder)
    assert find_repository(folder).patch
    assert read_all(folder) == before
    git(folder, "sparse-checkout", "set", "--cone", "--sparse-index", "a folder")
    write(folder / "staged.py", b"3\n")
    git(folder, "add", "staged.py")
    git(folder, "config", "core.splitIndex", "true")
    git(folder, "config", "splitIndex.maxPercentChange", "0")  # each write of the index makes a new shared one
    before = read_all(folder)
    assert b"staged.py" in find_repository(folder).patch
    assert {name: content for name, (content, _) in read_all(folder).items()} == {k: v for k, (v, _) in before.items()}


def write_trap(tmp_path: Path, end: str) -> tuple[str, Path]:
    """Write a program that creates a canary, and return both paths."""
    trap, canary = tmp_path / "trap.sh", tmp_path / "canary"
    write(trap, f'#!/bin/sh\necho "$0 $@" >> {canary}\n{end}\n'.encode())
    trap.chmod(0o755)
    return str(trap), canary


def test_nothing_in_a_repository_is_executed(tmp_path):
    """Neither filters, drivers, monitors, hooks, pagers nor aliases."""
    folder = make_repository(tmp_path / "it", {**START, "sub/x": b"1"})
    trap, canary = write_trap(tmp_path, "cat")
    git(folder, "submodule", "add", str(make_repository(tmp_path / "inner", {"i.py": b"1\n"})), "module")
    write(folder / ".gitattributes", b"* filter=evil diff=evil\nimage.bin filter=a=b\n")
    git(folder, "commit", "-am", "second")
    for key in (
        "filter.evil.clean", "filter.evil.smudge", "filter.evil.process", "filter.a=b.clean", "diff.evil.command",
        "diff.evil.textconv", "diff.external", "core.fsmonitor", "core.pager", "pager.diff", "alias.diff", "core.editor",
        "core.sshCommand", "credential.helper", "hook.evil.command",
    ):  # fmt: skip
        for place in (folder, folder / "module"):
            git(place, "config", key, trap)
    git(folder, "config", "filter.evil.required", "true")
    git(folder, "config", "hook.evil.event", "post-index-change")
    for hooks in (folder / ".git/hooks", folder / ".git/modules/module/hooks"):
        for hook in ("post-index-change", "pre-commit", "fsmonitor-watchman", "post-checkout"):
            shutil.copy(trap, hooks / hook)
    write(folder / "net.py", b"changed\n")
    write(folder / "mine.py", b"new\n")
    write(folder / "module/i.py", b"changed\n")
    os.utime(folder / "image.bin", (5, 5))
    repository = find_repository(folder)
    assert not canary.exists(), canary.read_text()
    assert repository.unknown == ""
    assert b"+changed" in repository.patch
    for options in ((), ("--no-ext-diff", "--no-textconv", "HEAD", "--", "image.bin")):
        git(folder, "diff", *options, check=False)
        assert canary.exists(), "the traps are not set"
        canary.unlink()


def test_missing_objects_are_not_fetched(tmp_path):
    """In a partial clone, git would fetch them by the program in the configuration."""
    folder = make_repository(tmp_path / "it", {"net.py": b"1\n"})
    trap, canary = write_trap(tmp_path, "exit 1")
    for key, value in {
        "core.repositoryFormatVersion": "1", "extensions.partialClone": "origin", "remote.origin.promisor": "true",
        "remote.origin.url": str(make_repository(tmp_path / "inner", {"i.py": b"1\n"})), "remote.origin.uploadpack": trap,
    }.items():  # fmt: skip
        git(folder, "config", key, value)
    blob = git(folder, "rev-parse", "HEAD:net.py")
    (folder / f".git/objects/{blob[:2]}/{blob[2:]}").unlink()
    write(folder / "net.py", b"changed\n")
    assert find_repository(folder).unknown == "git failed"
    assert not canary.exists()
    git(folder, "diff", "HEAD", check=False)
    assert canary.exists(), "the trap is not set"


def test_variables_of_a_git_hook_are_ignored(tmp_path, monkeypatch):
    folder = make_repository(tmp_path / "it", {"a.py": b"1\n"})
    other = make_repository(tmp_path / "other", {"b.py": b"1\n"})
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git/index"))
    repository = find_repository(folder)
    assert (repository.folder, repository.patch) == (folder, b"")


def test_no_repository_is_found(tmp_path, monkeypatch):
    """In a folder without one, a bare one, git's own directory, a missing folder, a broken repository; without git."""
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    (tmp_path / "plain").mkdir()
    git(tmp_path, "init", "--bare", "bare")
    folder = make_repository(tmp_path / "it", START)
    for file in ("HEAD", "config"):
        shutil.copytree(folder, tmp_path / file)
        write(tmp_path / file / ".git" / file, b"\0[[[")
    for place in ("plain", "bare", "it/.git", "nowhere", "HEAD", "config"):
        assert find_repository(tmp_path / place) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert find_repository(folder) is None


@pytest.mark.parametrize("damage", ["no objects", "a bad index", "slow git"])
def test_the_commit_is_recorded_if_git_fails(damage, tmp_path, monkeypatch):
    folder = make_repository(tmp_path / "it", START)
    commit = git(folder, "rev-parse", "HEAD")
    write(folder / "net.py", b"2\n")
    unknown = "git failed"
    if damage == "no objects":
        shutil.rmtree(folder / ".git/objects")
        (folder / ".git/objects").mkdir()
    elif damage == "a bad index":
        write(folder / ".git/index", b"DIRC nonsense")
    else:
        call, unknown = module._Git.__call__, "git took more than 5 s"

        def call_slowly(self, *arguments, **options):
            if arguments[0] == "ls-files":
                self.deadline = 0.0
            return call(self, *arguments, **options)

        monkeypatch.setattr(module._Git, "__call__", call_slowly)
    repository = find_repository(folder)
    assert (repository.commit, repository.patch, repository.unknown) == (commit, b"", unknown)
    assert repository.describe("git.patch")["unknown"] == unknown
    monkeypatch.setattr(module, "SECONDS", 0.0)
    assert find_repository(folder) is None


# ------------------------------------------------------------------------------------------------ private files

SECRET = b"a key of someone else\n"


def name_git_directory(folder: Path, target: str) -> None:
    shutil.rmtree(folder / ".git")
    write(folder / ".git", f"gitdir: {target}\n".encode())


def lead_out(kind: str, home: Path, folder: Path) -> None:  # noqa: PLR0912
    """Make a repository lead out of its folder, to home/private or another one."""
    private, own = home / "private/.git", folder / ".git"
    match kind:
        case "core.worktree above":
            git(folder, "config", "core.worktree", "../../..")
        case "core.worktree":
            git(folder, "config", "core.worktree", "../../../private")
        case "a .git file":
            name_git_directory(folder, "../../private/.git")
        case "a .git file of a worktree":
            git(home / "private", "worktree", "add", "-b", "other", str(home / "tree"))
            name_git_directory(folder, "../../private/.git/worktrees/tree")
        case "a forged worktree":
            name_git_directory(folder, "../worktrees/it")
            forged = folder.parent / "worktrees/it"
            write(forged / "gitdir", f"{own}\n".encode())
            write(forged / "commondir", b"../../../private/.git\n")
            write(forged / "HEAD", b"ref: refs/heads/main\n")
        case "a link":
            shutil.rmtree(own)
            own.symlink_to("../../private/.git")
        case "links inside":
            for name in ("objects", "refs"):
                shutil.rmtree(own / name)
                (own / name).symlink_to(f"../../../private/.git/{name}")
        case "a link to a branch":
            for file in (path for path in (private / "objects").rglob("*") if path.is_file()):
                link = own / file.relative_to(private)
                link.parent.mkdir(exist_ok=True)
                if not link.exists():
                    link.symlink_to(file)
            (own / "refs/heads/main").unlink()
            (own / "refs/heads/main").symlink_to("../../../../../private/.git/refs/heads/main")
        case "commondir":
            write(own / "commondir", b"../../../private/.git\n")
        case "alternates":  # the commit belongs to the other repository
            write(own / "objects/info/alternates", f"{private / 'objects'}\n".encode())
            write(own / "refs/heads/main", f"{git(home / 'private', 'rev-parse', 'HEAD')}\n".encode())
        case "an index":
            write(folder / "--/--/.ssh/id_rsa", b"another\n")  # stays first in order
            git(folder, "add", "-A")
            index = (own / "index").read_bytes()[:-20].replace(b"--/--/.ssh", b"../../.ssh")
            (own / "index").write_bytes(index + hashlib.sha1(index).digest())


@pytest.mark.parametrize(
    "kind",
    ["core.worktree above", "core.worktree", "a .git file", "a .git file of a worktree", "a forged worktree", "a link",
     "links inside", "a link to a branch", "commondir", "alternates", "an index"],
)  # fmt: skip
def test_the_patch_shows_no_file_outside_of_the_repository(kind, tmp_path, monkeypatch):
    home = tmp_path / "home"
    write(home / ".ssh/id_rsa", SECRET)
    write(home / "secret.yaml", SECRET)
    make_repository(home / "private", {"secret.py": SECRET})
    folder = make_repository(home / "downloads/it", {".ssh/id_rsa": b"another\n", "sub/a.py": b"1\n"})
    lead_out(kind, home, folder)
    for place in (folder, folder / "sub"):
        repository = find_repository(place)
        if repository is not None:
            assert (repository.folder, repository.patch) == (folder, b"")
            assert repository.unknown
            assert repository.commit != git(home / "private", "rev-parse", "HEAD") or kind == "alternates"
    monkeypatch.setattr(module, "_find_escape", lambda *_: "")
    monkeypatch.setattr(module, "_leads_out", lambda name: False)
    unchecked = find_repository(folder)
    harmless = kind.startswith("core.worktree")  # in the root, git compares only what lies below it
    assert harmless or SECRET.strip() in unchecked.patch, "without the checks, the secret is shown"


def test_names_outside_of_the_repository_are_recognized():
    assert all(map(module._leads_out, ("/a", "../a", "a/../b", "a/..", ".git/config", "a/.GIT/b")))
    assert not any(map(module._leads_out, ("a", "a/b", "..a/b", "a/...", ".gitignore", "a/.github/b")))


def test_the_repository_of_a_run_directory_is_ignored(tmp_path):
    folder = make_repository(tmp_path / "run", START)
    inner = make_repository(tmp_path / "run/a/b", START)
    assert find_repository(inner) is not None
    write(folder / "status.json", b"{}")
    assert find_repository(folder) is not None, "a project may have such a file"
    (folder / ".hydra").mkdir()
    for place in (folder, folder / "a folder", inner):
        assert find_repository(place) is None
