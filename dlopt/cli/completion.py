"""dlopt completion: what a shell needs in order to complete `dlopt` lines with the tab key.

    dlopt completion SHELL                          the function that the shell is to load
    dlopt completion SHELL -- LINE REST [BREAKS]    what that function asks at each tab: one candidate a line

LINE is the command line up to the cursor as it was typed, REST what follows. BREAKS are the characters at which bash
cuts a word in pieces (COMP_WORDBREAKS): it replaces the last piece alone, so that alone is answered.
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
"""By the shell's name. Candidates that are to be typed on, such as `optimizer=`, are followed by no space."""

FILES = {"bash": "~/.bashrc", "zsh": "~/.zshrc"}


def completion(argv: Sequence[str]) -> int:
    """The command; returns the exit code."""
    shell, *asked = argv or ["--help"]
    if shell in ("--help", "-h"):
        print(format_usage(), end="")
        return 0
    if shell not in SCRIPTS:
        from dlopt.errors import did_you_mean

        print(f"dlopt completion: '{shell}' is not known{did_you_mean(shell, SCRIPTS)}", file=sys.stderr)
        return 2
    if not asked:
        print(SCRIPTS[shell], end="")
        return 0
    try:
        for line in answer(shell, *asked[1:]):
            print(line)
    except (
        Exception
    ):  # a half-typed line or a damaged file is no error: there is nothing to offer, and nowhere to say so
        pass
    return 0


def format_usage() -> str:
    from shutil import which

    program = "dlopt" if which("dlopt") else f"{Path(sys.executable).parent}/dlopt"  # no environment is active
    lines = [f'  {FILES[shell]:<11} eval "$({program} completion {shell})"' for shell in SCRIPTS]
    return "\n".join(
        ["usage: dlopt completion bash|zsh", "", "Completion by the tab key. Put this line into", "", *lines, ""]
    )


def answer(shell: str, line: str, rest: str = "", breaks: str = "") -> list[str]:
    """The candidates at the end of a line, as a shell takes them."""
    from dlopt.cli.candidates import find_candidates

    (_, *words), quote, kept = split(line, breaks)
    _, *after = split("." + rest)[0]  # the first is what follows the cursor in its own word
    found = find_candidates(words, after)
    if shell == "zsh":  # which quotes what it inserts itself
        return found
    fixed = words[-1][:kept]
    never = {"'": "'", '"': "!"}.get(quote)  # within these quotes it ends them, or brings back a line typed before
    replies = [
        escape_for_bash(c.removeprefix(fixed), quote)
        for c in found
        if c.startswith(fixed) and not (never and never in c)
    ]
    if quote and len(replies) == 1 and replies[0][-1:] in "=,/":
        replies.append(replies[0] + "...")  # bash closes the quotes behind a candidate that stands alone
    return replies


def split(line: str, breaks: str = "") -> tuple[list[str], str, int]:
    """The words of a line without their quotes, the last one perhaps empty; the quote that is open at its end; and how
    many characters of the last word lie before the piece of it that bash replaces.
    """
    words, word, quote, kept = [], "", "", 0
    begun = escaped = False
    for c in line:
        if escaped:
            word += c if quote == "" or c in '$`"\\' else f"\\{c}"
            escaped = False
        elif c == "\\" and quote != "'":
            escaped = begun = True
        elif quote and c != quote:
            word += c
        elif quote or c in "'\"":
            quote = "" if quote else c
            kept, begun = len(word), True
        elif c in " \t\n":
            words += [word] if begun else []
            word, kept, begun = "", 0, False
        else:
            word += c
            begun = True
            kept = len(word) if c in breaks else kept
    return [*words, word], quote, kept


def escape_for_bash(piece: str, quote: str) -> str:
    """A piece as bash reads it, behind an open quote or without any."""
    special = {"'": "", '"': '"$`\\'}.get(quote, " '\"\\$`&;|<>()*?!#{}")
    return "".join(f"\\{c}" if c in special else c for c in piece)
