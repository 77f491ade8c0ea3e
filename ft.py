#!/usr/bin/env python3
"""ft: the command-line client of Finetuning.ai, which makes music from a prompt.

One module, the standard library only, Python 3.8 or newer. Read it from top to bottom: each chapter
uses only those above it.

     1. Vocabulary            constants, kinds of records, errors
     2. Text and JSON         pure functions: widths, formats, filenames, quoting, JSON
     3. Console               results to stdout, everything else to stderr
     4. Settings and keys     config.json, the keychains, the key file
     5. HTTP                  requests, answers, retries; knows no key and no JSON
     6. API                   one method an endpoint
     7. Files                 hidden files that become tracks, downloads that are resumed
     8. Workflows             submit, wait, save; several at once; bulk commands
     9. Commands              each a function, declared right above it
    10. Batch                 `ft batch`: a file of prompts, a journal of what became of them
    11. Command line          sorting words, argparse, help
    12. Completion, manual    made from the declarations
    13. Run                   signals, streams, and from exceptions to exit codes

The way of one command, `ft list`, only goes downwards:

    main -> run -> run_command
        -> parse_command_line
        -> list_tracks
            -> Api.list_records -> Api._call -> HttpClient.request
            -> print_tracks -> Console.print_table

Modules that take long to import (urllib, ssl, subprocess, ctypes, json, ...) are imported where
they are used, because every start of ft pays for an import at the top.
"""

from __future__ import annotations

import sys


def restrict_module_path() -> None:
    """Take modules from Python's own library only and, where ft is installed, from site-packages.

    Somebody's json.py in the working directory, the directory of this script or one of PYTHONPATH
    would run with the API key in its environment. ft.pyz begins with this function as well (see
    tests/tools/build.py), so apart from the annotation Python 2 must be able to parse it.
    """
    library = sys.modules["encodings"].__path__[0][: -len("/encodings")]
    sys.path.insert(0, library)  # because after `python3 -S` nothing has imported os yet
    import os

    entries = sys.path[1:]
    archive = getattr(globals().get("__loader__"), "archive", None)
    is_isolated = sys.flags.isolated or getattr(sys.flags, "safe_path", False)
    if __name__ == "__main__" and archive is None and not is_isolated:
        del entries[0]  # the directory of the script, or after `python3 -m ft` the working one
    try:
        here = os.getcwd()
    except OSError:
        here = ""
    given = os.environ.get("PYTHONPATH", "")
    given_entries = given.split(os.pathsep) if given else []
    foreign = {os.path.normpath(os.path.join(here, entry)) for entry in given_entries}
    # PYTHONPATH may repeat directories that are Python's own.
    foreign -= {library, os.path.join(library, "lib-dynload")}
    foreign.discard(os.path.join(sys.base_exec_prefix, "DLLs"))
    sys.path[:] = [p for p in entries if p == archive or (os.path.isabs(p) and p not in foreign)]


restrict_module_path()

import signal

# Until `main` has its own handler, Ctrl-C must not print a traceback. An installed ft is a script
# that imports this module; any other program that does so keeps its handler.
if (
    __name__ == "__main__" or sys.argv[0].endswith(("ft", "ft.exe", "ft.pyz", "ft-script.py"))
) and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)

import argparse
import codecs
import errno
import io
import os
import re
import stat
import time
from _thread import allocate_lock, get_ident
from functools import cached_property, lru_cache, partial

TYPE_CHECKING = False
if TYPE_CHECKING:
    import http.client
    import socket
    import ssl
    import urllib.request
    from collections import deque
    from types import FrameType
    from typing import (
        Any,
        Callable,
        Container,
        Dict,
        Iterable,
        Iterator,
        Mapping,
        NoReturn,
        Optional,
        Sequence,
        TextIO,
        Tuple,
    )

    Json = Dict[str, Any]
    Outcome = Tuple[Any, str, Optional[BaseException]]  # an item, a result or an error
    Parameter = Tuple[Tuple[str, ...], Dict[str, Any]]

__version__ = "0.1.0"

# --- 1. Vocabulary -------------------------------------------------------------------------------

BASE_URL = "https://pub.finetuning.ai"
RELEASE_URL = "https://finetuning.ai/cli"
REPLACED_PROGRAM = ".ft-replaced.exe"  # how install.ps1 calls it
KEY_URL = "https://finetuning.ai"
ISSUES_URL = "https://finetuning.ai/support"

# Exit codes (the command reference's table).
EXIT_ERROR, EXIT_USAGE, EXIT_NETWORK, EXIT_BROKEN_PIPE = 1, 2, 3, 141

# The keychain item, which the official client and Python's keyring use as well.
KEYCHAIN_SERVICE, KEYCHAIN_ACCOUNT = "finetuning", "default"
SECURITY_TOOL = "/usr/bin/security"  # of macOS

# Seconds.
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 30.0  # between two pieces of an answer
CALL_TIMEOUT = 60.0  # for one API call, however slowly its answer drips
RETRY_TIME = 60.0  # for all waits between the attempts of one call together
MAX_GATE_WAIT = 120.0  # for one 429
GATE_TIMEOUT = 300.0  # of nothing but 429s
POLL_INTERVAL, POLL_BACKOFF, POLL_MAX_INTERVAL, POLL_TIMEOUT = 3.0, 1.3, 15.0, 300.0
SEARCH_TIME = 60.0  # for a track whose submission was not answered
LAST_LOOK = 1.0  # for it, after a signal
CLOCK_TOLERANCE = 2.0  # of the service's times, which are whole seconds
CLOCK_DOUBT = 60.0  # how far a record's time may be from that of the service's answers
KEYCHAIN_TIMEOUT = 3.0
UNLOCK_TIMEOUT = 30.0  # where a person may have to answer the keychain's prompt

MAX_ATTEMPTS = 4
MAX_REDIRECTS = 5
MAX_INTERIM_ANSWERS = 20  # of 1xx, before the final one
MAX_HEADERS = 100  # of one answer, and trailers as many
MIN_IDS_FOR_PAGES = 8  # for fewer records, asking for each costs less than turning list pages
MAX_HINT_IDS = 20  # in a command to paste
MAX_BULK_IDS = 100  # in one request
MAX_NETWORK_FAILURES = 20  # of tracks in a row, each after several attempts
PARALLEL_DOWNLOADS = 4
READ_SIZE = 256 << 10  # bytes
MAX_JSON_BYTES, MAX_ERROR_BYTES, MAX_LINE_BYTES = 16 << 20, 64 << 10, 64 << 10
MAX_JSON_DEPTH = 100
MAX_PROMPT, MAX_LYRICS, MAX_WEBHOOK = 700, 2000, 2048  # characters

# What to do about an error of the API (the command reference's table of common errors).
ERROR_HINTS = {
    "MISSING_API_KEY": "run `ft auth login`",
    "INVALID_API_KEY": "run `ft auth login`: your stored key may have been revoked",
    "ACCOUNT_DELETED": "contact support",
    "MONTHLY_LIMIT_REACHED": "you are out of credits: see `ft me`, "
    "then upgrade or buy a pack at finetuning.ai",
    "PRO_PLAN_REQUIRED": "the API needs a Pro or Lifetime plan: upgrade at finetuning.ai",
    "RATE_LIMITED": "the service takes 60 requests a minute",
    "GENERATION_RATE_LIMITED": "the service takes 10 generations a minute",
    "GENERATION_FAILED": "usually transient: try once more; if it persists, see the errors guide",
}


class Kind:
    """One of the two kinds of records: where the API keeps them and which commands handle them.

    `path` is the last part of their address, `list_field` the member of an answer that lists them.
    """

    def __init__(self, path: str, list_field: str, *words: str) -> None:
        self.path = path
        self.list_field = list_field
        self._program = ("ft", *words)

    @property
    def list_command(self) -> str:
        return " ".join(self.words("list"))

    def words(self, verb: str, *arguments: str) -> tuple[str, ...]:
        """Return the words of a command: `words("get", id)` is `ft get ID` or `ft sfx get ID`."""
        return (*self._program, verb, *arguments)


GENERATION = Kind("generations", "generations")
SOUND_EFFECT = Kind("sound-effects", "soundEffects", "sfx")


class FtError(Exception):
    """An error to show the user as one line. Raise it anywhere; only `run` prints it.

    `hint` says what to do next, in prose. `command` is what to run, in words to be quoted and
    pasted, so it is never broken into lines.
    """

    exit_code = EXIT_ERROR

    def __init__(self, message: str, hint: str = "", command: Sequence[str] = ()) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.command = command


class UsageError(FtError):
    """A bad flag, argument, configuration or key, found before anything is sent."""

    exit_code = EXIT_USAGE


class NetworkError(FtError):
    """There is no usable answer.

    `sent` is False if the request cannot have been received. `final` means that another attempt
    would not help. `status` is that of the answer if it is what makes it useless, and `retry_after`
    what the answer asks for, in seconds.
    """

    exit_code = EXIT_NETWORK

    def __init__(
        self, message: str, hint: str = "", *, sent: bool = True, final: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.sent = sent
        self.final = final
        self.status: int | None = None
        self.retry_after: float | None = None


class ApiError(FtError):
    """The API answered with 400 or above.

    `code` and `details` are as its documentation has them, `retry_after` is in seconds.
    """

    def __init__(
        self, status: int, message: str, code: str, details: Any, retry_after: float | None
    ) -> None:
        super().__init__(f"{message} ({code})" if code else message)
        self.reason = message
        self.status = status
        self.code = code
        self.details = details
        self.retry_after = retry_after
        if code == "VALIDATION_ERROR":
            self.exit_code = EXIT_USAGE
        self.explain(ERROR_HINTS.get(code, ""))

    def explain(self, hint: str) -> None:
        """Replace the hint; when to try again stays part of it."""
        wait = "" if self.retry_after is None else f"retry after {self.retry_after:.0f} s"
        self.hint = "; ".join(filter(None, [hint, wait]))


class KeychainUnavailable(Exception):
    """This system's keychain cannot be reached; the text says why."""


class KeychainTimeout(KeychainUnavailable):
    """The keychain did not answer in time."""


class KeychainLocked(FtError):
    """The keychain must be unlocked first. This is never a reason to fall back to plain text."""


class StopSignal(BaseException):
    """A signal asks ft to stop. Raised wherever the main thread is, by `stop_on_signals`."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


def find_stop(error: BaseException | None) -> StopSignal | None:
    """Return the StopSignal that `error` is or comes from, if any.

    Python may put another exception in its place, as a RuntimeError where it makes a class.
    """
    while error is not None and not isinstance(error, StopSignal):
        error = error.__cause__ or error.__context__
    return error


# --- 2. Text and JSON ----------------------------------------------------------------------------

# Patterns stay text until they are used: compiling them all takes a tenth of the start.
KEY_PATTERN = r"ft_live_[0-9A-Za-z]{32}"
KEY_LIKE_PATTERN = r"(ft_live_[0-9A-Za-z]{4})[0-9A-Za-z]{16,}"
SHORT_ID_PATTERN = r"([0-9a-fA-F][0-9a-fA-F-]{5,34})\.*"
UUID_PATTERN = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
TIMESTAMP_PATTERN = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)?"
    r" ?(?:[Zz]|([+-][0-9]{2}):?([0-9]{2}))?"
)
# For terminals and files whose encoding lacks them.
ASCII_REPLACEMENTS = {
    ord("✓"): "OK",
    ord("✗"): "FAIL",
    ord("→"): "->",
    ord("…"): "...",
    0x2014: "-",
}


def redact(text: str) -> str:
    """Return `text` with every API key in it cut to its first 12 characters."""
    return re.sub(KEY_LIKE_PATTERN, r"\1...****", text) if "ft_live_" in text else text


def is_unsafe(character: str) -> bool:
    """Return whether a terminal may act on a character: controls and formats, but no joiners."""
    from unicodedata import category

    return category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d"


def sanitise(text: str) -> str:
    """Return `text` on one line and safe for a terminal, with unsafe characters as escapes.

    Keys are redacted first, before anything cuts them in two.
    """
    text = redact(text)
    if text.isprintable():
        return text
    return text.translate(
        {ord(c): c.encode("unicode_escape").decode() for c in set(text) if is_unsafe(c)}
    )


# Emoji of several characters, which some terminals show as one and others side by side.
EMOJI_SEQUENCE_PATTERN = (
    "[\U0001f1e6-\U0001f1ff]{2}"
    "|.[\ufe0f\U0001f3fb-\U0001f3ff](?:\u200d.[\ufe0f\U0001f3fb-\U0001f3ff]?)*"
    "|.(?:\u200d.[\ufe0f\U0001f3fb-\U0001f3ff]?)+"
)


def cell_width(text: str) -> int:
    """Return how many cells of a terminal `text` takes at most.

    Wide characters take two cells and combining ones none.
    """
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    def count_cells(c: str) -> int:
        if c == "\ufe0f":  # turns the character before it into an emoji, of two cells
            return 1
        if category(c) in ("Mn", "Me", "Cf") or "\u1160" <= c <= "\u11ff":
            return 0
        return 2 if east_asian_width(c) in "WF" or "\U0001f1e6" <= c <= "\U0001f1ff" else 1

    return sum(map(count_cells, text))


def find_fit(text: str, start: int, cells: int) -> int:
    """Return the end of what fits into `cells` of `text` from `start` on. Emoji stay whole."""
    used, end = 0, start
    for match in re.compile(EMOJI_SEQUENCE_PATTERN + "|.", re.DOTALL).finditer(text, start):
        used += cell_width(match[0])
        if used > cells:
            break
        end = match.end()
    return end


def truncate(text: str, cells: int) -> str:
    """Return `text` cut to `cells`, with `...` in place of what is lost."""
    if cell_width(text) <= cells:
        return text
    return text[: find_fit(text, 0, max(0, cells - 3))].rstrip() + "..."[:cells]


def wrap_text(text: str, cells: int) -> list[str]:
    """Return `text` in lines of at most `cells`, broken at spaces where there are any.

    An address is never broken: it has to stay clickable.
    """
    lines: list[str] = []
    start = 0
    while True:
        end = find_fit(text, start, cells)
        if end == len(text) or end == start:  # not even one wide character fits
            return [*lines, text[start:]]
        space = end if text[end] == " " else text.rfind(" ", start, end)
        if space <= start and re.match("[a-z]+://", text[start : start + 12]):
            space = text.find(" ", end)
            if space < 0:
                return [*lines, text[start:]]
        if space > start:
            end = space
        lines.append(text[start:end])
        start = end
        while space == end and start < len(text) and text[start].isspace():
            start += 1


def wrap_command(text: str, cells: int) -> list[str]:
    """Return a shell command in lines of at most `cells`, to be pasted as they are.

    No line breaks a word, or parts a flag from its value.
    """
    lines: list[list[str]] = []
    used = 0
    for word in re.findall(r"""(?:-\S+ )?(?:"[^"]*"|'[^']*'|[^\s"'])+""", text):
        width = cell_width(word)
        if lines and used + width + len("  \\") <= cells:
            lines[-1].append(word)
            used += 1 + width
        else:
            lines.append([word])
            used = width
    *others, last = map(" ".join, lines)
    return [*(f"{line} \\" for line in others), last]


def pad_to_width(text: str, cells: int, right: bool = False) -> str:
    """Return `text` filled up to `cells` with spaces, aligned to the left or to the right."""
    space = " " * (cells - cell_width(text))
    return space + text if right else text + space


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def format_duration(seconds: Any) -> str:
    """Return a duration as `58s`, `3m`, `1m 30s` or `1h 5m`, and anything else as `-`."""
    if not is_number(seconds) or not 0 <= seconds < 1e9:
        return "-"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m" if minutes else f"{hours}h"
    if minutes:
        return f"{minutes}m {seconds}s" if seconds else f"{minutes}m"
    return f"{seconds}s"


def parse_time(text: object) -> float | None:
    """Return the seconds since the epoch of either of the API's timestamps, or None."""
    import datetime

    match = re.fullmatch(TIMESTAMP_PATTERN, text) if isinstance(text, str) else None
    if not match:
        return None
    day, clock, hours, minutes = match.groups()
    try:
        return datetime.datetime.fromisoformat(
            f"{day}T{clock}{hours or '+00'}:{minutes or '00'}"
        ).timestamp()
    except (ValueError, OverflowError):
        return None


def format_age(timestamp: object, now: float | None = None) -> str:
    """Return how long ago a timestamp was: `just now`, `3 min ago`, the date (UTC) after 30 days.

    What is no timestamp is returned as it is.
    """
    then = parse_time(timestamp)
    if then is None:
        return str(timestamp or "-")
    seconds = (time.time() if now is None else now) - then
    if -3600 < seconds < 60:  # the service's clock may be ahead of ours
        return "just now"
    for limit, unit, name in ((3600, 60, "min"), (86400, 3600, "hour"), (30 * 86400, 86400, "day")):
        if 0 < seconds < limit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' if count > 1 and name != 'min' else ''} ago"
    return time.strftime("%Y-%m-%d", time.gmtime(then))


def format_timestamp(timestamp: Any) -> str:
    """Return a timestamp as `2025-01-15 10:30:00 UTC (3 hours ago)`."""
    then = parse_time(timestamp)
    if then is None:
        return str(timestamp or "")
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(then))
    return f"{clock} UTC ({format_age(timestamp)})"


def format_size(count: Any) -> str:
    """Return a number of bytes as `999 B`, `2.4 MB` or the like, and anything else as `-`."""
    if not is_number(count) or not 0 <= count < 1e18:
        return "-"
    if round(count) < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if round(count, 1) < 1000 or unit == "GB":
            break
    return f"{count:.1f} {unit}"


def plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}" if count == 1 else f"{count:,} {noun}s"


def slugify(text: str) -> str:
    """Return `text` as part of a filename: letters and digits of any script, the rest hyphens."""
    from unicodedata import category, normalize

    # Sorting the marks of a letter takes normalize the square of their number.
    text = normalize("NFC", text[:10_000].lower())
    text = re.sub("[\ufe00-\ufe0f]", "", text)  # variants of an emoji
    # Marks belong to the letter before them.
    kept = "".join(c if c.isalnum() or category(c)[0] == "M" else " " for c in text)
    return "-".join(kept.split())[:40].strip("-")


def slugify_for_files(text: str) -> str:
    """Return a slug without the letters that the file system's encoding lacks.

    That is all but ASCII in the POSIX locale, so that little may be left.
    """
    from unicodedata import normalize

    slug, encoding = slugify(text), sys.getfilesystemencoding()
    try:
        slug.encode(encoding)
        return slug
    except UnicodeEncodeError:
        return slugify(normalize("NFKD", slug).encode(encoding, "ignore").decode(encoding))


def short_id(identifier: object) -> str:
    """Return what stands for an id in a filename: its first 8 characters, as far as they may."""
    return slugify_for_files(str(identifier)[:8]) or "unnamed"


def default_filename(record: Json) -> str:
    """Return `<slug>-<short-id>.mp3`, made of characters that are safe in any filename."""
    titles = (record.get("title"), record.get("prompt"))
    slugs = [slugify_for_files(redact(title)) for title in titles if isinstance(title, str)]
    words = next(filter(None, slugs), "track")
    return f"{words}-{short_id(record.get('id'))}.mp3"


# Windows takes them for devices in any directory, and older versions whatever extension follows.
WINDOWS_DEVICE = (
    r"(?is)(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9\u00b9\u00b2\u00b3]) *(\..*)?"
)
# A path for Windows that is longer may end up beyond the 260 characters that it takes unmarked.
MAX_PLAIN_PATH = 200


def find_windows_fault(path: str) -> str:
    """Return what is wrong with the names in a path for Windows, or nothing.

    Windows refuses few of them. A track would vanish in a device, become a hidden stream of another
    file (after a colon), or get another name (without a dot or space at the end).
    """
    import ntpath

    for name in re.split(r"[\\/]", ntpath.splitdrive(path)[1]):
        odd = re.search(r'[\x00-\x1f<>:"|?*]', name)
        if odd:
            return f"{name!r} contains {odd[0]!r}, which no name on Windows can"
        if re.fullmatch(WINDOWS_DEVICE, name):
            return f"{name!r} is the name of a device on Windows"
        if name.endswith((".", " ")) and name not in (".", ".."):
            return f"{name!r} ends in a dot or a space, which Windows drops"
    return ""


def mark_long_path(path: str) -> str:
    """Return an absolute path of Windows, with the mark that lets it be longer than 260 characters.

    Short ones are returned as they are.
    """
    if len(path) <= MAX_PLAIN_PATH or path.startswith("\\\\?\\"):
        return path
    is_network = path.startswith("\\\\")
    return "\\\\?\\UNC" + path[1:] if is_network else "\\\\?\\" + path


def suggest_nearest(word: str, names: Mapping[str, str]) -> str:
    """Return `; did you mean `X`?` if `word` was probably meant to be one of `names`, or nothing.

    `names` maps what may be typed to what is suggested. Case and dashes at the start do not count.
    The same word wins, then the only suggestion for words that begin so, then the closest one.
    """
    import difflib

    typed = {name.lstrip("-").lower(): suggestion for name, suggestion in names.items()}
    wanted = word.strip().lstrip("-").lower()
    beginning = [name for name in typed if wanted and name.startswith(wanted)]
    shortest = min(beginning, key=len, default="")
    is_unique = all(typed[name].startswith(typed[shortest]) for name in beginning)
    # Two letters of three may be swapped.
    close = difflib.get_close_matches(wanted, typed, 1, 0.75 if len(wanted) > 4 else 0.65)
    if wanted in typed:
        nearest = typed[wanted]
    elif beginning and is_unique:
        nearest = typed[shortest]
    elif close:
        nearest = typed[close[0]]
    else:
        return ""
    return f"; did you mean `{nearest}`?"


def quote_for_windows(word: str) -> str:
    """Return a word for a person to paste into PowerShell and, if it can be, into cmd.

    cmd knows double quotes only. In them PowerShell replaces variables, and cmd does so anywhere.
    """
    if re.fullmatch(r"[\w./\\:+=~-]+", word):
        return word
    if not re.search('["\u201c-\u201e$`%!]', word):
        backslashes = len(word) - len(word.rstrip("\\"))  # would escape the closing quote
        return f'"{word}' + "\\" * backslashes + '"'
    return "'" + re.sub("(['\u2018-\u201b])", r"\1\1", word) + "'"


def quote_command(*words: str) -> str:
    """Return a command for a person to paste into bash, zsh or ksh, or on Windows into PowerShell.

    Unsafe characters are written as code points.
    """
    import shlex

    def quote_word(word: str) -> str:
        if any(map(is_unsafe, word)):
            points = (f"\\U{ord(c):08x}" if c in "\\'" or is_unsafe(c) else c for c in word)
            return f"$'{''.join(points)}'"
        if os.name == "nt":
            return quote_for_windows(word)
        quoted = shlex.quote(word)
        # zsh would look for a command named after the equals sign.
        return f"'{quoted}'" if quoted.startswith("=") else quoted

    return " ".join(map(quote_word, words))


class ExactFloat(float):
    """A float that remembers how it was written, so that no digit is lost in between."""

    literal: str

    @classmethod
    def parse(cls, literal: str) -> ExactFloat:
        number = cls(literal)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"the number {literal[:20]} is too large")
        number.literal = literal
        return number


def parse_integer(literal: str) -> int | ExactFloat:
    if len(literal) > 4300:  # the limit that newer Pythons have themselves
        raise ValueError("a number of over 4300 digits")
    return ExactFloat.parse(literal) if literal == "-0" else int(literal)


def refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def parse_json(text: str | bytes, make_object: Callable[..., Json] | None = None) -> Any:
    """Return the document in `text`, its numbers kept to the last digit.

    `make_object` makes objects of lists of their members, where a dict is not good enough.
    Raises ValueError for what is not JSON, for NaN and Infinity, and for more than 100 levels.
    """
    import json

    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        document = json.loads(
            text,
            parse_float=ExactFloat.parse,
            parse_int=parse_integer,
            parse_constant=refuse_constant,
            object_pairs_hook=make_object,
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    # What is parsed is also printed, by a function that calls itself.
    level = [document]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
            if isinstance(child, (dict, list))
        ]
    if level:
        raise ValueError("nested too deeply")
    return document


class JsonText(str):
    """A value that is JSON already. As text, records take a sixth of the memory."""

    __slots__ = ()


def json_pieces(value: Any, indent: str = "\n") -> Iterator[str]:
    """Yield the pieces of `value` as JSON, keys in their order and numbers unchanged.

    Each level is indented by two spaces, or all is on one line if `indent` is empty. No piece ends
    within a string.
    """
    import json

    encode = json.JSONEncoder(ensure_ascii=False).encode

    def format_scalar(value: Any) -> str:
        if isinstance(value, JsonText):
            return value
        return value.literal if isinstance(value, ExactFloat) else encode(value)

    def split(value: Any, indent: str) -> Iterator[str]:
        if not isinstance(value, (dict, list)) or not value:
            yield format_scalar(value)
            return
        is_object = isinstance(value, dict)
        opening, closing = "{}" if is_object else "[]"
        inner = indent and indent + "  "
        before = opening + inner
        for entry in value:
            member = entry
            if is_object:
                before += encode(entry) + ": "
                member = value[entry]
            if isinstance(member, (dict, list)):
                yield before
                yield from split(member, inner)
            else:
                yield before + format_scalar(member)
            before = "," + (inner or " ")
        yield indent + closing

    return split(value, indent)


def format_json(value: Any, indent: str = "\n") -> str:
    """Return `value` as JSON, formatted as `json_pieces` does it."""
    return "".join(json_pieces(value, indent))


def escape_json(text: str, ascii_only: bool) -> str:
    """Return the same JSON with \\u escapes for what is unsafe, or not ASCII if `ascii_only`."""
    import json

    if text.isascii() and "\x7f" not in text:
        return text
    return text.translate(
        {ord(c): json.dumps(c)[1:-1] for c in set(text) if c > "~" and (ascii_only or is_unsafe(c))}
    )


def field_text(record: Json, name: str, absent: str = "-") -> str:
    """Return a member of a record as text; `absent` if it is missing, null or empty."""
    value = record.get(name)
    if value is None or value == "":
        return absent
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else format_json(value)


def find_member(record: Json, path: str) -> Any:
    """Return the member of a record that `status` or `parameters.seed` names.

    Raises KeyError if there is none.
    """
    value: Any = record
    for name in path.split("."):
        if not isinstance(value, dict):
            raise KeyError(name)
        value = value[name]
    return value


def format_field(value: Any, ascii_only: bool) -> str:
    """Return a value for scripts, without tabs and line ends: text as it is, the rest as JSON.

    What is escaped in text begins with a backslash, so backslashes are doubled. Null is nothing.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return sanitise(value.replace("\\", r"\\"))
    return escape_json(format_json(value, ""), ascii_only)


def format_visibility(record: Json) -> str:
    return "public" if record.get("isPublic") is True else "private"


def get_parameters(record: Json) -> Json:
    """Return the `parameters` of a record, empty if it has none."""
    parameters = record.get("parameters")
    return parameters if isinstance(parameters, dict) else {}


# --- 3. Console ----------------------------------------------------------------------------------

# No dim, yellow, blue or cyan, which cannot be read on white or on black.
ANSI_CODES = {"bold": "1", "red": "31", "green": "32", "magenta": "35"}
STATUS_COLOURS = {"completed": "green", "failed": "red", "processing": "magenta"}
SKIP_HINT = "use `--yes` to skip the confirmation"
SPINNER_FRAMES = "|/-\\"
SHORT_ID_WIDTH = 12  # cells of `a9b16641-...`
MAX_PADDING = 40  # cells of the long column in a pipe
MIN_COLUMN_WIDTH = 12  # cells of a prompt or a name that still tell which one it is


def terminal_width(stream: TextIO) -> int | None:
    """Return the width of a terminal in cells, or None if `stream` is none."""
    if not stream.isatty():
        return None
    columns = os.environ.get("COLUMNS", "")
    if re.fullmatch("[1-9][0-9]{0,2}", columns):
        return int(columns)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


def layout_table(
    names: Sequence[str],
    rows: Sequence[Sequence[str]],
    long: str,
    drop: Sequence[str],
    width: int | None,
) -> tuple[list[list[str]], list[str]]:
    """Return the header and the rows of a table as padded cells, and the names of lost columns.

    In `width` cells the column `long` is cut to fit. Where that would leave too little of it, ids
    are shortened, and then the columns in `drop` are left out, the first one first. Without a width
    nothing is cut, but one long prompt does not push the other columns out of sight either.
    """
    table = [list(names), *([sanitise(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_width, column)) for column in zip(*table)]
    stretched = names.index(long)
    lost: list[str] = []
    if width is None:
        widths[stretched] = min(widths[stretched], MAX_PADDING)
    else:
        wanted = min(widths[stretched], MIN_COLUMN_WIDTH)
        if count_free(names, widths, long, lost, width) < wanted and names[0] == "ID":
            for row in table:
                row[0] = shorten_id(row[0])
            widths[0] = min(widths[0], SHORT_ID_WIDTH)
        for name in drop:
            if count_free(names, widths, long, lost, width) < wanted:
                lost.append(name)
        free = count_free(names, widths, long, lost, width)
        widths[stretched] = min(widths[stretched], max(free, len(long)))
        for row in table:
            row[stretched] = truncate(row[stretched], widths[stretched])
    shown = [i for i, name in enumerate(names) if name not in lost]

    def pad_cell(row: Sequence[str], i: int) -> str:
        is_count = names[i] == "TRACKS"
        if i == shown[-1] and not is_count:
            return row[i]  # no spaces at the end of a line
        return pad_to_width(row[i], widths[i], right=is_count)

    return [[pad_cell(row, i) for i in shown] for row in table], lost


def count_free(
    names: Sequence[str], widths: Sequence[int], long: str, lost: Sequence[str], width: int
) -> int:
    """Return how many of `width` cells the other columns leave for the column `long`."""
    others = (w + 2 for name, w in zip(names, widths) if name != long and name not in lost)
    return width - sum(others)


def shorten_id(identifier: str) -> str:
    """Return an id as `a9b16641-...`, which is enough to use it."""
    return identifier if len(identifier) <= SHORT_ID_WIDTH else identifier[:9] + "..."


def sleep(seconds: float) -> None:
    """Sleep in steps, because Python notices a signal that comes just before one only after it."""
    end = time.monotonic() + seconds
    while seconds > 0:
        time.sleep(min(seconds, 1.0))
        seconds = end - time.monotonic()


def is_ready(descriptor: int, seconds: float, for_writing: bool = False) -> bool:
    """Wait until a descriptor can be read or written, or failed; return False if that takes longer.

    Raises OSError or ValueError if that cannot be known.
    """
    import select

    if descriptor < 1024 or not hasattr(select, "poll"):  # all that select can wait for
        waiting = [descriptor]
        return any(select.select(*([], waiting) if for_writing else (waiting, []), [], seconds))
    poll = select.poll()
    poll.register(descriptor, select.POLLOUT if for_writing else select.POLLIN)
    return bool(poll.poll(seconds * 1000))


class Output:
    """A descriptor to write to, past Python's buffers.

    The buffers lose the rest of what a raw stream (PYTHONUNBUFFERED=1) takes in part, and no signal
    gets through while another thread is in them. `deadline` (of time.monotonic) is when a reader
    that sleeps is given up; from then on, or once `is_discarded` is set, nothing is written.
    """

    def __init__(self, raw: Any, encoding: str = "utf-8") -> None:
        self._raw = raw
        self._encoding = encoding
        # Incremental, because a byte order mark comes only once.
        self._encoder = codecs.getincrementalencoder(encoding)("backslashreplace")
        self.deadline = float("inf")
        self.is_discarded = False
        self._is_regular = stat.S_ISREG(os.fstat(raw.fileno()).st_mode)
        self._step = sys.maxsize
        if not self._is_regular and os.name != "nt":
            # Imported here already, while there are descriptors left to open a module with.
            import select

            # As much as never blocks where `select` says that there is room.
            self._step = select.PIPE_BUF

    def write(self, data: bytes) -> None:
        """Write all of `data`. Raises OSError if that is impossible."""
        view = memoryview(data)
        while view and self._has_room():
            # None means that another program has made the descriptor non-blocking.
            view = view[self._raw.write(view[: self._step]) or 0 :]

    def write_text(self, text: str) -> None:
        """Write text, with stand-ins for what the encoding lacks. Raises as `write` does."""
        try:
            text.encode(self._encoding)
        except UnicodeEncodeError:
            text = text.translate(ASCII_REPLACEMENTS)
        self.write(self._encoder.encode(text.replace("\n", os.linesep)))

    def confirm(self) -> None:
        """Raise the OSError that network file systems keep until a descriptor is closed."""
        if self._is_regular:
            try:
                descriptor = os.dup(self._raw.fileno())
            except OSError:  # too many are open
                return
            os.close(descriptor)

    def close(self) -> None:
        self._raw.close()

    def _has_room(self) -> bool:
        """Wait until something can be written, and return whether to go on."""
        while self._step != sys.maxsize and not self.is_discarded:
            # In short steps: Python notices a signal that comes just before select only after it.
            if is_ready(self._raw.fileno(), 0.2, for_writing=True):
                break
            self.is_discarded = time.monotonic() > self.deadline
        return not self.is_discarded


class Shield:
    """Hold a signal back while the `with` block runs, so that a report is printed whole.

    StopSignal is then raised at the end of the block, or where the block allows it.
    """

    def __init__(self) -> None:
        self._is_up = False
        self._held: StopSignal | None = None
        self.stopped: StopSignal | None = None  # the first that came

    def __enter__(self) -> Shield:
        self._is_up = True
        return self

    def __exit__(self, *exception: object) -> None:
        self._is_up = False
        self.check()

    def check(self) -> None:
        """Raise the StopSignal that has been held back, if any."""
        held, self._held = self._held, None
        if held:
            raise held

    def call(self, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function that a signal may interrupt, and return what it returns."""
        was_up, self._is_up = self._is_up, False
        try:
            self.check()
            return function(*arguments)
        finally:
            self._is_up = was_up

    def stop(self, stopped: StopSignal) -> None:
        """Raise `stopped`, now or later."""
        self.stopped = self.stopped or stopped
        if not self._is_up:
            raise stopped
        self._held = self._held or stopped


class Console:
    """Print results to stdout and everything else to stderr.

    All text passes through here and is made safe: keys are redacted, what a terminal may act on is
    escaped, and what the stream's encoding lacks is replaced.
    """

    def __init__(self) -> None:
        self.verbose = False
        self.quiet = False
        self.global_flags: list[str] = []
        environ = os.environ
        self.no_color = bool(environ.get("NO_COLOR")) or environ.get("CLICOLOR") == "0"
        # For `ft list | less -R`.
        forced = (environ.get("CLICOLOR_FORCE"), environ.get("FORCE_COLOR"))
        self.forces_color = any(value not in (None, "", "0") for value in forced)
        self.knows_ansi = os.environ.get("TERM") != "dumb"
        self.has_status_line = sys.stderr.isatty() and self.knows_ansi
        self._thread = get_ident()  # the only one that draws
        self._mutes_threads = False
        self._status_shown = False
        self._frame = 0
        self._last_message = time.monotonic()
        self.shield = Shield()
        self._output_failure: FtError | BrokenPipeError | None = None
        self._stdout, self._stderr = map(self._prepare, (sys.stdout, sys.stderr))

    @staticmethod
    def _prepare(stream: Any) -> Output:
        stream.reconfigure(errors="backslashreplace")  # for getpass, which writes to it directly
        if os.name != "nt":
            os.set_blocking(stream.fileno(), True)
        raw = getattr(stream.buffer, "raw", stream.buffer)
        return Output(raw, stream.encoding or "ascii")

    # Results

    def print(self, text: str) -> None:
        """Print a line of the result."""
        self.print_raw(sanitise(text) + "\n")

    def print_raw(self, text: str) -> None:
        """Print text of our own as it is, but for keys.

        Raises BrokenPipeError if the reader of stdout went away, FtError for other failures, and
        the same once more for whatever comes after a failure.
        """
        self._write_result(partial(self._stdout.write_text, redact(text)))

    def print_path(self, path: str) -> None:
        """Print a path for a script: its own bytes, whatever the encoding of stdout lacks."""
        if os.name == "nt":
            self.print_raw(f"{path}\n")
        else:
            self._write_result(partial(self._stdout.write, os.fsencode(path) + b"\n"))

    def _write_result(self, write: Callable[[], None]) -> None:
        self.clear_status()
        if self._output_failure:
            raise self._output_failure
        try:
            write()
            self._stdout.confirm()
        except OSError as error:
            self._fail_output(error)

    def print_help(self, text: str) -> None:
        """Print help, with its headings in bold."""
        lines = [
            self.style(line, "bold") if re.fullmatch(r"\S.*:", line) else line
            for line in text.split("\n")
        ]
        self.print_raw("\n".join(lines))

    @property
    def ascii_only(self) -> bool:
        """Return whether JSON is printed in ASCII: stdout's encoding is not a Unicode one."""
        return not (sys.stdout.encoding or "ascii").lower().startswith("utf")

    def print_json(self, document: Any) -> None:
        """Print a document, a long one in parts."""
        part: list[str] = []
        length = 0
        for piece in json_pieces(document):
            part.append(piece)
            length += len(piece)
            if length > READ_SIZE:
                self.print_raw(escape_json("".join(part), self.ascii_only))
                part, length = [], 0
        self.print_raw(escape_json("".join(part), self.ascii_only) + "\n")

    def write_bytes(self, data: bytes) -> None:
        """Write a piece of a track to stdout. Raises as `print_raw` does."""
        self.clear_status()
        try:
            self._stdout.write(data)
        except OSError as error:
            self._fail_output(error)

    def print_table(
        self,
        names: Sequence[str],
        rows: Sequence[Sequence[str]],
        long: str,
        drop: Sequence[str] = (),
    ) -> None:
        """Print rows under their column names. On a terminal they are laid out to fit."""
        width = terminal_width(sys.stdout)
        (header, *cells), lost = layout_table(names, rows, long, drop, width)
        lines = ["  ".join(self.style(cell, "bold") for cell in header)]
        # A dropped column has no cell, so the column of the status is looked for in the header.
        status = next((i for i, cell in enumerate(header) if cell.strip() == "STATUS"), -1)
        for row in cells:
            if status >= 0:
                row[status] = self.style(row[status], STATUS_COLOURS.get(row[status].strip(), ""))
            lines.append("  ".join(row))
        self.print_raw("\n".join(lines) + "\n")
        if lost:
            self.note(f"left out, because the terminal is too narrow: {', '.join(lost)}")

    def print_details(
        self, pairs: Sequence[tuple[str, str]], command: tuple[str, str] | None = None
    ) -> None:
        """Print labels and their values, and perhaps a label and a shell command at the end."""
        indent = max(len(label) for label, _ in pairs) + 2
        width = terminal_width(sys.stdout)
        lines = []
        for label, value in pairs:
            colour = STATUS_COLOURS.get(value, "") if label == "Status" else ""
            lines += self._detail_lines(label, sanitise(value), indent, width, colour)
        if command:
            cells = sys.maxsize if width is None else max(10, width - indent)
            first, *rest = wrap_command(sanitise(command[1]), cells)
            lines.append(self.style(pad_to_width(command[0], indent), "bold") + first)
            lines += [" " * indent + line for line in rest]
        self.print_raw("\n".join(lines) + "\n")

    def _detail_lines(
        self, label: str, value: str, indent: int, width: int | None, colour: str
    ) -> list[str]:
        """Return the lines of one value. On a terminal it is wrapped beside its label.

        A single word gets a line of its own if it fits on that, and an address always does:
        breaking it would make it useless.
        """
        name = self.style(pad_to_width(label, indent), "bold")
        if width is None or cell_width(value) <= width - indent:
            return [name + self.style(value, colour)]
        if " " not in value and (cell_width(value) <= width - 2 or "://" in value):
            return [self.style(label, "bold"), "  " + value]
        first, *rest = wrap_text(value, max(10, width - indent))
        return [name + first, *(" " * indent + line for line in rest)]

    def print_checklist(self, facts: Sequence[tuple[bool, str]]) -> None:
        """Print a line for each fact, ticked or crossed."""
        width = terminal_width(sys.stdout)
        for is_good, text in facts:
            lines = wrap_text(sanitise(text), sys.maxsize if width is None else max(10, width - 5))
            mark = self.style("✓", "green") if is_good else self.style("✗", "red")
            self.print_raw(f"{mark} " + "\n  ".join(lines) + "\n")

    # Messages

    def note(self, text: str, *, is_vital: bool = False) -> None:
        """Print a note. With -q only a vital one: on something paid for, or why ft stops."""
        if is_vital or not self.quiet:
            self.message("note", text, "bold")

    def warning(self, text: str, command: Sequence[str] = ()) -> None:
        self.message("warning", text, "magenta", command)

    def error(self, text: str) -> None:
        self.message("error", text, "red")

    def hint(self, text: str, command: Sequence[str] = ()) -> None:
        self.message("hint", text, "bold", command)

    def message(self, label: str, text: str, colour: str, command: Sequence[str] = ()) -> None:
        """Print a labelled message on stderr: prose, and then perhaps a command.

        Prose is wrapped to fit the terminal. The command never is, because it is to be pasted. It
        asks the same service as this one, with `global_flags`.
        """
        self._last_message = time.monotonic()
        line = self._wrap(f" {sanitise(text)}", len(label) + 1) if text else ""
        if command[:1] == ("ft",):
            command = ("ft", *self.global_flags, *command[1:])
        if command:
            line += (": " if text else " ") + sanitise(quote_command(*command))
        self._print_message(self.style(f"{label}:", colour, sys.stderr) + line)

    def log(self, text: str) -> None:
        """Print a line of the -v log."""
        if self.verbose:
            self._print_message(sanitise(text))

    def _print_message(self, text: str) -> None:
        """Print a line on stderr in place of the status, in one write, since threads speak too."""
        if self._mutes_threads and get_ident() != self._thread:
            return
        start = "\r\x1b[K" if self._status_shown else ""
        self._status_shown = False
        self._write_message(f"{start}{text}\n")

    def _wrap(self, text: str, used: int = 0) -> str:
        """Return `text` wrapped for stderr's terminal, `used` cells of whose line are taken."""
        width = terminal_width(sys.stderr)
        if width is None:
            return text
        return "\n".join(wrap_text(" " * used + text, max(width, 20)))[used:]

    def require_terminal(self) -> None:
        """Raise UsageError if nobody can answer a question."""
        if not sys.stdin.isatty():
            raise UsageError("confirmation needed but stdin is not a terminal", SKIP_HINT)

    def confirm(self, consequence: str, question: str) -> bool:
        """Ask on stderr and read the answer from stdin. Raises UsageError if nobody can answer."""
        self.require_terminal()
        answer = ""
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        try:
            self._write_message(f"{self._wrap(consequence)}\n{question} [y/N] ")
            wait_for_input()
            answer = sys.stdin.readline()
        except OSError:  # it is open for writing only, or has hung up
            raise UsageError("confirmation needed but stdin cannot be read", SKIP_HINT) from None
        finally:
            if not answer.endswith("\n"):
                self._write_message("\n")
        if not answer and os.name == "nt":  # where NUL counts as a terminal
            raise UsageError("confirmation needed but stdin has ended", SKIP_HINT)
        return answer.strip().lower() in ("y", "yes")

    # The status line

    def show_status(self, text: str, before: str = "") -> None:
        """Show what is going on: in the terminal's last line, or else as a note once a minute.

        `before` is a spinner or a bar, for the terminal only.
        """
        if self.quiet or get_ident() != self._thread:
            return
        if not self.has_status_line:
            self._note_if_silent(text)
        else:
            cells = (terminal_width(sys.stderr) or 80) - 1
            self._status_shown = True  # set this first: a signal may interrupt the write
            self._write_message(f"\r\x1b[K{truncate(sanitise(before + text), cells)}")

    def clear_status(self) -> None:
        if self._status_shown:
            self._status_shown = False
            self._write_message("\r\x1b[K")

    def sleep_with_status(self, seconds: float, describe: Callable[[], str]) -> None:
        """Sleep, and meanwhile show what `describe` returns."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if left <= 0:
                return
            self._frame += 1
            spinner = SPINNER_FRAMES[self._frame % len(SPINNER_FRAMES)]
            self.show_status(describe(), f"{spinner} ")
            silence = time.monotonic() - self._last_message
            sleep(min(left, 0.1 if self.has_status_line else max(0.1, 60 - silence)))

    def _note_if_silent(self, text: str) -> None:
        """Print a note if nothing has been printed for a minute, so that a log shows progress."""
        if time.monotonic() - self._last_message >= 60:
            self.note(text)

    # Writing

    def style(self, text: str, style: str, stream: TextIO | None = None) -> str:
        """Return `text` in one of ANSI_CODES where `stream` (stdout by default) shows colours."""
        if not style or self.no_color:
            return text
        is_terminal = self.knows_ansi and (stream or sys.stdout).isatty()
        if not is_terminal and not self.forces_color:
            return text
        return f"\x1b[{ANSI_CODES[style]}m{text}\x1b[0m"

    def _write_message(self, text: str) -> None:
        """Write to stderr. Errors are ignored, because there is nowhere to report them."""
        try:
            self._stderr.write_text(redact(text))
        except OSError:
            self._stderr.is_discarded = True

    def _fail_output(self, error: OSError) -> NoReturn:
        # Windows reports a broken pipe as EINVAL.
        if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == errno.EINVAL):
            self._output_failure = BrokenPipeError()
        else:
            self._output_failure = FtError(f"cannot write output: {error.strerror}")
        raise self._output_failure from None

    def mute_threads(self) -> None:
        """Leave out what other threads have to say from now on: their work has been given up."""
        self._mutes_threads = True

    def hurry(self) -> None:
        """Give up on readers that sleep in half a second, because a signal asks ft to stop."""
        for output in (self._stdout, self._stderr):
            output.deadline = time.monotonic() + 0.5


def wait_for_input() -> None:
    """Wait until stdin can be read, in short steps. Raises OSError if it never can.

    Python notices a signal that comes just before a read only when that returns.
    """
    if os.name != "nt":
        os.read(sys.stdin.fileno(), 0)  # fails where it can never be read
        while not is_ready(sys.stdin.fileno(), 1.0):
            pass


class FieldLines:
    """Print members of records for scripts: a line a record, separated by tabs."""

    def __init__(self, console: Console, names: Sequence[str]) -> None:
        self.console = console
        self.count = 0  # of the records printed so far
        self._names = names
        self._unknown = dict.fromkeys(names)  # what no record has had so far
        self._known: Json = {}  # the last record

    def print(self, records: Iterable[Json]) -> None:
        """Print a line for each record, all in one write. A member that is missing is empty."""
        ascii_only = self.console.ascii_only
        lines = []
        for record in records:
            cells = []
            for name in self._names:
                try:
                    cells.append(format_field(find_member(record, name), ascii_only))
                    self._unknown.pop(name, None)
                except KeyError:
                    cells.append("")
            lines.append("\t".join(cells) + "\n")
            self._known = record
        self.console.print_raw("".join(lines))
        self.count += len(lines)

    def finish(self) -> None:
        """Warn of each member that no record has."""
        for name in self._unknown if self.count else ():
            suggestion = suggest_nearest(name, dict(zip(self._known, self._known)))
            self.console.warning(f"unknown field `{name}`: no record has it{suggestion}")


def print_fields(console: Console, records: Iterable[Json], names: Sequence[str]) -> None:
    """Print these members of all records, as FieldLines does."""
    lines = FieldLines(console, names)
    lines.print(records)
    lines.finish()


class Progress:
    """Show how far the downloads of a command are: a bar on a terminal, a note a minute off it.

    A context manager: the workflow that starts it ends it. Downloads in threads count; only the
    main thread draws.
    """

    def __init__(self, console: Console, file_count: int = 1) -> None:
        self.console = console
        self.file_count = file_count
        self._files_ended = 0
        self._files_started = 0
        self._received = 0  # bytes
        # Bytes that the files started so far announced; None if one did not announce its size.
        self._announced: int | None = 0
        self._start = 0.0
        self._last_drawn = 0.0

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *exception: object) -> None:
        self.console.clear_status()

    def start_file(self, received: int, expected: int | None, announced: int | None) -> None:
        """Count a file that begins, or begins again after `received` of `expected` bytes.

        `announced` is its size in bytes, None if unknown. `expected` is None the first time.
        """
        if expected is None:
            self._files_started += 1
            self._start = self._start or time.monotonic()
        self._received -= received
        if announced is None or self._announced is None:
            self._announced = None
        else:
            self._announced += announced - (expected or 0)

    def add_bytes(self, count: int) -> None:
        self._received += count
        if self.file_count == 1:
            self.draw()

    def end_file(self) -> None:
        self._files_ended += 1

    def skip_file(self) -> None:
        """Forget a file that need not be downloaded."""
        self.file_count -= 1

    def draw(self) -> None:
        """Show the progress, at most ten times a second."""
        now = time.monotonic()
        if now - self._last_drawn >= 0.1:
            self._last_drawn = now
            numbers = self._format_numbers()
            self.console.show_status(numbers, self._format_bar(len(numbers)))

    def _format_bar(self, used: int) -> str:
        """Return a bar of at most 20 cells, or nothing where `used` cells leave under five."""
        cells = min(20, (terminal_width(sys.stderr) or 80) - 5 - used)
        if not self._announced or cells < 5:
            return ""
        return f"[{'#' * int(self._fraction() * cells):{cells}}] "

    def _fraction(self) -> float:
        return min(1.0, self._received / self._estimate_total())

    def _estimate_total(self) -> float:
        """Estimate the total size in bytes.

        Files not yet started are assumed to be as large as the others on average.
        """
        return (self._announced or 0) * max(1.0, self.file_count / max(self._files_started, 1))

    def _format_numbers(self) -> str:
        speed = self._received / max(time.monotonic() - self._start, 0.001)
        parts = []
        if self.file_count > 1:
            parts.append(f"{self._files_ended} of {self.file_count} files")
        if self._announced:
            parts.append(f"{self._fraction():4.0%}")
        is_single = self._announced and self.file_count == 1
        total = f" of {format_size(self._announced)}" if is_single else ""
        parts += [format_size(self._received) + total, f"{format_size(speed)}/s"]
        if self._announced and self._received:
            left = max(0.0, self._estimate_total() - self._received) / speed
            parts.append(f"{format_duration(left)} left")
        return "  ".join(parts)


# --- 4. Settings and keys ------------------------------------------------------------------------


def home_directory() -> str:
    """Return the user's home directory. Raises UsageError if there is none."""
    home = os.path.expanduser("~")
    # With an empty HOME that would be the root directory.
    if not os.path.isabs(home) or (os.name != "nt" and os.environ.get("HOME") == ""):
        variable = "USERPROFILE" if os.name == "nt" else "HOME"
        raise UsageError(
            "cannot find your home directory", f"set {variable} or FINETUNING_CONFIG_HOME"
        )
    return home


def expand_home(path: str) -> str:
    """Return a path as a shell would expand it: `~`, or a leading `~/`, is the home directory.

    `--output=~/x.mp3`, quotes and variables keep a shell from doing it. `~user` is left alone.
    Raises UsageError if there is no home directory.
    """
    separators = ("/", "\\") if os.name == "nt" else ("/",)
    if path == "~" or (path[:1] == "~" and path[1:2] in separators):
        return os.path.join(home_directory(), path[2:])
    return path


def config_directory() -> str:
    """Return the directory of config.json and, on a headless Linux, of the key's fallback file.

    Raises UsageError if there is no home directory to derive it from.
    """
    named = expand_home(os.environ.get("FINETUNING_CONFIG_HOME", ""))
    if named:
        try:
            return os.path.abspath(named)
        except OSError:
            raise UsageError("FINETUNING_CONFIG_HOME is relative to a missing directory") from None
    base, default = "", "Library/Application Support"
    if sys.platform == "win32":
        base, default = os.environ.get("APPDATA", ""), os.path.join("AppData", "Roaming")
    elif sys.platform != "darwin":
        base, default = expand_home(os.environ.get("XDG_CONFIG_HOME", "")), ".config"
    if not os.path.isabs(base):  # the XDG specification ignores relative paths
        base = os.path.join(home_directory(), default)
    return os.path.join(base, "finetuning")


def find_config_file(name: str) -> str:
    """Return the path of a file in the configuration directory.

    Without a home directory there is no such file, and the path is empty.
    """
    try:
        return os.path.join(config_directory(), name)
    except UsageError:
        return ""


def is_visible(path: str) -> bool:
    """Return whether a file exists, as far as this user may look."""
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return False
    except OSError:
        pass  # opening it will say why
    return True


# The characters of RFC 3986, without user names: a password in a URL would end up in logs.
URL_PATTERN = (
    r"(?P<scheme>(?i:https?))://"
    r"(?P<host>([A-Za-z0-9_-]+\.)*[A-Za-z0-9_-]+\.?|\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\])"
    r"(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?P<query>\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)
LOOPBACK_PATTERN = r"(?i:localhost)|127(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}|\[::1\]"


def parse_url(url: str, title: str) -> re.Match[str]:
    """Return the parts of a URL that ft is willing to open: https, or http on loopback.

    The groups are `scheme`, `host`, `port`, `path` and `query`. Raises ValueError, which says what
    is wrong with the URL called `title`.
    """
    match = re.fullmatch(URL_PATTERN, url)
    if not match:
        raise ValueError(f"{title} is not a plain https address")
    if match["port"] and not 0 < int(match["port"]) < 65536:
        raise ValueError(f"{title} has a port that does not exist: {match['port']}")
    if match["scheme"].lower() == "http" and not re.fullmatch(LOOPBACK_PATTERN, match["host"]):
        raise ValueError(f"{title} must be https; http is for this machine only")
    return match


def parse_base_url(url: str, source: str) -> str:
    """Return `url` without a trailing slash. Raises UsageError if no key may be sent there."""
    title = f"the base URL from {source}"
    try:
        match = parse_url(url, title)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if match["query"]:
        raise UsageError(f"{title} must not have a query")
    return url.rstrip("/")


class Settings:
    """The contents of config.json: `base_url`, `duration` (seconds) and `bpm`, or None if unset.

    `path` is that of the file, empty if there is no home directory, `exists` whether the file is
    there, `unknown_keys` what ft ignores in it.
    """

    def __init__(self, path: str | None) -> None:
        """Read the file of `--config`, which must exist, or the one in the configuration directory.

        Raises UsageError, with file, line and key, if it is broken.
        """
        self.path = find_config_file("config.json") if path is None else path
        self._text = ""
        content = self._read(required=path is not None)
        self.exists = content is not None
        members = {} if content is None else self._parse(content)
        self.base_url: str | None = self._check(members, "baseUrl", "a string")
        self.duration: Any = self._check(members, "defaultDuration", "a number")
        self.bpm: Any = self._check(members, "defaultBpm", "a number")
        self.unknown_keys = sorted(members)
        if self.base_url is not None:
            place = f"{self.path}:{self._line_number('baseUrl')}, `baseUrl`,"
            parse_base_url(self.base_url, place)

    def _read(self, required: bool) -> bytes | None:
        if not required and not is_visible(self.path):
            return None
        try:
            with open(self.path, "rb") as file:
                return file.read(MAX_JSON_BYTES)
        except FileNotFoundError:
            name = self.path or "--config"
            raise UsageError(f"{name}: no such configuration file") from None
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", error)
            raise UsageError(f"{self.path}: cannot be read: {why}") from None

    def _parse(self, content: bytes) -> Json:
        import json

        try:
            self._text = content.decode("utf-8-sig")
            members = parse_json(self._text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{self.path}:{error.lineno}: not JSON: {error.msg}") from None
        except ValueError as error:
            raise UsageError(f"{self.path}:1: not JSON: {error}") from None
        if not isinstance(members, dict):
            raise UsageError(f"{self.path}:1: must contain a JSON object")
        return members

    def _check(self, members: Json, key: str, kind: str) -> Any:
        """Take a member out and return it. Raises UsageError if it is of another kind."""
        value = members.pop(key, None)
        is_right = is_number(value) if kind == "a number" else isinstance(value, str)
        if value is not None and not is_right:
            raise UsageError(f"{self.path}:{self._line_number(key)}: `{key}` must be {kind}")
        return value

    def _line_number(self, key: str) -> int:
        places = [match.start() for match in re.finditer(rf'"{key}"\s*:', self._text)]
        return self._text.count("\n", 0, places[-1] if places else 0) + 1


class Key:
    """An API key, where it came from, and whether that is a place where ft stores it."""

    def __init__(self, text: str, source: str, is_stored: bool) -> None:
        self.text = text
        self.source = source
        self.is_stored = is_stored


def parse_key(text: str, source: str) -> str:
    """Return the key in `text`, without white space around it.

    Raises UsageError for a malformed one, which names its source and length, never its content.
    """
    key = text.strip()
    if not re.fullmatch(KEY_PATTERN, key):
        raise UsageError(
            f"the API key from {source} is malformed: {plural(len(key), 'character')}",
            "a key is `ft_live_` and 32 letters or digits, 40 characters in all",
        )
    return key


def run_keychain_tool(
    console: Console, argv: list[str], stdin: str = "", timeout: float = KEYCHAIN_TIMEOUT
) -> tuple[int, str, str]:
    """Run a keychain's program and return its exit code, stdout and stderr.

    Secrets go to it by stdin, because everybody can read its arguments. Raises KeychainUnavailable
    if it cannot be run, KeychainTimeout if it takes longer than `timeout` seconds.
    """
    import subprocess

    environ = {name: value for name, value in os.environ.items() if name != "FINETUNING_API_KEY"}
    environ["LC_ALL"] = "C"  # its messages are parsed
    name = os.path.basename(argv[0])
    pipe = subprocess.PIPE
    try:
        process = subprocess.Popen(argv, env=environ, stdin=pipe, stdout=pipe, stderr=pipe)
    except OSError as error:
        is_missing = isinstance(error, FileNotFoundError)
        why = "is not installed" if is_missing else f"cannot run: {error.strerror}"
        raise KeychainUnavailable(f"{name} {why}") from None
    try:
        try:
            out, err = process.communicate(stdin.encode(), KEYCHAIN_TIMEOUT)
        except subprocess.TimeoutExpired:
            if timeout <= KEYCHAIN_TIMEOUT:
                raise
            console.note(f"waiting for {name}: answer its prompt if there is one", is_vital=True)
            out, err = process.communicate(timeout=timeout - KEYCHAIN_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise KeychainTimeout(f"{name} did not answer within {timeout:.0f} s") from None
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return (
        process.returncode,
        out.decode("utf-8", "replace"),
        err.decode("utf-8", "replace").strip(),
    )


class SecretService:
    """Linux: GNOME Keyring, KWallet or KeePassXC, through libsecret's `secret-tool`.

    Its attributes are those of go-keyring and Python's keyring.
    """

    name = "the Secret Service keyring"

    def __init__(self, console: Console) -> None:
        self.console = console

    def read(self) -> str | None:
        """Return the key, or None if none is stored.

        Raises KeychainUnavailable without a keyring, KeychainLocked if it must be unlocked.
        """
        return next(iter(self._search()), None)

    def write(self, key: str) -> None:
        """Store the key. Raises KeychainUnavailable without a keyring, FtError if it refuses."""
        try:
            self._search()  # says in no time whether there is a keyring
        except KeychainLocked:
            pass  # storing asks the user to unlock it
        self._store(key)
        try:
            # A second item, of another program, might be found instead of ours one day.
            if len(self._search()) > 1:
                self._run("clear")
                self._store(key)
        except KeychainUnavailable:
            pass  # but the key is stored

    def clear(self) -> bool:
        """Remove the key and return whether there was one. Raises as `read` does."""
        if not self._search():
            return False
        self._run("clear", timeout=UNLOCK_TIMEOUT)
        if self._search():
            raise FtError(f"{self.name} did not remove the key")
        return True

    def _search(self) -> list[str]:
        """Return the secrets of all matching items, the last modified first.

        `secret-tool search` never prompts and tells absent from locked; `lookup` does neither.
        """
        code, out, err = self._run("search", "--all")
        if code and re.search("dbus-launch|D-Bus", err):
            raise KeychainUnavailable("there is no D-Bus session")
        if code:
            raise KeychainUnavailable(err.splitlines()[-1] if err else f"secret-tool: exit {code}")
        items = re.findall(r"^secret = (.*)\n(?:.*\n)*?modified = (.*)$", out, re.MULTILINE)
        if out and not items:  # it shows an item, but not its secret
            raise KeychainLocked(
                f"{self.name} is locked",
                "unlock it (log in to your desktop, or `gnome-keyring-daemon --unlock`), "
                "or set FINETUNING_API_KEY",
            )
        return [secret for secret, _ in sorted(items, key=lambda item: item[1], reverse=True)]

    def _store(self, key: str) -> None:
        label = f"--label=Password for '{KEYCHAIN_ACCOUNT}' on '{KEYCHAIN_SERVICE}'"
        hint = "unlock the keyring and try again, or set FINETUNING_API_KEY"
        try:
            code, _, err = self._run("store", label, stdin=key, timeout=UNLOCK_TIMEOUT)
        except KeychainTimeout as error:
            raise FtError(f"{self.name} did not store the key: {error}", hint) from None
        if "does not exist at path" in err:
            raise KeychainUnavailable("it has no default collection")
        if code:
            raise FtError(f"{self.name} did not store the key: {err or f'exit {code}'}", hint)

    def _run(
        self, verb: str, *options: str, stdin: str = "", timeout: float = KEYCHAIN_TIMEOUT
    ) -> tuple[int, str, str]:
        attributes = ("service", KEYCHAIN_SERVICE, "username", KEYCHAIN_ACCOUNT)
        argv = ["secret-tool", verb, *options, *attributes]
        return run_keychain_tool(self.console, argv, stdin, timeout)


class MacKeychain:
    """macOS: the login keychain, through Apple's `security`."""

    name = "macOS Keychain"
    # Exit codes of `security` are OSStatus modulo 256.
    NOT_FOUND, NO_INTERACTION, CANCELLED = 44, 36, 128
    FAILURES = {
        NO_INTERACTION: "it cannot be used from here: it is locked, or this is an SSH session",
        CANCELLED: "the request was cancelled",
    }

    def __init__(self, console: Console) -> None:
        self.console = console
        self._item = ["-s", KEYCHAIN_SERVICE, "-a", KEYCHAIN_ACCOUNT]

    def read(self) -> str | None:
        """Return the key, or None if none is stored. Raises FtError if the keychain refuses."""
        from binascii import a2b_base64, unhexlify

        code, out = self._run("find-generic-password", *self._item, "-w")
        if code == self.NOT_FOUND:
            return None
        value = out.strip()
        # The official client (go-keyring) encodes the key; `security` prints hex for odd bytes.
        form, _, encoded = value.rpartition(":")
        try:
            if form == "go-keyring-base64":
                return a2b_base64(encoded).decode()
            if form == "go-keyring-encoded" or re.fullmatch(r"([0-9a-f]{2})+", value):
                return unhexlify(encoded).decode()
        except ValueError:
            pass  # parse_key will call it malformed
        return value

    def write(self, key: str) -> None:
        """Store the key, which `security` reads from stdin. Raises FtError if it refuses."""
        item = " ".join(self._item)
        code, _ = self._run("-i", stdin=f"add-generic-password -U {item} -w {key}\n")
        if code:
            raise FtError(f"{self.name} did not store the key (exit {code})")

    def clear(self) -> bool:
        """Remove the key and return whether there was one. Raises FtError if it stays."""
        code, _ = self._run("delete-generic-password", *self._item)
        return code == 0

    def _run(self, *argv: str, stdin: str = "") -> tuple[int, str]:
        """Return exit code, 0 or NOT_FOUND, and stdout. Raises FtError for all other codes."""
        hint = "set FINETUNING_API_KEY to do without it"
        command = [SECURITY_TOOL, *argv]
        try:
            code, out, _ = run_keychain_tool(self.console, command, stdin, UNLOCK_TIMEOUT)
        except KeychainUnavailable as error:
            raise FtError(f"{self.name}: {error}", hint) from None
        if code in (0, self.NOT_FOUND):
            return code, out
        if code == self.NO_INTERACTION:
            hint = f"run `security unlock-keychain`, or {hint}"
        why = self.FAILURES.get(code, "`security` failed")
        raise FtError(f"{self.name}: {why} (exit {code})", hint)


class WindowsCredentials:
    """Windows: the Credential Manager, through advapi32.

    Writes go-keyring's form, which the official client reads; reads Python keyring's two as well.
    """

    name = "Windows Credential Manager"
    # CRED_TYPE_GENERIC, CRED_PERSIST_LOCAL_MACHINE and ERROR_NOT_FOUND of wincred.h and winerror.h.
    GENERIC, LOCAL_MACHINE, NOT_FOUND = 1, 2, 1168
    FAILURES = {5: "access is denied", 1312: "there is no logon session here (SSH, WinRM)"}

    def __init__(self) -> None:
        import ctypes
        from ctypes.wintypes import DWORD, FILETIME, LPWSTR

        self._own_target = f"{KEYCHAIN_SERVICE}:{KEYCHAIN_ACCOUNT}"
        self._encodings = {
            self._own_target: "utf-8",
            KEYCHAIN_SERVICE: "utf-16-le",
            f"{KEYCHAIN_ACCOUNT}@{KEYCHAIN_SERVICE}": "utf-16-le",
        }

        class Credential(ctypes.Structure):
            """CREDENTIALW of wincred.h."""

            _fields_ = [
                ("Flags", DWORD),
                ("Type", DWORD),
                ("TargetName", LPWSTR),
                ("Comment", LPWSTR),
                ("LastWritten", FILETIME),
                ("CredentialBlobSize", DWORD),
                ("CredentialBlob", ctypes.c_void_p),  # a c_char_p would end at the first zero byte
                ("Persist", DWORD),
                ("AttributeCount", DWORD),
                ("Attributes", ctypes.c_void_p),
                ("TargetAlias", LPWSTR),
                ("UserName", LPWSTR),
            ]

        self._ctypes: Any = ctypes
        self._credential: Any = Credential
        self._library = self._ctypes.WinDLL("advapi32", use_last_error=True)
        self._library.CredFree.argtypes = [ctypes.c_void_p]

    def read(self) -> str | None:
        """Return the key, or None if none is stored. Raises FtError if Windows refuses."""
        return next((secret for _, secret in self._find()), None)

    def write(self, key: str) -> None:
        """Store the key. Raises FtError if Windows refuses."""
        blob = self._ctypes.create_string_buffer(key.encode(), len(key))
        item = self._credential(
            Type=self.GENERIC,
            TargetName=self._own_target,
            CredentialBlobSize=len(blob),
            CredentialBlob=self._ctypes.addressof(blob),
            Persist=self.LOCAL_MACHINE,
            UserName=KEYCHAIN_ACCOUNT,
        )
        if not self._call("CredWriteW", self._ctypes.byref(item), 0):
            raise FtError(f"{self.name} did not store the key")

    def clear(self) -> bool:
        """Remove the key in every form and return whether there was one."""
        targets = [target for target, _ in self._find()]
        for target in targets:
            self._call("CredDeleteW", target, self.GENERIC, 0)
        return bool(targets)

    def _find(self) -> Iterator[tuple[str, str]]:
        """Yield target and secret of each form that is stored."""
        for target, encoding in self._encodings.items():
            pointer = self._ctypes.POINTER(self._credential)()
            if not self._call("CredReadW", target, self.GENERIC, 0, self._ctypes.byref(pointer)):
                continue
            try:
                item = pointer.contents
                # The bare target may be another account's of the same service.
                if target != KEYCHAIN_SERVICE or item.UserName == KEYCHAIN_ACCOUNT:
                    blob = self._ctypes.string_at(item.CredentialBlob, item.CredentialBlobSize)
                    yield target, blob.decode(encoding, "replace")
            finally:
                self._library.CredFree(pointer)

    def _call(self, function: str, *arguments: Any) -> bool:
        """Return False if there is no such credential. Raises FtError for every other failure."""
        if getattr(self._library, function)(*arguments):
            return True
        code = self._ctypes.get_last_error()
        if code == self.NOT_FOUND:
            return False
        why = self.FAILURES.get(code, f"{function} failed")
        raise FtError(
            f"{self.name}: {why} (error {code})", "set FINETUNING_API_KEY to do without it"
        )


class KeyFile:
    """The plaintext fallback of a Linux without a Secret Service: 0600 in a 0700 directory.

    `path` is empty if there is no home directory.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.path = find_config_file("credentials")

    def read(self) -> str | None:
        """Return the key, or None if there is no file. Warns if others can read it.

        Raises FtError if the file is a link, not regular or another user's.
        """
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        try:
            descriptor = os.open(self.path, flags)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            why = "it is a symbolic link" if os.path.islink(self.path) else error.strerror
            raise FtError(f"will not read the key in {self.path}: {why}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FtError(f"will not read the key in {self.path}: it is not a regular file")
            if status.st_uid != os.geteuid():
                raise FtError(f"will not read the key in {self.path}: it belongs to another user")
            if status.st_mode & 0o077:
                self.console.warning("others can read your API key", ("chmod", "600", self.path))
            return os.read(descriptor, 4096).decode("ascii", "replace")
        finally:
            os.close(descriptor)

    def write(self, key: str) -> None:
        """Store the key: at once or not at all, whatever the umask, and never through a link.

        Raises FtError if the file system refuses, UsageError if there is no home directory.
        """
        self.path = os.path.join(config_directory(), "credentials")
        directory = os.path.dirname(self.path)
        temporary = f"{self.path}.{os.urandom(6).hex()}"
        umask = os.umask(0o077)  # makedirs applies its mode to the last directory only
        try:
            os.makedirs(directory, exist_ok=True)
            # The mode of a directory that the user has named is none of our business.
            if not os.environ.get("FINETUNING_CONFIG_HOME"):
                os.chmod(directory, 0o700)
            try:
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL
                with open(os.open(temporary, flags, 0o600), "w") as file:
                    file.write(key + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self.path)
            finally:
                try_remove(temporary)
            for path in self._leftovers():
                # A younger one may belong to another login that is under way.
                if file_age(path) > 60:
                    try_remove(path)
        except OSError as error:
            raise FtError(f"cannot store the key in {self.path}: {error.strerror}") from None
        finally:
            os.umask(umask)

    def clear(self) -> bool:
        """Remove the key, also from what a killed login left, and return whether there was one.

        Raises FtError if it stays.
        """
        path = self.path
        try:
            is_removed = remove_if_exists(path)
            for path in self._leftovers():
                is_removed = remove_if_exists(path) or is_removed
        except OSError as error:
            raise FtError(f"cannot remove {path}: {error.strerror}") from None
        return is_removed

    def _leftovers(self) -> list[str]:
        """Return the temporary files of logins that were killed while they wrote the key."""
        directory, name = os.path.split(self.path)
        try:
            with os.scandir(directory) as entries:
                return [
                    entry.path
                    for entry in entries
                    if re.fullmatch(rf"{name}\.[0-9a-f]{{12}}", entry.name)
                    and entry.is_file(follow_symlinks=False)
                ]
        except (FileNotFoundError, NotADirectoryError):
            return []


def file_age(path: str) -> float:
    """Return the seconds since a file was changed, or 0 if it is gone."""
    try:
        return time.time() - os.lstat(path).st_mtime
    except FileNotFoundError:
        return 0.0


def remove_if_exists(path: str) -> bool:
    """Remove a file and return whether there was one. Raises OSError if it stays."""
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def try_remove(path: str) -> bool:
    """Remove a file and return whether it is gone, as far as can be known."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


class ApiKeys:
    """The sources of an API key, in the reference's order: flag, variable, keychain, file.

    `keychain_error` says why the keychain could not be reached, once it was tried.
    """

    def __init__(self, console: Console, override: str | None) -> None:
        """Take the value of --api-key as `override`."""
        self.console = console
        self.override = override
        self.keychain_error = ""

    @cached_property
    def keychain(self) -> MacKeychain | WindowsCredentials | SecretService:
        """Return this system's keychain."""
        if sys.platform == "darwin":
            return MacKeychain(self.console)
        if sys.platform == "win32":
            return WindowsCredentials()
        return SecretService(self.console)

    @cached_property
    def file(self) -> KeyFile | None:
        """Return the plaintext fallback, which only Linux has."""
        return None if sys.platform in ("darwin", "win32") else KeyFile(self.console)

    def from_invocation(self) -> Key | None:
        """Return the key of --api-key or FINETUNING_API_KEY, unchecked; an empty one is unset."""
        variable = os.environ.get("FINETUNING_API_KEY")
        for text, source in ((self.override, "--api-key"), (variable, "FINETUNING_API_KEY")):
            if text and text.strip():
                return Key(text, source, is_stored=False)
        return None

    @cached_property
    def _found(self) -> Key | None:
        key = self.from_invocation()
        if key is None:
            key = Key(self._read_keychain() or "", self.keychain.name, is_stored=True)
        if self.file and not key.text.strip():
            key = Key(self.file.read() or "", self.file.path, is_stored=True)
        if not key.text.strip():
            return None
        return Key(parse_key(key.text, key.source), key.source, key.is_stored)

    def _read_keychain(self) -> str | None:
        """Return what the keychain holds; None, with `keychain_error` set, if it is unavailable."""
        try:
            return self.keychain.read()
        except KeychainUnavailable as error:
            self.keychain_error = str(error)
            if isinstance(error, KeychainTimeout):
                self.console.warning(f"{error}; going on without {self.keychain.name}")
            return None

    def find(self) -> Key:
        """Return the API key and where it came from.

        Sources are tried in order, and the rest are left alone once one has a key. Raises FtError,
        with the three ways to give a key, if there is none, and UsageError if it is malformed.
        """
        if self._found is None:
            why = ""
            if self.keychain_error:
                why = f" ({self.keychain.name} cannot be reached: {self.keychain_error})"
            raise FtError(
                "no API key",
                f"get one at {KEY_URL}, then run `ft auth login`, set FINETUNING_API_KEY "
                f"or pass --api-key{why}",
            )
        return self._found

    def save(self, key: str) -> str:
        """Store a key in the keychain or, on a Linux that has none, in the file.

        Returns the name of the place. Raises FtError if it cannot be stored.
        """
        try:
            self.keychain.write(key)
        except KeychainUnavailable as error:
            assert self.file  # only the Secret Service of Linux raises it
            self.keychain_error = str(error)
            self.file.write(key)
            return self.file.path
        if self.file:
            self.file.clear()
        return self.keychain.name

    def remove(self) -> list[str]:
        """Remove the key from the keychain and the file, and return the places that had one.

        Raises FtError if a keychain keeps it, or may.
        """
        places = [self.file.path] if self.file and self.file.clear() else []
        try:
            if self.keychain.clear():
                places.insert(0, self.keychain.name)
        except (FtError, KeychainTimeout) as error:
            for place in places:
                self.console.note(f"removed the key from {place}")
            if isinstance(error, FtError):
                raise
            raise FtError(f"{self.keychain.name} may still hold the key: {error}") from None
        except KeychainUnavailable as error:
            self.keychain_error = str(error)
        return places


# --- 5. HTTP -------------------------------------------------------------------------------------


def parse_http_date(value: str) -> float | None:
    """Return the seconds since the epoch of an HTTP date (RFC 9110, 5.6.7), or None."""
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
        # The asctime form of a date names no zone; it is always UTC.
        date = date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        return date.timestamp()
    # Python 3.8's parser itself can raise UnboundLocalError.
    except (TypeError, ValueError, OverflowError, IndexError, UnboundLocalError):
        return None


def parse_retry_after(headers: http.client.HTTPMessage) -> float | None:
    """Return the seconds that the header Retry-After asks for, or None if it asks for no wait.

    The value is a whole number of seconds or an HTTP date (RFC 9110, 10.2.3), by the clock of the
    server, which its Date tells: the one of this machine may be wrong.
    """
    value = headers.get("Retry-After")
    if value is None:
        return None
    if re.fullmatch("[0-9]{1,9}", value.strip(), re.ASCII):
        return clean_delay(float(value))
    date = parse_http_date(value)
    now = parse_http_date(headers.get("Date", "")) or time.time()
    return None if date is None else clean_delay(date - now)


def clean_delay(seconds: float) -> float | None:
    """Return the wait that a server asks for: a second at least, or None for no wait at all.

    A wait of 0 would use up all attempts within a moment, so the usual back-off is better.
    """
    return max(1.0, seconds) if seconds > 0 else None


def describe_failure(error: BaseException) -> str:
    """Return why a connection failed, in a few words.

    Raises `error` itself if it is not the network's: a module is missing.
    """
    import socket

    if isinstance(error, ImportError):
        raise error
    if isinstance(error, socket.timeout):
        return "it did not answer in time"
    if isinstance(error, socket.gaierror):
        return "host not found"
    complaint = getattr(error, "verify_message", None)
    if complaint:
        return f"its certificate is not trusted: {complaint}"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)


def hint_for_certificate(error: BaseException, context: ssl.SSLContext) -> str:
    """Return what a user can do about a certificate that failed verification."""
    if re.search("expired|not yet valid", str(error)):
        date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        return f"is the clock of this machine right? It shows {date} UTC"
    bundle = os.environ.get("SSL_CERT_FILE")
    if bundle and not os.path.exists(bundle):
        return f"SSL_CERT_FILE names {bundle}, which does not exist"
    strict = re.search("key identifier|basic constraints|key usage", str(error), re.IGNORECASE)
    if sys.version_info >= (3, 13) and strict:
        return "Python 3.13 is stricter with private CAs: reissue the CA with the missing extension"
    if bundle:
        return f"SSL_CERT_FILE names {bundle}: does it contain the CA that signed this certificate?"
    if not has_authorities(context):
        return "this machine has no CA certificates: install the package ca-certificates"
    return "behind a company's proxy or CA, set SSL_CERT_FILE to its bundle"


def find_hashed_directory() -> str | None:
    """Return the directory in which OpenSSL looks up trusted certificates by hash by default.

    Returns None if there is none, if it is not hashed, or if anything else may be trusted instead:
    what SSL_CERT_FILE or SSL_CERT_DIR name, or the keychains of Windows and macOS.
    """
    import ssl

    if sys.platform in ("win32", "darwin") or {"SSL_CERT_FILE", "SSL_CERT_DIR"} & set(os.environ):
        return None
    directory = ssl.get_default_verify_paths().capath
    try:
        names = os.listdir(directory) if directory else []
    except OSError:
        names = []
    is_hashed = any(re.fullmatch(r"[0-9a-f]{8}\.[0-9]+", name) for name in names)
    return directory if is_hashed else None


def create_tls_context(directory: str | None = None) -> ssl.SSLContext:
    """Return a context that trusts what is in `directory`, or else what Python trusts by default.

    Raises NetworkError if SSLKEYLOGFILE, which Python opens here, cannot be written.
    """
    import ssl

    try:
        return ssl.create_default_context(capath=directory)
    except OSError as error:
        name = os.environ.get("SSLKEYLOGFILE")
        why = f"SSLKEYLOGFILE names {name}: " if name and error.filename else ""
        raise NetworkError(
            f"cannot set up TLS: {why}{error.strerror or error}", sent=False, final=True
        ) from None


def has_authorities(context: ssl.SSLContext) -> bool:
    """Return whether there is any CA that `context` trusts, loaded or in OpenSSL's directory."""
    import ssl

    if context.cert_store_stats()["x509_ca"]:
        return True
    directory = ssl.get_default_verify_paths().capath  # read by OpenSSL when it is needed
    try:
        return bool(directory and os.listdir(directory))
    except OSError:
        return False


class RetryPolicy:
    """Which failures of a request allow sending it again, and how often in all.

    A failure to connect always does, because nothing was sent. `if_sent` says whether a request
    may be repeated that the service may already have received, `statuses` after which answers.
    """

    def __init__(self, *, if_sent: bool, statuses: tuple[int, ...], attempts: int) -> None:
        self.if_sent = if_sent
        self.statuses = statuses
        self.attempts = attempts

    def allows(self, failure: NetworkError | ApiError) -> bool:
        if isinstance(failure, ApiError):
            return failure.status in self.statuses
        return not failure.final and (self.if_sent or not failure.sent)


# 520 to 524 are Cloudflare's, for a server behind it that fails.
TRANSIENT_STATUSES = (500, 502, 503, 504, 520, 521, 522, 523, 524)
READ = RetryPolicy(if_sent=True, statuses=(429, *TRANSIENT_STATUSES), attempts=MAX_ATTEMPTS)
# A change that the service may have made is reported, never repeated.
CHANGE = RetryPolicy(if_sent=False, statuses=(429,), attempts=MAX_ATTEMPTS)
# A submission costs a credit, and its 429 tells the user to slow down.
SUBMISSION = RetryPolicy(if_sent=False, statuses=(), attempts=2)
# Polling asks again by itself, at its own pace.
POLL = RetryPolicy(if_sent=False, statuses=(), attempts=1)


class Gate:
    """Hold back all requests that share one of the service's limits, whichever thread sends them.

    A 429 closes the gate for as long as its Retry-After says. Requests wait until it opens, so that
    they do not compete for the few that the service takes, and their waiting costs no attempt.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self._lock = allocate_lock()
        self._opening = 0.0  # a time of time.monotonic
        self._refusal: NetworkError | ApiError | None = None  # the last 429
        self._refused_since: float | None = None  # None after any other answer
        self._is_hopeless = False
        self._is_noted = True

    def time_left(self) -> float:
        """Return the seconds until the gate opens, 0 if it is open."""
        return max(0.0, self._opening - time.monotonic())

    def wait(self) -> None:
        """Wait until the gate is open. The first to wait tells the user.

        Raises the 429 that closed it if the wait is over MAX_GATE_WAIT, or if the service has
        answered with nothing but 429s for GATE_TIMEOUT.
        """
        while True:
            with self._lock:
                left = self.time_left()
                if not left:
                    return
                refusal, is_noted = self._refusal, self._is_noted
                self._is_noted = True
            if refusal and self._is_hopeless:
                raise refusal
            if refusal and not is_noted and left > 1:
                self.console.note(f"{refusal.message}; trying again in {left:.0f} s")
            self.console.sleep_with_status(left, lambda: "waiting to try again")

    def close(self, failure: NetworkError | ApiError, will_repeat: bool) -> bool:
        """Close for as long as a 429 asks for, and return True; return False for other failures.

        A long wait only concerns requests that would be repeated.
        """
        delay = failure.retry_after
        if failure.status != 429 or delay is None:
            return False
        if delay > MAX_GATE_WAIT and not will_repeat:
            return False
        with self._lock:
            now = time.monotonic()
            if now >= self._opening:  # and not a second 429 for the same wait
                self._is_noted = self._is_hopeless = False
            if self._refused_since is None:
                self._refused_since = now
            end = self._refused_since + GATE_TIMEOUT
            self._is_hopeless |= delay > MAX_GATE_WAIT or now + delay > end
            self._opening = max(self._opening, now + delay)
            self._refusal = failure
        return True

    def reopen(self) -> None:
        """Let requests through again, because what the service has refused them for has passed."""
        with self._lock:
            self._opening = 0.0
            self._refused_since = None

    def record_answer(self, status: int) -> None:
        """Take note of an answer: any but a 429 means that the service takes requests again."""
        if status != 429:
            self._refused_since = None


class Retries:
    """Count the attempts of one request and wait between them.

    There is no new attempt once `seconds` have passed or the waits add up to RETRY_TIME; waiting
    for the gate does not count.
    """

    def __init__(
        self, console: Console, policy: RetryPolicy, gate: Gate, seconds: float = float("inf")
    ) -> None:
        self.console = console
        self.policy = policy
        self.attempts = 1
        self._gate = gate
        self._end = time.monotonic() + seconds
        self._left = RETRY_TIME

    def start_attempt(self) -> None:
        """Wait until the gate is open. Raises the 429 that closed it if that would take too long.

        `HttpClient.request` would wait too, but at the cost of the call's time.
        """
        start = time.monotonic()
        self._gate.wait()
        self._end += time.monotonic() - start

    def wait_or_raise(self, failure: NetworkError | ApiError) -> None:
        """Wait as long as `failure` asks for, or else with full jitter, before another attempt.

        Raises `failure` if there must be no other attempt.
        """
        is_allowed = self.policy.allows(failure)
        is_held_back = self._gate.close(failure, is_allowed)
        if not is_allowed:
            raise failure
        if not is_held_back:
            self._back_off(failure)

    def _back_off(self, failure: NetworkError | ApiError) -> None:
        import random

        delay = failure.retry_after
        if delay is None:
            delay = random.random() * min(8.0, 0.5 * 2**self.attempts)
        exhausted = self.attempts >= self.policy.attempts or delay > self._left
        if exhausted or time.monotonic() > self._end:
            raise failure
        self.attempts += 1
        self._left -= delay
        if delay > 1:
            self.console.note(f"{failure.message}; trying again in {delay:.0f} s")
        self.console.sleep_with_status(delay, lambda: "waiting to try again")


class TimedReader(io.RawIOBase):
    """The receiving half of a connection, which gives up at a deadline even if bytes drip in.

    The deadline is a time of time.monotonic, or None to limit only each receive (READ_TIMEOUT).
    """

    def __init__(self, sock: socket.socket, raw: io.RawIOBase, deadline: float | None) -> None:
        self._sock = sock
        self._raw = raw  # holding it keeps the socket open
        self._deadline = deadline
        self._is_paused = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        """Receive what has arrived. Raises socket.timeout at the deadline."""
        if self._is_paused:
            return None  # io's way of saying that nothing has arrived
        own_timeout = self._sock.gettimeout()
        try:
            return self._receive(buffer)
        finally:
            self._sock.settimeout(own_timeout)  # a TLS handshake may follow, through a proxy

    def _receive(self, buffer: Any) -> int:
        import socket

        left = READ_TIMEOUT
        while True:
            if self._deadline is not None:
                left = min(left, self._deadline - time.monotonic())
            if left <= 0:
                raise socket.timeout("timed out")
            # In short steps: Python notices a signal that comes just before recv only after it.
            step = min(left, 1.0)
            self._sock.settimeout(step)
            try:
                return self._sock.recv_into(buffer)
            except socket.timeout as error:
                if error.errno:  # the system's own ETIMEDOUT
                    raise
                left -= step

    def set_deadline(self, deadline: float | None) -> None:
        self._deadline = deadline

    def has_leftover(self, buffer: io.BufferedReader) -> bool:
        """Return whether `buffer`, which reads from this reader, holds bytes not yet asked for."""
        self._is_paused = True
        try:
            return bool(buffer.peek(1))
        finally:
            self._is_paused = False

    def close(self) -> None:
        self._raw.close()
        super().close()


TOKEN_PATTERN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"


def read_head(stream: io.BufferedReader) -> bytes:
    """Read the status line and headers of an answer and return them in their plainest form.

    http.client stops at a line that is no header, and so loses those after it; and to it a bare CR
    ends a line. Either can hide how the body is framed. Here folded lines are joined and a bare
    CR is a space (RFC 9112, 2.2 and 5.2). Lines that are no header are left out. Raises ValueError
    if they might be about framing, or if the head is too long or breaks off.
    """
    lines: list[bytes] = []
    while True:
        line = stream.readline(MAX_LINE_BYTES)
        if not line and not lines:
            return b""
        if not line.endswith(b"\n"):
            is_long = len(line) == MAX_LINE_BYTES
            raise ValueError("a header is too long" if is_long else "the headers broke off")
        line = line[: -2 if line.endswith(b"\r\n") else -1].replace(b"\r", b" ")
        if not lines and not line.lstrip().startswith(b"HTTP/"):
            return line + b"\r\n"  # http.client refuses it; nothing more may come
        if not line:
            return b"".join(line + b"\r\n" for line in [lines[0], *clean_headers(lines[1:]), b""])
        if len(lines) > 1 and line.startswith((b" ", b"\t")):
            lines[-1] += line
        else:
            lines.append(line)
        if len(lines) > MAX_HEADERS + 1 or len(lines[-1]) > MAX_LINE_BYTES:
            raise ValueError("too many headers")


def clean_headers(lines: Iterable[bytes]) -> Iterator[bytes]:
    """Yield `lines` without spaces around names and values, and without those that are no header.

    Raises ValueError if such a line might be about framing.
    """
    for line in lines:
        name, colon, value = line.partition(b":")
        name = name.rstrip(b" \t")
        if colon and re.fullmatch(TOKEN_PATTERN, name):
            yield name + b": " + value.strip(b" \t")
        elif re.search(b"(?i)transfer.?encoding|content.?length", line):
            raise ValueError("a malformed header")


def read_final_head(stream: io.BufferedReader) -> bytes:
    """Return the head of the final answer, after those of 1xx; http.client knows only 100.

    Raises ValueError if there are too many, or as `read_head` does.
    """
    for _ in range(MAX_INTERIM_ANSWERS):
        head = read_head(stream)
        if not re.match(rb"HTTP/\S*\s+1[0-9][0-9](\s|$)", head):
            return head
    raise ValueError("too many interim answers")


@lru_cache(maxsize=None)
def http_classes() -> Any:
    """Return a namespace with our subclasses of urllib's and http.client's classes.

    They are made on first use: importing urllib takes three times as long as starting Python.
    """
    import http.client
    import urllib.request
    from types import SimpleNamespace

    class Answer(http.client.HTTPResponse):
        """An answer that is read through a TimedReader, and whose head is read by `read_head`."""

        fp: Any = None  # what close() looks at if a signal interrupts __init__

        def __init__(self, sock: socket.socket, *args: Any, deadline: Any, **options: Any) -> None:
            super().__init__(sock, *args, **options)
            self.reader = TimedReader(sock, self.fp.detach(), deadline)
            self.fp = io.BufferedReader(self.reader, 65536)

        def begin(self) -> None:
            """Take in the head of the final answer."""
            stream = self.fp
            self.fp = io.BytesIO(read_final_head(stream))
            try:
                super().begin()
            finally:
                self.fp = stream

    class Request(urllib.request.Request):
        """A request that knows its deadline and whether it may travel on a kept connection."""

        def __init__(
            self, url: str, fields: Any, deadline: Any, reuse: bool, **options: Any
        ) -> None:
            super().__init__(url, **options)
            self.fields = fields  # its headers; urllib would write X-api-key
            self.deadline = deadline
            self.reuse = reuse
            self.origin: str = self.host

        @property
        def proxy(self) -> str:
            """Return host and port of the proxy that urllib chose, without its password, or ""."""
            return self.host if self._tunnel_host else ""  # type: ignore[attr-defined]

        @property
        def title(self) -> str:
            """Return what to call the other side in messages."""
            return f"{self.origin} through the proxy {self.proxy}" if self.proxy else self.origin

    class ProxyHandler(urllib.request.ProxyHandler):
        """urllib's choice of a proxy, with a clear error for one that it would misunderstand."""

        def proxy_open(self, request: Any, proxy: str, scheme: str) -> None:
            if not is_proxy_bypassed(request.host):
                check_proxy(proxy)
                super().proxy_open(request, proxy, scheme)

    class Handler(urllib.request.BaseHandler):
        """The last of urllib's handlers. It hands requests to HttpClient instead of do_open.

        do_open hides the moment of connecting and closes every connection.
        """

        def __init__(self, send: Callable[[Any], Response]) -> None:
            self.http_open = self.https_open = send

    return SimpleNamespace(
        Answer=Answer, Request=Request, ProxyHandler=ProxyHandler, Handler=Handler
    )


def is_proxy_bypassed(host: str) -> bool:
    """Return whether NO_PROXY names `host`, which may end in a port.

    urllib knows names and plain IPv4 addresses; curl also takes IPv6 and ranges (`10.0.0.0/8`).
    """
    import urllib.request

    if urllib.request.proxy_bypass(host):
        return True
    match = re.fullmatch(r"([0-9.]+|\[.*\])(:[0-9]+)?", host)
    listed = urllib.request.getproxies_environment().get("no", "")
    if not match or not re.search("[/:]", listed):
        return False
    import ipaddress

    for entry in re.split(r"[\s,]+", listed):
        try:
            address = ipaddress.ip_address(match[1].strip("[]"))
            if address in ipaddress.ip_network(entry.strip("[]"), strict=False):
                return True
        except ValueError:
            continue
    return False


def check_proxy(proxy: str) -> None:
    """Raise UsageError if HTTPS_PROXY is not the address of an HTTP proxy."""
    if proxy.lower().startswith("socks"):
        raise UsageError("SOCKS proxies are not supported: HTTPS_PROXY must name an HTTP proxy")
    if proxy.lower().startswith("https:"):
        # urllib would talk to it without TLS, and send its password in clear.
        raise UsageError("proxies over TLS are not supported: HTTPS_PROXY must begin with http://")
    match = re.fullmatch(r"(http://)?([^/]*@)?([^/@]+)/?", proxy, re.IGNORECASE)
    try:
        parse_url(f"https://{match[3] if match else ''}", "HTTPS_PROXY")
    except ValueError:
        raise UsageError(
            "HTTPS_PROXY is not the address of a proxy, such as http://proxy:3128"
        ) from None


class Response:
    """An answer whose head has arrived. Leaving its `with` block keeps or closes the connection.

    `status`, `reason` and `headers` are http.client's. `content_type` is in lower case and without
    parameters. `host` names who answered, for messages.
    """

    def __init__(self, client: HttpClient, request: Any, connection: Any, raw: Any) -> None:
        self.status: int = raw.status
        self.reason: str = raw.reason or ""
        self.headers: http.client.HTTPMessage = raw.headers
        # Cut out by hand: http.client's own method parses parameters and can fail on them.
        content_type: str = raw.headers.get("Content-Type", "")
        self.content_type = content_type.partition(";")[0].strip().lower()
        self.host: str = request.origin
        self._client, self._request, self._connection, self._raw = client, request, connection, raw
        # None without such a header; an empty one is as odd as an unknown coding.
        codings = raw.headers.get_all("Transfer-Encoding")
        self._coding = None if codings is None else ", ".join(codings).lower()
        self._chunk_left: int | None = None  # None before a chunk's size has been read
        self._received = 0
        self._is_complete = self.status in (204, 304)

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *exception: object) -> None:
        reusable = self._is_complete and self.status in (200, 206) and self._can_be_followed()
        self._raw.close()
        self._client.release(self._request, self._connection, reusable)

    def _can_be_followed(self) -> bool:
        """Return whether the connection may carry another request: open, and nothing left on it."""
        if self._raw.will_close or self._raw.version != 11 or not self._request.reuse:
            return False
        if self._coding and "Content-Length" in self.headers:
            return False  # the two may have been meant to mislead somebody on the way
        return not self._raw.reader.has_leftover(self._raw.fp)

    @cached_property
    def _length(self) -> int | None:
        """Return the number of bytes announced, or None if chunks or the connection's end tell.

        Raises NetworkError if the headers contradict themselves (RFC 9112, 6.3).
        """
        if self._coding == "chunked":  # wins over a Content-Length
            return None
        if self._coding is not None:
            raise NetworkError(
                f"{self.host} sent an answer encoded as {self._coding or 'nothing'}", final=True
            )
        lengths = self.headers.get_all("Content-Length")
        if lengths is None:
            return None
        if len(lengths) != 1 or not re.fullmatch("[0-9]{1,15}", lengths[0]):
            raise NetworkError(f"{self.host} does not say how long its answer is")
        return int(lengths[0])

    @property
    def content_coding(self) -> str:
        """Return the Content-Encoding of the body, or "" if it has none."""
        values = ",".join(self.headers.get_all("Content-Encoding") or []).lower().split(",")
        codings = [value.strip() for value in values]
        return ", ".join(coding for coding in codings if coding not in ("", "identity"))

    def content_length(self) -> int | None:
        """Return the announced length in bytes, or None if the body comes in chunks.

        Raises NetworkError if nothing but the end of the connection would end the body.
        """
        if self._length is None and not self._coding:
            raise NetworkError(f"{self.host} does not say how long its answer is")
        return self._length

    def read(self, count: int) -> bytes:
        """Return the next bytes, at most `count`; none at the end of the body.

        Raises NetworkError if the connection breaks or the body is cut off.
        """
        if self._is_complete:
            return b""
        try:
            # Also refuses other codings.
            is_plain = self._length is not None or not self._coding
            return self._read_plain(count) if is_plain else self._read_chunked(count)
        except NetworkError:
            raise
        except Exception as error:
            raise self._broken(describe_failure(error)) from None

    def _broken(self, why: str) -> NetworkError:
        return NetworkError(f"the answer from {self.host} broke off: {why}")

    def _read_plain(self, count: int) -> bytes:
        """Return bytes of a body that its announced length or the end of the connection ends."""
        left = count if self._length is None else self._length - self._received
        data: bytes = self._raw.fp.read1(min(count, left)) if left else b""
        self._received += len(data)
        if self._received == self._length or (self._length is None and not data):
            self._is_complete = True
        elif not data:
            raise self._broken(f"{self._received} of {self._length} bytes")
        return data

    def _read_chunked(self, count: int) -> bytes:
        """Return bytes of a chunk (RFC 9112, 7.1).

        http.client takes any two bytes for the end of a chunk, and so loses bytes in silence.
        """
        if self._chunk_left is None:
            match = re.fullmatch(b"([0-9A-Fa-f]{1,15})[ \t]*(;[^\r]*)?", self._read_line())
            if not match:
                raise self._broken("a chunk without a size")
            self._chunk_left = int(match[1], 16)
        if self._chunk_left == 0:
            self._skip_trailers()
            self._is_complete = True
            return b""
        data: bytes = self._raw.fp.read1(min(count, self._chunk_left))
        if not data:
            raise self._broken("in the middle of a chunk")
        self._chunk_left -= len(data)
        if self._chunk_left == 0:
            if self._read_line():
                raise self._broken("a chunk longer than its size")
            self._chunk_left = None
        return data

    def _skip_trailers(self) -> None:
        for _ in range(MAX_HEADERS):
            if not self._read_line():
                return
        raise self._broken("too many trailers")

    def _read_line(self) -> bytes:
        """Return a line without its CR LF. Raises NetworkError if it does not end so."""
        line: bytes = self._raw.fp.readline(MAX_LINE_BYTES)
        if not line.endswith(b"\r\n"):
            raise self._broken("a line without an end")
        return line[:-2]

    def read_all(self, limit: int) -> bytes:
        """Return the whole body. Raises NetworkError if it is cut off or has over `limit` bytes."""
        if self._length is not None and self._length > limit:
            size = format_size(self._length)
            raise NetworkError(f"the answer from {self.host} is too long: {size}", final=True)
        body = bytearray()
        while True:
            piece = self.read(limit + 1 - len(body))
            if not piece:
                return bytes(body)
            body += piece
            if len(body) > limit:
                size = format_size(limit)
                raise NetworkError(
                    f"the answer from {self.host} is too long: over {size}", final=True
                )


class HttpClient:
    """Send requests through urllib and read their answers. It knows neither keys nor JSON.

    `https_only` refuses plain http for public files. Connections whose answers end cleanly are
    kept for later GETs to the same origin; a POST or a poll always opens a new one, so that a
    connection which the server has closed in silence never makes it unclear what was received.
    """

    def __init__(self, console: Console, https_only: bool) -> None:
        self.console = console
        self.https_only = https_only
        self.public_gate = Gate(console)  # for the limit of the media host
        self._kept: dict[tuple[str, str, str], list[Any]] = {}  # idle connections, by their route
        self._answering: dict[tuple[str, int], tuple[str, int]] = {}  # the address of each host

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None = None,
        *,
        gate: Gate,
        seconds: float | None = None,
        reuse: bool = False,
    ) -> Response:
        """Send one request to an address that parse_url accepts, and return its answer.

        It is sent as soon as `gate` is open; raises the 429 that closed it if that takes too long.
        From then on `seconds` limit the whole answer, otherwise only its head and each
        receive are limited. `reuse` lets a GET travel on a kept connection. Raises NetworkError if
        there is no answer; its `sent` is False if the request cannot have been received.
        """
        headers = {"User-Agent": f"ft/{__version__}", **headers}
        gate.wait()
        deadline = None if seconds is None else time.monotonic() + seconds
        request = http_classes().Request(url, headers, deadline, reuse, data=body, method=method)
        response: Response = self._opener.open(request)
        gate.record_answer(response.status)
        return response

    @cached_property
    def _opener(self) -> urllib.request.OpenerDirector:
        """Return urllib's frame: its choice of a proxy, and then `_send`."""
        import urllib.request

        opener = urllib.request.OpenerDirector()
        proxy = urllib.request.getproxies().get("https")
        if proxy and not urllib.request.getproxies_environment():
            # Windows' own settings name no scheme, and older Pythons add that of what is asked for.
            proxy = re.sub("(?i)^https:", "http:", proxy)
        if proxy:  # plain http stays on this machine (parse_url), where no proxy is needed
            opener.add_handler(http_classes().ProxyHandler({"https": proxy}))
        opener.add_handler(http_classes().Handler(self._send))
        return opener

    def _send(self, request: Any) -> Response:
        """Send `request` on a kept or a new connection, once urllib has chosen its proxy."""
        import socket

        through = f" through the proxy {request.proxy}" if request.proxy else ""
        self.console.log(f"> {request.get_method()} {request.full_url}{through}")
        for name, value in request.fields.items():
            self.console.log(f"> {name}: {value}")
        start = time.monotonic()
        connection = self._take_kept(request)
        is_kept = connection is not None
        while True:
            connection = connection or self._connect(request)
            try:
                raw = self._exchange(connection, request)
                break
            except Exception as error:
                connection.close()
                why = describe_failure(error)
                self.console.log(f"< no answer: {why}")
                if not is_kept or isinstance(error, socket.timeout):
                    raise NetworkError(f"no answer from {request.title}: {why}") from None
            # The server had closed the connection meanwhile, and a GET may be sent again.
            connection, is_kept = None, False
        self.console.log(f"< {raw.status} {raw.reason} ({time.monotonic() - start:.2f} s)")
        for name, value in raw.headers.items():
            self.console.log(f"< {name}: {value}")
        return Response(self, request, connection, raw)

    def _connect(self, request: Any) -> Any:
        """Open a connection: name, TCP, the proxy's CONNECT, TLS.

        Raises NetworkError with `sent` False, because nothing has been sent yet.
        """
        try:
            if request.type != "https":
                return self._open_connection(request, None)
            quick_context = self._quick_tls_context
            try:
                return self._open_connection(request, quick_context or self._tls_context)
            except Exception as error:
                if not quick_context or not hasattr(error, "verify_message"):
                    raise
                # The bundle may contain the issuer, or a newer certificate of the same issuer.
                self.console.log(f"< not sent: {describe_failure(error)}; trying all certificates")
                self._quick_tls_context = None
                return self._open_connection(request, self._tls_context)
        except NetworkError:
            raise
        except Exception as error:
            why = describe_failure(error)
            is_untrusted = hasattr(error, "verify_message")
            # http.client has no exception of its own for a proxy that refuses.
            is_refused = re.match("Tunnel connection failed: 4", str(error)) is not None
            self.console.log(f"< not sent: {why}")
            raise NetworkError(
                f"cannot connect to {request.title}: {why}",
                hint_for_certificate(error, self._tls_context) if is_untrusted else "",
                sent=False,
                final=is_untrusted or is_refused,
            ) from None

    def _open_connection(self, request: Any, context: ssl.SSLContext | None) -> Any:
        """Return an open connection, over TLS if there is a context. Raises whatever goes wrong."""
        import http.client

        connection: Any
        if context:
            connection = http.client.HTTPSConnection(
                request.host, timeout=CONNECT_TIMEOUT, context=context
            )
        else:
            connection = http.client.HTTPConnection(request.host, timeout=CONNECT_TIMEOUT)
        connection._create_connection = self._open_socket  # there is no public way
        connection.response_class = partial(
            http_classes().Answer, deadline=time.monotonic() + READ_TIMEOUT
        )
        try:
            if request.proxy:
                connection.set_tunnel(request.origin, headers=dict(request.header_items()))
            connection.connect()
            connection.sock.settimeout(READ_TIMEOUT)
        except Exception:
            connection.close()
            raise
        return connection

    @cached_property
    def _quick_tls_context(self) -> ssl.SSLContext | None:
        """Return a context that trusts only OpenSSL's hashed directory, or None without one.

        It is a part of what `_tls_context` trusts. OpenSSL reads from it the one certificate that
        it needs, which takes 2 ms; parsing a whole bundle takes 20 to 40.
        """
        directory = find_hashed_directory()
        return create_tls_context(directory) if directory else None

    @cached_property
    def _tls_context(self) -> ssl.SSLContext:
        """Return a context that trusts everything that Python trusts by default."""
        return create_tls_context()

    def _open_socket(
        self, address: tuple[str, int], timeout: float, *source: object
    ) -> socket.socket:
        """Connect to a host: first to that address of it which answered before, if any.

        Otherwise each request would wait for a dead first address to time out.
        """
        import socket

        known = self._answering.get(address)
        try:
            sock = socket.create_connection(known or address, timeout)
        except OSError:
            if not known:
                raise
            self._answering.pop(address, None)
            sock = socket.create_connection(address, timeout)
        self._answering[address] = sock.getpeername()[:2]
        return sock

    def _exchange(self, connection: Any, request: Any) -> Any:
        """Send the request and return http.client's answer, once its head has arrived.

        Whatever fails here, the request may have been received.
        """
        import socket

        head_deadline = request.deadline or time.monotonic() + CALL_TIMEOUT
        connection.response_class = partial(http_classes().Answer, deadline=head_deadline)
        try:
            connection.request(request.get_method(), request.selector, request.data, request.fields)
        except socket.timeout:
            raise
        except OSError:
            # The other side may have refused and hung up before it had read everything. Its
            # answer, if one has arrived, says more than the broken connection.
            pass
        raw = connection.getresponse()
        raw.reader.set_deadline(request.deadline)
        return raw

    def _take_kept(self, request: Any) -> Any:
        """Return an idle connection that is still open and quiet, or None."""
        idle = self._kept.get(self._route(request), []) if request.reuse else []
        while True:
            try:
                connection = idle.pop()
            except IndexError:  # another thread may have taken the last one
                return None
            sock = connection.sock
            try:
                # A connection that has something to read was closed, or answers unasked. TLS may
                # have decrypted more than was read; select does not see that.
                is_quiet = not is_ready(sock.fileno(), 0.0)
                if is_quiet and not (hasattr(sock, "pending") and sock.pending()):
                    return connection
            except (OSError, ValueError):
                pass
            connection.close()

    @staticmethod
    def _route(request: Any) -> tuple[str, str, str]:
        return request.type, request.origin, request.proxy

    def release(self, request: Any, connection: Any, reusable: bool) -> None:
        """Keep the connection of an answer that was closed, or close it."""
        if reusable:
            self._kept.setdefault(self._route(request), []).append(connection)
        else:
            connection.close()

    def get_public(self, url: str, headers: dict[str, str]) -> Response:
        """GET a public file without the key, along at most 5 redirects, never from https to http.

        Returns an answer of 200 or, if `headers` ask for a Range, of 206 or 416. Raises
        NetworkError for any other.
        """
        from urllib.parse import urljoin

        headers = {"Accept": "*/*", "Accept-Encoding": "identity", **headers}
        for _ in range(MAX_REDIRECTS + 1):
            url = self._check_public(url)
            response = self.request("GET", url, headers, gate=self.public_gate, reuse=True)
            if response.status == 200 or ("Range" in headers and response.status in (206, 416)):
                return response
            with response:
                target = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or not target:
                    raise self._refusal(response)
                try:
                    target = urljoin(url, quote_url(target))
                except ValueError:
                    raise NetworkError(
                        f"{response.host} redirects to no address: {target}", final=True
                    ) from None
                if url.lower().startswith("https:") and not target.lower().startswith("https:"):
                    raise NetworkError(
                        f"refusing to follow {response.host} from https to {target}", final=True
                    )
                url = target
        raise NetworkError(f"more than {MAX_REDIRECTS} redirects from {response.host}", final=True)

    def get_bytes(self, url: str, limit: int) -> bytes:
        """Return the content of a small public file, after as many attempts as a read allows."""
        retries = Retries(self.console, READ, self.public_gate)
        while True:
            retries.start_attempt()
            try:
                with self.get_public(url, {}) as response:
                    return response.read_all(limit)
            except NetworkError as failure:
                retries.wait_or_raise(failure)

    def _check_public(self, url: str) -> str:
        """Return `url` in a form that can be sent.

        Raises NetworkError unless it is https, or http on loopback for a service that is there too.
        """
        url = quote_url(url)
        try:
            match = parse_url(url, f"the address {url}")
        except ValueError as error:
            raise NetworkError(str(error), final=True) from None
        if match["scheme"].lower() == "http" and self.https_only:
            raise NetworkError(f"the address {url} must be https", final=True)
        return url

    @staticmethod
    def _refusal(response: Response) -> NetworkError:
        """Return the error for a status that is neither a file nor a redirect."""
        delay = parse_retry_after(response.headers)
        failure = NetworkError(
            f"HTTP {response.status} from {response.host}",
            "" if delay is None else f"retry after {delay:.0f} s",
            final=response.status not in READ.statuses,
        )
        failure.status = response.status
        failure.retry_after = delay
        return failure


def quote_url(url: str) -> str:
    """Return `url` without its fragment, and with what a URL cannot hold percent-encoded."""
    from urllib.parse import quote

    return quote(url.partition("#")[0], safe="!$%&'()*+,/:;=?@[]~", errors="surrogatepass")


# --- 6. API --------------------------------------------------------------------------------------


def get_member(container: Any, name: str, kind: type) -> Any:
    """Return `container[name]`. Raises NetworkError unless it is a `kind`, as the contract says."""
    value = container.get(name) if isinstance(container, dict) else None
    if not isinstance(value, kind):
        raise NetworkError(f"unexpected reply from the service: no `{name}`", final=True)
    return value


def get_records(container: Any, name: str) -> list[Json]:
    """Return the list of objects in `container[name]`. Raises NetworkError if it is none."""
    found: list[Any] = get_member(container, name, list)
    if not all(isinstance(item, dict) for item in found):
        raise NetworkError(f"unexpected reply from the service: invalid `{name}`", final=True)
    return found


def steady_time() -> float:
    """Return the seconds of a clock that nobody sets, and that goes on while the machine sleeps.

    time.monotonic stands still meanwhile, on macOS because it is not the system's CLOCK_MONOTONIC.
    """
    for name in ("CLOCK_BOOTTIME", "CLOCK_MONOTONIC"):
        try:
            seconds: float = time.clock_gettime(getattr(time, name))
            return seconds
        except (AttributeError, OSError):  # unknown to Python or to the system
            pass
    return time.monotonic()


class Api:
    """The service's API: one method an endpoint, in the order of its documentation.

    Each returns the document as the service sent it. All raise ApiError if the service refuses
    (4xx, 5xx) and NetworkError if there is no usable answer. The key goes to `base_url` and nowhere
    else.
    """

    def __init__(self, http: HttpClient, base_url: str, key: Key | None = None) -> None:
        self.http = http
        self.base_url = base_url
        self.key = key
        # The service counts submissions apart: GENERATION_RATE_LIMITED and QUEUE_FULL hold back
        # only them.
        self.gate = Gate(http.console)
        self.submission_gate = Gate(http.console)
        self._clock = ("", 0.0)  # the last answer's Date, and when it came by steady_time

    def read_clock(self) -> float | None:
        """Return the service's time, by its last answer. None if that had no Date."""
        header, arrival = self._clock
        date = parse_http_date(header) if header else None
        return None if date is None else date + steady_time() - arrival

    def get_health(self) -> Json:
        """Send GET /health, which needs no key."""
        return self._call("GET", "/health")

    def get_account(self) -> Json:
        """Send GET /v1/me; the account is under `data`."""
        document = self._call("GET", self._path("me"))
        get_member(document, "data", dict)
        return document

    def submit(self, kind: Kind, endpoint: str, body: Json) -> Json:
        """Send POST /v1/generations, /v1/instrumental or /v1/sound-effects, which costs a credit.

        It is never repeated once the service may have received it (see `may_be_accepted`). The
        record is under `data` and has an `id`.
        """
        try:
            document = self._call("POST", self._path(endpoint), body, SUBMISSION)
        except ApiError as error:
            if error.code == "QUEUE_FULL":
                error.explain(f"`{kind.list_command} --status processing` shows what is in flight")
            raise
        identifier = get_member(get_member(document, "data", dict), "id", str)
        if not identifier.strip():
            raise NetworkError("unexpected reply from the service: an empty `id`")
        return document

    def get_record(self, kind: Kind, identifier: str, retry: RetryPolicy | None = None) -> Json:
        """Send GET /v1/generations/:id or /v1/sound-effects/:id; the record is under `data`."""
        try:
            document = self._call("GET", self._path(kind.path, identifier), retry=retry or READ)
        except ApiError as error:
            if error.status == 404:
                shows = f"`{kind.list_command}` shows"
                is_whole = re.fullmatch(UUID_PATTERN, identifier)
                form = "an id has 36 characters, of which the first 6 will do"
                error.explain(f"{shows} your ids" if is_whole else f"{form}: {shows} them")
            raise
        get_member(document, "data", dict)
        return document

    def list_records(self, kind: Kind, retry: RetryPolicy | None = None, **query: Any) -> Json:
        """Send GET /v1/generations or /v1/sound-effects: `limit`, `offset`, `status`, `type`."""
        document = self._call("GET", self._path(kind.path, **query), retry=retry)
        get_records(get_member(document, "data", dict), kind.list_field)
        return document

    def list_all_records(
        self, kind: Kind, offset: int = 0, retry: RetryPolicy | None = None, **query: Any
    ) -> Iterator[Json]:
        """Yield the documents of all pages from `offset` on, with each record only once.

        Tracks made meanwhile push old ones to the next page, where they would come again. Raises
        NetworkError if the service says that there are more, but not where: some would be missing.
        """
        known: set[str] = set()
        while True:
            document = self.list_records(kind, retry, limit=99, offset=offset or None, **query)
            data = document["data"]
            fresh = [
                record for record in data[kind.list_field] if field_text(record, "id") not in known
            ]
            known.update(field_text(record, "id") for record in fresh)
            data[kind.list_field] = fresh
            yield document
            following = data.get("nextOffset")
            # A page without anything new would be the first of endless repetitions.
            if not fresh or data.get("hasMore") is not True:
                return
            if type(following) is not int or following <= offset:
                raise NetworkError(
                    "unexpected reply from the service: more records, but no next page", final=True
                )
            offset = following

    def bulk_delete(self, ids: list[str]) -> Json:
        """Send POST /v1/generations/bulk-delete, with at most 100 ids."""
        return self._call("POST", self._path("generations", "bulk-delete"), {"ids": ids}, CHANGE)

    def get_playlists(self) -> Json:
        """Send GET /v1/playlists; all of the user's are under `data.playlists`."""
        document = self._call("GET", self._path("playlists"))
        get_records(get_member(document, "data", dict), "playlists")
        return document

    def get_playlist(self, playlist: str) -> Json:
        """Send GET /v1/playlists/:id; its tracks are under `data.tracks`."""
        document = self._call("GET", self._path("playlists", playlist))
        get_records(get_member(document, "data", dict), "tracks")
        return document

    def add_tracks(self, playlist: str, ids: list[str]) -> Json:
        """Send POST /v1/playlists/:id/tracks, with at most 100 ids."""
        path = self._path("playlists", playlist, "tracks")
        return self._call("POST", path, {"trackIds": ids}, CHANGE)

    def remove_tracks(self, playlist: str, ids: list[str]) -> Json:
        """Send POST /v1/playlists/:id/tracks/bulk-remove, with at most 100 ids."""
        path = self._path("playlists", playlist, "tracks", "bulk-remove")
        return self._call("POST", path, {"trackIds": ids}, CHANGE)

    def move_tracks(self, source: str, target: str, ids: list[str]) -> Json:
        """Send POST /v1/playlists/:id/tracks/move, with at most 100 ids."""
        path = self._path("playlists", source, "tracks", "move")
        return self._call("POST", path, {"trackIds": ids, "targetPlaylistId": target}, CHANGE)

    @staticmethod
    def _path(*parts: str, **query: Any) -> str:
        """Return the path of an endpoint; a member of the query that is None is left out."""
        from urllib.parse import quote, urlencode

        given = {name: value for name, value in query.items() if value is not None}
        path = "/".join(["/v1", *(quote(part, safe="", errors="surrogatepass") for part in parts)])
        return path + (f"?{urlencode(given)}" if given else "")

    def _call(
        self, method: str, path: str, body: Json | None = None, retry: RetryPolicy | None = None
    ) -> Json:
        """Return the JSON object that answers, after as many attempts as `retry` allows."""
        policy = retry or READ
        gate = self.submission_gate if policy is SUBMISSION else self.gate
        retries = Retries(self.http.console, policy, gate, CALL_TIMEOUT)
        while True:
            retries.start_attempt()
            try:
                return self._call_once(method, path, body, gate, reuse=policy is READ)
            except (NetworkError, ApiError) as failure:
                retries.wait_or_raise(failure)

    def _call_once(
        self, method: str, path: str, body: Json | None, gate: Gate, reuse: bool
    ) -> Json:
        headers = {"Accept": "application/json"}
        data = None
        if self.key is not None:
            headers["X-API-Key"] = self.key.text
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = format_json(body).encode("utf-8")
        url = self.base_url + path
        with self.http.request(
            method, url, headers, data, gate=gate, seconds=CALL_TIMEOUT, reuse=reuse
        ) as response:
            self._clock = (response.headers.get("Date", ""), steady_time())
            # A redirect would carry the key elsewhere, or turn a POST into a GET.
            if 300 <= response.status < 400:
                target = response.headers.get("Location", "nowhere")
                raise NetworkError(
                    f"refusing to follow {response.host} to {target} (HTTP {response.status})",
                    final=True,
                )
            if response.status >= 400:
                raise self._read_error(response)
            return self._read_document(response)

    def _read_document(self, response: Response) -> Json:
        """Return the JSON object in a 2xx. Raises NetworkError for anything else."""
        content = response.read_all(MAX_JSON_BYTES)
        coding = response.content_coding
        try:
            document = None if coding else parse_json(content)
        except ValueError:
            document = None
        if response.status < 200 or not isinstance(document, dict):
            content_type = response.content_type or "no type"
            facts = f"HTTP {response.status}, {content_type}" + (f", {coding}" if coding else "")
            is_page = response.content_type == "text/html"
            raise NetworkError(
                f"unexpected reply from {response.host} ({facts})",
                f"is {self.base_url} the right base URL?" if is_page else "",
            )
        return document

    def _read_error(self, response: Response) -> ApiError:
        """Return what can be learnt from a 4xx or 5xx, whose body may be anything or break off."""
        error: Any = None
        try:
            error = parse_json(response.read_all(MAX_ERROR_BYTES)).get("error")
        except (NetworkError, ValueError, AttributeError):
            pass
        if not isinstance(error, dict):
            error = {}
        message, code = error.get("message"), error.get("code")
        delay = parse_retry_after(response.headers)
        if delay is None and is_number(error.get("retryAfter")) and error["retryAfter"] < 1e9:
            delay = clean_delay(float(error["retryAfter"]))
        if not isinstance(message, str) or not message:
            message = f"HTTP {response.status} {response.reason}".rstrip()
        code = code if isinstance(code, str) else ""
        failure = ApiError(response.status, message, code, error.get("details"), delay)
        if code == "INVALID_API_KEY" and self.key and not self.key.is_stored:
            failure.explain(
                f"the key from {self.key.source} may have been revoked: "
                "give another, or run `ft auth login`"
            )
        return failure


# --- 7. Files ------------------------------------------------------------------------------------


# What fsync and close report when data was lost. Anything else means that the file system has no
# fsync, as with EINVAL from many that run in user space.
LOST_DATA = {
    getattr(errno, name, None)
    for name in ("EIO", "ENOSPC", "EDQUOT", "EFBIG", "ESTALE", "ENXIO", "ENOTCONN", "ETIMEDOUT")
}
# Of Linux, for files that `chattr +i` or `chattr +a` protects. The number contains the size of a C
# long.
FS_IOC_GETFLAGS = 0x80006601 | (8 if sys.maxsize > 1 << 32 else 4) << 16
FS_IMMUTABLE_FL, FS_APPEND_FL = 0x10, 0x20
BSD_PROTECTED = 0x60006  # `chflags` uchg, uappnd, schg and sappnd


class UnusableTarget(FtError):
    """A file cannot be replaced. `instead` is a path beside it where the track can go or is."""

    def __init__(self, name: str, why: str, instead: str, is_kept: bool = False) -> None:
        kept = f"; the whole track is in {instead}" if is_kept else ""
        super().__init__(f"cannot write {name}: {why}{kept}")
        self.instead = instead


class DiskFull(FtError):
    """There is no room for a file, so any other would fail like it."""


def usable_path(path: str) -> str:
    """Return a path for calls of the system, which on Windows must be marked if it is long."""
    return mark_long_path(os.path.abspath(path)) if os.name == "nt" else path


def resolve_links(path: str) -> str:
    """Return the file that a path leads to, so that a link stays a link when that is replaced."""
    try:
        return os.path.realpath(usable_path(path))
    except OSError:
        if os.name != "nt":
            raise
        return usable_path(path)  # some of its file systems cannot answer


def replace_file(path: str, target: str) -> None:
    """Rename a file over another one. Raises OSError if the file system refuses.

    On Windows it refuses while a virus scanner looks at one of them, so that is waited for.
    """
    deadline = time.monotonic() + 2
    while True:
        try:
            return os.replace(path, target)
        except PermissionError:
            if os.name != "nt" or time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def is_protected(path: str) -> bool:
    """Return whether `chattr` or `chflags` keeps a file or directory from being changed.

    False where that cannot be found out.
    """
    if getattr(os.stat(path), "st_flags", 0) & BSD_PROTECTED:
        return True
    if not sys.platform.startswith("linux"):
        return False
    import fcntl

    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        flags = int.from_bytes(
            fcntl.ioctl(descriptor, FS_IOC_GETFLAGS, bytes(8))[:4], sys.byteorder
        )
    except OSError:  # most file systems have no such flags
        return False
    finally:
        os.close(descriptor)
    return bool(flags & (FS_IMMUTABLE_FL | FS_APPEND_FL))


def is_mount_point(path: str) -> bool:
    """Return whether a file is mounted by itself, as Docker does it, and so cannot be replaced."""
    try:
        with open("/proc/self/mountinfo", "rb") as file:
            points = {line.split()[4] for line in file}
    except OSError:  # not Linux
        return os.stat(path).st_dev != os.stat(os.path.dirname(path)).st_dev
    # Device numbers prove nothing here: in an overlay, files may have others than directories.
    escaped = re.sub(rb"[ \t\n\\]", lambda match: b"\\%03o" % ord(match[0]), os.fsencode(path))
    return escaped in points


def find_obstacle(path: str, status: os.stat_result) -> str:
    """Return why the existing file `path` cannot be replaced, or nothing."""
    if not stat.S_ISREG(status.st_mode):
        return "it is a directory" if stat.S_ISDIR(status.st_mode) else "it is not a regular file"
    if is_protected(path):
        return "it is immutable (see `lsattr`)"
    if is_mount_point(path):
        return "it is a mount point"
    # root may write everywhere, but did not mean to if nobody may.
    if not status.st_mode & 0o222 or not os.access(path, os.W_OK):
        return "it is read-only"
    directory = os.stat(os.path.dirname(path))
    owners = (0, status.st_uid, directory.st_uid)
    if os.name != "nt" and directory.st_mode & stat.S_ISVTX and os.geteuid() not in owners:
        return "it belongs to another user"
    return ""


def name_beside(path: str, keeps_name: bool = True) -> str:
    """Return a new name for what cannot be called `path`, in the same directory."""
    if os.path.islink(path):
        path = os.path.realpath(path)
    directory, name = os.path.split(path)
    stem, extension = os.path.splitext(name) if keeps_name else ("track", ".mp3")
    return os.path.join(directory, f"{stem}-{os.urandom(3).hex()}{extension}")


def hidden_name(directory: str, name: str, suffix: str) -> str:
    """Return a name for a hidden file, with `name` in it.

    A file system that refuses `name` then refuses this one too, before a credit is spent. Only
    what would make it too long is cut off.
    """
    prefix = f".ft-{os.urandom(6).hex()}-"
    try:
        longest = min(255, os.pathconf(directory, "PC_NAME_MAX"))
    except (AttributeError, OSError, ValueError):  # AttributeError: Windows
        longest = 255
    kept = os.fsencode(name)[: longest - len(prefix) - len(suffix)]
    return prefix + kept.decode(sys.getfilesystemencoding(), "ignore") + suffix


class PartFiles:
    """The hidden files that this process is writing. `main` closes them, so that none is left."""

    def __init__(self) -> None:
        self._open: dict[str, PartFile] = {}
        self._lock = allocate_lock()
        self.closed = False

    def create(self, path: str, suffix: str = ".part") -> PartFile:
        """Return a hidden file beside `path`, still to be started, that will replace it."""
        return PartFile(self, path, suffix)

    def start(self, file: PartFile, make: Callable[[], None]) -> None:
        """Remember `file` and let `make` create it. Raises FtError after `close`."""
        with self._lock:
            if self.closed:
                raise FtError("stopped")
            self._open[file.hidden_path] = file
            make()

    def forget(self, file: PartFile) -> None:
        self._open.pop(file.hidden_path, None)

    def close(self) -> None:
        """Remove all hidden files. From now on none can be made, not even by other threads."""
        with self._lock:
            self.closed = True
        for file in list(self._open.values()):
            file.remove()


class PartFile:
    """Write a download to a hidden temporary file and rename it into place once it is complete.

    So a failed download never damages an existing file. All methods raise FtError if the file
    system refuses. `name` is the path as the user gave it, `title` what errors call it.
    """

    def __init__(self, part_files: PartFiles, path: str, suffix: str) -> None:
        self.name = self.title = path
        self._part_files = part_files
        self._suffix = suffix
        self._path = self.hidden_path = ""  # until it is started
        self._mode: int | None = None  # of the file that will be replaced
        self._old_size = 0  # of it, in bytes
        self._file: Any = None
        self._output: Output

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove()

    def restart(self) -> None:
        """Begin, or begin again from nothing."""
        try:
            if self._file:
                self._file.seek(0)
                self._file.truncate()
                return
            fault = find_windows_fault(self.name) if os.name == "nt" else ""
            if fault:
                raise FtError(f"cannot write {self.title}: {fault}")
            self._path = resolve_links(self.name)
            directory, name = os.path.split(self._path)
            os.makedirs(directory, exist_ok=True)
            self._check_target()
            if is_protected(directory):  # new files can be made there, but not renamed
                raise FtError(f"cannot write {self.title}: its directory is immutable")
            self.hidden_path = os.path.join(directory, hidden_name(directory, name, self._suffix))
            self._part_files.start(self, self._make)
        except (OSError, ValueError) as error:
            raise self._refused(error) from None

    def _check_target(self) -> None:
        """Note the mode of an existing target. Raises UnusableTarget if it cannot be replaced."""
        try:
            status = os.stat(self._path)  # fails for a name too long, unlike os.path.exists
        except FileNotFoundError:
            return
        obstacle = find_obstacle(self._path, status)
        if obstacle:
            raise UnusableTarget(self.name, obstacle, name_beside(self.name))
        self._mode = stat.S_IMODE(status.st_mode) & 0o777
        self._old_size = status.st_size

    def _make(self) -> None:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
        # Nobody can read the hidden file who could not read what it replaces.
        mode = 0o666 if self._mode is None else self._mode
        self._file = open(os.open(self.hidden_path, flags, mode), "wb", buffering=0)
        self._output = Output(self._file)

    def _refused(self, error: Exception) -> FtError:
        is_full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT)
        kind = DiskFull if is_full else FtError
        return kind(f"cannot write {self.title}: {getattr(error, 'strerror', None) or error}")

    def write(self, data: bytes) -> None:
        try:
            self._output.write(data)
        except OSError as error:
            raise self._refused(error) from None

    def would_shrink(self, size: int) -> bool:
        """Return whether the file that will be replaced is longer than `size` bytes."""
        return size < self._old_size

    def finish(self) -> None:
        """Get all bytes onto the disk and close the hidden file, which stays hidden."""
        descriptor = self._file.fileno()
        for step in (partial(self._copy_mode, descriptor), partial(os.fsync, descriptor)):
            self._unless_lost(step)
        self._unless_lost(self._file.close)

    def _copy_mode(self, descriptor: int) -> None:
        if self._mode is not None and hasattr(os, "fchmod"):
            os.fchmod(descriptor, self._mode)

    def _unless_lost(self, step: Callable[[], None]) -> None:
        """Call `step`. Raises FtError if it fails in a way that means lost data."""
        try:
            step()
        except OSError as error:
            if error.errno in LOST_DATA:
                raise self._refused(error) from None

    def commit(self) -> None:
        """Put the complete file in place of the target.

        Raises UnusableTarget if the file system refuses; the file is then kept under another name.
        """
        self.finish()
        try:
            replace_file(self.hidden_path, self._path)
        except OSError as error:
            why = error.strerror or str(error)
            if not os.path.lexists(self.hidden_path):
                raise FtError(
                    f"cannot write {self.title}: its hidden file or directory was moved or removed"
                ) from None
            raise UnusableTarget(self.name, why, self._keep(), is_kept=True) from None

    def _keep(self) -> str:
        """Keep the complete file under another name beside the target, and return that."""
        self._part_files.forget(self)
        for keeps_name in (True, False):
            path = name_beside(self.name, keeps_name)
            try:
                replace_file(self.hidden_path, usable_path(path))
                return path
            except OSError:
                pass
        kept, self.hidden_path = self.hidden_path, ""  # a hidden file is better than none
        return kept

    def remove(self) -> None:
        """Close and remove the hidden file if it is still there."""
        try:
            if self._file:
                self._file.close()
        except OSError:  # what could not be written is removed with the file
            pass
        if try_remove(self.hidden_path):
            self._part_files.forget(self)


def find_descriptor(path: str) -> int | None:
    """Return N if a path means this process's descriptor N, as /dev/stdout and /dev/fd/N do.

    Opening such a path would begin at the start of the file, and replacing it would replace the
    file.
    """
    own = rf"(/dev|/proc/{os.getpid()}|/proc/{os.getpid()}/task/[0-9]+)/fd"
    try:
        for _ in range(40):  # links
            directory, name = os.path.split(path)
            directory = os.path.realpath(directory)
            if re.fullmatch(own, directory) and re.fullmatch("[0-9]{1,9}", name, re.ASCII):
                return int(name)
            path = os.path.join(directory, os.readlink(os.path.join(directory, name)))
    except (OSError, ValueError):  # it is no link
        pass
    return None


def is_closed_stream(descriptor: int) -> bool:
    """Return whether a descriptor was closed (`>&-`), so that the null device stands in for it."""
    streams = (sys.__stdin__, sys.__stdout__, sys.__stderr__)
    return descriptor < len(streams) and streams[descriptor] is None


def require_stdout() -> None:
    """Raise FtError if stdout is closed: what a script pays for would be lost."""
    if is_closed_stream(1):
        raise FtError("cannot write output: stdout is closed")


def is_stdout(output: str | None) -> bool:
    return output is not None and (output == "-" or find_descriptor(output) == 1)


def is_stream(path: str) -> bool:
    """Return whether a path is written to and never replaced: a descriptor, a pipe, /dev/null."""
    if path == "-" or find_descriptor(path) is not None:
        return True
    if os.name == "nt":  # where other devices look like NUL
        return os.path.basename(path).upper() == "NUL"
    try:
        status = os.stat(path)
        null = os.stat(os.devnull)
    except (OSError, ValueError):
        return False
    is_null = stat.S_ISCHR(status.st_mode) and status.st_rdev == null.st_rdev
    return is_null or stat.S_ISFIFO(status.st_mode)


class StreamFile:
    """A track that goes to stdout, a pipe or /dev/null, from where nothing can be taken back."""

    def __init__(self, console: Console, path: str) -> None:
        self.console = console
        self.name = path
        self._output: Output | None = None
        self._is_started = False

    def __enter__(self) -> StreamFile:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._output:
            self._output.close()

    def check(self) -> None:
        """Raise FtError if nothing can be written there, UsageError if it is a terminal."""
        descriptor = 1 if self.name == "-" else find_descriptor(self.name)
        if descriptor is None:
            if os.name != "nt" and not os.access(self.name, os.W_OK):
                raise FtError(f"cannot write {self.name}: {os.strerror(errno.EACCES)}")
        elif is_closed_stream(descriptor):
            raise FtError(f"cannot write {self.name}: it is closed")
        elif os.isatty(descriptor):
            raise UsageError(
                "will not write an MP3 to a terminal", "redirect stdout, or give -o a file"
            )
        elif self.name != "-":
            self._check_descriptor(descriptor)

    def _check_descriptor(self, descriptor: int) -> None:
        import fcntl

        try:
            flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
        except OSError as error:
            raise self._refused(error) from None
        if flags & (os.O_RDONLY | os.O_WRONLY | os.O_RDWR) == os.O_RDONLY:
            raise FtError(f"cannot write {self.name}: it is open for reading only")

    def _refused(self, error: OSError) -> FtError:
        return FtError(f"cannot write {self.name}: {error.strerror or error}")

    def restart(self) -> None:
        if self._is_started:
            raise NetworkError("the download broke off and cannot be resumed", final=True)
        if self.name != "-" and not self._output:
            try:
                self._output = Output(open(self._open(), "wb", buffering=0))
            except OSError as error:
                raise self._refused(error) from None

    def _open(self) -> int:
        """Return a new descriptor. Where a pipe has no reader yet, wait for one."""
        descriptor = find_descriptor(self.name)
        if descriptor is not None:
            return os.dup(descriptor)
        while True:
            try:
                return os.open(self.name, os.O_WRONLY | getattr(os, "O_NONBLOCK", 0))
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
            self.console.sleep_with_status(0.1, lambda: f"waiting for a reader of {self.name}")

    def write(self, data: bytes) -> None:
        self._is_started = True
        if not self._output:
            return self.console.write_bytes(data)
        try:
            self._output.write(data)
        except OSError as error:
            raise self._refused(error) from None

    def would_shrink(self, size: int) -> bool:
        return False

    def commit(self) -> None:
        pass


def names_directory(output: str) -> bool:
    """Return whether -o means a directory: one that exists, or any that ends in a slash."""
    return output.endswith(("/", os.sep)) or os.path.isdir(usable_path(output))


def choose_path(output: str | None, record: Json) -> str:
    """Return where to save a track: -o, a default name in its directory, or `-` for stdout."""
    if output is None:
        return default_filename(record)
    if names_directory(output):
        return os.path.join(output, default_filename(record))
    return "-" if is_stdout(output) else output


def open_destination(console: Console, part_files: PartFiles, path: str) -> PartFile | StreamFile:
    """Return the file for a path of `choose_path`, still to be started."""
    return StreamFile(console, path) if is_stream(path) else part_files.create(path)


class TracksOnDisk:
    """The files of a directory that may be tracks of a run, by the short ids in their names.

    The rest of a name is that of the title, which may have changed. Two ids of the run that share a
    short id cannot be told apart, so nothing is found for them. Raises FtError if the directory
    cannot be read; one that is missing is empty.
    """

    def __init__(self, directory: str, ids: Iterable[str]) -> None:
        self._paths: dict[str, list[str]] = {}
        known: set[str] = set()
        shared: set[str] = set()
        for short in map(short_id, ids):
            (shared if short in known else known).add(short)
        wanted = known - shared
        lengths = {len(short) for short in wanted}
        try:
            names = os.listdir(directory or ".") if wanted else []
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise FtError(f"cannot read {directory or '.'}: {error.strerror}") from None
        for name in names:
            stem, extension = os.path.splitext(name)
            for length in lengths if extension == ".mp3" else ():
                short = stem[-length:]
                if short in wanted and stem[:-length].endswith("-"):
                    self._paths.setdefault(short, []).append(os.path.join(directory, name))

    def find(self, record: Json) -> str | None:
        """Return the path of a record's track, or None if it is missing or not whole.

        A whole one has the size that the service names, and something in it if it names none.
        """
        expected: Any = record.get("fileSize")
        for path in self._paths.get(short_id(record.get("id")), ()):
            size = file_size(path)
            if size and (not is_number(expected) or expected <= 0 or size == expected):
                return path
        return None


def file_size(path: str) -> int:
    """Return the size of a file in bytes, 0 if there is no regular file of that name."""
    try:
        status = os.stat(path)
    except (OSError, ValueError):
        return 0
    return status.st_size if stat.S_ISREG(status.st_mode) else 0


def write_metadata(part_files: PartFiles, path: str, record: Json) -> None:
    """Write a record as JSON into a file. Raises FtError if that is impossible."""
    text = redact(escape_json(format_json(record), ascii_only=False)) + "\n"
    with part_files.create(path) as file:
        file.restart()
        file.write(text.encode())
        file.commit()


def check_destination(console: Console, part_files: PartFiles, output: str | None) -> None:
    """Make sure, before a credit is spent, that a track can be saved where -o says.

    A missing directory is made. Raises FtError if nothing can be written there.
    """
    if output == "":
        raise UsageError("-o needs a file or a directory")
    path = choose_path(output, {"id": "00000000"})
    with open_destination(console, part_files, path) as file:
        if isinstance(file, StreamFile):
            file.check()
        else:
            if path != output:  # a name that nobody knows
                file.title = f"a track into {output or 'the working directory'}"
            file.restart()


class Resume:
    """How far a download has come, and how to go on with it within this run.

    Only a strong ETag proves that the rest belongs to the same file (RFC 9110, 13.1.5); without
    one a download starts over.
    """

    def __init__(self) -> None:
        self.position = 0  # bytes
        self.total: int | None = None  # bytes; None if the server did not say
        self._beginning = b""
        self._etag = ""

    def headers(self) -> dict[str, str]:
        """Return the request headers that ask for the rest, or none to ask for the whole."""
        is_strong = re.fullmatch('"[!#-~]*"', self._etag)
        if not self.position or self.total is None or not is_strong:
            return {}
        return {"Range": f"bytes={self.position}-", "If-Range": self._etag}

    def restart(self, response: Response) -> None:
        """Begin with an answer that contains the whole file."""
        self.position, self.total = 0, response.content_length()
        self._beginning = b""
        self._etag = response.headers.get("ETag", "")

    def require_rest(self, response: Response) -> None:
        """Raise NetworkError unless the answer is exactly the rest; then the next starts over."""
        content_range = f"bytes {self.position}-{(self.total or 0) - 1}/{self.total}"
        expected = (206, [content_range], [self._etag])
        headers = response.headers
        found = (response.status, headers.get_all("Content-Range"), headers.get_all("ETag"))
        if found != expected:
            self._etag = ""
            raise NetworkError(f"{response.host} did not go on where the track broke off")

    def add(self, data: bytes) -> None:
        """Take in the next bytes of the file."""
        self._beginning += data[: max(0, 20 - self.position)]
        self.position += len(data)

    def require_end(self, response: Response) -> None:
        """Raise NetworkError unless the whole file has arrived, and it can be a track."""
        host = response.host
        if self.total is not None and self.position != self.total:
            self._etag = ""
            raise NetworkError(
                f"the answer from {host} broke off: {self.position} of {self.total} bytes"
            )
        if not self.position:
            raise NetworkError(f"an empty track from {host}", final=True)
        if re.match(rb"\s*(<[!?a-zA-Z]|\{)", self._beginning):  # a page or a document
            raise no_track(response)


def download_file(
    http: HttpClient, url: str, file: PartFile | StreamFile, progress: Progress, expected: float
) -> None:
    """Download `url` into `file`, going on where the connection broke if that is safe.

    `expected` is the number of bytes by its record, 0 if unknown. Raises NetworkError if the
    network fails for good, FtError if the file cannot be written.
    """
    retries = Retries(http.console, READ, http.public_gate)
    resume = Resume()
    while True:
        retries.start_attempt()
        try:
            with http.get_public(url, resume.headers()) as response:
                if response.status != 200:
                    resume.require_rest(response)
                check_is_audio(response)
                if response.status == 200:
                    announced = response.content_length()
                    progress.start_file(resume.position, resume.total, announced)
                    file.restart()
                    resume.restart(response)
                while True:
                    data = response.read(READ_SIZE)
                    if not data:
                        break
                    file.write(data)
                    resume.add(data)
                    progress.add_bytes(len(data))
                resume.require_end(response)
            return commit_track(http.console, file, response.host, resume.position, expected)
        except NetworkError as failure:
            retries.wait_or_raise(failure)


def commit_track(
    console: Console, file: PartFile | StreamFile, host: str, size: int, expected: float
) -> None:
    """Put a track in place, with a warning if it has fewer bytes than its record says.

    That is better than nothing, but not than a longer file: then NetworkError is raised.
    """
    is_short = size < expected
    short = f"{host} sent {size} of the {expected} bytes that the record says"
    if is_short and file.would_shrink(size):
        raise NetworkError(f"{short}: {file.name} stays as it was", final=True)
    file.commit()
    if is_short:
        console.warning(f"{file.name}: {short}")


def check_is_audio(response: Response) -> None:
    """Raise NetworkError if an answer cannot be a track: encoded, a page, or of unknown length."""
    response.content_length()
    if response.content_coding:
        raise NetworkError(f"{response.host} sent an encoded track", final=True)
    content_type = response.content_type
    if content_type.startswith("text/") or re.search(r"\b(json|xml|html)$", content_type):
        raise no_track(response)


def no_track(response: Response) -> NetworkError:
    content_type = response.content_type or "no type"
    facts = f"HTTP {response.status}, {content_type}"
    return NetworkError(f"unexpected reply from {response.host} ({facts})", final=True)


# --- 8. Workflows --------------------------------------------------------------------------------


def start_threads(work: Callable[[], None], count: int) -> int:
    """Start `count` threads, or as many as the system allows, and return how many there are."""
    import threading

    for started in range(count):
        try:
            # Daemons, so that a signal need not wait for them.
            threading.Thread(target=work, daemon=True).start()
        except RuntimeError:  # a limit on processes; the threads that have started will do
            return started
    return count


class Workers:
    """Call a function for items in a few threads, or in the caller's where none can be started.

    A signal that `shield` holds back is let through only there.
    """

    def __init__(self, work: Callable[[Any], str], shield: Shield) -> None:
        import queue

        self._work = work
        self._shield = shield
        self._waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._ended: queue.SimpleQueue[Outcome] = queue.SimpleQueue()
        # Open when something may have ended. Before Python 3.13, a SimpleQueue with a timeout can
        # wait for ever once a signal has come.
        self._bell = allocate_lock()
        self._bell.acquire()
        self._threads = 0

    def add(self, item: Any) -> None:
        self._waiting.put(item)
        if self._threads < PARALLEL_DOWNLOADS:
            self._threads += start_threads(self._work_off, 1)

    def take_outcome(self, seconds: float) -> Outcome | None:
        """Return (item, result, error) of one that has ended, or None after so many seconds."""
        import queue

        try:
            if not self._threads:
                outcome: Outcome = self._shield.call(self._attempt, self._waiting.get_nowait())
                return outcome
            if self._ended.empty():
                self._bell.acquire(timeout=seconds)
            return self._ended.get_nowait()
        except queue.Empty:
            return None

    def drop_waiting(self) -> None:
        """Begin no more of what was added."""
        import queue

        try:
            while True:
                self._waiting.get_nowait()
        except queue.Empty:
            pass

    def _attempt(self, item: Any) -> Outcome:
        try:
            return item, self._work(item), None
        except StopSignal:
            raise
        except BaseException as error:  # whatever it is, the item must not be missing at the end
            return item, "", error

    def _work_off(self) -> None:
        while True:
            self._ended.put(self._attempt(self._waiting.get()))
            try:
                self._bell.release()
            except RuntimeError:  # it is open already
                pass


class Submission:
    """What to submit, as plain data: the kind of its record, the endpoint and the request body.

    A member of `body` that is None is left out. `is_marked` means that ft has made up the seed, so
    that no other track has it.
    """

    def __init__(self, kind: Kind, endpoint: str, body: Json, is_marked: bool = False) -> None:
        self.kind = kind
        self.endpoint = endpoint
        self.body = {name: value for name, value in body.items() if value is not None}
        self.is_marked = is_marked


# What the service makes of a number that is out of range, by endpoint and field.
CLAMPS = {
    "generations": {"duration": (5, 210), "bpm": (60, 200)},
    "instrumental": {"duration": (30, 210)},
    "sound-effects": {"duration": (1, 30)},
}
INSTRUMENTAL_STEP = 15  # seconds that the length of an instrumental is rounded to


def may_be_accepted(error: BaseException) -> bool:
    """Return whether the service may have accepted a submission although it failed."""
    if isinstance(error, ApiError):
        return error.status >= 500 and error.code != "GENERATION_FAILED"
    return isinstance(error, NetworkError) and error.sent


def has_prompt(record: Json, submission: Submission) -> bool:
    """Return whether a record has the prompt of a submission, however its words are spaced."""
    prompt = field_text(submission.body, "tags" if "tags" in submission.body else "prompt")
    return field_text(record, "prompt").split() == prompt.split()


def is_answer_to(record: Json, submission: Submission) -> bool:
    """Return whether a record may be the track of a submission, by its prompt and parameters.

    What was not sent, or is not in the record, may be anything; only a seed must be there.
    """
    body = submission.body
    parameters = {**get_parameters(record)}
    if "requestedDuration" in record:  # of a sound effect, which has no parameters
        parameters.setdefault("duration", record["requestedDuration"])
    kind = "instrumental" if submission.endpoint == "instrumental" else "music"
    if not has_prompt(record, submission):
        return False
    if submission.kind is GENERATION and field_text(record, "type", kind) != kind:
        return False
    if "seed" in body and read_number(parameters.get("seed")) != body["seed"]:
        return False
    key, _, scale = field_text(parameters, "keyscale", "").partition(" ")
    return all(
        got in (None, "") or is_same_value(body.get(name, got), got)
        for name, got in (
            ("key", key),
            ("scale", scale),
            ("timesignature", parameters.get("timesignature")),
            ("language", parameters.get("language")),
            ("enhance", parameters.get("enhance")),
        )
    ) and all(
        is_same_number(submission.endpoint, name, body.get(name), parameters.get(name))
        for name in ("duration", "bpm")
    )


def read_number(value: Any) -> Any:
    """Return a number, or the one that a text is. None for anything else."""
    if isinstance(value, str):
        try:
            value = parse_json(value)
        except ValueError:
            return None
    return value if is_number(value) else None


def is_same_value(sent: Any, got: Any) -> bool:
    """Return whether two values are the same number, 4 or "4" or 4.0, or else the same text."""
    number = read_number(sent)
    if number is not None:
        return bool(number == read_number(got))
    return field_text({"": sent}, "") == field_text({"": got}, "")


def is_same_number(endpoint: str, name: str, sent: Any, got: Any) -> bool:
    """Return whether the service may have made `got` of `sent`: clamped, or rounded."""
    if not is_number(sent) or not is_number(got):
        return True
    low, high = CLAMPS[endpoint].get(name, (sent, sent))
    step = INSTRUMENTAL_STEP if endpoint == "instrumental" else 1
    clamped = min(max(sent, low), high)
    # Not their difference: no float is as large as an integer can be.
    return bool(got == sent or clamped - step < got < clamped + step)


def find_answers(
    records: Iterable[Json],
    submission: Submission,
    since: float,
    until: float,
    known: Container[str],
) -> tuple[list[Json], list[Json]]:
    """Return the records that answer a submission, and others that may be its track.

    None has an id that is known already. A seed that ft made up proves all, whenever the record
    says that it was made; records whose seed cannot be seen are then suspects. Otherwise a record
    has to have the same parameters, and a time between `since` and `until`, of the service; one
    that was made a minute before or after is a suspect.
    """
    fresh = [
        record
        for record in records
        if has_prompt(record, submission)
        and (identifier := field_text(record, "id", "").strip())
        and identifier not in known
    ]
    match = match_by_seed if submission.is_marked else match_by_parameters
    found, suspects = match(fresh, submission, since, until)
    return found, [] if found else suspects


def match_by_seed(
    records: list[Json], submission: Submission, since: float, until: float
) -> tuple[list[Json], list[Json]]:
    """Return the records that have the seed of a submission, and those whose seed is not shown."""
    found, suspects = [], []
    for record in records:
        seed = read_number(get_parameters(record).get("seed"))
        if seed == submission.body["seed"]:
            found.append(record)
        elif seed is None and was_made(record, since - CLOCK_DOUBT, float("inf"), True):
            suspects.append(record)
    return found, suspects


def match_by_parameters(
    records: list[Json], submission: Submission, since: float, until: float
) -> tuple[list[Json], list[Json]]:
    """Return the records that answer a submission at the right time, and at about that time."""
    answers = [record for record in records if is_answer_to(record, submission)]
    found = [record for record in answers if was_made(record, since, until, False)]
    since, until = since - CLOCK_DOUBT, until + CLOCK_DOUBT
    return found, [record for record in answers if was_made(record, since, until, False)]


def was_made(record: Json, since: float, until: float, otherwise: bool) -> bool:
    """Return whether a record was made between two times, `otherwise` if it does not say when."""
    created = parse_time(record.get("createdAt"))
    return otherwise if created is None else since <= created <= until


class Sending:
    """One submission, which is sent once, and the search for its track if the answer is lost.

    The search is for a record that `find_answers` takes for its track, made since the sending
    began, by the service's own clock. `known` are ids that it cannot have.
    """

    def __init__(
        self, console: Console, api: Api, submission: Submission, known: Container[str] = ()
    ) -> None:
        self.console = console
        self.api = api
        self.submission = submission
        self._known = known
        self._began = 0.0  # of steady_time
        self.has_begun = False
        self._suspects: list[Json] = []  # records that may be its track, the last time
        self._failure = ""  # why the list could not be read, the last time

    def send(self) -> Json:
        """Submit, and return the document that answers, or the one that the search has found.

        Raises what Api.submit raises; what the service may have accepted is explained.
        """
        submission = self.submission
        self._began = steady_time()
        self.has_begun = True
        try:
            return self.api.submit(submission.kind, submission.endpoint, submission.body)
        except (NetworkError, ApiError) as error:
            if not may_be_accepted(error):
                raise
            self.console.note(f"{error.message}; looking for the track in the list")
            try:
                found = self._search()
            except Exception as bug:  # whatever it is, the user has to know what may be paid for
                if find_stop(bug):
                    raise
                self._failure = getattr(bug, "message", f"internal error: {bug!r}")
                raise self._explain(error, []) from bug
            if len(found) != 1:
                raise self._explain(error, found or self._suspects) from None
        self.console.note("the submission was accepted: its track is in the list")
        return {"data": found[0]}

    def look_after_signal(self) -> str:
        """Return the id of the track if one look, a second at most, finds it, or nothing."""
        if not self.has_begun:
            return ""
        worker = Workers(self._find_id, self.console.shield)
        worker.add(None)
        outcome = worker.take_outcome(LAST_LOOK)
        return outcome[1] if outcome else ""

    def _find_id(self, _: None) -> str:
        found = self._look()
        return field_text(found[0], "id") if len(found) == 1 else ""

    def _search(self) -> list[Json]:
        """Look at once and again for up to a minute, and return the first records found."""
        start = time.monotonic()
        interval = POLL_INTERVAL
        while True:
            found = self._look()
            left = start + SEARCH_TIME - time.monotonic()
            wait = max(interval, self.api.gate.time_left())
            if found or wait > left:
                return found
            self.console.sleep_with_status(wait, lambda: "looking for the track in the list")
            interval = min(interval * POLL_BACKOFF, POLL_MAX_INTERVAL)

    def _look(self) -> list[Json]:
        """Return the records of the list's newest page that may be the track."""
        kind = self.submission.kind
        try:
            page = self.api.list_records(kind, POLL, limit=99)["data"][kind.list_field]
        except (NetworkError, ApiError) as error:
            self._failure = error.message
            return []
        self._failure = ""
        now = self.api.read_clock()
        if now is None and not self.submission.is_marked:
            self._failure = "the service does not say what time it is"
            return []
        since = (now or 0.0) - (steady_time() - self._began) - CLOCK_TOLERANCE
        found, self._suspects = find_answers(
            page, self.submission, since, float("inf"), self._known
        )
        return found

    def _explain(self, error: NetworkError | ApiError, found: list[Json]) -> FtError:
        """Return the error to raise where the search has not found exactly one track."""
        seen = "no such track is in the list yet"
        if self._failure:
            seen = f"the list could not be read: {self._failure}"
        elif found:
            ids = ", ".join(field_text(record, "id") for record in found)
            seen = f"{plural(len(found), 'track')} in the list may be it: {ids}"
        list_command = self.submission.kind.list_command
        advice = f"{seen}; do not submit again before `{list_command}` has told you"
        if isinstance(error, ApiError):
            error.explain(f"it may have been accepted: {advice}")
            return error
        return NetworkError(f"{error.message}; the submission may have been accepted", advice)


class Recovery:
    """Tell the user how to get a track that is paid for, whatever ends the work on it.

    A context manager around the work, set forward by `submitted` and `ended`. On a signal, a broken
    pipe or an error it says what has become of the track and which command goes on with it.
    """

    def __init__(self, sending: Sending, output: str | None) -> None:
        self.console = sending.console
        self.kind = sending.submission.kind
        self._sending = sending
        self._output = output
        self._identifier = ""
        self._command: tuple[str, ...] = ()
        self._id_is_known = False  # to the user
        self._status = ""

    def __enter__(self) -> Recovery:
        return self

    def submitted(self, identifier: str) -> None:
        """Note that the service has accepted the submission: the track costs its credit now."""
        self._identifier = identifier
        self._command = resume_command(self.kind, identifier, self._output)

    def told(self) -> None:
        """Note that the user has seen the id."""
        self._id_is_known = True

    def ended(self, record: Json) -> None:
        """Note that the track is completed, or failed and so beyond recovery."""
        self._status = field_text(record, "status")

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if self._status == "failed":
            return
        if find_stop(error):
            self._explain_stop()
        elif not self._command:
            return
        elif isinstance(error, BrokenPipeError) and not self._id_is_known:
            self.console.hint("the track is not lost", self._command)
        elif isinstance(error, FtError):
            error.hint = "; ".join(filter(None, [error.hint, "the track is not lost"]))
            error.command = self._command
            if isinstance(error, UnusableTarget):  # the same command would fail again
                error.command = resume_command(self.kind, self._identifier, error.instead)
        elif error and not isinstance(error, BrokenPipeError):  # a bug of our own
            self.console.hint("the track is not lost", self._command)

    def _explain_stop(self) -> None:
        if not self._command:
            identifier = self._sending.look_after_signal()
            if identifier:
                self.submitted(identifier)
        if not self._command:
            self.console.note(
                "the submission may have been accepted, and then costs its credit: "
                f"`{self.kind.list_command}` tells",
                is_vital=True,
            )
        elif self._status == "completed":
            self.console.hint("the track is not lost", self._command)
        else:
            self.console.note(
                "the track is still being made and still costs its credit", is_vital=True
            )
            self.console.hint("", self._command)


def resume_command(kind: Kind, identifier: str, output: str | None = None) -> tuple[str, ...]:
    """Return the words of the command that waits for a track and downloads it."""
    return (*kind.words("download", identifier, "--wait"), *output_words(output))


def output_words(output: str | None) -> tuple[str, ...]:
    """Return the flag -o for a command to paste."""
    if output is None:
        return ()
    # A path that begins with a dash would be taken for a flag.
    return (f"--output={output}",) if re.match("-.", output) else ("-o", output)


def note_clamped(console: Console, body: Json, record: Json, title: str = "") -> None:
    """Tell the user which of the requested numbers the service has changed.

    `title` is what the note begins with.
    """
    parameters = get_parameters(record)
    for name in ("duration", "bpm"):
        # A sound effect's record has no parameters, but `requestedDuration`.
        got = parameters.get(name, record.get("requestedDuration"))
        if is_number(got) and name in body and got != body[name]:
            sent = format_json(body[name])
            console.note(f"{title}{name} clamped from {sent} → {format_json(got)}")


def wait_for_track(ft: Context, kind: Kind, identifier: str) -> Json:
    """Poll until a track is completed or failed, and return the document with its record.

    A failure that may pass is noted and asked again. Raises ApiError for a refusal (4xx other than
    429), and FtError after POLL_TIMEOUT, or at once if the service is not to be asked before.
    """
    console, gate = ft.console, ft.api.gate
    start = time.monotonic()
    interval = POLL_INTERVAL
    delay = 0.0  # for which the service does not want to be asked
    status = "processing"

    def describe() -> str:
        return f"{status}, {format_duration(int(time.monotonic() - start))}"

    while True:
        left = start + POLL_TIMEOUT - time.monotonic()
        delay = max(delay, gate.time_left())
        if left <= 0 or delay > left:
            command = quote_command(*kind.words("get", identifier))
            raise FtError(f"still processing, run `{command}` later")
        console.sleep_with_status(min(max(interval, delay), left), describe)
        interval, delay = min(interval * POLL_BACKOFF, POLL_MAX_INTERVAL), 0.0
        try:
            document = ft.api.get_record(kind, identifier, POLL)
        except NetworkError as error:
            console.note(f"{error.message}; asking again")
        except ApiError as error:
            if error.status != 429 and error.status < 500:
                raise
            console.note(f"{error.message}; asking again")
            delay = error.retry_after or 0.0
        else:
            status = field_text(document["data"], "status")
            if status in ("completed", "failed"):
                return document


def require_completed(record: Json) -> Json:
    """Return `record` if its track is there. Raises FtError if it failed or is not completed."""
    status = field_text(record, "status")
    if status == "failed":
        raise FtError(field_text(record, "errorMessage", "the generation failed"))
    if status != "completed":
        raise FtError(f"the track is not completed: {status}", "use `--wait` to wait for it")
    return record


def save_track(
    ft: Context, record: Json, output: str | None, progress: Progress, owners: dict[str, str]
) -> str:
    """Download the track of a completed record, and return the path where it is.

    `owners` has the paths of this run and the ids they belong to, so that no track replaces
    another. Raises NetworkError if the download fails, FtError if the file cannot be written.
    """
    url = record.get("audioUrl")
    if not isinstance(url, str) or not url:
        raise NetworkError(
            "unexpected reply from the service: a completed track without `audioUrl`", final=True
        )
    path = "-" if output == "-" else choose_path(output, record)
    identifier = str(record.get("id"))
    owner = owners.setdefault(path, identifier)
    if owner != identifier:
        raise FtError(f"{path} is the name of {owner} too")
    size: Any = record.get("fileSize")
    expected = size if is_number(size) and size < 1e12 else 0  # whatever is no size does not count
    with open_destination(ft.console, ft.part_files, path) as file:
        download_file(ft.http, url, file, progress, expected)
    return path


class TrackSaver:
    """Save tracks by their ids, as the flags of `ft download` say. Threads may share it.

    `records` are those of list pages or of a playlist, by their ids; others are asked for one by
    one. Afterwards `skipped` has the ids of the tracks that were there already.
    """

    def __init__(
        self, ft: Context, ids: Sequence[str], records: Mapping[str, Json], progress: Progress
    ) -> None:
        self.skipped: set[str] = set()
        self._ft = ft
        self._kind: Kind = ft.args.command.kind
        self._is_single = len(ids) == 1
        self._records = records
        self._progress = progress
        self._owners: dict[str, str] = {}
        directory = ft.args.output or ""
        self._on_disk = TracksOnDisk(directory, ids if ft.args.skip_existing else ())
        self._whole_records: dict[str, Json] | None = None

    def complete_records(self) -> None:
        """Look for the whole records of a playlist's tracks, which shows only some fields of them.

        Only those are looked for that --metadata is going to write.
        """
        paths = {identifier: self._on_disk.find(r) for identifier, r in self._records.items()}
        lacking = [i for i, path in paths.items() if not path or not file_size(f"{path}.json")]
        self._whole_records = find_records(self._ft.api, self._kind, lacking)

    def save(self, identifier: str) -> str:
        """Save the track of an id unless it is there, and return its path.

        Raises ApiError, NetworkError or FtError if it cannot be saved.
        """
        listed = self._records.get(identifier)
        record = listed or self._ask(identifier)
        path = self._on_disk.find(record)
        if path:
            self.skipped.add(identifier)
        else:
            record = self._completed(identifier, record)
            path = self._download(identifier, record, is_listed=record is listed)
        metadata = f"{path}.json"
        if self._ft.args.metadata and not (identifier in self.skipped and file_size(metadata)):
            record = self._whole_record(identifier, record)
            write_metadata(self._ft.part_files, metadata, record)
        return path

    def _ask(self, identifier: str) -> Json:
        record: Json = self._ft.api.get_record(self._kind, identifier)["data"]
        return record

    def _completed(self, identifier: str, record: Json) -> Json:
        """Return the record of a track that is completed, after waiting for it if --wait says so.

        Raises FtError if it is not completed.
        """
        if self._ft.args.wait and field_text(record, "status") not in ("completed", "failed"):
            if self._is_single:
                self._ft.console.note(f"waiting for {identifier}")
            record = wait_for_track(self._ft, self._kind, identifier)["data"]
        if not self._is_single and field_text(record, "status") == "failed":
            raise FtError(f"failed: {field_text(record, 'errorMessage', 'the generation failed')}")
        return require_completed(record)

    def _download(self, identifier: str, record: Json, is_listed: bool) -> str:
        """Download a track and return its path.

        Its address may have expired since the list was made. Then the record is asked for again.
        """
        output = self._ft.args.output
        try:
            return save_track(self._ft, record, output, self._progress, self._owners)
        except NetworkError as error:
            if not is_listed or error.status not in (403, 404, 410):
                raise
            try:
                fresh = self._ask(identifier)
            except ApiError:
                raise error from None
            if fresh.get("audioUrl") == record.get("audioUrl"):
                raise
        fresh = require_completed(fresh)
        return save_track(self._ft, fresh, output, self._progress, self._owners)

    def _whole_record(self, identifier: str, record: Json) -> Json:
        """Return all that the service shows of a record. Of other users' it shows no more."""
        if self._whole_records is None:
            return record
        try:
            return self._whole_records.get(identifier) or self._ask(identifier)
        except ApiError as error:
            if error.status != 404:
                raise
            return record


def report_saved(console: Console, path: str) -> None:
    """Print where a track was saved: on stderr if the track itself went to stdout."""
    if path == "-":
        console.note("Saved to stdout")
    elif console.quiet:
        console.print_path(path)
    else:
        console.print(f"Saved to {path}")


def for_each_in_threads(
    items: Sequence[str], work: Callable[[str], str], shield: Shield, on_idle: Callable[[], None]
) -> Iterator[Outcome]:
    """Call `work` for each item in a few threads, and yield (item, result, error) as each ends.

    A signal that `shield` holds back is raised in between. `on_idle` is called there too, about ten
    times a second, by the caller's own thread.
    """
    workers = Workers(work, shield)
    for item in items:
        workers.add(item)
    left = len(items)
    try:
        while left:
            on_idle()
            shield.check()
            outcome = workers.take_outcome(0.1)
            if outcome:
                left -= 1
                yield outcome
    finally:
        workers.drop_waiting()


class Tally:
    """Count what became of several items, warn of each that failed, and sum up at the end."""

    def __init__(self, console: Console, verb: str, total: int) -> None:
        self.console = console
        self._verb = verb
        self._total = total
        self._succeeded = 0
        self._skipped = 0
        self._failed = 0
        self._network_failed = 0
        self._network_failed_in_a_row = 0
        self._hint = ""
        self._bug: BaseException | None = None

    def succeeded(self, count: int = 1) -> None:
        self._succeeded += count
        self._network_failed_in_a_row = 0

    def skipped(self) -> None:
        self._skipped += 1

    def failed(self, item: str, error: BaseException) -> None:
        """Warn of a failure. The first hint is kept for the end, and so is a bug of our own."""
        self._failed += 1
        is_network = isinstance(error, NetworkError)
        self._network_failed += is_network
        # A final failure is an answer, such as 404, and so about this item only.
        is_passing = isinstance(error, NetworkError) and not error.final
        self._network_failed_in_a_row = self._network_failed_in_a_row + 1 if is_passing else 0
        if isinstance(error, FtError):
            self.console.warning(f"{item}: {error.message}")
            self._hint = self._hint or error.hint
        else:
            self.console.warning(f"{item}: internal error")
            self._bug = self._bug or error

    def raise_if_hopeless(self, error: BaseException) -> None:
        """Raise `error` if the other items would fail like it.

        The disk is full, or so many failed in a row that the network is to blame.
        """
        is_network_down = self._network_failed_in_a_row >= MAX_NETWORK_FAILURES
        if isinstance(error, DiskFull) or is_network_down:
            raise error

    def finish(self, document: Json | None = None) -> int:
        """Print the hint and the summary, or `document` instead, and return the exit code.

        Where stdout cannot be written, the summary goes to stderr before that is raised.
        """
        if self._hint:
            self.console.hint(self._hint)
        summary = f"{self._verb} {self._succeeded} of {self._total} track(s)"
        if self._skipped:
            summary += f", {self._skipped} already there"
        try:
            if document is not None:
                self.console.print_json(document)
            elif not self.console.quiet:
                self.console.print(summary)
        except (FtError, BrokenPipeError):
            self.console.note(summary)
            raise
        if self._bug:
            raise self._bug
        return 0 if self._succeeded else EXIT_ERROR

    def exit_code_if_all_are_needed(self) -> int:
        """Return 0 only if nothing failed, and 3 if there was nothing but network failures."""
        if not self._failed:
            return 0
        is_network = not self._succeeded and self._failed == self._network_failed
        return EXIT_NETWORK if is_network else EXIT_ERROR


def empty_outcome(args: argparse.Namespace) -> dict[str, list[Json]]:
    """Return what `ft download --json` prints under `data`, before anything is saved."""
    skipped: dict[str, list[Json]] = {"skipped": []} if args.skip_existing else {}
    return {"saved": [], "errors": [], **skipped}


def save_several(ft: Context, ids: list[str], saver: TrackSaver, progress: Progress) -> int:
    """Save tracks a few at a time, report what became of each, and return the exit code.

    Whatever ends the saving, even a signal or a bug of our own, is raised after the report. A full
    disk and a network that is down end it too.
    """
    failure: BaseException | None = None
    left = dict.fromkeys(ids)  # what nothing has become of yet
    rest = dict.fromkeys(ids)  # what is not saved, but may be by another run
    tally = Tally(ft.console, "Downloaded", len(ids))
    data = empty_outcome(ft.args)
    with ft.console.shield as shield:
        try:
            for identifier, path, error in for_each_in_threads(
                ids, saver.save, shield, progress.draw
            ):
                del left[identifier]
                if not error or is_refusal(error):
                    del rest[identifier]
                if error:
                    progress.end_file()
                    tally.failed(identifier, error)
                    why = getattr(error, "message", str(error))
                    data["errors"].append({"id": identifier, "error": why})
                    tally.raise_if_hopeless(error)
                elif identifier in saver.skipped:
                    progress.skip_file()
                    tally.skipped()
                    data["skipped"].append({"id": identifier, "path": path})
                else:
                    progress.end_file()
                    tally.succeeded()
                    data["saved"].append({"id": identifier, "path": path})
                    if not ft.args.json:
                        report_saved(ft.console, path)
        except BaseException as error:
            failure = error
            ft.console.mute_threads()
            why = "interrupted" if find_stop(error) else "not downloaded"
            for item in left if len(left) <= MAX_HINT_IDS else [f"{len(left)} tracks"]:
                tally.failed(item, FtError(why))
            data["errors"] += [{"id": identifier, "error": why} for identifier in left]
        try:
            tally.finish({"data": data} if ft.args.json else None)
            if isinstance(failure, (FtError, StopSignal)) and rest:
                hint_at_rest(ft, list(rest))
        finally:
            if failure:
                raise failure
    return tally.exit_code_if_all_are_needed()


def is_refusal(error: BaseException) -> bool:
    """Return whether the service refuses a track, which would so fail once more."""
    return isinstance(error, ApiError) and error.status < 500 and error.status != 429


def hint_at_rest(ft: Context, ids: list[str]) -> None:
    """Say how to download the tracks that were not saved when the saving ended."""
    args = ft.args
    if not args.id or len(ids) > MAX_HINT_IDS:
        how = "" if args.skip_existing else " with `--skip-existing`"
        return ft.console.hint(f"to get the rest, run the same command again{how}")
    words = args.command.kind.words("download", *ids)
    switches = [f"--{name}" for name in ("wait", "metadata") if getattr(args, name)]
    ft.console.hint("to get the rest", (*words, *switches, *output_words(args.output)))


def find_records(api: Api, kind: Kind, ids: Sequence[str]) -> dict[str, Json]:
    """Return those records of `ids`, by their ids, that the first pages of the list contain.

    A page has up to 99 of them, so pages are worth turning while they are fewer than an eighth of
    the ids. What they do not contain has to be asked for one by one.
    """
    wanted = set(ids)
    found: dict[str, Json] = {}
    if len(ids) < MIN_IDS_FOR_PAGES:
        return found
    try:
        for turned, records in enumerate(library_pages(api, kind), 1):
            for record in records:
                if record.get("id") in wanted:
                    found[record["id"]] = record
            if len(found) == len(wanted) or (turned + 1) * MIN_IDS_FOR_PAGES > len(ids):
                break
    except NetworkError:
        pass  # asking for each id says what is the matter
    return found


class BulkResult:
    """What became of the ids of a bulk command, merged from the answers to its chunks.

    Each id is in `succeeded` or in `errors`, once, in the order given. `verb` ("deleted", "added",
    …) is where the API lists what succeeded, `id_field` ("id" or "trackId") what it calls the id
    in an error.
    """

    def __init__(self, verb: str, id_field: str) -> None:
        self.verb = verb
        self.id_field = id_field
        # The error of each id, None if it succeeded. The first outcome of an id counts.
        self._outcomes: dict[str, Json | None] = {}
        self._document: Json = {}  # whatever else the service sent, around `data`
        self._data: Json = {}  # and in it

    @property
    def succeeded(self) -> list[str]:
        return [identifier for identifier, error in self._outcomes.items() if error is None]

    @property
    def errors(self) -> list[Json]:
        return [error for error in self._outcomes.values() if error is not None]

    def add_failures(self, ids: Iterable[str], reason: str) -> None:
        for identifier in ids:
            self._outcomes.setdefault(identifier, {self.id_field: identifier, "error": reason})

    def add_answer(self, ids: list[str], document: Json, otherwise: str) -> None:
        """Take in the answer to a chunk; ids that it does not mention fail with `otherwise`.

        Raises NetworkError if the answer is not what the contract says.
        """
        data = get_member(document, "data", dict)
        succeeded = {str(identifier).lower() for identifier in get_member(data, self.verb, list)}
        failed = [] if data.get("errors") is None else get_records(data, "errors")
        errors = {str(error.get(self.id_field)).lower(): error for error in failed}
        self._document.update(document)
        self._data.update(data)
        for identifier in ids:
            if identifier.lower() in succeeded:
                self._outcomes.setdefault(identifier, None)
            elif identifier.lower() in errors:
                self._outcomes.setdefault(identifier, errors[identifier.lower()])
            else:
                self.add_failures([identifier], otherwise)

    def add_refusal(self, ids: list[str], error: ApiError) -> None:
        """Take in ADD_FAILED or MOVE_FAILED: nothing succeeded, and `details` lists the reasons."""
        details = error.details if isinstance(error.details, list) else []
        errors = [item for item in details if isinstance(item, dict)]
        self.add_answer(ids, {"data": {self.verb: [], "errors": errors}}, error.reason)

    def to_document(self) -> Json:
        """Return the merged answer, in the form of the service's own."""
        data = {**self._data, self.verb: self.succeeded, "errors": self.errors}
        if not self.errors:
            del data["errors"]
        return {**self._document, "data": data}


def run_bulk(
    ft: Context, ids: list[str], send: Callable[[list[str]], Json], result: BulkResult
) -> int:
    """Send ids in chunks of 100, report what became of each, and return the exit code.

    Whatever ends the sending, even a signal or a bug of our own, is raised after the report.
    """
    failure: BaseException | None = None
    with ft.console.shield as shield:
        for start in range(0, len(ids), MAX_BULK_IDS):
            chunk = ids[start : start + MAX_BULK_IDS]
            try:
                send_chunk(chunk, partial(shield.call, send), result)
            except BaseException as error:
                failure = error
                result.add_failures(chunk, describe_unfinished(error))
                result.add_failures(ids[start + MAX_BULK_IDS :], "not attempted")
                break
        try:
            exit_code = report_bulk(ft, result, failure)
        finally:
            if failure:
                raise failure
    return exit_code


def send_chunk(chunk: list[str], send: Callable[[list[str]], Json], result: BulkResult) -> None:
    """Send a chunk and take in its answer. Raises what ends the command."""
    try:
        document = send(chunk)
    except ApiError as error:
        if error.code not in ("ADD_FAILED", "MOVE_FAILED"):
            raise
        result.add_refusal(chunk, error)
    else:
        result.add_answer(chunk, document, "outcome unknown: not in the answer")


def describe_unfinished(failure: BaseException) -> str:
    """Return what to report of a chunk that `failure` has ended."""
    if isinstance(failure, ApiError) and failure.status < 500:
        return failure.message
    if isinstance(failure, NetworkError) and not failure.sent:
        return f"not attempted: {failure.message}"
    if isinstance(failure, FtError):
        return f"outcome unknown: {failure.message}"
    why = "interrupted" if find_stop(failure) else "internal error"
    return f"outcome unknown: {why}"


def report_bulk(ft: Context, result: BulkResult, failure: BaseException | None) -> int:
    """Warn of what failed, print the summary or the document, and return the exit code."""
    tally = Tally(ft.console, result.verb.capitalize(), len(result.succeeded) + len(result.errors))
    tally.succeeded(len(result.succeeded))
    private = "Cannot add private track to public playlist"
    for item in result.errors:
        text = field_text(item, "error", "failed")
        # A failure that ended the command brings a hint of its own.
        hint = "make the track public at finetuning.ai first"
        tally.failed(
            field_text(item, result.id_field),
            FtError(text, hint if text == private and not failure else ""),
        )
    return tally.finish(result.to_document() if ft.args.json else None)


# --- 9. Commands ---------------------------------------------------------------------------------


class Context:
    """What a command works with. Each part is made on first use: help needs no settings or key."""

    def __init__(self, console: Console, part_files: PartFiles, args: argparse.Namespace) -> None:
        self.console = console
        self.part_files = part_files
        self.args = args

    @cached_property
    def settings(self) -> Settings:
        place = os.environ.get("FINETUNING_CONFIG_HOME")
        is_made = self.args.command.name == "auth login"
        if place and not is_made and not os.path.isdir(expand_home(place)):
            self.console.warning(f"FINETUNING_CONFIG_HOME is {place}, which does not exist")
        return Settings(self.args.config)

    @cached_property
    def base_url(self) -> str:
        # Even beside the flag, because a broken file is always an error.
        configured = self.settings.base_url
        if self.args.base_url is not None:
            return parse_base_url(self.args.base_url, "--base-url")
        return (configured or BASE_URL).rstrip("/")

    @cached_property
    def keys(self) -> ApiKeys:
        return ApiKeys(self.console, self.args.api_key)

    @cached_property
    def http(self) -> HttpClient:
        return HttpClient(self.console, https_only=self.base_url.lower().startswith("https:"))

    @cached_property
    def api(self) -> Api:
        """Return the API with the user's key. Raises FtError if there is none."""
        base_url = self.base_url
        return Api(self.http, base_url, self.keys.find())


class Command:
    """A declared command: its name of one word or two, its description, parameters and function.

    `summary` is the first sentence of the description, `kind` that of the records it handles.
    """

    def __init__(
        self,
        name: str,
        description: str,
        function: Callable[[Context, argparse.Namespace], int | None],
        parameters: Sequence[Parameter],
        examples: Sequence[str],
    ) -> None:
        self.name = name
        self.description = description
        self.summary = description.partition(". ")[0].rstrip(".")
        self.function = function
        self.arguments = [p for p in parameters if not p[0][0].startswith("-")]
        self.flags = [p for p in parameters if p[0][0].startswith("-")]
        self.examples = examples
        self.kind = SOUND_EFFECT if name.startswith("sfx ") else GENERATION

    @property
    def usage(self) -> str:
        """Return how to call it: `ft download <id>... [flags]`."""
        words = []
        for _, options in self.arguments:
            name: str = options["metavar"]
            forms = {"+": f"{name}...", "*": f"[{name}]"}
            words.append(forms.get(options.get("nargs", ""), name))
        return " ".join(["ft", self.name, *words, "[flags]"])

    @property
    def usage_hint(self) -> str:
        return f"usage: {self.usage}; `ft help {self.name}` explains it"


COMMANDS: dict[str, Command] = {}  # in the order of `ft help`


def declare(
    name: str, description: str, *parameters: Parameter, examples: Sequence[str]
) -> Callable[[Any], Any]:
    """Declare the decorated function as `ft NAME`.

    It returns nothing, or the exit code of a bulk command; everything else is an exception.
    """

    def register(function: Any) -> Any:
        COMMANDS[name] = Command(name, description, function, parameters, examples)
        return function

    return register


def arg(name: str, help: str, **options: Any) -> Parameter:  # noqa: A002
    """Return a positional argument, as argparse's add_argument takes it."""
    return (name,), {"metavar": f"<{name}>", "help": help, **options}


def flag(
    spec: str,
    help: str,  # noqa: A002
    *,
    default: Any = None,
    shown: str | None = None,
    **options: Any,
) -> Parameter:
    """Return a flag, as argparse's add_argument takes it.

    `spec` is what help shows: `-o --output <path>`, or without the value for a switch. The help
    ends with the default, or with `shown` where that is no value.
    """
    names = tuple(word for word in spec.split() if word.startswith("-"))
    *_, last = spec.split()
    if last in names:
        default, shown = False, "off"
        options["action"] = "store_true"
    else:
        options["metavar"] = last
    options["help"] = f"{help} (default: {default if shown is None else shown})"
    return names, {"default": default, **options}


def decimal_number(text: str) -> int | float:
    if not re.fullmatch(r"-?[0-9]{1,300}(\.[0-9]{1,300})?", text, re.ASCII):
        raise argparse.ArgumentTypeError("not a number")
    return float(text) if "." in text else int(text)


def duration_seconds(text: str) -> int | float:
    if re.fullmatch(r"[0-9.]+ ?(s|secs?|seconds?|m|mins?|minutes?)|[0-9]+:[0-9]+", text):
        raise argparse.ArgumentTypeError("give a number of seconds, without a unit")
    return decimal_number(text)


def whole_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,300}", text, re.ASCII):
        raise argparse.ArgumentTypeError("not a whole number")
    return int(text)


def list_limit(text: str) -> int:
    count = whole_number(text)
    if not 1 <= count <= 99:
        raise argparse.ArgumentTypeError("not between 1 and 99")
    return count


def list_offset(text: str) -> int:
    count = whole_number(text)
    if count < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return count


def field_names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names):
        raise argparse.ArgumentTypeError("give names separated by commas, such as id,status")
    return names


def webhook_url(text: str) -> str:
    is_https = re.fullmatch(r"(?i:https)://[^\s/?#]\S*", text) and text.isprintable()
    if not is_https or len(text) > MAX_WEBHOOK:
        raise argparse.ArgumentTypeError(
            f"must be an https address of at most {MAX_WEBHOOK} characters"
        )
    return text


def find_choice(text: str, choices: Sequence[str]) -> str:
    """Return the choice that `text` is, in upper or lower case. Raises ArgumentTypeError."""
    by_case = {choice.lower(): choice for choice in choices}
    if text.lower() in by_case:
        return by_case[text.lower()]
    suggestion = suggest_nearest(text, by_case)
    raise argparse.ArgumentTypeError(f"choose one of {', '.join(choices)}{suggestion}")


AUTO = "auto"  # a key or scale that is the service's choice
LANGUAGES = ("en", "ja", "de", "fr", "es", "zh", "ko", "pt", "it", "ru")
MUSICAL_KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
FLATS = ("CB", "DB", "EB", "FB", "GB", "AB", "BB")
SHARPS_FOR_FLATS = dict(zip(FLATS, ("B", "C#", "D#", "E", "F#", "G#", "A#")))


def musical_key(text: str) -> str:
    """Return a key in the service's spelling: upper case, and sharps instead of flats."""
    key = text.upper().replace("♯", "#").replace("♭", "B")
    key = SHARPS_FOR_FLATS.get(key, key)
    return key if key in MUSICAL_KEYS else text


GLOBAL_FLAGS = (
    flag("--api-key <key>", "use this API key for this invocation", shown="the stored key"),
    flag("--base-url <url>", "use this API base URL", shown=BASE_URL),
    flag(
        "--config <path>",
        "use this configuration file",
        type=expand_home,
        shown="config.json in the configuration directory",
    ),
    flag("-v --verbose", "log HTTP requests and answers to stderr, keys redacted"),
    flag("--no-color", "disable ANSI colour, as NO_COLOR does"),
)

ID_ARG = arg("id", "an id as `ft list` shows it, or its first 6 characters or more")
IDS_ARG = arg(
    "id",
    "ids, or their first 6 characters or more; `-` reads them from stdin, one a line",
    nargs="+",
)
OPTIONAL_IDS_ARG = arg("id", IDS_ARG[1]["help"], metavar="<id>...", nargs="*")
PLAYLIST = arg("playlist", "a playlist's id or its name (upper or lower case)")
PROMPT = arg(
    "prompt", "what to make, in plain words, quoted or not; `-` reads it from stdin", nargs="+"
)
JSON = flag("--json", "print the service's answer as JSON")
QUIET = flag("-q --quiet", "print ids only, one a line, and no notes")
PLAYLIST_QUIET = flag("-q --quiet", "print only the ids of its tracks, one a line")
FIELDS = flag(
    "--fields <names>",
    "print these members of each record, separated by tabs, such as id,status,parameters.seed",
    type=field_names,
    shown="off",
)
SEED = flag("--seed <n>", "reproduce a previous run", type=whole_number, shown="random")
OUTPUT = flag(
    "-o --output <path>",
    "where to save the MP3: a file, a directory, or `-` for stdout",
    type=expand_home,
    shown="<slug>-<short-id>.mp3 in the current directory",
)
NO_WAIT = flag("--no-wait", "print the id once the service has accepted the submission, and exit")
RECORD_JSON = flag("--json", "print the final record as JSON instead of downloading")
RECORD_FIELDS = flag(
    "--fields <names>",
    "print these members of the final record, separated by tabs, instead of downloading",
    type=field_names,
    shown="off",
)
PLAYLIST_FIELDS = flag(
    "--fields <names>",
    "print these members of each track, separated by tabs, such as id,title",
    type=field_names,
    shown="off",
)
RECORD_QUIET = flag("-q --quiet", "print the path only, or with --no-wait the id, and no progress")
DOWNLOAD_QUIET = flag("-q --quiet", "print only the paths of what is downloaded, and no progress")
DOWNLOAD_JSON = flag("--json", "print what was saved, and what was not, as JSON")
WEBHOOK = flag(
    "--webhook <url>",
    "https address that receives the finished record; implies --no-wait",
    type=webhook_url,
    shown="none",
)
VERBATIM_FLAG = flag("--verbatim", "use the prompt as it is, without improving it")
LIMIT = flag("-n --limit <n>", "how many to show, at most 99", type=list_limit, default=20)
OFFSET = flag("--offset <n>", "how many to skip", type=list_offset, default=0)
ALL_FLAG = flag("--all", "follow the pages to the end, whatever --limit")
STATUS = flag(
    "--status <s>",
    "only these: pending, processing, completed, failed",
    choices=("all", "pending", "processing", "completed", "failed"),
    default="all",
)
SKIP_FLAG = flag(
    "--skip-existing",
    "do not download tracks again whose files are in the directory, whatever their titles are now",
)
METADATA = flag("--metadata", "write the record of each track beside it, as NAME.mp3.json")
DRY_RUN = flag("--dry-run", "print the request as JSON, and send nothing")
WAIT_FLAG = flag("--wait", "wait for a track that is not completed yet")
YES_FLAG = flag("-y --yes", "skip the confirmation; required without a terminal")


def read_stdin(console: Console, what: str, limit: int = -1) -> str:
    """Return the text on stdin, read as `read_stdin_bytes` does."""
    # PowerShell's pipes may begin with a byte order mark.
    return read_stdin_bytes(console, what, limit).decode("utf-8-sig", "surrogateescape")


def read_stdin_bytes(console: Console, what: str, limit: int = -1) -> bytes:
    """Return what is on stdin, at most `limit` bytes of it. Raises UsageError if it is unreadable.

    On a terminal a note says what ft waits for.
    """
    if sys.stdin.isatty():
        console.note(f"reading {what} from stdin, up to Ctrl-{'Z' if os.name == 'nt' else 'D'}")
    try:
        if os.name != "nt":
            os.set_blocking(sys.stdin.fileno(), True)  # else what comes late is lost
        return sys.stdin.buffer.read(limit)
    except OSError as error:  # such as nohup's, which is open for writing only
        raise UsageError(f"cannot read {what} from stdin: {error.strerror or error}") from None


# Sign in and out


@declare(
    "auth login",
    "Prompt for an API key and store it in the OS keychain. The key is verified with the service "
    "first; if that fails, a key stored earlier stays.",
    flag("--stdin", "read the key from stdin instead of prompting"),
    examples=['echo "$FT_API_KEY" | ft auth login --stdin'],
)
def log_in(ft: Context, args: argparse.Namespace) -> None:
    text, source = ask_for_key(ft.console, args)
    key = Key(parse_key(text, source), source, is_stored=False)
    try:
        account = Api(ft.http, ft.base_url, key).get_account()["data"]
    except ApiError as error:
        if error.code == "INVALID_API_KEY":
            error.explain(f"check that the whole key was copied, or create another at {KEY_URL}")
        raise
    place = ft.keys.save(key.text)
    if ft.keys.file and place == ft.keys.file.path:
        ft.console.warning(f"{ft.keys.keychain.name} cannot be reached ({ft.keys.keychain_error})")
        ft.console.warning(
            f"the key is stored in plain text in {place}, which only you can read (0600)"
        )
    ft.console.print(f"Stored in {place}. ✓")
    email, tier = field_text(account, "email"), field_text(account, "tier")
    ft.console.print(f"Signed in as {email} ({tier} tier)")
    if os.environ.get("FINETUNING_API_KEY", "").strip():
        ft.console.warning("FINETUNING_API_KEY is set and overrides the stored key")


def ask_for_key(console: Console, args: argparse.Namespace) -> tuple[str, str]:
    """Return the key to store, unchecked, and where it came from: --api-key, stdin or a prompt.

    Raises UsageError if none is given.
    """
    if args.api_key and args.api_key.strip():
        if args.stdin:
            raise UsageError("--api-key and --stdin cannot be used together")
        return args.api_key, "--api-key"
    if args.stdin or not sys.stdin.isatty():
        text = read_stdin(console, "the API key", 4096)
        if not text.strip():
            raise UsageError("no API key on stdin", f"get one at {KEY_URL}")
        return text, "stdin"
    import getpass

    try:
        text = getpass.getpass("Paste your API key: ", sys.stderr)
        if not text.strip():
            raise UsageError("no API key given", f"get one at {KEY_URL}")
        return text, "the prompt"
    except (EOFError, UnicodeError, StopSignal) as error:
        sys.stderr.write("\n")  # getpass leaves its line open
        if isinstance(error, StopSignal):
            raise
        raise UsageError("no API key given", f"get one at {KEY_URL}") from None
    except KeyboardInterrupt:  # on Windows, where Ctrl-C is a character here
        raise StopSignal(signal.SIGINT) from None


@declare(
    "auth logout",
    "Forget the stored key. Removes it from the keychain, and from the plaintext fallback if "
    "there is one.",
    examples=["ft auth logout"],
)
def log_out(ft: Context, args: argparse.Namespace) -> None:
    places = ft.keys.remove()
    outcome = f"Removed the key from {' and '.join(places)}" if places else "No key was stored"
    if ft.keys.keychain_error and not places:
        outcome = "No key was found"
        ft.console.note(f"{ft.keys.keychain.name} cannot be reached ({ft.keys.keychain_error})")
    ft.console.print(f"Logged out. {outcome}.")
    if os.environ.get("FINETUNING_API_KEY", "").strip():
        ft.console.note("FINETUNING_API_KEY is still set")


@declare(
    "me",
    "Alias of ft auth whoami. Prints the signed-in account's email, tier and credits.",
    FIELDS,
    JSON,
    examples=["ft me --fields limits.totalRemaining", "ft me --json | jq '.data.limits'"],
)
@declare(
    "auth whoami",
    "Show the signed-in account. Prints its email, tier and credits.",
    FIELDS,
    JSON,
    examples=["ft auth whoami"],
)
def show_account(ft: Context, args: argparse.Namespace) -> None:
    document = ft.api.get_account()
    if args.json:
        return ft.console.print_json(document)
    account = document["data"]
    if args.fields:
        return print_fields(ft.console, [account], args.fields)
    limits = account.get("limits") if isinstance(account.get("limits"), dict) else {}
    total, monthly, included, packs = (
        field_text(limits, name)
        for name in ("totalRemaining", "monthlyRemaining", "monthlyGenerations", "packCredits")
    )
    ft.console.print_details(
        [
            ("Email", field_text(account, "email")),
            ("Name", field_text(account, "name")),
            ("Tier", field_text(account, "tier")),
            ("Credits", f"{total} left: {monthly} of {included} this month, {packs} from packs"),
            ("In queue", field_text(limits, "queueDepth")),
        ]
    )


# Make music


MUSIC_FLAGS = (
    flag(
        "--duration <sec>",
        "length in seconds, 5-210 on Pro and Lifetime; the service clamps it",
        type=duration_seconds,
        shown="60, or defaultDuration of config.json",
    ),
    flag(
        "--bpm <n>",
        "beats a minute, 60-200; the service clamps it",
        type=decimal_number,
        shown="120, or defaultBpm of config.json",
    ),
    flag(
        "--key <K>",
        f"{', '.join(MUSICAL_KEYS)}, a flat such as Bb, or auto to leave it to the service",
        type=musical_key,
        choices=(*MUSICAL_KEYS, AUTO),
        default="C",
    ),
    flag(
        "--scale <s>",
        "major, minor, or auto to leave it to the service",
        choices=("major", "minor", AUTO),
        default="major",
    ),
    flag("--time-sig <s>", "2, 3, 4, 5, 6 or 7", choices=tuple("234567"), default="4"),
    flag("--language <l>", ", ".join(LANGUAGES), choices=LANGUAGES, default="en"),
    flag(
        "--lyrics <text>",
        f"words to sing, at most {MAX_LYRICS} characters",
        default="",
        shown="empty",
    ),
    flag("--lyrics-file <path>", "read the lyrics from a file, or `-` for stdin", shown="none"),
    SEED,
)


@declare(
    "generate",
    "Submit, poll, and download in one shot. Costs one credit. The prompt is free prose; when you "
    "stop waiting, the track is still made, and `ft download <id>` gets it.",
    PROMPT,
    *MUSIC_FLAGS,
    OUTPUT,
    NO_WAIT,
    RECORD_QUIET,
    RECORD_FIELDS,
    RECORD_JSON,
    WEBHOOK,
    DRY_RUN,
    examples=[
        'ft generate "lofi chill piano, mellow, late night"',
        (
            'ft generate "upbeat ad jingle, brass and snare" --duration 30 --bpm 128 --key D '
            "--output ./jingle.mp3"
        ),
        "ft generate - --lyrics-file words.txt --no-wait <prompt.txt",
    ],
)
def generate_music(ft: Context, args: argparse.Namespace) -> None:
    options = {**vars(args), "lyrics": read_lyrics(ft.console, args, args.prompt == ["-"])}
    prompt = read_prompt(ft.console, args.prompt)
    make_track(ft, args, music_submission(prompt, options, ft.settings))


def music_submission(prompt: str, options: Mapping[str, Any], settings: Settings) -> Submission:
    """Return what to submit for `ft generate` with these flags, by their names in argparse."""
    body = {
        "tags": prompt,
        "duration": first_set(options["duration"], settings.duration, 60),
        "bpm": first_set(options["bpm"], settings.bpm, 120),
        "key": None if options["key"] == AUTO else options["key"],
        "scale": None if options["scale"] == AUTO else options["scale"],
        "timesignature": options["time_sig"],
        "language": options["language"],
        "lyrics": options["lyrics"] or None,
        "seed": options["seed"],
    }
    return Submission(GENERATION, "generations", body)


@declare(
    "instrumental",
    "Make a track without vocals: submit, poll, and download in one shot. Costs one credit. The "
    "record is listed, shown, downloaded and deleted like any other.",
    PROMPT,
    flag(
        "--duration <sec>",
        "length in seconds, 30-210 in steps of 15",
        type=duration_seconds,
        default=120,
    ),
    VERBATIM_FLAG,
    SEED,
    OUTPUT,
    NO_WAIT,
    RECORD_QUIET,
    RECORD_FIELDS,
    RECORD_JSON,
    WEBHOOK,
    DRY_RUN,
    examples=['ft instrumental "slow piano over rain" --duration 90'],
)
def generate_instrumental(ft: Context, args: argparse.Namespace) -> None:
    prompt = read_prompt(ft.console, args.prompt)
    make_track(ft, args, instrumental_submission(prompt, vars(args)))


def instrumental_submission(prompt: str, options: Mapping[str, Any]) -> Submission:
    """Return what to submit for `ft instrumental` with these flags."""
    body = {
        "prompt": prompt,
        "duration": first_set(options["duration"], 120),
        "enhance": not options.get("verbatim"),
        "seed": options["seed"],
    }
    return Submission(GENERATION, "instrumental", body)


def read_prompt(console: Console, words: Sequence[str]) -> str:
    """Return the words of a prompt as one text; a lone `-` stands for stdin.

    Raises UsageError if it is empty or too long, or was meant to be the name of a file.
    """
    prompt = " ".join(words).strip()
    refuse_file_name(prompt, "prompt", "use `-` to read it from stdin")
    if prompt == "-":
        prompt = read_text(console, "-", "prompt").strip()
    return check_prompt(prompt)


def check_prompt(prompt: str) -> str:
    """Return `prompt`. Raises UsageError if it is empty, too long or no text."""
    if not prompt:
        raise UsageError("the prompt is empty")
    refuse_controls(prompt, "prompt")
    if len(prompt) > MAX_PROMPT:
        raise UsageError(f"the prompt has {len(prompt)} characters, more than {MAX_PROMPT}")
    return prompt


def read_lyrics(console: Console, args: argparse.Namespace, stdin_is_taken: bool) -> str:
    """Return the lyrics of --lyrics or --lyrics-file. Raises UsageError as `read_prompt` does."""
    lyrics: str = args.lyrics
    if args.lyrics_file is not None:
        if not args.lyrics_file:
            raise UsageError("--lyrics-file needs a file")
        if lyrics:
            raise UsageError("--lyrics and --lyrics-file cannot be used together")
        if args.lyrics_file == "-" and stdin_is_taken:
            raise UsageError("the prompt and the lyrics cannot both come from stdin")
        lyrics = read_text(console, args.lyrics_file, "lyrics").strip("\n")
    elif lyrics == "-":
        raise UsageError("invalid lyrics '-'", "use `--lyrics-file -` to read them from stdin")
    else:
        refuse_file_name(lyrics, "lyrics", "use `--lyrics-file` to read them from a file")
    return check_lyrics(lyrics)


def check_lyrics(lyrics: str) -> str:
    """Return `lyrics`. Raises UsageError if they are too long or no text."""
    refuse_controls(lyrics, "lyrics")
    if len(lyrics) > MAX_LYRICS:
        raise UsageError(f"the lyrics have {len(lyrics)} characters, more than {MAX_LYRICS}")
    return lyrics


def refuse_controls(text: str, what: str) -> None:
    """Raise UsageError if a text has control characters other than white space."""
    match = re.search("[\0-\x08\x0e-\x1f\x7f]", text)
    if match:
        hint = "is the text UTF-16? save it as UTF-8" if "\0" in text else ""
        raise UsageError(f"control character U+{ord(match[0]):04X} in the {what}", hint)


def refuse_file_name(text: str, what: str, hint: str) -> None:
    """Raise UsageError for `@FILE`, which other tools replace by what the file contains."""
    if text.startswith("@") and os.path.isfile(text[1:]):
        raise UsageError(f"the {what} {text!r} is the name of a file, not its contents", hint)


def read_text(console: Console, path: str, what: str) -> str:
    """Return the text of a file, or of stdin for `-`. Raises UsageError if it cannot be read."""
    limit = 1 << 20  # bytes, far more than a prompt or lyrics may have
    if path == "-":
        text = read_stdin(console, f"the {what}", limit)
    else:
        try:
            with open(path, "rb") as file:
                text = file.read(limit).decode("utf-8-sig", "surrogateescape")
        except OSError as error:
            raise UsageError(f"cannot read {path}: {error.strerror}") from None
    try:
        text.encode()
    except UnicodeEncodeError:
        source = "stdin" if path == "-" else path
        raise UsageError(f"the {what} from {source} is not UTF-8") from None
    return text


def first_set(*values: Any) -> Any:
    return next(value for value in values if value is not None)


# What a submission's answer says is left of an allowance.
REMAINING_FIELDS = {"creditsRemaining": "credits left", "dailyRemaining": "left today"}


def make_track(ft: Context, args: argparse.Namespace, submission: Submission) -> None:
    """Submit, wait and save, as far as the flags ask for it."""
    console, kind = ft.console, submission.kind
    if args.webhook:
        submission.body["webhook"] = args.webhook
    if args.dry_run:
        return print_request(ft, submission)
    waits = not (args.no_wait or args.webhook)
    saves = waits and not args.json and not args.fields
    # Before the credit is spent.
    if saves:
        check_destination(console, ft.part_files, args.output)
    else:
        require_stdout()
    # A missing key, which is found here, is no reason to say that something may have been accepted.
    sending = Sending(ft.console, ft.api, submission)
    if args.output is not None and not saves:
        console.note("-o has no effect here: nothing is downloaded")
    with Recovery(sending, args.output) as recovery:
        document = sending.send()
        record = document["data"]
        recovery.submitted(record["id"])
        note_clamped(console, submission.body, record)
        if not waits:
            return print_queued(ft, document)
        left = [
            f", {record[name]} {words}"
            for name, words in REMAINING_FIELDS.items()
            if is_number(record.get(name))
        ]
        console.note(f"queued as {record['id']}{''.join(left)}", is_vital=True)
        recovery.told()
        document = wait_for_track(ft, kind, record["id"])
        recovery.ended(document["data"])
        if args.json:
            console.print_json(document)
        elif args.fields:
            print_fields(console, [document["data"]], args.fields)
        record = require_completed(document["data"])
        if saves:
            with Progress(console) as progress:
                path = save_track(ft, record, args.output, progress, {})
            report_saved(console, path)


def print_request(ft: Context, submission: Submission) -> None:
    """Print what would be sent, and where it would go."""
    document = {"method": "POST", "url": submission_url(ft, submission), "body": submission.body}
    ft.console.print_json(document)
    ft.console.note("nothing was sent")


def submission_url(ft: Context, submission: Submission) -> str:
    return f"{ft.base_url}/v1/{submission.endpoint}"


def print_queued(ft: Context, document: Json) -> None:
    """Print what the service has accepted."""
    if ft.args.json:
        return ft.console.print_json(document)
    record = document["data"]
    if ft.args.fields:
        return print_fields(ft.console, [record], ft.args.fields)
    report_queued(ft.console, record)


def report_queued(console: Console, record: Json) -> None:
    """Print what was submitted: with -q the id alone."""
    if console.quiet:
        console.print(record["id"])
    else:
        console.print(f"Queued. id={record['id']} status={field_text(record, 'status')}")


# The library


@declare(
    "list",
    "Show recent generations. Newest first, as a table or as JSON.",
    LIMIT,
    OFFSET,
    STATUS,
    flag(
        "--type <t>", "only music or instrumental", choices=("music", "instrumental"), shown="both"
    ),
    ALL_FLAG,
    QUIET,
    FIELDS,
    JSON,
    examples=[
        "ft list --status completed --limit 50",
        "ft list --all --fields id,title,parameters.seed",
    ],
)
def list_tracks(ft: Context, args: argparse.Namespace) -> None:
    kind: Kind = args.command.kind
    status = None if args.status == "all" else args.status
    query = {"status": status}
    if kind is GENERATION:
        query["type"] = args.type
    if args.all:
        pages = ft.api.list_all_records(kind, args.offset, **query)
    else:
        offset = args.offset or None
        pages = iter([ft.api.list_records(kind, limit=args.limit, offset=offset, **query)])
    if args.json:
        document = merge_pages(kind, pages, lambda r: JsonText(format_json(r, RECORD_INDENT)))
        return ft.console.print_json(document)
    names = listed_fields(args)
    if names:
        count, data = print_pages(ft.console, kind, pages, names)
    else:
        data = merge_pages(kind, pages, track_row)["data"]
        count = len(data[kind.list_field])
    if not count:
        if args.offset:
            return ft.console.note(f"nothing at --offset {args.offset}: the list ends before it")
        suffix = f" with status {status}" if status else ""
        maker = " ".join(kind.words("generate"))
        return ft.console.note(f"nothing here{suffix}; `{maker}` makes one")
    if not names:
        print_tracks(ft.console, data[kind.list_field])
    if data.get("hasMore") is True:
        ft.console.note(f"there are more: --offset {field_text(data, 'nextOffset')}")


def listed_fields(args: argparse.Namespace) -> Sequence[str]:
    """Return the members that -q or --fields ask for, or none for a table."""
    return ("id",) if args.quiet else args.fields or ()


def print_pages(
    console: Console, kind: Kind, pages: Iterable[Json], names: Sequence[str]
) -> tuple[int, Json]:
    """Print members of the records of each page as soon as it comes.

    Returns how many records there were, and the `data` of the last page.
    """
    lines = FieldLines(console, names)
    data: Json = {}
    for page in pages:
        data = page["data"]
        lines.print(data[kind.list_field])
    lines.finish()
    return lines.count, data


RECORD_INDENT = "\n" + 6 * " "  # of a record in a document with a list of them


def merge_pages(kind: Kind, pages: Iterable[Json], condense: Callable[[Json], Any]) -> Json:
    """Return one document with the records of all pages, and otherwise as the last page is.

    `condense` makes what is kept of each record, because there may be many.
    """
    document: Json = {}
    records: list[Any] = []
    for page in pages:
        records += map(condense, page["data"][kind.list_field])
        document = document or page
        document["data"] = {**page["data"], kind.list_field: records}
    return document


def track_row(track: Json) -> tuple[str, ...]:
    """Return the cells of a track in a table."""
    return (
        field_text(track, "id"),
        field_text(track, "status"),
        format_duration(track.get("duration")),
        field_text(track, "prompt"),
        format_age(track.get("createdAt")),
    )


def print_tracks(console: Console, rows: Sequence[Sequence[str]]) -> None:
    console.print_table(
        ("ID", "STATUS", "DURATION", "PROMPT", "CREATED"),
        rows,
        long="PROMPT",
        drop=("CREATED", "DURATION"),
    )


@declare(
    "get",
    "Show one generation's detail. For a finished track also the command that makes it again.",
    ID_ARG,
    FIELDS,
    JSON,
    examples=[
        "ft get 07e8d430-2310-4c57-87a8-cf1e6db376f7",
        "ft get 07e8d430 --fields status,audioUrl",
    ],
)
def show_track(ft: Context, args: argparse.Namespace) -> None:
    kind: Kind = args.command.kind
    [identifier] = expand_ids(ft.console, [parse_id(args.id)], library_pages(ft.api, kind))
    document = ft.api.get_record(kind, identifier)
    if args.json:
        return ft.console.print_json(document)
    record = document["data"]
    if args.fields:
        return print_fields(ft.console, [record], args.fields)
    parameters = get_parameters(record)

    def formatted(name: str, form: Callable[[Any], str]) -> str:
        return "" if record.get(name) is None else form(record[name])

    bpm = parameters.get("bpm")
    is_public = record.get("isPublic")
    pairs = [
        ("ID", field_text(record, "id")),
        ("Title", field_text(record, "title", "")),
        ("Prompt", field_text(record, "prompt", "")),
        ("Type", field_text(record, "type", "")),
        ("Status", field_text(record, "status")),
        ("Error", field_text(record, "errorMessage", "")),
        ("Audio URL", field_text(record, "audioUrl", "")),
        ("Duration", formatted("duration", format_duration)),
        ("Asked for", formatted("requestedDuration", format_duration)),
        ("File size", formatted("fileSize", format_size)),
        ("Tempo", f"{format_json(bpm)} bpm" if is_number(bpm) else ""),
        ("Key", field_text(parameters, "keyscale", "")),
        ("Time signature", field_text(parameters, "timesignature", "")),
        ("Language", field_text(parameters, "language", "")),
        ("Seed", field_text(parameters, "seed", "")),
        ("Visibility", format_visibility(record) if isinstance(is_public, bool) else ""),
        ("Plays", field_text(record, "playCount", "")),
        ("Downloads", field_text(record, "downloadCount", "")),
        ("Likes", field_text(record, "likeCount", "")),
        ("Webhook", field_text(record, "webhook", "")),
        ("Created", format_timestamp(record.get("createdAt"))),
        ("Completed", format_timestamp(record.get("completedAt"))),
        ("Generation time", formatted("generationTime", format_duration)),
    ]
    words = command_to_repeat(record) if kind is GENERATION else ()
    ft.console.print_details(
        [pair for pair in pairs if pair[1]],
        ("Make it again", quote_command(*words)) if words else None,
    )


def command_to_repeat(record: Json) -> tuple[str, ...]:
    """Return the words of the command that makes a completed track again, or none.

    The service does not return the lyrics, so they cannot be part of it.
    """
    prompt = record.get("prompt")
    if record.get("status") != "completed" or not isinstance(prompt, str) or not prompt.strip():
        return ()
    parameters = get_parameters(record)
    fields = {"--duration": "duration", "--seed": "seed"}
    verb = "instrumental"
    if record.get("type") != verb:
        verb = "generate"
        key, _, scale = field_text(parameters, "keyscale", "").partition(" ")
        parameters = {**parameters, "key": key, "scale": scale}
        fields.update({"--bpm": "bpm", "--key": "key", "--scale": "scale"})
        fields.update({"--language": "language", "--time-sig": "timesignature"})
    flags: list[str] = []
    for name, field in fields.items():
        value = field_text(parameters, field, "")
        flags += [name, value] if value else []
    if parameters.get("enhance") is False:
        flags.append("--verbatim")
    if prompt.startswith("-"):
        return ("ft", verb, *flags, "--", prompt)
    return ("ft", verb, prompt, *flags)


@declare(
    "download",
    "Download an already-completed track. Several are downloaded four at a time, into -o's "
    "directory: those of the ids, of a playlist or of the whole library.",
    OPTIONAL_IDS_ARG,
    flag("--all", "every completed track of your library, instead of ids"),
    flag(
        "--playlist <playlist>",
        "every completed track of a playlist (its id or its name), instead of ids",
        shown="none",
    ),
    OUTPUT,
    SKIP_FLAG,
    METADATA,
    WAIT_FLAG,
    DOWNLOAD_QUIET,
    DOWNLOAD_JSON,
    examples=[
        "ft download 07e8d430-2310-4c57-87a8-cf1e6db376f7 -o jingle.mp3",
        "ft download --all --skip-existing -o tracks/",
        'ft download --playlist "Focus Beats" --metadata -o focus/',
        "ft list --type instrumental --status completed --all -q | ft download - -o piano/",
    ],
)
def download_tracks(ft: Context, args: argparse.Namespace) -> int | None:
    kind: Kind = args.command.kind
    playlist = args.playlist if kind is GENERATION else None
    source = download_source(args, playlist)
    ids = read_ids(ft.console, args.id) if args.id else []
    check_output_flag(args, "several ids" if len(ids) > 1 else source)
    check_destination(ft.console, ft.part_files, args.output)
    if ids:
        ids = expand_ids(ft.console, ids, library_pages(ft.api, kind))
    else:
        records = listed_tracks(ft, args, playlist)
        ids = list(records)
        if not ids:
            ft.console.note("nothing to download: no completed tracks")
            if args.json:
                ft.console.print_json({"data": empty_outcome(args)})
            return None
    if not ft.console.has_status_line:
        title = ids[0] if len(ids) == 1 else f"{len(ids)} tracks"
        missing = "what is missing of " if args.skip_existing else ""
        ft.console.note(f"downloading {missing}{title}")
    if args.id:
        records = find_records(ft.api, kind, ids)
    with Progress(ft.console, len(ids)) as progress:
        saver = TrackSaver(ft, ids, records, progress)
        if playlist is not None and args.metadata:
            saver.complete_records()
        if len(ids) > 1 or source or args.skip_existing or args.json:
            return save_several(ft, ids, saver, progress)
        report_saved(ft.console, saver.save(ids[0]))
        return None


def download_source(args: argparse.Namespace, playlist: str | None) -> str:
    """Return which flag is there in place of ids, or nothing for ids.

    Raises UsageError unless there is exactly one of all.
    """
    given = {"ids": args.id, "--all": args.all, "--playlist": playlist is not None}
    sources = [name for name, is_given in given.items() if is_given]
    if not sources:
        others = "--all or --playlist" if args.command.kind is GENERATION else "--all"
        raise UsageError(f"missing argument: <id>, {others}", args.command.usage_hint)
    if len(sources) > 1:
        raise UsageError(f"{sources[0]} and {sources[1]} cannot be used together")
    return "" if args.id else sources[0]


def check_output_flag(args: argparse.Namespace, several: str) -> None:
    """Raise UsageError if -o cannot be what other flags need it to be.

    `several` says what may mean more than one track, if anything does.
    """
    output = args.output or "."
    if not names_directory(output):
        if several:
            raise UsageError(
                f"with {several}, -o must be a directory", "end its name with a slash to create it"
            )
        if args.skip_existing:
            raise UsageError("--skip-existing looks into a directory, so -o must be one")
    if args.json and is_stdout(output):
        raise UsageError("--json and -o - cannot be used together")
    if args.metadata and is_stream(output):
        raise UsageError(f"--metadata and -o {output} cannot be used together")


def listed_tracks(ft: Context, args: argparse.Namespace, playlist: str | None) -> dict[str, Json]:
    """Return the records of the library's or a playlist's tracks, by their ids.

    They are the completed ones and, with --wait, those that will be.
    """
    kind: Kind = args.command.kind
    wanted = ("completed", "pending", "processing") if args.wait else ("completed",)
    if playlist is None:
        pages = library_pages(ft.api, kind, status=None if args.wait else "completed")
    else:
        [identifier] = find_playlists(ft, playlist)
        pages = playlist_pages(ft.api, identifier)
    records = {field_text(record, "id"): record for page in pages for record in page}
    chosen = {i: r for i, r in records.items() if field_text(r, "status") in wanted}
    if playlist is not None and len(chosen) < len(records):
        ft.console.note(f"not completed: {len(records) - len(chosen)} of {len(records)} tracks")
    return chosen


@declare(
    "delete",
    "Permanently delete tracks. They disappear from your library, all playlists and public pages, "
    "and cannot be restored.",
    IDS_ARG,
    YES_FLAG,
    JSON,
    examples=[
        "ft delete 07e8d430 a9b16641",
        "ft list --status failed --all -q | ft delete --yes -",
    ],
)
def delete_tracks(ft: Context, args: argparse.Namespace) -> int | None:
    if "-" in args.id and not args.yes:
        raise UsageError("confirmation needed but stdin contains the ids", SKIP_HINT)
    ids = read_ids(ft.console, args.id)
    if not args.yes:
        ft.console.require_terminal()
    # Without a question, a prefix that is typed too short must not delete the wrong track.
    minimum = 8 if args.yes else 6
    ids = expand_ids(ft.console, ids, library_pages(ft.api, GENERATION), minimum)
    consequence = (
        "This permanently deletes the track from your library — everywhere, not just playlists."
    )
    if not args.yes:
        print_prompts(ft, ids)
        if not ft.console.confirm(consequence, f"Delete {len(ids)} track(s)?"):
            (ft.console.note if args.json else ft.console.print)("Aborted.")
            return None
    return run_bulk(ft, ids, ft.api.bulk_delete, BulkResult("deleted", "id"))


def print_prompts(ft: Context, ids: list[str]) -> None:
    """Show on stderr which tracks are meant: the prompts of the first five."""
    for identifier in ids[:5]:
        try:
            prompt = field_text(ft.api.get_record(GENERATION, identifier)["data"], "prompt")
        except ApiError as error:
            prompt = error.message
        ft.console.note(f"{shorten_id(identifier)}  {truncate(sanitise(prompt), 60)}")
    if len(ids) > 5:
        ft.console.note(f"and {len(ids) - 5} more")


def parse_id(identifier: str, what: str = "id") -> str:
    """Return an id, a UUID in lower case. Raises UsageError if it cannot be one."""
    if "ft_live_" in identifier:
        raise UsageError("that is an API key, not an id")
    if not identifier or re.search(r"[\s/\x00-\x1f\x7f\ud800-\udfff]", identifier):
        raise UsageError(f"not a usable {what}: {identifier!r}")
    if identifier in (".", ".."):
        raise UsageError(f"not a usable {what}: {identifier!r}")
    return identifier.lower() if re.fullmatch(UUID_PATTERN, identifier) else identifier


def expand_ids(
    console: Console, ids: list[str], pages: Iterable[list[Json]], minimum: int = 6
) -> list[str]:
    """Return ids in full where only their first characters are given, as git takes its hashes.

    `pages` are lists of the records that may be meant. They are read to the end, but only if they
    are needed. What begins no id is returned as it is. Raises UsageError if an id is ambiguous or
    has fewer than `minimum` characters.
    """
    short_ids = {}
    for identifier in ids:
        match = re.fullmatch(SHORT_ID_PATTERN, identifier)
        if match and not re.fullmatch(UUID_PATTERN, identifier):
            short_ids[identifier] = match[1].lower()
    for short in short_ids.values():
        if len(short) < minimum:
            raise UsageError(f"{short} is too short: {minimum} characters are needed here")
    found = find_beginnings(console, set(short_ids.values()), pages)
    expanded: list[str] = []
    for identifier in ids:
        candidates = found.get(short_ids.get(identifier, ""), [identifier])
        if len(candidates) > 1:
            shown = ", ".join(candidates[:5]) + (", ..." if len(candidates) > 5 else "")
            raise UsageError(
                f"{identifier} begins {len(candidates)} ids: {shown}", "use more of it"
            )
        expanded += candidates
    return list(dict.fromkeys(expanded))


def find_beginnings(
    console: Console, short_ids: set[str], pages: Iterable[list[Json]]
) -> dict[str, list[str]]:
    """Return the ids that begin with each of `short_ids`, for those that begin any."""
    found: dict[str, dict[str, None]] = {}  # ids in order, each once
    lengths = {len(short) for short in short_ids}
    for number, records in enumerate(pages if short_ids else ()):
        if number == 2:
            console.note("looking through the list for ids that begin so")
        for full in (field_text(record, "id", "") for record in records):
            for length in lengths:
                beginning = full[:length].lower()
                if beginning in short_ids:
                    found.setdefault(beginning, {})[full] = None
    return {beginning: list(ids) for beginning, ids in found.items()}


def playlist_pages(api: Api, playlist: str) -> Iterator[list[Json]]:
    """Yield the tracks of a playlist, as one page."""
    yield api.get_playlist(playlist)["data"]["tracks"]


def library_pages(api: Api, kind: Kind, **query: Any) -> Iterator[list[Json]]:
    """Yield the records of all pages of the list, as `Api.list_records` takes the query."""
    for document in api.list_all_records(kind, **query):
        yield document["data"][kind.list_field]


def read_ids(console: Console, words: Sequence[str]) -> list[str]:
    """Return ids in order, each once. The word `-` stands for those on stdin, one a line.

    Raises UsageError if one cannot be an id, or if there are none.
    """
    if "-" in words:
        text = read_stdin(console, "ids, one a line,")
        # Not splitlines, which would make two ids of one with a form feed in it.
        lines = filter(None, (line.strip() for line in re.split("\r?\n", text)))
        i = words.index("-")
        words = [*words[:i], *lines, *(word for word in words[i + 1 :] if word != "-")]
        if not words:
            raise UsageError("no ids on stdin")
    return list(dict.fromkeys(map(parse_id, words)))


# Playlists


@declare(
    "playlists",
    "List your playlists. Playlists are created in the web app.",
    QUIET,
    FIELDS,
    JSON,
    examples=["ft playlists"],
)
def list_playlists(ft: Context, args: argparse.Namespace) -> None:
    document = ft.api.get_playlists()
    if args.json:
        return ft.console.print_json(document)
    playlists = document["data"]["playlists"]
    if not playlists:
        return ft.console.note("no playlists yet: create one at finetuning.ai")
    names = listed_fields(args)
    if names:
        return print_fields(ft.console, playlists, names)
    ft.console.print_table(
        ("ID", "NAME", "TRACKS", "DURATION", "VISIBILITY", "UPDATED"),
        [
            (
                field_text(playlist, "id"),
                field_text(playlist, "name"),
                field_text(playlist, "trackCount"),
                format_duration(playlist.get("totalDuration")),
                format_visibility(playlist),
                format_age(playlist.get("updatedAt")),
            )
            for playlist in playlists
        ],
        long="NAME",
        drop=("UPDATED", "VISIBILITY", "DURATION"),
    )


def find_playlists(ft: Context, *words: str) -> list[str]:
    """Return the ids of the playlists that `words` refer to: a UUID is an id, the rest are names.

    Raises UsageError if no playlist has the name, or more than one.
    """
    is_known = all(re.fullmatch(UUID_PATTERN, word) for word in words)
    playlists = [] if is_known else ft.api.get_playlists()["data"]["playlists"]
    return [find_playlist(ft.console, word, playlists) for word in words]


def fold_name(name: str) -> str:
    """Return a name in the form in which names are compared: no case, one form of Unicode."""
    from unicodedata import normalize

    return normalize("NFC", normalize("NFC", name.strip()).casefold())


def find_playlist(console: Console, word: str, playlists: list[Json]) -> str:
    if re.fullmatch(UUID_PATTERN, word):
        return word
    names = [field_text(playlist, "name", "") for playlist in playlists]
    wanted = fold_name(word)
    if not wanted:  # as of a variable that is not set
        raise UsageError("the name of the playlist is empty")
    ids = [
        field_text(playlist, "id", "")
        for playlist, name in zip(playlists, names)
        if fold_name(name) == wanted
    ]
    if len(ids) > 1:
        counts = {field_text(p, "id", ""): field_text(p, "trackCount", "?") for p in playlists}
        listed = ", ".join(f"{i} ({counts[i]} tracks)" for i in ids)
        raise UsageError(f"{len(ids)} playlists are called {word!r}: {listed}", "use the id")
    if not ids:
        ids = [i for i in expand_ids(console, [word], [playlists]) if i != word]
    # Ids of the older form are no UUIDs.
    if not ids and not word.startswith("pl_"):
        suggestion = suggest_nearest(word, dict(zip(names, names)))
        raise UsageError(
            f"no playlist is called {word!r}{suggestion}", "`ft playlists` lists yours"
        )
    return parse_id(ids[0] if ids else word, "playlist id")


@declare(
    "playlist show",
    "Show a playlist and the tracks in it. Your own, or anybody's public one by its id.",
    PLAYLIST,
    PLAYLIST_QUIET,
    PLAYLIST_FIELDS,
    JSON,
    examples=['ft playlist show "Focus Beats"'],
)
def show_playlist(ft: Context, args: argparse.Namespace) -> None:
    [playlist_id] = find_playlists(ft, args.playlist)
    document = ft.api.get_playlist(playlist_id)
    if args.json:
        return ft.console.print_json(document)
    playlist = document["data"]
    tracks = playlist["tracks"]
    names = listed_fields(args)
    if names:
        return print_fields(ft.console, tracks, names)
    pairs = [
        ("ID", field_text(playlist, "id")),
        ("Name", field_text(playlist, "name")),
        ("Description", field_text(playlist, "description", "")),
        ("Visibility", format_visibility(playlist)),
        ("Tracks", field_text(playlist, "trackCount", str(len(tracks)))),
        ("Duration", format_duration(playlist.get("totalDuration"))),
        ("Updated", format_age(playlist.get("updatedAt"))),
    ]
    ft.console.print_details([pair for pair in pairs if pair[1]])
    if tracks:
        ft.console.print_raw("\n")
        print_tracks(ft.console, [track_row(track) for track in tracks])


@declare(
    "playlist add",
    "Add tracks to a playlist. Public playlists accept public tracks only, private ones only your "
    "own.",
    PLAYLIST,
    IDS_ARG,
    JSON,
    examples=[
        'ft playlist add "Focus Beats" 07e8d430 a9b16641',
        'ft list --status completed -q | ft playlist add "Focus Beats" -',
    ],
)
def add_to_playlist(ft: Context, args: argparse.Namespace) -> int:
    ids = read_ids(ft.console, args.id)
    [playlist] = find_playlists(ft, args.playlist)
    ids = expand_ids(ft.console, ids, library_pages(ft.api, GENERATION))
    send = partial(ft.api.add_tracks, playlist)
    return run_bulk(ft, ids, send, BulkResult("added", "trackId"))


@declare(
    "playlist remove",
    "Remove tracks from a playlist. They stay in your library.",
    PLAYLIST,
    IDS_ARG,
    JSON,
    examples=[
        'ft playlist remove "Focus Beats" 07e8d430',
        'ft playlist show "Focus Beats" -q | ft playlist remove "Focus Beats" -',
    ],
)
def remove_from_playlist(ft: Context, args: argparse.Namespace) -> int:
    ids = read_ids(ft.console, args.id)
    [playlist] = find_playlists(ft, args.playlist)
    ids = expand_ids(ft.console, ids, playlist_pages(ft.api, playlist))
    send = partial(ft.api.remove_tracks, playlist)
    return run_bulk(ft, ids, send, BulkResult("removed", "trackId"))


@declare(
    "playlist move",
    "Move tracks between playlists. A track that cannot be added to the target stays in the "
    "source.",
    arg("source", "the playlist to take them from, id or name", metavar="<src>"),
    arg("target", "the playlist to put them in, id or name", metavar="<dst>"),
    IDS_ARG,
    JSON,
    examples=[
        'ft playlist move "Drafts" "Album" 07e8d430 a9b16641',
        "ft playlist show Drafts -q | ft playlist move Drafts Album -",
    ],
)
def move_between_playlists(ft: Context, args: argparse.Namespace) -> int:
    ids = read_ids(ft.console, args.id)
    source, target = find_playlists(ft, args.source, args.target)
    if source.lower() == target.lower():
        raise UsageError("the source and the target are the same playlist")
    ids = expand_ids(ft.console, ids, playlist_pages(ft.api, source))
    send = partial(ft.api.move_tracks, source, target)
    return run_bulk(ft, ids, send, BulkResult("moved", "trackId"))


# Sound effects


@declare(
    "sfx generate",
    "Make a sound effect: submit, poll, and download in one shot.",
    PROMPT,
    flag(
        "--duration <sec>", "length in seconds", type=duration_seconds, shown="the service's choice"
    ),
    VERBATIM_FLAG,
    OUTPUT,
    NO_WAIT,
    RECORD_QUIET,
    RECORD_FIELDS,
    RECORD_JSON,
    WEBHOOK,
    DRY_RUN,
    examples=['ft sfx generate "a heavy door closes" --duration 3'],
)
def generate_sound_effect(ft: Context, args: argparse.Namespace) -> None:
    prompt = read_prompt(ft.console, args.prompt)
    make_track(ft, args, effect_submission(prompt, vars(args)))


def effect_submission(prompt: str, options: Mapping[str, Any]) -> Submission:
    """Return what to submit for `ft sfx generate` with these flags."""
    body = {
        "prompt": prompt,
        "enhance": not options.get("verbatim"),
        "duration": options["duration"],
    }
    return Submission(SOUND_EFFECT, "sound-effects", body)


declare(
    "sfx list",
    "Show recent sound effects. Newest first, as a table or as JSON.",
    LIMIT,
    OFFSET,
    STATUS,
    ALL_FLAG,
    QUIET,
    FIELDS,
    JSON,
    examples=["ft sfx list --limit 10"],
)(list_tracks)
declare(
    "sfx get",
    "Show one sound effect's detail.",
    ID_ARG,
    FIELDS,
    JSON,
    examples=["ft sfx get 07e8d430-2310-4c57-87a8-cf1e6db376f7"],
)(show_track)
declare(
    "sfx download",
    "Download already-completed sound effects. As `ft download` does.",
    OPTIONAL_IDS_ARG,
    flag("--all", "every completed sound effect, instead of ids"),
    OUTPUT,
    SKIP_FLAG,
    METADATA,
    WAIT_FLAG,
    DOWNLOAD_QUIET,
    DOWNLOAD_JSON,
    examples=[
        "ft sfx download 07e8d430-2310-4c57-87a8-cf1e6db376f7",
        "ft sfx download --all --skip-existing -o effects/",
    ],
)(download_tracks)


# The tool itself


@declare(
    "doctor",
    "Health check + resolved config dump. The first thing to try when something feels off.",
    flag("--json", "print the same facts as JSON"),
    examples=["ft doctor"],
)
def check_setup(ft: Context, args: argparse.Namespace) -> int:
    checkup = Checkup(ft)
    is_reachable = (
        checkup.run("config", checkup.check_settings)
        and checkup.run("base URL", checkup.check_base_url)
        and checkup.run("/health", checkup.check_health)
    )
    has_key = checkup.run("key", checkup.check_key)
    checkup.run("key store", checkup.check_key_store)
    if is_reachable and has_key:
        checkup.run("key", checkup.check_account)
    if args.json:
        ft.console.print_json(checkup.to_document())
    else:
        python = checkup.facts["python"]
        ft.console.print_checklist([*checkup.lines, (True, f"Python {python} on {sys.platform}")])
    return checkup.exit_code


class Checkup:
    """The checks of `ft doctor`: each adds a line and some members of the JSON document."""

    def __init__(self, ft: Context) -> None:
        self.ft = ft
        self.lines = [(True, f"ft v{__version__}")]
        self.facts: Json = {
            "version": __version__,
            "python": sys.version.split()[0],
            "platform": sys.platform,
        }
        self.exit_code = 0

    def run(self, name: str, check: Callable[[], str]) -> bool:
        """Add the line that `check` returns, or the error it raises; return whether all is well."""
        try:
            self.lines.append((True, check()))
            return True
        except FtError as error:
            hint = f"; {error.hint}" if error.hint else ""
            self.lines.append((False, f"{name}: {error.message}{hint}"))
            self.exit_code = self.exit_code or error.exit_code
            return False

    def to_document(self) -> Json:
        problems = [text for is_good, text in self.lines if not is_good]
        return {**self.facts, "ok": self.exit_code == 0, "problems": problems}

    def check_settings(self) -> str:
        settings = self.ft.settings
        self.facts.update(
            config=settings.path or None,
            configExists=settings.exists,
            unknownKeys=settings.unknown_keys,
        )
        if not settings.path:
            return "config: no home directory to look in (defaults)"
        missing = "" if settings.exists else " (does not exist: defaults)"
        unknown = ", ".join(settings.unknown_keys)
        ignored = f" (unknown keys, ignored: {unknown})" if unknown else ""
        return f"config: {settings.path}{missing}{ignored}"

    def check_base_url(self) -> str:
        self.facts["baseUrl"] = self.ft.base_url
        return f"base URL: {self.ft.base_url}"

    def check_health(self) -> str:
        try:
            document = Api(self.ft.http, self.ft.base_url).get_health()
        except ApiError as error:  # even a refusal means that the service is not healthy
            raise NetworkError(error.message) from None
        self.facts["health"] = field_text(document, "status", "ok")
        return f"/health → {self.facts['health']}"

    def check_key(self) -> str:
        key = self.ft.keys.find()
        self.facts.update(key=redact(key.text), keySource=key.source)
        return f"key from: {key.source}"

    def check_key_store(self) -> str:
        """Say where `ft auth login` would store a key, and why there."""
        keys = self.ft.keys
        given, place, why = keys.from_invocation(), keys.keychain.name, None
        if given:
            why = f"not asked: {given.source} comes first"
        elif keys.keychain_error and keys.file:
            why = f"plain text: {place} cannot be reached: {keys.keychain_error}"
            place = keys.file.path or config_directory()  # which says what is missing
        elif keys.file and self.facts.get("keySource") == keys.file.path:
            why = "`ft auth login` would move the key there from its plain text file"
        self.facts.update(keyStore=place, keyStoreReason=why)
        return f"key store: {place}" + (f" ({why})" if why else "")

    def check_account(self) -> str:
        account = self.ft.api.get_account()["data"]
        self.facts.update(email=account.get("email"), tier=account.get("tier"))
        owner = f"{field_text(account, 'email')}, {field_text(account, 'tier')} tier"
        return f"key: {self.facts['key']}  ({owner})"


def find_installation(release: str) -> str:
    """Return the path of the running zipapp, if the install script put it there.

    Raises FtError, with the command that does it, where `ft update` cannot upgrade ft.
    """
    archive = getattr(__loader__, "archive", None)  # type: ignore[name-defined]
    place = os.path.realpath(archive or __file__)
    directory, name = os.path.split(place)
    is_package = archive is None and os.path.basename(directory) in (
        "site-packages",
        "dist-packages",
    )
    tool = ""
    if is_package and "/Cellar/" not in place:
        tool, upgrade = find_installer(directory)
        if upgrade:
            raise FtError(f"this ft came from {tool}: {place}", command=upgrade)
    if re.match("/(usr/)?s?bin/|/usr/lib/|/(nix|snap|gnu)/|.*/Cellar/", place):
        raise FtError(
            f"this ft came from a package manager: {place}", "update it with that package manager"
        )
    if is_package:
        raise FtError(f"this ft came from {tool}: {place}", "update it as you installed it")
    if archive is None and os.path.exists(os.path.join(directory, ".git")):
        pull = ("git", "-C", directory, "pull")
        raise FtError(f"this ft is a checkout: {place}", command=pull)
    if archive is None or name != ("ft.exe" if os.name == "nt" else "ft"):
        raise FtError(
            f"this ft did not come from the install script: {place}",
            f"put {release}/ft{'.exe' if name.endswith('.exe') else '.pyz'} in its place",
        )
    return place


def find_installer(directory: str) -> tuple[str, tuple[str, ...]]:
    """Return the tool that installed ft as a package, and the words of the command to upgrade it.

    There are no words if the command is not known.
    """
    import json
    from importlib.metadata import distributions

    if os.path.exists(os.path.join(sys.prefix, "pipx_metadata.json")):
        return "pipx", ("pipx", "upgrade", os.path.basename(sys.prefix))
    for package in distributions(path=[directory]):
        if "ft.py" not in map(str, package.files or ()):
            continue
        tool = (package.read_text("INSTALLER") or "an unknown tool").strip()
        if tool != "pip":
            return tool, ()
        origin = json.loads(package.read_text("direct_url.json") or "{}")  # PEP 610
        vcs = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
        source = f"{vcs}{origin['url']}" if origin else package.metadata["Name"]
        return tool, (sys.executable, "-m", "pip", "install", "--upgrade", source)
    return "an unknown tool", ()


@declare(
    "update",
    "Re-run the install script to upgrade. It puts the newest release into the directory of this "
    "ft.",
    examples=["ft update"],
)
def update_ft(ft: Context, args: argparse.Namespace) -> None:
    # FT_BASE_URL is the name that the install script knows.
    source = "FT_BASE_URL" if os.environ.get("FT_BASE_URL") else "FT_RELEASE_URL"
    release = parse_base_url(os.environ.get(source) or RELEASE_URL, source)
    place = find_installation(release)
    http = HttpClient(ft.console, https_only=release.lower().startswith("https:"))
    newest = fetch_newest_version(http, release)
    new, old = ([int(part) for part in version.split(".")] for version in (newest, __version__))
    if new <= old:
        rest = f"newer than the newest release, {newest}" if new < old else "the newest release"
        return ft.console.print(f"ft {__version__} is {rest}.")
    script = fetch_verified(http, release, "install.ps1" if os.name == "nt" else "install.sh")
    ft.console.note(f"updating ft {__version__} → {newest}")
    directory = os.path.dirname(place)
    if os.name == "nt":
        with ft.part_files.create(place, suffix=".ps1") as file:
            file.restart()
            file.write(script)
            file.finish()
            argv = [find_powershell(), "-NoProfile", "-ExecutionPolicy", "Bypass"]
            argv += ["-File", file.hidden_path, "-Prefix", directory, "-NoPath"]
            run_installer([*argv, "-Version", newest, "-BaseUrl", release], b"")
    else:
        argv = ["sh", "-s", "--", "--prefix", directory]
        run_installer([*argv, "--version", newest, "--base-url", release], script)
    require_version(place, newest)


def find_powershell() -> str:
    """Return the path of Windows PowerShell. Its name alone may start one that lies here."""
    system = os.path.join(os.environ.get("SYSTEMROOT", r"C:\Windows"), "System32")
    return os.path.join(system, "WindowsPowerShell", "v1.0", "powershell.exe")


def fetch_newest_version(http: HttpClient, release: str) -> str:
    text = http.get_bytes(f"{release}/VERSION", 1 << 20).decode("ascii", "replace").strip()
    if not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}", text, re.ASCII):
        raise NetworkError(f"unexpected reply from {release}: no version")
    return text


def fetch_verified(http: HttpClient, release: str, name: str) -> bytes:
    """Return a file of a release. Raises NetworkError unless its checksum is the published one."""
    import hashlib

    content = http.get_bytes(f"{release}/{name}", 1 << 20)
    sums = http.get_bytes(f"{release}/SHA256SUMS", 1 << 20).decode("ascii", "replace").split()
    published = zip(sums[::2], (word.lstrip("*") for word in sums[1::2]))
    if (hashlib.sha256(content).hexdigest(), name) not in published:
        raise NetworkError(f"{name} from {release} does not match its published checksum")
    return content


def run_installer(argv: list[str], script: bytes) -> None:
    """Run the install script, which it reads from stdin. Raises FtError if it fails."""
    import subprocess

    stays = f"ft {__version__} stays"
    # FT_FROM would install something else; the modules of PowerShell 7 do not suit the older one.
    unwanted = ("FINETUNING_API_KEY", "FT_FROM", "PSMODULEPATH")
    environ = {name: value for name, value in os.environ.items() if name.upper() not in unwanted}
    try:
        # A session of its own: only we stop the script, together with what it runs.
        with subprocess.Popen(
            argv, env=environ, stdin=subprocess.PIPE, start_new_session=True
        ) as process:
            try:
                process.communicate(script)
            except StopSignal:
                if os.name == "nt":
                    process.terminate()
                else:
                    os.killpg(process.pid, signal.SIGTERM)
                raise  # Popen waits until the script has cleaned up
    except OSError as error:
        raise FtError(f"cannot run the install script: {error.strerror}; {stays}") from None
    if process.returncode:
        code = process.returncode
        how = f"signal {-code}" if code < 0 else f"exit {code}"
        raise FtError(f"the install script failed ({how}); {stays}")


def require_version(place: str, version: str) -> None:
    """Raise FtError unless the program at `place` says that it is this version."""
    import subprocess

    try:
        command = [sys.executable, place, "--version"]
        shown = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE).stdout
    except OSError:
        shown = b""
    if shown.split() != [b"ft", version.encode()]:
        raise FtError(f"the install script ended, but {place} is not ft {version}")


def remove_replaced_program() -> None:
    """Remove the ft.exe that an update renamed, because Windows cannot remove one that runs."""
    if os.name == "nt":
        place = getattr(__loader__, "archive", None) or __file__  # type: ignore[name-defined]
        directory, name = os.path.split(place)
        if name == "ft.exe":
            try_remove(os.path.join(directory, REPLACED_PROGRAM))


@declare(
    "completion",
    "Print a shell's completion script. It completes commands, flags and their choices; load it "
    "where your shell starts.",
    arg("shell", "bash, zsh, fish or powershell", choices=("bash", "zsh", "fish", "powershell")),
    examples=['eval "$(ft completion bash)"'],
)
def print_completion(ft: Context, args: argparse.Namespace) -> None:
    ft.console.print_raw(COMPLETION_SCRIPTS[args.shell])


@declare(
    "help",
    "Print built-in help. Overall or for a single command.",
    arg(
        "topic", "the command or topic to explain; none: an overview", metavar="command", nargs="*"
    ),
    flag("--man", "print the man page of all commands, as roff"),
    examples=["ft help generate"],
)
def show_help(ft: Context, args: argparse.Namespace) -> None:
    if args.man:
        return ft.console.print_raw(format_manual())
    ft.console.print_help(help_text(args.topic))


# --- 10. Batch -----------------------------------------------------------------------------------

# `ft batch` reads a file into lines (BatchFile, BatchLine), and makes each a track (Batch) with the
# workflows of `ft generate` and `ft download`. The journal (Journal) has every step of every line,
# so that a run that was stopped anywhere goes on with the next one, once it has found what the
# stopped one lost (LostTracks). The workflows know nothing of the journal: Batch writes before and
# after it calls them.

COLUMNS = (
    *("prompt", "duration", "bpm", "key", "scale", "time_sig", "language", "lyrics", "seed"),
    *("output", "type"),
)
# Those that a line of a type may fill in.
COLUMNS_BY_TYPE = {
    "music": COLUMNS,
    "instrumental": ("prompt", "duration", "seed", "output", "type"),
    "sfx": ("prompt", "duration", "output", "type"),
}
COLUMN_SYNONYMS = {
    **dict.fromkeys(("tempo", "speed"), "bpm"),
    **dict.fromkeys(("length", "seconds"), "duration"),
    **dict.fromkeys(("file", "filename", "path"), "output"),
    **dict.fromkeys(("text", "tags", "title"), "prompt"),
    "timesignature": "time_sig",
    "kind": "type",
}
# The flags of `ft generate` that share their names with columns; their types check cells, too.
CELL_OPTIONS = {names[-1][2:].replace("-", "_"): options for names, options in MUSIC_FLAGS}
FORMATS = ("text", "csv", "tsv", "jsonl")
FORMATS_BY_EXTENSION = {".csv": "csv", ".tsv": "tsv", ".jsonl": "jsonl", ".ndjson": "jsonl"}
# Their lines are no prompts, and each would cost a credit.
NO_TEXT_EXTENSIONS = (".json", ".xls", ".xlsx", ".ods", ".numbers", ".doc", ".docx", ".pdf")
MAX_BATCH_BYTES = 64 << 20
MAX_PROBLEMS = 100  # of an input that are printed
MAX_WARNINGS = 20  # of lines that a run did not come to
MAX_UNKNOWN = 3  # submissions in a row without an answer
MAX_BATCH_WAIT = 600.0  # seconds that a 429 may ask for
LIST_MARGIN = 3600.0  # seconds that the list is read back beyond a lost submission
UNKNOWN_DELAY = 120.0  # seconds after which an unanswered submission will not be accepted any more
SECONDS_PER_READ = 1.5  # so that polling stays below 60 requests a minute


class BatchLine:
    """A line of a batch: what to make, where to save it, and what has become of it so far.

    `cells` are its own values, as they would be sent, and `output` is where the track goes.
    `history` is what the journal knows of the line.
    """

    def __init__(self, number: int, cells: Json, output: str) -> None:
        self.number = number
        self.cells = cells
        self.output = output
        self.type: str = cells["type"]
        self.directory = ""  # where -o wants the track; "" if there is no -o
        self.key = ""  # the name of the line in the journal, which gives it
        self.submission: Submission
        self.history: Json = {}
        self.is_missing = False  # its answer was lost, and its track is not in the list
        self.suspects: list[str] = []  # ids of tracks that may be it
        self.deadline = float("inf")  # for its track, of time.monotonic
        self.unknown_since: float | None = None  # when the service first did not know its track

    @property
    def state(self) -> str:
        """Return the last state in the journal; "unsent" if there is none."""
        return str(self.history.get("state", "unsent"))

    @property
    def identifier(self) -> str:
        """Return the id of the track, or nothing."""
        return str(self.history.get("id", ""))

    def make_submission(self, defaults: Mapping[str, Any], settings: Settings) -> Submission:
        """Return what to submit, with the defaults of the flags and of config.json."""
        prompt, options = self.cells["prompt"], {**defaults, **self.cells}
        if self.type == "instrumental":
            return instrumental_submission(prompt, options)
        if self.type == "sfx":
            return effect_submission(prompt, options)
        return music_submission(prompt, options, settings)

    def marked_submission(self) -> Submission:
        """Return what to submit, with a random seed if it has none, to know its track by."""
        import random

        body = dict(self.submission.body)
        is_marked = self.type != "sfx" and "seed" not in body
        if is_marked:
            body["seed"] = random.randrange(1 << 31)
        return Submission(self.submission.kind, self.submission.endpoint, body, is_marked)

    def sent_submission(self) -> Submission:
        """Return what an earlier run has sent, by the journal."""
        body, is_marked = self.history["body"], self.history.get("seedIsRandom") is True
        return Submission(self.submission.kind, self.submission.endpoint, body, is_marked)

    @property
    def time_sent(self) -> float:
        """Return when an earlier run has sent it, or minus infinity where the journal is silent."""
        sent: Any = self.history.get("time")
        return sent if is_number(sent) else float("-inf")

    @property
    def was_timed_here(self) -> bool:
        """Return whether that is by the clock of this machine, which may be wrong."""
        return self.history.get("clock") == "local"

    def was_sent_otherwise(self) -> bool:
        """Return whether its track was made with other flags than those of this run."""
        if self.state not in ("submitted", "saved"):
            return False
        sent, now = self.history["body"], self.submission.body
        return any(sent.get(name) != now.get(name) for name in {*sent, *now} - {"seed"})

    def digest(self) -> str:
        """Return a text that only equal lines share: those with the same cells but the output."""
        import hashlib

        # 30.0 is as long as 30.
        plain = {
            name: int(value) if is_number(value) and value == int(value) else value
            for name, value in sorted(self.cells.items())
        }
        return hashlib.sha256(format_json(plain).encode()).hexdigest()[:20]

    def is_in_place(self) -> bool:
        """Return whether the track was saved as the line and -o want it and is still there."""
        if self.state != "saved" or self.history["output"] != self.output:
            return False
        path = self.history["path"]
        if self.directory and resolve_directory(os.path.dirname(path)) != self.directory:
            return False
        return file_size(path) > 0


def split_lines(text: str) -> list[str]:
    """Return the lines of a text. Not splitlines, which splits at form feeds, too."""
    return re.split("\r\n|\n|\r", text)


def find_column(name: str) -> str:
    """Return the column that a name means. Raises UsageError if there is none."""
    folded = re.sub("[-_]", "", name.strip().lower())
    for column in COLUMNS:
        if folded == column.replace("_", ""):
            return column
    if re.search("[;\t]", name):
        raise UsageError(f"unknown column {name!r}; columns are separated by commas")
    suggestion = suggest_nearest(name, {**dict(zip(COLUMNS, COLUMNS)), **COLUMN_SYNONYMS})
    raise UsageError(f"unknown column {name!r}{suggestion}")


def find_columns(names: Iterable[str]) -> list[str]:
    """Return the columns that names mean. Raises UsageError if one is unknown or there twice."""
    columns: list[str] = []
    for name in names:
        column = find_column(name)
        if column in columns:
            raise UsageError(f"the column {column} is there twice")
        columns.append(column)
    return columns


def text_rows(text: str) -> Iterator[tuple[int, dict[str, str] | UsageError]]:
    """Yield the numbers and cells of the lines of a text: each is a prompt or a comment."""
    for number, line in enumerate(split_lines(text), 1):
        if line.strip() and not line.lstrip().startswith("#"):
            yield number, {"prompt": line.strip()}


def table_rows(text: str, delimiter: str) -> Iterator[tuple[int, dict[str, str] | UsageError]]:
    """Yield the numbers and cells of the rows of a table, or what is wrong with them."""
    import csv

    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: list[str] = []  # "" for one without a name
    while True:
        number = reader.line_num + 1
        try:
            row = next(reader, None)
            if row is None:
                return
            row = [cell.strip() for cell in row]
            if columns and any(row):
                yield number, name_row(columns, row)
            elif any(row):
                named = iter(find_columns(filter(None, row)))
                columns = [next(named) if name else "" for name in row]
                if "prompt" not in columns:
                    raise UsageError("no column is called prompt")
        except csv.Error as error:
            yield number, UsageError(f"not a table: {error}")
            return
        except UsageError as error:
            yield number, error
            if "prompt" not in columns:  # nothing below the header can be understood
                return


def name_row(columns: Sequence[str], row: Sequence[str]) -> dict[str, str]:
    """Return the cells of a row by their columns. Raises UsageError for one without a column."""
    surplus = [*row[len(columns) :], *(cell for name, cell in zip(columns, row) if not name)]
    for cell in filter(None, surplus):
        raise UsageError(f"no column for the cell {cell!r}; is a comma not in quotes?")
    return {name: cell for name, cell in zip(columns, row) if name}


def json_rows(text: str) -> Iterator[tuple[int, dict[str, str] | UsageError]]:
    """Yield the numbers and cells of lines that are JSON objects, or what is wrong with them."""
    for number, line in enumerate(split_lines(text), 1):
        if line.strip():
            try:
                yield number, name_members(line)
            except UsageError as error:
                yield number, error


def name_members(line: str) -> dict[str, str]:
    """Return the members of a JSON object as cells. Raises UsageError if they cannot be cells."""
    try:
        members = parse_json(line, unique_members)
    except ValueError as error:
        raise UsageError(f"not JSON: {error}") from None
    if not isinstance(members, dict):
        raise UsageError("not a JSON object")
    columns = find_columns("prompt" if name == "tags" else name for name in members)
    return {name: cell_text(name, value) for name, value in zip(columns, members.values())}


def cell_text(column: str, value: Any) -> str:
    """Return a member of a JSON object as the text of a cell. Raises UsageError if it is none."""
    if value is None or isinstance(value, str):
        return (value or "").strip()
    if is_number(value) and column not in ("prompt", "lyrics", "output"):
        return format_json(value)
    raise UsageError(f"the {column} must be text")


def unique_members(pairs: list[tuple[str, Any]]) -> Json:
    """Return the members of a JSON object. Raises ValueError if a name is there twice."""
    members = dict(pairs)
    if len(members) < len(pairs):
        raise ValueError("a name is there twice")
    return members


def parse_row(row: Mapping[str, str]) -> Json:
    """Return the cells of a row that are not empty, as values. Raises UsageError for a bad one."""
    line_type = parse_cell("type", row.get("type") or "music")
    cells: Json = {"type": line_type}
    for column, text in row.items():
        if not text or column == "type":
            continue
        if column not in COLUMNS_BY_TYPE[line_type]:
            raise UsageError(f"{column} does not apply to the type {line_type}")
        cells[column] = parse_cell(column, text)
    if "prompt" not in cells:
        raise UsageError("the prompt is empty")
    return cells


def parse_cell(column: str, text: str) -> Any:
    """Return the value of a cell, checked as a flag would be. Raises UsageError."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the {column} is not valid text") from None
    if "ft_live_" in text and re.search(KEY_LIKE_PATTERN, text):
        raise UsageError(f"the {column} contains an API key")
    if column == "prompt":
        refuse_file_name(text, column, "")
        return check_prompt(text)
    if column == "lyrics":
        refuse_file_name(text, column, "")
        return check_lyrics(text)
    try:
        if column == "output":
            return output_name(text)
        if column == "type":
            return find_choice(text, tuple(COLUMNS_BY_TYPE))
        options = CELL_OPTIONS[column]
        value = options.get("type", str)(text)
        return find_choice(value, options["choices"]) if "choices" in options else value
    except argparse.ArgumentTypeError as error:
        raise UsageError(f"invalid {column} {text!r}: {error}") from None


def output_name(text: str) -> str:
    """Return the name of a file below -o. Raises ArgumentTypeError if it leads out of there."""
    parts = re.split(r"[/\\]", text)
    if os.path.isabs(text) or os.path.splitdrive(text)[0] or parts[0] in ("", "~"):
        raise argparse.ArgumentTypeError("must be relative to the directory of -o")
    if ".." in parts:
        raise argparse.ArgumentTypeError("must not contain `..`")
    if parts[-1] in ("", ".") or text == "-":
        raise argparse.ArgumentTypeError("must name a file")
    if not text.isprintable() and any(map(is_unsafe, text)):
        raise argparse.ArgumentTypeError("contains a control character")
    return os.path.normpath(text)


class BatchFile:
    """The lines of an input file, and what is wrong with it.

    `name` is what messages call it, `directory` where the tracks go ("" for the current one).
    """

    def __init__(self, name: str, directory: str) -> None:
        self.name = name
        self.directory = directory
        self.lines: list[BatchLine] = []
        self.problems: list[tuple[int, str]] = []
        self._hint = ""  # for them
        self._owners: dict[str, int] = {}  # numbers of the lines with outputs, by their paths

    def read(self, text: str, file_format: str) -> None:
        """Add the lines of a text, and a problem for each that cannot be understood."""
        if file_format == "text":
            rows = text_rows(text)
        elif file_format == "jsonl":
            rows = json_rows(text)
        else:
            rows = table_rows(text, "\t" if file_format == "tsv" else ",")
        for number, row in rows:
            try:
                if isinstance(row, UsageError):
                    raise row
                self._add(number, parse_row(row))
            except UsageError as error:
                self.problems.append((number, error.message))
                self._hint = self._hint or error.hint
        self._check_directories()

    def _add(self, number: int, cells: Json) -> None:
        line = BatchLine(number, cells, cells.pop("output", ""))
        path = os.path.join(self.directory, line.output)
        directory = resolve_directory(os.path.dirname(path))
        line.directory = directory if self.directory else ""
        if line.output:
            path = resolve_path(path)
            owner = self._owners.setdefault(path, number)
            if owner != number:
                raise UsageError(f"line {owner} has the output {line.output!r}, too")
        self.lines.append(line)

    def title(self, line: BatchLine) -> str:
        """Return what messages call a line."""
        return f"{self.name}:{line.number}"

    def path_of(self, line: BatchLine) -> str | None:
        """Return where the track of a line goes, as -o would say it."""
        if not line.output:
            return os.path.join(self.directory, "") or None
        return os.path.join(self.directory, line.output)

    def _check_directories(self) -> None:
        """Add a problem for each directory of an output that is the output of another line."""
        directories: dict[str, int] = {}
        for path, number in self._owners.items():
            directories.setdefault(os.path.dirname(path), number)
        for directory, number in directories.items():
            parent, child = directory, ""
            while parent != child:
                if parent in self._owners:
                    why = (
                        f"the directory of the output is the output of line {self._owners[parent]}"
                    )
                    self.problems.append((number, why))
                parent, child = os.path.dirname(parent), parent

    def protect(self, path: str, what: str) -> None:
        """Add a problem if a track would replace the file `path`."""
        owner = self._owners.get(resolve_path(path))
        if owner is not None:
            self.problems.append((owner, f"the output is the file of the {what}"))

    def report_problems(self, console: Console) -> None:
        """Print all problems. Raises UsageError if there are any, or if there are no lines."""
        problems = [f"{self.name}:{n}: {why}" for n, why in sorted(self.problems)]
        if len(problems) > MAX_PROBLEMS:
            more = plural(len(problems) - MAX_PROBLEMS, "more problem")
            problems[MAX_PROBLEMS:] = [f"{self.name}: and {more}"]
        *others, last = problems or [""]
        for problem in others:
            console.error(problem)
        if last:
            raise UsageError(last, "; ".join(filter(None, [self._hint, "nothing was sent"])))
        if not self.lines:
            raise UsageError(f"{self.name} contains no lines to generate")


@lru_cache(maxsize=None)
def resolve_directory(path: str) -> str:
    """Return the absolute path of a directory, in a form in which paths can be compared.

    Raises FtError if it is relative and the current directory was removed.
    """
    try:
        path = os.path.realpath(path)
    except FileNotFoundError:
        raise FtError("the current directory does not exist any more") from None
    return fold_name(path) if sys.platform in ("darwin", "win32") else path


def resolve_path(path: str) -> str:
    """Return the absolute path of a file, as `resolve_directory` does."""
    directory, name = os.path.split(path)
    if os.path.islink(path):
        return resolve_directory(path)
    name = fold_name(name) if sys.platform in ("darwin", "win32") else name
    return os.path.join(resolve_directory(directory), name)


class Journal:
    """What has become of each line of a batch, in a file that is only ever appended to.

    The first line names the service and the account. Each of the others is the state of a line of
    the batch: "sending" is written before a submission is sent, and then "submitted" or, if it was
    certainly not accepted, "unsent" or "failed"; at the end "saved" or "failed", or "gone" if the
    service does not know the id of its track any more. `records` has what is known of each line by
    its key, `ids` all ids of tracks.
    """

    STATES: Mapping[str, Mapping[str, Any]] = {  # the fields that each must have
        "sending": {"type": str, "body": dict},
        "unsent": {},
        "submitted": {"id": str},
        "failed": {"error": str},
        "gone": {"error": str},
        "saved": {"path": str, "output": str},
    }

    def __init__(self, console: Console, path: str, base_url: str) -> None:
        self.console = console
        self.path = path
        self.base_url = base_url
        self.records: dict[str, Json] = {}
        self.ids: set[str] = set()
        self._account: str | None = None  # of the first line
        self._descriptor = -1
        self._end = 0  # of the last whole line
        self._lacks_line_feed = False  # that line
        self._is_new = False
        self._has_warned = False  # that the file was replaced

    def __enter__(self) -> Journal:
        """Open and lock the file, and read it. Raises FtError if that is impossible."""
        self._is_new = not os.path.lexists(self.path)
        self._descriptor = self._open()
        self.read()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._is_new and not self._end and self._is_at_path(self._descriptor):
            try_remove(self.path)  # nothing was submitted
        os.close(self._descriptor)

    def _open(self) -> int:
        """Return a descriptor of the file, locked. Raises FtError if that is impossible."""
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)
        try:
            # A pipe must not make ft wait for its other end.
            flags |= getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(self.path, flags, 0o666)
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise FtError(
                f"cannot open the journal {self.path}: {why}", "--journal names another place"
            ) from None
        try:
            self._lock(descriptor)
        except BaseException:
            os.close(descriptor)
            raise
        return descriptor

    def _lock(self, descriptor: int) -> None:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise FtError(f"the journal {self.path} is not a regular file")
        try:
            lock_file(descriptor)
        except OSError as error:
            is_held = error.errno in (errno.EAGAIN, errno.EACCES, getattr(errno, "EDEADLOCK", None))
            why = "another `ft batch` is using it" if is_held else error.strerror or str(error)
            raise FtError(f"cannot lock the journal {self.path}: {why}") from None
        # The run that made the file may have removed it again just now.
        if not self._is_at_path(descriptor):
            raise FtError(f"cannot lock the journal {self.path}: another `ft batch` is using it")

    def _is_at_path(self, descriptor: int) -> bool:
        """Return whether the path still leads to an open file."""
        try:
            return os.path.samestat(os.stat(self.path), os.fstat(descriptor))
        except OSError:
            return False

    def read(self) -> None:
        """Take in the file, if there is one. Raises UsageError if it is damaged.

        What follows the last line feed was torn off when a run was killed, and does not count,
        unless it is whole: some editors take away the last line feed.
        """
        try:
            with open(self.path, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise FtError(f"cannot read the journal {self.path}: {why}") from None
        *lines, torn = content.split(b"\n")
        start = self._format({"journal": 1})[:-2]
        if not lines and torn[: len(start)] != start[: len(torn)]:
            raise self._damaged(1, "not a journal")  # somebody's file, which stays as it is
        for number, line in enumerate(lines, 1):
            try:
                self._take(number, parse_entry(line))
            except (ValueError, RecursionError):
                raise self._damaged(number, "not a journal" if number == 1 else "damaged") from None
        self._end = len(content) - len(torn)
        try:
            self._take(len(lines) + 1, parse_entry(torn))
        except (ValueError, RecursionError):
            return
        self._end, self._lacks_line_feed = len(content), True

    def _take(self, number: int, entry: Json) -> None:
        """Take in a line of the file. Raises ValueError if it is damaged."""
        if number > 1:
            return self._update(entry)
        base_url, account = entry.get("baseUrl"), entry.get("account")
        if entry.get("journal") != 1 or not isinstance(account, str):
            raise ValueError
        if base_url != self.base_url:
            raise UsageError(
                f"the journal {self.path} is about another service: {base_url}",
                "--journal names another file",
            )
        self._account = account

    def _update(self, entry: Json) -> None:
        key, state = entry.get("line"), entry.get("state")
        if not isinstance(key, str) or not isinstance(state, str):
            raise ValueError
        if not all(
            isinstance(entry.get(name), kind)
            for name, kind in self.STATES.get(state, {"": str}).items()
        ):
            raise ValueError
        if state == "sending":
            self.records[key] = dict(entry)  # whatever was before belongs to another submission
        elif key in self.records:
            self.records[key].update(entry)
        else:
            raise ValueError
        if isinstance(entry.get("id"), str):
            self.ids.add(entry["id"])

    def _damaged(self, number: int, why: str) -> UsageError:
        return UsageError(
            f"{self.path}:{number}: {why}",
            "restore the file: without it, lines that are paid for would be submitted again",
        )

    def require_account(self, account: str) -> None:
        """Raise UsageError if the journal is about another account."""
        if self._account is None:
            self._account = account
        elif self._account != account:
            raise UsageError(
                f"the journal {self.path} is about another account", "--journal names another file"
            )

    def match(self, lines: Iterable[BatchLine]) -> None:
        """Give each line its name in the journal, and what that knows of it.

        Equal lines are several takes. Each keeps the take with its output; the others are given
        theirs in order.
        """
        from itertools import chain, count

        takes: dict[str, list[str]] = {}
        for key in sorted(self.records, key=lambda key: (len(key), key)):
            takes.setdefault(key.rpartition("-")[0], []).append(key)
        groups: dict[str, list[BatchLine]] = {}
        for line in lines:
            groups.setdefault(line.digest(), []).append(line)
        for digest, equal in groups.items():
            keys = takes.get(digest, [])
            by_output: dict[str, list[str]] = {}
            for key in reversed(keys):
                output = self.records[key].get("output")
                if isinstance(output, str):
                    by_output.setdefault(output, []).append(key)
            for line in equal:
                line.key = (by_output.get(line.output) or [""]).pop()
            used = {line.key for line in equal}
            fresh = (f"{digest}-{number}" for number in count(1))
            others = (key for key in chain(keys, fresh) if key not in used)
            for line in equal:
                line.key = line.key or next(others)
                used.add(line.key)
                line.history = self.records.get(line.key, {})

    def add(self, line: BatchLine, state: str, **fields: Any) -> None:
        """Write a new state of a line to the disk. Raises FtError if that fails."""
        entry = {"line": line.key, "state": state, **fields}
        self._update(entry)
        line.history = self.records[line.key]
        failure = self._follow()
        # What is not sent needs no entry. Others are kept, should the file be followed later.
        if not failure or state != "sending":
            self._append(self._format(entry))
        if failure:
            raise failure

    def _append(self, data: bytes) -> None:
        """Write whole lines at the end of the file, after the first one if it has none."""
        if not self._end:
            first = {"journal": 1, "baseUrl": self.base_url, "account": self._account}
            data = self._format(first) + data
        elif self._lacks_line_feed:
            data = b"\n" + data
        self._end = self._write(self._descriptor, self._end, data)
        self._lacks_line_feed = False

    def _write(self, descriptor: int, end: int, data: bytes) -> int:
        """Write data at the `end` of a file, and return the new one. Raises FtError."""
        try:
            if os.fstat(descriptor).st_size < end:
                raise FtError(f"the journal {self.path} was cut short by something else")
            # What a run that was killed has written in part, or this one on a full disk.
            os.ftruncate(descriptor, end)
            written = 0
            while written < len(data):
                written += os.write(descriptor, data[written:])
            sync(descriptor)
            if not end:
                sync_directory(self.path)
        except OSError as error:
            why = error.strerror or error
            raise FtError(f"cannot write the journal {self.path}: {why}") from None
        return end + len(data)

    def _follow(self) -> FtError | None:
        """Go on with what is at the path now, if this run's file was removed or replaced.

        Returns why that is impossible, if it is.
        """
        if self._is_at_path(self._descriptor):
            return None
        try:
            descriptor = self._open()
            try:
                self._take_over(descriptor)
            except BaseException:
                os.close(descriptor)
                raise
        except FtError as error:
            return error
        except OSError as error:
            return FtError(f"cannot read the journal {self.path}: {error.strerror}")
        if not self._has_warned:
            self._has_warned = True
            self.console.warning(
                f"the journal {self.path} was removed or replaced meanwhile: "
                "what it lacks has been written again"
            )
        return None

    def _take_over(self, descriptor: int) -> None:
        """Write to another file from now on, first the lines that it lacks.

        Raises FtError if it has others than this run's.
        """
        from collections import Counter

        ours = list(filter(None, read_descriptor(self._descriptor)[: self._end].split(b"\n")))
        content = read_descriptor(descriptor)
        *theirs, torn = content.split(b"\n")
        is_whole = torn in ours  # but for its line feed
        is_part = not torn or any(line.startswith(torn) for line in ours)
        if not is_part or not set(theirs) <= set(ours):
            raise FtError(f"the journal {self.path} was replaced by another file")
        there = Counter([*theirs, torn])
        data = b""
        for line in ours:
            there[line] -= 1
            if there[line] < 0:
                data += line + b"\n"
        end = len(content) if is_whole else len(content) - len(torn)
        self._end = self._write(descriptor, end, b"\n" + data if is_whole else data)
        self._lacks_line_feed = False
        os.close(self._descriptor)
        self._descriptor = descriptor

    @staticmethod
    def _format(entry: Json) -> bytes:
        import json

        text = escape_json(json.dumps(entry, ensure_ascii=False), ascii_only=False)
        return redact(text).encode() + b"\n"


def parse_entry(line: bytes) -> Json:
    """Return a line of a journal. Raises ValueError if it is not a JSON object.

    Not parse_json, which takes ten times as long.
    """
    import json

    entry = json.loads(line.decode())
    if not isinstance(entry, dict):
        raise ValueError
    return entry


def lock_file(descriptor: int) -> None:
    """Lock a file until its descriptor is closed. Raises OSError if another process has done so."""
    if os.name == "nt":
        import msvcrt

        # Windows keeps others from reading what is locked, so a byte far beyond the end is.
        os.lseek(descriptor, 1 << 40, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
    else:
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def read_descriptor(descriptor: int) -> bytes:
    """Return all bytes of an open file."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    with open(descriptor, "rb", closefd=False) as file:
        return file.read()


def sync(descriptor: int) -> None:
    """Get a file onto the disk. Raises OSError if data was lost."""
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno in LOST_DATA:
            raise


def sync_directory(path: str) -> None:
    """Get the name of a new file onto the disk, where the system can do that."""
    if os.name != "nt":
        try:
            descriptor = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY)
        except OSError:  # it may be written, but not read
            return
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)


class Pace:
    """Say when the next submission may be sent: as soon as the service takes one.

    A 429 is waited out. If the queue is full, that is until a track of this run has left it; from
    then on only as many are in flight as were then, apart from a try once a minute.
    """

    def __init__(self, gate: Gate) -> None:
        self._gate = gate
        self._next = 0.0  # of time.monotonic
        self._unreachable_since: float | None = None
        self._waits_for_end = False  # of a track
        self._capacity = sys.maxsize  # of the queue, for tracks of this run
        self._next_try = 0.0  # to exceed it

    def is_open(self) -> bool:
        return time.monotonic() >= self._next

    def is_full(self, in_flight: int) -> bool:
        """Return whether the queue has no room for another track, as far as is known."""
        is_known = in_flight >= self._capacity and time.monotonic() < self._next_try
        return self._waits_for_end or is_known

    def refused(self, error: ApiError, in_flight: int) -> bool:
        """Wait as a 429 asks for. Returns False if that would take too long."""
        delay = POLL_MAX_INTERVAL if error.retry_after is None else error.retry_after
        if delay > MAX_BATCH_WAIT:
            return False
        self._next = time.monotonic() + delay
        if error.code == "QUEUE_FULL" and in_flight:
            self._waits_for_end = True
            self._capacity = in_flight
            self._next_try = time.monotonic() + 60
        return True

    def track_ended(self) -> None:
        """Note that a track of this run has left the service's queue."""
        if self._waits_for_end:
            self._waits_for_end = False
            self._next = 0.0
            self._gate.reopen()

    def unreachable(self) -> bool:
        """Wait a little before connecting again. Returns False once that has failed for long."""
        now = time.monotonic()
        self._unreachable_since = self._unreachable_since or now
        self._next = now + POLL_MAX_INTERVAL
        return now - self._unreachable_since < POLL_TIMEOUT

    def answered(self) -> None:
        self._unreachable_since = None


class BatchReport:
    """Tell the user what becomes of each line, and sum up at the end.

    A line is done when its track is saved or, if the command `only_submits`, when it is submitted.
    """

    def __init__(
        self, console: Console, file: BatchFile, as_json: bool, only_submits: bool
    ) -> None:
        self.console = console
        self._file = file
        self._as_json = as_json
        self._only_submits = only_submits
        self._errors: dict[str, str] = {}  # why a line is not done, by its key
        self._done: dict[str, str | None] = {}  # the path of its track
        self._tally = Tally(console, "Submitted" if only_submits else "Generated", len(file.lines))

    @property
    def done_count(self) -> int:
        return len(self._done)

    def done(self, line: BatchLine) -> None:
        """Count a line that is done."""
        self._done[line.key] = line.history.get("path")
        self._tally.succeeded()

    def missed(self, line: BatchLine, error: BaseException) -> None:
        """Warn of a line that will not be done by this run."""
        self._errors[line.key] = getattr(error, "message", str(error))
        self._tally.failed(self._file.title(line), error)

    def missed_all(self, why: Callable[[BatchLine], str]) -> None:
        """Warn of all lines that this run has not come to, if there are many not of each."""
        left = [
            line
            for line in self._file.lines
            if line.key not in self._done and line.key not in self._errors
        ]
        for line in left[:MAX_WARNINGS]:
            self.missed(line, FtError(why(line)))
        for line in left[MAX_WARNINGS:]:
            self._errors[line.key] = why(line)
        if len(left) > MAX_WARNINGS:
            self.console.warning(f"{self._file.name}: and {len(left) - MAX_WARNINGS} more lines")

    def finish(self) -> int:
        """Print the summary or the document, and return the exit code."""
        document = {"data": {"generated": self._generated(), "errors": self._failed()}}
        self._tally.finish(document if self._as_json else None)
        return EXIT_ERROR if self._errors else 0

    def _generated(self) -> list[Json]:
        return [
            {"line": line.number, "id": line.identifier, "path": self._done[line.key]}
            for line in self._file.lines
            if line.key in self._done
        ]

    def _failed(self) -> list[Json]:
        return [
            {
                "line": line.number,
                **({"id": line.identifier} if line.identifier else {}),
                "error": self._errors[line.key],
            }
            for line in self._file.lines
            if line.key in self._errors
        ]


class LostTracks:
    """The tracks that an earlier run has lost: their ids, or the answers with them.

    `write` writes to the journal what has become of a line.
    """

    def __init__(
        self, ft: Context, file: BatchFile, journal: Journal, write: Callable[..., bool]
    ) -> None:
        self._api = ft.api
        self._console = ft.console
        self._file = file
        self._journal = journal
        self._write = write

    def find(self, retry_unknown: bool) -> None:
        """Look for them. If those that are not there will be made again, wait for late ones.

        The pages of the list are turned back to an hour before the first of them.
        """
        for line in self._file.lines:
            if line.state == "gone":
                self._ask_again(line)
        lost = [line for line in self._file.lines if line.state == "sending"]
        if lost and retry_unknown:
            self._await_late_answers(lost)
        for kind in (GENERATION, SOUND_EFFECT):
            lines = [line for line in lost if line.submission.kind is kind]
            if lines:
                since = min(line.time_sent for line in lines) - LIST_MARGIN
                records = list(list_records_since(self._api, kind, since))
                for equal in group_equal(lines):
                    self._adopt(equal, records)

    def _ask_again(self, line: BatchLine) -> None:
        """Ask once more for a track whose id the service did not know in an earlier run."""
        try:
            self._api.get_record(line.submission.kind, line.identifier)
        except ApiError as error:
            if error.code != "NOT_FOUND":
                raise
        else:
            self._write(line, "submitted", id=line.identifier)

    def _await_late_answers(self, lost: list[BatchLine]) -> None:
        """Wait until what was sent is in the list, or never will be."""
        left = max(map(self._find_delay, lost))
        if left > 0:
            self._console.note(
                f"the answer to a submission was lost a moment ago: waiting {left:.0f} s for it"
            )
            self._console.sleep_with_status(left, lambda: "waiting for a track to appear")

    def _find_delay(self, line: BatchLine) -> float:
        """Return for how many seconds the service may still accept what was sent."""
        now = time.time() if line.was_timed_here else self._api.read_clock()
        if now is None or line.time_sent == float("-inf"):
            return UNKNOWN_DELAY
        return min(line.time_sent + UNKNOWN_DELAY - now, UNKNOWN_DELAY)  # a clock may be wrong

    def _adopt(self, lines: list[BatchLine], records: list[Json]) -> None:
        """Take over the tracks of equal lines, those first sent first, from `records`.

        If there are as many as lines, it does not matter which is whose.
        """
        answers = [self._find_tracks(line, records) for line in lines]
        ids = {field_text(record, "id"): record for found, _ in answers for record in found}
        oldest_first = list(ids.values())[::-1]  # as far as the list goes; times are whole seconds
        by_time = sorted(oldest_first, key=lambda r: parse_time(r.get("createdAt")) or 0.0)
        if len(by_time) == len(lines) and all(
            record in found for record, (found, _) in zip(by_time, answers)
        ):
            answers = [([record], []) for record in by_time]
        # From the last line on: what may be its track may be that of an earlier one, too.
        for line, (found, suspects) in reversed(list(zip(lines, answers))):
            fresh = [r for r in found if field_text(r, "id") not in self._journal.ids]
            line.suspects = [field_text(record, "id") for record in fresh + suspects]
            line.is_missing = not line.suspects
            if len(fresh) == 1:
                self._console.note(f"{self._file.title(line)}: its track is in the list")
                self._write(line, "submitted", id=field_text(fresh[0], "id"))

    def _find_tracks(self, line: BatchLine, records: list[Json]) -> tuple[list[Json], list[Json]]:
        """Return the records that answer a line's submission, and others that may be its track."""
        sent = line.sent_submission()
        is_doubtful = line.was_timed_here or line.time_sent == float("-inf")
        since = line.time_sent - (LIST_MARGIN if is_doubtful else CLOCK_TOLERANCE)
        # A seed tells its track from all others. Without one, the time has to be right, too.
        until = float("inf")
        if "seed" not in sent.body and not is_doubtful:
            until = since + UNKNOWN_DELAY + 2 * CLOCK_TOLERANCE
        found, suspects = find_answers(records, sent, since, until, self._journal.ids)
        # Without the service's time, nothing but a made-up seed proves anything.
        return (found, suspects) if sent.is_marked or not is_doubtful else ([], found)


def group_equal(lines: list[BatchLine]) -> list[list[BatchLine]]:
    """Return lines in groups that were sent with the same body, the first sent first."""
    groups: dict[tuple[str, str], list[BatchLine]] = {}
    for line in sorted(lines, key=lambda line: line.time_sent):
        sent = line.sent_submission()
        groups.setdefault((sent.endpoint, format_json(sent.body)), []).append(line)
    return list(groups.values())


def list_records_since(api: Api, kind: Kind, since: float) -> Iterator[Json]:
    """Yield the records of the list back to a time of the service, and some more."""
    for records in library_pages(api, kind):
        yield from records
        oldest = parse_time(records[-1].get("createdAt")) if records else None
        if oldest is not None and oldest < since:
            return


class Batch:
    """Make the lines of a file: submit them in order, wait for their tracks, and save them.

    Every step of a line is in the journal, so that the same command goes on with the next one. Only
    the main thread calls the API and writes to the journal; tracks are downloaded in threads.
    """

    def __init__(
        self, ft: Context, args: argparse.Namespace, file: BatchFile, journal: Journal
    ) -> None:
        from collections import deque

        self.ft = ft
        self.args = args
        self.console = ft.console
        self.file = file
        self.journal = journal
        self.waits = not (args.no_wait or args.webhook)
        self.report = BatchReport(self.console, file, args.json, not self.waits)
        self.pace = Pace(ft.api.submission_gate)
        self._to_submit: deque[BatchLine] = deque()
        self._in_flight: dict[str, BatchLine] = {}  # by the ids of their tracks
        self._workers = Workers(self._save, self.console.shield)
        self._downloads = 0  # under way
        self._owners: dict[str, str] = {}
        self._progress = Progress(self.console, 0)
        self._ending: FtError | None = None  # what has ended the submitting
        self._unknown = 0  # submissions in a row whose outcome is unknown
        self._next_poll = 0.0  # of time.monotonic
        self._poll_interval = POLL_INTERVAL
        self._poll_failure: NetworkError | None = None
        self._last_failure: NetworkError | None = None  # when a track was given up
        self._start = 0.0
        self._done_before = 0
        self._ended_types: dict[str, str] = {}  # types that are not submitted any more, and why
        journal.match(file.lines)

    # Before anything is sent

    def recover(self) -> None:
        """Find the tracks that an earlier run has lost."""
        lost = LostTracks(self.ft, self.file, self.journal, self._write)
        lost.find(self.args.retry_unknown)

    def sort_lines(self) -> None:
        """Decide what is left to do for each line."""
        for line in self.file.lines:
            step = next_step(line, self.args)
            if step == "submit":
                self._to_submit.append(line)
            elif step == "nothing" or (step == "save" and not self.waits):
                self.report.done(line)
            elif step == "failed":
                self._miss_failed(line)
            elif step == "unknown":
                found = ", ".join(line.suspects)
                seen = f", and any of these tracks may be it: {found}" if found else ""
                self._miss_unknown(line, f"its answer was lost{seen}")
            if step == "save":
                self._watch(line)
        self._done_before = self.report.done_count

    def is_confirmed(self, account: Json) -> bool:
        """Ask whether to submit what is left, if there is anything and nobody said --yes."""
        if self.args.yes or not self._to_submit:
            return True
        effects = sum(line.type == "sfx" for line in self._to_submit)
        count = len(self._to_submit) - effects
        limits = account.get("limits")
        total = limits.get("totalRemaining") if isinstance(limits, dict) else None
        left = f" ({total:,} left)" if is_number(total) else ""
        parts = []
        if count:
            parts.append(f"{plural(count, 'generation')} for {plural(count, 'credit')}{left}")
        if effects:
            parts.append(plural(effects, "sound effect"))
        return self.console.confirm(
            f"{self.file.name}: {self._describe()}", f"Submit {' and '.join(parts)}?"
        )

    # The run

    def run(self) -> int:
        """Work until nothing is left to do, report, and return the exit code.

        Whatever ends the work, even a signal or a bug of our own, is raised after the report.
        """
        failure: BaseException | None = None
        self._start = time.monotonic()
        for line in self._in_flight.values():
            line.deadline = self._start + POLL_TIMEOUT
        with self.console.shield:
            try:
                while self._take_step():
                    pass
            except BaseException as error:
                failure = error
                self.console.mute_threads()
            failure = failure or self._ending or self._last_failure
            self.console.clear_status()
            try:
                self.report.missed_all(partial(self._explain_left, failure))
                exit_code = self.report.finish()
                if find_stop(failure):
                    self._explain_stop()
            finally:
                if failure:
                    raise failure
        return exit_code

    def _take_step(self) -> bool:
        """Do what is due, or else wait a moment. Returns False when nothing is left to do."""
        self.console.shield.check()
        outcome = self._workers.take_outcome(0)
        is_full = self.pace.is_full(len(self._in_flight))
        polls = self._in_flight and (self.waits or (self._to_submit and is_full))
        if outcome:
            self._end_download(*outcome)
        elif polls and time.monotonic() >= self._next_poll:
            self._poll()
        elif self._to_submit and self.pace.is_open() and not is_full:
            self._submit(self._to_submit.popleft())
        elif polls or self._to_submit or self._downloads:
            self.console.shield.call(self.console.sleep_with_status, 0.1, self._describe)
        else:
            return False
        return True

    def _write(self, line: BatchLine, state: str, **fields: Any) -> bool:
        """Write what has become of a line to the journal.

        If that fails, return False and submit no more: what is in flight can still be saved.
        """
        try:
            self.journal.add(line, state, **fields)
        except FtError as error:
            if not self._ending:
                self.console.warning(error.message)
            self._end_submitting(error)
            return False
        return True

    def _submit(self, line: BatchLine) -> None:
        """Submit a line, and write to the journal before and after."""
        submission = line.marked_submission()
        if not self._write(line, "sending", **self._describe_sending(line, submission)):
            line.history = {}  # it is not sent without a journal
            return
        if self.args.webhook:
            submission.body["webhook"] = self.args.webhook
        sending = Sending(self.console, self.ft.api, submission, self.journal.ids)
        try:
            document = self.console.shield.call(sending.send)
        except (NetworkError, ApiError) as error:
            self._refused(line, error)
        except StopSignal:
            identifier = sending.look_after_signal()
            if identifier:
                self._write(line, "submitted", id=identifier)
            elif not sending.has_begun:
                self._write(line, "unsent")
            raise
        else:
            record = document["data"]
            self._unknown = 0
            self.pace.answered()
            self._write(line, "submitted", id=record["id"])
            note_clamped(self.console, submission.body, record, f"{self.file.title(line)}: ")
            self._watch(line)
            self._poll_interval = POLL_INTERVAL
            self._next_poll = max(self._next_poll, time.monotonic() + POLL_INTERVAL)
            if not self.waits:
                self.report.done(line)
                if not self.args.json:
                    report_queued(self.console, record)

    def _describe_sending(self, line: BatchLine, submission: Submission) -> Json:
        """Return what the journal has to know to find the track if its answer is lost."""
        now = self.ft.api.read_clock()
        return {
            "type": line.type,
            "output": line.output,
            "body": submission.body,
            "seedIsRandom": submission.is_marked,
            **({"time": time.time(), "clock": "local"} if now is None else {"time": now}),
        }

    def _refused(self, line: BatchLine, error: NetworkError | ApiError) -> None:
        """Deal with a submission that failed."""
        if may_be_accepted(error):
            self._unknown += 1
            self._miss_unknown(line, error.message)
            if self._unknown == MAX_UNKNOWN:
                self._end_submitting(error)
        elif isinstance(error, ApiError) and (
            error.status == 400 or error.code == "GENERATION_FAILED"
        ):
            self._unknown = 0
            self._write(line, "failed", error=error.message)
            self._miss_failed(line)
        else:
            self._write(line, "unsent")
            self._to_submit.appendleft(line)
            self._hold_back(line, error)

    def _hold_back(self, line: BatchLine, error: NetworkError | ApiError) -> None:
        """Wait before the next submission, or submit no more.

        Raises `error` if nothing else will work either.
        """
        if isinstance(error, NetworkError):
            if error.final or not self.pace.unreachable():
                self._end_submitting(error)
            else:
                self.console.note(f"{error.message}; trying again")
        elif error.status != 429:
            self._end_submitting(error)
            if error.status == 401:
                raise error
        elif not self.pace.refused(error, len(self._in_flight)):
            why = f"{error.message}: no more lines of the type {line.type} are submitted"
            self.console.note("; ".join(filter(None, [why, error.hint])))
            self._ended_types[line.type] = error.message
            kept = [other for other in self._to_submit if other.type != line.type]
            self._to_submit.clear()
            self._to_submit.extend(kept)

    def _end_submitting(self, error: FtError) -> None:
        self._ending = self._ending or error
        self._to_submit.clear()

    def _watch(self, line: BatchLine) -> None:
        """Wait for the track of a line from now on."""
        line.deadline = time.monotonic() + POLL_TIMEOUT
        self._in_flight[line.identifier] = line

    def _poll(self) -> None:
        """Ask what has become of all tracks in flight. A failure that may pass is noted."""
        reads = 0
        self._poll_failure = None
        try:
            for kind in (GENERATION, SOUND_EFFECT):
                ids = [i for i, line in self._in_flight.items() if line.submission.kind is kind]
                if ids:
                    polled = self.console.shield.call(poll_records, self.ft.api, kind, ids)
                    reads += polled.reads
                    self._take_poll(polled)
        except (NetworkError, ApiError) as error:
            self._note_poll_failure(error)
        self._give_up_late()
        wait = max(self._poll_interval, self.ft.api.gate.time_left(), reads * SECONDS_PER_READ)
        self._next_poll = time.monotonic() + wait
        self._poll_interval = min(self._poll_interval * POLL_BACKOFF, POLL_MAX_INTERVAL)

    def _take_poll(self, polled: PollResult) -> None:
        """Go on with the lines whose tracks were in flight."""
        for identifier, record in polled.found.items():
            self._take_record(self._in_flight.pop(identifier), record)
        for identifier in polled.unknown:
            self._take_unknown(self._in_flight.pop(identifier))
        if polled.failure:
            self._note_poll_failure(polled.failure)

    def _note_poll_failure(self, error: NetworkError | ApiError) -> None:
        """Note a failure that may pass. Raises any other."""
        if isinstance(error, ApiError) and error.status not in (404, 429) and error.status < 500:
            raise error
        self.console.note(f"{error.message}; asking again")
        self._poll_failure = error if isinstance(error, NetworkError) else None

    def _take_unknown(self, line: BatchLine) -> None:
        """Ask for a track that the service does not know again, but not for ever.

        One that is saved stays so: it cannot be made again.
        """
        now = time.monotonic()
        line.unknown_since = now if line.unknown_since is None else line.unknown_since
        if now - line.unknown_since < SEARCH_TIME:
            self._in_flight[line.identifier] = line
            return
        self.pace.track_ended()
        self._fail(
            line, "gone", f"the service does not know its track ID {line.identifier} any more"
        )

    def _fail(self, line: BatchLine, state: str, why: str) -> None:
        """Report a line whose track cannot be had, and write that down unless it is saved."""
        if line.state == "saved":
            self.report.missed(line, FtError(f"{why}; it was saved to {line.history['path']}"))
            return
        self._write(line, state, error=why)
        if self.waits:
            self._miss_failed(line)

    def _take_record(self, line: BatchLine, record: Json) -> None:
        """Go on with a line whose track was in flight, as its record says."""
        status = field_text(record, "status")
        line.unknown_since = None
        if status not in ("completed", "failed"):
            # At the end, so that tracks that no page has shown are asked for before it.
            self._in_flight[line.identifier] = line
            return
        self._poll_interval = POLL_INTERVAL
        self.pace.track_ended()
        if status == "failed":
            self._fail(line, "failed", field_text(record, "errorMessage", "the generation failed"))
        elif self.waits:
            self._downloads += 1
            self._workers.add((line, record))

    def _give_up_late(self) -> None:
        """Wait no longer for tracks that take more than five minutes."""
        for identifier, line in list(self._in_flight.items()):
            if time.monotonic() > line.deadline:
                del self._in_flight[identifier]
                self.pace.track_ended()
                self._last_failure = self._poll_failure
                if self.waits:
                    why = "still processing, run the same command again later"
                    self.report.missed(line, FtError(why))

    def _save(self, item: tuple[BatchLine, Json]) -> str:
        line, record = item
        return save_track(self.ft, record, self.file.path_of(line), self._progress, self._owners)

    def _end_download(
        self, item: tuple[BatchLine, Json], path: str, error: BaseException | None
    ) -> None:
        line, _ = item
        self._downloads -= 1
        if error:
            self.report.missed(line, error)
        else:
            self._write(line, "saved", path=os.path.abspath(path), output=line.output)
            self.report.done(line)
            if not self.args.json:
                report_saved(self.console, path)

    # What is printed

    def _miss_failed(self, line: BatchLine) -> None:
        hint = "`--retry-failed` submits failed lines again"
        self.report.missed(line, FtError(line.history["error"], hint))

    def _miss_unknown(self, line: BatchLine, why: str) -> None:
        accepted = "the submission may have been accepted"
        hint = (
            "run the same command again to look for the track, or with `--retry-unknown` to "
            "submit it again if it is not there"
        )
        message = why if accepted in why else f"{why}; {accepted}"
        self.report.missed(line, FtError(message, hint))

    def _describe(self) -> str:
        done, total = self.report.done_count, len(self.file.lines)
        parts = [f"{done} of {total} {'saved' if self.waits else 'submitted'}"]
        in_progress = len(self._in_flight) + self._downloads
        if self.waits:
            parts.append(f"{in_progress} in progress")
        parts.append(f"{len(self._to_submit)} to submit")
        fresh = done - self._done_before
        if fresh:
            left = len(self._to_submit) + (in_progress if self.waits else 0)
            seconds = (time.monotonic() - self._start) * left / fresh
            parts.append(f"{format_duration(seconds)} left")
        return ", ".join(parts)

    def _explain_left(self, failure: BaseException | None, line: BatchLine) -> str:
        """Return why a line is not done that this run has not come to."""
        why = getattr(failure, "message", "internal error")
        if find_stop(failure):
            why = "interrupted"
        elif isinstance(failure, BrokenPipeError):
            why = "nobody reads stdout any more"
        if line.state == "submitted":
            return f"in progress: {why}"
        if line.state == "sending":
            return f"the submission may have been accepted: {why}"
        return f"not submitted: {self._ended_types.get(line.type, why)}"

    def _explain_stop(self) -> None:
        count = sum(line.state == "submitted" for line in self.file.lines)
        if count:
            self.console.note(f"{plural(count, 'track')} in progress: paid for, and still made")
        self.console.note("run the same command again to go on")


def next_step(line: BatchLine, args: argparse.Namespace) -> str:
    """Return what is left to do for a line: submit, save or nothing, or why that cannot be done."""
    if line.is_in_place():
        return "nothing"
    if line.state in ("submitted", "saved"):
        return "save"
    if line.state in ("failed", "gone"):
        return "submit" if args.retry_failed else "failed"
    if line.state == "sending":
        return "submit" if args.retry_unknown and line.is_missing else "unknown"
    return "submit"


class PollResult:
    """What the service says of tracks in flight."""

    def __init__(self) -> None:
        self.found: dict[str, Json] = {}  # records, by their ids
        self.unknown: list[str] = []  # ids that the service does not know
        self.failure: ApiError | None = None  # of an id that is in neither
        self.reads = 0  # requests


def poll_records(api: Api, kind: Kind, ids: Sequence[str]) -> PollResult:
    """Ask for the records of `ids`.

    As in `find_records`, the list's pages are read while that costs less than asking for each; of
    what they do not show, the first few are asked for. Only the service's own NOT_FOUND means that
    it does not know an id, not any 404 of something before it.
    """
    result = PollResult()
    found, wanted = result.found, set(ids)
    for records in library_pages(api, kind, retry=POLL):
        result.reads += 1
        found.update({field_text(r, "id"): r for r in records if field_text(r, "id") in wanted})
        if len(found) == len(wanted) or (result.reads + 1) * MIN_IDS_FOR_PAGES > len(ids):
            break
    for identifier in [i for i in ids if i not in found][:MIN_IDS_FOR_PAGES]:
        result.reads += 1
        try:
            found[identifier] = api.get_record(kind, identifier, POLL)["data"]
        except ApiError as error:
            if error.status != 404:
                raise
            if error.code == "NOT_FOUND":
                result.unknown.append(identifier)
            else:
                result.failure = error
    return result


def check_destinations(ft: Context, file: BatchFile) -> None:
    """Make sure that the tracks can be saved. Raises FtError as `check_destination` does."""
    check = partial(check_destination, ft.console, ft.part_files)
    directories = set()
    for line in file.lines:
        if line.is_in_place():
            continue
        path = file.path_of(line)
        directory = os.path.dirname(path or "")
        if directory not in directories:
            directories.add(directory)
            check(os.path.join(directory, "") or None)
        if line.output and path and not is_free(path):
            check(path)


def note_differences(console: Console, file: BatchFile, journal: Journal) -> None:
    """Say what the journal has that the file or the flags do not say any more."""
    others = sum(line.was_sent_otherwise() for line in file.lines)
    if others:
        console.note(f"{plural(others, 'track')} made with other flags or settings: they stay so")
    keys = {line.key for line in file.lines}
    gone = [record for key, record in journal.records.items() if key not in keys]
    for kind in (GENERATION, SOUND_EFFECT):
        ids = [
            record["id"]
            for record in gone
            if record["state"] == "submitted"
            and (record["type"] == "sfx") == (kind is SOUND_EFFECT)
        ]
        if ids:
            console.note(f"{plural(len(ids), 'track')} in progress of lines that are gone")
            console.hint("", kind.words("download", *ids[:MAX_HINT_IDS], "--wait"))
    unknown = sum(record["state"] == "sending" for record in gone)
    if unknown:
        console.note(
            f"the answer was lost for {plural(unknown, 'line')} gone from the file: "
            f"`{GENERATION.list_command}` shows what was accepted"
        )


def note_replaced(
    console: Console, args: argparse.Namespace, file: BatchFile, journal: Journal
) -> None:
    """Say which files will be replaced that this batch has not made."""
    replaced = []
    for line in file.lines:
        path = file.path_of(line)
        is_due = line.output and next_step(line, args) in ("submit", "save")
        if is_due and path and os.path.isfile(path):
            replaced.append(path)
    records = journal.records.values() if replaced else ()
    own = {resolve_path(r["path"]) for r in records if r["state"] == "saved"}
    others = [path for path in replaced if resolve_path(path) not in own]
    if others:
        count = plural(len(others), "existing file")
        first = others[0] if len(others) == 1 else f"{others[0]} is the first"
        console.note(f"{count} will be replaced: {first}")


def is_free(path: str) -> bool:
    """Return whether a path can be the name of a file, and is not one yet."""
    try:
        os.lstat(path)
    except FileNotFoundError:
        return True
    except (OSError, ValueError):
        pass
    return False


# The command


@declare(
    "batch",
    "Generate a track for each line of a file, and save them all. Stopped at any moment, the same "
    "command goes on where it was, and no line is ever paid for twice. A line is a prompt or, in a "
    ".csv, .tsv or .jsonl file, a row that can also say what the flags of `ft generate` say; see "
    "`ft help batch-files`. The flags given here are for lines that do not say otherwise.",
    arg("file", "the file of prompts, or `-` for stdin", type=expand_home),
    flag(
        "--format <f>", "text, csv, tsv or jsonl", choices=FORMATS, shown="by the file's extension"
    ),
    *MUSIC_FLAGS,
    flag(
        "-o --output <path>",
        "the directory for the tracks",
        type=expand_home,
        shown="the current directory",
    ),
    flag(
        "--journal <path>",
        "where to write down what became of each line",
        type=expand_home,
        shown="<file>.journal.jsonl",
    ),
    flag("--no-wait", "only submit; the same command without it saves the tracks later"),
    flag("--retry-failed", "submit lines again that were refused or failed"),
    flag(
        "--retry-unknown", "submit lines again whose answer was lost and whose track is not there"
    ),
    WEBHOOK,
    YES_FLAG,
    flag("--dry-run", "print what would be done for each line, and send nothing"),
    flag("-q --quiet", "print the paths only, or with --no-wait the ids, and no progress"),
    flag("--json", "print what was generated, and what was not, as JSON"),
    examples=[
        "ft batch prompts.txt -o tracks/ --yes",
        "ft batch jingles.csv --duration 30",
        "ft batch jingles.csv --dry-run",
    ],
)
def generate_batch(ft: Context, args: argparse.Namespace) -> int | None:
    if args.output is not None and (not args.output or is_stream(args.output)):
        raise UsageError("-o needs a directory")
    file, journal = read_batch(ft, args)
    if args.dry_run:
        journal.read()
        print_batch(ft, file, journal)
        return None
    if args.file == "-" and not args.yes:
        raise UsageError("confirmation needed but stdin contains the lines", SKIP_HINT)
    with journal:
        api = ft.api
        batch = Batch(ft, args, file, journal)
        if not args.yes and any(
            next_step(line, args) == "submit" or (line.state == "sending" and args.retry_unknown)
            for line in file.lines
        ):
            ft.console.require_terminal()
        account = api.get_account()["data"]
        journal.require_account(get_member(account, "id", str))
        batch.recover()
        batch.sort_lines()
        note_differences(ft.console, file, journal)
        if batch.waits:
            note_replaced(ft.console, args, file, journal)
        if not batch.is_confirmed(account):
            (ft.console.note if args.json else ft.console.print)("Aborted.")
            return None
        if batch.waits:
            check_destinations(ft, file)  # which makes directories
        return batch.run()


def read_batch(ft: Context, args: argparse.Namespace) -> tuple[BatchFile, Journal]:
    """Return the input and its journal, which is not opened yet.

    Raises UsageError if anything is wrong with the input, after all of it has been reported.
    """
    is_stdin = args.file == "-"
    if not args.file:
        raise UsageError("missing file of prompts", "`-` stands for stdin")
    if args.journal in ("", "-") or (args.journal and is_same_file(args.journal, args.file)):
        raise UsageError("--journal needs a file of its own")
    if is_stdin and not args.journal:
        raise UsageError("stdin needs a journal", "--journal names the file")
    lyrics = read_lyrics(ft.console, args, is_stdin)
    if re.search(KEY_LIKE_PATTERN, lyrics):
        raise UsageError("the lyrics contain an API key")
    defaults = {**vars(args), "lyrics": lyrics}
    file = BatchFile("stdin" if is_stdin else args.file, args.output or "")
    extension = os.path.splitext(args.file)[1].lower()
    if extension in NO_TEXT_EXTENSIONS and not args.format:
        raise UsageError(
            f"{file.name} is not a file of prompts",
            "save it as .csv or .txt, or name its format with --format",
        )
    file_format = args.format or FORMATS_BY_EXTENSION.get(extension, "text")
    journal = Journal(ft.console, args.journal or default_journal(args.file), ft.base_url)
    file.read(read_input(ft.console, args.file, file.name), file_format)
    file.protect(journal.path, "journal")
    if not is_stdin:
        file.protect(args.file, "input")
    if args.lyrics_file not in (None, "-"):
        file.protect(args.lyrics_file, "lyrics")
    file.report_problems(ft.console)
    for line in file.lines:
        line.submission = line.make_submission(defaults, ft.settings)
    return file, journal


def is_same_file(path: str, other: str) -> bool:
    """Return whether two paths lead to the same file, which exists."""
    try:
        return os.path.samefile(path, other)
    except (OSError, ValueError):
        return False


def default_journal(path: str) -> str:
    """Return the name of an input's journal, the same for all links to one file."""
    return f"{os.path.realpath(path) if os.path.islink(path) else path}.journal.jsonl"


def read_input(console: Console, path: str, name: str) -> str:
    """Return the text of an input file, or of stdin for `-`. Raises UsageError if it is none."""
    if path == "-":
        data = read_stdin_bytes(console, "the lines", MAX_BATCH_BYTES + 1)
    else:
        try:
            with open(path, "rb") as file:
                data = file.read(MAX_BATCH_BYTES + 1)
        except (OSError, ValueError) as error:
            raise UsageError(
                f"cannot read {path}: {getattr(error, 'strerror', None) or error}"
            ) from None
    if len(data) > MAX_BATCH_BYTES:
        raise UsageError(f"{name} is larger than {format_size(MAX_BATCH_BYTES)}")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        number = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{name}:{number}: not UTF-8") from None


STEP_WORDS = {"nothing": "saved", "submit": "to submit"}  # the others are words themselves


def print_batch(ft: Context, file: BatchFile, journal: Journal) -> None:
    """Print what there is to do for each line."""
    lines: list[Json] = []
    journal.match(file.lines)
    for line in file.lines:
        step = next_step(line, ft.args)
        if step == "save":
            step = "in progress" if line.state == "submitted" else "to download"
        lines.append(
            {
                "line": line.number,
                "state": STEP_WORDS.get(step, step),
                "url": submission_url(ft, line.submission),
                "body": line.submission.body,
                "output": line.history["path"] if step == "nothing" else file.path_of(line) or ".",
            }
        )
    if ft.args.json:
        return ft.console.print_json({"data": {"lines": lines}})
    ft.console.print_table(
        ("LINE", "STATE", "PROMPT", "PARAMETERS", "OUTPUT"),
        [
            (
                str(line["line"]),
                line["state"],
                field_text(line["body"], "tags", field_text(line["body"], "prompt")),
                describe_parameters(line["body"]),
                line["output"],
            )
            for line in lines
        ],
        long="PROMPT",
        drop=("OUTPUT", "PARAMETERS"),
    )
    ft.console.note("nothing was sent")


def describe_parameters(body: Json) -> str:
    """Return the members of a request's body but the prompt, and of lyrics only their length."""
    texts = []
    for name, value in body.items():
        if name == "lyrics":
            texts.append(f"lyrics of {plural(len(value), 'character')}")
        elif name not in ("tags", "prompt"):
            texts.append(f"{name}={field_text(body, name)}")
    return " ".join(texts)


# --- 11. Command line ----------------------------------------------------------------------------

# The overview's headings, and the first words of the commands below them.
HELP_SECTIONS = {
    "Make music": ("generate", "instrumental", "batch"),
    "Your library": ("list", "get", "download", "delete"),
    "Playlists": ("playlists", "playlist"),
    "Sound effects": ("sfx",),
    "Setup": ("auth", "me", "doctor", "update", "completion", "help"),
}
COMMAND_GROUPS = {
    "auth": "Sign in and out.",
    "playlist": "Inspect and manage the tracks in playlists.",
    "sfx": "Sound effects.",
}
# What people who know other tools type, by the group of commands.
COMMAND_SYNONYMS = {
    "": {
        **dict.fromkeys(("rm", "remove"), "delete"),
        **dict.fromkeys(("show", "view", "info"), "get"),
        **dict.fromkeys(("ls", "history"), "list"),
        **dict.fromkeys(("create", "new", "make", "submit"), "generate"),
        **dict.fromkeys(("status", "account"), "auth whoami"),
        "upgrade": "update",
        "version": "--version",
    },
    "playlist": {
        **dict.fromkeys(("list", "ls"), "playlists"),
        **dict.fromkeys(("get", "view"), "playlist show"),
        "rm": "playlist remove",
    },
    "sfx": {"ls": "sfx list", "show": "sfx get", "create": "sfx generate", "make": "sfx generate"},
}
FLAG_SYNONYMS = {"v": "--version", "out": "--output", "length": "--duration", "force": "--yes"}
HELP_FLAG = ("-h", "--help"), {"action": "store_true", "help": "show this help"}
VERSION_FLAG = ("--version",), {"action": "store_true", "help": "print the version"}


class HelpRequested(Exception):
    """The command line asks for help, whose text is the argument."""


class CommandLine:
    """The words of a command line, sorted into a command, its flags and its arguments.

    Sorting finds typos before anything else happens, allows flags anywhere, and leaves argparse
    nothing to guess: `-out x.mp3` is not `-o ut x.mp3`. Raises UsageError for what no command line
    can contain.
    """

    def __init__(self, words: Sequence[str]) -> None:
        self.name: list[str] = []
        self.command: Command | None = None
        self.flags: list[str] = []  # in the long form, as --flag or --flag=value
        self.arguments: list[str] = []
        self.wants_help = False
        self.wants_version = False
        self._words = iter(words)
        for word in self._words:
            if word == "--":
                break
            if not is_flag(word):
                self._add_word(word)
            elif not self.wants_help:  # after -h only the name of the command counts
                self._add_flag(word)
        if self.arguments == ["help"] and self.name != ["help"]:
            self.wants_help = True  # a lone `help` is never a prompt, so it never costs a credit
        for word in self._words:
            self._add_word(word)

    def _known_flags(self) -> dict[str, Parameter]:
        """Return the flags that may stand here, by each of their names."""
        own = self.command.flags if self.command else [VERSION_FLAG]
        parameters = [*own, HELP_FLAG, *GLOBAL_FLAGS]
        return {name: parameter for parameter in parameters for name in parameter[0]}

    def _add_word(self, word: str) -> None:
        """Take a word that is no flag: the next word of the command's name, or an argument."""
        if self.command:
            self.arguments.append(word)
            return
        if self.name and word == "help":
            self.wants_help = True
            return
        self.name.append(word)
        name = " ".join(self.name)
        self.command = COMMANDS.get(name)
        if not self.command and name not in COMMAND_GROUPS:
            raise unknown_command(name)

    def _add_flag(self, word: str) -> None:
        """Take a flag and its value, or several short flags in one word (`-vy`)."""
        known = self._known_flags()
        name, equals, value = word.partition("=")
        if name not in known:
            self._refuse_typo(word, known)
            # `-ox.mp3` is -o and its value; `-vy` is -v and then -y.
            name, value = word[:2], word[2:]
            if not is_switch(known[name]):
                equals = "="
            elif value:
                self._add_flag(name)
                self._add_flag(f"-{value}")
                return
        parameter = known[name]
        long_name = parameter[0][-1]
        if is_switch(parameter):
            if equals:
                raise self.error(f"{name} takes no value")
            self.wants_help = self.wants_help or parameter is HELP_FLAG
            self.wants_version = self.wants_version or parameter is VERSION_FLAG
            self.flags.append(long_name)
        else:
            self.flags.append(f"{long_name}={value if equals else self._take_value(name)}")

    def _take_value(self, name: str) -> str:
        value = next(self._words, None)
        if value is None or value == "--":
            raise self.error(f"{name} needs a value")
        if is_flag(value):
            raise UsageError(f"{name} needs a value", f"if {value} is one, write {name}={value}")
        return value

    def _refuse_typo(self, word: str, known: dict[str, Parameter]) -> None:
        """Raise UsageError unless an unknown word is a short flag with something attached."""
        name = word.partition("=")[0]
        if name[:2] in known and not resembles_long_flag(word, known):
            return
        is_elsewhere = any(name in names for c in COMMANDS.values() for names, _ in c.flags)
        if not self.command and is_elsewhere:
            raise self.error(f"{name} goes after the command")
        names = {known_name: known_name for known_name in known}
        names.update(FLAG_SYNONYMS)
        suggestion = suggest_nearest(
            name if name.startswith("--") else re.split("[./]", name)[0], names
        )
        error = self.error(f"unknown flag {name}{suggestion}")
        if self.command and PROMPT in self.command.arguments and not suggestion:
            program = " ".join(["ft", *self.name])
            error.hint += f"; a prompt that begins with a dash goes after --: {program} -- {word}"
        raise error

    def check_count(self) -> None:
        """Raise UsageError if an argument is missing, or if there is one too many."""
        assert self.command
        counts = [options.get("nargs", "1") for _, options in self.command.arguments]
        required = [p for p in self.command.arguments if p[1].get("nargs") != "*"]
        if len(self.arguments) < len(required):
            missing = required[len(self.arguments)][1]["metavar"]
            raise self.error(f"missing argument: {missing}")
        if not {"+", "*"}.intersection(counts) and len(self.arguments) > len(counts):
            raise self.error(f"unexpected argument {self.arguments[len(counts)]!r}")

    def error(self, message: str) -> UsageError:
        if self.command:
            return UsageError(message, self.command.usage_hint)
        usage = " ".join(["ft", *self.name, "<command> [flags]"])
        explained = " ".join(["ft help", *self.name])
        return UsageError(message, f"usage: {usage}; `{explained}` explains it")


def is_flag(word: str) -> bool:
    """Return whether a word is a flag: not a lone dash, a negative number, or prose with spaces."""
    name = word.partition("=")[0]
    return word.startswith("-") and " " not in name and not re.fullmatch("-[0-9.]*", name)


def resembles_long_flag(word: str, known: Iterable[str]) -> bool:
    """Return whether a word of one dash was probably meant to have two, as `-out x.mp3`."""
    import difflib

    letters = re.split("[=./]", word.lstrip("-"))[0]
    long_names = [name[2:] for name in known if name.startswith("--")]
    # Three letters are enough, as in `-outx.mp3`.
    begins = any(name.startswith((letters, letters[:3])) for name in long_names)
    close = difflib.get_close_matches(letters, long_names, 1, 0.75)
    return len(letters) > 1 and (begins or bool(close))


def is_switch(parameter: Parameter) -> bool:
    return parameter[1].get("action") == "store_true"


def unknown_command(name: str) -> UsageError:
    group, _, last = name.rpartition(" ")
    if group == "playlist" and last in ("create", "new", "rename", "delete"):
        hint = "playlists are created, renamed and deleted at finetuning.ai"
        return UsageError(f"unknown command `{name}`", hint)
    # The last word is compared: `login` is meant to be `auth login`, and `gen` no `sfx generate`.
    names: dict[str, str] = {}
    for known in (*COMMANDS, *COMMAND_GROUPS):
        if not group or known.startswith(f"{group} "):
            names.setdefault(known.split()[-1], known)
    suggestion = suggest_nearest(last, {**names, **COMMAND_SYNONYMS.get(group, {})})
    return UsageError(f"unknown command `{name}`{suggestion}", "`ft help` lists the commands")


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """argparse's help, as wide as the terminal. It imports neither shutil nor textwrap."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=help_width())

    def _split_lines(self, text: str, width: int) -> list[str]:
        return wrap_text(text, width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """Return `-o, --output <path>`, as Python 3.13 and newer do."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


def help_width() -> int:
    return max(40, min(terminal_width(sys.stdout) or 101, 110) - 1)


class CommandParser(argparse.ArgumentParser):
    """argparse with our error messages."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            add_help=False, allow_abbrev=False, formatter_class=HelpFormatter, **options
        )
        self.color = False  # Python 3.14 would colour the help
        self._positionals.title = "arguments"

    def declare(self, chosen: Command) -> None:
        """Add the arguments and flags of a command, with the global flags at the end."""
        for names, options in chosen.arguments:
            self.add_argument(*names, **options)
        flags = self.add_argument_group("flags")
        for names, options in chosen.flags:
            flags.add_argument(*names, **options)
        self.declare_global_flags()
        self.set_defaults(command=chosen)

    def declare_global_flags(self) -> None:
        group = self.add_argument_group("global flags (before or after the command)")
        for names, options in (*GLOBAL_FLAGS, HELP_FLAG):
            group.add_argument(*names, **options)

    def _get_value(self, action: argparse.Action, arg_string: str) -> Any:
        """Convert and check a value. Raises UsageError, which quotes it as the user gave it."""
        try:
            value = super()._get_value(action, arg_string)
        except argparse.ArgumentError as error:
            raise self._invalid(action, arg_string, error.message) from None
        # CommandLine has found the command already.
        if action.choices is None or action.nargs == argparse.PARSER:
            return value
        try:
            return find_choice(str(value), tuple(action.choices))
        except argparse.ArgumentTypeError as error:
            raise self._invalid(action, arg_string, str(error)) from None

    @staticmethod
    def _invalid(action: argparse.Action, text: str, why: str) -> UsageError:
        names = action.option_strings or [str(action.metavar).strip("<>")]
        return UsageError(f"invalid {names[-1].lstrip('-')} {text!r}: {why}")


def build_parser(chosen: Command) -> tuple[CommandParser, CommandParser]:
    """Return the root of the tree of subparsers, and the leaf of one command.

    The other branches are left out: building all of them takes as long as everything else.
    """
    root = CommandParser(prog="ft")
    parent: Any = root.add_subparsers()
    *groups, last = chosen.name.split()
    for group in groups:
        parent = parent.add_parser(group).add_subparsers()
    examples = [f"  {example}" for example in chosen.examples]
    if sys.stdout.isatty():
        examples = [
            "  " + "\n    ".join(wrap_command(example, help_width() - 4))
            for example in chosen.examples
        ]
    title = "example" if len(examples) == 1 else "examples"
    leaf: CommandParser = parent.add_parser(
        last,
        usage=chosen.usage,
        description="\n".join(wrap_text(chosen.description, help_width())),
        epilog="\n".join([f"{title}:", *examples]),
    )
    leaf.declare(chosen)
    return root, leaf


def parse_command_line(argv: Sequence[str]) -> argparse.Namespace:
    """Return the arguments of a command, with the command itself as `command`.

    `command` is None for --version. Raises UsageError, or HelpRequested with the text.
    """
    for i, word in enumerate(argv, 1):
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"argument {i} is not valid text") from None
    line = CommandLine(argv)
    if line.wants_version:
        return argparse.Namespace(
            command=None, verbose=False, no_color=False, config=None, base_url=None
        )
    if line.wants_help or not line.command:
        raise HelpRequested(help_text(line.name))
    line.check_count()
    root, _ = build_parser(line.command)
    arguments = ["--", *line.arguments] if line.arguments else []
    args = root.parse_args([*line.name, *line.flags, *arguments])
    forms = [name for name in ("quiet", "fields", "json") if getattr(args, name, None)]
    if len(forms) > 1:
        raise UsageError(f"--{forms[0]} and --{forms[1]} cannot be used together")
    return args


def help_text(words: Sequence[str]) -> str:
    """Return the help of a command, of a group of commands, of a topic, or the overview.

    Raises UsageError if there is none of that name.
    """
    name = " ".join(words)
    if name in HELP_TOPICS:
        return topic_text(name)
    if name in COMMANDS:
        _, parser = build_parser(COMMANDS[name])
        return parser.format_help()
    if name and name not in COMMAND_GROUPS:
        raise unknown_command(name)
    return overview_text(name)


def overview_text(group: str) -> str:
    """Return the help that lists the commands of a group, or all commands if it is empty."""
    sections = {title: find_commands(words) for title, words in HELP_SECTIONS.items()}
    if group:
        sections = {"Commands": find_commands([group])}
    usages = {
        c.name: c.usage[len("ft ") :].replace(" [flags]", "")
        for cs in sections.values()
        for c in cs
    }
    indent = max(map(len, usages.values())) + 4
    lines = [
        f"usage: ft {group + ' ' if group else ''}<command> [flags]",
        "",
        COMMAND_GROUPS.get(group, f"ft {__version__}: music from a prompt, by Finetuning.ai"),
    ]
    for title, shown in sections.items():
        lines += ["", f"{title}:"]
        for chosen in shown:
            first, *rest = wrap_text(chosen.summary, max(20, help_width() - indent))
            lines.append(f"  {usages[chosen.name]:{indent - 2}}{first}")
            lines += (" " * indent + line for line in rest)
    parser = CommandParser(prog="ft", usage="")
    parser.declare_global_flags()
    lines += ["", "global flags" + parser.format_help().partition("global flags")[2].rstrip("\n")]
    if not group:
        lines.append("  --version         print the version")
    first_command = next(iter(sections.values()))[0]
    lines += ["", "`ft help <command>` explains a command."]
    if not group:
        lines += wrap_text(f"Topics for `ft help`: {', '.join(HELP_TOPICS)}.", help_width())
    lines += ["", "example:", f"  {first_command.examples[0]}"]
    return "\n".join(lines) + "\n"


def find_commands(words: Sequence[str]) -> list[Command]:
    """Return the commands whose names begin with one of `words`, in the order of these."""
    return [c for word in words for c in COMMANDS.values() if c.name.split()[0] == word]


# --- 12. Completion and manual -------------------------------------------------------------------

# Each script asks `ft __complete SHELL WORDS…`, whose last word is the one at the cursor. The
# answer is a candidate a line, or the line <path> where the shell is to complete filenames.
COMPLETION_SCRIPTS = {
    "bash": r"""_ft() {
    local IFS=$'\n' words=("${COMP_WORDS[@]:1:COMP_CWORD}")
    COMPREPLY=($(command ft __complete bash "${words[@]}" 2>/dev/null))
    if [ "${COMPREPLY[0]-}" = '<path>' ]; then
        COMPREPLY=()
        compopt -o default 2>/dev/null
    fi
}

# bash 3 has no compopt.
if type compopt >/dev/null 2>&1; then complete -F _ft ft; else complete -o default -F _ft ft; fi
""",
    "zsh": r"""#compdef ft
_ft() {
    local -a offer
    compset -P 1 '--*='
    offer=("${(@f)$(command ft __complete zsh "${(@)words[2,CURRENT-1]}" \
        "$IPREFIX$PREFIX" 2>/dev/null)}")
    if [ "${offer[*]}" = '<path>' ]; then
        _files
    elif [ -n "${offer[*]}" ]; then
        _describe -V ft offer
    fi
}

if [ "${funcstack[1]-}" = _ft ]; then _ft "$@"; else compdef _ft ft; fi
""",
    "fish": r"""function __ft_complete
    set -l words (commandline -opc)
    set -l current (commandline -ct)
    command ft __complete fish $words[2..] "$current" 2>/dev/null
end

complete -c ft -f -k -a '(__ft_complete | string match -v "<path>")'
complete -c ft -F -n '__ft_complete | string match -q "<path>"'
""",
    # The = keeps PowerShell from dropping an empty word. Its own `ft` is an alias of Format-Table.
    "powershell": r"""Register-ArgumentCompleter -Native -CommandName ft, ft.exe -ScriptBlock {
    param($current, $ast, $cursor)
    $words = @($ast.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor } |
        Select-Object -Skip 1 | ForEach-Object { "$_" })
    $ft = Get-Command ft -CommandType Application | Select-Object -First 1
    & $ft __complete powershell @words "=$current" | ForEach-Object {
        $word, $text = $_ -split "`t"
        if ($word -ne '<path>') { # without results, PowerShell offers files
            [System.Management.Automation.CompletionResult]::new(
                $word, $word, 'ParameterValue', "$word $text")
        }
    }
}
""",
}
FILES = {"<path>": ""}  # stands for filenames among candidates


def completion_table() -> dict[str, dict[str, str]]:
    """Return what may follow, with descriptions, by what stands before it.

    The keys are `ft`, a group or a command; the same and a dash, for its flags; and each flag that
    takes a value.
    """
    table: dict[str, dict[str, str]] = {"ft": {}}
    for chosen in COMMANDS.values():
        first, _, second = chosen.name.partition(" ")
        table["ft"][first] = COMMAND_GROUPS.get(first, chosen.summary).rstrip(".")
        if second:
            table.setdefault(f"ft {first}", {})[second] = chosen.summary
    table["ft help"] = {**table["ft"], **dict.fromkeys(HELP_TOPICS, "")}
    table.update({f"ft help {group}": table[f"ft {group}"] for group in COMMAND_GROUPS})
    flags_of: dict[str, Sequence[Parameter]] = {"ft": [VERSION_FLAG]}
    flags_of.update({f"ft {group}": [] for group in COMMAND_GROUPS})
    for chosen in COMMANDS.values():
        flags_of[f"ft {chosen.name}"] = chosen.flags
        offered = table.setdefault(f"ft {chosen.name}", {})
        for _, options in chosen.arguments:
            offered.update(dict.fromkeys(options.get("choices", ()), ""))
            if options["metavar"] == "<file>":
                table[f"ft {chosen.name}"] = FILES
    for key, own_flags in flags_of.items():
        table[f"{key} -"] = offered = {}
        for names, options in (*own_flags, HELP_FLAG, *GLOBAL_FLAGS):
            offered.update(dict.fromkeys(names, options["help"].partition(" (default")[0]))
            if "metavar" in options:
                values = dict.fromkeys(options.get("choices", ()), "")
                is_path = options["metavar"] == "<path>"
                table.update(dict.fromkeys(names, FILES if is_path else values))
    return table


def find_candidates(words: Sequence[str]) -> dict[str, str]:
    """Return what may stand in place of the last of `words`, with descriptions."""
    table = completion_table()
    *before, current = words
    place, awaiting = "ft", ""  # a flag that still needs its value
    for word in before:
        if awaiting:
            awaiting = ""
        elif word.startswith("-"):
            awaiting = word if word in table else ""
        elif f"{place} {word}" in table:
            place = f"{place} {word}"
    name, equals, _ = current.partition("=")
    if awaiting:
        return table[awaiting]
    if equals and name in table:
        return table[name]
    return table[f"{place} -"] if current.startswith("-") else table[place]


def complete(shell: str, words: list[str]) -> str:
    """Return the candidates for the last of `words`, one a line, as the script of a shell expects.

    fish and PowerShell replace the whole word at the cursor, even if it is `--flag=value`.
    """
    if shell == "bash":
        words = join_bash_words(words)
    *before, current = words or [""]
    if shell == "powershell":  # whose users do not mind the case
        before = [word.lower() for word in before]
        name, equals, value = current[1:].partition("=")
        current = name.lower() + equals + value
    offered = FILES if before and before[-1].endswith((">", "<")) else None
    offered = offered or find_candidates([*before, current])
    if offered is FILES:
        return "<path>\n"
    prefix = ""
    if current.startswith("-") and "=" in current:
        flag_name, _, current = current.partition("=")
        prefix = f"{flag_name}=" if shell in ("fish", "powershell") else ""
    separator = {"zsh": ":", "fish": "\t", "powershell": "\t"}.get(shell)
    fold = str.lower if shell == "powershell" else str
    lines = []
    for word, text in offered.items():
        if fold(word).startswith(fold(current)):
            description = f"{separator}{text}" if separator and text else ""
            lines.append(f"{prefix}{word}{description}\n")
    return "".join(lines)


def join_bash_words(words: Sequence[str]) -> list[str]:
    """Return words as they were typed: bash makes three of `--flag=value`."""
    *before, current = words or [""]
    return [*(word for word in before if word != "="), "" if current == "=" else current]


# What the man page says beside the declarations, and `ft help TOPIC` without a man page: terms and
# their meanings, or tasks and the commands for them.
HELP_TOPICS = {
    "exit-codes": {
        "0": "success; of a bulk command, at least one item succeeded; of a download or a batch, "
        "all did",
        "1": "an API error, or a failure on this machine",
        "2": "a bad flag, argument, key or configuration",
        "3": "no usable answer from the network",
        "130": "stopped by Ctrl-C",
        "128 + N": "stopped by signal N: 129 by SIGHUP, 131 by SIGQUIT, 143 by SIGTERM",
        "141": "the reader of stdout went away",
    },
    "environment": {
        "FINETUNING_API_KEY": "the API key to use; `--api-key` overrides it, and it overrides the "
        "stored key",
        "FINETUNING_CONFIG_HOME": "the configuration directory",
        "NO_COLOR, CLICOLOR=0": "no colours",
        "CLICOLOR_FORCE, FORCE_COLOR": "colour tables in a pipe, too",
        "HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE": "the proxy, the hosts that need none, the "
        "certificates to trust",
        "FT_RELEASE_URL": f"where `ft update` finds releases (default: {RELEASE_URL})",
    },
    "files": {
        "~/.config/finetuning/config.json": "the settings `baseUrl`, `defaultDuration` and "
        "`defaultBpm`. On macOS in ~/Library/Application Support/finetuning, on Windows in "
        "%APPDATA%\\finetuning",
        "~/.config/finetuning/credentials": "the API key in plain text, only on a Linux without a "
        "keychain",
        "FILE.journal.jsonl": "what became of each line of a file given to `ft batch`, with its "
        "prompts but without the key; of a link, that of the file it leads to. Without "
        "it, the same command pays for the lines again",
    },
    "batch-files": {
        "prompts.txt": "a prompt a line. Empty lines, and those that begin with `#`, are skipped",
        "prompts.csv, prompts.tsv": "a table. Its first row names the columns; case, hyphens "
        "and underscores do not matter. An empty cell stands for the default",
        "prompts.jsonl": "a JSON object a line, whose members are called like the columns. `tags` "
        "is accepted for `prompt`",
        "prompt": "what to make. The only column that must be there",
        "duration, bpm, key, scale, time_sig, language, lyrics, seed": "as the flags of "
        "`ft generate`. Where a line says nothing, the flags of `ft batch` count, and then "
        "config.json",
        "output": "the name of the track, relative to the directory of `-o`. No two lines may have "
        "the same, and none may be the directory of another",
        "type": "`music`, `instrumental` (which takes duration and seed) or `sfx` (which takes "
        "duration)",
        "going on": "a line is known by its own cells but the output, so lines may be added, "
        "removed and moved. A changed line is a new track, and equal lines are several takes, each "
        "of which stays with its output. A track that is missing, empty or not in the directory of "
        "`-o` is downloaded again. What was refused or has failed, or what the service does not "
        "know any more, is submitted again with `--retry-failed`; what was sent and never "
        "answered with `--retry-unknown`, if no track in the list may be it",
    },
    "scripting": {
        "Download what is new, each night": "ft download --all --skip-existing --metadata "
        "-o tracks/",
        "Delete what failed": "ft list --status failed --all -q | ft delete --yes -",
        "Move a playlist into another one": "ft playlist show Drafts -q | "
        "ft playlist move Drafts Album -",
        "Go on only if there are credits left": 'test "$(ft me --fields '
        'limits.totalRemaining)" -ge 10',
        "Make a table of all tracks": "ft list --all --fields id,title,parameters.seed >tracks.tsv",
        "Choose tracks with jq": "ft list --all --json | "
        "jq -r '.data.generations[] | select(.duration > 120).id' | ft download - -o long/",
        "Generate a track for each line of a file": "ft batch prompts.txt -o tracks/ --yes",
        "Read the prompt and the lyrics from files": "ft generate - --lyrics-file words.txt "
        "<prompt.txt",
        "Play a track without saving it": "ft download 07e8d430 -o - | mpv -",
    },
}
MANUAL_TITLES = {
    "exit-codes": "EXIT STATUS",
    "environment": "ENVIRONMENT",
    "files": "FILES",
    "batch-files": "FILES OF PROMPTS",
    "scripting": "EXAMPLES",
}


def topic_text(topic: str) -> str:
    """Return the help of a topic: each term, and below it what it means."""
    lines = [f"{topic}:"]
    for term, text in HELP_TOPICS[topic].items():
        wrap = wrap_command if topic == "scripting" else wrap_text
        width = help_width() - 6 if sys.stdout.isatty() else 10 * help_width()
        lines += [f"  {term}", *(f"      {line}" for line in wrap(text, width))]
    return "\n".join(lines) + "\n"


ROFF_ESCAPES = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "~": r"\(ti", "^": r"\(ha"})


def roff(text: str) -> str:
    """Return `text` in roff, with words in backquotes in bold."""
    # Escapes make lines longer, and all of them have to fit into 80 columns.
    lines = "\n".join(wrap_text(text, 56)).translate(ROFF_ESCAPES)
    lines = re.sub("^[.]", r"\\&.", lines, flags=re.MULTILINE)
    return re.sub("`([^`]*)`", r"\\fB\1\\fR", lines)


def roff_entries(parameters: Iterable[Parameter]) -> Iterator[str]:
    """Yield arguments and flags as entries of a list, each with its help."""
    for names, options in parameters:
        term = f"`{options['metavar']}`" if "metavar" in options else ""
        if names[0].startswith("-"):
            value = f" {options['metavar']}" if "metavar" in options else ""
            term = f"`{', '.join(names)}`{value}"
        yield f".TP\n{roff(term)}\n{roff(options['help'])}"


def format_manual() -> str:
    """Return the man page, in the macros of man(7)."""
    # Those who build packages set SOURCE_DATE_EPOCH, so that the same input gives the same page.
    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")
    seconds = int(epoch) if re.fullmatch("[0-9]{1,11}", epoch, re.ASCII) else time.time()
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    page = [
        f'.TH FT 1 {date} "ft {__version__}" "User Commands"',
        ".SH NAME\nft \\- the command line of Finetuning.ai: music from a prompt",
        ".SH SYNOPSIS\n.B ft\n<command> [flags]\n.SH COMMANDS",
    ]
    for chosen in (c for words in HELP_SECTIONS.values() for c in find_commands(words)):
        page += [f".SS {roff(chosen.usage)}", roff(chosen.description)]
        page += [*roff_entries([*chosen.arguments, *chosen.flags]), ".PP\n.EX"]
        for example in chosen.examples:
            page += [line.translate(ROFF_ESCAPES) for line in wrap_command(example, 60)]
        page.append(".EE")
    page += [".SH GLOBAL FLAGS", "Before or after the command."]
    page += roff_entries((*GLOBAL_FLAGS, HELP_FLAG, VERSION_FLAG))
    for topic, title in MANUAL_TITLES.items():
        page.append(f".SH {title}")
        for term, text in HELP_TOPICS[topic].items():
            if topic == "scripting":
                lines = [line.translate(ROFF_ESCAPES) for line in wrap_command(text, 60)]
                page += [f".TP\n{roff(term)}\n.EX", *lines, ".EE"]
            else:
                page.append(f".TP\n{roff(f'`{term}`')}\n{roff(text)}")
    return "\n".join(page) + "\n"


# --- 13. Run -------------------------------------------------------------------------------------


def run_command(console: Console, part_files: PartFiles, argv: Sequence[str]) -> int:
    """Run the command that `argv` names and return its exit code. Every failure is an exception."""
    if argv and argv[0] == "__complete":  # what the completion scripts ask
        shell, *words = argv[1:] or [""]
        console.print_raw(complete(shell, words))
        return 0
    try:
        args = parse_command_line(argv)
    except HelpRequested as request:
        console.print_help(str(request))
        return 0
    console.verbose = args.verbose
    console.quiet = getattr(args, "quiet", False)
    console.no_color = console.no_color or args.no_color
    console.global_flags = [
        f"--{name}={value}"
        for name, value in (("config", args.config), ("base-url", args.base_url))
        if value is not None
    ]
    if args.command is None:
        console.print(f"ft {__version__}")
        return 0
    return args.command.function(Context(console, part_files, args), args) or 0


def run(console: Console, part_files: PartFiles, argv: Sequence[str]) -> int:
    """Run a command and turn what it raises into lines on stderr and an exit code.

    Nothing else prints errors or chooses exit codes.
    """
    try:
        return run_command(console, part_files, argv)
    except (Exception, StopSignal) as error:
        stopped = find_stop(error)
        if not isinstance(error, (FtError, BrokenPipeError)):
            # Some of Python's C functions put another exception in its place, without a trace.
            stopped = stopped or console.shield.stopped
        with console.shield:
            return report_failure(console, stopped or error)


def report_failure(console: Console, error: BaseException) -> int:
    """Print why a command failed and what to do about it, and return its exit code."""
    if isinstance(error, FtError):
        console.error(error.message)
        if error.hint or error.command:
            console.hint(error.hint, error.command)
        return error.exit_code
    if isinstance(error, BrokenPipeError):  # as after `ft list | head -1`
        return EXIT_BROKEN_PIPE
    if isinstance(error, StopSignal):
        console.note("interrupted" if error.exit_code == 130 else "terminated", is_vital=True)
        return error.exit_code
    if isinstance(error, ImportError):
        # Distributions leave modules out of their smallest Python, and builds those that they
        # found no library for: then ssl fails for want of _ssl.
        name = (error.name or "it needs").lstrip("_")
        console.error(f"this Python lacks the module {name}: {error.msg}")
        console.hint("install the package that contains it, or run ft with another Python")
        return EXIT_ERROR
    console.error(f"internal error: {type(error).__name__}: {error}")
    console.hint(
        f"this is a bug in ft {__version__}: run it again with -v and report it at {ISSUES_URL}"
    )
    if console.verbose:
        import traceback

        for line in "".join(
            traceback.format_exception(type(error), error, error.__traceback__)
        ).splitlines():
            console.log(line)
    return EXIT_ERROR


def open_missing_streams() -> None:
    """Put the null device in place of streams that are closed (`2>&-`).

    Otherwise the next file to be opened would get their number, and what is printed.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8", closefd=False))


def ignore_warnings() -> None:
    """Keep Python's warnings, which are for developers, from becoming errors or output.

    PYTHONWARNINGS=error, set for some other program, must not cost a track.
    """
    if sys.warnoptions:
        import warnings

        warnings.simplefilter("ignore")


# Those that would end ft at once, with its hidden files left behind. The others are for debuggers.
STOP_SIGNALS = (
    "SIGINT SIGTERM SIGHUP SIGQUIT SIGUSR1 SIGUSR2 SIGALRM SIGVTALRM SIGPROF SIGXCPU SIGIO SIGPWR "
    "SIGSTKFLT SIGBREAK"
)


def stop_on_signals(console: Console, part_files: PartFiles) -> None:
    """Let signals raise StopSignal. One that is ignored stays so, as nohup wants it.

    Python swallows what is raised in a destructor or a callback, so a timer raises StopSignal once
    more for as long as nothing is dealing with it.
    """
    first: int = 0
    last = float("-inf")

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal first, last
        now = time.monotonic()
        if first and signum == getattr(signal, "SIGALRM", None):  # the timer
            is_needed = not find_stop(sys.exc_info()[1])
        else:
            # The second of two signals must not interrupt the cleaning up.
            is_needed = now - last > 1
        if not is_needed or part_files.closed:
            return
        if not first:
            first = signum
            console.hurry()
            if hasattr(signal, "setitimer"):
                signal.setitimer(signal.ITIMER_REAL, 0.2, 0.2)
        last = now
        console.shield.stop(StopSignal(first))

    def hide_stop(unraisable: Any) -> None:
        if not isinstance(unraisable.exc_value, StopSignal):
            sys.__unraisablehook__(unraisable)

    sys.unraisablehook = hide_stop
    for name in STOP_SIGNALS.split():
        signum = getattr(signal, name, None)  # no system has all of them
        if signum is not None and signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, stop)


def clean_up(console: Console, part_files: PartFiles) -> None:
    """Leave no hidden file and no status line behind. From now on signals come too late."""
    part_files.close()
    if hasattr(signal, "setitimer"):  # else it would kill Python on its way out
        signal.setitimer(signal.ITIMER_REAL, 0)
    console.clear_status()


def main(argv: Sequence[str] | None = None) -> int:
    """Prepare the process, run a command, leave no hidden file behind, and return the exit code."""
    open_missing_streams()
    ignore_warnings()
    remove_replaced_program()
    console, part_files = Console(), PartFiles()
    try:
        try:
            stop_on_signals(console, part_files)
            return run(console, part_files, sys.argv[1:] if argv is None else argv)
        finally:
            clean_up(console, part_files)
    except StopSignal as stopped:  # just outside of `run`
        clean_up(console, part_files)
        return stopped.exit_code


if __name__ == "__main__":
    sys.exit(main())
