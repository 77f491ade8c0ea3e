"""`ft update`: real zipapps of this ft that say they are older, real install scripts, release sites
on loopback.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any, Iterator, Sequence

import build
import pytest
from conftest import FAST_CLOCK, PYTHON, ROOT, WINDOWS, Process, Result
from release_server import ReleaseServer

pytestmark = [
    pytest.mark.skipif(WINDOWS, reason="install.ps1 has tests of its own"),
    pytest.mark.needs("sh", "env", "head", "mktemp", "readlink"),  # install.sh calls them
]

OLD = "0.0.1"
NEW = build.version()


def sign(directory: Path) -> None:
    """Make SHA256SUMS right for what lies there."""
    names = [
        name
        for name in ("ft.exe", "ft.pyz", "install.ps1", "install.sh")
        if (directory / name).exists()
    ]
    sums = [
        f"{hashlib.sha256((directory / name).read_bytes()).hexdigest()}  {name}\n" for name in names
    ]
    (directory / "SHA256SUMS").write_text("".join(sums))


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`dist`, a release of this ft, and `old`, a zipapp of it that says it is version 0.0.1."""
    directory = tmp_path_factory.mktemp("built")
    build.dist(directory / "dist", [PYTHON])
    source = (ROOT / "ft.py").read_text(encoding="utf-8")
    older = source.replace(f'__version__ = "{NEW}"', f'__version__ = "{OLD}"', 1)
    assert older != source
    (directory / "ft.py").write_text(older, encoding="utf-8")
    build.pyz(directory / "old", [PYTHON], directory / "ft.py")
    return directory


@pytest.fixture
def site(built: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(built / "dist", tmp_path / "site"))


@pytest.fixture
def server(site: Path) -> Iterator[ReleaseServer]:
    with ReleaseServer(site) as started:
        yield started


class Installed:
    """An old `ft`, in a directory of its own, as the install script leaves it."""

    def __init__(self, directory: Path, server: ReleaseServer, old: Path) -> None:
        self.directory, self.server = directory / "my bin", server
        self.ft = self.directory / "ft"
        self.directory.mkdir()
        shutil.copy(old, self.ft)
        self.before = self.ft.read_bytes()
        self.env = {
            "PATH": os.environ["PATH"],
            "HOME": str(directory),
            "LC_ALL": "C.UTF-8",
            "FT_RELEASE_URL": server.url,
            "FINETUNING_API_KEY": "ft_live_" + "k" * 32,
            "PYTHONPATH": str(FAST_CLOCK),
            "FT_TEST_SPEED": "100",
        }

    def start(
        self,
        *argv: str,
        check: int = 0,
        program: Path | None = None,
        prefix: Sequence[str] = (),
        **env: str,
    ) -> Process:
        command = [*prefix, PYTHON, str(program or self.ft), *(argv or ["update"])]
        return Process(command, env={**self.env, **env}, cwd=self.directory.parent, check=check)

    def __call__(self, *argv: str, **how: Any) -> Result:
        return self.start(*argv, **how).finish()

    def assert_unchanged(self) -> None:
        assert self.ft.read_bytes() == self.before
        assert os.listdir(self.directory) == ["ft"]


@pytest.fixture
def installed(tmp_path: Path, server: ReleaseServer, built: Path) -> Installed:
    return Installed(tmp_path, server, built / "old")


# --- upgrades -------------------------------------------------------------------------------------


def test_it_upgrades_in_the_directory_it_lies_in(installed: Installed, site: Path) -> None:
    assert installed("--version").stdout == f"ft {OLD}\n"
    result = installed()
    assert result.stderr == f"note: updating ft {OLD} → {NEW}\n"
    assert f"Installed ft {NEW} in {installed.ft}\n" in result.stdout
    assert installed("--version").stdout == f"ft {NEW}\n"
    assert (
        installed.ft.read_bytes().partition(b"\n")[2]
        == (site / "ft.pyz").read_bytes().partition(b"\n")[2]
    )
    assert os.listdir(installed.directory) == ["ft"]
    assert stat.S_IMODE(installed.ft.stat().st_mode) == 0o755
    installed.server.requests.clear()
    assert installed().stdout == f"ft {NEW} is the newest release.\n"
    assert installed.server.paths == ["/VERSION"]


def test_it_succeeds_although_nobody_can_read_what_it_says(installed: Installed) -> None:
    result = installed(prefix=["sh", "-c", '"$@" >/dev/full', "sh"])
    assert "stays" not in result.stderr
    assert installed("--version").stdout == f"ft {NEW}\n"


def test_it_follows_the_link_it_was_started_by(installed: Installed, tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to("my bin/ft")
    result = installed(program=link, PATH=f"{installed.directory}:{os.environ['PATH']}")
    assert result.stdout.endswith(f"Installed ft {NEW} in {installed.ft}\n")
    assert os.readlink(link) == "my bin/ft"
    assert installed("--version", program=link).stdout == f"ft {NEW}\n"


def test_it_never_downgrades(installed: Installed, site: Path) -> None:
    (site / "VERSION").write_text("0.0.0\n")
    assert installed().stdout == f"ft {OLD} is newer than the newest release, 0.0.0.\n"
    assert installed.server.paths == ["/VERSION"]
    installed.assert_unchanged()


def test_versions_are_numbers(installed: Installed, site: Path) -> None:
    (site / "VERSION").write_text("0.0.10\n")
    assert f"note: updating ft {OLD} → 0.0.10\n" in installed(check=1).stderr  # there is none: 404
    installed.assert_unchanged()


def test_the_script_gets_what_it_needs_and_neither_the_key_nor_another_file(
    installed: Installed, site: Path
) -> None:
    script = site / "install.sh"
    script.write_text('env; printf "<%s>" "$@"\n')
    sign(site)
    result = installed(
        check=1, FT_FROM="/tmp/other.pyz", HTTPS_PROXY="http://localhost:1", FT_SHA256="0" * 64
    )
    # The script's exit code says that all is well. The program itself is asked.
    error = f"error: the install script ended, but {installed.ft} is not ft {NEW}"
    assert result.stderr.splitlines()[-1] == error
    assert "ft_live_" not in result.stdout + result.stderr
    assert "FT_FROM" not in result.stdout
    assert "HTTPS_PROXY=http://localhost:1\n" in result.stdout
    assert f"FT_SHA256={'0' * 64}\n" in result.stdout
    arguments = [
        "--prefix",
        str(installed.directory),
        "--version",
        NEW,
        "--base-url",
        installed.server.url,
    ]
    assert result.stdout.endswith("".join(f"<{word}>" for word in arguments))


# --- failures -------------------------------------------------------------------------------------


def unreachable(site: Path, server: ReleaseServer) -> None:
    server.close()


def no_site(site: Path, server: ReleaseServer) -> None:
    (site / "VERSION").unlink()


def no_version(site: Path, server: ReleaseServer) -> None:
    (site / "VERSION").write_text("<!DOCTYPE html>\n")


def changed_script(site: Path, server: ReleaseServer) -> None:
    (site / "install.sh").write_bytes(
        (site / "install.sh").read_bytes().replace(b"nothing was changed", b"Ha")
    )


def script_without_checksum(site: Path, server: ReleaseServer) -> None:
    sums = (site / "SHA256SUMS").read_text()
    (site / "SHA256SUMS").write_text(sums.replace("install.sh", "install.sh.old"))


def half_a_script(site: Path, server: ReleaseServer) -> None:
    server.cut.add("/install.sh")


def elsewhere(site: Path, server: ReleaseServer) -> None:
    server.redirects["/install.sh"] = "http://example.com/install.sh"


def failing_script(site: Path, server: ReleaseServer) -> None:
    (site / "install.sh").write_text("exit 7\n")
    sign(site)


def changed_ft(site: Path, server: ReleaseServer) -> None:
    with open(site / NEW / "ft.pyz", "ab") as file:
        file.write(b"\0")


def half_an_ft(site: Path, server: ReleaseServer) -> None:
    server.cut.add(f"/{NEW}/ft.pyz")


def no_ft(site: Path, server: ReleaseServer) -> None:
    (site / NEW / "ft.pyz").unlink()


def broken_ft(site: Path, server: ReleaseServer) -> None:
    build.write(site / NEW / "ft.pyz", (site / "ft.pyz").read_bytes()[:-2000])
    sign(site / NEW)


@pytest.mark.parametrize(
    ("fault", "code", "message"),
    [
        (unreachable, 3, "cannot connect to 127.0.0.1:"),
        (no_site, 3, "HTTP 404 from 127.0.0.1:"),
        (no_version, 3, "unexpected reply from http://127.0.0.1:"),
        (changed_script, 3, "does not match its published checksum"),
        (script_without_checksum, 3, "does not match its published checksum"),
        (half_a_script, 3, "broke off"),
        (elsewhere, 3, "must be https; http is for this machine only"),
        (failing_script, 1, f"the install script failed (exit 7); ft {OLD} stays"),
        (changed_ft, 1, f"the install script failed (exit 1); ft {OLD} stays"),
        (half_an_ft, 1, f"the install script failed (exit 1); ft {OLD} stays"),
        (no_ft, 1, f"the install script failed (exit 1); ft {OLD} stays"),
        (broken_ft, 1, f"the install script failed (exit 1); ft {OLD} stays"),
    ],
)
def test_the_old_ft_survives(
    installed: Installed, site: Path, server: ReleaseServer, fault: Any, code: int, message: str
) -> None:
    fault(site, server)
    result = installed(check=code)
    errors = [line for line in result.stderr.splitlines() if not line.startswith("note: ")]
    assert message in errors[-1]
    assert all(line.startswith("error: ") for line in errors if code == 3 or line == errors[-1])
    assert "Installed" not in result.stdout
    if code == 3:  # nothing of the site's has run
        assert f"/{NEW}/SHA256SUMS" not in server.paths
    installed.assert_unchanged()
    assert installed("--version").stdout == f"ft {OLD}\n"


def test_without_a_shell_it_says_so(installed: Installed, tmp_path: Path) -> None:
    result = installed(check=1, PATH=str(tmp_path / "nowhere"))
    assert (
        f"error: cannot run the install script: No such file or directory; ft {OLD} stays\n"
        in result.stderr
    )
    installed.assert_unchanged()


@pytest.mark.parametrize(
    "url", ["http://example.com", "ftp://finetuning.ai", "https://user:pass@finetuning.ai"]
)
def test_a_bad_address_is_a_usage_error(installed: Installed, url: str) -> None:
    result = installed(check=2, FT_RELEASE_URL=url)
    assert result.stderr.startswith("error: the base URL from FT_RELEASE_URL ")
    assert "pass" not in result.stderr
    installed.assert_unchanged()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_stopped_while_it_downloads_it_leaves_nothing_behind(
    installed: Installed, server: ReleaseServer, number: int
) -> None:
    server.cut.add(f"/{NEW}/ft.pyz")
    server.hold = True
    process = installed.start(check=128 + number)
    assert server.held.wait(30)
    process.send_signal(number)
    assert "Traceback" not in process.finish().stderr
    installed.assert_unchanged()


# --- where it cannot help -------------------------------------------------------------------------


def private_mount(directory: Path, place: str, *options: str) -> list[str]:
    """A command prefix under which, for itself alone, `directory` is mounted at `place`."""
    lines = [
        f"mount --bind '{directory}' '{place}'",
        *(f"mount -o remount,bind,{o} '{place}'" for o in options),
    ]
    prefix = ["unshare", "-r", "-m", "sh", "-c", " && ".join([*lines, 'exec "$@"']), "sh"]
    if subprocess.run([*prefix, "true"], capture_output=True).returncode:
        pytest.skip("this machine allows no private mounts")
    return prefix


@pytest.mark.needs("unshare")
def test_a_read_only_directory_keeps_the_old_ft(installed: Installed) -> None:
    prefix = private_mount(installed.directory, str(installed.directory), "ro")
    result = installed(check=1, prefix=prefix)
    assert f"error: cannot write in {installed.directory}; choose" in result.stderr
    installed.assert_unchanged()


@pytest.mark.needs("unshare")
def test_what_a_package_manager_installed_is_left_to_it(installed: Installed) -> None:
    prefix = private_mount(installed.directory, "/usr/sbin")
    result = installed(check=1, prefix=prefix, program=Path("/usr/sbin/ft"))
    assert result.stderr == (
        "error: this ft came from a package manager: /usr/sbin/ft\nhint: update it with that "
        "package manager\n"
    )
    assert installed.server.requests == []


def refusal(installed: Installed, program: Path) -> list[str]:
    """The error and the hint, without their labels. Nobody was asked, and nothing has changed."""
    before = program.read_bytes()
    result = installed(check=1, program=program, PYTHONPATH="")
    assert result.stdout == ""
    assert program.read_bytes() == before
    assert installed.server.requests == []
    error, hint = result.stderr.splitlines()
    return [error.partition("error: ")[2], hint.partition("hint: ")[2]]


def test_a_checkout_is_pulled(installed: Installed, tmp_path: Path) -> None:
    checkout = tmp_path / "a checkout"
    (checkout / ".git").mkdir(parents=True)
    program = Path(shutil.copy(ROOT / "ft.py", checkout))
    assert refusal(installed, program) == [
        f"this ft is a checkout: {program}",
        f"git -C '{checkout}' pull",
    ]


@pytest.mark.parametrize("name", ["ft.pyz", "ft.py", "ft-0.0.1"])
def test_a_dropped_file_is_replaced_by_hand(
    installed: Installed, built: Path, tmp_path: Path, name: str
) -> None:
    program = Path(
        shutil.copy(ROOT / "ft.py" if name == "ft.py" else built / "old", tmp_path / name)
    )
    told = [f"this ft did not come from the install script: {program}"]
    assert refusal(installed, program) == [*told, f"put {installed.server.url}/ft.pyz in its place"]
    installed.env.update(FT_RELEASE_URL="http://localhost:1", FT_BASE_URL=installed.server.url)
    assert refusal(installed, program) == [*told, f"put {installed.server.url}/ft.pyz in its place"]
    installed.env.update(FT_RELEASE_URL="", FT_BASE_URL="")  # as if they were not set
    assert refusal(installed, program) == [
        *told,
        "put https://finetuning.ai/cli/ft.pyz in its place",
    ]


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A site-packages that pip has installed the wheel into, from an index."""
    directory = tmp_path_factory.mktemp("pip")
    code = "import sys; from flit_core import buildapi; buildapi.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(directory)], cwd=ROOT, check=True)
    name = next(directory.glob("*.whl")).name.partition("-")[0]
    flags = [
        "--no-index",
        "--no-deps",
        "--find-links",
        str(directory),
        "--target",
        str(directory / "site-packages"),
    ]
    subprocess.run(
        [sys.executable, "-m", "pip", "-q", "--isolated", "install", *flags, name], check=True
    )
    return directory / "site-packages"


def test_what_pip_installed_is_upgraded_by_pip_from_where_it_came(
    installed: Installed, packages: Path, tmp_path: Path
) -> None:
    """From an index by its name, else from the address that pip notes in direct_url.json (PEP
    610).
    """
    copy = Path(shutil.copytree(packages, tmp_path / "lib" / "site-packages"))
    program = copy / "ft.py"
    details = next(copy.glob("*.dist-info"))
    upgrade = f"{PYTHON} -m pip install --upgrade "
    name = details.name.partition("-")[0].replace("_", "-")
    assert refusal(installed, program) == [f"this ft came from pip: {program}", upgrade + name]
    noted = details / "direct_url.json"
    noted.write_text('{"url": "https://example.com/ft.whl", "archive_info": {}}')
    assert refusal(installed, program)[1] == f"{upgrade}https://example.com/ft.whl"
    noted.write_text(
        '{"url": "https://example.com/ft.git", "vcs_info": {"vcs": "git", "commit_id": "1234"}}'
    )
    assert refusal(installed, program)[1] == f"{upgrade}git+https://example.com/ft.git"
    shutil.rmtree(details)
    assert refusal(installed, program)[1] == "update it as you installed it"


@pytest.mark.needs("unshare")
def test_what_pip_put_into_the_python_of_a_package_manager_is_pips(
    installed: Installed, packages: Path, tmp_path: Path
) -> None:
    place = tmp_path / "homebrew" / "lib" / "python3" / "site-packages"
    shutil.copytree(packages, place)
    prefix, program = (
        private_mount(tmp_path, "/opt"),
        Path("/opt") / place.relative_to(tmp_path) / "ft.py",
    )
    result = installed(check=1, prefix=prefix, program=program, PYTHONPATH="")
    assert (
        "error: this ft came from pip: " in result.stderr
        and " -m pip install --upgrade " in result.stderr
    )
    next(place.glob("*.dist-info/INSTALLER")).write_text("brew\n")
    result = installed(check=1, prefix=prefix, program=program, PYTHONPATH="")
    assert (
        "error: this ft came from brew: " in result.stderr
        and "\nhint: update it as you" in result.stderr
    )


@pytest.mark.parametrize("installer", ["pip", "uv"])  # pipx uses either
def test_what_pipx_installed_is_upgraded_by_pipx(
    installed: Installed, packages: Path, tmp_path: Path, installer: str
) -> None:
    """By the name of its virtual environment, which pipx's --suffix changes and any directory may
    hold.
    """
    environment = tmp_path / "anywhere" / "ft@1"
    subprocess.run([PYTHON, "-m", "venv", "--without-pip", environment], check=True)
    place = Path(shutil.copytree(packages, environment / "site-packages"))
    next(place.glob("*.dist-info/INSTALLER")).write_text(f"{installer}\n")
    python = environment / "bin" / "python"
    for tool, hint in ((installer, "update it as you installed it"), ("pipx", "pipx upgrade ft@1")):
        result = run_with(python, installed, place / "ft.py")
        assert f"error: this ft came from {tool}: {place / 'ft.py'}\n" in result.stderr
        assert result.stderr.endswith(f"hint: {hint}\n") or tool == "pip"
        (environment / "pipx_metadata.json").write_text("{}")


def run_with(python: Path, installed: Installed, program: Path) -> Result:
    env = {**installed.env, "PYTHONPATH": ""}
    return Process(
        [str(python), str(program), "update"], env=env, cwd=program.parent, check=1
    ).finish()
