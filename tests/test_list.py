"""`ft list`: what is asked for, pages to the end, and what its table shows."""

from __future__ import annotations

import json
import time

import pytest
from conftest import Runner
from library import DRAFTS
from sandbox import Sandbox, stamp


def listed(ft: Runner, **fields: object) -> str:
    """Return the row of a generation with these fields."""
    ft.sandbox.add_generation(**fields)  # type: ignore[arg-type]
    return str(ft("list", "--limit", "1", check=0).stdout.splitlines()[1])


# --- what is asked for ----------------------------------------------------------------------------


def test_list_shows_the_20_most_recent_generations_as_a_table(ft: Runner) -> None:
    result = ft("list", check=0)
    (request,) = ft.sandbox.requests
    assert request.path == "/v1/generations"
    assert request.query == {"limit": "20"}
    header, *rows = result.stdout.splitlines()
    assert header.split() == ["ID", "STATUS", "DURATION", "PROMPT", "CREATED"]
    newest = list(reversed(ft.sandbox.generations))[3:23]  # the last three are somebody else's
    assert [row.split()[0] for row in rows] == newest


def test_limit_offset_and_status_are_sent(ft: Runner) -> None:
    ft("list", "--limit", "5", "--offset", "10", "--status", "completed", check=0)
    assert ft.sandbox.requests[0].query == {"limit": "5", "offset": "10", "status": "completed"}


@pytest.mark.parametrize("status", ["pending", "processing", "completed", "failed"])
def test_status_narrows_the_list(ft: Runner, status: str) -> None:
    rows = ft("list", "--status", status, check=0).stdout.splitlines()[1:]
    assert rows
    assert {row.split()[1] for row in rows} == {status}


def test_status_all_is_accepted_and_not_sent(ft: Runner) -> None:
    ft("list", "--status", "all", check=0)
    assert "status" not in ft.sandbox.requests[0].query


@pytest.mark.parametrize("kind", ["music", "instrumental"])
def test_type_chooses(ft: Runner, sandbox: Sandbox, kind: str) -> None:
    document = ft("list", "--type", kind, "--all", "--json", check=0).json
    assert document["data"]["generations"]
    assert {record["type"] for record in document["data"]["generations"]} == {kind}
    assert sandbox.requests[0].query["type"] == kind


def test_an_unknown_type_is_exit_2(ft: Runner, sandbox: Sandbox) -> None:
    assert (
        "invalid type 'podcast': choose one of music, instrumental"
        in ft("list", "--type", "podcast", check=2).stderr
    )
    assert sandbox.requests == []


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


def test_limit_may_be_99(ft: Runner) -> None:
    ft("list", "--limit", "99", check=0)


def test_list_json_is_the_raw_response(ft: Runner) -> None:
    document = ft("list", "--json", "--limit", "3", check=0).json
    assert list(document["data"]) == ["generations", "hasMore", "nextOffset"]
    for record in document["data"]["generations"]:
        assert record == ft.sandbox.generations[record["id"]]
    assert document["data"]["hasMore"] is True


@pytest.mark.sandbox(library=False)
@pytest.mark.parametrize("argv", [[], ["--status", "failed"]], ids=repr)
def test_an_empty_list_prints_nothing_on_stdout_and_one_helpful_line_on_stderr(
    ft: Runner, argv: list[str]
) -> None:
    result = ft("list", *argv, check=0)
    assert result.stdout == ""
    assert len(result.stderr.splitlines()) == 1
    assert ft("list", *argv, "--json", check=0).json["data"]["generations"] == []


# --- pages ----------------------------------------------------------------------------------------


def test_more_pages_are_noted_with_the_next_offset(ft: Runner) -> None:
    result = ft("list", "--limit", "3", "--offset", "6", check=0)
    assert result.stderr.startswith("note: ")
    assert "--offset 9" in result.stderr
    assert ft("list", "--limit", "99", check=0).stderr == ""


@pytest.mark.sandbox(library=False)
def test_all_follows_the_pages(ft: Runner, sandbox: Sandbox) -> None:
    """99 a request; one document, one table."""
    ids = [sandbox.add_generation(age=9000.0 - n)["id"] for n in range(250)]
    document = ft("list", "--all", "--json", check=0).json
    assert [record["id"] for record in document["data"]["generations"]] == ids[::-1]
    assert document["data"]["hasMore"] is False
    assert [request.query for request in sandbox.requests] == [
        {"limit": "99"},
        {"limit": "99", "offset": "99"},
        {"limit": "99", "offset": "198"},
    ]
    table = ft("list", "--all", "--offset", "240", check=0)
    assert len(table.stdout.splitlines()) == 11
    assert table.stderr == ""


@pytest.mark.parametrize("argv", [("list",), ("sfx", "list")])
def test_all_ends_when_the_pages_repeat_one_record(
    ft: Runner, sandbox: Sandbox, argv: tuple[str, ...]
) -> None:
    """Each page promises another one, further on, for ever."""
    name, path = (
        ("generations", "generations") if len(argv) == 1 else ("soundEffects", "sound-effects")
    )
    for offset in range(1, 50):
        data = {name: [{"id": "the one"}] * 3, "hasMore": True, "nextOffset": 99 * offset}
        sandbox.fault("body", path=f"/v1/{path}", data=json.dumps({"data": data}))
    document = ft(*argv, "--all", "--json", check=0).json
    assert {record["id"] for record in document["data"][name]} == {"the one"}
    assert len(sandbox.requests) == 2


@pytest.mark.sandbox(library=False)
def test_all_has_each_record_once_although_the_library_grows_meanwhile(
    ft: Runner, sandbox: Sandbox
) -> None:
    """New records push those of the first page into the second."""
    ids = [sandbox.add_generation(age=9000.0 - n)["id"] for n in range(150)]
    first = sandbox.fault("stall", path="/v1/generations", where="body")
    running = ft.start("list", "--all", "--json", check=0)
    assert first.reached.wait(20)
    for _ in range(3):
        sandbox.add_generation()
    first.release()
    assert [record["id"] for record in running.finish().json["data"]["generations"]] == ids[::-1]


# --- its table ------------------------------------------------------------------------------------


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


def test_columns_are_aligned_by_cells_not_characters(ft: Runner) -> None:
    lines = ft("playlist", "show", "Drafts", check=0).stdout.splitlines()
    rows = lines[lines.index("") + 1 :]
    wide = next(row for row in rows if "夏祭り" in row)
    plain = next(row for row in rows if DRAFTS[0] in row)
    assert plain.index("  20") - wide.index("  20") == sum(map(len, DRAFTS[2].split()))


TIMES = [
    (0, "just now"),
    (30, "just now"),
    (-300, "just now"),
    (70, "1 min ago"),
    (200, "3 min ago"),
    (3560, "59 min ago"),
    (3700, "1 hour ago"),
    (2.5 * 3600, "2 hours ago"),
    (25 * 3600, "1 day ago"),
    (5.5 * 86400, "5 days ago"),
    (29.5 * 86400, "29 days ago"),
]


@pytest.mark.parametrize(
    "rfc", [False, True], ids=["2025-01-15 10:30:00", "2025-01-15T10:30:17.623Z"]
)
def test_both_shapes_of_timestamps_are_shown_as_relative_times(ft: Runner, rfc: bool) -> None:
    for age, _ in TIMES:
        ft.sandbox.add_generation(createdAt=stamp(time.time() - age, rfc=rfc))
    rows = ft("list", "--limit", str(len(TIMES)), check=0).stdout.splitlines()[1:]
    assert [row.split("night  ")[1] for row in reversed(rows)] == [text for _, text in TIMES]


def test_from_30_days_on_it_is_the_date(ft: Runner) -> None:
    age = 30.5 * 86400
    before = time.time()
    row = listed(ft, age=age)
    days = {time.strftime("  %Y-%m-%d", time.gmtime(t - age)) for t in (before, time.time())}
    assert row[-12:] in days


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (58, "58s"),
        (180, "3m"),
        (90, "1m 30s"),
        (3900, "1h 5m"),
        (90.3, "1m 30s"),
        (59.9, "1m"),
        (7200, "2h"),
        (0, "0s"),
        (None, "-"),
    ],
)
def test_durations(ft: Runner, seconds: float | None, text: str) -> None:
    row = listed(ft, duration=seconds, prompt="dark trap")
    assert row.split("completed  ")[1].split("  dark trap")[0].rstrip() == text


def test_ordinary_text_of_any_script_stays_as_it_is(ft: Runner) -> None:
    prompt = "夜 집 é cafe\u0301 👩‍🎤 👨‍👩‍👧‍👦 नमस्ते עברית"
    assert prompt in listed(ft, prompt=prompt)
