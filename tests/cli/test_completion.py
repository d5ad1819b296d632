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
"""Where bash cuts words, as it comes."""


# ------------------------------------------------------------------------------- the command


def test_it_says_what_to_put_where(capsys, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: "/usr/bin/dlopt")
    assert main(["completion"]) == main(["completion", "--help"]) == 0
    out = capsys.readouterr().out
    for part in ("~/.bashrc", 'eval "$(dlopt completion bash)"', "~/.zshrc", 'eval "$(dlopt completion zsh)"'):
        assert part in out
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert main(["completion"]) == 0
    assert f'eval "$({Path(sys.executable).parent}/dlopt completion zsh)"' in capsys.readouterr().out


def test_a_shell_that_is_not_known(capsys):
    assert main(["completion", "zhs"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err == "dlopt completion: there is no shell 'zhs'; did you mean zsh?\n"


@pytest.mark.parametrize("line", ["", "dlopt", "dlopt train 'a\"", "dlopt \x00", "dlopt train optimizer=é[["])
@pytest.mark.parametrize("shell", SCRIPTS)
def test_odd_lines_are_answered_by_silence(shell, line, here, capsys):
    assert main(["completion", shell, "--", line, "rest '", BREAKS]) == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("arguments", [["--"], ["--", "a", "b", "c", "d"]])
def test_a_question_of_another_form_is_answered_by_silence(arguments, capsys):
    assert main(["completion", "bash", *arguments]) == 0
    assert capsys.readouterr() == ("", "")


def test_a_failure_is_answered_by_silence(here, capsys):
    (here / "outputs").touch()  # a file in the folder's place
    assert main(["completion", "zsh", "--", "dlopt show "]) == 0
    (here / "own").touch()
    assert main(["completion", "zsh", "--", "dlopt train --config-dir own/x optimizer=nothing"]) == 0
    assert capsys.readouterr() == ("", "")


def test_no_tab_imports_what_takes_long(here):
    RunWriter.create(here / "outputs" / "one")
    for line in (
        "dlopt ",
        "dlopt train ",
        "dlopt train optimizer.lr=",
        "dlopt train +optimizer.",
        "dlopt train hydra.sweeper.pruner=",
        "dlopt show ",
    ):
        slow = "'torch', 'hydra', 'omegaconf', 'rich', 'numpy', 'tensorboard'"
        code = f"import sys; from dlopt.cli import main; main(['completion', 'zsh', '--', {line!r}]); print(sys.modules.keys() & {{{slow}}})"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
        assert done.stdout.splitlines()[-1] == "set()"


# ------------------------------------------------------------------------------- words


@pytest.mark.parametrize(
    "line", ["a b", "a 'b c'", 'a "b c"', "a b\\ c", "a b'c d'e", "a 'b\\c'", 'a "b\\"c"', 'a "b\\c"', "a '' b", "a  b"]
)
def test_words_are_those_of_a_shell(line):
    assert split(line)[0] == shlex.split(line)
    assert split(line + " ")[0] == [*shlex.split(line), ""]


@pytest.mark.parametrize(
    ("line", "word", "quote", "kept"),
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
def test_the_piece_that_bash_replaces(line, word, quote, kept):
    words, *rest = split(line, BREAKS)
    assert (words[-1], *rest) == (word, quote, kept)


@pytest.mark.parametrize(
    "name", ["a b", "it's", 'a"b', "$x", "a`b", "a\\b", "a;b&c|d", "(x)", "{a,b}", "a*?", "#a", "!a"]
)
@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_what_is_inserted_is_read_back_by_bash(name, quote):
    if "'" in name and quote == "'":
        return  # which single quotes cannot hold: it is not offered
    require("bash")
    code = f"printf %s {quote}{escape_for_bash(name, quote)}{quote}"
    assert subprocess.run(["bash", "-c", code], capture_output=True, text=True, check=True).stdout == name


def test_nothing_is_offered_that_a_shell_would_take_for_a_former_line(tmp_path, monkeypatch):
    """Within double quotes neither of ! and \\! is the character alone."""
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
    """A directory with a `dlopt` to be found, runs, a file with a space, and options of one's own."""
    folder = tmp_path_factory.mktemp("shell")
    (folder / "bin").mkdir()
    command = folder / "bin" / "dlopt"
    command.write_text(
        f'#!/bin/sh\nPYTHONPATH={shlex.quote(str(groups.CONF.parent))} exec {sys.executable} -m dlopt "$@"\n'
    )
    command.chmod(0o755)
    other = folder / "else" / "dlopt"  # not the first in the path: what is typed is what is asked
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


def environment(place: Path) -> dict[str, str]:
    return {"PATH": f"{place}/bin:{os.environ['PATH']}", "HOME": str(place), "TERM": "xterm", "LC_ALL": "C.UTF-8"}


def bash(place: Path, line: str, breaks: str = BREAKS, point: int | None = None) -> tuple[list[str], bool]:
    """What bash's variables make of a line, without a terminal: COMPREPLY, and whether a space follows."""
    require("bash")
    words = [w for w in re.split(r"(\s+|[=:]+)", line) if w.strip()] + [""] * line.endswith(" ")
    setting = {
        "COMP_WORDBREAKS": shlex.quote(breaks),
        "COMP_LINE": shlex.quote(line),
        "COMP_POINT": str(len(line) if point is None else point),
        "COMP_WORDS": f"({shlex.join(words)})",
        "COMP_CWORD": str(len(words) - 1),
    }
    code = (
        'eval "$(dlopt completion bash)"; compopt() { echo "compopt $*"; }\n'
        + "\n".join(f"{name}={value}" for name, value in setting.items())
        + '\n_dlopt dlopt "" ""; printf "%s\\n" "${COMPREPLY[@]}"'
    )
    done = subprocess.run(
        ["bash", "-c", code], capture_output=True, text=True, check=True, cwd=place, env=environment(place)
    )
    assert done.stderr == ""
    found = done.stdout.splitlines()
    space = "compopt -o nospace" not in found
    return [f for f in found if f and not f.startswith("compopt")], space


@pytest.mark.parametrize(
    ("line", "replies", "space"),
    [
        ("dlopt tr", ["train"], True),
        ("dlopt train optim", ["optimizer="], False),
        ("dlopt train optimizer=nesterov", ["nesterov"], True),
        ("dlopt train optimizer=", groups.list_option_names("optimizer")[:2], True),
        ("dlopt train optimizer=sgd,nesterov", ["sgd,nesterov"], True),
        ("dlopt train 'regularization=[l2,dropo", ["regularization=[l2,dropout]", "regularization=[l2,dropout,"], True),
        ("dlopt train regularization='[l2,dropo", ["[l2,dropout]", "[l2,dropout,"], True),
        ("dlopt train 'optimizer.l", ["optimizer.lr=", "optimizer.lr=..."], True),
        ("dlopt train data.path=my", ["my\\ data/"], False),
        ("dlopt train data.path=my\\ data/s", ["my\\ data/set.pt"], True),
        ('dlopt train data.path="my', ["my data/"], True),
        ("dlopt show ", ["last", "outputs/2026-01-02/10-00-00-mlp-sgd-bbbb"], True),
        ("dlopt nothing ", [], True),
    ],
)
def test_bash_is_told(line, replies, space, place):
    found, spaced = bash(place, line)
    if line.endswith(("=", "show ")):
        found = found[: len(replies)]
    if line.endswith('"my'):
        replies = [*replies, "my data/..."]  # a candidate alone would close the quotes
    assert (found, spaced) == (replies, space)


def test_bash_may_cut_words_elsewhere(place):
    """Some take the equals sign and the colon out of COMP_WORDBREAKS."""
    assert bash(place, "dlopt train optimizer=nesterov", " \t\n\"'><;|&(") == (["optimizer=nesterov"], True)
    assert bash(place, "dlopt train optimizer=nesterov", BREAKS + ",") == (["nesterov"], True)
    assert bash(place, "dlopt train optimizer=sgd,nesterov", BREAKS + ",") == (["nesterov"], True)


def test_bash_may_have_the_cursor_within_the_line(place):
    line = "dlopt train optimizer. optimizer=nesterov"
    assert bash(place, line, point=22) == (["optimizer.lr=", "optimizer.momentum="], True)


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
"""Its arguments, and how it is made to show its line, and to clear it, by Ctrl-X Ctrl-D."""


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
            env=environment(place),
        )
        os.close(inner)
        self.send(f"{look}; eval \"$(dlopt completion {shell})\"; PS1=rea''dy'> '\n")
        self.until("ready> ")

    def send(self, keys: str) -> None:
        os.write(self.screen, keys.encode())

    def until(self, pattern: str) -> str:
        """What the screen shows up to a pattern, whose first group is returned."""
        deadline, seen = time.monotonic() + 120, ""
        while not (found := re.search(pattern, seen, re.DOTALL)):
            assert time.monotonic() < deadline, seen
            if select.select([self.screen], [], [], 1)[0]:
                seen += os.read(self.screen, 65536).decode(errors="replace")
        self.seen = seen
        return found.group(found.re.groups and 1)

    def tab(self, typed: str) -> str:
        """The line that these keys make."""
        self.send(f"{typed}\x18\x04")
        return self.until(r"LINE<(.*?)>END")

    def close(self) -> None:
        os.close(self.screen)
        self.process.wait()


@pytest.fixture(scope="module", params=["bash", "zsh"])
def terminal(request, place):
    require(request.param)
    found = Terminal(request.param, place)
    yield found
    found.close()


TYPED = {
    "dlopt tr\t": "dlopt train ",
    "dlopt train optim\t": "dlopt train optimizer=",
    "dlopt train optim\tmom\t": "dlopt train optimizer=momentum ",
    "dlopt train optimizer=momentum optimizer.mo\t": "dlopt train optimizer=momentum optimizer.momentum=",
    "dlopt train optimizer=momentum optimizer.mo\t\t": "dlopt train optimizer=momentum optimizer.momentum=0.9 ",
    "dlopt train -m optimizer=sgd,nesterov\t": "dlopt train -m optimizer=sgd,nesterov ",
    "dlopt train 'regularization=[l2,dropo\t": "dlopt train 'regularization=[l2,dropout",
    "dlopt train 'regularization=[l2,dropout]\t": "dlopt train 'regularization=[l2,dropout]' ",
    'dlopt train "regularization=[l2,dropo\t,ear\t': 'dlopt train "regularization=[l2,dropout,early_stopping',
    "dlopt train 'optimizer=nesterov\t": "dlopt train 'optimizer=nesterov' ",
    "dlopt train 'optimizer.l\t": "dlopt train 'optimizer.lr=",
    "dlopt train regularization=l2 regularization.\t": "dlopt train regularization=l2 regularization.l2.strength=",
    "dlopt train vali\tfr\t\t": "dlopt train validation.fraction=0.2 ",
    "dlopt train validation.s\tk\t": "dlopt train validation.scheme=kfold ",
    "dlopt train -m hydra/s\tt\t": "dlopt train -m hydra/sweeper=tpe ",
    "dlopt train -m hydra.sweeper.pr\tmed\t": "dlopt train -m hydra.sweeper.pruner=median ",
    "dlopt train precision=b\t": "dlopt train precision=bfloat16 ",
    "dlopt train data.drop_last=t\t": "dlopt train data.drop_last=true ",
    "dlopt train resume=la\t": "dlopt train resume=last ",
    "dlopt train resume=aaaa\t": "dlopt train resume=outputs/2026-01-01/09-00-00-cnn-adam-aaaa ",
    "dlopt train data.path=my\ts\t": "dlopt train data.path=my\\ data/set.pt ",
    "dlopt train 'data.path=my d\t": "dlopt train 'data.path=my data/",
    "dlopt train --config-dir ow\t": "dlopt train --config-dir own/",
    "dlopt train --config-dir ~/ow\t": "dlopt train --config-dir {place}/own/",
    "dlopt train --config-dir own optimizer=si\t": "dlopt train --config-dir own optimizer=sign ",
    "dlopt train '~reg\t": "dlopt train '~regularization' ",
    "dlopt train ++prec\t": "dlopt train ++precision=",
    "dlopt train --cfg j\t": "dlopt train --cfg job ",
    "dlopt train --mul\t": "dlopt train --multirun ",
    "dlopt list optim\tmo\t": "dlopt list optimizer momentum ",
    "dlopt show outputs/2026-01-02\t": "dlopt show outputs/2026-01-02/10-00-00-mlp-sgd-bbbb ",
    "dlopt completion z\t": "dlopt completion zsh ",
    "else/dlopt x\t": "else/dlopt xenophile ",
    "~/else/dlopt x\t": "~/else/dlopt xenophile ",
    "true; X=1 dlopt train optim\t": "true; X=1 dlopt train optimizer=",
    "dlopt train optimizer=nothing_such\t": "dlopt train optimizer=nothing_such",
    "dlopt nothing a\t": "dlopt nothing a",
}  # fmt: skip


@pytest.mark.parametrize("typed", TYPED)
def test_the_tab_key(typed, terminal, place):
    assert terminal.tab(typed) == TYPED[typed].format(place=place)


def test_the_tab_key_within_the_line(terminal):
    """The cursor stands before the option that is chosen."""
    back = "\x1b[D" * len(" optimizer=momentum")
    line = terminal.tab(f"dlopt train optimizer.mo optimizer=momentum{back}\t")
    assert line == "dlopt train optimizer.momentum= optimizer=momentum"


def test_the_tab_key_shows_what_there_is(terminal):
    assert terminal.tab("dlopt train optimizer=momentum optimizer.\t\t").startswith(
        "dlopt train optimizer=momentum optimizer."
    )
    for key in ("optimizer.lr=", "optimizer.momentum="):
        assert key in terminal.seen
    assert "beta1" not in terminal.seen
    terminal.tab("dlopt show \t\t")
    assert terminal.seen.index("outputs/2026-01-02") < terminal.seen.index("outputs/2026-01-01")  # the newest first


def test_the_shells_are_answered_alike(place, monkeypatch):
    monkeypatch.chdir(place)
    for line in ("dlopt train ", "dlopt show ", "dlopt list optimizer ", "dlopt train -"):
        assert answer("bash", line, "", BREAKS) == answer("zsh", line)
