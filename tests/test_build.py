"""ft.pyz, the wheel and the release directory are what they promise, whoever builds them where and
when.
"""

from __future__ import annotations

import functools
import hashlib
import io
import os
import shlex
import shutil
import signal
import stat
import struct
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import Any, Iterator

import build
import pytest
from conftest import FAST_CLOCK, PYPY, PYTHON, ROOT, WINDOWS, Process, Result

SOURCE = ROOT / "ft.py"
OLD = """
import sys
sys.exit(sys.version_info >= (3, 8))
"""
# A module that tells which file it was loaded from.
STUB = """
import sys

__version__ = "1.2.3"


def main():
    print(__file__)
    return 0
"""


def run(
    *argv: str | Path, cwd: Path, timeout: float = 60, check: int | None = None, **env: str
) -> Result:
    """Run a program in an environment of PATH and `env` only."""
    command = [str(word) for word in argv]
    clean = {
        name: os.environ[name] for name in ("PATH", "SYSTEMROOT", "TEMP") if name in os.environ
    }
    return Process(command, env={**clean, **env}, cwd=cwd, check=check).finish(timeout)


@functools.lru_cache(maxsize=None)
def found() -> dict[str, str]:
    """The CPythons that ft.pyz is built for, the one under test first: {magic number: path}."""
    pythons = build.pythons([PYTHON, *build.candidates()])
    return {magic: path for magic, (name, path) in pythons.items() if name == "cpython"}


def old_pythons() -> Iterator[str]:
    """Pythons that are too old for ft, where the machine has any."""
    versions = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv"), "versions")
    for path in [
        "python2",
        "python2.7",
        "python3.6",
        "python3.7",
        *map(str, versions.glob("*/bin/python")),
    ]:
        try:
            if (
                subprocess.run([path, "-c", OLD], stderr=subprocess.DEVNULL, check=False).returncode
                == 0
            ):
                yield path
        except OSError:
            pass


@pytest.fixture(scope="module")
def pyz(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """ft.pyz with the bytecode of every Python found, in a directory with a difficult name."""
    path = tmp_path_factory.mktemp("a b'c") / "ft.pyz"
    build.pyz(path, found().values())
    return path


@pytest.fixture
def stub(tmp_path: Path) -> Path:
    path = tmp_path / "source" / "ft.py"
    path.parent.mkdir()
    path.write_text(STUB)
    return path


# --- the archive ----------------------------------------------------------------------------------


def test_two_builds_in_different_places_and_times_are_the_same_bytes(
    pyz: Path, tmp_path: Path
) -> None:
    checkout = tmp_path / "the other ö"
    tools = checkout / "tests" / "tools"
    tools.mkdir(parents=True)
    shutil.copy(ROOT / "tests" / "tools" / "build.py", tools)
    (checkout / "ft.py").write_bytes(SOURCE.read_bytes())
    os.utime(checkout / "ft.py", (1e9, 1e9))
    before = os.umask(0o077)
    try:
        run(
            *[sys.executable, str(tools / "build.py"), "pyz", "ft.pyz"],
            *[word for path in found().values() for word in ("--python", path)],
            cwd=checkout,
            check=0,
            PATH="",  # it looks for no more Pythons
            TZ="Asia/Tokyo",
            PYTHONHASHSEED="1",
            PYTHONPATH=str(FAST_CLOCK),
            FT_TEST_SPEED=str(1e8),  # it is built years later
        )
    finally:
        os.umask(before)
    assert pyz.read_bytes() == (checkout / "ft.pyz").read_bytes()
    if not WINDOWS:
        assert {stat.S_IMODE(p.stat().st_mode) for p in (pyz, checkout / "ft.pyz")} == {0o755}


def test_the_librarys_own_bytecode_is_not_read(tmp_path: Path) -> None:
    """Strings are interned or not by what loaded them before, and that shows in the bytecode of
    3.11 and 3.12.
    """
    for python in found().values():
        told = build.run(
            python, "import sys, encodings; print(sys.dont_write_bytecode, encodings.__cached__)"
        ).split()
        assert told[0] == "True"
        assert not os.path.exists(told[1])


def test_it_holds_the_source_and_the_bytecode_of_each_python(pyz: Path) -> None:
    assert pyz.read_bytes().startswith(b"#!/usr/bin/env python3\nPK")
    with zipfile.ZipFile(pyz) as archive:
        assert archive.testzip() is None
        bytecodes = [f"bytecode/{magic}" for magic in sorted(found())]
        assert archive.namelist() == ["__main__.py", *bytecodes, "ft.py"]
        assert {member.date_time for member in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.read("ft.py") == SOURCE.read_bytes()


def test_each_bytecode_is_what_its_python_makes_of_the_source(pyz: Path, tmp_path: Path) -> None:
    compare = """if True:
        import marshal, sys

        source, bytecode = (open(path, "rb").read() for path in sys.argv[1:])
        compiled = compile(source, "ft.py", "exec", dont_inherit=True, optimize=2)
        assert marshal.loads(bytecode) == compiled
    """
    with zipfile.ZipFile(pyz) as archive:
        archive.extractall(tmp_path)
    for magic, python in found().items():
        arguments = ("-I", "-X", "no_debug_ranges", "-c", compare, "ft.py", f"bytecode/{magic}")
        run(python, *arguments, cwd=tmp_path, check=0)


def test_it_is_small(pyz: Path, tmp_path: Path) -> None:
    build.pyz(tmp_path / "ft.pyz", [])
    assert (tmp_path / "ft.pyz").stat().st_size <= 128 * 1024
    if len(found()) <= 6:
        assert pyz.stat().st_size <= 1024 * 1024


def test_a_failed_build_leaves_the_old_file(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("def main(:")
    target = tmp_path / "out" / "ft.pyz"
    build.write(target, b"old")
    with pytest.raises(subprocess.CalledProcessError):
        build.pyz(target, found().values(), broken)
    assert os.listdir(target.parent) == ["ft.pyz"]
    assert target.read_bytes() == b"old"


# --- running it -----------------------------------------------------------------------------------


def test_it_runs_with_each_python(pyz: Path, tmp_path: Path) -> None:
    for python in {PYTHON, *found().values()}:
        result = run(python, pyz, "--version", cwd=tmp_path, check=0)
        assert (result.stdout, result.stderr) == (f"ft {build.version()}\n", "")


@pytest.mark.skipif(sys.platform != "linux", reason="ulimit -v")
def test_it_starts_with_little_memory(pyz: Path, tmp_path: Path) -> None:
    """Check that a Python which can start at all runs ft, too."""
    for python in found().values():
        for limit in range(20_000, 200_000, 5_000):
            command = ["sh", "-c", f'ulimit -v {limit} && exec "$@"', "sh", python, "-I"]
            if run(*command, "-c", "import argparse, runpy, zlib", cwd=tmp_path).code == 0:
                break
        command[2] = command[2].replace(str(limit), str(limit + 15_000))
        run(*command, pyz, "--version", cwd=tmp_path, check=0)


@pytest.mark.skipif(WINDOWS, reason="a shebang")
@pytest.mark.parametrize("how", ["{0}", "./ft.pyz", "../{1}/ft.pyz"])
def test_it_runs_as_a_command_where_only_python3_is_reachable(
    how: str, pyz: Path, tmp_path: Path
) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python3").write_text(f'#!/bin/sh\nexec {shlex.quote(PYTHON)} "$@"\n')
    (tmp_path / "bin" / "python3").chmod(0o755)
    command = how.format(pyz, pyz.parent.name)
    result = run(command, "--version", cwd=pyz.parent, check=0, PATH=str(tmp_path / "bin"))
    assert (result.stdout, result.stderr) == (f"ft {build.version()}\n", "")


def test_each_python_loads_its_own_bytecode_and_no_other(stub: Path, tmp_path: Path) -> None:
    paths = list(found().values())
    for path in paths:
        build.pyz(tmp_path / "ft.pyz", [path], stub)
        loaded = {
            p: run(p, "ft.pyz", cwd=tmp_path, check=0).stdout.replace("\\", "/")
            for p in {PYTHON, *paths}
        }
        compiled = [python for python, file in loaded.items() if file.endswith(".pyc\n")]
        assert compiled == [path]
        assert all(
            file.endswith("ft.pyz/ft.py\n") for python, file in loaded.items() if python != path
        )


def test_a_python_without_bytecode_compiles_the_source(stub: Path, tmp_path: Path) -> None:
    build.pyz(tmp_path / "ft.pyz", [], stub)
    result = run(PYTHON, "ft.pyz", cwd=tmp_path, check=0)
    assert result.stdout.replace("\\", "/").endswith("ft.pyz/ft.py\n")


@pytest.mark.skipif(PYPY, reason="PyPy has no bytecode in ft.pyz")
def test_damaged_bytecode_is_never_run(stub: Path, tmp_path: Path) -> None:
    """zipimport verifies nothing: of 150 flipped bits, 64 loaded in silence and 4 crashed."""
    build.pyz(tmp_path / "ft.pyz", [PYTHON], stub)
    whole = (tmp_path / "ft.pyz").read_bytes()
    with zipfile.ZipFile(tmp_path / "ft.pyz") as archive:
        (member,) = (m for m in archive.infolist() if m.filename.startswith("bytecode/"))
    start = member.header_offset + 30 + len(member.filename)
    for place in range(start, start + member.compress_size, max(1, member.compress_size // 15)):
        damaged = bytearray(whole)
        damaged[place] ^= 0x10
        (tmp_path / "ft.pyz").write_bytes(damaged)
        result = run(PYTHON, "ft.pyz", cwd=tmp_path, check=0)
        assert result.stdout.replace("\\", "/").endswith("ft.pyz/ft.py\n"), place


def test_a_module_in_the_working_directory_is_not_imported(pyz: Path, tmp_path: Path) -> None:
    for name in ("ft.py", "json.py", "argparse.py"):
        (tmp_path / name).write_text("raise SystemExit('foreign code')")
    run(PYTHON, pyz, "--version", cwd=tmp_path, check=0)


def test_a_run_writes_nothing(pyz: Path, tmp_path: Path) -> None:
    home, folder = tmp_path / "home", tmp_path / "ft"
    home.mkdir()
    folder.mkdir()
    build.pyz(folder / "ft.pyz", [])  # compiled at each run
    shutil.copy(pyz, folder / "six.pyz")
    before = sorted(tmp_path.rglob("*"))
    for name in ("ft.pyz", "six.pyz"):
        run(PYTHON, folder / name, "help", cwd=home, check=0, HOME=str(home), TMPDIR=str(home))
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.needs("strace")
@pytest.mark.skipif(sys.platform != "linux", reason="strace")
def test_a_run_opens_no_file_for_writing(pyz: Path, tmp_path: Path) -> None:
    trace = [
        "strace",
        "-f",
        "-o",
        "trace",
        "-e",
        "trace=open,openat,creat,mkdir,mkdirat,rename,renameat",
    ]
    run(*trace, PYTHON, pyz, "help", cwd=tmp_path, check=0)
    calls = (tmp_path / "trace").read_text().splitlines()
    assert any(str(pyz) in call for call in calls)
    assert [call for call in calls if "O_RDONLY" not in call and "open" in call] == []
    assert [call for call in calls if "mkdir" in call or "rename" in call] == []


def test_an_old_python_says_so_in_one_line(pyz: Path, tmp_path: Path) -> None:
    pythons = list(old_pythons())
    if not pythons:
        pytest.skip("no Python older than 3.8 here")
    for path in pythons:
        result = run(path, pyz, "list", cwd=tmp_path, check=2)
        assert result.stdout == ""
        assert result.stderr.startswith("error: ft needs Python 3.8 or newer; this is Python ")
        assert result.stderr.count("\n") == 1


@pytest.mark.skipif(WINDOWS, reason="POSIX signals")
def test_ctrl_c_while_importing_ends_in_silence(stub: Path, tmp_path: Path) -> None:
    stub.write_text(
        "import sys, time\nprint('importing', file=sys.stderr, flush=True)\ntime.sleep(60)\n"
    )
    build.pyz(tmp_path / "ft.pyz", [PYTHON], stub)
    process = Process([PYTHON, "ft.pyz"], env={}, cwd=tmp_path, check=130)
    process.expect("importing")
    process.send_signal(signal.SIGINT)
    result = process.finish()
    assert (result.stdout, result.stderr) == ("", "importing\n")


# --- the release and the wheel --------------------------------------------------------------------


def test_the_release_directory_serves_this_version_and_keeps_the_others(tmp_path: Path) -> None:
    (tmp_path / "0.0.1").mkdir()
    (tmp_path / "0.0.1" / "ft.pyz").write_bytes(b"old")
    before = os.umask(0o077)
    try:
        build.dist(tmp_path, [PYTHON])
    finally:
        os.umask(before)
    version = build.version()
    if not WINDOWS:  # a web server may read it
        assert {
            stat.S_IMODE(path.stat().st_mode) & 0o055 for path in (tmp_path, tmp_path / version)
        } == {0o055}
    covered = ["LICENSE.launcher.txt", "ft.exe", "ft.pyz", "install.ps1", "install.sh"]
    names = sorted(["SHA256SUMS", "VERSION", *covered])
    assert sorted(os.listdir(tmp_path)) == sorted([*names, "0.0.1", version])
    assert sorted(os.listdir(tmp_path / version)) == names
    assert os.listdir(tmp_path / "0.0.1") == ["ft.pyz"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (tmp_path / version / name).read_bytes()
    assert (tmp_path / "VERSION").read_text() == f"{version}\n"
    sums = [
        f"{hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()}  {name}" for name in covered
    ]
    assert (tmp_path / "SHA256SUMS").read_text().splitlines() == sums


def test_the_program_for_windows_is_the_launcher_a_line_and_the_archive(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build.dist(tmp_path / name, [PYTHON])
    data = (tmp_path / "one" / "ft.exe").read_bytes()
    assert data == (tmp_path / "two" / "ft.exe").read_bytes()
    launcher, _, rest = data.partition(build.EXE_SHEBANG)
    assert hashlib.sha256(launcher).hexdigest() == build.LAUNCHER_SHA256
    # By a path, because Windows would look for a bare name in the current directory.
    assert build.EXE_SHEBANG == b"#!C:\\Windows\\py.exe -3\r\n"
    # The launcher counts back from the central directory to the line.
    directory_size, directory_offset = struct.unpack("<LL", rest[-10:-2])
    assert directory_offset + directory_size == len(rest) - 22
    with zipfile.ZipFile(tmp_path / "one" / "ft.pyz") as pyz, zipfile.ZipFile(
        io.BytesIO(rest)
    ) as archive:
        assert [(name, archive.read(name)) for name in archive.namelist()] == [
            (name, pyz.read(name)) for name in pyz.namelist()
        ]
    licence = (tmp_path / "one" / "LICENSE.launcher.txt").read_text(encoding="utf-8")
    assert "PYTHON SOFTWARE FOUNDATION LICENSE" in licence


def test_another_launcher_is_never_built_into_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(build, "LAUNCHER_SHA256", "0" * 64)
    with pytest.raises(SystemExit, match=r"not the launcher that build\.py knows"):
        build.dist(tmp_path / "dist", [PYTHON])
    assert not (tmp_path / "dist").exists()


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("wheel")
    code = "import sys; from flit_core import buildapi; print(buildapi.build_wheel(sys.argv[1]))"
    name = run(sys.executable, "-c", code, directory, cwd=ROOT, check=0).stdout.strip()
    return Path(directory, name)


def test_the_wheel_holds_the_module_and_nothing_else(wheel: Path) -> None:
    version = build.version()
    assert wheel.name == f"finetuning_ft-{version}-py3-none-any.whl"
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        assert [name for name in names if ".dist-info/" not in name] == ["ft.py"]
        metadata = archive.read(f"finetuning_ft-{version}.dist-info/METADATA").decode()
        assert archive.read(f"finetuning_ft-{version}.dist-info/entry_points.txt").split() == [
            b"[console_scripts]",
            b"ft=ft:main",
        ]
    assert "Requires-Python: >=3.8\n" in metadata
    assert "Requires-Dist" not in metadata


def test_pip_installs_it_as_a_command_and_as_a_module(wheel: Path, tmp_path: Path) -> None:
    scripts = tmp_path / "venv" / ("Scripts" if WINDOWS else "bin")
    run(sys.executable, "-m", "venv", "--without-pip", "venv", cwd=tmp_path, check=0)
    pip: list[Any] = [scripts / "python", "-m", "pip", "install", "--no-index", "--no-deps", wheel]
    lent = sysconfig.get_path("purelib")  # the pip there, as one of its own takes long to install
    run(*pip, cwd=tmp_path, check=0, PYTHONPATH=lent)
    for command in ([scripts / "ft"], [scripts / "python", "-m", "ft"]):
        result = run(*command, "--version", cwd=tmp_path, check=0)
        assert (result.stdout, result.stderr) == (f"ft {build.version()}\n", "")
