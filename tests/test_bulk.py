"""Bulk commands in chunks: each id is reported exactly once as done, failed, unknown or not
attempted.
"""

from __future__ import annotations

import collections
import json
import os
import re
import signal
import sys
from pathlib import Path
from typing import Any

import jumping_clock
import pytest
from conftest import Result, Runner

posix = pytest.mark.skipif(sys.platform == "win32", reason="about POSIX signals and devices")

PLAYLIST = "5ab3ec64-6225-4965-acac-49a053609225"  # Focus Beats
OTHER = "00000000-0000-4000-8000-00000000000f"
BULK = "/v1/generations/bulk-delete"


def library(ft: Runner, count: int) -> list[str]:
    """Ids of that many new tracks."""
    return [ft.sandbox.add_generation(prompt=f"track {n}")["id"] for n in range(count)]


def chunks(ft: Runner, name: str = "ids") -> list[list[str]]:
    return [request.json[name] for request in ft.sandbox.requests if request.method == "POST"]


def warnings(result: Result) -> dict[str, str]:
    """Reason by id; fails for an id that is warned of twice."""
    pairs = re.findall(r"^warning: (\S+): (.*)$", result.stderr, re.MULTILINE)
    assert all(count == 1 for count in collections.Counter(i for i, _ in pairs).values()), (
        result.stderr
    )
    return dict(pairs)


def parted(
    result: Result, ids: list[str], done: str = "deleted", name: str = "id"
) -> dict[str, str]:
    """Of a --json run: the reasons of the ids that failed. Each id is told of once, in order, on
    both streams.
    """
    data = result.json["data"]
    errors = {error[name]: error["error"] for error in data.get("errors", [])}
    assert len(errors) == len(data.get("errors", []))
    assert sorted([*data[done], *errors]) == sorted(ids)
    assert data[done] == [i for i in ids if i not in errors] and list(errors) == [
        i for i in ids if i in errors
    ]
    assert warnings(result) == errors
    return errors


# --- chunks ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("count", "sizes"), [(1, [1]), (100, [100]), (101, [100, 1]), (250, [100, 100, 50])]
)
def test_100_ids_a_request_in_order(ft: Runner, count: int, sizes: list[int]) -> None:
    ids = library(ft, count)
    result = ft("delete", "--yes", *ids, check=0)
    assert result.stdout == f"Deleted {count} of {count} track(s)\n" and result.stderr == ""
    assert [len(chunk) for chunk in chunks(ft)] == sizes
    assert [i for chunk in chunks(ft) for i in chunk] == ids


def test_each_id_is_sent_once(ft: Runner) -> None:
    ids = library(ft, 3)
    result = ft("delete", "--yes", "--json", *ids, *reversed(ids), check=0)
    assert chunks(ft) == [ids] and result.json == {"data": {"deleted": ids}}


def test_chunks_are_merged_in_the_order_given(ft: Runner) -> None:
    """Including the errors of all chunks, which the service reports each for itself."""
    ids = library(ft, 230)
    for n in (5, 105, 205):
        ids[n] = f"not-there-{n}"
    result = ft("delete", "--yes", "--json", *ids, check=0)
    assert list(parted(result, ids)) == ["not-there-5", "not-there-105", "not-there-205"]
    assert list(result.json["data"]) == ["deleted", "errors"]


def test_what_the_service_sends_besides_is_kept(ft: Runner) -> None:
    data = {
        "meta": 1,
        "data": {"took": 1.50, "deleted": ["a"], "errors": [{"id": "b", "error": "no", "code": 7}]},
    }
    ft.sandbox.fault("body", path=BULK, data=json.dumps(data))
    result = ft("delete", "--yes", "--json", "a", "b", check=0)
    assert result.json == data
    assert list(result.json) == ["meta", "data"] and list(result.json["data"]) == [
        "took",
        "deleted",
        "errors",
    ]


# --- partial success ------------------------------------------------------------------------------


def test_nothing_deleted_is_exit_1(ft: Runner) -> None:
    result = ft("delete", "--yes", "--json", "x", "y", check=1)
    assert set(parted(result, ["x", "y"]).values()) == {"Track not found or not owned by you"}


def test_add_failed_of_one_chunk_of_three(ft: Runner) -> None:
    ids = library(ft, 250)
    ft.sandbox.contents[PLAYLIST].extend(ids[100:200])
    result = ft("playlist", "add", PLAYLIST, "--json", *ids, check=0)
    errors = parted(result, ids, "added", "trackId")
    assert list(errors) == ids[100:200] and set(errors.values()) == {"Track already in playlist"}


@pytest.mark.parametrize(
    "details", [None, [], "odd", 7, {"max": 100}, [None, "x", 7], [{"error": "no id"}]]
)
def test_add_failed_without_its_items(ft: Runner, details: Any) -> None:
    """Whose message then is the reason for each."""
    error = {"error": {"code": "ADD_FAILED", "message": "Failed to add (all)", "details": details}}
    ft.sandbox.fault("body", method="POST", status=400, data=json.dumps(error))
    result = ft("playlist", "add", PLAYLIST, "a", "b", check=1)
    assert warnings(result) == dict.fromkeys("ab", "Failed to add (all)")
    assert result.stdout == "Added 0 of 2 track(s)\n"


# --- 429 ------------------------------------------------------------------------------------------


def test_429_between_chunks_waits_and_goes_on(ft: Runner) -> None:
    ids = library(ft, 250)
    ft.sandbox.fault("status", status=429, retry_after=58, after=1)
    result = jumping_clock.run(ft, "delete", "--yes", *ids, check=0)
    assert result.stdout == "Deleted 250 of 250 track(s)\n"
    assert result.stderr == "note: Too many requests (RATE_LIMITED); trying again in 58 s\n"
    assert [request.status for request in ft.sandbox.requests] == [200, 429, 200, 200]


@pytest.mark.sandbox(seconds=0.05, rate_limits=True, window=1.0)
def test_10_000_ids_survive_the_rate_limit_and_each_is_reported_once(ft: Runner) -> None:
    """100 requests, where the service takes 60 in its window."""
    own = library(ft, 100)
    strange = [f"id-{n}" for n in range(9900)]
    ids = strange[:5000] + own + strange[5000:]
    result = ft("delete", "--yes", "--json", "-", stdin="\n".join(ids), check=0)
    assert list(parted(result, ids)) == strange
    taken = [request for request in ft.sandbox.requests if request.status == 200]
    assert len(taken) == 100
    assert [i for request in taken for i in request.json["ids"]] == ids


# --- a chunk that fails for good ------------------------------------------------------------------

FAILURES: list[tuple[str, dict[str, Any], int, str]] = [
    ("close", {}, 3, "outcome unknown: no answer from "),
    ("lost", {}, 3, "outcome unknown: no answer from "),
    ("reset", {"where": "body"}, 3, "outcome unknown: the answer from "),
    ("short", {}, 3, "outcome unknown: the answer from "),
    ("html", {}, 3, "outcome unknown: unexpected reply"),
    ("redirect", {}, 3, "outcome unknown: refusing to follow"),
    ("status", {"status": 500}, 1, "outcome unknown: Internal server error"),
    ("status", {"status": 503, "body": "html"}, 1, "outcome unknown: HTTP 503"),
    ("status", {"status": 429, "retry_after": 999}, 1, "Too many requests"),
    ("status", {"status": 401}, 1, "Invalid API key"),
    ("status", {"status": 404}, 1, "Not found"),
    ("status", {"status": 400}, 2, "Invalid request"),
    ("body", {"data": '{"data": {"deleted": "yes"}}'}, 3, "outcome unknown: unexpected reply"),
    (
        "body",
        {"data": '{"data": {"deleted": [], "errors": 5}}'},
        3,
        "outcome unknown: unexpected reply",
    ),
    (
        "body",
        {"data": '{"data": {"deleted": [], "errors": ["x"]}}'},
        3,
        "outcome unknown: unexpected reply",
    ),
]


@pytest.mark.parametrize(("kind", "params", "code", "why"), FAILURES)
def test_a_chunk_that_fails_for_good(
    ft: Runner, kind: str, params: dict[str, Any], code: int, why: str
) -> None:
    """The second of three: done, failed or unknown, and not attempted; the exit code is the
    failure's.
    """
    ids = library(ft, 250)
    ids[3] = "not-mine"
    ft.sandbox.fault(kind, after=1, times=None, **params)
    result = jumping_clock.run(ft, "delete", "--yes", "--json", *ids, check=code)
    errors = parted(result, ids)
    assert list(errors) == ["not-mine", *ids[100:]]
    assert errors["not-mine"] == "Track not found or not owned by you"
    assert all(errors[i].startswith(why) for i in ids[100:200])
    assert {errors[i] for i in ids[200:]} == {"not attempted"}
    assert len(re.findall("^error: ", result.stderr, re.MULTILINE)) == 1
    assert len(ft.sandbox.requests) == 2  # the third was not sent, the second not repeated


def test_a_chunk_that_could_not_be_sent(ft: Runner) -> None:
    ids = library(ft, 250)
    gate = ft.sandbox.hold(BULK, work=True)
    process = ft.start("delete", "--yes", "--json", *ids, speed=20, check=3)
    assert gate.reached.wait(20)
    ft.sandbox.down()  # connections that are there go on
    gate.release()
    errors = parted(process.finish(), ids)
    assert list(errors) == ids[100:]
    assert all(errors[i].startswith("not attempted: cannot connect to ") for i in ids[100:200])
    assert {errors[i] for i in ids[200:]} == {"not attempted"}


def test_a_failure_in_words(ft: Runner) -> None:
    ids = library(ft, 102)
    ft.sandbox.fault("status", status=401, after=1)
    result = ft("delete", "--yes", *ids, check=1)
    assert result.stdout == "Deleted 100 of 102 track(s)\n"
    assert result.stderr.splitlines() == [
        *(f"warning: {i}: Invalid API key (INVALID_API_KEY)" for i in ids[100:]),
        "error: Invalid API key (INVALID_API_KEY)",
        (
            "hint: the key from FINETUNING_API_KEY may have been revoked: give another, or run `ft "
            "auth login`"
        ),
    ]


@pytest.mark.parametrize(
    "argv",
    [
        ("playlist", "add", PLAYLIST),
        ("playlist", "remove", PLAYLIST),
        ("playlist", "move", PLAYLIST, OTHER),
    ],
    ids=lambda argv: argv[1],
)
def test_the_playlist_commands_tell_the_same(ft: Runner, argv: tuple[str, ...]) -> None:
    done = {"add": "added", "remove": "removed", "move": "moved"}[argv[1]]
    ids = [f"id-{n}" for n in range(201)]
    answer = {
        "data": {done: ids[:99], "errors": [{"trackId": ids[99], "error": "Track not found"}]}
    }
    ft.sandbox.fault("body", method="POST", status=200, data=json.dumps(answer))
    ft.sandbox.fault("close", method="POST")
    errors = parted(ft(*argv, "--json", *ids, check=3), ids, done, "trackId")
    assert errors[ids[99]] == "Track not found" and errors[ids[200]] == "not attempted"
    assert {errors[i].partition(":")[0] for i in ids[100:200]} == {"outcome unknown"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_between_chunks(ft: Runner, number: int) -> None:
    """What was deleted is told all the same, and what may have been."""
    ids = library(ft, 250)
    ft.sandbox.fault("stall", path=BULK, after=1)
    process = ft.start("delete", "--yes", "--json", *ids, check=128 + number)
    ft.sandbox.wait_for(lambda request: len(ft.sandbox.requests) == 2)
    process.send_signal(number)
    errors = parted(process.finish(), ids)
    assert {errors[i] for i in ids[100:200]} == {"outcome unknown: interrupted"}
    assert list(errors) == ids[100:] and {errors[i] for i in ids[200:]} == {"not attempted"}


# --- answers that do not fit ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        {"deleted": ["a"]},
        {"deleted": ["a"], "errors": None},
        {"deleted": ["a"], "errors": []},
        {
            "deleted": ["a", "a", "zzz"],
            "errors": [{"id": "yyy", "error": "of another"}, {"error": "of none"}],
        },
        {"deleted": ["A", 7, None, {}], "errors": [{"id": 7, "error": 8}]},
        {"deleted": ["a"], "errors": [{"id": "a", "error": "both"}]},
    ],
)
def test_an_id_that_the_answer_does_not_mention(ft: Runner, data: Any) -> None:
    """`b` is unknown; ids that nobody asked about are not counted; `a` is told of once."""
    ft.sandbox.fault("body", path=BULK, data=json.dumps({"data": data}))
    result = ft("delete", "--yes", "--json", "a", "b", check=0)
    assert parted(result, ["a", "b"]) == {"b": "outcome unknown: not in the answer"}


def test_ids_are_compared_in_any_case(ft: Runner) -> None:
    (identifier,) = library(ft, 1)
    answer = {"data": {"deleted": [], "errors": [{"id": identifier, "error": "no"}]}}
    ft.sandbox.fault("body", path=BULK, data=json.dumps(answer))
    result = ft("delete", "--yes", identifier.upper(), check=1)
    assert list(warnings(result).values()) == ["no"]


@pytest.mark.parametrize("error", [None, 7, "", {"a": 1}, ["x"], True])
def test_a_reason_that_is_no_text(ft: Runner, error: Any) -> None:
    answer = {"data": {"deleted": [], "errors": [{"id": "a", "error": error}]}}
    ft.sandbox.fault("body", path=BULK, data=json.dumps(answer))
    assert len(warnings(ft("delete", "--yes", "a", check=1))) == 1


# --- what ends it ---------------------------------------------------------------------------------

BUG = """
bulk_delete = ft.Api.bulk_delete
def fail(self, ids):
    document = bulk_delete(self, ids)
    if len(ids) < 100:
        raise {}
    return document
ft.Api.bulk_delete = fail
"""


@pytest.mark.parametrize(
    "error",
    ["ZeroDivisionError", "MemoryError", "RecursionError", "KeyboardInterrupt", "SystemExit(7)"],
)
@pytest.mark.parametrize("flags", [[], ["--json"]], ids=["text", "json"])
def test_a_bug_does_not_cost_the_report(ft: Runner, flags: list[str], error: str) -> None:
    ids = library(ft, 130)
    changes = BUG.format(error)
    result = jumping_clock.run(ft, "delete", "--yes", *flags, *ids, changes=changes)
    assert result.code
    assert warnings(result) == dict.fromkeys(ids[100:], "outcome unknown: internal error")
    if flags:
        assert parted(result, ids) == warnings(result)
    else:
        assert result.stdout == "Deleted 100 of 130 track(s)\n"


def test_a_signal_while_it_reports_is_put_off_until_the_end(ft: Runner) -> None:
    ids = library(ft, 150)
    changes = (
        "import os, signal\n"
        "failed = ft.Tally.failed\n"
        "def interrupt(*arguments):\n"
        "    os.kill(os.getpid(), signal.SIGTERM)\n"
        "    failed(*arguments)\n"
        "ft.Tally.failed = interrupt\n"
    )
    strangers = [f"not-there-{n}" for n in range(20)]
    argv = ["delete", "--yes", "--json", *ids, *strangers]
    result = jumping_clock.run(ft, *argv, changes=changes, check=143)
    assert list(parted(result, [*ids, *strangers])) == strangers
    assert result.stderr.endswith("note: terminated\n")


SAVE = """
save_track = ft.save_track
def fail(context, record, *more):
    if record["prompt"] == "song 2":
        raise {}
    return save_track(context, record, *more)
ft.save_track = fail
"""


@pytest.mark.parametrize("error", ["ZeroDivisionError", "MemoryError", "SystemExit(7)"])
def test_a_bug_does_not_cost_a_download_of_several_its_report(
    ft: Runner, here: Path, error: str
) -> None:
    ids = [ft.sandbox.add_generation(prompt=f"song {n}")["id"] for n in range(6)]
    result = jumping_clock.run(ft, "download", *ids, changes=SAVE.format(error), timeout=30)
    assert result.code
    assert warnings(result) == {ids[2]: "internal error"}
    assert result.stdout.endswith("Downloaded 5 of 6 track(s)\n")
    assert len(list(here.iterdir())) == 5


@posix
def test_a_signal_does_not_cost_a_download_of_several_its_report(ft: Runner, here: Path) -> None:
    ids = [ft.sandbox.add_generation(prompt=f"song {n}")["id"] for n in range(8)]
    ft.sandbox.fault("stall", origin="media", where="body", at=5000, after=2, times=None)
    running = ft.start("download", *ids, check=143)
    running.stdout.expect("Saved to", 20)
    running.stdout.expect("Saved to", 20)
    running.send_signal(signal.SIGTERM)
    result = running.finish()
    assert set(warnings(result).values()) == {"interrupted"} and len(warnings(result)) == 6
    assert result.stdout.endswith("Downloaded 2 of 8 track(s)\n")
    assert len(list(here.iterdir())) == 2


@posix
def test_a_full_disk_does_not_cost_a_download_of_several_its_report(ft: Runner, here: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("has no /dev/full")
    ids = [str(ft.sandbox.add_generation(prompt=f"song {n}")["id"]) for n in range(6)]
    result = ft.sh(f"ft download {' '.join(ids)} >/dev/full", cwd=here, check=1)
    assert set(warnings(result).values()) == {"not downloaded"}
    assert "note: Downloaded 1 of 6 track(s)\n" in result.stderr
    assert "error: cannot write output: No space left on device\n" in result.stderr
    assert not [path for path in here.iterdir() if path.name.startswith(".")]


def test_the_budget_of_waits_is_that_of_a_chunk(ft: Runner) -> None:
    """Three chunks that each wait for 50 s; see tests/test_retries.py for the rest."""
    ids = library(ft, 250)
    for after in range(3):
        ft.sandbox.fault("status", status=429, retry_after=50, after=after)
    result = jumping_clock.run(ft, "delete", "--yes", *ids, check=0)
    assert result.stdout == "Deleted 250 of 250 track(s)\n"
