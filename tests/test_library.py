"""`ft list`, `ft get`, `ft download` and `ft delete`: the reference's sections of these names."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner
from sandbox import KNOWN_IDS, LOOSE

LOFI = KNOWN_IDS[LOOSE[11][0]]  # "lofi chill piano, mellow, late night", completed
NOBODY = "00000000-0000-4000-8000-000000000000"
REASON = "Track not found or not owned by you"
POLLING = 15  # times faster, so that the first poll comes after a fifth of a second


def ids(ft: Runner, **fields: Any) -> list[str]:
    """Those of the library that have these fields, newest first."""
    mine = ft("list", "--json", "--limit", "99", check=0).json["data"]["generations"]
    return [g["id"] for g in mine if all(g[name] == value for name, value in fields.items())]


def deletions(ft: Runner) -> list[list[str]]:
    return [r.json["ids"] for r in ft.sandbox.requests if r.path == "/v1/generations/bulk-delete"]


def files(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir() if path.suffix in (".mp3", ".part"))


# --- list -----------------------------------------------------------------------------------------


def test_list_shows_the_20_most_recent_generations_as_a_table(ft: Runner) -> None:
    result = ft("list", check=0)
    (request,) = ft.sandbox.requests
    assert request.path == "/v1/generations"
    assert request.query == {"limit": "20"}
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["ID", "STATUS", "DURATION", "PROMPT", "CREATED"]
    newest = list(reversed(ft.sandbox.generations))[3:23]  # the last three are somebody else's
    assert [row.split()[0] for row in rows] == newest


def test_a_row_has_the_full_id_status_duration_prompt_and_age(ft: Runner) -> None:
    record = ft.sandbox.add_generation(
        prompt="dark trap,  two  spaces", duration=90.3, age=2 * 3600
    )
    assert ft("list", "--limit", "1", check=0).stdout.splitlines() == [
        (
            "ID                                    STATUS     DURATION  PROMPT                   "
            "CREATED"
        ),
        f"{record['id']}  completed  1m 30s    dark trap,  two  spaces  2 hours ago",
    ]


@pytest.mark.source
def test_limit_offset_and_status_are_sent(ft: Runner) -> None:
    ft("list", "--limit", "5", "--offset", "10", "--status", "completed", check=0)
    assert ft.sandbox.requests[0].query == {"limit": "5", "offset": "10", "status": "completed"}


@pytest.mark.source
@pytest.mark.parametrize("status", ["pending", "processing", "completed", "failed"])
def test_status_narrows_the_list(ft: Runner, status: str) -> None:
    rows = ft("list", "--status", status, check=0).stdout.splitlines()[1:]
    assert rows
    assert {row.split()[1] for row in rows} == {status}


@pytest.mark.source
def test_status_all_is_accepted_and_not_sent(ft: Runner) -> None:
    ft("list", "--status", "all", check=0)
    assert "status" not in ft.sandbox.requests[0].query


@pytest.mark.source
@pytest.mark.parametrize(
    "argv",
    [
        ["--limit", "100"],
        ["--limit", "0"],
        ["--limit", "-1"],
        ["--limit", "ten"],
        ["--limit"],
        ["--offset", "-1"],
        ["--offset", "1.5"],
        ["--status", "done"],
        ["--status", ""],
        ["extra"],
    ],
    ids=" ".join,
)
def test_a_bad_flag_is_exit_2_before_anything_is_sent(ft: Runner, argv: list[str]) -> None:
    assert ft("list", *argv, check=2).stderr.startswith("error: ")
    assert not ft.sandbox.requests


@pytest.mark.source
def test_limit_may_be_99(ft: Runner) -> None:
    ft("list", "--limit", "99", check=0)


def test_list_json_is_the_raw_response(ft: Runner) -> None:
    document = ft("list", "--json", "--limit", "3", check=0).json
    assert list(document["data"]) == ["generations", "hasMore", "nextOffset"]
    for record in document["data"]["generations"]:
        assert record == ft.sandbox.generations[record["id"]]
    assert document["data"]["hasMore"] is True


@pytest.mark.source
def test_more_pages_are_noted_with_the_next_offset(ft: Runner) -> None:
    result = ft("list", "--limit", "3", "--offset", "6", check=0)
    assert result.stderr.startswith("note: ")
    assert "--offset 9" in result.stderr
    assert ft("list", "--limit", "99", check=0).stderr == ""


@pytest.mark.sandbox(library=False)
@pytest.mark.source
@pytest.mark.parametrize("argv", [[], ["--status", "failed"]], ids=repr)
def test_an_empty_list_prints_nothing_on_stdout_and_one_helpful_line_on_stderr(
    ft: Runner, argv: list[str]
) -> None:
    result = ft("list", *argv, check=0)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert ft("list", *argv, "--json", check=0).json["data"]["generations"] == []


# --- get ------------------------------------------------------------------------------------------


def test_get_shows_one_generations_full_detail(ft: Runner) -> None:
    record = ft.sandbox.add_generation(
        prompt="dark trap, 808",
        fileSize=1_234_567,
        generationTime=17,
        isPublic=True,
        playCount=12,
        age=3 * 86400,
    )
    lines = ft("get", record["id"], check=0).stdout.splitlines()
    shown = dict(re.split(r"  +", line, maxsplit=1) for line in lines)
    assert shown["ID"] == record["id"]
    assert shown["Audio URL"] == record["audioUrl"]
    assert shown["File size"] == "1.2 MB"
    assert shown["Generation time"] == "17s"
    assert shown["Prompt"] == "dark trap, 808"
    assert shown["Status"] == "completed"
    assert shown["Duration"] == "1m"
    assert shown["Visibility"] == "public"
    assert shown["Plays"] == "12"
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC \(3 days ago\)", shown["Created"])
    assert "Error" not in shown


def test_get_of_a_failed_track_shows_its_error_message_and_is_exit_0(ft: Runner) -> None:
    record = ft.sandbox.add_generation(status="failed", errorMessage="The model  gave up")
    result = ft("get", record["id"], check=0)
    assert re.search("^Error +The model  gave up$", result.stdout, re.MULTILINE)


def test_get_json_is_the_raw_record(ft: Runner) -> None:
    assert ft("get", LOFI, "--json", check=0).json == {"data": ft.sandbox.generations[LOFI]}


@pytest.mark.source
@pytest.mark.parametrize("status", ["pending", "processing"])
def test_while_it_is_not_completed_audio_url_is_null(ft: Runner, status: str) -> None:
    record = ft.sandbox.add_generation(status=status)
    assert ft("get", record["id"], "--json", check=0).json["data"]["audioUrl"] is None
    assert "Audio URL" not in ft("get", record["id"], check=0).stdout


@pytest.mark.source
def test_an_id_that_is_not_found_is_exit_1(ft: Runner) -> None:
    result = ft("get", NOBODY, check=1)
    assert (
        result.stderr == "error: Generation not found (NOT_FOUND)\nhint: `ft list` shows your ids\n"
    )
    assert result.stdout == ""


@pytest.mark.source
@pytest.mark.parametrize("command", ["get", "download"])
def test_a_short_id_that_is_not_found_gets_a_hint(ft: Runner, command: str) -> None:
    error, hint = ft(command, LOFI[:8], check=1).stderr.splitlines()[-2:]
    assert error == "error: Generation not found (NOT_FOUND)"
    assert hint.startswith("hint: ")
    assert "36 characters" in hint
    assert "ft list" in hint


@pytest.mark.source
@pytest.mark.parametrize(
    ("argv", "bad"),
    [
        *(
            (["get"], bad)
            for bad in ["", " ", "a b", "a/b", "a\tb", "a\nb", "a\x7fb", "..", ".", "a\u00a0b"]
        ),
        (["download"], "../me"),
        (["delete", "--yes"], ""),
        (["playlist", "add", "Drafts"], "a b"),
        (["playlist", "remove", "Drafts"], "a\x1bb"),
        (["playlist", "move", "Drafts", "Album"], "a/b"),
    ],
    ids=repr,
)
def test_what_cannot_be_an_id_is_exit_2_before_anything_is_sent(
    ft: Runner, argv: list[str], bad: str
) -> None:
    ft(*argv, bad, check=2)
    assert not ft.sandbox.requests


@pytest.mark.source
def test_ids_are_passed_on_as_given_percent_encoded(ft: Runner) -> None:
    ft("get", "gen_é?a=b&c#d%2e", check=1)
    assert ft.sandbox.requests[0].target == "/v1/generations/gen_%C3%A9%3Fa%3Db%26c%23d%252e"
    record = ft.sandbox.add_generation(id="gen_01J0")
    assert ft("get", "gen_01J0", "--json", check=0).json["data"]["id"] == record["id"]


@pytest.mark.source
def test_a_key_given_for_an_id_is_not_sent_anywhere(ft: Runner) -> None:
    result = ft("get", ft.sandbox.key, check=2)
    assert ft.sandbox.key not in result.stderr
    assert not ft.sandbox.requests


# --- download -------------------------------------------------------------------------------------


def test_download_saves_the_track_under_its_default_name(ft: Runner, tmp_path: Path) -> None:
    result = ft("download", LOFI, check=0)
    assert result.stdout == f"Saved to lofi-chill-piano-{LOFI[:8]}.mp3\n"
    assert (tmp_path / f"lofi-chill-piano-{LOFI[:8]}.mp3").read_bytes() == ft.sandbox.track(LOFI)
    assert files(tmp_path) == [f"lofi-chill-piano-{LOFI[:8]}.mp3"]


@pytest.mark.parametrize("flag", ["-o", "--output"])
def test_output_names_the_file(ft: Runner, tmp_path: Path, flag: str) -> None:
    assert ft("download", LOFI, flag, "x y.mp3", check=0).stdout == "Saved to x y.mp3\n"
    assert (tmp_path / "x y.mp3").read_bytes() == ft.sandbox.track(LOFI)


def test_the_key_goes_to_the_api_and_not_to_the_media_host(ft: Runner) -> None:
    ft("download", LOFI, check=0)
    api, media = ft.sandbox.requests
    assert (api.origin, api.headers["X-API-Key"]) == ("api", ft.sandbox.key)
    assert media.origin == "media"
    assert ft.sandbox.key not in str(media.headers)
    assert ft.sandbox.key not in media.target


@pytest.mark.source
@pytest.mark.parametrize("status", ["pending", "processing"])
def test_a_track_that_is_not_completed_is_exit_1_and_says_its_status(
    ft: Runner, status: str
) -> None:
    record = ft.sandbox.add_generation(status=status)
    result = ft("download", record["id"], check=1)
    assert re.search(f"^error: .*{status}", result.stderr, re.MULTILINE)
    assert result.stdout == ""


@pytest.mark.source
def test_a_failed_track_is_its_error_message(ft: Runner) -> None:
    record = ft.sandbox.add_generation(status="failed", errorMessage="No such genre")
    assert ft("download", record["id"], check=1).stderr.endswith("error: No such genre\n")


def test_wait_polls_first(ft: Runner, tmp_path: Path) -> None:
    ft("generate", "dark trap", "--no-wait", check=0)
    (identifier,) = ft.sandbox.book
    ft("download", identifier, "--wait", "-o", "x.mp3", speed=POLLING, check=0)
    assert (tmp_path / "x.mp3").read_bytes() == ft.sandbox.track(identifier)


@pytest.mark.source
def test_a_record_without_audio_url_is_exit_3(ft: Runner) -> None:
    ft.sandbox.fault("record", path="/v1/generations/.*", audioUrl=None)
    ft("download", LOFI, check=3)


@pytest.mark.source
def test_a_target_that_is_no_file_is_refused_before_anything_is_sent(ft: Runner) -> None:
    assert ft("download", LOFI, "-o", "/dev/null", check=1).stderr.startswith(
        "error: cannot write /dev/null: "
    )
    assert not ft.sandbox.requests


def test_several_ids_are_downloaded_into_a_directory(ft: Runner, tmp_path: Path) -> None:
    wanted = ids(ft, status="completed")[:6]
    result = ft("download", *wanted, "-o", "tracks/", check=0)
    assert result.stdout.splitlines()[-1] == "Downloaded 6 of 6 track(s)"
    saved = {path.read_bytes() for path in (tmp_path / "tracks").iterdir()}
    assert saved == {ft.sandbox.track(identifier) for identifier in wanted}


@pytest.mark.source
def test_several_ids_report_partial_success(ft: Runner, tmp_path: Path) -> None:
    result = ft("download", LOFI, NOBODY, check=0)
    assert result.stderr.splitlines()[1:] == [
        f"warning: {NOBODY}: Generation not found (NOT_FOUND)",
        "hint: `ft list` shows your ids",
    ]
    assert result.stdout.splitlines()[-1] == "Downloaded 1 of 2 track(s)"
    assert len(files(tmp_path)) == 1
    assert (
        ft("download", NOBODY, NOBODY[:-1] + "1", check=1).stdout == "Downloaded 0 of 2 track(s)\n"
    )


@pytest.mark.source
def test_several_ids_and_one_file_is_exit_2(ft: Runner) -> None:
    ft("download", LOFI, NOBODY, "-o", "x.mp3", check=2)
    assert not ft.sandbox.requests


@pytest.mark.source
def test_two_tracks_of_one_name_have_two_files(ft: Runner, tmp_path: Path) -> None:
    pair = [ft.sandbox.add_generation(title="Same", prompt="same")["id"] for _ in range(2)]
    ft("download", *pair, check=0)
    assert files(tmp_path) == sorted(f"same-{identifier[:8]}.mp3" for identifier in pair)


# --- delete ---------------------------------------------------------------------------------------


def test_delete_asks_first_and_y_deletes(ft: Runner) -> None:
    process = ft.tty("delete", LOFI, columns=120, check=0)
    process.expect("Delete 1 track(s)? [y/N] ")
    assert deletions(ft) == []
    process.send("y\r")
    assert process.finish().screen(columns=120) == [
        "This permanently deletes the track from your library — everywhere, not just playlists.",
        "Delete 1 track(s)? [y/N] y",
        "Deleted 1 of 1 track(s)",
    ]
    assert LOFI not in ft.sandbox.generations


@pytest.mark.parametrize("answer", ["n\r", "\r", "nonsense\r", "\x04"], ids=repr)
@pytest.mark.source
def test_anything_but_yes_deletes_nothing_and_is_exit_0(ft: Runner, answer: str) -> None:
    process = ft.tty("delete", LOFI, stdout="pipe", check=0)
    process.expect("[y/N] ")
    process.send(answer)
    result = process.finish()
    assert result.piped == "Aborted.\n"
    assert not ft.sandbox.requests


@pytest.mark.source
def test_an_answer_that_is_no_text_deletes_nothing(ft: Runner) -> None:
    process = ft.tty("delete", LOFI, stdout="pipe", env={"PYTHONIOENCODING": "ascii"}, check=0)
    process.expect("[y/N] ")
    process.send("да\r")
    assert process.finish().piped == "Aborted.\n"
    assert not ft.sandbox.requests


@pytest.mark.source
def test_ctrl_c_at_the_question_deletes_nothing(ft: Runner) -> None:
    process = ft.tty("delete", LOFI, check=130)
    process.expect("[y/N] ")
    process.send("\x03")
    assert "Traceback" not in process.finish().stdout
    assert not ft.sandbox.requests


@pytest.mark.parametrize("flag", ["-y", "--yes"])
def test_yes_skips_the_question(ft: Runner, flag: str) -> None:
    result = ft("delete", LOFI, flag, check=0)
    assert (result.stdout, result.stderr) == ("Deleted 1 of 1 track(s)\n", "")
    assert deletions(ft) == [[LOFI]]


def test_without_a_terminal_yes_is_required(ft: Runner) -> None:
    result = ft("delete", LOFI, stdin="y\n", check=2)
    assert "--yes" in result.stderr
    assert not ft.sandbox.requests


def test_tracks_that_could_not_be_deleted_are_warnings_and_exit_0(ft: Runner) -> None:
    theirs = next(
        i for i, g in ft.sandbox.generations.items() if g["prompt"] == "somebody's secret demo"
    )
    result = ft("delete", "--yes", NOBODY, LOFI, theirs, check=0)
    assert result.stderr == f"warning: {NOBODY}: {REASON}\nwarning: {theirs}: {REASON}\n"
    assert result.stdout == "Deleted 1 of 3 track(s)\n"


def test_the_exit_code_is_non_zero_only_when_nothing_was_deleted(ft: Runner) -> None:
    result = ft("delete", "--yes", NOBODY, check=1)
    assert result.stdout == "Deleted 0 of 1 track(s)\n"
    assert result.stderr == f"warning: {NOBODY}: {REASON}\n"


def test_delete_json_is_the_merged_response(ft: Runner) -> None:
    result = ft("delete", "--yes", "--json", LOFI, NOBODY, check=0)
    assert result.json == {"data": {"deleted": [LOFI], "errors": [{"id": NOBODY, "error": REASON}]}}
    assert result.stderr == f"warning: {NOBODY}: {REASON}\n"


@pytest.mark.source
def test_delete_json_without_errors_has_none(ft: Runner) -> None:
    assert ft("delete", "--yes", "--json", LOFI, check=0).json == {"data": {"deleted": [LOFI]}}


@pytest.mark.source
def test_ids_are_sent_in_order_each_once(ft: Runner) -> None:
    first, second, third = ids(ft)[:3]
    ft("delete", "--yes", third, first, third, second, first, check=0)
    assert deletions(ft) == [[third, first, second]]


@pytest.mark.source
def test_a_dash_reads_ids_from_stdin_one_a_line(ft: Runner) -> None:
    first, second, third = ids(ft)[:3]
    result = ft("delete", "--yes", third, "-", stdin=f"{first}\r\n\n  {second}\n{third}", check=0)
    assert deletions(ft) == [[third, first, second]]
    assert result.stdout == "Deleted 3 of 3 track(s)\n"


@pytest.mark.source
@pytest.mark.parametrize("separator", "\x0b\x0c\r\x1c\x1d\x1e\x85\u2028\u2029", ids=ascii)
def test_a_line_of_ids_ends_at_a_line_feed_only(ft: Runner, separator: str) -> None:
    """Otherwise half an id might be another track's."""
    first, second = ids(ft)[:2]
    result = ft("delete", "--yes", "-", stdin=f"{first}{separator}{second}\n", check=2)
    assert result.stderr.startswith("error: not a usable id: ")
    assert deletions(ft) == []


@pytest.mark.source
@pytest.mark.parametrize("stdin", ["", "\n\n", "a b\n", "../x\n", b"\xff\xfe\n"], ids=repr)
def test_an_empty_stdin_or_one_with_other_things_is_exit_2(ft: Runner, stdin: str | bytes) -> None:
    assert ft("delete", "--yes", "-", stdin=stdin, check=2).stderr.startswith("error: ")
    assert not ft.sandbox.requests


@pytest.mark.source
def test_ids_on_stdin_need_yes(ft: Runner) -> None:
    assert "--yes" in ft("delete", "-", stdin=LOFI, check=2).stderr
    assert not ft.sandbox.requests


@pytest.mark.sandbox(library=False)
def test_more_than_100_ids_are_sent_100_a_request(ft: Runner) -> None:
    own = [ft.sandbox.add_generation()["id"] for _ in range(201)]
    result = ft("delete", "--yes", *own, check=0)
    assert deletions(ft) == [own[:100], own[100:200], own[200:]]
    assert result.stdout == "Deleted 201 of 201 track(s)\n"


@pytest.mark.sandbox(library=False)
@pytest.mark.source
def test_10000_ids_are_100_requests_and_each_id_is_reported_once(ft: Runner) -> None:
    own = [ft.sandbox.add_generation()["id"] for _ in range(9_990)]
    strange = [f"ffffffff-0000-4000-8000-{n:012}" for n in range(10)]
    everything = own[:5000] + strange + own[5000:]
    document = ft("delete", "--yes", "--json", "-", stdin="\n".join(everything), check=0).json
    assert len(ft.sandbox.requests) == 100
    assert [i for chunk in deletions(ft) for i in chunk] == everything
    assert document["data"]["deleted"] == own
    assert [error["id"] for error in document["data"]["errors"]] == strange


@pytest.mark.source
def test_an_id_that_the_answer_does_not_mention_is_reported(ft: Runner) -> None:
    ft.sandbox.fault(
        "body",
        data=json.dumps({"data": {"deleted": [LOFI], "freed": 1.10}}),
        type="application/json",
    )
    result = ft("delete", "--yes", "--json", LOFI, NOBODY, check=0)
    assert [error["id"] for error in result.json["data"]["errors"]] == [NOBODY]
    assert result.json["data"]["freed"] == 1.1, "a field that ft knows nothing about"


@pytest.mark.source
def test_a_broken_answer_to_a_chunk_is_exit_3_and_its_ids_are_of_unknown_outcome(
    ft: Runner,
) -> None:
    ft.sandbox.fault("body", data='{"data": {"deleted": "all"}}', type="application/json")
    result = ft("delete", "--yes", "--json", LOFI, check=3)
    assert [error["id"] for error in result.json["data"]["errors"]] == [LOFI]


@pytest.mark.source
def test_delete_without_ids_is_exit_2(ft: Runner) -> None:
    assert "<id>" in ft("delete", "--yes", check=2).stderr
    assert not ft.sandbox.requests
