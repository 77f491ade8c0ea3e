"""A batch is killed at random moments and run again until it is done: each line is submitted once
and saved, and nothing is paid for twice. FT_KILLS=N: so many kills. The seed is printed; FT_SEED=N
repeats it.
"""

from __future__ import annotations

import collections
import os
import random
import signal
import sys
import time
from pathlib import Path

import pytest
from conftest import Runner

KILLS = int(os.environ.get("FT_KILLS", "12"))
SEED = int(os.environ.get("FT_SEED", str(random.randrange(10**6))))
LINES = 2 * KILLS
SPEED = 20
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="about SIGKILL")


def write_file(ft: Runner) -> None:
    """Write a file with pairs of equal lines, instrumentals, and names of its own."""
    rows = ["prompt,type,output"]
    for n in range(LINES):
        kind = "instrumental" if n % 6 == 4 else ""
        output = f"named/{n}.mp3" if n % 6 == 5 else ""
        rows.append(f"song {n // 2 if n % 6 < 2 else n},{kind},{output}")
    (ft.cwd / "p.csv").write_text("\n".join(rows) + "\n")


def kill_and_go_on(ft: Runner, choice: random.Random) -> None:
    """Kill KILLS runs at random moments, and then let one come to its end."""
    argv = ("batch", "p.csv", "--yes", "-o", "out")
    killed = lost = 0
    # Long enough for a few submissions after the start of Python.
    while killed < KILLS:
        process = ft.start(*argv, speed=SPEED)
        time.sleep(choice.uniform(0.1, 0.8))  # no event tells a random moment
        process.send_signal(signal.SIGKILL)
        result = process.finish()
        assert "Traceback" not in result.stderr and "internal error" not in result.stderr, result
        lost += "its track is in the list" in result.stderr
        if result.code != 137:
            break  # all was done before
        killed += 1
    print(f"{killed} kills; after {lost} of them a submission was found in the list")
    assert killed >= KILLS // 2
    # What was written down and never sent is submitted in the end, when no track can be found.
    ft(*argv, "--retry-unknown", speed=100, timeout=120, check=0)


def check(ft: Runner) -> None:
    sandbox = ft.sandbox
    wanted = collections.Counter(
        line.split(",")[0] for line in (ft.cwd / "p.csv").read_text().splitlines()[1:]
    )
    accepted = [post for post in sandbox.posts() if post.json]
    prompts = collections.Counter(p.json.get("tags") or p.json["prompt"] for p in accepted)
    assert prompts == wanted
    assert len(sandbox.book) == LINES
    files = [path for path in Path(ft.cwd, "out").rglob("*.mp3") if not path.name.startswith(".")]
    assert len(files) == LINES
    assert sorted(path.read_bytes() for path in files) == sorted(map(sandbox.track, sandbox.book))


@pytest.mark.sandbox(seconds=0.4, queue_limit=1000)
def test_killed_at_random_moments(ft: Runner) -> None:
    """Each line is in the stand-in's log of submissions once."""
    print(f"FT_SEED={SEED}")
    write_file(ft)
    ft.sandbox.fault("delay", seconds=0.2, method="POST", times=None)
    kill_and_go_on(ft, random.Random(SEED))
    check(ft)


@pytest.mark.sandbox(seconds=0.4, queue_limit=1000)
def test_killed_while_answers_are_lost(ft: Runner) -> None:
    """One answer in three never comes."""
    print(f"FT_SEED={SEED}")
    write_file(ft)
    for _ in range(LINES // 3):
        ft.sandbox.fault("lost", method="POST")
        ft.sandbox.fault("delay", seconds=0.2, method="POST", times=2)
    ft.sandbox.fault("delay", seconds=0.2, method="POST", times=None)
    kill_and_go_on(ft, random.Random(SEED + 1))
    check(ft)
