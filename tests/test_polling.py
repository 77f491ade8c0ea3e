"""Polling, and what becomes of a generation when anything goes wrong on the way: it is never lost,
nor paid twice.
"""

from __future__ import annotations

import re
from pathlib import Path

import jumping_clock
import pytest
from conftest import Runner
from sandbox import Request, Sandbox

FOREVER = "forever young"  # stays in processing


@pytest.fixture(autouse=True)
def at_once(sandbox: Sandbox) -> None:
    """Generations are completed as soon as they are asked for: the clock jumps from poll to
    poll.
    """
    sandbox.seconds = 0


def polls(ft: Runner) -> list[Request]:
    return [
        r
        for r in ft.sandbox.requests
        if r.method == "GET" and r.path.startswith("/v1/generations/")
    ]


def the_id(ft: Runner) -> str:
    (identifier,) = ft.sandbox.book  # one credit was spent
    assert len(ft.sandbox.posts()) == 1
    return identifier


# --- the rhythm -----------------------------------------------------------------------------------


def test_polls_after_3_seconds_then_1_3_times_as_long_up_to_15_for_5_minutes(ft: Runner) -> None:
    jumping_clock.run(ft, "generate", FOREVER, check=1)
    waits = jumping_clock.slept(ft)
    # A wait can be slept in two halves: off a terminal a line a minute comes between.
    together, expected, interval = 0.0, [], 3.0
    while together + interval < 300:
        expected.append(interval)
        together += interval
        interval = min(interval * 1.3, 15)
    assert sum(waits) == pytest.approx(300, abs=1)
    assert len(polls(ft)) == len(expected) + 1  # and a last one when the time is over
    assert waits[:6] == pytest.approx(expected[:6], abs=0.05)
    assert max(waits) <= 15


def test_the_timeout_says_how_to_go_on_with_the_real_id(ft: Runner) -> None:
    result = jumping_clock.run(ft, "generate", FOREVER, "-o", "out dir/x.mp3", check=1)
    identifier = the_id(ft)
    assert f"error: still processing, run `ft get {identifier}` later\n" in result.stderr
    assert f"ft download {identifier} --wait -o 'out dir/x.mp3'\n" in result.stderr
    assert result.stdout == ""


def test_the_5_minutes_hold_with_a_server_that_keeps_silent(ft: Runner) -> None:
    ft.sandbox.fault("stall", path="/v1/generations/.*", times=None)
    impatient = (  # from the first poll on
        "submit = ft.Api.submit\n"
        "def impatient(*arguments):\n"
        "    document = submit(*arguments)\n"
        "    ft.READ_TIMEOUT = 0.02\n"
        "    return document\n"
        "ft.Api.submit = impatient\n"
    )
    result = jumping_clock.run(ft, "generate", "a song", changes=impatient, check=1)
    assert f"still processing, run `ft get {the_id(ft)}` later" in result.stderr
    # The last request may not have been read yet when ft gave up on it.
    asked = result.stderr.count("it did not answer in time; asking again\n")
    assert 1 < len(polls(ft)) <= asked


def test_a_line_a_minute_off_a_terminal(ft: Runner) -> None:
    """The first answers say pending or processing; then a line with the status and the time, once a
    minute.
    """
    result = jumping_clock.run(ft, "generate", FOREVER, check=1)
    first, *lines, error, hint = result.stderr.splitlines()
    assert first == f"note: queued as {the_id(ft)}, 1967 credits left"
    assert error == f"error: still processing, run `ft get {the_id(ft)}` later"
    assert hint.startswith("hint: ") and "\r" not in result.stderr
    assert all(line.startswith("note: processing, ") for line in lines)
    lines = [line[len("note: ") :] for line in lines]
    assert len(lines) in (4, 5)  # the fifth falls together with the end
    assert all(
        re.fullmatch(f"processing, ({n}m|{n - 1}m 59s|59s)( .*)?", lines[n - 1]) for n in (1, 2, 3)
    ), lines


def test_a_spinner_on_a_terminal(ft: Runner) -> None:
    process = ft.tty("generate", FOREVER, speed=10)
    process.expect(re.compile(r"\r\x1b\[K[-|/\\] (pending|processing), [0-9]+s"))
    process.expect(re.compile(r"[-|/\\] processing, [0-9]+s"))
    ft.sandbox.finish(the_id(ft))
    result = process.finish()
    assert result.code == 0
    assert not [line for line in result.screen() if "processing" in line]


# --- what happens on the network meanwhile --------------------------------------------------------


def test_429_while_polling_waits_as_long_as_it_says(ft: Runner) -> None:
    ft.sandbox.fault("status", status=429, retry_after=40, path="/v1/generations/.*")
    jumping_clock.run(ft, "generate", "a song", "--json", check=0)
    assert sum(jumping_clock.slept(ft)) == pytest.approx(43, abs=0.1)  # 3 s before the first poll


@pytest.mark.parametrize("wait", [298, 600, 999999999])
@pytest.mark.parametrize("status", [429, 503])
def test_a_wait_beyond_the_5_minutes_ends_the_polling_at_once(
    ft: Runner, wait: int, status: int
) -> None:
    ft.sandbox.fault(
        "status", status=status, retry_after=wait, path="/v1/generations/.*", times=None
    )
    result = jumping_clock.run(ft, "generate", "a song", check=1)
    assert sum(jumping_clock.slept(ft)) == pytest.approx(3, abs=0.1)
    assert len(polls(ft)) == 1
    assert f"still processing, run `ft get {the_id(ft)}` later" in result.stderr
    assert f"ft download {the_id(ft)} --wait\n" in result.stderr


def test_429_that_asks_for_most_of_the_5_minutes(ft: Runner) -> None:
    """Longer than any other request would wait."""
    ft.sandbox.fault("status", status=429, retry_after=290, path="/v1/generations/.*")
    jumping_clock.run(ft, "generate", "a song", "--json", check=0)
    assert sum(jumping_clock.slept(ft)) == pytest.approx(293, abs=0.1)


def test_polls_wait_at_the_gate_of_all_requests(ft: Runner) -> None:
    """Two tracks are polled; the answer for one holds back both, for 60 s that pass in three."""
    ids = [ft.sandbox.add_generation(status="processing")["id"] for _ in range(2)]
    ft.sandbox.seconds = 1e6
    process = ft.start("download", *ids, "--wait", "-o", "tracks/", speed=20)
    for identifier in ids:
        ft.sandbox.wait_for(lambda request: request.sent and request.path.endswith(identifier))  # noqa: B023
    ft.sandbox.fault("status", status=429, retry_after=60, path=f".*{ids[0]}")
    refused = ft.sandbox.wait_for(lambda request: request.status == 429)
    # For a moment, the other may just have been asked for.
    later = ft.sandbox.wait_for(lambda request: request.time > refused.time + 1)
    assert later.time > refused.time + 2
    process.kill()


@pytest.mark.parametrize(
    "fields",
    [
        {"status": None},
        {"status": 7},
        {"status": "odd"},
        {"status": ["completed"]},
        {"status": {"a": 1}},
    ],
)
def test_a_status_that_is_none_is_asked_again(ft: Runner, fields: dict[str, object]) -> None:
    ft.sandbox.fault("record", path="/v1/generations/.*", times=2, **fields)
    jumping_clock.run(ft, "generate", "a song", check=0)
    assert len(polls(ft)) == 3


# --- nothing is lost, nothing is paid twice -------------------------------------------------------


def test_the_id_is_on_stderr_before_the_first_poll(ft: Runner) -> None:
    gate = ft.sandbox.hold("/v1/generations/.*")
    process = ft.start("generate", "a song", speed=20, check=0)
    assert gate.reached.wait(20)  # the first poll is under way, unanswered
    process.expect(the_id(ft))
    gate.release()
    process.finish()


def test_a_lost_answer_to_a_submission_may_have_been_accepted(ft: Runner) -> None:
    """Where the list cannot be read either, ft says in one line how to find out."""
    ft.sandbox.fault("lost", method="POST")
    lists = ft.sandbox.fault("close", path="/v1/generations", method="GET", times=None)
    result = jumping_clock.run(ft, "generate", "one of a kind", check=3)
    assert re.search(
        "^error: .*; the submission may have been accepted$", result.stderr, re.MULTILINE
    )
    assert "; do not submit again before `ft list` has told you\n" in result.stderr
    assert lists.hits
    ft.sandbox.heal()
    assert the_id(ft) in ft("list", check=0).stdout


@pytest.mark.parametrize(
    "document",
    [
        "{}",
        '{"data": null}',
        '{"data": []}',
        '{"data": {}}',
        '{"data": {"id": 7}}',
        '{"data": {"id": " "}}',
    ],
)
def test_an_answer_without_an_id_may_have_been_accepted(ft: Runner, document: str) -> None:
    """Its own prompt is no proof where the list has two such tracks."""
    ft.sandbox.fault("body", method="POST", data=document)
    ft.sandbox.add_generation(prompt="a song", age=-60)
    result = ft("generate", "a song", check=3)
    assert "the submission may have been accepted" in result.stderr and the_id(ft)
    assert "hint: 2 tracks in the list may be it: " in result.stderr


@pytest.mark.parametrize("prompt", ["a song", "fail"])
def test_whatever_happens_there_is_one_post(ft: Runner, prompt: str) -> None:
    """Six faults in a row, of the submission's answer to the first byte of the track."""
    for kind in ("close", "short", "html"):
        ft.sandbox.fault(kind, path="/v1/generations/.*")
    ft.sandbox.fault("status", status=503, path="/v1/generations/.*")
    ft.sandbox.fault("close", origin="media")
    jumping_clock.run(ft, "generate", prompt, check=prompt == "fail")
    assert the_id(ft)


def test_download_with_wait_goes_on(ft: Runner, tmp_path: Path) -> None:
    """Faults included, as generate does."""
    identifier = ft.sandbox.add_generation(prompt="a song", status="processing", duration=5)["id"]
    process = ft.start("download", identifier, "--wait", "-o", "song.mp3", speed=20, check=0)
    ft.sandbox.wait_for(lambda request: request.sent)
    ft.sandbox.fault("close", path="/v1/generations/.*", times=2)
    process.expect(f"note: waiting for {identifier}")
    process.expect("asking again")
    ft.sandbox.finish(identifier)
    process.finish()
    assert (tmp_path / "song.mp3").read_bytes() == ft.sandbox.track(identifier)
    assert ft.sandbox.posts() == []


def test_download_with_wait_times_out_as_generate_does(ft: Runner) -> None:
    identifier = ft.sandbox.add_generation(prompt="a song", status="processing", duration=5)["id"]
    ft.sandbox.seconds = 1e6
    result = jumping_clock.run(ft, "download", identifier, "--wait", check=1)
    assert f"still processing, run `ft get {identifier}` later" in result.stderr
