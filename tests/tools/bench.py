"""Measures how soon ft starts and how fast it downloads, as ratios of paired runs.

    python3 tests/tools/bench.py [starts] [keyring] [downloads] [--rounds N]
        all three if none is named

Every command of a table runs once a round, in turn, so that a busy machine slows all of them alike.
A ratio is the median over the rounds of the ratio within the round. Python is the interpreter of a
fresh `venv --without-pip`: what else is installed beside an interpreter can slow its start several
times.
"""

from __future__ import annotations

import argparse
import http.server
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from functools import partial
from pathlib import Path
from typing import Callable, Dict, List, Mapping, Sequence

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import build  # noqa: E402
from sandbox import Sandbox  # noqa: E402

MB, GB = 10**6, 10**9

# Runs a command and prints the seconds it took and its peak memory, from a process that is smaller
# than any
# it measures: a child's peak begins with its parent's.
LAUNCH = """
import os, sys, time
start = time.perf_counter()
quiet = [(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
process = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ, file_actions=quiet)
_, status, usage = os.wait4(process, 0)
print(time.perf_counter() - start, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024))
sys.exit(status != 0)
"""

# A bus of its own with an unlocked keyring that holds $FINETUNING_API_KEY. Prints its address and
# waits for
# stdin to end.
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
        (directory / "config.json").write_text(json.dumps({"baseUrl": sandbox.api_url}))
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "FINETUNING_CONFIG_HOME": str(directory),
            "FINETUNING_API_KEY": sandbox.key,
        }

    def run(self, command: Sequence[str], env: Mapping[str, str]) -> tuple[float, float]:
        """The seconds that a command takes, and its peak memory in MB."""
        launch = [str(self.python), "-I", "-S", "-c", LAUNCH, *command]
        ran = subprocess.run(launch, env=env, capture_output=True, cwd=self.directory)
        if ran.returncode:
            raise SystemExit(f"failed: {' '.join(command)}\n{ran.stderr.decode()}")
        seconds, peak = ran.stdout.split()
        return float(seconds), int(peak) / MB


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
    floor = "python -I -c pass"
    commands = {floor: [str(machine.python), "-I", "-c", "pass"]}
    for words in (["--version"], ["help"], ["list", "--json"]):
        for form, argv in machine.forms.items():
            commands[f"ft {' '.join(words)} ({form})"] = [*argv, *words]
    url = f"{sandbox.api_url}/v1/generations?limit=20"
    commands["curl, as ft list --json"] = ["curl", "-sf", "-H", f"X-API-Key: {sandbox.key}", url]

    def wall(command: Sequence[str]) -> float:
        start = time.perf_counter()
        subprocess.run(command, env=machine.env, check=True, stdout=subprocess.DEVNULL)
        return time.perf_counter() - start

    taken = in_turn(rounds, {name: partial(wall, command) for name, command in commands.items()})
    row("", "ms", f"× {floor}", "× curl")
    for name in commands:
        columns = [ratio(taken, name, base) for base in (floor, "curl, as ft list --json")]
        row(name, 1000 * statistics.median(taken[name]), *columns)


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
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Media)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    places = {"disk": str(machine.directory), "memory": "/dev/shm"}
    row("", "MB/s", "× curl -o", "peak memory, MB")
    for place, parent in places.items():
        if not os.path.isdir(parent):
            continue
        for size in (MB, GB):
            with tempfile.TemporaryDirectory(dir=parent) as target:
                url = f"http://127.0.0.1:{server.server_address[1]}/{size}"
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
    server.shutdown()
    server.server_close()


def main() -> None:
    parts = {"starts": starts, "keyring": keyring, "downloads": downloads}
    parser = argparse.ArgumentParser(description=(__doc__ or "").split(":")[0])
    parser.add_argument("parts", nargs="*", metavar="PART", help=", ".join(parts))
    parser.add_argument("--rounds", type=int, default=30)
    args = parser.parse_args()
    print(f"Python {sys.version.split()[0]}, medians of {args.rounds} rounds\n")
    with tempfile.TemporaryDirectory() as directory, Sandbox(rate_limits=False) as sandbox:
        machine = Machine(Path(directory), sandbox)
        for name in args.parts or parts:
            parts[name](machine, sandbox, args.rounds)
            print()


if __name__ == "__main__":
    main()
