"""Built-in help, global flags before and after the command, and what a mistake on the command line
gets.
"""

from __future__ import annotations

import re
import shlex

import pytest
from commands import COMMANDS, GROUPS, LOCAL, NAMES, TRACK, Command, each, run, verbs, write_prompts
from conftest import Runner

SUMMARY = {  # the reference's command summary; later commands have one of their own
    "auth login": "Prompt for an API key and store it in the OS keychain",
    "auth logout": "Forget the stored key",
    "auth whoami": "Show the signed-in account",
    "me": "Alias of ft auth whoami",
    "generate": "Submit, poll, and download in one shot",
    "list": "Show recent generations",
    "get": "Show one generation's detail",
    "download": "Download an already-completed track",
    "delete": "Permanently delete tracks",
    "playlists": "List your playlists",
    "playlist show": "Show a playlist and the tracks in it",
    "playlist add": "Add tracks to a playlist",
    "playlist remove": "Remove tracks from a playlist",
    "playlist move": "Move tracks between playlists",
    "doctor": "Health check + resolved config dump",
    "update": "Re-run the install script to upgrade",
    "help": "Print built-in help",
}
GLOBAL_FLAGS = {
    "--api-key": "the stored key",
    "--base-url": "https://pub.finetuning.ai",
    "--config": "config.json in the configuration directory",
    "--verbose": "off",
    "--no-color": "off",
}
FLAGS = {  # the defaults of the commands' own flags, as the reference's tables have them
    "auth login": {"--stdin": "off"},
    "generate": {
        "--duration": "60",
        "--bpm": "120",
        "--key": "C",
        "--scale": "major",
        "--time-sig": "4",
        "--language": "en",
        "--lyrics": "empty",
        "--seed": "random",
        "--output": "<slug>-<short-id>.mp3",
        "--no-wait": "off",
    },
    "list": {"--limit": "20", "--offset": "0", "--status": "all"},
    "download": {"--output": "<slug>-<short-id>.mp3"},
}


def help_of(ft: Runner, *argv: str) -> str:
    result = ft(*argv, key=None, check=0)
    assert result.stderr == ""
    assert not ft.sandbox.requests
    return str(result.stdout)


def shown_flags(text: str) -> dict[str, str]:
    """Each flag in a help text, and its default."""
    flat = re.sub(r"\s+", " ", re.sub(r"-\n\s+", "-", text))
    return dict(re.findall(r"(?<= )(--[a-z-]+)(?: <\w+>)?  ?[^(]*\(default: ([^)]*)\)", flat))


# --- help -----------------------------------------------------------------------------------------


def test_ft_help_is_an_overview_of_all_commands(ft: Runner) -> None:
    text = help_of(ft, "help")
    for name, summary in SUMMARY.items():
        assert re.search(rf"^  {name}\b.*  {re.escape(summary)}", text, re.MULTILINE), name
    assert all(flag in text for flag in GLOBAL_FLAGS)
    assert "--version" in text


@pytest.mark.parametrize("argv", [["-h"], ["--help"], []], ids=["-h", "--help", "bare ft"])
def test_its_short_forms_say_the_same(ft: Runner, argv: list[str]) -> None:
    assert help_of(ft, *argv) == help_of(ft, "help")


@each(COMMANDS)
def test_the_help_of_a_command_has_its_description_flags_with_defaults_and_an_example(
    ft: Runner, command: Command
) -> None:
    name = command.name
    text = help_of(ft, "help", *name.split())
    assert text.startswith(f"usage: ft {name}")
    assert SUMMARY.get(name, "").rstrip(".") in re.sub(r"\s+", " ", text)
    shown = shown_flags(text)
    switches = {"--json": command.json, "--yes": command.asks}
    own = {**FLAGS.get(name, {}), **{flag: "off" for flag, has in switches.items() if has}}
    for flag, default in {**own, **GLOBAL_FLAGS}.items():
        assert shown[flag].startswith(default), flag
    short = {"-o": "--output" in shown, "-v": True, "-y": command.asks}
    assert {flag: f"  {flag}" in text for flag in short} == short
    has_many = "<id>..." in text.splitlines()[0] and not name.startswith("sfx")
    examples = re.split("examples?:\n", text)[-1].strip().splitlines()
    assert all(f"ft {name}" in example for example in examples)
    assert len(examples) >= {"generate": 3}.get(name, 2 if has_many else 1)
    assert any(re.search(f"ft {name}.* -( |$)", e) for e in examples) or not has_many


@pytest.mark.parametrize("name", NAMES)
def test_the_flag_form_says_the_same(ft: Runner, name: str) -> None:
    text = help_of(ft, "help", *name.split())
    for flag in ("--help", "-h"):
        assert help_of(ft, *name.split(), flag) == text


def test_help_wins_over_what_is_missing_or_wrong_beside_it(ft: Runner) -> None:
    assert help_of(ft, "playlist", "add", "--help") == help_of(ft, "help", "playlist", "add")
    assert help_of(ft, "generate", "x", "-h") == help_of(ft, "help", "generate")
    assert help_of(ft, "--no-color", "get", "--help") == help_of(ft, "help", "get")


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("asked", ["help {}", "{} --help", "{}"])
def test_a_group_of_commands_has_help(ft: Runner, group: str, asked: str) -> None:
    text = help_of(ft, *asked.format(group).split())
    assert all(f"  {group} {verb}" in text for verb in verbs(group))
    assert "  generate" not in text


def test_help_needs_no_configuration_key_or_service(ft: Runner) -> None:
    ft.config("broken {")
    help_of(ft, "help")
    help_of(ft, "generate", "--help", "--config", "/no/such/file")


def test_help_is_as_wide_as_the_terminal(ft: Runner) -> None:
    for columns in (60, 100):
        lines = ft.tty("help", "generate", columns=columns, check=0).finish().stdout.splitlines()
        folded = lines[: next(i for i, line in enumerate(lines) if "examples:" in line)]
        assert columns - 25 < max(map(len, folded)) < columns


EXAMPLES_THAT_NEED_MORE = {
    "auth login": "stores a key",
    "auth logout": "removes one",
    "update": "is for installed ones",
    "completion": "is for a shell that completes",
}


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EXAMPLES_THAT_NEED_MORE])
def test_the_example_in_a_help_text_works(ft: Runner, name: str) -> None:
    examples = re.split("examples?:\n", help_of(ft, "help", *name.split()))[-1]
    example = examples.strip().splitlines()[0].split(" | ")[0]
    for tracks in (
        ft.sandbox.contents.values() if name in ("playlist remove", "playlist move") else ()
    ):
        tracks.append(TRACK)
    if name in ("sfx get", "sfx download"):  # of the same id as a track
        ft.sandbox.sound_effects[TRACK] = ft.sandbox.generations[TRACK]
    if name == "batch":
        write_prompts(ft)
    if name == "playlist move":
        ft("playlist", "remove", "Album", TRACK, check=0)
    ft.sh(example if name != "delete" else f"{example} --yes", speed=15, check=0)
    assert shlex.split(example)[: 1 + len(name.split())] == ["ft", *name.split()]


def test_version(ft: Runner) -> None:
    result = ft("--version", key=None, check=0)
    assert re.fullmatch(r"ft \d+\.\d+\.\d+\n", result.stdout)
    assert result.stderr == ""


# --- global flags ---------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["before", "after", "both sides of a group", "between arguments"])
def test_global_flags_work_before_and_after_the_command(ft: Runner, place: str) -> None:
    ft.config("{}")
    flags = ["--api-key", ft.sandbox.key, f"--base-url={ft.sandbox.api_url}", "-v"]
    argv = {
        "before": [*flags, "get", TRACK],
        "after": ["get", TRACK, *flags],
        "both sides of a group": [*flags[:2], "playlist", *flags[2:], "show", "Drafts"],
        "between arguments": ["playlist", "add", "Album", *flags, TRACK],
    }[place]
    result = ft(*argv, key=None, check=0)
    assert "> GET " in result.stderr or "> POST " in result.stderr


def test_a_flag_given_twice_counts_the_last_time(ft: Runner) -> None:
    ft("--api-key", "ft_live_" + "0" * 32, "me", "--api-key", ft.sandbox.key, key=None, check=0)


def test_no_value_before_the_command_is_lost_to_a_default_behind_it(ft: Runner) -> None:
    assert "> GET " in ft("--verbose", "--no-color", "list", "--limit", "1", check=0).stderr


@each([command for command in COMMANDS if command.effect != LOCAL])
def test_global_flags_work_on_every_command(ft: Runner, command: Command) -> None:
    ft.config("{}")
    flags = ["--api-key", ft.sandbox.key, "--base-url", ft.sandbox.api_url, "-v", "--no-color"]
    run(ft, command, *flags, key=None, check=0)


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("lst", "list"),
        ("genrate x", "generate"),
        ("playlist ad Drafts x", "playlist add"),
        ("auth log", "auth login"),
        ("playist", "playlist"),
        ("whoami", "auth whoami"),
        ("Doctor", "doctor"),
        ("help lst", "list"),
        ("help playlist mov", "playlist move"),
    ],
)
def test_a_mistyped_command_names_the_nearest_one(ft: Runner, typed: str, meant: str) -> None:
    result = ft(*typed.split(), check=2)
    assert result.stdout == ""
    error, hint = result.stderr.splitlines()
    assert error.startswith("error: unknown command ")
    assert re.search(rf"`{meant}s?`", error)
    assert hint.startswith("hint: ")
    assert not ft.sandbox.requests


@pytest.mark.parametrize(
    "typed",
    [
        "generate x --dur 5",
        "generate x --lyr y",
        "list --lim 5",
        "--verb me",
        "me --js",
        "delete x --ye",
        "li",
    ],
)
def test_nothing_is_abbreviated(ft: Runner, typed: str) -> None:
    ft(*typed.split(), check=2)
    assert not ft.sandbox.requests


def test_nothing_near_suggests_nothing(ft: Runner) -> None:
    result = ft("xyzzy", check=2)
    assert "did you mean" not in result.stderr
    assert "ft help" in result.stderr


@pytest.mark.parametrize("typed", ["me extra", "get a b", "playlist show a b", "--version x"])
def test_an_argument_too_many_is_exit_2(ft: Runner, typed: str) -> None:
    assert ft(*typed.split(), check=2).stderr.startswith("error: ")
    assert not ft.sandbox.requests


@each([command for command in COMMANDS if command.example not in ("", "--stdin")])
def test_a_missing_argument_is_exit_2_with_the_usage(ft: Runner, command: Command) -> None:
    error, hint = ft(*command.name.split(), check=2).stderr.splitlines()
    assert error.startswith("error: missing argument: <")
    assert re.search(rf"usage: ft {command.name} \[?<", hint)
    assert not ft.sandbox.requests


@pytest.mark.parametrize("flag", ["--api-key", "--base-url", "--config"])
def test_a_flag_without_its_value_is_exit_2(ft: Runner, flag: str) -> None:
    assert flag in ft("me", flag, check=2).stderr
    assert flag in ft(flag, check=2).stderr
    assert not ft.sandbox.requests


def test_a_switch_takes_no_value(ft: Runner) -> None:
    assert "--json" in ft("me", "--json=yes", check=2).stderr


def test_flags_without_a_command_are_exit_2_or_help(ft: Runner) -> None:
    assert ft("--verbose", check=0).stdout == help_of(ft, "help")


def test_an_argument_that_is_no_text_is_exit_2(ft: Runner) -> None:
    assert ft.sh("ft get \"$(printf 'a\\377b')\"", check=2).stderr.startswith("error: ")
    assert not ft.sandbox.requests
