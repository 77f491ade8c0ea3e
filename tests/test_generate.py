"""`ft generate`: its flags, its results and where they go, refusals, and webhooks of whatever
submits. What happens while it waits is in tests/test_polling.py.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import jumping_clock
import pytest
from commands import SUBMITTING, Command, each
from conftest import Runner
from sandbox import LANGUAGES

PROMPT = "lofi chill piano, mellow, late night"
SPEED = 15  # the first poll comes after 3 s of ft's time
HOOK = "https://example.com/hook?track=1"


def generate(ft: Runner, *argv: str, speed: float | None = SPEED, **how: Any) -> Any:
    return ft("generate", *argv, speed=speed, **how)


def body(ft: Runner) -> Any:
    (post,) = ft.sandbox.posts()
    return post.json


def tracks(directory: Path) -> list[str]:
    return sorted(
        p.name for p in directory.iterdir() if p.suffix == ".mp3" or p.name.startswith(".ft-")
    )


# --- submit, poll and download --------------------------------------------------------------------


def test_generate_submits_polls_and_downloads_the_mp3(ft: Runner, tmp_path: Path) -> None:
    result = generate(ft, PROMPT, check=0)
    identifier = ft.sandbox.book[0]
    name = f"lofi-chill-piano-{identifier[:8]}.mp3"
    assert result.stdout == f"Saved to {name}\n"
    assert (tmp_path / name).read_bytes() == ft.sandbox.track(identifier)
    assert tracks(tmp_path) == [name]
    kinds = [(r.origin, r.method, r.path) for r in ft.sandbox.requests]
    assert kinds[0] == ("api", "POST", "/v1/generations")
    assert set(kinds[1:-1]) == {("api", "GET", f"/v1/generations/{identifier}")}
    assert kinds[-1] == ("media", "GET", f"/audio/{identifier}.mp3")
    assert ft.sandbox.spent == 1


def test_the_defaults_are_60_s_120_bpm_c_major_4_en_and_no_seed(ft: Runner) -> None:
    generate(ft, PROMPT, "--no-wait", check=0)
    assert body(ft) == {
        "tags": PROMPT,
        "duration": 60,
        "bpm": 120,
        "key": "C",
        "scale": "major",
        "timesignature": "4",
        "language": "en",
    }


def test_the_references_customised_example(ft: Runner, tmp_path: Path) -> None:
    result = ft.sh(
        'ft generate "upbeat ad jingle, brass and snare" \\\n'
        "  --duration 30 --bpm 128 --key D --scale major \\\n"
        "  --output ./jingle.mp3",
        speed=SPEED,
        check=0,
    )
    assert result.stdout == "Saved to ./jingle.mp3\n"
    assert (tmp_path / "jingle.mp3").read_bytes() == ft.sandbox.track(ft.sandbox.book[0])
    assert {**body(ft), "duration": 30, "bpm": 128, "key": "D", "scale": "major"} == body(ft)


FLAGS = [
    (["--duration", "5"], "duration", 5),
    (["--duration=210"], "duration", 210),
    (["--duration", "90.5"], "duration", 90.5),
    (["--bpm", "200"], "bpm", 200),
    *(
        (["--key", key], "key", key)
        for key in ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
    ),
    (["--key", "c#"], "key", "C#"),
    (["--key", "Bb"], "key", "A#"),
    (["--key", "bB"], "key", "A#"),
    (["--key", "Gb"], "key", "F#"),
    (["--key", "E♭"], "key", "D#"),
    (["--scale", "minor"], "scale", "minor"),
    *((["--time-sig", time], "timesignature", time) for time in "234567"),
    *((["--language", code], "language", code) for code in LANGUAGES),
    (["--lyrics", "La la\nlá 🎵"], "lyrics", "La la\nlá 🎵"),
    (["--lyrics", "x" * 2000], "lyrics", "x" * 2000),
    (["--seed", "1951074202"], "seed", 1951074202),
    (["--seed", "0"], "seed", 0),
]


@pytest.mark.parametrize(
    ("argv", "field", "value"), FLAGS, ids=[" ".join(argv)[:20] for argv, _, _ in FLAGS]
)
def test_each_flag_is_sent(ft: Runner, argv: list[str], field: str, value: object) -> None:
    generate(ft, "--no-wait", *argv, "dark trap", check=0)
    assert body(ft)[field] == value


@pytest.mark.parametrize(
    "argv",
    [
        ["--duration", "long"],
        ["--duration", "1e9"],
        ["--duration", "nan"],
        ["--duration", ""],
        ["--bpm", "fast"],
        ["--bpm", "１２０"],
        ["--key", "H"],
        ["--key", "C##"],
        ["--scale", "dorian"],
        ["--time-sig", "8"],
        ["--time-sig", "4/4"],
        ["--language", "nl"],
        ["--lyrics", "x" * 2001],
        ["--seed", "1.5"],
        ["--seed", "random"],
        ["-o", ""],
        ["-o"],
        ["--output"],
        ["--dur", "30"],
        ["--no-such-flag"],
        ["x" * 701],
    ],
    ids=lambda argv: " ".join(argv)[:20],
)
def test_a_bad_flag_is_exit_2_before_anything_is_sent(ft: Runner, argv: list[str]) -> None:
    result = generate(ft, "dark trap", *argv, check=2)
    assert result.stderr.startswith("error: ")
    assert result.stdout == ""
    assert not ft.sandbox.requests


@pytest.mark.parametrize("argv", [[], [""], [" ", "\n"]], ids=repr)
def test_an_empty_prompt_is_refused(ft: Runner, argv: list[str]) -> None:
    generate(ft, *argv, check=2)
    assert not ft.sandbox.requests


def test_words_need_no_quotes(ft: Runner) -> None:
    generate(ft, "lofi", "chill", "--no-wait", "piano", check=0)
    assert body(ft)["tags"] == "lofi chill piano"


@pytest.mark.parametrize(
    ("argv", "prompt"),
    [
        (["--", "-x- --no-wait"], "-x- --no-wait"),
        (["--", "--dark"], "--dark"),
        (["--", "-o"], "-o"),
        (["--", "mellow", "--seed", "5", "--json"], "mellow --seed 5 --json"),
        (["a", "--duration", "30", "b", "--", "-c"], "a b -c"),
        (["--", "a", "--", "b"], "a -- b"),
    ],
)
@pytest.mark.parametrize("before", [["generate"], ["--no-color", "generate"]], ids=len)
def test_what_follows_two_dashes_is_prompt(
    ft: Runner, argv: list[str], prompt: str, before: list[str]
) -> None:
    ft(*before, "--no-wait", *argv, check=0)
    assert body(ft)["tags"] == prompt and "seed" not in body(ft)


def test_a_value_that_begins_with_a_dash_is_told_the_form_that_works(ft: Runner) -> None:
    result = ft("generate", "x", "--lyrics", "-oh-oh", "--no-wait", check=2)
    assert result.stderr == (
        "error: --lyrics needs a value\nhint: if -oh-oh is one, write --lyrics=-oh-oh\n"
    )
    assert ft.sandbox.requests == []
    ft("generate", "x", "--lyrics=-oh-oh", "--no-wait", check=0)
    assert body(ft)["lyrics"] == "-oh-oh"


@pytest.mark.parametrize(
    "argv", [["list", "-v="], ["list", "-v=1"], ["delete", "x", "-y="], ["-v=", "list"]], ids=str
)
def test_a_switch_takes_no_value(ft: Runner, argv: list[str]) -> None:
    """Not even an empty one, which argparse of Python 3.8 and 3.9 lets pass."""
    assert "takes no value\n" in ft(*argv, check=2).stderr
    assert ft.sandbox.requests == []


def test_two_dashes_where_there_is_nothing_to_take(ft: Runner) -> None:
    assert ft("list", "--", check=0).stdout
    assert "error: unexpected argument '--x'\n" in ft("list", "--", "--x", check=2).stderr
    assert "--lyrics needs a value" in ft("generate", "x", "--lyrics", "--", "y", check=2).stderr
    assert "confirmation needed" in ft("delete", "--", "abc", "--yes", check=2).stderr
    assert "`-x`" in ft("help", "--", "-x", check=2).stderr


def test_a_prompt_in_any_script_arrives_and_names_its_file(ft: Runner, tmp_path: Path) -> None:
    generate(ft, "夜のローファイ 🌃 café", check=0)
    assert body(ft)["tags"] == "夜のローファイ 🌃 café"
    assert tracks(tmp_path) == [f"夜のローファイ-café-{ft.sandbox.book[0][:8]}.mp3"]


def test_what_the_server_clamps_is_noted_on_stderr(ft: Runner) -> None:
    result = generate(ft, "dark trap", "--duration", "500", "--bpm", "10", "--no-wait", check=0)
    assert "note: duration clamped from 500 → 210\n" in result.stderr
    assert "note: bpm clamped from 10 → 60\n" in result.stderr
    assert (body(ft)["duration"], body(ft)["bpm"]) == (500, 10), "clamping is the server's"
    assert "clamped" not in result.stdout


def test_a_value_out_of_range_may_be_of_many_digits(ft: Runner) -> None:
    argv = [
        "x",
        "--duration",
        "9" * 30,
        "--bpm",
        f"{'9' * 300}.5",
        "--seed",
        "9" * 300,
        "--no-wait",
    ]
    assert "note: duration clamped from " in generate(ft, *argv, check=0).stderr
    assert body(ft)["seed"] == int("9" * 300) and body(ft)["duration"] == int("9" * 30)


def test_a_value_out_of_range_may_be_negative(ft: Runner) -> None:
    assert (
        "duration clamped from -5 → 5"
        in generate(ft, "x", "--duration", "-5", "--no-wait", check=0).stderr
    )


def test_nothing_is_noted_when_nothing_was_clamped(ft: Runner) -> None:
    assert generate(ft, "x", "--duration", "60.0", "--no-wait", check=0).stderr == ""


def test_the_configuration_has_the_defaults_and_the_flags_beat_it(ft: Runner) -> None:
    ft.config({"baseUrl": ft.sandbox.api_url, "defaultDuration": 33.5, "defaultBpm": 99})
    generate(ft, "x", "--no-wait", check=0)
    generate(ft, "x", "--no-wait", "--duration", "60", "--bpm", "120", check=0)
    sent = [(post.json["duration"], post.json["bpm"]) for post in ft.sandbox.posts()]
    assert sent == [(33.5, 99), (60, 120)]


# --- --no-wait and --json -------------------------------------------------------------------------


def test_no_wait_prints_the_id_after_the_202_and_exits(ft: Runner, tmp_path: Path) -> None:
    result = ft("generate", "deep ambient drone", "--no-wait", check=0)
    assert result.stdout == f"Queued. id={ft.sandbox.book[0]} status=processing\n"
    assert len(ft.sandbox.requests) == 1
    assert tracks(tmp_path) == []


def test_no_wait_json_prints_the_202_document(ft: Runner) -> None:
    document = ft("generate", "deep ambient drone", "--no-wait", "--json", check=0).json
    assert document["data"]["id"] == ft.sandbox.book[0]
    assert document["data"]["creditsRemaining"] == 1967
    assert "estimatedSeconds" in document["data"], "a field that ft knows nothing about"
    assert len(ft.sandbox.requests) == 1


def test_json_prints_the_final_record_and_skips_the_download(ft: Runner, tmp_path: Path) -> None:
    document = generate(ft, "dark trap", "--json", check=0).json
    assert document == {"data": ft.sandbox.generations[ft.sandbox.book[0]]}
    assert document["data"]["status"] == "completed"
    assert {request.origin for request in ft.sandbox.requests} == {"api"}
    assert tracks(tmp_path) == []


def test_output_without_a_download_is_said_to_have_no_effect(ft: Runner, tmp_path: Path) -> None:
    assert "note: -o" in generate(ft, "x", "--json", "-o", "dir/x.mp3", check=0).stderr
    assert not (tmp_path / "dir").exists()


# --- where the track goes -------------------------------------------------------------------------


def test_output_dash_writes_the_mp3_to_stdout_and_the_rest_to_stderr(
    ft: Runner, tmp_path: Path
) -> None:
    result = generate(ft, "dark trap", "-o", "-", check=0)
    assert result.stdout_bytes == ft.sandbox.track(ft.sandbox.book[0])
    assert "Saved to" in result.stderr
    assert tracks(tmp_path) == []


@pytest.mark.skipif(sys.platform == "win32", reason="a directory in use stays there")
@pytest.mark.needs("mkdir", "rmdir")
def test_in_a_directory_that_is_gone(ft: Runner) -> None:
    script = 'mkdir gone && cd gone && rmdir "$PWD" && '
    ft.config_dir.rename(ft.home / "conf")
    env = {"FINETUNING_CONFIG_HOME": str(ft.home / "conf")}
    result = ft.sh(script + "ft generate dark trap", env=env, check=1)
    assert (
        "error: cannot write a track into the working directory: No such file or directory\n"
        in result.stderr
    )
    assert not ft.sandbox.requests


def test_a_directory_that_is_a_file(ft: Runner, here: Path) -> None:
    (here / "f").touch()
    result = ft("generate", "dark trap", "-o", "f/", check=1)
    assert result.stderr == "error: cannot write a track into f/: File exists\n"
    assert not ft.sandbox.requests


def test_a_bug_of_our_own_loses_no_track(ft: Runner, here: Path) -> None:
    changes = "def save(*arguments): raise ZeroDivisionError\nft.save_track = save"
    result = jumping_clock.run(ft, "generate", "dark trap", changes=changes, check=1)
    assert (
        f"hint: the track is not lost: ft download {ft.sandbox.book[0]} --wait\n" in result.stderr
    )
    assert "error: internal error: ZeroDivisionError" in result.stderr


def test_an_output_that_begins_with_a_dash_can_be_pasted(ft: Runner, tmp_path: Path) -> None:
    ft.sandbox.fault("status", origin="media", status=404)
    result = generate(ft, "dark trap", "--output=-x.mp3", check=3)
    command = result.stderr.rpartition("the track is not lost: ")[2].strip()
    assert command.endswith(" --wait --output=-x.mp3")
    ft.sh(command, check=0)
    assert (tmp_path / "-x.mp3").exists()


def test_checking_the_output_leaves_nothing_behind(ft: Runner, tmp_path: Path) -> None:
    (tmp_path / "x.mp3").write_text("precious")
    generate(ft, "please reject this", "-o", "x.mp3", check=1)
    assert (tmp_path / "x.mp3").read_text() == "precious"
    assert tracks(tmp_path) == ["x.mp3"]


# --- a generation that fails ----------------------------------------------------------------------


def test_a_failed_generation_is_its_error_message_and_exit_1(ft: Runner, tmp_path: Path) -> None:
    result = generate(ft, "please fail", check=1)
    assert "error: Generation failed: the prompt asked for it\n" in result.stderr
    assert result.stdout == ""
    assert tracks(tmp_path) == []


def test_a_failed_generation_with_json_still_prints_its_record(ft: Runner) -> None:
    result = generate(ft, "please fail", "--json", check=1)
    assert result.json["data"]["status"] == "failed"
    assert "error: Generation failed: the prompt asked for it\n" in result.stderr


# --- what the service refuses ---------------------------------------------------------------------


def test_a_refused_submission_shows_the_servers_own_words(ft: Runner) -> None:
    """What to do about each code is in tests/test_errors.py."""
    message = "The server's own words: 100 % “verbatim”."
    ft.sandbox.fault("status", status=402, code="ODD", message=message, method="POST")
    result = generate(ft, "dark trap", check=1)
    assert (result.stdout, result.stderr) == ("", f"error: {message} (ODD)\n")


# --- webhooks -------------------------------------------------------------------------------------


@each([command for command in SUBMITTING if command.name != "batch"])
def test_a_webhook_goes_with_whatever_submits_and_nobody_waits(
    ft: Runner, command: Command
) -> None:
    result = ft(*command.argv, "--webhook", HOOK, check=0)
    paths = {"generate": "generations", "sfx generate": "sound-effects"}
    (post,) = ft.sandbox.requests  # no polling
    assert (post.method, post.path) == ("POST", f"/v1/{paths.get(command.name, command.name)}")
    assert post.json["webhook"] == HOOK
    assert re.fullmatch(r"Queued\. id=[0-9a-f-]{36} status=\w+\n", result.stdout)


def test_with_a_webhook_and_json_it_is_the_202_document(ft: Runner) -> None:
    assert ft("generate", "x", "--webhook", HOOK, "--json", check=0).json["data"]["webhook"] == HOOK


@each(SUBMITTING)
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
    ft: Runner, command: Command, url: str
) -> None:
    result = ft(*command.argv, "--webhook", url, check=2)
    assert "must be an https address of at most 2048 characters" in result.stderr
    assert ft.sandbox.requests == []


@pytest.mark.parametrize(
    "url",
    ["https://example.com/" + "x" * 2028, "HTTPS://user:pass@bücher.example:8443/ü?d=[1]#here"],
    ids=lambda url: url[:30],
)
def test_any_other_webhook_is_the_services_to_judge(ft: Runner, url: str) -> None:
    ft("generate", "x", "--webhook", url, check=0)
    assert body(ft)["webhook"] == url
