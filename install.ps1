# Installs ft, the command-line client of Finetuning.ai, on Windows, or replaces an older one:
#
#     irm https://finetuning.ai/cli/install.ps1 | iex
#     & ([scriptblock]::Create((irm https://finetuning.ai/cli/install.ps1))) -Version 0.1.0
#     & ([scriptblock]::Create((irm https://finetuning.ai/cli/install.ps1))) -Uninstall
#
# It writes one file, ft.exe, and adds its directory to your own PATH. It needs Python 3.8 or newer, never asks for
# more rights, and does not change $PROFILE. Windows PowerShell 5.1 and PowerShell 7 run it. -Help lists its parameters.
#
# The work is done by a Python program, the long text below, which reads the parameters from its standard input. The
# braces around everything keep variables and functions out of your session, and half a script from running. It throws
# and never exits: through `iex` an exit would close your window.
& {
    param(
        [string]$Version = $env:FT_VERSION,
        [string]$Prefix = $env:FT_INSTALL_DIR,
        [string]$From = $env:FT_FROM,
        [string]$BaseUrl = $(if ($env:FT_BASE_URL) { $env:FT_BASE_URL } else { $env:FT_RELEASE_URL }),
        [switch]$NoPath = [bool]$env:FT_NO_PATH,
        [switch]$Quiet = [bool]$env:FT_QUIET,
        [switch]$Uninstall,
        [switch]$Help
    )
    $usage = @'
Installs ft, the command-line client of Finetuning.ai, or replaces an older one.

  -Version X.Y.Z  this version, not the newest             (FT_VERSION)
  -Prefix DIR     the directory that ft is put into        (FT_INSTALL_DIR)
                  default: %USERPROFILE%\.local\bin
  -From FILE      install this ft.exe, beside which SHA256SUMS lies; no network is used
                                                           (FT_FROM)
  -BaseUrl URL    a mirror of https://finetuning.ai/cli    (FT_BASE_URL or FT_RELEASE_URL)
  -NoPath         do not change PATH                       (FT_NO_PATH=1)
  -Quiet          print only warnings and errors           (FT_QUIET=1)
  -Uninstall      remove ft; run `ft.exe auth logout` before to forget the key as well
  -Help           print this

The file is checked against the release's SHA256SUMS, or against FT_SHA256 when that is set.
'@
    $program = @'
import ctypes
import hashlib
import os
import re
import subprocess
import sys
import urllib.request
import zipfile

NEW_LINE = re.compile(rb"#![^\r\n]*\r\n(?=PK\x03\x04)")  # names the Python, right before the archive
BASE_URL = (
    r"https://[^/@?#\s\\]+(/[^@?#\s\\]*)?|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/[^@?#\s\\]*)?"
)


class Failure(Exception):
    pass


class NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_):
        return None


def say(text):
    if not parameters["quiet"]:
        print(text)


def warn(text):
    print("warning: " + text)


def plain(text):
    """Return text from a mirror without anything that a terminal would act on."""
    return "".join(c if c.isprintable() else "?" for c in str(text))


def download(url):
    opener = urllib.request.build_opener(NoRedirect)
    try:
        with opener.open(url, timeout=60) as answer:
            data = answer.read(64 << 20)
            announced = answer.headers.get("Content-Length")
    except Exception as error:
        raise Failure(f"cannot download {url} ({plain(error)}); nothing was changed")
    if announced and int(announced) != len(data):
        raise Failure(f"cannot download {url} (the answer broke off); nothing was changed")
    return data


def find_sum(text, name):
    for line in text.decode("ascii", "replace").splitlines():
        found = re.fullmatch(r"([0-9a-fA-F]{64}) [ *](.+)", line)
        if found and found[2] == name:
            return found[1].lower()
    raise Failure(f"no checksum of {name} in the SHA256SUMS beside it; nothing was changed")


def fetch(version):
    """Return the new ft.exe, its version if known, and where it came from. Raises Failure."""
    sums, expected = b"", os.environ.get("FT_SHA256", "").lower()
    if parameters["from"]:
        origin = parameters["from"]
        beside = os.path.join(os.path.dirname(origin), "SHA256SUMS")
        if not expected and not os.path.exists(beside):
            raise Failure(
                f"cannot verify {origin}: put the release's SHA256SUMS beside it or set FT_SHA256; "
                "nothing was changed"
            )
        with open(origin, "rb") as file:
            data = file.read()
        if not expected:
            with open(beside, "rb") as file:
                expected = find_sum(file.read(), os.path.basename(origin))
    else:
        base = (parameters["base"] or "https://finetuning.ai/cli").rstrip("/")
        if not re.fullmatch(BASE_URL, base):
            raise Failure(f"not an https:// address: {base}")
        if not version:
            version = download(f"{base}/VERSION").decode("ascii", "replace").strip()
            if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version, re.ASCII):
                raise Failure(f"there is no version number in {base}/VERSION")
        origin = f"{base}/{version}/ft.exe"
        say(f"Downloading {origin}")
        expected = expected or find_sum(download(f"{base}/{version}/SHA256SUMS"), "ft.exe")
        data = download(origin)
    found = hashlib.sha256(data).hexdigest()
    if found != expected:
        raise Failure(f"the SHA-256 of {origin} is '{found}', not '{expected}'; nothing was changed")
    if not data.startswith(b"MZ") or not NEW_LINE.search(data):
        raise Failure(f"{origin} is not an ft.exe; nothing was changed")
    return data, version, origin


def holds_ft(path):
    """Return whether a file is an archive with ft.py in it, as ft.exe and ft.pyz are. Raises OSError."""
    try:
        with zipfile.ZipFile(path) as archive:
            return "ft.py" in archive.namelist()
    except zipfile.BadZipFile:
        return False


def check_target(path):
    """Raise Failure if the file at path is not an ft, or if that cannot be known."""
    try:
        if os.path.lexists(path) and not holds_ft(path):
            raise Failure(f"{path} is not from this script; it was left alone")
    except OSError as error:
        raise Failure(f"cannot read {path}: {error.strerror or error}; nothing was changed")


def try_remove(path):
    try:
        os.remove(path)
        return True
    except OSError:
        return False


def leftovers(directory):
    """Return what older installers and replaced programs have left in the directory."""
    names = [name for name in os.listdir(directory) if re.fullmatch(r"\.ft-replaced.*\.exe", name)]
    paths = [os.path.join(directory, name) for name in names]
    starter, archive = os.path.join(directory, "ft.cmd"), os.path.join(directory, "ft.pyz")
    try:
        with open(starter, "rb") as file:
            is_ours = file.read(1000).endswith(b'"%~dp0ft.pyz" %*\r\n') and holds_ft(archive)
    except OSError:
        is_ours = False
    return paths + ([starter, archive] if is_ours else [])


def set_aside(path):
    """Rename a program out of the way, which Windows allows while it runs. Returns the new name."""
    aside = os.path.join(os.path.dirname(path), ".ft-replaced.exe")  # ft removes it
    if os.path.exists(aside) and not try_remove(aside):
        aside = f"{aside[:-4]}-{os.urandom(3).hex()}.exe"
    os.rename(path, aside)
    return aside


def put_in_place(new, target):
    try:
        os.replace(new, target)
        return
    except PermissionError:
        if not os.path.exists(target):
            raise
    aside = set_aside(target)
    try:
        os.replace(new, target)
    except BaseException:
        os.rename(aside, target)
        raise


def make_directory(directory):
    """Make a directory and return those that were missing, the innermost first."""
    missing, path = [], directory
    while not os.path.isdir(path) and os.path.dirname(path) != path:
        missing.append(path)
        path = os.path.dirname(path)
    os.makedirs(directory, exist_ok=True)
    return missing


def check_program(path, version, origin):
    try:
        ran = subprocess.run([path, "--version"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
        shown = plain(ran.stdout.decode("utf-8", "replace").strip())
    except OSError as error:
        raise Failure(f"the new ft does not run ({error.strerror}); nothing was changed")
    if ran.returncode:
        raise Failure("the new ft does not run; nothing was changed")
    if not re.fullmatch(r"ft " + (re.escape(version) if version else r"\d\S*"), shown):
        wanted = f"ft {version}".strip()
        raise Failure(f"{origin} says that it is '{shown}', not '{wanted}'; nothing was changed")
    return shown


def install(directory):
    version = parameters["version"]
    if version and not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", version, re.ASCII):
        raise Failure(f"not a version such as 0.1.0: {version}")
    target = os.path.join(directory, "ft.exe")
    check_target(target)
    # What this Python writes there goes into a copy of its own, which no other program sees.
    if "\\WindowsApps\\" in sys.executable and re.search(r"(?i)\\AppData\\", target):
        raise Failure(
            f"the Python from the Microsoft Store cannot write to {directory}: say with -Prefix "
            "where else to install ft"
        )
    data, version, origin = fetch(version)
    # Windows would look for a bare name in the current directory first. The launcher `py` survives
    # an upgrade of Python; a virtual environment may be deleted.
    python = f'"{getattr(sys, "_base_executable", None) or sys.executable}"'
    if parameters["launcher"]:
        python = f'"{parameters["launcher"]}" -3'
    found = NEW_LINE.search(data)
    data = data[: found.start()] + f"#!{python}\r\n".encode() + data[found.end() :]
    # In the same directory, because only there a rename replaces the old file in one step.
    new = os.path.join(directory, f".ft-{os.urandom(6).hex()}.exe")
    made, done = [], False
    try:
        made = make_directory(directory)
        with open(new, "xb") as file:
            file.write(data)
        os.chmod(new, 0o755)
        shown = check_program(new, version, origin)
        put_in_place(new, target)
        done = True
    except OSError as error:
        raise Failure(f"cannot write {target}: {error.strerror or error}; nothing was changed")
    finally:
        if not done:
            try_remove(new)
            for path in made:
                try:
                    os.rmdir(path)
                except OSError:
                    break
    for path in leftovers(directory):
        try_remove(path)
    say(f"Installed {shown} in {target}")
    explain_names(directory)


def is_entry(entry, directory):
    spelt = [os.path.expandvars(text).strip('"').rstrip("\\/") for text in (entry, directory)]
    return os.path.normcase(spelt[0]) == os.path.normcase(spelt[1])


def explain_names(directory):
    for entry in os.environ.get("PATH", "").split(os.pathsep):
        if is_entry(entry, directory):
            break
        others = [os.path.join(entry.strip('"'), f"ft{end}") for end in (".com", ".exe", ".bat", ".cmd")]
        for other in filter(os.path.isfile, others if os.path.isabs(entry.strip('"')) else []):
            warn(f"{other} comes before {directory} on PATH")
            return
    say("PowerShell has a command ft of its own (Format-Table): type ft.exe there, or put this line into")
    say("your $PROFILE:")
    say("    Remove-Item Alias:ft -Force")


def uninstall(directory):
    target = os.path.join(directory, "ft.exe")
    old = leftovers(directory) if os.path.isdir(directory) else []
    if not os.path.lexists(target) and not old:
        raise Failure(f"there is no ft in {directory}; say with -Prefix where it is")
    check_target(target)
    for path in [target, *old]:
        try:
            if os.path.lexists(path):
                os.remove(path)
        except OSError as error:
            raise Failure(f"cannot remove {path}: {error.strerror}")
    try:
        os.rmdir(directory)
    except OSError:  # there is something else in it
        pass
    say(f"Removed {target}")
    say("Your settings remain, and your API key, too, unless you ran `ft.exe auth logout` before. To remove them:")
    say("    Remove-Item -Recurse $env:APPDATA\\finetuning")
    say("    cmdkey /delete:finetuning:default")


if os.name == "nt":  # print what PowerShell reads
    code_page = ctypes.windll.kernel32.GetConsoleOutputCP() or ctypes.windll.kernel32.GetOEMCP()
    try:
        sys.stdout.reconfigure(encoding=f"cp{code_page}")
    except LookupError:  # Python knows ISO 8859 and some others by other names
        sys.stdout.reconfigure(encoding="ascii")
sys.stdout.reconfigure(errors="backslashreplace")
try:
    (uninstall if parameters["uninstall"] else install)(parameters["directory"])
except Failure as failure:
    print(f"error: {failure}")
    sys.exit(1)
except OSError as error:
    print(f"error: {error.filename or 'cannot install ft'}: {error.strerror or error}")
    sys.exit(1)
'@
    if ($args) { throw "unknown argument: $($args[0]) (-Help lists the parameters)" }
    if ($Help) { Write-Host $usage; return }
    if ($env:OS -ne 'Windows_NT') {
        throw 'this script is for Windows; elsewhere run: curl -fsSL https://finetuning.ai/cli/install.sh | sh'
    }
    # What a program writes to stderr is no reason to stop, and neither is a $ErrorActionPreference of yours.
    $ErrorActionPreference = 'Continue'
    $PSNativeCommandUseErrorActionPreference = $false
    $python, $launcher, $failure = $null, '', ''
    $options = @()
    foreach ($name in 'py', 'python', 'python3') {
        foreach ($found in @(Get-Command $name -CommandType Application -All -ErrorAction SilentlyContinue)) {
            $options = @(if ($name -eq 'py') { '-3' })
            try {
                & $found.Source @options -I -c 'import sys; sys.exit(sys.version_info < (3, 8))' 2>&1 | Out-Null
            } catch {
                continue # it is no program
            }
            if ($LASTEXITCODE -eq 0) { $python = $found.Source; break }
        }
        if ($python) { break }
    }
    if (-not $python) {
        throw 'ft needs Python 3.8 or newer, and found none: https://www.python.org/downloads/windows/'
    }
    if ($options -and $python -like '*.exe') { $launcher = $python }
    if (-not $Prefix -and -not $env:USERPROFILE) { throw 'USERPROFILE is not set: say with -Prefix where to install ft' }
    $paths = $ExecutionContext.SessionState.Path
    try {
        $directory = if ($Prefix) { $Prefix } else { Join-Path $env:USERPROFILE '.local\bin' }
        $directory = $paths.GetUnresolvedProviderPathFromPSPath($directory)
        if ($From) { $From = $paths.GetUnresolvedProviderPathFromPSPath($From) }
        if (-not [IO.Path]::IsPathRooted($directory)) { throw "not a directory: $directory" }
    } catch {
        throw $_.Exception.GetBaseException().Message # else PowerShell would print it and go on
    }
    if ($directory.Length -gt 3) { $directory = $directory.TrimEnd('\') }
    $parameters = ConvertTo-Json -Compress @{
        version = $Version; directory = $directory; base = $BaseUrl; launcher = $launcher
        'from' = $From; quiet = [bool]$Quiet; uninstall = [bool]$Uninstall
    }
    $start = 'import sys, json; read = sys.stdin.buffer; parameters = json.loads(read.readline()); exec(read.read())'
    $OutputEncoding = New-Object Text.UTF8Encoding $false
    "$parameters`n$program" | & $python @options -I -c $start | ForEach-Object {
        if ($_ -clike 'error: *') {
            $failure = $_.Substring(7)
        } elseif ($_ -clike 'warning: *') {
            Write-Warning $_.Substring(9)
        } else {
            Write-Host $_
        }
    }
    if ($LASTEXITCODE -ne 0) { throw $(if ($failure) { $failure } else { 'the installation failed' }) }
    if ($NoPath) { return }
    if ($directory -like '*;*') {
        if (-not $Uninstall) { Write-Warning "cannot add $directory to PATH: a semicolon ends its entries" }
        return
    }
    if ($env:GITHUB_PATH) {
        try {
            if (-not $Uninstall) { [IO.File]::AppendAllText($env:GITHUB_PATH, "$directory`n") }
        } catch {
            Write-Warning "cannot add $directory to GITHUB_PATH: $($_.Exception.GetBaseException().Message)"
        }
        return
    }
    try {
        # As it is written: an entry such as %USERPROFILE%\bin must stay one.
        $key = [Microsoft.Win32.Registry]::CurrentUser.CreateSubKey('Environment')
        $kind = if ($key.GetValueNames() -contains 'Path') { $key.GetValueKind('Path') } else { 'ExpandString' }
        $entries = @($key.GetValue('Path', '', 'DoNotExpandEnvironmentNames') -split ';' | Where-Object { $_ })
        $others = @($entries | Where-Object {
                [Environment]::ExpandEnvironmentVariables($_).Trim('"').TrimEnd('\') -ne $directory
            })
        $wanted = $entries
        if (-not $Uninstall) {
            if ($others.Count -eq $entries.Count) { $wanted = $entries + $directory }
        } elseif (-not (Test-Path -LiteralPath $directory)) { # else other programs are in it
            $wanted = $others
        }
        if ($wanted.Count -ne $entries.Count) {
            $key.SetValue('Path', ($wanted -join ';'), $kind)
            # Removing a variable that is not there tells running programs that PATH has changed.
            [Environment]::SetEnvironmentVariable('FT_INSTALLED', $null, 'User')
            if (-not $Quiet) { Write-Host "Changed PATH: new windows $(if ($Uninstall) { 'no longer ' })find ft" }
        }
        $key.Close()
        if (-not $Uninstall -and ($env:PATH -split ';') -notcontains $directory) {
            $env:PATH = "$($env:PATH.TrimEnd(';'));$directory"
        }
    } catch {
        Write-Warning "cannot change PATH: $($_.Exception.GetBaseException().Message)"
    }
} @args
