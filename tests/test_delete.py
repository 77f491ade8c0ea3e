"""`ft delete`: the question, the ids and what is reported. Its chunks are in tests/test_bulk.py."""

from __future__ import annotations

import pytest
from commands import TRACK
from conftest import Runner

NOBODY = "00000000-0000-4000-8000-000000000000"
REASON = "Track not found or not owned by you"


def deletions(ft: Runner) -> list[list[str]]:
    return [r.json["ids"] for r in ft.sandbox.requests if r.path == "/v1/generations/bulk-delete"]


# --- the question ---------------------------------------------------------------------------------


def test_delete_asks_first_and_y_deletes(ft: Runner) -> None:
    process = ft.tty("delete", TRACK, columns=120, check=0)
    process.expect("Delete 1 track(s)? [y/N] ")
    assert deletions(ft) == []
    process.send("y\r")
    assert process.finish().screen(columns=120) == [
        "note: 07e8d430-...  lofi chill piano, mellow, late night",
        "This permanently deletes the track from your library — everywhere, not just playlists.",
        "Delete 1 track(s)? [y/N] y",
        "Deleted 1 of 1 track(s)",
    ]
    assert TRACK not in ft.sandbox.generations


@pytest.mark.parametrize("answer", ["n\r", "\r", "nonsense\r", "\x04"], ids=repr)
def test_anything_but_yes_deletes_nothing_and_is_exit_0(ft: Runner, answer: str) -> None:
    process = ft.tty("delete", TRACK, stdout="pipe", check=0)
    process.expect("[y/N] ")
    process.send(answer)
    result = process.finish()
    assert result.piped == "Aborted.\n"
    assert not ft.sandbox.posts()


def test_an_answer_that_is_no_text_deletes_nothing(ft: Runner) -> None:
    process = ft.tty("delete", TRACK, stdout="pipe", env={"PYTHONIOENCODING": "ascii"}, check=0)
    process.expect("[y/N] ")
    process.send("да\r")
    assert process.finish().piped == "Aborted.\n"
    assert not ft.sandbox.posts()


@pytest.mark.parametrize("flag", ["-y", "--yes"])
def test_yes_skips_the_question(ft: Runner, flag: str) -> None:
    result = ft("delete", TRACK, flag, check=0)
    assert (result.stdout, result.stderr) == ("Deleted 1 of 1 track(s)\n", "")
    assert deletions(ft) == [[TRACK]]


def test_ids_on_stdin_need_yes(ft: Runner) -> None:
    assert "--yes" in ft("delete", "-", stdin=TRACK, check=2).stderr
    assert not ft.sandbox.requests


# --- ids and results ------------------------------------------------------------------------------


def test_tracks_that_could_not_be_deleted_are_warnings_and_exit_0(ft: Runner) -> None:
    theirs = next(
        i for i, g in ft.sandbox.generations.items() if g["prompt"] == "somebody's secret demo"
    )
    result = ft("delete", "--yes", NOBODY, TRACK, theirs, check=0)
    assert result.stderr == f"warning: {NOBODY}: {REASON}\nwarning: {theirs}: {REASON}\n"
    assert result.stdout == "Deleted 1 of 3 track(s)\n"


def test_the_exit_code_is_non_zero_only_when_nothing_was_deleted(ft: Runner) -> None:
    result = ft("delete", "--yes", NOBODY, check=1)
    assert result.stdout == "Deleted 0 of 1 track(s)\n"
    assert result.stderr == f"warning: {NOBODY}: {REASON}\n"


def test_delete_json_is_the_merged_response(ft: Runner) -> None:
    result = ft("delete", "--yes", "--json", TRACK, NOBODY, check=0)
    assert result.json == {
        "data": {"deleted": [TRACK], "errors": [{"id": NOBODY, "error": REASON}]}
    }
    assert result.stderr == f"warning: {NOBODY}: {REASON}\n"


def test_a_dash_reads_ids_from_stdin_one_a_line_and_each_is_sent_once(ft: Runner) -> None:
    """In the order given, without the byte-order mark that PowerShell's pipes may begin with."""
    first, second, third = next(iter(ft.sandbox.contents.values()))[:3]
    stdin = f"\ufeff{first}\r\n\n  {second}\n{third}"
    result = ft("delete", "--yes", third, "-", first, "-", third, stdin=stdin, check=0)
    assert deletions(ft) == [[third, first, second]]
    assert result.stdout == "Deleted 3 of 3 track(s)\n"


@pytest.mark.parametrize("separator", "\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029", ids=ascii)
def test_a_line_of_ids_ends_at_a_line_feed_only(ft: Runner, separator: str) -> None:
    """Otherwise half an id might be another track's."""
    first, second = next(iter(ft.sandbox.contents.values()))[:2]
    result = ft("delete", "--yes", "-", stdin=f"{first}{separator}{second}\n", check=2)
    assert result.stderr.startswith("error: not a usable id: ")
    assert deletions(ft) == []


@pytest.mark.parametrize("broken", ["{}\n{}", "{} {}", "{}/{}"])
def test_a_key_in_place_of_an_id_is_not_shown(ft: Runner, broken: str) -> None:
    """Not even one that a terminal has broken in two."""
    key = ft.sandbox.key
    result = ft("get", broken.format(key[:20], key[20:]), check=2)
    assert result.stderr == "error: that is an API key, not an id\n"


@pytest.mark.parametrize("stdin", ["", "\n\n", "a b\n", "../x\n", b"\xff\xfe\n"], ids=repr)
def test_an_empty_stdin_or_one_with_other_things_is_exit_2(ft: Runner, stdin: str | bytes) -> None:
    assert ft("delete", "--yes", "-", stdin=stdin, check=2).stderr.startswith("error: ")
    assert not ft.sandbox.requests
