"""The tab key in real shells: bash and zsh."""

import os
import pty
import re
import select
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import time
from fcntl import ioctl
from pathlib import Path

import pytest

from dlopt.cli import main
from dlopt.cli.completion import SCRIPTS, answer, escape_for_bash, split
from dlopt.config.compose import groups
from dlopt.rundir.writer import RunWriter

BREAKS = " \t\n\"'><=;|&(:"
"""The default COMP_WORDBREAKS of bash."""


# ------------------------------------------------------------------------------- the command


def test_the_usage_names_the_line_for_each_shell(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/dlopt")
    assert main(["completion"]) == main(["completion", "--help"]) == 0
    out = capsys.readouterr().out
    for part in ("~/.bashrc", 'eval "$(dlopt completion bash)"', "~/.zshrc", 'eval "$(dlopt completion zsh)"'):
        assert part in out
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["completion"]) == 0
    assert f'eval "$({Path(sys.executable).parent}/dlopt completion zsh)"' in capsys.readouterr().out


def test_an_unknown_shell(capsys):
    assert main(["completion", "zhs"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "dlopt completion: there is no shell 'zhs'; did you mean zsh?\n"


ODD = [
    "",
    "dlopt",
    "dlopt train 'a\"",
    "dlopt \x00",
    "dlopt train optimizer=é[[",
    "dlopt show ",
    "dlopt train --config-dir own/x optimizer=no",
]


@pytest.mark.parametrize("shell", SCRIPTS)
def test_odd_requests_and_failures_are_answered_by_silence(shell, here, capsys):
    (here / "outputs").touch()  # a file in the folder's place
    (here / "own").touch()
    for arguments in ([], ["a", "b", "c", "d"], *([line, "rest '", BREAKS] for line in ODD)):
        assert main(["completion", shell, "--", *arguments]) == 0
    assert capsys.readouterr() == ("", "")


def test_no_tab_imports_slow_packages(here):
    RunWriter.create(here / "outputs" / "one")
    words = ["", "train ", "train optimizer.lr=", "train +optimizer.", "train hydra.sweeper.pruner=", "show "]
    code = (
        "import sys; from dlopt.cli import main\n"
        f"for words in {words}: main(['completion', 'zsh', '--', f'dlopt {{words}}'])\n"
        "print(sys.modules.keys() & {'torch', 'hydra', 'omegaconf', 'rich', 'numpy', 'tensorboard'})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "set()"


# ------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    "line", ["a b", "a 'b c'", 'a "b c"', "a b\\ c", "a b'c d'e", "a 'b\\c'", 'a "b\\"c"', 'a "b\\c"', "a '' b", "a  b"]
)
def test_words_are_split_as_by_a_shell(line):
    assert split(line)[0] == shlex.split(line)
    assert split(line + " ")[0] == [*shlex.split(line), ""]


@pytest.mark.parametrize(
    ("line", "word", "quote", "offset"),
    [
        ("x a=b", "a=b", "", 2),
        ("x a=", "a=", "", 2),
        ("x 'a=b", "a=b", "'", 0),
        ("x a='b=c", "a=b=c", "'", 2),
        ('x a="b', "a=b", '"', 2),
        ("x a\\=b", "a=b", "", 0),
        ("x a:b=c", "a:b=c", "", 4),
        ("x 'a b'c", "a bc", "", 3),
        ("x a ", "", "", 0),
    ],
)
def test_the_piece_that_bash_replaces(line, word, quote, offset):
    words, *rest = split(line, BREAKS)
    assert (words[-1], *rest) == (word, quote, offset)


def test_an_inserted_word_is_read_back_by_bash():
    require("bash")
    names = ["a b", "it's", 'a"b', "$x", "a`b", "a\\b", "a;b&c|d", "(x)", "{a,b}", "a*?", "#a", "!a"]
    quoted = [(name, quote) for name in names for quote in ("", '"', "'") if not (quote == "'" and "'" in name)]
    code = "printf '%s\\n' " + " ".join(f"{quote}{escape_for_bash(name, quote)}{quote}" for name, quote in quoted)
    result = subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == [name for name, _ in quoted]


def test_history_expansion_is_never_offered(tmp_path, monkeypatch):
    """Within double quotes, neither ! nor \\! inserts the character itself."""
    monkeypatch.chdir(tmp_path)
    for name in ("a!echo", "a-b"):
        RunWriter.create(tmp_path / "outputs" / name).finish("done")
    for quote, expected in (('"', ["a-b"]), ("'", ["a!echo", "a-b"]), ("", ["a\\!echo", "a-b"])):
        offered = answer("bash", f"dlopt show {quote}outputs/a", "", BREAKS)
        assert set(offered) == {f"outputs/{name}" for name in expected}


# ------------------------------------------------------------------------------- shells


def require(shell: str) -> None:
    if not shutil.which(shell):
        (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{shell} is not installed")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Return a directory with a `dlopt` in the path, runs, a file with a space, and user-defined options."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "bin").mkdir()
    command = folder / "bin" / "dlopt"
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(groups.CONF.parent))} exec {sys.executable} -m dlopt "$@"\n'
    )
    command.chmod(0o755)
    other = folder / "else" / "dlopt"  # not the first in the path: the typed program is called
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho xenophile\n")
    other.chmod(0o755)
    for age, name in enumerate(("2026-01-02/10-00-00-mlp-sgd-bbbb", "2026-01-01/09-00-00-cnn-adam-aaaa")):
        os.utime(RunWriter.create(folder / "outputs" / name).status_file, (1000 - age, 1000 - age))
    (folder / "my data").mkdir()
    (folder / "my data" / "set.pt").touch()
    (folder / "own" / "optimizer").mkdir(parents=True)
    (folder / "own" / "optimizer" / "sign.yaml").write_text("# signs\n# me\n_target_: mine.Sign\nlr: 0.02\n")
    return folder


def make_environment(place: Path) -> dict[str, str]:
    return {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), "TERM": "xterm", "LC_ALL": "C.UTF-8"}


NO_EQUALS = BREAKS.replace("=", "").replace(":", "")


@pytest.mark.parametrize(
    ("line", "rest", "breaks", "replies"),
    [
        ("dlopt train 'regularization=[l2,dropo", "", BREAKS, ["regularization=[l2,dropout]", "regularization=[l2,dropout,"]),
        ("dlopt train regularization='[l2,dropo", "", BREAKS, ["[l2,dropout]", "[l2,dropout,"]),
        ("dlopt train 'optimizer.l", "", BREAKS, ["optimizer.lr=", "optimizer.lr=..."]),  # bash would close the quotes
        ('dlopt train data.path="my', "", BREAKS, ["my data/", "my data/..."]),
        ("dlopt train data.path=my", "", BREAKS, ["my\\ data/"]),
        ("dlopt train optimizer=nesterov", "", NO_EQUALS, ["optimizer=nesterov"]),  # some users remove = and :
        ("dlopt train optimizer=sgd,nesterov", "", BREAKS, ["sgd,nesterov"]),
        ("dlopt train optimizer=sgd,nesterov", "", BREAKS + ",", ["nesterov"]),
        ("dlopt train optimizer.", " optimizer=nesterov", BREAKS, ["optimizer.lr=", "optimizer.momentum="]),
    ],
)  # fmt: skip
def test_replies_to_bash(line, rest, breaks, replies, place, monkeypatch):
    monkeypatch.chdir(place)
    assert answer("bash", line, rest, breaks) == replies


START = {
    "bash": (
        ["--norc", "--noprofile", "-i"],
        r"""bind -x '"\C-x\C-d": printf "LINE<%s>END" "$READLINE_LINE"; READLINE_LINE='""",
    ),
    "zsh": (
        ["-f", "-i"],
        r"""look() { print -rn -- "LINE<$BUFFER>END"; BUFFER= }; zle -N look; bindkey '^X^D' look""",
    ),
}
"""Arguments of each shell, and the command that binds Ctrl-X Ctrl-D to printing and clearing the line."""


class Terminal:
    """A shell in a pseudo-terminal, to which keys are sent."""

    def __init__(self, shell: str, place: Path) -> None:
        arguments, look = START[shell]
        self.screen, inner = pty.openpty()
        ioctl(inner, termios.TIOCSWINSZ, struct.pack("HHHH", 60, 400, 0, 0))
        code = (
            "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", code, shell, *arguments],
            stdin=inner,
            stdout=inner,
            stderr=inner,
            start_new_session=True,
            cwd=place,
            env=make_environment(place),
        )
        os.close(inner)
        self.send(f"{look}; eval \"$(dlopt completion {shell})\"; PS1=rea''dy'> '\n")
        self.until("ready> ")

    def send(self, keys: str) -> None:
        os.write(self.screen, keys.encode())

    def until(self, pattern: str) -> str:
        """Read the screen up to a pattern and return the first group of the pattern."""
        deadline, text = time.monotonic() + 120, ""
        while not (match := re.search(pattern, text, re.DOTALL)):
            assert time.monotonic() < deadline, text
            if select.select([self.screen], [], [], 1)[0]:
                text += os.read(self.screen, 65536).decode(errors="replace")
        self.screen_text = text
        return match.group(match.re.groups and 1)

    def tab(self, keys: str) -> str:
        """Type keys and return the resulting line."""
        self.send(f"{keys}\x18\x04")
        return self.until(r"LINE<(.*?)>END")

    def close(self) -> None:
        os.close(self.screen)
        self.process.wait()


@pytest.fixture(scope="module", params=["bash", "zsh"])
def terminal(request, place):
    require(request.param)
    shell = Terminal(request.param, place)
    yield shell
    shell.close()


LEFT = "\x1b[D"
TYPED = {
    "dlopt tr\t": "dlopt train ",
    "dlopt train optim\tmom\t": "dlopt train optimizer=momentum ",
    "dlopt train optimizer=momentum optimizer.mo\t\t": "dlopt train optimizer=momentum optimizer.momentum=0.9 ",
    "dlopt train 'regularization=[l2,dropo\t": "dlopt train 'regularization=[l2,dropout",
    "dlopt train 'regularization=[l2,dropout]\t": "dlopt train 'regularization=[l2,dropout]' ",
    'dlopt train "regularization=[l2,dropo\t,ear\t': 'dlopt train "regularization=[l2,dropout,early_stopping',
    "dlopt train 'optimizer.l\t": "dlopt train 'optimizer.lr=",
    "dlopt train resume=aaaa\t": "dlopt train resume=outputs/2026-01-01/09-00-00-cnn-adam-aaaa ",
    "dlopt train data.path=my\ts\t": "dlopt train data.path=my\\ data/set.pt ",
    "dlopt train 'data.path=my d\t": "dlopt train 'data.path=my data/",
    "dlopt train --config-dir ~/ow\t": "dlopt train --config-dir {place}/own/",
    "dlopt train '~reg\t": "dlopt train '~regularization' ",
    "dlopt list optim\tmo\t": "dlopt list optimizer momentum ",
    "dlopt show outputs/2026-01-02\t": "dlopt show outputs/2026-01-02/10-00-00-mlp-sgd-bbbb ",
    "~/else/dlopt x\t": "~/else/dlopt xenophile ",
    "true; X=1 dlopt train optim\t": "true; X=1 dlopt train optimizer=",
    f"dlopt train optimizer.mo optimizer=momentum{LEFT * 19}\t": "dlopt train optimizer.momentum= optimizer=momentum",
    "dlopt train optimizer=nothing_such\t": "dlopt train optimizer=nothing_such",
}  # fmt: skip


@pytest.mark.parametrize("keys", TYPED)
def test_the_tab_key(keys, terminal, place):
    assert terminal.tab(keys) == TYPED[keys].format(place=place)


def test_the_tab_key_lists_candidates(terminal):
    assert terminal.tab("dlopt train optimizer=momentum optimizer.\t\t").startswith(
        "dlopt train optimizer=momentum optimizer."
    )
    for key in ("optimizer.lr=", "optimizer.momentum="):
        assert key in terminal.screen_text
    assert "beta1" not in terminal.screen_text
    terminal.tab("dlopt show \t\t")
    newest, oldest = map(terminal.screen_text.index, ("outputs/2026-01-02", "outputs/2026-01-01"))
    assert newest < oldest


def test_both_shells_get_the_same_candidates(place, monkeypatch):
    monkeypatch.chdir(place)
    for line in ("dlopt train ", "dlopt show ", "dlopt list optimizer ", "dlopt train -"):
        assert answer("bash", line, "", BREAKS) == answer("zsh", line)
