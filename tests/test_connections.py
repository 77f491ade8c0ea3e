"""Which requests share a connection, and that no answer is ever taken for that to another request.

Reads and downloads share connections; each submission, each change and each poll has its own.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import ssl
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any, Callable, Iterator

import jumping_clock
import pytest
import sandbox as stand_in
from conftest import FAST, Runner, Tls
from sandbox import Sandbox
from scripted_server import (
    CLOSE,
    RESET,
    Delay,
    Request,
    ScriptedServer,
    Step,
    reply,
    reply_in_chunks,
)
from test_proxy import Proxy

FUZZ_RUNS = max(3, int(os.environ.get("FT_FUZZ", "0")) // 200)


# --- how many connections there are ---------------------------------------------------------------


def by_connection(requests: list[stand_in.Request]) -> dict[int, list[stand_in.Request]]:
    """Group the requests to one origin by their connection."""
    found: dict[int, list[stand_in.Request]] = defaultdict(list)
    for request in requests:
        found[request.connection].append(request)
    return found


def requests_to(service: Sandbox, origin: str) -> list[stand_in.Request]:
    return [request for request in service.requests if request.origin == origin]


def add_tracks(service: Sandbox, count: int) -> list[str]:
    return [str(service.add_generation(seconds=2)["id"]) for _ in range(count)]


def check_tracks(service: Sandbox, directory: Path, ids: list[str]) -> None:
    """Make sure that the directory contains the track of each id, and nothing else."""
    saved = {path.name.rpartition("-")[2][:8]: path.read_bytes() for path in directory.iterdir()}
    assert saved == {identifier[:8]: service.track(identifier) for identifier in ids}


@pytest.mark.sandbox(library=False)
def test_a_listing_of_many_pages_takes_one_connection(ft: Runner) -> None:
    add_tracks(ft.sandbox, 500)
    records = ft("list", "--all", "--json", check=0).json["data"]["generations"]
    assert len({record["id"] for record in records}) == 500
    assert len(ft.sandbox.requests) == 6
    assert ft.sandbox.connections() == 1


@pytest.mark.sandbox(library=False)
def test_forty_tracks_take_at_most_four_connections_to_each_origin(
    ft: Runner, tmp_path: Path
) -> None:
    ids = add_tracks(ft.sandbox, 40)
    ft("download", *ids, "-o", "tracks/", check=0)
    check_tracks(ft.sandbox, tmp_path / "tracks", ids)
    assert len(requests_to(ft.sandbox, "media")) == 40
    assert 1 <= ft.sandbox.connections("media") <= 4
    assert 1 <= ft.sandbox.connections("api") <= 4


@pytest.mark.sandbox(library=False)
def test_a_submission_and_each_poll_have_a_connection_of_their_own(ft: Runner) -> None:
    ft.sandbox.fault("record", path="/v1/generations/.+", times=2, status="processing")
    jumping_clock.run(ft, "generate", "a song", check=0)
    api = requests_to(ft.sandbox, "api")
    assert [request.method for request in api] == ["POST"] + ["GET"] * (len(api) - 1)
    assert len(api) >= 3
    assert len(by_connection(api)) == len(api)


@pytest.mark.sandbox(library=False)
def test_a_poll_does_not_use_the_connection_of_a_read_before_it(ft: Runner, tmp_path: Path) -> None:
    identifier = ft("generate", "--no-wait", "--json", "a song", check=0).json["data"]["id"]
    before = ft.sandbox.connections()
    ft.sandbox.fault("record", path="/v1/generations/.+", times=2, status="processing")
    jumping_clock.run(ft, "download", "--wait", identifier, "-o", "track.mp3", check=0)
    assert (tmp_path / "track.mp3").read_bytes() == ft.sandbox.track(identifier)
    later = [r for r in requests_to(ft.sandbox, "api") if r.connection > before]
    assert len(later) >= 3
    assert len(by_connection(later)) == len(later)


@pytest.mark.sandbox(library=False)
def test_each_chunk_of_a_deletion_has_a_connection_of_its_own(ft: Runner) -> None:
    ids = add_tracks(ft.sandbox, 250)
    ft("delete", "--yes", *ids, check=0)
    assert [(r.method, len(r.json["ids"])) for r in ft.sandbox.requests] == [
        ("POST", 100),
        ("POST", 100),
        ("POST", 50),
    ]
    assert ft.sandbox.connections() == 3


@pytest.mark.sandbox(library=False)
def test_a_post_does_not_use_the_connection_of_a_read_before_it(ft: Runner) -> None:
    ids = add_tracks(ft.sandbox, 250)
    ft.sandbox.add_playlist("Focus")
    ft("playlist", "add", "Focus", *ids, check=0)
    connections = by_connection(ft.sandbox.requests)
    posts = [r for requests in connections.values() for r in requests if r.method == "POST"]
    assert len(posts) == 3
    assert all(len(connections[post.connection]) == 1 for post in posts)


@pytest.mark.parametrize("kind", ["close", "reset", "garbage"])
def test_a_post_whose_connection_dies_is_never_sent_again(ft: Runner, kind: str) -> None:
    """Although a read just before it shows that the service can be reached."""
    ft.sandbox.fault(kind, method="POST", times=None)
    (identifier, *_) = ft.sandbox.generations
    playlist = next(iter(ft.sandbox.playlists.values()))["name"]
    result = jumping_clock.run(ft, "playlist", "add", playlist, identifier)
    assert result.code == 3, repr(result)
    assert [request.method for request in ft.sandbox.requests] == ["GET", "POST"]
    assert ft.sandbox.connections() == 2


# --- one origin's connection is not for another ---------------------------------------------------


def test_each_host_and_port_has_connections_of_its_own(ft: Runner, tmp_path: Path) -> None:
    """127.0.0.1 and localhost are two origins, also if they are the same server and port."""
    service = Service(lambda request, body: iter([reply(body)]))
    with ScriptedServer(service.answer) as media, ScriptedServer(service.answer) as api:
        hosts = [api.url, api.url.replace("127.0.0.1", "localhost"), media.url]
        service.media = [f"{host}/audio" for host in hosts]
        ft.config({"baseUrl": api.url})
        ids = [service.track_id(number) for number in range(24)]
        jumping_clock.run(ft, "download", *ids, "-o", "tracks/", check=0)
    service.check(tmp_path / "tracks", ids)
    for server in (api, media):
        names = defaultdict(set)
        for request in server.requests:
            names[request.connection].add(request.headers["host"])
        assert all(len(seen) == 1 for seen in names.values()), names
        # Loopback as `localhost` may be tried at ::1 first, where nobody listens.
        assert server.accepted == len(names) <= 8
    assert not any(request.target.startswith("/v1") for request in media.requests)
    used = Counter(request.headers["host"] for request in api.requests + media.requests)
    assert len(used) == 3 and used[hosts[1].partition("//")[2]] == used[media.url[7:]] == 8


def test_a_tunnel_through_a_proxy_is_for_its_origin_only(
    ft: Runner, tls: Tls, tmp_path: Path
) -> None:
    with Sandbox(seconds=FAST, rate_limits=False, library=False, tls=tls.context) as service:
        ids = add_tracks(service, 24)
        ft.config({"baseUrl": service.api_url})
        with Proxy() as proxy:
            env = {"SSL_CERT_FILE": str(tls.ca_file), "HTTPS_PROXY": f"http://{proxy.host}"}
            ft("download", *ids, "-o", "tracks/", env=env, check=0)
            ft("list", "--all", "--json", env=env, check=0)
        check_tracks(service, tmp_path / "tracks", ids)
        tunnels = Counter(head.split()[1].decode() for head in proxy.heads)
        assert tunnels == {
            url.partition("//")[2]: service.connections(name)
            for name, url in (("api", service.api_url), ("media", service.media_url))
        }
        assert service.connections("media") <= 4 and service.connections("api") <= 5
        # Nothing but the handshakes and the tunnels' own heads was for the proxy to read.
        assert b"ft_live" not in proxy.seen and b"GET /" not in proxy.seen


# --- connections that end, in every way -----------------------------------------------------------


class Service:
    """A library of numbered tracks, one on each page. Each answer says what was asked for.

    `send(request, body)` says how the answer to a request is sent.
    """

    def __init__(
        self, send: Callable[[Request, bytes], Iterator[Step]], pages: int = 3, size: int = 300
    ) -> None:
        self.send, self.pages, self.size = send, pages, size
        self.media: list[str] = []  # the directories of the tracks, in turn

    @staticmethod
    def track_id(number: int) -> str:
        return f"{number:08d}-0000-4000-8000-000000000000"

    def track(self, identifier: str) -> bytes:
        """Return the track's content, which has no 16 bytes in common with another one's."""
        size = self.size + int(identifier[:8]) % 17
        seeds = (f"{identifier} {number}".encode() for number in range(size // 32 + 1))
        return b"".join(hashlib.sha256(seed).digest() for seed in seeds)[:size]

    def record(self, number: int) -> dict[str, Any]:
        identifier = self.track_id(number)
        url = f"{self.media[number % len(self.media)]}/{identifier}.mp3" if self.media else None
        return {"id": identifier, "title": "t", "status": "completed", "audioUrl": url}

    def body(self, target: str) -> bytes:
        """Return the body that answers GET `target`."""
        number = int((re.findall("[0-9]{8}|(?<=offset=)[0-9]+", target) or ["0"])[0])
        if target.startswith("/audio/"):
            return self.track(self.track_id(number))
        record = {**self.record(number), "echo": target}
        data: dict[str, Any] = record
        if "?" in target:
            is_last = number + 1 >= self.pages
            data = {"generations": [record], "hasMore": not is_last, "nextOffset": number + 1}
        return json.dumps({"success": True, "data": data}).encode()

    def answer(self, request: Request) -> Iterator[Step]:
        return self.send(request, self.body(request.target))

    def check(self, directory: Path, ids: list[str]) -> None:
        """Make sure that the directory contains the track of each id, and nothing else."""
        saved = {
            path.name.rpartition("-")[2][:8]: path.read_bytes() for path in directory.iterdir()
        }
        assert saved == {identifier[:8]: self.track(identifier) for identifier in ids}

    def check_pages(self, document: Any) -> None:
        """Make sure that each page was taken for what it is, in order."""
        records = document["data"]["generations"]
        assert [record["id"] for record in records] == list(map(self.track_id, range(self.pages)))
        offsets = [re.search("offset=([0-9]+)", record["echo"]) for record in records]
        assert [int(found[1]) if found else 0 for found in offsets] == list(range(self.pages))


class Case:
    """What happens to the first connection, and which requests reach the server.

    `first` are the steps that answer its first request, `second` those for its second. The asked
    are pairs of a connection and a page. `attempts` is how often a failure costs an attempt.
    """

    def __init__(
        self,
        first: Callable[[bytes], list[Step]] = lambda body: [reply(body)],
        second: Callable[[bytes], list[Step]] = lambda body: [reply(body)],
        asked: str = "",
        attempts: int = 0,
    ) -> None:
        self.first, self.second, self.attempts = first, second, attempts
        self.asked = [(int(pair[0]), int(pair[1])) for pair in asked.split()]


def lengthen(body: bytes) -> bytes:
    """Return the same JSON with so many spaces that no buffer of ft's holds it."""
    return body[:-1] + b" " * 200_000 + body[-1:]


KEPT = "10 11 12"  # all on the first connection
NOT_KEPT = "10 21 22"  # the first answer ends it
STALE = "10 11 21 22"  # the second request finds it dead, or gets no usable answer
ERROR = reply(b'{"error": {"message": "no", "code": "X"}}', status="503 Service Unavailable")
OTHER = Service(lambda request, body: iter([])).body("/v1/generations?limit=99&offset=2")
FOREVER = "forever"  # stands for an Event that the test sets at its end

CASES = {
    "kept": Case(asked=KEPT),
    "chunks": Case(lambda body: [reply_in_chunks(body, 7)], asked=KEPT),
    "chunks and trailers": Case(lambda body: [reply_in_chunks(body, 7, b"A: b\r\n")], asked=KEPT),
    "an interim answer": Case(
        lambda body: [b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n" + reply(body)], asked=KEPT
    ),
    "in pieces": Case(lambda body: [bytes([byte]) for byte in reply(body)], asked=KEPT),
    "closed in silence": Case(lambda body: [reply(body), CLOSE], asked=NOT_KEPT),
    "reset in silence": Case(lambda body: [reply(body), RESET], asked=NOT_KEPT),
    "closed when used again": Case(second=lambda body: [CLOSE], asked=STALE),
    "reset when used again": Case(second=lambda body: [RESET], asked=STALE),
    "garbage when used again": Case(second=lambda body: [b"\0\xff garbage\r\n\r\n"], asked=STALE),
    "an empty line when used again": Case(second=lambda body: [b"\r\n"], asked=STALE),
    "half a head when used again": Case(second=lambda body: [reply(body)[:9], CLOSE], asked=STALE),
    "leftover bytes": Case(lambda body: [reply(body) + b"x"], asked=NOT_KEPT),
    "a leftover line end": Case(lambda body: [reply(body) + b"\r\n"], asked=NOT_KEPT),
    "a leftover answer": Case(lambda body: [reply(body) + reply(OTHER)], asked=NOT_KEPT),
    "a leftover answer after chunks": Case(
        lambda body: [reply_in_chunks(body, 7) + reply(OTHER)], asked=NOT_KEPT
    ),
    # Over TLS nothing but TLS itself knows of the rest of a record.
    "a leftover answer at the end of a piece": Case(
        lambda body: [reply(body)[:-9], body[-9:] + reply(OTHER)], asked=NOT_KEPT
    ),
    # The end of a long body is read without what follows it.
    "a leftover answer after a long body": Case(
        lambda body: [reply(lengthen(body))[:-9], lengthen(body)[-9:] + reply(OTHER)],
        asked=NOT_KEPT,
    ),
    "HTTP/1.0": Case(lambda body: [reply(body, version="1.0")], asked=NOT_KEPT),
    "HTTP/1.0 and keep-alive": Case(
        lambda body: [reply(body, "Connection: keep-alive", version="1.0")], asked=NOT_KEPT
    ),
    "Connection: close": Case(lambda body: [reply(body, "Connection: close")], asked=NOT_KEPT),
    "close among others": Case(
        lambda body: [reply(body, "connection: x-y, CLOSE")], asked=NOT_KEPT
    ),
    "without a length": Case(lambda body: [reply(body, length=False), CLOSE], asked=NOT_KEPT),
    "a length and chunks": Case(
        lambda body: [reply_in_chunks(body, 7).replace(b"\r\n", b"\r\nContent-Length: 3\r\n", 1)],
        asked=NOT_KEPT,
    ),
    "an error": Case(lambda body: [ERROR], asked="10 20 21 22", attempts=1),
    "a later error": Case(second=lambda body: [ERROR], asked=STALE, attempts=1),
    "a cut body": Case(second=lambda body: [reply(body)[:-9], CLOSE], asked=STALE, attempts=1),
    "a time-out": Case(second=lambda body: [FOREVER], asked=STALE, attempts=1),
    "an empty line and nothing more": Case(second=lambda body: [b"\r\n", FOREVER], asked=STALE),
    "a time-out in the body": Case(
        second=lambda body: [reply(body)[:-9], FOREVER], asked=STALE, attempts=1
    ),
}


@pytest.mark.parametrize("over_tls", [False, True], ids=["http", "tls"])
@pytest.mark.parametrize("name", CASES)
def test_what_becomes_of_a_kept_connection(ft: Runner, tls: Tls, name: str, over_tls: bool) -> None:
    """Whether it is used again, and what is asked again. The listing is right in any case.

    What a dead connection swallowed is asked again at once, without a wait or a word.
    """
    case = CASES[name]
    events = {FOREVER: ft.sandbox.stopping}

    def send(request: Request, body: bytes) -> Iterator[Step]:
        plans = {1: case.first, 2: case.second}
        steps: list[Step] = [reply(body)]
        if request.connection == 1 and request.turn in plans:
            steps = plans[request.turn](body)
        return (events.get(step, step) if isinstance(step, str) else step for step in steps)

    service = Service(send)
    with ScriptedServer(service.answer, tls.context if over_tls else None) as server:
        ft.config({"baseUrl": server.url})
        env = {"SSL_CERT_FILE": str(tls.ca_file)}
        changes = "ft.READ_TIMEOUT = 1.0\n" if "time-out" in name else ""
        result = jumping_clock.run(ft, "list", "--all", "--json", env=env, changes=changes, check=0)
        ft.sandbox.stopping.set()
    service.check_pages(result.json)
    pages = [int((re.findall("offset=([0-9]+)", r.target) or ["0"])[0]) for r in server.requests]
    asked = list(zip((request.connection for request in server.requests), pages))
    assert asked == case.asked
    assert server.accepted == max(connection for connection, _ in case.asked)
    assert len(jumping_clock.slept(ft)) == case.attempts
    if not case.attempts:
        assert result.stderr == ""


def test_an_answer_that_is_not_read_to_its_end_ends_its_connection(
    ft: Runner, tmp_path: Path
) -> None:
    """A page instead of a track is refused unread; the next track needs a new connection."""

    def send(request: Request, body: bytes) -> Iterator[Step]:
        is_first = request.target == f"/audio/{ids[0]}.mp3"
        yield reply(body, "Content-Type: text/html") if is_first else reply(body)

    service = Service(send, size=100_000)
    ids = [service.track_id(number) for number in range(3)]
    with ScriptedServer(service.answer) as api, ScriptedServer(service.answer) as media:
        service.media = [f"{media.url}/audio"]
        ft.config({"baseUrl": api.url})
        changes = "ft.PARALLEL_DOWNLOADS = 1\n"
        result = jumping_clock.run(ft, "download", *ids, "-o", "tracks/", changes=changes)
    assert result.code == 1 and "Downloaded 2 of 3" in result.stdout, repr(result)
    service.check(tmp_path / "tracks", ids[1:])
    assert [request.connection for request in media.requests] == [1, 2, 2]


# --- no answer is ever taken for another ----------------------------------------------------------


class Chaos:
    """Sends each answer in some way that HTTP allows, or spoils the connection after or before it.

    What costs an attempt happens at most once to each request, so that none is given up.
    """

    def __init__(self, seed: int, service: Service, other_targets: list[str]) -> None:
        self._random = random.Random(seed)
        self._service, self._other_targets = service, other_targets
        self._spoilt: set[str] = set()
        service.send = self.send

    def send(self, request: Request, body: bytes) -> Iterator[Step]:
        draw = self._random
        if request.turn > 1 and draw.random() < 0.15:
            endings: list[list[Step]] = [[CLOSE], [RESET], [b"\r\n"], [b"HTTP/", CLOSE]]
            yield from draw.choice(endings)
            return
        if request.target not in self._spoilt and draw.random() < 0.1:
            self._spoilt.add(request.target)
            cut = reply(body)[: draw.randrange(1, len(body))]
            failures: list[list[Step]] = [[cut, CLOSE], [cut, RESET], [ERROR], [CLOSE]]
            yield from draw.choice(failures)
            return
        wire, must_close = self._frame(body)
        leftover = draw.choice([b""] * 6 + [b"x", b"\r\n", b"0\r\n\r\n", self._other_answer()])
        *pieces, last = self._split(wire)
        yield from pieces
        yield last + leftover  # at once: nobody can tell what comes later from an answer
        if must_close or draw.random() < 0.1:
            yield draw.choice([CLOSE, RESET]) if not must_close else CLOSE

    def _frame(self, body: bytes) -> tuple[bytes, bool]:
        """Return a whole answer with the body, and whether the connection has to end after it."""
        draw = self._random
        kind = draw.randrange(8)
        if kind == 0:
            return reply(body, version="1.0"), True
        if kind == 1:
            return reply(body, "Connection: close"), draw.random() < 0.5
        if kind < 5:
            trailers = draw.choice([b"", b"A: b\r\n"])
            return reply_in_chunks(body, draw.randrange(1, len(body) + 2), trailers), False
        interim = draw.choice([b"", b"HTTP/1.1 103 Early Hints\r\n\r\n"])
        return interim + reply(body), False

    def _other_answer(self) -> bytes:
        return reply(self._service.body(self._random.choice(self._other_targets)))

    def _split(self, wire: bytes) -> Iterator[Any]:
        """Yield the bytes in up to four pieces, sometimes with a short wait before one."""
        cuts = sorted(self._random.randrange(len(wire)) for _ in range(self._random.randrange(4)))
        for start, stop in zip([0, *cuts], [*cuts, len(wire)]):
            if self._random.random() < 0.1:
                yield Delay(self._random.random() / 100)
            yield wire[start:stop]


@pytest.mark.parametrize("over_tls", [False, True], ids=["http", "tls"])
@pytest.mark.parametrize("seed", range(FUZZ_RUNS))
def test_no_answer_is_taken_for_another(
    ft: Runner, tls: Tls, tmp_path: Path, seed: int, over_tls: bool
) -> None:
    """Whatever a server does within its answers, each page and each track is the one asked for."""
    service = Service(lambda request, body: iter([]), pages=80)
    context: ssl.SSLContext | None = tls.context if over_tls else None
    ids = [service.track_id(number) for number in range(60)]
    pages = [f"/v1/generations?limit=99&offset={number}" for number in range(80)]
    tracks = [f"/audio/{identifier}.mp3" for identifier in ids]
    Chaos(seed, service, [*pages, *tracks, *(f"/v1/generations/{i}" for i in ids)])
    env = {"SSL_CERT_FILE": str(tls.ca_file)}
    changes = "random.random = lambda: 0.0\n"
    with ScriptedServer(service.answer, context) as server:
        service.media = [f"{server.url}/audio"]
        ft.config({"baseUrl": server.url})
        result = jumping_clock.run(ft, "list", "--all", "--json", env=env, changes=changes, check=0)
        service.check_pages(result.json)
        listed, opened = len(server.requests), server.accepted
        assert 80 <= listed <= 160 and opened < listed * 0.8
        result = jumping_clock.run(
            ft, "download", *ids, "-o", "tracks/", env=env, changes=changes, check=0
        )
        service.check(tmp_path / "tracks", ids)
        assert "Downloaded 60 of 60" in result.stdout
        assert server.accepted - opened < (len(server.requests) - listed) * 0.8


# --- the addresses of a host ----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nowhere.invalid", "a" * 64 + ".invalid"])
def test_a_host_that_is_not_found(ft: Runner, name: str) -> None:
    """The second name is one that Python itself refuses to look up, with a ValueError."""
    argv = ("me", "--base-url", f"https://{name}")
    hurried = {"RES_OPTIONS": "attempts:1 timeout:1"}
    result = jumping_clock.run(ft, *argv, env=hurried, check=3)
    assert f"error: cannot connect to {name}: " in result.stderr


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
