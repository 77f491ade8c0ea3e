"""A library on disk: `ft download --all` and `--playlist`, what is skipped, and metadata."""

from __future__ import annotations

import http.client
import json
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

import jumping_clock
import pytest
from conftest import WINDOWS, Runner
from sandbox import Sandbox

pytestmark = pytest.mark.sandbox(library=False)

FOREIGN = "11111111-2222-4333-8444-555555555555"


def make(ft: Runner, count: int, **fields: Any) -> list[str]:
    """Add completed tracks and return their ids, the oldest first."""
    return [str(ft.sandbox.add_generation(seconds=1, **fields)["id"]) for _ in range(count)]


def made_requests(ft: Runner, origin: str = "api") -> list[str]:
    return [request.path for request in ft.sandbox.requests if request.origin == origin]


def short_ids(directory: Path) -> list[str]:
    """Return the short ids in the names of a directory that has nothing but tracks in it."""
    names = sorted(os.listdir(directory))
    assert all(name.endswith(".mp3") for name in names)
    return sorted(name[-12:-4] for name in names)


def shorts(ids: list[str]) -> list[str]:
    return sorted(identifier[:8] for identifier in ids)


# --- the whole library ----------------------------------------------------------------------------


@pytest.mark.sandbox(library=False, track_bytes=1000)
def test_a_thousand_tracks_cost_eleven_requests(ft: Runner, here: Path) -> None:
    """Those that are not completed are not downloaded. A second run costs the list only."""
    ids = make(ft, 1000)
    for status in ("failed", "pending", "processing"):
        ft.sandbox.add_generation(status=status)
    command = ("download", "--all", "--skip-existing", "-o", "tracks/")
    result = ft(*command, check=0, timeout=180)
    assert result.stdout.endswith("\nDownloaded 1000 of 1000 track(s)\n")
    assert short_ids(here / "tracks") == shorts(ids)
    assert made_requests(ft) == ["/v1/generations"] * 11
    ft.sandbox.requests.clear()
    result = ft(*command, check=0)
    assert result.stdout == "Downloaded 0 of 1000 track(s), 1000 already there\n"
    assert made_requests(ft) == ["/v1/generations"] * 11
    assert made_requests(ft, "media") == []


def test_tracks_go_to_the_current_directory_without_an_output(ft: Runner, here: Path) -> None:
    ids = make(ft, 2)
    result = ft("download", "--all", check=0)
    assert result.stderr == "note: downloading 2 tracks\n"
    assert short_ids(here) == shorts(ids)
    result = ft("download", "--all", "--skip-existing", check=0)
    assert result.stdout == "Downloaded 0 of 2 track(s), 2 already there\n"


def test_one_track_is_reported_like_several(ft: Runner, here: Path) -> None:
    (track,) = make(ft, 1)
    name = f"lofi-chill-piano-night-{track[:8]}.mp3"
    result = ft("download", "--all", check=0)
    assert result.stdout == f"Saved to {name}\nDownloaded 1 of 1 track(s)\n"


@pytest.mark.parametrize("argv", ["download --all", "sfx download --all"])
def test_an_empty_library_is_no_failure(ft: Runner, argv: str) -> None:
    ft.sandbox.add_generation(status="processing")
    result = ft(*argv.split(), check=0)
    assert result.stdout == ""
    assert result.stderr == "note: nothing to download: no completed tracks\n"
    assert ft(*argv.split(), "-q", check=0).stderr == ""
    document = ft(*argv.split(), "--json", check=0).json
    assert document == {"data": {"saved": [], "errors": []}}
    document = ft(*argv.split(), "--json", "--skip-existing", check=0).json
    assert document == {"data": {"saved": [], "errors": [], "skipped": []}}


def test_a_list_that_fails_is_an_error(ft: Runner, here: Path) -> None:
    make(ft, 150)
    ft.sandbox.fault("status", status=500, path="/v1/generations", after=1, times=None)
    result = ft("download", "--all", "-o", "tracks/", speed=50, check=1)
    assert result.stderr.splitlines()[-1].startswith("error: ")
    assert list((here / "tracks").iterdir()) == []


def test_sound_effects_likewise(ft: Runner, here: Path) -> None:
    for prompt in ("a door", "a bell"):
        ft("sfx", "generate", prompt, "-o", "made/", speed=15, check=0)
    command = ("sfx", "download", "--all", "--skip-existing", "--metadata", "-o", "effects/")
    assert ft(*command, check=0).stdout.endswith("Downloaded 2 of 2 track(s)\n")
    ft.sandbox.requests.clear()
    assert ft(*command, check=0).stdout == "Downloaded 0 of 2 track(s), 2 already there\n"
    assert made_requests(ft) == ["/v1/sound-effects"]
    for identifier, record in ft.sandbox.sound_effects.items():
        (path,) = (here / "effects").glob(f"*-{identifier[:8]}.mp3")
        assert path.read_bytes() == ft.sandbox.track(identifier)
        assert json.loads(Path(f"{path}.json").read_text()) == record


@pytest.mark.sandbox(library=False, seconds=60)
def test_wait_includes_what_will_be_completed(ft: Runner, sandbox: Sandbox, here: Path) -> None:
    (done,) = make(ft, 1)
    sandbox.add_generation(status="failed")
    identifier = ft("generate", "a song", "--no-wait", "-q", check=0).stdout.strip()
    process = ft.start("download", "--all", "--wait", "-o", "tracks/", speed=15, check=0)
    sandbox.wait_for(lambda request: request.path == f"/v1/generations/{identifier}")
    sandbox.finish(identifier)
    assert process.finish().stdout.endswith("Downloaded 2 of 2 track(s)\n")
    assert short_ids(here / "tracks") == shorts([done, identifier])


# --- a playlist -----------------------------------------------------------------------------------


@pytest.mark.sandbox(library=True)
@pytest.mark.parametrize("by_id", [False, True])
def test_a_playlist_costs_a_request_or_two(
    ft: Runner, sandbox: Sandbox, here: Path, by_id: bool
) -> None:
    ids = [i for i, r in sandbox.generations.items() if r["status"] == "completed"][:3]
    unfinished = sandbox.add_generation(status="processing")["id"]
    playlist = sandbox.add_playlist("Road Trip", [*ids, unfinished])["id"]
    name = playlist if by_id else "road trip"
    result = ft("download", "--playlist", name, "-o", "tracks/", check=0)
    assert result.stdout.endswith("Downloaded 3 of 3 track(s)\n")
    assert result.stderr.splitlines()[0] == "note: not completed: 1 of 4 tracks"
    assert short_ids(here / "tracks") == shorts(ids)
    listing = [] if by_id else ["/v1/playlists"]
    assert made_requests(ft) == [*listing, f"/v1/playlists/{playlist}"]
    result = ft("download", "--playlist", name, "--skip-existing", "-o", "tracks/", check=0)
    assert result.stdout == "Downloaded 0 of 3 track(s), 3 already there\n"


def test_a_playlist_without_tracks_is_no_failure(ft: Runner) -> None:
    ft.sandbox.add_playlist("Empty")
    result = ft("download", "--playlist", "Empty", check=0)
    assert (result.stdout, result.stderr) == (
        "",
        "note: nothing to download: no completed tracks\n",
    )


def test_an_unknown_playlist_is_exit_2(ft: Runner) -> None:
    ft.sandbox.add_playlist("Focus")
    assert "did you mean `Focus`" in ft("download", "--playlist", "Fokus", check=2).stderr


# --- what cannot be meant -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("--all 07e8d430", "ids and --all cannot be used together"),
        ("--all -", "ids and --all cannot be used together"),
        ("07e8d430 --playlist x", "ids and --playlist cannot be used together"),
        ("--all --playlist x", "--all and --playlist cannot be used together"),
        ("--all -o song.mp3", "with --all, -o must be a directory"),
        ("--all -o -", "with --all, -o must be a directory"),
        ("--playlist x -o song.mp3", "with --playlist, -o must be a directory"),
        ("07e8d430 --skip-existing -o song.mp3", "--skip-existing looks into a directory"),
        ("07e8d430 --metadata -o -", "--metadata and -o - cannot be used together"),
        ("", "missing argument: <id>, --all"),
        ("--skip-existing", "missing argument: <id>, --all"),
    ],
)
def test_what_cannot_be_meant_is_exit_2(ft: Runner, argv: str, words: str) -> None:
    assert words in ft("download", *argv.split(), check=2).stderr
    if "playlist" not in argv:
        assert words in ft("sfx", "download", *argv.split(), check=2).stderr
    assert not ft.sandbox.requests


def test_sound_effects_are_in_no_playlist(ft: Runner) -> None:
    assert "unknown flag --playlist" in ft("sfx", "download", "--playlist", "x", check=2).stderr


# --- what is there already ------------------------------------------------------------------------


def nightly(ft: Runner, *flags: str, code: int = 0) -> str:
    """Return the summary of `ft download --all --skip-existing -o tracks/`."""
    result = ft("download", "--all", "--skip-existing", *flags, "-o", "tracks/", check=code)
    return str(result.stdout.splitlines()[-1])


def test_a_nightly_run_downloads_what_is_new(ft: Runner, here: Path) -> None:
    make(ft, 247)
    nightly(ft)
    new = make(ft, 3, prompt="new")
    ft.sandbox.requests.clear()
    assert nightly(ft) == "Downloaded 3 of 250 track(s), 247 already there"
    assert made_requests(ft) == ["/v1/generations"] * 3
    assert sorted(made_requests(ft, "media")) == sorted(f"/audio/{i}.mp3" for i in new)


def test_a_changed_title_is_no_new_track(ft: Runner, here: Path) -> None:
    (track,) = make(ft, 1)
    nightly(ft)
    ft.sandbox.generations[track]["title"] = "Another Name"
    assert nightly(ft) == "Downloaded 0 of 1 track(s), 1 already there"
    assert short_ids(here / "tracks") == shorts([track])


@pytest.mark.parametrize("title", ["a", "naïve café — 夜", "x" * 90, "-", None])
def test_any_name_that_ft_gives_is_found_again(ft: Runner, here: Path, title: str) -> None:
    ft.sandbox.add_generation(title=title, seconds=1)
    ft.sandbox.add_generation(id="gen_7f3a", title=title, seconds=1)
    assert nightly(ft) == "Downloaded 2 of 2 track(s)"
    assert nightly(ft) == "Downloaded 0 of 2 track(s), 2 already there"


def test_only_a_file_of_the_size_that_the_service_names_is_there(ft: Runner, here: Path) -> None:
    """Where it names none, an empty file is still no track."""
    sized, unsized, emptied = make(ft, 3)
    nightly(ft)
    for identifier in (sized, unsized, emptied):
        (path,) = (here / "tracks").glob(f"*-{identifier[:8]}.mp3")
        size = path.stat().st_size
        path.write_bytes(b"" if identifier == emptied else path.read_bytes()[:-1])
        ft.sandbox.generations[identifier]["fileSize"] = size if identifier == sized else None
    assert nightly(ft) == "Downloaded 2 of 3 track(s), 1 already there"
    for identifier in (sized, emptied):
        (path,) = (here / "tracks").glob(f"*-{identifier[:8]}.mp3")
        assert path.read_bytes() == ft.sandbox.track(identifier)


def test_a_directory_is_no_track(ft: Runner, here: Path) -> None:
    (track,) = make(ft, 1)
    (here / "tracks" / f"old-{track[:8]}.mp3").mkdir(parents=True)
    assert nightly(ft) == "Downloaded 1 of 1 track(s)"


@pytest.mark.parametrize(
    "name", ["{}.mp3", "x{}.mp3", "x-{}.wav", "x-{}.mp3.json", ".x-{}.mp3.part"]
)
def test_other_names_are_no_tracks(ft: Runner, here: Path, name: str) -> None:
    (track,) = make(ft, 1)
    (here / "tracks").mkdir()
    (here / "tracks" / name.format(track[:8])).write_bytes(ft.sandbox.track(track))
    assert nightly(ft) == "Downloaded 1 of 1 track(s)"


def test_nothing_is_skipped_for_ids_that_share_a_short_id(ft: Runner, here: Path) -> None:
    """The file of one could be taken for the other's."""
    ids = [f"07e8d430-0000-4000-8000-00000000000{n}" for n in range(2)]
    for number, identifier in enumerate(ids):
        ft.sandbox.add_generation(id=identifier, title=f"number {number}", seconds=1)
    (other,) = make(ft, 1)
    nightly(ft)
    assert short_ids(here / "tracks") == shorts([*ids, other])
    assert nightly(ft) == "Downloaded 2 of 3 track(s), 1 already there"


def test_ids_are_skipped_likewise(ft: Runner, here: Path) -> None:
    ids = make(ft, 9)
    ft("download", ids[0], "--skip-existing", "-o", "tracks/", check=0)
    result = ft("download", "-", "--skip-existing", "-o", "tracks/", stdin="\n".join(ids), check=0)
    assert result.stderr == "note: downloading what is missing of 9 tracks\n"
    assert result.stdout.endswith("Downloaded 8 of 9 track(s), 1 already there\n")
    result = ft("download", ids[0][:8], "--skip-existing", "-o", "tracks/", check=0)
    assert result.stdout == "Downloaded 0 of 1 track(s), 1 already there\n"
    assert max(Counter(made_requests(ft, "media")).values()) == 1


def test_quiet_prints_the_paths_of_what_is_new(ft: Runner, here: Path) -> None:
    make(ft, 2)
    nightly(ft)
    (new,) = make(ft, 1)
    result = ft("download", "--all", "--skip-existing", "-q", "-o", "tracks/", check=0)
    assert result.stdout == f"tracks/lofi-chill-piano-night-{new[:8]}.mp3\n"
    assert result.stderr == ""


def test_json_says_what_was_skipped(ft: Runner, here: Path) -> None:
    (old,) = make(ft, 1)
    nightly(ft)
    (new,) = make(ft, 1)
    data = ft("download", "--all", "--skip-existing", "--json", "-o", "tracks/", check=0).json[
        "data"
    ]
    assert [item["id"] for item in data["saved"]] == [new]
    assert data["skipped"] == [
        {"id": old, "path": os.path.join("tracks/", f"lofi-chill-piano-night-{old[:8]}.mp3")}
    ]
    assert data["errors"] == []


def test_a_track_that_fails_is_exit_1_whatever_is_there(ft: Runner, here: Path) -> None:
    make(ft, 2)
    nightly(ft)
    (broken, _) = make(ft, 2)
    ft.sandbox.fault("status", origin="media", path=f".*{broken}.*", status=400, times=None)
    assert nightly(ft, code=1) == "Downloaded 1 of 4 track(s), 2 already there"


@pytest.mark.skipif("os.name == 'nt' or os.geteuid() == 0", reason="root may read everything")
def test_a_directory_that_cannot_be_read_is_an_error(ft: Runner, here: Path) -> None:
    make(ft, 1)
    (here / "tracks").mkdir(mode=0o300)
    command = ("download", "--all", "--skip-existing", "-o", "tracks/")
    assert "cannot read tracks/: " in ft(*command, check=1).stderr


# --- metadata -------------------------------------------------------------------------------------


def metadata(directory: Path, identifier: str) -> Any:
    (path,) = directory.glob(f"*-{identifier[:8]}.mp3.json")
    return json.loads(path.read_text(encoding="utf-8"))


def test_metadata_is_the_record_as_the_service_has_it(ft: Runner, here: Path) -> None:
    (track,) = make(ft, 1, prompt="naïve café\u2028", lyricsVersion=2)
    record = ft.sandbox.generations[track]
    record["parameters"] = {"seed": 123456789012345678901234567890, "bpm": 1.5}
    ft("download", "--all", "--metadata", "-o", "tracks/", check=0)
    assert metadata(here / "tracks", track) == record
    ft("download", track, "--metadata", "-o", "song.mp3", check=0)
    text = (here / "song.mp3.json").read_text(encoding="utf-8")
    assert json.loads(text) == record
    assert text.startswith('{\n  "id": ') and text.endswith("\n}\n")
    assert sorted(os.listdir(here)) == ["song.mp3", "song.mp3.json", "tracks"]


def test_metadata_can_hold_what_is_not_quite_text(ft: Runner, here: Path) -> None:
    (track,) = make(ft, 1)
    record = {**ft.sandbox.generations[track], "prompt": "half an emoji: \ud83c"}
    answer = json.dumps({"data": record}).encode()
    ft.sandbox.fault("body", path=f"/v1/generations/{track}", data=answer)
    ft("download", track, "--metadata", "-o", "song.mp3", check=0)
    assert json.loads((here / "song.mp3.json").read_text(encoding="utf-8")) == record


def test_a_key_in_a_prompt_does_not_get_into_a_file(ft: Runner, here: Path) -> None:
    (track,) = make(ft, 1, prompt=f"my key is {ft.sandbox.key}")
    ft("download", track, "--metadata", "-o", "song.mp3", check=0)
    assert ft.sandbox.key not in (here / "song.mp3.json").read_text()


def test_metadata_is_written_for_skipped_tracks_that_lack_it(ft: Runner, here: Path) -> None:
    """It stands beside the track under the name that this has; what is there stays."""
    first, second = make(ft, 2)
    nightly(ft)
    ft.sandbox.generations[first]["title"] = "Another Name"
    assert nightly(ft, "--metadata") == "Downloaded 0 of 2 track(s), 2 already there"
    assert metadata(here / "tracks", first)["title"] == "Another Name"
    assert sorted(os.listdir(here / "tracks")) == sorted(
        f"lofi-chill-piano-night-{identifier[:8]}.mp3{extension}"
        for identifier in (first, second)
        for extension in ("", ".json")
    )
    ft.sandbox.generations[first]["playCount"] = 7
    (empty,) = (here / "tracks").glob(f"*-{second[:8]}.mp3.json")
    empty.write_bytes(b"")
    nightly(ft, "--metadata")
    assert metadata(here / "tracks", first)["playCount"] == 0
    assert metadata(here / "tracks", second)["id"] == second


def test_metadata_that_cannot_be_written_is_exit_1_and_costs_no_track(
    ft: Runner, here: Path
) -> None:
    first, second = make(ft, 2)
    obstacle = here / "tracks" / f"lofi-chill-piano-night-{first[:8]}.mp3.json"
    obstacle.mkdir(parents=True)
    result = ft("download", "--all", "--metadata", "-o", "tracks/", check=1)
    assert f"warning: {first}: cannot write " in result.stderr
    assert "it is a directory" in result.stderr
    assert result.stdout.endswith("Downloaded 1 of 2 track(s)\n")
    assert len(list((here / "tracks").glob("*.mp3"))) == 2
    assert metadata(here / "tracks", second)["id"] == second


@pytest.mark.skipif(WINDOWS, reason="no limit on the size of files there")
def test_metadata_is_replaced_as_a_whole_or_not_at_all(ft: Runner, here: Path) -> None:
    (track,) = make(ft, 1, prompt="a long prompt " * 40)
    ft("download", track, "--metadata", "-o", "song.mp3", check=0)
    before = (here / "song.mp3.json").read_bytes()
    ft.sandbox.track_bytes = 400
    result = ft.sh(
        f"ulimit -f 1; trap '' XFSZ; ft download {track} --metadata -o song.mp3", check=1
    )
    assert "error: cannot write song.mp3.json: " in result.stderr
    assert (here / "song.mp3.json").read_bytes() == before
    assert sorted(os.listdir(here)) == ["song.mp3", "song.mp3.json"]


@pytest.mark.parametrize("count", [3, 30])
def test_metadata_of_a_playlist_is_the_whole_record(ft: Runner, here: Path, count: int) -> None:
    """A playlist shows only some of its fields. A second run costs the playlist only."""
    ids = make(ft, count)
    playlist = ft.sandbox.add_playlist("Mine", ids)["id"]
    command = ("download", "--playlist", playlist, "--metadata", "--skip-existing", "-o", "tracks/")
    ft(*command, check=0)
    for identifier in ids:
        assert metadata(here / "tracks", identifier) == ft.sandbox.generations[identifier]
    asked = made_requests(ft)[1:]
    assert len(asked) == (3 if count == 3 else 1), "one by one, or by pages"
    ft.sandbox.requests.clear()
    ft(*command, check=0)
    assert [request.path for request in ft.sandbox.requests] == [f"/v1/playlists/{playlist}"]


def test_metadata_of_somebody_elses_track_is_what_the_playlist_shows(
    ft: Runner, here: Path
) -> None:
    ft.sandbox.add_generation(id=FOREIGN, owner="other", isPublic=True, seconds=1)
    playlist = ft.sandbox.add_playlist("Theirs", [FOREIGN], owner="other", isPublic=True)["id"]
    ft("download", "--playlist", playlist, "--metadata", "-o", "tracks/", check=0)
    shown = ft("playlist", "show", playlist, "--json", check=0).json["data"]["tracks"]
    assert metadata(here / "tracks", FOREIGN) == shown[0]


# --- changes meanwhile, limits, signals -----------------------------------------------------------


def test_tracks_made_while_the_pages_are_turned_come_once(
    ft: Runner, sandbox: Sandbox, here: Path
) -> None:
    """They push old ones to the next page."""
    ids = make(ft, 150)
    held = sandbox.fault("stall", path="/v1/generations", after=1, times=1, where="request")
    process = ft.start("download", "--all", "-o", "tracks/", check=0)
    sandbox.wait_for(lambda request: request.query.get("offset") == "99")
    make(ft, 5)
    held.release()
    assert process.finish().stdout.endswith("Downloaded 150 of 150 track(s)\n")
    assert short_ids(here / "tracks") == shorts(ids)


def test_a_track_that_vanishes_costs_no_other(ft: Runner, sandbox: Sandbox, here: Path) -> None:
    vanished, *ids = make(ft, 20)
    held = sandbox.hold(f"/audio/{vanished}.mp3", origin="media")
    process = ft.start("download", "--all", "-o", "tracks/", check=1)
    sandbox.wait_for(lambda request: vanished in request.path)
    del sandbox.generations[vanished]
    held.release()
    result = process.finish()
    assert result.stdout.endswith("Downloaded 19 of 20 track(s)\n")
    assert f"warning: {vanished}: HTTP 404 from " in result.stderr
    assert short_ids(here / "tracks") == shorts(ids)


def test_an_address_that_has_expired_is_asked_for_once_more(
    ft: Runner, sandbox: Sandbox, here: Path
) -> None:
    (track,) = make(ft, 1)
    record = sandbox.generations[track]
    right = record["audioUrl"]
    record["audioUrl"] = f"{sandbox.media_url}/expired.mp3"  # is answered with 404
    held = sandbox.hold("/expired.mp3", origin="media")
    process = ft.start("download", "--all", check=0)
    sandbox.wait_for(lambda request: request.path == "/expired.mp3")
    record["audioUrl"] = right
    held.release()
    process.finish()
    assert made_requests(ft) == ["/v1/generations", f"/v1/generations/{track}"]
    (path,) = here.iterdir()
    assert path.read_bytes() == sandbox.track(track)


@pytest.mark.parametrize("status", [403, 404, 410])
def test_an_address_that_is_still_the_same_is_not_tried_again(ft: Runner, status: int) -> None:
    (track,) = make(ft, 1)
    ft.sandbox.fault("status", origin="media", status=status, times=None)
    assert f"HTTP {status} from " in ft("download", "--all", check=3).stderr
    assert len(made_requests(ft, "media")) == 1
    assert made_requests(ft) == ["/v1/generations", f"/v1/generations/{track}"]


def test_a_media_host_that_is_down_ends_it(ft: Runner, sandbox: Sandbox, here: Path) -> None:
    """Ten thousand tracks would otherwise take hours to fail, one after the other."""
    make(ft, 100)
    sandbox.fault("status", origin="media", status=503, after=1, times=None)
    changes = (  # in the end it waits for what the threads might still say
        "def report(console, error, report=ft.report_failure):\n"
        "    code = report(console, error)\n"
        "    time.sleep(100)\n"
        "    return code\n"
        "ft.report_failure = report\n"
    )
    argv = ("download", "--all", "-o", "tracks/")
    result = jumping_clock.start(ft, *argv, changes=changes, speed=60, check=3).finish()
    assert result.stdout.endswith("Downloaded 1 of 100 track(s)\n")
    assert "warning: 79 tracks: not downloaded\n" in result.stderr
    assert result.stderr.splitlines()[-2:] == [
        "hint: to get the rest, run the same command again with `--skip-existing`",
        f"error: HTTP 503 from {sandbox.media_url.partition('//')[2]}",
    ]
    assert len(set(made_requests(ft, "media"))) < 1 + 20 + 2 * 4
    assert len(short_ids(here / "tracks")) == 1


def test_tracks_that_are_missing_end_nothing(ft: Runner, sandbox: Sandbox, here: Path) -> None:
    """An answer that is final is about one track."""
    ids = make(ft, 60)
    sandbox.fault("status", origin="media", status=404, times=50)
    result = ft("download", "--all", "-o", "tracks/", check=1)
    assert result.stdout.endswith("Downloaded 10 of 60 track(s)\n")
    assert len(set(made_requests(ft, "media"))) == len(ids)


@pytest.mark.sandbox(library=False, rate_limits=True, window=3.0)
def test_the_rate_limit_costs_no_track(ft: Runner, sandbox: Sandbox, here: Path) -> None:
    """The limit's minute is three seconds long, and most of it is used up."""
    ids = make(ft, 300)
    connection = http.client.HTTPConnection(sandbox.api_url.partition("//")[2])
    for _ in range(58):
        connection.request("GET", "/v1/me", headers={"X-API-Key": sandbox.key})
        assert connection.getresponse().read()
    connection.close()
    ft("download", "--all", "-o", "tracks/", check=0)
    assert short_ids(here / "tracks") == shorts(ids)
    assert 429 in [request.status for request in sandbox.requests]


@pytest.mark.skipif(WINDOWS, reason="Ctrl-C is another matter there")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_rerun_goes_on_where_a_signal_ended_it(
    ft: Runner, sandbox: Sandbox, here: Path, number: int
) -> None:
    """No half file is left, and no whole one comes twice."""
    ids = make(ft, 100)
    stalled = sandbox.fault("stall", origin="media", after=60, times=None, where="body", at=500)
    command = ("download", "--all", "--skip-existing", "--metadata", "-o", "tracks/")
    process = ft.start(*command, check=128 + number)
    for _ in range(60):
        process.stdout.expect("Saved to ", 20)
    process.send_signal(number)
    result = process.finish()
    stalled.release()
    sandbox.heal()
    assert "Downloaded 60 of 100 track(s)\n" in result.stdout
    assert not [name for name in os.listdir(here / "tracks") if name.startswith(".")]
    whole = {path.name[-12:-4] for path in (here / "tracks").glob("*.mp3")}
    assert len(whole) == 60
    sandbox.requests.clear()
    assert "Downloaded 40 of 100 track(s), 60 already there\n" in ft(*command, check=0).stdout
    again = {path[len("/audio/") :][:8] for path in made_requests(ft, "media")}
    assert again == {identifier[:8] for identifier in ids} - whole
    for identifier in ids:
        (path,) = (here / "tracks").glob(f"*-{identifier[:8]}.mp3")
        assert path.read_bytes() == sandbox.track(identifier)
        assert metadata(here / "tracks", identifier)["id"] == identifier


@pytest.mark.skipif(WINDOWS, reason="Ctrl-C is another matter there")
@pytest.mark.parametrize(
    ("flags", "hint"),
    [
        ((), "to get the rest, run the same command again with `--skip-existing`"),
        (("--skip-existing",), "to get the rest, run the same command again"),
    ],
    ids=["all", "skipping"],
)
def test_ctrl_c_does_not_name_a_thousand_tracks(
    ft: Runner, sandbox: Sandbox, here: Path, flags: tuple[str, ...], hint: str
) -> None:
    """`--json` names them all the same."""
    make(ft, 1000)
    sandbox.fault("stall", origin="media", times=None, where="body", at=500)
    for form in ((), ("--json",)):
        process = ft.start("download", "--all", *flags, *form, "-o", "tracks/", check=130)
        process.expect("note: downloading ")
        sandbox.wait_for(lambda request: request.origin == "media")
        process.send_signal(signal.SIGINT)
        result = process.finish()
        _, *lines = result.stderr.splitlines()
        assert lines == ["warning: 1000 tracks: interrupted", f"hint: {hint}", "note: interrupted"]
        sandbox.requests.clear()
    assert len(result.json["data"]["errors"]) == 1000
