"""The log of -v, and output in encodings that lack some of its characters."""

from __future__ import annotations

import json
import re

import pytest
from commands import TRACK
from conftest import Runner

# --- the -v log -----------------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["-v", "--verbose"])
def test_verbose_logs_requests_and_responses_to_stderr(ft: Runner, flag: str) -> None:
    result = ft("me", flag, check=0)
    assert result.stdout == ft("me", check=0).stdout
    log = result.stderr
    assert f"> GET {ft.sandbox.api_url}/v1/me\n" in log
    assert re.search(r"^< 200 OK \(\d+\.\d+ s\)$", log, re.MULTILINE)
    assert re.search(r"^< Content-Type: application/json", log, re.MULTILINE)
    assert re.search(r"^> User-Agent: ft/", log, re.MULTILINE)


def test_keys_are_redacted_to_their_first_12_characters(ft: Runner) -> None:
    log = ft("me", "-v", check=0).stderr
    assert f"> X-API-Key: {ft.sandbox.key[:12]}...****\n" in log
    assert ft.sandbox.key not in log
    assert ft.sandbox.key[12:] not in log


def test_verbose_logs_both_origins_of_a_download_and_the_key_once(ft: Runner) -> None:
    log = ft("download", TRACK, "-v", check=0).stderr
    assert f"> GET {ft.sandbox.media_url}/audio/{TRACK}.mp3\n" in log
    assert log.count("X-API-Key") == 1


def test_verbose_does_not_say_more_of_a_malformed_key(ft: Runner) -> None:
    assert "secret" not in ft("me", "-v", key="my secret", check=2).stderr


# --- encodings ------------------------------------------------------------------------------------

ENCODINGS = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "latin-1, strict": {"PYTHONIOENCODING": "latin-1:strict"},
}


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=ENCODINGS)
def test_where_the_encoding_lacks_them_ascii_stands_in(ft: Runner, env: dict[str, str]) -> None:
    out = ft("doctor", env=env, check=0).stdout_bytes
    assert b"OK ft v" in out
    assert b"/health -> ok" in out
    result = ft("generate", "x", "--duration", "500", "--no-wait", env=env, check=0)
    assert b"note: duration clamped from 500 -> 210" in result.stderr_bytes


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.parametrize(
    "argv", [["list"], ["playlist", "show", "Focus Beats"], ["help"]], ids=" ".join
)
def test_no_output_dies_of_an_encoding_error(
    ft: Runner, env: dict[str, str], argv: list[str]
) -> None:
    assert ft(*argv, env=env, check=0).stdout_bytes


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=ENCODINGS)
def test_json_loses_nothing_in_any_encoding(ft: Runner, env: dict[str, str]) -> None:
    document = json.loads(
        ft("list", "--limit", "99", "--json", env=env, check=0).stdout_bytes.decode("ascii")
    )
    prompts = {generation["prompt"] for generation in document["data"]["generations"]}
    assert "東京の夜、シティポップ、サックス 🌃" in prompts


def test_an_argument_in_another_encoding_still_arrives(ft: Runner) -> None:
    ft("generate", "café", "--no-wait", env={"LC_ALL": "C"}, check=0)
    assert ft.sandbox.posts()[0].json["tags"] == "café"
