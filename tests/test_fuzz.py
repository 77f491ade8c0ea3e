"""Property test: whatever the service and the media host answer, each command ends as it is meant
to.

Never a traceback, never an exit code outside the table, never a second submission, never a file
with wrong content, never the key or a control character in the output. 200 cases; FT_FUZZ=N makes
it N, others each time (`make long`).

Each case is a fork of one process that has imported ft, so that thousands take minutes.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
from typing import Iterator, NamedTuple

import pytest
from conftest import PYTHON, Runner
from hypothesis import HealthCheck, event, given, note, settings
from hypothesis import strategies as st
from sandbox import Account

CASES = int(os.environ.get("FT_FUZZ", "200"))
SPEED = 200  # a call's deadline is over after 0.3 s
pytestmark = [pytest.mark.source, pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")]

WORKER = """
import json, os, signal, sys, traceback
import datetime, difflib, email.utils, hashlib, http.client, mmap, queue, random, threading
import urllib.request
sys.path.insert(0, sys.argv[1])
import ft

for line in sys.stdin:
    pid = os.fork()
    if not pid:
        signal.alarm(50)
        code = 99
        for descriptor, name in (0, os.devnull), (1, "stdout"), (2, "stderr"):
            os.dup2(os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o600), descriptor)
        try:
            code = ft.main(json.loads(line))
            sys.stdout.flush()
        except BaseException:
            traceback.print_exc()
        sys.stderr.flush()
        os._exit(code)
    print(os.waitpid(pid, 0)[1], flush=True)
"""


# --- answers --------------------------------------------------------------------------------------


class Answer(NamedTuple):
    """What goes over the wire, and each file that a download may rightly make of it."""

    wire: bytes
    contents: tuple[bytes, ...] = ()


TRACK, OTHER = "8f14e45f-ceea-467f-a0e6-b1c7d1d1a3f0", "07e8d430-2310-4c57-87a8-cf1e6db376f7"
KEY = Account("pro", "pro").key
MEDIA, API = (
    "http://127.0.0.1:MEDIA",
    "http://127.0.0.1:APIAT",
)  # the ports are filled in, with five digits
ADDRESSES = [
    f"{MEDIA}/audio/{TRACK}.mp3",
    f"{MEDIA}/x.mp3",
    f"{API}/v1/me",
    "file:///etc/passwd",
    "data:audio/mpeg,x",
    "ftp://127.0.0.1/x",
    "http://[::1",
    "https://127.0.0.1:1/x",
    "http://192.0.2.1/x",
    "//",
    "",
    "?",
    f"/audio/{TRACK}.mp3",
    "http://127.0.0.1:99999/",
]
texts = st.one_of(
    st.text(max_size=20),
    st.sampled_from(
        [
            KEY,
            TRACK,
            "\x1b[2J\x07",
            "\u202e\u2028",
            "../../x",
            "x" * 300,
            "completed",
            "failed",
            *ADDRESSES,
        ]
    ),
)
numbers = st.one_of(st.integers(), st.floats(), st.sampled_from([10**400, -1, 0, 1e308, 5e-324]))
values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(texts, inner, max_size=4)),
    max_leaves=10,
)
FIELDS = [
    "id",
    "title",
    "prompt",
    "status",
    "audioUrl",
    "duration",
    "fileSize",
    "parameters",
    "errorMessage",
    "createdAt",
    "email",
    "tier",
    "limits",
    "generations",
    "hasMore",
    "nextOffset",
    "playlists",
    "tracks",
    "name",
    "trackCount",
    "totalDuration",
    "isPublic",
    "updatedAt",
    "deleted",
    "added",
    "removed",
    "moved",
    "errors",
    "creditsRemaining",
]
records = st.fixed_dictionaries(
    {}, optional={name: st.one_of(values, st.lists(values, max_size=3)) for name in FIELDS}
)
finished = st.builds(
    lambda base, more: {**base, **more},
    st.just({"id": TRACK, "status": "completed", "audioUrl": ADDRESSES[0]}),
    records,
)
failures = st.fixed_dictionaries(
    {"code": texts, "message": texts}, optional={"details": values, "retryAfter": values}
)
documents = st.one_of(
    values,
    st.fixed_dictionaries({"data": st.one_of(records, finished, values)}),
    st.fixed_dictionaries(
        {"data": st.fixed_dictionaries({"generations": st.lists(records, max_size=3)})}
    ),
    st.fixed_dictionaries(
        {"data": st.fixed_dictionaries({"playlists": st.lists(records, max_size=3)})}
    ),
    st.fixed_dictionaries({"error": st.one_of(failures, values)}),
)
bodies = st.one_of(
    documents.map(lambda document: json.dumps(document).encode()),
    documents.map(
        lambda document: json.dumps(document, ensure_ascii=False).encode("utf-8", "surrogatepass")
    ),
    documents.map(lambda document: json.dumps(document).encode()[:-1]),
    st.binary(max_size=200),
    st.sampled_from(
        [b"", b"[" * 5000, b"<html>", b"NaN", b'{"data": ' + b"7" * 5000 + b"}", b"\xef\xbb\xbf{}"]
    ),
)
STATUSES = [
    200,
    200,
    200,
    200,
    201,
    202,
    204,
    206,
    100,
    103,
    301,
    302,
    308,
    400,
    401,
    404,
    416,
    418,
    429,
    500,
    503,
    599,
]
statuses = st.one_of(st.sampled_from(STATUSES), st.integers(100, 999))
header_values = st.one_of(
    st.text(st.characters(max_codepoint=255, blacklist_characters="\r\n"), max_size=30),
    st.sampled_from(
        [
            "0",
            "1",
            "5",
            "-1",
            "1_0",
            "999999999",
            "nan",
            "Wed, 21 Oct 2015 07:28:00 GMT",
            "Fri, 99 Foo 9999",
            "chunked",
            "gzip",
            "identity",
            "text/html",
            "audio/mpeg",
            "application/json",
            '"a"',
            'W/"a"',
            "bytes 0-4/5",
            "bytes 3-9/10",
            *ADDRESSES,
        ]
    ),
)
HEADERS = [
    "Content-Length",
    "Content-Type",
    "Content-Encoding",
    "Transfer-Encoding",
    "Location",
    "Retry-After",
    "ETag",
    "Content-Range",
    "Connection",
    "X-RateLimit-Remaining",
    "X Y",
    "",
]
headers = st.lists(st.tuples(st.sampled_from(HEADERS), header_values), max_size=4)


def http_answer(
    status: int, extra: list[tuple[str, str]], body: bytes, framing: str, kind: str
) -> Answer:
    lines = [f"{name}: {value}" for name, value in extra]
    if kind:
        lines.insert(0, f"Content-Type: {kind}")
    contents: set[bytes] = {
        body[: int(v)]
        for n, v in extra
        if n == "Content-Length" and re.fullmatch("[0-9]+", v) and int(v) <= len(body)
    }
    sent = body
    if framing in ("length", "short"):
        lines.insert(0, f"Content-Length: {len(body) + 5 * (framing == 'short')}")
        contents |= {body} if framing == "length" else set()
    elif framing in ("chunked", "cut"):
        lines.insert(0, "Transfer-Encoding: chunked")
        sent = (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (
            b"0\r\n\r\n" if framing == "chunked" else b""
        )
        contents |= {body} if framing == "chunked" else set()
    head = "\r\n".join([f"HTTP/1.1 {status} Reason", *lines, "", ""])
    return Answer(head.encode("latin-1", "replace") + sent, tuple(contents))


KINDS = ["application/json", "audio/mpeg", "audio/mpeg", "text/html", ""]
FRAMINGS = ["length", "length", "length", "short", "chunked", "cut", "none"]
answers = st.one_of(
    st.builds(
        http_answer, statuses, headers, bodies, st.sampled_from(FRAMINGS), st.sampled_from(KINDS)
    ),
    st.builds(
        http_answer,
        st.just(200),
        st.just([]),
        bodies,
        st.just("length"),
        st.just("application/json"),
    ),
    st.binary(max_size=100).map(Answer),
)


def piece(old: bool, start: int, stop: int, tag: str, lie: int) -> Answer:
    """A part of one of the two versions of a track, whole or cut, from its start (200) or from
    further on (206).
    """
    body = VERSIONS[old]
    mark = {"strong": f'ETag: "{old}"', "weak": f'ETag: W/"{old}"'}.get(tag) or (
        "ETag: odd" if start else "X: y"
    )
    lines = ["Content-Type: audio/mpeg", mark, f"Content-Length: {len(body) - start}"]
    if start:
        lines.append(f"Content-Range: bytes {start + lie}-{len(body) - 1}/{len(body)}")
    head = "\r\n".join([f"HTTP/1.1 {206 if start else 200} OK", *lines, "", ""])
    return Answer(head.encode() + body[start + lie : max(start, stop)], (body,))


VERSIONS = (b"new " * 500, b"old " * 500)
PLACES = [0, 500, 1000, 2000]
pieces = st.builds(
    piece,
    st.booleans(),
    st.sampled_from(PLACES[:3]),
    st.sampled_from(PLACES),
    st.sampled_from(["strong", "strong", "weak", ""]),
    st.sampled_from([0, 0, 0, 4]),
)


# --- commands -------------------------------------------------------------------------------------

COMMANDS = [
    ["me"],
    ["me", "--json"],
    ["list"],
    ["list", "--json", "--limit", "5"],
    ["get", TRACK],
    ["get", TRACK, "--json"],
    ["download", TRACK, "-o", "song.mp3"],
    ["download", TRACK, "--wait", "-o", "song.mp3"],
    ["download", TRACK],
    ["download", TRACK, OTHER],
    ["generate", "a song", "-o", "song.mp3"],
    ["generate", "a song", "--json"],
    ["generate", "a song", "--no-wait"],
    ["generate", "a song", "--no-wait", "--json"],
    ["delete", "--yes", TRACK, OTHER],
    ["delete", "--yes", "--json", TRACK],
    ["playlists"],
    ["playlists", "--json"],
    ["playlist", "show", "Focus Beats"],
    ["playlist", "show", "Drafts", "--json"],
    ["playlist", "add", "Drafts", TRACK, OTHER],
    ["playlist", "remove", "--json", "Focus Beats", TRACK],
    ["playlist", "move", "Drafts", "Album", TRACK],
    ["doctor"],
    ["doctor", "--json"],
]
DOWNLOADS = [argv for argv in COMMANDS if "-o" in argv]
cases: st.SearchStrategy[tuple[list[str], list[Answer], list[Answer]]] = st.one_of(
    st.tuples(st.sampled_from(COMMANDS), st.lists(answers, min_size=1, max_size=5), st.just([])),
    st.tuples(
        st.sampled_from(DOWNLOADS),
        st.lists(answers, max_size=1),
        st.lists(st.one_of(pieces, answers), max_size=4),
    ),
)
UNSAFE = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e\u2028\u2029]")


@pytest.fixture
def worker(ft: Runner) -> Iterator[subprocess.Popen[bytes]]:
    argv = [PYTHON, "-c", WORKER, str(ft.program.parent)]
    ft.cwd = ft.home / "here"
    ft.cwd.mkdir()
    with subprocess.Popen(
        argv, env=ft.env(speed=SPEED), cwd=ft.cwd, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        yield process
        process.kill()


@settings(
    max_examples=CASES,
    derandomize=CASES <= 200,
    database=None,
    deadline=None,
    print_blob=True,
    suppress_health_check=[
        HealthCheck.function_scoped_fixture,
        HealthCheck.too_slow,
        HealthCheck.data_too_large,
    ],
)
@given(case=cases, verbose=st.booleans())
def test_whatever_is_answered(
    ft: Runner,
    worker: subprocess.Popen[bytes],
    case: tuple[list[str], list[Answer], list[Answer]],
    verbose: bool,
) -> None:
    words, api, media = case
    sandbox = ft.sandbox
    sandbox.heal()
    del sandbox.requests[:], sandbox.book[:]
    for name in os.listdir(ft.cwd):
        (ft.cwd / name).unlink()
    sandbox.add_generation(id=TRACK, prompt="song", duration=5)
    ports = {
        url[-5:].encode(): b"%05d" % int(real.rpartition(":")[2])
        for url, real in ((MEDIA, sandbox.media_url), (API, sandbox.api_url))
    }

    def fill(text: bytes) -> bytes:
        for name, port in ports.items():
            text = text.replace(name, port)
        return text

    allowed = {sandbox.track(TRACK), sandbox.track(OTHER)}
    for origin, scripted in ("api", api), ("media", media):
        for answer in scripted:
            sandbox.fault("raw", origin=origin, data=fill(answer.wire))
            allowed.update(map(fill, answer.contents))
    argv = words + ["-v"] * verbose
    note(f"ft {argv}")

    assert worker.stdin and worker.stdout
    worker.stdin.write(json.dumps(argv).encode() + b"\n")
    worker.stdin.flush()
    status = int(worker.stdout.readline())
    stdout, stderr = ((ft.cwd / name).read_bytes().decode() for name in ("stdout", "stderr"))
    note(f"{status=}\n{stdout}\n{stderr}\n{sandbox.requests}")

    assert os.WIFEXITED(status), "it was killed"
    code = os.WEXITSTATUS(status)
    event(f"{words[0]}: exit {code}")  # --hypothesis-show-statistics
    assert code in (0, 1, 2, 3)
    assert "Traceback" not in stderr and "internal error" not in stderr
    assert stderr.count("\nerror: ") + stderr.startswith("error: ") <= 1
    assert KEY not in stdout + stderr
    assert not UNSAFE.search(stdout + stderr)
    assert len(sandbox.posts()) <= 1
    if "--json" in argv and stdout:
        json.loads(stdout)
        assert stdout.endswith("\n")
    made = {*os.listdir(ft.cwd)} - {"stdout", "stderr"}
    allowed |= {sandbox.track(paid) for paid in sandbox.book}
    if code:
        assert made == set()
    for name in made:
        assert not name.startswith(".")
        assert (ft.cwd / name).read_bytes() in allowed
