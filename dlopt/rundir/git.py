"""The git repository that a folder lies in: commit, branch, and a patch of what is not committed.

Nothing that lies in the repository is executed, and nothing in it is changed. Its configuration may name programs
(filters, diff drivers, monitors, hooks, ways to fetch), and may be somebody else's. So git works in a directory of our
own, which takes over the commit, the objects, the index and what is ignored, and of the configuration plain switches.
Flags are not enough (measured with git 2.39): with core.fsmonitor, core.hooksPath and core.attributesFile overridden,
--no-ext-diff and --no-textconv, `git diff` still runs a filter.*.clean that .gitattributes names.

Nor is it believed where it says that its files or its history lie outside of it: what a patch shows may be somebody's
private files, or another repository. Git's own ways to lie in two places, linked worktrees and submodules, are known
by both places naming each other.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

SECONDS = 5.0
"""In which git must have answered all questions about one repository."""
LARGEST_PATCH = 5_000_000
"""Bytes of a patch; a file that is larger, or no longer fits, is left out."""
LARGEST_SOURCE = 100_000
"""Bytes of an untracked file that goes into the patch."""
SOURCES = (":(glob)**/*.py", ":(glob)**/*.yaml", ":(glob)**/*.toml")
"""Which untracked files go into the patch."""
NOT_SOURCES = tuple(f":(exclude,glob)**/{name}" for name in (".hydra/**", "multirun.yaml", "site-packages/**"))
"""What runs leave behind, and packages that are installed."""
SWITCHES = "autocrlf|eol|excludesfile|filemode|ignorecase|precomposeunicode|symlinks"
"""Keys core.* that say how files are compared; none of them names a program."""
RUN_MARKERS = ("status.json", ".hydra")
"""What a run's directory holds: one that somebody else made may have come with a repository, which made no run."""
GIT_FILES = ("HEAD", "commondir", "gitdir", "config", "config.worktree", "index", "packed-refs", "info", "info/exclude")
"""Files of a repository that git reads here, beside those in STORES."""
STORES = ("objects", "refs", "reftable")
"""Folders of a repository in which its history lies."""
INHERITED_VARIABLES = (
    "GIT_CEILING_DIRECTORIES",
    "GIT_CONFIG_GLOBAL",
    "GIT_CONFIG_NOSYSTEM",
    "GIT_CONFIG_SYSTEM",
    "GIT_DISCOVERY_ACROSS_FILESYSTEM",
    "GIT_EXEC_PATH",
)
"""Variables of git that stay; in a hook others name the repository of that hook."""
DIFF = (
    "diff", "--binary", "--no-renames", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative",
    "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short", "--ignore-submodules=dirty",
)  # fmt: skip
"""Into submodules git would go with their own configuration: of these, the commit alone is compared."""


@dataclass(frozen=True)
class Repository:
    """A repository as it was found.

    folder    its root
    commit    None where there is none yet
    branch    None where no branch is checked out
    patch     from the commit to the files as they are, for `git apply` in a clean checkout; empty: nothing is changed
    unknown   why the patch is not known; empty: it is
    """

    folder: Path
    commit: str | None
    branch: str | None
    patch: bytes = b""
    unknown: str = ""

    def describe(self, file: str) -> dict[str, Any]:
        """For a JSON file beside which the patch lies under this name, if there is one."""
        return {
            "folder": str(self.folder),
            "commit": self.commit,
            "branch": self.branch,
            "patch": file if self.patch else None,
            "patch_sha256": hashlib.sha256(self.patch).hexdigest() if self.patch else None,
            "unknown": self.unknown or None,
        }


def find_repository(folder: Path) -> Repository | None:
    """What holds a folder; None where there is no git, no repository, or one without files or that git refuses.

    Of a repository that leads out of its folder nothing is told but that. One in a run's directory is none.
    """
    root = next((place for place in _list_parents(folder) if os.path.lexists(place / ".git")), None)
    if root is None or any(all((place / name).exists() for name in RUN_MARKERS) for place in _list_parents(root)):
        return None
    git = _Git(folder, {k: v for k, v in os.environ.items() if not k.startswith("GIT_") or k in INHERITED_VARIABLES})
    places = ("--git-path=objects", "--git-path=index", "--git-path=info/exclude")
    asked = ["--show-toplevel", "--absolute-git-dir", "--git-common-dir", "--show-object-format"]
    asked += [word for p in places for word in p.split("=")]
    try:
        # All that is there is printed before git fails for want of a commit.
        lines = git("rev-parse", *asked, "HEAD", "--symbolic-full-name", "HEAD", may_fail=True).split(b"\n")[:-1]
        if len(lines) < 7:
            return None
        top, its, shared, form, objects, index, excluded = (os.fsdecode(line) for line in lines[:7])
        out = _find_escape(git, root, Path(top), (folder / its).resolve(), (folder / shared).resolve())
        if out:
            return Repository(root, None, None, unknown=out)
        commit, branch = (lines[7].decode(), lines[8].decode()) if len(lines) == 9 else (None, "HEAD")
        found = Repository(Path(top), commit, branch.removeprefix("refs/heads/") if branch != "HEAD" else None)
    except (OSError, subprocess.SubprocessError):
        return None
    try:
        with tempfile.TemporaryDirectory(prefix="dlopt-", ignore_cleanup_errors=True) as beside:
            own = git.isolate(Path(beside), found.folder, form, *(folder / p for p in (objects, index, excluded)))
            if any(map(_leads_out, _names(own("ls-files", "-z")))):
                return replace(found, unknown="its index names files outside of it")
            patch = _patch(own, commit or own("hash-object", "-t", "tree", "--stdin").decode().strip())
    except (OSError, subprocess.SubprocessError) as error:
        why = f"git took more than {SECONDS:g} s" if isinstance(error, subprocess.TimeoutExpired) else "git failed"
        return replace(found, unknown=why)
    return replace(found, patch=patch)


def _list_parents(folder: Path) -> list[Path]:
    """A folder and those around it, without symbolic links."""
    inner = folder.resolve()
    return [inner, *inner.parents]


def _find_escape(git: _Git, root: Path, top: Path, its: Path, shared: Path) -> str:
    """How a repository leads out of the folder with its .git; empty: it does not.

    top      where git takes its files to be
    its      its directory of git's, resolved
    shared   that of the history: another one in a linked worktree
    """
    entry = root / ".git"
    if not top.samefile(root):
        return "it says that its files lie in another folder"
    if its != entry:
        linked = its.parent == shared / "worktrees" and (its / _read_line(its / "gitdir")).resolve() == entry
        # Git takes the files to lie where a submodule's directory says, so that this, being set, says: here.
        submodule = its == shared and git("config", "--get", "core.worktree", may_fail=True)
        if not linked and not submodule:
            return "its .git names the directory of another repository"
    elif its != shared:
        return "it says that its history lies in another folder"
    if (shared / "objects/info/alternates").exists() or any(_has_links(place) for place in {its, shared}):
        return "its history lies in another folder"
    return ""


def _read_line(file: Path) -> str:
    """What a file of one line says; nothing where it is missing."""
    return os.fsdecode(file.read_bytes()).removesuffix("\n") if file.is_file() else ""


def _has_links(place: Path) -> bool:
    """Whether anything that git reads in its directory is a symbolic link."""
    if any((place / name).is_symlink() for name in (*GIT_FILES, *STORES)):
        return True
    below = (walked for store in STORES for walked in os.walk(place / store))
    return any(Path(at, name).is_symlink() for at, folders, names in below for name in (*folders, *names))


def _leads_out(name: str) -> bool:
    """Whether an index's name is none of a file in the repository; git itself writes none of these."""
    return name.startswith("/") or any(part == ".." or part.lower() == ".git" for part in name.split("/"))


class _Git:
    """Calls of git in a folder, which together must end in time."""

    def __init__(self, folder: Path, environment: Mapping[str, str], until: float | None = None) -> None:
        self.folder = folder
        self.environment = {**environment, "GIT_OPTIONAL_LOCKS": "0"}
        self.until = time.monotonic() + SECONDS if until is None else until

    def __call__(self, *arguments: str, given: bytes = b"", may_fail: bool = False) -> bytes:
        """What git prints."""
        return subprocess.run(
            ["git", *arguments],
            cwd=self.folder,
            env=self.environment,
            input=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=max(0.0, self.until - time.monotonic()),
            check=not may_fail,
        ).stdout

    def isolate(self, own: Path, root: Path, form: str, objects: Path, index: Path, excluded: Path) -> _Git:
        """git for the same files, with its own directory in place of the repository's."""
        switches = self("config", "-z", "--get-regexp", rf"^core\.({SWITCHES})$", may_fail=True).decode().split("\0")
        for name in ("objects/info", "refs", "info"):
            (own / name).mkdir(parents=True)
        (own / "HEAD").write_text("ref: refs/heads/none\n")
        other = "repositoryformatversion = 1\n[extensions]\nobjectFormat = sha256\n" if form == "sha256" else ""
        (own / "config").write_text(f"[core]\nbare = false\n{other}")
        (own / "objects/info/alternates").write_bytes(os.fsencode(objects) + b"\n")
        for file in (index, *index.parent.glob("sharedindex.*")):
            if file.is_file():  # its time too, by which git knows which files it has to look into
                shutil.copy2(file, own / file.name)
        if excluded.is_file():
            shutil.copy(excluded, own / "info/exclude")
        variables = {
            "GIT_DIR": str(own),
            "GIT_WORK_TREE": str(root),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_CONFIG_COUNT": str(sum(map(bool, switches))),
        }
        for i, pair in enumerate(filter(None, switches)):
            key, equals, value = pair.partition("\n")
            variables |= {f"GIT_CONFIG_KEY_{i}": key, f"GIT_CONFIG_VALUE_{i}": value if equals else "true"}
        return _Git(root, self.environment | variables, self.until)


def _patch(git: _Git, base: str) -> bytes:
    """From a tree to the files as they are, headed by what is left out."""
    sources, left_out = _sources(git)
    if sources:
        # The name of some object stands for the content, which git then looks up in the file; to store it as an object
        # would touch the repository where that has one with the same content.
        announced = "".join(f"100644 {base}\t{name}\0" for name in sources)
        git("update-index", "-z", "--index-info", given=os.fsencode(announced))
    changed = _names(git(*DIFF, "--name-only", "-z", base))
    if not changed and not left_out:
        return b""
    large = [name for name in dict.fromkeys(changed) if _size(git.folder / name) > LARGEST_PATCH]
    whole = git(*DIFF, base, "--", ".", *(f":(exclude,literal){name}" for name in large))
    kept, others = truncate_patch(whole, LARGEST_PATCH)
    left_out = [*left_out, *(name.encode("unicode_escape").decode() for name in large), *others]
    return "".join(f"# left out: {name}\n" for name in left_out).encode() + kept


def truncate_patch(patch: bytes, limit: int) -> tuple[bytes, list[str]]:
    """The files of a patch that fit into so many bytes, as many as possible, and the names of the others."""
    # No line of a file's content begins so: each has a sign before it.
    pieces = [b"diff --git " + piece + b"\n" for piece in (b"\n" + patch[:-1]).split(b"\ndiff --git ")[1:]]
    kept: set[int] = set()
    room = limit
    for i in sorted(range(len(pieces)), key=lambda i: len(pieces[i])):
        room -= len(pieces[i])
        if room >= 0:
            kept.add(i)
    names = [piece.partition(b"\n")[0].removeprefix(b"diff --git ") for piece in pieces]
    others = [names[i] for i in range(len(pieces)) if i not in kept]
    # A name stands there twice, as a/NAME b/NAME.
    said = [other[: len(other) // 2].replace(b"a/", b"", 1).decode(errors="replace") for other in others]
    return b"".join(pieces[i] for i in sorted(kept)), said


def _sources(git: _Git) -> tuple[list[str], list[str]]:
    """The untracked files that go into the patch, and what is said of the others."""
    listed = git("ls-files", "--others", "--exclude-standard", "-z", "--", *SOURCES, *NOT_SOURCES)
    names = [name for name in _names(listed) if not name.endswith("/")]  # other repositories
    names.sort(key=lambda name: (name.count("/"), name))  # people's own parts lie nearer to the root than others'
    chosen: list[str] = []
    room = LARGEST_PATCH
    for name in names:
        size = _size(git.folder / name)
        if size <= min(room, LARGEST_SOURCE):
            chosen.append(name)
            room -= size
    more = len(names) - len(chosen)
    return chosen, [f"{more} untracked file{'s' if more > 1 else ''}"] if more else []


def _names(listed: bytes) -> Sequence[str]:
    return [os.fsdecode(name) for name in listed.split(b"\0") if name]


def _size(path: Path) -> int:
    """Of what lies there itself, not of what a link leads to; 0 for what is gone."""
    try:
        return path.lstat().st_size
    except OSError:
        return 0
