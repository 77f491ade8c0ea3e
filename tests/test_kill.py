"""Commands are stopped and killed at random moments: no file with the final name is ever
incomplete, no report is cut off, and nothing that is paid for is lost. FT_KILLS=N: so many times.

SIGKILL may leave a hidden file, which is never named like a track; SIGTERM may not even leave that.
"""

from __future__ import annotations

import json
import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import PYTHON, ROOT, Result, Runner

KILLS = int(os.environ.get("FT_KILLS", "20"))
pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="about POSIX signals")]


@pytest.mark.sandbox(track_bytes=3_000_000)
@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name
)
def test_stopped_at_random_moments(ft: Runner, tmp_path: Path, number: int) -> None:
    """The moments are spread over the whole run of a process: its start, the download, the end."""
    tracks = [str(ft.sandbox.add_generation(prompt=f"song {n}")["id"]) for n in range(3)]
    whole = {f"song-{n}-{track[:8]}.mp3": ft.sandbox.track(track) for n, track in enumerate(tracks)}
    out = tmp_path / "out"
    out.mkdir()
    old = b"what was there before"

    start = time.monotonic()
    ft("download", *tracks, cwd=out, check=0)
    longest = 1.2 * (time.monotonic() - start)

    choice = random.Random(number)
    for _ in range(KILLS if number == signal.SIGKILL else KILLS // 4):
        for name in whole:
            (out / name).write_bytes(old)
        ids = tracks[: choice.choice([1, 3])]
        running = ft.start("-v", "download", *ids, cwd=out)
        if number != signal.SIGKILL:
            # Before, Python may say that it was interrupted, in its own words.
            running.expect("> GET ")
        time.sleep(choice.uniform(0, longest))  # no event tells a random moment
        running.send_signal(number)
        result = running.finish()
        assert result.code in (0, 128 + number), repr(result)
        assert "error: " not in result.stderr and "Traceback" not in result.stderr, repr(result)
        for name in os.listdir(out):
            if name in whole:
                assert (out / name).read_bytes() in (old, whole[name])
            else:
                assert number == signal.SIGKILL, repr(result)
                assert re.fullmatch(r"\.ft-[0-9a-f]{12}-(song|track)-.*\.part", name)
                (out / name).unlink()


STOPPING = (
    "SIGINT SIGTERM SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGVTALRM SIGPROF SIGXCPU SIGIO SIGPWR"
)
# As the script of an installed ft, but it says when ft.py has run its first lines: before, an
# interrupted Python has its own words.
SCRIPT = """
import os, sys
class Announcer:
    @staticmethod
    def find_spec(name, path=None, target=None):
        if name == "argparse":
            os.write(2, b"started\\n")
sys.meta_path.insert(0, Announcer)
sys.path.insert(0, {!r})
from ft import main
sys.exit(main())
"""
COMMANDS = {
    "me": [],
    "list --all --json": [],
    "list": [],
    "get SONG --json": [],
    "playlists": [],
    "playlist show Drafts": [],
    "playlist add Drafts IDS --json": [],
    "playlist remove Drafts IDS --json": [],
    "doctor": [],
    "help generate": [],
    "completion bash": [],
    "auth logout": [],
    "delete --yes --json IDS": [],
    "delete --yes IDS": [],
    "download SONG": [],
    "download SONG -o -": [],
    "download IDS": [],
    "-v download IDS -o out/": [],
    "generate a song": [],
    "generate a song -o song.mp3": [],
    "generate a song --json": [],
    "generate a song --no-wait": [],
    "instrumental rain": [],
    "sfx generate a door": [],
    "sfx list": [],
}


def check_bulk(result: Result, ids: list[str]) -> None:
    """Each id has an outcome, or nothing was reported because nothing had begun."""
    if not result.stdout:
        return
    if "--json" not in result.argv:
        assert result.stdout.splitlines()[-1].endswith(f" of {len(ids)} track(s)"), repr(result)
        return
    (_, done), *more = json.loads(result.stdout)["data"].items()
    errors = more[0][1] if more else []
    told = [*done, *(error.get("id") or error["trackId"] for error in errors)]
    assert sorted(told) == sorted(ids), repr(result)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_signal_at_random_moments_of_each_command(
    ft: Runner, tmp_path: Path, command: str
) -> None:
    script = tmp_path / "bin" / "ft"
    script.parent.mkdir()
    script.write_text(SCRIPT.format(str(ROOT)))
    numbers = [getattr(signal, name) for name in STOPPING.split() if hasattr(signal, name)]
    choice = random.Random(f"{command} {os.environ.get('FT_SEED', '')}")
    for _ in range(150):  # for a list of some length
        ft.sandbox.add_generation()
    longest = 0.0
    for run in range(1 + KILLS // 10):
        out = tmp_path / f"out{run}"
        out.mkdir()
        ids = [str(ft.sandbox.add_generation(prompt=f"song {n}")["id"]) for n in range(6)]
        more = {"IDS": ids, "SONG": ids[:1]}
        argv = [word for name in command.split() for word in more.get(name, [name])]
        spent = len(ft.sandbox.book)
        running = ft.start(*argv, cwd=out, speed=20, _program=[PYTHON, str(script)])
        running.expect("started\n")
        start = time.monotonic()
        number = choice.choice(numbers)
        if longest:  # the first run is left alone, to see how long it takes
            time.sleep(choice.uniform(0, longest))
            running.send_signal(number)
        result = running.finish()
        longest = longest or 1.1 * (time.monotonic() - start)
        check(ft, result, number, out, spent)
        if "IDS" in command:
            check_bulk(result, ids)


def check(ft: Runner, result: Result, number: int, out: Path, spent: int) -> None:
    assert result.code in (0, 1, 128 + number), repr(result)
    for word in ("Traceback", "Exception", "internal error", "Fatal"):
        assert word not in result.stderr, repr(result)
    records = [*ft.sandbox.generations, *ft.sandbox.sound_effects]
    for path in filter(Path.is_file, out.rglob("*")):
        data = path.read_bytes()
        assert any(data == ft.sandbox.track(i) for i in reversed(records)), (path, repr(result))
    for paid in ft.sandbox.book[spent:]:
        told = result.stdout + result.stderr
        assert paid in told or paid[:8] in told or "may have been accepted" in told, repr(result)
