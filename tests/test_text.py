"""The pure helpers of ft.py: widths, cutting, durations, ages, names of files, redaction, JSON.

The one test that knows names inside ft, but for those that change its constants.
"""

from __future__ import annotations

import json
import re
import shlex
import sys
import time
import unicodedata
from pathlib import Path
from typing import Callable

import pytest
from conftest import ROOT
from hypothesis import given, settings
from hypothesis import strategies as st

sys.path.insert(0, str(ROOT))
import ft

settings.register_profile("ft", deadline=None, max_examples=150)
settings.load_profile("ft")

KEY = "ft_live_0123456789abcdefABCDEF0123456789"
TEXT = st.text(
    st.characters() | st.sampled_from("a e\u0301 夜집🎷👩\u200d🎤\ufe0f🇯🇵\u202e\x1b\t\n..-"),
    max_size=60,
)
WORDS = st.text(st.sampled_from("ab 夜 é e\u0301🎷"), max_size=80)
KEYS = st.from_regex(r"ft_live_[0-9A-Za-z]{32}", fullmatch=True)


# --- cells ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "cells"),
    [
        ("", 0),
        ("abc", 3),
        ("夜", 2),
        ("집중", 4),
        ("é", 1),
        ("e\u0301", 1),
        ("🎷", 2),
        ("ａ", 2),
        ("ｱ", 1),
    ],
)
def test_cell_width_counts_wide_characters_as_two_and_combining_ones_as_none(
    text: str, cells: int
) -> None:
    assert ft.cell_width(text) == cells


@given(TEXT, TEXT)
def test_widths_add_up(left: str, right: str) -> None:
    assert ft.cell_width(left + right) == ft.cell_width(left) + ft.cell_width(right)


@pytest.mark.parametrize(
    ("text", "cells", "clipped"),
    [
        ("lo-fi, chill, morning", 99, "lo-fi, chill, morning"),
        ("lo-fi, chill, morning", 20, "lo-fi, chill, mor..."),
        ("lo-fi, chill, morning", 17, "lo-fi, chill,..."),
        ("夜の図書館", 9, "夜の図..."),
        ("夜の図書館", 8, "夜の..."),
        ("abcdef", 3, "..."),
        ("abcdef", 1, "."),
        ("cafe\u0301 noir", 7, "cafe\u0301..."),
    ],
)
def test_clip_cuts_with_three_dots(text: str, cells: int, clipped: str) -> None:
    assert ft.truncate(text, cells) == clipped


@given(TEXT, st.integers(0, 40))
def test_clip_fits_and_leaves_alone_what_fits(text: str, cells: int) -> None:
    clipped = ft.truncate(text, cells)
    assert ft.cell_width(clipped) <= cells
    if ft.cell_width(text) <= cells:
        assert clipped == text


@given(TEXT, st.integers(0, 40))
def test_cut_loses_nothing(text: str, cells: int) -> None:
    end = ft.find_fit(text, 0, cells)
    assert 0 <= end <= len(text)
    assert ft.cell_width(text[:end]) <= cells


def test_fold_breaks_at_spaces_where_there_are_any() -> None:
    assert ft.wrap_text("one two  three", 7) == ["one two", "three"]
    assert ft.wrap_text("abcdefgh ij", 3) == ["abc", "def", "gh", "ij"]
    assert ft.wrap_text("夜の図書館", 4) == ["夜の", "図書", "館"]
    assert ft.wrap_text("夜", 1) == ["夜"], "which fits nowhere"


@given(WORDS, st.integers(2, 30))
def test_fold_fits_and_loses_only_spaces(text: str, cells: int) -> None:
    lines = ft.wrap_text(text, cells)
    assert all(ft.cell_width(line) <= cells for line in lines)
    assert "".join(lines).replace(" ", "") == text.replace(" ", "")


@given(TEXT)
def test_pad_fills_up(text: str) -> None:
    assert (
        ft.cell_width(ft.pad_to_width(text, 200))
        == ft.cell_width(ft.pad_to_width(text, 200, right=True))
        == 200
    )


# --- what is safe ---------------------------------------------------------------------------------


@given(TEXT)
def test_visible_text_has_nothing_that_a_terminal_may_act_on(text: str) -> None:
    for c in ft.sanitise(text):
        assert unicodedata.category(c) not in ("Cc", "Cs", "Zl", "Zp")
        assert unicodedata.category(c) != "Cf" or c in "\u200c\u200d"


@given(st.text(st.characters(exclude_categories=["C", "Z"])))
def test_visible_leaves_ordinary_text_alone(text: str) -> None:
    assert ft.sanitise(text) == text


def test_redact_shows_the_first_12_characters() -> None:
    assert ft.redact(f"<{KEY}> and {KEY}.") == "<ft_live_0123...****> and ft_live_0123...****."
    assert ft.redact("ft_live_ is how a key begins") == "ft_live_ is how a key begins"


@given(TEXT, KEYS, TEXT)
def test_no_key_survives_redaction(before: str, key: str, after: str) -> None:
    redacted = ft.redact(f"{before}{key}{after}")
    assert key not in redacted
    assert key[12:28] not in redacted


@given(st.text() | KEYS.map(lambda key: f"  {key}\n"))
def test_check_key_takes_a_key_or_says_how_long_it_is(text: str) -> None:
    try:
        assert re.fullmatch("ft_live_[0-9A-Za-z]{32}", ft.parse_key(text, "somewhere"))
    except ft.UsageError as error:
        length = ft.plural(len(text.strip()), "character")
        assert f"somewhere is malformed: {length}" in error.message


@given(st.lists(st.text(st.characters(exclude_categories=["Cc", "Cf", "Cs", "Zl", "Zp"]))))
def test_a_command_to_paste_means_what_it_should(words: list[str]) -> None:
    """What shlex does not know is pasted into real shells by test_get."""
    assert shlex.split(ft.quote_command(*words)) == words


# --- durations, times, sizes ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (0.4, "0s"),
        (58, "58s"),
        (59.6, "1m"),
        (60, "1m"),
        (90, "1m 30s"),
        (180, "3m"),
        (3599.7, "1h"),
        (3600, "1h"),
        (3900, "1h 5m"),
        (86400, "24h"),
        (-1, "-"),
        (None, "-"),
        ("60", "-"),
        (True, "-"),
        (float("nan"), "-"),
        (10**400, "-"),
    ],
)
def test_length(seconds: object, text: str) -> None:
    assert ft.format_duration(seconds) == text


@given(st.floats(0, 1e8))
def test_length_is_right_to_the_second_below_an_hour_and_to_the_minute_above(
    seconds: float,
) -> None:
    match = re.fullmatch(r"(?:(\d+)h ?)?(?:(\d+)m ?)?(?:(\d+)s)?", ft.format_duration(seconds))
    assert match
    hours, minutes, rest = (int(group or 0) for group in match.groups())
    assert minutes < 60
    assert rest < 60
    assert abs(hours * 3600 + minutes * 60 + rest - seconds) <= (60 if hours else 0.5)


NOW = 1_736_937_000.0  # 2025-01-15 10:30:00 UTC


@pytest.mark.parametrize(
    ("timestamp", "text"),
    [
        ("2025-01-15 10:30:00", "just now"),
        ("2025-01-15 10:29:01", "just now"),
        ("2025-01-15 10:29:00", "1 min ago"),
        ("2025-01-15T10:27:00Z", "3 min ago"),
        ("2025-01-15 09:30:01", "59 min ago"),
        ("2025-01-15 09:30:00", "1 hour ago"),
        ("2025-01-15T08:30:00.623Z", "2 hours ago"),
        ("2025-01-15 08:29:59", "2 hours ago"),
        ("2025-01-14 10:30:01", "23 hours ago"),
        ("2025-01-14 10:30:00", "1 day ago"),
        ("2025-01-10 10:30:00", "5 days ago"),
        ("2024-12-16 10:30:01", "29 days ago"),
        ("2024-12-16 10:30:00", "2024-12-16"),
        ("1999-12-31T23:59:59.999999Z", "1999-12-31"),
        ("2025-01-15T12:30:00+02:00", "just now"),
        ("2025-01-15T05:00:00-0530", "just now"),
        ("2025-01-15 10:45:00", "just now"),
        ("2025-01-16 10:30:00", "2025-01-16"),
        ("2025-13-45 10:30:00", "2025-13-45 10:30:00"),
        ("soon", "soon"),
        (None, "-"),
        (5, "5"),
    ],
)
def test_age(timestamp: object, text: str) -> None:
    assert ft.format_age(timestamp, NOW) == text


@given(st.datetimes(), st.booleans())
def test_both_shapes_of_a_timestamp_are_the_same_time(when: object, fraction: bool) -> None:
    sql = str(when)[:19]
    assert ft.parse_time(sql) == ft.parse_time(
        sql.replace(" ", "T") + (".623Z" if fraction else "Z")
    )


@given(st.text() | st.none() | st.integers())
def test_age_bears_anything(timestamp: object) -> None:
    assert isinstance(ft.format_age(timestamp), str)


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (1_234_567, "1.2 MB"),
        (5e9, "5.0 GB"),
        (7e12, "7000.0 GB"),
        (999.6, "1.0 kB"),
        (999_949, "999.9 kB"),
        (999_950, "1.0 MB"),
        (999_999_999, "1.0 GB"),
        (None, "-"),
        ("5", "-"),
    ],
)
def test_size(count: object, text: str) -> None:
    assert ft.format_size(count) == text


# --- names of files -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "slug"),
    [
        ("lofi chill piano, mellow", "lofi-chill-piano-mellow"),
        ("  ...Hello,   WORLD!!  ", "hello-world"),
        ("夜のローファイ 🌃 ねこ", "夜のローファイ-ねこ"),
        ("cafe\u0301", "café"),
        ("नमस्ते", "नमस्ते"),
        ("../../etc/passwd", "etc-passwd"),
        ('C:\\a*b?c"d<e>f|g', "c-a-b-c-d-e-f-g"),
        ("x" * 50, "x" * 40),
        ("a" * 39 + " bc", "a" * 39),
        ("🎷🎺", ""),
        ("", ""),
    ],
)
def test_slug(text: str, slug: str) -> None:
    assert ft.slugify(text) == slug


@given(TEXT)
def test_a_slug_is_short_and_of_letters_digits_and_single_hyphens(text: str) -> None:
    slug = ft.slugify(text)
    assert len(slug) <= 40
    assert not re.search("--|^-|-$", slug)
    assert all(c == "-" or c.isalnum() or unicodedata.category(c)[0] == "M" for c in slug)


@given(
    st.one_of(TEXT, st.none(), st.integers()),
    st.one_of(TEXT, st.none()),
    st.one_of(TEXT, st.none(), st.integers()),
)
def test_a_file_name_is_safe_on_every_system(
    title: object, prompt: object, identifier: object
) -> None:
    name = ft.default_filename({"title": title, "prompt": prompt, "id": identifier})
    assert re.fullmatch(r"[^\x00-\x1f<>:\"/\\|?*\x7f. ]+\.mp3", name)
    assert len(name.encode()) <= 255
    assert not name.startswith("-")
    assert "-" in name, "so it is no reserved name such as CON"


@pytest.mark.parametrize(
    ("record", "name"),
    [
        (
            {"id": "07e8d430-2310", "title": "Night Drive", "prompt": "x"},
            "night-drive-07e8d430.mp3",
        ),
        ({"id": "07e8d430-2310", "title": None, "prompt": "dark trap"}, "dark-trap-07e8d430.mp3"),
        ({"id": "07e8d430-2310", "title": "🎷", "prompt": "dark trap"}, "dark-trap-07e8d430.mp3"),
        ({"id": "gen_01J0XYZ"}, "track-gen-01j0.mp3"),
        ({}, "track-none.mp3"),
    ],
)
def test_a_file_is_named_after_its_title_else_its_prompt_and_the_ids_first_8_characters(
    record: dict[str, object], name: str
) -> None:
    assert ft.default_filename(record) == name


# --- suggestions ----------------------------------------------------------------------------------


def test_nearest() -> None:
    assert (
        ft.suggest_nearest("genrate", {"generate": "generate", "get": "get"})
        == "; did you mean `generate`?"
    )
    assert ft.suggest_nearest("xyzzy", {"generate": "generate", "get": "get"}) == ""


# --- JSON -----------------------------------------------------------------------------------------

NUMBERS = st.from_regex(
    r"-?(0|[1-9][0-9]{0,30})(\.[0-9]{1,20})?([eE][+-]?[0-9]{1,2})?", fullmatch=True
)
STRINGS = st.text().map(json.dumps)
DOCUMENTS = st.recursive(
    NUMBERS | STRINGS | st.sampled_from(["null", "true", "false"]),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{', '.join(items)}]")
        | st.lists(
            st.tuples(STRINGS, inner), max_size=4, unique_by=lambda pair: json.loads(pair[0])
        ).map(lambda pairs: "{" + ", ".join(f"{name}: {value}" for name, value in pairs) + "}")
    ),
    max_leaves=20,
)


def tokens(text: str) -> list[str]:
    """Those of a JSON text; strings by what they mean, numbers by how they are written."""
    found = re.findall(r'"(?:[^"\\]|\\.)*"|[\[\]{}:,]|[^\s\[\]{}:,"]+', text)
    return [repr(json.loads(token)) if token.startswith('"') else token for token in found]


@given(DOCUMENTS)
def test_json_comes_out_as_it_came_in_to_the_last_digit(text: str) -> None:
    assert tokens(ft.format_json(ft.parse_json(text))) == tokens(text)


@given(DOCUMENTS, st.booleans())
def test_escaped_json_means_the_same_and_is_safe_for_a_terminal(
    text: str, ascii_only: bool
) -> None:
    plain = ft.format_json(ft.parse_json(text))
    escaped = ft.escape_json(plain, ascii_only)
    assert tokens(escaped) == tokens(plain)
    assert ft.sanitise(escaped.replace("\n", "")) == escaped.replace("\n", "")
    assert escaped.isascii() or not ascii_only


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "[Infinity]",
        '{"a": -Infinity}',
        "1e999",
        "-1e999",
        "9" * 5000,
        "[" * 101 + "]" * 101,
        "[" * 100_000 + "]" * 100_000,
        b"\xff",
        '{"a": 1} x',
        "{'a': 1}",
    ],
    ids=lambda text: repr(text)[:20],
)
def test_what_is_no_json_or_too_much_of_it_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        ft.parse_json(text)


def test_a_byte_order_mark_and_100_levels_are_fine() -> None:
    assert ft.parse_json(b"\xef\xbb\xbf[1]") == [1]
    assert ft.parse_json("[" * 100 + "]" * 100)


@given(st.binary() | st.text())
def test_parse_json_raises_nothing_but_value_error(data: str | bytes) -> None:
    try:
        ft.parse_json(data)
    except ValueError:
        pass


# --- directories ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("platform", "environ", "expected"),
    [
        ("darwin", {}, "{home}/Library/Application Support/finetuning"),
        ("linux", {}, "{home}/.config/finetuning"),
        ("linux", {"XDG_CONFIG_HOME": "/xdg"}, "/xdg/finetuning"),
        ("win32", {"APPDATA": "/AppData"}, "/AppData/finetuning"),
        ("win32", {}, "{home}/AppData/Roaming/finetuning"),
        ("darwin", {"FINETUNING_CONFIG_HOME": "/else where"}, "/else where"),
    ],
)
@pytest.mark.skipif(sys.platform == "win32", reason="the paths are POSIX's")
def test_each_system_has_its_directory(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    platform: str,
    environ: dict[str, str],
    expected: str,
) -> None:
    for name in ("FINETUNING_CONFIG_HOME", "XDG_CONFIG_HOME", "APPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"HOME": str(tmp_path), **environ}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert ft.config_directory() == expected.format(home=tmp_path)


# --- time -----------------------------------------------------------------------------------------

LONG = {  # what is repeated to make a long text
    "words": "an upbeat jingle ",
    "a word": "x",
    "wide": "夜",
    "marks": "e\u0301\u0316",
    "emoji": "\U0001f1ef\U0001f1f5👩\u200d🎤",
    "quotes": 'it\'s "so" -o x ',
    "controls": "\x1b[31m\u202e",
    "keys": "ft_live_0123456789",
}
WORK = {
    "wrap_text": lambda text: ft.wrap_text(text, 20),
    "wrap_command": lambda text: ft.wrap_command(text, 20),
    "wrap_command, all on one line": lambda text: ft.wrap_command(text, sys.maxsize),
    "truncate": lambda text: ft.truncate(text, len(text) // 2),
    "sanitise": ft.sanitise,
    "layout_table": lambda text: ft.layout_table(["ID", "NAME"], [["1", text]], "NAME", [], 80),
    "slugify": ft.slugify,
    "redact": ft.redact,
    "quote_command": ft.quote_command,
}


def cpu_time(work: Callable[[str], object], text: str) -> float:
    start = time.process_time()
    work(text)
    return time.process_time() - start


@pytest.mark.parametrize("work", WORK.values(), ids=WORK)
@pytest.mark.parametrize("piece", LONG.values(), ids=LONG)
def test_eight_times_the_text_takes_about_eight_times_as_long(
    piece: str, work: Callable[[str], object]
) -> None:
    """And not 64 times, in at least one of three attempts. What takes under 20 ms is not worth
    measuring.
    """
    text = piece * (10_000 // len(piece))
    attempts = ((cpu_time(work, text * 8), cpu_time(work, text)) for _ in range(3))
    assert any(longer < 0.02 or longer / shorter < 24 for longer, shorter in attempts)
