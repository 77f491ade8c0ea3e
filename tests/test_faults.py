"""Every fault of the service and the network, as one table: what becomes of each kind of call.

A new fault is a row of FAULTS, written as after `python3 tests/sandbox.py --fault`. Each meets a
read, a change, a submission, a poll and a download; it stays or, where a call is repeated, passes
before the last attempt. How long ft waits in between is in tests/test_retries.py, and what answers
may hold in tests/test_framing.py and tests/test_untrusted.py.
"""

from __future__ import annotations

import os
import sys
from typing import NamedTuple, Optional, Tuple

import faults
import jumping_clock
import pytest
from commands import TRACK
from conftest import Result, Runner

CALLS = {
    "read": ("me", "--json"),
    "change": ("delete", "--yes", TRACK),
    "submission": ("generate", "--no-wait", "a song"),
    "poll": ("generate", "a song", "-o", "song.mp3"),
    "download": ("download", TRACK, "-o", "song.mp3"),
}
POLL_TIMES = 3  # the fourth answer to a poll is a good one
OLD = b"what was there before"
End = Optional[Tuple[int, int]]


class Outcome(NamedTuple):
    """What becomes of each kind of call: its exit code and the number of requests, None if the
    fault does not exist there. `in_doubt`: ft says that a change or submission may have happened.
    """

    read: End
    change: End
    submission: End
    poll: End
    download: End
    in_doubt: bool = False


class Fault(NamedTuple):
    """A row: the fault, what becomes of the calls, the words of the error. `media` are those of a
    download if they differ. `changes` are made to ft's constants.
    """

    text: str
    outcome: Outcome
    words: str = ""
    media: str = ""
    changes: str = ""


# A poll that failed is followed by the next one; it has no attempts of its own.
FINE = Outcome((0, 1), (0, 1), (0, 1), (0, 1), (0, 1))
FINE_TRACK = Outcome(None, None, None, None, (0, 1))
JUST_NO_TRACK = FINE._replace(download=(3, 1))
NOT_SENT = Outcome((3, 0), (3, 0), (3, 0), (1, 0), (3, 0))
LOST = Outcome((3, 4), (3, 1), (3, 1), (0, 4), (3, 4), in_doubt=True)
LOST_JSON = LOST._replace(download=None)
NO_TRACK = LOST._replace(download=(3, 1))
DRIPS = LOST._replace(read=(3, 1))
DRIPS_JSON = DRIPS._replace(poll=None, download=None)
FINAL = LOST._replace(read=(3, 1), download=(3, 1))
REDIRECTED = FINAL._replace(download=(3, 6))
REFUSED = Outcome((1, 1), (1, 1), (1, 1), (1, 1), (3, 1))
REFUSED_INPUT = Outcome((2, 1), (2, 1), (2, 1), (2, 1), (3, 1))
LIMITED = Outcome((1, 4), (1, 4), (1, 1), (0, 4), (3, 4))
WAITS = LIMITED._replace(read=(1, 8), change=(1, 8), download=(3, 8))  # for 5 minutes
FAILING = Outcome((1, 4), (1, 1), (1, 1), (0, 4), (3, 4), in_doubt=True)
FAILED = FAILING._replace(read=(1, 1), download=(3, 1))

NO_ANSWER, BROKE_OFF = "no answer from {host}: ", "the answer from {host} broke off"
NO_LENGTH = "{host} does not say how long its answer is"
LATE = "it did not answer in time"
ODD = "unexpected reply from {host} (HTTP "
REFUSAL = "refusing to follow {host} to "
INTERNAL = "Internal server error (INTERNAL_ERROR)"
HEAD = r"HTTP/1.1 200 OK\r\nno header\r\nContent-Length: 50\r\n\r\n"
PARTIAL = "header,name=Content-Range,status=206,value="


def raw(status: int, outcome: Outcome, words: str) -> Fault:
    head = rf"HTTP/1.1 {status} Odd\r\nContent-Length: 0\r\n\r\n"
    return Fault(f"raw,data={head}", outcome, words, f"HTTP {status} from {{host}}")


def redirect(status: int, outcome: Outcome, media: str) -> Fault:
    return Fault(f"redirect,status={status},location={{media}}/x", outcome, REFUSAL, media)


def reply(status: int, outcome: Outcome, words: str, options: str = "", changes: str = "") -> Fault:
    text = f"status,status={status}{options}"
    return Fault(text, outcome, words, f"HTTP {status} from {{host}}", changes)


FAULTS = [
    # The connection (TLS: tests/test_tls.py).
    Fault("refuse", NOT_SENT, "cannot connect to {host}: Connection refused"),
    Fault("unreachable", NOT_SENT, LATE, changes="ft.CONNECT_TIMEOUT = 0.1"),
    Fault("hangup", LOST, NO_ANSWER),
    Fault("close", LOST, NO_ANSWER),
    Fault("lost", LOST, NO_ANSWER),
    Fault("reset", LOST, NO_ANSWER),
    Fault("close,where=headers", LOST, NO_ANSWER + "the headers broke off"),
    Fault("reset,where=headers", LOST, NO_ANSWER),
    Fault("reset,where=body,at=20", LOST, BROKE_OFF),
    Fault("short", LOST, BROKE_OFF),
    Fault("short,at=0", LOST, BROKE_OFF + ": 0 of "),
    Fault("short,at=1", LOST, BROKE_OFF + ": 1 of "),
    # Time. Where an answer drips, no receive is late, but the whole would take half a minute.
    Fault("delay,seconds=0.2", FINE),
    Fault("drip,size=10000,interval=0.001", FINE),
    Fault("drip,where=start,interval=0.1", DRIPS, LATE, changes="ft.CALL_TIMEOUT = 1.0"),
    Fault("drip,where=headers,interval=0.1", DRIPS_JSON, LATE, changes="ft.CALL_TIMEOUT = 1.0"),
    Fault("drip,where=body,interval=0.1", DRIPS_JSON, LATE, changes="ft.CALL_TIMEOUT = 1.0"),
    Fault("stall,where=start", LOST, LATE, changes="ft.READ_TIMEOUT = 0.5"),
    Fault("stall,where=headers", LOST, LATE, changes="ft.READ_TIMEOUT = 0.5"),
    Fault("stall,where=body", LOST, LATE, changes="ft.READ_TIMEOUT = 0.5"),
    # The headers. A line that is no header does not hide the length after it.
    Fault("garbage", LOST, NO_ANSWER),
    Fault("many-headers", LOST, NO_ANSWER + "too many headers"),
    Fault("long-header", LOST, NO_ANSWER + "a header is too long"),
    Fault("bad-header", FINE),
    Fault(f"raw,data={HEAD}", LOST, BROKE_OFF + ": 0 of 50"),
    Fault(f"raw,data={HEAD}{{", LOST, BROKE_OFF + ": 1 of 50"),
    Fault("header,name=Content-Type", FINE),
    Fault("header,name=Content-Type,value=application/octet-stream", FINE),
    Fault("header,name=Content-Encoding,value=identity", FINE),
    Fault("weak-etag", FINE_TRACK),
    Fault("no-etag", FINE_TRACK),
    # How the body is framed.
    Fault("chunked", FINE),
    Fault("chunked,at=0", LOST, BROKE_OFF),
    Fault("chunked,at=20", LOST, BROKE_OFF),
    Fault("chunked,at=20,boundary=false", LOST, BROKE_OFF + ": in the middle of a chunk"),
    Fault("no-length", FINE._replace(download=(3, 4)), media=NO_LENGTH),
    Fault("no-length,at=50", LOST, ODD, NO_LENGTH),
    Fault("two-lengths", LOST, NO_LENGTH),
    Fault("bad-length", LOST, NO_LENGTH),
    Fault("bad-length,value=+100", LOST, NO_LENGTH),
    Fault("bad-length,value=-1", LOST, NO_LENGTH),
    Fault("bad-length,value=1_0", LOST, NO_LENGTH),
    Fault("bad-length,value=\xd9\xa3", LOST, NO_LENGTH),  # Arabic digits
    Fault("bad-length,value=" + "9" * 30, LOST, NO_LENGTH),
    Fault("long", FINE),
    # What the body is.
    Fault("html", NO_TRACK, ODD, ODD + "200, text/html)"),
    Fault("text", NO_TRACK, ODD, ODD + "200, text/plain)"),
    Fault("gzip", NO_TRACK, ODD, "{host} sent an encoded track"),
    Fault("empty", NO_TRACK, ODD, "an empty track from {host}"),
    Fault("type", JUST_NO_TRACK, media=ODD + "200, text/html)"),
    Fault("body,data=<Error/>,type=application/xml", NO_TRACK, ODD),
    Fault("body,data={},type=application/json", FINAL, "no `data`", ODD + "200, application/json)"),
    Fault("not-utf8", LOST_JSON, ODD),
    Fault("bad-json", LOST_JSON, ODD),
    Fault("array", LOST_JSON, ODD),
    Fault("string", LOST_JSON, ODD),
    Fault("null", LOST_JSON, ODD),
    Fault("nan", LOST_JSON, ODD),
    Fault("infinity", LOST_JSON, ODD),
    Fault("big-integer", LOST_JSON, ODD),
    Fault("deep", LOST_JSON, ODD),
    Fault("huge", FINAL._replace(download=None), "the answer from {host} is too long"),
    # Statuses without a document.
    raw(204, NO_TRACK, ODD + "204, no type)"),
    raw(205, NO_TRACK, ODD + "205, no type)"),
    raw(206, NO_TRACK, ODD + "206, no type)"),
    raw(302, FINAL, REFUSAL + "nowhere (HTTP 302)"),
    raw(304, FINAL, REFUSAL + "nowhere (HTTP 304)"),
    Fault(r"raw,data=HTTP/1.1 101 Odd\r\n\r\n", LOST, NO_ANSWER),
    Fault(f"{PARTIAL}bytes 0-9/10", JUST_NO_TRACK, media="HTTP 206 from {host}"),
    Fault(PARTIAL, JUST_NO_TRACK, media="HTTP 206 from {host}"),
    # Redirects: the API is never followed through one.
    Fault("redirect", REDIRECTED, REFUSAL, "more than 5 redirects from {host}"),
    *(redirect(n, REDIRECTED, "more than 5 redirects") for n in (301, 302, 303, 307, 308)),
    *(redirect(n, FINAL, f"HTTP {n} from {{host}}") for n in (300, 304)),
    # 4xx and 5xx, whose body can itself be anything.
    reply(400, REFUSED_INPUT, "(VALIDATION_ERROR)", ",retry_after=1"),
    reply(401, REFUSED, "Invalid API key (INVALID_API_KEY)", ",retry_after=1"),
    reply(402, REFUSED, "(MONTHLY_LIMIT_REACHED)", ",retry_after=1"),
    reply(403, REFUSED, "(PRO_PLAN_REQUIRED)", ",retry_after=1"),
    reply(404, REFUSED, "Not found (NOT_FOUND)", ",retry_after=1"),
    reply(413, REFUSED, INTERNAL),
    reply(416, REFUSED, INTERNAL),
    *(
        reply(403, REFUSED, "HTTP 403 Forbidden\n", f",body={body}")
        for body in ("html", "empty", "huge", "truncated", "reset")
    ),
    reply(403, REFUSED, "HTTP 403 Forbidden\n", ",body=stalled", "ft.READ_TIMEOUT = 1.0"),
    reply(404, REFUSED, "HTTP 404 Not Found\n", ",body=html"),
    reply(429, LIMITED, "Too many requests (RATE_LIMITED)"),
    reply(429, LIMITED, "HTTP 429 Too Many Requests", ",body=html"),
    reply(429, WAITS, "(RATE_LIMITED)", ",retry_after=40"),
    reply(429, REFUSED, "(RATE_LIMITED)", ",retry_after=600"),
    *(reply(n, FAILING, INTERNAL) for n in (500, 502, 503, 504, 520, 521, 522, 523, 524)),
    reply(502, FAILING, "HTTP 502 Bad Gateway", ",body=html"),
    reply(503, FAILING, "HTTP 503 Service Unavailable", ",body=empty"),
    reply(503, FAILING, INTERNAL, ",retry_after=7"),
    reply(503, FAILED._replace(poll=(1, 1)), INTERNAL, ",retry_after=600"),
    reply(504, FAILING, "HTTP 504 Gateway Timeout", ",body=truncated"),
    reply(504, FAILING, INTERNAL, ",work=true"),
    *(reply(n, FAILED, INTERNAL) for n in (501, 505, 519, 525, 599)),
]
ROWS = {fault.text: fault for fault in FAULTS}
assert len(ROWS) == len(FAULTS)
MEETINGS = [
    (text, call) for text, fault in ROWS.items() for call in CALLS if getattr(fault.outcome, call)
]
# A fault that passes: of every kind for downloads, which resume; for the others one of a kind.
PASSING = {
    (fault.text if call == "download" else fault.outcome, call): fault.text
    for call in ("read", "change", "download")
    for fault in reversed(FAULTS)
    if (getattr(fault.outcome, call) or (0, 0))[1] > 1 and not fault.text.startswith("redirect")
}
REPEATED = [(text, call) for (_, call), text in PASSING.items()]


def meet(ft: Runner, fault: Fault, call: str, times: int | None) -> Result:
    """Run a call that meets a fault that often: a poll once its submission was accepted."""
    kind, options = faults.parse_fault(fault.text)
    options["origin"] = "media" if call == "download" else "api"
    if kind not in ("refuse", "unreachable"):
        options["times"] = POLL_TIMES if call == "poll" else times
    (ft.home / "song.mp3").write_bytes(OLD)
    if call != "poll":
        ft.sandbox.fault(kind, **options)
        # The list, in which a lost submission is looked for, has the same fault.
        changes = f"{fault.changes}\nft.SEARCH_TIME = 0"
        return jumping_clock.run(ft, *CALLS[call], changes=changes)
    ft.sandbox.seconds = 0
    changes = (
        "def submit(*arguments, submit=ft.Api.submit):\n"
        "    document = submit(*arguments)\n"
        f"    {fault.changes}\n"
        "    return document\n"
        "ft.Api.submit = submit\n"
    )
    gate = ft.sandbox.hold("/v1/generations", method="POST", work=True)
    running = jumping_clock.start(ft, *CALLS[call], changes=jumping_clock.jump(ft) + changes)
    assert gate.reached.wait(20)
    ft.sandbox.fault(kind, **options)
    gate.release()
    return running.finish()


def attempts(ft: Runner, call: str) -> int:
    """Count the requests. A connection that was closed before it had one counts as well.

    Of a submission, whatever is left besides is a look into the list.
    """
    if call == "submission":
        return len(ft.sandbox.posts()) or min(1, ft.sandbox.connections())
    origin = "media" if call == "download" else "api"
    requests = [request for request in ft.sandbox.requests if request.origin == origin]
    submissions = len(ft.sandbox.posts()) if call == "poll" else 0
    return max(len(requests), ft.sandbox.connections(origin)) - submissions


def check(ft: Runner, fault: Fault, call: str, result: Result, code: int) -> None:
    """Check what holds for every fault: one error, no track is lost, nothing is sent twice."""
    assert result.code == code, repr(result)
    assert "Traceback" not in result.stderr and "internal error" not in result.stderr
    assert result.stderr.count("error: ") == bool(code)
    assert len(ft.sandbox.posts()) <= (call in ("submission", "poll"))
    for request in ft.sandbox.requests:
        assert (request.origin == "api") == ("X-API-Key" in request.headers)
        assert request.origin == "api" or call in ("poll", "download")
    if code and call != "change":
        assert result.stdout == ""
    in_doubt = bool(code) and fault.outcome.in_doubt
    doubt = "may have been accepted" in result.stderr
    assert doubt == (in_doubt and call == "submission"), repr(result)
    assert ("outcome unknown" in result.stderr) == (in_doubt and call == "change"), repr(result)
    assert not doubt or "`ft list`" in result.stderr
    track = (ft.home / "song.mp3").read_bytes()
    if code or call not in ("poll", "download"):
        assert track == OLD
    else:
        assert track == ft.sandbox.track(ft.sandbox.book[0] if call == "poll" else TRACK)
    assert not [name for name in os.listdir(ft.home) if name.startswith(".")]  # hidden files


@pytest.mark.parametrize(("text", "call"), MEETINGS)
def test_a_fault_that_stays(ft: Runner, text: str, call: str) -> None:
    fault = ROWS[text]
    if text == "unreachable" and not sys.platform.startswith("linux"):
        pytest.skip("only Linux lets a connection wait")
    code, requests = getattr(fault.outcome, call)
    result = meet(ft, fault, call, None)
    check(ft, fault, call, result, code)
    assert attempts(ft, call) == requests, ft.sandbox.requests
    words = fault.media if call == "download" and fault.media else fault.words
    host = (ft.sandbox.media_url if call == "download" else ft.sandbox.api_url).partition("//")[2]
    assert words.format(host=host) in result.stderr, repr(result)
    if call == "poll":
        assert code or result.stderr.count("; asking again\n") == requests - 1
        assert not code or f"ft download {ft.sandbox.book[0]} --wait" in result.stderr


@pytest.mark.parametrize(("text", "call"), REPEATED)
def test_a_fault_that_passes(ft: Runner, text: str, call: str) -> None:
    """The last attempt succeeds."""
    fault = ROWS[text]
    requests = getattr(fault.outcome, call)[1]
    result = meet(ft, fault, call, requests - 1)
    check(ft, fault, call, result, 0)
    assert attempts(ft, call) == requests
