"""Show that the stand-in service keeps to the contract, and that each fault does what it says."""

from __future__ import annotations

import gzip
import http.client
import json
import math
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any, NamedTuple

import faults
import pytest
import sandbox as module
from sandbox import Sandbox

PROGRAM = Path(module.__file__)
TRACK = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
DEEP = "a9b16641-2f0c-4d4e-9b52-6f1f6c1f7d0e"  # is in Focus Beats
NOBODY = "00000000-0000-4000-8000-000000000000"
AUDIO = f"/audio/{TRACK}.mp3"
G, P, S = "/v1/generations", "/v1/playlists", "/v1/sound-effects"
INST = "/v1/instrumental"
HTTP_ERRORS = (http.client.HTTPException, OSError)


class Reply(NamedTuple):
    status: int
    headers: http.client.HTTPMessage
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def data(self) -> Any:
        return self.json["data"]

    @property
    def outcome(self) -> tuple[int, Any, Any]:
        """Return the status, and the code and the field of an error."""
        error = self.json.get("error", {})
        details = error.get("details")
        return self.status, error.get("code"), isinstance(details, dict) and details.get("field")


def ask(
    sandbox: Sandbox,
    target: str,
    document: Any = None,
    *,
    method: str | None = None,
    key: str | None = "",
    **headers: str,
) -> Reply:
    """Send a request: to the media host if the target is a track, and POST if it has a body."""
    media = target.startswith("/audio")
    address = urllib.parse.urlsplit(sandbox.media_url if media else sandbox.api_url).netloc
    connection = http.client.HTTPConnection(address, timeout=10)
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if key is not None and not media:
        sent["X-API-Key"] = key or sandbox.key
    body = document if document is None or isinstance(document, bytes) else json.dumps(document)
    try:
        connection.request(method or ("GET" if body is None else "POST"), target, body, sent)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def wire(sandbox: Sandbox, timeout: float = 10) -> tuple[bytes, str]:
    """Return the very bytes of an answer, and how they ended: eof or reset."""
    address, received = urllib.parse.urlsplit(sandbox.api_url), b""
    with socket.create_connection((address.hostname, address.port), timeout) as connection:
        lines = ("GET /v1/me HTTP/1.1", f"X-API-Key: {sandbox.key}", "Connection: close", "", "")
        connection.sendall("\r\n".join(lines).encode())
        while True:
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                return received, "reset"
            if not piece:
                return received, "eof"
            received += piece


# --- the contract ---------------------------------------------------------------------------------


def like(example: Any, value: Any) -> bool:
    """Say whether a value begins with the members of an example, as do the objects in it."""
    wanted = json.loads(example) if isinstance(example, str) else example
    return list(wanted) == list(value)[: len(wanted)] and all(
        like(wanted[name], value[name]) for name in wanted if isinstance(wanted[name], dict)
    )


RECORD = """{"id": "", "title": "", "prompt": "", "status": "", "audioUrl": "", "duration": 120,
    "fileSize": null, "isPublic": false, "playCount": 0, "downloadCount": 0, "likeCount": 0,
    "parameters": {"bpm": 110, "duration": 120, "keyscale": "", "timesignature": 4, "seed": 1},
    "errorMessage": null, "generationTime": 17, "webhook": null, "createdAt": "",
    "completedAt": ""}"""
CREATED = """{"id": "", "status": "", "prompt": "", "parameters": {"bpm": 85, "duration": 120,
    "timesignature": "4", "language": "en", "keyscale": "C minor", "seed": 1}, "webhook": null,
    "creditsRemaining": 1952, "createdAt": ""}"""
EFFECT = """{"id": "", "status": "", "prompt": "", "requestedDuration": 5, "audioUrl": null,
    "duration": null, "webhook": null, "dailyRemaining": 99, "errorMessage": null,
    "createdAt": "", "completedAt": null}"""
PLAYLIST = """{"id": "", "name": "", "description": null, "trackCount": 14, "totalDuration": 1,
    "isPublic": false, "createdAt": "", "updatedAt": ""}"""
ME = """{"id": "", "email": "", "name": "", "tier": "", "limits": {"monthlyGenerations": 2000,
    "generationsUsed": 42, "monthlyRemaining": 1958, "packCredits": 10, "totalRemaining": 1968,
    "queueDepth": 2}}"""
PAGE = '{"generations": [], "hasMore": true, "nextOffset": 20}'
FOCUS = "5ab3ec64-6225-4965-acac-49a053609225"
REMOVE, MOVE = f"{P}/{FOCUS}/tracks/bulk-remove", f"{P}/{FOCUS}/tracks/move"
THEIRS = "b7c1f0de-8a52-4f0e-9d0b-2f5d0a9f6e11"
SECRET = "c3d9a7b4-1e6f-4c2a-8f3e-7a6b5c4d3e2f"

NOT_OWNED = {"id": NOBODY, "error": "Track not found or not owned by you"}
NOT_FOUND = {"trackId": NOBODY, "error": "Track not found"}
NOT_MINE = {"trackId": TRACK, "error": "Not authorized to modify this playlist"}
NOT_THERE = {"trackId": NOBODY, "error": "Track not found in playlist or not authorized"}
NO_PLAYLIST = {"trackId": DEEP, "error": "Playlist not found"}

EXAMPLES = [  # path, body, status, the data or what it is like, the details of a failure
    ("/v1/me", None, 200, ME),
    (G, {"tags": "x", "key": "C#", "scale": "minor", "seed": 1.5, "lyrics": ""}, 202, CREATED),
    (INST, {"prompt": "harp", "enhance": False}, 202, '{"id": "", "status": ""}'),
    (S, {"prompt": "door", "duration": 2.5}, 202, EFFECT),
    (f"{G}/{TRACK}", None, 200, RECORD),
    (f"{G}?limit=99&offset=0&status=failed&type=music", None, 200, PAGE),
    (f"{S}?limit=1", None, 200, '{"soundEffects": [], "hasMore": false, "nextOffset": null}'),
    (P, None, 200, '{"playlists": []}'),
    (f"{P}/{FOCUS}", None, 200, PLAYLIST[:-1] + ', "coverUrl": 0, "isOwner": true, "tracks": []}'),
    (f"{P}/{THEIRS}", None, 200, PLAYLIST),
    (f"{G}/bulk-delete", {"ids": [TRACK]}, 200, {"deleted": [TRACK]}),
    (f"{G}/bulk-delete", {"ids": [NOBODY]}, 200, {"deleted": [], "errors": [NOT_OWNED]}),
    (f"{P}/{FOCUS}/tracks", {"trackIds": [TRACK]}, 200, {"added": [TRACK]}),
    (f"{P}/{FOCUS}/tracks", {"trackIds": [NOBODY]}, 400, [NOT_FOUND]),
    (f"{P}/{THEIRS}/tracks", {"trackIds": [TRACK]}, 400, [NOT_MINE]),
    (REMOVE, {"trackIds": [DEEP, NOBODY]}, 200, {"removed": [DEEP], "errors": [NOT_THERE]}),
    (REMOVE, {"trackIds": [NOBODY]}, 200, {"removed": [], "errors": [NOT_THERE]}),
    (MOVE, {"trackIds": [DEEP], "targetPlaylistId": NOBODY}, 400, [NO_PLAYLIST]),
    (MOVE, {"trackIds": [NOBODY], "targetPlaylistId": THEIRS}, 400, [NOT_THERE]),
]


@pytest.mark.parametrize(("path", "body", "status", "data"), EXAMPLES)
def test_the_examples_of_the_contract(
    sandbox: Sandbox, path: str, body: Any, status: int, data: Any
) -> None:
    reply = ask(sandbox, path, body)
    assert reply.status == status, reply
    found = reply.data if status < 400 else reply.json["error"]["details"]
    assert like(data, found) if isinstance(data, str) else found == data
    assert reply.headers["X-RateLimit-Limit"] == ("10" if path in (G, INST, S) and body else "60")


REFUSED = r"""
/v1/generations                 duratoin       {"tags": "a", "duratoin": 30}
/v1/generations?dry=1           dry            {"tags": "a"}
/v1/generations                 tags           {} ; {"tags": " "} ; {"tags": 1} ; {"tags": "x*701"}
/v1/generations                 lyrics         {"tags": "a", "lyrics": "x*2001"}
/v1/generations                 lyrics         {"tags": "a", "lyrics": null}
/v1/generations                 duration       {"tags": "a", "duration": "60"}
/v1/generations                 duration       {"tags": "a", "duration": null}
/v1/generations                 duration       {"tags": "a", "duration": NaN}
/v1/generations                 bpm            {"tags": "a", "bpm": true}
/v1/generations                 language       {"tags": "a", "language": "xx"}
/v1/generations                 key            {"tags": "a", "key": "H"}
/v1/generations                 scale          {"tags": "a", "scale": "dorian"}
/v1/generations                 timesignature  {"tags": "a", "timesignature": 4}
/v1/generations                 timesignature  {"tags": "a", "timesignature": "8"}
/v1/generations                 seed           {"tags": "a", "seed": "1"}
/v1/generations                 webhook        {"tags": "a", "webhook": "http://example.com"}
/v1/generations                 webhook        {"tags": "a", "webhook": "https://x*2048"}
/v1/generations                 -              [] ; "x" ; null ; {
/v1/instrumental                prompt         {} ; {"prompt": 7}
/v1/instrumental                enhance        {"prompt": "a", "enhance": "no"}
/v1/instrumental                tags           {"prompt": "a", "tags": "a"}
/v1/sound-effects               seed           {"prompt": "a", "seed": 1}
/v1/sound-effects               webhook        {"prompt": "a", "webhook": "ftp://x"}
/v1/generations/bulk-delete     ids            {} ; {"ids": []} ; {"ids": [1]} ; {"ids": "x"}
/v1/generations/bulk-delete     ids            {"ids": [101]}
/v1/generations/bulk-delete     force          {"ids": ["x"], "force": true}
/v1/playlists/a/tracks          trackIds       {} ; {"trackIds": []}
/v1/playlists/a/tracks          ids            {"ids": ["x"]}
/v1/playlists/a/tracks/bulk-remove  trackIds   {"trackIds": {}}
/v1/playlists/a/tracks/move  targetPlaylistId  {"trackIds": ["x"]}
/v1/playlists/a/tracks/move  targetPlaylistId  {"trackIds": ["x"], "targetPlaylistId": "a"}
/v1/playlists/a/tracks/move  targetPlaylistId  {"trackIds": ["x"], "targetPlaylistId": 5}
/v1/generations?limit=100       limit
/v1/generations?limit=0         limit
/v1/generations?limit=x         limit
/v1/generations?limit=          limit
/v1/generations?offset=-1       offset
/v1/generations?status=done     status
/v1/generations?status=         status
/v1/generations?type=noise      type
/v1/generations?page=2          page
/v1/generations/a?limit=1       limit
/v1/sound-effects?type=music    type
/v1/playlists?limit=1           limit
/v1/playlists/a?limit=1         limit
/v1/me?limit=1                  limit
"""


@pytest.mark.parametrize("line", REFUSED.strip().splitlines())
def test_what_the_contract_refuses(sandbox: Sandbox, line: str) -> None:
    path, field, *bodies = line.split(None, 2)
    text = re.sub(r"x\*(\d+)", lambda match: "x" * int(match[1]), "".join(bodies))
    text = text.replace("[101]", json.dumps(["x"] * 101))
    for body in text.split(" ; ") if bodies else [None]:
        expected = (400, "VALIDATION_ERROR", field != "-" and field)
        assert ask(sandbox, path, body and body.encode()).outcome == expected
    assert sandbox.spent == 0


@pytest.mark.parametrize(
    ("name", "status", "code"),
    [
        (None, 401, "MISSING_API_KEY"),
        ("hunter2", 401, "INVALID_API_KEY"),
        ("deleted", 401, "ACCOUNT_DELETED"),
        ("free", 403, "PRO_PLAN_REQUIRED"),
        ("broke", 402, "MONTHLY_LIMIT_REACHED"),
        ("lifetime", 202, None),
    ],
)
def test_keys(sandbox: Sandbox, name: str | None, status: int, code: str | None) -> None:
    key = sandbox.keys[name].key if name in sandbox.keys else name
    assert ask(sandbox, G, {"tags": "x"}, key=key).outcome[:2] == (status, code)


def test_what_is_not_found(sandbox: Sandbox) -> None:
    assert ask(sandbox, "/health", key=None).json == {"status": "ok"}
    theirs = sandbox.add_generation(owner="other")["id"]
    for path in ("/v1/nothing", "/", f"{G}/{NOBODY}", f"{G}/{theirs}", f"{P}/{SECRET}", f"{S}/x"):
        assert ask(sandbox, path).outcome[:2] == (404, "NOT_FOUND")
    assert ask(sandbox, "/v1/me", method="DELETE").status == 404
    sandbox.prefix = "/gateway"
    assert [ask(sandbox, path).status for path in ("/gateway/v1/me", "/v1/me")] == [200, 404]


@pytest.mark.sandbox(seconds=0.3)
def test_a_generation_goes_through_its_statuses(sandbox: Sandbox) -> None:
    made = ask(sandbox, G, {"tags": "a song", "duration": 400, "bpm": 7}).data
    assert (made["parameters"]["duration"], made["parameters"]["bpm"]) == (210, 60)
    assert (made["creditsRemaining"], sandbox.book) == (1967, [made["id"]])
    seen: list[Any] = []
    deadline = time.monotonic() + 10
    while not seen or seen[-1]["status"] != "completed":
        assert time.monotonic() < deadline
        seen.append(ask(sandbox, f"{G}/{made['id']}").data)
    assert [*dict.fromkeys(r["status"] for r in seen)] == ["pending", "processing", "completed"]
    assert [*dict.fromkeys(r["audioUrl"] is None for r in seen)] == [True, False]
    path = urllib.parse.urlsplit(seen[-1]["audioUrl"]).path
    assert ask(sandbox, path).body == sandbox.track(made["id"])


@pytest.mark.sandbox(seconds=0, queue_limit=2)
def test_prompts_that_ask_for_trouble_and_a_full_queue(sandbox: Sandbox) -> None:
    failed = ask(sandbox, G, {"tags": "please fail"}).data["id"]
    assert ask(sandbox, f"{G}/{failed}").data["errorMessage"]
    assert ask(sandbox, G, {"tags": "reject me"}).outcome[:2] == (500, "GENERATION_FAILED")
    first, _ = (ask(sandbox, G, {"tags": "forever"}).data["id"] for _ in range(2))
    assert ask(sandbox, f"{G}/{first}").data["status"] == "processing"
    full = ask(sandbox, G, {"tags": "x"})
    assert (*full.outcome[:2], full.headers["Retry-After"]) == (429, "QUEUE_FULL", "5")
    sandbox.finish(first)
    assert ask(sandbox, G, {"tags": "x"}).status == 202
    assert sandbox.spent == 4


@pytest.mark.sandbox(rate_limits=True, window=0.6, queue_limit=99)
def test_rate_limits_are_per_user_and_kind_and_end_with_the_window(sandbox: Sandbox) -> None:
    replies = [ask(sandbox, G, {"tags": "x"}) for _ in range(11)]
    assert [reply.status for reply in replies] == [202] * 10 + [429]
    assert [int(reply.headers["X-RateLimit-Remaining"]) for reply in replies[:10]] == [*range(10)][
        ::-1
    ]
    assert replies[10].outcome[1] == "GENERATION_RATE_LIMITED"
    assert replies[10].headers["Retry-After"] == "1" == str(replies[10].json["error"]["retryAfter"])
    assert ask(sandbox, "/v1/me").headers["X-RateLimit-Remaining"] == "59"
    assert ask(sandbox, G, {"tags": "x"}, key=sandbox.key_other).status == 202
    deadline = time.monotonic() + 10
    while ask(sandbox, G, {"tags": "x"}).status == 429:
        assert time.monotonic() < deadline


@pytest.mark.needs("mpg123", "ffprobe")
def test_a_track_is_music_of_the_right_length(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "track.mp3"
    file.write_bytes(sandbox.track(sandbox.add_generation(duration=90.3, prompt="夜 🌃")["id"]))
    test = subprocess.run(["mpg123", "-t", file], capture_output=True, text=True, check=True)
    assert not re.search("(?i)warning|error|resync|junk", test.stderr), test.stderr
    entries = "format=duration:format_tags=title"
    command = ["ffprobe", "-v", "error", "-show_entries", entries, "-of", "json", str(file)]
    shown = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)["format"]
    assert math.isclose(float(shown["duration"]), 90.3, abs_tol=0.1)
    assert shown["tags"]["title"] == "夜 🌃"


# --- faults ---------------------------------------------------------------------------------------

OK = rb"HTTP/1.1 200 OK\r\n"
WHOLE = OK + rb'.*\r\n\r\n\{"data":\{.*\}\}'
BROKEN = [  # fault, what the answer to GET /v1/me looks like, how the connection ends
    ("cut", b"", "eof"),
    ("close", b"", "eof"),
    ("reset", b"", "reset"),
    ("lost", b"", "eof"),
    ("close,where=headers,at=20", OK + b"Dat", "eof"),
    ("reset,where=headers", OK + rb"(?!.*\r\n\r\n).*", "reset"),
    ("short,at=3", OK + rb'.*\r\n\r\n\{"d', "eof"),
    ("reset,where=body,at=3", OK + rb'.*\r\n\r\n\{"d', "reset"),
    ("delay,seconds=0.01", WHOLE, "eof"),
    ("drip,where=start,interval=0.0001,size=50", WHOLE, "eof"),
    (r"raw,data=HTTP/1.1 299 \xff\r\n\r\n", rb"HTTP/1.1 299 \xff\r\n\r\n", "eof"),
    ("garbage", rb"\x00.*", "eof"),
    ("bad-header", OK + rb"this is no header\r\n.*", "eof"),
    ("many-headers", OK + rb"(X-Header-\d+: x\r\n){300}.*", "eof"),
    ("long-header", OK + rb"X-Long: x{70000}\r\n.*", "eof"),
    ("header,name=Content-Length", rb"(?i)(?!.*content-length).*", "eof"),
    ("two-lengths", rb".*(\r\nContent-Length: .*){2}", "eof"),
    ("bad-length", rb".*\r\nContent-Length: lots\r\n.*", "eof"),
    ("type", rb".*\r\nContent-Type: text/html; charset=utf-8\r\n.*\}\}", "eof"),
    ("chunked", rb".*\r\nTransfer-Encoding: chunked.*\r\n\r\n[0-9a-f]+\r\n.*\r\n0\r\n\r\n", "eof"),
    ("chunked,at=3", rb'.*\r\n\r\n3\r\n\{"d\r\n', "eof"),
    ("chunked,at=3,boundary=false", rb'.*\r\n\r\n3\r\n\{"d\r\n400\r\nonly.*', "eof"),
    ("no-length", rb"(?i)(?!.*content-length).*\}\}", "eof"),
    ("no-length,at=2", rb'(?i)(?!.*content-length).*\r\n\r\n\{"', "eof"),
    ("long", WHOLE + rb"x{10}", "eof"),
    ("body,data={},status=201", rb"HTTP/1.1 201 Created\r\n.*\r\n\r\n\{\}", "eof"),
    ("html", OK + rb".*text/html.*\r\n\r\n<!DOCTYPE html>.*", "eof"),
    ("empty", OK + rb".*\r\nContent-Length: 0\r\n.*\r\n\r\n", "eof"),
    ("text", OK + rb".*text/plain.*\r\n\r\nhello\n", "eof"),
    ("array", OK + rb".*\r\n\r\n\[\]", "eof"),
    ("string", OK + rb'.*\r\n\r\n"hello"', "eof"),
    ("null", OK + rb".*\r\n\r\nnull", "eof"),
    ("gzip", OK + rb".*\r\nContent-Encoding: gzip\r\n.*\r\n\r\n\x1f\x8b.*", "eof"),
    ("bad-json", OK + rb'.*\r\n\r\n\{"data":\{.*[^}]', "eof"),
    ("huge,size=70000", WHOLE + rb" {50000,}", "eof"),
    ("literal,value=[1.10],field=tier", OK + rb'.*"tier": \[1\.10\], "limits".*', "eof"),
    ("not-utf8", OK + rb'.*"unknown": "\xff\xfe\xe9"\}\}', "eof"),
    ("nan", OK + rb'.*"unknown": NaN\}\}', "eof"),
    ("infinity", OK + rb'.*"unknown": 1e999\}\}', "eof"),
    ("big-integer", OK + rb'.*"unknown": 7{5000}\}\}', "eof"),
    ("deep", OK + rb'.*"unknown": \[{100000}\]{100000}\}\}', "eof"),
    ("record,tier=odd", OK + rb'.*"tier": "odd".*', "eof"),
    ("field,tier=odd", OK + rb'.*"tier": "odd".*', "eof"),
    ("status", rb'HTTP/1.1 500 .*\{"error":\{"code":"INTERNAL_ERROR".*', "eof"),
    ("status,status=429,retry_after=7", rb'.*\r\nRetry-After: 7\r\n.*"retryAfter":7\}\}', "eof"),
    ("status,status=418,code=TEA,retry_after=x", rb'.*Retry-After: x\r\n.*"TEA"[^A]*', "eof"),
    ("status,body=html", rb"HTTP/1.1 500 .*<!DOCTYPE.*", "eof"),
    ("status,body=empty", rb"HTTP/1.1 500 .*\r\n\r\n", "eof"),
    ("status,body=truncated", rb'HTTP/1.1 500 .*\r\n\r\n\{"error":[^}]*', "eof"),
    ("status,body=reset", rb'HTTP/1.1 500 .*\r\n\r\n\{"error":[^}]*', "reset"),
    (
        "redirect,location={media}/x",
        rb"HTTP/1.1 302 .*Location: http://127.0.0.1:\d+/x\r\n.*",
        "eof",
    ),
    ("redirect,status=307", rb"HTTP/1.1 307 .*Location: /v1/me\r\n.*", "eof"),
]


@pytest.mark.parametrize(("text", "expected", "end"), BROKEN, ids=[row[0] for row in BROKEN])
def test_faults(sandbox: Sandbox, text: str, expected: bytes, end: str) -> None:
    kind, options = faults.parse_fault(text)
    fault = sandbox.fault(kind, **options)
    received, ended = wire(sandbox)
    assert re.fullmatch(expected, received, re.DOTALL), received[:500]
    assert (ended, fault.hits) == (end, sandbox.requests)
    if kind == "gzip":
        assert json.loads(gzip.decompress(received.partition(b"\r\n\r\n")[2]))["data"]
    assert re.fullmatch(WHOLE, wire(sandbox)[0], re.DOTALL)


MEDIA = [  # fault, sent headers, status, start and stop of what comes, a header of the answer
    ("", {"Range": "bytes=1000-"}, 206, 1000, None, ("Content-Range", r"bytes 1000-\d+/\d+")),
    ("", {"Range": "bytes=10-19"}, 206, 10, 20, ("Content-Range", r"bytes 10-19/\d+")),
    ("", {"Range": "bytes=-10"}, 206, -10, None, ("Content-Length", "10")),
    ("", {"Range": "bytes=5-", "If_Range": "x"}, 200, 0, None, ("Accept-Ranges", "bytes")),
    ("", {"Range": "bytes=99999999-"}, 416, 0, 0, ("Content-Range", r"bytes \*/\d+")),
    ("etag", {}, 200, 0, None, ("ETag", '"[0-9a-f]{32}"')),
    ("weak-etag", {}, 200, 0, None, ("ETag", 'W/"[0-9a-f]{32}"')),
    ("no-etag", {}, 200, 0, None, ("ETag", "None")),
    ("no-range", {"Range": "bytes=5-"}, 200, 0, None, ("Accept-Ranges", "None")),
    ("wrong-range", {"Range": "bytes=5-"}, 206, 96, None, ("Content-Range", "bytes 96-.*")),
    ("wrong-range", {}, 200, 0, None, ("Content-Range", "None")),
    ("ignore-if-range", {"Range": "bytes=5-", "If_Range": "x"}, 206, 5, None, ("ETag", ".*")),
    ("changed", {}, 200, 0, None, ("ETag", ".*")),
]


@pytest.mark.parametrize(("kind", "sent", "status", "start", "stop", "header"), MEDIA)
def test_media(
    sandbox: Sandbox, kind: str, sent: Any, status: int, start: int, stop: Any, header: Any
) -> None:
    before = sandbox.track(TRACK)
    if kind:
        sandbox.fault(kind)
    reply = ask(sandbox, AUDIO, **sent)
    assert (reply.status, reply.body) == (status, sandbox.track(TRACK)[start:stop])
    assert re.fullmatch(header[1], str(reply.headers[header[0]]))
    own = ask(sandbox, AUDIO)
    assert own.body == sandbox.track(TRACK)
    assert (own.body != before) is (kind == "changed")
    if status != 416:
        assert (own.headers["ETag"] != reply.headers["ETag"]) is ("etag" in kind)


def test_every_fault_has_a_row_here_and_a_line_of_help(tmp_path: Path) -> None:
    tested = {row[0].partition(",")[0] for row in BROKEN} | {row[0] for row in MEDIA if row[0]}
    assert tested | {"stall"} == set(faults.ROWS)
    words = set(re.findall(r"[\w-]+", faults.fault_list()))
    assert {*faults.ROWS, *faults.ORIGIN_KINDS, "random"} <= words


def test_faults_choose_their_requests(sandbox: Sandbox) -> None:
    fault = sandbox.fault("status", status=503, path="/v1/me", method="GET", times=2, after=1)
    assert [ask(sandbox, "/v1/me").status for _ in range(4)] == [200, 503, 503, 200]
    assert fault.hits == sandbox.requests[1:3]
    sandbox.fault("status", origin=None, times=None)
    assert [ask(sandbox, path).status for path in (AUDIO, "/health", "/health")] == [500] * 3
    sandbox.heal()
    sandbox.fault("record", audioUrl="file:///etc/passwd")
    records = ask(sandbox, f"{G}?limit=2").data["generations"]
    assert [record["audioUrl"] for record in records] == ["file:///etc/passwd"] * 2
    for kind, options, match in (
        ("typo", {}, "unknown fault typo; there are array, "),
        ("status", {"stauts": 500}, "stauts"),
        ("random", {"pp": 1}, "pp"),
    ):
        with pytest.raises(ValueError, match=match):
            sandbox.fault(kind, **options)


@pytest.mark.parametrize(
    ("text", "spent"),
    [
        *(("close", 0), ("reset", 0), ("lost", 1), ("html", 1), ("short", 1), ("garbage", 0)),
        *(("status", 0), ("status,work=true", 1), ("short,work=false", 0), ("redirect", 0)),
    ],
)
def test_dropped_requests_and_lost_answers(sandbox: Sandbox, text: str, spent: int) -> None:
    kind, options = faults.parse_fault(text)
    sandbox.fault(kind, **options)
    try:
        ask(sandbox, G, {"tags": "x"})
    except HTTP_ERRORS:
        assert not text.startswith(("status", "html", "redirect"))
    assert sandbox.spent == spent


@pytest.mark.parametrize("where", ["request", "start", "headers", "body"])
def test_stalls_end_when_released_and_when_the_client_leaves(sandbox: Sandbox, where: str) -> None:
    """A gate (`hold`) is a stall at the request or, with work, at the start of the answer."""
    gate = sandbox.fault("stall", where=where, times=None)
    replies: list[Reply] = []
    asker = threading.Thread(target=lambda: replies.append(ask(sandbox, G, {"tags": "x"})))
    asker.start()
    assert gate.reached.wait(10)
    assert sandbox.requests[0].status == (202 if where == "body" else None)
    assert sandbox.spent == (where != "request")
    gate.release()
    asker.join(10)
    assert [reply.status for reply in replies] == [202]
    if where != "request":
        sandbox.fault("stall", where=where)
        with pytest.raises(socket.timeout):
            wire(sandbox, timeout=0.1)
        sandbox.wait_for(lambda request: request.path == "/v1/me" and request.sent)


def test_connections_that_do_not_come_about(sandbox: Sandbox) -> None:
    sandbox.fault("refuse", origin=None)
    for path in ("/health", AUDIO):
        with pytest.raises(ConnectionRefusedError):
            ask(sandbox, path)
    sandbox.heal()
    sandbox.fault("hangup", times=2, data=b"\x15\x03\x01")
    for _ in range(2):
        with pytest.raises(HTTP_ERRORS):
            ask(sandbox, "/health")
    assert [ask(sandbox, path).status for path in ("/health", AUDIO)] == [200, 200]


# --- the server -----------------------------------------------------------------------------------


def test_stopping_ends_everything() -> None:
    before = set(threading.enumerate())
    sandbox = Sandbox().start()
    gates = [sandbox.hold("/v1/me"), sandbox.fault("stall", path="/health")]
    sandbox.fault("drip", path=P, interval=60)

    def get(path: str) -> None:
        with pytest.raises(HTTP_ERRORS):
            ask(sandbox, path)

    askers = [threading.Thread(target=get, args=(path,)) for path in ("/health", P, "/v1/me")]
    for asker in askers:
        asker.start()
    assert all(gate.reached.wait(10) for gate in gates)
    sandbox.wait_for(lambda request: request.path == P and request.status)
    sandbox.stop()
    for asker in askers:
        asker.join(10)
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionRefusedError):
        ask(sandbox, "/health")


# --- the command line -----------------------------------------------------------------------------


def start(*arguments: str, cwd: Path, program: Path = PROGRAM, **how: Any) -> Any:
    command, pipes = [sys.executable, program, *arguments], {"stdout": -1, "stderr": -1}
    return subprocess.Popen(command, cwd=cwd, text=True, encoding="utf-8", **pipes, **how)


def end(*arguments: str, cwd: Path, program: Path = PROGRAM, **how: Any) -> tuple[int, str, str]:
    """Return how a command of the sandbox ended: its exit code, stdout and stderr."""
    with start(*arguments, cwd=cwd, program=program, stdin=subprocess.DEVNULL, **how) as process:
        output, errors = process.communicate(timeout=30)
    return process.returncode, output, errors


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("signum", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_serving_until_a_signal(tmp_path: Path, signum: str) -> None:
    """What it prints works from any directory, for this ft.py and for an installed one."""
    log = tmp_path / "log"
    options = ["--fault", r"status,status=402,message=a\, b,path=/v1/me", "--log", str(log)]
    with start(*options, cwd=tmp_path) as process:
        line = process.stdout.readline()
        variables = dict(re.findall(r"(\w+)=(\S+)", line))
        assert line == "export " + " ".join(map("=".join, variables.items())) + "\n"
        assert list(variables) == ["FINETUNING_CONFIG_HOME", "FINETUNING_API_KEY"]
        home = Path(variables["FINETUNING_CONFIG_HOME"])
        assert home.is_absolute() and home.stat().st_mode & 0o077 == 0
        lines = [process.stderr.readline() for _ in range(5)]
        command = f"python3 {PROGRAM.parent.parent / 'ft.py'} list\n"
        assert lines[2::2] == [command, f"unset {' '.join(variables)}\n"]
        ft = [sys.executable, *command.split()[1:-1], "me"]
        how: Any = {"cwd": "/", "env": {**os.environ, **variables}, "capture_output": True}
        failed, worked = (subprocess.run(ft, **how) for _ in range(2))
        assert b"error: a, b" in failed.stderr and b"Jane Doe" in worked.stdout
        process.send_signal(getattr(signal, signum))
        assert process.communicate(timeout=20) == ("", "")
    assert process.returncode == 0
    assert not home.exists()
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(entry["status"], entry["target"]) for entry in logged] == [
        (402, "/v1/me"),
        (200, "/v1/me"),
    ]


def test_a_library_that_is_kept(tmp_path: Path) -> None:
    """A second command finds the track of the first, wherever that one's ports were."""
    fast = ("--keep", "my demo", "--seconds", "0.1")
    code, output, _ = end(*fast, "generate", "--no-wait", "first song", cwd=tmp_path)
    track = output.partition("id=")[2].split()[0]
    time.sleep(0.1)
    assert code == 0 and track in (tmp_path / "my demo" / "library.json").read_text()
    assert "completed" in end(*fast, "get", track, cwd=tmp_path)[1]
    assert end(*fast, "download", track, "-o", "x.mp3", cwd=tmp_path)[0] == 0
    assert end(*fast, "delete", "--yes", track, cwd=tmp_path)[0] == 0
    assert track not in end(*fast, "list", cwd=tmp_path)[1]
    assert "1967" in end(*fast, "me", cwd=tmp_path)[1]
    for damage in ("{}", "[", "[]", '{"_generations": 7}'):
        (tmp_path / "my demo" / "library.json").write_text(damage)
        code, _, errors = end(*fast, "list", cwd=tmp_path)
        assert code == 2 and "library.json is damaged" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(("signum", "code"), [("SIGINT", 130), ("SIGTERM", 143)])
def test_signals_while_a_command_runs(tmp_path: Path, signum: str, code: int) -> None:
    """A terminal sends Ctrl-C to the whole group; SIGTERM comes to the sandbox alone."""
    options = ("--keep", "demo", "--", "generate", "song")
    with start(*options, cwd=tmp_path, start_new_session=True) as process:
        assert "queued" in process.stderr.readline()
        send = os.killpg if signum == "SIGINT" else os.kill
        send(process.pid, getattr(signal, signum))
        assert process.wait(20) == code
    assert '"song"' in (tmp_path / "demo" / "library.json").read_text()


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("--fault typo", "unknown fault typo"),
        ("--fault status,500", "'500' is not key=value"),
        ("--fault reset,att=1", "att"),
        ("auth logout", "are about your own keychain"),
        ("-- -v auth login --stdin", "are about your own keychain"),
    ],
)
def test_what_the_command_line_refuses(tmp_path: Path, command: str, message: str) -> None:
    code, output, errors = end(*command.split(), cwd=tmp_path)
    assert (code, output) == (2, "")
    assert message in errors
