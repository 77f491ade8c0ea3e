"""Stand in for Finetuning.ai on loopback: the tests' server, and a place to try ft.

    python3 tests/sandbox.py generate "lofi chill piano, mellow, late night"  # any ft command
    python3 tests/sandbox.py --seconds 1 --fault reset,path=/v1/me me  # options
    python3 tests/sandbox.py --keep demo list  # the library lasts, in demo/library.json
    python3 tests/sandbox.py  # serves until Ctrl-C

From Python:

    with Sandbox(seconds=0.1) as sandbox:
        sandbox.fault("status", status=503, path="/v1/me", times=2)
        ...  # something talks to sandbox.api_url with sandbox.key
        assert [request.status for request in sandbox.requests] == [503, 503, 200]

It serves two origins, the API and the media host, and logs every request that reaches either.

A prompt (`tags`, `prompt`) says what should become of it by containing a word:
    fail      the generation ends as failed, with an errorMessage
    forever   it stays in processing until Sandbox.finish() is called
    reject    the submission is answered with 500 GENERATION_FAILED and costs nothing

Faults: `Sandbox.fault(kind, path=, origin=, method=, times=, after=, work=, **options)`, on the
command line `--fault KIND,key=value,...`. `path` is a regular expression for the whole path. The
oldest fault that matches and is not used up takes the request. `work` says whether the request is
carried out before it is answered wrongly: a submission that was dropped (`close`), or one whose
answer was lost (`close,work=true`, in short `lost`). tests/support/faults.py has them all, and
`--help` lists them.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import functools
import hashlib
import http.server
import json
import math
import os
import pathlib
import random
import re
import shlex
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import uuid
from typing import TYPE_CHECKING, Any, Callable, Iterable, Mapping, NamedTuple, Sequence, cast

HERE = pathlib.Path(__file__).resolve().parent
FT = HERE.parent / "ft.py"
sys.path.insert(0, str(HERE / "support"))

from answers import ERRORS, HTML, Answer, Body, Headers, Record, error_answer, json_answer  # noqa: E402
from faults import MEDIA_ROWS, ORIGIN_KINDS, Fault, as_bytes, fault_list, parse_fault  # noqa: E402
from library import fill  # noqa: E402
from server import Server, reset  # noqa: E402

if TYPE_CHECKING:
    import ssl
    from email.message import Message
    from types import TracebackType

FRAME_BYTES, FRAME_SECONDS = 96, 0.024  # of data/loop.mp3, see tools/make_loop.py
LANGUAGES = ("en", "ja", "de", "fr", "es", "zh", "ko", "pt", "it", "ru")
SCALES = ("major", "minor")
KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
STATUSES = ("pending", "processing", "completed", "failed")
CREATES = ("/v1/generations", "/v1/instrumental", "/v1/sound-effects")
# The parts of the library that Sandbox.save() writes as they are.
KEPT = ("_generations", "_owners", "book", "contents", "playlists", "sound_effects")


# --- requests -------------------------------------------------------------------------------------


class Request:
    """Hold one request as it came in.

    `status` is what it was answered with, None as long as the headers of the answer are not out.
    `sent` says that the sending is over, well or not. `time` is monotonic. `number` counts from 1,
    and so does `connection`, which tells the connections to its origin apart.
    """

    def __init__(
        self, origin: str, method: str, target: str, headers: Message, body: bytes
    ) -> None:
        self.origin, self.method, self.target = origin, method, target
        self.headers, self.body = headers, body
        parts = urllib.parse.urlsplit(target)
        self.path = parts.path  # as sent, percent-encoded
        self.query = dict(urllib.parse.parse_qsl(parts.query, keep_blank_values=True))
        self.status: int | None = None
        self.time = time.monotonic()
        self.sent = False
        self.number = 0
        self.connection = 0

    @property
    def json(self) -> Any:
        """Return the parsed body, or None if it is not JSON."""
        try:
            return json.loads(self.body)
        except ValueError:
            return None

    def __repr__(self) -> str:
        return f"<{self.origin} {self.method} {self.target}: {self.status}>"


class ApiError(Exception):
    """An error answer of the API: status, code, message, details, seconds to wait."""

    def __init__(self, *known: Any) -> None:
        super().__init__(*known)
        self.known: Any = (*known, None, None)[:5]


def invalid(field: str, message: str, **details: Any) -> ApiError:
    return ApiError(400, "VALIDATION_ERROR", f"{field} {message}", {"field": field, **details})


def not_found(what: str) -> ApiError:
    return ApiError(404, "NOT_FOUND", what + " not found")


def number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


class Field(NamedTuple):
    """Say what the contract allows under one name.

    `low` and `high` limit the length of texts and lists and the value of whole numbers. Any other
    number out of range is clamped.
    """

    kind: str
    low: float = 0
    high: float = math.inf
    default: Any = None
    required: bool = False
    choices: Sequence[str] = ()


# A kind's values, what is wrong with any others, and with a size out of range.
KINDS: dict[str, tuple[Callable[[Any], Any], str, str]] = {
    "text": (
        lambda value: isinstance(value, str),
        "must be a string",
        "must be at most {high} characters",
    ),
    "url": (
        lambda value: isinstance(value, str) and value.lower().startswith("https://"),
        "must be an https URL",
        "must be at most {high} characters",
    ),
    "ids": (
        lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value),
        "must be an array of strings",
        "must contain between {low} and {high} ids",
    ),
    "whole": (
        lambda value: re.fullmatch("[0-9]{1,15}", value),
        "must be a whole number",
        "must be a number from {low} to {high}",
    ),
    "number": (number, "must be a number", ""),
    "boolean": (lambda value: isinstance(value, bool), "must be true or false", ""),
}
WEBHOOK = Field("url", high=2048)
PROMPT = Field("text", high=700, required=True)
IDS = Field("ids", 1, 100, required=True)
MUSIC = {
    "tags": PROMPT,
    "lyrics": Field("text", high=2000),
    "duration": Field("number", 5, 210, default=60),
    "bpm": Field("number", 60, 200, default=120),
    "language": Field("text", choices=LANGUAGES, default="en"),
    "key": Field("text", choices=KEYS),  # without one, the service chooses
    "scale": Field("text", choices=SCALES),
    "timesignature": Field("text", choices=("2", "3", "4", "5", "6", "7"), default="4"),
    "seed": Field("number", low=-math.inf),
    "webhook": WEBHOOK,
}
INSTRUMENTAL = {
    "prompt": PROMPT,
    "duration": Field("number", 30, 210, default=120),
    "enhance": Field("boolean", default=True),
    "seed": Field("number", low=-math.inf),
    "webhook": WEBHOOK,
}
EFFECT = {
    "prompt": PROMPT,
    "duration": Field("number", 1, 30, default=5),
    "enhance": Field("boolean", default=True),
    "webhook": WEBHOOK,
}
PAGE = {
    "limit": Field("whole", 1, 99, default=20),
    "offset": Field("whole", default=0),
    "status": Field("text", choices=STATUSES),
}
LIST = {**PAGE, "type": Field("text", choices=("music", "instrumental"))}
TRACKS = {"trackIds": IDS}
MOVE = {"trackIds": IDS, "targetPlaylistId": Field("text", required=True)}


def checked(given: Record, fields: Mapping[str, Field]) -> Record:
    """Return a body or a query with its defaults. Raises ApiError for what the contract refuses."""
    for name in given:
        if name not in fields:
            raise invalid(name, "is unknown", allowed=list(fields))
    return {name: value_of(given, name, field) for name, field in fields.items()}


def value_of(given: Record, name: str, field: Field) -> Any:
    if name not in given and not field.required:
        return field.default
    value = given.get(name, "")
    is_valid, problem, out_of_range = KINDS[field.kind]
    if field.required and (name not in given or (isinstance(value, str) and not value.strip())):
        raise invalid(name, "is required")
    if not is_valid(value):
        raise invalid(name, problem)
    if field.choices and value not in field.choices:
        choices = list(field.choices)
        raise invalid(name, "must be one of: " + ", ".join(choices), allowed=choices)
    if field.kind == "number":
        return max(field.low, min(field.high, value))
    value = int(value) if field.kind == "whole" else value
    size = value if isinstance(value, int) else len(value)
    if not field.low <= size <= field.high:
        limits = {"low": field.low, "high": field.high}
        raise invalid(name, out_of_range.format(**limits), max=field.high)
    return value


def document_of(request: Request) -> Record:
    document = request.json
    if not isinstance(document, dict):
        raise ApiError(400, "VALIDATION_ERROR", "Request body must be a JSON object")
    return document


# --- the service ----------------------------------------------------------------------------------


class Account:
    """Hold an account. Tests call it pro, lifetime, free, broke, deleted or other."""

    def __init__(
        self, name: str, tier: str, used: int = 42, pack: int = 10, monthly: int = 2000
    ) -> None:
        self.name, self.tier, self.used, self.pack, self.monthly = name, tier, used, pack, monthly
        self.key = "ft_live_" + hashlib.sha256(name.encode()).hexdigest()[:32]
        self.id = str(uuid.UUID(hashlib.sha256(name.encode()).hexdigest()[-32:], version=4))
        self.email = {"pro": "jane@example.com"}.get(name, name + "@example.com")
        self.full_name = {"pro": "Jane Doe"}.get(name, name.capitalize())
        self.deleted = name == "deleted"

    @property
    def left(self) -> int:
        return self.monthly - self.used + self.pack

    def pay(self) -> None:
        if self.used < self.monthly:
            self.used += 1
        else:
            self.pack -= 1


@dataclasses.dataclass
class State:
    """Hold what the service knows about a generation and does not show.

    `submitted` is monotonic, or None if nothing will happen to it by itself.
    """

    owner: str
    prompt: str
    length: float
    submitted: float | None = None
    seconds: float = 0.0
    version: int = 0


def stamp(when: float, rfc: bool) -> str:
    """Return a time of the epoch in one of the service's two shapes."""
    if rfc:
        whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(when))
        return f"{whole}.{int(when % 1 * 1000):03}Z"
    return time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(when))


def title_of(prompt: str) -> str:
    return prompt.split(",")[0][:60]


def words_of(prompt: str) -> list[str]:
    return re.findall("[a-z]+", prompt.lower())


def id3(**frames: bytes) -> bytes:
    """Return an ID3v2.3 tag, so that each track is its own and players show the prompt."""
    data = b"".join(
        name.encode() + struct.pack(">IH", len(value), 0) + value for name, value in frames.items()
    )
    size = bytes(len(data) >> shift & 127 for shift in (21, 14, 7, 0))
    return b"ID3\x03\x00\x00" + size + data


def outcome(
    verb: str,
    ids: list[str],
    act: Callable[[str], str | None],
    name: str = "trackId",
    failure: tuple[str, str] | None = None,
) -> tuple[int, Record]:
    """Do `act`, which returns why it cannot, for each id. Raises ApiError if all fail."""
    reasons = [(item, act(item)) for item in ids]
    done = [item for item, reason in reasons if not reason]
    errors = [{name: item, "error": reason} for item, reason in reasons if reason]
    if failure and not done:
        raise ApiError(400, *failure, errors)
    return 200, {verb: done, "errors": errors} if errors else {verb: done}


class Sandbox:
    """Serve the API and the media host. A context manager; start() and stop() do the same.

    `seconds`: from submission to completion, the first third of it pending. `window`: the length of
    the rate limits' minute. `queue_limit`: submissions that a user may have in flight.
    `track_bytes`: every track has exactly this size. `seed`: of the ids of new generations, None
    for others each time. `on_done` is called with each request once its answer is out. The
    attributes may be changed while it runs.
    """

    def __init__(
        self,
        *,
        seconds: float = 4.0,
        library: bool = True,
        rate_limits: bool = True,
        window: float = 60.0,
        queue_limit: int = 5,
        tls: ssl.SSLContext | None = None,
        track_bytes: int | None = None,
        host: str = "127.0.0.1",
        api_port: int = 0,
        media_port: int = 0,
        seed: int | None = 0,
        on_done: Callable[[Request], None] | None = None,
    ) -> None:
        self.seconds, self.rate_limits, self.window = seconds, rate_limits, window
        self.queue_limit, self.track_bytes, self.on_done = queue_limit, track_bytes, on_done
        self.prefix = ""  # of the API's paths, as behind a gateway: "/proxy"
        self.stopping = threading.Event()
        self.requests: list[Request] = []
        self.book: list[str] = []  # the ids of the generations that cost a credit
        accounts = (
            *(Account("pro", "pro"), Account("other", "pro"), Account("lifetime", "lifetime")),
            *(Account("free", "free"), Account("broke", "pro", used=2000, pack=0)),
            Account("deleted", "pro"),
        )
        self.keys = {account.name: account for account in accounts}
        self.key, self.key_other, self.key_lifetime = (a.key for a in accounts[:3])
        self.key_free, self.key_broke, self.key_deleted = (a.key for a in accounts[3:])
        self.playlists: dict[str, Record] = {}
        self.contents: dict[str, list[str]] = {}  # the ids of a playlist's tracks
        self.sound_effects: dict[str, Record] = {}
        self._owners: dict[str, str] = {}  # of the playlists
        self._generations: dict[str, Record] = {}
        self._states: dict[str, State] = {}
        self._calls: dict[tuple[str, bool], collections.deque[float]]
        self._calls = collections.defaultdict(collections.deque)
        self._faults: list[Fault] = []
        self._random = random.Random("library")
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._origins = {
            "api": Origin(self, "api", host, api_port, tls),
            "media": Origin(self, "media", host, media_port, tls),
        }
        self.api_url, self.media_url = self._origins["api"].url, self._origins["media"].url
        if library:
            fill(self)
        self._random.seed(seed)

    # -- for tests

    def start(self) -> Sandbox:
        for origin in self._origins.values():
            origin.up()
        return self

    def stop(self) -> None:
        self.stopping.set()
        for origin in self._origins.values():
            origin.close()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def posts(self) -> list[Request]:
        """Return the submissions."""
        with self._lock:
            return [
                r
                for r in self.requests
                if r.method == "POST" and r.path[len(self.prefix) :] in CREATES
            ]

    def wait_for(self, predicate: Callable[[Request], Any], timeout: float = 20.0) -> Request:
        """Return the first request, come or still to come, for which `predicate` holds.

        It is asked again when a request's `status` or `sent` change. Raises TimeoutError.
        """
        deadline = time.monotonic() + timeout
        with self._changed:
            while True:
                for request in self.requests:
                    if predicate(request):
                        return request
                if time.monotonic() > deadline:
                    raise TimeoutError(f"no such request within {timeout} s, only {self.requests}")
                self._changed.wait(deadline - time.monotonic())

    def hold(
        self,
        path: str,
        *,
        origin: str | None = "api",
        method: str | None = None,
        work: bool = False,
    ) -> Fault:
        """Let requests wait for the fault's release(), unheard or, with `work`, carried out."""
        where = "start" if work else "request"
        return self.fault("stall", path=path, origin=origin, method=method, times=None, where=where)

    def fault(
        self,
        kind: str,
        *,
        path: str = ".*",
        origin: str | None = "api",
        method: str | None = None,
        times: int | None = 1,
        after: int = 0,
        **options: Any,
    ) -> Fault:
        """Let the next `times` requests that match (None: all), after `after` others, go wrong.

        Three kinds are about connections and know only `origin`: `refuse` (nobody listens, from now
        on or for `seconds`), `unreachable` (the same, but connecting takes for ever; Linux only)
        and `hangup` (the next `times` connections get `data` and are closed before a byte is read).
        """
        if kind in ORIGIN_KINDS:
            for name, listening in self._origins.items():
                if origin in (None, name):
                    listening.misbehave(kind, times, **options)
            return Fault("close", {}, times=0)
        origin = "media" if kind in MEDIA_ROWS else origin
        fault = Fault(
            kind, options, path=path, origin=origin, method=method, times=times, after=after
        )
        with self._lock:
            self._faults.append(fault)
        return fault

    def heal(self) -> None:
        """Forget all faults, and listen again."""
        with self._lock:
            for fault in self._faults:
                fault.release()
            self._faults.clear()
        for origin in self._origins.values():
            origin.hangups = 0
            origin.up()

    def down(self, origin: str = "api") -> None:
        """Refuse connections to the origin from now on."""
        self._origins[origin].down()

    def up(self, origin: str = "api") -> None:
        self._origins[origin].up()

    def connections(self, origin: str = "api") -> int:
        """Return how many were accepted."""
        return self._origins[origin].accepted

    @property
    def generations(self) -> dict[str, Record]:
        with self._lock:
            self._advance()
            return self._generations

    @property
    def spent(self) -> int:
        return len(self.book)

    def add_generation(
        self, *, owner: str = "pro", age: float = 0.0, seconds: float | None = None, **fields: Any
    ) -> Record:
        """Add a record, by default completed, and return it.

        `seconds` is the length of the track, and `age` how old it is. `fields` are fields of the
        record; a `duration` among them is the length as well, unless `seconds` is.
        """
        with self._lock:
            order = len(self._states)
            generation_id = str(fields.pop("id", None) or self._uuid())
            prompt = str(fields.get("prompt", "lofi chill piano night"))
            status = fields.get("status", "completed")
            length: float = fields["duration"] if number(fields.get("duration")) else 60
            if seconds is not None:
                length = seconds
            born = time.time() - age
            parameters = {"bpm": 120, "duration": length, "keyscale": "C major", "timesignature": 4}
            parameters["seed"] = self._random.randrange(2**31)
            record = self._add_record(
                generation_id, prompt, parameters, stamp(born, order % 3 == 2)
            )
            self._states[generation_id] = State(owner, prompt, length)
            record.update(status=status, tags=None)
            if status == "completed":
                url, size = self._audio_url(generation_id), self._track(generation_id).size
                record.update(title=title_of(prompt), audioUrl=url, duration=length)
                record.update(generationTime=17, fileSize=size if order % 2 else None)
            if status == "failed":
                record["errorMessage"] = "The model could not follow this prompt"
            if status in ("completed", "failed"):
                record["completedAt"] = stamp(born + 17, rfc=True)
            record.update(fields)
            return record

    def _add_record(
        self, generation_id: str, prompt: str, parameters: Record, created: str
    ) -> Record:
        record = self._generations[generation_id] = {
            "id": generation_id,
            "title": None,
            "prompt": prompt,
            "status": "pending",
            "audioUrl": None,
            "duration": None,
            "fileSize": None,
            "isPublic": False,
            "playCount": 0,
            "downloadCount": 0,
            "likeCount": 0,
            "parameters": parameters,
            "errorMessage": None,
            "generationTime": None,
            "webhook": None,
            "createdAt": created,
            "completedAt": None,
            "type": "music",
            "model": "ft-music-1.5",
        }
        return record

    def add_playlist(
        self,
        name: str,
        tracks: Iterable[str] = (),
        *,
        owner: str = "pro",
        age: float = 180.0,
        **fields: Any,
    ) -> Record:
        """Add a playlist with these tracks. `age`, in seconds, is that of its last change."""
        with self._lock:
            playlist_id = str(fields.pop("id", None) or self._uuid())
            now = time.time()
            self.playlists[playlist_id] = {
                "id": playlist_id,
                "name": name,
                "description": None,
                "trackCount": 0,
                "totalDuration": 0,
                "isPublic": False,
                "createdAt": stamp(now - age - 30 * 86400, rfc=False),
                "updatedAt": stamp(now - age, rfc=len(self.playlists) % 2 == 1),
                "coverUrl": None,
            }
            self._owners[playlist_id] = owner
            self.contents[playlist_id] = list(tracks)
            self._recount(playlist_id)
            self.playlists[playlist_id].update(fields)
            return self.playlists[playlist_id]

    def save(self, file: pathlib.Path) -> None:
        """Write the library to a file, in place of what it holds. Raises OSError."""
        with self._lock:
            self._advance()
            states = {key: vars(state).copy() for key, state in self._states.items()}
            for state in states.values():
                if state["submitted"] is not None:
                    state["submitted"] += time.time() - time.monotonic()
            accounts = {name: [a.used, a.pack] for name, a in self.keys.items()}
            document = {name: getattr(self, name) for name in KEPT}
            document.update(states=states, accounts=accounts)
        new = file.with_name(file.name + ".new")
        new.write_text(json.dumps(document, indent=1), encoding="utf-8")
        os.replace(new, file)

    def load(self, file: pathlib.Path) -> None:
        """Replace the library with a saved one.

        Raises OSError, or ValueError, LookupError, TypeError or AttributeError if it is damaged.
        """
        document = json.loads(file.read_text(encoding="utf-8"))
        with self._lock:
            for name in KEPT:
                setattr(self, name, type(getattr(self, name))(document[name]))
            self._states = {key: State(**state) for key, state in document["states"].items()}
            for state in self._states.values():
                if state.submitted is not None:
                    state.submitted -= time.time() - time.monotonic()
            for name, (used, pack) in document["accounts"].items():
                self.keys[name].used, self.keys[name].pack = used, pack
            for record in (*self._generations.values(), *self.sound_effects.values()):
                if record["audioUrl"]:  # the port is another one each time
                    record["audioUrl"] = self._audio_url(record["id"])

    def use_up_limit(self, requests: int, seconds: float) -> None:
        """Count so many requests of the last `seconds` against the rate limit of `key`."""
        now = time.monotonic()
        with self._lock:
            calls = (now - seconds * n / requests for n in range(requests, 0, -1))
            self._calls["pro", False].extend(calls)

    def finish(self, generation_id: str, error: str | None = None) -> None:
        """Complete a generation now, or let it fail with this message."""
        with self._lock:
            self._settle(generation_id, error)

    def track(self, generation_id: str) -> bytes:
        """Return exactly what the media host serves for it now."""
        with self._lock:
            return bytes(self._track(generation_id))

    def change(self, path: str) -> None:
        """Make the track at this path of the media host another one."""
        with self._lock:
            state = self._states.get(path.rpartition("/")[2][:-4])
            if state:
                state.version += 1

    # -- requests

    def handle(self, request: Request) -> Answer:
        """Log a request and answer it, wrongly if there is a fault for it."""
        with self._changed:
            self.requests.append(request)
            request.number = len(self.requests)
            self._changed.notify_all()
            taken = ((fault, fault.take(request)) for fault in self._faults)
            fault, plan = next((pair for pair in taken if pair[1]), (None, None))
        answer = fault.spoil(self, request, plan) if fault and plan else self.respond(request)
        answer.head_only = request.method == "HEAD"
        return answer

    def respond(self, request: Request, seen: Mapping[str, str | None] = {}) -> Answer:
        """Carry a request out. `seen` are headers that replace those sent, None for no header."""
        with self._lock:
            return self._media(request, seen) if request.origin == "media" else self._api(request)

    def answered(self, request: Request, status: int | None) -> None:
        with self._changed:
            request.status = status
            self._changed.notify_all()

    def done(self, request: Request) -> None:
        """Its answer is out, as far as it goes."""
        with self._changed:
            request.sent = True
            self._changed.notify_all()
        if self.on_done:
            self.on_done(request)

    # -- the media host

    def _media(self, request: Request, seen: Mapping[str, str | None]) -> Answer:
        """Answer as an object store does."""

        def given(name: str) -> str | None:
            sent: str | None = request.headers.get(name)
            return seen.get(name, sent) if sent else None

        self._advance()
        generation_id = request.path.rpartition("/")[2][:-4]
        record = self._find(generation_id)
        if request.method not in ("GET", "HEAD"):
            return Answer(405, [("Content-Type", "text/html")], Body(HTML))
        if not request.path.endswith(".mp3") or not record or record["status"] != "completed":
            return Answer(404, [("Content-Type", "text/html")], Body(HTML))
        track, version = self._track(generation_id), self._states[generation_id].version
        name = f"{generation_id} {version} {track.size}"
        tag = '"' + hashlib.sha256(name.encode()).hexdigest()[:32] + '"'
        headers = [("Content-Type", "audio/mpeg"), ("ETag", tag), ("Accept-Ranges", "bytes")]
        asked = re.fullmatch("bytes=([0-9]*)-([0-9]*)", given("Range") or "")
        if not asked or not any(asked.groups()) or (given("If-Range") or tag) != tag:
            return Answer(200, headers, track)
        first, last = asked.groups()
        start = int(first) if first else max(0, track.size - int(last))
        stop = min(track.size, int(last) + 1) if first and last else track.size
        if start >= stop:
            return Answer(416, [*headers, ("Content-Range", f"bytes */{track.size}")], Body(b""))
        headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{track.size}"))
        return Answer(206, headers, track.part(start, stop))

    def _track(self, generation_id: str) -> Body:
        state = self._states[generation_id]
        name = f"{generation_id}/{state.version:04}".encode()
        tag = id3(
            TIT2=b"\1" + state.prompt.encode("utf-16", "replace"), UFID=b"finetuning.ai\0" + name
        )
        loop = loop_mp3()
        turn = (
            (int(hashlib.sha256(generation_id.encode()).hexdigest(), 16) + 37 * state.version)
            * FRAME_BYTES
            % len(loop)
        )
        frames = max(1, round(state.length / FRAME_SECONDS))
        size = len(tag) + frames * FRAME_BYTES if self.track_bytes is None else self.track_bytes
        return Body(tag, loop[turn:] + loop[:turn], size)

    def _audio_url(self, generation_id: str) -> str:
        return f"{self.media_url}/audio/{generation_id}.mp3"

    # -- the API

    def rate_headers(self, limit: int = 60, remaining: int = 60) -> Headers:
        return [("X-RateLimit-Limit", str(limit)), ("X-RateLimit-Remaining", str(remaining))]

    def _api(self, request: Request) -> Answer:
        headers = self.rate_headers()
        try:
            if not request.path.startswith(self.prefix):
                raise not_found("Resource")
            path = request.path[len(self.prefix) :]
            if path == "/health" and request.method == "GET":
                return json_answer(200, {"status": "ok"}, headers)
            account = self._account(request)
            create = request.method == "POST" and path in CREATES
            limit, remaining, wait = self._count(account, create)
            headers = self.rate_headers(limit, remaining)
            if wait:
                known = ("GENERATION_RATE_LIMITED", "Too many generations, slow down")
                raise ApiError(429, *(known if create else ERRORS[429]), None, wait)
            self._advance()
            for method, pattern, fields, endpoint in ROUTES:
                match = re.fullmatch(pattern, path)
                if match and method == request.method:
                    given = checked(request.query, fields if method == "GET" else {})
                    if method == "POST":
                        given = checked(document_of(request), fields)
                    ids = [urllib.parse.unquote(group) for group in match.groups()]
                    status, data = endpoint(self, account, given, *ids)
                    return json_answer(status, {"data": data}, headers)
            raise not_found("Resource")
        except ApiError as error:
            return error_answer(headers, *error.known)

    def _account(self, request: Request) -> Account:
        key = request.headers.get("X-API-Key")
        if not key:
            raise ApiError(401, "MISSING_API_KEY", "API key is required")
        account = next((account for account in self.keys.values() if account.key == key), None)
        if not account:
            raise ApiError(401, "INVALID_API_KEY", "Invalid API key")
        if account.deleted:
            raise ApiError(401, "ACCOUNT_DELETED", "This account has been deleted")
        if account.tier not in ("pro", "lifetime"):
            raise ApiError(403, *ERRORS[403])
        return account

    def _count(self, account: Account, create: bool) -> tuple[int, int, int]:
        """Return the limit, what is left of it, and the seconds to wait if it is used up."""
        limit = 10 if create else 60
        if not self.rate_limits:
            return limit, limit, 0
        calls, now = self._calls[account.name, create], time.monotonic()
        while calls and calls[0] <= now - self.window:
            calls.popleft()
        if len(calls) >= limit:
            return limit, 0, max(1, math.ceil(calls[0] + self.window - now))
        calls.append(now)
        return limit, limit - len(calls), 0

    def _uuid(self) -> str:
        return str(uuid.UUID(int=self._random.getrandbits(128), version=4))

    def _find(self, generation_id: str) -> Record | None:
        return self._generations.get(generation_id) or self.sound_effects.get(generation_id)

    def _advance(self) -> None:
        """Let time do its work on what was submitted."""
        now = time.monotonic()
        for generation_id, state in self._states.items():
            if state.submitted is None:
                continue
            record, words = self._find(generation_id), words_of(state.prompt)
            passed = now - state.submitted
            if record is None:
                state.submitted = None
            elif passed >= state.seconds and "forever" not in words:
                error = "Generation failed: the prompt asked for it" if "fail" in words else None
                self._settle(generation_id, error)
            elif passed >= state.seconds / 3:
                record["status"] = "processing"

    def _settle(self, generation_id: str, error: str | None) -> None:
        record, state = self._find(generation_id), self._states[generation_id]
        assert record
        state.submitted = None
        status, now = "failed" if error else "completed", stamp(time.time(), rfc=True)
        record.update(status=status, errorMessage=error, completedAt=now)
        if "generationTime" in record:
            record["generationTime"] = math.ceil(state.seconds)
        if not error:
            record.update(audioUrl=self._audio_url(generation_id), duration=state.length)
            if "title" in record:
                record["title"] = title_of(state.prompt)

    def _owned(self, account: Account, generation_id: str) -> bool:
        known = generation_id in self._generations
        return known and self._states[generation_id].owner == account.name

    def _in_flight(self, account: Account) -> int:
        states = self._states.values()
        return sum(s.owner == account.name and s.submitted is not None for s in states)

    def me(self, account: Account, given: Record) -> tuple[int, Record]:
        limits = {
            "monthlyGenerations": account.monthly,
            "generationsUsed": account.used,
            "monthlyRemaining": account.monthly - account.used,
            "packCredits": account.pack,
            "totalRemaining": account.left,
            "queueDepth": self._in_flight(account),
        }
        return 200, {
            "id": account.id,
            "email": account.email,
            "name": account.full_name,
            "tier": account.tier,
            "limits": limits,
            "betaFeatures": ["instrumental", "sound-effects"],
        }

    def _submit(self, account: Account, prompt: str, length: float, cost: bool = True) -> str:
        """Accept a submission whose fields are valid, and return the new id, paid for."""
        if cost and account.left <= 0:
            raise ApiError(402, *ERRORS[402])
        if self._in_flight(account) >= self.queue_limit:
            details = {"max": self.queue_limit}
            raise ApiError(429, "QUEUE_FULL", "Too many generations in the queue", details, 5)
        if "reject" in words_of(prompt):
            raise ApiError(500, "GENERATION_FAILED", "The queue did not accept the generation")
        generation_id = self._uuid()
        now = time.monotonic()
        self._states[generation_id] = State(account.name, prompt, length, now, self.seconds)
        if cost:
            account.pay()
            self.book.append(generation_id)
        return generation_id

    def _created(
        self, account: Account, given: Record, prompt: str, parameters: Record, kind: str
    ) -> tuple[int, Record]:
        seed = self._random.randrange(2**31) if given["seed"] is None else given["seed"]
        parameters["seed"] = seed
        generation_id = self._submit(account, prompt, parameters["duration"])
        now, kept = time.time(), dict(parameters)
        if "timesignature" in kept:
            kept["timesignature"] = int(kept["timesignature"])
        record = self._add_record(generation_id, prompt, kept, stamp(now, rfc=False))
        record.update(webhook=given["webhook"], type=kind)
        return 202, {
            "id": generation_id,
            "status": "processing",
            "prompt": prompt,
            "parameters": parameters,
            "webhook": given["webhook"],
            "creditsRemaining": account.left,
            "createdAt": stamp(now, rfc=True),
            "estimatedSeconds": self.seconds,
        }

    def create(self, account: Account, given: Record) -> tuple[int, Record]:
        names = ("bpm", "duration", "timesignature", "language")
        parameters = {name: given[name] for name in names}
        key = given["key"] or self._random.choice(KEYS)
        scale = given["scale"] or self._random.choice(SCALES)
        parameters["keyscale"] = f"{key} {scale}"
        return self._created(account, given, given["tags"], parameters, "music")

    def create_instrumental(self, account: Account, given: Record) -> tuple[int, Record]:
        duration = round(given["duration"] / 15) * 15
        parameters = {"duration": duration, "enhance": given["enhance"]}
        return self._created(account, given, given["prompt"], parameters, "instrumental")

    def _list(self, name: str, records: Iterable[Record], given: Record) -> tuple[int, Record]:
        """Return a page of the records, newest first, that have the status asked for."""
        limit, offset, status = given["limit"], given["offset"], given["status"]
        found = [record for record in records if status in (None, record["status"])][::-1]
        rest = offset + limit if len(found) > offset + limit else None
        page = found[offset : offset + limit]
        return 200, {name: page, "hasMore": rest is not None, "nextOffset": rest}

    def list_generations(self, account: Account, given: Record) -> tuple[int, Record]:
        records = (
            record
            for generation_id, record in self._generations.items()
            if self._owned(account, generation_id) and given["type"] in (None, record.get("type"))
        )
        return self._list("generations", records, given)

    def get_generation(
        self, account: Account, given: Record, generation_id: str
    ) -> tuple[int, Record]:
        if not self._owned(account, generation_id):
            raise not_found("Generation")
        return 200, self._generations[generation_id]

    def bulk_delete(self, account: Account, given: Record) -> tuple[int, Record]:
        def delete(generation_id: str) -> str | None:
            if not self._owned(account, generation_id):
                return "Track not found or not owned by you"
            del self._generations[generation_id]
            for playlist_id, tracks in self.contents.items():
                if generation_id in tracks:
                    tracks.remove(generation_id)
                    self._recount(playlist_id)
            return None

        return outcome("deleted", given["ids"], delete, "id")

    def list_playlists(self, account: Account, given: Record) -> tuple[int, Record]:
        records = self.playlists.items()
        return 200, {"playlists": [r for key, r in records if self._owners[key] == account.name]}

    def get_playlist(self, account: Account, given: Record, playlist_id: str) -> tuple[int, Record]:
        playlist = self.playlists.get(playlist_id)
        own = self._owners.get(playlist_id) == account.name
        if not playlist or not (own or playlist["isPublic"]):
            raise not_found("Playlist")
        fields = ("id", "title", "prompt", "status", "audioUrl", "duration", "isPublic")
        tracks = [
            {field: track.get(field) for field in (*fields, "createdAt")}
            for track in self._tracks(playlist_id)
        ]
        return 200, {**playlist, "isOwner": own, "tracks": tracks}

    def add_tracks(self, account: Account, given: Record, playlist_id: str) -> tuple[int, Record]:
        failure = ("ADD_FAILED", "Failed to add tracks to playlist")
        add = functools.partial(self._add, account, playlist_id)
        return outcome("added", given["trackIds"], add, failure=failure)

    def remove_tracks(
        self, account: Account, given: Record, playlist_id: str
    ) -> tuple[int, Record]:
        remove = functools.partial(self._remove, account, playlist_id)
        return outcome("removed", given["trackIds"], remove)

    def move_tracks(self, account: Account, given: Record, playlist_id: str) -> tuple[int, Record]:
        target = given["targetPlaylistId"]
        if target == playlist_id:
            raise invalid("targetPlaylistId", "must differ from the source playlist")

        def move(track_id: str) -> str | None:
            reason = self._not_there(account, playlist_id, track_id)
            reason = reason or self._add(account, target, track_id)
            return reason or self._remove(account, playlist_id, track_id)

        failure = ("MOVE_FAILED", "Failed to move tracks between playlists")
        return outcome("moved", given["trackIds"], move, failure=failure)

    def _add(self, account: Account, playlist_id: str, track_id: str) -> str | None:
        """Add a track, or return why it cannot be added."""
        playlist = self.playlists.get(playlist_id)
        own = self._owners.get(playlist_id) == account.name
        if not playlist or not (own or playlist["isPublic"]):
            return "Playlist not found"
        if not own:
            return "Not authorized to modify this playlist"
        track, mine = self._generations.get(track_id), self._owned(account, track_id)
        if not track or (not mine and not (track["isPublic"] and playlist["isPublic"])):
            return "Track not found"
        if playlist["isPublic"] and not track["isPublic"]:
            return "Cannot add private track to public playlist"
        if track_id in self.contents[playlist_id]:
            return "Track already in playlist"
        self.contents[playlist_id].append(track_id)
        self._recount(playlist_id, touch=True)
        return None

    def _not_there(self, account: Account, playlist_id: str, track_id: str) -> str | None:
        own = self._owners.get(playlist_id) == account.name
        if own and track_id in self.contents[playlist_id]:
            return None
        return "Track not found in playlist or not authorized"

    def _remove(self, account: Account, playlist_id: str, track_id: str) -> str | None:
        """Remove a track, or return why it cannot be removed."""
        reason = self._not_there(account, playlist_id, track_id)
        if not reason:
            self.contents[playlist_id].remove(track_id)
            self._recount(playlist_id, touch=True)
        return reason

    def _tracks(self, playlist_id: str) -> list[Record]:
        ids = self.contents[playlist_id]
        return [self._generations[item] for item in ids if item in self._generations]

    def _recount(self, playlist_id: str, touch: bool = False) -> None:
        tracks = self._tracks(playlist_id)
        total = sum(track["duration"] for track in tracks if number(track["duration"]))
        self.playlists[playlist_id].update(trackCount=len(tracks), totalDuration=total)
        if touch:
            self.playlists[playlist_id]["updatedAt"] = stamp(time.time(), rfc=True)

    def create_sound_effect(self, account: Account, given: Record) -> tuple[int, Record]:
        prompt, duration = given["prompt"], given["duration"]
        effect_id = self._submit(account, prompt, duration, cost=False)
        self.sound_effects[effect_id] = {
            "id": effect_id,
            "status": "pending",
            "prompt": prompt,
            "requestedDuration": duration,
            "audioUrl": None,
            "duration": None,
            "webhook": given["webhook"],
            "dailyRemaining": 99 - len(self.sound_effects),
            "errorMessage": None,
            "createdAt": stamp(time.time(), rfc=True),
            "completedAt": None,
        }
        return 202, self.sound_effects[effect_id]

    def list_sound_effects(self, account: Account, given: Record) -> tuple[int, Record]:
        records = self.sound_effects.items()
        own = (r for key, r in records if self._states[key].owner == account.name)
        return self._list("soundEffects", own, given)

    def get_sound_effect(
        self, account: Account, given: Record, effect_id: str
    ) -> tuple[int, Record]:
        if effect_id not in self.sound_effects or self._states[effect_id].owner != account.name:
            raise not_found("Sound effect")
        return 200, self.sound_effects[effect_id]


# Method, path, the members of the body or the parameters of the query, and who answers.
ROUTES: tuple[tuple[str, str, Mapping[str, Field], Callable[..., tuple[int, Record]]], ...] = (
    ("GET", "/v1/me", {}, Sandbox.me),
    ("POST", "/v1/generations", MUSIC, Sandbox.create),
    ("GET", "/v1/generations", LIST, Sandbox.list_generations),
    ("POST", "/v1/generations/bulk-delete", {"ids": IDS}, Sandbox.bulk_delete),
    ("GET", "/v1/generations/([^/]+)", {}, Sandbox.get_generation),
    ("GET", "/v1/playlists", {}, Sandbox.list_playlists),
    ("GET", "/v1/playlists/([^/]+)", {}, Sandbox.get_playlist),
    ("POST", "/v1/playlists/([^/]+)/tracks", TRACKS, Sandbox.add_tracks),
    ("POST", "/v1/playlists/([^/]+)/tracks/bulk-remove", TRACKS, Sandbox.remove_tracks),
    ("POST", "/v1/playlists/([^/]+)/tracks/move", MOVE, Sandbox.move_tracks),
    ("POST", "/v1/instrumental", INSTRUMENTAL, Sandbox.create_instrumental),
    ("POST", "/v1/sound-effects", EFFECT, Sandbox.create_sound_effect),
    ("GET", "/v1/sound-effects", PAGE, Sandbox.list_sound_effects),
    ("GET", "/v1/sound-effects/([^/]+)", {}, Sandbox.get_sound_effect),
)

_loop: list[bytes] = []


def loop_mp3() -> bytes:
    if not _loop:
        _loop.append((HERE / "data" / "loop.mp3").read_bytes())
    return _loop[0]


# --- sockets --------------------------------------------------------------------------------------


class Origin(Server):
    """Serve the API or the media host."""

    def __init__(
        self, sandbox: Sandbox, name: str, host: str, port: int, tls: ssl.SSLContext | None
    ) -> None:
        super().__init__(host, port, tls)
        self.sandbox, self.name = sandbox, name
        self.hangups, self.hangup_data = 0, b""
        self._plugs: list[socket.socket] = []

    def up(self) -> None:
        for plug in self._plugs:
            plug.close()
        self._plugs.clear()
        super().up()

    def close(self) -> None:
        super().close()
        for plug in self._plugs:
            plug.close()

    def misbehave(
        self, kind: str, times: int | None, seconds: float | None = None, data: Any = b""
    ) -> None:
        if kind == "hangup":
            self.hangups = sys.maxsize if times is None else times
            self.hangup_data = as_bytes(data)
            return
        self.down()
        if kind == "unreachable":  # a full backlog: the system ignores further attempts
            self._listener.listen(0)
            for _ in range(4):
                plug = socket.socket(self._listener.family)
                plug.setblocking(False)
                plug.connect_ex((self.host, self.port))
                self._plugs.append(plug)
        if seconds is not None:
            timer = threading.Timer(seconds, self._return)
            timer.daemon = True
            timer.start()

    def _return(self) -> None:
        if not self.sandbox.stopping.is_set():
            self.up()

    def serve(self, connection: socket.socket, number: int) -> None:
        with self._lock:
            hangs_up = self.hangups > 0
            self.hangups -= hangs_up
        if hangs_up:
            connection.sendall(self.hangup_data)
        else:
            Handler(connection, (self.host, number), cast(Any, self))


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Any  # the Origin

    def answer(self) -> None:
        origin: Origin = self.server
        sandbox = origin.sandbox
        request = Request(origin.name, self.command, self.path, self.headers, self._body())
        request.connection = self.client_address[1]
        try:
            answer = sandbox.handle(request)
            if answer.end != "keep":
                self.close_connection = True
            elif self.close_connection:
                answer.headers.append(("Connection", "close"))
            answer.send(
                self.connection, sandbox.stopping, lambda status: sandbox.answered(request, status)
            )
            if answer.end == "reset":
                reset(self.connection)
        finally:
            sandbox.done(request)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = do_CONNECT = answer  # noqa: N815

    def _body(self) -> bytes:
        """Return the body, or what came of it if the client went away."""
        if "chunked" not in self.headers.get("Transfer-Encoding", ""):
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        body = b""
        while True:
            size = int(self.rfile.readline().split(b";")[0] or b"0", 16)
            body += self.rfile.read(size)
            self.rfile.readline()
            if not size:
                return body

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
        pass


# --- the command line -----------------------------------------------------------------------------


def log_to(stream: Any) -> Callable[[Request], None]:
    lock = threading.Lock()

    def write(request: Request) -> None:
        line = {
            "number": request.number,
            "time": stamp(time.time(), rfc=True),
            "origin": request.origin,
            "method": request.method,
            "target": request.target,
            "headers": dict(request.headers.items()),
            "body": request.body.decode("utf-8", "replace"),
            "status": request.status,
        }
        with lock:
            stream.write(json.dumps(line) + "\n")
            stream.flush()

    return write


def run(sandbox: Sandbox, command: list[str], home: str) -> int:
    """Run ft in the sandbox and return its exit code.

    It refuses to run what writes to the keychain, which would be the user's own.
    """
    if {("auth", "login"), ("auth", "logout")} & set(zip(command, command[1:])):
        names = "`ft auth login` and `ft auth logout`"
        print(f"error: {names} are about your own keychain: run ft itself", file=sys.stderr)
        return 2
    environment = {**os.environ, "FINETUNING_API_KEY": sandbox.key, "FINETUNING_CONFIG_HOME": home}
    for name in ("NO_PROXY", "no_proxy"):
        hosts = [os.environ.get(name), "127.0.0.1,localhost,::1"]
        environment[name] = ",".join(filter(None, hosts))
    # The child gets a Ctrl-C from the terminal too.
    signal.signal(signal.SIGINT, lambda signum, frame: None)
    child = subprocess.Popen([sys.executable, str(FT), *command], env=environment)

    def pass_on(signum: int, frame: Any) -> None:
        child.send_signal(signum)

    for name in ("SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), pass_on)
    code = child.wait()
    return code if code >= 0 else 128 - code


def serve(sandbox: Sandbox, home: str) -> int:
    """Print how to use the sandbox, and wait for a signal."""
    over = threading.Event()
    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), lambda signum, frame: over.set())
    variables = {"FINETUNING_CONFIG_HOME": home, "FINETUNING_API_KEY": sandbox.key}
    values = (f"{name}={shlex.quote(value)}" for name, value in variables.items())
    print(f"The sandbox is at {sandbox.api_url}. Paste this into another shell:", file=sys.stderr)
    print("export", *values, flush=True)
    lines = (
        "There ft uses it, from any directory; this one or, as `ft list`, an installed one:",
        f"python3 {shlex.quote(str(FT))} list",
        "This ends that, and Ctrl-C here stops the sandbox:",
        f"unset {' '.join(variables)}",
    )
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    while not over.wait(0.5):  # Windows delivers no signal during an endless wait
        pass
    return 0


def keep(sandbox: Sandbox, file: pathlib.Path) -> None:
    """Load the library from a file if there is one. Raises OSError or ValueError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if file.exists():
        try:
            sandbox.load(file)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is damaged: {error!r}") from None


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        usage="sandbox.py [options] [ft command ...]",
        description="A stand-in for Finetuning.ai on loopback. With an ft command it runs that "
        "against itself; without one it serves until Ctrl-C.",
        epilog=fault_list(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option(
        "--keep", metavar="DIR", help="load the library from DIR/library.json, and save it there"
    )
    option("--port", type=int, default=0, help="of the API (default: a free one)")
    option("--media-port", type=int, default=0, help="of the media host (default: a free one)")
    option("--seconds", type=float, default=4.0, help="a generation takes (default: 4)")
    option("--window", type=float, default=60.0, help="the rate limits' minute, in seconds")
    option("--no-rate-limits", action="store_true", help="answer any number of requests")
    option("--log", metavar="FILE", help="write each request as a line of JSON; - for stderr")
    option("--fault", action="append", default=[], type=parse_fault, metavar="KIND[,key=value...]")
    option("command", nargs=argparse.REMAINDER, help="ft command and its arguments")
    options = parser.parse_args(arguments)
    command = options.command[1:] if options.command[:1] == ["--"] else options.command
    with contextlib.ExitStack() as stack:
        log = sys.stderr
        if options.log not in (None, "-"):
            log = stack.enter_context(open(options.log, "a", encoding="utf-8"))
        sandbox = Sandbox(
            seconds=options.seconds,
            rate_limits=not options.no_rate_limits,
            window=options.window,
            api_port=options.port,
            media_port=options.media_port,
            seed=None,
            on_done=log_to(log) if options.log else None,
        )
        if options.keep:
            file = pathlib.Path(options.keep, "library.json")
            try:
                keep(sandbox, file)
            except (OSError, ValueError) as error:
                parser.error(f"argument --keep: {error}")
            stack.callback(sandbox.save, file)
        home = stack.enter_context(tempfile.TemporaryDirectory(prefix="ft-sandbox-"))
        config = json.dumps({"baseUrl": sandbox.api_url}) + "\n"
        pathlib.Path(home, "config.json").write_text(config, encoding="utf-8")
        stack.enter_context(sandbox)
        for name, params in options.fault:
            try:
                sandbox.fault(name, **params)
            except (TypeError, ValueError) as error:
                parser.error(str(error))
        return run(sandbox, command, home) if command else serve(sandbox, home)


if __name__ == "__main__":
    sys.exit(main())
