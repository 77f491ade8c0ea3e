"""`ft playlists` and `ft playlist show|add|remove|move`: the reference's sections of these
names.
"""

from __future__ import annotations

import re

import pytest
from conftest import Runner
from library import DRAFTS, FOCUS, KNOWN_IDS, LOOSE
from sandbox import Sandbox

FOCUS_BEATS = "5ab3ec64-6225-4965-acac-49a053609225"
NIGHT_SHIFT = "b7c1f0de-8a52-4f0e-9d0b-2f5d0a9f6e11"  # public, somebody else's
PRIVATE_MATTERS = "c3d9a7b4-1e6f-4c2a-8f3e-7a6b5c4d3e2f"  # private, somebody else's
LOFI = KNOWN_IDS[LOOSE[11][0]]
IN_FOCUS = KNOWN_IDS[FOCUS[-2]], KNOWN_IDS[FOCUS[-1]]
IN_DRAFTS = KNOWN_IDS[DRAFTS[0]], KNOWN_IDS[DRAFTS[1]]
NOBODY = "00000000-0000-4000-8000-000000000000"


def playlist(sandbox: Sandbox, name: str) -> str:
    (found,) = [
        identifier for identifier, record in sandbox.playlists.items() if record["name"] == name
    ]
    return found


def contents(ft: Runner, name: str) -> list[str]:
    return ft.sandbox.contents[playlist(ft.sandbox, name)]


def batches(ft: Runner, end: str = "/tracks") -> list[list[str]]:
    return [r.json["trackIds"] for r in ft.sandbox.requests if r.path.endswith(end)]


@pytest.mark.parametrize("name", ["", "  "])
def test_an_empty_name_is_no_playlist(ft: Runner, name: str) -> None:
    """As of a variable that is not set, even if there is a playlist without a name."""
    ft.sandbox.add_playlist("", [LOFI])
    for argv in (("playlist", "remove", name, LOFI), ("download", "--playlist", name)):
        assert "error: the name of the playlist is empty\n" in ft(*argv, check=2).stderr
    assert not any(request.method == "POST" for request in ft.sandbox.requests)


def test_a_short_id_of_a_track_that_is_in_a_playlist_twice(ft: Runner) -> None:
    ft.sandbox.add_playlist("Twice", [LOFI, LOFI])
    ft("playlist", "remove", "Twice", LOFI[:8], check=0)
    assert batches(ft, "/bulk-remove") == [[LOFI]]


def test_the_case_of_an_id_does_not_make_two_of_it(ft: Runner) -> None:
    result = ft("playlist", "add", "Drafts", LOFI, LOFI.upper(), check=0)
    assert result.stdout == "Added 1 of 1 track(s)\n"
    assert batches(ft) == [[LOFI]]


# --- playlists ------------------------------------------------------------------------------------


@pytest.mark.sandbox(library=False)
def test_playlists_lists_them_as_the_reference_shows(ft: Runner) -> None:
    tracks = [ft.sandbox.add_generation(duration=180)["id"] for _ in range(14)]
    ft.sandbox.add_playlist("Focus Beats", tracks, id=FOCUS_BEATS, age=200)
    result = ft("playlists", check=0)
    assert result.stdout == (
        "ID                                    NAME         TRACKS  DURATION  VISIBILITY  UPDATED\n"
        "5ab3ec64-6225-4965-acac-49a053609225  Focus Beats      14  42m       private     3 min "
        "ago\n"
    )
    assert result.stderr == ""


def test_playlists_tells_public_ones_apart(ft: Runner) -> None:
    rows = {row[38:51].strip(): row for row in ft("playlists", check=0).stdout.splitlines()[1:]}
    assert rows.keys() >= {
        "Focus Beats",
        "Deep Work",
        "Drafts",
        "Album",
        "Open Studio",
        "chill",
        "Chill",
    }
    assert {name for name, row in rows.items() if " public " in row} == {"Open Studio"}


def test_playlists_json_is_the_raw_response(ft: Runner) -> None:
    document = ft("playlists", "--json", check=0).json
    assert document["data"]["playlists"] == [
        record
        for i, record in ft.sandbox.playlists.items()
        if i not in (NIGHT_SHIFT, PRIVATE_MATTERS)
    ]


@pytest.mark.sandbox(library=False)
def test_no_playlists_prints_nothing_on_stdout_and_one_helpful_line_on_stderr(ft: Runner) -> None:
    result = ft("playlists", check=0)
    assert result.stdout == ""
    assert re.fullmatch("note: .*finetuning.ai\n", result.stderr)


# --- which playlist -------------------------------------------------------------------------------


@pytest.mark.parametrize("given", ["Focus Beats", "focus beats", "FOCUS BEATS", FOCUS_BEATS])
def test_a_playlist_is_given_by_its_id_or_by_its_name_in_any_case(ft: Runner, given: str) -> None:
    assert ft("playlist", "show", given, "--json", check=0).json["data"]["id"] == FOCUS_BEATS


@pytest.mark.parametrize("given", ["Focus", "Focus Beats!", "FocusBeats", ""])
def test_only_the_whole_name_counts(ft: Runner, given: str) -> None:
    result = ft("playlist", "show", given, check=2)
    assert result.stderr.startswith("error: ")
    assert [r.path for r in ft.sandbox.requests] == ["/v1/playlists"]


def test_a_mistyped_name_gets_the_nearest_one_and_the_way_to_all(ft: Runner) -> None:
    result = ft("playlist", "show", "Focus Beatz", check=2)
    assert "Focus Beats" in result.stderr
    assert "ft playlists" in result.stderr


@pytest.mark.parametrize(
    ("name", "given"),
    [
        ("Caf\u00e9", "cafe\u0301"),
        ("Cafe\u0301", "CAF\u00c9"),
        ("J\u030cazz", "\u01f0azz"),
        ("\uac00", "\u1100\u1161"),
    ],
    ids=ascii,
)
def test_names_are_compared_in_one_form_of_unicode(ft: Runner, name: str, given: str) -> None:
    """macOS types an accent as a character of its own."""
    ft.sandbox.add_playlist(name, [LOFI])
    assert LOFI in ft("playlist", "show", given, check=0).stdout


def test_names_are_compared_in_any_script(ft: Runner) -> None:
    record = ft.sandbox.add_playlist("Straße 夜 ÀÉ")
    assert (
        ft("playlist", "show", "STRASSE 夜 àé", "--json", check=0).json["data"]["id"]
        == record["id"]
    )


@pytest.mark.parametrize("argv", [["show"], ["add"], ["remove"], ["move", "Drafts"]], ids=" ".join)
def test_two_playlists_of_one_name_are_an_error_that_lists_the_candidates(
    ft: Runner, argv: list[str]
) -> None:
    ids = [] if argv == ["show"] else [LOFI]
    result = ft("playlist", *argv, "CHILL", *ids, check=2)
    for name in ("chill", "Chill"):
        assert playlist(ft.sandbox, name) in result.stderr
    assert {r.method for r in ft.sandbox.requests} == {"GET"}


def test_a_uuid_is_an_id_and_not_looked_up(ft: Runner) -> None:
    ft("playlist", "show", FOCUS_BEATS, check=0)
    assert [r.path for r in ft.sandbox.requests] == [f"/v1/playlists/{FOCUS_BEATS}"]


def test_what_begins_with_pl_is_an_id_unless_it_is_a_name(ft: Runner) -> None:
    ft.sandbox.add_playlist("Old", id="pl_0123")
    assert ft("playlist", "show", "pl_0123", "--json", check=0).json["data"]["name"] == "Old"
    named = ft.sandbox.add_playlist("pl_0123")
    assert ft("playlist", "show", "pl_0123", "--json", check=0).json["data"]["id"] == named["id"]


def test_an_id_of_no_playlist_is_the_servers_404(ft: Runner) -> None:
    assert ft("playlist", "show", NOBODY, check=1).stderr.startswith(
        "error: Playlist not found (NOT_FOUND)\n"
    )


# --- show -----------------------------------------------------------------------------------------


def test_show_shows_a_playlist_and_every_track_in_it(ft: Runner) -> None:
    result = ft("playlist", "show", "Focus Beats", check=0)
    head, _, table = result.stdout.partition("\n\n")
    assert head.splitlines() == [
        f"ID          {FOCUS_BEATS}",
        "Name        Focus Beats",
        "Visibility  private",
        "Tracks      14",
        "Duration    42m",
        "Updated     3 min ago",
    ]
    header, *rows = table.splitlines()
    assert header.split() == ["ID", "STATUS", "DURATION", "PROMPT", "CREATED"]
    assert [row.split()[0] for row in rows] == contents(ft, "Focus Beats")
    assert rows[-1].split()[:3] == [IN_FOCUS[1], "completed", "3m"]
    assert rows[-1].endswith("lo-fi, chill, morning coffee              2 hours ago")


def test_show_works_on_other_users_public_playlists_by_id(ft: Runner) -> None:
    result = ft("playlist", "show", NIGHT_SHIFT, check=0)
    assert "Visibility  public" in result.stdout
    assert "midnight taxi, jazz noir" in result.stdout
    ft("playlist", "show", PRIVATE_MATTERS, check=1)
    ft("playlist", "show", "Night Shift", check=2)


def test_show_of_an_empty_playlist(ft: Runner) -> None:
    result = ft("playlist", "show", playlist(ft.sandbox, "Chill"), check=0)
    assert "Tracks      0\n" in result.stdout
    assert "STATUS" not in result.stdout


def test_show_has_the_description(ft: Runner) -> None:
    assert (
        "Description  No words, no surprises\n"
        in ft("playlist", "show", "Deep Work", check=0).stdout
    )


def test_show_json_has_the_tracks(ft: Runner) -> None:
    data = ft("playlist", "show", "Drafts", "--json", check=0).json["data"]
    assert [track["id"] for track in data["tracks"]] == contents(ft, "Drafts")
    assert data["isOwner"] is True
    assert data["coverUrl"] is None, "a field that ft knows nothing about"


# --- add, remove, move ----------------------------------------------------------------------------


def test_add_adds_tracks(ft: Runner) -> None:
    result = ft("playlist", "add", "Focus Beats", LOFI, IN_DRAFTS[0], check=0)
    assert (result.stdout, result.stderr) == ("Added 2 of 2 track(s)\n", "")
    assert contents(ft, "Focus Beats")[-2:] == [LOFI, IN_DRAFTS[0]]


def test_partial_success_is_a_warning_for_each_failure_one_line_and_exit_0(ft: Runner) -> None:
    result = ft(
        "playlist",
        "add",
        "Focus Beats",
        "1c474c27-e97d-4c35-bb98-e588d06c32f0",
        LOFI,
        IN_DRAFTS[0],
        check=0,
    )
    assert (
        result.stderr
        == "warning: 1c474c27-e97d-4c35-bb98-e588d06c32f0: Track already in playlist\n"
    )
    assert result.stdout == "Added 2 of 3 track(s)\n"


@pytest.mark.parametrize(
    ("argv", "line", "reason"),
    [
        (["add", "Focus Beats"], "Added 0 of 2 track(s)", "Track already in playlist"),
        (
            ["remove", "Album"],
            "Removed 0 of 2 track(s)",
            "Track not found in playlist or not authorized",
        ),
        (
            ["move", "Focus Beats", "Deep Work"],
            "Moved 0 of 2 track(s)",
            "Track already in playlist",
        ),
    ],
    ids=["ADD_FAILED", "removed", "MOVE_FAILED"],
)
def test_total_failure_reads_like_partial_failure_and_is_exit_1(
    ft: Runner, argv: list[str], line: str, reason: str
) -> None:
    for identifier in IN_FOCUS:
        if "Deep Work" in argv:
            contents(ft, "Deep Work").append(identifier)
    result = ft("playlist", *argv, *IN_FOCUS, check=1)
    assert result.stdout == line + "\n"
    assert result.stderr == "".join(f"warning: {identifier}: {reason}\n" for identifier in IN_FOCUS)


def test_remove_takes_tracks_out_and_they_stay_in_the_library(ft: Runner) -> None:
    result = ft("playlist", "remove", "Focus Beats", *IN_FOCUS, check=0)
    assert (result.stdout, result.stderr) == ("Removed 2 of 2 track(s)\n", "")
    assert not set(IN_FOCUS) & set(contents(ft, "Focus Beats"))
    assert set(IN_FOCUS) <= ft.sandbox.generations.keys()


def test_move_moves_tracks(ft: Runner) -> None:
    result = ft("playlist", "move", "Drafts", "Album", *IN_DRAFTS, check=0)
    assert (result.stdout, result.stderr) == ("Moved 2 of 2 track(s)\n", "")
    assert not set(IN_DRAFTS) & set(contents(ft, "Drafts"))
    assert contents(ft, "Album")[-2:] == list(IN_DRAFTS)


def test_what_cannot_be_added_to_the_target_stays_in_the_source(ft: Runner) -> None:
    first, second = contents(ft, "Deep Work")
    contents(ft, "Album").append(first)
    result = ft("playlist", "move", "Deep Work", "Album", first, second, check=0)
    assert result.stdout == "Moved 1 of 2 track(s)\n"
    assert result.stderr == f"warning: {first}: Track already in playlist\n"
    assert contents(ft, "Deep Work") == [first]


def test_a_failure_has_the_only_hint_even_beside_the_privacy_rule(ft: Runner) -> None:
    ft.sandbox.fault("status", status=401, method="POST", after=1)
    result = ft(
        "playlist", "add", "Open Studio", *IN_DRAFTS, *(f"id-{n}" for n in range(100)), check=1
    )
    assert "Cannot add private track to public playlist" in result.stderr
    assert re.findall("^hint: (.*)", result.stderr, re.MULTILINE) == [
        (
            "the key from FINETUNING_API_KEY may have been revoked: give another, or run `ft auth "
            "login`"
        )
    ]


@pytest.mark.parametrize("argv", [["add"], ["move", "Drafts"]], ids=" ".join)
def test_the_privacy_rule_gets_one_hint(ft: Runner, argv: list[str]) -> None:
    result = ft("playlist", *argv, "Open Studio", *IN_DRAFTS, check=1)
    reason = "Cannot add private track to public playlist"
    first, second, hint = result.stderr.splitlines()
    assert [first, second] == [f"warning: {identifier}: {reason}" for identifier in IN_DRAFTS]
    assert re.fullmatch("hint: make .*public at finetuning.ai first", hint)
    assert set(IN_DRAFTS) <= set(contents(ft, "Drafts"))


def test_a_public_playlist_takes_somebody_elses_public_track(ft: Runner) -> None:
    theirs = ft.sandbox.contents[NIGHT_SHIFT][0]
    assert ft("playlist", "add", "Open Studio", theirs, check=0).stdout == "Added 1 of 1 track(s)\n"


@pytest.mark.parametrize(
    ("target", "reason"),
    [(NOBODY, "Playlist not found"), (NIGHT_SHIFT, "Not authorized to modify this playlist")],
)
def test_a_playlist_that_is_not_yours_is_a_warning_for_each_track(
    ft: Runner, target: str, reason: str
) -> None:
    result = ft("playlist", "add", target, LOFI, check=1)
    assert result.stderr == f"warning: {LOFI}: {reason}\n"
    assert result.stdout == "Added 0 of 1 track(s)\n"


JSON_MODE = [
    (["add", "Focus Beats"], "added", "Track not found"),
    (["remove", "Drafts"], "removed", "Track not found in playlist or not authorized"),
    (["move", "Drafts", "Album"], "moved", "Track not found in playlist or not authorized"),
]


@pytest.mark.parametrize(
    ("argv", "done", "reason"), JSON_MODE, ids=[done for _, done, _ in JSON_MODE]
)
def test_json_separates_the_ids_that_landed_from_the_errors(
    ft: Runner, argv: list[str], done: str, reason: str
) -> None:
    result = ft("playlist", *argv, IN_DRAFTS[0], NOBODY, "--json", check=0)
    errors = [{"trackId": NOBODY, "error": reason}]
    assert result.json == {"data": {done: [IN_DRAFTS[0]], "errors": errors}}
    assert result.stderr == f"warning: {NOBODY}: {reason}\n"


@pytest.mark.parametrize(
    ("argv", "done", "reason"), JSON_MODE, ids=[done for _, done, _ in JSON_MODE]
)
def test_total_failure_has_the_same_document_and_exit_1(
    ft: Runner, argv: list[str], done: str, reason: str
) -> None:
    result = ft("playlist", *argv, NOBODY, "--json", check=1)
    assert result.json == {"data": {done: [], "errors": [{"trackId": NOBODY, "error": reason}]}}


@pytest.mark.parametrize(
    "argv", [["add", "Album"], ["remove", "Drafts"], ["move", "Drafts", "Album"]], ids=" ".join
)
def test_more_than_100_ids_are_sent_100_a_request_and_merged(ft: Runner, argv: list[str]) -> None:
    many = [ft.sandbox.add_generation()["id"] for _ in range(150)]
    if argv[0] != "add":
        contents(ft, "Drafts").extend(many)
    result = ft("playlist", *argv, *many, check=0)
    assert result.stdout.endswith(" 150 of 150 track(s)\n")
    end = {"add": "/tracks", "remove": "/tracks/bulk-remove", "move": "/tracks/move"}[argv[0]]
    assert batches(ft, end) == [many[:100], many[100:]]


def test_ids_are_sent_in_order_each_once_and_a_dash_reads_them_from_stdin(ft: Runner) -> None:
    ft(
        "playlist",
        "add",
        "Focus Beats",
        "-",
        LOFI,
        stdin=f"{IN_DRAFTS[1]}\n{IN_DRAFTS[0]}\n{LOFI}\n",
        check=0,
    )
    assert batches(ft) == [[IN_DRAFTS[1], IN_DRAFTS[0], LOFI]]


@pytest.mark.parametrize("target", ["DRAFTS", "by id"])
def test_moving_a_playlist_onto_itself_is_exit_2(ft: Runner, target: str) -> None:
    given = playlist(ft.sandbox, "Drafts").upper() if target == "by id" else target
    ft("playlist", "move", "Drafts", given, LOFI, check=2)
    assert batches(ft, "/move") == []


def test_the_target_of_a_move_is_sent_by_its_id(ft: Runner) -> None:
    ft("playlist", "move", "drafts", "album", IN_DRAFTS[0], check=0)
    (request,) = [r for r in ft.sandbox.requests if r.method == "POST"]
    assert request.path == f"/v1/playlists/{playlist(ft.sandbox, 'Drafts')}/tracks/move"
    assert request.json == {
        "trackIds": [IN_DRAFTS[0]],
        "targetPlaylistId": playlist(ft.sandbox, "Album"),
    }


@pytest.mark.parametrize(
    "argv",
    [
        ["show"],
        ["add"],
        ["add", "Drafts"],
        ["remove", "Drafts"],
        ["move", "Drafts"],
        ["move", "Drafts", "Album"],
    ],
    ids=" ".join,
)
def test_missing_arguments_are_exit_2(ft: Runner, argv: list[str]) -> None:
    assert "ft help playlist " + argv[0] in ft("playlist", *argv, check=2).stderr
    assert not ft.sandbox.requests
