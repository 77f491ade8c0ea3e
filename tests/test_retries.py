"""The table of retries, cell by cell: which request is sent again after what, how often, and after
which wait.
"""

from __future__ import annotations

import json
import re
import signal
import sys
import time
from email.utils import formatdate
from typing import Any

import jumping_clock
import pytest
from conftest import Result, Runner

ID = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
REQUESTS = {
    "GET": ("me",),
    "chunk": ("delete", "--yes", ID),
    "submission": ("generate", "--no-wait", "a song"),
}
GIVE_UP = 4  # attempts
PAST = "Sun, 06 Nov 1994 08:49:37 GMT"


def attempt(ft: Runner, request: str, code: int, requests: int, **how: Any) -> Result:
    result = jumping_clock.run(ft, *REQUESTS[request], **how)
    assert (result.code, len(ft.sandbox.requests)) == (code, requests), repr(result)
    return result


def waits(ft: Runner, *argv: str, random: float = 0.5, **how: Any) -> tuple[Result, list[float]]:
    """The result, and the seconds that ft wanted to sleep; its jitter draws `random` each time."""
    result = jumping_clock.run(ft, *argv, changes=f"random.random = lambda: {random}", **how)
    return result, jumping_clock.slept(ft)


# --- not sent -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("request_", "attempts"), [("GET", 4), ("chunk", 4), ("submission", 2)])
def test_not_sent(ft: Runner, request_: str, attempts: int) -> None:
    """Retried by all, once by a submission; nothing is said to be of unknown outcome."""
    ft.sandbox.down()
    result = jumping_clock.run(ft, "-v", *REQUESTS[request_], check=3)
    assert result.stderr.count("< not sent: ") == attempts
    assert "may have been" not in result.stderr and "unknown" not in result.stderr


@pytest.mark.parametrize("request_", REQUESTS)
def test_not_sent_at_first_and_then_well(ft: Runner, request_: str) -> None:
    ft.sandbox.down()
    process = jumping_clock.start(
        ft, "-v", *REQUESTS[request_], changes="random.random = lambda: 0.99", check=0
    )
    process.expect("< not sent: ")
    ft.sandbox.up()
    process.finish()
    assert len(ft.sandbox.requests) == 1


# --- 429 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", ["GET", "chunk"])
def test_429_waits_and_tries_again(ft: Runner, request_: str) -> None:
    ft.sandbox.fault("status", status=429, retry_after=3, times=3)
    result = attempt(ft, request_, 0, GIVE_UP)
    assert result.stderr.count("note: Too many requests (RATE_LIMITED); trying again in 3 s\n") == 3


@pytest.mark.parametrize("request_", ["GET", "chunk"])
def test_429_costs_no_attempt(ft: Runner, request_: str) -> None:
    ft.sandbox.fault("status", status=429, retry_after=20, times=12)
    attempt(ft, request_, 0, 13)


@pytest.mark.parametrize("request_", ["GET", "chunk"])
def test_five_minutes_of_nothing_but_429(ft: Runner, request_: str) -> None:
    """After 280 s another wait would go beyond them."""
    ft.sandbox.fault("status", status=429, retry_after=40, times=None)
    result = attempt(ft, request_, 1, 8)
    assert sum(jumping_clock.slept(ft)) == pytest.approx(280, abs=1)
    assert result.stderr.count("; trying again in 40 s\n") == 7
    assert "error: Too many requests (RATE_LIMITED)\n" in result.stderr
    assert re.search("^hint: .*retry after 40 s$", result.stderr, re.MULTILINE)


def test_another_answer_begins_the_five_minutes_anew(ft: Runner) -> None:
    for status in (429, 503, 429):
        ft.sandbox.fault("status", status=status, retry_after=50, times=1 if status == 503 else 5)
    attempt(ft, "GET", 0, 12)


@pytest.mark.parametrize("value", [0, "000", PAST])
@pytest.mark.parametrize("status", [429, 503])
def test_a_retry_after_of_nothing_counts_as_absent(ft: Runner, value: Any, status: int) -> None:
    """Four attempts within 2 ms would help nobody."""
    ft.sandbox.fault("status", status=status, retry_after=value, times=3)
    _, slept = waits(ft, "me", random=0.25, check=0)
    assert slept == pytest.approx([0.25, 0.5, 1], abs=0.1)


def test_a_retry_after_of_nothing_in_the_document(ft: Runner) -> None:
    error = {"error": {"code": "RATE_LIMITED", "message": "Too many", "retryAfter": 0}}
    ft.sandbox.fault("body", data=json.dumps(error), status=429)
    _, slept = waits(ft, "me", random=0.25, check=0)
    assert slept == pytest.approx([0.25], abs=0.1)


def test_a_date_within_the_second_is_a_second(ft: Runner) -> None:
    """Of an answer without a Date, by the clock of this machine."""
    date = formatdate(int(time.time()) + 1, usegmt=True)
    changes = f"random.random = lambda: 0.25\ntime.time = lambda: {int(time.time()) + 0.8}"
    head = f"HTTP/1.1 429 Slow\r\nRetry-After: {date}\r\nContent-Length: 0\r\n\r\n"
    ft.sandbox.fault("raw", data=head)
    jumping_clock.run(ft, "me", changes=changes, check=0)
    assert jumping_clock.slept(ft) == pytest.approx([1], abs=0.1)


@pytest.mark.parametrize("code", ["GENERATION_RATE_LIMITED", "QUEUE_FULL"])
def test_429_of_a_submission_is_reported_with_the_wait(ft: Runner, code: str) -> None:
    ft.sandbox.fault(
        "status", status=429, code=code, message="Slow down", retry_after=7, times=None
    )
    result = attempt(ft, "submission", 1, 1)
    assert f"error: Slow down ({code})\n" in result.stderr
    assert re.search("^hint: .*retry after 7 s$", result.stderr, re.MULTILINE)
    assert "may have been" not in result.stderr


# --- 5xx ------------------------------------------------------------------------------------------


def test_a_submission_that_the_queue_refused_was_not_accepted(ft: Runner) -> None:
    """GENERATION_FAILED says so: the reference's advice is to try once more."""
    result = ft("generate", "--no-wait", "reject this", check=1)
    assert "(GENERATION_FAILED)" in result.stderr and "may have been" not in result.stderr
    assert len(ft.sandbox.posts()) == 1


# --- Retry-After ----------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_in_seconds(ft: Runner, status: int) -> None:
    ft.sandbox.fault("status", status=status, retry_after=7)
    result, slept = waits(ft, "me")
    assert result.code == 0 and slept == pytest.approx([7], abs=0.1)
    assert "; trying again in 7 s\n" in result.stderr


@pytest.mark.parametrize(
    "date_form", ["%a, %d %b %Y %H:%M:%S GMT", "%A, %d-%b-%y %H:%M:%S GMT", "%a %b %d %H:%M:%S %Y"]
)
def test_retry_after_as_a_date(ft: Runner, date_form: str) -> None:
    """In each of the three forms that HTTP knows, all UTC, wherever the client is.

    It is as far away as the Date of the same answer says, because the client's clock may be wrong.
    """
    now, then = (time.strftime(date_form, time.gmtime(n)) for n in (2_245_838_402, 2_245_838_432))
    head = f"HTTP/1.1 429 Slow\r\nDate: {now}\r\nRetry-After: {then}\r\nContent-Length: 0\r\n\r\n"
    ft.sandbox.fault("raw", data=head)
    jumping_clock.run(ft, "me", env={"TZ": "Asia/Tokyo"}, check=0)
    assert jumping_clock.slept(ft) == pytest.approx([30], abs=0.1)


@pytest.mark.parametrize("argv", [("me",), ("download", ID)], ids=["API", "media host"])
def test_a_date_that_is_past_leaves_the_waits_at_a_minute_in_all(
    ft: Runner, argv: tuple[str, ...]
) -> None:
    """The time since that date is not added to what later waits may take."""
    origin = "media" if "download" in argv else "api"
    ft.sandbox.fault("status", origin=origin, status=503, retry_after=PAST)
    ft.sandbox.fault("status", origin=origin, status=503, retry_after=61)
    result, slept = waits(ft, *argv, check=3 if origin == "media" else 1)
    assert slept == pytest.approx([0.5], abs=0.1)  # no wait was asked for: the usual one
    assert sum(request.origin == origin for request in ft.sandbox.requests) == 2
    assert "retry after 61 s\n" in result.stderr


@pytest.mark.parametrize(
    "argv",
    [("me",), ("generate", "--no-wait", "a song"), ("download", ID)],
    ids=["API", "submission", "media host"],
)
def test_a_date_that_is_past_is_never_printed_as_a_time_below_zero(
    ft: Runner, argv: tuple[str, ...]
) -> None:
    origin = "media" if "download" in argv else "api"
    ft.sandbox.fault("status", origin=origin, status=429, retry_after=PAST, times=None)
    result, _ = waits(ft, *argv, check=3 if origin == "media" else 1)
    assert not re.search(r"-[0-9.]+ s\b", result.stderr), repr(result)


@pytest.mark.parametrize(
    "value",
    [
        "1_000",
        "\u00b2",
        "-1",
        "nan",
        "inf",
        "1e3",
        "0x10",
        "5.5",
        "5, 6",
        "",
        "soon",
        "9999999999",
        "Sun, 99 Foo 2094",
        "Fri, 31 Dec 9999 23:59:59 -9959",
        "+5",
        "Sun, 22 Nov 2026 13:00:00 +99999999999",
        "Wed, 21 Oct 2026 1.2.3.4 GMT",
    ],
)
def test_retry_after_that_is_neither_counts_as_absent(ft: Runner, value: str) -> None:
    ft.sandbox.fault("status", status=429, retry_after=value)
    result, slept = waits(ft, "me", random=0.25)
    assert result.code == 0 and slept == pytest.approx([0.25], abs=0.1)


def test_retry_after_in_the_document(ft: Runner) -> None:
    """`retryAfter` in the error; the header wins where there are both."""
    error = {"error": {"code": "RATE_LIMITED", "message": "Too many", "retryAfter": 9}}
    ft.sandbox.fault("body", data=json.dumps(error), status=429)
    _, slept = waits(ft, "me", check=0)
    assert slept == pytest.approx([9], abs=0.1)


@pytest.mark.parametrize(
    ("status", "value"),
    [
        (status, value)
        for status, least in ((429, 121), (503, 61))
        for value in (
            least,
            999999999,
            formatdate(4e9, usegmt=True),
            "Fri, 31 Dec 9999 23:59:59 GMT",
        )
    ],
)
def test_retry_after_that_is_longer_than_what_is_left_is_printed(
    ft: Runner, value: Any, status: int
) -> None:
    ft.sandbox.fault("status", status=status, retry_after=value, times=None)
    result, slept = waits(ft, "me", check=1)
    assert slept == [] and len(ft.sandbox.requests) == 1
    assert re.search(r"^hint: (.*; )?retry after [0-9]{2,12} s$", result.stderr, re.MULTILINE)


@pytest.mark.parametrize(("status", "longest"), [(429, 120), (503, 60)])
def test_the_longest_wait(ft: Runner, status: int, longest: int) -> None:
    """The rate limits' own window is a minute."""
    ft.sandbox.fault("status", status=status, retry_after=longest)
    _, slept = waits(ft, "me", check=0)
    assert sum(slept) == pytest.approx(longest, abs=0.1)


def test_waits_add_up_to_a_minute_at_most(ft: Runner) -> None:
    ft.sandbox.fault("status", status=503, retry_after=40, times=None)
    result, slept = waits(ft, "me", check=1)
    assert slept == pytest.approx([40], abs=0.1) and len(ft.sandbox.requests) == 2
    assert "retry after 40 s" in result.stderr


def test_the_minute_is_counted_for_each_call(ft: Runner) -> None:
    """A delete in three chunks, each of which has to wait for 40 s."""
    for after in range(3):
        ft.sandbox.fault("status", status=429, retry_after=40, after=after)
    result, slept = waits(ft, "delete", "--yes", ID, *(f"id-{n}" for n in range(250)), check=0)
    assert "Deleted 1 of 251 track(s)" in result.stdout
    assert slept == pytest.approx([40, 40, 40], abs=0.1)
    assert [request.status for request in ft.sandbox.requests] == [429, 200] * 3


# --- one gate for each limit ----------------------------------------------------------------------


@pytest.fixture
def tracks(ft: Runner) -> list[str]:
    """Return the ids of 60 tracks that no list page shows, so that each is asked for by itself."""
    nothing = json.dumps({"data": {"generations": [], "hasMore": False}})
    ft.sandbox.fault("body", path="/v1/generations", data=nothing, times=None)
    return [ft.sandbox.add_generation(prompt=f"song {n}", duration=5)["id"] for n in range(60)]


def saved(ft: Runner) -> int:
    return len(list((ft.home / "tracks").glob("*.mp3")))


@pytest.mark.sandbox(rate_limits=True, window=6.0)
def test_every_track_is_saved_whatever_the_rate_limit(ft: Runner, tracks: list[str]) -> None:
    """The minute, here of 6 s, was used up within half of it, so that slots become free one by one,
    and four threads compete for each.
    """
    ft.sandbox.use_up_limit(60, 3)
    ids = "\n".join(tracks)
    result = ft("download", "-", "-o", "tracks/", stdin=ids, speed=10, check=0)
    assert result.stdout.endswith("Downloaded 60 of 60 track(s)\n")
    assert saved(ft) == 60 and "warning:" not in result.stderr
    assert any(request.status == 429 for request in ft.sandbox.requests)


def test_one_note_a_wait_and_not_one_a_thread(ft: Runner, tracks: list[str]) -> None:
    """Up to four threads are refused at a time, until the first of them has closed the gate."""
    ft.sandbox.fault("status", status=429, retry_after=15, path="/v1/generations/.*", times=16)
    result = ft("download", *tracks[:8], "-o", "tracks/", speed=20, check=0)
    assert saved(ft) == 8
    refused = [request.time for request in ft.sandbox.requests if request.status == 429]
    assert len(refused) == 16
    waits = 1 + sum(later - earlier > 0.4 for earlier, later in zip(refused, refused[1:]))
    assert result.stderr.count("trying again in") == waits


def test_nobody_sends_before_the_gate_opens(ft: Runner, tracks: list[str]) -> None:
    """A wait that is too long for one is too long for all: at most four have asked."""
    ft.sandbox.fault("status", status=429, retry_after=600, path="/v1/generations/.*", times=None)
    result = ft("download", *tracks, "-o", "tracks/", check=1)
    assert sum(request.status == 429 for request in ft.sandbox.requests) <= 4
    assert result.stderr.count("warning: ") == 60
    assert result.stderr.endswith("retry after 600 s\n")


def test_five_minutes_of_nothing_but_429_end_the_command(ft: Runner, tracks: list[str]) -> None:
    ft.sandbox.fault("status", status=429, retry_after=100, path="/v1/generations/.*", times=None)
    ft("download", *tracks, "-o", "tracks/", speed=200, check=1)
    # After 0, 100 and 200 s.
    assert sum(request.status == 429 for request in ft.sandbox.requests) <= 4 * 3


def test_the_media_host_has_a_gate_of_its_own(ft: Runner, tracks: list[str]) -> None:
    ft.sandbox.fault("status", status=429, retry_after=10, origin="media", times=12)
    result = ft("download", *tracks, "-o", "tracks/", speed=200, check=0)
    assert saved(ft) == 60 and "note: HTTP 429 from " in result.stderr
    assert all(request.status == 200 for request in ft.sandbox.requests if request.origin == "api")


def test_the_media_host_for_five_minutes(ft: Runner, tracks: list[str]) -> None:
    ft.sandbox.fault("status", status=429, retry_after=100, origin="media", times=None)
    jumping_clock.run(ft, "download", tracks[0], "-o", "song.mp3", check=3)
    assert sum(jumping_clock.slept(ft)) == pytest.approx(200, abs=1)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("count", [1, 4])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_waiting(ft: Runner, tracks: list[str], number: int, count: int) -> None:
    ft.sandbox.fault("status", status=429, retry_after=100, times=None)
    process = ft.start("download", *tracks[:count], "-o", "tracks/", check=128 + number)
    process.expect("trying again in 100 s")
    process.send_signal(number)
    process.finish(timeout=10)
    assert saved(ft) == 0


def test_waiting_threads_do_not_draw(ft: Runner, tracks: list[str]) -> None:
    """Off a terminal there is a line a minute, of the progress, by the main thread alone."""
    ft.sandbox.fault("status", status=429, retry_after=70, path="/v1/generations/.*", times=4)
    result = ft("download", *tracks[:4], "-o", "tracks/", speed=50, check=0)
    lines = result.stderr.splitlines()[1:]  # "downloading 4 tracks"
    waiting = [line for line in lines if "trying again" not in line]
    waits = len(lines) - len(waiting)  # one, if all threads have asked before the first answer
    assert 1 <= len(waiting) <= 70 * waits // 60
    assert all(line.startswith("note: 0 of 4 files") for line in waiting), waiting


def test_a_wait_for_the_limit_is_no_late_answer(ft: Runner) -> None:
    """Another thread may be refused when an attempt has begun, but has not sent anything yet."""
    ft.sandbox.fault("status", status=429, retry_after=70)
    changes = "ft.Retries.start_attempt = lambda retries: None"
    jumping_clock.run(ft, "me", changes=changes, check=0)


# --- jitter ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("random", [0.0, 0.5, 0.999])
def test_full_jitter(ft: Runner, random: float) -> None:
    """random() times 1, 2, 4 seconds; a note for each wait over one."""
    ft.sandbox.fault("close", times=None)
    result, slept = waits(ft, "me", random=random, check=3)
    assert slept == pytest.approx([random * n for n in (1, 2, 4) if random], abs=0.1)
    assert result.stderr.count("; trying again in") == sum(random * n > 1 for n in (1, 2, 4))


def test_no_attempt_begins_after_a_minute(ft: Runner) -> None:
    """However long its attempts and waits took: here 31 s, then 62 s."""
    ft.sandbox.fault("close", times=None)
    jumping_clock.run(ft, "me", changes="ft.RETRY_TIME = 1e9\nrandom.random = lambda: 31", check=3)
    assert len(ft.sandbox.requests) == 3
