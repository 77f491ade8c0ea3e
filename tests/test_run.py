"""tests/run.py prepares a fresh machine, or says in one line why it cannot."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import build
import pytest
import run
from conftest import ROOT

WITHOUT = """\
import importlib.util
find_spec = importlib.util.find_spec
importlib.util.find_spec = lambda name: None if name == {module!r} else find_spec(name)
"""


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What run.py needs of a checkout."""
    (tmp_path / "tests").mkdir()
    for name in ("tests/run.py", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def start(
    checkout: Path, *arguments: str, python: str = sys.executable, path: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [python, str(checkout / "tests" / "run.py"), *arguments],
        cwd=checkout,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )


def test_it_installs_what_pyproject_lists() -> None:
    tomllib = pytest.importorskip("tomllib", reason="needs Python 3.11")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert run.read_requirements() == project["dependency-groups"]["dev"]


@pytest.mark.parametrize("version", ["3.6", "3.7"])
def test_an_old_python_is_refused_in_one_line(version: str, checkout: Path) -> None:
    named = re.compile(r"python" + re.escape(version) + r"(\.exe)?")
    for python in build.candidates():
        if named.fullmatch(os.path.basename(python)):
            result = start(checkout, python=python)
            if "command not found" not in result.stderr:  # the shim of a version manager
                break
    else:
        pytest.skip(f"needs Python {version}")
    message = f"error: the tests need Python 3.8 or newer; this is Python {version}\n"
    assert (result.returncode, result.stderr) == (1, message)


@pytest.mark.parametrize("module", ["venv", "ensurepip"])
def test_a_debian_without_venv_is_told_the_package(module: str, checkout: Path) -> None:
    modules = checkout / "modules"
    modules.mkdir()
    (modules / "sitecustomize.py").write_text(WITHOUT.format(module=module))
    result = start(checkout, path=str(modules))
    assert result.returncode == 1
    assert re.fullmatch(r"error: this Python cannot make virtual .*\n", result.stderr)
    if os.path.exists("/etc/debian_version"):
        assert "`apt-get install python3-venv`" in result.stderr
    assert not (checkout / ".venv").exists()


def test_a_failure_leaves_no_half_made_environment(checkout: Path) -> None:
    modules = checkout / "modules"
    modules.mkdir()
    (modules / "venv").mkdir()
    (modules / "venv" / "__init__.py").write_text("")
    (modules / "venv" / "__main__.py").write_text(
        "import os, sys\nos.makedirs(os.path.join(sys.argv[-1], 'bin'))\nsys.exit('disk full')\n"
    )
    result = start(checkout, path=str(modules))
    assert result.returncode == 1
    assert result.stderr.splitlines()[-2] == "disk full"
    assert result.stderr.splitlines()[-1].startswith("error: cannot make ")
    assert not (checkout / ".venv").exists()


def test_an_environment_of_somebody_else_is_left_alone(checkout: Path) -> None:
    (checkout / ".venv").mkdir()
    (checkout / ".venv" / "pyvenv.cfg").write_text("version = 2.7.18\n")
    result = start(checkout)
    assert result.returncode == 1
    assert re.fullmatch(r"error: .* is not for Python .*; delete it and try again\n", result.stderr)
    assert (checkout / ".venv" / "pyvenv.cfg").exists()


def test_a_ready_environment_is_not_installed_again(checkout: Path) -> None:
    """pytest runs with the arguments as they are, and gives its exit code."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", ".venv"], cwd=checkout)
    (checkout / ".venv" / "ready").write_text("\n".join(run.read_requirements()), encoding="utf-8")
    (checkout / "pytest.py").write_text("import sys\nprint(sys.argv[1:])\nsys.exit(5)\n")
    assert start(checkout, "--setup").stderr == ""
    result = start(checkout, "-q", "--maxfail=1")
    assert (result.returncode, result.stdout) == (5, "['-q', '--maxfail=1']\n")
