"""Run the tests on a machine that has Python and nothing else.

    python3 tests/run.py              run the whole suite; from Python 3.12 on, report its coverage
    python3 tests/run.py ARGUMENT...  run pytest with these arguments, in the project's directory
    python3 tests/run.py --setup      only prepare the environment

The first run makes the virtual environment .venv and installs what pyproject.toml lists for
development. A test that needs a missing program is skipped and names it. With FT_REQUIRE_ALL=1 it
fails instead, and so does the run if coverage is below the limit in pyproject.toml. The exit code
is pytest's.
"""

# Python 3.6 and 3.7 must be able to parse this file, so that it can refuse them in one line.

import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import List

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
READY = VENV / "ready"  # lists what was installed; an environment without it is not ours
COVERAGE = ROOT / "build" / "coverage"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"


def read_requirements() -> List[str]:
    """Return the strings of `dev = [...]` in pyproject.toml, which stand one to a line."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    group = re.search(r"^dev = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    assert group, "pyproject.toml has no dependency group `dev`"
    return re.findall(r'^ *"([^"]+)",', group[1], re.MULTILINE)


def is_usable() -> bool:
    """Check whether .venv has a Python of the same version as the one that runs this file."""
    try:
        settings = (VENV / "pyvenv.cfg").read_text(encoding="utf-8")
    except OSError:
        return False
    found = re.search(r"^version(?:_info)? *= *(\d+\.\d+)", settings, re.MULTILINE)
    return PYTHON.exists() and found is not None and found[1] == VERSION


def make_venv() -> None:
    """Make .venv, in place of an older one of ours. If that fails, exit and leave none behind."""
    if VENV.exists() and not READY.exists():
        raise SystemExit(f"error: {VENV} is not for Python {VERSION}; delete it and try again")
    if not all(importlib.util.find_spec(module) for module in ("venv", "ensurepip")):
        is_debian = os.path.exists("/etc/debian_version")
        advice = "run `apt-get install python3-venv`" if is_debian else "install a complete Python"
        raise SystemExit(f"error: this Python cannot make virtual environments: {advice}")
    print(f"Making {VENV} with Python {VERSION}", file=sys.stderr)
    made = False
    try:
        command = [sys.executable, "-m", "venv", "--clear", str(VENV)]
        made = subprocess.run(command).returncode == 0
    finally:
        if not made:
            shutil.rmtree(str(VENV), ignore_errors=True)
    if not made:
        raise SystemExit(f"error: cannot make {VENV}")


def set_up() -> None:
    """Make .venv and install the requirements, unless an earlier run has done so."""
    requirements = read_requirements()
    wanted = "\n".join(requirements)
    if not is_usable():
        make_venv()
    elif READY.exists() and READY.read_text(encoding="utf-8") == wanted:
        return
    print(f"Installing {', '.join(requirements)}", file=sys.stderr)
    pip = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    if subprocess.run([*pip, *requirements]).returncode:
        raise SystemExit("error: cannot install what the tests need")
    READY.write_text(wanted, encoding="utf-8")


def run_module(*arguments: str) -> int:
    """Run a module with the Python of .venv and return its exit code."""
    process = subprocess.Popen([str(PYTHON), "-m", *arguments], cwd=str(ROOT))
    while True:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            continue  # the module got it as well: let it clean up
        return 128 - code if code < 0 else code


def run_suite() -> int:
    """Run all tests, then report how much of ft.py they cover. Return the exit code.

    Older Pythons than 3.12 can only trace, which takes a third of the time again.
    """
    if not hasattr(sys, "monitoring"):
        print("Coverage is not measured: that needs Python 3.12 or newer", file=sys.stderr)
        return run_module("pytest", "-n", "auto")
    shutil.rmtree(str(COVERAGE), ignore_errors=True)
    COVERAGE.mkdir(parents=True)
    os.environ["FT_COVERAGE"] = str(COVERAGE)
    report = ["coverage", "report", f"--data-file={COVERAGE / 'data'}"]
    if os.environ.get("FT_REQUIRE_ALL") != "1":
        report.append("--fail-under=0")  # tests that are skipped cover nothing
    return run_module("pytest", "-n", "auto") or run_module(*report)


def main() -> int:
    if sys.version_info < (3, 8):  # noqa: UP036
        raise SystemExit(f"error: the tests need Python 3.8 or newer; this is Python {VERSION}")
    arguments = sys.argv[1:]
    if arguments in (["-h"], ["--help"]):
        print((__doc__ or "").strip())
        return 0
    set_up()
    if arguments == ["--setup"]:
        return 0
    return run_module("pytest", *arguments) if arguments else run_suite()


if __name__ == "__main__":
    sys.exit(main())
