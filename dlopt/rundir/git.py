"""Find the git repository of a folder: its commit, its branch, and a patch of uncommitted changes.

Nothing in the repository is executed or changed, although its configuration may be someone else's. Flags and variables
switch off hooks, monitors, external diffs and transports. Filters have no flag: git 2.39 runs `filter.*.clean` during
`git diff`. So each filter that the configuration lists is overridden, by GIT_CONFIG_KEY_n, since `git -c` cannot name a
filter that has a "=" in its name.

No flag restricts where a repository lies. By core.worktree, a .git file, commondir, alternates, symbolic links or a
forged index, `git diff` shows files of other folders (each is done in tests/rundir/test_git.py). So such a repository
is reported without a patch. Linked worktrees and submodules are recognized by references in both directions.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import re
import shutil
import subprocess
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""Time limit of all git commands for one repository."""
LARGEST_PATCH = 5_000_000
"""Bytes of a patch; files that do not fit are left out."""
LARGEST_SOURCE = 100_000
"""Bytes of an untracked file in the patch."""
SOURCES = (
    ":(glob)**/*.py", ":(glob)**/*.yaml", ":(glob)**/*.toml",
    ":(exclude,glob)**/.hydra/**", ":(exclude,glob)**/multirun.yaml", ":(exclude,glob)**/site-packages/**",
)  # fmt: skip
"""The untracked files in the patch: source code, but no files of runs and no installed packages."""
GIT_NAMES = (
    "HEAD", "commondir", "gitdir", "config", "config.worktree", "index", "packed-refs", "info", "objects", "refs",
    "reftable",
)  # fmt: skip
"""Entries that git reads in its own directory."""
INHERITED_VARIABLES = ("CEILING_DIRECTORIES", "CONFIG_GLOBAL", "CONFIG_NOSYSTEM", "CONFIG_SYSTEM", "EXEC_PATH")
"""Variables GIT_* that are passed on. Inside a hook, others name the repository of that hook."""
VARIABLES = {
    "GIT_ALLOW_PROTOCOL": "none",  # missing objects are not fetched
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
}
OVERRIDES = {
    "core.attributesFile": os.devnull,
    "core.fsmonitor": "false",
    "core.hooksPath": os.devnull,
    "core.splitIndex": "false",  # a copy of the index could be written with a new file in the repository
    "core.untrackedCache": "false",
}
DIFF = (
    "diff", "--binary", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "--unified=3",
    f"-O{os.devnull}", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=dirty",
)  # fmt: skip
"""Compares only the commit of a submodule: inside it, git would use the submodule's configuration."""


@dataclass(frozen=True)
class Repository:
    """The state of a repository.

    folder    its root
    commit    None before the first commit
    branch    None if no branch is checked out
    patch     the changes since the commit, for `git apply` in a clean checkout; empty if there are none
    unknown   why the changes are not known, or empty
    """

    folder: Path
    commit: str | None = None
    branch: str | None = None
    patch: bytes = b""
    unknown: str = ""

    def describe(self, file: str) -> dict[str, Any]:
        """Return an entry for status.json; `file` is the name of the patch next to it."""
        return {
            "folder": str(self.folder),
            "commit": self.commit,
            "branch": self.branch,
            "patch": file if self.patch else None,
            "patch_sha256": hashlib.sha256(self.patch).hexdigest() if self.patch else None,
            "unknown": self.unknown or None,
        }


def find_repository(folder: Path) -> Repository | None:
    """Return the repository that a folder lies in, or None without a repository, or if git is missing or refuses it."""
    parents = (folder.resolve(), *folder.resolve().parents)
    root = next((place for place in parents if os.path.lexists(place / ".git")), None)
    if root is None or any((p / "status.json").exists() and (p / ".hydra").exists() for p in (root, *root.parents)):
        return None  # a repository in a run directory may have come with the run
    places = ("--show-toplevel", "--absolute-git-dir", "--git-common-dir", "--git-path", "index")
    try:
        git = _Git(folder)
        # Before the first commit, git prints all that exists and then fails.
        lines = git("rev-parse", *places, "HEAD", "--symbolic-full-name", "HEAD", may_fail=True).split(b"\n")[:-1]
        if len(lines) < 4:
            return None
        top, git_dir, common_dir, index = (folder / os.fsdecode(line) for line in lines[:4])
        escape = _find_escape(git, root, top, git_dir.resolve(), common_dir.resolve())
        if escape:
            return Repository(root, unknown=escape)
        commit, branch = (lines[4].decode(), lines[5].decode()) if len(lines) == 6 else (None, "HEAD")
        repository = Repository(root, commit, branch.removeprefix("refs/heads/") if branch != "HEAD" else None)
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="dlopt-", ignore_cleanup_errors=True) as temporary:
            git.folder, copy, objects = root, Path(temporary, "index"), Path(temporary, "objects")
            if index.is_file():
                shutil.copy2(index, copy)  # with its time, by which git knows which files it has to compare
            (objects / "info").mkdir(parents=True)  # a sparse index is read with new trees
            (objects / "info/alternates").write_bytes(os.fsencode(common_dir.resolve() / "objects") + b"\n")
            git.environment |= {"GIT_INDEX_FILE": str(copy), "GIT_OBJECT_DIRECTORY": str(objects)}
            if any(map(_leads_out, _split_names(git("ls-files", "-z")))):
                return replace(repository, unknown="its index names files outside of it")
            return replace(repository, patch=_make_patch(git, commit))
    except (OSError, subprocess.SubprocessError) as error:
        is_late = isinstance(error, subprocess.TimeoutExpired)
        return replace(repository, unknown=f"git took more than {SECONDS:g} s" if is_late else "git failed")


def _find_escape(git: _Git, root: Path, top: Path, git_dir: Path, common_dir: Path) -> str:
    """Return how a repository leads out of its root, or "".

    top         the folder of its files, according to git
    git_dir     the directory of git, resolved
    common_dir  the directory of the history, resolved; another one in a linked worktree
    """
    if not top.samefile(root):
        return "it says that its files lie in another folder"
    if git_dir != root / ".git":
        back = git_dir / "gitdir"
        linked = git_dir.parent == common_dir / "worktrees" and back.is_file() and root / ".git" == (
            git_dir / os.fsdecode(back.read_bytes()).removesuffix("\n")
        ).resolve()  # fmt: skip
        # By core.worktree git finds the files of a submodule: if it is set, it names this folder.
        submodule = git_dir == common_dir and git("config", "--get", "core.worktree", may_fail=True)
        if not linked and not submodule:
            return "its .git names the directory of another repository"
    elif git_dir != common_dir:
        return "it says that its history lies in another folder"
    if (common_dir / "objects/info/alternates").exists() or _has_links(git_dir) or _has_links(common_dir):
        return "its history lies in another folder"
    return ""


def _has_links(place: Path) -> bool:
    """Return whether anything that git reads in its directory is a symbolic link."""
    paths = [place / name for name in GIT_NAMES]
    walks = itertools.chain.from_iterable(map(os.walk, paths))
    below = (Path(at, name) for at, folders, names in walks for name in (*folders, *names))
    return any(path.is_symlink() for path in itertools.chain(paths, below))


def _leads_out(name: str) -> bool:
    """Return whether a name in an index is not the name of a file in the repository; git itself writes no such name."""
    return name.startswith("/") or any(part == ".." or part.lower() == ".git" for part in name.split("/"))


class _Git:
    """Git commands in a folder, with one time limit for all."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        inherited = {f"GIT_{name}" for name in INHERITED_VARIABLES}
        self.environment = {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in inherited}
        self.environment |= VARIABLES
        self.deadline = time.monotonic() + SECONDS
        filters = _split_names(self("config", "-z", "--name-only", "--get-regexp", r"^filter\.", may_fail=True))
        overrides = OVERRIDES | {key: "false" if key.endswith(".required") else "" for key in filters}
        self.environment["GIT_CONFIG_COUNT"] = str(len(overrides))
        for i, (key, value) in enumerate(overrides.items()):
            self.environment |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value}

    def __call__(self, *arguments: str, stdin: bytes = b"", may_fail: bool = False) -> bytes:
        """Return what git prints."""
        return subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=self.environment,
            input=stdin,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=max(0.0, self.deadline - time.monotonic()),
            check=not may_fail,
        ).stdout


def _make_patch(git: _Git, commit: str | None) -> bytes:
    """Return the patch from a commit (None: nothing) to the files, after lines that name the omitted files."""
    base = commit or git("hash-object", "-t", "tree", "--stdin").decode().strip()
    sources, omitted = _select_sources(git)
    if sources:
        # Any object stands for the content, which git then reads from the file: adding the content as an object would
        # change the repository.
        entries = "".join(f"100644 {base}\t{name}\0" for name in sources)
        git("update-index", "-z", "--index-info", stdin=os.fsencode(entries))
    changed = _split_names(git(*DIFF, "--name-only", "-z", base))
    large = [name for name in dict.fromkeys(changed) if _get_size(git.folder / name) > LARGEST_PATCH]
    whole = git(*DIFF, base, "--", ".", *(f":(exclude,literal){name}" for name in large)) if changed else b""
    patch, names = truncate_patch(whole, LARGEST_PATCH)
    omitted += [*(name.encode("unicode_escape").decode() for name in large), *names]
    return "".join(f"# left out: {name}\n" for name in omitted).encode() + patch


def truncate_patch(patch: bytes, limit: int) -> tuple[bytes, list[str]]:
    """Return as many files of a patch as fit into this many bytes, and the names of the others."""
    # No line of a file's content begins like this: each has a sign before it.
    pieces = [b"diff --git " + piece for piece in re.split(rb"^diff --git ", patch, flags=re.MULTILINE)[1:]]
    order = sorted(range(len(pieces)), key=lambda i: len(pieces[i]))
    ends = itertools.accumulate(len(pieces[i]) for i in order)
    selected = {i for i, end in zip(order, ends, strict=True) if end <= limit}
    others = [pieces[i].partition(b"\n")[0][11:] for i in range(len(pieces)) if i not in selected]
    # The line has the name twice: a/NAME b/NAME.
    names = [line[: len(line) // 2].replace(b"a/", b"", 1).decode(errors="replace") for line in others]
    return b"".join(pieces[i] for i in sorted(selected)), names


def _select_sources(git: _Git) -> tuple[list[str], list[str]]:
    """Return the untracked files that go into the patch, and a note on the others."""
    listed = _split_names(git("ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES))
    names = [name for name in listed if not name.endswith("/")]  # other repositories
    sizes = {name: _get_size(git.folder / name) for name in names}
    small = [name for name in names if sizes[name] <= LARGEST_SOURCE]
    small.sort(key=lambda name: (name.count("/"), name))  # custom components lie near the root
    ends = itertools.accumulate(sizes[name] for name in small)
    sources = [name for name, end in zip(small, ends, strict=True) if end <= LARGEST_PATCH]
    more = len(names) - len(sources)
    return sources, [f"{more} untracked file{'s' if more > 1 else ''}"] if more else []


def _split_names(listed: bytes) -> list[str]:
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


def _get_size(path: Path) -> int:
    """Return the size of a file, of a link itself, or 0 if it does not exist."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0
