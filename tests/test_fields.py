"""`--fields`: members of records for scripts, separated by tabs, a line a record."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest
from commands import WITH_FIELDS, Command, each, run
from conftest import Runner
from sandbox import Sandbox

LISTS = ("generations", "soundEffects", "playlists", "tracks")


def fields(ft: Runner, *argv: str) -> list[list[str]]:
    """Return the cells of each line that `ft ARGV` prints, which must warn of nothing."""
    result = ft(*argv, check=0)
    assert "warning" not in result.stderr
    return [line.split("\t") for line in result.stdout.splitlines()]


# --- each command ---------------------------------------------------------------------------------


@each(WITH_FIELDS)
def test_each_command_prints_members_of_what_its_json_has(
    ft: Runner, here: Path, command: Command
) -> None:
    """The documents of two runs differ for commands that make something, their shape does not."""
    result = run(ft, command, "--fields", "id,createdAt,email", check=0)
    data = run(ft, command, "--json", check=0).json["data"]
    listed = next((data[name] for name in LISTS if name in data), [data])
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert {len(cells) for cells in lines} <= {3}
    assert len(lines) == len(listed)
    for (identifier, _, email), record in zip(lines, listed):
        assert len(identifier) == len(record["id"])
        assert email == record.get("email", "")
        if command.effect == "reads":
            assert identifier == record["id"]
    assert list(here.iterdir()) == [], "nothing is downloaded"


@each(WITH_FIELDS)
def test_not_together_with_json_or_quiet(ft: Runner, command: Command) -> None:
    result = run(ft, command, "--fields", "id", "--json", check=2)
    assert result.stderr.startswith("error: --fields and --json cannot be used together\n")
    if command.quiet:
        result = run(ft, command, "--fields", "id", "-q", check=2)
        assert result.stderr.startswith("error: --quiet and --fields cannot be used together\n")
    assert not ft.sandbox.requests


@pytest.mark.parametrize("names", ["", ",", "id,", "id,,status", " "])
def test_no_name_is_exit_2(ft: Runner, names: str) -> None:
    assert "invalid fields" in ft("list", f"--fields={names}", check=2).stderr
    assert not ft.sandbox.requests


def test_a_submission_that_is_not_waited_for(ft: Runner) -> None:
    result = ft("generate", "a song", "--no-wait", "--fields", "status,id", check=0)
    (identifier,) = ft.sandbox.book
    assert result.stdout == f"processing\t{identifier}\n"


def test_a_generation_that_fails_is_printed_and_exit_1(ft: Runner) -> None:
    result = ft("generate", "please fail", "--fields", "id,status", speed=15, check=1)
    (identifier,) = ft.sandbox.book
    assert result.stdout == f"{identifier}\tfailed\n"
    assert "error: " in result.stderr


# --- values ---------------------------------------------------------------------------------------


def test_values_of_every_type(ft: Runner) -> None:
    record = ft.sandbox.add_generation(
        prompt="naïve 🎹 — piano", isPublic=True, likeCount=0, lyrics="", tags=["a\tb", None]
    )
    record["parameters"] = {"seed": 12345678901234567890, "scale": 1.50, "deep": {"er": "x"}}
    names = "prompt,isPublic,likeCount,errorMessage,lyrics,tags,parameters.deep.er,parameters.seed"
    (cells,) = fields(ft, "get", record["id"], "--fields", f"{names},parameters")
    assert cells[:5] == ["naïve 🎹 — piano", "true", "0", "", ""]
    assert cells[5] == r'["a\tb", null]'
    assert cells[6:8] == ["x", "12345678901234567890"]
    assert json.loads(cells[8]) == record["parameters"]


def test_tabs_line_ends_and_backslashes_in_text_are_escaped(ft: Runner) -> None:
    """So a line is always a record, and what was escaped can be told from what was not."""
    prompt = "tab\there\nline\r\nend\\n \x1b[31m\x85\u2028."
    record = ft.sandbox.add_generation(prompt=prompt)
    result = ft("get", record["id"], "--fields", "prompt,id", check=0)
    escaped = r"tab\there\nline\r\nend\\n \x1b[31m\x85\u2028."
    assert result.stdout == f"{escaped}\t{record['id']}\n"
    assert escaped.encode().decode("unicode_escape") == prompt


def test_a_stdout_without_unicode_gets_json_that_is_still_json(ft: Runner) -> None:
    record = ft.sandbox.add_generation(tags=["é 🎹"], prompt="é")
    env = {"LC_ALL": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    result = ft("get", record["id"], "--fields", "tags,prompt", env=env, check=0)
    tags, prompt = result.stdout.rstrip("\n").split("\t")
    assert json.loads(tags) == ["é 🎹"]
    assert prompt == r"\xe9"


def test_a_key_in_a_prompt_is_redacted(ft: Runner) -> None:
    record = ft.sandbox.add_generation(prompt=f"my key is {ft.sandbox.key}", tags=[ft.sandbox.key])
    result = ft("get", record["id"], "--fields", "prompt,tags", check=0)
    assert ft.sandbox.key not in result.stdout
    assert result.stdout.count("...****") == 2


# --- members that are missing ---------------------------------------------------------------------


def test_an_unknown_member_is_empty_and_warned_about_once(ft: Runner) -> None:
    result = ft("list", "--fields", "id,statu,status.x,id", "--limit", "5", check=0)
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert len(lines) == 5
    assert all(first == last and not any(middle) for first, *middle, last in lines)
    warnings = [line for line in result.stderr.splitlines() if line.startswith("warning:")]
    assert warnings == [
        "warning: unknown field `statu`: no record has it; did you mean `status`?",
        "warning: unknown field `status.x`: no record has it; did you mean `status`?",
    ]


@pytest.mark.sandbox(library=False)
def test_a_member_that_one_record_has_is_known(ft: Runner) -> None:
    ft.sandbox.add_generation()
    ft.sandbox.add_generation(mood="calm")
    ft.sandbox.add_generation()
    assert fields(ft, "list", "--fields", "mood,status") == [
        ["", "completed"],
        ["calm", "completed"],
        ["", "completed"],
    ]


@pytest.mark.sandbox(library=False)
def test_an_empty_list_prints_nothing_and_knows_no_member(ft: Runner) -> None:
    result = ft("list", "--all", "--fields", "statu", check=0)
    assert result.stdout == ""
    assert result.stderr == "note: nothing here; `ft generate` makes one\n"


def test_more_pages_are_noted(ft: Runner) -> None:
    result = ft("list", "--fields", "id", "--limit", "3", check=0)
    assert len(result.stdout.splitlines()) == 3
    assert result.stderr == "note: there are more: --offset 3\n"


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.skipif(os.name == "nt", reason="a pipe without a reader is another error there")
@pytest.mark.sandbox(library=False)
@pytest.mark.parametrize("how", [["--fields", "id"], ["-q"]], ids=["fields", "quiet"])
def test_all_prints_each_page_as_it_comes(ft: Runner, sandbox: Sandbox, how: list[str]) -> None:
    """A reader that has enough, such as `head -1`, ends ft when the next page is written."""
    ids = [sandbox.add_generation(seconds=1)["id"] for _ in range(500)]
    second = sandbox.fault("stall", path="/v1/generations", after=1, where="request")
    process = subprocess.Popen(
        [*ft.argv, "list", "--all", *how],
        env=ft.env(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    with process:
        assert process.stdout and process.stderr
        printed = [process.stdout.readline().decode().strip() for _ in range(99)]
        assert printed == ids[:-100:-1], "before the second page is there"
        process.stdout.close()
        sandbox.wait_for(lambda request: request.query.get("offset") == "99")
        second.release()
        assert process.wait(20) == 141
        assert process.stderr.read() == b""
    assert len(sandbox.requests) == 2


@pytest.mark.sandbox(library=False)
@pytest.mark.skipif(os.name == "nt", reason="needs a POSIX shell")
def test_head_ends_it_at_once(ft: Runner, sandbox: Sandbox) -> None:
    newest = [sandbox.add_generation(seconds=1)["id"] for _ in range(1500)][-1]
    result = ft.sh("ft list --all --fields id | head -1", check=0)
    assert result.stdout == f"{newest}\n"
    assert result.stderr == ""
    assert len(sandbox.requests) < 10, "not all of the 16 pages"
