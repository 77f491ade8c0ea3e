"""The table of retries, cell by cell: which request is sent again after what, how often, and after
which wait.
"""

from __future__ import annotations

import json
import re
import time
from email.utils import formatdate
from typing import Any

import jumping_clock
import pytest
from conftest import Result, Runner

pytestmark = pytest.mark.source

ID = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
REQUESTS = {
    "GET": ("me",),
    "chunk": ("delete", "--yes", ID),
    "submission": ("generate", "--no-wait", "a song"),
}
GIVE_UP = 4  # attempts


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


# --- maybe sent -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["close", "lost", "reset", "short", "html"])
@pytest.mark.parametrize(
    ("request_", "requests", "says"),
    [
        ("GET", GIVE_UP, ""),
        ("chunk", 1, f"warning: {ID}: outcome unknown: "),
        ("submission", 1, "may have been accepted"),
    ],
)
def test_maybe_sent(ft: Runner, request_: str, requests: int, says: str, kind: str) -> None:
    """A GET is repeated, a chunk is stopped and reported, a submission is never sent again."""
    ft.sandbox.fault(kind, times=None)
    result = attempt(ft, request_, 3, requests)
    assert says in result.stderr
    assert len(ft.sandbox.posts()) == ft.sandbox.spent == 0 or request_ == "submission"


def test_maybe_sent_and_a_get_that_then_succeeds(ft: Runner) -> None:
    ft.sandbox.fault("close", times=3)
    attempt(ft, "GET", 0, GIVE_UP)


# --- 429 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", ["GET", "chunk"])
def test_429_waits_and_tries_again(ft: Runner, request_: str) -> None:
    ft.sandbox.fault("status", status=429, retry_after=3, times=3)
    result = attempt(ft, request_, 0, GIVE_UP)
    assert result.stderr.count("note: Too many requests (RATE_LIMITED); trying again in 3 s\n") == 3


@pytest.mark.parametrize("request_", ["GET", "chunk"])
def test_429_for_good(ft: Runner, request_: str) -> None:
    ft.sandbox.fault("status", status=429, retry_after=3, times=None)
    result = attempt(ft, request_, 1, GIVE_UP)
    assert "error: Too many requests (RATE_LIMITED)\n" in result.stderr
    assert re.search("^hint: .*retry after 3 s$", result.stderr, re.MULTILINE)


@pytest.mark.parametrize("code", ["GENERATION_RATE_LIMITED", "QUEUE_FULL"])
def test_429_of_a_submission_is_reported_with_the_wait(ft: Runner, code: str) -> None:
    ft.sandbox.fault(
        "status", status=429, code=code, message="Slow down", retry_after=7, times=None
    )
    result = attempt(ft, "submission", 1, 1)
    assert f"error: Slow down ({code})\n" in result.stderr
    assert re.search("^hint: .*retry after 7 s$", result.stderr, re.MULTILINE)
    assert "may have been" not in result.stderr


# --- 500, 502, 503, 504 ---------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504])
@pytest.mark.parametrize(
    ("request_", "requests"), [("GET", GIVE_UP), ("chunk", 1), ("submission", 1)]
)
def test_5xx(ft: Runner, request_: str, requests: int, status: int) -> None:
    ft.sandbox.fault("status", status=status, body="html" if status == 502 else "json", times=None)
    result = attempt(ft, request_, 1, requests)
    assert "error: HTTP 502 Bad Gateway" in result.stderr or "(INTERNAL_ERROR)" in result.stderr
    assert ("`ft list`" in result.stderr) == (request_ == "submission")
    assert (f"warning: {ID}: outcome unknown: " in result.stderr) == (request_ == "chunk")


def test_5xx_that_a_get_survives(ft: Runner) -> None:
    for status in (500, 502, 504):
        ft.sandbox.fault("status", status=status)
    attempt(ft, "GET", 0, GIVE_UP)


def test_a_submission_that_the_queue_refused_was_not_accepted(ft: Runner) -> None:
    """GENERATION_FAILED says so: the reference's advice is to try once more."""
    result = ft("generate", "--no-wait", "reject this", check=1)
    assert "(GENERATION_FAILED)" in result.stderr and "may have been" not in result.stderr
    assert len(ft.sandbox.posts()) == 1


def test_a_submission_that_a_gateway_lost_may_have_been_accepted(ft: Runner) -> None:
    ft.sandbox.fault("status", status=504, work=True)
    assert "it may have been accepted" in attempt(ft, "submission", 1, 1).stderr
    assert ft.sandbox.spent == 1


@pytest.mark.parametrize("status", [501, 505, 599])
def test_other_5xx_are_not_tried_again(ft: Runner, status: int) -> None:
    ft.sandbox.fault("status", status=status, times=None)
    attempt(ft, "GET", 1, 1)


# --- never for 400, 401, 402, 403, 404 ------------------------------------------------------------


@pytest.mark.parametrize("request_", REQUESTS)
@pytest.mark.parametrize("status", [400, 401, 402, 403, 404])
def test_4xx_are_never_tried_again(ft: Runner, request_: str, status: int) -> None:
    ft.sandbox.fault("status", status=status, retry_after=1, times=None)
    result = attempt(ft, request_, 2 if status == 400 else 1, 1)
    assert "trying again" not in result.stderr


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
    """In each of the three forms that HTTP knows, all UTC, wherever the client is."""
    date = time.strftime(date_form, time.gmtime(time.time() + 30))
    ft.sandbox.fault("status", status=429, retry_after=date)
    result, slept = waits(ft, "me", env={"TZ": "Asia/Tokyo"})
    assert result.code == 0 and len(slept) == 1 and 20 < slept[0] <= 30


PAST = "Sun, 06 Nov 1994 08:49:37 GMT"


def test_retry_after_a_date_that_is_past(ft: Runner) -> None:
    ft.sandbox.fault("status", status=429, retry_after=PAST)
    result, slept = waits(ft, "me")
    assert (result.code, slept) == (0, [])


@pytest.mark.parametrize("argv", [("me",), ("download", ID)], ids=["API", "media host"])
def test_a_date_that_is_past_leaves_the_waits_at_a_minute_in_all(
    ft: Runner, argv: tuple[str, ...]
) -> None:
    """The time since that date is not added to what later waits may take."""
    origin = "media" if "download" in argv else "api"
    ft.sandbox.fault("status", origin=origin, status=503, retry_after=PAST)
    ft.sandbox.fault("status", origin=origin, status=503, retry_after=61)
    result, slept = waits(ft, *argv, check=3 if origin == "media" else 1)
    assert slept == []
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
    result, slept = waits(ft, *argv, check=3 if origin == "media" else 1)
    assert slept == []
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
    "value", [61, 999999999, formatdate(4e9, usegmt=True), "Fri, 31 Dec 9999 23:59:59 GMT"]
)
@pytest.mark.parametrize("status", [429, 503])
def test_retry_after_that_is_longer_than_what_is_left_is_printed(
    ft: Runner, value: Any, status: int
) -> None:
    ft.sandbox.fault("status", status=status, retry_after=value, times=None)
    result, slept = waits(ft, "me", check=1)
    assert slept == [] and len(ft.sandbox.requests) == 1
    assert re.search(r"^hint: (.*; )?retry after [0-9]{2,12} s$", result.stderr, re.MULTILINE)


def test_a_minute_can_be_waited_for(ft: Runner) -> None:
    """The rate limits' own window."""
    ft.sandbox.fault("status", status=429, retry_after=60)
    _, slept = waits(ft, "me", check=0)
    assert sum(slept) == pytest.approx(60, abs=0.1)


def test_waits_add_up_to_a_minute_at_most(ft: Runner) -> None:
    ft.sandbox.fault("status", status=429, retry_after=40, times=None)
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
