"""Measures what users wait for: starts, TLS, round trips, growth and downloads, beside curl.

    python3 tests/tools/bench.py [PART]... [--rounds N]

    starts       `ft --version` and others beside a Python and a zipapp that do nothing
    tls          `ft list --json` over TLS on loopback
    pages        `ft list --all --json` of 990 records over TLS, at 40 ms for a round trip
    tracks       `ft download` of 40 ids, likewise
    growth       time and memory for 10,000 and 40,000 records, and for deleting 100,000 ids
    downloads    throughput of 1 MB and 1 GB on loopback
    requests     how many requests 250 ids take under the real limit of 60 a minute
    library      `ft download --all` of 1,000 and 10,000 tracks under that limit, and the rerun
    batch        processor time and requests of `ft batch` for 1,000 and 10,000 lines, and its pace
    keyring      the key from a keyring

All of them run if none is named. Every command of a table runs once a round, in turn, so that a
busy machine slows all of them alike. A ratio is the median over the rounds of the ratio within the
round. Python is the interpreter of a fresh `venv --without-pip`: what else is installed beside an
interpreter can slow its start several times.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import http.server
import json
import math
import os
import re
import shutil
import ssl
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.parse
import zipapp
from functools import partial
from pathlib import Path
from typing import Any, Callable, ClassVar, Dict, Iterator, List, Mapping, NamedTuple, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import build  # noqa: E402
from sandbox import Sandbox  # noqa: E402

MB, GB = 10**6, 10**9

# Runs a command and prints the seconds it took, those of the processor, and its peak memory, from a
# process that is smaller than any it measures: a child's peak begins with its parent's.
LAUNCH = """
import os, sys, time
start = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(process, 0)
wall, busy = time.perf_counter() - start, usage.ru_utime + usage.ru_stime
print(wall, busy, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(status != 0)
"""

# A bus of its own with an unlocked keyring that holds $FINETUNING_API_KEY. Prints its address and
# waits for stdin to end.
KEYRING = """
printf 'password\\n' | gnome-keyring-daemon --unlock --components=secrets >/dev/null 2>&1
until dbus-send --session --print-reply=literal --dest=org.freedesktop.DBus / \\
    org.freedesktop.DBus.NameHasOwner string:org.freedesktop.secrets | grep -q true; do
    sleep 0.05
done
printf %s "$FINETUNING_API_KEY" |
    secret-tool store --label=bench service finetuning username default
echo "$DBUS_SESSION_BUS_ADDRESS"
read -r _
"""


# Runs a command in a namespace where other directories are at some places, for it alone.
ISOLATED = """
set -e
for pair in $BINDS; do mount --bind "${pair%%=*}" "${pair#*=}"; done
exec "$@"
"""


class Usage(NamedTuple):
    """What a command took: seconds on the clock and of the processor, and bytes of memory."""

    wall: float
    busy: float
    peak: int


class Machine:
    """The forms of ft, installed in a directory of their own, and the clean environment they run
    in.
    """

    def __init__(self, directory: Path, sandbox: Sandbox) -> None:
        self.directory = directory
        self.python = directory / "venv" / "bin" / "python"
        subprocess.run(
            [sys.executable, "-m", "venv", "--without-pip", directory / "venv"], check=True
        )
        make = "import sys; from flit_core import buildapi; buildapi.build_wheel(sys.argv[1])"
        subprocess.run([sys.executable, "-c", make, directory], cwd=ROOT, check=True)
        pip = [
            sys.executable,
            "-m",
            "pip",
            "--python",
            str(self.python),
            "install",
            "-q",
            "--no-index",
            "--no-deps",
        ]
        subprocess.run([*pip, *map(str, directory.glob("*.whl"))], check=True)
        build.pyz(directory / "ft.pyz", [str(self.python), *build.candidates()])
        self.forms: dict[str, list[str]] = {
            "ft.py": [str(self.python), str(ROOT / "ft.py")],
            "ft.pyz": [str(self.python), str(directory / "ft.pyz")],
            "installed": [str(directory / "venv" / "bin" / "ft")],
        }
        empty = directory / "empty"
        empty.mkdir()
        (empty / "__main__.py").write_text("pass\n")
        zipapp.create_archive(empty, directory / "empty.pyz")
        self.empty = [str(self.python), str(directory / "empty.pyz")]
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "FINETUNING_CONFIG_HOME": str(directory),
            "FINETUNING_API_KEY": sandbox.key,
        }
        self.use(sandbox.api_url)

    def use(self, base_url: str) -> None:
        """Let ft talk to the service at this address from now on."""
        (self.directory / "config.json").write_text(json.dumps({"baseUrl": base_url}))

    def measure(
        self,
        command: Sequence[str],
        env: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
        stdin: Path = Path(os.devnull),
    ) -> Usage:
        """Run a command; `prefix` is one that runs it, but does not count."""
        launch = [*prefix, str(self.python), "-I", "-S", "-c", LAUNCH, *command]
        with stdin.open("rb") as file:
            ran = subprocess.run(
                launch, env=env or self.env, capture_output=True, cwd=self.directory, stdin=file
            )
        if ran.returncode:
            raise SystemExit(f"failed: {' '.join(command)[:1000]}\n{ran.stderr.decode()}")
        wall, busy, peak = ran.stdout.split()
        return Usage(float(wall), float(busy), int(peak))

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> tuple[float, float]:
        """The seconds that a command takes, and its peak memory in MB."""
        usage = self.measure(command, env)
        return usage.wall, usage.peak / MB


Times = Dict[str, List[float]]


def in_turn(rounds: int, run: Mapping[str, Callable[[], float]]) -> Times:
    """What each gives in each round; a first round only warms up."""
    taken: Times = {name: [] for name in run}
    for _ in range(rounds + 1):
        for name, measure in run.items():
            taken[name].append(measure())
    return {name: values[1:] for name, values in taken.items()}


def ratio(taken: Times, name: str, base: str) -> float:
    return statistics.median(a / b for a, b in zip(taken[name], taken[base]))


def row(name: str, *columns: str | float) -> None:
    print(
        f"{name:34}" + "".join(f"{c:>20}" if isinstance(c, str) else f"{c:20.2f}" for c in columns)
    )


def starts(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """The start-up of each form, and one request beside curl's."""
    floor, zipped, curl = "python -I -c pass", "an empty zipapp", "curl, as ft list --json"
    commands = {floor: [str(machine.python), "-I", "-c", "pass"], zipped: machine.empty}
    for words in (["--version"], ["help"], ["list", "--json"]):
        for form, argv in machine.forms.items():
            commands[f"ft {' '.join(words)} ({form})"] = [*argv, *words]
    url = f"{sandbox.api_url}/v1/generations?limit=20"
    commands[curl] = ["curl", "-sf", "-H", f"X-API-Key: {sandbox.key}", url]

    def wall(command: Sequence[str]) -> float:
        start = time.perf_counter()
        subprocess.run(command, env=machine.env, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    taken = in_turn(rounds, {name: partial(wall, command) for name, command in commands.items()})
    row("", "ms", f"× {floor}", f"× {zipped}", "× curl")
    for name in commands:
        columns = [ratio(taken, name, base) for base in (floor, zipped, curl)]
        row(name, 1000 * statistics.median(taken[name]), *columns)


class Authority:
    """A certificate authority for the services here, and ways to let ft and curl trust it."""

    def __init__(self, directory: Path) -> None:
        import trustme

        authority = trustme.CA()
        self.directory = directory
        self.file = directory / "ca.pem"
        authority.cert_pem.write_to_path(str(self.file))
        self.context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        authority.issue_cert("127.0.0.1").configure_cert(self.context)

    def system_trust(self, machine: Machine) -> tuple[list[str], dict[str, str]]:
        """Return a command prefix and variables with which the system itself trusts us as well.

        A copy of the system's directory, with our certificate in it, takes the place of the
        original in a namespace. Raises OSError if that is impossible.
        """
        code = "import ssl; paths = ssl.get_default_verify_paths(); print(paths[3], paths[5])"
        asked = subprocess.run(
            [machine.python, "-I", "-c", code], env={}, stdout=subprocess.PIPE, check=True
        )
        bundle, certs = (Path(word).resolve() for word in asked.stdout.decode().split())
        if not certs.is_dir() or certs not in bundle.parents:
            raise OSError(f"this Python trusts {bundle} and {certs}")
        copy = self.directory / "certs"
        shutil.copytree(certs, copy, ignore_dangling_symlinks=True)
        with (copy / bundle.relative_to(certs)).open("ab") as file:
            file.write(b"\n" + self.file.read_bytes())
        if any(re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", name) for name in os.listdir(copy)):
            command = ["openssl", "x509", "-noout", "-subject_hash", "-in", str(self.file)]
            name = subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout.decode()
            shutil.copy(self.file, copy / f"{name.strip()}.0")
        prefix = ["unshare", "-rm", "sh", "-c", ISOLATED, "sh"]
        env = {**machine.env, "BINDS": f"{copy}={certs}"}
        if subprocess.run([*prefix, "true"], env=env, stderr=subprocess.DEVNULL).returncode:
            raise OSError("unshare may not mount here")
        return prefix, env


def tls(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """One request over TLS, with all the certificates that the system trusts."""
    with tempfile.TemporaryDirectory() as directory:
        authority = Authority(Path(directory))
        with Sandbox(rate_limits=False, tls=authority.context) as service:
            machine.use(service.api_url)
            curl = ["curl", "-sf", "-H", f"X-API-Key: {service.key}"]
            try:
                prefix, env = authority.system_trust(machine)
            except (OSError, subprocess.CalledProcessError) as error:
                print(f"with our certificate alone, not the system's as well: {error}")
                prefix, env = [], {**machine.env, "SSL_CERT_FILE": str(authority.file)}
                curl += ["--cacert", str(authority.file)]
            commands = {
                "curl": [*curl, f"{service.api_url}/v1/generations?limit=20"],
                **{
                    f"ft ({form})": [*argv, "list", "--json"]
                    for form, argv in machine.forms.items()
                },
            }
            run = {
                name: partial(lambda argv: machine.measure(argv, env, prefix).wall, command)
                for name, command in commands.items()
            }
            beside_curl("list --json over TLS", in_turn(rounds, run))


def beside_curl(title: str, taken: Times) -> None:
    row(title, "ms", "× curl")
    for name, values in taken.items():
        row(name, 1000 * statistics.median(values), ratio(taken, name, "curl"))


@contextlib.contextmanager
def far_service(machine: Machine, directory: Path) -> Iterator[tuple[Sandbox, dict[str, str]]]:
    """A service over TLS, 40 ms away, and the variables with which ft and curl trust it."""
    authority = Authority(directory)
    with Sandbox(rate_limits=False, library=False, tls=authority.context) as service:
        ports = [url.rpartition(":")[2] for url in (service.api_url, service.media_url)]
        command = [sys.executable, str(HERE / "relay.py"), *ports]
        relay = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        assert relay.stdin
        assert relay.stdout
        try:
            far_ports = relay.stdout.readline().decode().split()
            service.api_url, service.media_url = (f"https://127.0.0.1:{p}" for p in far_ports)
            machine.use(service.api_url)
            trusted = str(authority.file)
            yield service, {**machine.env, "SSL_CERT_FILE": trusted, "CURL_CA_BUNDLE": trusted}
        finally:
            relay.stdin.close()
            relay.wait()
            relay.stdout.close()


def pages(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """A listing of ten pages, 40 ms away. curl knows their addresses beforehand."""
    with tempfile.TemporaryDirectory() as directory, far_service(machine, Path(directory)) as (
        service,
        env,
    ):
        for _ in range(990):
            service.add_generation(seconds=2)
        urls = [
            f"{service.api_url}/v1/generations?limit=99&offset={offset}"
            for offset in range(0, 990, 99)
        ]
        commands = {
            "curl": ["curl", "-sf", "-H", f"X-API-Key: {service.key}", *urls],
            "ft": [*machine.forms["ft.pyz"], "list", "--all", "--json"],
        }
        compare_far("list --all of 990", machine, service, rounds, commands, env)


def tracks(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """Forty tracks, 40 ms away. curl knows their addresses beforehand, ft asks for them."""
    with tempfile.TemporaryDirectory() as directory, far_service(machine, Path(directory)) as (
        service,
        env,
    ):
        records = [service.add_generation(seconds=2) for _ in range(40)]
        curl = ["curl", "-sfZ", "--parallel-max", "4"]
        for number, record in enumerate(records):
            curl += ["-o", f"{directory}/{number}.mp3", record["audioUrl"]]
        ids = [record["id"] for record in records]
        commands = {
            "curl": curl,
            "ft": [*machine.forms["ft.pyz"], "download", *ids, "-o", f"{directory}/"],
        }
        compare_far("download of 40", machine, service, rounds, commands, env)


def compare_far(
    title: str,
    machine: Machine,
    service: Sandbox,
    rounds: int,
    commands: Mapping[str, Sequence[str]],
    env: Mapping[str, str],
) -> None:
    """Print how long the commands take, and how many requests and connections they make."""
    traffic: dict[str, tuple[int, ...]] = {}

    def counts() -> tuple[int, ...]:
        return len(service.requests), service.connections("api"), service.connections("media")

    def measure(name: str) -> float:
        before = counts()
        seconds = machine.measure(commands[name], env).wall
        traffic[name] = tuple(now - then for now, then in zip(counts(), before))
        return seconds

    taken = in_turn(rounds, {name: partial(measure, name) for name in commands})
    row(f"{title}, TLS, 40 ms", "ms", "× curl", "requests", "connections: API", "media")
    for name in commands:
        columns = 1000 * statistics.median(taken[name]), ratio(taken, name, "curl")
        row(name, *columns, *map(str, traffic[name]))


class Library(http.server.BaseHTTPRequestHandler):
    """Serves `size` records page by page, and deletes whatever it is asked to."""

    protocol_version = "HTTP/1.1"
    size: ClassVar[int] = 0
    address: ClassVar[str] = ""
    record: ClassVar[dict[str, Any]] = {}

    def do_GET(self) -> None:
        query = dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(self.path).query))
        offset, limit = int(query.get("offset", 0)), int(query["limit"])
        following = min(offset + limit, self.size)
        records = [self.make_record(number) for number in range(offset, following)]
        has_more = following < self.size
        following_offset = following if has_more else None
        self._send({"generations": records, "hasMore": has_more, "nextOffset": following_offset})

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self._send({"deleted": body["ids"]})

    @classmethod
    def make_record(cls, number: int) -> dict[str, Any]:
        return {**cls.record, "id": cls.name(number)}

    @staticmethod
    def name(number: int) -> str:
        return f"{number:08d}-0000-4000-8000-000000000000"

    def _send(self, data: Mapping[str, Any]) -> None:
        body = json.dumps({"success": True, "data": data}).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@contextlib.contextmanager
def serving(handler: type[http.server.BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve HTTP on loopback; gives the address."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()


def growth(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """Work that has to grow no faster than what it works on."""
    Library.record = sandbox.add_generation()
    with tempfile.TemporaryDirectory() as directory, serving(Library) as url:
        machine.use(url)
        ids = Path(directory) / "ids"
        listing = [*machine.forms["ft.pyz"], "list", "--all", "--json"]
        deletion = [*machine.forms["ft.pyz"], "delete", "--yes", "-"]
        row("", "processor, s", "peak memory, MB", "× its tenth or quarter")
        for title, command, sizes in (
            ("list --all --json of", listing, (10_000, 40_000)),
            ("delete of", deletion, (10_000, 100_000)),
        ):
            before = 0.0
            for size in sizes:
                Library.size = size
                ids.write_text("".join(Library.name(number) + "\n" for number in range(size)))
                usages = [machine.measure(command, stdin=ids) for _ in range(max(3, rounds // 10))]
                busy = statistics.median(usage.busy for usage in usages)
                peak = max(usage.peak for usage in usages) / MB
                row(f"{title} {size:,}", busy, peak, busy / before if before else "")
                before = busy


def requests(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """Requests to the API for a whole library of 250 tracks, whose limit is 60 a minute."""
    with Sandbox(library=False, track_bytes=1000) as service:
        ids = [service.add_generation()["id"] for _ in range(250)]
        machine.use(service.api_url)
        with tempfile.TemporaryDirectory() as directory:
            command = [*machine.forms["ft.pyz"], "download", *ids, "-o", f"{directory}/"]
            seconds = machine.measure(command).wall
        made = [request for request in service.requests if request.origin == "api"]
        refused = sum(request.status == 429 for request in made)
    row("", "s", "requests to the API", "refused (429)")
    row("download of 250 ids", seconds, str(len(made)), str(refused))


class Shelf(Library):
    """Serves the records and the tracks of a library, and refuses over 60 API requests a minute."""

    track: ClassVar[bytes] = b"ID3" + bytes(997)
    taken: ClassVar[collections.deque[float]] = collections.deque()
    served: ClassVar[collections.Counter[str]] = collections.Counter()
    lock: ClassVar[threading.Lock] = threading.Lock()

    def do_GET(self) -> None:
        wait = 0.0
        is_track = self.path.startswith("/audio/")
        with self.lock:
            now = time.monotonic()
            while self.taken and self.taken[0] < now - 60:
                self.taken.popleft()
            if not is_track and len(self.taken) >= 60:
                wait = self.taken[0] + 60 - now
            elif not is_track:
                self.taken.append(now)
            self.served["refused" if wait else "tracks" if is_track else "pages"] += 1
        if wait:
            self.send_response(429)
            self.send_header("Retry-After", str(math.ceil(wait)))
            self.send_header("Content-Length", "0")
            self.end_headers()
        elif is_track:
            self.send_response(200)
            self.send_header("Content-Type", "audio/mpeg")
            self.send_header("Content-Length", str(len(self.track)))
            self.end_headers()
            self.wfile.write(self.track)
        else:
            super().do_GET()

    @classmethod
    def make_record(cls, number: int) -> dict[str, Any]:
        identifier = cls.name(number)
        return {**cls.record, "id": identifier, "audioUrl": f"{cls.address}/audio/{number}.mp3"}


def library(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """A library on disk: the first run and a nightly one, once each, with metadata."""
    Shelf.record = {**sandbox.add_generation(), "fileSize": len(Shelf.track)}
    columns = ("requests to the API", "refused (429)", "tracks", "s", "processor, s")
    row("download --all of", *columns, "peak memory, MB")
    with serving(Shelf) as url, tempfile.TemporaryDirectory() as directory:
        machine.use(url)
        Shelf.address = url
        for size in (1_000, 10_000):
            Shelf.size = size
            flags = ["--all", "--skip-existing", "--metadata", "-o", f"{directory}/{size}/"]
            for title in ("first run", "nightly run"):
                Shelf.served.clear()
                Shelf.taken.clear()
                usage = machine.measure([*machine.forms["ft.pyz"], "download", *flags])
                counts = [str(Shelf.served[name]) for name in ("pages", "refused", "tracks")]
                row(f"{size:,}, {title}", *counts, usage.wall, usage.busy, usage.peak / MB)


def batch(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """A file of prompts whose tracks are all made, the same once more, and only the start of it."""
    row("", "processor, s", "× its tenth", "submissions", "other requests", "of the media")
    before: dict[str, float] = {}
    for size in (1000, 10_000):
        with tempfile.TemporaryDirectory() as directory, Sandbox(
            library=False, rate_limits=False, queue_limit=size, track_bytes=1000, seconds=0.01
        ) as service:
            machine.use(service.api_url)
            service.keys["pro"].pack = size
            file = Path(directory) / "prompts.csv"
            rows = (f"song {n},{60 + n % 100},named/{n}.mp3\n" for n in range(size))
            file.write_text("prompt,bpm,output\n" + "".join(rows))
            command = [*machine.forms["ft.pyz"], "batch", str(file), "-y", "-o", f"{directory}/out"]
            for title, flags in (
                (f"start of {size:,} lines (--dry-run)", ["--dry-run"]),
                (f"batch of {size:,}", []),
                (f"the same once more, {size:,}", []),
            ):
                sent = len(service.requests)
                busy = machine.measure([*command, *flags]).busy
                made = service.requests[sent:]
                posts = sum(request.method == "POST" for request in made)
                media = sum(request.origin == "media" for request in made)
                tenth = before.get(title[:5])
                before[title[:5]] = busy
                ratio_to_tenth = busy / tenth if tenth else ""
                row(
                    title,
                    busy,
                    ratio_to_tenth,
                    *map(str, (posts, len(made) - posts - media, media)),
                )
    batch_pace(machine)


def batch_pace(machine: Machine) -> None:
    """Thirty lines under the real limits, which takes three minutes."""
    with tempfile.TemporaryDirectory() as directory, Sandbox(
        library=False, track_bytes=1000, seconds=20
    ) as service:
        machine.use(service.api_url)
        file = Path(directory) / "prompts.txt"
        file.write_text("".join(f"song {n}\n" for n in range(30)))
        command = [*machine.forms["ft.pyz"], "batch", str(file), "-y", "-o", f"{directory}/out"]
        minutes = machine.measure(command).wall / 60
        api = [request for request in service.requests if request.origin == "api"]
    posts = [request for request in api if request.method == "POST"]
    refused = sum(request.status == 429 for request in posts)
    print()
    row("", "minutes", "submissions", "refused (429)", "reads a minute")
    reads = (len(api) - len(posts)) / minutes
    row("batch of 30, 20 s each, 5 at once", minutes, str(len(posts)), str(refused), reads)


def keyring(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """One request with the key from the environment, and with the key from a keyring."""
    if not all(map(shutil.which, ("dbus-run-session", "gnome-keyring-daemon", "secret-tool"))):
        print("keyring: needs dbus, gnome-keyring and libsecret-tools")
        return
    home = {**machine.env, "XDG_RUNTIME_DIR": str(machine.directory)}
    session = subprocess.Popen(
        ["dbus-run-session", "--", "sh", "-c", KEYRING],
        env=home,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert session.stdin
    assert session.stdout
    try:
        bus = {**home, "DBUS_SESSION_BUS_ADDRESS": session.stdout.readline().decode().strip()}
        del bus["FINETUNING_API_KEY"]
        environments = {"environment": machine.env, "keyring": bus}
        command = [*machine.forms["ft.pyz"], "me"]

        def measure(env: Mapping[str, str]) -> float:
            return machine.run(command, env)[0]

        taken = in_turn(rounds, {name: partial(measure, env) for name, env in environments.items()})
    finally:
        session.stdin.close()
        session.wait()
        session.stdout.close()
    row("", "ms", "× environment")
    for name in environments:
        columns = 1000 * statistics.median(taken[name]), ratio(taken, name, "environment")
        row(f"ft me, key from the {name}", *columns)


class Media(http.server.BaseHTTPRequestHandler):
    """Serves /<size> as fast as the kernel can: a file of that many zeros."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        size = int(self.path.strip("/"))
        self.send_response(200)
        for name, value in {
            "Content-Length": size,
            "Content-Type": "audio/mpeg",
            "ETag": f'"{size}"',
        }.items():
            self.send_header(name, str(value))
        self.end_headers()
        self.wfile.flush()
        with tempfile.TemporaryFile() as file:
            file.truncate(size)
            self.connection.sendfile(file)

    def log_message(self, *_: object) -> None:
        pass


def downloads(machine: Machine, sandbox: Sandbox, rounds: int) -> None:
    """Throughput beside `curl -o`, and peak memory, for a small and a big track."""
    machine.use(sandbox.api_url)
    with serving(Media) as address:
        compare_downloads(machine, sandbox, rounds, address)


def compare_downloads(machine: Machine, sandbox: Sandbox, rounds: int, address: str) -> None:
    places = {"disk": str(machine.directory), "memory": "/dev/shm"}
    row("", "MB/s", "× curl -o", "peak memory, MB")
    for place, parent in places.items():
        if not os.path.isdir(parent):
            continue
        for size in (MB, GB):
            with tempfile.TemporaryDirectory(dir=parent) as target:
                url = f"{address}/{size}"
                track = sandbox.add_generation(audioUrl=url, fileSize=size)["id"]
                commands = {
                    "curl": ["curl", "-sf", "-o", f"{target}/curl", url],
                    "ft": [*machine.forms["ft.pyz"], "download", track, "-o", f"{target}/ft"],
                }
                peaks = dict.fromkeys(commands, 0.0)

                def measure(name: str) -> float:
                    seconds, peak = machine.run(commands[name], machine.env)  # noqa: B023
                    peaks[name] = max(peaks[name], peak)  # noqa: B023
                    return seconds

                turns = rounds if size == MB else max(3, rounds // 6)
                taken = in_turn(turns, {name: partial(measure, name) for name in commands})
            for name in commands:
                speed = size / MB / statistics.median(taken[name])
                row(
                    f"{name}, {size // MB} MB to {place}",
                    speed,
                    ratio(taken, name, "curl"),
                    peaks[name],
                )


def main() -> None:
    everything = (starts, tls, pages, tracks, growth, downloads, requests, library, batch, keyring)
    parts = {part.__name__: part for part in everything}
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, medians of {args.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as directory, Sandbox(rate_limits=False) as sandbox:
        machine = Machine(Path(directory), sandbox)
        for name in args.parts or parts:
            machine.use(sandbox.api_url)
            parts[name](machine, sandbox, args.rounds)
            print()


if __name__ == "__main__":
    main()
