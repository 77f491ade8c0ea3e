"""Ids: the first characters of one stand for it, as git's short hashes do."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
from conftest import Runner

ID = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
TWINS = ("abcdef00-0000-4000-8000-00000000000a", "abcdef00-0000-4000-8000-00000000000b")


def test_the_first_characters_are_enough(ft: Runner, here: Path) -> None:
    for short in ("07e8d4", "07E8D430", "07e8d430-...", "07e8d430-2310"):
        assert ft("get", short, "--json", check=0).json["data"]["id"] == ID
    ft("download", "07e8d4", "-o", "x.mp3", check=0)
    assert (here / "x.mp3").read_bytes() == ft.sandbox.track(ID)


def test_they_are_looked_for_to_the_last_page(ft: Runner) -> None:
    for n in range(250):
        ft.sandbox.add_generation(id=f"{n:08x}-0000-4000-8000-000000000000")
    result = ft("get", "000000f", "--json", check=2)
    assert "000000f begins 10 ids: 000000f" in result.stderr.replace("-0000", "", 0)
    assert ft("get", "000000f9", "--json", check=0).json["data"]["id"].startswith("000000f9-")
    assert "note: looking through the list" in ft("get", "000000f9", check=0).stderr


def test_what_begins_several_ids_is_exit_2_with_the_candidates(ft: Runner) -> None:
    for twin in TWINS:
        ft.sandbox.add_generation(id=twin)
    ft.sandbox.requests.clear()
    for argv in (["get"], ["download"], ["delete", "--yes"], ["playlist", "add", "Album"]):
        result = ft(*argv, "abcdef00", check=2)
        assert all(twin in result.stderr for twin in TWINS)
    assert not ft.sandbox.posts()


def test_what_begins_no_id_is_passed_on_as_it_is(ft: Runner) -> None:
    result = ft("get", "abcdef01", check=1)
    assert ft.sandbox.requests[-1].path == "/v1/generations/abcdef01"
    assert "an id has 36 characters, of which the first 6 will do" in result.stderr
    ft("get", "abcde", check=1)
    assert ft.sandbox.requests[-1].path == "/v1/generations/abcde"


def test_a_whole_id_turns_no_page(ft: Runner) -> None:
    ft("get", ID, check=0)
    assert [request.path for request in ft.sandbox.requests] == [f"/v1/generations/{ID}"]


def test_deleting_without_a_question_wants_eight_characters(ft: Runner) -> None:
    result = ft("delete", "--yes", "07e8d4", check=2)
    assert "07e8d4 is too short: 8 characters are needed here" in result.stderr
    assert ID in ft.sandbox.generations
    ft("delete", "--yes", "07e8d430", check=0)
    assert ID not in ft.sandbox.generations


def test_nothing_is_deleted_if_the_list_cannot_be_read_to_its_end(ft: Runner) -> None:
    for _ in range(150):
        ft.sandbox.add_generation()
    ft.sandbox.fault("status", status=500, path="/v1/generations", times=None, after=1)
    ft("delete", "--yes", "07e8d430", check=1, speed=50)
    assert not ft.sandbox.posts()


@pytest.mark.parametrize(
    ("count", "rest"), [(1, ""), (5, ""), (6, "and 1 more"), (7, "and 2 more")]
)
def test_delete_shows_what_it_is_about_to_delete(ft: Runner, count: int, rest: str) -> None:
    ids = [ft.sandbox.add_generation(prompt=f"song number {n}")["id"] for n in range(count)]
    process = ft.tty("delete", *ids, columns=100, check=0)
    process.expect(f"Delete {count} track(s)? [y/N] ")
    process.send("n\r")
    shown = process.finish().stdout
    assert re.findall("song number ([0-9])", shown) == list("01234"[:count])
    assert re.findall("and [0-9]+ more", shown) == [rest] * bool(rest)
    assert set(ids) <= ft.sandbox.generations.keys()


def test_in_a_playlist_they_are_looked_for_in_the_playlist(ft: Runner) -> None:
    track = ft.sandbox.add_generation(id=TWINS[0])["id"]
    ft.sandbox.add_generation(id=TWINS[1])
    ft.sandbox.add_playlist("Short", [track])
    ft("playlist", "move", "Short", "Album", "abcdef", check=0)
    ft("playlist", "remove", "Album", "abcdef", check=0)
    assert "Removed 1 of 1" in ft("playlist", "remove", "Focus Beats", "1c474c", check=0).stdout


def test_a_playlist_has_a_short_id_too_but_its_name_comes_first(ft: Runner) -> None:
    shown = ft("playlist", "show", "5ab3ec", "--json", check=0).json
    assert shown["data"]["name"] == "Focus Beats"
    ft.sandbox.add_playlist("5ab3ec")
    assert ft("playlist", "show", "5ab3ec", "--json", check=0).json["data"]["name"] == "5ab3ec"


def test_playlists_of_one_name_are_told_apart_by_their_tracks(ft: Runner) -> None:
    result = ft("playlist", "show", "chill", check=2)
    assert "(2 tracks)" in result.stderr and "(0 tracks)" in result.stderr


def test_a_narrow_terminal_shows_short_ids_before_it_loses_a_column(ft: Runner) -> None:
    wide = ft.tty("list", "-n", "3", columns=100, check=0).finish().stdout
    narrow = ft.tty("list", "-n", "3", columns=70, check=0).finish().stdout
    narrowest = ft.tty("list", "-n", "3", columns=40, check=0).finish().stdout
    assert "-..." not in wide and "left out" not in wide
    assert narrow.count("-...") == 3 and "CREATED" in narrow and "left out" not in narrow
    assert "left out, because the terminal is" in narrowest


@pytest.mark.parametrize(
    ("identifier", "sent"),
    [
        ("ünï", "%C3%BCn%C3%AF"),
        ("a?b#c", "a%3Fb%23c"),
        ("%2e%2e", "%252e%252e"),
        ("🎵&x=1;", "%F0%9F%8E%B5%26x%3D1%3B"),
    ],
)
def test_ids_are_percent_encoded(ft: Runner, identifier: str, sent: str) -> None:
    ft("get", identifier, check=1)
    assert [request.target for request in ft.sandbox.requests] == [f"/v1/generations/{sent}"]


@pytest.mark.parametrize(
    "identifier", ["a b", "a\tb", "a\x01b", "a/b", "..", ".", "", "a\u00a0b", "a\r\nb"]
)
def test_ids_that_no_path_can_hold(ft: Runner, identifier: str) -> None:
    ft("get", identifier, check=2)
    assert not ft.sandbox.requests


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are text there")
def test_bytes_that_are_not_text(ft: Runner) -> None:
    for argv in (("get", "\udcff"), ("generate", "a \udcff"), ("me", "--api-key", "\udcff")):
        assert "error: " in ft(*argv, check=2).stderr
    assert "error: " in ft("delete", "--yes", "-", stdin=b"\xff\xfe\n", check=2).stderr
    assert not ft.sandbox.requests
