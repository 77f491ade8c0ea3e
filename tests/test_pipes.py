"""The pipes of the reference, exactly as written there, with the real jq and xargs."""

from __future__ import annotations

import json

import pytest
from conftest import Result, Runner
from library import DRAFTS, FOCUS, KNOWN_IDS, LOOSE
from sandbox import Sandbox

pytestmark = pytest.mark.needs("jq", "xargs")

LOFI = KNOWN_IDS[LOOSE[11][0]]
IN_FOCUS = "1c474c27-e97d-4c35-bb98-e588d06c32f0"
assert KNOWN_IDS[FOCUS[-2]] == IN_FOCUS


def playlist(sandbox: Sandbox, name: str) -> str:
    (found,) = [
        identifier for identifier, record in sandbox.playlists.items() if record["name"] == name
    ]
    return found


def pipe(ft: Runner, script: str) -> Result:
    result = ft.sh(script, speed=15, check=0)
    assert "error" not in result.stderr
    return result


@pytest.mark.sandbox(library=False)
def test_add_your_recent_completed_tracks_to_a_playlist(ft: Runner) -> None:
    own = [ft.sandbox.add_generation()["id"] for _ in range(60)]
    focus = ft.sandbox.add_playlist("Focus Beats")["id"]
    result = pipe(
        ft,
        "ft list --status completed --limit 50 --json \\\n"
        "  | jq -r '.data.generations[].id' \\\n"
        '  | xargs ft playlist add "Focus Beats"',
    )
    assert result.stdout == "Added 50 of 50 track(s)\n"
    assert result.stderr == ""
    assert ft.sandbox.contents[focus] == own[:9:-1]


def test_clean_up_every_failed_generation(ft: Runner) -> None:
    result = pipe(
        ft,
        "ft list --status failed --json \\\n  | jq -r '.data.generations[].id' \\\n  | xargs ft "
        "delete --yes",
    )
    assert result.stdout == "Deleted 4 of 4 track(s)\n"
    assert all(record["status"] != "failed" for record in ft.sandbox.generations.values())


def test_without_yes_the_pipe_deletes_nothing(ft: Runner) -> None:
    before = len(ft.sandbox.generations)
    result = ft.sh(
        "ft list --status failed --json | jq -r '.data.generations[].id' | xargs ft delete",
        check=123,
    )
    assert "--yes" in result.stderr
    assert len(ft.sandbox.generations) == before


def test_move_everything_from_one_playlist_to_another(ft: Runner) -> None:
    drafts, album = playlist(ft.sandbox, "Drafts"), playlist(ft.sandbox, "Album")
    everything = list(ft.sandbox.contents[drafts])
    assert len(everything) == len(DRAFTS)
    result = pipe(
        ft,
        'ft playlist show "Drafts" --json \\\n'
        "  | jq -r '.data.tracks[].id' \\\n"
        '  | xargs ft playlist move "Drafts" "Album"',
    )
    assert result.stdout == "Moved 12 of 12 track(s)\n"
    assert ft.sandbox.contents[drafts] == []
    assert ft.sandbox.contents[album][-12:] == everything


def test_scripts_can_branch_on_exactly_which_ids_landed(ft: Runner) -> None:
    result = ft.sh(
        f"""ft playlist add "Focus Beats" {LOFI} {IN_FOCUS} --json \\
            | jq -c '.data.added, .data.errors'""",
        check=0,
    )
    added, errors = map(json.loads, result.stdout.splitlines())
    assert (added, errors) == (
        [LOFI],
        [{"trackId": IN_FOCUS, "error": "Track already in playlist"}],
    )


def test_list_json_jq_ids(ft: Runner) -> None:
    result = pipe(ft, "ft list --json | jq '.data.generations[].id'")
    assert len(result.stdout.splitlines()) == 20


def test_list_json_jq_select(ft: Runner) -> None:
    result = pipe(
        ft, """ft list --json | jq '.data.generations[] | select(.status == "completed") | .id'"""
    )
    completed = {json.loads(line) for line in result.stdout.splitlines()}
    assert completed
    assert all(
        ft.sandbox.generations[identifier]["status"] == "completed" for identifier in completed
    )


def test_list_json_jq_always_works(ft: Runner) -> None:
    assert json.loads(pipe(ft, "ft list --json | jq").stdout)["data"]["generations"]
    assert json.loads(pipe(ft, "ft -v list --json 2>/dev/null | jq .").stdout)["data"][
        "generations"
    ]


def test_me_json_jq_limits(ft: Runner) -> None:
    assert json.loads(pipe(ft, "ft me --json | jq '.data.limits'").stdout)["totalRemaining"] == 1968


def test_generate_json_jq_id(ft: Runner) -> None:
    assert (
        json.loads(pipe(ft, """ft generate "dark trap" --json | jq '.data.id'""").stdout)
        == ft.sandbox.book[0]
    )


def test_delete_through_a_dash_needs_no_xargs(ft: Runner) -> None:
    result = pipe(
        ft, "ft list --status failed --json | jq -r '.data.generations[].id' | ft delete --yes -"
    )
    assert result.stdout == "Deleted 4 of 4 track(s)\n"


def test_jq_keeps_what_ft_keeps(ft: Runner) -> None:
    ft.sandbox.fault("literal", value="1.10", field="price")
    assert pipe(ft, "ft me --json | jq '.data.price == 1.1'").stdout == "true\n"
