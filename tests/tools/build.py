"""Builds ft.pyz, the one file that runs on any Python from 3.8 up, ft.exe, and the directory of a
release.

    python3 tests/tools/build.py pyz OUT [--python PATH]...
        ft.pyz, with bytecode for each Python found or named
    python3 tests/tools/build.py dist DIRECTORY [--python PATH]...
        what a static web server serves as the release address
    python3 tests/tools/build.py pythons
        the Pythons found, one a line

The archive contains ft.py and, for each CPython at hand, its bytecode, in a member named after the
magic number of that Python's bytecode. `__main__.py` runs it if its checksum is right. A Python
without bytecode compiles ft.py, no Python can load another's bytecode, and nothing is written to
the user's disk. Only the sources, the Pythons and the zlib at hand decide what bytes come out.

ft.exe is for Windows: the launcher that pip, pipx and uv put before a command, a line that names a
Python, and the archive of ft.pyz. The launcher comes from the installed package `distlib`.
install.ps1 replaces the line with one that names the Python of the machine.

Six bytecodes take 0.8 MB. Packed into one xz they took half of that, but each start had to
unpack those of all newer Pythons first, which took as long as starting Python.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import importlib.metadata
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path
from typing import Iterable, Mapping

ROOT = Path(__file__).resolve().parent.parent.parent
INSTALLERS = ["install.sh", "install.ps1"]
LAUNCHER = "distlib/t64.exe"
LAUNCHER_SHA256 = "81a618f21cb87db9076134e70388b6e9cb7c2106739011b6a51772d22cae06b7"
# Where Python's own installer puts its launcher. A path, because Windows looks for a bare name in
# the current directory, too.
EXE_SHEBANG = b"#!C:\\Windows\\py.exe -3\r\n"
NO_CACHE = os.path.join(os.devnull, "none")  # a directory that cannot be
PYTHON = re.compile(r"(python|pypy)3(\.\d+)?(\.exe)?")

# Runs on every Python that somebody may have, 2.7 included, and is parsed by it before anything
# else. A Ctrl-C within
# main() never gets here.
MAIN = """\
import sys

if sys.version_info < (3, 8):
    found = (sys.version.split()[0], sys.executable)
    sys.stderr.write("error: ft needs Python 3.8 or newer; this is Python %s (%s)\\n" % found)
    sys.exit(2)

try:
    import ft

    sys.exit(ft.main())
except KeyboardInterrupt:
    sys.exit(130)
"""
# How ft.py begins, and therefore ft.pyz, before either imports anything.
GUARD = re.compile(r"^def (restrict_module_path\(\)) -> None(:\n(?:(?: .*)?\n)+)", re.MULTILINE)
# Comes before its `import ft`, which then finds what this made. zipimport verifies no checksum, and
# bytecode with a flipped bit can do anything.
LOADER = """\
    CHECKSUMS = {}

    try:
        import gc
        from importlib.util import MAGIC_NUMBER
        from marshal import loads
        from zlib import crc32

        magic = MAGIC_NUMBER.hex()
        bytecode = __loader__.get_data("bytecode/" + magic)
        if crc32(bytecode) != CHECKSUMS[magic]:
            raise ValueError
    except Exception:  # there is none, or it is damaged
        pass
    else:
        ft = sys.modules["ft"] = type(sys)("ft")
        ft.__file__, ft.__loader__ = sys.path[0] + "/ft.pyc", __loader__
        gc.disable()  # none of this is garbage; looking for some takes a tenth of the start
        exec(loads(bytecode), ft.__dict__)
        gc.freeze()
        gc.enable()

"""

DESCRIBE = """\
import sys, importlib.util
if sys.version_info >= (3, 8):
    print("%s %s %s" % (importlib.util.MAGIC_NUMBER.hex(), sys.implementation.name, sys.executable))
"""

COMPILE = """\
import sys, marshal
source, target = sys.argv[1:]
code = compile(open(source, "rb").read(), "ft.pyz/ft.py", "exec", dont_inherit=True, optimize=2)
open(target, "wb").write(marshal.dumps(code))
"""


def run(python: str, *arguments: str, stderr: int | None = None) -> str:
    """What a Python prints, without what differs from machine to machine and shows in bytecode:
    site-packages, the seed of hashes, the library's own bytecode (whose strings are interned or
    not).

    `no_debug_ranges`, known from 3.11 on, spares each bytecode the quarter that only underlines
    tracebacks.
    """
    env = {
        name: os.environ[name]
        for name in ("PATH", "SYSTEMROOT", "PYENV_ROOT")
        if name in os.environ
    }
    command = [
        python,
        "-s",
        "-S",
        "-B",
        "-X",
        "no_debug_ranges",
        "-X",
        f"pycache_prefix={NO_CACHE}",
        "-c",
        *arguments,
    ]
    env["PYTHONHASHSEED"] = "0"
    return subprocess.run(
        command, env=env, stdout=subprocess.PIPE, stderr=stderr, check=True, text=True
    ).stdout


def candidates() -> list[str]:
    """What may be a Python: this one, those on PATH, and pyenv's."""
    folders = os.get_exec_path() + glob.glob(
        os.path.join(
            os.environ.get("PYENV_ROOT", os.path.expanduser("~/.pyenv")), "versions", "*", "bin"
        )
    )
    found = [sys.executable]
    for folder in folders:
        if os.path.isdir(folder):
            names = sorted(os.listdir(folder))
            found += [os.path.join(folder, name) for name in names if PYTHON.fullmatch(name)]
    return found


def pythons(paths: Iterable[str]) -> dict[str, tuple[str, str]]:
    """The first Python among `paths` for each kind of bytecode: {magic number: (implementation,
    path)}.
    """
    found: dict[str, tuple[str, str]] = {}
    for path in paths:
        try:
            words = run(path, DESCRIBE, stderr=subprocess.DEVNULL).split(None, 2)
        except (
            OSError,
            subprocess.CalledProcessError,
        ):  # a version manager's shim for one that is not there
            continue
        if words:
            found.setdefault(words[0], (words[1], words[2].strip()))
    return found


def bytecode(python: str, source: Path) -> bytes:
    """What `python -OO` makes of the source, without docstrings and so a tenth smaller,
    marshalled.
    """
    with tempfile.TemporaryDirectory() as directory:
        target = os.path.join(directory, "ft.marshal")
        run(python, COMPILE, str(source), target)
        return Path(target).read_bytes()


def main_module(source: str, bytecodes: Mapping[str, bytes]) -> str:
    """Return `__main__.py`, which first of all does what the source does to sys.path."""
    text = MAIN
    guard = GUARD.search(source)
    if guard:  # a test's source has none
        text = text.replace("try:\n", f"\ndef {guard[1]}{guard[2]}try:\n    {guard[1]}\n\n", 1)
    if bytecodes:
        checksums = {magic: zlib.crc32(data) for magic, data in bytecodes.items()}
        loader = LOADER.replace("{}", str(checksums))
        text = text.replace("    import ft\n", loader + "    import ft\n")
    return text


def members(paths: Iterable[str], source: Path) -> dict[str, bytes]:
    """The files in ft.pyz, with the bytecode of those `paths` that are CPythons from 3.8 up."""
    bytecodes = {
        magic: bytecode(path, source)
        for magic, (name, path) in sorted(pythons(paths).items())
        if name == "cpython"
    }
    content = source.read_bytes()
    found = {"__main__.py": main_module(content.decode(), bytecodes).encode(), "ft.py": content}
    found.update({f"bytecode/{magic}": data for magic, data in bytecodes.items()})
    return found


def archive(files: Mapping[str, bytes], shebang: bytes = b"") -> bytes:
    """A zip archive of these files. Its offsets count from the start of the shebang."""
    buffer = io.BytesIO(shebang)
    buffer.seek(0, io.SEEK_END)
    with zipfile.ZipFile(buffer, "a", zipfile.ZIP_DEFLATED, compresslevel=9) as zipped:
        for name, data in sorted(files.items()):
            member = zipfile.ZipInfo(name)  # dated 1980, the same everywhere
            member.compress_type = zipfile.ZIP_DEFLATED
            member.create_system = 3
            member.external_attr = 0o100644 << 16
            zipped.writestr(member, data)
    return buffer.getvalue()


def zipapp(files: Mapping[str, bytes]) -> bytes:
    """The bytes of ft.pyz."""
    return archive(files, b"#!/usr/bin/env python3\n")


def launcher() -> tuple[bytes, bytes]:
    """The launcher from the installed distlib, and its licence. SystemExit if it is another."""
    try:
        package = importlib.metadata.distribution("distlib")
    except importlib.metadata.PackageNotFoundError:
        raise SystemExit("error: ft.exe needs the package distlib: run `make dist`") from None
    data = Path(str(package.locate_file(LAUNCHER))).read_bytes()
    if hashlib.sha256(data).hexdigest() != LAUNCHER_SHA256:
        raise SystemExit(f"error: {LAUNCHER} is not the launcher that build.py knows")
    licences = [path for path in package.files or () if path.name == "LICENSE.txt"]
    return data, Path(str(licences[0].locate())).read_bytes()


def windows_program(stub: bytes, files: Mapping[str, bytes]) -> bytes:
    """The bytes of ft.exe. Its launcher finds the shebang right before what the archive counts."""
    return stub + EXE_SHEBANG + archive(files)


def write(path: Path, data: bytes, mode: int = 0o644) -> None:
    """Write a whole file or leave what was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=str(path.parent))
    try:
        with open(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, mode)
        os.replace(temporary, str(path))
    except BaseException:
        os.unlink(temporary)
        raise


def pyz(out: str | os.PathLike[str], paths: Iterable[str], source: Path = ROOT / "ft.py") -> None:
    """Build ft.pyz with the bytecode of these Pythons."""
    write(Path(out), zipapp(members(paths, source)), 0o755)


def version(source: Path = ROOT / "ft.py") -> str:
    found = re.search(r'^__version__ = "([^"]+)"', source.read_text(encoding="utf-8"), re.MULTILINE)
    if not found:
        raise SystemExit(f"{source}: no __version__")
    return found[1]


def dist(directory: Path, paths: Iterable[str]) -> None:
    """Write the newest release to `directory`, and once more under its version; other versions
    stay.
    """
    program = members(paths, ROOT / "ft.py")
    stub, licence = launcher()
    files = {name: (ROOT / name).read_bytes() for name in INSTALLERS}
    files["ft.pyz"] = zipapp(program)
    files["ft.exe"] = windows_program(stub, program)
    files["LICENSE.launcher.txt"] = licence
    sums = "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())
    )
    for folder in (directory / version(), directory):
        folder.mkdir(parents=True, exist_ok=True)
        folder.chmod(0o755)  # for the web server, whatever the umask
        for name, data in files.items():
            write(folder / name, data, 0o644 if name.endswith((".ps1", ".txt")) else 0o755)
        write(folder / "SHA256SUMS", sums.encode())
        write(folder / "VERSION", f"{version()}\n".encode())  # last: it announces the others


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("what", choices=["pyz", "dist", "pythons"])
    parser.add_argument("out", nargs="?", type=Path, help="where to put it")
    parser.add_argument(
        "--python", action="append", default=[], metavar="PATH", help="one more to compile with"
    )
    args = parser.parse_args()
    paths = [shutil.which(path) or path for path in args.python] + candidates()
    if args.what == "pythons":
        print("\n".join(path for _, path in pythons(paths).values()))
    elif not args.out:
        parser.error(f"where to put the {args.what}?")
    elif args.what == "pyz":
        pyz(args.out, paths)
    else:
        dist(args.out, paths)


if __name__ == "__main__":
    main()
