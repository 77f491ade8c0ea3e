"""`-q`: ids or paths only, for scripts. What matters about money is printed all the same."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from commands import IN_DRAFTS, SUBMITTING, TRACK, WITH_QUIET, Command, each, run
from conftest import Runner
from sandbox import Sandbox

ONE_AT_A_TIME = [command for command in SUBMITTING if command.name != "batch"]


@each(WITH_QUIET)
def test_not_together_with_json(ft: Runner, command: Command) -> None:
    result = run(ft, command, "--quiet", "--json", check=2)
    assert result.stderr.startswith("error: --quiet and --json cannot be used together\n")
    assert not ft.sandbox.requests


# --- ids ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "name"),
    [
        (("list", "--limit", "7", "--offset", "2"), "generations"),
        (("list", "--status", "failed", "--all"), "generations"),
        (("playlists",), "playlists"),
        (("playlist", "show", "Drafts"), "tracks"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_ids_one_a_line(ft: Runner, argv: tuple[str, ...], name: str) -> None:
    records = ft(*argv, "--json", check=0).json["data"][name]
    result = ft(*argv, "-q", check=0)
    assert records
    assert result.stdout == "".join(f"{record['id']}\n" for record in records)
    assert result.stderr == ""


def test_sound_effects_likewise(ft: Runner) -> None:
    for prompt in ("a door", "a bell"):
        ft("sfx", "generate", prompt, "--no-wait", check=0)
    newest_first = list(reversed(ft.sandbox.sound_effects))
    assert ft("sfx", "list", "-q", check=0).stdout.split() == newest_first


@pytest.mark.sandbox(library=False)
@pytest.mark.parametrize("argv", ["list", "list --all", "list --offset 9", "playlists", "sfx list"])
def test_nothing_is_said_of_an_empty_list(ft: Runner, argv: str) -> None:
    result = ft(*argv.split(), "-q", check=0)
    assert (result.stdout, result.stderr) == ("", "")


def test_its_ids_are_what_other_commands_take(ft: Runner) -> None:
    failed = ft("list", "--status", "failed", "-q", check=0).stdout
    assert ft("delete", "--yes", "-", stdin=failed, check=0).stdout == "Deleted 4 of 4 track(s)\n"
    assert ft("list", "--status", "failed", "-q", check=0).stdout == ""


def test_nothing_is_no_argument(ft: Runner) -> None:
    """Nothing to delete is an error of its own, before anything is sent."""
    assert "no ids on stdin" in ft("delete", "--yes", "-", stdin="", check=2).stderr


# --- what is made ---------------------------------------------------------------------------------


@each(ONE_AT_A_TIME)
def test_the_path_only(ft: Runner, here: Path, command: Command) -> None:
    """The note with the paid id stays, on stderr."""
    result = run(ft, command, "-q", check=0)
    (path,) = here.iterdir()
    assert result.stdout == f"{path.name}\n"
    (paid,) = [*ft.sandbox.book, *ft.sandbox.sound_effects][-1:]
    (line,) = result.stderr.splitlines()
    assert line.startswith("note: queued as ")
    assert paid in line or command.name == "sfx generate"


@pytest.mark.skipif(os.name == "nt", reason="its names are text")
def test_a_path_is_printed_as_it_is_even_if_stdout_lacks_a_letter(ft: Runner, here: Path) -> None:
    env = {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "1"}
    result = ft("download", TRACK, "-q", "-o", "für-élise.mp3", env=env, check=0)
    assert result.stdout == "für-élise.mp3\n"


@each(ONE_AT_A_TIME)
def test_the_id_only_without_waiting(ft: Runner, here: Path, command: Command) -> None:
    result = run(ft, command, "-q", "--no-wait", "-o", "x.mp3", check=0)
    record = ft.sandbox.posts()[-1]
    assert record.status == 202
    identifier = result.stdout.strip()
    assert identifier in {*ft.sandbox.book, *ft.sandbox.sound_effects}
    assert result.stdout == f"{identifier}\n"
    assert result.stderr == "", "that -o has no effect is a note"
    assert list(here.iterdir()) == []


def test_nothing_is_drawn_on_a_terminal(ft: Runner, here: Path) -> None:
    result = ft.tty("generate", "a song", "-q", "-o", "x.mp3", speed=15, check=0).finish()
    queued, path = result.stdout.splitlines()
    assert queued.startswith("\x1b[1mnote:\x1b[0m queued as ")
    assert path == "x.mp3"


def test_a_failed_generation_is_an_error(ft: Runner) -> None:
    result = ft("generate", "please fail", "-q", speed=15, check=1)
    assert result.stdout == ""
    assert result.stderr.splitlines()[-1].startswith("error: ")


@pytest.mark.sandbox(seconds=60)
def test_ctrl_c_says_that_the_track_still_costs(ft: Runner, sandbox: Sandbox) -> None:
    process = ft.start("generate", "a song", "-q", check=130)
    process.expect("note: queued as ")
    process.send_signal(signal.SIGINT)
    result = process.finish()
    (paid,) = sandbox.book
    assert result.stdout == ""
    assert result.stderr.splitlines()[1:] == [
        "note: the track is still being made and still costs its credit",
        f"hint: ft download {paid} --wait",
        "note: interrupted",
    ]


@pytest.mark.parametrize(
    ("work", "told"),
    [(False, "the submission may have been accepted"), (True, "still costs its credit")],
)
def test_ctrl_c_during_a_submission_says_that_it_may_cost(
    ft: Runner, sandbox: Sandbox, work: bool, told: str
) -> None:
    held = sandbox.hold("/v1/generations", method="POST", work=work)
    process = ft.start("generate", "a song", "-q", check=130)
    sandbox.wait_for(lambda request: request.method == "POST")
    process.send_signal(signal.SIGINT)
    result = process.finish()
    held.release()
    assert told in result.stderr


# --- downloads ------------------------------------------------------------------------------------


def test_the_paths_of_downloads(ft: Runner, here: Path) -> None:
    result = ft("download", TRACK, "-q", check=0)
    (path,) = here.iterdir()
    assert (result.stdout, result.stderr) == (f"{path.name}\n", "")
    result = ft("download", TRACK, IN_DRAFTS, "-q", "-o", "tracks/", check=0)
    paths = sorted(f"tracks/{path.name}" for path in (here / "tracks").iterdir())
    assert (sorted(result.stdout.splitlines()), result.stderr) == (paths, "")


@pytest.mark.skipif("os.name == 'nt'", reason="needs a POSIX shell")
def test_a_shell_can_use_the_path(ft: Runner, here: Path) -> None:
    """A path is printed as it is, whatever is in it."""
    directory = here / "new\u00ad  song"
    directory.mkdir()
    name = f"{directory.name}/a\\b.mp3"
    ft.sh(f'ls "$(ft download -q {TRACK} -o "{name}")"', check=0)


def test_a_track_on_stdout_comes_alone(ft: Runner) -> None:
    result = ft("download", TRACK, "-q", "-o", "-", check=0)
    assert (result.stdout_bytes, result.stderr) == (ft.sandbox.track(TRACK), "")


def test_warnings_and_errors_are_printed(ft: Runner, here: Path) -> None:
    result = ft("download", TRACK, "nope", "-q", "-o", "tracks/", check=1)
    assert len(result.stdout.splitlines()) == 1
    assert result.stderr.startswith("warning: nope: Generation not found (NOT_FOUND)\n")
    result = ft("download", "nope", "-q", check=1)
    assert result.stdout == ""
    assert result.stderr.startswith("error: Generation not found (NOT_FOUND)\nhint: ")


def test_retries_are_not_noted(ft: Runner, here: Path) -> None:
    ft.sandbox.fault("status", status=503, retry_after=2, times=2)
    result = ft("list", "-q", "-n", "1", speed=30, check=0)
    assert result.stderr == ""
    assert len(ft.sandbox.requests) == 3
