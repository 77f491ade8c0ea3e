"""The stand-in service does what the API description says and misbehaves as told; shown without
ft.
"""

from __future__ import annotations

import gzip
import hashlib
import http.client
import json
import math
import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import threading
import time
import urllib.parse
from pathlib import Path
from typing import Any, Callable, NamedTuple

import faults
import pytest
import sandbox as module
import trustme
from sandbox import Sandbox

PROGRAM = Path(module.__file__)
TRACK = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
NOBODY = "00000000-0000-4000-8000-000000000000"


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
    def code(self) -> str:
        return str(self.json["error"]["code"])


def ask(
    sandbox: Sandbox,
    method: str,
    path: str,
    document: Any = None,
    *,
    key: str | None = "",
    media: bool = False,
    headers: dict[str, str] | None = None,
    body: bytes | None = None,
    context: ssl.SSLContext | None = None,
) -> Reply:
    address = urllib.parse.urlsplit(sandbox.media_url if media else sandbox.api_url)
    assert address.hostname
    if context:
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            address.hostname, address.port, timeout=10, context=context
        )
    else:
        connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    sent = {"Connection": "close", **(headers or {})}
    if not media and key is not None:
        sent["X-API-Key"] = key or sandbox.key
    if document is not None:
        body = json.dumps(document).encode()
    try:
        connection.request(method, path, body, sent)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def wire(
    sandbox: Sandbox, path: str = "/v1/me", media: bool = False, timeout: float = 10
) -> tuple[bytes, str]:
    """The very bytes of an answer, and how they ended: eof or reset."""
    address = urllib.parse.urlsplit(sandbox.media_url if media else sandbox.api_url)
    received = b""
    with socket.create_connection((address.hostname, address.port), timeout) as connection:
        lines = (
            f"GET {path} HTTP/1.1\r\nHost: x\r\nX-API-Key: {sandbox.key}\r\nConnection: "
            "close\r\n\r\n"
        )
        connection.sendall(lines.encode())
        while True:
            try:
                piece = connection.recv(65536)
            except ConnectionResetError:
                return received, "reset"
            if not piece:
                return received, "eof"
            received += piece


def submit(sandbox: Sandbox, tags: str = "lofi chill piano night", **fields: Any) -> Any:
    reply = ask(sandbox, "POST", "/v1/generations", {"tags": tags, **fields})
    assert reply.status == 202, reply
    return reply.data


def media_path(generation_id: str) -> str:
    return f"/audio/{generation_id}.mp3"


# --- keys -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("key", "status", "code"),
    [
        (lambda s: None, 401, "MISSING_API_KEY"),
        (lambda s: "hunter2", 401, "INVALID_API_KEY"),
        (lambda s: "ft_live_" + "0" * 32, 401, "INVALID_API_KEY"),
        (lambda s: s.key_deleted, 401, "ACCOUNT_DELETED"),
        (lambda s: s.key_free, 403, "PRO_PLAN_REQUIRED"),
    ],
)
def test_keys_that_are_refused(
    sandbox: Sandbox, key: Callable[[Sandbox], str | None], status: int, code: str
) -> None:
    reply = ask(sandbox, "GET", "/v1/me", key=key(sandbox))
    assert (reply.status, reply.code) == (status, code)
    assert reply.headers["X-RateLimit-Limit"] == "60"


def test_the_account(sandbox: Sandbox) -> None:
    data = ask(sandbox, "GET", "/v1/me").data
    assert list(data)[:5] == ["id", "email", "name", "tier", "limits"]
    assert data["limits"] == {
        "monthlyGenerations": 2000,
        "generationsUsed": 42,
        "monthlyRemaining": 1958,
        "packCredits": 10,
        "totalRemaining": 1968,
        "queueDepth": 0,
    }
    assert ask(sandbox, "GET", "/v1/me", key=sandbox.key_lifetime).data["tier"] == "lifetime"
    assert all(
        re.fullmatch("ft_live_[0-9a-f]{32}", account.key) for account in sandbox.keys.values()
    )


def test_health_needs_no_key_and_unknown_paths_are_404(sandbox: Sandbox) -> None:
    health = ask(sandbox, "GET", "/health", key=None)
    assert (health.status, health.json) == (200, {"status": "ok"})
    assert health.headers["X-RateLimit-Remaining"] == "60"
    assert ask(sandbox, "GET", "/v1/nothing").code == "NOT_FOUND"
    assert ask(sandbox, "DELETE", "/v1/me").status == 404


def test_a_path_prefix(sandbox: Sandbox) -> None:
    sandbox.prefix = "/gateway"
    assert ask(sandbox, "GET", "/gateway/v1/me").status == 200
    assert ask(sandbox, "GET", "/v1/me").status == 404


# --- generations ----------------------------------------------------------------------------------


@pytest.mark.sandbox(seconds=0.3)
def test_a_generation_goes_through_its_statuses(sandbox: Sandbox) -> None:
    made = submit(sandbox, duration=400, bpm=7, key="C#", scale="minor", language="ja", seed=0)
    assert list(made)[:7] == [
        "id",
        "status",
        "prompt",
        "parameters",
        "webhook",
        "creditsRemaining",
        "createdAt",
    ]
    assert made["parameters"] == {
        "bpm": 60,
        "duration": 210,
        "timesignature": "4",
        "language": "ja",
        "keyscale": "C# minor",
        "seed": 0,
    }
    assert made["creditsRemaining"] == 1967
    assert sandbox.book == [made["id"]]
    assert sandbox.spent == 1
    seen: list[Any] = []
    deadline = time.monotonic() + 10
    while not seen or seen[-1]["status"] != "completed":
        assert time.monotonic() < deadline
        seen.append(ask(sandbox, "GET", "/v1/generations/" + made["id"]).data)
        if seen[-1]["status"] != "completed":
            assert seen[-1]["audioUrl"] is None
    statuses = list(dict.fromkeys(record["status"] for record in seen))
    assert statuses == ["pending", "processing", "completed"]
    record = seen[-1]
    assert list(record)[:17] == [
        "id",
        "title",
        "prompt",
        "status",
        "audioUrl",
        "duration",
        "fileSize",
        "isPublic",
        "playCount",
        "downloadCount",
        "likeCount",
        "parameters",
        "errorMessage",
        "generationTime",
        "webhook",
        "createdAt",
        "completedAt",
    ]
    assert record["audioUrl"] == sandbox.media_url + media_path(made["id"])
    assert record["parameters"]["timesignature"] == 4
    assert ask(sandbox, "GET", media_path(made["id"]), media=True).body == sandbox.track(made["id"])


@pytest.mark.sandbox(seconds=0)
def test_prompts_that_ask_for_trouble(sandbox: Sandbox) -> None:
    failed = submit(sandbox, "please fail, softly")
    record = ask(sandbox, "GET", "/v1/generations/" + failed["id"]).data
    assert (record["status"], record["audioUrl"]) == ("failed", None)
    assert record["errorMessage"]
    endless = submit(sandbox, "forever young")["id"]
    assert ask(sandbox, "GET", "/v1/generations/" + endless).data["status"] == "processing"
    sandbox.finish(endless)
    assert ask(sandbox, "GET", "/v1/generations/" + endless).data["status"] == "completed"
    assert submit(sandbox, "failover and rejection are other words")
    spent = sandbox.spent
    refused = ask(sandbox, "POST", "/v1/generations", {"tags": "reject me"})
    assert (refused.status, refused.code, sandbox.spent) == (500, "GENERATION_FAILED", spent)


@pytest.mark.parametrize(
    ("document", "field"),
    [
        ({}, "tags"),
        ({"tags": " "}, "tags"),
        ({"tags": 1}, "tags"),
        ({"tags": "x" * 701}, "tags"),
        ({"tags": "x", "lyrics": "x" * 2001}, "lyrics"),
        ({"tags": "x", "duration": "60"}, "duration"),
        ({"tags": "x", "bpm": True}, "bpm"),
        ({"tags": "x", "bpm": None}, "bpm"),
        ({"tags": "x", "language": "xx"}, "language"),
        ({"tags": "x", "key": "H"}, "key"),
        ({"tags": "x", "scale": "dorian"}, "scale"),
        ({"tags": "x", "timesignature": 4}, "timesignature"),
        ({"tags": "x", "timesignature": "8"}, "timesignature"),
        ({"tags": "x", "seed": "1"}, "seed"),
        ({"tags": "x", "webhook": "http://example.com"}, "webhook"),
    ],
)
def test_fields_that_are_refused(sandbox: Sandbox, document: Any, field: str) -> None:
    reply = ask(sandbox, "POST", "/v1/generations", document)
    assert (reply.status, reply.code) == (400, "VALIDATION_ERROR")
    assert reply.json["error"]["details"]["field"] == field
    assert sandbox.spent == 0


@pytest.mark.parametrize("body", [b"", b"[]", b"{", b'"x"', b"\xff"])
def test_bodies_that_are_refused(sandbox: Sandbox, body: bytes) -> None:
    assert ask(sandbox, "POST", "/v1/generations", body=body).code == "VALIDATION_ERROR"


def test_no_credits(sandbox: Sandbox) -> None:
    reply = ask(sandbox, "POST", "/v1/generations", {"tags": "x"}, key=sandbox.key_broke)
    assert (reply.status, reply.code) == (402, "MONTHLY_LIMIT_REACHED")
    sandbox.keys["broke"].pack = 1
    made = ask(sandbox, "POST", "/v1/generations", {"tags": "x"}, key=sandbox.key_broke)
    assert made.data["creditsRemaining"] == 0


@pytest.mark.sandbox(queue_limit=2)
def test_the_queue_is_full(sandbox: Sandbox) -> None:
    first = submit(sandbox, "forever")["id"]
    submit(sandbox, "forever")
    reply = ask(sandbox, "POST", "/v1/generations", {"tags": "one more"})
    assert (reply.status, reply.code) == (429, "QUEUE_FULL")
    assert int(reply.headers["Retry-After"]) > 0
    assert ask(sandbox, "GET", "/v1/me").data["limits"]["queueDepth"] == 2
    assert (
        ask(sandbox, "POST", "/v1/generations", {"tags": "x"}, key=sandbox.key_other).status == 202
    )
    sandbox.finish(first)
    assert submit(sandbox, "room again")


@pytest.mark.sandbox(rate_limits=True, window=0.6, queue_limit=99)
def test_rate_limits_are_per_user_and_kind_and_end_with_the_window(sandbox: Sandbox) -> None:
    for left in range(9, -1, -1):
        reply = ask(sandbox, "POST", "/v1/generations", {"tags": "x"})
        assert reply.status == 202
        assert reply.headers["X-RateLimit-Limit"] == "10"
        assert reply.headers["X-RateLimit-Remaining"] == str(left)
    over = ask(sandbox, "POST", "/v1/generations", {"tags": "x"})
    assert (over.status, over.code) == (429, "GENERATION_RATE_LIMITED")
    assert over.headers["Retry-After"] == "1" == str(over.json["error"]["retryAfter"])
    assert ask(sandbox, "GET", "/v1/me").headers["X-RateLimit-Remaining"] == "59"
    assert (
        ask(sandbox, "POST", "/v1/generations", {"tags": "x"}, key=sandbox.key_other).status == 202
    )
    deadline = time.monotonic() + 10
    while ask(sandbox, "POST", "/v1/generations", {"tags": "x"}).status == 429:
        assert time.monotonic() < deadline
    assert sandbox.spent == 12


@pytest.mark.sandbox(rate_limits=True)
def test_sixty_reads_a_minute(sandbox: Sandbox) -> None:
    replies = [ask(sandbox, "GET", "/v1/playlists") for _ in range(61)]
    assert [reply.status for reply in replies] == [200] * 60 + [429]
    assert replies[-1].code == "RATE_LIMITED"
    assert 50 <= int(replies[-1].headers["Retry-After"]) <= 60


def test_lists_have_pages(sandbox: Sandbox) -> None:
    whole: list[Any] = []
    offset: int | None = 0
    while offset is not None:
        page = ask(sandbox, "GET", f"/v1/generations?limit=7&offset={offset}").data
        whole += page["generations"]
        assert page["hasMore"] is (page["nextOffset"] is not None)
        offset = page["nextOffset"]
    ids = [record["id"] for record in whole]
    assert len(ids) == len(set(ids)) > 36
    assert len(ask(sandbox, "GET", "/v1/generations").data["generations"]) == 20
    newest = submit(sandbox)["id"]
    assert ask(sandbox, "GET", "/v1/generations?limit=1").data["generations"][0]["id"] == newest
    for status in module.STATUSES:
        found = ask(sandbox, "GET", f"/v1/generations?limit=99&status={status}").data["generations"]
        assert found and {record["status"] for record in found} <= {status, "completed"}
    kinds = ask(sandbox, "GET", "/v1/generations?type=instrumental").data["generations"]
    assert {record["type"] for record in kinds} == {"instrumental"}
    for wrong in ("limit=100", "limit=0", "limit=x", "offset=-1", "status=done", "type=noise"):
        assert ask(sandbox, "GET", "/v1/generations?" + wrong).code == "VALIDATION_ERROR"


def test_the_library_shows_what_records_can_hold(sandbox: Sandbox) -> None:
    records = ask(sandbox, "GET", "/v1/generations?limit=99").data["generations"]
    shapes = {re.sub("[0-9]+", "0", record["createdAt"]) for record in records}
    assert shapes == {"0-0-0 0:0:0", "0-0-0T0:0:0.0Z"}
    durations = {type(record["duration"]) for record in records}
    assert durations == {int, float, type(None)}
    assert {type(record["fileSize"]) for record in records} == {int, type(None)}
    assert any(ord(character) > 0x1F000 for record in records for character in record["prompt"])
    assert any("\u3040" < record["prompt"][0] < "\u30ff" for record in records)
    assert all(
        (record["audioUrl"] is None) == (record["status"] != "completed") for record in records
    )
    assert {record["title"] for record in records} > {None}
    for record in records:
        if record["fileSize"]:
            assert record["fileSize"] == len(sandbox.track(record["id"]))


def test_two_sandboxes_have_the_same_library() -> None:
    with Sandbox() as one, Sandbox() as other, Sandbox(library=False) as empty:
        assert list(one.generations) == list(other.generations)
        assert list(one.playlists) == list(other.playlists)
        assert not empty.generations
        assert not empty.playlists


def test_a_connection_may_be_kept(sandbox: Sandbox) -> None:
    address = urllib.parse.urlsplit(sandbox.api_url)
    assert address.hostname
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    for _ in range(3):
        connection.request("GET", "/health")
        assert connection.getresponse().read() == b'{"status":"ok"}'
    connection.close()
    assert sandbox.connections() == 1


def test_records_can_be_changed_and_added(sandbox: Sandbox) -> None:
    sandbox.generations[TRACK]["title"] = "\x1b[31mred"
    assert ask(sandbox, "GET", "/v1/generations/" + TRACK).data["title"] == "\x1b[31mred"
    added = sandbox.add_generation(
        prompt="mine", status="failed", errorMessage="no luck", extra=[1]
    )
    assert ask(sandbox, "GET", "/v1/generations/" + added["id"]).data == added
    assert added["errorMessage"] == "no luck"
    assert (
        ask(sandbox, "GET", "/v1/generations/" + added["id"], key=sandbox.key_other).status == 404
    )
    assert ask(sandbox, "GET", "/v1/generations/" + NOBODY).code == "NOT_FOUND"


def test_bulk_delete(sandbox: Sandbox) -> None:
    theirs = sandbox.add_generation(owner="other")["id"]
    reply = ask(sandbox, "POST", "/v1/generations/bulk-delete", {"ids": [TRACK, theirs, TRACK]})
    reason = "Track not found or not owned by you"
    assert reply.data == {
        "deleted": [TRACK],
        "errors": [{"id": theirs, "error": reason}, {"id": TRACK, "error": reason}],
    }
    nothing = ask(sandbox, "POST", "/v1/generations/bulk-delete", {"ids": [NOBODY]})
    assert (nothing.status, nothing.data["deleted"]) == (200, [])
    assert ask(sandbox, "GET", "/v1/generations/" + TRACK).status == 404
    assert ask(sandbox, "GET", media_path(TRACK), media=True).status == 404
    another = sandbox.add_generation()["id"]
    assert ask(sandbox, "POST", "/v1/generations/bulk-delete", {"ids": [another]}).data == {
        "deleted": [another]
    }
    for ids in ([], ["x"] * 101, "x", [1], None):
        wrong = ask(sandbox, "POST", "/v1/generations/bulk-delete", {"ids": ids})
        assert wrong.code == "VALIDATION_ERROR"
    assert ask(sandbox, "POST", "/v1/generations/bulk-delete", {"ids": ["x"] * 100}).status == 200


# --- playlists ------------------------------------------------------------------------------------


def playlist(sandbox: Sandbox, name: str) -> str:
    return next(key for key, record in sandbox.playlists.items() if record["name"] == name)


def test_the_playlists_of_the_library(sandbox: Sandbox) -> None:
    records = ask(sandbox, "GET", "/v1/playlists").data["playlists"]
    names = [record["name"] for record in records]
    assert {"Focus Beats", "Deep Work", "Drafts", "Album", "chill", "Chill"} < set(names)
    assert "Night Shift" not in names
    assert any(record["isPublic"] for record in records)
    focus = next(record for record in records if record["name"] == "Focus Beats")
    assert list(focus)[:8] == [
        "id",
        "name",
        "description",
        "trackCount",
        "totalDuration",
        "isPublic",
        "createdAt",
        "updatedAt",
    ]
    assert (focus["trackCount"], focus["totalDuration"]) == (14, 42 * 60)
    shown = ask(sandbox, "GET", "/v1/playlists/" + focus["id"]).data
    assert shown["isOwner"] is True
    assert len(shown["tracks"]) == 14
    assert list(shown["tracks"][0]) == [
        "id",
        "title",
        "prompt",
        "status",
        "audioUrl",
        "duration",
        "isPublic",
        "createdAt",
    ]
    public = ask(sandbox, "GET", "/v1/playlists/" + playlist(sandbox, "Night Shift"))
    assert public.data["isOwner"] is False
    assert (
        ask(sandbox, "GET", "/v1/playlists/" + playlist(sandbox, "Private Matters")).status == 404
    )


def test_adding_to_a_playlist(sandbox: Sandbox) -> None:
    def add(name: str, *ids: str) -> Reply:
        target = sandbox.playlists and playlist(sandbox, name) if name != NOBODY else NOBODY
        return ask(sandbox, "POST", f"/v1/playlists/{target}/tracks", {"trackIds": ids})

    def reasons(reply: Reply) -> list[str]:
        assert (reply.status, reply.code) == (400, "ADD_FAILED")
        return [item["error"] for item in reply.json["error"]["details"]]

    theirs = sandbox.add_generation(owner="other", isPublic=True)["id"]
    hidden = sandbox.add_generation(owner="other")["id"]
    public = sandbox.add_generation(isPublic=True)["id"]
    assert add("Chill", TRACK).data == {"added": [TRACK]}
    assert add("Chill", TRACK, public).data == {
        "added": [public],
        "errors": [{"trackId": TRACK, "error": "Track already in playlist"}],
    }
    assert sandbox.playlists[playlist(sandbox, "Chill")]["trackCount"] == 2
    assert reasons(add("Chill", NOBODY, theirs, hidden)) == ["Track not found"] * 3
    assert reasons(add("Open Studio", TRACK)) == ["Cannot add private track to public playlist"]
    assert add("Open Studio", public, theirs).data == {"added": [public, theirs]}
    assert reasons(add("Night Shift", public)) == ["Not authorized to modify this playlist"]
    assert reasons(add("Private Matters", public)) == ["Playlist not found"]
    assert reasons(add(NOBODY, public)) == ["Playlist not found"]
    assert add("Chill").code == "VALIDATION_ERROR"


def test_removing_from_a_playlist(sandbox: Sandbox) -> None:
    focus = playlist(sandbox, "Focus Beats")
    first = sandbox.contents[focus][0]
    path = f"/v1/playlists/{focus}/tracks/bulk-remove"
    reason = "Track not found in playlist or not authorized"
    reply = ask(sandbox, "POST", path, {"trackIds": [first, TRACK]})
    assert reply.data == {"removed": [first], "errors": [{"trackId": TRACK, "error": reason}]}
    assert ask(sandbox, "POST", path, {"trackIds": [TRACK]}).status == 200
    assert ask(sandbox, "GET", "/v1/generations/" + first).status == 200
    assert sandbox.playlists[focus]["trackCount"] == 13
    theirs = f"/v1/playlists/{playlist(sandbox, 'Night Shift')}/tracks/bulk-remove"
    assert ask(sandbox, "POST", theirs, {"trackIds": [first]}).data["errors"][0]["error"] == reason


def test_moving_between_playlists(sandbox: Sandbox) -> None:
    drafts, album, studio = (playlist(sandbox, name) for name in ("Drafts", "Album", "Open Studio"))
    ids = list(sandbox.contents[drafts])

    def move(target: str, *tracks: str) -> Reply:
        body = {"trackIds": tracks, "targetPlaylistId": target}
        return ask(sandbox, "POST", f"/v1/playlists/{drafts}/tracks/move", body)

    assert move(album, *ids[:2], NOBODY).data == {
        "moved": ids[:2],
        "errors": [{"trackId": NOBODY, "error": "Track not found in playlist or not authorized"}],
    }
    assert sandbox.contents[drafts] == ids[2:]
    assert sandbox.contents[album][-2:] == ids[:2]
    failed = move(studio, ids[2])
    assert (failed.status, failed.code) == (400, "MOVE_FAILED")
    assert failed.json["error"]["details"] == [
        {"trackId": ids[2], "error": "Cannot add private track to public playlist"}
    ]
    assert sandbox.contents[drafts] == ids[2:]
    assert move(NOBODY, ids[2]).json["error"]["details"][0]["error"] == "Playlist not found"
    assert move(drafts, ids[2]).code == "VALIDATION_ERROR"


# --- newer endpoints ------------------------------------------------------------------------------


@pytest.mark.sandbox(seconds=0)
def test_instrumentals(sandbox: Sandbox) -> None:
    body = {
        "prompt": "harp",
        "duration": 50,
        "enhance": False,
        "webhook": "https://example.com/hook",
    }
    made = ask(sandbox, "POST", "/v1/instrumental", body).data
    assert made["parameters"]["duration"] == 45
    assert made["webhook"] == "https://example.com/hook"
    record = ask(sandbox, "GET", "/v1/generations/" + made["id"]).data
    assert (record["type"], record["status"], record["webhook"]) == (
        "instrumental",
        "completed",
        made["webhook"],
    )
    assert sandbox.book == [made["id"]]
    assert len(sandbox.posts()) == 1


@pytest.mark.sandbox(seconds=0)
def test_sound_effects(sandbox: Sandbox) -> None:
    made = ask(sandbox, "POST", "/v1/sound-effects", {"prompt": "door", "duration": 2.5}).data
    record = ask(sandbox, "GET", "/v1/sound-effects/" + made["id"]).data
    assert list(record) == [
        "id",
        "status",
        "prompt",
        "requestedDuration",
        "audioUrl",
        "duration",
        "webhook",
        "dailyRemaining",
        "errorMessage",
        "createdAt",
        "completedAt",
    ]
    assert (record["status"], record["duration"]) == ("completed", 2.5)
    assert ask(sandbox, "GET", media_path(made["id"]), media=True).body == sandbox.track(made["id"])
    assert ask(sandbox, "GET", "/v1/sound-effects").data == {
        "soundEffects": [record],
        "hasMore": False,
        "nextOffset": None,
    }
    assert ask(sandbox, "GET", "/v1/sound-effects/" + NOBODY).status == 404
    assert sandbox.spent == 0


# --- media ----------------------------------------------------------------------------------------


@pytest.mark.needs("mpg123", "ffprobe")
@pytest.mark.parametrize("seconds", [5, 60, 90.3, 210])
def test_tracks_are_music_of_the_right_length(
    sandbox: Sandbox, tmp_path: Path, seconds: float
) -> None:
    made = sandbox.add_generation(duration=seconds, prompt="夜 🌃")["id"]
    file = tmp_path / "track.mp3"
    file.write_bytes(ask(sandbox, "GET", media_path(made), media=True).body)
    test = subprocess.run(["mpg123", "-t", file], capture_output=True, text=True, check=True)
    assert not re.search("(?i)warning|error|resync|junk", test.stderr), test.stderr
    entries = "format=duration:format_tags=title"
    command = ["ffprobe", "-v", "error", "-show_entries", entries, "-of", "json", str(file)]
    probe = subprocess.run(command, capture_output=True, text=True, check=True)
    assert not probe.stderr
    shown = json.loads(probe.stdout)["format"]
    assert math.isclose(float(shown["duration"]), seconds, abs_tol=0.1)
    assert shown["tags"]["title"] == "夜 🌃"
    decode = ["mpg123", "-q", "-w", "-", str(file)]
    wav = subprocess.run(decode, capture_output=True, check=True).stdout
    assert math.isclose((len(wav) - 44) / 2 / 24000, seconds, abs_tol=0.1)
    samples = memoryview(wav[44:]).cast("h")
    assert max(samples) > 8000, "not silence"


def test_every_track_is_its_own(sandbox: Sandbox) -> None:
    tracks = {
        hashlib.sha256(sandbox.track(sandbox.add_generation()["id"])).digest() for _ in range(400)
    }
    assert len(tracks) == 400


def test_media_headers_and_ranges(sandbox: Sandbox) -> None:
    whole = sandbox.track(TRACK)

    def fetch(method: str = "GET", path: str = media_path(TRACK), **headers: str) -> Reply:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(sandbox, method, path, media=True, headers=names)

    full = fetch()
    tag = full.headers["ETag"]
    assert (full.status, full.body) == (200, whole)
    assert re.fullmatch('"[0-9a-f]+"', tag)
    assert full.headers["Content-Length"] == str(len(whole))
    assert full.headers["Accept-Ranges"] == "bytes"
    assert full.headers["Content-Type"] == "audio/mpeg"
    head = fetch("HEAD")
    assert (head.status, head.body, head.headers["Content-Length"]) == (200, b"", str(len(whole)))
    part = fetch(Range="bytes=1000-", If_Range=tag)
    assert (part.status, part.body) == (206, whole[1000:])
    assert part.headers["Content-Range"] == f"bytes 1000-{len(whole) - 1}/{len(whole)}"
    assert fetch(Range="bytes=10-19").body == whole[10:20]
    assert fetch(Range="bytes=-10").body == whole[-10:]
    assert fetch(Range="bytes=10-", If_Range='"other"').status == 200
    beyond = fetch(Range=f"bytes={len(whole)}-")
    assert (beyond.status, beyond.headers["Content-Range"]) == (416, f"bytes */{len(whole)}")
    pending = next(
        record for record in sandbox.generations.values() if record["status"] == "pending"
    )
    assert fetch(path=media_path(pending["id"])).status == 404
    assert fetch(path="/").status == 404
    assert fetch("POST").status == 405


@pytest.mark.sandbox(track_bytes=1_000_000_007)
def test_a_gigabyte_is_made_as_it_is_sent(sandbox: Sandbox) -> None:
    head = ask(sandbox, "HEAD", media_path(TRACK), media=True)
    assert head.headers["Content-Length"] == "1000000007"
    tail = ask(sandbox, "GET", media_path(TRACK), media=True, headers={"Range": "bytes=999999900-"})
    assert len(tail.body) == 107
    assert tail.headers["Content-Range"] == "bytes 999999900-1000000006/1000000007"


# --- the log, gates, threads ----------------------------------------------------------------------


def test_the_log(sandbox: Sandbox) -> None:
    ask(sandbox, "GET", "/v1/generations?limit=2&status=pending", headers={"X-Test": "1"})
    ask(sandbox, "POST", "/v1/generations", {"tags": "x"})
    ask(sandbox, "GET", media_path(TRACK), media=True)
    first, second, third = sandbox.requests
    assert (first.origin, first.method, first.path, first.status) == (
        "api",
        "GET",
        "/v1/generations",
        200,
    )
    assert first.query == {"limit": "2", "status": "pending"}
    assert (first.headers["x-test"], first.headers["X-API-KEY"]) == ("1", sandbox.key)
    assert (second.json, second.status) == ({"tags": "x"}, 202)
    assert sandbox.posts() == [second]
    assert (third.origin, third.headers["X-API-Key"]) == ("media", None)
    assert first.time <= second.time <= third.time
    assert sandbox.wait_for(lambda request: request.origin == "media") is third
    with pytest.raises(TimeoutError, match="/v1/generations"):
        sandbox.wait_for(lambda request: False, timeout=0.01)
    assert sandbox.connections() == 2
    assert sandbox.connections("media") == 1


def test_gates_hold_requests_before_or_after_the_work(sandbox: Sandbox) -> None:
    for work in (False, True):
        gate = sandbox.hold("/v1/generations", method="POST", work=work)
        spent, replies = sandbox.spent, []
        asker = threading.Thread(target=lambda: replies.append(submit(sandbox)))  # noqa: B023
        asker.start()
        assert gate.reached.wait(10)
        assert sandbox.posts()[-1].status is None
        assert sandbox.spent == spent + work
        assert not replies
        gate.release()
        asker.join(10)
        assert replies
        assert sandbox.spent == spent + 1


def test_stopping_ends_everything() -> None:
    before = set(threading.enumerate())
    sandbox = Sandbox().start()
    gate = sandbox.hold("/v1/me")
    stalled = sandbox.fault("stall", path="/health")
    dripping = sandbox.fault("drip", path="/v1/playlists", interval=60)

    def get(path: str) -> None:
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(sandbox, "GET", path)

    askers = [
        threading.Thread(target=get, args=(path,))
        for path in ("/health", "/v1/playlists", "/v1/me")
    ]
    for asker in askers:
        asker.start()
    address = urllib.parse.urlsplit(sandbox.api_url)
    with socket.create_connection((address.hostname, address.port)) as idle:
        assert gate.reached.wait(10)
        assert stalled.reached.wait(10)
        sandbox.wait_for(lambda request: request.path == "/v1/playlists" and request.status)
        assert len(dripping.hits) == 1
        started = time.monotonic()
        sandbox.stop()
        assert time.monotonic() - started < 1
        assert idle.recv(1) == b""
    for asker in askers:
        asker.join(10)
    assert set(threading.enumerate()) <= before
    with pytest.raises(ConnectionRefusedError):
        ask(sandbox, "GET", "/health")


def test_a_hundred_sandboxes_start_and_stop_quickly() -> None:
    started = time.monotonic()
    for _ in range(100):
        with Sandbox():
            pass
    assert time.monotonic() - started < 10


# --- faults ---------------------------------------------------------------------------------------


def test_faults_choose_their_requests(sandbox: Sandbox) -> None:
    fault = sandbox.fault("status", status=503, path="/v1/me", method="GET", times=2, after=1)
    statuses = [ask(sandbox, "GET", "/v1/me").status for _ in range(4)]
    assert statuses == [200, 503, 503, 200]
    assert ask(sandbox, "GET", "/v1/me/x").status == 404
    assert fault.hits == sandbox.requests[1:3]
    sandbox.fault("status", status=500, origin=None, times=None)
    assert ask(sandbox, "GET", media_path(TRACK), media=True).status == 500
    assert [ask(sandbox, "GET", "/health").status for _ in range(3)] == [500] * 3
    sandbox.heal()
    assert ask(sandbox, "GET", "/health").status == 200


def test_mistakes_in_faults_are_told(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="unknown fault typo; there are array, "):
        sandbox.fault("typo")
    with pytest.raises(ValueError, match="stauts"):
        sandbox.fault("status", stauts=500)
    with pytest.raises(ValueError, match="pp"):
        sandbox.fault("random", pp=1)


@pytest.mark.parametrize(
    ("kind", "params", "expected", "end"),
    [
        ("close", {}, b"", "eof"),
        ("reset", {}, b"", "reset"),
        ("close", {"where": "headers", "at": 20}, rb"HTTP/1.1 200 OK\r\nDat", "eof"),
        ("reset", {"where": "headers", "at": 20}, rb"HTTP/1.1 200 OK\r\nDat", "reset"),
        ("close", {"where": "headers"}, rb"HTTP/1.1 200 OK\r\n(?!.*\r\n\r\n).*", "eof"),
        ("short", {"at": 3}, rb'HTTP/1.1 200 .*\r\n\r\n\{"d', "eof"),
        ("reset", {"where": "body", "at": 3}, rb'HTTP/1.1 200 .*\r\n\r\n\{"d', "reset"),
        ("garbage", {}, rb"\x00.*", "eof"),
        ("raw", {"data": b"abc"}, b"abc", "eof"),
        ("raw", {"data": r"HTTP/1.1 299 \xff\r\n\r\n"}, rb"HTTP/1.1 299 \xff\r\n\r\n", "eof"),
        ("bad-header", {}, rb"HTTP/1.1 200 OK\r\nthis is no header\r\n.*", "eof"),
        ("many-headers", {}, rb"HTTP/1.1 200 OK\r\n(X-Header-\d+: x\r\n){300}.*", "eof"),
        ("long-header", {}, rb"HTTP/1.1 200 OK\r\nX-Long: x{70000}\r\n.*", "eof"),
        ("header", {"name": "Content-Length"}, rb"(?i)(?!.*content-length).*", "eof"),
        (
            "chunked",
            {},
            rb".*Transfer-Encoding: chunked.*\r\n\r\n[0-9a-f]+\r\n.*\}\}\r\n0\r\n\r\n",
            "eof",
        ),
        ("chunked", {"at": 3}, rb'.*\r\n\r\n3\r\n\{"d\r\n', "eof"),
        ("chunked", {"at": 3, "boundary": False}, rb'.*\r\n\r\n3\r\n\{"d\r\n400\r\nonly.*', "eof"),
        ("no-length", {}, rb"(?i)(?!.*content-length).*\}\}", "eof"),
        ("no-length", {"at": 2}, rb'(?i)(?!.*content-length).*\r\n\r\n\{"', "eof"),
        ("long", {}, rb".*\}\}x{10}", "eof"),
        ("two-lengths", {}, rb".*(\r\nContent-Length: .*){2}", "eof"),
        ("bad-length", {}, rb".*\r\nContent-Length: lots\r\n.*", "eof"),
    ],
)
def test_broken_answers(
    sandbox: Sandbox, kind: str, params: Any, expected: bytes, end: str
) -> None:
    sandbox.fault(kind, **params)
    received, ended = wire(sandbox)
    assert re.fullmatch(expected, received, re.DOTALL), received[:500]
    assert ended == end
    whole = kind in ("raw", "garbage") or (
        kind in ("close", "reset") and params.get("where") != "body"
    )
    assert sandbox.wait_for(lambda request: request.sent).status == (None if whole else 200)
    assert wire(sandbox)[0].startswith(b"HTTP/1.1 200 OK\r\n")


@pytest.mark.parametrize(
    ("kind", "params", "test"),
    [
        ("html", {}, lambda body: body.startswith(b"<!DOCTYPE html>")),
        ("empty", {}, lambda body: body == b""),
        ("text", {}, lambda body: body == b"hello\n"),
        ("array", {}, lambda body: body == b"[]"),
        ("string", {}, lambda body: body == b'"hello"'),
        ("null", {}, lambda body: body == b"null"),
        ("body", {"data": "{}"}, lambda body: body == b"{}"),
        ("gzip", {}, lambda body: json.loads(gzip.decompress(body))["data"]),
        ("not-utf8", {}, lambda body: b"\xff" in body),
        ("bad-json", {}, lambda body: body.startswith(b'{"data":{') and body[-1:] != b"}"),
        ("nan", {"field": "tier"}, lambda body: b'"tier": NaN, "limits"' in body),
        ("infinity", {}, lambda body: b'"unknown": 1e999}' in body),
        ("big-integer", {}, lambda body: b"7" * 5000 in body),
        ("deep", {}, lambda body: b"[" * 100_000 + b"]" * 100_000 in body),
        (
            "huge",
            {"size": 20_000_000},
            lambda body: len(body) == 20_000_000 and json.loads(body)["data"],
        ),
        ("record", {"tier": "x\x1b"}, lambda body: json.loads(body)["data"]["tier"] == "x\x1b"),
    ],
)
def test_bodies_that_are_not_what_they_should_be(
    sandbox: Sandbox, kind: str, params: Any, test: Callable[[bytes], Any]
) -> None:
    sandbox.fault(kind, **params)
    reply = ask(sandbox, "GET", "/v1/me")
    assert reply.status == 200
    assert test(reply.body), reply.body[:500]


def test_records_of_a_list_are_changed_by_a_fault(sandbox: Sandbox) -> None:
    sandbox.fault("record", audioUrl="file:///etc/passwd")
    records = ask(sandbox, "GET", "/v1/generations?limit=3").data["generations"]
    assert [record["audioUrl"] for record in records] == ["file:///etc/passwd"] * 3


def test_error_answers(sandbox: Sandbox) -> None:
    sandbox.fault("status", status=429, retry_after=7)
    reply = ask(sandbox, "GET", "/v1/me")
    assert (reply.status, reply.code, reply.json["error"]["retryAfter"]) == (429, "RATE_LIMITED", 7)
    assert (reply.headers["Retry-After"], reply.headers["X-RateLimit-Limit"]) == ("7", "60")
    sandbox.fault(
        "status", status=418, code="TEAPOT", message="short", details=[1], retry_after="1_000"
    )
    reply = ask(sandbox, "GET", "/v1/me")
    assert reply.json == {"error": {"code": "TEAPOT", "message": "short", "details": [1]}}
    assert (reply.status, reply.headers["Retry-After"]) == (418, "1_000")
    for body, test in (("html", b"<!DOCTYPE"), ("empty", b"")):
        sandbox.fault("status", status=502, body=body)
        reply = ask(sandbox, "GET", "/v1/me")
        assert reply.status == 502
        assert reply.body[:9] == test
    for body, end in (("truncated", "eof"), ("reset", "reset")):
        sandbox.fault("status", status=500, body=body)
        received, ended = wire(sandbox)
        assert re.fullmatch(rb'HTTP/1.1 500 .*\r\n\r\n\{"error":[^}]*', received, re.DOTALL), (
            received
        )
        assert ended == end
    sandbox.fault("status", status=500, body="huge")
    address = urllib.parse.urlsplit(sandbox.api_url)
    assert address.hostname
    connection = http.client.HTTPConnection(address.hostname, address.port, timeout=10)
    connection.request("GET", "/v1/me")
    answer = connection.getresponse()
    assert (answer.status, answer.headers["Content-Length"]) == (500, "200000000")
    connection.close()


def test_redirects(sandbox: Sandbox) -> None:
    for location, expected in (
        ("self", "/v1/me?x=1"),
        ("/elsewhere", "/elsewhere"),
        ("{media}/x", sandbox.media_url + "/x"),
        ("http://example.com/", "http://example.com/"),
    ):
        sandbox.fault("redirect", status=307, location=location)
        reply = ask(sandbox, "GET", "/v1/me?x=1")
        assert (reply.status, reply.headers["Location"]) == (307, expected)


def test_lost_answers_and_dropped_requests(sandbox: Sandbox) -> None:
    for kind, spent in (
        ("close", 0),
        ("reset", 0),
        ("lost", 1),
        ("html", 1),
        ("short", 1),
        ("status", 0),
    ):
        before = sandbox.spent
        sandbox.fault(kind, path="/v1/generations", method="POST")
        try:
            ask(sandbox, "POST", "/v1/generations", {"tags": "x"})
        except (http.client.HTTPException, OSError):
            assert kind not in ("html", "status")
        assert sandbox.spent == before + spent, kind
    sandbox.fault("status", status=504, work=True)
    assert ask(sandbox, "POST", "/v1/generations", {"tags": "x"}).status == 504
    sandbox.fault("short", work=False)
    with pytest.raises(http.client.IncompleteRead):
        ask(sandbox, "POST", "/v1/generations", {"tags": "x"})
    assert sandbox.spent == len(sandbox.book) == 4


@pytest.mark.parametrize("where", ["start", "headers", "body"])
def test_stalls_end_when_released(sandbox: Sandbox, where: str) -> None:
    fault = sandbox.fault("stall", where=where)
    replies: list[Reply] = []
    asker = threading.Thread(target=lambda: replies.append(ask(sandbox, "GET", "/v1/me")))
    asker.start()
    assert fault.reached.wait(10)
    assert sandbox.requests[0].status == (200 if where == "body" else None)
    assert not replies
    fault.release()
    asker.join(10)
    assert replies[0].data["tier"] == "pro"


def test_a_stall_ends_when_the_client_leaves(sandbox: Sandbox) -> None:
    sandbox.fault("stall", path="/v1/me")
    with pytest.raises(socket.timeout):
        wire(sandbox, timeout=0.1)
    assert sandbox.wait_for(lambda request: request.sent).status is None


def test_delays_and_drips(sandbox: Sandbox) -> None:
    started = time.monotonic()
    sandbox.fault("delay", seconds=0.1)
    assert ask(sandbox, "GET", "/health").status == 200
    assert time.monotonic() - started >= 0.1
    for where in ("start", "headers", "body"):
        started = time.monotonic()
        sandbox.fault("drip", where=where, interval=0.002)
        assert ask(sandbox, "GET", "/health").json == {"status": "ok"}
        assert time.monotonic() - started >= 0.002 * (len('{"status":"ok"}') - 1)


def test_connections_that_do_not_come_about(sandbox: Sandbox) -> None:
    sandbox.fault("refuse")
    with pytest.raises(ConnectionRefusedError):
        ask(sandbox, "GET", "/health")
    assert ask(sandbox, "GET", media_path(TRACK), media=True).status == 200
    sandbox.heal()
    assert ask(sandbox, "GET", "/health").status == 200
    sandbox.down("media")
    with pytest.raises(ConnectionRefusedError):
        ask(sandbox, "GET", media_path(TRACK), media=True)
    sandbox.up("media")
    assert ask(sandbox, "GET", media_path(TRACK), media=True).status == 200
    sandbox.fault("hangup", times=2, data=b"\x15\x03\x01")
    for _ in range(2):
        with pytest.raises((http.client.HTTPException, OSError)):
            ask(sandbox, "GET", "/health")
    assert ask(sandbox, "GET", "/health").status == 200
    assert [request.status for request in sandbox.requests if request.origin == "api"] == [200, 200]


def test_refusing_for_a_while(sandbox: Sandbox) -> None:
    sandbox.fault("refuse", seconds=0.2)
    with pytest.raises(ConnectionRefusedError):
        ask(sandbox, "GET", "/health")
    deadline = time.monotonic() + 10
    while True:
        try:
            assert ask(sandbox, "GET", "/health").status == 200
            break
        except ConnectionRefusedError:
            assert time.monotonic() < deadline


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="a full backlog answers elsewhere")
def test_connecting_takes_for_ever(sandbox: Sandbox) -> None:
    sandbox.fault("unreachable")
    address = urllib.parse.urlsplit(sandbox.api_url)
    with pytest.raises(socket.timeout):
        socket.create_connection((address.hostname, address.port), 0.3)
    sandbox.heal()
    assert ask(sandbox, "GET", "/health").status == 200


def test_faults_of_media(sandbox: Sandbox) -> None:
    whole = sandbox.track(TRACK)

    def fetch(**headers: str) -> Reply:
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        return ask(sandbox, "GET", media_path(TRACK), media=True, headers=names)

    tag = fetch().headers["ETag"]
    sandbox.fault("etag", times=2)
    assert len({tag, fetch().headers["ETag"], fetch().headers["ETag"]}) == 3
    sandbox.fault("weak-etag")
    assert fetch().headers["ETag"] == "W/" + tag
    sandbox.fault("no-etag")
    assert fetch().headers["ETag"] is None
    sandbox.fault("etag", value='"mine"')
    assert fetch().headers["ETag"] == '"mine"'
    sandbox.fault("no-range")
    plain = fetch(Range="bytes=5-")
    assert (plain.status, plain.body, plain.headers["Accept-Ranges"]) == (200, whole, None)
    sandbox.fault("wrong-range")
    shifted = fetch(Range="bytes=1000-")
    assert shifted.headers["Content-Range"] == f"bytes 96-{len(whole) - 1}/{len(whole)}"
    assert shifted.body == whole[96:]
    sandbox.fault("header", origin="media", name="Content-Range", value="bytes 1-2/*")
    lying = fetch(Range="bytes=1000-")
    assert (lying.headers["Content-Range"], lying.body) == ("bytes 1-2/*", whole[1000:])
    sandbox.fault("type", origin="media")
    assert fetch().headers["Content-Type"].startswith("text/html")
    sandbox.fault("gzip", origin="media")
    packed = fetch()
    assert packed.headers["Content-Encoding"] == "gzip"
    assert gzip.decompress(packed.body) == whole
    sandbox.fault("changed")
    changed = fetch(Range="bytes=1000-", If_Range=tag)
    assert changed.status == 200
    assert changed.body != whole
    assert len(changed.body) == len(whole)
    assert changed.body == sandbox.track(TRACK) == fetch().body
    assert changed.headers["ETag"] != tag
    sandbox.fault("ignore-if-range")
    assert fetch(Range="bytes=1000-", If_Range=tag).status == 206
    sandbox.fault("status", origin="media", status=416)
    assert fetch().status == 416
    sandbox.fault("reset", origin="media", where="body", at=5000)
    received, end = wire(sandbox, media_path(TRACK), media=True)
    assert end == "reset"
    assert received.partition(b"\r\n\r\n")[2] == sandbox.track(TRACK)[:5000]


def test_random_faults_are_the_same_each_time() -> None:
    def outcomes(seed: int) -> list[Any]:
        found: list[Any] = []
        with Sandbox(rate_limits=False, queue_limit=999) as sandbox:
            sandbox.fault("random", p=0.5, seed=seed, origin=None)
            for n in range(120):
                try:
                    if n % 2:
                        found.append(ask(sandbox, "POST", "/v1/generations", {"tags": "x"}).status)
                    else:
                        found.append(ask(sandbox, "GET", media_path(TRACK), media=True).status)
                except (http.client.HTTPException, OSError) as error:
                    found.append(type(error).__name__)
            assert sandbox.spent == sum(
                record["prompt"] == "x" for record in sandbox.generations.values()
            )
            assert sandbox.spent > found.count(202) - 10
        return found

    first = outcomes(1)
    assert first == outcomes(1)
    assert first != outcomes(2)
    assert 25 < sum(outcome in (200, 202) for outcome in first) < 95
    assert {"RemoteDisconnected", "ConnectionResetError", 500} < set(first)


# --- TLS ------------------------------------------------------------------------------------------


def test_tls() -> None:
    authority = trustme.CA()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(context)
    trusting = ssl.create_default_context()
    authority.configure_trust(trusting)
    with Sandbox(tls=context) as sandbox:
        assert sandbox.api_url.startswith("https://127.0.0.1:")
        assert ask(sandbox, "GET", "/v1/me", context=trusting).data["tier"] == "pro"
        fetched = ask(sandbox, "GET", media_path(TRACK), media=True, context=trusting)
        assert fetched.body == sandbox.track(TRACK)
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(sandbox, "GET", "/v1/me", context=ssl.create_default_context())
        sandbox.fault("reset", where="body")
        with pytest.raises(
            (OSError, http.client.IncompleteRead)
        ):  # OpenSSL tells few resets from an end
            ask(sandbox, "GET", "/v1/me", context=trusting)
        address = urllib.parse.urlsplit(sandbox.api_url)
        silent = socket.create_connection((address.hostname, address.port))
        assert ask(sandbox, "GET", "/v1/me", context=trusting).status == 200
        started = time.monotonic()
    assert time.monotonic() - started < 1
    silent.close()


# --- the command line -----------------------------------------------------------------------------


def start(
    *arguments: str, cwd: Path, program: Path = PROGRAM, **streams: Any
) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, program, *arguments],
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        encoding="utf-8",
        **streams,
    )


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize("signum", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_serving_until_a_signal(tmp_path: Path, signum: str) -> None:
    log = tmp_path / "log"
    options = ["--fault", r"status,status=503,message=a\, b,path=/v1/me,times=2", "--log", str(log)]
    with start(*options, cwd=tmp_path) as process:
        assert process.stdout
        lines = [process.stdout.readline(), process.stdout.readline()]
        variables = {}
        for line in lines:
            match = re.fullmatch(r"export (\w+)=(\S+)\n", line)
            assert match, line
            variables[match[1]] = match[2]
        home = Path(variables["FINETUNING_CONFIG_HOME"])
        if os.name == "posix":
            assert home.stat().st_mode & 0o077 == 0
        address = urllib.parse.urlsplit(json.loads((home / "config.json").read_text())["baseUrl"])
        assert address.hostname
        statuses = []
        for _ in range(3):
            connection = http.client.HTTPConnection(address.hostname, address.port)
            connection.request(
                "GET", "/v1/me", headers={"X-API-Key": variables["FINETUNING_API_KEY"]}
            )
            answer = connection.getresponse()
            statuses.append((answer.status, json.load(answer).get("error", {}).get("message")))
            connection.close()
        assert statuses == [(503, "a, b"), (503, "a, b"), (200, None)]
        process.send_signal(getattr(signal, signum))
        rest, errors = process.communicate(timeout=20)
    assert (process.returncode, rest) == (0, "")
    assert str(address.port) in errors
    assert len(errors.splitlines()) == 1
    assert not home.exists()
    logged = [json.loads(line) for line in log.read_text().splitlines()]
    logged.sort(key=lambda entry: entry["number"])
    assert [entry["status"] for entry in logged] == [503, 503, 200]
    assert logged[0]["target"] == "/v1/me"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sandbox beside an ft.py that only tells how it was started."""
    for name in ("data", "support"):
        (tmp_path / "tests" / name).mkdir(parents=True)
    for name in ("sandbox.py", "data/loop.mp3", "support/faults.py"):
        (tmp_path / "tests" / name).write_bytes((PROGRAM.parent / name).read_bytes())
    (tmp_path / "ft.py").write_text(
        "import json, os, signal, sys, time, urllib.request as u\n"
        "home = os.environ['FINETUNING_CONFIG_HOME']\n"
        "base = json.load(open(os.path.join(home, 'config.json')))['baseUrl']\n"
        "request = u.Request(base + '/v1/me', headers={'X-API-Key': "
        "os.environ['FINETUNING_API_KEY']})\n"
        "tier = json.load(u.urlopen(request))['data']['tier']\n"
        "signal.signal(signal.SIGTERM, lambda *a: sys.exit(143))\n"
        "try:\n"
        "    print(json.dumps([sys.argv[1:], os.getcwd(), home, tier, os.environ['NO_PROXY']]), "
        "flush=True)\n"
        "    sys.stdin.read()\n"
        "except KeyboardInterrupt:\n"
        "    sys.exit(130)\n"
        "sys.exit(7)\n"
    )
    return tmp_path / "tests" / "sandbox.py"


def test_running_a_command(copy: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "else where"
    elsewhere.mkdir()
    arguments = ["--seconds", "0.5", "generate", "--duration", "5", "a b", "-v", "--", "-x"]
    environment = {**os.environ, "NO_PROXY": "example.com", "http_proxy": "http://127.0.0.1:1"}
    with start(
        *arguments, cwd=elsewhere, program=copy, stdin=subprocess.DEVNULL, env=environment
    ) as process:
        output, errors = process.communicate(timeout=20)
    told, cwd, home, tier, no_proxy = json.loads(output)
    assert told == arguments[2:]
    assert Path(cwd) == elsewhere
    assert not Path(home).exists()
    assert (tier, no_proxy) == ("pro", "example.com,127.0.0.1,localhost,::1")
    assert (process.returncode, errors) == (7, "")
    with start(
        "--", "-v", "list", cwd=elsewhere, program=copy, stdin=subprocess.DEVNULL
    ) as process:
        assert json.loads(process.communicate(timeout=20)[0])[0] == ["-v", "list"]


@pytest.mark.parametrize("command", ["auth logout", "-- -v auth login --stdin"])
def test_it_keeps_off_the_users_keychain(copy: Path, tmp_path: Path, command: str) -> None:
    with start(*command.split(), cwd=tmp_path, program=copy, stdin=subprocess.DEVNULL) as process:
        output, errors = process.communicate(timeout=20)
    assert (process.returncode, output) == (2, "")
    assert "are about your own keychain" in errors


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX signals")
@pytest.mark.parametrize(
    ("signum", "group", "code"), [("SIGINT", True, 130), ("SIGTERM", False, 143)]
)
def test_signals_while_a_command_runs(
    copy: Path, tmp_path: Path, signum: str, group: bool, code: int
) -> None:
    streams: dict[str, Any] = {"stdin": subprocess.PIPE, "start_new_session": True}
    with start("list", cwd=tmp_path, program=copy, **streams) as process:
        assert process.stdout
        home = json.loads(process.stdout.readline())[2]
        number = getattr(signal, signum)
        if group:  # as a terminal does
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        process.wait(20)  # with stdin open, whose end would end it as well
        _, errors = process.communicate()
    assert (process.returncode, errors) == (code, "")
    assert not Path(home).exists()


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("typo", "unknown fault typo"),
        ("status,500", "'500' is not key=value"),
        ("reset,att=1", "att"),
    ],
)
def test_mistakes_on_the_command_line(tmp_path: Path, option: str, message: str) -> None:
    with start("--fault", option, cwd=tmp_path) as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert message in errors


def test_help_lists_every_fault(tmp_path: Path) -> None:
    with start("--help", cwd=tmp_path) as process:
        output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    for name in [*faults.ROWS, *faults.ORIGIN_KINDS, "random"]:
        assert name in output
