"""Every fault that an API call can meet: one test a row, and the five that bite, of what was found
out about urllib.

Calls are repeated as tests/test_retries.py shows; here the clock jumps over the waits.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Callable

import jumping_clock
import pytest
from conftest import PYPY, Result, Runner

ID = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
MAY_HAVE = "the submission may have been accepted"


def run(ft: Runner, *argv: str, code: int, **how: Any) -> Result:
    """The process's end: one `error:` line and perhaps a hint, no traceback, nothing on stdout when
    it failed.
    """
    result = jumping_clock.run(ft, *argv, **how)
    assert result.code == code, repr(result)
    assert "Traceback" not in result.stderr and "internal error" not in result.stderr, repr(result)
    if code:
        assert result.stdout == "", repr(result)
        assert result.stderr.count("error: ") == 1, repr(result)
    return result


def me(ft: Runner, code: int, **how: Any) -> Result:
    return run(ft, "me", "--json", code=code, **how)


def submit(ft: Runner, code: int) -> Result:
    return run(ft, "generate", "--no-wait", "a song", code=code)


def host(ft: Runner) -> str:
    return ft.sandbox.api_url.partition("//")[2]


# --- refused, DNS, connect time-out (TLS: tests/test_tls.py) --------------------------------------


def test_refused(ft: Runner) -> None:
    ft.sandbox.down()
    result = me(ft, 3)
    assert f"error: cannot connect to {host(ft)}: Connection refused\n" in result.stderr
    assert "may have been" not in submit(ft, 3).stderr


@pytest.mark.parametrize("name", ["nowhere.invalid", "a" * 64 + ".invalid"])
def test_dns(ft: Runner, name: str) -> None:
    """The second name is one that Python itself refuses to look up, with a ValueError."""
    result = run(
        ft,
        "me",
        "--base-url",
        f"https://{name}",
        code=3,
        env={"RES_OPTIONS": "attempts:1 timeout:1"},
    )
    assert f"error: cannot connect to {name}: " in result.stderr


@pytest.mark.skipif(
    not sys.platform.startswith("linux"), reason="only Linux lets a connection wait"
)
def test_connect_timeout(ft: Runner) -> None:
    ft.sandbox.fault("unreachable")
    result = jumping_clock.run(
        ft, "generate", "--no-wait", "a song", changes="ft.CONNECT_TIMEOUT = 0.2", check=3
    )
    assert MAY_HAVE not in result.stderr
    assert f"error: cannot connect to {host(ft)}: it did not answer in time\n" in result.stderr


# --- closed before a byte, reset, garbage status line, too many headers ---------------------------

BROKEN = ["close", "reset", "lost", "garbage", "many-headers", "long-header", "hangup"]


@pytest.mark.parametrize("kind", BROKEN)
def test_closed_reset_garbage_or_too_many_headers(ft: Runner, kind: str) -> None:
    ft.sandbox.fault(kind, times=None)
    assert f"error: no answer from {host(ft)}: " in me(ft, 3).stderr


@pytest.mark.parametrize("kind", BROKEN)
def test_a_submission_that_broke_may_have_been_accepted(ft: Runner, kind: str) -> None:
    ft.sandbox.fault(kind, times=None)
    result = submit(ft, 3)
    assert MAY_HAVE in result.stderr and "`ft list`" in result.stderr
    assert ft.sandbox.connections() == 1


@pytest.mark.parametrize("where", ["start", "headers", "body"])
def test_a_stalled_answer(ft: Runner, where: str) -> None:
    ft.sandbox.fault("stall", where=where, times=None)
    assert "it did not answer in time" in me(ft, 3, changes="ft.READ_TIMEOUT = 0.2").stderr


TWO_ADDRESSES = """
import socket
look_up, connect = socket.getaddrinfo, socket.socket.connect
def two(host, *rest, **options):
    found = look_up("127.0.0.1" if host == "localhost" else host, *rest, **options)
    dead = [(*entry[:4], ("127.0.0.77", *entry[4][1:])) for entry in found]
    return dead + found if host == "localhost" else found
def log(sock, address):
    print("address", address[0], file=sys.stderr)
    return connect(sock, address)
socket.getaddrinfo, socket.socket.connect = two, log
"""


def test_a_dead_first_address_is_tried_once(ft: Runner) -> None:
    """Each of three POSTs opens a connection of its own; the later ones go to the address that
    answered.
    """
    url = ft.sandbox.api_url.replace("127.0.0.1", "localhost")
    argv = ("delete", "--yes", *(f"id-{n}" for n in range(250)), "--base-url", url)
    result = jumping_clock.run(ft, *argv, changes=TWO_ADDRESSES, check=1)
    addresses = [line for line in result.stderr.splitlines() if line.startswith("address ")]
    assert addresses == ["address 127.0.0.77", *["address 127.0.0.1"] * 3]


# --- chunked body cut -----------------------------------------------------------------------------


@pytest.mark.parametrize("boundary", [True, False])
@pytest.mark.parametrize("at", [0, 20])
def test_chunked_body_cut(ft: Runner, at: int, boundary: bool) -> None:
    ft.sandbox.fault("chunked", at=at, boundary=boundary, times=None)
    assert f"error: the answer from {host(ft)} broke off" in me(ft, 3).stderr


def test_a_chunked_body_is_read_to_its_end(ft: Runner) -> None:
    ft.sandbox.fault("chunked")
    assert me(ft, 0).json["data"]["email"] == "jane@example.com"


# --- no Content-Length, then EOF ------------------------------------------------------------------


def test_no_content_length_then_eof_is_an_answer_if_it_is_json(ft: Runner) -> None:
    ft.sandbox.fault("no-length")
    assert me(ft, 0).json["data"]["email"] == "jane@example.com"


def test_no_content_length_then_eof_in_the_middle(ft: Runner) -> None:
    ft.sandbox.fault("no-length", at=50, times=None)
    assert "unexpected reply" in me(ft, 3).stderr


@pytest.mark.parametrize("value", ["lots", "-1", "1_0", "٣", "9" * 30])
def test_a_content_length_that_is_none(ft: Runner, value: str) -> None:
    raw = f"HTTP/1.1 200 OK\r\nContent-Length: {value}\r\n\r\n{{}}".encode()
    ft.sandbox.fault("raw", data=raw, times=None)
    me(ft, 3)


def test_two_lengths(ft: Runner) -> None:
    ft.sandbox.fault("two-lengths", times=None)
    me(ft, 3)


def test_more_bytes_than_announced_are_not_read(ft: Runner) -> None:
    ft.sandbox.fault("long")
    assert me(ft, 0).json["data"]["email"] == "jane@example.com"


# --- 4xx and 5xx, whose body can itself be anything -----------------------------------------------


@pytest.mark.parametrize("body", ["html", "empty", "huge", "truncated", "stalled", "reset"])
def test_an_error_is_reported_whatever_its_body(ft: Runner, body: str) -> None:
    ft.sandbox.fault("status", status=403, body=body)
    assert "error: HTTP 403 Forbidden\n" in me(ft, 1, changes="ft.READ_TIMEOUT = 1.0").stderr
    assert len(ft.sandbox.requests) == 1


@pytest.mark.parametrize(
    "document",
    [
        [],
        {},
        {"error": None},
        {"error": "no"},
        {"error": []},
        {"error": {"code": 7, "message": {"a": 1}, "retryAfter": "soon"}},
        {"error": {"code": "", "message": "", "retryAfter": -1}},
    ],
)
def test_an_error_whose_document_is_odd(ft: Runner, document: Any) -> None:
    ft.sandbox.fault("body", data=json.dumps(document), status=402)
    assert "error: HTTP 402 Payment Required" in me(ft, 1).stderr


# --- HTML, gzip, empty, not UTF-8, bad JSON in a 2xx ----------------------------------------------


@pytest.mark.parametrize(
    ("kind", "type_"),
    [
        ("html", "text/html"),
        ("text", "text/plain"),
        ("gzip", "application/json, gzip"),
        ("empty", "application/json"),
        ("not-utf8", "application/json"),
        ("bad-json", "application/json"),
        ("array", "application/json"),
        ("string", "application/json"),
        ("null", "application/json"),
    ],
)
def test_a_2xx_that_is_not_the_apis_json(ft: Runner, kind: str, type_: str) -> None:
    ft.sandbox.fault(kind, times=None)
    expected = f"unexpected reply from {host(ft)} (HTTP {{}}, {type_})"
    assert f"error: {expected.format(200)}\n" in me(ft, 3).stderr
    if kind != "not-utf8":
        result = submit(ft, 3)
        assert f"error: {expected.format(202)}; {MAY_HAVE}\n" in result.stderr
        assert ft.sandbox.spent == 1 and len(ft.sandbox.posts()) == 1


@pytest.mark.parametrize("status", [204, 205, 206, 101])
def test_a_status_without_a_document(ft: Runner, status: int) -> None:
    ft.sandbox.fault("raw", data=f"HTTP/1.1 {status} Odd\r\n\r\n", times=None)
    me(ft, 3)


# --- NaN, 1e999, an integer of over 4300 digits, deep nesting -------------------------------------


@pytest.mark.parametrize("kind", ["nan", "infinity", "big-integer", "deep"])
def test_numbers_that_are_none_and_deep_nesting(ft: Runner, kind: str) -> None:
    ft.sandbox.fault(kind, times=None)
    me(ft, 3)


@pytest.mark.parametrize("levels", [50, 97])
def test_nesting_within_reason(ft: Runner, levels: int) -> None:
    ft.sandbox.fault("literal", value="[" * levels + "]" * levels)
    assert json.dumps(me(ft, 0).json["data"]["unknown"]) == "[" * levels + "]" * levels


def test_nesting_that_json_would_take_and_people_do_not_send(ft: Runner) -> None:
    ft.sandbox.fault("literal", value="[" * 150 + "]" * 150, times=None)
    me(ft, 3)


def test_an_integer_of_4300_digits_passes_through(ft: Runner) -> None:
    ft.sandbox.fault("literal", value="7" * 4300)
    assert '"unknown": ' + "7" * 4300 in me(ft, 0).stdout


# --- a 200 MB JSON or error body ------------------------------------------------------------------


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v")
@pytest.mark.parametrize("announced", [True, False])
@pytest.mark.skipif(PYPY, reason="takes more to begin with")
def test_200_mb_of_json_are_not_read(ft: Runner, announced: bool) -> None:
    if announced:
        ft.sandbox.fault("huge", times=None)
    else:
        head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n"
        ft.sandbox.fault("raw", data=head + b" " * 200_000_000, times=None)
    result = ft.sh("ulimit -v 250000; ft me", check=3)
    assert "is too long" in result.stderr and len(ft.sandbox.requests) == 1


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ulimit -v")
@pytest.mark.skipif(PYPY, reason="takes more to begin with")
def test_200_mb_of_error_are_not_read(ft: Runner) -> None:
    ft.sandbox.fault("raw", data=b"HTTP/1.1 403 No\r\n\r\n" + b" " * 200_000_000)
    assert "error: HTTP 403 No\n" in ft.sh("ulimit -v 250000; ft me", check=1).stderr


# --- 16 MiB of JSON and not a byte more -----------------------------------------------------------

FRAMINGS: dict[str, Callable[[bytes], bytes]] = {
    "announced": lambda body: b"Content-Length: %d\r\n\r\n%b" % (len(body), body),
    "chunked": lambda body: (
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    ),
    "until the end": lambda body: b"\r\n" + body,
}


@pytest.mark.parametrize("framing", FRAMINGS.values(), ids=FRAMINGS)
@pytest.mark.parametrize("more", [0, 1])
def test_16_mib_of_json_are_read_and_not_a_byte_more(
    ft: Runner, framing: Callable[[bytes], bytes], more: int
) -> None:
    body = b'{"data": {"unknown": 7}}'.ljust((16 << 20) + more)
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    ft.sandbox.fault("raw", data=head + framing(body), times=None)
    result = me(ft, 3 if more else 0)
    assert len(ft.sandbox.requests) == 1
    if more:
        assert "is too long" in result.stderr
    else:
        assert result.json == {"data": {"unknown": 7}}


def test_an_answer_that_announces_more_is_refused_before_it_is_read(ft: Runner) -> None:
    head = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
    ft.sandbox.fault("raw", data=head + b"Content-Length: 16777217\r\n\r\n{}", times=None)
    assert "is too long" in me(ft, 3).stderr
    assert len(ft.sandbox.requests) == 1


# --- keys, ids and addresses that would break the request -----------------------------------------


@pytest.mark.parametrize(
    "inside", ["\r\nX-Evil: 1", "\n", " ", "\u0100", "\u00e9", "\x7f", "\u0663"]
)
def test_cr_lf_spaces_and_non_latin_1_in_the_key(ft: Runner, inside: str) -> None:
    key = "ft_live_" + "a" * 16 + inside + "b" * (16 - len(inside))
    for result in (
        run(ft, "me", code=2, key=key),
        run(ft, "me", "--api-key", key, code=2, key=None),
    ):
        assert "malformed: 40 characters" in result.stderr and "aaaa" not in result.stderr
    assert not ft.sandbox.requests


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
    run(ft, "get", identifier, code=1)
    assert [request.target for request in ft.sandbox.requests] == [f"/v1/generations/{sent}"]


@pytest.mark.parametrize(
    "identifier", ["a b", "a\tb", "a\x01b", "a/b", "..", ".", "", "a\u00a0b", "a\r\nb"]
)
def test_ids_that_no_path_can_hold(ft: Runner, identifier: str) -> None:
    run(ft, "get", identifier, code=2)
    assert not ft.sandbox.requests


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are text there")
@pytest.mark.parametrize(
    "argv", [("get", "\udcff"), ("generate", "a \udcff"), ("me", "--api-key", "\udcff")]
)
def test_surrogates_in_argv(ft: Runner, argv: tuple[str, ...]) -> None:
    run(ft, *argv, code=2)
    assert not ft.sandbox.requests


@pytest.mark.skipif(sys.platform == "win32", reason="arguments are text there")
def test_bytes_on_stdin_that_are_not_text(ft: Runner) -> None:
    run(ft, "delete", "--yes", "-", code=2, stdin=b"\xff\xfe\n")
    assert not ft.sandbox.requests


REFUSED = [
    "file:///etc/passwd",
    "data:application/json,{}",
    "ftp://127.0.0.1/",
    "http://finetuning.ai",  # http is for loopback only
    "http://127.0.0.1.evil.org",
    "http://127.0.0.256",
    "http://127.0.0.999",
    "http://127.256.0.1",
    "http://127.0.0.01",
    "http://127.0.1",
    "http://128.0.0.1",
    "http://0.0.0.0",
    "http://[::2]",
    "http://[::ffff:127.0.0.1]",
    "http://localhost.evil.org",
    "http://localhost@evil.org",
    "https://user:secret@pub.finetuning.ai",
    "https://[1.2.3.4]",
    "https://127.0.0.1:65536",
    "https://127.0.0.1:99999999999999999999",
    "https://127.0.0.1:-1",
    "https://127.0.0.1:0",
    "https://a b",
    "https://a\r\nb",
    "https://pub.finetuning.ai\\@evil.org",
    "https://",
    "//pub.finetuning.ai",
    "pub.finetuning.ai",
    "javascript:alert(1)",
]


@pytest.mark.parametrize("url", [*REFUSED, "https://a?b", "https://a#b", ""])
def test_base_urls_that_are_refused(ft: Runner, url: str) -> None:
    """Other schemes, ports over 65535, `[1.2.3.4]`, user info, no scheme: exit 2, whatever the
    source.
    """
    result = run(ft, "me", "--base-url", url, code=2)
    assert "secret" not in result.stderr
    ft.config({"baseUrl": url})
    run(ft, "me", code=2)
    assert not ft.sandbox.requests


@pytest.mark.parametrize("url", [*REFUSED, "", 7, None, [], {"a": 1}])
def test_addresses_of_tracks_that_are_refused(ft: Runner, tmp_path: Path, url: Any) -> None:
    """`file:`, `data:`, `ftp:` and the like as audioUrl: exit 3, no file."""
    ft.sandbox.fault("record", path=f"/v1/generations/{ID}", times=None, audioUrl=url)
    run(ft, "download", ID, code=3)
    assert not [path for path in tmp_path.iterdir() if path.is_file()]


def test_addresses_of_this_machine_are_not_for_a_service_elsewhere(
    ft: Runner, tmp_path: Path
) -> None:
    """An https service whose audioUrl is http on loopback would make ft ask this machine's own
    services.
    """
    ft.sandbox.fault("redirect", origin="media", location="http://10.0.0.1/x.mp3")
    assert "must be https" in run(ft, "download", ID, code=3).stderr


@pytest.mark.parametrize(
    "address", ["127.0.0.1", "127.255.255.254", "localhost", "LOCALHOST", "[::1]"]
)
def test_http_is_for_this_machine(ft: Runner, address: str) -> None:
    """Port 9 is closed: it is asked, and refuses."""
    assert "cannot connect to" in run(ft, "me", "--base-url", f"http://{address}:9", code=3).stderr


# --- the five that bite ---------------------------------------------------------------------------


@pytest.mark.parametrize("at", [0, 1, 100])
def test_1_a_body_shorter_than_its_content_length(ft: Runner, at: int) -> None:
    ft.sandbox.fault("short", at=at, times=None)
    assert f"error: the answer from {host(ft)} broke off: {at} of " in me(ft, 3).stderr


def test_2_closed_in_the_middle_of_the_headers(ft: Runner) -> None:
    ft.sandbox.fault("close", where="headers", times=None)
    me(ft, 3)
    result = submit(ft, 3)
    assert MAY_HAVE in result.stderr and len(ft.sandbox.posts()) == 1


def test_2_a_malformed_header_line_swallows_the_content_length(ft: Runner) -> None:
    raw = b"HTTP/1.1 200 OK\r\nthis is no header\r\nContent-Length: 50\r\n\r\n"
    for body in (b"", b'{"data": {"email": "ja'):
        ft.sandbox.fault("raw", data=raw + body, times=4)
        me(ft, 3)
    ft.sandbox.fault("bad-header")
    assert me(ft, 0).json["data"]["email"] == "jane@example.com"


@pytest.mark.parametrize(
    ("status", "location"),
    [
        *((status, "{media}/elsewhere") for status in (300, 301, 302, 303, 304, 307, 308)),
        (302, "self"),
    ],
)
def test_3_the_api_is_not_followed_through_a_redirect(
    ft: Runner, status: int, location: str
) -> None:
    ft.sandbox.fault("redirect", status=status, location=location, times=None)
    assert f"error: refusing to follow {host(ft)} to " in me(ft, 3).stderr
    assert MAY_HAVE in submit(ft, 3).stderr
    assert "refusing to follow" in ft("delete", "--yes", ID, check=3).stderr
    assert [(r.origin, r.method) for r in ft.sandbox.requests] == [
        ("api", "GET"),
        ("api", "POST"),
        ("api", "POST"),
    ]


@pytest.mark.parametrize("status", [302, 308])
def test_3_a_track_is_followed_without_the_key(ft: Runner, status: int) -> None:
    """Even to the API's own origin."""
    ft.sandbox.fault("redirect", origin="media", status=status, location="{api}/v1/me")
    run(ft, "download", ID, code=3)
    assert [(r.origin, r.path, "X-API-Key" in r.headers) for r in ft.sandbox.requests] == [
        ("api", f"/v1/generations/{ID}", True),
        ("media", f"/audio/{ID}.mp3", False),
        ("api", "/v1/me", False),
    ]


def test_3_a_track_is_followed_through_five_redirects_and_not_through_six(
    ft: Runner, tmp_path: Path
) -> None:
    ft.sandbox.fault("redirect", origin="media", times=5)
    ft("download", ID, "-o", "track.mp3", check=0)
    assert (tmp_path / "track.mp3").read_bytes() == ft.sandbox.track(ID)
    ft.sandbox.fault("redirect", origin="media", times=6)
    assert "more than 5 redirects" in run(ft, "download", ID, "-o", "other.mp3", code=3).stderr
    assert len([r for r in ft.sandbox.requests if r.origin == "media"]) == 6 + 6


@pytest.mark.parametrize(
    "location",
    [
        "http://[",
        "http://[::1",
        "https://a:b",
        "//",
        "?",
        "\xff\xfe",
        "http://\x01",
        "https://xn--a.invalid:0",
    ],
)
def test_3_a_redirect_to_nowhere(ft: Runner, location: str) -> None:
    ft.sandbox.fault("redirect", origin="media", location=location, times=None)
    run(ft, "download", ID, code=3)


def test_4_what_failed_before_it_was_sent_is_told_from_what_failed_after(ft: Runner) -> None:
    """A refused connection and one that is closed at once both end in OSErrors."""
    ft.sandbox.down()
    assert MAY_HAVE not in submit(ft, 3).stderr
    ft.sandbox.up()
    ft.sandbox.fault("hangup")
    assert MAY_HAVE in submit(ft, 3).stderr


@pytest.mark.parametrize("where", ["start", "headers", "body"])
def test_5_a_server_that_drips_cannot_outlive_the_deadline(ft: Runner, where: str) -> None:
    """A byte every tenth of a second: no single receive is late, but the whole answer would take
    half a minute.
    """
    ft.sandbox.fault("drip", where=where, interval=0.1, times=None)
    assert "it did not answer in time" in me(ft, 3, changes="ft.CALL_TIMEOUT = 0.7").stderr
    assert len(ft.sandbox.requests) == 1  # the time is over: no other attempt
