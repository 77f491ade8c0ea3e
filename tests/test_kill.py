"""A download is killed at random moments: no file with the final name is ever incomplete.
FT_KILLS=N: so many times.

SIGKILL may leave a hidden file, which is never named like a track; SIGTERM may not even leave that.
"""

from __future__ import annotations

import os
import random
import re
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import Runner

KILLS = int(os.environ.get("FT_KILLS", "20"))
pytestmark = [
    pytest.mark.source,
    pytest.mark.skipif(sys.platform == "win32", reason="about POSIX signals"),
]


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
            running.expect(
                "> GET "
            )  # before, Python may say that it was interrupted, in its own words
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
                assert re.fullmatch(r"\.ft-[0-9a-f]{12}-song-.*\.part", name)
                (out / name).unlink()
