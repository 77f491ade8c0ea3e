"""Generations and downloads while one request in five goes wrong in a random way: nothing is lost,
nothing paid twice.

Every credit in the sandbox's book is a file on disk with the right bytes, or its id, or a
submission that may have been accepted, is named on stderr. FT_SOAK=N makes it N generations (`make
long`: 500), with a figure at the end.
"""

from __future__ import annotations

import hashlib
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from conftest import Result, Runner

COUNT = int(os.environ.get("FT_SOAK", "15"))
UUID = re.compile(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@pytest.mark.sandbox(seconds=0.05, rate_limits=False, queue_limit=1000)
def test_soak(ft: Runner, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sandbox = ft.sandbox
    api = sandbox.fault("random", p=0.2, seed=COUNT)
    media = sandbox.fault("random", origin="media", p=0.2, seed=COUNT)

    def generate(number: int) -> tuple[Result, str]:
        """Make a track, and go on with it as a person would, as long as `ft` says how."""
        path = f"{number}.mp3"
        result = ft(
            "generate", f"song {number}", "--duration", "30", "-o", path, speed=40, timeout=120
        )
        told = result.stderr
        ids = UUID.findall(told)
        if "may have been accepted" in told and "`ft list`" in told:
            listed = next(
                list_
                for list_ in (ft("list", "--json", speed=40) for _ in range(9))
                if not list_.code
            )
            records = listed.json["data"]["generations"]
            ids = [record["id"] for record in records if record["prompt"] == f"song {number}"]
        for _ in range(5):
            if result.code == 0 or not ids:
                break
            result = ft("download", ids[0], "--wait", "-o", path, speed=40, timeout=120)
            told += result.stderr
        assert result.code in (0, 1, 3), repr(result)
        assert "Traceback" not in told and "internal error" not in told, repr(result)
        return result, told

    with ThreadPoolExecutor(3) as pool:
        runs = list(pool.map(generate, range(COUNT)))

    # One submission for each, but for those that were certainly not received (no answer came,
    # nothing was done).
    prompts = [request.json["tags"] for request in sandbox.posts()]
    assert len(prompts) == len({*prompts})
    paid = {sandbox.generations[identifier]["prompt"]: identifier for identifier in sandbox.book}
    assert len(paid) == len(sandbox.book)
    saved = named = unsure = 0
    for number, (result, told) in enumerate(runs):
        path = tmp_path / f"{number}.mp3"
        identifier = paid.get(f"song {number}")
        if path.exists():
            assert result.code == 0, repr(result)
            assert identifier
            assert sha256(path.read_bytes()) == sha256(sandbox.track(identifier)), repr(result)
            saved += 1
        elif identifier and identifier in told:
            assert result.code, repr(result)
            named += 1
        elif identifier:
            assert "may have been accepted" in told and "`ft list`" in told, repr(result)
            unsure += 1
        else:
            assert result.code, repr(result)
    assert saved + named + unsure == sandbox.spent
    assert not [name for name in os.listdir(tmp_path) if name.startswith(".ft-")]
    if COUNT > 100:
        faults = sum(len(fault.hits) for fault in (api, media))
        figures = (
            f"{COUNT} generations, {len(sandbox.requests)} requests, {faults} of them went wrong"
        )
        ends = f"{saved} files, {named} named, {unsure} said to be perhaps accepted"
        with capsys.disabled():
            print(f"\n{figures}; {sandbox.spent} credits: {ends}")


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
