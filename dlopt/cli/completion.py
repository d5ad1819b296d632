"""dlopt completion: completes `dlopt` lines with the tab key, in bash and zsh.

    dlopt completion SHELL                          print the function that the shell loads
    dlopt completion SHELL -- LINE REST [BREAKS]    print the candidates, one per line; the function calls this

LINE is the command line up to the cursor as typed, REST is what follows. BREAKS are the characters at which bash splits
a word (COMP_WORDBREAKS). bash replaces only the last piece of the word, so only that piece is printed.

argcomplete would replace only `split` and `escape_for_bash`: it ignores the words after the cursor and needs argparse
parsers for the rest. Its import would add 0.02 s to the 0.07 s of a completion.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

SCRIPTS = {
    "bash": r"""_dlopt() {
    local program=${1/#\~\//$HOME/}
    type -P -- "$program" >/dev/null || program=dlopt
    mapfile -t COMPREPLY < <("$program" completion bash -- \
        "${COMP_LINE:0:COMP_POINT}" "${COMP_LINE:COMP_POINT}" "$COMP_WORDBREAKS" 2>/dev/null </dev/null)
    if [[ ${#COMPREPLY[@]} -eq 1 && ${COMPREPLY[0]} == *[=,/] ]]; then compopt -o nospace; fi
}
complete -o nosort -F _dlopt dlopt
""",
    "zsh": r"""#compdef dlopt
_dlopt() {
    local program=${(Q)words[1]/#\~\//$HOME/}
    local -a found
    whence -p -- $program >/dev/null || program=dlopt
    found=("${(@f)$($program completion zsh -- \
        "${(j: :)words[1,CURRENT-1]} $QIPREFIX$PREFIX" "$SUFFIX ${(j: :)words[CURRENT+1,-1]}" 2>/dev/null </dev/null)}")
    compadd -U -V dlopt -- ${found:#*[=,/]}
    compadd -U -V dlopt -S '' -- ${(M)found:#*[=,/]}
}
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit -i }
compdef _dlopt dlopt
""",
}
"""The function of each shell. It adds no space after an incomplete candidate, such as `optimizer=`."""

FILES = {"bash": "~/.bashrc", "zsh": "~/.zshrc"}


def completion(argv: Sequence[str]) -> int:
    """Run the command and return its exit code."""
    shell, *request = argv or ["--help"]
    if shell in ("--help", "-h"):
        print(format_usage(), end="")
        return 0
    if shell not in SCRIPTS:
        from dlopt.errors import did_you_mean

        print(f"dlopt completion: there is no shell '{shell}'{did_you_mean(shell, SCRIPTS)}", file=sys.stderr)
        return 2
    if not request:
        print(SCRIPTS[shell], end="")
        return 0
    try:
        for line in answer(shell, *request[1:]):
            print(line)
    except Exception:  # such as a damaged file: a message would spoil the line, so nothing is offered
        pass
    return 0


def format_usage() -> str:
    """Return the usage, with the line to put into each shell's start file."""
    from shutil import which

    program = "dlopt" if which("dlopt") else f"{Path(sys.executable).parent}/dlopt"  # outside an active environment
    lines = [f'  {FILES[shell]:<11} eval "$({program} completion {shell})"' for shell in SCRIPTS]
    return "\n".join(
        ["usage: dlopt completion bash|zsh", "", "Completion with the tab key. Add this line to", "", *lines, ""]
    )


def answer(shell: str, line: str, rest: str = "", breaks: str = "") -> list[str]:
    """Return the candidates at the end of a line, quoted as the shell expects them."""
    from dlopt.cli.candidates import find_candidates

    (_, *words), quote, offset = split(line, breaks)
    _, *after = split("." + rest)[0]  # the first word is the rest of the one at the cursor
    candidates = find_candidates(words, after)
    if shell == "zsh":  # zsh quotes what it inserts
        return candidates
    fixed = words[-1][:offset]
    forbidden = {"'": "'", '"': "!"}.get(quote)  # it would end the quotes, or expand the history
    replies = [
        escape_for_bash(c.removeprefix(fixed), quote)
        for c in candidates
        if c.startswith(fixed) and not (forbidden and forbidden in c)
    ]
    if quote and len(replies) == 1 and replies[0][-1:] in "=,/":
        replies.append(replies[0] + "...")  # bash closes the quotes after a single candidate
    return replies


def split(line: str, breaks: str = "") -> tuple[list[str], str, int]:
    """Split a line into words without quotes.

    Returns the words (the last may be empty); the quote that is open at the end of the line; and the number of
    characters of the last word before the piece that bash replaces.
    """
    words, word, quote, offset = [], "", "", 0
    started = escaped = False
    for c in line:
        if escaped:
            word += c if quote == "" or c in '$`"\\' else f"\\{c}"
            escaped = False
        elif c == "\\" and quote != "'":
            escaped = started = True
        elif quote and c != quote:
            word += c
        elif quote or c in "'\"":
            quote = "" if quote else c
            offset, started = len(word), True
        elif c in " \t\n":
            words += [word] if started else []
            word, offset, started = "", 0, False
        else:
            word += c
            started = True
            offset = len(word) if c in breaks else offset
    return [*words, word], quote, offset


def escape_for_bash(piece: str, quote: str) -> str:
    """Escape a piece for bash, after an open quote or without one."""
    special = {"'": "", '"': '"$`\\'}.get(quote, " '\"\\$`&;|<>()*?!#{}")
    return "".join(f"\\{c}" if c in special else c for c in piece)
