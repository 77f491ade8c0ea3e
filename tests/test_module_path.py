"""From its first line on, ft imports modules of Python's own library and no others: its environment
contains the key.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
from conftest import PYTHON, ROOT, Runner, Tls
from sandbox import Sandbox

pytestmark = pytest.mark.both_forms

LIST_MODULES = """
import sys
loaded = {name.partition(".")[0] for name in sys.modules}
import pkgutil
found = {module.name for module in pkgutil.iter_modules()} - loaded
print(*(name for name in found if name.isidentifier()))
"""
HOSTILE = """
import sys
with open({marker!r}, "a") as file:
    file.write(__name__ + "\\n")
raise SystemExit("foreign code")
"""


class Hostile:
    """A directory with a hostile stand-in for each module that Python has not loaded by itself."""

    def __init__(self, directory: Path, form: str, *flags: str) -> None:
        self.directory = directory
        self.marker = directory.parent / "foreign-code-ran"
        directory.mkdir()
        script = directory.parent / "list-modules"
        if form == "ft.pyz":
            with zipfile.ZipFile(script, "w", zipfile.ZIP_DEFLATED) as archive:
                archive.writestr("__main__.py", LIST_MODULES)
        else:
            script.write_text(LIST_MODULES)
        listed = subprocess.run(
            [PYTHON, *flags, str(script)], capture_output=True, text=True, check=True
        )
        # Python imports the first two by itself. A third one would be in place of what is tested.
        spared = {"sitecustomize", "usercustomize", "ft"}
        if form == "ft.py":
            # It can do nothing before its first statement, the one about annotations.
            spared.add("__future__")
        for name in set(listed.stdout.split()) - spared:
            text = HOSTILE.format(marker=str(self.marker))
            (directory / f"{name}.py").write_text(text)
        assert (directory / "json.py").exists() and (directory / "lzma.py").exists()

    def assert_silent(self) -> None:
        assert not self.marker.exists(), self.marker.read_text()


@pytest.fixture
def hostile(tmp_path: Path, form: str) -> Hostile:
    return Hostile(tmp_path / "hostile", form)


def run_commands(ft: Runner, tls: Tls, *program: str, **how: Any) -> None:
    """Run commands that import nearly everything that ft ever imports."""
    track = str(ft.sandbox.add_generation()["id"])
    for argv in (
        ["doctor"],
        ["download", track, "-o", str(ft.home / "song.mp3")],
        ["auth", "login", "--api-key", ft.sandbox.key],
        ["completion", "bash"],
    ):
        ft.start(*argv, _program=program, check=0, **how).finish()
    with Sandbox(seconds=0.05, tls=tls.context) as secure:
        url = secure.api_url.replace("127.0.0.1", "localhost")
        env = {**(how.pop("env", None) or {}), "SSL_CERT_FILE": str(tls.ca_file)}
        argv = ["me", "--base-url", url, "--api-key", secure.key]
        ft.start(*argv, _program=program, check=0, env=env, **how).finish()


@pytest.mark.skipif(sys.platform != "linux", reason="stores a key")
@pytest.mark.parametrize("python_path", [":/opt/lib", ".", "/:../hostile/", "{}"])
def test_pythonpath_and_the_working_directory_are_not_searched(
    ft: Runner, hostile: Hostile, tls: Tls, python_path: str
) -> None:
    env = {"PYTHONPATH": python_path.format(hostile.directory)}
    run_commands(ft, tls, *ft.argv, cwd=hostile.directory, env=env)
    hostile.assert_silent()


@pytest.mark.skipif(sys.platform != "linux", reason="stores a key")
def test_nor_are_they_without_site(ft: Runner, tls: Tls, tmp_path: Path, form: str) -> None:
    """There, not even `os` has been imported, and sys.path is as PYTHONPATH has it."""
    hostile = Hostile(tmp_path / "hostile", form, "-S")
    run_commands(
        ft, tls, *[PYTHON, "-S", str(ft.program)], cwd=hostile.directory, env={"PYTHONPATH": ":"}
    )
    hostile.assert_silent()


@pytest.mark.skipif(sys.platform != "linux", reason="stores a key")
def test_nor_is_the_directory_of_the_script(ft: Runner, hostile: Hostile, tls: Tls) -> None:
    program = hostile.directory / ft.program.name
    shutil.copy(ft.program, program)
    run_commands(ft, tls, PYTHON, str(program))
    program.rename(hostile.directory / "ft")  # as a command on PATH
    run_commands(ft, tls, PYTHON, str(hostile.directory / "ft"))
    hostile.assert_silent()


@pytest.mark.skipif(sys.platform != "linux", reason="the layout of a virtual environment")
def test_an_installed_ft_does_not_search_them_either(ft: Runner, tls: Tls, tmp_path: Path) -> None:
    hostile = Hostile(tmp_path / "hostile", "ft.py")
    environment = tmp_path / "venv"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/*/site-packages")
    shutil.copy(ROOT / "ft.py", packages)
    script = environment / "bin" / "ft"
    script.write_text("import sys\nfrom ft import main\nsys.exit(main())\n")
    python = str(environment / "bin" / "python")
    run_commands(
        ft, tls, python, str(script), cwd=hostile.directory, env={"PYTHONPATH": ":/opt/lib"}
    )
    hostile.assert_silent()
    code = "import sys, ft; print('\\n'.join(sys.path))"
    result = ft.start("-c", code, _program=[python], env={"PYTHONPATH": ":/opt/lib"}).finish()
    entries = result.stdout.splitlines()
    assert str(packages) in entries
    assert not {"", str(ft.cwd), "/opt/lib"}.intersection(entries)


def test_pythonpath_may_repeat_the_librarys_own_directories(ft: Runner, tls: Tls) -> None:
    library = subprocess.run(
        [PYTHON, "-c", "import os; print(os.path.dirname(os.__file__))"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout.strip()
    paths = [library, os.path.join(library, "lib-dynload"), ""]
    with Sandbox(seconds=0.05, tls=tls.context) as secure:
        url = secure.api_url.replace("127.0.0.1", "localhost")
        env = {"PYTHONPATH": os.pathsep.join(paths), "SSL_CERT_FILE": str(tls.ca_file)}
        for flags in ([], ["-S"], ["-I"]):
            program = [PYTHON, *flags, str(ft.program)]
            argv = ["me", "--base-url", url, "--api-key", secure.key]
            ft.start(*argv, _program=program, env=env, check=0).finish()
