"""install.sh: real shells run it, against a release site on loopback, with a PATH of chosen
programs.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any, Callable, Iterator, Mapping, NamedTuple, Sequence

import build
import pytest
from conftest import PYTHON, ROOT, WINDOWS, Process, Result, Tls, require
from release_server import ReleaseServer, archive, release, sums

SCRIPT = ROOT / "install.sh"
SHELLS = {"dash": [], "busybox": ["sh"], "bash": [], "ksh": [], "zsh": ["--emulate", "sh"]}
TOOLS = [
    "cat",
    "chmod",
    "env",
    "grep",
    "head",
    "mkdir",
    "mktemp",
    "mv",
    "readlink",
    "rm",
    "rmdir",
    "tail",
    "tr",
    "uname",
]
# A link to a virtual environment's own would not know its library.
REAL_PYTHON = os.path.realpath(PYTHON)


def across_shells(name: str, first: Any, *others: Any) -> pytest.MarkDecorator:
    """The first value in every shell, the others in sh."""
    shells = [pytest.param(shell, first, marks=pytest.mark.needs(shell)) for shell in SHELLS]
    return pytest.mark.parametrize(("shell", name), [*shells, *(("sh", value) for value in others)])


every_shell = pytest.mark.parametrize(
    "shell", [pytest.param(name, marks=pytest.mark.needs(name)) for name in SHELLS]
)
downloaders = pytest.mark.parametrize(
    ("downloader", "agent"),
    [
        pytest.param("curl", "curl", marks=pytest.mark.needs("curl")),
        pytest.param("wget", "Wget", marks=pytest.mark.needs("wget")),
        pytest.param(None, "Python-urllib"),
    ],
)


def files(directory: Path) -> dict[str, bytes | str | None]:
    """Everything below a directory: a file's bytes, a link's target, None for a directory."""
    return {
        str(path.relative_to(directory)): os.readlink(path)
        if path.is_symlink()
        else path.read_bytes()
        if path.is_file()
        else None
        for path in directory.rglob("*")
    }


class Installer:
    """Runs install.sh, piped into a shell, for a user with an empty home. It installs into
    `bin`.
    """

    def __init__(self, directory: Path, server: ReleaseServer) -> None:
        self.directory, self.server = directory, server
        self.home = directory / "home"
        self.bin = self.home / "bin"
        self.ft = self.bin / "ft"
        self.home.mkdir()
        self.tools = self.links(*TOOLS, "curl", "sha256sum", python3=REAL_PYTHON)
        self.started: list[Process] = []

    def links(self, *names: str, **targets: str) -> Path:
        """A directory for PATH that holds these programs and no other."""
        directory = self.directory / f"tools-{len(list(self.directory.iterdir()))}"
        directory.mkdir()
        for name in names:
            target = shutil.which(name)
            if target:
                targets[name] = target
        for name, target in targets.items():
            (directory / name).symlink_to(target)
        return directory

    def path(self, downloader: str | None) -> Path:
        """A PATH with this downloader and no other; None is for Python."""
        return self.links(*TOOLS, *([downloader] if downloader else []), python3=REAL_PYTHON)

    def env(self, env: Mapping[str, str | None], path: Path | str | None) -> dict[str, str]:
        result: dict[str, str | None] = {
            "PATH": str(path or self.tools),
            "HOME": str(self.home),
            "FT_INSTALL_DIR": str(self.bin),
            "FT_RELEASE_URL": self.server.url,
        }
        result.update(env)
        return {name: value for name, value in result.items() if value is not None}

    def start(
        self,
        *flags: str,
        shell: str = "sh",
        env: Mapping[str, str | None] = {},
        path: Path | str | None = None,
        cwd: Path | None = None,
        argv: list[str] | None = None,
        prefix: list[str] | None = None,
        check: int = 0,
    ) -> Process:
        """`argv` instead of a shell and the script on its stdin; `prefix` is what runs the
        shell.
        """
        command = [shutil.which(shell) or shell, *SHELLS.get(shell, []), "-s", "--"]
        process = Process(
            [*(prefix or []), *(argv or command), *flags],
            env=self.env(env, path),
            cwd=cwd or self.home,
            stdin=None if argv else SCRIPT.read_bytes(),
            check=check,
        )
        self.started.append(process)
        return process

    def __call__(self, *flags: str, **how: Any) -> Result:
        return self.start(*flags, **how).finish()

    def version(self, path: Path | str | None = None) -> str:
        """What the installed file says of itself."""
        env = {"PATH": str(path or self.tools)}
        return subprocess.run(
            [self.ft, "--version"], env=env, check=True, capture_output=True, text=True
        ).stdout


@pytest.fixture
def site(tmp_path: Path) -> Path:
    site = tmp_path / "site"
    release(site, "0.1.0")
    release(site, "0.2.0")
    return site


@pytest.fixture
def server(site: Path) -> Iterator[ReleaseServer]:
    with ReleaseServer(site) as server:
        yield server


@pytest.fixture
def install(tmp_path: Path, server: ReleaseServer) -> Iterator[Installer]:
    if WINDOWS:
        pytest.skip("install.ps1 is for Windows")
    require("sh", *TOOLS)
    installer = Installer(tmp_path, server)
    yield installer
    for process in installer.started:
        process.kill()


@pytest.fixture
def installed(install: Installer) -> Installer:
    """The same, where ft 0.1.0 is installed already."""
    install.bin.mkdir()
    install.ft.write_bytes(archive("0.1.0"))
    install.ft.chmod(0o755)
    return install


@pytest.fixture
def unchanged(installed: Installer) -> Iterator[Installer]:
    """The same, for a test that must leave every file in the home as it was."""
    before = files(installed.home)
    yield installed
    assert files(installed.home) == before


# --- installing -----------------------------------------------------------------------------------


@every_shell
def test_a_fresh_install_puts_one_file_in_place(install: Installer, site: Path, shell: str) -> None:
    result = install(shell=shell)
    assert result.stdout.splitlines()[:2] == [
        f"Downloading {install.server.url}/0.2.0/ft.pyz",
        f"Installed ft 0.2.0 in {install.ft}",
    ]
    assert result.stderr == ""
    assert files(install.home) == {"bin": None, "bin/ft": (site / "ft.pyz").read_bytes()}
    assert stat.S_IMODE(install.ft.stat().st_mode) == 0o755
    assert install.version() == "ft 0.2.0\n"
    assert install.server.paths == ["/VERSION", "/0.2.0/SHA256SUMS", "/0.2.0/ft.pyz"]


@pytest.mark.parametrize("how", ["file", "-c"])
@every_shell
def test_the_script_also_runs_as_a_file_and_as_an_argument(
    install: Installer, shell: str, how: str
) -> None:
    command = [shutil.which(shell) or shell, *SHELLS[shell]]
    argv = (
        [*command, str(SCRIPT)]
        if how == "file"
        else [*command, "-c", SCRIPT.read_text(), "install"]
    )
    install("--version", "0.1.0", argv=argv)
    assert install.version() == "ft 0.1.0\n"


def test_the_script_does_not_read_stdin(install: Installer) -> None:
    script = SCRIPT.read_text()
    line = 'sh -c "$SCRIPT" install --quiet; read -r word; echo "left: $word"'
    process = Process(
        [shutil.which("sh") or "sh", "-c", line],
        env=install.env({"SCRIPT": script}, f"{install.tools}:{os.environ['PATH']}"),
        cwd=install.home,
        stdin="still here\n",
        check=0,
    )
    assert "left: still here\n" in process.finish().stdout
    assert install.version() == "ft 0.2.0\n"


@every_shell
def test_an_upgrade_renames_the_new_file_over_the_old_one(
    installed: Installer, site: Path, shell: str
) -> None:
    old = installed.ft.read_bytes()
    with installed.ft.open("rb") as running:
        installed(shell=shell)
        assert running.read() == old  # a running ft keeps what it has open
    assert files(installed.home) == {"bin": None, "bin/ft": (site / "ft.pyz").read_bytes()}
    assert installed.version() == "ft 0.2.0\n"


@every_shell
@pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full")
def test_an_install_that_nobody_can_be_told_of_succeeds(installed: Installer, shell: str) -> None:
    installed(shell=shell, prefix=["/bin/sh", "-c", '"$@" >/dev/full', "sh"])
    assert installed.version() == "ft 0.2.0\n"


@across_shells("how", "--version 0.1.0", "--version=0.1.0", "FT_VERSION")
def test_a_version_can_be_chosen(install: Installer, shell: str, how: str) -> None:
    if how == "FT_VERSION":
        install(shell=shell, env={"FT_VERSION": "0.1.0"})
    else:
        install(*how.split(), shell=shell)
    assert install.version() == "ft 0.1.0\n"
    assert install.server.paths == ["/0.1.0/SHA256SUMS", "/0.1.0/ft.pyz"]


def test_a_version_that_does_not_exist_is_an_error(install: Installer) -> None:
    result = install("--version", "7.7.7", check=1)
    assert f"error: cannot download {install.server.url}/7.7.7/SHA256SUMS (" in result.stderr
    install("--version", "7.7.7", "--prefix", "new/a//b/", check=1)
    assert files(install.home) == {}  # the directories that were made for it are gone again


@across_shells("how", "--base-url", "FT_BASE_URL")
def test_a_mirror_replaces_the_release_address(
    install: Installer, tmp_path: Path, shell: str, how: str
) -> None:
    release(tmp_path / "mirrored" / "cli", "0.3.0")
    with ReleaseServer(tmp_path / "mirrored") as mirror:
        url = mirror.url + "/cli/"
        if how == "--base-url":
            install("--base-url", url, shell=shell)
        else:
            install(shell=shell, env={"FT_BASE_URL": url})
        assert mirror.paths == ["/cli/VERSION", "/cli/0.3.0/SHA256SUMS", "/cli/0.3.0/ft.pyz"]
    assert install.version() == "ft 0.3.0\n"
    assert install.server.paths == []


@pytest.mark.parametrize("how", ["--prefix", "relative", "~"])
def test_the_directory_can_be_chosen(install: Installer, how: str) -> None:
    there = install.home / "my tools" / "bin"
    if how == "--prefix":
        result = install("--prefix", f"{there}/")
    elif how == "relative":
        result = install("--prefix", "my tools/bin")
    else:
        result = install(env={"FT_INSTALL_DIR": "~/my tools/bin"})
    assert f"Installed ft 0.2.0 in {there}/ft\n" in result.stdout
    assert list(files(install.home)) == ["my tools", "my tools/bin", "my tools/bin/ft"]


@every_shell
def test_spaces_in_the_directory(install: Installer, shell: str) -> None:
    there = install.home / "two  words" / "a * b"
    install("--prefix", str(there), shell=shell, path=f"{install.tools}:{there}")
    install(
        "--prefix", str(there), "--version", "0.1.0", shell=shell, path=f"{install.tools}:{there}"
    )
    assert [path.name for path in there.iterdir()] == ["ft"]
    install("--prefix", str(there), "--uninstall", shell=shell)
    assert list(there.iterdir()) == []


@pytest.fixture
def private_mounts(tmp_path: Path) -> Callable[..., list[str]]:
    """A command prefix under which these mount(8) lines hold, seen by nobody else."""
    command = ["unshare", "-r", "-m", "sh", "-c"]
    probe = subprocess.run([*command, "mount -t tmpfs none /mnt"], capture_output=True, check=False)
    if probe.returncode:
        pytest.skip("this machine allows no private mounts")
    return lambda *lines: [*command, " && ".join([*lines, 'exec "$@"']), "sh"]


@pytest.mark.needs("unshare")
def test_by_default_it_goes_to_usr_local_bin(
    install: Installer, private_mounts: Callable[..., list[str]], tmp_path: Path
) -> None:
    there = tmp_path / "usr-local-bin"
    there.mkdir()
    prefix = private_mounts(f"mount --bind '{there}' /usr/local/bin")
    path = f"{install.tools}:/usr/local/bin:/bin:/sbin"
    result = install(prefix=prefix, path=path, env={"FT_INSTALL_DIR": None})
    assert result.stdout.endswith("Installed ft 0.2.0 in /usr/local/bin/ft\n")
    assert list(files(there)) == ["ft"]


@every_shell
@pytest.mark.needs("unshare")
def test_without_the_right_to_write_there_it_goes_to_the_home(
    install: Installer, private_mounts: Callable[..., list[str]], shell: str
) -> None:
    """Also for root, whom a test of the mode would let in."""
    prefix = private_mounts("mount -t tmpfs -o ro none /usr/local/bin")
    how = {"prefix": prefix, "path": f"{install.tools}:/bin:/sbin", "shell": shell}
    result = install(env={"FT_INSTALL_DIR": None}, **how)
    assert f"Installed ft 0.2.0 in {install.home}/.local/bin/ft\n" in result.stdout
    result = install(env={"FT_INSTALL_DIR": None, "HOME": None}, check=1, **how)
    assert result.stderr == "error: HOME is not set; say with --prefix where ft goes\n"


# --- without a network ----------------------------------------------------------------------------


@every_shell
def test_an_offline_install_asks_nobody(installed: Installer, tmp_path: Path, shell: str) -> None:
    file = tmp_path / "image" / "ft.pyz"
    file.parent.mkdir()
    file.write_bytes(archive("0.5.0"))
    (file.parent / "SHA256SUMS").write_text(
        sums(archive("0.9.0"), "other.pyz") + sums(archive("0.5.0"))
    )
    offline = installed.links(*TOOLS, "sha256sum", python3=REAL_PYTHON)
    result = installed("--from", str(file), shell=shell, path=offline)
    assert installed.version() == "ft 0.5.0\n"
    assert result.stderr == ""
    assert installed.server.requests == []
    installed("--from", "ft.pyz", shell=shell, path=offline, cwd=file.parent)
    installed("--from=~/ft.pyz", shell=shell, path=offline, env={"HOME": str(file.parent)})
    installed(shell=shell, path=offline, env={"FT_FROM": str(file)})
    assert installed.server.requests == []


def test_an_offline_file_may_be_pinned_instead(install: Installer, tmp_path: Path) -> None:
    file = tmp_path / "downloaded.pyz"
    file.write_bytes(archive("0.5.0"))
    install("--from", str(file), env={"FT_SHA256": sums(archive("0.5.0")).split()[0]})
    assert install.version() == "ft 0.5.0\n"


def test_an_offline_file_that_is_missing_or_is_no_ft_is_refused_and_never_run(
    unchanged: Installer, tmp_path: Path
) -> None:
    result = unchanged("--from", str(tmp_path / "absent.pyz"), check=1)
    assert result.stderr == f"error: cannot read {tmp_path}/absent.pyz\n"
    trap = tmp_path / "trap"
    trap.write_text(f"touch {tmp_path}/was-run\n")
    for text in (trap.read_text(), "#!/bin/sh\n" + trap.read_text(), ""):
        trap.write_text(text)
        result = unchanged(
            "--from", str(trap), env={"FT_SHA256": sums(text.encode()).split()[0]}, check=1
        )
        assert result.stderr.endswith(f"error: {trap} is not an ft.pyz; nothing was changed\n")
    assert not (tmp_path / "was-run").exists()


# --- downloading ----------------------------------------------------------------------------------


@downloaders
@every_shell
def test_curl_wget_or_python_downloads(
    install: Installer, shell: str, downloader: str | None, agent: str
) -> None:
    tools = install.path(downloader)
    result = install(shell=shell, path=tools)
    assert (result.stderr, install.version()) == ("", "ft 0.2.0\n")
    own_wget = shell == "busybox" and downloader == "wget"  # a busybox may prefer its own programs
    assert install.server.agents == {agent} or (
        own_wget and install.server.agents == {"Python-urllib"}
    )


@pytest.mark.needs("busybox")
def test_programs_of_busybox_are_enough(install: Installer) -> None:
    names = subprocess.run(
        ["busybox", "--list"], capture_output=True, text=True, check=True
    ).stdout.split()
    busybox = shutil.which("busybox")
    assert busybox
    applets = install.links(python3=REAL_PYTHON, **dict.fromkeys(names, busybox))
    old_python = install.links(
        env=busybox, **{"python3.12": REAL_PYTHON, "python3": shutil.which("false") or ""}
    )
    for path in (applets, f"{old_python}:{applets}"):
        result = install(shell="busybox", path=path)
        assert (result.stderr, install.version(path)) == ("", "ft 0.2.0\n")
    assert install.server.agents == {"Python-urllib"}  # its wget follows redirects anywhere
    install("--uninstall", shell="busybox", path=applets)
    assert files(install.home) == {"bin": None}


@downloaders
@pytest.mark.parametrize("path", ["/VERSION", "/0.2.0/SHA256SUMS", "/0.2.0/ft.pyz"])
def test_a_truncated_download_changes_nothing(
    unchanged: Installer, downloader: str | None, agent: str, path: str
) -> None:
    unchanged.server.cut.add(path)
    tools = unchanged.path(downloader)
    result = unchanged(path=tools, check=1)
    assert re.fullmatch(
        rf"error: cannot download {unchanged.server.url}{path} \(IncompleteRead.*\); nothing was "
        rf"changed\n",
        result.stderr,
    )
    assert agent in unchanged.server.agents


@downloaders
def test_a_missing_file_changes_nothing(
    unchanged: Installer, downloader: str | None, agent: str
) -> None:
    (unchanged.server.site / "0.2.0" / "ft.pyz").unlink()
    tools = unchanged.path(downloader)
    result = unchanged(path=tools, check=1)
    assert result.stderr == (
        f"error: cannot download {unchanged.server.url}/0.2.0/ft.pyz (HTTP Error 404: Not Found); "
        "nothing was changed\n"
    )
    assert agent in unchanged.server.agents


@pytest.mark.parametrize(
    "url",
    [
        "http://example.invalid",
        "http://127.0.0.1.example.invalid",
        "http://127.0.0.1@example.invalid",
        "http://127.0.0.1:80@example.invalid/",
        "http://localhost.example.invalid/cli",
        "http://[::1].example.invalid",
        "ftp://example.invalid",
        "file:///etc",
        "https://",
        "https:///cli",
        "https://example.invalid/?a=b",
        "https://example.invalid/#a",
        "https://example.invalid/a b",
        "https://user:pass@example.invalid",
        "example.invalid",
        "-o/tmp/x",
    ],
)
def test_only_https_addresses_are_taken_and_http_ones_on_loopback(
    unchanged: Installer, url: str
) -> None:
    for flags, env in ((["--base-url", url], {}), ([], {"FT_RELEASE_URL": url})):
        result = unchanged(*flags, env=env, check=2)
        assert (
            result.stderr
            == f"error: not an https:// address: {url[:-1] if url[-1] == '/' else url}\n"
        )
    assert unchanged.server.requests == []


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
@downloaders
def test_every_name_of_loopback_is_taken(
    install: Installer, site: Path, host: str, downloader: str | None, agent: str
) -> None:
    with ReleaseServer(site, host="::1" if host == "[::1]" else "127.0.0.1") as server:
        install("--base-url", f"http://{host}:{server.port}", path=install.path(downloader))
        assert server.agents == {agent}
    assert install.version() == "ft 0.2.0\n"


@downloaders
def test_settings_files_of_curl_and_wget_are_not_obeyed(
    install: Installer, downloader: str | None, agent: str
) -> None:
    """Neither in the home nor where a variable says."""
    curlrc = 'output = "hijacked"\nuser-agent = "hijacker"\nurl = "file:///etc/passwd"\n'
    wgetrc = "output_document = hijacked\nuser_agent = hijacker\n"
    for name, text in ((".curlrc", curlrc), (".wgetrc", wgetrc), ("other/.curlrc", curlrc)):
        (install.home / name).parent.mkdir(exist_ok=True)
        (install.home / name).write_text(text)
    before = files(install.home)
    for env in ({}, {"CURL_HOME": f"{install.home}/other", "WGETRC": f"{install.home}/.wgetrc"}):
        result = install(path=install.path(downloader), env=env)
        assert (result.stderr, install.version()) == ("", "ft 0.2.0\n")
    assert files(install.home).keys() - before.keys() == {"bin", "bin/ft"}
    assert install.server.agents == {agent}


ESCAPE = "\x1b]0;pwned\x07\x9b31m\x7f"


@across_shells("where", "SHA256SUMS", "VERSION", "reason", "--version")
def test_control_characters_of_a_mirror_are_not_printed(
    unchanged: Installer, site: Path, shell: str, where: str
) -> None:
    if where == "SHA256SUMS":
        (site / "0.2.0" / "SHA256SUMS").write_text(f"{ESCAPE}  ft.pyz\n")
    elif where == "VERSION":
        (site / "VERSION").write_text(f"0.2.0{ESCAPE}\n\0")
    elif where == "reason":
        (site / "0.2.0" / "ft.pyz").unlink()
        unchanged.server.reason = ESCAPE
    else:
        data = archive("0.2.0", f"def main(): print({ESCAPE!r})")
        (site / "0.2.0" / "ft.pyz").write_bytes(data)
        (site / "0.2.0" / "SHA256SUMS").write_text(sums(data))
    result = unchanged(shell=shell, check=1)
    assert re.fullmatch(r"[ -~\n]+", result.stdout + result.stderr)
    assert "pwned" in result.stderr or where == "VERSION"


@every_shell
def test_directories_that_it_makes_are_for_everybody_whatever_the_umask(
    install: Installer, shell: str
) -> None:
    """Where root's umask is 077, nobody else could run ft."""
    strict = [shutil.which("sh") or "sh", "-c", 'umask 077; exec "$@"', "sh"]
    install("--prefix", "opt/ft/bin", shell=shell, prefix=strict)
    for place in ("opt", "opt/ft", "opt/ft/bin", "opt/ft/bin/ft"):
        assert stat.S_IMODE((install.home / place).stat().st_mode) == 0o755, place


# --- TLS and redirects ----------------------------------------------------------------------------


@pytest.fixture
def secure(site: Path, tls: Tls) -> Iterator[ReleaseServer]:
    with ReleaseServer(site, tls.context) as server:
        yield server


def trust(tls: Tls, directory: Path) -> dict[str, str]:
    """What makes curl, wget and Python trust the tests' authority."""
    ca_file = directory / "trusted authorities.pem"
    shutil.copy(tls.ca_file, ca_file)
    return {"CURL_CA_BUNDLE": str(ca_file), "SSL_CERT_FILE": str(ca_file)}


@downloaders
def test_https(
    install: Installer,
    secure: ReleaseServer,
    tls: Tls,
    tmp_path: Path,
    downloader: str | None,
    agent: str,
) -> None:
    install(
        path=install.path(downloader), env={"FT_RELEASE_URL": secure.url, **trust(tls, tmp_path)}
    )
    assert install.version() == "ft 0.2.0\n"
    assert secure.agents == {agent}


@downloaders
def test_an_untrusted_certificate_is_refused(
    unchanged: Installer, secure: ReleaseServer, downloader: str | None, agent: str
) -> None:
    tools = unchanged.path(downloader)
    result = unchanged(path=tools, env={"FT_RELEASE_URL": secure.url}, check=1)
    assert f"error: cannot download {secure.url}/VERSION (" in result.stderr
    assert "certificate" in result.stderr
    assert secure.requests == []


@downloaders
def test_a_redirect_to_https_is_followed(
    install: Installer,
    secure: ReleaseServer,
    tls: Tls,
    tmp_path: Path,
    downloader: str | None,
    agent: str,
) -> None:
    secure.redirects["/0.2.0/ft.pyz"] = f"{secure.url}/ft.pyz"
    install(
        path=install.path(downloader), env={"FT_RELEASE_URL": secure.url, **trust(tls, tmp_path)}
    )
    assert install.version() == "ft 0.2.0\n"
    assert secure.paths[-1] == "/ft.pyz"


@downloaders
def test_a_redirect_to_http_is_refused(
    unchanged: Installer,
    secure: ReleaseServer,
    tls: Tls,
    tmp_path: Path,
    downloader: str | None,
    agent: str,
) -> None:
    secure.redirects["/0.2.0/ft.pyz"] = f"{unchanged.server.url}/ft.pyz"
    env = {"FT_RELEASE_URL": secure.url, **trust(tls, tmp_path)}
    result = unchanged(path=unchanged.path(downloader), env=env, check=1)
    assert f"/0.2.0/ft.pyz (redirected to {unchanged.server.url}/ft.pyz); nothing" in result.stderr
    assert unchanged.server.requests == []


@downloaders
def test_a_redirect_from_loopback_is_refused(
    unchanged: Installer, tmp_path: Path, downloader: str | None, agent: str
) -> None:
    with ReleaseServer(unchanged.server.site) as elsewhere:
        unchanged.server.redirects["/VERSION"] = f"{elsewhere.url}/VERSION"
        tools = unchanged.path(downloader)
        unchanged(path=tools, check=1)
        assert elsewhere.requests == []


# --- checksums ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "program",
    [
        pytest.param("sha256sum", marks=pytest.mark.needs("sha256sum")),
        pytest.param("shasum", marks=pytest.mark.needs("shasum")),
        "python3",
    ],
)
def test_every_checksum_program_tells_right_from_wrong(
    install: Installer, site: Path, program: str
) -> None:
    tools = install.links(
        *TOOLS, "curl", *([] if program == "python3" else [program]), python3=REAL_PYTHON
    )
    if program == "shasum":
        (tools / "perl").symlink_to(shutil.which("perl") or "perl")
    install(path=tools)
    assert install.version() == "ft 0.2.0\n"
    (site / "0.1.0" / "ft.pyz").write_bytes(archive("0.1.0") + b"\n")
    result = install("--version", "0.1.0", path=tools, check=1)
    assert sums(archive("0.1.0") + b"\n")[:64] in result.stderr
    assert install.version() == "ft 0.2.0\n"


def test_ft_sha256_is_enough(install: Installer, site: Path) -> None:
    (site / "0.2.0" / "SHA256SUMS").unlink()
    install(env={"FT_SHA256": sums(archive("0.2.0"))[:64].upper()})
    assert install.version() == "ft 0.2.0\n"


def test_sums_written_on_windows_or_in_binary_mode_are_read(install: Installer, site: Path) -> None:
    published = sums(archive("0.2.0"), "*ft.pyz").replace("  *", " *")
    for text in (published.strip(), published.replace("\n", "\r\n") + sums(b"", "install.sh")):
        (site / "0.2.0" / "SHA256SUMS").write_bytes(text.encode())
        install()
        assert install.version() == "ft 0.2.0\n"


# --- refused --------------------------------------------------------------------------------------


class Refusal(NamedTuple):
    """What is refused, and with which words after `error: `; where they end in `...` others follow.

    `files` are written below the test's directory before. `asked` is what is downloaded, None for
    whatever it is. `shells`: in every shell, not only in sh.
    """

    words: str
    flags: str = ""
    files: Mapping[str, bytes | str] = {}
    env: Mapping[str, str] = {}
    code: int = 1
    asked: Sequence[str] | None = None
    shells: bool = False


def bad_flag(flag: str, words: str, shells: bool = False) -> Refusal:
    return Refusal(words, flag, code=2, asked=(), shells=shells)


def offline(words: str, sums_file: str = "", pin: str = "") -> Refusal:
    """An ft.pyz of version 0.5.0 with that SHA256SUMS beside it, or that FT_SHA256."""
    files = {"ft.pyz": archive("0.5.0"), **({"SHA256SUMS": sums_file} if sums_file else {})}
    env = {"FT_SHA256": pin} if pin else {}
    return Refusal(words, "--from {tmp}/ft.pyz", files, env, asked=())


def new_file(source: str, words: str, shells: bool = False) -> Refusal:
    """A version 0.2.0 that consists of this source."""
    data = archive("0.2.0", source)
    files = {"site/0.2.0/ft.pyz": data, "site/0.2.0/SHA256SUMS": sums(data)}
    return Refusal(words + "; nothing was changed", files=files, shells=shells)


def site_file(name: str, text: str, words: str, shells: bool = False) -> Refusal:
    return Refusal(words, files={f"site/{name}": text}, shells=shells)


ZEROS = "0" * 64
OTHER_SUM = "the SHA-256 of {tmp}/ft.pyz is..."
NO_SUM = "no checksum of ft.pyz in the SHA256SUMS beside ..."
NO_VERSION = "there is no version number in {url}/VERSION"
NOT_ZEROS = (
    f"the SHA-256 of {{url}}/0.2.0/ft.pyz is '{sums(archive('0.2.0'))[:64]}', not '{ZEROS}'; "
    "nothing was changed"
)
NO_START = "the new ft does not run in {bin}"
SAYS = "{url}/0.2.0/ft.pyz says that it is '%s', not 'ft 0.2.0'"
NO_PLACE = "cannot write in %s; choose another directory with --prefix"
REFUSALS = {
    "a flag": bad_flag("--force", "unknown argument: --force (--help lists the flags)", True),
    "an argument": bad_flag("0.1.0", "unknown argument: 0.1.0 (--help lists the flags)"),
    "a flag and a value": bad_flag("--force=1", "unknown argument: --force (--help lists the..."),
    "a value too many": bad_flag("--quiet=1", "unknown argument: 1 (--help lists the flags)"),
    "no version": bad_flag("--version", "--version needs a value"),
    "no prefix": bad_flag("--prefix=", "--prefix needs a value"),
    **{
        f"version {text}": bad_flag(f"--version={text}", f"not a version such as 0.1.0: {text}")
        for text in ("0.1", "v0.1.0", "../../etc", "1.2.3.4", "1..2")
    },
    "a page for VERSION": site_file("VERSION", "<html>Log in to this network</html>", NO_VERSION),
    "half a VERSION": site_file("VERSION", "0.2", NO_VERSION),
    "a path in VERSION": site_file("VERSION", "0.2.0/..", NO_VERSION),
    "nothing in VERSION": site_file("VERSION", "", NO_VERSION),
    "a wrong sum": site_file("0.2.0/SHA256SUMS", f"{ZEROS}  ft.pyz\n", NOT_ZEROS, True),
    "no sums": site_file("0.2.0/SHA256SUMS", "", NO_SUM, True),
    "an old file's sum": site_file(
        "0.2.0/SHA256SUMS", sums(archive("0.2.0"), "ft.pyz.old"), NO_SUM
    ),
    "a path's sum": site_file("0.2.0/SHA256SUMS", sums(archive("0.2.0"), "x/ft.pyz"), NO_SUM),
    "a page for the sums": site_file("0.2.0/SHA256SUMS", "<html>", NO_SUM),
    "another FT_SHA256": Refusal(
        NOT_ZEROS, env={"FT_SHA256": ZEROS}, asked=("/VERSION", "/0.2.0/ft.pyz")
    ),
    "an ft that fails": new_file("raise SystemExit(1)", NO_START, True),
    "an ft that is no Python": new_file("def main(:", NO_START),
    **{
        f"an ft that says {text!r}": new_file(f"def main(): print({text!r})", SAYS % text)
        for text in ("ft 0.3.0", "ft 0.2.01", "")
    },
    "offline, no sum": offline(
        "cannot verify {tmp}/ft.pyz: put the release's SHA256SUMS beside it or set FT_SHA256; "
        "nothing was changed"
    ),
    "offline, another version's sum": offline(OTHER_SUM, sums(archive("0.5.0") + b"!")),
    "offline, a wrong sum": offline(OTHER_SUM, f"{ZEROS}  ft.pyz\n"),
    "offline, another file's sum": offline(NO_SUM, sums(archive("0.5.0"), "other.pyz")),
    "offline, FT_SHA256 wins": offline(OTHER_SUM, sums(archive("0.5.0")), ZEROS),
    "offline, FT_SHA256 alone": offline(OTHER_SUM, pin="no sum at all"),
    **{
        f"prefix {place}": Refusal(
            NO_PLACE % place, f"--prefix {place}", {"file": ""}, asked=(), shells=shells
        )
        for place, shells in (
            *(("{tmp}/file/bin", True), ("{tmp}/file", False)),
            *(("/proc/bin", False), ("/dev/null", False)),
        )
    },
}


@pytest.mark.parametrize(
    ("name", "shell"),
    [
        pytest.param(name, shell, marks=pytest.mark.needs(shell))
        for name, refusal in REFUSALS.items()
        for shell in (SHELLS if refusal.shells else ("sh",))
    ],
)
def test_what_is_refused_changes_nothing(
    unchanged: Installer, site: Path, tmp_path: Path, name: str, shell: str
) -> None:
    refusal = REFUSALS[name]
    for path, content in refusal.files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / path).write_bytes(data)
    places = {"tmp": tmp_path, "url": unchanged.server.url, "bin": unchanged.bin}
    flags = refusal.flags.format(**places).split()
    result = unchanged(*flags, shell=shell, env=refusal.env, check=refusal.code)
    last = result.stderr.splitlines()[-1]  # before it, a new ft may have had its say
    words, dots, _ = f"error: {refusal.words.format(**places)}".partition("...")
    assert last.startswith(words) if dots else last == words
    assert refusal.code != 2 or result.stdout == ""
    assert refusal.asked is None or unchanged.server.paths == list(refusal.asked)


# --- nothing by halves ----------------------------------------------------------------------------


@every_shell
def test_a_truncated_script_runs_nothing(unchanged: Installer, tmp_path: Path, shell: str) -> None:
    """Every program that the script could call says that it was called; none is."""
    log = tmp_path / "called"
    canaries = tmp_path / "canaries"
    canaries.mkdir()
    pythons = ["python", "python3", *(f"python3.{n}" for n in range(8, 15))]
    for name in [*TOOLS, *pythons, "curl", "wget", "sha256sum"]:
        (canaries / name).write_text(f'#!/bin/sh\necho "$0" >>"{log}"\nexit 1\n')
        (canaries / name).chmod(0o755)
    script = SCRIPT.read_bytes()
    complete = script.rstrip()
    assert complete.endswith(b'\nmain "$@"\n}')
    command = [shutil.which(shell) or shell, *SHELLS[shell]]
    env = unchanged.env({"FT_BASE_URL": unchanged.server.url}, canaries)

    def run(length: int) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            command,
            input=script[:length],
            env=env,
            cwd=unchanged.home,
            capture_output=True,
            check=False,
        )

    begins = script.index(b"\n{\n") + 2
    last_line = range(len(complete) - 12, len(complete))
    for length in [*range(0, len(complete), 37), *last_line]:
        result = run(length)
        assert result.stdout == b"", length
        # Half of it is an error, not a success.
        assert result.returncode != 0 or length < begins, length
    assert not log.exists()
    assert unchanged.server.requests == []
    assert run(len(complete)).returncode == 1  # the canaries do sing
    assert log.exists()


@every_shell
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_signal_leaves_everything_as_it_was(unchanged: Installer, shell: str, name: str) -> None:
    number = getattr(signal, name)
    unchanged.server.cut.add("/0.2.0/ft.pyz")
    unchanged.server.hold = True
    # What is ignored here, as under nohup, no shell can trap.
    before = signal.signal(number, signal.SIG_DFL)
    process = unchanged.start(shell=shell, check=128 + number)
    signal.signal(number, before)
    assert unchanged.server.held.wait(20)
    assert len(list(unchanged.bin.iterdir())) == 2  # its temporary directory
    os.killpg(process.pid, number)  # as a terminal does
    process.finish()


@pytest.mark.needs("unshare")
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ro", "cannot write in {bin}"),
        ("size=300k", "cannot"),
        ("noexec", "the new ft does not run in {bin}"),
    ],
)
def test_a_read_only_full_or_noexec_disk_keeps_the_old_file(
    installed: Installer, private_mounts: Callable[..., list[str]], options: str, message: str
) -> None:
    """Full: there is room for one, not for two."""
    there = str(installed.bin)
    prefix = private_mounts(
        f"cp -p {there}/ft {there}/../ft.old",
        f"mount -t tmpfs -o size=1m none {there}",
        f"cp -p {there}/../ft.old {there}/ft",
        f"mount -o remount,{options} {there}",
    )
    # The shell outlives the script, to look at what only it sees.
    look = f'"$@"; code=$?; cmp {there}/ft {there}/../ft.old; ls -A {there}; exit $code'
    prefix = [*prefix, "sh", "-c", look, "sh"]
    result = installed(prefix=prefix, path=f"{installed.tools}:/bin:/sbin:/usr/bin", check=1)
    assert f"error: {message.format(bin=there)}" in result.stderr
    assert result.stdout.splitlines()[-1] == "ft"  # and no temporary one, and cmp has said nothing
    assert "differ" not in result.stdout


# --- Pythons --------------------------------------------------------------------------------------


@pytest.fixture
def old_python(tmp_path: Path) -> str:
    """A `python3` that ft does not run on: the real one that FT_OLD_PYTHON names, or one that says
    so.
    """
    if os.environ.get("FT_OLD_PYTHON"):
        return os.environ["FT_OLD_PYTHON"]
    fake = tmp_path / "python3.6"
    run = "import sys; sys.version_info = (3, 6, 15); exec(sys.argv[1])"
    fake.write_text(
        f"""#!/bin/sh
case $1 in
    --version) echo Python 3.6.15 ;;
    -c) exec {REAL_PYTHON} -c '{run}' "$2" ;;
    *) exit 1 ;;
esac
"""
    )
    fake.chmod(0o755)
    return str(fake)


@every_shell
def test_an_old_python3_first_on_path_pins_the_shebang_to_a_newer_one(
    install: Installer, site: Path, old_python: str, shell: str
) -> None:
    newer = f"python3.{min(sys.version_info.minor, 14)}"
    tools = install.links(*TOOLS, "curl", "sha256sum", python3=old_python, **{newer: REAL_PYTHON})
    for version in ("0.1.0", "0.2.0"):  # an upgrade knows the pinned file again
        install("--version", version, shell=shell, path=tools)
        assert install.version(tools) == f"ft {version}\n"
    first, _, rest = install.ft.read_bytes().partition(b"\n")
    assert first.decode() == f"#!/usr/bin/env {tools / newer}"
    assert rest == (site / "ft.pyz").read_bytes().partition(b"\n")[2]
    with zipfile.ZipFile(io.BytesIO(install.ft.read_bytes())) as zipped:
        assert zipped.testzip() is None
    install("--uninstall", shell=shell, path=tools)
    assert files(install.home) == {"bin": None}


def test_python_in_a_short_or_spaced_directory_can_be_pinned(
    install: Installer, tmp_path: Path
) -> None:
    spaced = install.links(python=REAL_PYTHON).rename(tmp_path / "a b")
    install(path=f"{install.links(*TOOLS, 'curl')}:{spaced}")
    assert install.ft.read_bytes().startswith(f"#!/usr/bin/env {spaced}/python\n".encode())
    if sys.platform == "linux":  # elsewhere a first line is split at every space
        assert install.version(spaced) == "ft 0.2.0\n"


@every_shell
def test_without_a_new_enough_python_it_says_what_it_found(
    unchanged: Installer, old_python: str, shell: str
) -> None:
    tools = unchanged.links(*TOOLS, "curl", "sha256sum", python3=old_python)
    result = unchanged(shell=shell, path=tools, check=1)
    assert re.fullmatch(
        r"error: ft needs Python 3\.8 or newer; found Python 3\.[0-7]\.\d+\n", result.stderr
    )
    (tools / "python3").unlink()
    result = unchanged(shell=shell, path=tools, check=1)
    assert result.stderr == "error: ft needs Python 3.8 or newer; found none\n"


def test_a_python_that_went_away_is_replaced_by_installing_again(
    install: Installer, old_python: str
) -> None:
    tools = install.links(*TOOLS, "curl", python3=old_python, **{"python3.9": REAL_PYTHON})
    install(path=tools)
    (tools / "python3.9").rename(tools / "python3.12")
    with pytest.raises(subprocess.CalledProcessError):
        install.version(tools)
    install(path=tools)
    assert install.version(tools) == "ft 0.2.0\n"


# --- what is there already ------------------------------------------------------------------------


@every_shell
def test_another_program_called_ft_is_left_alone(install: Installer, shell: str) -> None:
    install.bin.mkdir()
    install.ft.write_text("#!/bin/sh\necho ft 0.1.0\n")
    install.ft.chmod(0o755)
    expected = (
        f"error: {install.ft} is not from this script (but from pip or pipx?); it was left alone\n"
    )
    for flags in ([], ["--uninstall"]):
        assert install(*flags, shell=shell, check=1).stderr == expected
    assert files(install.home) == {"bin": None, "bin/ft": b"#!/bin/sh\necho ft 0.1.0\n"}


@pytest.mark.parametrize("flags", [[], ["--uninstall"]])
def test_a_directory_or_a_device_called_ft_is_left_alone(
    install: Installer, flags: list[str]
) -> None:
    install.ft.mkdir(parents=True)
    assert "is not from this script" in install(*flags, check=1).stderr
    install.ft.rmdir()
    install.ft.symlink_to("/dev/null")
    assert "error: /dev/null is not from this script" in install(*flags, check=1).stderr
    assert os.readlink(install.ft) == "/dev/null"


@every_shell
def test_a_link_stays_and_the_file_it_leads_to_is_replaced(
    installed: Installer, shell: str
) -> None:
    opt = installed.home / "opt"
    opt.mkdir()
    installed.ft.rename(opt / "ft.pyz")
    installed.ft.symlink_to("../opt/ft.pyz")
    installed(shell=shell)
    assert os.readlink(installed.ft) == "../opt/ft.pyz"
    assert (opt / "ft.pyz").read_bytes() == archive("0.2.0")
    installed("--uninstall", shell=shell)
    assert files(installed.home) == {"bin": None, "opt": None}


def test_the_link_of_pipx_is_left_alone(install: Installer) -> None:
    script = install.home / "venv" / "bin" / "ft"
    script.parent.mkdir(parents=True)
    script.write_text("#!/home/me/venv/bin/python\nfrom ft import main\nmain()\n")
    install.bin.mkdir()
    install.ft.symlink_to(script)
    before = files(install.home)
    assert f"error: {script} is not from this script" in install(check=1).stderr
    assert files(install.home) == before


# --- PATH -----------------------------------------------------------------------------------------


@across_shells("login_shell", "/bin/bash", "/usr/bin/fish")
def test_the_line_for_path_is_printed_when_it_is_needed(
    install: Installer, shell: str, login_shell: str
) -> None:
    env = {"SHELL": login_shell}
    line = (
        f"fish_add_path '{install.bin}'"
        if "fish" in login_shell
        else f"export PATH='{install.bin}':\"$PATH\""
    )
    result = install(shell=shell, env=env, path=f"{install.tools}:{install.home}/*")
    assert result.stdout.splitlines()[-2:] == [
        f"{install.bin} is not on PATH. To add it, put this line into your shell's start-up file:",
        f"    {line}",
    ]
    result = install(shell=shell, env=env, path=f"{install.tools}:{install.bin}/")
    assert result.stdout.endswith(f"Installed ft 0.2.0 in {install.ft}\n")
    assert files(install.home).keys() == {"bin", "bin/ft"}  # no start-up file was touched


@pytest.mark.parametrize(
    "login_shell", [pytest.param(name, marks=pytest.mark.needs(name)) for name in ("sh", "fish")]
)
def test_that_line_makes_ft_a_command(install: Installer, login_shell: str) -> None:
    """Whatever the directory is called."""
    place = install.home / "a b'c\"$(id)`id`$HOME"
    line = install(
        "--prefix", str(place), env={"SHELL": shutil.which(login_shell)}
    ).stdout.splitlines()[-1]
    check = subprocess.run(
        [login_shell, "-c", line + "\nft --version"],
        env={"PATH": str(install.tools), "HOME": str(install.home)},
        capture_output=True,
        text=True,
        check=True,
        executable=shutil.which(login_shell),
    )
    assert check.stdout == "ft 0.2.0\n"


@every_shell
def test_a_shell_that_stops_at_failures_installs_it(install: Installer, shell: str) -> None:
    command = [shutil.which(shell) or shell, *SHELLS[shell], "-e", "-s", "--"]
    process = Process(
        command, env=install.env({}, None), cwd=install.home, stdin=SCRIPT.read_bytes(), check=0
    )
    process.finish()
    assert install.version() == "ft 0.2.0\n"


@every_shell
def test_a_reader_that_goes_away_changes_nothing(
    installed: Installer, server: ReleaseServer, shell: str
) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    command = [shutil.which(shell) or shell, *SHELLS[shell], str(SCRIPT)]
    env = installed.env({}, None)
    result = subprocess.run(
        command, env=env, cwd=installed.home, stdout=writer, stderr=subprocess.PIPE, check=True
    )
    os.close(writer)
    assert result.stderr == b""
    assert installed.version() == "ft 0.2.0\n"


@every_shell
def test_github_path_gets_the_directory(install: Installer, shell: str) -> None:
    github_path = install.directory / "github-path"
    github_path.write_text("/opt/hostedtoolcache\n")
    env = {"GITHUB_PATH": str(github_path)}
    result = install(shell=shell, env=env)
    assert github_path.read_text() == f"/opt/hostedtoolcache\n{install.bin}\n"
    assert result.stdout.endswith(f"Installed ft 0.2.0 in {install.ft}\n")
    install(shell=shell, env=env, path=f"{install.tools}:{install.bin}")
    assert github_path.read_text() == f"/opt/hostedtoolcache\n{install.bin}\n"
    result = install("--quiet", shell=shell, env={"GITHUB_PATH": str(install.directory)})
    assert f"warning: cannot add {install.bin} to GITHUB_PATH\n" in result.stderr


@every_shell
def test_another_ft_earlier_on_path_is_warned_of(install: Installer, shell: str) -> None:
    other = install.links(ft=shutil.which("true") or "/bin/true")
    again = install.links(ft=shutil.which("true") or "/bin/true")
    path = f"{install.tools}:{other}:{again}:{install.bin}"
    result = install("--quiet", shell=shell, path=path)
    assert (
        result.stderr == f"warning: `ft` is {other}/ft, which comes before {install.bin} on PATH\n"
    )
    assert install(shell=shell, path=f"{install.tools}:{install.bin}:{other}").stderr == ""
    # An empty entry is the working directory.
    result = install(shell=shell, path=f"{install.tools}::{install.bin}", cwd=other)
    assert result.stderr == f"warning: `ft` is ./ft, which comes before {install.bin} on PATH\n"


# --- flags ----------------------------------------------------------------------------------------


@every_shell
def test_quiet_prints_nothing(install: Installer, shell: str) -> None:
    for flags, env in (
        (["--quiet"], {}),
        ([], {"FT_QUIET": "1"}),
        (["--quiet", "--uninstall"], {}),
    ):
        result = install(*flags, shell=shell, env=env)
        assert (result.stdout, result.stderr) == ("", "")


@every_shell
def test_help_names_every_flag_and_does_nothing(unchanged: Installer, shell: str) -> None:
    result = unchanged("--help", shell=shell)
    for flag in (
        "--version",
        "--prefix",
        "--from",
        "--base-url",
        "--quiet",
        "--uninstall",
        "--help",
    ):
        assert f"\n  {flag} " in result.stdout
    for variable in re.findall(r"\bFT_[A-Z0-9_]+", SCRIPT.read_text()):
        assert variable in result.stdout
    assert result.stderr == ""
    assert unchanged("-h", shell=shell).stdout == result.stdout


# --- uninstalling ---------------------------------------------------------------------------------


@every_shell
def test_uninstall_removes_ft_and_nothing_else(installed: Installer, shell: str) -> None:
    settings = installed.home / ".config" / "finetuning" / "config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text("{}")
    (installed.bin / "other").touch()
    result = installed("--uninstall", shell=shell)
    assert list(files(installed.bin)) == ["other"]
    assert settings.exists()
    lines = result.stdout.splitlines()
    assert lines[0] == f"Removed {installed.ft}"
    assert "`ft auth logout`" in lines[1]
    assert installed.server.requests == []
    result = installed("--uninstall", shell=shell, check=1)
    assert (
        result.stderr
        == f"error: there is no ft in {installed.bin}; say with --prefix where it is\n"
    )


@pytest.mark.skipif(sys.platform == "darwin", reason="it names other places there")
def test_the_lines_that_uninstall_prints_remove_the_rest(
    installed: Installer, tmp_path: Path
) -> None:
    settings = installed.home / ".config" / "finetuning" / "config.json"
    settings.parent.mkdir(parents=True)
    settings.write_text("{}")
    lines = installed("--uninstall").stdout.splitlines()[2:]
    secret_tool = tmp_path / "secret-tool"
    secret_tool.write_text('#!/bin/sh\necho "$*"\n')
    secret_tool.chmod(0o755)
    env = {"HOME": str(installed.home), "PATH": f"{tmp_path}:{installed.tools}"}
    forgot = subprocess.run(
        [shutil.which("sh") or "sh", "-c", "\n".join(lines)],
        env=env,
        check=True,
        capture_output=True,
        text=True,
    )
    assert forgot.stdout == "clear service finetuning username default\n"
    assert files(installed.home) == {"bin": None, ".config": None}


# --- the real ft.pyz ------------------------------------------------------------------------------


@every_shell
def test_the_real_ft_runs_with_nothing_but_python(
    install: Installer, pytestconfig: pytest.Config, shell: str
) -> None:
    file = Path(pytestconfig.ft_pyz)  # type: ignore[attr-defined]
    install("--from", str(file), env={"FT_SHA256": sums(file.read_bytes()).split()[0]}, shell=shell)
    only_python = install.links(python3=REAL_PYTHON)
    for command in ("--version", "help"):
        result = subprocess.run(
            [install.ft, command],
            env={"PATH": str(only_python)},
            cwd="/",
            capture_output=True,
            text=True,
            check=True,
        )
        assert "ft " in result.stdout
        assert result.stderr == ""


@pytest.mark.needs("curl")
def test_what_make_dist_writes_is_a_release_site(install: Installer, tmp_path: Path) -> None:
    build.dist(tmp_path / "dist", [PYTHON])
    with ReleaseServer(tmp_path / "dist") as server:
        line = f"curl -fsS {server.url}/install.sh | sh -s -- --base-url {server.url}"
        install(
            argv=[shutil.which("sh") or "sh", "-c", line],
            path=install.links(*TOOLS, "curl", "sh", python3=REAL_PYTHON),
        )
        version = build.version()
        assert install.version() == f"ft {version}\n"
        install("--base-url", server.url, "--version", version)
    assert install.ft.read_bytes() == (tmp_path / "dist" / "ft.pyz").read_bytes()
