#!/usr/bin/env python3
"""ft: the command-line client of Finetuning.ai, which makes music from a prompt.

One module, the standard library only, Python 3.8 or newer. It reads from top to bottom, each part
using only what stands above it; `grep '^# ---'` lists the parts. The way of one command, `ft list`:

    main -> run -> run_command
        -> parse_command_line
        -> list_tracks
            -> Api.list_records -> HttpClient.call -> HttpClient.request
            -> print_tracks -> Console.print_table

- `main` makes the process fit to work (streams, signals); `run` is the one funnel from exceptions
  to exit codes.
- A command is a function with its flags declared right above it (`@command`); the parser, the help,
  the man page and the completion scripts are made from those declarations.
- `HttpClient` is the only part that knows urllib; how often a request may be sent is decided in its
  `call`.
- Modules that cost time (urllib, ssl, subprocess, ctypes, json, ...) are imported where they are
  used.
- Exit codes, environment variables and files are listed in `MANUAL_SECTIONS`.
"""

from __future__ import annotations

import signal

if __name__ == "__main__" and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(
        signal.SIGINT, signal.SIG_DFL
    )  # until `main` has its own: no traceback while the rest is imported

import argparse
import os
import re
import stat
import sys
import time
from _thread import allocate_lock, get_ident
from functools import cached_property

TYPE_CHECKING = False
if TYPE_CHECKING:
    import http.client
    import ssl
    import urllib.request
    from types import FrameType
    from typing import Any, Callable, Dict, Iterable, Iterator, NoReturn, Sequence, TextIO, Tuple

    Json = Dict[str, Any]
    Parameter = Tuple[Tuple[str, ...], Dict[str, Any]]

__version__ = "0.1.0"

# --- constants ------------------------------------------------------------------------------------

BASE_URL = "https://pub.finetuning.ai"
RELEASE_URL = "https://finetuning.ai/cli"
KEY_URL = "https://finetuning.ai"
ISSUES_URL = "https://finetuning.ai/support"

# Exit codes (the reference's table).
EXIT_ERROR, EXIT_USAGE, EXIT_NETWORK, EXIT_BROKEN_PIPE = 1, 2, 3, 141

# The keychain item, shared with the official client.
KEYCHAIN_SERVICE, KEYCHAIN_ACCOUNT = "finetuning", "default"
SECURITY_TOOL = "/usr/bin/security"  # macOS's keychain tool

# Seconds.
CONNECT_TIMEOUT = 10.0
READ_TIMEOUT = 30.0  # between two pieces of an answer
CALL_TIMEOUT = 60.0  # for one API call, however slowly its answer drips
RETRY_TIME = 60.0  # waits between the attempts of one call, in all
POLL_INTERVAL, POLL_BACKOFF, POLL_MAX_INTERVAL, POLL_TIMEOUT = 3.0, 1.3, 15.0, 300.0
# Without, and with, a person who may have to answer a prompt.
KEYCHAIN_TIMEOUT, UNLOCK_TIMEOUT = 3.0, 30.0

MAX_ATTEMPTS = 4
READ_SIZE = 256 << 10  # bytes
MAX_BULK_IDS = 100  # ids a bulk request may hold
MAX_REDIRECTS = 5
PARALLEL_DOWNLOADS = 4
MAX_JSON_BYTES, MAX_ERROR_BYTES = 16 << 20, 64 << 10  # bytes
MAX_JSON_DEPTH = 100  # levels of a JSON document
MAX_PROMPT, MAX_LYRICS, MAX_WEBHOOK = 700, 2000, 2048  # characters

# The two kinds of records, by the last word of their address: the name of their list in an answer.
GENERATIONS, SOUND_EFFECTS = "generations", "sound-effects"
LIST_NAMES = {GENERATIONS: "generations", SOUND_EFFECTS: "soundEffects"}

# The reference's table of common errors: what to do next.
ERROR_HINTS = {
    "MISSING_API_KEY": "run `ft auth login`",
    "INVALID_API_KEY": "run `ft auth login`: your stored key may have been revoked",
    "ACCOUNT_DELETED": "contact support",
    "MONTHLY_LIMIT_REACHED": (
        "you are out of credits: see `ft me`, then upgrade or buy a pack at finetuning.ai"
    ),
    "PRO_PLAN_REQUIRED": "the API needs a Pro or Lifetime plan: upgrade at finetuning.ai",
    "RATE_LIMITED": "the service takes 60 requests a minute",
    "GENERATION_RATE_LIMITED": "the service takes 10 generations a minute",
    "QUEUE_FULL": "`ft list --status processing` shows what is in flight",
    "GENERATION_FAILED": "usually transient: try once more; if it persists, see the errors guide",
}


# --- errors ---------------------------------------------------------------------------------------


class FtError(Exception):
    """What a user is told in one line. Raised anywhere, printed only by `run`."""

    exit_code = EXIT_ERROR

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(FtError):
    """A bad flag, argument, configuration or key, found before anything is sent."""

    exit_code = EXIT_USAGE


class NetworkError(FtError):
    """No usable answer. `sent`: the request may have been received; `final`: another try would not
    help.
    """

    exit_code = EXIT_NETWORK

    def __init__(
        self, message: str, hint: str | None = None, *, sent: bool = True, final: bool = False
    ) -> None:
        super().__init__(message, hint)
        self.sent = sent
        self.final = final
        self.retry_after: float | None = None


class ApiError(FtError):
    """An answer of 400 or above from the API; `code` and `details` as the API's documentation has
    them.
    """

    def __init__(
        self, status: int, message: str, code: str, details: Any, retry_after: float | None
    ) -> None:
        super().__init__(f"{message} ({code})" if code else message)
        self.status = status
        self.code = code
        self.details = details
        self.retry_after = retry_after
        if code == "VALIDATION_ERROR":
            self.exit_code = EXIT_USAGE
        hints = [ERROR_HINTS.get(code, "")]
        if retry_after is not None:
            hints.append(f"retry after {retry_after:.0f} s")
        self.hint = "; ".join(filter(None, hints)) or None


class KeychainUnavailable(Exception):
    """This system's keychain cannot be reached, and why."""


class KeychainTimeout(KeychainUnavailable):
    """The keychain let a time limit pass."""


class KeychainLocked(FtError):
    """The keychain is there, but it must be unlocked first. Never a reason to fall back to plain
    text.
    """


class StopSignal(BaseException):
    """A signal asked us to stop: SIGINT, SIGTERM or SIGHUP. Raised wherever the main thread is."""

    def __init__(self, signum: int) -> None:
        super().__init__(signum)
        self.exit_code = 128 + signum


class HelpRequested(Exception):
    """argparse met --help; its text is the argument."""


# --- text -----------------------------------------------------------------------------------------

# Patterns stay text until they are used: compiling them takes a tenth of the start.
KEY_PATTERN = r"ft_live_[0-9A-Za-z]{32}"
KEY_LIKE_PATTERN = r"(ft_live_[0-9A-Za-z]{4})[0-9A-Za-z]{16,}"
UUID_PATTERN = r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}"
TIMESTAMP_PATTERN = (
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.[0-9]+)? "
    r"?(?:[Zz]|([+-][0-9]{2}):?([0-9]{2}))?"
)
ASCII_REPLACEMENTS = {
    ord("✓"): "OK",
    ord("✗"): "FAIL",
    ord("→"): "->",
    ord("…"): "...",
    ord("—"): "-",
}


def redact(text: str) -> str:
    """`text` with every API key in it cut to its first 12 characters."""
    return re.sub(KEY_LIKE_PATTERN, r"\1...****", text) if "ft_live_" in text else text


def is_unsafe(character: str) -> bool:
    """Whether a terminal may act on it: controls, bidi and other formats, but no joiners."""
    from unicodedata import category

    return category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp") and character not in "\u200c\u200d"


def sanitise(text: str) -> str:
    """`text` on one line and safe for a terminal: keys redacted (before they are cut in two), the
    unsafe as escapes.
    """
    text = redact(text)
    if text.isprintable():
        return text
    return text.translate(
        {ord(c): c.encode("unicode_escape").decode() for c in set(text) if is_unsafe(c)}
    )


# Emoji of several characters, which one terminal shows as one and another side by side.
EMOJI_SEQUENCE_PATTERN = (
    "[\U0001f1e6-\U0001f1ff]{2}|.[\ufe0f\U0001f3fb-\U0001f3ff](?:\u200d.[\ufe0f\U0001f3fb-\U0001f3ff]?)*"
    "|.(?:\u200d.[\ufe0f\U0001f3fb-\U0001f3ff]?)+"
)
# Text on whose width terminals disagree: those, Devanagari to Hangul's single letters, Khmer.
DISPUTED = EMOJI_SEQUENCE_PATTERN + "|[\u0900-\u11ff\u1780-\u17ff]"


def cell_width(text: str) -> int:
    """How many cells of a terminal `text` takes at most: wide characters two, combining ones
    none.
    """
    if text.isascii():
        return len(text)
    from unicodedata import category, east_asian_width

    def cells(c: str) -> int:
        if c == "\ufe0f":  # makes an emoji, and so two cells, of a character of one
            return 1
        if category(c) in ("Mn", "Me", "Cf") or "\u1160" <= c <= "\u11ff":
            return 0
        return 2 if east_asian_width(c) in "WF" or "\U0001f1e6" <= c <= "\U0001f1ff" else 1

    return sum(map(cells, text))


def split_at_width(text: str, cells: int) -> tuple[str, str]:
    """`text` in two: as much as fits into `cells`, and the rest. What belongs together stays
    together.
    """
    used = end = 0
    for piece in re.findall(EMOJI_SEQUENCE_PATTERN + "|.", text, re.DOTALL):
        used += cell_width(piece)
        if used > cells:
            return text[:end], text[end:]
        end += len(piece)
    return text, ""


def truncate(text: str, cells: int) -> str:
    """`text` cut to `cells`, with `...` in place of what is lost."""
    if cell_width(text) <= cells:
        return text
    return split_at_width(text, max(0, cells - 3))[0].rstrip() + "..."[:cells]


def wrap_text(text: str, cells: int) -> list[str]:
    """`text` in lines of at most `cells`, broken at spaces where there are any."""
    lines = []
    while cell_width(text) > cells:
        head, rest = split_at_width(text, cells)
        space = head.rfind(" ") if not rest.startswith(" ") else len(head)
        if space > 0:
            head, rest = text[:space], text[space:].lstrip()
        if not head:  # a wide character in one cell: nothing fits
            break
        lines.append(head)
        text = rest
    return [*lines, text]


def wrap_command(text: str, cells: int) -> list[str]:
    """A shell command in lines of at most `cells`, to be pasted as they are: no word or flag and
    value broken.
    """
    lines: list[str] = []
    for word in re.findall(r"""(?:-\S+ )?(?:"[^"]*"|'[^']*'|[^\s"'])+""", text):
        if lines and cell_width(f"{lines[-1]} {word} \\") <= cells:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return [*(f"{line} \\" for line in lines[:-1]), lines[-1]]


def pad_to_width(text: str, cells: int, right: bool = False) -> str:
    space = " " * (cells - cell_width(text))
    return space + text if right else text + space


def is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def format_duration(seconds: Any) -> str:
    """A duration in seconds for people: `58s`, `3m`, `1m 30s`, `1h 5m`."""
    if not is_number(seconds) or not 0 <= seconds < 1e9:
        return "-"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h {minutes}m" if minutes else f"{hours}h"
    if minutes:
        return f"{minutes}m {rest}s" if rest else f"{minutes}m"
    return f"{rest}s"


def parse_time(text: object) -> float | None:
    """Seconds since the epoch of either of the API's timestamps; None for anything else."""
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
    """How long ago, for people: `just now`, `3 min ago`; from 30 days on the date (UTC)."""
    then = parse_time(timestamp)
    if then is None:
        return str(timestamp or "-")
    seconds = (time.time() if now is None else now) - then
    if -3600 < seconds < 60:  # clocks differ
        return "just now"
    for limit, unit, name in ((3600, 60, "min"), (86400, 3600, "hour"), (30 * 86400, 86400, "day")):
        if 0 < seconds < limit:
            count = int(seconds // unit)
            return f"{count} {name}{'s' if count > 1 and name != 'min' else ''} ago"
    return time.strftime("%Y-%m-%d", time.gmtime(then))


def format_size(count: Any) -> str:
    """A number of bytes for people."""
    if not is_number(count) or not 0 <= count < 1e18:
        return "-"
    if round(count) < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if round(count, 1) < 1000 or unit == "GB":
            break
    return f"{count:.1f} {unit}"


def slugify(text: str) -> str:
    """`text` as part of a file name: letters (with their marks) and digits of any script, the rest
    hyphens.
    """
    from unicodedata import category, normalize

    text = re.sub(
        "[\ufe00-\ufe0f]", "", normalize("NFC", text.lower())
    )  # which form of an emoji is meant
    kept = "".join(c if c.isalnum() or category(c)[0] == "M" else " " for c in text)
    return "-".join(kept.split())[:40].strip("-")


def default_filename(record: Json) -> str:
    """The default name of a track's file: `<slug>-<short-id>.mp3`, made of safe characters only."""
    words = next(
        (
            slugify(redact(w))
            for w in (record.get("title"), record.get("prompt"))
            if isinstance(w, str) and slugify(w)
        ),
        "track",
    )
    return f"{words}-{slugify(str(record.get('id'))[:8]) or 'unnamed'}.mp3"


def suggest_nearest(word: str, known: Iterable[str]) -> str:
    """`; did you mean X?`, or nothing."""
    import difflib

    close = difflib.get_close_matches(word.lower(), list(known), 1, 0.6)
    return f"; did you mean `{close[0]}`?" if close else ""


def quote_command(*words: str) -> str:
    """A command for a person to paste; what is unsafe in it as code points, for bash, zsh and
    ksh.
    """
    import shlex

    def quoted(word: str) -> str:
        if any(map(is_unsafe, word)):
            return (
                "$'"
                + "".join(f"\\U{ord(c):08x}" if c in "\\'" or is_unsafe(c) else c for c in word)
                + "'"
            )
        safe = shlex.quote(word)
        return (
            f"'{safe}'" if safe.startswith("=") else safe
        )  # zsh would look for a command of that name

    return " ".join(map(quoted, words))


# --- JSON -----------------------------------------------------------------------------------------


class Real(float):
    """A float that keeps its last digit: `literal` is how it was written."""

    literal: str

    @classmethod
    def parse(cls, literal: str) -> Real:
        number = cls(literal)
        if number in (float("inf"), float("-inf")):
            raise ValueError(f"the number {literal[:20]} is too large")
        number.literal = literal
        return number


def no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def parse_integer(literal: str) -> int | Real:
    if len(literal) > 4300:  # where newer Pythons stop by themselves
        raise ValueError("a number of over 4300 digits")
    return Real.parse(literal) if literal == "-0" else int(literal)


def parse_json(text: str | bytes) -> Any:
    """The document in `text`. ValueError for what is not JSON, NaN and Infinity, or more than 100
    levels deep.
    """
    import json

    if isinstance(text, bytes):
        text = text.decode("utf-8-sig")
    try:
        document = json.loads(
            text, parse_float=Real.parse, parse_int=parse_integer, parse_constant=no_number
        )
    except RecursionError:
        raise ValueError("nested too deeply") from None
    level = [document]
    for _ in range(MAX_JSON_DEPTH):
        level = [
            child
            for node in level
            if isinstance(node, (dict, list))
            for child in (node.values() if isinstance(node, dict) else node)
        ]
    if level:
        raise ValueError("nested too deeply")
    return document


def format_json(value: Any, indent: str = "\n") -> str:
    """JSON text of `value`: two spaces a level, the order of its keys and the digits of its numbers
    kept.
    """
    import json

    inner = indent + "  "
    if isinstance(value, dict) and value:
        members = (
            f"{json.dumps(key, ensure_ascii=False)}: {format_json(v, inner)}"
            for key, v in value.items()
        )
        return "{" + inner + ("," + inner).join(members) + indent + "}"
    if isinstance(value, list) and value:
        return "[" + inner + ("," + inner).join(format_json(v, inner) for v in value) + indent + "]"
    if isinstance(value, Real):
        return value.literal
    return json.dumps(value, ensure_ascii=False)


def escape_json(text: str, ascii_only: bool) -> str:
    """The same JSON with what a terminal may act on, or what its encoding may lack, as \\u
    escapes.
    """
    import json

    if text.isascii() and "\x7f" not in text:
        return text
    return text.translate(
        {ord(c): json.dumps(c)[1:-1] for c in set(text) if c > "~" and (ascii_only or is_unsafe(c))}
    )


# --- Console --------------------------------------------------------------------------------------

# No dim, yellow, blue or cyan, which vanish on white or on black.
ANSI_CODES = {"bold": "1", "red": "31", "green": "32", "magenta": "35"}
STATUS_COLOURS = {"completed": "green", "failed": "red", "processing": "magenta"}
SPINNER_FRAMES = "|/-\\"
MIN_COLUMN_WIDTH = 12  # cells of a prompt or a name that still tell which it is


def terminal_width(stream: TextIO) -> int | None:
    """The width of the terminal that `stream` is; None when it is none."""
    if not stream.isatty():
        return None
    told = os.environ.get("COLUMNS", "")
    if re.fullmatch("[1-9][0-9]{0,3}", told):
        return int(told)
    try:
        return os.get_terminal_size(stream.fileno()).columns or 80
    except OSError:
        return 80


class Console:
    """Results to stdout, talk to stderr. All text passes through here and is made safe: keys are
    redacted, what a terminal may act on is escaped, what the stream's encoding lacks is
    replaced.
    """

    def __init__(self) -> None:
        self.verbose = False
        self.no_color = bool(os.environ.get("NO_COLOR"))
        self.knows_ansi = os.environ.get("TERM") != "dumb"
        # A spinner or a bar may move on stderr.
        self.has_status_line = sys.stderr.isatty() and self.knows_ansi
        self._thread = get_ident()  # only this thread draws
        self._status_shown = False  # something is on the status line
        self._frame = 0
        self._last_message = time.monotonic()  # when stderr last got a line
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
            if os.name != "nt":
                os.set_blocking(
                    stream.fileno(), True
                )  # Python loses what does not fit into one that does not block

    # Writing

    def _write(self, stream: TextIO, text: str) -> None:
        """One write and a flush. Nothing written to stderr can fail; stdout raises BrokenPipeError
        or FtError.
        """
        text = redact(text)
        try:
            text.encode(stream.encoding or "ascii")
        except UnicodeEncodeError:
            text = text.translate(ASCII_REPLACEMENTS)
        try:
            stream.write(text)
            stream.flush()
        except OSError as error:
            if stream is sys.stdout:
                self._output_failed(error)
            self.discard_output(stream)

    @staticmethod
    def discard_output(stream: TextIO) -> None:
        """Let what the stream still holds go nowhere, lest the flush at the end fail or block."""
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)

    def _output_failed(self, error: OSError) -> NoReturn:
        self.discard_output(sys.stdout)
        if isinstance(error, BrokenPipeError) or (os.name == "nt" and error.errno == 22):
            raise BrokenPipeError from None
        raise FtError(f"cannot write output: {error.strerror}") from None

    def print(self, text: str) -> None:
        """A line of the result."""
        self.clear_status()
        self._write(sys.stdout, sanitise(text) + "\n")

    def print_raw(self, text: str) -> None:
        """Text of our own for stdout, as it stands."""
        self.clear_status()
        self._write(sys.stdout, text)

    def print_json(self, document: Any) -> None:
        self.clear_status()
        ascii_only = not (sys.stdout.encoding or "ascii").lower().startswith("utf")
        self._write(sys.stdout, escape_json(format_json(document), ascii_only) + "\n")

    def write_bytes(self, data: memoryview) -> None:
        """A piece of a track for stdout."""
        self.clear_status()
        try:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        except OSError as error:
            self._output_failed(error)

    def message(self, label: str, text: str, style: str) -> None:
        self._last_message = time.monotonic()
        text = f" {sanitise(text)}"
        if label != "hint" or (
            "`" in text and "lost: ft " not in text
        ):  # others may be commands to paste
            text = self._wrap(text, len(label) + 1)
        self._line(self.style(label + ":", style, sys.stderr) + text)

    def _wrap(self, text: str, begun: int = 0) -> str:
        """`text` as it fits a terminal on stderr, on whose first line there are `begun` cells."""
        room = terminal_width(sys.stderr)
        return (
            text
            if room is None
            else "\n".join(wrap_text(" " * begun + text, max(room, 20)))[begun:]
        )

    def _line(self, text: str) -> None:
        """A line on stderr in place of the status line; in one piece, for threads speak too."""
        start = "\r\x1b[K" if self._status_shown else ""
        self._status_shown = False
        self._write(sys.stderr, f"{start}{text}\n")

    def note(self, text: str) -> None:
        self.message("note", text, "bold")

    def warning(self, text: str) -> None:
        self.message("warning", text, "magenta")

    def error(self, text: str) -> None:
        self.message("error", text, "red")

    def hint(self, text: str) -> None:
        self.message("hint", text, "bold")

    def log(self, text: str) -> None:
        """A line of the -v log."""
        if self.verbose:
            self._line(sanitise(text))

    # The terminal

    def style(self, text: str, style: str, stream: TextIO | None = None) -> str:
        """`text` in one of ANSI_CODES (or none) where colours are welcome; the stream is stdout by
        default.
        """
        if not style or self.no_color or not self.knows_ansi or not (stream or sys.stdout).isatty():
            return text
        return f"\x1b[{ANSI_CODES[style]}m{text}\x1b[0m"

    def show_status(self, text: str) -> None:
        """Put `text` on the status line, which the next real line replaces."""
        if self.has_status_line and get_ident() == self._thread:
            text = truncate(sanitise(text), (terminal_width(sys.stderr) or 80) - 1)
            self._status_shown = True  # first: a signal may come before the write is over
            self._write(sys.stderr, f"\r\x1b[K{text}")

    def clear_status(self) -> None:
        if self._status_shown:
            self._status_shown = False
            self._write(sys.stderr, "\r\x1b[K")

    def sleep_with_status(self, seconds: float, text: Callable[[], str]) -> None:
        """Sleep, saying `text()`: beside a spinner on a terminal, in a line a minute off it."""
        end = time.monotonic() + seconds
        while True:
            left = end - time.monotonic()
            if left <= 0:
                return
            self._frame += 1
            self.show_status(f"{SPINNER_FRAMES[self._frame % len(SPINNER_FRAMES)]} {text()}")
            time.sleep(min(left, 0.1 if self.has_status_line else self._note_if_silent(text)))

    def _note_if_silent(self, text: Callable[[], str]) -> float:
        """Off a terminal, say `text()` when a minute has passed in silence; the seconds until the
        next time.
        """
        silent = time.monotonic() - self._last_message
        if silent < 60:
            return 60 - silent
        self.note(text())
        return 60.0

    def confirm(self, consequence: str, question: str) -> bool:
        """Ask on stderr, read stdin. UsageError where nobody can answer."""
        if not sys.stdin.isatty():
            raise UsageError(
                "cannot ask for confirmation: stdin is not a terminal",
                "pass --yes to go ahead without",
            )
        answer = ""
        sys.stdin.reconfigure(errors="replace")  # type: ignore[union-attr]
        try:
            self._write(sys.stderr, f"{self._wrap(consequence)}\n{question} [y/N] ")
            answer = sys.stdin.readline()
        finally:
            if not answer.endswith("\n"):
                self._write(sys.stderr, "\n")
        if not answer and os.name == "nt":  # NUL passes for a terminal there
            raise UsageError(
                "cannot ask for confirmation: stdin has ended", "pass --yes to go ahead without"
            )
        return answer.strip().lower() in ("y", "yes")

    # Tables

    def print_table(
        self,
        names: Sequence[str],
        rows: Sequence[Sequence[str]],
        long: str,
        drop: Sequence[str] = (),
    ) -> None:
        """Rows under their column names. On a terminal the column `long` is cut to fit, and where
        that would leave less than MIN_COLUMN_WIDTH cells of it the columns in `drop` go, first one
        first; in a pipe nothing is cut.
        """
        cells = [list(names), *([sanitise(cell) for cell in row] for row in rows)]
        shown = list(range(len(names)))
        widths = [max(cell_width(row[i]) for row in cells) for i in shown]
        room = terminal_width(sys.stdout)
        if room is not None:
            stretch, dropped = names.index(long), [names.index(name) for name in drop]
            while True:
                free = room - sum(widths[i] + 2 for i in shown if i != stretch)
                if free >= min(widths[stretch], MIN_COLUMN_WIDTH) or not dropped:
                    break
                shown.remove(dropped.pop(0))
            widths[stretch] = min(widths[stretch], max(free, len(long)))
            for row in cells:
                row[stretch] = truncate(row[stretch], widths[stretch])
        lines = []
        for row in cells:
            line = []
            for i in shown:
                style = STATUS_COLOURS.get(row[i], "") if names[i] == "STATUS" else ""
                right = names[i] == "TRACKS"
                text = (
                    row[i]
                    if i == shown[-1] and not right
                    else pad_to_width(row[i], widths[i], right)
                )
                line.append(self.style(text, "bold" if row is cells[0] else style))
                if (
                    room is not None
                    and self.knows_ansi
                    and i != shown[-1]
                    and re.search(DISPUTED, text)
                ):
                    # The terminal may have taken less than was reckoned: go to where the cell ends.
                    line[-1] += f"\x1b[{sum(widths[j] + 2 for j in shown[: len(line)]) - 1}G"
            lines.append("  ".join(line))
        self.print_raw("\n".join(lines) + "\n")

    def print_details(
        self, pairs: Sequence[tuple[str, str]], footer: tuple[str, str] | None = None
    ) -> None:
        """Labels and values, and at the end a label and a command. On a terminal long values are
        wrapped under themselves; an address, which must not be broken, has a line of its own.
        """
        indent = max(len(label) for label, _ in pairs) + 2
        room = terminal_width(sys.stdout)
        cells = max(10, room - indent) if room is not None else sys.maxsize
        lines = []
        for label, text in pairs:
            value = sanitise(text)
            name = self.style(pad_to_width(label, indent), "bold")
            if room is not None and cells < cell_width(value) <= room - 2 and " " not in value:
                lines += [self.style(label, "bold"), "  " + value]
                continue
            first, *rest = wrap_text(value, cells)
            lines.append(
                name + self.style(first, STATUS_COLOURS.get(value, "") if label == "Status" else "")
            )
            lines += [" " * indent + line for line in rest]
        if footer:
            first, *rest = wrap_command(sanitise(footer[1]), cells)
            lines += [
                self.style(pad_to_width(footer[0], indent), "bold") + first,
                *(" " * indent + line for line in rest),
            ]
        self.print_raw("\n".join(lines) + "\n")

    def print_checklist(self, facts: Sequence[tuple[bool, str]]) -> None:
        """A line for each fact, ticked or crossed; on a terminal wrapped under itself."""
        room = terminal_width(sys.stdout)
        for fine, text in facts:
            mark = "✓" if fine else "✗"
            lines = (
                [sanitise(text)] if room is None else wrap_text(sanitise(text), max(10, room - 5))
            )
            self.print_raw(
                self.style(mark, "green" if fine else "red") + " " + "\n  ".join(lines) + "\n"
            )


class Progress:
    """One display for all the downloads of a command: a bar on a terminal, a line a minute off it.
    Downloads in threads count, the main thread draws.
    """

    def __init__(self, console: Console, file_count: int = 1) -> None:
        self.console = console
        self.file_count = file_count
        self.finished = 0
        self.received = 0  # bytes
        self.expected: int | None = (
            0  # bytes, of the files started; None when one did not announce its size
        )
        self.files_started = 0
        self.start = 0.0
        self._last = 0.0

    def start_file(self, received: int, expected: int | None, announced: int | None) -> None:
        """A download begins, or begins again: forget its `received` and `expected` bytes;
        `announced` are to come.
        """
        if expected is None:
            self.files_started += 1
            self.start = self.start or time.monotonic()
        self.received -= received
        if announced is None or self.expected is None:
            self.expected = None
        else:
            self.expected += announced - (expected or 0)

    def add_bytes(self, count: int) -> None:
        self.received += count
        if self.file_count == 1:
            self.draw()

    def draw(self) -> None:
        """At most ten times a second."""
        now = time.monotonic()
        if now - self._last >= 0.1:
            self._last = now
            if self.console.has_status_line:
                self.console.show_status(self._format_bar() + self._format_numbers())
            else:
                self.console._note_if_silent(self._format_numbers)

    def _format_bar(self) -> str:
        """As long as there is room for, at most 20 cells."""
        cells = min(20, (terminal_width(sys.stderr) or 80) - 5 - len(self._format_numbers()))
        if not self.expected or cells < 5:
            return ""
        return f"[{'#' * int(min(1.0, self.received / self._estimate_total()) * cells):{cells}}] "

    def _estimate_total(self) -> float:
        """Bytes: those expected, as if the files that have not begun were like those that have."""
        return (self.expected or 0) * max(1.0, self.file_count / max(self.files_started, 1))

    def _format_numbers(self) -> str:
        speed = self.received / max(time.monotonic() - self.start, 0.001)
        parts = [f"{self.finished} of {self.file_count} files"] if self.file_count > 1 else []
        if self.expected:
            parts.append(f"{min(1.0, self.received / self._estimate_total()):4.0%}")
        whole = (
            f" of {format_size(self.expected)}" if self.expected and self.file_count == 1 else ""
        )
        parts += [format_size(self.received) + whole, f"{format_size(speed)}/s"]
        if self.expected and self.received:
            parts.append(
                f"{format_duration(max(0.0, self._estimate_total() - self.received) / speed)} left"
            )
        return "  ".join(parts)


# --- configuration --------------------------------------------------------------------------------


def config_directory() -> str:
    """Where config.json and, on a headless Linux, the key's fallback file lie."""
    environ = os.environ
    if environ.get("FINETUNING_CONFIG_HOME"):
        try:
            return os.path.abspath(environ["FINETUNING_CONFIG_HOME"])
        except OSError:
            raise UsageError(
                "FINETUNING_CONFIG_HOME is relative to a working directory that is gone"
            ) from None
    home = os.path.expanduser("~")
    if sys.platform == "win32":
        base = environ.get("APPDATA") or os.path.join(home, "AppData", "Roaming")
    elif sys.platform == "darwin":
        base = os.path.join(home, "Library", "Application Support")
    else:
        base = environ.get("XDG_CONFIG_HOME", "")
        if not os.path.isabs(base):  # the XDG specification: relative paths are ignored
            base = os.path.join(home, ".config")
    if not os.path.isabs(base):
        raise UsageError("cannot find your home directory", "set FINETUNING_CONFIG_HOME")
    return os.path.join(base, "finetuning")


URL_PATTERN = (
    r"(?P<scheme>(?i:https?))://(?P<host>[A-Za-z0-9_.-]+|\[[0-9A-Fa-f:.]*:[0-9A-Fa-f:.]*\])(:(?P<port>[0-9]{1,5}))?"
    r"(?P<path>/[A-Za-z0-9._~!$&'()*+,;=:@%/-]*)?(?P<query>\?[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?"
)
LOOPBACK_PATTERN = r"(?i:localhost)|127(\.[0-9]{1,3}){3}|\[::1\]"


def parse_url(url: str, what: str) -> re.Match[str]:
    """The parts of an address we are willing to open: https, or http on loopback. ValueError says
    what is wrong.
    """
    match = re.fullmatch(URL_PATTERN, url)
    if not match:
        raise ValueError(f"{what} is not a plain https address")
    if match["port"] and not 0 < int(match["port"]) < 65536:
        raise ValueError(f"{what} has a port that does not exist: {match['port']}")
    if match["scheme"].lower() == "http" and not re.fullmatch(LOOPBACK_PATTERN, match["host"]):
        raise ValueError(f"{what} must be https; http is for this machine only")
    return match


def parse_base_url(url: str, source: str) -> str:
    """`url` without a trailing slash. UsageError for one that a key must not be sent to."""
    what = f"the base URL from {source}"
    try:
        match = parse_url(url, what)
    except ValueError as error:
        raise UsageError(str(error)) from None
    if match["query"]:
        raise UsageError(f"{what} must not have a query")
    return url.rstrip("/")


def webhook_url(url: str) -> str:
    if (
        not re.fullmatch(r"(?i:https)://[^\s/?#]\S*", url)
        or not url.isprintable()
        or len(url) > MAX_WEBHOOK
    ):
        raise argparse.ArgumentTypeError(
            f"a webhook is an https address of at most {MAX_WEBHOOK} characters"
        )
    return url


class Settings:
    """config.json: `base_url`, `duration` (seconds), `bpm`, each None where the file has none."""

    KEYS = {"baseUrl": "a string", "defaultDuration": "a number", "defaultBpm": "a number"}

    def __init__(self, path: str | None) -> None:
        """`path`: that of --config, which must exist. UsageError (file, line, key) for a broken
        file.
        """
        self.path = os.path.join(config_directory(), "config.json") if path is None else path
        self.exists = True
        self._text = ""
        data: Json = {}
        try:
            with open(self.path, "rb") as file:
                content = file.read(MAX_JSON_BYTES)
        except FileNotFoundError:
            if path is not None:
                raise UsageError(f"{path or '--config'}: no such configuration file") from None
            self.exists = False
        except (OSError, ValueError) as error:
            raise UsageError(
                f"{self.path}: cannot be read: {getattr(error, 'strerror', error)}"
            ) from None
        else:
            data = self._parse(content)
        self.unknown_keys = sorted(data.keys() - self.KEYS.keys())
        for key, kind in self.KEYS.items():
            value = data.get(key)
            if value is not None and not (
                is_number(value) if kind == "a number" else isinstance(value, str)
            ):
                raise UsageError(f"{self.path}:{self._line_number(key)}: `{key}` must be {kind}")
        self.base_url: str | None = data.get("baseUrl")
        self.duration: Any = data.get("defaultDuration")
        self.bpm: Any = data.get("defaultBpm")
        if self.base_url is not None:
            parse_base_url(self.base_url, f"{self.path}:{self._line_number('baseUrl')}, `baseUrl`,")

    def _parse(self, content: bytes) -> Json:
        import json

        try:
            self._text = content.decode("utf-8-sig")
            data = parse_json(self._text)
        except json.JSONDecodeError as error:
            raise UsageError(f"{self.path}:{error.lineno}: not JSON: {error.msg}") from None
        except ValueError as error:
            raise UsageError(f"{self.path}:1: not JSON: {error}") from None
        if not isinstance(data, dict):
            raise UsageError(f"{self.path}:1: must hold a JSON object")
        return data

    def _line_number(self, key: str) -> int:
        places = [match.start() for match in re.finditer(rf'"{key}"\s*:', self._text)]
        return self._text.count("\n", 0, places[-1] if places else 0) + 1


# --- keys -----------------------------------------------------------------------------------------


def parse_key(text: str, source: str) -> str:
    """The key in `text`. UsageError, naming its source and length but never its content, for a
    malformed one.
    """
    key = text.strip()
    if not re.fullmatch(KEY_PATTERN, key):
        raise UsageError(
            f"the API key from {source} is malformed: {len(key)} characters",
            "a key is `ft_live_` and 32 letters or digits, 40 characters in all",
        )
    return key


def run_keychain_tool(
    console: Console, argv: list[str], stdin: str = "", timeout: float = KEYCHAIN_TIMEOUT
) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of a keychain's tool; secrets go to it by stdin.
    KeychainUnavailable when the tool is absent, KeychainTimeout when it takes too long.
    """
    import subprocess

    environ = {name: value for name, value in os.environ.items() if name != "FINETUNING_API_KEY"}
    environ["LC_ALL"] = "C"  # its messages are read below
    name = os.path.basename(argv[0])
    try:
        tool = subprocess.Popen(
            argv, env=environ, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
        )
    except OSError as error:
        reason = (
            "is not installed"
            if isinstance(error, FileNotFoundError)
            else f"cannot run: {error.strerror}"
        )
        raise KeychainUnavailable(f"{name} {reason}") from None
    try:
        try:
            out, err = tool.communicate(stdin.encode(), KEYCHAIN_TIMEOUT)
        except subprocess.TimeoutExpired:
            if timeout <= KEYCHAIN_TIMEOUT:
                raise
            console.note(f"waiting for {name}: answer its prompt if there is one")
            out, err = tool.communicate(timeout=timeout - KEYCHAIN_TIMEOUT)
    except subprocess.TimeoutExpired:
        raise KeychainTimeout(f"{name} did not answer within {timeout:.0f} s") from None
    finally:
        if tool.poll() is None:
            tool.kill()
            tool.wait()
    return tool.returncode, out.decode("utf-8", "replace"), err.decode("utf-8", "replace").strip()


class SecretService:
    """Linux: GNOME Keyring, KWallet or KeePassXC through libsecret's `secret-tool`."""

    name = "the Secret Service keyring"

    def __init__(self, console: Console) -> None:
        self.console = console

    def _run(
        self, verb: str, *options: str, stdin: str = "", timeout: float = KEYCHAIN_TIMEOUT
    ) -> tuple[int, str, str]:
        argv = [
            "secret-tool",
            verb,
            *options,
            "service",
            KEYCHAIN_SERVICE,
            "username",
            KEYCHAIN_ACCOUNT,
        ]
        return run_keychain_tool(self.console, argv, stdin, timeout)

    def _search(self) -> list[str]:
        """What all matching items hold, ours and other programs', the last modified first."""
        # `search` never prompts, unlike `lookup`, and tells absent from locked.
        code, out, err = self._run("search", "--all")
        if code and re.search("dbus-launch|D-Bus", err):
            raise KeychainUnavailable("there is no D-Bus session")
        if code:
            raise KeychainUnavailable(err.splitlines()[-1] if err else f"secret-tool: exit {code}")
        items = re.findall(r"^secret = (.*)\n(?:.*\n)*?modified = (.*)$", out, re.MULTILINE)
        if out and not items:  # an item that does not give its secret
            raise KeychainLocked(
                f"{self.name} is locked",
                "unlock it (log in to your desktop, or `gnome-keyring-daemon --unlock`), or set "
                "FINETUNING_API_KEY",
            )
        return [secret for secret, _ in sorted(items, key=lambda item: item[1], reverse=True)]

    def read(self) -> str | None:
        return next(iter(self._search()), None)

    def write(self, key: str) -> None:
        """KeychainUnavailable when there is no keyring to write to, as far as a reading tells,
        which answers fast.
        """
        try:
            self._search()
        except KeychainLocked:
            pass  # storing prompts
        self._store(key)
        try:
            if len(self._search()) > 1:  # a second item would be found instead of ours one day
                self._run("clear")
                self._store(key)
        except KeychainUnavailable:
            pass  # but the key is stored

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

    def clear(self) -> bool:
        if not self._search():
            return False
        self._run("clear", timeout=UNLOCK_TIMEOUT)
        if self._search():
            raise FtError(f"{self.name} did not remove the key")
        return True


class MacKeychain:
    """macOS: the login keychain through `security`; the key is written by its stdin, never as an
    argument.
    """

    name = "macOS Keychain"
    ABSENT = 44
    # Exit codes are OSStatus modulo 256.
    FAILURES = {
        2: "`security` did not understand the command",
        36: "it cannot be used from here: it is locked, or this is an SSH session",
        37: "there is no default keychain",
        45: "the item exists already",
        50: "there is no such keychain",
        51: "access was not authorised",
        53: "no keychain is available",
        128: "the request was cancelled",
    }

    def __init__(self, console: Console) -> None:
        self.console = console
        self.item = ["-s", KEYCHAIN_SERVICE, "-a", KEYCHAIN_ACCOUNT]

    def _run(self, *argv: str, stdin: str = "") -> tuple[int, str]:
        try:
            code, out, _ = run_keychain_tool(
                self.console, [SECURITY_TOOL, *argv], stdin, UNLOCK_TIMEOUT
            )
        except KeychainUnavailable as error:
            raise FtError(
                f"{self.name}: {error}", "set FINETUNING_API_KEY to do without it"
            ) from None
        if code not in (0, self.ABSENT):
            unlock = "run `security unlock-keychain`, or " if code == 36 else ""
            raise FtError(
                f"{self.name}: {self.FAILURES.get(code, '`security` failed')} (exit {code})",
                f"{unlock}set FINETUNING_API_KEY to do without it",
            )
        return code, out

    def read(self) -> str | None:
        from binascii import a2b_base64, unhexlify

        code, out = self._run("find-generic-password", *self.item, "-w")
        if code == self.ABSENT:
            return None
        value = out.strip()
        form, _, encoded = value.rpartition(":")
        try:
            if form == "go-keyring-base64":  # the official client's two encodings
                return a2b_base64(encoded).decode()
            if form == "go-keyring-encoded" or re.fullmatch(
                r"([0-9a-f]{2})+", value
            ):  # or `security`'s of a newline
                return unhexlify(encoded).decode()
        except ValueError:
            pass  # the format check says that it is malformed
        return value

    def write(self, key: str) -> None:
        code, _ = self._run("-i", stdin=f"add-generic-password -U {' '.join(self.item)} -w {key}\n")
        if code:
            raise FtError(f"{self.name} did not store the key (exit {code})")

    def clear(self) -> bool:
        code, _ = self._run("delete-generic-password", *self.item)
        return code == 0


class WindowsCredentials:
    """Windows: the Credential Manager through advapi32, in go-keyring's form; reads Python
    keyring's two as well.
    """

    name = "Windows Credential Manager"
    GENERIC, LOCAL_MACHINE, NOT_FOUND = 1, 2, 1168
    FAILURES = {5: "access is denied", 1312: "there is no logon session here (SSH, WinRM)"}

    def __init__(self) -> None:
        import ctypes
        from ctypes.wintypes import DWORD, FILETIME, LPWSTR

        # The targets; the other two are Python keyring's.
        self.ours = f"{KEYCHAIN_SERVICE}:{KEYCHAIN_ACCOUNT}"
        self.forms = {
            self.ours: "utf-8",
            KEYCHAIN_SERVICE: "utf-16-le",
            f"{KEYCHAIN_ACCOUNT}@{KEYCHAIN_SERVICE}": "utf-16-le",
        }

        class Credential(ctypes.Structure):
            # The blob is no c_char_p, which ends at the first zero byte.
            _fields_ = [
                ("Flags", DWORD),
                ("Type", DWORD),
                ("TargetName", LPWSTR),
                ("Comment", LPWSTR),
                ("LastWritten", FILETIME),
                ("CredentialBlobSize", DWORD),
                ("CredentialBlob", ctypes.c_void_p),
                ("Persist", DWORD),
                ("AttributeCount", DWORD),
                ("Attributes", ctypes.c_void_p),
                ("TargetAlias", LPWSTR),
                ("UserName", LPWSTR),
            ]

        self._ctypes: Any = ctypes
        self._credential: Any = Credential
        self._api = self._ctypes.WinDLL("advapi32", use_last_error=True)
        self._api.CredFree.argtypes = [ctypes.c_void_p]

    def _call(self, function: str, *arguments: Any) -> bool:
        """False when there is no such credential; FtError for every other failure."""
        if getattr(self._api, function)(*arguments):
            return True
        code = self._ctypes.get_last_error()
        if code == self.NOT_FOUND:
            return False
        reason = self.FAILURES.get(code, f"{function} failed")
        raise FtError(
            f"{self.name}: {reason} (error {code})", "set FINETUNING_API_KEY to do without it"
        )

    def _find(self) -> Iterator[tuple[str, str]]:
        """Target and secret of each form that is there."""
        for target, encoding in self.forms.items():
            found = self._ctypes.POINTER(self._credential)()
            if not self._call("CredReadW", target, self.GENERIC, 0, self._ctypes.byref(found)):
                continue
            try:
                item = found.contents
                if (
                    target != KEYCHAIN_SERVICE or item.UserName == KEYCHAIN_ACCOUNT
                ):  # that target may hold another account of the service
                    secret = self._ctypes.string_at(item.CredentialBlob, item.CredentialBlobSize)
                    yield target, secret.decode(encoding, "replace")
            finally:
                self._api.CredFree(found)

    def read(self) -> str | None:
        return next((secret for _, secret in self._find()), None)

    def write(self, key: str) -> None:
        blob = self._ctypes.create_string_buffer(key.encode(), len(key))
        item = self._credential(
            Type=self.GENERIC,
            TargetName=self.ours,
            CredentialBlobSize=len(blob),
            CredentialBlob=self._ctypes.addressof(blob),
            Persist=self.LOCAL_MACHINE,
            UserName=KEYCHAIN_ACCOUNT,
        )
        if not self._call("CredWriteW", self._ctypes.byref(item), 0):
            raise FtError(f"{self.name} did not store the key")

    def clear(self) -> bool:
        targets = [target for target, _ in self._find()]
        for target in targets:
            self._call("CredDeleteW", target, self.GENERIC, 0)
        return bool(targets)


class KeyFile:
    """The plaintext fallback of a Linux without a Secret Service: 0600 in a 0700 directory."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.path = os.path.join(config_directory(), "credentials")

    def read(self) -> str | None:
        """FtError for what is not a regular file of our own; a warning when others can read it."""
        try:
            descriptor = os.open(
                self.path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            )
        except FileNotFoundError:
            return None
        except OSError as error:
            reason = "it is a symbolic link" if os.path.islink(self.path) else error.strerror
            raise FtError(f"will not read the key in {self.path}: {reason}") from None
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise FtError(f"will not read the key in {self.path}: it is not a regular file")
            if status.st_uid != os.geteuid():
                raise FtError(f"will not read the key in {self.path}: it belongs to another user")
            if status.st_mode & 0o077:
                self.console.warning(
                    f"others can read your API key: chmod 600 {quote_command(self.path)}"
                )
            return os.read(descriptor, 4096).decode("ascii", "replace")
        finally:
            os.close(descriptor)

    def write(self, key: str) -> None:
        """Atomic, whatever the umask, and never through a link."""
        directory = os.path.dirname(self.path)
        temporary = f"{self.path}.{os.urandom(6).hex()}"
        umask = os.umask(0o077)  # for all that is made here
        try:
            os.makedirs(directory, exist_ok=True)
            if os.path.basename(directory) == KEYCHAIN_SERVICE:  # ours, whoever made it
                os.chmod(directory, 0o700)
            try:
                with open(
                    os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w"
                ) as file:
                    file.write(key + "\n")
                    file.flush()
                    os.fsync(file.fileno())
                os.replace(temporary, self.path)
            finally:
                try_remove(temporary)
        except OSError as error:
            raise FtError(f"cannot store the key in {self.path}: {error.strerror}") from None
        finally:
            os.umask(umask)

    def clear(self) -> bool:
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise FtError(f"cannot remove {self.path}: {error.strerror}") from None
        return True


def try_remove(path: str) -> bool:
    """Whether `path` is gone, as far as can be told."""
    try:
        os.unlink(path)
    except FileNotFoundError:
        pass
    except OSError:
        return False
    return True


class ApiKeys:
    """The sources of an API key, in the reference's order: flag, variable, keychain, file."""

    def __init__(self, console: Console, override: str | None) -> None:
        self.console = console
        self.override = override
        self.keychain_error = ""  # why the keychain cannot be reached, once it was tried

    @cached_property
    def keychain(self) -> MacKeychain | WindowsCredentials | SecretService:
        """This system's keychain."""
        if sys.platform == "darwin":
            return MacKeychain(self.console)
        if sys.platform == "win32":
            return WindowsCredentials()
        return SecretService(self.console)

    @cached_property
    def file(self) -> KeyFile | None:
        return None if sys.platform in ("darwin", "win32") else KeyFile(self.console)

    def from_invocation(self) -> tuple[str, str] | None:
        """What this invocation was given as a key, by flag or variable, and the name of that
        source.
        """
        for text, source in (
            (self.override, "--api-key"),
            (os.environ.get("FINETUNING_API_KEY"), "FINETUNING_API_KEY"),
        ):
            if text and text.strip():
                return text, source
        return None

    @cached_property
    def found(self) -> tuple[str, str] | None:
        """The key and the name of its source, from the first source that has one; later ones are
        not touched.
        """
        text, source = self.from_invocation() or (self._read_keychain(), self.keychain.name)
        if self.file and not (text and text.strip()):
            text, source = self.file.read(), self.file.path
        return (parse_key(text, source), source) if text and text.strip() else None

    def _read_keychain(self) -> str | None:
        """What the keychain holds; None, with `keychain_error` set, when it cannot be reached."""
        try:
            return self.keychain.read()
        except KeychainUnavailable as error:
            self.keychain_error = str(error)
            if isinstance(error, KeychainTimeout):
                self.console.warning(f"{error}; going on without {self.keychain.name}")
            return None

    def require(self) -> str:
        """The key; FtError with the three ways to give one when there is none."""
        if self.found is None:
            reason = (
                f" ({self.keychain.name} cannot be reached: {self.keychain_error})"
                if self.keychain_error
                else ""
            )
            raise FtError(
                f"no API key{reason}",
                f"get one at {KEY_URL}, then run `ft auth login`, set FINETUNING_API_KEY or pass "
                "--api-key",
            )
        return self.found[0]

    def save(self, key: str) -> str:
        """Keep `key` in the keychain or, on a Linux that has none, in the file; the name of the
        place.
        """
        try:
            self.keychain.write(key)
        except KeychainUnavailable as error:  # only the Secret Service raises it
            assert self.file
            self.keychain_error = str(error)
            self.file.write(key)
            return self.file.path
        if self.file:
            self.file.clear()
        return self.keychain.name

    def remove(self) -> list[str]:
        """Remove the key from the file and the keychain; the names of the places that had one.
        FtError when a keychain keeps it, or may.
        """
        removed = [self.file.path] if self.file and self.file.clear() else []
        try:
            if self.keychain.clear():
                removed.insert(0, self.keychain.name)
        except (FtError, KeychainTimeout) as error:
            for place in removed:
                self.console.note(f"removed the key from {place}")
            if isinstance(error, FtError):
                raise
            raise FtError(f"{self.keychain.name} may still hold the key: {error}") from None
        except KeychainUnavailable as error:
            self.keychain_error = str(error)
        return removed


# --- transport ------------------------------------------------------------------------------------


def parse_retry_after(value: str | None) -> float | None:
    """Seconds from a Retry-After header: a whole number or an HTTP date (0 for a past one); None
    for anything else.
    """
    if value is None:
        return None
    if re.fullmatch("[0-9]{1,9}", value.strip(), re.ASCII):
        return float(value)
    from datetime import timezone
    from email.utils import parsedate_to_datetime

    try:
        date = parsedate_to_datetime(value)
        date = (
            date if date.tzinfo else date.replace(tzinfo=timezone.utc)
        )  # the form of asctime names no zone
        return max(0.0, date.timestamp() - time.time())
    except (
        TypeError,
        ValueError,
        OverflowError,
        IndexError,
        UnboundLocalError,
    ):  # the last is one of 3.8's own
        return None


def describe_failure(error: BaseException) -> str:
    """Why a connection failed, in a few words."""
    import socket

    if isinstance(error, socket.timeout):
        return "it did not answer in time"
    if isinstance(error, socket.gaierror):
        return "its name cannot be found"
    certificate = getattr(error, "verify_message", None)
    if certificate:
        return f"its certificate is not trusted: {certificate}"
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return str(text)


def hint_for_certificate(error: BaseException) -> str | None:
    bundle = os.environ.get("SSL_CERT_FILE")
    if bundle and not os.path.exists(bundle):
        return f"SSL_CERT_FILE names {bundle}, which does not exist"
    if sys.version_info >= (3, 13) and re.search(
        "key identifier|basic constraints|key usage", str(error), re.IGNORECASE
    ):
        return (
            "Python 3.13 checks private CAs more strictly: reissue the CA with the extension "
            "named above"
        )
    if bundle:
        return f"SSL_CERT_FILE names {bundle}: does it hold the CA that signed this certificate?"
    return "behind a company's proxy or CA, set SSL_CERT_FILE to its bundle"


class Response:
    """An open answer; close it. `host` is the name of who answered, for messages."""

    def __init__(self, raw: http.client.HTTPResponse, host: str) -> None:
        self.raw = raw
        self.host = host
        self.status: int = raw.status
        self.headers = raw.headers
        self.content_type: str = (
            raw.headers.get_content_type() if "Content-Type" in raw.headers else ""
        )

    def __enter__(self) -> Response:
        return self

    def __exit__(self, *exception: object) -> None:
        self.raw.close()

    def content_length(self) -> int | None:
        """The announced length in bytes; None for a chunked body. NetworkError where it cannot be
        known.
        """
        lengths = self.headers.get_all("Content-Length") or []
        if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
            return None
        if len(lengths) != 1 or not re.fullmatch("[0-9]{1,15}", lengths[0].strip(), re.ASCII):
            raise NetworkError(f"{self.host} does not say how long its answer is")
        return int(lengths[0])

    def read(self, count: int) -> bytes:
        """The next bytes, at most `count`; empty at the end. NetworkError when the connection
        breaks.
        """
        import http.client

        try:
            return self.raw.read1(count)
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NetworkError(
                f"the answer from {self.host} broke off: {describe_failure(error)}"
            ) from None

    def readinto(self, buffer: memoryview) -> int:
        """As `read`, into `buffer`, a track without a copy on the way; how many bytes."""
        import http.client

        if self.raw.chunked:
            data = self.read(len(buffer))
            buffer[: len(data)] = data
            return len(data)
        try:
            return (
                self.raw.fp.readinto1(buffer) if self.raw.fp else 0
            )  # no `fp`: a body of no bytes
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NetworkError(
                f"the answer from {self.host} broke off: {describe_failure(error)}"
            ) from None

    def read_all(self, limit: int) -> bytes:
        """The whole body. NetworkError when it is cut off or longer than `limit` bytes."""
        lengths = self.headers.get_all("Content-Length")
        expected = self.content_length() if lengths else None
        if expected is not None and expected > limit:
            raise NetworkError(
                f"the answer from {self.host} is too long: {format_size(expected)}", final=True
            )
        body = bytearray()
        while expected is None or len(body) < expected:
            piece = self.read(limit + 1 - len(body) if expected is None else expected - len(body))
            body += piece
            if len(body) > limit:
                raise NetworkError(
                    f"the answer from {self.host} is too long: over {format_size(limit)}",
                    final=True,
                )
            if not piece:
                break
        if expected is not None and len(body) < expected:
            raise NetworkError(
                f"the answer from {self.host} broke off: {len(body)} of {expected} bytes"
            )
        return bytes(body)


class Retries:
    """The attempts that one piece of work gets: at most 4, waiting for at most RETRY_TIME in all
    between them.
    """

    def __init__(self, console: Console) -> None:
        self.console = console
        self.count = 1
        self._budget = RETRY_TIME

    def wait_or_raise(self, failure: NetworkError | ApiError) -> None:
        """Wait for the next attempt, as long as `failure` asks or with full jitter. Raises
        `failure` when there is none.
        """
        import random

        seconds = failure.retry_after
        if seconds is None:
            seconds = random.random() * min(8.0, 0.5 * 2**self.count)
        if self.count == MAX_ATTEMPTS or seconds > self._budget:
            raise failure
        self.count += 1
        self._budget -= seconds
        if seconds > 1:
            self.console.note(f"{failure.message}; trying again in {seconds:.0f} s")
        self.console.sleep_with_status(seconds, lambda: "waiting to try again")


class HttpClient:
    """The only part that talks to the network: `call` for the API, `get_public` for everything
    without a key.
    """

    def __init__(self, console: Console, base_url: str) -> None:
        self.console = console
        self.base_url = base_url
        self.key: str | None = None  # goes to the base URL's own origin and nowhere else
        self.key_source = ""  # of a key that is not the stored one
        self._tls: ssl.SSLContext | None = None

    # One request

    def _proxy(self, scheme: str, host: str) -> tuple[str | None, str]:
        """The proxy for https to `host`, if any, and its name, which holds no password. Plain http
        stays on this machine (parse_url), so no proxy sees it.
        """
        import urllib.request

        proxy = urllib.request.getproxies().get("https")
        if not proxy or scheme == "http" or urllib.request.proxy_bypass(host):
            return None, ""
        if proxy.lower().startswith("socks"):
            raise UsageError("SOCKS proxies are not supported: HTTPS_PROXY must name an HTTP proxy")
        match = re.fullmatch(r"(https?://)?([^/]*@)?([^/@]+)/?", proxy, re.IGNORECASE)
        try:
            parse_url(f"https://{match[3] if match else ''}", "HTTPS_PROXY")
        except ValueError:
            raise UsageError(
                "HTTPS_PROXY is not the address of a proxy, such as http://proxy:3128"
            ) from None
        return proxy, match[3] if match else ""

    def _opener(
        self, scheme: str, proxy: str | None, deadline: float | None
    ) -> urllib.request.OpenerDirector:
        """urllib with the few handlers we need: no redirects, statuses are answers and not
        exceptions, errors before the request was sent are told apart, and each receive is bounded
        by `deadline` (time.monotonic).
        """
        import http.client
        import io
        import socket
        import urllib.request

        class Socket(io.RawIOBase):
            """The receiving half of a connection, which gives up at the deadline however slowly
            bytes drip in.
            """

            def __init__(self, sock: socket.socket, raw: io.RawIOBase) -> None:
                self.sock = sock
                self.raw = raw  # keeps it open

            def readable(self) -> bool:
                return True

            def readinto(self, buffer: Any) -> int:
                left = READ_TIMEOUT
                while True:
                    if deadline is not None:
                        left = min(left, deadline - time.monotonic())
                    if left <= 0:
                        raise socket.timeout("timed out")
                    piece = min(
                        left, 1.0
                    )  # a signal that comes just before a receive is seen only after it
                    self.sock.settimeout(piece)
                    try:
                        return self.sock.recv_into(buffer)
                    except socket.timeout as error:
                        if error.errno:  # the system's own
                            raise
                        left -= piece

            def close(self) -> None:
                self.raw.close()
                super().close()

        class Answer(http.client.HTTPResponse):
            fp: Any = None  # what is closed when a signal comes before there is more

            def __init__(self, sock: socket.socket, *args: Any, **options: Any) -> None:
                super().__init__(sock, *args, **options)
                self.fp = io.BufferedReader(Socket(sock, self.fp.detach()), 65536)

        def connect(connection: http.client.HTTPConnection) -> None:
            """What fails in here was not sent: names, TCP, TLS, the proxy's CONNECT."""
            connection.response_class = Answer
            try:
                type(connection).connect(connection)
                connection.sock.settimeout(READ_TIMEOUT)
            except (OSError, http.client.HTTPException, ValueError) as error:
                raise Unsent(error) from None

        def open_http(host: str, **options: Any) -> Any:
            connection: Any = http.client.HTTPConnection(host, **options)
            if scheme == "https":
                connection = http.client.HTTPSConnection(host, context=self._context(), **options)
            connection.connect = lambda: connect(connection)
            return connection

        class Handler(urllib.request.AbstractHTTPHandler):
            def open(self, request: urllib.request.Request) -> Any:
                return self.do_open(open_http, request)

            http_open = https_open = open
            http_request = https_request = urllib.request.AbstractHTTPHandler.do_request_

        opener = urllib.request.OpenerDirector()
        opener.addheaders = []
        if proxy:
            opener.add_handler(urllib.request.ProxyHandler({scheme: proxy}))
        opener.add_handler(Handler())
        return opener

    def _context(self) -> ssl.SSLContext:
        import ssl

        if self._tls is None:
            try:
                self._tls = ssl.create_default_context()
            except OSError as error:  # SSLKEYLOGFILE names what cannot be written
                raise Unsent(error) from None
        return self._tls

    def request(
        self,
        method: str,
        url: str,
        headers: dict[str, str],
        body: bytes | None = None,
        deadline: float | None = None,
    ) -> Response:
        """One request to an address that `parse_url` took, and its answer, whatever its status.
        NetworkError.
        """
        import http.client
        import urllib.request

        match = parse_url(url, "the address")
        scheme, host = (
            match["scheme"].lower(),
            match["host"] + (f":{match['port']}" if match["port"] else ""),
        )
        proxy, name = self._proxy(scheme, host)
        through = f" through the proxy {name}" if proxy else ""
        headers = {"User-Agent": f"ft/{__version__}", **headers}
        request = urllib.request.Request(url, body, headers, method=method)
        self.console.log(f"> {method} {url}{through}")
        for header, value in headers.items():
            self.console.log(f"> {header}: {value}")
        start = time.monotonic()
        try:
            raw = self._opener(scheme, proxy, deadline).open(request, timeout=CONNECT_TIMEOUT)
        except Unsent as error:
            cause = error.args[0]
            untrusted = hasattr(cause, "verify_message")
            refused = re.match(
                "Tunnel connection failed: 4", str(cause)
            )  # http.client's words for a proxy's 4xx
            self.console.log(f"< not sent: {describe_failure(cause)}")
            raise NetworkError(
                f"cannot connect to {host}{through}: {describe_failure(cause)}",
                hint_for_certificate(cause) if untrusted else None,
                sent=False,
                final=untrusted or refused is not None,
            ) from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            cause = getattr(error, "reason", None)  # URLError's, and the text of others
            if not isinstance(cause, BaseException):
                cause = error
            self.console.log(f"< no answer: {describe_failure(cause)}")
            raise NetworkError(
                f"no answer from {host}{through}: {describe_failure(cause)}"
            ) from None
        self.console.log(f"< {raw.status} {raw.reason} ({time.monotonic() - start:.2f} s)")
        for header, value in raw.headers.items():
            self.console.log(f"< {header}: {value}")
        return Response(raw, host)

    # Calls of the API

    def call(self, method: str, path: str, body: Any = None, *, retry: str = "all") -> Json:
        """The JSON object that answers, after as many attempts as are safe: `retry` is "all" (a
        GET), "chunk" (a bulk request), "create" (costs a credit) or "none" (the caller asks again
        itself). ApiError for a 4xx or 5xx, NetworkError for no usable answer.
        """
        retries, start = Retries(self.console), time.monotonic()
        while True:
            try:
                return self._call_once(method, path, body)
            except NetworkError as error:
                failure: NetworkError | ApiError = error
                again = retry != "none" and not error.final and (retry == "all" or not error.sent)
                if retry == "create" and retries.count > 1:
                    again = False
            except ApiError as error:
                failure = error
                again = (retry in ("all", "chunk") and error.status == 429) or (
                    retry == "all" and error.status in (500, 502, 503, 504)
                )
            if not again or time.monotonic() - start > CALL_TIMEOUT:
                raise failure
            retries.wait_or_raise(failure)

    def _call_once(self, method: str, path: str, body: Any) -> Json:
        headers = {"Accept": "application/json"}
        data = None
        if self.key is not None:
            headers["X-API-Key"] = self.key
        if body is not None:
            headers["Content-Type"] = "application/json"
            data = format_json(body).encode("utf-8")
        with self.request(
            method, self.base_url + path, headers, data, time.monotonic() + CALL_TIMEOUT
        ) as response:
            if 300 <= response.status < 400:
                where = response.headers.get("Location", "nowhere")
                raise NetworkError(
                    f"refusing to follow {response.host} to {where} (HTTP {response.status})",
                    final=True,
                )
            if response.status >= 400:
                raise self._read_error(response)
            content = response.read_all(MAX_JSON_BYTES)
            try:
                document = parse_json(content)
            except ValueError:
                document = None
            if response.status < 200 or not isinstance(document, dict):
                raise NetworkError(
                    f"unexpected reply from {response.host} (HTTP {response.status}, "
                    f"{response.content_type or 'no type'})",
                    f"is {self.base_url} the right base URL?"
                    if response.content_type == "text/html"
                    else None,
                )
            return document

    def _read_error(self, response: Response) -> ApiError:
        """Whatever can be learnt from a 4xx or 5xx, whose body may be anything or break off."""
        error: Any = None
        try:
            error = parse_json(response.read_all(MAX_ERROR_BYTES)).get("error")
        except (NetworkError, ValueError, AttributeError):
            pass
        if not isinstance(error, dict):
            error = {}
        message, code = error.get("message"), error.get("code")
        wait = parse_retry_after(response.headers.get("Retry-After"))
        if wait is None and is_number(error.get("retryAfter")) and 0 <= error["retryAfter"] < 1e9:
            wait = float(error["retryAfter"])
        if not isinstance(message, str) or not message:
            message = f"HTTP {response.status} {response.raw.reason or ''}".rstrip()
        failure = ApiError(
            response.status,
            message,
            code if isinstance(code, str) else "",
            error.get("details"),
            wait,
        )
        if code == "INVALID_API_KEY" and self.key_source:
            failure.hint = (
                f"the key from {self.key_source} may have been revoked: give another, "
                "or run `ft auth login`"
            )
        return failure

    # Public files: tracks on the media host, releases

    def get_public(self, url: str, headers: dict[str, str]) -> Response:
        """A GET without the key, along at most 5 redirects, never from https to http. The answer is
        a 200 or, if `headers` ask for a Range, a 206 or 416. NetworkError.
        """
        from urllib.parse import quote, urljoin

        for _ in range(MAX_REDIRECTS + 1):
            self._check_public(url)
            response = self.request(
                "GET", url, {"Accept": "*/*", "Accept-Encoding": "identity", **headers}
            )
            if response.status == 200 or ("Range" in headers and response.status in (206, 416)):
                return response
            with response:
                target = response.headers.get("Location")
                if response.status not in (301, 302, 303, 307, 308) or not target:
                    failure = NetworkError(
                        f"HTTP {response.status} from {response.host}",
                        final=response.status not in (429, 500, 502, 503, 504),
                    )
                    failure.retry_after = parse_retry_after(response.headers.get("Retry-After"))
                    if failure.retry_after is not None:
                        failure.hint = f"retry after {failure.retry_after:.0f} s"
                    raise failure
                try:
                    following = urljoin(url, quote(target, safe="!#$%&'()*+,/:;=?@[]~")).partition(
                        "#"
                    )[0]
                except ValueError:
                    raise NetworkError(
                        f"{response.host} sent us to no address: {target}", final=True
                    ) from None
                if url.lower().startswith("https:") and not following.lower().startswith("https:"):
                    raise NetworkError(
                        f"refusing to follow {response.host} from https to {following}", final=True
                    )
                url = following
        raise NetworkError(f"more than {MAX_REDIRECTS} redirects from {response.host}", final=True)

    def _check_public(self, url: str) -> None:
        """https anywhere; http on loopback, and only for a service that is there itself."""
        try:
            match = parse_url(url, f"the address {url}")
        except ValueError as error:
            raise NetworkError(str(error), final=True) from None
        if match["scheme"].lower() == "http" and self.base_url.lower().startswith("https:"):
            raise NetworkError(f"the address {url} must be https", final=True)


class Unsent(Exception):
    """Holds what failed before a request was sent. No OSError, so that urllib lets it through as it
    is.
    """


# --- Api ------------------------------------------------------------------------------------------


def get_member(container: Any, name: str, kind: type) -> Any:
    """`container[name]`, which the contract says is a `kind`. NetworkError where the answer breaks
    it.
    """
    value = container.get(name) if isinstance(container, dict) else None
    if not isinstance(value, kind):
        raise NetworkError(f"unexpected reply from the service: no `{name}`", final=True)
    return value


def get_records(container: Any, name: str) -> list[Json]:
    """The list of objects in `container[name]`."""
    found: list[Any] = get_member(container, name, list)
    if not all(isinstance(item, dict) for item in found):
        raise NetworkError(f"unexpected reply from the service: odd `{name}`", final=True)
    return found


def field_text(record: Json, name: str, absent: str = "-") -> str:
    """A member of a record for people."""
    value = record.get(name)
    if value is None or value == "":
        return absent
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else format_json(value)


def list_command(kind: str) -> str:
    """The command that lists the records of a kind."""
    return "ft sfx list" if kind == SOUND_EFFECTS else "ft list"


class Api:
    """One method for each endpoint, in the order of the API's documentation. Each returns the
    document as the service sent it, or raises ApiError or NetworkError.
    """

    def __init__(self, transport: HttpClient) -> None:
        self.transport = transport

    @staticmethod
    def _path(*parts: str, **query: Any) -> str:
        from urllib.parse import quote, urlencode

        given = {name: value for name, value in query.items() if value is not None}
        path = "/".join(["/v1", *(quote(part, safe="", errors="surrogatepass") for part in parts)])
        return path + (f"?{urlencode(given)}" if given else "")

    def get_health(self) -> Json:
        return self.transport.call("GET", "/health")

    def get_account(self) -> Json:
        return self.transport.call("GET", self._path("me"))

    def submit(self, endpoint: str, body: Json) -> Json:
        """POST /v1/generations, /v1/instrumental or /v1/sound-effects: costs a credit, so it is
        never repeated once it may have been received. The record under `data` has an `id`.
        """
        unsure = f"do not submit again before `{list_command(endpoint)}` has told you"
        try:
            document = self.transport.call("POST", self._path(endpoint), body, retry="create")
            identifier = get_member(get_member(document, "data", dict), "id", str)
            if not identifier.strip():
                raise NetworkError("unexpected reply from the service: an empty `id`")
            return document
        except NetworkError as error:
            if error.sent:
                raise NetworkError(
                    f"{error.message}; the submission may have been accepted", unsure
                ) from None
            raise
        except ApiError as error:
            if error.code == "QUEUE_FULL" and error.hint:
                error.hint = error.hint.replace("ft list", list_command(endpoint))
            if (
                error.status >= 500 and error.code != "GENERATION_FAILED"
            ):  # that one says that it was not
                error.hint = "; ".join(
                    filter(None, [error.hint, f"it may have been accepted: {unsure}"])
                )
            raise

    def get_record(self, kind: str, identifier: str, retry: str = "all") -> Json:
        """GET /v1/generations/:id or /v1/sound-effects/:id; the record is under `data`."""
        document = self.transport.call("GET", self._path(kind, identifier), retry=retry)
        get_member(document, "data", dict)
        return document

    def list_records(self, kind: str, **query: Any) -> Json:
        """GET /v1/generations or /v1/sound-effects: limit, offset, status, type."""
        document = self.transport.call("GET", self._path(kind, **query))
        get_records(get_member(document, "data", dict), LIST_NAMES[kind])
        return document

    def bulk_delete(self, ids: list[str]) -> Json:
        return self.transport.call(
            "POST", self._path(GENERATIONS, "bulk-delete"), {"ids": ids}, retry="chunk"
        )

    def get_playlists(self) -> Json:
        document = self.transport.call("GET", self._path("playlists"))
        get_records(get_member(document, "data", dict), "playlists")
        return document

    def get_playlist(self, playlist: str) -> Json:
        document = self.transport.call("GET", self._path("playlists", playlist))
        get_records(get_member(document, "data", dict), "tracks")
        return document

    def add_tracks(self, playlist: str, ids: list[str]) -> Json:
        return self.transport.call(
            "POST", self._path("playlists", playlist, "tracks"), {"trackIds": ids}, retry="chunk"
        )

    def remove_tracks(self, playlist: str, ids: list[str]) -> Json:
        path = self._path("playlists", playlist, "tracks", "bulk-remove")
        return self.transport.call("POST", path, {"trackIds": ids}, retry="chunk")

    def move_tracks(self, source: str, target: str, ids: list[str]) -> Json:
        path = self._path("playlists", source, "tracks", "move")
        return self.transport.call(
            "POST", path, {"trackIds": ids, "targetPlaylistId": target}, retry="chunk"
        )


# --- work -----------------------------------------------------------------------------------------


def parse_id(identifier: str, what: str = "id") -> str:
    """An id as given, if it can be one. UsageError."""
    if (
        not identifier
        or re.search(r"[\s/\x00-\x1f\x7f\ud800-\udfff]", identifier)
        or identifier in (".", "..")
    ):
        raise UsageError(f"not a usable {what}: {identifier!r}")
    if re.search(KEY_LIKE_PATTERN, identifier):
        raise UsageError("that is an API key, not an id")
    return identifier


def read_ids(ids: Sequence[str]) -> list[str]:
    """The ids of a bulk command in order, each once; `-` stands for those on stdin, one a line."""
    if "-" in ids:
        text = sys.stdin.buffer.read().decode(
            "utf-8-sig", "surrogateescape"
        )  # PowerShell's pipes may begin with a BOM
        lines = [line.strip() for line in text.splitlines()]
        i = ids.index("-")
        ids = [*ids[:i], *filter(None, lines), *(word for word in ids[i + 1 :] if word != "-")]
        if not ids:
            raise UsageError("no ids on stdin")
    return list(dict.fromkeys(parse_id(i) for i in ids))


def get_record(api: Api, kind: str, identifier: str) -> Json:
    try:
        return api.get_record(kind, identifier)
    except ApiError as error:
        if error.status == 404:
            shows = f"`{list_command(kind)}` shows"
            whole = re.fullmatch(UUID_PATTERN, identifier)
            error.hint = f"{shows} your ids" if whole else f"an id has 36 characters: {shows} them"
        raise


def wait_for_track(console: Console, api: Api, kind: str, identifier: str) -> Json:
    """The document of a record once it is completed or failed. What happens on the network
    meanwhile is noted and asked again; only a refusal (4xx but 429) is raised. FtError at the
    time-out.
    """
    start = time.monotonic()
    interval = pause = POLL_INTERVAL
    status = "processing"

    def progress() -> str:
        return f"{status}, {format_duration(int(time.monotonic() - start))}"

    while True:
        left = start + POLL_TIMEOUT - time.monotonic()
        if left <= 0:
            raise FtError(
                f"still processing, run `{resume_command('get', kind, identifier)}` later"
            )
        console.sleep_with_status(min(pause, left), progress)
        pause = interval = min(interval * POLL_BACKOFF, POLL_MAX_INTERVAL)
        try:
            document = api.get_record(kind, identifier, retry="none")
        except NetworkError as error:
            console.note(f"{error.message}; asking again")
        except ApiError as error:
            if error.status != 429 and error.status < 500:
                raise
            console.note(f"{error.message}; asking again")
            pause = max(pause, error.retry_after or 0.0)
        else:
            status = field_text(document["data"], "status")
            if status in ("completed", "failed"):
                return document


def resume_command(verb: str, kind: str, identifier: str, output: str | None = None) -> str:
    """The command that goes on with a record, for a person to paste."""
    words = ["ft", *(["sfx"] if kind == SOUND_EFFECTS else []), verb, identifier]
    if verb == "download":
        words.append("--wait")
    if output is not None:
        words += [f"--output={output}"] if re.match("-.", output) else ["-o", output]
    return quote_command(*words)


def names_directory(output: str) -> bool:
    """Whether -o names a directory: one that is there, or any that ends like one."""
    return output.endswith(("/", os.sep)) or os.path.isdir(output)


def choose_path(output: str | None, record: Json) -> str:
    """Where a track goes: -o when it names a file, else the default name in -o's or the current
    directory.
    """
    if output is None:
        return default_filename(record)
    if names_directory(output):
        return os.path.join(output, default_filename(record))
    return output


def check_destination(output: str | None) -> None:
    """Make sure that a track can be saved there, making its directory where it is missing.
    FtError.
    """
    if output == "-":
        if sys.stdout.isatty():
            raise UsageError(
                "will not write an MP3 to a terminal", "redirect stdout, or give -o a file"
            )
        return
    if output == "":
        raise UsageError("-o needs a file or a directory")
    with PartFile(choose_path(output, {"id": "00000000"})) as target:
        target.open()


class PartFile:
    """A file that a track is downloaded to. Bytes go to a hidden file beside it, which replaces it
    when all are there; what was there before survives any failure. FtError for what the file system
    refuses.
    """

    unfinished: dict[str, Any] = {}  # the hidden files of this process, open, by their paths
    stopped = False  # by `main`, which leaves none behind: no thread may make another
    _making = allocate_lock()

    def __init__(self, path: str) -> None:
        self.name = path
        try:
            self.path = os.path.realpath(path)
        except OSError as error:  # the working directory is gone
            raise self._refused(error) from None
        self._part = os.path.join(os.path.dirname(self.path), f".ft-{os.urandom(6).hex()}.part")
        self._file: Any = None

    def __enter__(self) -> PartFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.remove(self._part)

    def _refused(self, error: OSError) -> FtError:
        return FtError(f"cannot write {self.name}: {error.strerror or error}")

    def _check_replaceable(self) -> None:
        there = os.stat(self.path)  # fails for a name that is too long, unlike os.path.exists
        if not stat.S_ISREG(there.st_mode):
            kind = "a directory" if stat.S_ISDIR(there.st_mode) else "not a regular file"
            raise FtError(f"cannot write {self.name}: it is {kind}")
        directory = os.stat(os.path.dirname(self.path))
        if directory.st_mode & stat.S_ISVTX and os.geteuid() not in (
            0,
            directory.st_uid,
            there.st_uid,
        ):  # as in /tmp
            raise FtError(f"cannot write {self.name}: it belongs to another user")

    def open(self) -> None:
        """Begin, or begin again from nothing."""
        try:
            if self._file:
                self._file.seek(0)
                self._file.truncate()
                return
            os.makedirs(os.path.dirname(self.path), exist_ok=True)
            try:
                self._check_replaceable()
            except FileNotFoundError:
                pass
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
            with self._making:
                if self.stopped:
                    raise FtError("stopped")
                self.unfinished[self._part] = None
                self._file = open(os.open(self._part, flags, 0o666), "wb", buffering=0)
                self.unfinished[self._part] = self._file
        except OSError as error:
            raise self._refused(error) from None

    def write(self, data: memoryview) -> None:
        try:
            while data:
                data = data[self._file.write(data) :]
        except OSError as error:
            raise self._refused(error) from None

    def commit(self) -> None:
        """All bytes are there: put them in place."""
        try:
            os.fsync(self._file.fileno())
            self._file.close()
            os.replace(self._part, self.path)
        except OSError as error:
            raise self._refused(error) from None

    @classmethod
    def remove(cls, path: str) -> None:
        """Close and remove a hidden file, if it is still there."""
        file = cls.unfinished.get(path)
        try:
            if file:
                file.close()
        except OSError:  # what it could not write is removed with it
            pass
        if try_remove(path):
            cls.unfinished.pop(path, None)

    @classmethod
    def remove_unfinished(cls) -> None:
        with cls._making:
            cls.stopped = True
        for path in list(cls.unfinished):
            cls.remove(path)


class StdoutFile:
    """`-o -`: what has been written cannot be taken back."""

    def __init__(self, console: Console) -> None:
        self.console = console
        self.written = 0

    def __enter__(self) -> StdoutFile:
        return self

    def __exit__(self, *exception: object) -> None:
        pass

    def open(self) -> None:
        if self.written:
            raise NetworkError("the download broke off and cannot be resumed", final=True)

    def write(self, data: memoryview) -> None:
        self.console.write_bytes(data)
        self.written += len(data)

    def commit(self) -> None:
        pass


def download_file(
    transport: HttpClient, url: str, target: PartFile | StdoutFile, progress: Progress
) -> None:
    """The bytes of `url` into `target`, resumed within this run when the connection breaks and the
    server can prove that it is still the same file. NetworkError, FtError.
    """
    import mmap

    buffer = memoryview(mmap.mmap(-1, READ_SIZE))  # aligned: copying costs half
    position, total, etag = 0, None, ""
    retries = Retries(transport.console)
    while True:
        resuming = (
            position > 0 and total is not None and re.fullmatch('"[!#-~]*"', etag)
        )  # a strong one
        headers = {"Range": f"bytes={position}-", "If-Range": etag} if resuming else {}
        try:
            with transport.get_public(url, headers) as response:
                rest = (206, f"bytes {position}-{(total or 0) - 1}/{total}", etag)
                got = (
                    response.status,
                    response.headers.get("Content-Range"),
                    response.headers.get("ETag", etag),
                )
                if response.status != 200 and got != rest:
                    etag = ""  # start over
                    raise NetworkError(f"{response.host} did not go on where the track broke off")
                check_is_audio(response)
                if response.status == 200:
                    progress.start_file(position, total, response.content_length())
                    position, total, etag = (
                        0,
                        response.content_length(),
                        response.headers.get("ETag", ""),
                    )
                    target.open()
                while total is None or position < total:
                    count = response.readinto(
                        buffer if total is None else buffer[: total - position]
                    )
                    if not count:
                        break
                    target.write(buffer[:count])
                    position += count
                    progress.add_bytes(count)
                if total is not None and position < total:
                    raise NetworkError(
                        f"the answer from {response.host} broke off: {position} of {total} bytes"
                    )
                if not position:
                    raise NetworkError(f"an empty track from {response.host}", final=True)
            target.commit()
            return
        except NetworkError as failure:
            if failure.final:
                raise
            retries.wait_or_raise(failure)


def check_is_audio(response: Response) -> None:
    """An answer that can be a track: its length known, no encoding, no page or document."""
    response.content_length()
    if response.headers.get("Content-Encoding", "identity").lower() not in ("", "identity"):
        raise NetworkError(f"{response.host} sent an encoded track", final=True)
    if response.content_type.startswith("text/") or re.search(
        r"\b(json|xml|html)$", response.content_type
    ):
        raise NetworkError(
            f"unexpected reply from {response.host} (HTTP {response.status}, "
            f"{response.content_type})",
            final=True,
        )


def save_track(
    ft: Context, record: Json, output: str | None, progress: Progress, taken: dict[str, str]
) -> str:
    """Download the completed `record`; the path it went to. `taken`: the paths of this run and
    their ids.
    """
    url = record.get("audioUrl")
    if not isinstance(url, str) or not url:
        raise NetworkError(
            "unexpected reply from the service: a completed track without `audioUrl`", final=True
        )
    path = "-" if output == "-" else choose_path(output, record)
    if taken.setdefault(path, str(record.get("id"))) != str(record.get("id")):
        raise FtError(f"{path} is the name of {taken[path]} too")
    target: PartFile | StdoutFile = StdoutFile(ft.console) if path == "-" else PartFile(path)
    with target:
        download_file(ft.transport, url, target, progress)
    return path


def require_completed(document: Json) -> Json:
    """The record in `document`, if its track is there. FtError."""
    record: Json = document["data"]
    status = field_text(record, "status")
    if status == "failed":
        raise FtError(field_text(record, "errorMessage", "the generation failed"))
    if status != "completed":
        raise FtError(f"the track is not completed: {status}", "--wait waits for it")
    return record


class BulkResult:
    """What became of the ids of a bulk command: each is in `succeeded` or in `errors`, once, in the
    order given.
    """

    def __init__(self, verb: str, id_field: str) -> None:
        self.verb = verb  # "deleted", "added", ...: where the API lists what succeeded
        self.id_field = id_field  # "id" or "trackId": what the API calls it in an error
        self.succeeded: list[str] = []
        self.errors: list[Json] = []
        self.extra: Json = {}  # whatever else the service sent, around `data`
        self.extra_data: Json = {}  # and in it

    def add_failures(self, ids: Iterable[str], why: str) -> None:
        self.errors += [{self.id_field: identifier, "error": why} for identifier in ids]

    def add_answer(
        self,
        chunk: list[str],
        document: Json,
        otherwise: str = "outcome unknown: not in the answer",
    ) -> None:
        """Take in the answer for `chunk`; ids that it does not mention are errors. NetworkError for
        an odd answer.
        """
        data = get_member(document, "data", dict)
        done = {str(identifier).lower() for identifier in get_member(data, self.verb, list)}
        failed = [] if data.get("errors") is None else get_records(data, "errors")
        errors = {str(error.get(self.id_field)).lower(): error for error in failed}
        self.extra.update(document)
        self.extra_data.update(data)
        for identifier in chunk:
            if identifier.lower() in done:
                self.succeeded.append(identifier)
            elif identifier.lower() in errors:
                self.errors.append(errors[identifier.lower()])
            else:
                self.add_failures([identifier], otherwise)

    def to_document(self) -> Json:
        data = {**self.extra_data, self.verb: self.succeeded, "errors": self.errors}
        if not self.errors:
            del data["errors"]
        return {**self.extra, "data": data}


def run_bulk(
    ft: Context,
    args: argparse.Namespace,
    ids: list[str],
    send: Callable[[list[str]], Json],
    verb: str,
    id_field: str = "trackId",
) -> int:
    """Send `ids` in chunks of 100, tell what became of each; the exit code. A final failure, or a
    signal, ends it.
    """
    outcome = BulkResult(verb, id_field)
    failure: FtError | StopSignal | None = None
    for start in range(0, len(ids), MAX_BULK_IDS):
        chunk = ids[start : start + MAX_BULK_IDS]
        try:
            outcome.add_answer(chunk, send(chunk))
        except ApiError as error:
            if error.code in ("ADD_FAILED", "MOVE_FAILED"):
                details = error.details if isinstance(error.details, list) else []
                answer = {"data": {verb: [], "errors": [d for d in details if isinstance(d, dict)]}}
                outcome.add_answer(chunk, answer, otherwise=error.message.rpartition(" (")[0])
                continue
            failure, known = error, "" if error.status < 500 else "outcome unknown: "
        except NetworkError as error:
            failure, known = error, "outcome unknown: " if error.sent else "not attempted: "
        except StopSignal as stopped:
            failure, known = stopped, "outcome unknown: "
        if failure:
            outcome.add_failures(chunk, known + getattr(failure, "message", "interrupted"))
            outcome.add_failures(ids[start + MAX_BULK_IDS :], "not attempted")
            break
    for item in outcome.errors:
        ft.console.warning(f"{field_text(item, id_field)}: {field_text(item, 'error', 'failed')}")
    private = any(
        item.get("error") == "Cannot add private track to public playlist"
        for item in outcome.errors
    )
    if private and not failure:  # which has a hint of its own
        ft.console.hint("make the track public at finetuning.ai first")
    if args.json:
        ft.console.print_json(outcome.to_document())
    else:
        total = len(outcome.succeeded) + len(outcome.errors)
        ft.console.print(f"{verb.capitalize()} {len(outcome.succeeded)} of {total} track(s)")
    if failure:
        raise failure
    return 0 if outcome.succeeded else EXIT_ERROR


# --- commands -------------------------------------------------------------------------------------


class Context:
    """What a command works with; each part is made on first use, so that `ft help` needs no
    configuration or key.
    """

    def __init__(self, console: Console, args: argparse.Namespace) -> None:
        self.console = console
        self.args = args

    @cached_property
    def config(self) -> Settings:
        return Settings(self.args.config)

    @cached_property
    def base_url(self) -> str:
        configured = (
            self.config.base_url
        )  # even beside the flag, so that a broken file is always told
        if self.args.base_url is not None:
            return parse_base_url(self.args.base_url, "--base-url")
        return (configured or BASE_URL).rstrip("/")

    @cached_property
    def keys(self) -> ApiKeys:
        return ApiKeys(self.console, self.args.api_key)

    @cached_property
    def transport(self) -> HttpClient:
        return HttpClient(self.console, self.base_url)

    @cached_property
    def api(self) -> Api:
        """The API with the user's key."""
        transport = self.transport
        transport.key = self.keys.require()
        _, transport.key_source = self.keys.from_invocation() or ("", "")
        return Api(transport)


class Command:
    """A declared command. `name` is one word or two; `summary` is the first sentence of its
    `description`; its records are of `kind`.
    """

    def __init__(
        self,
        name: str,
        description: str,
        function: Callable[[Context, argparse.Namespace], int | None],
        parameters: Sequence[Parameter],
        example: str,
    ) -> None:
        self.name = name
        self.description = description
        self.summary = description.partition(". ")[0].rstrip(".")
        self.function = function
        self.parameters = parameters
        self.example = example
        self.kind = SOUND_EFFECTS if name.startswith("sfx ") else GENERATIONS

    @property
    def usage(self) -> str:
        """`ft download <id>... [flags]`"""
        words = []
        for names, options in self.parameters:
            if not names[0].startswith("-"):
                name: str = options["metavar"]
                words.append(
                    {"+": f"{name}...", "*": f"[{name.strip('<>')}]"}.get(
                        options.get("nargs", ""), name
                    )
                )
        return " ".join(["ft", self.name, *words, "[flags]"])


COMMANDS: dict[str, Command] = {}  # in the order of `ft help`


def command(
    name: str, description: str, *parameters: Parameter, example: str
) -> Callable[[Any], Any]:
    """Declare the decorated function as `ft <name>`. It returns nothing or the exit code of a
    batch; everything else is an exception.
    """

    def declare(function: Any) -> Any:
        COMMANDS[name] = Command(name, description, function, parameters, example)
        return function

    return declare


def arg(name: str, **options: Any) -> Parameter:
    """A positional argument, in argparse's own terms."""
    return (name,), {"metavar": f"<{name}>", **options}


def flag(*names: str, default: Any = None, shown: str | None = None, **options: Any) -> Parameter:
    """A flag, in argparse's own terms; its help ends with its default (`shown` where that is no
    value).
    """
    if options.get("action") == "store_true":
        default, shown = False, "off"
    options["help"] += f" (default: {default if shown is None else shown})"
    return names, {"default": default, **options}


def decimal_number(text: str) -> int | float:
    if not re.fullmatch(r"-?[0-9]{1,300}(\.[0-9]{1,300})?", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number")
    return float(text) if "." in text else int(text)


def whole_number(text: str) -> int:
    if not re.fullmatch(r"-?[0-9]{1,300}", text, re.ASCII):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number")
    return int(text)


def list_limit(text: str) -> int:
    count = whole_number(text)
    if not 1 <= count <= 99:
        raise argparse.ArgumentTypeError(f"{count} is not between 1 and 99")
    return count


def list_offset(text: str) -> int:
    count = whole_number(text)
    if count < 0:
        raise argparse.ArgumentTypeError(f"{count} is negative")
    return count


LANGUAGES = ("en", "ja", "de", "fr", "es", "zh", "ko", "pt", "it", "ru")
MUSICAL_KEYS = ("C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B")
SHARPS_FOR_FLATS = {
    "CB": "B",
    "DB": "C#",
    "EB": "D#",
    "FB": "E",
    "GB": "F#",
    "AB": "G#",
    "BB": "A#",
}


def musical_key(text: str) -> str:
    """Any case; flats become the sharps that the service knows."""
    return SHARPS_FOR_FLATS.get(text.upper().replace("♭", "B"), text.upper().replace("♯", "#"))


GLOBAL_FLAGS = (
    flag(
        "--api-key",
        metavar="<key>",
        shown="the stored key",
        help="use this API key for this invocation",
    ),
    flag("--base-url", metavar="<url>", shown=BASE_URL, help="use this API base URL"),
    flag(
        "--config",
        metavar="<path>",
        shown="config.json in the configuration directory",
        help="use this configuration file",
    ),
    flag(
        "-v",
        "--verbose",
        action="store_true",
        help="log HTTP requests and answers to stderr, keys redacted",
    ),
    flag("--no-color", action="store_true", help="no colours, like NO_COLOR"),
)

ID_ARG = arg("id", help="an id as `ft list` shows it, 36 characters")
IDS_ARG = arg(
    "id", nargs="+", help="ids as `ft list` shows them; `-` reads them from stdin, one a line"
)
PLAYLIST = arg("playlist", help="a playlist's id, or its name in any case")
PROMPT = arg(
    "prompt",
    nargs="+",
    help="what to make, in plain words, quoted or not; after -- if it begins with -",
)
JSON = flag("--json", action="store_true", help="print the service's answer as JSON")
DURATION = flag(
    "--duration",
    type=decimal_number,
    metavar="<sec>",
    shown="60, or defaultDuration of config.json",
    help="length in seconds, 5-210 on Pro and Lifetime; the service clamps it",
)
SEED = flag(
    "--seed", type=whole_number, metavar="<n>", shown="random", help="reproduce a previous run"
)
OUTPUT = flag(
    "-o",
    "--output",
    metavar="<path>",
    shown="<slug>-<short-id>.mp3 in the current directory",
    help="where to save the MP3: a file, a directory, or `-` for stdout",
)
NO_WAIT = flag(
    "--no-wait", action="store_true", help="print the id once the service has it, and exit"
)
RECORD_JSON = flag(
    "--json", action="store_true", help="print the final record as JSON instead of downloading"
)
WEBHOOK = flag(
    "--webhook",
    type=webhook_url,
    metavar="<url>",
    shown="none",
    help="https address that gets the finished record; implies --no-wait",
)
VERBATIM_FLAG = flag(
    "--verbatim", action="store_true", help="take the prompt as it stands, unimproved"
)
LIMIT = flag(
    "--limit", type=list_limit, default=20, metavar="<n>", help="how many to show, at most 99"
)
OFFSET = flag("--offset", type=list_offset, default=0, metavar="<n>", help="how many to pass over")
ALL_FLAG = flag("--all", action="store_true", help="follow the pages to the end, whatever --limit")
STATUS = flag(
    "--status",
    default="all",
    choices=("all", "pending", "processing", "completed", "failed"),
    metavar="<s>",
    help="only these: pending, processing, completed, failed",
)
WAIT_FLAG = flag("--wait", action="store_true", help="wait for a track that is not completed yet")
YES_FLAG = flag(
    "-y", "--yes", action="store_true", help="do not ask; required where nobody can answer"
)


# auth


@command(
    "auth login",
    "Prompt for an API key and store it in the OS keychain. The key is checked against the "
    "service first; a key "
    "that fails leaves the stored one as it was.",
    flag("--stdin", action="store_true", help="read the key from stdin instead of asking for it"),
    example='echo "$FT_API_KEY" | ft auth login --stdin',
)
def log_in(ft: Context, args: argparse.Namespace) -> None:
    if args.api_key and args.api_key.strip():
        if args.stdin:
            raise UsageError(
                "the key is to come from --api-key and from stdin", "leave one of them out"
            )
        text, source = args.api_key, "--api-key"
    elif args.stdin or not sys.stdin.isatty():
        text, source = (
            sys.stdin.buffer.read(4096).decode("utf-8-sig", "replace"),
            "stdin",
        )  # PowerShell may send a BOM
        if not text.strip():
            raise UsageError("no API key on stdin", f"get one at {KEY_URL}")
    else:
        import getpass

        source = "the prompt"
        try:
            text = getpass.getpass("Paste your API key: ", sys.stderr)
        except (EOFError, UnicodeError, StopSignal) as error:
            sys.stderr.write("\n")  # getpass leaves its line open
            if isinstance(error, StopSignal):
                raise
            raise UsageError("no API key given", f"get one at {KEY_URL}") from None
        except KeyboardInterrupt:  # Windows reads Ctrl-C as a character here
            raise StopSignal(signal.SIGINT) from None
    key = parse_key(text, source)
    ft.transport.key, ft.transport.key_source = key, source
    me = get_member(Api(ft.transport).get_account(), "data", dict)
    place = ft.keys.save(key)
    if ft.keys.file and place == ft.keys.file.path:
        ft.console.warning(f"{ft.keys.keychain.name} cannot be reached ({ft.keys.keychain_error})")
        ft.console.warning(
            f"the key is stored in plain text in {place}, readable by you alone (0600)"
        )
    ft.console.print(f"Stored in {place}. ✓")
    ft.console.print(f"Signed in as {field_text(me, 'email')} ({field_text(me, 'tier')} tier)")
    if os.environ.get("FINETUNING_API_KEY", "").strip():
        ft.console.warning("FINETUNING_API_KEY is set and wins over the stored key")


@command(
    "auth logout",
    "Forget the stored key. Removes it from the keychain, and from the plaintext fallback if "
    "there is one.",
    example="ft auth logout",
)
def log_out(ft: Context, args: argparse.Namespace) -> None:
    removed = ft.keys.remove()
    outcome = f"Removed the key from {' and '.join(removed)}" if removed else "No key was stored"
    if ft.keys.keychain_error and not removed:
        outcome = "No key was found"
        ft.console.note(f"{ft.keys.keychain.name} cannot be reached ({ft.keys.keychain_error})")
    ft.console.print(f"Logged out. {outcome}.")
    if os.environ.get("FINETUNING_API_KEY", "").strip():
        ft.console.note("FINETUNING_API_KEY is still set")


@command(
    "me",
    "Alias of ft auth whoami. Prints the signed-in account's email, tier and credits.",
    JSON,
    example="ft me --json | jq '.data.limits'",
)
@command(
    "auth whoami",
    "Show the signed-in account. Prints its email, tier and credits.",
    JSON,
    example="ft auth whoami",
)
def show_account(ft: Context, args: argparse.Namespace) -> None:
    document = ft.api.get_account()
    me = get_member(document, "data", dict)
    if args.json:
        return ft.console.print_json(document)
    limits = me.get("limits") if isinstance(me.get("limits"), dict) else {}
    left = (
        f"{field_text(limits, 'totalRemaining')} left: {field_text(limits, 'monthlyRemaining')} of "
    )
    left += (
        f"{field_text(limits, 'monthlyGenerations')} this month, "
        f"{field_text(limits, 'packCredits')} from packs"
    )
    ft.console.print_details(
        [
            ("Email", field_text(me, "email")),
            ("Name", field_text(me, "name")),
            ("Tier", field_text(me, "tier")),
            ("Credits", left),
            ("In queue", field_text(limits, "queueDepth")),
        ]
    )


# generate


@command(
    "generate",
    "Submit, poll, and download in one shot. Costs one credit. The prompt is free prose; when you "
    "stop waiting, the "
    "track is still made, and `ft download <id>` gets it.",
    PROMPT,
    DURATION,
    flag(
        "--bpm",
        type=decimal_number,
        metavar="<n>",
        shown="120, or defaultBpm of config.json",
        help="beats a minute, 60-200; the service clamps it",
    ),
    flag(
        "--key",
        type=musical_key,
        default="C",
        choices=MUSICAL_KEYS,
        metavar="<K>",
        help=f"{', '.join(MUSICAL_KEYS)}, or a flat such as Bb",
    ),
    flag(
        "--scale", default="major", choices=("major", "minor"), metavar="<s>", help="major or minor"
    ),
    flag(
        "--time-sig", default="4", choices=tuple("234567"), metavar="<s>", help="2, 3, 4, 5, 6 or 7"
    ),
    flag("--language", default="en", choices=LANGUAGES, metavar="<l>", help=", ".join(LANGUAGES)),
    flag(
        "--lyrics",
        default="",
        shown="empty",
        metavar="<text>",
        help=f"words to sing, at most {MAX_LYRICS} characters",
    ),
    SEED,
    OUTPUT,
    NO_WAIT,
    RECORD_JSON,
    WEBHOOK,
    example=(
        'ft generate "upbeat ad jingle, brass and snare" --duration 30 --bpm 128 --key D '
        "--output ./jingle.mp3"
    ),
)
def generate_music(ft: Context, args: argparse.Namespace) -> None:
    if len(args.lyrics) > MAX_LYRICS:
        raise UsageError(f"the lyrics have {len(args.lyrics)} characters, more than {MAX_LYRICS}")
    body = {
        "tags": join_prompt(args.prompt),
        "duration": first_set(args.duration, ft.config.duration, 60),
        "bpm": first_set(args.bpm, ft.config.bpm, 120),
        "key": args.key,
        "scale": args.scale,
        "timesignature": args.time_sig,
        "language": args.language,
    }
    if args.lyrics:
        body["lyrics"] = args.lyrics
    make_track(ft, args, GENERATIONS, "generations", body)


def join_prompt(words: Sequence[str]) -> str:
    prompt = " ".join(words).strip()
    if not prompt:
        raise UsageError("the prompt is empty")
    if len(prompt) > MAX_PROMPT:
        raise UsageError(f"the prompt has {len(prompt)} characters, more than {MAX_PROMPT}")
    return prompt


def first_set(*values: Any) -> Any:
    return next(value for value in values if value is not None)


REMAINING_FIELDS = {
    "creditsRemaining": "credits",
    "dailyRemaining": "of today's",
}  # what a submission says is left


def make_track(ft: Context, args: argparse.Namespace, kind: str, endpoint: str, body: Json) -> None:
    """Submit `body` once, then wait for the record and download its track, as far as the flags ask
    for it.
    """
    console = ft.console
    if getattr(args, "seed", None) is not None:
        body["seed"] = args.seed
    if args.webhook:
        body["webhook"] = args.webhook
    stay = not (args.no_wait or args.webhook)
    if stay and not args.json:
        check_destination(args.output)  # before the credit is spent
    elif args.output is not None:
        console.note("-o has no effect here: nothing is downloaded")
    api = ft.api
    resume = ""
    try:
        document = api.submit(endpoint, body)
        record = document["data"]
        identifier = record["id"]
        resume = resume_command("download", kind, identifier, args.output)
        parameters = record.get("parameters") if isinstance(record.get("parameters"), dict) else {}
        for name in ("duration", "bpm"):
            got = parameters.get(
                name, record.get("requestedDuration")
            )  # the latter is a sound effect's
            if is_number(got) and name in body and got != body[name]:
                console.note(f"{name} clamped from {format_json(body[name])} → {format_json(got)}")
        if not stay:
            if args.json:
                return console.print_json(document)
            return console.print(f"Queued. id={identifier} status={field_text(record, 'status')}")
        left = [
            f", {record[name]} {what} left"
            for name, what in REMAINING_FIELDS.items()
            if is_number(record.get(name))
        ]
        console.note(f"queued as {identifier}{''.join(left)}")
        document = wait_for_track(console, api, kind, identifier)
        if args.json:
            console.print_json(document)
        if not args.json and document["data"]["status"] == "completed":
            path = save_track(ft, document["data"], args.output, Progress(console), {})
    except StopSignal:
        if not resume:
            tells = f"`{list_command(kind)}` tells"
            console.note(
                f"the submission may have been accepted, and then costs its credit: {tells}"
            )
        elif document["data"].get("status") == "completed":
            console.hint(f"the track is not lost: {resume}")
        else:
            console.note("the track is still being made and still costs its credit")
            console.hint(resume)
        raise
    except BrokenPipeError:
        if not stay:  # silent elsewhere, but nobody has been told the id
            console.hint(f"the track is not lost: {resume}")
        raise
    except FtError as error:
        if resume:
            error.hint = "; ".join(filter(None, [error.hint, f"the track is not lost: {resume}"]))
        raise
    require_completed(document)  # or its errorMessage
    if not args.json:
        report_saved(console, path)


def report_saved(console: Console, path: str) -> None:
    """The outcome of a download; on stderr when the track itself went to stdout."""
    if path == "-":
        console.note("Saved to stdout")
    else:
        console.print(f"Saved to {path}")


@command(
    "instrumental",
    "Make a track without vocals: submit, poll, and download in one shot. Costs one credit. The "
    "record is listed, "
    "shown, downloaded and deleted like any other.",
    PROMPT,
    flag(
        "--duration",
        type=decimal_number,
        default=120,
        metavar="<sec>",
        help="length in seconds, 30-210 in steps of 15",
    ),
    VERBATIM_FLAG,
    SEED,
    OUTPUT,
    NO_WAIT,
    RECORD_JSON,
    WEBHOOK,
    example='ft instrumental "slow piano over rain" --duration 90',
)
def generate_instrumental(ft: Context, args: argparse.Namespace) -> None:
    body = {
        "prompt": join_prompt(args.prompt),
        "duration": args.duration,
        "enhance": not args.verbatim,
    }
    make_track(ft, args, GENERATIONS, "instrumental", body)


# the library


@command(
    "list",
    "Show recent generations. Newest first, as a table or as JSON.",
    LIMIT,
    OFFSET,
    STATUS,
    flag(
        "--type",
        choices=("music", "instrumental"),
        metavar="<t>",
        shown="both",
        help="only music or instrumental",
    ),
    ALL_FLAG,
    JSON,
    example="ft list --status completed --limit 50",
)
def list_tracks(ft: Context, args: argparse.Namespace) -> None:
    kind: str = args.command.kind
    name = LIST_NAMES[kind]
    status = None if args.status == "all" else args.status
    query = {
        "limit": 99 if args.all else args.limit,
        "status": status,
        "type": getattr(args, "type", None),
    }
    offset = args.offset
    document = ft.api.list_records(kind, offset=offset or None, **query)
    data = document["data"]
    page = data
    while (
        args.all
        and page[name]
        and page.get("hasMore") is True
        and isinstance(page.get("nextOffset"), int)
        and page["nextOffset"] > offset
    ):
        offset = page["nextOffset"]
        page = ft.api.list_records(kind, offset=offset, **query)["data"]
        known = {
            field_text(record, "id") for record in data[name]
        }  # new ones push old ones to the next page
        fresh = [record for record in page[name] if field_text(record, "id") not in known]
        document["data"] = data = {**page, name: data[name] + fresh}
    if args.json:
        return ft.console.print_json(document)
    if not data[name]:
        maker = "ft sfx generate" if kind == SOUND_EFFECTS else "ft generate"
        with_status = f" with status {status}" if status else ""
        return ft.console.note(f"nothing here{with_status}; `{maker}` makes one")
    print_tracks(ft.console, data[name])
    if data.get("hasMore") is True:
        ft.console.note(f"there are more: --offset {field_text(data, 'nextOffset')}")


def print_tracks(console: Console, tracks: list[Json]) -> None:
    console.print_table(
        ("ID", "STATUS", "DURATION", "PROMPT", "CREATED"),
        [
            (
                field_text(t, "id"),
                field_text(t, "status"),
                format_duration(t.get("duration")),
                field_text(t, "prompt"),
                format_age(t.get("createdAt")),
            )
            for t in tracks
        ],
        long="PROMPT",
        drop=("CREATED", "DURATION"),
    )


@command(
    "get",
    "Show one generation's detail. For a finished track also the command that makes it again.",
    ID_ARG,
    JSON,
    example="ft get 07e8d430-2310-4c57-87a8-cf1e6db376f7",
)
def show_track(ft: Context, args: argparse.Namespace) -> None:
    document = get_record(ft.api, args.command.kind, parse_id(args.id))
    if args.json:
        return ft.console.print_json(document)
    record = document["data"]
    parameters = record.get("parameters") if isinstance(record.get("parameters"), dict) else {}

    def given(name: str, form: Callable[[Any], str]) -> str:
        return "" if record.get(name) is None else form(record[name])

    pairs = [
        ("ID", field_text(record, "id")),
        ("Title", field_text(record, "title", "")),
        ("Prompt", field_text(record, "prompt", "")),
        ("Type", field_text(record, "type", "")),
        ("Status", field_text(record, "status")),
        ("Error", field_text(record, "errorMessage", "")),
        ("Audio URL", field_text(record, "audioUrl", "")),
        ("Duration", given("duration", format_duration)),
        ("Asked for", given("requestedDuration", format_duration)),
        ("File size", given("fileSize", format_size)),
        (
            "Tempo",
            f"{field_text(parameters, 'bpm')} bpm" if is_number(parameters.get("bpm")) else "",
        ),
        ("Key", field_text(parameters, "keyscale", "")),
        ("Time signature", field_text(parameters, "timesignature", "")),
        ("Language", field_text(parameters, "language", "")),
        ("Seed", field_text(parameters, "seed", "")),
        (
            "Visibility",
            format_visibility(record) if isinstance(record.get("isPublic"), bool) else "",
        ),
        ("Plays", field_text(record, "playCount", "")),
        ("Downloads", field_text(record, "downloadCount", "")),
        ("Likes", field_text(record, "likeCount", "")),
        ("Webhook", field_text(record, "webhook", "")),
        ("Created", format_timestamp(record.get("createdAt"))),
        ("Completed", format_timestamp(record.get("completedAt"))),
        ("Generation time", given("generationTime", format_duration)),
    ]
    repeat = command_to_repeat(record, parameters) if args.command.kind == GENERATIONS else ""
    ft.console.print_details(
        [pair for pair in pairs if pair[1]], ("Make it again", repeat) if repeat else None
    )


def format_timestamp(timestamp: Any) -> str:
    """`2025-01-15 10:30:00 UTC (3 hours ago)`."""
    then = parse_time(timestamp)
    if then is None:
        return str(timestamp or "")
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(then))} UTC ({format_age(timestamp)})"


def command_to_repeat(record: Json, parameters: Json) -> str:
    """The command that makes a completed track again."""
    prompt = record.get("prompt")
    if record.get("status") != "completed" or not isinstance(prompt, str) or not prompt.strip():
        return ""
    kind = "instrumental" if record.get("type") == "instrumental" else "generate"
    key, _, scale = field_text(parameters, "keyscale", "").partition(" ")
    values = {"duration": parameters.get("duration"), "seed": parameters.get("seed")}
    if kind == "generate":
        values.update(
            bpm=parameters.get("bpm"), key=key, scale=scale, language=parameters.get("language")
        )
        values["time-sig"] = parameters.get("timesignature")
    flags = [
        w
        for name, v in values.items()
        if v not in (None, "")
        for w in (f"--{name}", field_text({"v": v}, "v"))
    ]
    if parameters.get("enhance") is False:
        flags.append("--verbatim")
    return quote_command(
        "ft", kind, *([*flags, "--", prompt] if prompt.startswith("-") else [prompt, *flags])
    )


@command(
    "download",
    "Download an already-completed track. Several ids are downloaded four at a time, into -o's "
    "directory.",
    IDS_ARG,
    OUTPUT,
    WAIT_FLAG,
    example="ft download 07e8d430-2310-4c57-87a8-cf1e6db376f7 -o jingle.mp3",
)
def download_tracks(ft: Context, args: argparse.Namespace) -> int | None:
    kind = args.command.kind
    ids = read_ids(args.id)
    output = args.output or "."
    if len(ids) > 1 and (output == "-" or not names_directory(output)):
        raise UsageError(
            "with several ids, -o must be a directory", "end its name with a slash to have it made"
        )
    check_destination(args.output)
    api = ft.api
    progress = Progress(ft.console, len(ids))
    taken: dict[str, str] = {}
    if not ft.console.has_status_line:
        ft.console.note(f"downloading {ids[0] if len(ids) == 1 else f'{len(ids)} tracks'}")

    def save(identifier: str) -> str:
        document = get_record(api, kind, identifier)
        if args.wait and field_text(document["data"], "status") not in ("completed", "failed"):
            if len(ids) == 1:
                ft.console.note(f"waiting for {identifier}")
            document = wait_for_track(ft.console, api, kind, identifier)
        return save_track(ft, require_completed(document), args.output, progress, taken)

    if len(ids) == 1:
        report_saved(ft.console, save(ids[0]))
        return None
    return for_each_in_threads(ft.console, ids, save, progress)


def for_each_in_threads(
    console: Console, ids: list[str], save: Callable[[str], str], progress: Progress
) -> int:
    """Call `save` for each id in four threads; report as the bulk commands do. Its exit code."""
    import queue
    import threading

    waiting = list(reversed(ids))  # list.pop is atomic
    finished: queue.SimpleQueue[tuple[str, str, Exception | None]] = queue.SimpleQueue()

    def work() -> None:
        while True:
            try:
                identifier = waiting.pop()
            except IndexError:
                return
            try:
                finished.put((identifier, save(identifier), None))
            except Exception as error:
                finished.put((identifier, "", error))

    threads = [
        threading.Thread(target=work, daemon=True) for _ in range(min(PARALLEL_DOWNLOADS, len(ids)))
    ]
    for thread in threads:
        thread.start()
    done, hint = 0, None
    while progress.finished < len(ids):
        progress.draw()
        try:
            identifier, path, error = finished.get(timeout=0.1)
        except queue.Empty:
            continue
        progress.finished += 1
        if error is None:
            done += 1
            report_saved(console, path)
        elif isinstance(error, FtError):
            console.warning(f"{identifier}: {error.message}")
            hint = hint or error.hint
        else:
            raise error
    if hint:
        console.hint(hint)
    console.print(f"Downloaded {done} of {len(ids)} track(s)")
    return 0 if done else EXIT_ERROR


@command(
    "delete",
    "Permanently delete tracks. They disappear from your library, all playlists and public pages, "
    "and cannot be "
    "restored.",
    IDS_ARG,
    YES_FLAG,
    JSON,
    example="ft delete --yes 07e8d430-2310-4c57-87a8-cf1e6db376f7",
)
def delete_tracks(ft: Context, args: argparse.Namespace) -> int | None:
    if "-" in args.id and not args.yes:
        raise UsageError(
            "cannot ask for confirmation: stdin holds the ids", "pass --yes to go ahead without"
        )
    ids = read_ids(args.id)
    if not args.yes:
        consequence = (
            "This permanently deletes the track from your library — everywhere, not just playlists."
        )
        if not ft.console.confirm(consequence, f"Delete {len(ids)} track(s)?"):
            (ft.console.note if args.json else ft.console.print)("Aborted.")
            return None
    return run_bulk(ft, args, ids, ft.api.bulk_delete, "deleted", "id")


# playlists


@command(
    "playlists",
    "List your playlists. Playlists are created in the web app.",
    JSON,
    example="ft playlists",
)
def list_playlists(ft: Context, args: argparse.Namespace) -> None:
    document = ft.api.get_playlists()
    found = document["data"]["playlists"]
    if args.json:
        return ft.console.print_json(document)
    if not found:
        return ft.console.note("no playlists yet: create one at finetuning.ai")
    ft.console.print_table(
        ("ID", "NAME", "TRACKS", "DURATION", "VISIBILITY", "UPDATED"),
        [
            (
                field_text(p, "id"),
                field_text(p, "name"),
                field_text(p, "trackCount"),
                format_duration(p.get("totalDuration")),
                format_visibility(p),
                format_age(p.get("updatedAt")),
            )
            for p in found
        ],
        long="NAME",
        drop=("UPDATED", "VISIBILITY", "DURATION"),
    )


def format_visibility(record: Json) -> str:
    return "public" if record.get("isPublic") is True else "private"


def find_playlists(api: Api, *wanted: str) -> list[str]:
    """The ids of the playlists that `wanted` name: a UUID is an id, anything else a name in any
    case. UsageError.
    """
    playlists = (
        []
        if all(re.fullmatch(UUID_PATTERN, w) for w in wanted)
        else api.get_playlists()["data"]["playlists"]
    )
    names = [field_text(p, "name", "") for p in playlists]

    def find(word: str) -> str:
        if re.fullmatch(UUID_PATTERN, word):
            return word
        sought = word.strip().casefold()
        ids = [
            field_text(p, "id", "")
            for p, name in zip(playlists, names)
            if name.strip().casefold() == sought
        ]
        if len(ids) > 1:
            raise UsageError(
                f"{len(ids)} playlists are called {word!r}: {', '.join(ids)}", "use the id"
            )
        if not ids and not word.startswith("pl_"):
            raise UsageError(
                f"no playlist is called {word!r}{suggest_nearest(word, names)}",
                "`ft playlists` lists yours",
            )
        return parse_id(ids[0] if ids else word, "playlist id")

    return [find(word) for word in wanted]


@command(
    "playlist show",
    "Show a playlist and the tracks in it. Your own, or anybody's public one by its id.",
    PLAYLIST,
    JSON,
    example='ft playlist show "Focus Beats"',
)
def show_playlist(ft: Context, args: argparse.Namespace) -> None:
    [playlist_id] = find_playlists(ft.api, args.playlist)
    document = ft.api.get_playlist(playlist_id)
    if args.json:
        return ft.console.print_json(document)
    playlist = document["data"]
    tracks = playlist["tracks"]
    ft.console.print_details(
        [
            ("ID", field_text(playlist, "id")),
            ("Name", field_text(playlist, "name")),
            *(
                [("Description", field_text(playlist, "description"))]
                if playlist.get("description")
                else []
            ),
            ("Visibility", format_visibility(playlist)),
            ("Tracks", field_text(playlist, "trackCount", str(len(tracks)))),
            ("Duration", format_duration(playlist.get("totalDuration"))),
            ("Updated", format_age(playlist.get("updatedAt"))),
        ]
    )
    if tracks:
        ft.console.print_raw("\n")
        print_tracks(ft.console, tracks)


@command(
    "playlist add",
    "Add tracks to a playlist. Public playlists take public tracks only, private ones only your "
    "own.",
    PLAYLIST,
    IDS_ARG,
    JSON,
    example='ft playlist add "Focus Beats" 07e8d430-2310-4c57-87a8-cf1e6db376f7',
)
def add_to_playlist(ft: Context, args: argparse.Namespace) -> int:
    ids = read_ids(args.id)
    [playlist] = find_playlists(ft.api, args.playlist)
    return run_bulk(ft, args, ids, lambda chunk: ft.api.add_tracks(playlist, chunk), "added")


@command(
    "playlist remove",
    "Remove tracks from a playlist. They stay in your library.",
    PLAYLIST,
    IDS_ARG,
    JSON,
    example='ft playlist remove "Focus Beats" 07e8d430-2310-4c57-87a8-cf1e6db376f7',
)
def remove_from_playlist(ft: Context, args: argparse.Namespace) -> int:
    ids = read_ids(args.id)
    [playlist] = find_playlists(ft.api, args.playlist)
    return run_bulk(ft, args, ids, lambda chunk: ft.api.remove_tracks(playlist, chunk), "removed")


@command(
    "playlist move",
    "Move tracks between playlists. A track that cannot be added to the target stays in the "
    "source.",
    arg("source", metavar="<src>", help="the playlist to take them from, id or name"),
    arg("target", metavar="<dst>", help="the playlist to put them in, id or name"),
    IDS_ARG,
    JSON,
    example='ft playlist move "Drafts" "Album" 07e8d430-2310-4c57-87a8-cf1e6db376f7',
)
def move_between_playlists(ft: Context, args: argparse.Namespace) -> int:
    ids = read_ids(args.id)
    source, target = find_playlists(ft.api, args.source, args.target)
    if source.lower() == target.lower():
        raise UsageError("the source and the target are the same playlist")
    return run_bulk(ft, args, ids, lambda chunk: ft.api.move_tracks(source, target, chunk), "moved")


# sound effects


@command(
    "sfx generate",
    "Make a sound effect: submit, poll, and download in one shot.",
    PROMPT,
    flag(
        "--duration",
        type=decimal_number,
        metavar="<sec>",
        shown="the service's choice",
        help="length in seconds",
    ),
    VERBATIM_FLAG,
    OUTPUT,
    NO_WAIT,
    RECORD_JSON,
    WEBHOOK,
    example='ft sfx generate "a heavy door closes" --duration 3',
)
def generate_sound_effect(ft: Context, args: argparse.Namespace) -> None:
    body = {"prompt": join_prompt(args.prompt), "enhance": not args.verbatim}
    if args.duration is not None:
        body["duration"] = args.duration
    make_track(ft, args, SOUND_EFFECTS, "sound-effects", body)


command(
    "sfx list",
    "Show recent sound effects. Newest first, as a table or as JSON.",
    LIMIT,
    OFFSET,
    STATUS,
    ALL_FLAG,
    JSON,
    example="ft sfx list --limit 10",
)(list_tracks)
command(
    "sfx get",
    "Show one sound effect's detail.",
    ID_ARG,
    JSON,
    example="ft sfx get 07e8d430-2310-4c57-87a8-cf1e6db376f7",
)(show_track)
command(
    "sfx download",
    "Download already-completed sound effects. As `ft download` does.",
    IDS_ARG,
    OUTPUT,
    WAIT_FLAG,
    example="ft sfx download 07e8d430-2310-4c57-87a8-cf1e6db376f7",
)(download_tracks)


# the tool itself


@command(
    "doctor",
    "Health check + resolved config dump. The first thing to try when something feels off.",
    flag("--json", action="store_true", help="print the same facts as JSON"),
    example="ft doctor",
)
def check_setup(ft: Context, args: argparse.Namespace) -> int:
    facts = [(True, f"ft v{__version__}")]
    document: Json = {
        "version": __version__,
        "python": sys.version.split()[0],
        "platform": sys.platform,
    }
    exit_code = 0

    def check(name: str, work: Callable[[], str]) -> bool:
        """Add what `work` finds, or the error it raises."""
        nonlocal exit_code
        try:
            facts.append((True, work()))
        except FtError as error:
            facts.append(
                (False, f"{name}: {error.message}" + (f" ({error.hint})" if error.hint else ""))
            )
            exit_code = exit_code or error.exit_code
        return facts[-1][0]

    def config() -> str:
        config = ft.config
        document.update(
            config=config.path, configExists=config.exists, unknownKeys=config.unknown_keys
        )
        ignored = (
            f" (unknown keys, ignored: {', '.join(config.unknown_keys)})"
            if config.unknown_keys
            else ""
        )
        return f"config: {config.path}{'' if config.exists else ' (not there: defaults)'}{ignored}"

    def base_url() -> str:
        document["baseUrl"] = ft.base_url
        return f"base URL: {ft.base_url}"

    def health() -> str:
        try:
            document["health"] = field_text(Api(ft.transport).get_health(), "status", "ok")
        except ApiError as error:  # whatever it answers, it is not healthy
            raise NetworkError(error.message) from None
        return f"/health → {document['health']}"

    def key() -> str:
        key = ft.keys.require()
        assert ft.keys.found is not None
        document.update(key=redact(key), keySource=ft.keys.found[1])
        return f"key from: {ft.keys.found[1]}"

    def store() -> str:
        keys = ft.keys  # the keychain was asked above, if it had to be
        given, place, reason = keys.from_invocation(), keys.keychain.name, None
        if given:
            reason = f"not asked: {given[1]} comes first"
        elif keys.keychain_error and keys.file:
            place, reason = (
                keys.file.path,
                f"plain text: {place} cannot be reached: {keys.keychain_error}",
            )
        elif keys.file and document.get("keySource") == keys.file.path:
            reason = "`ft auth login` would move the key there from its plain text file"
        document.update(keyStore=place, keyStoreReason=reason)
        return f"key store: {place}" + (f" ({reason})" if reason else "")

    def account() -> str:
        me = get_member(ft.api.get_account(), "data", dict)
        document.update(email=me.get("email"), tier=me.get("tier"))
        return (
            f"key: {redact(ft.keys.require())}  "
            f"({field_text(me, 'email')}, {field_text(me, 'tier')} tier)"
        )

    healthy = check("config", config) and check("base URL", base_url) and check("/health", health)
    keyed = check("key", key)
    check("key store", store)
    if healthy and keyed:
        check("key", account)
    facts.append((True, f"Python {document['python']} on {sys.platform}"))
    document.update(ok=exit_code == 0, problems=[text for fine, text in facts if not fine])
    if args.json:
        ft.console.print_json(document)
    else:
        ft.console.print_checklist(facts)
    return exit_code


def find_installation(release: str) -> str:
    """The zipapp that is running. FtError with the right command where `ft update` cannot help."""
    archive = getattr(__loader__, "archive", None)  # type: ignore[name-defined]
    place = os.path.realpath(archive or __file__)
    directory, name = os.path.split(place)
    library = archive is None and os.path.basename(directory) in ("site-packages", "dist-packages")
    tool, upgrade = find_installer(directory) if library and "/Cellar/" not in place else ("", "")
    if not upgrade and re.match("/(usr/)?s?bin/|/usr/lib/|/(nix|snap|gnu)/|.*/Cellar/", place):
        raise FtError(
            f"this ft came from a package manager: {place}", "update it with that package manager"
        )
    if library:
        raise FtError(
            f"this ft came from {tool}: {place}", upgrade or "update it as you installed it"
        )
    if archive is None and os.path.exists(os.path.join(directory, ".git")):
        raise FtError(
            f"this ft is a checkout: {place}", quote_command("git", "-C", directory, "pull")
        )
    if archive is None or name != ("ft.pyz" if os.name == "nt" else "ft"):
        raise FtError(
            f"this ft did not come from the install script: {place}",
            f"put {release}/ft.pyz in its place",
        )
    return place


def find_installer(directory: str) -> tuple[str, str]:
    """What put ft among the packages in `directory`, and the command that upgrades it, if that is
    known.
    """
    import json
    from importlib.metadata import distributions

    if os.path.exists(os.path.join(sys.prefix, "pipx_metadata.json")):
        return "pipx", quote_command("pipx", "upgrade", os.path.basename(sys.prefix))
    for found in distributions(path=[directory]):
        if "ft.py" in map(str, found.files or ()):
            tool = (found.read_text("INSTALLER") or "an unknown tool").strip()
            origin = json.loads(found.read_text("direct_url.json") or "{}")  # PEP 610
            vcs = f"{origin['vcs_info']['vcs']}+" if "vcs_info" in origin else ""
            source = f"{vcs}{origin['url']}" if origin else found.metadata["Name"]
            return tool, quote_command(
                sys.executable, "-m", "pip", "install", "--upgrade", source
            ) if tool == "pip" else ""
    return "an unknown tool", ""


@command(
    "update",
    "Re-run the install script to upgrade. It puts the newest release into the directory that "
    "this ft lies in.",
    example="ft update",
)
def update_ft(ft: Context, args: argparse.Namespace) -> None:
    import hashlib
    import subprocess

    source = (
        "FT_BASE_URL" if os.environ.get("FT_BASE_URL") else "FT_RELEASE_URL"
    )  # both, as the script knows them
    release = parse_base_url(os.environ.get(source) or RELEASE_URL, source)
    place = find_installation(release)
    transport = HttpClient(ft.console, release)

    def get(name: str) -> bytes:
        retries = Retries(ft.console)
        while True:
            try:
                with transport.get_public(f"{release}/{name}", {}) as response:
                    return response.read_all(1 << 20)
            except NetworkError as error:
                if error.final:
                    raise
                retries.wait_or_raise(error)

    newest = get("VERSION").decode("ascii", "replace").strip()
    if not re.fullmatch(r"[0-9]{1,4}\.[0-9]{1,4}\.[0-9]{1,4}", newest, re.ASCII):
        raise NetworkError(f"unexpected reply from {release}: no version")
    new, old = ([int(part) for part in version.split(".")] for version in (newest, __version__))
    if new <= old:
        newer = f"newer than the newest release, {newest}" if new < old else "the newest release"
        return ft.console.print(f"ft {__version__} is {newer}.")
    script_name = "install.ps1" if os.name == "nt" else "install.sh"
    script = get(script_name)
    sums = get("SHA256SUMS").decode("ascii", "replace").split()
    if (hashlib.sha256(script).hexdigest(), script_name) not in zip(
        sums[::2], (n.lstrip("*") for n in sums[1::2])
    ):
        raise NetworkError(f"{script_name} from {release} does not match its published checksum")
    ft.console.note(f"updating ft {__version__} → {newest}")
    environ = {
        name: value
        for name, value in os.environ.items()
        if name not in ("FINETUNING_API_KEY", "FT_FROM")
    }
    directory = os.path.dirname(place)
    try:
        if os.name == "nt":
            path = os.path.join(directory, f".ft-{os.urandom(6).hex()}.ps1")
            PartFile.unfinished[path] = None
            with open(path, "wb") as file:
                file.write(script)
            argv = [
                "powershell",
                "-NoProfile",
                "-ExecutionPolicy",
                "Bypass",
                "-File",
                path,
                "-Prefix",
                directory,
                "-Version",
                newest,
                "-BaseUrl",
                release,
            ]
        else:
            argv = [
                "sh",
                "-s",
                "--",
                "--prefix",
                directory,
                "--version",
                newest,
                "--base-url",
                release,
            ]
        # A session of its own: the script and what it runs are stopped together, and only by us.
        with subprocess.Popen(
            argv, env=environ, stdin=subprocess.PIPE, start_new_session=True
        ) as running:
            try:
                running.communicate(b"" if os.name == "nt" else script)
            except StopSignal:
                running.terminate() if os.name == "nt" else os.killpg(running.pid, signal.SIGTERM)
                raise  # once it has cleaned up
    except OSError as error:
        raise FtError(
            f"cannot run the install script: {error.strerror}; ft {__version__} stays"
        ) from None
    if running.returncode:
        raise FtError(
            f"the install script failed (exit {running.returncode}); ft {__version__} stays"
        )


@command(
    "completion",
    "Print a shell's completion script. It completes commands, flags and their choices; load it "
    "where your shell "
    "starts.",
    arg(
        "shell", choices=("bash", "zsh", "fish", "powershell"), help="bash, zsh, fish or powershell"
    ),
    example='eval "$(ft completion bash)"',
)
def print_completion(ft: Context, args: argparse.Namespace) -> None:
    ft.console.print_raw(completion_script(args.shell))


@command(
    "help",
    "Print built-in help. Overall or for a single command.",
    arg("topic", metavar="<command>", nargs="*", help="the command to explain; none: an overview"),
    flag("--man", action="store_true", help="print the man page of all commands, as roff"),
    example="ft help generate",
)
def show_help(ft: Context, args: argparse.Namespace) -> None:
    ft.console.print_raw(format_manual() if args.man else help_text(args.topic))


# --- parser ---------------------------------------------------------------------------------------

COMMAND_GROUPS = {
    "auth": "Sign in and out.",
    "playlist": "Inspect and manage the tracks in playlists.",
    "sfx": "Sound effects.",
}


class HelpFormatter(argparse.RawDescriptionHelpFormatter):
    """As wide as the terminal, without importing shutil, half the cost of building a parser."""

    def __init__(self, prog: str) -> None:
        super().__init__(prog, max_help_position=26, width=help_width())

    def _split_lines(self, text: str, width: int) -> list[str]:
        """Broken at spaces only, and without importing textwrap."""
        return wrap_text(text, width)

    def _format_action_invocation(self, action: argparse.Action) -> str:
        """`-o, --output <path>`, as from Python 3.13 on."""
        if not action.option_strings or action.nargs == 0:
            return super()._format_action_invocation(action)
        return f"{', '.join(action.option_strings)} {action.metavar}"


def help_width() -> int:
    return max(40, min(terminal_width(sys.stdout) or 101, 110) - 1)


def unmarked(word: str) -> str:
    """A word after `--`, as it was."""
    return word.lstrip("\0")


class CommandParser(argparse.ArgumentParser):
    """argparse with our errors, no abbreviations, and flags allowed between a command's
    arguments.
    """

    def __init__(self, *, words: Sequence[str] = (), **options: Any) -> None:
        super().__init__(
            add_help=False, allow_abbrev=False, formatter_class=HelpFormatter, **options
        )
        self.words = words
        self.color = False  # Python 3.14 would paint the help
        self._intermixing = False
        self._positionals.title = "arguments"
        group = self.add_argument_group("global flags (before or after the command)")
        for names, parameters in GLOBAL_FLAGS:
            group.add_argument(*names, **{**parameters, "default": argparse.SUPPRESS})
        group.add_argument("-h", "--help", action="help", help="show this help")

    def declare(self, chosen: Command) -> CommandParser:
        """Take in the arguments and flags of a command; GLOBAL_FLAGS stay last in its help."""
        flags = self.add_argument_group("flags")
        self._action_groups.insert(-2, self._action_groups.pop())
        for names, options in chosen.parameters:
            if names[0].startswith("-"):
                flags.add_argument(*names, **options)
            else:
                self.add_argument(*names, **{"type": unmarked, **options})
        self.set_defaults(command=chosen)
        return self

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        if self._intermixing:
            return super().parse_known_args(args, namespace)
        self._check_flags(args)
        if not self._defaults:
            return super().parse_known_args(args, namespace)
        self._intermixing = True
        if (
            "--" in args
        ):  # what follows is no flag; argparse parses twice and has lost the `--` the second time
            end = args.index("--") + 1
            args = [*args[:end], *("\0" + word for word in args[end:])]
        namespace, extras = self.parse_known_intermixed_args(args, namespace)
        extras = [word for word in extras if word != "--"]
        if extras:
            self.error(f"unexpected argument {unmarked(extras[0])!r}")
        return namespace, extras

    def _check_flags(self, argv: Sequence[str]) -> None:
        """Refuse an unknown flag before argparse tells what is missing beside it, or takes it for
        something else: `--lyrcs='la la'` for a prompt, `-output` for `-o utput`.
        """
        known = self._option_string_actions
        words = iter(argv)
        for word in words:
            name, equals, _ = word.partition("=")
            if word in ("--", "-h", "--help") or not (self._defaults or word.startswith("-")):
                return
            if not word.startswith("-") or " " in name or re.fullmatch("-[0-9.]*", name):
                continue
            if name in known:
                if known[name].nargs is None and not equals:
                    next(words, None)
            elif name.startswith("--") or f"-{name}" in known or name[:2] not in known:
                if not self._defaults and any(
                    name in names for c in COMMANDS.values() for names, _ in c.parameters
                ):
                    self.error(f"{name} goes after the command")
                self.error(f"unknown flag {name}{suggest_nearest(name, known)}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is None or value in action.choices:
            return
        if isinstance(action.choices, dict):  # subcommands
            name = " ".join([*self.words, str(value)])
            raise UsageError(
                f"unknown command `{name}`{suggest_nearest(name, COMMANDS)}",
                "`ft help` lists the commands",
            )
        raise argparse.ArgumentError(
            action, f"{value!r} is none of {', '.join(map(str, action.choices))}"
        )

    def error(self, message: str) -> NoReturn:
        raise UsageError(
            message, f"usage: {self.usage}; `{' '.join(['ft help', *self.words])}` explains it"
        )

    def print_help(self, file: Any = None) -> None:
        raise HelpRequested(help_text(self.words))


def build_command_parser(chosen: Command) -> CommandParser:
    example = (
        wrap_command(chosen.example, help_width() - 4) if sys.stdout.isatty() else [chosen.example]
    )
    epilog = "example:\n  " + "\n    ".join(example)
    parser = CommandParser(words=chosen.name.split(), prog="ft", usage=chosen.usage, epilog=epilog)
    parser.description = "\n".join(wrap_text(chosen.description, help_width()))
    return parser.declare(chosen)


def build_parser() -> CommandParser:
    """The whole command line: a subparser for each command, nested for those of two words."""
    root = CommandParser(prog="ft", usage="ft <command> [flags]")
    root.add_argument("--version", action="store_true")
    level = root.add_subparsers()
    groups: dict[str, Any] = {}
    for chosen in COMMANDS.values():
        first, _, second = chosen.name.partition(" ")
        if second and first not in groups:
            groups[first] = level.add_parser(
                first, words=[first], usage=f"ft {first} <command> [flags]"
            ).add_subparsers()
        parser = (groups[first] if second else level).add_parser(
            second or first, words=chosen.name.split(), usage=chosen.usage
        )
        parser.declare(chosen)
    return root


def parse_command_line(argv: Sequence[str]) -> argparse.Namespace:
    """The arguments, with `command` among them. UsageError, HelpRequested."""
    for i, word in enumerate(argv, 1):
        try:
            word.encode("utf-8")
        except UnicodeEncodeError:
            raise UsageError(f"argument {i} is not valid text") from None
    args = argparse.Namespace(
        **{names[-1][2:].replace("-", "_"): options["default"] for names, options in GLOBAL_FLAGS}
    )
    if argv == ["--version"]:
        return argparse.Namespace(**vars(args), command=None, version=True)
    for count in (2, 1):  # building one parser takes half the time of the tree
        chosen = COMMANDS.get(" ".join(argv[:count]))
        if chosen and len(chosen.name.split()) == count <= len(argv):
            return build_command_parser(chosen).parse_args(argv[count:], args)
    args = build_parser().parse_args(argv, args)
    if not hasattr(args, "command") and not args.version:
        raise HelpRequested(help_text([word for word in argv if word in COMMAND_GROUPS][:1]))
    return args


def help_text(words: Sequence[str]) -> str:
    """The help of a command, of a group of commands, or the overview. UsageError for an unknown
    command.
    """
    name = " ".join(words)
    if name in COMMANDS:
        return build_command_parser(COMMANDS[name]).format_help()
    if name and name not in COMMAND_GROUPS:
        raise UsageError(
            f"unknown command `{name}`{suggest_nearest(name, COMMANDS)}",
            "`ft help` lists the commands",
        )
    shown = [c for c in COMMANDS.values() if not name or c.name.startswith(name + " ")]
    usages = [c.usage[3:].replace(" [flags]", "") for c in shown]
    indent = max(map(len, usages)) + 4
    lines = [
        f"usage: ft {name + ' ' if name else ''}<command> [flags]",
        "",
        COMMAND_GROUPS[name]
        if name
        else f"ft {__version__}: music from a prompt, by Finetuning.ai",
        "",
        "commands:",
    ]
    for chosen, usage in zip(shown, usages):
        first, *rest = wrap_text(chosen.summary, max(20, help_width() - indent))
        lines += [f"  {usage:{indent - 2}}{first}", *(" " * indent + line for line in rest)]
    flags = CommandParser(prog="ft").format_help().partition("global flags")[2]
    lines += ["", "global flags" + flags.rstrip("\n")]
    if not name:
        lines.append("  --version         print the version")
    lines += ["", "`ft help <command>` explains a command.", "", "example:"]
    lines.append(
        f"  {shown[0].example}" if name else '  ft generate "lofi chill piano, mellow, late night"'
    )
    return "\n".join(lines) + "\n"


# --- completion and man page ----------------------------------------------------------------------

# Each shell's script is its form of `completion_table` and the same walk over the words before the
# cursor: a flag that takes a value swallows the next word, others are passed over, and the rest
# lead from `ft` to a command.
WALK = r"""
_ft_offer() {
    case $1 in
TABLE        *) return 1 ;;
    esac
}

_ft_walk() { # the word at the cursor, then those before it; sets offer
    local word cur=$1 at=ft flag=
    shift
    for word; do
        if [ "$word" = '=' ]; then # bash takes --flag=value apart
            :
        elif [ -n "$flag" ]; then
            flag=
        elif [ "${word#-}" != "$word" ]; then
            ! _ft_offer "$word" || flag=$word
        elif _ft_offer "$at $word"; then
            at="$at $word"
        fi
    done
    case $cur in -*) at="$at -" ;; esac
    _ft_offer "${flag:-$at}"
}
"""
BASH = r"""
_ft() {
    local IFS=$' \t\n' offer=() cur=${COMP_WORDS[COMP_CWORD]}
    [ "$cur" != '=' ] || cur=
    case ${COMP_WORDS[COMP_CWORD-1]} in
        *[\<\>]) offer=('<path>') ;; # after a redirection
        *) _ft_walk "$cur" "${COMP_WORDS[@]:1:COMP_CWORD-1}" ;;
    esac
    COMPREPLY=()
    if [ "${offer[*]}" = '<path>' ]; then
        compopt -o default 2>/dev/null
    else
        COMPREPLY=($(compgen -W "${offer[*]}" -- "$cur"))
    fi
}

# bash 3 has no compopt
if type compopt >/dev/null 2>&1; then complete -F _ft ft; else complete -o default -F _ft ft; fi
"""
ZSH = r"""
_ft() {
    local -a offer
    if compset -P 1 '--*='; then
        _ft_walk '' "${(@)words[2,CURRENT-1]}" "${IPREFIX%=}"
    else
        _ft_walk "$PREFIX" "${(@)words[2,CURRENT-1]}"
    fi
    if [ "${offer[*]}" = '<path>' ]; then _files; else _describe -V ft offer; fi
}

if [ "${funcstack[1]-}" = _ft ]; then _ft "$@"; else compdef _ft ft; fi
"""
FISH = r"""function __ft_offer --no-scope-shadowing
    switch "$argv[1]"
TABLE        case '*'
            return 1
    end
    return 0
end

function __ft_complete
    set -l at ft
    set -l flag
    set -l offer
    set -l cur (commandline -ct)
    set -l given (string match -r -- '^(--[^=]+)=.*' $cur)
    set -l words (commandline -opc) $given[2]
    for word in $words[2..]
        if set -q flag[1]
            set flag
        else if string match -q -- '-*' $word
            __ft_offer $word; and set flag $word
        else if __ft_offer "$at $word"
            set at "$at $word"
        end
    end
    string match -q -- '-*' $cur; and set at "$at -"
    set -q flag[1]; and __ft_offer $flag; or __ft_offer $at
    set -q given[1]; and set given "$given[2]="; or set given ''
    string join \n -- $given$offer
end

complete -c ft -f -k -a '(__ft_complete | string match -v "*<path>")'
complete -c ft -F -n '__ft_complete | string match -q "*<path>"'
"""
POWERSHELL = r"""Register-ArgumentCompleter -Native -CommandName 'ft', 'ft.cmd' -ScriptBlock {
    param($current, $ast, $cursor)
    $table = @{
TABLE    }
    $at = 'ft'
    $flag = $null
    $before = $ast.CommandElements | Where-Object { $_.Extent.EndOffset -lt $cursor } |
        Select-Object -Skip 1
    foreach ($element in $before) {
        $word = "$element"
        if ($flag) { $flag = $null }
        elseif ($word.StartsWith('-')) { if ($table.ContainsKey($word)) { $flag = $word } }
        elseif ($table.ContainsKey("$at $word")) { $at = "$at $word" }
    }
    if ("$current".StartsWith('-')) { $at = "$at -" }
    $offer = if ($flag) { $table[$flag] } else { $table[$at] }
    foreach ($row in $offer) {
        $word, $text = $row -split "`t"
        # Without results, PowerShell offers files.
        if ($word -ne '<path>' -and $word.StartsWith("$current")) {
            [System.Management.Automation.CompletionResult]::new(
                $word, $word, 'ParameterValue', "$word $text")
        }
    }
}
"""
# For each shell: what stands for ' in a string, what parts a word from its description, between
# strings, a row, and
# the script.
SHELLS = {
    "bash": (r"'\''", "", " ", "        '%s') offer=(%s) ;;\n", WALK.lstrip() + BASH),
    "zsh": (r"'\''", ":", " ", "        '%s') offer=(%s) ;;\n", "#compdef ft\n" + WALK + ZSH),
    "fish": (r"\'", "\t", " ", "        case '%s'\n            set offer %s\n", FISH),
    "powershell": ("''", "\t", ", ", "        '%s' = @(%s)\n", POWERSHELL),
}
# Flags of argparse's own making, in the form of the others.
HELP = ("-h", "--help"), {"action": "help", "help": "show the help"}
VERSION = ("--version",), {"action": "version", "help": "print the version"}


def completion_table() -> dict[str, dict[str, str]]:
    """The words that may follow, each with its meaning: `ft`, a group, or a command; the same and a
    dash; a flag that takes a value, where `<path>` stands for files.
    """
    table: dict[str, dict[str, str]] = {"ft": {}}
    for chosen in COMMANDS.values():
        first, _, second = chosen.name.partition(" ")
        table["ft"][first] = COMMAND_GROUPS.get(first, chosen.summary).rstrip(".")
        if second:
            table.setdefault(f"ft {first}", {})[second] = chosen.summary
    table["ft help"] = dict(table["ft"])
    table.update({f"ft help {group}": table[f"ft {group}"] for group in COMMAND_GROUPS})
    for key, parameters in (
        ("ft", (VERSION,)),
        *((f"ft {group}", ()) for group in COMMAND_GROUPS),
        *((f"ft {c.name}", c.parameters) for c in COMMANDS.values()),
    ):
        offered = table.setdefault(key, {})
        flags = table[f"{key} -"] = {}
        for names, options in (*parameters, HELP, *GLOBAL_FLAGS):
            files = ("<path>",) if options.get("metavar") == "<path>" else ()
            values = dict.fromkeys(options.get("choices", files), "")
            if not names[0].startswith("-"):
                offered.update(values)
                continue
            flags.update(dict.fromkeys(names, options["help"].partition(" (default")[0]))
            if "action" not in options:
                table.update(dict.fromkeys(names, values))
    return table


def completion_script(name: str) -> str:
    """What completes `ft` in that shell. It holds all that it needs: to complete never starts
    Python.
    """
    quote, separator, between, row, script = SHELLS[name]
    rows = []
    for key, offered in completion_table().items():
        words = [
            f"{word}{separator}{text}" if text and separator else word
            for word, text in offered.items()
        ]
        rows.append(
            row % (key, between.join("'" + word.replace("'", quote) + "'" for word in words))
        )
    return script.replace("TABLE", "".join(rows))


# Of the man page, what no declaration says: terms and what they mean.
MANUAL_SECTIONS = {
    "EXIT STATUS": {
        "0": "success; of several items, at least one succeeded",
        "1": "an error of the API, or a failure on this machine",
        "2": "a bad flag, argument, key or configuration",
        "3": "no usable answer from the network",
        "129, 130, 143": "stopped by SIGHUP, Ctrl-C, SIGTERM",
        "141": "the reader of stdout went away",
    },
    "ENVIRONMENT": {
        "FINETUNING_API_KEY": (
            "the API key to use; `--api-key` wins over it, and it wins over the stored key"
        ),
        "FINETUNING_CONFIG_HOME": "the configuration directory",
        "NO_COLOR": "set to anything: no colours",
        "HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE": (
            "the proxy, the hosts that need none, the certificates to trust"
        ),
        "FT_RELEASE_URL": f"where `ft update` finds releases (default: {RELEASE_URL})",
    },
    "FILES": {
        "~/.config/finetuning/config.json": "the settings `baseUrl`, `defaultDuration` and "
        "`defaultBpm`. On macOS in "
        "~/Library/Application Support/finetuning, on Windows in %APPDATA%\\finetuning",
        "~/.config/finetuning/credentials": "the API key in plain text, "
        "only on a Linux without a keychain",
    },
}


def format_manual() -> str:
    """The man page, in the macros of man(7)."""
    special = str.maketrans({"\\": r"\e", "-": r"\-", "'": r"\(aq", "~": r"\(ti", "^": r"\(ha"})

    def roff(text: str) -> str:
        lines = "\n".join(wrap_text(text, 56)).translate(
            special
        )  # the escapes of a line have to fit into 80 bytes
        return re.sub(
            "`([^`]*)`", r"\\fB\1\\fR", re.sub("^[.]", r"\\&.", lines, flags=re.MULTILINE)
        )

    def entries(parameters: Iterable[Parameter]) -> Iterator[str]:
        for names, options in parameters:
            value = (
                f" {options['metavar']}"
                if "metavar" in options and names[0].startswith("-")
                else ""
            )
            term = ", ".join(names) if names[0].startswith("-") else options["metavar"]
            yield f".TP\n{roff(f'`{term}`{value}')}\n{roff(options['help'])}"

    epoch = os.environ.get("SOURCE_DATE_EPOCH", "")  # of who builds a package
    seconds = int(epoch) if re.fullmatch("[0-9]{1,11}", epoch, re.ASCII) else time.time()
    date = time.strftime("%Y-%m-%d", time.gmtime(seconds))
    page = [
        f'.TH FT 1 {date} "ft {__version__}" "User Commands"',
        ".SH NAME\nft \\- the command line of Finetuning.ai: music from a prompt",
        ".SH SYNOPSIS\n.B ft\n<command> [flags]\n.SH COMMANDS",
    ]
    for chosen in COMMANDS.values():
        page += [
            f".SS {roff(chosen.usage)}",
            roff(chosen.description),
            *entries(chosen.parameters),
            ".PP\n.EX",
        ]
        page += [*(line.translate(special) for line in wrap_command(chosen.example, 60)), ".EE"]
    page += [
        ".SH GLOBAL FLAGS",
        "Before or after the command.",
        *entries((*GLOBAL_FLAGS, HELP, VERSION)),
    ]
    for title, terms in MANUAL_SECTIONS.items():
        page += [
            f".SH {title}",
            *(f".TP\n{roff(f'`{term}`')}\n{roff(text)}" for term, text in terms.items()),
        ]
    return "\n".join(page) + "\n"


# --- run ------------------------------------------------------------------------------------------


def run_command(console: Console, argv: Sequence[str]) -> int:
    """Parse and run a command; its exit code."""
    try:
        args = parse_command_line(argv)
    except HelpRequested as asked:
        console.print_raw(asked.args[0])
        return 0
    console.verbose = args.verbose
    console.no_color = console.no_color or args.no_color
    if getattr(args, "version", False):
        console.print(f"ft {__version__}")
        return 0
    return args.command.function(Context(console, args), args) or 0


def run(console: Console, argv: Sequence[str]) -> int:
    """The one place that turns exceptions into lines on stderr and exit codes."""
    try:
        return run_command(console, argv)
    except FtError as error:
        console.error(error.message)
        if error.hint:
            console.hint(error.hint)
        return error.exit_code
    except BrokenPipeError:  # the reader of stdout went away: `ft list | head -1`
        return EXIT_BROKEN_PIPE
    except StopSignal as stopped:
        console.discard_output(sys.stdout)  # its reader may be gone, or asleep
        console.note("interrupted" if stopped.exit_code == 130 else "terminated")
        return stopped.exit_code
    except Exception as error:
        console.error(f"internal error: {type(error).__name__}: {error}")
        console.hint(
            f"this is a bug in ft {__version__}: run it again with -v and report it at {ISSUES_URL}"
        )
        if console.verbose:
            import traceback

            for line in traceback.format_exc().splitlines():
                console.log(line)
        return EXIT_ERROR


def open_missing_streams() -> None:
    """Put the null device where a descriptor was closed (`2>&-`), before a file of ours lands
    there.
    """
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            descriptor = os.open(os.devnull, os.O_RDWR)
            os.set_inheritable(descriptor, True)
            setattr(sys, name, open(descriptor, mode, encoding="utf-8"))


def stop_on_signals() -> None:
    """Let SIGINT, SIGTERM and SIGHUP raise StopSignal, unless whoever started us had them ignored
    (nohup).
    """
    last = float("-inf")

    def stop(signum: int, frame: FrameType | None) -> None:
        nonlocal last
        now = time.monotonic()
        if (
            now - last > 1 and not PartFile.stopped
        ):  # the second of two must not interrupt the cleaning up
            last = now
            raise StopSignal(signum)

    for name in ("SIGINT", "SIGTERM", "SIGHUP"):
        signum = getattr(signal, name, None)  # Windows has no SIGHUP
        if signum is not None and signal.getsignal(signum) is not signal.SIG_IGN:
            signal.signal(signum, stop)


def main(argv: Sequence[str] | None = None) -> int:
    """The process: streams, signals, `run`, and no hidden file left behind. The exit code."""
    open_missing_streams()
    console = Console()
    try:
        try:
            stop_on_signals()
            return run(console, sys.argv[1:] if argv is None else argv)
        finally:
            PartFile.remove_unfinished()  # from here on signals are too late
            console.clear_status()
    except StopSignal as stopped:  # just outside of `run`
        PartFile.remove_unfinished()
        return stopped.exit_code


if __name__ == "__main__":
    sys.exit(main())
