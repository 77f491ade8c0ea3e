"""Downloads of many tracks: how often the service is asked, and what scripts are told."""

from __future__ import annotations

import re
import shlex
import signal
from pathlib import Path

from conftest import Runner


def make(ft: Runner, count: int) -> list[str]:
    return [str(ft.sandbox.add_generation(duration=5)["id"]) for _ in range(count)]


def api_requests(ft: Runner) -> list[str]:
    return [request.path for request in ft.sandbox.requests if request.path.startswith("/v1/")]


def test_records_come_by_pages(ft: Runner, here: Path) -> None:
    ids = make(ft, 250)
    ft("download", "-", "-o", "tracks/", stdin="\n".join(ids), check=0, timeout=120)
    assert len(list((here / "tracks").iterdir())) == 250
    assert api_requests(ft) == ["/v1/generations"] * 3


def test_old_tracks_are_asked_for_once_the_pages_cost_more(ft: Runner, here: Path) -> None:
    ids = make(ft, 10)
    make(ft, 200)
    ft("download", *ids, "-o", "tracks/", check=0)
    assert len(list((here / "tracks").iterdir())) == 10
    requests = api_requests(ft)
    assert requests[0] == "/v1/generations"
    assert sorted(requests[1:]) == sorted(f"/v1/generations/{identifier}" for identifier in ids)


def test_a_few_tracks_turn_no_page(ft: Runner) -> None:
    ids = make(ft, 7)
    ft("download", *ids, "-o", "tracks/", check=0)
    assert "/v1/generations" not in api_requests(ft)


def test_a_list_that_fails_costs_no_track(ft: Runner, here: Path) -> None:
    ids = make(ft, 9)
    ft.sandbox.fault("close", path="/v1/generations", times=None)
    ft("download", *ids, "-o", "tracks/", check=0, speed=50)
    assert len(list((here / "tracks").iterdir())) == 9


def test_json_names_what_was_saved_and_what_was_not(ft: Runner, here: Path) -> None:
    (track,) = make(ft, 1)
    document = ft("download", track, "nope", "-o", "tracks/", "--json", check=1).json
    (saved,) = document["data"]["saved"]
    (error,) = document["data"]["errors"]
    assert saved["id"] == track and (here / saved["path"]).exists()
    assert error == {"id": "nope", "error": "Generation not found (NOT_FOUND)"}
    document = ft("download", track, "-o", "x.mp3", "--json", check=0).json
    assert document == {"data": {"saved": [{"id": track, "path": "x.mp3"}], "errors": []}}
    ft("download", track, "-o", "-", "--json", check=2)


def test_a_hint_asks_the_same_service_and_can_be_pasted(ft: Runner, here: Path) -> None:
    """A directory whose name begins with a dash, a config.json and a base URL of one's own."""
    (config,) = ft.config_dir.iterdir()
    for flag in (f"--config={config}", f"--base-url={ft.sandbox.api_url}"):
        fault = ft.sandbox.fault("stall", origin="media", times=None, where="start")
        process = ft.start(flag, "download", *make(ft, 2), "--output=-d/", check=130)
        assert fault.reached.wait(20)
        process.send_signal(signal.SIGINT)
        stderr = process.finish().stderr
        fault.release()
        (command,) = re.findall("^hint: to get the rest: ft (.*)$", stderr, re.MULTILINE)
        ft.sandbox.heal()
        assert shlex.split(command)[:2] == [flag, "download"]
        assert ft(*shlex.split(command), check=0).stdout.count("Saved to -d/") == 2


def test_ctrl_c_says_how_to_get_the_rest(ft: Runner, here: Path) -> None:
    first, second, third = make(ft, 3)
    fault = ft.sandbox.fault("stall", origin="media", after=1, times=None, where="start")
    process = ft.start("download", first, second, third, "-o", "tracks/", check=130)
    process.stdout.expect("Saved to ", 20)
    process.send_signal(signal.SIGINT)
    stderr = process.finish().stderr
    fault.release()
    assert "hint: to get the rest: ft download " in stderr
    assert " -o tracks/\n" in stderr
