"""Prompts and lyrics from stdin and files, and what is no prompt although it looks like one."""

from __future__ import annotations

from pathlib import Path

import pytest
from conftest import Runner


def body(ft: Runner) -> dict[str, object]:
    return dict(ft.sandbox.posts()[-1].json)


@pytest.mark.parametrize(
    ("argv", "field"),
    [("generate", "tags"), ("instrumental", "prompt"), ("sfx generate", "prompt")],
)
def test_a_prompt_from_stdin(ft: Runner, argv: str, field: str) -> None:
    ft(*argv.split(), "-", "--no-wait", stdin="\ufefflofi,\nlate night é\n", check=0)
    assert body(ft)[field] == "lofi,\nlate night é"


def test_lyrics_from_a_file_and_from_stdin(ft: Runner, here: Path) -> None:
    (here / "words.txt").write_text("\nla la\nla\n", encoding="utf-8")
    ft("generate", "x", "--no-wait", "--lyrics-file", "words.txt", check=0)
    assert body(ft)["lyrics"] == "la la\nla"
    ft("generate", "x", "--no-wait", "--lyrics-file", "-", stdin="do re mi\n", check=0)
    assert body(ft)["lyrics"] == "do re mi"


@pytest.mark.parametrize(
    ("argv", "stdin", "message"),
    [
        (["generate", "-"], "", "the prompt is empty"),
        (["generate", "-"], b"\xff\xfe", "the prompt from stdin is not UTF-8"),
        (["generate", "-"], "x" * 701, "the prompt has 701 characters"),
        (["generate", "@prompt.txt"], None, "is the name of a file"),
        (["instrumental", "@prompt.txt"], None, "use `-` to read it from stdin"),
        (["generate", "x", "--lyrics", "@prompt.txt"], None, "use `--lyrics-file`"),
        (["generate", "x", "--lyrics", "-"], "la", "use `--lyrics-file -`"),
        (
            ["generate", "x", "--lyrics-file", "none.txt"],
            None,
            "cannot read none.txt: No such file",
        ),
        (["generate", "x", "--lyrics-file", "."], None, "cannot read .: "),
        (["generate", "x", "--lyrics-file", ""], None, "--lyrics-file needs a file"),
        (["generate", "-", "--lyrics-file", "-"], "x", "cannot both come from stdin"),
        (["generate", "x", "--lyrics", "a", "--lyrics-file", "b"], None, "cannot be used together"),
        (["generate", "x", "--lyrics-file", "-"], "y" * 2001, "the lyrics have 2001 characters"),
        (["generate", "-"], "one".encode("utf-16-le"), "hint: is the text UTF-16?"),
        (["generate", "-"], "a\0b", "control character U+0000 in the prompt"),
        (["instrumental", "-"], "a\x08b", "control character U+0008 in the prompt"),
        (["sfx", "generate", "a\x1b[31mb"], None, "control character U+001B in the prompt"),
        (["generate", "a\x7f"], None, "control character U+007F in the prompt"),
        (["generate", "x", "--lyrics", "a\x0e"], None, "control character U+000E in the lyrics"),
    ],
)
def test_a_mistake_costs_no_credit(
    ft: Runner, here: Path, argv: list[str], stdin: str | bytes | None, message: str
) -> None:
    (here / "prompt.txt").write_text("a song")
    assert message in ft(*argv, stdin=stdin, check=2).stderr
    assert not ft.sandbox.requests


def test_white_space_of_any_kind_is_text(ft: Runner) -> None:
    ft("generate", "a\tb\nc\vd\fe\rf\x85g", "--no-wait", check=0)
    assert body(ft)["tags"] == "a\tb\nc\vd\fe\rf\x85g"


def test_an_at_sign_that_names_no_file_is_a_prompt(ft: Runner) -> None:
    ft("generate", "@home on the range", "--no-wait", check=0)
    assert body(ft)["tags"] == "@home on the range"


@pytest.mark.parametrize("argv", ["generate help", "instrumental help", "sfx generate help"])
def test_a_lone_help_is_never_a_prompt(ft: Runner, argv: str) -> None:
    assert ft(*argv.split(), check=0).stdout == ft("help", *argv.split()[:-1], check=0).stdout
    assert not ft.sandbox.requests
    ft(*argv.split()[:-1], "--no-wait", "--", "help", check=0)
    assert "help" in body(ft).values()


def test_help_of_a_command_in_every_order(ft: Runner) -> None:
    wanted = ft("help", "list", check=0).stdout
    for argv in (["--help", "list"], ["-h", "list"], ["list", "-h"], ["list", "help"]):
        assert ft(*argv, check=0).stdout == wanted
    assert ft("playlist", "help", check=0).stdout == ft("help", "playlist", check=0).stdout


@pytest.mark.parametrize(
    ("topic", "text"),
    [
        ("environment", "FINETUNING_API_KEY"),
        ("exit-codes", "  3\n      no usable answer from the network"),
        ("files", "config.json"),
        ("scripting", "| ft delete --yes -"),
    ],
)
def test_topics_of_the_man_page(ft: Runner, topic: str, text: str) -> None:
    assert text in ft("help", topic, check=0).stdout
    assert topic in ft("help", check=0).stdout


def test_in_a_pipe_a_long_prompt_does_not_push_the_columns_out_of_sight(ft: Runner) -> None:
    ft.sandbox.add_generation(prompt="p" * 700)
    header, first, second, *_ = ft("list", check=0).stdout.splitlines()
    assert "p" * 700 in first
    assert len(header) < 130 and len(second) < 130


def test_an_address_is_never_broken(ft: Runner) -> None:
    shown = ft.tty("get", "07e8d430-2310-4c57-87a8-cf1e6db376f7", columns=50, check=0).finish()
    address = ft.sandbox.generations["07e8d430-2310-4c57-87a8-cf1e6db376f7"]["audioUrl"]
    assert address in shown.stdout


@pytest.mark.parametrize("name", ["CLICOLOR_FORCE", "FORCE_COLOR"])
def test_tables_in_a_pipe_are_coloured_where_that_is_wanted(ft: Runner, name: str) -> None:
    assert "\x1b[" in ft("list", env={name: "1"}, check=0).stdout
    for env in (
        {name: "0"},
        {name: ""},
        {name: "1", "NO_COLOR": "1"},
        {name: "1", "CLICOLOR": "0"},
    ):
        assert "\x1b[" not in ft("list", env=env, check=0).stdout
    assert "\x1b[" not in ft("list", "--no-color", env={name: "1"}, check=0).stdout
    assert "\x1b[" not in ft("list", "--json", env={name: "1"}, check=0).stdout


def test_an_offset_beyond_the_end_says_so(ft: Runner) -> None:
    result = ft("list", "--offset", "5000", check=0)
    assert result.stdout == ""
    assert "nothing at --offset 5000" in result.stderr
