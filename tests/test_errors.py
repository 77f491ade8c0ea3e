"""Errors that teach: each code of the API and each mistake of a person, with its message, next step
and exit code.
"""

from __future__ import annotations

import re

import pytest
from commands import TRACK, WITH_KEY, Command, each, run
from conftest import Runner
from sandbox import Sandbox

LIVE = "ft_live_" + "0" * 32
LOGIN = "run `ft auth login`: your stored key may have been revoked"
GIVEN = "the key from {} may have been revoked: give another, or run `ft auth login`"
UPGRADE = "the API needs a Pro or Lifetime plan: upgrade at finetuning.ai"
CREDITS = "you are out of credits: see `ft me`, then upgrade or buy a pack at finetuning.ai"
QUEUE = "`ft list --status processing` shows what is in flight"
TEN = "the service takes 10 generations a minute"
SIXTY = "the service takes 60 requests a minute"
GENERATE = ["generate", "dark trap"]

# Every code of the API's errors: what brings it about, the message, the hint (None: no hint line)
# and the exit code.
# What the sandbox does not bring about by itself is a fault of that status and code.
CODES: dict[str, tuple[dict[str, object], list[str], str, str | None, int]] = {
    "VALIDATION_ERROR": (
        {},
        ["sfx", "generate", "door", "--webhook", "https://example.com/hook"],
        "prompt is too short",
        None,
        2,
    ),
    "MISSING_API_KEY": ({}, ["me"], "API key is required", "run `ft auth login`", 1),
    "INVALID_API_KEY": (
        {"key": LIVE},
        ["me"],
        "Invalid API key",
        GIVEN.format("FINETUNING_API_KEY"),
        1,
    ),
    "ACCOUNT_DELETED": (
        {"key": "deleted"},
        ["list"],
        "This account has been deleted",
        "contact support",
        1,
    ),
    "MONTHLY_LIMIT_REACHED": (
        {"key": "broke"},
        GENERATE,
        "Monthly generation limit reached",
        CREDITS,
        1,
    ),
    "PRO_PLAN_REQUIRED": (
        {"key": "free"},
        ["playlists"],
        "API access requires a Pro or Lifetime plan",
        UPGRADE,
        1,
    ),
    "NOT_FOUND": (
        {},
        ["get", TRACK[:-1] + "0"],
        "Generation not found",
        "`ft list` shows your ids",
        1,
    ),
    "RATE_LIMITED": ({}, ["list"], "Too many requests", f"{SIXTY}; retry after 120 s", 1),
    "GENERATION_RATE_LIMITED": ({"spend": 10}, GENERATE, "Too many generations, slow down", TEN, 1),
    "QUEUE_FULL": (
        {"queue": 0},
        GENERATE,
        "Too many generations in the queue",
        f"{QUEUE}; retry after 5 s",
        1,
    ),
    "GENERATION_FAILED": (
        {},
        ["generate", "reject"],
        "The queue did not accept the generation",
        "usually transient: try once more; if it persists, see the errors guide",
        1,
    ),
    "INTERNAL_ERROR": ({}, ["delete", "--yes", TRACK], "Internal server error", None, 1),
}
FAULTS = {
    "VALIDATION_ERROR": {
        "status": 400,
        "message": "prompt is too short",
        "details": {"field": "prompt"},
    },
    "MISSING_API_KEY": {"status": 401, "message": "API key is required"},
    "RATE_LIMITED": {"status": 429, "retry_after": 120, "times": None},
    "INTERNAL_ERROR": {"status": 500, "times": None},
}


@pytest.mark.parametrize("code", CODES)
@pytest.mark.parametrize("json", [False, True], ids=["", "--json"])
@pytest.mark.sandbox(rate_limits=True)
def test_every_error_code_of_the_api(ft: Runner, sandbox: Sandbox, code: str, json: bool) -> None:
    """stdout is empty, stderr has the server's message, its code and the next step."""
    how, argv, message, hint, exit_code = CODES[code]
    key = how.get("key")
    if code in FAULTS:
        sandbox.fault("status", code=code, **FAULTS[code])  # type: ignore[arg-type]
    if "queue" in how:
        sandbox.queue_limit = 0
    if "spend" in how:
        (ft.cwd / "ten.txt").write_text("reject\n" * 10)
        ft("batch", "--yes", "ten.txt", check=1)
        assert [post.status for post in sandbox.posts()] == [500] * 10
        hint = rf"{TEN}; retry after \d\d s"
    result = ft(
        *argv,
        *["--json"] * json,
        speed=200 if code == "RATE_LIMITED" else None,  # it is waited out for five minutes
        key=sandbox.keys[key].key if key in sandbox.keys else key or sandbox.key,
    )
    lines = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    if code == "INTERNAL_ERROR":  # a bulk command reports each id first
        assert lines.pop(0) == f"warning: {TRACK}: outcome unknown: {message} ({code})"
    else:
        assert result.stdout == ""
    assert lines[0] == f"error: {message} ({code})"
    assert re.fullmatch(
        "(hint: )?" + (hint if "\\d" in (hint or "") else re.escape(hint or "")),
        "\n".join(lines[1:]),
    )
    assert len(lines) == (2 if hint else 1)
    assert result.code == exit_code


def test_a_refused_key_is_looked_for_where_it_came_from(ft: Runner, sandbox: Sandbox) -> None:
    """A login helps only a stored key."""
    ft("auth", "login", "--stdin", stdin=sandbox.key, key=None, check=0)
    sandbox.fault(
        "status", status=401, code="INVALID_API_KEY", message="Invalid API key", times=None
    )
    assert f"hint: {LOGIN}\n" in ft("me", key=None, check=1).stderr
    for source, argv in {
        "FINETUNING_API_KEY": ["me"],
        "--api-key": ["me", "--api-key", LIVE],
    }.items():
        assert f"hint: {GIVEN.format(source)}\n" in ft(*argv, stdin=LIVE, check=1).stderr
    refused = ft("auth", "login", "--stdin", stdin=LIVE, check=1).stderr
    assert "hint: check that the whole key was copied, or create another at" in refused


def test_a_404_for_half_an_id_says_what_an_id_looks_like(ft: Runner) -> None:
    result = ft("get", "07e8d4ff", check=1)
    assert result.stderr == (
        "error: Generation not found (NOT_FOUND)\nhint: an id has 36 characters, of which "
        "the first 6 will do: `ft list` shows them\n"
    )


# --- mistakes -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "flag", "nearest", "usage"),
    [
        (
            ["generate", "x", "--durration", "30"],
            "--durration",
            "--duration",
            "ft generate <prompt>... [flags]",
        ),
        (["list", "--limt", "3"], "--limt", "--limit", "ft list [flags]"),
        (["delete", TRACK, "--yse"], "--yse", "--yes", "ft delete <id>... [flags]"),
        (
            ["download", TRACK, "--ouptut=x"],
            "--ouptut",
            "--output",
            "ft download [<id>...] [flags]",
        ),
        (
            ["playlist", "add", "Drafts", TRACK, "--jsn"],
            "--jsn",
            "--json",
            "ft playlist add <playlist> <id>... [flags]",
        ),
        (["auth", "login", "--sdtin"], "--sdtin", "--stdin", "ft auth login [flags]"),
        (["me", "--bse-url", "x"], "--bse-url", "--base-url", "ft me [flags]"),
        # Also beside what is missing, and where argparse would go on with something else.
        (["delete", "--yse"], "--yse", "--yes", "ft delete <id>... [flags]"),
        (
            ["playlist", "add", "Drafts", "--jsn"],
            "--jsn",
            "--json",
            "ft playlist add <playlist> <id>... [flags]",
        ),
        (
            ["generate", "x", "--lyrcs=la la la"],
            "--lyrcs",
            "--lyrics",
            "ft generate <prompt>... [flags]",
        ),
        (
            ["generate", "x", "-output", "out.mp3"],
            "-output",
            "--output",
            "ft generate <prompt>... [flags]",
        ),
        (
            ["generate", "--lyrcs=la la la", "--", "-h"],
            "--lyrcs",
            "--lyrics",
            "ft generate <prompt>... [flags]",
        ),
        (["delete", TRACK, "-yes"], "-yes", "--yes", "ft delete <id>... [flags]"),
        (["list", "--stat", "failed"], "--stat", "--status", "ft list [flags]"),
        (["generate", "x", "--lyr", "y"], "--lyr", "--lyrics", "ft generate <prompt>... [flags]"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_wrong_flag_shows_the_nearest_one_and_the_usage_of_its_command(
    ft: Runner, sandbox: Sandbox, argv: list[str], flag: str, nearest: str, usage: str
) -> None:
    result = ft(*argv, check=2)
    name = re.split(r" [<\[]", usage[3:])[0]
    assert result.stderr == (
        f"error: unknown flag {flag}; did you mean `{nearest}`?\nhint: usage: {usage}; `ft help "
        f"{name}` explains it\n"
    )
    assert result.stdout == ""
    assert sandbox.requests == []


@pytest.mark.parametrize(
    ("argv", "error", "usage"),
    [
        (["--jsno", "list"], "unknown flag --jsno", "ft <command> [flags]"),
        (
            ["--verbos", "list"],
            "unknown flag --verbos; did you mean `--verbose`?",
            "ft <command> [flags]",
        ),
        *(
            (argv, f"unknown flag {typed}; did you mean `{meant}`?", "ft <command> [flags]")
            for argv, typed, meant in (
                (["--base-ulr", "x", "me"], "--base-ulr", "--base-url"),
                (["--base-ulr=x", "me"], "--base-ulr", "--base-url"),
                (["-v", "--no-colour", "me"], "--no-colour", "--no-color"),
            )
        ),
        (["-x", "list"], "unknown flag -x", "ft <command> [flags]"),
        (["-V"], "unknown flag -V; did you mean `--version`?", "ft <command> [flags]"),
        (["-n", "5", "list"], "-n goes after the command", "ft <command> [flags]"),
        (["--json", "list"], "--json goes after the command", "ft <command> [flags]"),
        (["-o", "x", "download", TRACK], "-o goes after the command", "ft <command> [flags]"),
        (
            ["playlist", "--json", "show", "Drafts"],
            "--json goes after the command",
            "ft playlist <command> [flags]",
        ),
        (["playlist", "-x", "show"], "unknown flag -x", "ft playlist <command> [flags]"),
    ],
)
def test_a_wrong_flag_before_the_command(
    ft: Runner, argv: list[str], error: str, usage: str
) -> None:
    first, second = ft(*argv, check=2).stderr.splitlines()
    assert first == f"error: {error}"
    assert second.startswith(f"hint: usage: {usage}; ")


@each(WITH_KEY)
def test_without_a_key_it_says_how_to_get_one_and_the_three_ways_to_give_it(
    ft: Runner, sandbox: Sandbox, command: Command
) -> None:
    result = run(ft, command, key=None, check=1)
    error, hint = result.stderr.splitlines()
    assert result.stdout == ""
    assert error.startswith("error: no API key")
    assert re.fullmatch("hint: get one at https://finetuning.ai.*", hint)
    for way in ("`ft auth login`", "FINETUNING_API_KEY", "--api-key"):
        assert way in hint
    assert sandbox.requests == []


def test_each_of_the_three_ways_works(ft: Runner, sandbox: Sandbox) -> None:
    assert "jane@example.com" in ft("me", "--api-key", sandbox.key, key=None, check=0).stdout
    assert (
        "jane@example.com"
        in ft("me", env={"FINETUNING_API_KEY": sandbox.key}, key=None, check=0).stdout
    )
    ft("auth", "login", "--stdin", stdin=sandbox.key, key=None, check=0)
    assert "jane@example.com" in ft("me", key=None, check=0).stdout


@pytest.mark.parametrize(
    ("words", "nearest"),
    [
        (["-out", "x.mp3"], "--output"),
        (["-out=x"], "--output"),
        (["-outx.mp3"], "--output"),
        (["-ouput=x.mp3"], "--output"),  # resembles it, without beginning it
        (["-otuput", "x.mp3"], "--output"),
        (["-output/x.mp3"], "--output"),
        (["-seed", "5"], "--seed"),
        (["-json"], "--json"),
        (["-no-wait"], "--no-wait"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
@pytest.mark.parametrize("command", ["generate", "instrumental", "sfx generate"])
def test_one_dash_too_few_spends_no_credit(
    ft: Runner, sandbox: Sandbox, command: str, words: list[str], nearest: str
) -> None:
    """`-out x.mp3` once was `-o ut`, and `x.mp3` a word of the prompt."""
    if command == "sfx generate" and nearest == "--seed":
        nearest = ""  # which it does not have
    stderr = ft(*command.split(), "lofi", *words, check=2).stderr
    name = words[0].partition("=")[0]
    suggestion = f"; did you mean `{nearest}`?" if nearest else ""
    assert stderr.startswith(f"error: unknown flag {name}{suggestion}\n")
    assert sandbox.requests == []


def test_a_value_may_be_attached_to_a_short_flag(ft: Runner, sandbox: Sandbox) -> None:
    ft("generate", "lofi", "-osong.mp3", "--no-wait", check=0)
    assert sandbox.posts()[0].json["tags"] == "lofi"
