"""A submission whose answer is lost is looked for in the list, by its prompt and parameters and by
the service's own clock. What is found is gone on with as if the answer had come; nothing is ever
sent again.
"""

from __future__ import annotations

import re
import signal
import sys
import time
from email.utils import formatdate
from typing import Any

import jumping_clock
import pytest
from conftest import Runner

SPEED = 15  # the first poll comes after a fifth of a second
MADE = ("generate", "a song", "--duration", "30", "--bpm", "90", "--key", "D", "--seed", "7")
SAME = {  # the parameters of a record like that
    "bpm": 90,
    "duration": 30,
    "keyscale": "D major",
    "timesignature": 4,
    "seed": 7,
}
MAY_HAVE = "the submission may have been accepted"


def lists(ft: Runner) -> list[Any]:
    return [r for r in ft.sandbox.requests if r.method == "GET" and r.path == "/v1/generations"]


@pytest.mark.parametrize(
    "fault",
    [
        {"kind": "lost"},
        {"kind": "reset", "work": True},
        {"kind": "short"},
        {"kind": "bad-json"},
        {"kind": "html"},
        {"kind": "redirect", "work": True},
        {"kind": "status", "status": 500, "work": True},
        {"kind": "status", "status": 504, "work": True},
        {"kind": "body", "data": '{"data": {}}'},
    ],
    ids=lambda fault: f"{fault['kind']}-{fault.get('status', '')}",
)
@pytest.mark.parametrize(
    "argv", [("generate", "a song"), ("instrumental", "rain"), ("sfx", "generate", "a door")]
)
def test_it_is_found_and_saved(ft: Runner, fault: dict[str, Any], argv: tuple[str, ...]) -> None:
    ft.sandbox.fault(**fault, method="POST")
    result = ft(*argv, speed=SPEED, check=0)
    assert "; looking for the track in the list\n" in result.stderr
    assert "note: the submission was accepted: its track is in the list\n" in result.stderr
    assert re.search("^Saved to .*mp3$", result.stdout, re.MULTILINE)
    assert len(ft.sandbox.posts()) == 1


def test_an_answer_that_comes_needs_no_list(ft: Runner) -> None:
    ft("generate", "a song", speed=SPEED, check=0)
    assert not lists(ft)


def test_no_wait_prints_its_id(ft: Runner) -> None:
    ft.sandbox.fault("lost", method="POST")
    result = ft("generate", "a song", "--no-wait", check=0)
    assert result.stdout.startswith(f"Queued. id={ft.sandbox.book[0]} status=")


def test_it_may_appear_later(ft: Runner) -> None:
    """The request may still be under way: the list is looked at again for a minute."""
    ft.sandbox.fault("close", method="POST")
    process = ft.start("generate", "a song", speed=4, check=0)
    ft.sandbox.wait_for(lambda request: request in lists(ft) and request.sent)
    late = ft.sandbox.add_generation(prompt="a song", duration=60)
    result = process.finish()
    assert f"note: queued as {late['id']}\n" in result.stderr
    assert len(lists(ft)) > 1


def test_after_a_minute_the_search_ends(ft: Runner) -> None:
    ft.sandbox.fault("close", method="POST")
    result = jumping_clock.run(ft, "generate", "a song", check=3)
    assert 50 <= sum(jumping_clock.slept(ft)) <= 60
    assert re.search(f"^error: .*; {MAY_HAVE}$", result.stderr, re.MULTILINE)
    assert (
        "hint: no such track is in the list yet; do not submit again before `ft list` has told you"
        in result.stderr
    )
    assert len(ft.sandbox.posts()) == 1 and len(lists(ft)) < 15


def test_several_end_the_search_at_once(ft: Runner) -> None:
    ft.sandbox.fault("lost", method="POST")
    other = ft.sandbox.add_generation(prompt="a song", duration=60, age=-30)
    result = ft("generate", "a song", check=3)
    assert MAY_HAVE in result.stderr
    for identifier in (other["id"], ft.sandbox.book[0]):
        assert identifier in result.stderr
    assert len(lists(ft)) == 1


@pytest.mark.parametrize(
    "record",
    [
        {"prompt": "another song"},
        {"type": "instrumental"},
        {"parameters": {**SAME, "bpm": 91}},
        {"parameters": {**SAME, "duration": 60}},
        {"parameters": {**SAME, "duration": 10**400}},
        {"parameters": {**SAME, "keyscale": "D minor"}},
        {"parameters": {**SAME, "keyscale": "C major"}},
        {"parameters": {**SAME, "timesignature": 3}},
        {"parameters": {**SAME, "language": "de"}},
        {"parameters": {**SAME, "seed": 8}},
        {"parameters": {}},
        {"age": 3600},
        {"createdAt": None},
        {"createdAt": "yesterday"},
        {"id": " "},
    ],
    ids=str,
)
def test_another_track_is_not_taken(ft: Runner, record: dict[str, Any]) -> None:
    """Nor one without the seed that was given."""
    ft.sandbox.fault("close", method="POST")
    ft.sandbox.add_generation(**{"prompt": "a song", "parameters": SAME, "age": -30, **record})
    result = jumping_clock.run(ft, *MADE, check=3)
    assert "no such track is in the list yet" in result.stderr


@pytest.mark.parametrize(
    ("flags", "parameters"),
    [
        ([], {}),
        (["--duration", "500"], {"duration": 210}),
        (["--duration", "1", "--bpm", "999"], {"duration": 5, "bpm": 200}),
        (["--key", "auto"], {"keyscale": "F# major"}),
        (["--scale", "auto"], {"keyscale": "C minor"}),
        (["--time-sig", "3"], {"timesignature": "3"}),
        (["--time-sig", "3"], {"timesignature": 3}),
        (["--time-sig", "3"], {"timesignature": 3.0}),
        (["--seed", "9"], {"seed": "9"}),
        (["--seed", "9"], {"seed": 9.0}),
    ],
    ids=str,
)
def test_clamped_values_and_what_was_not_sent_count_as_equal(
    ft: Runner, flags: list[str], parameters: dict[str, Any]
) -> None:
    same = {"bpm": 120, "duration": 60, "keyscale": "C major", "timesignature": 4, "seed": 9}
    ft.sandbox.fault("close", method="POST")
    ft.sandbox.add_generation(prompt="a song", parameters={**same, **parameters}, age=-30)
    result = ft("generate", "a song", *flags, speed=SPEED, check=0)
    assert "its track is in the list" in result.stderr


@pytest.mark.parametrize(("sent", "got"), [("100", 105), ("20", 30), ("999", 210)])
def test_the_length_of_an_instrumental_comes_in_steps(ft: Runner, sent: str, got: int) -> None:
    ft.sandbox.fault("close", method="POST")
    parameters = {"duration": got, "enhance": True, "seed": 9}
    ft.sandbox.add_generation(prompt="rain", type="instrumental", parameters=parameters, age=-30)
    ft("instrumental", "rain", "--duration", sent, speed=SPEED, check=0)


def test_the_time_is_that_of_the_service(ft: Runner) -> None:
    """A clock of this machine that is a day wrong changes nothing."""
    ft.sandbox.fault("lost", method="POST")
    wrong = "clock = time.time\ntime.time = lambda: clock() + 86400\n"
    result = jumping_clock.run(ft, "generate", "a song", changes=wrong, check=0)
    assert "its track is in the list" in result.stderr


def test_so_it_is_after_a_machine_has_slept(ft: Runner) -> None:
    """time.monotonic stands still meanwhile."""
    ft.sandbox.fault("lost", method="POST")
    later = formatdate(time.time() + 3600, usegmt=True)
    ft.sandbox.fault("header", name="Date", value=later, method="GET", times=None)
    sleeps = (
        "def submit(*arguments, submit=ft.Api.submit, real=time.clock_gettime):\n"
        "    time.clock_gettime = lambda which: real(which) + 3600\n"
        "    return submit(*arguments)\n"
        "ft.Api.submit = submit\n"
    )
    ft.sandbox.seconds = 0
    result = jumping_clock.start(ft, "generate", "a song", changes=sleeps, check=0).finish()
    assert "its track is in the list" in result.stderr


def test_a_bug_in_the_search_does_not_hide_that_it_may_be_paid_for(ft: Runner) -> None:
    ft.sandbox.fault("lost", method="POST")
    changes = (
        "def find_answers(*_): raise OverflowError('too large')\nft.find_answers = find_answers\n"
    )
    result = jumping_clock.run(ft, "generate", "a song", changes=changes, check=3)
    assert MAY_HAVE in result.stderr and "internal error: OverflowError" in result.stderr


def test_without_a_date_nothing_is_taken(ft: Runner) -> None:
    ft.sandbox.fault("lost", method="POST")
    ft.sandbox.fault("header", name="Date", method="GET", times=None)
    result = jumping_clock.run(ft, "generate", "a song", check=3)
    assert "the service does not say what time it is" in result.stderr


def test_a_list_that_cannot_be_read_at_first(ft: Runner) -> None:
    ft.sandbox.fault("lost", method="POST")
    ft.sandbox.fault("status", status=503, method="GET", times=2)
    ft.sandbox.fault("close", method="GET", times=2)
    jumping_clock.run(ft, "generate", "a song", check=0)


@pytest.mark.parametrize("status", [400, 401, 402, 403, 429])
def test_a_refusal_is_not_looked_for(ft: Runner, status: int) -> None:
    ft.sandbox.fault("status", status=status, method="POST")
    result = ft("generate", "a song", check=2 if status == 400 else 1)
    assert not lists(ft) and MAY_HAVE not in result.stderr


def test_nor_is_what_the_queue_refused_or_what_was_never_sent(ft: Runner) -> None:
    ft("generate", "reject this", check=1)
    ft.sandbox.down()
    jumping_clock.run(ft, "generate", "a song", check=3)
    assert not lists(ft)


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_after_a_signal_there_is_one_look(ft: Runner, number: int) -> None:
    """A second at most: a list that hangs does not hold ft up."""
    ft.sandbox.fault("close", method="POST")
    gate = ft.sandbox.hold("/v1/generations", method="GET")
    process = ft.start("generate", "a song")
    assert gate.reached.wait(20)
    process.send_signal(number)
    result = process.finish(timeout=10)
    assert result.code == 128 + number
    assert MAY_HAVE in result.stderr and "`ft list` tells" in result.stderr
    ft.sandbox.wait_for(lambda request: len(lists(ft)) == 2)
    gate.release()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_that_look_finds_what_was_accepted(ft: Runner, number: int) -> None:
    gate = ft.sandbox.hold("/v1/generations", method="POST", work=True)
    process = ft.start("generate", "a song", "-o", "song.mp3")
    assert gate.reached.wait(20)
    process.send_signal(number)
    result = process.finish()
    assert result.code == 128 + number
    assert "note: the track is still being made and still costs its credit\n" in result.stderr
    assert f"hint: ft download {ft.sandbox.book[0]} --wait -o song.mp3\n" in result.stderr
    gate.release()


# --- --key auto, --scale auto, --dry-run ----------------------------------------------------------


@pytest.mark.parametrize("name", ["key", "scale"])
@pytest.mark.parametrize("text", ["auto", "AUTO"])
def test_auto_leaves_the_choice_to_the_service(ft: Runner, name: str, text: str) -> None:
    ft("generate", "a song", f"--{name}", text, "--no-wait", check=0)
    [request] = ft.sandbox.posts()
    other = {"key": "scale", "scale": "key"}[name]
    assert name not in request.json and other in request.json


def test_the_defaults_stay_c_and_major(ft: Runner) -> None:
    ft("generate", "a song", "--no-wait", check=0)
    [request] = ft.sandbox.posts()
    assert (request.json["key"], request.json["scale"]) == ("C", "major")


@pytest.mark.parametrize(
    ("argv", "path", "body"),
    [
        (
            ("generate", "a song", "--bpm", "90", "--seed", "0", "--key", "auto"),
            "/v1/generations",
            {
                "tags": "a song",
                "duration": 60,
                "bpm": 90,
                "scale": "major",
                "timesignature": "4",
                "language": "en",
                "seed": 0,
            },
        ),
        (
            ("instrumental", "rain", "--verbatim"),
            "/v1/instrumental",
            {"prompt": "rain", "duration": 120, "enhance": False},
        ),
        (
            ("sfx", "generate", "door", "--webhook", "https://example.com/x"),
            "/v1/sound-effects",
            {"prompt": "door", "enhance": True, "webhook": "https://example.com/x"},
        ),
    ],
    ids=["generate", "instrumental", "sfx"],
)
def test_a_dry_run_prints_the_request_and_sends_nothing(
    ft: Runner, argv: tuple[str, ...], path: str, body: dict[str, Any]
) -> None:
    """It needs no key, and writes no file."""
    before = sorted(ft.cwd.iterdir())
    result = ft(*argv, "--dry-run", "-o", "new/x.mp3", key=None, check=0)
    assert result.json == {"method": "POST", "url": ft.sandbox.api_url + path, "body": body}
    assert result.stderr == "note: nothing was sent\n"
    assert not ft.sandbox.requests
    assert sorted(ft.cwd.iterdir()) == before


def test_what_a_dry_run_prints_is_what_is_sent(ft: Runner) -> None:
    flags = ("generate", "a song", "--lyrics", "la la", "--bpm", "77", "--seed", "3")
    planned = ft(*flags, "--dry-run", check=0).json
    ft(*flags, "--no-wait", check=0)
    [request] = ft.sandbox.posts()
    assert request.json == planned["body"]
