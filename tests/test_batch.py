"""`ft batch`: a file of prompts becomes tracks. Its input, its journal, and how a run that was
stopped goes on: nothing is paid for twice, and nothing that is paid for is lost.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import sys
import time
from pathlib import Path
from typing import Any

import jumping_clock
import pytest
from conftest import Process, Result, Runner
from sandbox import stamp

SPEED = 20  # the first poll comes after a sixth of a second
MUSIC = {
    "duration": 60,
    "bpm": 120,
    "key": "C",
    "scale": "major",
    "timesignature": "4",
    "language": "en",
}
ROOMY = {"queue_limit": 1000}


JSON_LINES = """{"prompt": "one"}

{"tags": "two", "bpm": null}
{"PROMPT": "three"}
{"prompt": "four", "lyrics": ""}"""


def write(ft: Runner, text: str | bytes, name: str = "prompts.txt") -> Path:
    path = ft.cwd / name
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def batch(ft: Runner, *flags: str, file: str = "prompts.txt", **how: Any) -> Result:
    return ft("batch", file, "--yes", *flags, **{"speed": SPEED, **how})


def start(ft: Runner, *flags: str, file: str = "prompts.txt", **how: Any) -> Process:
    return ft.start("batch", file, "--yes", *flags, **{"speed": SPEED, **how})


def journal(ft: Runner, file: str = "prompts.txt") -> list[dict[str, Any]]:
    text = (ft.cwd / f"{file}.journal.jsonl").read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def states(ft: Runner, file: str = "prompts.txt") -> list[str]:
    """The last state of each line in the journal."""
    last: dict[str, str] = {}
    for entry in journal(ft, file)[1:]:
        last[entry["line"]] = entry["state"]
    return list(last.values())


def sent(ft: Runner) -> list[dict[str, Any]]:
    return [{k: v for k, v in post.json.items() if k != "seed"} for post in ft.sandbox.posts()]


def tracks(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*.mp3"))


def reads(ft: Runner) -> int:
    return sum(r.method == "GET" and r.origin == "api" for r in ft.sandbox.requests)


# --- the input ------------------------------------------------------------------------------------


@pytest.mark.sandbox(**ROOMY)
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("p.txt", "one\n\n# a comment\n  two  \r\nthree\rfour"),
        ("p", b"\xef\xbb\xbfone\ntwo\nthree\nfour\n"),
        ("p.csv", "prompt\none\n\ntwo\nthree\nfour\n"),
        ("p.csv", b'\xef\xbb\xbfPrompt,BPM\r\none,\r\n,\r\n"two",\r\nthree\r\nfour,,,\r\n'),
        ("p.csv", "prompt\rone\rtwo\rthree\rfour"),
        ("p.tsv", "lyrics\tprompt\n\tone\n\ttwo\n\tthree\n\tfour\n"),
        ("p.jsonl", JSON_LINES),
    ],
    ids=["text", "BOM", "csv", "Excel", "old Mac", "tsv", "jsonl"],
)  # fmt: skip
def test_the_forms_of_a_file(ft: Runner, name: str, text: str | bytes) -> None:
    write(ft, text, name)
    result = batch(ft, file=name, check=0)
    assert sent(ft) == [{"tags": prompt, **MUSIC} for prompt in ("one", "two", "three", "four")]
    assert result.stdout.endswith("Generated 4 of 4 track(s)\n")
    assert len(tracks(ft.cwd)) == 4


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_every_column(ft: Runner, kind: str) -> None:
    values = {
        "prompt": "a, b",
        "duration": "90",
        "bpm": "80.5",
        "key": "bb",
        "scale": "MINOR",
        "time_sig": "3",
        "language": "de",
        "lyrics": "la\nla",
        "seed": "0",
        "output": "a/b.mp3",
    }
    names = {"time_sig": "Time-Sig", "prompt": " PROMPT", "language": "lang-uage"}
    if kind == "csv":
        header = ",".join(names.get(name, name) for name in values)
        text = f"{header}\n" + ",".join(f'"{value}"' for value in values.values()) + "\n"
    else:
        text = json.dumps({names.get(name, name): value for name, value in values.items()})
    write(ft, text, f"p.{kind}")
    batch(ft, "-o", "out", file=f"p.{kind}", check=0)
    [request] = ft.sandbox.posts()
    assert request.json == {
        "tags": "a, b",
        "duration": 90,
        "bpm": 80.5,
        "key": "A#",
        "scale": "minor",
        "timesignature": "3",
        "language": "de",
        "lyrics": "la\nla",
        "seed": 0,
    }
    assert tracks(ft.cwd) == ["out/a/b.mp3"]


def test_three_types(ft: Runner) -> None:
    """Defaults that do not apply to a line are ignored; defaultDuration is for music."""
    ft.config({"baseUrl": ft.sandbox.api_url, "defaultDuration": 45, "defaultBpm": 99})
    write(
        ft, "type,prompt,duration\nMusic,one,\ninstrumental,two,\nsfx,three,\nsfx,four,3\n", "p.csv"
    )
    batch(ft, "--key", "D", "--scale", "auto", "--lyrics", "la", file="p.csv", check=0)
    music = {**MUSIC, "duration": 45, "bpm": 99, "key": "D", "lyrics": "la"}
    del music["scale"]
    assert sent(ft) == [
        {"tags": "one", **music},
        {"prompt": "two", "duration": 120, "enhance": True},
        {"prompt": "three", "enhance": True},
        {"prompt": "four", "enhance": True, "duration": 3},
    ]
    assert [post.path for post in ft.sandbox.posts()] == [
        "/v1/generations",
        "/v1/instrumental",
        "/v1/sound-effects",
        "/v1/sound-effects",
    ]
    assert len(tracks(ft.cwd)) == 4
    assert ["seed" in post.json for post in ft.sandbox.posts()] == [True, True, False, False]


def test_cells_win_over_flags_and_flags_over_the_configuration(ft: Runner) -> None:
    ft.config({"baseUrl": ft.sandbox.api_url, "defaultDuration": 45, "defaultBpm": 99})
    write(ft, "prompt,duration,key\none,20,auto\ntwo,,\n", "p.csv")
    batch(ft, "--duration", "30", "--time-sig", "3", file="p.csv", check=0)
    one, two = sent(ft)
    assert (one["duration"], two["duration"]) == (20, 30)
    assert (one["bpm"], two["bpm"], two["timesignature"]) == (99, 99, "3")
    assert "key" not in one and two["key"] == "C"


def test_the_format_flag_overrides_the_extension(ft: Runner) -> None:
    write(ft, "prompt\tbpm\none\t90\n")
    batch(ft, "--format", "tsv", check=0)
    assert sent(ft) == [{"tags": "one", **MUSIC, "bpm": 90}]


def test_stdin(ft: Runner) -> None:
    """It needs --yes and a journal."""
    for flags in (["--yes"], ["--journal", "j"]):
        result = ft("batch", "-", *flags, stdin="one\n", check=2)
        assert "--journal" in result.stderr or "--yes" in result.stderr
    for _ in range(2):
        result = batch(ft, "--journal", "j", file="-", stdin="one\n", check=0)
        assert result.stdout.endswith("Generated 1 of 1 track(s)\n")
    assert len(ft.sandbox.posts()) == 1
    assert "error: stdin:2: " in batch(
        ft, "--journal", "k", file="-", stdin="one\n" + "x" * 701, check=2
    ).stderr  # fmt: skip


BAD = [  # a name, its text, the line and what is wrong with it
    ("p.csv", "prompt,bpm\none,fast\n", 2, "invalid bpm 'fast': not a number"),
    ("p.csv", "prompt,duration\none,3m\n", 2, "invalid duration '3m': give a number of seconds"),
    ("p.csv", "prompt,key\none,H\n", 2, "invalid key 'H': choose one of C, C#"),
    ("p.csv", "prompt,scale\none,minro\n", 2, "did you mean `minor`?"),
    ("p.csv", "prompt,seed\none,1.5\n", 2, "invalid seed '1.5': not a whole number"),
    ("p.csv", "prompt,time_sig\none,8\n", 2, "invalid time_sig '8': choose one of 2, 3"),
    ("p.csv", "prompt,type\none,song\n", 2, "invalid type 'song': choose one of music, "),
    ("p.csv", "prompt,bpm\n,90\n", 2, "the prompt is empty"),
    ("p.csv", "prompt,bpmm\none,90\n", 1, "unknown column 'bpmm'; did you mean `bpm`?"),
    ("p.csv", "prompt,tempo\none,90\n", 1, "unknown column 'tempo'; did you mean `bpm`?"),
    ("p.csv", "prompt;bpm\none;90\n", 1, "columns are separated by commas"),
    ("p.csv", "prompt,bpm,BPM\none,90,90\n", 1, "the column bpm is there twice"),
    ("p.csv", "prompt,time-sig,timesig\none,3,3\n", 1, "the column time_sig is there twice"),
    ("p.csv", "bpm\n90\n", 1, "no column is called prompt"),
    ("p.csv", "prompt,bpm\nlofi, chill, 90\n", 2, "no column for the cell '90'"),
    ("p.csv", "prompt,\none,two\n", 2, "no column for the cell 'two'"),
    ("p.csv", 'prompt\n\n"one\n', 3, "not a table: "),
    ("p.csv", "prompt,type,bpm\none,instrumental,90\n", 2, "bpm does not apply to the type instr"),
    ("p.csv", "prompt,type,seed\none,sfx,9\n", 2, "seed does not apply to the type sfx"),
    ("p.csv", "prompt,output\none,/tmp/x.mp3\n", 2, "must be relative to the directory of -o"),
    ("p.csv", "prompt,output\none,~/x.mp3\n", 2, "must be relative"),
    ("p.csv", "prompt,output\none,a/../../x.mp3\n", 2, "must not contain `..`"),
    ("p.csv", "prompt,output\none,a\\..\\x.mp3\n", 2, "must not contain `..`"),
    ("p.csv", "prompt,output\none,a/\n", 2, "must name a file"),
    ("p.csv", "prompt,output\none,-\n", 2, "must name a file"),
    ("p.csv", "prompt,output\none,a\x1b[31m.mp3\n", 2, "contains a control character"),
    ("p.csv", "prompt,output\none,a.mp3\ntwo,./a.mp3\n", 3, "line 2 has the output 'a.mp3', too"),
    ("p.csv", "prompt,output\none,b/a.mp3\ntwo,b//a.mp3\n", 3, "line 2 has the output"),
    ("p.csv", "prompt,output\none,p.csv\n", 2, "the output is the file of the input"),
    ("p.csv", "prompt,output\none,p.csv.journal.jsonl\n", 2, "the file of the journal"),
    ("p.csv", "prompt,output\none,a.mp3\ntwo,a.mp3/b\n", 3, "the output is the output of line 2"),
    ("p.csv", "prompt,output\none,a/b/c/d\ntwo,./a/b\n", 2, "the output is the output of line 3"),
    ("p.txt", "one\x1b[31m\n", 1, "control character U+001B in the prompt"),
    ("p.csv", "prompt,lyrics\none,la\x7f\n", 2, "control character U+007F in the lyrics"),
    ("p.csv", f"prompt,lyrics\none,{'x' * 2001}\n", 2, "the lyrics have 2001 characters"),
    ("p.csv", f"prompt\nft_live_{'a' * 32}\n", 2, "the prompt contains an API key"),
    ("p.txt", "one\n" + "x" * 701 + "\n", 2, "the prompt has 701 characters, more than 700"),
    ("p.txt", "one\n@p.txt\n", 2, "'@p.txt' is the name of a file"),
    ("p.txt", b"one\ntwo\n\xff\xfe\n", 3, "not UTF-8"),
    ("p.jsonl", '{"prompt": "one"}\nnonsense\n', 2, "not JSON: "),
    ("p.jsonl", '["one"]\n', 1, "not a JSON object"),
    ("p.jsonl", '{"prompt": 5}\n', 1, "the prompt must be text"),
    ("p.jsonl", '{"prompt": "one", "bpm": [90]}\n', 1, "the bpm must be text"),
    ("p.jsonl", '{"prompt": "one", "bpm": true}\n', 1, "the bpm must be text"),
    ("p.jsonl", '{"prompt": "one", "prompt": "two"}\n', 1, "a name is there twice"),
    ("p.jsonl", '{"prompt": "one", "tags": "two"}\n', 1, "the column prompt is there twice"),
    ("p.jsonl", '{"prompt": "\\ud800"}\n', 1, "the prompt is not valid text"),
    ("p.jsonl", '{"prompt": "one", "bpm": 1e999}\n', 1, "not JSON: "),
    ("p.jsonl", "[" * 500 + "]" * 500 + "\n", 1, "not JSON: nested too deeply"),
    ("p.jsonl", "{}\n", 1, "the prompt is empty"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "text", "line", "why"), BAD, ids=lambda value: str(value)[:30])
def test_a_bad_line_is_refused_before_anything_is_sent(
    ft: Runner, name: str, text: str | bytes, line: int, why: str
) -> None:
    write(ft, text, name)
    result = batch(ft, file=name, check=2)
    first = result.stderr.splitlines()[0]
    assert first.startswith(f"error: {name}:{line}: ") and why in first, result
    assert not ft.sandbox.requests and not (ft.cwd / f"{name}.journal.jsonl").exists()


def test_all_bad_lines_are_listed(ft: Runner) -> None:
    write(ft, "prompt,bpm\none,fast\ntwo,90\n,1\nthree,slow\n", "p.csv")
    result = batch(ft, file="p.csv", check=2)
    assert re.findall(r"^error: p\.csv:(\d+): ", result.stderr, re.MULTILINE) == ["2", "4", "5"]
    assert result.stderr.endswith("hint: nothing was sent\n")


def test_of_many_bad_lines_a_hundred_are_listed(ft: Runner) -> None:
    for count, more in ((100, 0), (101, 1), (250, 150)):
        write(ft, "prompt,bpm\n" + "one,fast\n" * count, "p.csv")
        errors = re.findall("^error: (.*)", batch(ft, file="p.csv", check=2).stderr, re.MULTILINE)
        assert len(errors) == 100 + bool(more)
        assert not more or errors[-1] == f"p.csv: and {more} more problem{'s' * (more > 1)}"


def test_the_files_of_the_input_are_protected(ft: Runner) -> None:
    write(ft, "prompt,output\none,sub/words\n", "p.csv")
    (ft.cwd / "sub").mkdir()
    write(ft, "la la", "sub/words")
    result = batch(ft, "--lyrics-file", "sub/words", file="p.csv", check=2)
    assert "p.csv:2: the output is the file of the lyrics" in result.stderr


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["", "--journal", "j"], "missing file of prompts"),
        (["prompts.txt", "--journal", "-"], "--journal needs a file of its own"),
        (["prompts.txt", "--journal", ""], "--journal needs a file of its own"),
        (["prompts.txt", "--journal", "./prompts.txt"], "--journal needs a file of its own"),
    ],
)
def test_file_names_that_cannot_be(ft: Runner, argv: list[str], why: str) -> None:
    write(ft, "one\n")
    assert why in ft("batch", *argv, "--yes", check=2).stderr
    assert not ft.sandbox.requests


@pytest.mark.skipif(sys.platform == "win32", reason="removes its own directory")
@pytest.mark.needs("mkdir", "rmdir")
@pytest.mark.parametrize("flags", ["", "-o out", "--journal j"])
@pytest.mark.parametrize("text", ["prompt,output\none,a.mp3\n", "prompt\none\n"])
def test_a_directory_that_was_removed(ft: Runner, text: str, flags: str) -> None:
    file = write(ft, text, "p.csv")
    script = f'mkdir gone && cd gone && rmdir "$PWD" && ft batch "{file}" --yes {flags}'
    result = ft.sh(script, check=1)
    assert result.stderr.endswith("error: the current directory does not exist any more\n")
    assert not ft.sandbox.requests


@pytest.mark.parametrize(
    ("name", "text"), [("p", ""), ("p", "# only\n\n"), ("p.csv", ""), ("p.csv", "prompt\n\n")]
)
def test_an_empty_file_is_refused(ft: Runner, name: str, text: str) -> None:
    write(ft, text, name)
    assert "contains no lines" in batch(ft, file=name, check=2).stderr
    assert not ft.sandbox.requests


def test_files_that_cannot_be_read_or_are_no_lists(ft: Runner) -> None:
    (ft.cwd / "directory").mkdir()
    assert "cannot read missing.txt" in batch(ft, file="missing.txt", check=2).stderr
    assert "cannot read directory" in batch(ft, file="directory", check=2).stderr
    write(ft, '[{"prompt": "one"}]', "p.json")
    assert "p.json is not a file of prompts" in batch(ft, file="p.json", check=2).stderr
    assert not ft.sandbox.requests


def test_hostile_text_is_harmless(ft: Runner) -> None:
    write(ft, "prompt\x1b]0;owned\x07,bpm\none,90\n", "p.csv")
    assert "\x1b" not in batch(ft, file="p.csv", check=2).stderr
    write(ft, "one \x9b2J please fail\n")
    result = batch(ft, check=1)
    assert "\x9b" not in result.stderr + result.stdout
    assert "\x9b" not in ft("batch", "prompts.txt", "--dry-run", check=0).stdout


def test_utf_16_is_asked_about(ft: Runner) -> None:
    write(ft, "one\ntwo\n".encode("utf-16-le"))
    result = batch(ft, check=2)
    assert "error: prompts.txt:1: control character U+0000 in the prompt\n" in result.stderr
    assert result.stderr.endswith("hint: is the text UTF-16? save it as UTF-8; nothing was sent\n")


@pytest.mark.skipif(sys.platform == "win32", reason="modes")
@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="root may write everywhere")
def test_a_directory_that_cannot_be_written(ft: Runner) -> None:
    write(ft, "one\n")
    (ft.cwd / "out").mkdir(0o500)
    assert "cannot write out" in batch(ft, "-o", "out", check=1).stderr
    assert not ft.sandbox.posts()


def test_a_destination_that_cannot_be(ft: Runner) -> None:
    write(ft, "prompt,output\none,a/b.mp3\n", "p.csv")
    write(ft, "", "a")
    assert "cannot write a track into a/: " in batch(ft, file="p.csv", check=1).stderr
    write(ft, f"prompt,output\none,{'x' * 300}\n", "p.csv")
    assert "cannot write xxx" in batch(ft, file="p.csv", check=1).stderr
    write(ft, "one\n")
    assert "cannot write a track into a/: " in batch(ft, "-o", "a", check=1).stderr
    assert "-o needs a directory" in batch(ft, "-o", "-", check=2).stderr
    assert not ft.sandbox.posts()


# --- asking first ---------------------------------------------------------------------------------


def test_it_asks_on_a_terminal(ft: Runner) -> None:
    write(ft, "prompt,type\none,\ntwo,\nthree,sfx\n", "p.csv")
    question = "Submit 2 generations for 2 credits (1,968 left) and 1 sound effect? [y/N] "
    process = ft.tty("batch", "p.csv", "-o", "new/directory", speed=SPEED)
    process.expect(question)
    process.send("n\r")
    result = process.finish()
    assert result.code == 0 and "Aborted." in result.stdout and not (ft.cwd / "new").exists()
    assert not ft.sandbox.posts() and not (ft.cwd / "p.csv.journal.jsonl").exists()
    process = ft.tty("batch", "p.csv", speed=SPEED, check=0)
    process.expect(question)
    process.send("y\r")
    assert "Generated 3 of 3 track(s)" in process.finish().stdout
    ft.tty("batch", "p.csv", speed=SPEED, check=0).finish()  # nothing is left to ask for
    assert len(ft.sandbox.posts()) == 3


def test_without_a_terminal_it_needs_yes(ft: Runner) -> None:
    write(ft, "one\n")
    assert "use `--yes`" in ft("batch", "prompts.txt", check=2).stderr
    assert not ft.sandbox.requests
    batch(ft, check=0)
    ft("batch", "prompts.txt", check=0)  # nothing is left to ask for


def test_a_dry_run_shows_every_line(ft: Runner) -> None:
    write(ft, "prompt,bpm,output,type\none,90,a.mp3,\nplease fail,,,\n", "p.csv")
    result = ft("batch", "p.csv", "--dry-run", "-o", "out", key=None, check=0)
    header, one, two = result.stdout.splitlines()
    assert header.split() == ["LINE", "STATE", "PROMPT", "PARAMETERS", "OUTPUT"]
    assert one.startswith("2     to submit") and "bpm=90" in one and one.endswith("out/a.mp3")
    assert two.startswith("3     to submit") and two.endswith("out/")
    assert not ft.sandbox.requests
    assert [path.name for path in ft.cwd.iterdir() if path.name != "config"] == ["p.csv"]
    batch(ft, "-o", "out", file="p.csv", check=1)
    rows = ft("batch", "p.csv", "--dry-run", key=None, check=0).stdout.splitlines()[1:]
    assert [row.split()[1] for row in rows] == ["saved", "failed"]
    document = ft("batch", "p.csv", "--dry-run", "--json", check=0).json
    assert [line["state"] for line in document["data"]["lines"]] == ["saved", "failed"]
    assert document["data"]["lines"][0]["body"] == {"tags": "one", **MUSIC, "bpm": 90}


# --- going on -------------------------------------------------------------------------------------


def test_what_is_saved_is_left_alone(ft: Runner) -> None:
    write(ft, "one\ntwo\n")
    batch(ft, "-o", "out/", check=0)
    names = tracks(ft.cwd)
    before = len(ft.sandbox.requests)
    elsewhere = ft.cwd / "elsewhere"
    elsewhere.mkdir()
    result = batch(ft, file="../prompts.txt", cwd=elsewhere, check=0)
    assert result.stdout == "Generated 2 of 2 track(s)\n"
    assert [request.path for request in ft.sandbox.requests[before:]] == ["/v1/me"]
    assert tracks(ft.cwd) == names


def test_a_relative_directory_is_that_of_this_run(ft: Runner) -> None:
    """What was saved elsewhere is downloaded again, unless there is no -o."""
    write(ft, "prompt,output\none,\ntwo,a.mp3\n", "p.csv")
    elsewhere = ft.cwd / "elsewhere"
    elsewhere.mkdir()
    batch(ft, file="p.csv", check=0)
    first = tracks(ft.cwd)
    batch(ft, "-o", ".", file="p.csv", check=0)
    assert tracks(ft.cwd) == first
    batch(ft, "-o", ".", file="../p.csv", cwd=elsewhere, check=0)
    assert tracks(elsewhere) == first
    batch(ft, "-o", "elsewhere", file="p.csv", check=0)
    result = batch(ft, file="p.csv", check=0)
    assert len(tracks(ft.cwd)) == 4 and result.stdout == "Generated 2 of 2 track(s)\n"
    assert len(ft.sandbox.posts()) == 2


def test_an_empty_file_is_downloaded_again(ft: Runner) -> None:
    write(ft, "one\n")
    batch(ft, check=0)
    path = ft.cwd / tracks(ft.cwd)[0]
    path.write_bytes(b"")
    batch(ft, check=0)
    assert path.stat().st_size and len(ft.sandbox.posts()) == 1


def test_what_others_made_is_noted_before_it_is_replaced(ft: Runner) -> None:
    write(ft, "prompt,output\none,a.mp3\n", "p.csv")
    batch(ft, file="p.csv", check=0)
    write(ft, "prompt,output\nchanged,a.mp3\n", "p.csv")
    assert "replaced" not in batch(ft, file="p.csv", check=0).stderr  # by its own line
    (ft.cwd / "out").mkdir()
    for name in ("a.mp3", "b.mp3"):
        write(ft, "old", f"out/{name}")
    write(ft, "prompt,output\none,b.mp3\ntwo,a.mp3\nthree,\n", "p.csv")
    process = ft.tty("batch", "p.csv", "-o", "out", speed=SPEED)
    process.expect("2 existing files will be replaced: out/b.mp3 is the first")
    process.expect("[y/N]")
    process.send("n\r")
    process.finish()
    (ft.cwd / "out" / "a.mp3").unlink()
    result = batch(ft, "-o", "out", file="p.csv", check=0)
    assert "note: 1 existing file will be replaced: out/b.mp3\n" in result.stderr


def test_a_file_that_is_gone_is_downloaded_again(ft: Runner) -> None:
    write(ft, "one\ntwo\n")
    batch(ft, "-o", "out", check=0)
    name = tracks(ft.cwd)[0]
    (ft.cwd / name).unlink()
    result = batch(ft, "-o", "out", check=0)
    assert result.stdout == f"Saved to {name}\nGenerated 2 of 2 track(s)\n"
    assert len(ft.sandbox.posts()) == 2


def test_a_changed_output_is_downloaded_again(ft: Runner) -> None:
    write(ft, "prompt,output\none,a.mp3\n", "p.csv")
    batch(ft, file="p.csv", check=0)
    write(ft, "prompt,output\none,b.mp3\n", "p.csv")
    batch(ft, file="p.csv", check=0)
    assert tracks(ft.cwd) == ["a.mp3", "b.mp3"] and len(ft.sandbox.posts()) == 1


def test_lines_may_be_added_removed_and_moved(ft: Runner) -> None:
    """Two equal lines are two takes, and a changed one is a new track."""
    write(ft, "prompt,bpm\none,\ntwo,90\none,\n", "p.csv")
    batch(ft, file="p.csv", check=0)
    write(ft, "bpm,prompt\n,one\n90.0,two\n,four\n,one\n91,two\n,one\n", "p.csv")
    result = batch(ft, file="p.csv", check=0)
    assert result.stdout.endswith("Generated 6 of 6 track(s)\n")
    fresh = [(body["tags"], body["bpm"]) for body in sent(ft)[3:]]
    assert fresh == [("four", 120), ("two", 91), ("one", 120)]


@pytest.mark.parametrize(
    ("first", "then", "fresh"),
    [
        ("ab", "ba", ""),
        ("ab", "b", ""),
        ("abc", "cxab", "x"),
        ("ab", "b-", "-"),  # a line without an output of its own
        ("-a", "a-", ""),
    ],
)
@pytest.mark.parametrize("flags", [(), ("--no-wait",)])
def test_equal_lines_keep_their_tracks_when_they_are_moved(
    ft: Runner, first: str, then: str, fresh: str, flags: tuple[str, ...]
) -> None:
    """Where an output is gone, its track is there for the next one: nothing is paid for."""

    def rows(names: str) -> str:
        return "".join(f"same,{n if n == '-' else f'{n}.mp3'}\n" for n in names).replace("-", "")

    write(ft, f"prompt,output\n{rows(first)}", "p.csv")
    batch(ft, *flags, file="p.csv", check=0)
    batch(ft, file="p.csv", check=0)
    before = {name: (ft.cwd / name).read_bytes() for name in tracks(ft.cwd)}
    write(ft, f"prompt,output\n{rows(then)}", "p.csv")
    batch(ft, file="p.csv", check=0)
    assert {name: (ft.cwd / name).read_bytes() for name in before} == before
    assert len(ft.sandbox.posts()) == max(len(first), len(then))


def test_other_flags_make_nothing_again(ft: Runner) -> None:
    write(ft, "one\ntwo\n")
    batch(ft, check=0)
    result = batch(ft, "--bpm", "70", check=0)
    assert "note: 2 tracks made with other flags or settings: they stay so" in result.stderr
    assert len(ft.sandbox.posts()) == 2


def test_a_line_that_is_gone_is_named_with_its_download(ft: Runner) -> None:
    write(ft, "one forever\ntwo\n")
    batch(ft, "--no-wait", check=0)
    write(ft, "two\n")
    result = batch(ft, check=0)
    assert "note: 1 track in progress of lines that are gone\n" in result.stderr
    assert f"hint: ft download {ft.sandbox.book[0]} --wait\n" in result.stderr


def test_no_wait_only_submits(ft: Runner) -> None:
    write(ft, "one\ntwo\n")
    result = batch(ft, "--no-wait", check=0)
    assert result.stdout.count("Queued. id=") == 2
    assert result.stdout.endswith("Submitted 2 of 2 track(s)\n")
    assert tracks(ft.cwd) == []
    document = batch(ft, "--no-wait", "--json", check=0).json
    assert [item["path"] for item in document["data"]["generated"]] == [None, None]
    batch(ft, check=0)
    assert len(tracks(ft.cwd)) == 2 and len(ft.sandbox.posts()) == 2


def test_a_failed_line_is_reported_until_it_is_retried(ft: Runner) -> None:
    write(ft, "one\nplease fail\nreject this\n")
    result = batch(ft, check=1)
    why = "Generation failed: the prompt asked for it"
    assert f"warning: prompts.txt:2: {why}\n" in result.stderr
    assert (
        "warning: prompts.txt:3: The queue did not accept the generation (GENERATION_FAILED)"
        in (result.stderr)
    )
    assert "hint: `--retry-failed` submits failed lines again\n" in result.stderr
    assert result.stdout.endswith("Generated 1 of 3 track(s)\n")
    assert batch(ft, check=1).stderr.count("warning: ") == 2
    assert len(ft.sandbox.posts()) == 3
    batch(ft, "--retry-failed", check=1)
    assert [post.json["tags"] for post in ft.sandbox.posts()[3:]] == ["please fail", "reject this"]


def test_what_is_refused_is_failed(ft: Runner) -> None:
    write(ft, "one\ntwo\n")
    ft.sandbox.fault("status", status=400, method="POST")
    result = batch(ft, check=1)
    assert "warning: prompts.txt:1: Invalid request (VALIDATION_ERROR)" in result.stderr
    assert states(ft) == ["failed", "saved"]
    batch(ft, "--retry-failed", check=0)


def test_json(ft: Runner) -> None:
    write(ft, "one\nplease fail\n")
    result = batch(ft, "--json", check=1)
    data = result.json["data"]
    assert data["generated"] == [
        {"line": 1, "id": ft.sandbox.book[0], "path": str(ft.cwd / tracks(ft.cwd)[0])}
    ]
    why = "Generation failed: the prompt asked for it"
    assert data["errors"] == [{"line": 2, "id": ft.sandbox.book[1], "error": why}]


def test_quiet(ft: Runner) -> None:
    write(ft, "one\ntwo\n")
    result = batch(ft, "-q", "--no-wait", check=0)
    assert result.stdout.split() == ft.sandbox.book
    assert result.stderr == ""
    result = batch(ft, "-q", check=0)
    assert sorted(result.stdout.split()) == tracks(ft.cwd)
    assert result.stderr == ""
    assert len(ft.sandbox.posts()) == 2


# --- lost answers ---------------------------------------------------------------------------------


def test_a_lost_answer_is_found_by_the_seed(ft: Runner) -> None:
    """Even beside another track with the same prompt."""
    write(ft, "one\none\n")
    ft.sandbox.fault("lost", method="POST", times=2)
    result = batch(ft, check=0)
    assert result.stderr.count("note: the submission was accepted: its track is in the list\n") == 2
    assert len(ft.sandbox.posts()) == 2 == len(tracks(ft.cwd))


def test_an_answer_lost_by_an_earlier_run_is_found(ft: Runner) -> None:
    """Beyond the newest page."""
    write(ft, "one\ntwo\n")
    ft.sandbox.fault("lost", method="POST")
    lists = ft.sandbox.fault("close", path="/v1/generations", method="GET", times=9)
    result = batch(ft, "--no-wait", check=1, speed=60)
    assert lists.hits and states(ft) == ["sending", "submitted"]
    assert "warning: prompts.txt:1: " in result.stderr and "--retry-unknown" in result.stderr
    ft.sandbox.heal()
    for number in range(120):
        ft.sandbox.add_generation(prompt=f"another {number}")
    result = batch(ft, check=0)
    assert "note: prompts.txt:1: its track is in the list\n" in result.stderr
    assert len(ft.sandbox.posts()) == 2 == len(tracks(ft.cwd))


def test_what_is_not_in_the_list_is_submitted_only_when_asked_for(ft: Runner) -> None:
    """And only after two minutes, when the service will not accept it any more."""
    write(ft, "one\n")
    ft.sandbox.fault("close", method="POST")
    batch(ft, check=1, speed=60)
    assert states(ft) == ["sending"] and len(ft.sandbox.posts()) == 1
    result = batch(ft, check=1)
    assert "prompts.txt:1: its answer was lost; the submission may have been" in result.stderr
    assert len(ft.sandbox.posts()) == 1
    result = jumping_clock.run(ft, "batch", "prompts.txt", "--yes", "--retry-unknown", check=0)
    assert re.search(
        "note: the answer .* was lost a moment ago: waiting 1?[0-9]{2} s for it", result.stderr
    )
    assert max(jumping_clock.slept(ft)) <= 120
    assert len(ft.sandbox.posts()) == 2 and len(tracks(ft.cwd)) == 1


def test_of_two_sound_effects_neither_is_taken(ft: Runner) -> None:
    """They have no seed."""
    write(ft, "prompt,type\na door,sfx\n", "p.csv")
    ft.sandbox.fault("lost", method="POST")
    ft.sandbox.fault("close", path="/v1/sound-effects", method="GET", times=None)
    batch(ft, file="p.csv", check=1, speed=60)
    ft.sandbox.heal()
    ft("sfx", "generate", "a door", "--no-wait", check=0)
    result = batch(ft, "--retry-unknown", file="p.csv", check=1, speed=60)
    assert "any of these tracks may be it: " in result.stderr
    assert len(ft.sandbox.posts()) == 2


def test_a_sound_effect_made_later_by_hand_is_not_taken(ft: Runner) -> None:
    write(ft, "prompt,type\na door,sfx\n", "p.csv")
    ft.sandbox.fault("close", method="POST")
    batch(ft, file="p.csv", check=1, speed=60)
    path = ft.cwd / "p.csv.journal.jsonl"
    text = path.read_text()
    path.write_text(re.sub('"time": ([0-9.]+)', lambda m: f'"time": {float(m[1]) - 600}', text))
    ft("sfx", "generate", "a door", "--no-wait", check=0)
    assert "its answer was lost" in batch(ft, file="p.csv", check=1).stderr


def lose(ft: Runner, text: str, file: str = "p.csv", **how: Any) -> list[dict[str, Any]]:
    """Submit a file whose answers are all lost, and return the records that the service has."""
    write(ft, text, file)
    before = len(ft.sandbox.generations), len(ft.sandbox.sound_effects)
    ft.sandbox.fault("lost", method="POST", times=None)
    lists = "/v1/(generations|sound-effects)"
    ft.sandbox.fault("close", path=lists, method="GET", times=None)
    batch(ft, "--no-wait", file=file, speed=60, **how)
    ft.sandbox.heal()
    assert set(states(ft, file)) == {"sending"}
    path = ft.cwd / f"{file}.journal.jsonl"
    began = journal(ft, file)[1]["time"]  # the clock of the test jumps, but not the service's
    path.write_text(re.sub('"time": [0-9.]+', f'"time": {began}', path.read_text()))
    music, effects = ft.sandbox.generations.values(), ft.sandbox.sound_effects.values()
    return [*list(music)[before[0] :], *list(effects)[before[1] :]]


@pytest.mark.parametrize(
    "change",
    [
        {"createdAt": None},
        {"createdAt": "yesterday"},
        {"createdAt": "2020-01-01 00:00:00"},
        {"type": None},
        {"prompt": " one "},
        {"parameters": {"bpm": 1, "keyscale": "H", "timesignature": 4.0, "language": "xx"}},
        {"seed": str},
        {"seed": float},
    ],
    ids=str,
)
def test_its_seed_alone_tells_a_track(ft: Runner, change: dict[str, Any]) -> None:
    [record] = lose(ft, "prompt\none\n")
    seed, as_type = record["parameters"]["seed"], change.pop("seed", int)
    record.update(change)
    record["parameters"]["seed"] = as_type(seed)
    assert "its track is in the list" in batch(ft, file="p.csv", check=0).stderr
    assert len(ft.sandbox.posts()) == 1 == len(tracks(ft.cwd))


@pytest.mark.parametrize("parameters", [None, {}, {"seed": None}, {"seed": "random"}], ids=str)
@pytest.mark.parametrize("created", [-30, 0, None], ids=str)
def test_a_track_whose_seed_cannot_be_seen_is_not_paid_for_again(
    ft: Runner, parameters: Any, created: float | None
) -> None:
    [record] = lose(ft, "prompt\none\n")
    record["parameters"] = parameters
    record["createdAt"] = None if created is None else stamp(time.time() + created, rfc=False)
    result = batch(ft, "--retry-unknown", file="p.csv", check=1, speed=1000)
    assert f"any of these tracks may be it: {record['id']}" in result.stderr
    assert len(ft.sandbox.posts()) == 1


@pytest.mark.parametrize("row", ["same,7,", "a door,,sfx"])
@pytest.mark.parametrize("seconds", [-10, 10 + 124], ids=["before", "after"])
def test_a_time_that_is_a_little_off_does_not_prove_that_it_is_missing(
    ft: Runner, row: str, seconds: float
) -> None:
    """A seed that the user gave, or none, may be another track's as well."""
    [record] = lose(ft, f"prompt,seed,type\n{row}\n")
    sent = journal(ft, "p.csv")[1]["time"]
    record["createdAt"] = stamp(sent + seconds, rfc=False)
    result = batch(ft, "--retry-unknown", file="p.csv", speed=1000)
    assert len(ft.sandbox.posts()) == 1
    is_found = "7" in row and seconds > 0  # however late it is
    words = "its track is in the list" if is_found else "any of these tracks may be it: "
    assert words in result.stderr and result.code == (0 if is_found else 1)


@pytest.mark.parametrize("change", [{"prompt": "other"}, {"parameters": {"seed": 5}}, {"age": 300}])
def test_a_track_that_cannot_be_it_is_no_suspect(ft: Runner, change: dict[str, Any]) -> None:
    write(ft, "one\n")
    ft.sandbox.fault("close", method="POST")
    batch(ft, check=1, speed=60)
    ft.sandbox.add_generation(**{"prompt": "one", "parameters": None, **change})
    batch(ft, "--retry-unknown", check=0, speed=1000)
    assert len(ft.sandbox.posts()) == 2


@pytest.mark.parametrize("row", ["same,7,", "a door,,sfx"])
def test_equal_lines_get_as_many_tracks_in_their_order(ft: Runner, row: str) -> None:
    ids = [record["id"] for record in lose(ft, f"prompt,seed,type\n{row}\n{row}\n")]
    result = batch(ft, "--json", file="p.csv", check=0)
    assert [item["id"] for item in result.json["data"]["generated"]] == ids
    assert len(ft.sandbox.posts()) == 2


@pytest.mark.parametrize("row", ["one,", "a door,sfx"])
def test_without_a_date_the_time_is_that_of_this_machine(ft: Runner, row: str) -> None:
    """It proves nothing: without a seed of its own, a track is only named."""
    ft.sandbox.fault("header", name="Date", path="/v1/me", times=None)
    [record] = lose(ft, f"prompt,type\n{row}\n")
    entry = journal(ft, "p.csv")[1]
    assert entry["clock"] == "local" and abs(entry["time"] - time.time()) < 3600
    result = batch(ft, "--retry-unknown", file="p.csv", speed=1000)
    assert result.code == (1 if "sfx" in row else 0)
    assert ("its track is in the list" if result.code == 0 else record["id"]) in result.stderr
    assert len(ft.sandbox.posts()) == 1


def test_a_journal_without_the_time_means_the_whole_list(ft: Runner) -> None:
    lose(ft, "prompt\none\n")
    path = ft.cwd / "p.csv.journal.jsonl"
    path.write_text(re.sub('"time": [0-9.]+', '"time": null', path.read_text()))
    for number in range(120):
        ft.sandbox.add_generation(prompt=f"another {number}")
    batch(ft, file="p.csv", check=0)
    assert len(ft.sandbox.posts()) == 1


def test_three_unknowns_in_a_row_end_the_submitting(ft: Runner) -> None:
    write(ft, "one\ntwo\nthree\nfour\nfive\n")
    ft.sandbox.fault("close", method="POST", after=1, times=None)
    result = batch(ft, check=3, speed=100)
    assert len(ft.sandbox.posts()) == 4
    assert "warning: prompts.txt:5: not submitted: " in result.stderr
    assert len(tracks(ft.cwd)) == 1


# --- the pace -------------------------------------------------------------------------------------


@pytest.mark.sandbox(rate_limits=True, window=6, queue_limit=1000)
def test_the_rate_limit_is_waited_out(ft: Runner) -> None:
    write(ft, "".join(f"song {n}\n" for n in range(22)))
    batch(ft, speed=1, check=0)
    statuses = [post.status for post in ft.sandbox.posts()]
    assert statuses.count(202) == 22 and 1 <= statuses.count(429) <= 6
    assert [post.json["tags"] for post in ft.sandbox.posts() if post.status == 202] == [
        f"song {n}" for n in range(22)
    ]


@pytest.mark.sandbox(seconds=0.3, queue_limit=2)
def test_a_full_queue_is_waited_for_until_a_track_is_done(ft: Runner) -> None:
    """Not for the five seconds that the service asks for."""
    write(ft, "".join(f"song {n}\n" for n in range(7)))
    batch(ft, check=0)
    full = [post for post in ft.sandbox.posts() if post.status == 429]
    assert len(tracks(ft.cwd)) == 7 and 1 <= len(full) <= 3


@pytest.mark.sandbox(queue_limit=1)
def test_a_queue_full_of_others_is_waited_for(ft: Runner) -> None:
    ft("generate", "forever", "--no-wait", check=0)
    write(ft, "one\n")
    process = start(ft, check=0)
    ft.sandbox.wait_for(lambda request: request.status == 429)
    ft.sandbox.finish(ft.sandbox.book[0])
    process.finish()


def test_a_long_wait_ends_the_type(ft: Runner) -> None:
    """As the daily limit of sound effects does."""
    write(ft, "prompt,type\ndoor,sfx\none,\nbell,sfx\ntwo,\n", "p.csv")
    ft.sandbox.fault(
        "status", status=429, retry_after=40_000, path="/v1/sound-effects", method="POST"
    )
    result = batch(ft, file="p.csv", check=1)
    assert len(tracks(ft.cwd)) == 2 and len(ft.sandbox.posts()) == 3
    assert "warning: p.csv:2: not submitted: Too many requests" in result.stderr
    assert "warning: p.csv:4: not submitted: Too many requests" in result.stderr
    why = "no more lines of the type sfx are submitted; .*; retry after 40000 s\n"
    assert re.search(why, result.stderr)
    batch(ft, file="p.csv", check=0)


@pytest.mark.parametrize(("status", "code"), [(402, "MONTHLY_LIMIT_REACHED"), (403, "PRO_PLAN")])
def test_out_of_credits_ends_the_submitting_only(ft: Runner, status: int, code: str) -> None:
    write(ft, "one\ntwo\nthree\n")
    ft.sandbox.fault("status", status=status, method="POST", after=1, times=1)
    result = batch(ft, check=1)
    assert len(tracks(ft.cwd)) == 1 and len(ft.sandbox.posts()) == 2
    assert result.stderr.count(": not submitted: ") == 2
    assert re.search(rf"^error: .*{code}", result.stderr, re.MULTILINE)
    assert result.stdout.endswith("Generated 1 of 3 track(s)\n")
    batch(ft, check=0)
    assert len(tracks(ft.cwd)) == 3


def test_a_revoked_key_ends_everything(ft: Runner) -> None:
    write(ft, "one forever\ntwo\n")
    ft.sandbox.fault("status", status=401, method="POST", after=1)
    result = batch(ft, check=1)
    assert "error: Invalid API key (INVALID_API_KEY)" in result.stderr
    assert "warning: prompts.txt:1: in progress: Invalid API key" in result.stderr


@pytest.mark.sandbox(**ROOMY)
def test_tracks_in_flight_are_polled_together(ft: Runner) -> None:
    write(
        ft,
        "prompt,type\n" + "".join(f"song {n},{'sfx' if n % 9 == 0 else ''}\n" for n in range(60)),
        "p.csv",
    )
    batch(ft, file="p.csv", check=0)
    assert len(tracks(ft.cwd)) == 60
    assert reads(ft) <= 12


@pytest.mark.sandbox(rate_limits=True, window=2, queue_limit=1000, seconds=100)
def test_polling_stays_under_60_reads_a_minute(ft: Runner) -> None:
    """At 30 times the speed, two seconds are its minute."""
    write(ft, "prompt,type\none,\ntwo,sfx\n", "p.csv")
    process = start(ft, file="p.csv", speed=30)
    process.expect("in progress", timeout=30)
    process.send_signal(signal.SIGINT)
    process.finish()
    assert not [r for r in ft.sandbox.requests if r.method == "GET" and r.status == 429]


def test_a_track_that_the_list_does_not_show_is_asked_for(ft: Runner) -> None:
    write(ft, "one\n")
    batch(ft, "--no-wait", check=0)
    for number in range(250):
        ft.sandbox.add_generation(prompt=f"another {number}")
    batch(ft, check=0)
    assert len(tracks(ft.cwd)) == 1


UNLISTED = '{"data": {"generations": [], "hasMore": false}}'
RECORD = "/v1/generations/.+"


@pytest.mark.parametrize(
    "fault", [{"code": "NOT_FOUND"}, {"body": "html"}, {"code": "ROUTE_NOT_FOUND"}], ids=str
)
def test_a_track_that_is_unknown_for_a_moment_is_asked_for_again(
    ft: Runner, fault: dict[str, Any]
) -> None:
    write(ft, "one\n")
    ft.sandbox.fault("body", path="/v1/generations", method="GET", data=UNLISTED, times=3)
    ft.sandbox.fault("status", path=RECORD, method="GET", status=404, times=3, **fault)
    batch(ft, check=0)
    assert states(ft) == ["saved"] and len(ft.sandbox.posts()) == 1


def test_another_404_never_gives_a_track_up(ft: Runner) -> None:
    write(ft, "one\n")
    batch(ft, "--no-wait", check=0)
    ft.sandbox.fault("status", method="GET", path=f"{RECORD}|/v1/generations", status=404,
                     body="html", times=None)  # fmt: skip
    jumping_clock.run(ft, "batch", "prompts.txt", "--yes", check=1)
    assert states(ft) == ["submitted"]
    ft.sandbox.heal()
    batch(ft, check=0)


def test_a_track_that_stays_unknown_is_given_up_and_asked_for_once_more(ft: Runner) -> None:
    write(ft, "one\n")
    batch(ft, "--no-wait", check=0)
    identifier = ft.sandbox.book[0]
    ft.sandbox.finish(identifier)
    record = ft.sandbox.generations.pop(identifier)
    result = jumping_clock.run(ft, "batch", "prompts.txt", "--yes", check=1)
    why = f"warning: prompts.txt:1: the service does not know its track ID {identifier} any more\n"
    assert why in result.stderr and "`--retry-failed`" in result.stderr
    assert 60 <= sum(jumping_clock.slept(ft)) < 90 and states(ft) == ["gone"]
    assert why in batch(ft, check=1).stderr
    ft.sandbox.generations[identifier] = record
    batch(ft, "--retry-failed", check=0)
    assert len(ft.sandbox.posts()) == 1 == len(tracks(ft.cwd))


def test_a_track_that_is_still_unknown_is_made_again_when_asked_for(ft: Runner) -> None:
    write(ft, "one\n")
    batch(ft, "--no-wait", check=0)
    del ft.sandbox.generations[ft.sandbox.book[0]]
    jumping_clock.run(ft, "batch", "prompts.txt", "--yes", check=1)
    ft.sandbox.fault("status", path=RECORD, method="GET", status=404, body="html")
    batch(ft, "--retry-failed", check=1)
    assert len(ft.sandbox.posts()) == 1
    batch(ft, "--retry-failed", check=0)
    assert len(ft.sandbox.posts()) == 2 and states(ft) == ["saved"]


@pytest.mark.parametrize("is_deleted", [True, False])
def test_a_saved_track_stays_saved_whatever_the_service_says(ft: Runner, is_deleted: bool) -> None:
    write(ft, "prompt,output\none,a.mp3\n", "p.csv")
    batch(ft, file="p.csv", check=0)
    ft.sandbox.generations[ft.sandbox.book[0]]["status"] = "failed"
    if is_deleted:
        del ft.sandbox.generations[ft.sandbox.book[0]]
    write(ft, "prompt,output\none,b.mp3\n", "p.csv")
    before = journal(ft, "p.csv")
    result = jumping_clock.run(ft, "batch", "p.csv", "--yes", "--retry-failed", check=1)
    assert f"; it was saved to {ft.cwd / 'a.mp3'}\n" in result.stderr
    assert journal(ft, "p.csv") == before
    write(ft, "prompt,output\none,a.mp3\n", "p.csv")
    batch(ft, file="p.csv", check=0)


def test_a_track_gets_five_minutes(ft: Runner) -> None:
    write(ft, "one forever\ntwo\n")
    result = jumping_clock.run(ft, "batch", "prompts.txt", "--yes", check=1)
    assert "warning: prompts.txt:1: still processing, run the same command again later\n" in (
        result.stderr
    )
    assert 250 < sum(jumping_clock.slept(ft)) < 330
    ft.sandbox.finish(ft.sandbox.book[0])
    batch(ft, check=0)
    assert len(ft.sandbox.posts()) == 2 == len(tracks(ft.cwd))


# --- the network and the disk ---------------------------------------------------------------------


def test_a_service_that_is_away_for_a_while(ft: Runner) -> None:
    write(ft, "".join(f"song {n}\n" for n in range(4)))
    gate = ft.sandbox.hold("/v1/generations", method="POST", work=True)
    process = start(ft, "-v", check=0)
    assert gate.reached.wait(20)
    ft.sandbox.down()
    gate.release()
    process.expect("; trying again", timeout=30)
    ft.sandbox.up()
    process.finish()
    assert len(ft.sandbox.posts()) == 4 == len(tracks(ft.cwd))


def test_a_network_that_stays_away_is_exit_3(ft: Runner) -> None:
    write(ft, "one forever\ntwo\n")
    ft.sandbox.queue_limit = 1
    process = jumping_clock.start(
        ft, "batch", "prompts.txt", "--yes",
        changes=jumping_clock.JUMP.format(os.devnull).replace("ft.sleep = sleep", "ft.sleep = "
        "lambda seconds, real=time.sleep: (sleep(seconds), real(0.001))"), check=3,
    )  # fmt: skip
    ft.sandbox.wait_for(lambda request: request.status == 429)
    ft.sandbox.down()
    result = process.finish()
    assert re.search("^error: cannot connect to ", result.stderr, re.MULTILINE)
    ft.sandbox.up()
    ft.sandbox.finish(ft.sandbox.book[0])
    batch(ft, check=0)
    assert len([post for post in ft.sandbox.posts() if post.status == 202]) == 2


def test_a_network_that_was_never_there_sends_nothing(ft: Runner) -> None:
    write(ft, "one\n")
    ft.sandbox.down()
    jumping_clock.run(ft, "batch", "prompts.txt", "--yes", check=3)
    ft.sandbox.up()
    batch(ft, check=0)
    assert len(ft.sandbox.posts()) == 1


def test_a_download_that_fails_is_made_up_for(ft: Runner) -> None:
    write(ft, "one\ntwo\n")
    ft.sandbox.fault("status", status=404, origin="media")
    result = batch(ft, check=1)
    assert "HTTP 404" in result.stderr
    batch(ft, check=0)
    assert len(ft.sandbox.posts()) == 2 == len(tracks(ft.cwd))


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="needs a full device")
def test_a_journal_that_cannot_be_written(ft: Runner) -> None:
    """Before anything is sent."""
    write(ft, "one\n")
    assert "is not a regular file" in batch(ft, "--journal", "/dev/full", check=1).stderr
    assert "cannot open the journal" in batch(ft, "--journal", "no/such/j", check=1).stderr
    assert not ft.sandbox.posts()


@pytest.mark.skipif(sys.platform != "linux", reason="limits the size of files")
def test_a_disk_that_fills_up_loses_nothing(ft: Runner) -> None:
    """Once the journal cannot be written nothing more is submitted; what is in flight is saved."""
    write(ft, "".join(f"song {n}\n" for n in range(9)))
    limit = (
        "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1200, 1200))\nimport signal\n"
    )
    limit += "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
    result = jumping_clock.run(
        ft, "batch", "prompts.txt", "--yes", "--no-wait", changes=limit, check=1
    )
    assert "cannot write the journal" in result.stderr
    paid = len(ft.sandbox.book)
    assert 1 <= paid < 9
    batch(ft, check=0)
    assert len(ft.sandbox.book) == 9 == len(tracks(ft.cwd))


# --- the journal ----------------------------------------------------------------------------------


def test_it_is_written_before_the_submission_is_sent(ft: Runner) -> None:
    write(ft, "one\n")
    gate = ft.sandbox.hold("/v1/generations", method="POST")
    process = start(ft)
    assert gate.reached.wait(20)
    header, entry = journal(ft)
    assert header["baseUrl"] == ft.sandbox.api_url
    assert header["account"] == ft.sandbox.keys["pro"].id
    assert entry["state"] == "sending" and entry["body"]["tags"] == "one"
    assert 0 <= entry["body"]["seed"] < 2**31 and isinstance(entry["time"], float)
    gate.release()
    process.finish()
    assert [entry["state"] for entry in journal(ft)[1:]] == ["sending", "submitted", "saved"]
    assert Path(journal(ft)[-1]["path"]).is_absolute()
    assert ft.sandbox.key not in (ft.cwd / "prompts.txt.journal.jsonl").read_text()


@pytest.mark.parametrize("share", [0.05, 0.3, 0.6, 0.99])
@pytest.mark.parametrize("lines", [0, 1, 2, 3])
def test_a_torn_last_line_is_cut_off(ft: Runner, lines: int, share: float) -> None:
    """What had been written in part was not done yet: "sending" was not sent."""
    write(ft, "one\n")
    batch(ft, check=0)
    path = ft.cwd / "prompts.txt.journal.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    torn = whole[lines][: int(len(whole[lines]) * share)]
    path.write_bytes(b"".join([*whole[:lines], torn]))
    batch(ft, check=0, speed=60)
    assert path.read_bytes().count(b"\n") == len(journal(ft))  # every line is whole again
    assert len(ft.sandbox.posts()) == (1 if lines > 1 else 2)


@pytest.mark.parametrize("lines", [1, 2, 3, 4])
def test_a_last_line_without_its_line_feed_counts(ft: Runner, lines: int) -> None:
    """Some editors take it away."""
    write(ft, "one\n")
    batch(ft, check=0)
    path = ft.cwd / "prompts.txt.journal.jsonl"
    whole = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole[:lines]).rstrip(b"\n"))
    batch(ft, check=0)
    assert path.read_bytes().count(b"\n") == len(journal(ft)) - (lines == 4)
    assert len(ft.sandbox.posts()) == (1 if lines > 1 else 2)


def test_a_link_to_a_file_has_its_journal(ft: Runner) -> None:
    write(ft, "one\n")
    batch(ft, check=0)
    (ft.cwd / "elsewhere").mkdir()
    (ft.cwd / "elsewhere" / "link").symlink_to("../prompts.txt")
    batch(ft, file="elsewhere/link", check=0)
    assert len(ft.sandbox.posts()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced there")
@pytest.mark.parametrize(
    "replace",
    [
        lambda text: None,
        lambda text: "",
        lambda text: text,
        lambda text: text.rstrip("\n"),
        lambda text: text[: text.index("\n") + 1],
        lambda text: text[:-20],
    ],
    ids=["removed", "empty", "copied", "without its line feed", "first line", "torn"],
)
def test_a_journal_that_is_replaced_meanwhile_is_written_again(ft: Runner, replace: Any) -> None:
    write(ft, "one\ntwo\nthree\n")
    path = ft.cwd / "prompts.txt.journal.jsonl"
    gate = ft.sandbox.hold("/v1/generations", method="POST")
    process = start(ft, "--no-wait", check=0)
    assert gate.reached.wait(20)
    text = replace(path.read_text())
    path.unlink()
    if text is not None:
        path.write_text(text)
    gate.release()
    result = process.finish()
    assert result.stderr.count("warning: ") == 1 and " was removed or replaced " in result.stderr
    assert [entry.get("state") for entry in journal(ft)] == [None, *["sending", "submitted"] * 3]
    batch(ft, check=0)
    assert len(ft.sandbox.posts()) == 3


@pytest.mark.skipif(sys.platform == "win32", reason="an open file cannot be replaced there")
@pytest.mark.parametrize("what", ["another", "locked", "directory", "cut short"])
def test_a_journal_that_cannot_be_followed_ends_the_submitting(ft: Runner, what: str) -> None:
    write(ft, "one\ntwo\n")
    path = ft.cwd / "prompts.txt.journal.jsonl"
    gate = ft.sandbox.hold("/v1/generations", method="POST")
    process = start(ft, check=1)
    assert gate.reached.wait(20)
    text = path.read_text()
    if what == "cut short":
        os.truncate(path, 10)
    else:
        path.unlink()
    if what == "another":
        path.write_text(text.replace("sending", "unsent"))
    elif what == "directory":
        path.mkdir()
    with contextlib.ExitStack() as stack:
        if what == "locked":
            import fcntl

            fcntl.flock(stack.enter_context(path.open("w")), fcntl.LOCK_EX)
        gate.release()
        result = process.finish()
    assert re.search("^error: .*journal prompts.txt.journal.jsonl", result.stderr, re.MULTILINE)
    assert len(ft.sandbox.posts()) == 1 == len(tracks(ft.cwd))


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (2, b"nonsense"),
        (2, b"[]"),
        (2, b""),
        (2, b'{"line": "x", "state": "saved", "path": "y", "output": ""}'),
        (2, b'{"line": "x", "state": "dancing"}'),
        (2, b'{"line": "x", "state": "sending", "type": "music"}'),
        (3, b'{"line": 7, "state": "unsent"}'),
        (1, b'{"journal": 2}'),
        (1, b"a shopping list"),
        (1, b"\xff\xfe"),
        (2, b"[" * 100_000),
    ],
    ids=lambda value: str(value)[:40],
)
def test_damage_is_exit_2(ft: Runner, number: int, line: bytes) -> None:
    write(ft, "one\n")
    batch(ft, check=0)
    path = ft.cwd / "prompts.txt.journal.jsonl"
    lines = path.read_bytes().split(b"\n")
    lines[number - 1] = line
    path.write_bytes(b"\n".join(lines))
    result = batch(ft, check=2)
    assert f"error: prompts.txt.journal.jsonl:{number}: " in result.stderr
    assert path.read_bytes() == b"\n".join(lines)
    assert len(ft.sandbox.posts()) == 1


@pytest.mark.parametrize("text", ["a shopping list", "a shopping list\n", "{"])
def test_somebody_elses_file_is_left_alone(ft: Runner, text: str) -> None:
    write(ft, "one\n")
    other = write(ft, text, "list")
    result = batch(ft, "--journal", "list", check=0 if text == "{" else 2)
    assert text == "{" or (other.read_text() == text and "list:1: not a journal" in result.stderr)


def test_another_service_or_account_is_refused(ft: Runner) -> None:
    write(ft, "one\n")
    batch(ft, check=0)
    result = batch(ft, key=ft.sandbox.key_other, check=2)
    assert "is about another account" in result.stderr
    elsewhere = ft.sandbox.api_url.replace("127.0.0.1", "localhost")
    result = batch(ft, "--base-url", elsewhere, check=2)
    assert "is about another service: " in result.stderr
    assert len(ft.sandbox.posts()) == 1


def test_a_second_run_is_refused(ft: Runner) -> None:
    write(ft, "one\n")
    gate = ft.sandbox.hold("/v1/generations", method="POST")
    process = start(ft, check=0)
    assert gate.reached.wait(20)
    result = batch(ft, check=1)
    assert "another `ft batch` is using it" in result.stderr
    gate.release()
    process.finish()
    assert len(ft.sandbox.posts()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="flock")
def test_a_file_system_without_locks_is_refused(ft: Runner) -> None:
    write(ft, "one\n")
    changes = (
        "import errno, fcntl\n"
        "def flock(*_): raise OSError(errno.ENOLCK, 'No locks available')\n"
        "fcntl.flock = flock\n"
    )
    result = jumping_clock.run(ft, "batch", "prompts.txt", "--yes", changes=changes, check=1)
    assert "cannot lock the journal prompts.txt.journal.jsonl: No locks available" in result.stderr
    assert not ft.sandbox.requests


def test_an_account_without_an_id_has_no_journal(ft: Runner) -> None:
    write(ft, "one\n")
    for data in ('{"data": {}}', '{"data": {"id": 5}}'):
        ft.sandbox.fault("body", path="/v1/me", data=data)
        assert "unexpected reply from the service: no `id`" in batch(ft, check=3).stderr
    assert not ft.sandbox.posts() and not (ft.cwd / "prompts.txt.journal.jsonl").exists()


# --- signals and what is shown --------------------------------------------------------------------


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_says_how_to_go_on(ft: Runner) -> None:
    write(ft, "one forever\ntwo forever\n" + "".join(f"song {n}\n" for n in range(40)))
    ft.sandbox.queue_limit = 2
    process = start(ft, "--json")
    process.expect("note: 0 of 42 saved, 2 in progress, 40 to submit")
    process.send_signal(signal.SIGINT)
    result = process.finish()
    assert result.code == 130
    assert "note: 2 tracks in progress: paid for, and still made\n" in result.stderr
    assert "note: run the same command again to go on\n" in result.stderr
    assert "warning: prompts.txt:1: in progress: interrupted\n" in result.stderr
    assert "warning: prompts.txt: and 22 more lines\n" in result.stderr
    assert len(result.json["data"]["errors"]) == 42
    for identifier in ft.sandbox.book:
        ft.sandbox.finish(identifier)
    batch(ft, check=0)
    assert len(ft.sandbox.book) == 42 == len(tracks(ft.cwd))


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_ctrl_c_during_a_submission_takes_one_look(ft: Runner) -> None:
    write(ft, "one\n")
    gate = ft.sandbox.hold("/v1/generations", method="POST", work=True)
    process = start(ft)
    assert gate.reached.wait(20)
    process.send_signal(signal.SIGINT)
    result = process.finish()
    assert result.code == 130 and states(ft) == ["submitted"]
    assert "note: 1 track in progress" in result.stderr
    gate.release()
    batch(ft, check=0)
    assert len(ft.sandbox.posts()) == 1


@pytest.mark.skipif(sys.platform == "win32", reason="pipes")
def test_a_reader_of_stdout_that_goes_away(ft: Runner) -> None:
    write(ft, "one\ntwo\n")
    script = "trap '' PIPE; (sleep 0.5; ft batch prompts.txt --yes --no-wait) | true"
    result = ft.sh(script)
    assert "warning: prompts.txt:2: not submitted: nobody reads stdout any more\n" in result.stderr


@pytest.mark.sandbox(seconds=1, queue_limit=2)
def test_the_live_line(ft: Runner) -> None:
    write(ft, "".join(f"song {n}\n" for n in range(4)))
    process = ft.tty("batch", "prompts.txt", "--yes", speed=5, check=0)
    process.expect("0 of 4 saved, 2 in progress, 2 to submit")
    process.expect(re.compile(r"2 of 4 saved, \d in progress, \d to submit, \d+s left"))
    screen = process.finish().screen()
    assert screen[-1] == "Generated 4 of 4 track(s)" and len(screen) == 5


def test_off_a_terminal_there_is_a_line_a_minute(ft: Runner) -> None:
    write(ft, "one forever\n")
    result = jumping_clock.run(ft, "batch", "prompts.txt", "--yes", check=1)
    lines = [line for line in result.stderr.splitlines() if "in progress" in line]
    assert lines[0] == "note: 0 of 1 saved, 1 in progress, 0 to submit" and 3 <= len(lines) <= 5


def test_a_webhook_only_submits(ft: Runner) -> None:
    write(ft, "one\n")
    batch(ft, "--webhook", "https://example.com/x?secret", check=0)
    assert ft.sandbox.posts()[0].json["webhook"] == "https://example.com/x?secret"
    assert "secret" not in (ft.cwd / "prompts.txt.journal.jsonl").read_text()


def test_a_clamped_value_is_noted_with_its_line(ft: Runner) -> None:
    write(ft, "prompt,duration\none,500\n", "p.csv")
    result = batch(ft, file="p.csv", check=0)
    assert "note: p.csv:2: duration clamped from 500 → 210\n" in result.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="limits")
def test_where_no_thread_can_be_started(ft: Runner) -> None:
    write(ft, "one\ntwo\n")
    changes = (
        "import threading\n"
        "def start(self): raise RuntimeError('no threads')\n"
        "threading.Thread.start = start\n"
    )
    jumping_clock.run(ft, "batch", "prompts.txt", "--yes", changes=changes, check=0)
    assert len(tracks(ft.cwd)) == 2
