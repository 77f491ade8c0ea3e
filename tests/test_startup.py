"""What a start of ft imports: nothing costly that a command does not need."""

from __future__ import annotations

import re

import pytest
from conftest import PYPY, PYTHON, Runner

pytestmark = pytest.mark.both_forms

COSTLY = {
    "asyncio",
    "concurrent",
    "ctypes",
    "dataclasses",
    "email",
    "http",
    "inspect",
    "logging",
    "pathlib",
    "shutil",
    "socket",
    "ssl",
    "subprocess",
    "tempfile",
    "threading",
    "typing",
    "unittest",
    "urllib",
}


def imported(ft: Runner, *argv: str) -> set[str]:
    """The top-level names of the modules that a run imports."""
    if PYPY:
        pytest.skip("PyPy knows no importtime")
    program = [PYTHON, "-I", "-X", "importtime", str(ft.program)]
    result = ft.start(*argv, _program=program, check=0).finish()
    modules = re.findall(r"^import time:.*\| +([\w.]+)$", result.stderr, re.MULTILINE)
    assert "argparse" in modules
    return {module.partition(".")[0] for module in modules}


def of_the_interpreter(ft: Runner, code: str = "pass") -> set[str]:
    """What Python and its site import for a program that does only this."""
    program = [PYTHON, "-I", "-X", "importtime", "-c", code]
    result = ft.start(_program=program, check=0).finish()
    return {
        name.partition(".")[0] for name in re.findall(r"\| +([\w.]+)$", result.stderr, re.MULTILINE)
    }


@pytest.mark.parametrize(
    "argv",
    [["--version"], ["help"], ["help", "generate"], ["-h"], ["playlist", "add", "--help"]],
    ids=" ".join,
)
def test_version_and_help_import_nothing_costly(ft: Runner, argv: list[str]) -> None:
    assert (imported(ft, *argv) - of_the_interpreter(ft, "import argparse")) & COSTLY == set()


def test_the_version_of_either_form_imports_no_more_than_its_form_needs(ft: Runner) -> None:
    # Every zipapp needs importlib.util.
    new = imported(ft, "--version") - of_the_interpreter(ft, "import importlib.util")
    assert not new & {"urllib", "ssl", "subprocess", "ctypes", "dataclasses", "typing", "json"}


def test_a_request_with_a_key_at_hand_imports_nothing_of_the_keychains(ft: Runner) -> None:
    new = imported(ft, "me") - of_the_interpreter(ft)
    assert "urllib" in new
    assert not new & {"subprocess", "ctypes", "dataclasses", "getpass", "logging"}
