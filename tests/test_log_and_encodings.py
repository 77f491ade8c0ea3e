"""Where output goes and how it looks: streams, JSON, colours, tables, times, unsafe text, the -v
log, encodings.
"""

from __future__ import annotations

import json
import re
import time

import pytest
from conftest import Runner
from sandbox import DRAFTS, KNOWN_IDS, LOOSE, stamp

LOFI = KNOWN_IDS[LOOSE[11][0]]
ESCAPE = "\x1b["
UNSAFE = (
    "\x1b]0;title\x07\x1b[2J\x1b[31mred\r\n\x00\x08\x7f\x9b1m"
    "\u202eevil\u2066\u200b\u2028\ufeff\U000e0041 end"
)


def listed(ft: Runner, **fields: object) -> str:
    """The row of a generation with these fields."""
    ft.sandbox.add_generation(**fields)  # type: ignore[arg-type]
    return str(ft("list", "--limit", "1", check=0).stdout.splitlines()[1])


# --- streams --------------------------------------------------------------------------------------


@pytest.mark.source
@pytest.mark.parametrize(
    "argv",
    [["me"], ["list"], ["get", LOFI], ["playlists"], ["playlist", "show", "Drafts"], ["doctor"]],
    ids=" ".join,
)
def test_requested_data_goes_to_stdout(ft: Runner, argv: list[str]) -> None:
    result = ft(*argv, check=0)
    assert result.stdout.endswith("\n")
    assert all(line.startswith("note: ") for line in result.stderr.splitlines())


@pytest.mark.source
@pytest.mark.parametrize(
    "argv",
    [
        ["me"],
        ["list"],
        ["get", LOFI],
        ["playlists"],
        ["playlist", "show", "Drafts"],
        ["doctor"],
        ["auth", "whoami"],
        ["delete", "--yes", LOFI],
        ["playlist", "add", "Drafts", LOFI],
        ["generate", "x"],
        ["generate", "x", "--no-wait"],
    ],
    ids=" ".join,
)
def test_with_json_stdout_is_exactly_one_document_and_a_newline(
    ft: Runner, argv: list[str]
) -> None:
    result = ft(*argv, "--json", "-v", speed=15, check=0)
    document, end = json.JSONDecoder().raw_decode(result.stdout)
    assert isinstance(document, dict)
    assert result.stdout[end:] == "\n"


@pytest.mark.source
@pytest.mark.parametrize(
    "argv",
    [
        ["me"],
        ["list"],
        ["get", LOFI],
        ["delete", "--yes", "x"],
        ["generate", "x"],
        ["playlist", "show", "x"],
    ],
    ids=" ".join,
)
def test_a_command_that_fails_before_it_has_a_document_prints_nothing_on_stdout(
    ft: Runner, argv: list[str]
) -> None:
    result = ft(*argv, "--json", key="no key", check=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")


def test_progress_and_prompts_stay_on_the_terminal_when_stdout_is_a_pipe(ft: Runner) -> None:
    result = ft.tty("generate", "dark trap", "--json", stdout="pipe", speed=15, check=0).finish()
    assert json.loads(result.piped)["data"]["status"] == "completed"
    assert "queued as" in result.stdout


def test_off_a_terminal_there_is_no_spinner_and_no_bar(ft: Runner) -> None:
    result = ft("generate", "dark trap", speed=15, check=0)
    assert "\r" not in result.stdout + result.stderr
    assert "\x1b" not in result.stdout + result.stderr
    assert len(result.stderr.splitlines()) <= 3


# --- JSON keeps everything ------------------------------------------------------------------------

LITERALS = {
    "price": "1.10",
    "big": "123456789012345678901234567890",
    "tiny": "1E-7",
    "exact": "0.1000000000000000055511151231257827",
    "zero": "-0",
    "zero point": "-0.0",
    "exponent": "1e5",
}


def test_json_keeps_unknown_fields_and_the_literals_of_numbers(ft: Runner) -> None:
    numbers = ", ".join(f'"{name}": {literal}' for name, literal in LITERALS.items())
    odd = (
        r'"text": "a\u0000b\ud83d\ude00 \/ \"é", "list": [1.0, {}, [], "", [[null, true]]], "": '
        r'{"z": 1, "a": 2}'
    )
    sent = f"{{{numbers}, {odd}}}"
    ft.sandbox.fault("literal", path="/v1/me", value=sent.encode(), field="unknown")
    result = ft("me", "--json", check=0)
    for name, literal in LITERALS.items():
        assert f'"{name}": {literal},\n' in result.stdout
    assert result.json["data"]["unknown"] == json.loads(sent)


@pytest.mark.source
def test_json_keeps_the_order_of_the_fields(ft: Runner) -> None:
    data = '{"zeta": 1, "data": {"b": 1, "a": 2, "id": "x"}, "meta": null}'
    ft.sandbox.fault("body", data=data, type="application/json")
    document = ft("get", LOFI, "--json", check=0)
    assert re.findall(r'"(\w+)":', document.stdout) == ["zeta", "data", "b", "a", "id", "meta"]


@pytest.mark.source
def test_the_merged_document_of_a_bulk_command_keeps_literals_too(ft: Runner) -> None:
    data = f'{{"data": {{"deleted": ["{LOFI}"], "freed": 1.10}}}}'
    ft.sandbox.fault("body", data=data, type="application/json")
    assert '"freed": 1.10' in ft("delete", "--yes", "--json", LOFI, check=0).stdout


@pytest.mark.source
@pytest.mark.parametrize("kind", ["nan", "infinity", "deep", "big-integer", "not-utf8"])
def test_what_is_no_json_is_exit_3(ft: Runner, kind: str) -> None:
    ft.sandbox.fault(kind, path="/v1/me", times=None)
    result = ft("me", "--json", speed=20, check=3)
    assert result.stdout == ""
    assert "Traceback" not in result.stderr


# --- colours --------------------------------------------------------------------------------------


def test_statuses_are_coloured_on_a_terminal(ft: Runner) -> None:
    out = ft.tty("list", "--limit", "99", columns=120, check=0).finish().stdout
    found = set(re.findall(r"(?:\x1b\[(\d+)m|  )(completed|failed|processing|pending)", out))
    assert len(found) == len({colour for colour, _ in found}) == 4, (
        "each status has one of its own, or none"
    )


@pytest.mark.source
@pytest.mark.parametrize(
    ("argv", "env"),
    [
        (["--no-color"], {}),
        ([], {"NO_COLOR": "1"}),
        ([], {"NO_COLOR": "0"}),
        ([], {"NO_COLOR": "any value"}),
        ([], {"TERM": "dumb"}),
    ],
    ids=repr,
)
@pytest.mark.parametrize("command", [["list"], ["get", "x"]], ids=" ".join)
def test_no_colour_where_it_is_not_wanted(
    ft: Runner, argv: list[str], env: dict[str, str], command: list[str]
) -> None:
    assert ESCAPE not in ft.tty(*command, *argv, env=env).finish().stdout


@pytest.mark.source
def test_no_colour_in_a_pipe(ft: Runner) -> None:
    assert ESCAPE not in ft("list", check=0).stdout + ft("get", "x", check=1).stderr
    assert ESCAPE not in ft.tty("list", stdout="pipe", check=0).finish().piped


@pytest.mark.source
def test_a_dumb_terminal_gets_no_spinner(ft: Runner) -> None:
    out = ft.tty("generate", "dark trap", env={"TERM": "dumb"}, speed=15, check=0).finish().stdout
    assert "\x1b" not in out
    assert "\r" not in out.replace("\r\n", "")


# --- tables and times -----------------------------------------------------------------------------


def test_in_a_pipe_nothing_is_cut(ft: Runner) -> None:
    prompt = "a song that is " + "very " * 130 + "long"
    assert prompt in ft("list", "--limit", "99", check=0, env={"COLUMNS": "40"}).stdout


@pytest.mark.source
def test_columns_are_aligned_by_cells_not_characters(ft: Runner) -> None:
    lines = ft("playlist", "show", "Drafts", check=0).stdout.splitlines()
    rows = lines[lines.index("") + 1 :]
    wide = next(row for row in rows if "夏祭り" in row)
    plain = next(row for row in rows if DRAFTS[0] in row)
    assert plain.index("  20") - wide.index("  20") == sum(map(len, DRAFTS[2].split()))


TIMES = [
    (0, "just now"),
    (30, "just now"),
    (-300, "just now"),
    (70, "1 min ago"),
    (200, "3 min ago"),
    (3590, "59 min ago"),
    (3700, "1 hour ago"),
    (2.5 * 3600, "2 hours ago"),
    (25 * 3600, "1 day ago"),
    (5.5 * 86400, "5 days ago"),
    (29.5 * 86400, "29 days ago"),
]


@pytest.mark.source
@pytest.mark.parametrize(
    "rfc", [False, True], ids=["2025-01-15 10:30:00", "2025-01-15T10:30:17.623Z"]
)
def test_both_shapes_of_timestamps_are_shown_as_relative_times(ft: Runner, rfc: bool) -> None:
    for age, _ in TIMES:
        ft.sandbox.add_generation(createdAt=stamp(time.time() - age, rfc=rfc))
    rows = ft("list", "--limit", str(len(TIMES)), check=0).stdout.splitlines()[1:]
    assert [row.split("night  ")[1] for row in reversed(rows)] == [text for _, text in TIMES]


@pytest.mark.source
def test_from_30_days_on_it_is_the_date(ft: Runner) -> None:
    then = time.time() - 30.5 * 86400
    assert listed(ft, age=30.5 * 86400).endswith(time.strftime("  %Y-%m-%d", time.gmtime(then)))


@pytest.mark.source
@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (58, "58s"),
        (180, "3m"),
        (90, "1m 30s"),
        (3900, "1h 5m"),
        (90.3, "1m 30s"),
        (59.9, "1m"),
        (7200, "2h"),
        (0, "0s"),
        (None, "-"),
    ],
)
def test_durations(ft: Runner, seconds: float | None, text: str) -> None:
    row = listed(ft, duration=seconds, prompt="dark trap")
    assert row.split("completed  ")[1].split("  dark trap")[0].rstrip() == text


@pytest.mark.source
@pytest.mark.parametrize("odd", [None, 5, True, [], {"a": 1}, "", "nonsense", -1, 1e300], ids=repr)
def test_fields_of_any_other_type_are_shown_somehow(ft: Runner, odd: object) -> None:
    fields = (
        "status",
        "duration",
        "prompt",
        "createdAt",
        "title",
        "fileSize",
        "parameters",
        "generationTime",
    )
    ft.sandbox.fault("record", times=None, **dict.fromkeys(fields, odd))
    for argv in (["list"], ["get", LOFI]):
        assert "internal error" not in ft(*argv, check=0).stderr


# --- what the server sends is made safe -----------------------------------------------------------


def dangerous(text: str) -> list[str]:
    return re.findall("[\x00-\x09\x0b-\x1f\x7f-\x9f\u200b\u2028\u202e\u2066\ufeff\U000e0041]", text)


@pytest.mark.parametrize("argv", [["list"], ["get", LOFI], ["playlists"], ["me"]], ids=" ".join)
@pytest.mark.source
def test_control_characters_are_made_visible(ft: Runner, argv: list[str]) -> None:
    ft.sandbox.fault(
        "record",
        **dict.fromkeys(("prompt", "name", "email", "title", "status", "errorMessage"), UNSAFE),
    )
    result = ft(*argv, check=0)
    assert dangerous(result.stdout) == []
    assert r"\x1b]0;title\x07" in result.stdout
    assert r"\u202eevil" in result.stdout


@pytest.mark.source
def test_control_characters_in_errors_and_warnings_are_made_visible(ft: Runner) -> None:
    ft.sandbox.fault("status", status=400, message=UNSAFE, code="X\x1b[1m")
    result = ft("me", check=1)
    assert dangerous(result.stderr) == []
    assert len(result.stderr.splitlines()) == 1
    errors = [{"id": LOFI, "error": UNSAFE}]
    ft.sandbox.fault(
        "body",
        data=json.dumps({"data": {"deleted": [], "errors": errors}}),
        type="application/json",
    )
    result = ft("delete", "--yes", LOFI, check=1)
    assert dangerous(result.stderr) == []


@pytest.mark.source
def test_json_has_them_as_escapes_and_means_the_same(ft: Runner) -> None:
    ft.sandbox.fault("record", prompt=UNSAFE)
    result = ft("get", LOFI, "--json", check=0)
    assert dangerous(result.stdout) == []
    assert result.json["data"]["prompt"] == UNSAFE


@pytest.mark.source
def test_ordinary_text_of_any_script_stays_as_it_is(ft: Runner) -> None:
    prompt = "夜 집 é cafe\u0301 👩‍🎤 👨‍👩‍👧‍👦 नमस्ते עברית"
    assert prompt in listed(ft, prompt=prompt)


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


@pytest.mark.source
def test_verbose_logs_both_origins_of_a_download_and_the_key_once(ft: Runner) -> None:
    log = ft("download", LOFI, "-v", check=0).stderr
    assert f"> GET {ft.sandbox.media_url}/audio/{LOFI}.mp3\n" in log
    assert log.count("X-API-Key") == 1


@pytest.mark.source
def test_verbose_does_not_say_more_of_a_malformed_key(ft: Runner) -> None:
    assert "secret" not in ft("me", "-v", key="my secret", check=2).stderr


# --- encodings ------------------------------------------------------------------------------------

ENCODINGS = {
    "ascii": {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    "cp1252": {"PYTHONIOENCODING": "cp1252"},
    "latin-1, strict": {"PYTHONIOENCODING": "latin-1:strict"},
}


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.source
def test_where_the_encoding_lacks_them_ascii_stands_in(ft: Runner, env: dict[str, str]) -> None:
    out = ft("doctor", env=env, check=0).stdout_bytes
    assert b"OK ft v" in out
    assert b"/health -> ok" in out
    result = ft("generate", "x", "--duration", "500", "--no-wait", env=env, check=0)
    assert b"note: duration clamped from 500 -> 210" in result.stderr_bytes


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.source
@pytest.mark.parametrize(
    "argv", [["list"], ["playlist", "show", "Focus Beats"], ["help"]], ids=" ".join
)
def test_no_output_dies_of_an_encoding_error(
    ft: Runner, env: dict[str, str], argv: list[str]
) -> None:
    assert ft(*argv, env=env, check=0).stdout_bytes


@pytest.mark.parametrize("env", ENCODINGS.values(), ids=ENCODINGS)
@pytest.mark.source
def test_json_loses_nothing_in_any_encoding(ft: Runner, env: dict[str, str]) -> None:
    document = json.loads(
        ft("list", "--limit", "99", "--json", env=env, check=0).stdout_bytes.decode("ascii")
    )
    prompts = {generation["prompt"] for generation in document["data"]["generations"]}
    assert "東京の夜、シティポップ、サックス 🌃" in prompts


@pytest.mark.source
def test_an_argument_in_another_encoding_still_arrives(ft: Runner) -> None:
    ft("generate", "café", "--no-wait", env={"LC_ALL": "C"}, check=0)
    assert ft.sandbox.posts()[0].json["tags"] == "café"
