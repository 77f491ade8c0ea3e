"""What ft suggests for a mistyped command, flag, value or name, and what it refuses to guess."""

from __future__ import annotations

import shlex

import pytest
from conftest import Runner

# What is typed, and what is suggested for it: None is nothing.
COMMANDS = {
    "gen": "generate",
    "genrate": "generate",
    "genarate": "generate",
    "generat": "generate",
    "create": "generate",
    "make": "generate",
    "new": "generate",
    "instr": "instrumental",
    "ls": "list",
    "lst": "list",
    "lsit": "list",
    "show": "get",
    "view": "get",
    "rm": "delete",
    "remove": "delete",
    "del": "delete",
    "delte": "delete",
    "dowload": "download",
    "downlaod": "download",
    "status": "auth whoami",
    "whoami": "auth whoami",
    "login": "auth login",
    "logout": "auth logout",
    "upgrade": "update",
    "updat": "update",
    "doc": "doctor",
    "docter": "doctor",
    "complete": "completion",
    "version": "--version",
    "playlsts": "playlists",
    "auth logn": "auth login",
    "auth who": "auth whoami",
    "playlist list": "playlists",
    "playlist ls": "playlists",
    "playlist view": "playlist show",
    "playlist rm": "playlist remove",
    "playlist ad": "playlist add",
    "playlist mov": "playlist move",
    "sfx gen": "sfx generate",
    "sfx ls": "sfx list",
    "sfx dl": None,
    "xyzzy": None,
    "q": None,
    "playlist create": None,
    "playlist rename x": None,
    "playlist delete x": None,
}
FLAGS = {
    "generate x --durtion 5": "--duration",
    "generate x --dur 5": "--duration",
    "generate x --lenght 5": "--duration",
    "generate x --lyric la": "--lyrics",
    "generate x --out a.mp3": "--output",
    "generate x -out a.mp3": "--output",
    "generate x --lang de": "--language",
    "list --limt 5": "--limit",
    "list --stat completed": "--status",
    "list --verbos": "--verbose",
    "list --quite": "--quiet",
    "delete --quite abcdef": None,
    "delete --force abcdef": "--yes",
    "get --jsn abcdef": "--json",
    "-V": "--version",
}
VALUES = {
    "generate x --scale majr": "major",
    "generate x --scale min": "minor",
    "generate x --language eng": "en",
    "list --status complete": "completed",
    "list --status fail": "failed",
    "list --type instrumentl": "instrumental",
    "completion bsh": "bash",
    "completion power": "powershell",
}


@pytest.mark.parametrize("typed", [*COMMANDS, *FLAGS, *VALUES])
def test_the_nearest_is_suggested_and_nothing_far(ft: Runner, typed: str) -> None:
    error, *_ = ft(*shlex.split(typed), check=2).stderr.splitlines()
    wanted = {**COMMANDS, **FLAGS, **VALUES}[typed]
    assert error.startswith("error: ")
    assert error.partition("; did you mean ")[2] == (f"`{wanted}`?" if wanted else "")
    assert not ft.sandbox.requests


@pytest.mark.parametrize("verb", ["create", "new", "rename", "delete"])
def test_where_playlists_are_made(ft: Runner, verb: str) -> None:
    assert "at finetuning.ai" in ft("playlist", verb, "x", check=2).stderr


def test_a_playlist_whose_name_begins_so(ft: Runner) -> None:
    result = ft("playlist", "show", "focus", check=2)
    assert "no playlist is called 'focus'; did you mean `Focus Beats`?" in result.stderr


def test_values_are_quoted_as_they_were_given_and_case_does_not_matter(ft: Runner) -> None:
    assert (
        "invalid key 'C minor': choose one of C, C#"
        in ft("generate", "x", "--key", "C minor", check=2).stderr
    )
    ft("list", "--status", "Completed", check=0)
    assert ft.sandbox.requests[-1].query["status"] == "completed"
    for text in ("30s", "2m", "1:30", "30 seconds"):
        result = ft("generate", "x", "--duration", text, check=2)
        assert f"invalid duration {text!r}: give a number of seconds" in result.stderr


def test_a_prompt_that_begins_with_dashes_is_told_how(ft: Runner) -> None:
    result = ft("generate", "--dark", "techno", check=2)
    assert "unknown flag --dark" in result.stderr
    assert "ft generate -- --dark" in result.stderr


@pytest.mark.parametrize("argv", ["generate x", "instrumental x", "sfx generate x"])
@pytest.mark.parametrize(
    "flag", ["-ou", "-out", "-output", "-outpt", "-json", "-out=x.mp3", "-no-wait"]
)
def test_a_long_flag_with_one_dash_never_costs_a_credit(ft: Runner, argv: str, flag: str) -> None:
    assert "unknown flag -" in ft(*argv.split(), flag, check=2).stderr
    assert not ft.sandbox.requests
