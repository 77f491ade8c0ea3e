"""How answers are framed: whatever surrounds a body is understood as RFC 9112 says or refused, and
never becomes part of a track.
"""

from __future__ import annotations

import json
import socket
from typing import Iterator

import jumping_clock
import pytest
from conftest import Result, Runner
from scripted_server import ScriptedServer
from server import Server, reset

BODY = b"ID3" + bytes(range(256)) * 4
CHUNKS = b"".join(b"%x\r\n%b\r\n" % (len(p), p) for p in (BODY[:500], BODY[500:])) + b"0\r\n\r\n"
OLD = b"what was there before"


def wire(*lines: str, body: bytes = BODY, status: str = "HTTP/1.1 200 OK") -> bytes:
    head = "\r\n".join([status, "Content-Type: audio/mpeg", *lines, "", ""])
    return head.encode("latin-1") + body


def download(ft: Runner, data: bytes, code: int) -> Result:
    """Download a track that is answered with `data` alone, however often it is asked for."""
    identifier = ft.sandbox.add_generation(prompt="song")["id"]
    (ft.home / "song.mp3").write_bytes(OLD)
    ft.sandbox.fault("raw", origin="media", data=data, times=None)
    result = jumping_clock.run(ft, "download", identifier, "-o", "song.mp3", check=code)
    assert "Traceback" not in result.stderr and "internal error" not in result.stderr
    (track,) = (path for path in ft.home.iterdir() if "mp3" in path.name)
    assert track.read_bytes() == (OLD if code else BODY)
    return result


# --- Transfer-Encoding ----------------------------------------------------------------------------

CHUNKED = {
    "as usual": ["Transfer-Encoding: chunked"],
    "in capitals": ["TRANSFER-ENCODING: CHUNKED"],
    "a space after it": ["Transfer-Encoding: chunked "],
    "tabs around it": ["Transfer-Encoding:\t\tchunked\t"],
    "on a folded line": ["Transfer-Encoding:", " chunked"],
    "a space before the colon": ["Transfer-Encoding : chunked"],
    "after a line that is no header": ["this is no header", "Transfer-Encoding: chunked"],
    "after a header without a name": [": x", "Transfer-Encoding: chunked"],
    "a bare CR after it": ["Transfer-Encoding: chunked\r"],
    "before a Content-Length": ["Transfer-Encoding: chunked", "Content-Length: 20"],
    "after a Content-Length": ["Content-Length: 20", "Transfer-Encoding: chunked"],
    "after a Content-Length and no header": [
        "Content-Length: 20",
        "?",
        "Transfer-Encoding: chunked",
    ],
}


@pytest.mark.parametrize("lines", CHUNKED.values(), ids=CHUNKED)
def test_chunked_is_understood(ft: Runner, lines: list[str]) -> None:
    download(ft, wire(*lines, body=CHUNKS), 0)


REFUSED = {
    "gzip": ["Transfer-Encoding: gzip"],
    "gzip, chunked": ["Transfer-Encoding: gzip, chunked"],
    "chunked, identity": ["Transfer-Encoding: chunked, identity"],
    "identity": ["Transfer-Encoding: identity"],
    "identityx": ["Transfer-Encoding: identityx"],
    "chunked twice": ["Transfer-Encoding: chunked, chunked"],
    "xchunked": ["Transfer-Encoding: xchunked"],
    "with a parameter": ["Transfer-Encoding: chunked;q=1"],
    "quoted": ['Transfer-Encoding: "chunked"'],
    "nothing": ["Transfer-Encoding: "],
    "a comma": ["Transfer-Encoding: ,"],
    "on two lines": ["Transfer-Encoding: gzip", "Transfer-Encoding: chunked"],
    "on two lines, the other way": ["Transfer-Encoding: chunked", "Transfer-Encoding: gzip"],
    "on two lines twice": ["Transfer-Encoding: chunked", "Transfer-Encoding: chunked"],
    "on a folded line": ["Transfer-Encoding: gzip,", " chunked"],
    "a space that is none": ["Transfer-Encoding: chunked\xa0"],
    "a vertical tab": ["Transfer-Encoding: \x0bchunked"],
    "a name that is none": ["Transfer-Encoding\x0b: chunked"],
    "a space in the name": ["Transfer Encoding: chunked"],
    "the first line folded": [],
}


@pytest.mark.parametrize("length", [[], [f"Content-Length: {len(CHUNKS)}"]])
@pytest.mark.parametrize("lines", REFUSED.values(), ids=REFUSED)
def test_other_codings_are_refused(ft: Runner, lines: list[str], length: list[str]) -> None:
    data = wire(*length, *lines, body=CHUNKS)
    if not lines:
        data = wire(*length, body=CHUNKS).replace(
            b"OK\r\n", b"OK\r\n Transfer-Encoding: chunked\r\n"
        )
    download(ft, data, 3)


def test_a_bare_cr_ends_no_line(ft: Runner) -> None:
    """What stands after it is part of the value, and the Content-Length before it counts."""
    length = f"Content-Length: {len(BODY)}"
    download(ft, wire(length, "X: a\rTransfer-Encoding: gzip\rContent-Length: 5"), 0)


@pytest.mark.parametrize(
    "lines", [["Content-Length:", f" {len(BODY)}"], [f"Content-Length : {len(BODY)}"]]
)
def test_a_length_is_understood(ft: Runner, lines: list[str]) -> None:
    download(ft, wire("no header", *lines), 0)


@pytest.mark.parametrize(
    "lines",
    [
        [f"Content-Length: {len(BODY)}", "Content-Length: 20"],
        [f"Content-Length: {len(BODY)}, 20"],
        [f"Content-Length: {len(BODY)}\xa0"],
        [f"Content-Length: +{len(BODY)}"],
        ["Content-Length: "],
        [f"Content\x00-Length: {len(BODY)}"],
        [],
    ],
)
def test_no_length_or_several(ft: Runner, lines: list[str]) -> None:
    download(ft, wire(*lines), 3)


def test_a_head_that_breaks_off_after_the_length(ft: Runner) -> None:
    """To http.client this is an empty answer, or the whole one where the body needs no bytes."""
    download(ft, wire(f"Content-Length: {len(BODY)}", body=b"")[:-2], 3)


@pytest.mark.parametrize(
    "lines",
    [
        ["Content-Encoding: gzip"],
        ["Content-Encoding: identity", "Content-Encoding: gzip"],
        ["Content-Encoding: identity, br"],
        ["Content-Encoding: x"],
    ],
)
def test_an_encoded_track_is_refused(ft: Runner, lines: list[str]) -> None:
    download(ft, wire(f"Content-Length: {len(BODY)}", *lines), 3)


# --- chunks ---------------------------------------------------------------------------------------

PARTS = (BODY[:256], BODY[256:])
CHUNK_FORMS = {
    "capitals": b"%X\r\n%b\r\n",
    "zeros in front": b"0000%x\r\n%b\r\n",
    "an extension": b'%x;a=b;c="d e"\r\n%b\r\n',
    "spaces before an extension": b"%x \t;a\r\n%b\r\n",
    "spaces at the end": b"%x  \r\n%b\r\n",
}
BROKEN_CHUNKS = {
    "bare LF after the data": b"%x\r\n%b\n",
    "bare LF after the size": b"%x\n%b\r\n",
    "bare LF everywhere": b"%x\n%b\n",
    "no end": b"%x\r\n%b",
    "two more bytes": b"%x\r\n%bxx",
    "CR CR": b"%x\r\n%b\r\r",
    "a line too many": b"%x\r\n%b\r\n\r\n",
    "a space in front": b" %x\r\n%b\r\n",
    "0x": b"0x%x\r\n%b\r\n",
    "a sign": b"+%x\r\n%b\r\n",
    "an underscore": b"0_%x\r\n%b\r\n",
    "no size": b";%x\r\n%b\r\n",
    "too long a size": b"%0100x\r\n%b\r\n",
    "a bare CR": b"%x;a\rb\r\n%b\r\n",
}


def chunks(chunk: bytes) -> bytes:
    return b"".join(chunk % (len(part), part) for part in PARTS)


@pytest.mark.parametrize("end", [b"0\r\n\r\n", b"000;x\r\n\r\n", b"0\r\nX: y\r\nZ: 1\r\n\r\n"])
@pytest.mark.parametrize("chunk", CHUNK_FORMS.values(), ids=CHUNK_FORMS)
def test_chunks_in_any_form(ft: Runner, chunk: bytes, end: bytes) -> None:
    download(ft, wire("Transfer-Encoding: chunked", body=chunks(chunk) + end), 0)


@pytest.mark.parametrize("chunk", BROKEN_CHUNKS.values(), ids=BROKEN_CHUNKS)
def test_chunks_that_are_none(ft: Runner, chunk: bytes) -> None:
    data = wire("Transfer-Encoding: chunked", body=chunks(chunk) + b"0\r\n\r\n")
    assert "broke off" in download(ft, data, 3).stderr


@pytest.mark.parametrize(
    "end", [b"", b"0", b"0\r\n", b"0\n\n", b"0\r\n\n", b"\r\n", b"0\r\nX: y\r\n"]
)
def test_no_end_of_the_chunks(ft: Runner, end: bytes) -> None:
    body = chunks(b"%x\r\n%b\r\n") + end
    download(ft, wire("Transfer-Encoding: chunked", body=body), 3)


def test_trailers_without_end(ft: Runner) -> None:
    body = chunks(b"%x\r\n%b\r\n") + b"0\r\n" + b"X: y\r\n" * 5000 + b"\r\n"
    download(ft, wire("Transfer-Encoding: chunked", body=body), 3)


def test_chunks_that_end_in_a_bare_lf_lose_no_bytes_of_json(ft: Runner) -> None:
    """http.client drops two bytes after each chunk, whatever they are."""
    text = b'{"data": {"email": "jane@example.com"}}'
    body = b"".join(b"1\r\n%c\n" % byte for byte in text) + b"0\r\n\r\n"
    ft.sandbox.fault("raw", data=wire("Transfer-Encoding: chunked", body=body), times=None)
    result = jumping_clock.run(ft, "me", "--json", check=3)
    assert result.stdout == "" and "broke off" in result.stderr


# --- JSON -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("coding", ["gzip", "br", "identity, gzip"])
def test_encoded_json_is_refused(ft: Runner, coding: str) -> None:
    """Even where the body looks as if it were plain."""
    text = b'{"data": {"email": "jane@example.com"}}'
    data = wire(f"Content-Length: {len(text)}", f"Content-Encoding: {coding}", body=text)
    ft.sandbox.fault("raw", data=data, times=None)
    result = jumping_clock.run(ft, "me", "--json", check=3)
    assert result.stdout == "" and coding.rpartition(" ")[2] in result.stderr


def test_identity_is_no_coding(ft: Runner) -> None:
    text = b'{"data": {"email": "jane@example.com"}}'
    data = wire(f"Content-Length: {len(text)}", "Content-Encoding: Identity", body=text)
    ft.sandbox.fault("raw", data=data)
    assert ft("me", "--json", check=0).json == json.loads(text)


# --- what follows on the same connection ----------------------------------------------------------


@pytest.mark.parametrize(
    ("lines", "connections"),
    [
        (["Transfer-Encoding: chunked"], 4),
        (["Transfer-Encoding: chunked "], 4),
        (["Transfer-Encoding: chunked", f"Content-Length: {len(CHUNKS)}"], 8),
        (["Content-Length: 20", "Transfer-Encoding: chunked"], 8),
    ],
)
def test_a_connection_with_two_framings_is_not_used_again(
    ft: Runner, lines: list[str], connections: int
) -> None:
    with ScriptedServer(lambda _: iter([wire(*lines, body=CHUNKS)])) as server:
        ids = [ft.sandbox.add_generation(audioUrl=f"{server.url}/{n}")["id"] for n in range(8)]
        ft("download", *ids, "-o", "tracks/", check=0)
    assert server.accepted <= connections
    assert (server.accepted == 8) == (connections == 8)
    assert {path.read_bytes() for path in (ft.home / "tracks").iterdir()} == {BODY}


# --- refused before the request was read ----------------------------------------------------------

ID = "07e8d430-2310-4c57-87a8-cf1e6db376f7"
PLAYLIST = "5ab3ec64-6225-4965-acac-49a053609225"
POSTS = {
    "generate": ("generate", "--no-wait", "a song", "--lyrics", "la " * 600),
    "instrumental": ("instrumental", "--no-wait", "a song"),
    "sfx": ("sfx", "generate", "--no-wait", "a bang"),
    "delete": ("delete", "--yes", *(f"{ID}-{n}" for n in range(100))),
    "add": ("playlist", "add", PLAYLIST, ID),
    "remove": ("playlist", "remove", PLAYLIST, ID),
    "move": ("playlist", "move", PLAYLIST, "00000000-0000-4000-8000-00000000000f", ID),
}


class Hasty(Server):
    """Answers as soon as it is connected to, reads nothing and hangs up, so that the system resets
    the connection.
    """

    answer = b""

    def serve(self, connection: socket.socket, number: int) -> None:
        connection.sendall(self.answer)
        reset(connection)
        connection.recv(1)  # and leaves the rest unread


@pytest.fixture
def hasty(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a server that refuses with this status and code before it has read."""
    status, code = request.param
    error = json.dumps({"error": {"code": code, "message": "Not today"}}).encode()
    with Hasty() as server:
        head = (f"Content-Length: {len(error)}",)
        server.answer = wire(*head, body=error, status=f"HTTP/1.1 {status} Refused")
        yield server.url


@pytest.mark.parametrize(
    "hasty", [(401, "INVALID_API_KEY"), (413, "TOO_LARGE"), (429, "RATE_LIMITED")], indirect=True
)
@pytest.mark.parametrize("argv", POSTS.values(), ids=POSTS)
def test_a_refusal_before_the_request_was_read(
    ft: Runner, hasty: str, argv: tuple[str, ...]
) -> None:
    """It is a refusal, and nothing is of unknown outcome."""
    result = jumping_clock.run(ft, *argv, "--base-url", hasty, check=1)
    assert "error: Not today (" in result.stderr
    assert "may have been accepted" not in result.stderr
    assert "outcome unknown" not in result.stderr


@pytest.mark.parametrize("hasty", [(413, "TOO_LARGE")], indirect=True)
def test_a_refusal_of_a_body_that_cannot_be_sent_at_once(ft: Runner, hasty: str) -> None:
    """Sending 20 MB fails in the middle."""
    changes = "ft.format_json = lambda value, indent='': '\"' + 'x' * 20_000_000 + '\"'"
    result = jumping_clock.run(
        ft, "generate", "--no-wait", "x", "--base-url", hasty, changes=changes, check=1
    )
    assert "error: Not today (TOO_LARGE)\n" in result.stderr
