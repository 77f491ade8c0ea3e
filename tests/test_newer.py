"""What the service has and the command reference does not list yet: instrumentals, sound effects,
webhooks, pages to the end; and the command that makes a track again.
"""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest
from conftest import Runner
from sandbox import Sandbox

pytestmark = pytest.mark.source
SPEED = 20
HOOK = "https://example.com/hook?track=1"
CREATES = {
    "/v1/generations": ["generate", "slow piano"],
    "/v1/instrumental": ["instrumental", "slow piano"],
    "/v1/sound-effects": ["sfx", "generate", "slow piano"],
}


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
    for fault in ({"kind": "lost"}, {"kind": "status", "status": 503}):
        sandbox.fault(**fault, path="/v1/sound-effects", method="POST")
        assert "`ft sfx list` has told you" in ft("sfx", "generate", "door", speed=SPEED).stderr
    sandbox.fault("status", status=429, code="QUEUE_FULL", path="/v1/sound-effects", method="POST")
    assert "`ft sfx list --status processing`" in ft("sfx", "generate", "door", check=1).stderr
    for verb in ("get", "download"):
        assert (
            "hint: an id has 36 characters: `ft sfx list` shows them"
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
    result = ft("sfx", "generate", "forever", speed=100, check=1)
    (identifier,) = sandbox.sound_effects
    assert f"error: still processing, run `ft sfx get {identifier}` later\n" in result.stderr


# --- webhooks -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", CREATES)
def test_a_webhook_goes_with_each_of_the_three_and_nobody_waits(
    ft: Runner, sandbox: Sandbox, path: str
) -> None:
    result = ft(*CREATES[path], "--webhook", HOOK, check=0)
    (post,) = sandbox.posts()
    assert post.path == path
    assert post.json["webhook"] == HOOK
    assert re.fullmatch(r"Queued\. id=[0-9a-f-]{36} status=\w+\n", result.stdout)
    assert [request.method for request in sandbox.requests] == ["POST"]  # no polling


def test_with_json_it_is_the_202_document(ft: Runner) -> None:
    assert ft("generate", "x", "--webhook", HOOK, "--json", check=0).json["data"]["webhook"] == HOOK


@pytest.mark.parametrize("path", CREATES)
@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "ftp://example.com/",
        "example.com",
        "https://",
        "",
        "https://example.com/a b",
        "https://example.com/" + "x" * 2029,
    ],
    ids=lambda url: url[:30],
)
def test_a_webhook_is_https_and_at_most_2048_characters(
    ft: Runner, sandbox: Sandbox, path: str, url: str
) -> None:
    result = ft(*CREATES[path], "--webhook", url, check=2)
    assert "must be an https address of at most 2048 characters" in result.stderr
    assert sandbox.requests == []


@pytest.mark.parametrize(
    "url",
    ["https://example.com/" + "x" * 2028, "HTTPS://user:pass@bücher.example:8443/ü?d=[1]#here"],
    ids=lambda url: url[:30],
)
def test_any_other_webhook_is_the_services_to_judge(ft: Runner, sandbox: Sandbox, url: str) -> None:
    ft("generate", "x", "--webhook", url, check=0)
    assert body(sandbox)["webhook"] == url


# --- pages ----------------------------------------------------------------------------------------


@pytest.mark.sandbox(library=False)
def test_all_follows_the_pages(ft: Runner, sandbox: Sandbox) -> None:
    """99 a request; one document, one table."""
    ids = [sandbox.add_generation(age=9000.0 - n)["id"] for n in range(250)]
    document = ft("list", "--all", "--json", check=0).json
    assert [record["id"] for record in document["data"]["generations"]] == ids[::-1]
    assert document["data"]["hasMore"] is False
    assert [request.query for request in sandbox.requests] == [
        {"limit": "99"},
        {"limit": "99", "offset": "99"},
        {"limit": "99", "offset": "198"},
    ]
    table = ft("list", "--all", "--offset", "240", check=0)
    assert len(table.stdout.splitlines()) == 11
    assert table.stderr == ""


@pytest.mark.sandbox(library=False)
def test_all_has_each_record_once_although_the_library_grows_meanwhile(
    ft: Runner, sandbox: Sandbox
) -> None:
    """New records push those of the first page into the second."""
    ids = [sandbox.add_generation(age=9000.0 - n)["id"] for n in range(150)]
    first = sandbox.fault("stall", path="/v1/generations", where="body")
    running = ft.start("list", "--all", "--json", check=0)
    assert first.reached.wait(20)
    for _ in range(3):
        sandbox.add_generation()
    first.release()
    assert [record["id"] for record in running.finish().json["data"]["generations"]] == ids[::-1]


@pytest.mark.parametrize("kind", ["music", "instrumental"])
def test_type_chooses(ft: Runner, sandbox: Sandbox, kind: str) -> None:
    document = ft("list", "--type", kind, "--all", "--json", check=0).json
    assert document["data"]["generations"]
    assert {record["type"] for record in document["data"]["generations"]} == {kind}
    assert sandbox.requests[0].query["type"] == kind


def test_an_unknown_type_is_exit_2(ft: Runner, sandbox: Sandbox) -> None:
    assert (
        "invalid type 'podcast': choose one of music, instrumental"
        in ft("list", "--type", "podcast", check=2).stderr
    )
    assert sandbox.requests == []


# --- ft get ---------------------------------------------------------------------------------------


def test_get_shows_everything_worth_knowing(ft: Runner, sandbox: Sandbox) -> None:
    record = sandbox.add_generation(
        prompt="lofi, late",
        title="Lofi",
        duration=90.3,
        fileSize=1234567,
        isPublic=True,
        playCount=7,
        downloadCount=3,
        likeCount=2,
        createdAt="2025-01-15 10:30:00",
        completedAt="2025-01-15T10:30:17.623Z",
        parameters={
            "bpm": 85,
            "duration": 90.3,
            "timesignature": 3,
            "keyscale": "C# minor",
            "seed": 9,
            "language": "ja",
        },
        webhook=HOOK,
    )
    shown = ft("get", record["id"], check=0).stdout
    again = "ft generate 'lofi, late' --duration 90.3 --seed 9"
    assert re.findall(r"^(\S+(?: \S+)*) {2,}(.*)$", shown, re.MULTILINE) == [
        ("ID", record["id"]),
        ("Title", "Lofi"),
        ("Prompt", "lofi, late"),
        ("Type", "music"),
        ("Status", "completed"),
        ("Audio URL", record["audioUrl"]),
        ("Duration", "1m 30s"),
        ("File size", "1.2 MB"),
        ("Tempo", "85 bpm"),
        ("Key", "C# minor"),
        ("Time signature", "3"),
        ("Language", "ja"),
        ("Seed", "9"),
        ("Visibility", "public"),
        ("Plays", "7"),
        ("Downloads", "3"),
        ("Likes", "2"),
        ("Webhook", HOOK),
        ("Created", "2025-01-15 10:30:00 UTC (2025-01-15)"),
        ("Completed", "2025-01-15 10:30:17 UTC (2025-01-15)"),
        ("Generation time", "17s"),
        ("Make it again", f"{again} --bpm 85 --key 'C#' --scale minor --language ja --time-sig 3"),
    ]


def test_get_of_a_failed_track_shows_why_and_no_command(ft: Runner, sandbox: Sandbox) -> None:
    record = sandbox.add_generation(
        status="failed", errorMessage="The model could not follow this prompt"
    )
    shown = ft("get", record["id"], check=0).stdout
    assert re.search("^Error +The model could not follow this prompt$", shown, re.MULTILINE)
    assert "Make it again" not in shown


@pytest.mark.parametrize(
    "argv",
    [
        ["generate", "lofi chill piano, mellow, late night"],
        [
            "generate",
            'it\'s "odd" $HOME `id` \\ 100% ! ; & | * ~ #',
            "--key",
            "Bb",
            "--scale",
            "minor",
        ],
        ["generate", "--seed", "0", "--", "--not a flag"],
        ["generate", "--", "--dark"],
        ["generate", "a\nb\t'c' \\ \x07 \u200f\u05e9\u05dc\u05d5\u05dd \u00ad!"],
        ["generate", "=foo"],
        [
            "generate",
            "夜想曲 🎹",
            "--language",
            "ja",
            "--time-sig",
            "7",
            "--bpm",
            "61.5",
            "--duration",
            "12.25",
        ],
        ["generate", "word " * 130 + "end", "--seed", "123456789012"],
        ["instrumental", "slow piano", "--duration", "45", "--verbatim"],
        ["instrumental", "slow piano"],
    ],
    ids=lambda argv: argv[-1][:20],
)
@pytest.mark.parametrize("columns", [None, 60, 80])
@pytest.mark.needs("bash", "zsh")
def test_the_command_that_makes_a_track_again_makes_it_again(
    ft: Runner, sandbox: Sandbox, argv: list[str], columns: int | None
) -> None:
    """Pasted into a shell, from a pipe or as a terminal shows it, it asks for the same once
    more.
    """
    ft(argv[0], "--no-wait", *argv[1:], check=0)
    first = sandbox.book[0]
    sandbox.finish(first)
    if columns is None:
        shown = ft("get", first, check=0).stdout
    else:
        shown = (
            ft.tty("get", first, columns=columns, env={"NO_COLOR": "1"}, check=0).finish().stdout
        )
    command = re.search(r"^Make it again +(ft .*)", shown, re.DOTALL | re.MULTILINE)
    assert command
    pasted = (
        command[1]
        .replace("\r\n", "\n")
        .rstrip("\n")
        .replace(f"ft {argv[0]}", f"ft {argv[0]} --no-wait", 1)
    )
    ft.sh(pasted, "bash" if columns is None else "zsh", check=0)
    old, new = (post.json for post in sandbox.posts())
    assert new.pop("seed") == sandbox.generations[first]["parameters"]["seed"]
    old.pop("seed", None)
    assert new == old
