"""`ft help --man`: the man page, from the same declarations as the help."""

from __future__ import annotations

import re
import shutil
import time

import pytest
from conftest import Process, Runner

SECTIONS = [
    "NAME",
    "SYNOPSIS",
    "COMMANDS",
    "GLOBAL FLAGS",
    "EXIT STATUS",
    "ENVIRONMENT",
    "FILES",
    "FILES OF PROMPTS",
    "EXAMPLES",
]


def page(ft: Runner, **env: str) -> str:
    result = ft("help", "--man", check=0, key=None, env=env)
    assert result.stderr == ""
    return str(result.stdout)


def mandoc(ft: Runner, roff: str, output: str) -> str:
    program = shutil.which("mandoc") or "mandoc"
    env = {"LC_ALL": "C.UTF-8"}
    return str(
        Process([program, *output.split()], env=env, cwd=ft.cwd, stdin=roff, check=0)
        .finish()
        .stdout
    )


def plain(ft: Runner, roff: str) -> str:
    """What a reader sees, on one line, without bold (each character typed twice) and underlined
    ones.
    """
    return " ".join(re.sub(".\b", "", mandoc(ft, roff, "-T utf8 -O width=200")).split())


@pytest.mark.needs("mandoc")
def test_mandoc_finds_nothing_to_complain_about(ft: Runner) -> None:
    roff = page(ft)
    assert mandoc(ft, roff, "-T lint -W all") == ""
    assert re.findall(r"^\.SH (.*)", roff, re.MULTILINE) == SECTIONS


@pytest.mark.needs("mandoc")
def test_every_command_with_its_flags_and_its_example_is_in_it(ft: Runner) -> None:
    sections = plain(ft, page(ft)).split(" [flags] ")
    for line in re.findall(r"^  ([a-z]+ .*?)  ", ft("help", check=0).stdout, re.MULTILINE):
        usage = f"ft {line.strip()}"
        found = [i for i, section in enumerate(sections) if section.endswith(f" {usage}")]
        assert len(found) == 1, usage
        text = sections[found[0] + 1]
        command = [word for word in line.split() if word.isalpha()]
        own = ft("help", *command, check=0).stdout.partition("global flags")
        for flag in re.findall(r"^  (-.*?)  ", own[0], re.MULTILINE):
            assert f" {flag} " in f" {text}", usage
        example = own[2].partition("example:\n")[2]
        assert " ".join(example.split()) in text.replace(" \\ ", " "), usage


@pytest.mark.needs("mandoc")
def test_exit_codes_variables_and_files_are_in_it(ft: Runner) -> None:
    text = plain(ft, page(ft))
    for words in (
        "-v, --verbose log HTTP requests",
        "--api-key <key> use this",
        " 0 success",
        " 1 an API error",
        " 2 a bad flag",
        " 3 no usable answer",
        "128 + N",
        " 141 ",
        "FINETUNING_API_KEY",
        "FINETUNING_CONFIG_HOME",
        "NO_COLOR",
        "HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE",
        "FT_RELEASE_URL where ft update finds releases (default: https://finetuning.ai/cli)",
        "~/.config/finetuning/config.json",
        "~/.config/finetuning/credentials",
        "%APPDATA%\\finetuning",
        "~/Library/Application Support/finetuning",
        "baseUrl, defaultDuration and defaultBpm",
        "-h, --help show this help",
        "--version print the version",
        "C, C#, D, D#",
        "show one generation's detail",
    ):
        assert words.lower() in text.lower(), words


def test_its_date_is_today_or_what_a_reproducible_build_says(ft: Runner) -> None:
    title = page(ft, SOURCE_DATE_EPOCH="86400").splitlines()[0]
    assert re.fullmatch(r'\.TH FT 1 1970-01-02 "ft \d+\.\d+\.\d+" "User Commands"', title)
    for nothing in ({}, {"SOURCE_DATE_EPOCH": ""}, {"SOURCE_DATE_EPOCH": "yesterday"}):
        before = time.strftime("%Y-%m-%d", time.gmtime())
        assert page(ft, **nothing).split()[3] in (before, time.strftime("%Y-%m-%d", time.gmtime()))
