"""`ft get`: what it shows, the command that makes a track again, and what an id may be."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from commands import TRACK, WITH_IDS
from conftest import Runner
from sandbox import Sandbox

HOOK = "https://example.com/hook?track=1"


# --- what it shows --------------------------------------------------------------------------------


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


def test_get_of_a_failed_track_shows_why_and_no_command_and_is_exit_0(ft: Runner) -> None:
    record = ft.sandbox.add_generation(
        status="failed", errorMessage="The model  gave up", age=3 * 86400
    )
    shown = ft("get", record["id"], check=0).stdout
    assert re.search("^Error +The model  gave up$", shown, re.MULTILINE)
    assert re.search(r"^Created +[-0-9]{10} [:0-9]{8} UTC \(3 days ago\)$", shown, re.MULTILINE)
    assert "Make it again" not in shown


def test_get_json_is_the_raw_record(ft: Runner) -> None:
    assert ft("get", TRACK, "--json", check=0).json == {"data": ft.sandbox.generations[TRACK]}


@pytest.mark.parametrize("status", ["pending", "processing"])
def test_while_it_is_not_completed_audio_url_is_null(ft: Runner, status: str) -> None:
    record = ft.sandbox.add_generation(status=status)
    assert ft("get", record["id"], "--json", check=0).json["data"]["audioUrl"] is None
    assert "Audio URL" not in ft("get", record["id"], check=0).stdout


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
        ["generate", "a\nb\t'c' \\ \x0b \u200f\u05e9\u05dc\u05d5\u05dd \u00ad!"],
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
@pytest.mark.needs("bash", "zsh")
def test_the_command_that_makes_a_track_again_makes_it_again(
    ft: Runner, sandbox: Sandbox, argv: list[str]
) -> None:
    """Pasted into a shell, from a pipe or as a terminal shows it, it asks for the same once
    more.
    """
    ft(argv[0], "--no-wait", *argv[1:], check=0)
    first = sandbox.book[0]
    sandbox.finish(first)
    env = {"NO_COLOR": "1"}
    for shell, result in (
        ("bash", ft("get", first, check=0)),
        *(("zsh", ft.tty("get", first, columns=n, env=env, check=0).finish()) for n in (60, 80)),
    ):
        command = re.search(r"^Make it again +(ft .*)", result.stdout, re.DOTALL | re.MULTILINE)
        assert command
        pasted = command[1].replace("\r\n", "\n").rstrip("\n")
        ft.sh(pasted.replace(f"ft {argv[0]}", f"ft {argv[0]} --no-wait", 1), shell, check=0)
    old, *again = (post.json for post in sandbox.posts())
    assert again == [{**old, "seed": sandbox.generations[first]["parameters"]["seed"]}] * 3


# --- ids ------------------------------------------------------------------------------------------


# What no id can be, and each command that takes ids with one of it.
BAD_IDS = ["", " ", "a b", "a/b", "a\tb", "a\nb", "a\x7fb", "..", ".", "a\u00a0b"]
BAD_CALLS = [
    *(["get", bad] for bad in BAD_IDS),
    *([*command.argv[:-1], "../me"] for command in WITH_IDS),
]


@pytest.mark.parametrize("argv", BAD_CALLS, ids=repr)
def test_what_cannot_be_an_id_is_exit_2_before_anything_is_sent(
    ft: Runner, argv: list[str]
) -> None:
    ft(*argv, check=2)
    assert not ft.sandbox.requests


def test_ids_are_passed_on_as_given_percent_encoded(ft: Runner) -> None:
    ft("get", "gen_é?a=b&c#d%2e", check=1)
    assert ft.sandbox.requests[0].target == "/v1/generations/gen_%C3%A9%3Fa%3Db%26c%23d%252e"
    record = ft.sandbox.add_generation(id="gen_01J0")
    assert ft("get", "gen_01J0", "--json", check=0).json["data"]["id"] == record["id"]


def test_a_key_given_for_an_id_is_not_sent_anywhere(ft: Runner) -> None:
    result = ft("get", ft.sandbox.key, check=2)
    assert ft.sandbox.key not in result.stderr
    assert not ft.sandbox.requests


# --- download in either form: the rest is in tests/test_download.py -------------------------------


def test_several_ids_are_downloaded_into_a_directory(ft: Runner, tmp_path: Path) -> None:
    tracks = ft.sandbox.generations.items()
    wanted = [i for i, record in tracks if record["status"] == "completed"][:6]
    result = ft("download", *wanted, "-o", "tracks/", check=0)
    assert result.stdout.splitlines()[-1] == "Downloaded 6 of 6 track(s)"
    saved = {path.read_bytes() for path in (tmp_path / "tracks").iterdir()}
    assert saved == {ft.sandbox.track(identifier) for identifier in wanted}


def test_two_tracks_of_one_name_have_two_files(ft: Runner, tmp_path: Path) -> None:
    pair = [ft.sandbox.add_generation(title="Same", prompt="same")["id"] for _ in range(2)]
    ft("download", *pair, check=0)
    assert sorted(path.name for path in tmp_path.glob("*.mp3")) == sorted(
        f"same-{identifier[:8]}.mp3" for identifier in pair
    )
