"""`ft completion`: real shells load the script and complete with it, by asking ft."""

from __future__ import annotations

import os
import re
import shlex
import shutil
from typing import Callable, List, Sequence

import build
import pytest
from commands import NAMES, verbs
from conftest import FAST_CLOCK, PYPY, PYTHON, ROOT, WINDOWS, Process, Result, Runner

FIRST = list(dict.fromkeys(name.split()[0] for name in NAMES))
KEYS = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"]
LANGUAGES = ["en", "ja", "de", "fr", "es", "zh", "ko", "pt", "it", "ru"]
GLOBAL = ["-h", "--help", "-v", "--verbose", "--api-key", "--base-url", "--config", "--no-color"]
STATUSES = ["all", "pending", "processing", "completed", "failed"]

# What is typed, and what is offered. All shells agree on it.
TOPICS = ["exit-codes", "environment", "files", "batch-files", "scripting"]
CASES: dict[str, list[str]] = {
    "ft ": FIRST,
    "ft pl": ["playlists", "playlist"],
    "ft auth ": verbs("auth"),
    "ft playlist ": verbs("playlist"),
    "ft playlist m": ["move"],
    "ft sfx ": verbs("sfx"),
    "ft sfx l": ["list"],
    "ft lsit ": FIRST,
    "ft help ": [*FIRST, *TOPICS],
    "ft help -": ["--man", *GLOBAL],
    "ft help gen": ["generate"],
    "ft help playlist ": verbs("playlist"),
    "ft completion ": ["bash", "zsh", "fish", "powershell"],
    "ft completion z": ["zsh"],
    "ft generate --key ": [*KEYS, "auto"],
    "ft generate --key A": ["A", "A#"],
    "ft generate --scale ": ["major", "minor", "auto"],
    "ft generate --time-sig ": list("234567"),
    "ft generate --language ": LANGUAGES,
    "ft list --status ": STATUSES,
    "ft list --type ": ["music", "instrumental"],
    "ft sfx list --limit 5 --status p": ["pending", "processing"],
    "ft get 07e8d430 --j": ["--json"],
    "ft delete --y": ["--yes"],
    "ft delete -": ["-y", "--yes", "--json", *GLOBAL],
    "ft auth -": GLOBAL,
    "ft --v": ["--verbose", "--version"],
    # Where an id, a name or nothing is to come, nothing is written for the user.
    "ft get ": [],
    "ft playlist show ": [],
    "ft auth login ": [],
    "ft --no": ["--no-color"],
    # A flag's value is no command, and no command is read into it.
    "ft --config list l": ["list"],
    "ft --config list --st": [],
    "ft -v --base-url http://localhost:1 list --st": ["--status"],
    "ft generate a list --bp": ["--bpm"],
    "ft list --limit ": [],
    "ft list --status completed --of": ["--offset"],
    "ft --config=list list --st": ["--status"],
}


def start(ft: Runner, *argv: str, stdin: str | None = None, terminal: bool = False) -> Process:
    """Start a shell that finds no programs but ft, and ls, which fish lists files with."""
    programs = ft.cwd / "bin"
    programs.mkdir(exist_ok=True)
    if not (programs / "ls").exists():
        (programs / "ls").symlink_to(shutil.which("ls") or "")
        (programs / "ft").write_text(f'#!/bin/sh\nexec {shlex.join(ft.argv)} "$@"\n')
        (programs / "ft").chmod(0o755)
    env = {"PATH": str(programs), "HOME": str(ft.cwd), "LC_ALL": "C.UTF-8", "TERM": "dumb"}
    if os.environ.get("FT_COVERAGE"):
        env.update(PYTHONPATH=str(FAST_CLOCK), FT_COVERAGE=os.environ["FT_COVERAGE"])
    program = shutil.which(argv[0]) or argv[0]
    return Process(
        [program, *argv[1:]],
        env=env,
        cwd=ft.cwd,
        stdin=stdin,
        terminal=(50, 200) if terminal else None,
        check=0,
    )


BASH = r"""
source ./script
while read -r line; do
    eval "COMP_WORDS=($line)" # as readline breaks it up
    COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMPREPLY=(left over)
    [[ $(complete -p ft) =~ -F\ ([^ ]+) ]] && "${BASH_REMATCH[1]}"
    echo "${COMPREPLY[*]}"
done
"""
# What compsys adds to its matches is recorded on the way.
ZSH = r"""
autoload -Uz compinit && compinit -D -u && {load}
compadd() {{
    local -a hits; builtin compadd -A hits "$@"; found+=("$hits[@]"); builtin compadd "$@"
}}
capture() {{ local -a found; zle complete; print -rn -- $'\1'"${{(Q)found[@]}}"$'\2'; BUFFER= }}
zle -C complete complete-word _main_complete; zle -N capture
bindkey '^T' capture; PS1=; print rea''dy
"""
FISH = r"""
source ./script
while read -l line
    echo (complete -C $line | string replace -r '\t.*' '')
end
"""


def bash(ft: Runner, lines: Sequence[str]) -> list[list[str]]:
    def quoted(line: str) -> str:
        words = [
            part for word in line.split(" ") for part in re.split("(=)", word) if part or not word
        ]
        return " ".join(map(shlex.quote, words))

    typed = "".join(f"{quoted(line)}\n" for line in lines)
    result = start(ft, "bash", "--norc", "-c", BASH, stdin=typed).finish()
    assert result.stderr == ""
    return [line.split() for line in result.stdout.splitlines()]


def zsh(ft: Runner, lines: Sequence[str], load: str = "source ./script") -> list[list[str]]:
    process = start(ft, "zsh", "-f", "-i", terminal=True)
    process.send(ZSH.format(load=load))
    process.expect("ready")
    found = []
    for line in lines:
        process.send(f"{line}\x14")
        matches = process.expect(re.compile("\x01([^\x02]*)\x02"))[1].split()
        found.append(list(dict.fromkeys(matches)))  # descriptions make several rounds
    process.send("exit\n")
    process.finish()
    return found


def fish(ft: Runner, lines: Sequence[str]) -> list[list[str]]:
    typed = "".join(f"{line}\n" for line in lines)
    result = start(ft, "fish", "--no-config", "-c", FISH, stdin=typed).finish()
    assert result.stderr == ""
    found = [line.split() for line in result.stdout.splitlines()]
    # Where nothing begins with what is typed, fish offers what merely has its letters somewhere.
    return [
        [word for word in words if word.startswith(line.split(" ")[-1])]
        for line, words in zip(lines, found)
    ]


Shell = Callable[[Runner, Sequence[str]], List[List[str]]]

every_shell = pytest.mark.parametrize(
    "shell",
    [pytest.param(shell, marks=pytest.mark.needs(shell.__name__)) for shell in (bash, zsh, fish)],
)


def script(ft: Runner, name: str) -> str:
    result = ft("completion", name, check=0, key=None)
    assert result.stderr == ""
    (ft.cwd / "script").write_text(result.stdout, encoding="utf-8")
    return str(result.stdout)


@every_shell
def test_commands_flags_and_choices_are_completed(ft: Runner, shell: Shell) -> None:
    script(ft, shell.__name__)
    for (typed, expected), offered in zip(CASES.items(), shell(ft, list(CASES))):
        assert sorted(offered) == sorted(expected), typed


PAGES: dict[str, str] = {}  # the help of each command, the same for all shells


@every_shell
def test_every_flag_of_every_command_is_offered(ft: Runner, shell: Shell) -> None:
    script(ft, shell.__name__)
    for name in NAMES[len(PAGES) :]:
        PAGES[name] = ft("help", *name.split(), check=0).stdout
    lines = [f"ft {name} --" for name in NAMES]
    for (name, text), offered in zip(PAGES.items(), shell(ft, lines)):
        flags = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", text, re.MULTILINE)
        assert "--api-key" in flags
        assert sorted(offered) == sorted(flags), name


@pytest.mark.needs("zsh")
def test_zsh_loads_it_from_fpath(ft: Runner) -> None:
    (ft.cwd / "functions").mkdir()
    (ft.cwd / "functions" / "_ft").write_text(script(ft, "zsh"))
    load = "fpath=($PWD/functions $fpath) && compinit -D -u"
    typed = ["ft auth ", "ft generate --key=C", "ft --config scr", "ft --config=scr"]
    expected = [verbs("auth"), ["C", "C#"], ["script"], ["script"]]
    assert zsh(ft, typed, load) == expected


@pytest.mark.needs("fish")
def test_fish_shows_what_a_command_does_and_completes_values_after_an_equals_sign(
    ft: Runner,
) -> None:
    script(ft, "fish")
    (ft.cwd / "my song.mp3").touch()
    typed = [
        "ft au",
        "ft list --status=c",
        "ft --config=scr",
        "ft get x -o 'my s",
        "ft --config ~/scr",
        "ft get my",
    ]
    line = "; ".join(["source ./script", *(f"complete -C {shlex.quote(words)}" for words in typed)])
    result = start(ft, "fish", "--no-config", "-c", line).finish()
    assert result.stdout.splitlines() == [
        "auth\tSign in and out",
        "--status=completed",
        "--config=script",
        "my song.mp3",
        "~/script",
    ]


@pytest.mark.needs("bash")
def test_bash_completes_at_the_prompt(ft: Runner) -> None:
    """A real readline: words broken at =, file names with their own quoting."""
    script(ft, "bash")
    (ft.cwd / "my song.mp3").touch()
    process = start(ft, "bash", "--norc", "-i", terminal=True)
    process.send("PS1=; source ./script; ft() { printf '<%s>' \"$@\"; }; echo rea''dy\n")
    process.expect("ready")
    for typed, words in {
        "gen\ta -o my\t\n": "<generate><a><-o><my song.mp3>",
        "lis\t--status=c\t\n": "<list><--status=completed>",
        "playlist mo\tx\n": "<playlist><move><x>",
        "--config scr\tl\tist\n": "<--config><script><list>",
        "get a >&2 2>scr\t\n": "<get><a>",
    }.items():
        process.send(f"ft {typed}")
        process.expect(words)
    process.send("exit\n")
    process.finish()


POWERSHELLS = [path for path in map(shutil.which, ("pwsh", "powershell")) if path]
# PowerShell has an alias ft of its own, for Format-Table. It completes names of files where nothing
# is offered, hence the empty directory.
POWERSHELL = """
Remove-Item Alias:ft -Force -ErrorAction SilentlyContinue
Invoke-Expression (Get-Content -Raw ./script)
Set-Location empty
foreach ($line in $input) {
    $complete = [System.Management.Automation.CommandCompletion]
    $found = $complete::CompleteInput($line, $line.Length, $null).CompletionMatches
    "<$(($found | ForEach-Object CompletionText) -join ' ')>"
}
"""


@pytest.mark.parametrize("path", POWERSHELLS or [None])
def test_powershell_completes_whatever_the_case(ft: Runner, path: str | None) -> None:
    if not path:
        pytest.skip("needs a PowerShell, which no package of Debian contains")
    cases = {
        **CASES,
        "ft generate --key A": ["A", "A#", "auto"],
        "ft PLAYLIST M": ["move"],
        "ft list --STATUS C": ["completed"],
        "ft list --status=c": ["--status=completed"],
        "ft list --Status=": [f"--status={status}" for status in STATUSES],
        "ft.exe list --lim": ["--limit"],
    }
    script(ft, "powershell")
    (ft.cwd / "empty").mkdir()
    programs = ft.cwd / "bin"
    env = {"PATH": str(programs), "HOME": str(ft.cwd)}
    if WINDOWS:
        programs.mkdir()
        shebang = f'#!"{PYTHON}"\r\n'.encode()
        files = build.members([PYTHON], ROOT / "ft.py")
        (programs / "ft.exe").write_bytes(build.launcher()[0] + shebang + build.archive(files))
        env = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}"}
    else:
        start(ft, "true").finish()
    argv = [path, "-NoProfile", "-ExecutionPolicy", "Bypass", "-Command", POWERSHELL]
    typed = "".join(f"{line}\n" for line in cases)
    result = Process(argv, env=env, cwd=ft.cwd, stdin=typed, check=0).finish()
    offered = [line[1:-1].split() for line in result.stdout.splitlines()]
    assert len(offered) == len(cases)
    for (line, expected), words in zip(cases.items(), offered):
        assert sorted(words) == sorted(expected), line


@pytest.mark.parametrize("words", [("PLAYLIST", "=M"), ("list", "--STATUS", "=C"), ("=LIST",)])
def test_the_case_of_what_is_typed_in_powershell_does_not_matter(
    ft: Runner, words: tuple[str, ...]
) -> None:
    offered = ft("__complete", "powershell", *words, check=0).stdout
    assert offered.split("\t")[0].strip() in ("move", "completed", "list")


def test_powershell_gets_the_whole_word_of_a_flag_with_its_value(ft: Runner) -> None:
    for typed in ("=--status=c", "=--STATUS=C"):
        offered = ft("__complete", "powershell", "list", typed, check=0).stdout
        assert offered == "--status=completed\n"


@every_shell
def test_the_script_is_sound(ft: Runner, shell: Shell) -> None:
    """Its own shell finds no fault in it, and it is ASCII for whatever the terminal speaks."""
    script(ft, shell.__name__)
    assert (ft.cwd / "script").read_bytes().isascii()
    result: Result = start(ft, shell.__name__, "-n", "./script").finish()
    assert (result.stdout, result.stderr) == ("", "")


@pytest.mark.skipif(PYPY, reason="PyPy knows no importtime")
@pytest.mark.parametrize("name", ["bash", "zsh", "fish", "powershell"])
def test_it_takes_no_more_than_the_version_does(ft: Runner, name: str) -> None:
    """No configuration, no key, no request, and nothing imported that costs time."""
    ft.config("not JSON")

    def imported(*argv: str) -> set[str]:
        program = [PYTHON, "-X", "importtime", str(ft.program)]
        stderr = ft.start(*argv, _program=program, key=None, check=0).finish().stderr
        return set(re.findall(r"\| +(\S+)$", stderr, re.MULTILINE))

    slow = {"json", "urllib.request", "ssl", "subprocess", "shutil", "tempfile", "ctypes"}
    assert (imported("completion", name) - imported("--version")) & slow == set()
    assert ft.sandbox.requests == []


@pytest.mark.parametrize("words", [["tcsh"], [], ["bash", "zsh"]])
def test_an_unknown_shell_is_a_usage_error(ft: Runner, words: list[str]) -> None:
    result = ft("completion", *words, check=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    if words == ["tcsh"]:
        assert "invalid shell 'tcsh': choose one of bash, zsh, fish, powershell" in result.stderr
