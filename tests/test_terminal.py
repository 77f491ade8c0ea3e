"""What a person sees: each command on terminals of 60, 80 and 120 columns, rendered by a terminal
(pyte).

Shows issue "A pleasure to use": no line wraps, no column is misaligned, colours only add, nothing
is left behind.
"""

from __future__ import annotations

import re
import shlex
import signal
import sys
import time
from typing import Callable, Iterator
from unicodedata import combining

import jumping_clock
import pyte
import pytest
from commands import COMMANDS, TRACK, add_sound_effect, write_prompts
from conftest import Process, Result, Runner
from pyte.screens import wcwidth
from sandbox import Sandbox

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="needs a pseudo-terminal")]

WIDTHS = (60, 80, 120)
APART = ("auth login", "auth logout", "completion")  # they prompt, or print a script
ODD = "0dd00000-0000-4000-8000-{:012}"
PROMPTS = (
    "short",
    (
        "plain words that go on and on, until no terminal has the room to show the whole of them "
        "on one line of its own"
    ),
    "夜想曲、静かな雨と古いピアノ、街灯の下を歩くような曲",
    "집중력을 위한 잔잔한 재즈 피아노와 따뜻한 베이스 라인",
    "\u1112\u1161\u11ab\u1100\u1173\u11af, decomposed",
    "ｶﾀｶﾅ in half width, ＦＵＬＬ in full width",
    "cafe\u0301 noir, ze\u0301phyr, n\u0303andu\u0301, x\u0338\u20d7 y",
    "band 👩\u200d🎤👨\u200d👩\u200d👧\u200d👦 on stage",
    "anthem 🇯🇵🇰🇷🇧🇷 for three flags",
    "hearts ❤\ufe0f and waves 👋🏽 and ☕\ufe0f",
    "👩🏽\u200d🚀" * 40,
    "ไทย ภาษา, नमस्ते दुनिया",
    "x" * 300,
)
SGR = re.compile(r"\x1b\[[0-9;]*m")
# Lines that the terminal may wrap: those that are there to be copied whole.
LONG = re.compile(r" *https?://|hint: (?!.*`)|Queued\. id=|Saved to |Stored in |Logged out\. ")
# How terminals differ: some show a sequence of emoji as one, a flag as two letters of one cell.
SEQUENCES = re.compile(
    "[\U0001f1e6-\U0001f1ff]{2}|.[\ufe0f\U0001f3fb-\U0001f3ff]?(?:\u200d.[\ufe0f\U0001f3fb-\U0001f3ff]?)+"
    "|.[\ufe0f\U0001f3fb-\U0001f3ff]"
)
# Emoji, and scripts from Devanagari to Hangul's single letters, and Khmer.
DISPUTED = re.compile(
    "[\u0900-\u11ff\u1780-\u17ff\u200d\ufe0f]|[\u2600-\u27bf\U0001f000-\U0001faff]"
)
TERMINALS: dict[str, Callable[[str], str]] = {
    "side by side": lambda text: text,
    "as one": lambda text: SEQUENCES.sub("🎵", text),
    "narrow": lambda text: SEQUENCES.sub("x", text),
}


class Screen(pyte.Screen):
    """pyte's own drops the rest of a line at a character of no width that is not a combining
    one.
    """

    def draw(self, data: str) -> None:
        super().draw("".join(c for c in data if wcwidth(c) > 0 or combining(c)))


def draw(text: str, columns: int, rows: int = 200) -> pyte.Screen:
    screen = Screen(columns, rows)
    pyte.Stream(screen).feed(text)
    return screen


def cells(screen: pyte.Screen, row: int) -> list[str]:
    return [screen.buffer[row][column].data for column in range(screen.columns)]


def lines_of(screen: pyte.Screen) -> list[str]:
    """Return the lines down to the cursor. `screen.display` would render all rows."""
    return ["".join(cells(screen, row)).rstrip() for row in range(screen.cursor.y + 1)]


def last_frame(line: str) -> str:
    """What stays of a line over which a spinner or a bar was drawn."""
    return line.rpartition("\r\x1b[K")[2]


def check_lines(result: Result, columns: int) -> None:
    """No line of the results wraps, nothing stays of a spinner or a bar, the cursor is at the start
    of a line.
    """
    for shown in {terminal(result.stdout) for terminal in TERMINALS.values()}:
        screen = draw(shown, columns)
        lines = shown.split("\n")
        if screen.cursor.y != len(lines) - 1:  # then a line wraps: which one?
            for line in map(last_frame, lines):
                wraps = draw(line.rstrip("\r"), columns).cursor.y > 0
                assert not wraps or LONG.match(SGR.sub("", line)), f"{columns} columns: {line!r}"
        text = "\n".join(lines_of(screen))
        assert not re.search(r"^[|/\\-] |[0-9]+%|\x1b", text, re.MULTILINE), text
        assert screen.cursor.x == 0
    for line in SGR.sub("", result.stdout).split("\n"):
        assert "\x1b" not in line.replace("\x1b[K", "")


def tables(screen: pyte.Screen) -> Iterator[tuple[list[str], list[list[str]]]]:
    """Each table on the screen: the cells of its header, and those of its rows."""
    lines = lines_of(screen)
    for top, line in enumerate(lines):
        if line.startswith("ID  ") and line.isupper():
            rows = []
            for row in range(top + 1, len(lines)):
                if not re.match(r"([0-9a-f-]{36}|[0-9a-f]{8}-\.\.\.)  ", lines[row]):
                    break
                rows.append(cells(screen, row))
            yield cells(screen, top), rows


def check_columns(result: Result, columns: int, count: int) -> None:
    """Check that each cell begins (or, for numbers, ends) under its name in the header, two blanks
    after the one before, but for text on whose width terminals disagree.
    """
    ((header, rows),) = tables(draw(result.stdout, columns))
    assert len(rows) == count
    certain = [row for row in rows if not DISPUTED.search("".join(row))]
    assert len(certain) >= min(count, 4)
    for name in re.finditer(r"\S+", "".join(header)):
        for row in certain:
            shown = "".join(row)
            assert row[name.start() - 2 : name.start()] in ([], [" ", " "]), shown
            where = name.end() - 1 if name[0] == "TRACKS" else name.start()
            assert row[where] != " ", shown


@pytest.fixture
def library(sandbox: Sandbox) -> Sandbox:
    """Tracks and playlists with names of all scripts."""
    for n, prompt in enumerate(PROMPTS):
        sandbox.add_generation(
            id=ODD.format(n), prompt=prompt, age=n * 5000.0 + 200, duration=7.5 * n
        )
        sandbox.add_playlist(prompt[:90] + "!", [ODD.format(n)], age=n * 90000.0 + 200)
    sandbox.add_playlist("Odd", [ODD.format(n) for n in range(len(PROMPTS))])
    return sandbox


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    ("argv", "rows"),
    [
        (["list"], 20),
        (["list", "--status", "failed"], 4),
        (["list", "--limit", str(len(PROMPTS))], len(PROMPTS)),
        (["playlists"], 7 + len(PROMPTS) + 1),
        (["playlist", "show", "Odd"], len(PROMPTS)),
        (["playlist", "show", "Drafts"], 12),
    ],
)
def test_tables_fit_the_terminal_and_their_columns_are_aligned(
    ft: Runner, library: Sandbox, columns: int, argv: list[str], rows: int
) -> None:
    result = ft.tty(*argv, columns=columns, check=0).finish()
    check_lines(result, columns)
    check_columns(result, columns, rows)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    ("line", "code"),
    [
        *((shlex.join(c.argv), c.code) for c in COMMANDS if c.name not in APART),
        ("get a966757e-a32d-4c1e-a34e-9b38220dfa95", 0),
        ("generate lofi --no-wait", 0),
        ("generate please fail", 1),
        (f"download {TRACK} {ODD.format(0)} {ODD.format(2)} nope -o tracks/", 1),
        (f"delete --yes {TRACK} nope", 0),
        (f"playlist add Deep\\ Work {TRACK} nope", 0),
        (f"playlist add Open\\ Studio {TRACK}", 1),
        (f"playlist remove Focus\\ Beats 1c474c27-e97d-4c35-bb98-e588d06c32f0 {TRACK}", 0),
        ("list --offset 900", 0),
        ("get nope", 1),
        ("lsit", 2),
        ("delete --yse", 2),
        ("--version", 0),
    ],
)
def test_no_line_wraps_and_nothing_is_left_behind(
    ft: Runner, library: Sandbox, columns: int, line: str, code: int
) -> None:
    add_sound_effect(library)
    write_prompts(ft)
    result = ft.tty(*shlex.split(line), columns=columns, speed=20, check=code).finish()
    assert "internal error" not in result.stdout
    check_lines(result, columns)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize(
    ("line", "code"),
    [("me", 1), ("doctor", 1), ("auth logout", 0), ("auth login --stdin", 2), ("list", 1)],
)
def test_without_a_key_or_a_keyring_no_line_wraps(
    ft: Runner, columns: int, line: str, code: int
) -> None:
    process = ft.tty(*line.split(), columns=columns, key=None, check=code)
    if "login" in line:
        process.send("not a key\r\x04")
    check_lines(process.finish(), columns)


@pytest.mark.parametrize("columns", WIDTHS)
def test_a_login_and_a_question_do_not_wrap(ft: Runner, sandbox: Sandbox, columns: int) -> None:
    login = ft.tty("auth", "login", columns=columns, key=None, check=0)
    login.expect("Paste your API key: ")
    login.send(sandbox.key + "\r")
    check_lines(login.finish(), columns)
    question = ft.tty("delete", TRACK, columns=columns, check=0)
    question.expect("Delete 1 track(s)? [y/N] ")
    question.send("n\r")
    check_lines(question.finish(), columns)


def test_the_log_is_as_long_as_headers_are(ft: Runner) -> None:
    result = ft.tty("-v", "list", "--limit", "1", "--no-color", check=0).finish()
    assert re.search(r"^> X-API-Key: ft_live_07ed\.\.\.\*\*\*\*", result.stdout, re.MULTILINE)


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.parametrize("number", range(1, len(PROMPTS), 2))
def test_get_fits_the_terminal_whatever_the_prompt(
    ft: Runner, library: Sandbox, columns: int, number: int
) -> None:
    result = ft.tty("get", ODD.format(number), columns=columns, check=0).finish()
    details, _, command = result.stdout.partition("\x1b[1mMake it again")
    assert command
    check_lines(Result(result.argv, 0, details.encode(), b"", b""), columns)
    assert len(PROMPTS[number]) > 40 or max(map(len, lines_of(draw(command, 900)))) < columns


@pytest.mark.parametrize("columns", WIDTHS)
def test_help_fits_the_terminal(ft: Runner, columns: int) -> None:
    """Every page of it; the commands are those that `ft help` lists."""
    overview = ft.tty("help", columns=columns, check=0).finish()
    check_lines(overview, columns)
    names = re.findall(r"^  ((?:(?:auth|playlist|sfx) )?[a-z]+) ", overview.stdout, re.MULTILINE)
    names = [name for name in names if name != "ft"]  # the example's
    assert {"auth login", "me", "playlist move", "sfx get", "help"} <= set(names)
    running = [
        ft.tty("help", *name.split(), columns=columns, check=0) for name in (*names, "auth", "sfx")
    ]
    for process in running:
        page = process.finish()
        check_lines(page, columns)
        assert not re.search(r"\w-$", page.stdout, re.MULTILINE), "broken within a word"


def test_an_address_is_not_broken_where_a_line_of_its_own_can_hold_it(
    ft: Runner, sandbox: Sandbox
) -> None:
    screen = ft.tty("get", TRACK, columns=80, check=0).finish().screen(80, 60)
    address = sandbox.generations[TRACK]["audioUrl"]
    assert f"  {address}" in screen[screen.index("Audio URL") :]


def test_the_prompt_column_is_useful_at_80_columns(ft: Runner) -> None:
    """Short ids leave room for all columns, and for at least a dozen cells of the prompt."""
    screen = ft.tty("list", columns=80, check=0).finish().screen(80, 60)
    assert screen[0].split() == ["ID", "STATUS", "DURATION", "PROMPT", "CREATED"]
    assert any("07e8d430-...  completed   1m        lofi chill piano" in line for line in screen)
    wide = ft.tty("list", columns=120, check=0).finish().screen(120, 60)
    assert wide[0].split() == ["ID", "STATUS", "DURATION", "PROMPT", "CREATED"]


@pytest.mark.parametrize(
    ("argv", "expected"),
    [
        (["list"], ["STATUS     PROMPT", "completed  a l..."]),
        (["playlist", "show", "Long"], ["STATUS     PROMPT", "completed  a l..."]),
        (["playlists"], ["NAME  TRACKS", "L...       1"]),
    ],
    ids=["list", "playlist show", "playlists"],
)
@pytest.mark.sandbox(library=False)
def test_no_column_is_narrower_than_its_title(
    ft: Runner, sandbox: Sandbox, argv: list[str], expected: list[str]
) -> None:
    """This holds even if the other columns leave no room: here the ids take 12 of 20 cells."""
    sandbox.add_generation(id=TRACK, prompt="a long prompt, cut to what its title takes")
    playlist = sandbox.add_playlist("Longer than its title", [TRACK])["id"]
    argv = [playlist if word == "Long" else word for word in argv]
    result = ft.tty(*argv, columns=20, env={"NO_COLOR": "1"}, check=0).finish()
    identifier = playlist if argv == ["playlists"] else TRACK
    lines = [f"{'ID':12}  {expected[0]}", f"{identifier[:9]}...  {expected[1]}"]
    table = result.stdout.partition("note: left out")[0]
    assert table.splitlines()[-2:] == lines


# --- colours --------------------------------------------------------------------------------------


@pytest.mark.sandbox(library=False)
def test_colours_only_add(ft: Runner, sandbox: Sandbox) -> None:
    """Without them the text is the same: each status is a word. None that is unreadable on black or
    on white.
    """
    for n, status in enumerate(("pending", "processing", "completed", "failed")):
        sandbox.add_generation(id=ODD.format(n), status=status, age=9000.0)
    for argv in (["list"], ["get", ODD.format(3)], ["get", "nope"], ["doctor"]):
        coloured = ft.tty(*argv).finish().stdout
        for plain in (
            ft.tty(*argv, env={"NO_COLOR": "1"}).finish().stdout,
            ft.tty(*argv, env={"NO_COLOR": "0"}).finish().stdout,  # any value counts
            ft.tty(*argv, "--no-color").finish().stdout,
            ft.tty(*argv, env={"TERM": "dumb"}).finish().stdout,
        ):
            assert "\x1b" not in plain
            assert SGR.sub("", coloured) == plain
        assert set(re.findall(r"\x1b\[([0-9;]*)m", coloured)) <= {"0", "1", "31", "32", "35"}
    listed = ft.tty("list").finish().stdout
    shown = dict(re.findall(r"\x1b\[(\d+)m(\w+) *\x1b\[0m", listed))
    assert shown == {
        "1": "CREATED",
        "35": "processing",
        "32": "completed",
        "31": "failed",
    }  # and pending is plain


def test_a_pipe_gets_neither_colours_nor_cuts(ft: Runner, library: Sandbox) -> None:
    argv = ("list", "--limit", str(len(PROMPTS)))
    result = ft(*argv, env={"COLUMNS": "40"}, check=0)
    piped = ft.tty(*argv, stdout="pipe", check=0).finish().piped
    for text in (result.stdout, piped):
        assert all(prompt in text for prompt in PROMPTS)
    assert "\x1b" not in result.stdout + result.stderr + piped + ft("get", "x", check=1).stderr


@pytest.mark.parametrize(("value", "cells"), [("50", 50), ("0", 80), ("x", 80), ("", 80)])
def test_columns_wins_over_the_width_of_the_terminal(ft: Runner, value: str, cells: int) -> None:
    shown = ft.tty("list", columns=80, env={"COLUMNS": value}, check=0).finish().stdout
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown).split("\r\n")
    assert cells - 20 < max(len(line) for line in lines if line.isascii()) <= cells


def test_a_dumb_terminal_gets_no_spinner(ft: Runner) -> None:
    out = ft.tty("generate", "dark trap", env={"TERM": "dumb"}, speed=15, check=0).finish().stdout
    assert "\x1b" not in out
    assert "\r" not in out.replace("\r\n", "")


# --- spinner, bar, interruption -------------------------------------------------------------------


def frames(process: Process) -> list[str]:
    return re.findall(r"\r\x1b\[K([^\r\n]+)", bytes(process.stdout.data).decode())


def test_the_spinner_shows_status_and_elapsed_time_and_leaves_nothing(
    ft: Runner, sandbox: Sandbox
) -> None:
    process = ft.tty("generate", "a song that takes forever", speed=20, check=0)
    for frame in "|/-\\":  # each in its turn
        process.expect(re.compile(re.escape(frame) + " processing, [0-9]+s"))
    sandbox.finish(sandbox.book[0])
    result = process.finish()
    assert result.screen() == [
        f"note: queued as {sandbox.book[0]}, 1967 credits left",
        f"Saved to a-song-that-takes-forever-{sandbox.book[0][:8]}.mp3",
    ]


@pytest.mark.parametrize("columns", WIDTHS)
@pytest.mark.sandbox(track_bytes=4_000_000)
def test_the_bar_shows_size_speed_and_time_left_and_leaves_nothing(
    ft: Runner, sandbox: Sandbox, columns: int
) -> None:
    fault = sandbox.fault("stall", origin="media", where="body", at=1_000_000)
    process = ft.tty("download", TRACK, columns=columns, check=0)
    process.expect(
        re.compile(
            r"\[#* *\] +[0-9]+%  [0-9.]+ [kM]?B of 4\.0 MB  [0-9.]+ [kMG]?B/s  [0-9hms ]+ left"
        )
    )
    fault.release()
    result = process.finish()
    assert all(len(frame) < columns for frame in frames(process))
    assert result.screen(columns) == ["Saved to lofi-chill-piano-07e8d430.mp3"]


def test_several_downloads_share_one_bar(ft: Runner, library: Sandbox) -> None:
    fault = library.fault("stall", origin="media", where="body", times=1, at=10_000)
    process = ft.tty("download", ODD.format(1), ODD.format(2), "-o", "tracks/", check=0)
    process.expect(
        re.compile(r"1 of 2 files  +[0-9]+%  [0-9.]+ kB  [0-9.]+ [kM]?B/s  [0-9hms ]+ left")
    )
    fault.release()
    screen = process.finish().screen()
    assert [line.split(" ")[0] for line in screen] == ["Saved", "Saved", "Downloaded"]


def test_the_bar_is_left_out_where_it_would_have_less_than_five_cells(
    ft: Runner, library: Sandbox
) -> None:
    """The numbers are still shown in full."""
    numbers = r"0 of 2 files  +[0-9]+%  [^\r]+ left(?=\r)"
    fault = library.fault("stall", origin="media", where="body", times=None, at=10_000)
    ids = (ODD.format(1), ODD.format(2))
    process = ft.tty("download", *ids, "-o", "tracks/", columns=120, check=0)
    for _ in range(5):  # until the speed no longer gains or loses digits
        taken = len(process.expect(re.compile(numbers))[0])
    process.resize(taken + len("[###] ") + 2, 24)
    process.expect(re.compile(r"\x1b\[K" + numbers))
    taken = len(process.expect(re.compile(numbers))[0])
    process.resize(taken + len("[#######] ") + 2, 24)
    process.expect(re.compile(r"\x1b\[K\[[# ]{5,9}\] " + numbers))
    fault.release()
    process.finish()
    bars = re.findall(r"\[([# ]*)\] ", "\n".join(frames(process)))
    assert {len(bar) for bar in bars} <= {*range(5, 21)}


@pytest.mark.sandbox(track_bytes=400_000)
def test_the_bar_of_several_downloads_never_runs_backwards(ft: Runner, sandbox: Sandbox) -> None:
    """Also counted are those that have not begun."""
    ids = [sandbox.add_generation(prompt=f"song {n}")["id"] for n in range(12)]
    sandbox.fault("drip", origin="media", where="body", size=40_000, interval=0.02, times=None)
    process = ft.tty("download", *ids, "-o", "tracks/", check=0)
    process.finish()
    shares = [int(share) for share in re.findall(r" ([0-9]+)%  ", "\n".join(frames(process)))]
    assert len(shares) > 3
    assert shares == sorted(shares)


@pytest.mark.sandbox(track_bytes=400_000)
def test_the_speed_is_that_of_the_download_and_not_of_the_wait_before_it(
    ft: Runner, sandbox: Sandbox
) -> None:
    """The track takes two minutes to be made and 40 s to arrive: 10 kB/s, not 2.5."""
    track = sandbox.add_generation(status="processing", duration=None)["id"]
    fault = sandbox.fault("drip", origin="media", where="body", size=80_000, interval=0.2)
    process = ft.tty("download", track, "--wait", check=0, speed=40)
    process.expect("processing, 2m")
    sandbox.finish(track)
    process.finish()
    assert fault.hits
    speeds = [float(speed) for speed in re.findall(r" ([0-9.]+) kB/s", "\n".join(frames(process)))]
    assert max(speeds) > 3.4  # 400 kB in two minutes would be 3.3


def test_ctrl_c_while_waiting_leaves_a_clean_line(ft: Runner, sandbox: Sandbox) -> None:
    process = ft.tty("generate", "a song that takes forever", speed=20, check=130)
    process.expect("processing, ")
    process.send("\x03")
    result = process.finish()
    assert result.screen(120) == [
        f"note: queued as {sandbox.book[0]}, 1967 credits left",
        "note: the track is still being made and still costs its credit",
        f"hint: ft download {sandbox.book[0]} --wait",
        "note: interrupted",
    ]


def test_ctrl_c_during_a_download_leaves_a_clean_line(ft: Runner, sandbox: Sandbox) -> None:
    fault = sandbox.fault("stall", origin="media", where="body")
    process = ft.tty("download", TRACK, check=130)
    process.expect("% ")
    process.send("\x03")
    assert process.finish().screen() == ["note: interrupted"]
    fault.release()


def test_ctrl_c_at_a_question_leaves_a_clean_line(ft: Runner, sandbox: Sandbox) -> None:
    process = ft.tty("delete", TRACK, check=130)
    process.expect("[y/N] ")
    process.send("\x03")
    screen = process.finish().screen()
    assert screen[-1] == "note: interrupted"
    assert screen[-2].startswith("Delete 1 track(s)? [y/N]")
    assert TRACK in sandbox.generations


def test_ctrl_c_at_the_question_for_the_key_leaves_a_clean_line(ft: Runner) -> None:
    process = ft.tty("auth", "login", key=None, check=130)
    process.expect("Paste your API key: ")
    process.send("\x03")
    assert process.finish().screen() == ["Paste your API key:", "note: interrupted"]


def test_the_width_is_followed_when_the_window_changes(ft: Runner, sandbox: Sandbox) -> None:
    process = ft.tty("generate", "a song that takes forever", columns=80, speed=20, check=130)
    process.expect("processing, ")
    process.resize(12, 24)
    process.expect(re.compile(r"\r\x1b\[K[|/\\-] proces\.\.\.\r"))
    process.send_signal(signal.SIGINT)
    process.finish()


# --- off a terminal -------------------------------------------------------------------------------


def test_off_a_terminal_a_download_is_a_line_at_the_start_a_line_a_minute_and_one_at_the_end(
    ft: Runner, sandbox: Sandbox
) -> None:
    """A tenth of it arrives every 15 seconds, or later on a busy machine, by a clock that runs 60
    times faster.
    """
    sandbox.fault(
        "drip", origin="media", where="body", size=len(sandbox.track(TRACK)) // 10, interval=0.25
    )
    began = time.monotonic()
    changes = (
        "ft.READ_TIMEOUT = ft.CALL_TIMEOUT = 6000\n"
        "clock, start = time.monotonic, time.monotonic()\n"
        "time.monotonic = lambda: start + (clock() - start) * 60\n"
    )
    process = jumping_clock.start(ft, "download", TRACK, changes=changes, check=0)
    result = process.finish()
    minutes = time.monotonic() - began
    lines = result.stderr.splitlines()
    assert lines[0] == f"note: downloading {TRACK}"
    assert 2 <= len(lines[1:]) <= minutes
    for line in lines[1:]:
        assert re.fullmatch(
            r"note:  *[0-9]+%  [0-9.]+ kB of [0-9.]+ kB  [0-9.]+ k?B/s  [0-9hms ]+ left", line
        ), line
    assert result.stdout == "Saved to lofi-chill-piano-07e8d430.mp3\n"
