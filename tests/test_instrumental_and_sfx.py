"""`ft instrumental` and `ft sfx`: what they have of their own beside `ft generate` and the rest."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import jumping_clock
import pytest
from conftest import Runner
from sandbox import Sandbox

SPEED = 20


def body(sandbox: Sandbox, number: int = -1) -> Any:
    return sandbox.posts()[number].json


# --- instrumental ---------------------------------------------------------------------------------


def test_instrumental_with_its_defaults(ft: Runner, sandbox: Sandbox, tmp_path: Path) -> None:
    """duration 120, enhance sent though it is the default, no other parameter; then as `generate`
    does.
    """
    result = ft("instrumental", "slow", "piano", "over", "rain", speed=SPEED, check=0)
    assert body(sandbox) == {"prompt": "slow piano over rain", "duration": 120, "enhance": True}
    identifier = sandbox.book[0]
    assert result.stderr == f"note: queued as {identifier}, 1967 credits left\n"
    assert result.stdout == f"Saved to slow-piano-over-rain-{identifier[:8]}.mp3\n"
    saved = tmp_path / f"slow-piano-over-rain-{identifier[:8]}.mp3"
    assert saved.read_bytes() == sandbox.track(identifier)


def test_instrumental_with_every_flag(ft: Runner, sandbox: Sandbox, tmp_path: Path) -> None:
    argv = [
        "instrumental",
        "slow piano",
        "--duration",
        "90",
        "--verbatim",
        "--seed",
        "0",
        "-o",
        "x.mp3",
    ]
    ft(*argv, speed=SPEED, check=0)
    assert body(sandbox) == {"prompt": "slow piano", "duration": 90, "enhance": False, "seed": 0}
    assert (tmp_path / "x.mp3").exists()


@pytest.mark.parametrize(("asked", "made"), [("10", 30), ("97.4", 90), ("98", 105), ("400", 210)])
def test_the_service_snaps_the_duration_and_ft_says_so(
    ft: Runner, sandbox: Sandbox, asked: str, made: int
) -> None:
    """30 to 210 seconds, in steps of 15: sent as given, snapped by the service."""
    result = ft("instrumental", "slow piano", "--duration", asked, "--no-wait", check=0)
    assert body(sandbox)["duration"] == float(asked)
    assert result.stderr == f"note: duration clamped from {asked} → {made}\n"


def test_an_instrumental_is_listed_shown_downloaded_and_deleted_like_any_track(
    ft: Runner, sandbox: Sandbox
) -> None:
    ft("instrumental", "slow piano", "--no-wait", check=0)
    identifier = sandbox.book[0]
    sandbox.finish(identifier)
    assert identifier in ft("list", "--limit", "1", check=0).stdout
    shown = ft("get", identifier, check=0).stdout
    assert re.search("^Type +instrumental$", shown, re.MULTILINE)
    ft("download", identifier, check=0)
    ft("delete", "--yes", identifier, check=0)
    assert identifier not in sandbox.generations


# --- sound effects --------------------------------------------------------------------------------


def test_a_sound_effect_with_its_defaults(ft: Runner, sandbox: Sandbox, tmp_path: Path) -> None:
    """The length is the service's choice, enhance is sent all the same; no credit, but a share of
    the day's.
    """
    result = ft("sfx", "generate", "a heavy door closes", speed=SPEED, check=0)
    assert body(sandbox) == {"prompt": "a heavy door closes", "enhance": True}
    (identifier,) = sandbox.sound_effects
    assert result.stderr == f"note: queued as {identifier}, 99 left today\n"
    assert result.stdout == f"Saved to a-heavy-door-closes-{identifier[:8]}.mp3\n"
    assert sandbox.book == []
    (saved,) = tmp_path.glob("*.mp3")
    assert saved.read_bytes() == sandbox.track(identifier)


def test_a_sound_effect_with_every_flag(ft: Runner, sandbox: Sandbox, tmp_path: Path) -> None:
    argv = ["sfx", "generate", "door", "--duration", "2.5", "--verbatim", "-o", "fx/"]
    ft(*argv, speed=SPEED, check=0)
    assert body(sandbox) == {"prompt": "door", "enhance": False, "duration": 2.5}
    assert len(list((tmp_path / "fx").glob("door-*.mp3"))) == 1


def test_a_sound_effect_that_is_shorter_than_asked_for_is_noted(ft: Runner) -> None:
    result = ft("sfx", "generate", "door", "--duration", "100", "--no-wait", check=0)
    assert result.stderr == "note: duration clamped from 100 → 30\n"


def test_sound_effects_are_listed_by_page_and_by_status(ft: Runner, sandbox: Sandbox) -> None:
    sandbox.queue_limit = 10
    for n in range(5):
        ft("sfx", "generate", f"effect {n}", "--no-wait", check=0)
    for identifier in sandbox.sound_effects:
        sandbox.finish(identifier)
    newest = list(reversed(sandbox.sound_effects))
    page = ft("sfx", "list", "--limit", "2", "--offset", "1", check=0)
    assert re.findall("^[0-9a-f-]{36}", page.stdout, re.MULTILINE) == newest[1:3]
    assert page.stdout.splitlines()[0].split() == ["ID", "STATUS", "DURATION", "PROMPT", "CREATED"]
    assert page.stderr == "note: there are more: --offset 3\n"
    document = ft("sfx", "list", "--all", "--json", check=0).json
    assert [record["id"] for record in document["data"]["soundEffects"]] == newest
    empty = ft("sfx", "list", "--status", "failed", check=0)
    assert (empty.stdout, empty.stderr) == (
        "",
        "note: nothing here with status failed; `ft sfx generate` makes one\n",
    )
    assert [request.query.get("status") for request in sandbox.requests[-1:]] == ["failed"]


def test_a_sound_effect_is_looked_for_in_its_own_list(ft: Runner, sandbox: Sandbox) -> None:
    """Tracks and sound effects have a list each: with the wrong one, what was made would be made
    and paid again.
    """
    for fault in ({"kind": "close"}, {"kind": "status", "status": 503}):
        sandbox.fault(**fault, path="/v1/sound-effects", method="POST")
        assert "`ft sfx list` has told you" in ft("sfx", "generate", "door", speed=SPEED).stderr
    sandbox.fault("status", status=429, code="QUEUE_FULL", path="/v1/sound-effects", method="POST")
    assert "`ft sfx list --status processing`" in ft("sfx", "generate", "door", check=1).stderr
    for verb in ("get", "download"):
        assert (
            "hint: an id has 36 characters, of which the first 6 will do: `ft sfx list` shows them"
            in ft("sfx", verb, "abc", check=1).stderr
        )
    gate = sandbox.hold("/v1/sound-effects", method="POST")
    process = ft.start("sfx", "generate", "door", check=130)
    assert gate.reached.wait(20)
    process.send_signal(signal.SIGINT)
    assert "`ft sfx list` tells" in process.finish().stderr


def test_a_sound_effect_is_shown_and_downloaded(
    ft: Runner, sandbox: Sandbox, tmp_path: Path
) -> None:
    ft("sfx", "generate", "door, forever", "--duration", "7", "--no-wait", check=0)
    (identifier,) = sandbox.sound_effects
    early = ft("sfx", "download", identifier, check=1)
    assert re.search(
        r"error: the track is not completed: (pending|processing)\nhint: use `--wait` to wait",
        early.stderr,
    )
    sandbox.finish(identifier)
    shown = ft("sfx", "get", identifier, check=0).stdout
    for line in (
        "Status +completed",
        "Prompt +door, forever",
        "Duration +7s",
        "Asked for +7s",
        f"ID +{identifier}",
    ):
        assert re.search(f"^{line}$", shown, re.MULTILINE)
    assert ft("sfx", "get", identifier, "--json", check=0).json == {
        "data": sandbox.sound_effects[identifier]
    }
    ft("sfx", "download", identifier, check=0)
    assert (tmp_path / f"door-forever-{identifier[:8]}.mp3").read_bytes() == sandbox.track(
        identifier
    )


def test_ids_of_tracks_and_of_sound_effects_are_not_mixed_up(ft: Runner, sandbox: Sandbox) -> None:
    ft("sfx", "generate", "door", "--no-wait", check=0)
    (identifier,) = sandbox.sound_effects
    wrong = ft("get", identifier, check=1)
    assert (
        wrong.stderr == "error: Generation not found (NOT_FOUND)\nhint: `ft list` shows your ids\n"
    )


def test_an_interrupted_sound_effect_says_how_to_go_on(ft: Runner, sandbox: Sandbox) -> None:
    process = ft.start("sfx", "generate", "forever", check=130)
    process.expect("note: queued as")
    process.send_signal(signal.SIGINT)
    (identifier,) = sandbox.sound_effects
    assert f"hint: ft sfx download {identifier} --wait\n" in process.finish().stderr


def test_a_sound_effect_that_takes_too_long_says_which_command_tells(
    ft: Runner, sandbox: Sandbox
) -> None:
    result = jumping_clock.run(ft, "sfx", "generate", "forever", check=1)
    (identifier,) = sandbox.sound_effects
    assert f"error: still processing, run `ft sfx get {identifier}` later\n" in result.stderr
