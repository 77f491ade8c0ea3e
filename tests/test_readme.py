"""The README is true: each of its commands is run as it stands, its tables are what ft says, its
picture is made anew.

What would reach the internet is run against a release site on loopback, with only the address
replaced: see `online`.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Callable, Iterator

import build
import pytest
from conftest import PYTHON, ROOT, Result, Runner
from release_server import ReleaseServer
from sandbox import Sandbox

pytestmark = [pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")]

VERSION = subprocess.check_output([PYTHON, str(ROOT / "ft.py"), "--version"], text=True)
README = (ROOT / "README.md").read_text(encoding="utf-8")
SITE = "https://finetuning.ai/cli"
BLOCKS: list[tuple[str, str]] = re.findall(
    r"^```(\w+)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL
)
SHELL = [block for language, block in BLOCKS if language == "sh"]
TRACK = "07e8d430-2310-4c57-87a8-cf1e6db376f7"


def block(word: str, language: str = "sh") -> str:
    """The one block with this word in it."""
    (found,) = (text for kind, text in BLOCKS if kind == language and word in text)
    return found


# What is not simply run in a shell against the sandbox; each is the matter of a test of its own
# below.
SPECIAL = [
    block(word)
    for word in (
        "install.sh | sh",
        "pip install",
        "ft.pyz",
        "sandbox.py",
        "ft auth login\n",
        "--stdin",
        "ft batch prompts.txt -o",
        "ft batch prompts.txt --yes",
        "ft batch jingles.csv",
        "tests/run.py",
        "ft doctor",
    )
]
PLAIN = [text for text in SHELL if text not in SPECIAL]


@pytest.fixture
def online(tmp_path: Path) -> Iterator[ReleaseServer]:
    """A release of this very program, served on loopback in place of SITE."""
    build.dist(tmp_path / "site", [PYTHON])
    with ReleaseServer(tmp_path / "site") as server:
        yield server


@pytest.fixture
def machine(ft: Runner) -> Callable[..., Result]:
    """Runs a block of the README with bash, which stops at the first command that fails. `python3`
    is the one under test.
    """
    directory = ft.home / ".bin"
    directory.mkdir()
    python = directory / "python3"
    python.write_text(f'#!/bin/sh\nexec {shlex.quote(PYTHON)} "$@"\n')
    python.chmod(0o755)

    def run(script: str, **how: object) -> Result:
        return ft.sh("set -euo pipefail\n" + script, shell="bash", **{"check": 0, **how})  # type: ignore[arg-type]

    return run


@pytest.mark.needs("bash", "jq")
@pytest.mark.parametrize("script", PLAIN, ids=lambda script: script.splitlines()[0][:50])
def test_its_commands_work(machine: Callable[..., Result], script: str) -> None:
    result = machine(script, speed=20)
    assert "warning:" not in result.stderr.replace(
        "warning: a9b16641-2f0c-4d4e-9b52-6f1f6c1f7d0e: Track already", ""
    )


def test_no_command_is_left_out() -> None:
    assert {language for language, _ in BLOCKS} == {
        "sh",
        "powershell",
        "yaml",
        "dockerfile",
        "json",
        "csv",
    }
    assert len(SPECIAL) == 11
    assert len(PLAIN) >= 8


# --- recipes --------------------------------------------------------------------------------------


@pytest.mark.needs("bash", "jq")
@pytest.mark.sandbox(rate_limits=True, window=4.0, seconds=0.01, queue_limit=2)
def test_a_file_of_prompts_becomes_tracks(
    machine: Callable[..., Result], sandbox: Sandbox, tmp_path: Path
) -> None:
    """Under limits a fifteenth as long as they are; one fails. The second run pays nothing."""
    prompts = [f"prompt number {n}, with 'quotes' and $dollars" for n in range(11)]
    (tmp_path / "prompts.txt").write_text("\n".join(["# twelve", *prompts, "please fail"]))
    dry, script = block("--dry-run").splitlines()
    assert "to submit" in machine(dry).stdout
    for _ in range(2):
        result = machine(script, speed=15, check=1)
        assert result.stdout.endswith("Generated 11 of 12 track(s)\n")
    accepted = [post.json["tags"] for post in sandbox.posts() if post.status == 202]
    assert accepted == [*prompts, "please fail"]
    assert len(list((tmp_path / "tracks").glob("*.mp3"))) == 11
    result = machine(block(".data.errors[] |"), speed=15, check=1)
    assert result.stdout == "line 13: Generation failed: the prompt asked for it\n"


@pytest.mark.needs("bash")
def test_a_table_of_prompts_becomes_tracks(
    machine: Callable[..., Result], sandbox: Sandbox, tmp_path: Path
) -> None:
    (tmp_path / "jingles.csv").write_text(block("prompt,", "csv"))
    machine(block("jingles.csv"), speed=15)
    jingle, piano = [post.json for post in sandbox.posts()]
    assert (jingle["duration"], jingle["bpm"], jingle["key"]) == (30, 96, "D")
    assert (piano["duration"], piano["key"]) == (90, "C")
    assert (tmp_path / "jingle.mp3").exists()


@pytest.mark.needs("bash")
def test_everything_completed_is_downloaded_once(
    machine: Callable[..., Result], sandbox: Sandbox, tmp_path: Path
) -> None:
    machine(block("ft download --all"))
    completed = [r for r in sandbox.generations.values() if r["status"] == "completed"]
    own = [r for r in completed if sandbox._owned(sandbox.keys["pro"], r["id"])]
    names = {path.name[-12:-4] for path in (tmp_path / "tracks").glob("*.mp3")}
    assert names == {record["id"][:8] for record in own}
    assert len(list((tmp_path / "tracks").glob("*.mp3.json"))) == len(own)
    result = machine(block("ft download --all"))
    assert result.stdout == f"Downloaded 0 of {len(own)} track(s), {len(own)} already there\n"


@pytest.mark.needs("bash")
def test_failures_are_cleaned_up_and_a_playlist_is_moved(
    machine: Callable[..., Result], sandbox: Sandbox
) -> None:
    assert machine(block("--status failed")).stdout == "Deleted 4 of 4 track(s)\n"
    assert not [r for r in sandbox.generations.values() if r["status"] == "failed"]
    assert machine(block("--status failed")).stdout == ""  # nothing to do is no failure
    assert machine(block('playlist move "Drafts" "Album"\n')).stdout == "Moved 12 of 12 track(s)\n"
    counts = {record["name"]: record["trackCount"] for record in sandbox.playlists.values()}
    assert (counts["Drafts"], counts["Album"]) == (0, 15)


@pytest.mark.needs("bash", "curl")
def test_the_job_of_github_actions(
    machine: Callable[..., Result], ft: Runner, online: ReleaseServer, tmp_path: Path
) -> None:
    """Its steps, as a runner runs them: with what earlier ones added to PATH."""
    steps = re.findall(r"^ +- run: (.*)$", block("steps:", "yaml"), re.MULTILINE)
    assert len(steps) == 3
    paths = tmp_path / "github_path"
    paths.touch()
    env = {
        "GITHUB_PATH": str(paths),
        "RUNNER_TEMP": str(tmp_path / "runner"),
        "FT_RELEASE_URL": online.url,
    }
    for step in steps:
        added = "".join(f"{path}:" for path in reversed(paths.read_text().splitlines()))
        machine(f'export PATH="{added}$PATH"\n' + step.replace(SITE, online.url), env=env, speed=20)
    assert (tmp_path / "jingle.mp3").exists()
    assert Path(paths.read_text().strip(), "ft").exists()


@pytest.mark.needs("bash", "unshare")
@pytest.mark.skipif(sys.platform != "linux", reason="network namespaces are Linux's")
def test_the_image_without_a_network(
    machine: Callable[..., Result], online: ReleaseServer, tmp_path: Path
) -> None:
    """No image is built here: its RUN line is run in a network namespace that has no network, its
    files elsewhere.
    """
    text = block("FROM", "dockerfile")
    copied = re.search(r"^COPY (.*) /tmp/ft/$", text, re.MULTILINE)
    line = re.search("^RUN (.*)$", text, re.MULTILINE)
    assert copied
    assert line
    for place in ("tmp/ft", "usr"):
        (tmp_path / place).mkdir(parents=True)
    for name in copied[1].split():
        shutil.copy(tmp_path / "site" / name, tmp_path / "tmp" / "ft")
    line_here = (
        line[1]
        .replace("/tmp/", f"{tmp_path}/tmp/")
        .replace("/usr/local/bin", str(tmp_path / "usr"))
    )
    if subprocess.run(["unshare", "-rn", "true"], check=False).returncode:
        pytest.skip("may not make a network namespace")
    machine(f"unshare -rn sh -c {shlex.quote(line_here)}")
    assert os.listdir(tmp_path / "tmp") == []
    assert online.requests == []
    result = machine(f"{tmp_path}/usr/ft --version")  # what ENTRYPOINT names
    assert result.stdout == VERSION


# --- installing and signing in --------------------------------------------------------------------


@pytest.mark.needs("bash", "curl")
def test_the_one_liner_installs_and_uninstalls(
    machine: Callable[..., Result], online: ReleaseServer, tmp_path: Path
) -> None:
    env = {"FT_RELEASE_URL": online.url, "FT_INSTALL_DIR": str(tmp_path / "bin")}
    machine(block("install.sh | sh").replace(SITE, online.url), env=env)
    assert machine(f"{tmp_path}/bin/ft --version").stdout == VERSION
    remove = re.search("`(curl [^`]* --uninstall)`", README)
    assert remove
    machine(remove[1].replace(SITE, online.url), env=env)
    assert not (tmp_path / "bin" / "ft").exists()


@pytest.mark.needs("bash", "curl", "sha256sum")
def test_the_program_without_an_installer(
    machine: Callable[..., Result], online: ReleaseServer, tmp_path: Path
) -> None:
    result = machine(block("ft.pyz").replace(SITE, online.url))
    assert result.stdout == f"ft.pyz: OK\n{VERSION}"
    shutil.copy(ROOT / "install.sh", tmp_path)
    machine("sh install.sh --from ft.pyz", env={"FT_INSTALL_DIR": str(tmp_path / "bin")})
    assert (tmp_path / "bin" / "ft").exists()


@pytest.mark.needs("bash")
def test_pip_installs_it(machine: Callable[..., Result], tmp_path: Path) -> None:
    """Its line for pip, with this project's wheel in place of PyPI and into a directory; pipx takes
    the same name.
    """
    pipx, pip = block("pip install").splitlines()
    assert pip.split()[3:] == pipx.split()[1:] == ["install", "finetuning-ft"]
    code = "import sys; from flit_core import buildapi; buildapi.build_wheel(sys.argv[1])"
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=True)
    env = {
        "PIP_NO_INDEX": "1",
        "PIP_FIND_LINKS": str(tmp_path),
        "PIP_TARGET": str(tmp_path / "packages"),
    }
    machine(pip, env={**env, "PIP_CONFIG_FILE": os.devnull})
    result = machine("packages/bin/ft --version", env={"PYTHONPATH": str(tmp_path / "packages")})
    assert result.stdout == VERSION


def test_the_lines_for_windows_are_those_of_the_installer_and_commands_of_ft(ft: Runner) -> None:
    installer = (ROOT / "install.ps1").read_text(encoding="utf-8")
    lines = [line for kind, text in BLOCKS if kind == "powershell" for line in text.splitlines()]
    assert len(lines) == 8
    for line in lines:
        if "irm" in line:
            assert f"#     {line}\n" in installer
        elif line.startswith("Remove-Item"):
            assert f'say("    {line}")\n' in installer
        else:
            program, *words = shlex.split(line.partition(" | ")[0])
            assert program == "ft.exe"
            ft(*words, *([] if words[0] in ("generate", "completion") else ["--help"]), check=0)
    assert (ft.cwd / "piano.mp3").stat().st_size > 0


@pytest.mark.needs("bash")
def test_the_first_track_needs_no_account(machine: Callable[..., Result], tmp_path: Path) -> None:
    """As written, in what a clone holds of it."""
    clone = tmp_path / "clone"
    (clone / "tests").mkdir(parents=True)
    for name in ("ft.py", "tests/sandbox.py", "tests/support", "tests/data"):
        (shutil.copytree if (ROOT / name).is_dir() else shutil.copy)(ROOT / name, clone / name)
    result = machine(block("sandbox.py"), cwd=clone, key=None)
    (track,) = clone.glob("lofi-chill-piano-*.mp3")
    assert result.stdout == f"Saved to {track.name}\n"
    assert track.stat().st_size > 200_000


def test_signing_in(machine: Callable[..., Result], ft: Runner, sandbox: Sandbox) -> None:
    process = ft.tty(*shlex.split(block("ft auth login\n"))[1:], key=None, check=0)
    process.expect("Paste your API key: ")
    process.send(sandbox.key + "\r")
    process.expect("Signed in as jane@example.com (pro tier)")
    process.finish()
    ft("auth", "logout", key=None, check=0)
    machine(block("--stdin"), env={"FT_API_KEY": sandbox.key}, key=None)
    assert "jane@example.com" in ft("me", key=None, check=0).stdout
    assert "✓ key: ft_live_07ed...****" in machine(block("ft doctor"), key=None).stdout


@pytest.mark.needs("make", "bash")
def test_make_knows_the_targets(machine: Callable[..., Result]) -> None:
    for target in {*re.findall(r"`make( \w+)?`", README), " test"}:
        machine(f"make -n{target}", cwd=ROOT)


def test_one_command_runs_the_tests() -> None:
    """It is the one that runs this, so only its help is asked for here."""
    command = shlex.split(block("tests/run.py"))
    assert command == ["python3", "tests/run.py"]
    ran = subprocess.run(
        [PYTHON, *command[1:], "--help"], cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True
    )
    assert " ".join(command) in ran.stdout


# --- tables ---------------------------------------------------------------------------------------


def test_the_table_of_commands_is_that_of_ft_help(ft: Runner) -> None:
    rows = re.findall(r"^\| `(ft [^`]*)` \| (.*) \|$", README, re.MULTILINE)
    listed = ft("help", check=0).stdout.partition("Make music:\n")[2].partition("global flags")[0]
    lines = re.sub(r"\n {3,}", " ", listed).splitlines()  # long summaries are folded
    lines = [line for line in lines if line.startswith("  ")]
    assert rows == [tuple(re.split(" {2,}", f"ft {line.strip()}", maxsplit=1)) for line in lines]


def test_the_other_tables_are_those_of_the_manual(ft: Runner) -> None:
    manual = ft("help", "--man", check=0).stdout.replace("\\fR", "").replace("\\fB", "")
    codes = re.findall(r"^\| (\d+) \|", README, re.MULTILINE)
    assert codes == ["0", "1", "2", "3", "130"]
    exits = manual.partition(".SH EXIT STATUS")[2].partition(".SH ENVIRONMENT")[0]
    assert all(re.search(rf"\b{code}\b", exits) for code in codes)
    table = re.findall(r"^\| (`[A-Z_]+`.*?) \|", README, re.MULTILINE)
    variables = [name for row in table for name in re.findall("`([A-Z_]+)`", row)]
    assert len(variables) >= 6
    assert [name for name in variables if name not in manual] == []


def test_the_configuration_is_taken(ft: Runner, sandbox: Sandbox) -> None:
    """The example shows the defaults."""
    values = json.loads(block("baseUrl", "json"))
    defaults = {"baseUrl": "https://pub.finetuning.ai", "defaultDuration": 60, "defaultBpm": 120}
    assert values == defaults
    ft.config({**values, "baseUrl": sandbox.api_url, "defaultDuration": 45})
    ft("generate", "x", "--no-wait", check=0)
    assert sandbox.posts()[0].json["duration"] == 45
    assert ft("doctor", "--json", check=0).json["unknownKeys"] == []


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "SECURITY.md"])
def test_its_links_lead_somewhere(name: str) -> None:
    text = (ROOT / name).read_text(encoding="utf-8")
    for target in re.findall(r"\]\(((?!https://)[^)]+)\)", text):
        if target.startswith("#"):
            headings = re.findall("^#+ (.*)$", text, re.MULTILINE)
            assert target[1:] in [heading.lower().replace(" ", "-") for heading in headings]
        else:
            assert (ROOT / target).exists(), target


def test_the_map_for_contributors_is_true() -> None:
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?`) \|", text.partition("## Rules")[0], re.MULTILINE)
    paths = [path for row in rows for path in re.findall(r"`([^`]+)`", row)]
    assert len(paths) > 5
    for path in paths:
        assert list(ROOT.glob(path.rstrip("/"))), path


def test_what_ft_says_of_itself_agrees(ft: Runner) -> None:
    """Messages that the troubleshooting quotes are ft's own."""
    source = (ROOT / "ft.py").read_text(encoding="utf-8")
    for quoted in (
        "is locked",
        "its certificate is not trusted",
        "still processing",
        "may have been accepted",
    ):
        assert f"`{quoted}`" in README
        assert quoted in source
    assert f"## [{VERSION.split()[1]}] - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_the_picture_is_what_the_script_makes() -> None:
    """A real session makes it; `make picture` after a change of what people see."""
    import screenshot

    assert screenshot.picture() == screenshot.PICTURE.read_text(encoding="utf-8")
