"""A stand-in for macOS's /usr/bin/security, as strict as what is known of the real one.

Its keychain is keychain.json beside it, {"service\\naccount": "secret"}. fail.json, {verb: exit
code}, makes commands fail. Every start is noted in calls.json, a line of JSON each: its arguments
and the lines of its stdin.
"""

from __future__ import annotations

import json
import pathlib
import sys
import time

HERE = pathlib.Path(__file__).resolve().parent
KEYCHAIN, FAIL, CALLS, MUTE = (
    HERE / name for name in ("keychain.json", "fail.json", "calls.json", "mute")
)
USAGE, DUPLICATE, ABSENT = 2, 45, 44
LONGEST = 4095  # characters of a line of `security -i`


def split(line: str) -> list[str] | None:
    """The words of a line; ' and " quote, a backslash takes the next character as it is. None: a
    quote is open.
    """
    words: list[str] = []
    word, quote, escaped = None, "", False
    for character in line:
        if escaped:
            word, escaped = (word or "") + character, False
        elif character == "\\":
            escaped = True
        elif quote:
            if character == quote:
                quote = ""
            else:
                word = (word or "") + character
        elif character in "'\"":
            word, quote = word or "", character
        elif character.isspace():
            if word is not None:
                words.append(word)
            word = None
        else:
            word = (word or "") + character
    if word is not None:
        words.append(word)
    return None if quote or escaped else words


def options(words: list[str], switches: str, valued: str) -> dict[str, str] | None:
    """What getopt makes of them; None for anything that it does not know."""
    found: dict[str, str] = {}
    words = list(words)
    while words:
        word = words.pop(0)
        if len(word) == 2 and word[0] == "-" and word[1] in switches:
            found[word[1]] = ""
        elif len(word) == 2 and word[0] == "-" and word[1] in valued and words:
            found[word[1]] = words.pop(0)
        else:
            return None
    return found


def carry_out(words: list[str]) -> int:  # noqa: C901 - a case for each verb of `security`
    verb = words[0] if words else ""
    failures = json.loads(FAIL.read_text()) if FAIL.exists() else {}
    if verb in failures:
        print(f"security: {verb}: refused", file=sys.stderr)
        if verb == "delete-generic-password":
            print("password has been deleted.", file=sys.stderr)
        return int(failures[verb])
    items = json.loads(KEYCHAIN.read_text()) if KEYCHAIN.exists() else {}
    if verb == "add-generic-password":
        given = options(words[1:], "U", "saw")
        if given is None or not {"s", "a", "w"} <= set(given):
            return USAGE
        name = f"{given['s']}\n{given['a']}"
        if name in items and "U" not in given:
            return DUPLICATE
        items[name] = given["w"]
    elif verb == "find-generic-password":
        given = options(words[1:], "w", "sa")
        if given is None or set(given) != {"s", "a", "w"}:
            return USAGE
        secret = items.get(f"{given['s']}\n{given['a']}")
        if secret is None:
            print(
                "security: SecKeychainSearchCopyNext: The specified item could not be found in "
                "the keychain.",
                file=sys.stderr,
            )
            return ABSENT
        print(secret if secret.isascii() and secret.isprintable() else secret.encode().hex())
        return 0
    elif verb == "delete-generic-password":
        given = options(words[1:], "", "sa")
        if given is None or set(given) != {"s", "a"}:
            return USAGE
        absent = items.pop(f"{given['s']}\n{given['a']}", None) is None
        print("password has been deleted.", file=sys.stderr)  # even when it was not
        if absent:
            return ABSENT
    else:
        return USAGE
    KEYCHAIN.write_text(json.dumps(items))
    return 0


def interactive(text: str) -> int:
    """`security -i`: one command a line, an unended last line is dropped; the last command's exit
    code.
    """
    *lines, _ = text.split("\n")
    code = 0
    for line in lines:
        words = split(line)
        code = USAGE if words is None or len(line) > LONGEST else carry_out(words)
    return code


def main() -> int:
    while MUTE.exists():  # its window waits for an answer
        time.sleep(0.05)
    words = sys.argv[1:]
    text = sys.stdin.read() if words == ["-i"] else ""
    with CALLS.open("a") as calls:
        calls.write(json.dumps({"argv": words, "stdin": text}) + "\n")
    return interactive(text) if words == ["-i"] else carry_out(words)


if __name__ == "__main__":
    sys.exit(main())
