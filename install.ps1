# Installs ft, the command-line client of Finetuning.ai, on Windows, or replaces an older one:
#
#     irm https://finetuning.ai/cli/install.ps1 | iex
#     & ([scriptblock]::Create((irm https://finetuning.ai/cli/install.ps1))) -Version 0.1.0
#
# It writes two files, ft.pyz and ft.cmd, into one directory. It needs Python 3.8 or newer, never asks for more
# rights, and changes neither PATH nor $PROFILE. Windows PowerShell 5.1 and PowerShell 7 run it. -Help lists its
# parameters.
param(
    [string]$Version = $env:FT_VERSION,
    [string]$Prefix = $env:FT_INSTALL_DIR,
    [string]$From = $env:FT_FROM,
    [string]$BaseUrl = $(if ($env:FT_BASE_URL) { $env:FT_BASE_URL } else { $env:FT_RELEASE_URL }),
    [switch]$Quiet = [bool]$env:FT_QUIET,
    [switch]$Uninstall,
    [switch]$Help
)

# Nothing runs before the last line, so that half of this script does nothing. It throws and never exits: through
# `iex` an exit would close the user's window.

function Show-FtUsage {
    Write-Host @'
Installs ft, the command-line client of Finetuning.ai, or replaces an older one.

  -Version X.Y.Z  this version, not the newest             (FT_VERSION)
  -Prefix DIR     the directory that ft is put into        (FT_INSTALL_DIR)
                  default: %LOCALAPPDATA%\Programs\ft
  -From FILE      install this ft.pyz, beside which SHA256SUMS lies; no network is used
                                                           (FT_FROM)
  -BaseUrl URL    a mirror of https://finetuning.ai/cli    (FT_BASE_URL or FT_RELEASE_URL)
  -Quiet          print only warnings and errors           (FT_QUIET=1)
  -Uninstall      remove ft; run `ft.cmd auth logout` before to forget the key as well
  -Help           print this

The file is checked against the release's SHA256SUMS, or against FT_SHA256 when that is set.
'@
}

function Write-FtLine([string]$Text) {
    if (-not $Quiet) { Write-Host $Text }
}

# What comes from a mirror is printed without anything that a terminal would act on.
function ConvertTo-FtPlain([string]$Text) {
    return $Text -replace '[\p{C}\p{Zl}\p{Zp}]', '?'
}

# The words of a command that starts a Python which can run ft.
function Find-FtPython {
    foreach ($words in @('py', '-3'), @('python'), @('python3')) {
        if (Get-Command $words[0] -CommandType Application -ErrorAction SilentlyContinue) {
            $options = @($words | Select-Object -Skip 1)
            & $words[0] @options -c 'import sys; sys.exit(sys.version_info < (3, 8))' | Out-Null
            if ($LASTEXITCODE -eq 0) { return $words }
        }
    }
    throw 'ft needs Python 3.8 or newer, and found none: https://www.python.org/downloads/windows/'
}

# Whether a file is an archive after a #! line, with ft.py in it. Does not run it.
function Test-FtArchive([string]$Path) {
    if (-not (Test-Path -LiteralPath $Path -PathType Leaf)) { return $false }
    $latin1 = [Text.Encoding]::GetEncoding(28591)
    $text = $latin1.GetString([IO.File]::ReadAllBytes($Path))
    return ($text -cmatch '\A#![^\n]*\nPK') -and $text.Contains('ft.py')
}

# Follows no redirect: Windows PowerShell would follow one from https to http.
function Receive-FtFile([string]$Url, [string]$Path) {
    try {
        Invoke-WebRequest -UseBasicParsing -Uri $Url -OutFile $Path -MaximumRedirection 0 -TimeoutSec 60
    } catch {
        throw "cannot download $Url ($(ConvertTo-FtPlain $_.Exception.Message)); nothing was changed"
    }
}

# The SHA-256 of a file. Get-FileHash is not found when PowerShell 7 has started something that starts 5.1.
function Measure-FtFile([string]$Path) {
    $bytes = [Security.Cryptography.SHA256]::Create().ComputeHash([IO.File]::ReadAllBytes($Path))
    return [BitConverter]::ToString($bytes).Replace('-', '').ToLowerInvariant()
}

# What a file of sums says about a name.
function Get-FtSum([string]$Path, [string]$Name) {
    foreach ($line in [IO.File]::ReadAllLines($Path)) {
        if ($line -match '^([0-9a-fA-F]{64}) [ *](.+)$' -and $Matches[2] -eq $Name) { return $Matches[1] }
    }
    throw "no checksum of $Name in the SHA256SUMS beside it; nothing was changed"
}

function Install-Ft([string]$Directory) {
    $version = $Version
    if ($version -and $version -notmatch '\A[0-9]+\.[0-9]+\.[0-9]+\z') { throw "not a version such as 0.1.0: $version" }
    $base = if ($BaseUrl) { $BaseUrl.TrimEnd('/') } else { 'https://finetuning.ai/cli' }
    $address = '^(https://[^/@?#\s\\]+|http://(127\.0\.0\.1|localhost|\[::1\])(:\d+)?)(/[^@?#\s\\]*)?$'
    if (-not $From -and $base -cnotmatch $address) { throw "not an https:// address: $base" }
    $words = @(Find-FtPython)
    $options = @($words | Select-Object -Skip 1)
    $target = Join-Path $Directory 'ft.pyz'
    if ((Test-Path -LiteralPath $target) -and -not (Test-FtArchive $target)) {
        throw "$target is not from this script; it was left alone"
    }
    if ($PSVersionTable.PSVersion.Major -lt 6) {
        $protocols = [Net.ServicePointManager]::SecurityProtocol
        [Net.ServicePointManager]::SecurityProtocol = $protocols -bor [Net.SecurityProtocolType]::Tls12
    }

    # In the same directory, because only there a rename replaces the old file in one step.
    $temporary = Join-Path $Directory ('.ft-' + [guid]::NewGuid().ToString('N'))
    New-Item -ItemType Directory -Force -Path $temporary | Out-Null
    try {
        $new = Join-Path $temporary 'ft.pyz'
        $sums = Join-Path $temporary 'SHA256SUMS'
        $expected = $env:FT_SHA256
        if ($From) {
            $origin = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($From)
            Copy-Item -LiteralPath $origin -Destination $new
            $beside = Join-Path (Split-Path -Parent $origin) 'SHA256SUMS'
            if (-not $expected) {
                if (-not (Test-Path -LiteralPath $beside)) {
                    throw "cannot verify ${origin}: put the release's SHA256SUMS beside it or set FT_SHA256; nothing was changed"
                }
                $expected = Get-FtSum $beside (Split-Path -Leaf $origin)
            }
        } else {
            if (-not $version) {
                $file = Join-Path $temporary 'VERSION'
                Receive-FtFile "$base/VERSION" $file
                $version = [IO.File]::ReadAllText($file).Trim()
                if ($version -notmatch '\A[0-9]+\.[0-9]+\.[0-9]+\z') { throw "there is no version number in $base/VERSION" }
            }
            $origin = "$base/$version/ft.pyz"
            Write-FtLine "Downloading $origin"
            if (-not $expected) {
                Receive-FtFile "$base/$version/SHA256SUMS" $sums
                $expected = Get-FtSum $sums 'ft.pyz'
            }
            Receive-FtFile $origin $new
        }
        $sum = Measure-FtFile $new
        if ($sum -ne $expected) { throw "the SHA-256 of $origin is '$sum', not '$expected'; nothing was changed" }
        if (-not (Test-FtArchive $new)) { throw "$origin is not an ft.pyz; nothing was changed" }

        $shown = ConvertTo-FtPlain ((& $words[0] @options $new --version) -join "`n")
        if ($LASTEXITCODE -ne 0) { throw 'the new ft does not run; nothing was changed' }
        $wanted = if ($version) { '\Aft ' + [regex]::Escape($version) + '\z' } else { '\Aft \d' }
        if ($shown -notmatch $wanted) {
            throw "$origin says that it is '$shown', not 'ft $version'; nothing was changed"
        }
        if (Test-Path -LiteralPath $target) {
            [IO.File]::Replace($new, $target, [NullString]::Value)
        } else {
            [IO.File]::Move($new, $target)
        }
    } finally {
        Remove-Item -LiteralPath $temporary -Recurse -Force -ErrorAction SilentlyContinue
        if (-not (Get-ChildItem -LiteralPath $Directory -Force)) { Remove-Item -LiteralPath $Directory }
    }

    # Left alone when it is right: `ft update` runs from it, and cmd.exe reads it on afterwards.
    $starter = Join-Path $Directory 'ft.cmd'
    $line = '@' + ($words -join ' ') + ' "%~dp0ft.pyz" %*' + "`r`n"
    if (-not (Test-Path -LiteralPath $starter) -or [IO.File]::ReadAllText($starter) -cne $line) {
        [IO.File]::WriteAllText($starter, $line)
    }
    Write-FtLine "Installed $shown in $target"
    Show-FtPath $Directory
}

# Says what keeps `ft` from being the new one.
function Show-FtPath([string]$Directory) {
    $entries = @($env:PATH -split [IO.Path]::PathSeparator | ForEach-Object { $_.TrimEnd('\') })
    if ($entries -contains $Directory) {
        $first = Get-Command ft -CommandType Application -ErrorAction SilentlyContinue | Select-Object -First 1
        if ($first -and (Split-Path -Parent $first.Source) -ne $Directory) {
            Write-Warning "$($first.Source) comes before $Directory on PATH"
        }
    } elseif ($env:GITHUB_PATH) {
        [IO.File]::AppendAllText($env:GITHUB_PATH, "$Directory`n")
    } else {
        $quoted = $Directory.Replace("'", "''")
        Write-FtLine "$Directory is not on PATH. To add it, run this line and open a new window:"
        Write-FtLine ("    [Environment]::SetEnvironmentVariable('Path', " +
            "[Environment]::GetEnvironmentVariable('Path', 'User') + ';$quoted', 'User')")
    }
    Write-FtLine 'PowerShell has a command ft of its own (Format-Table): type ft.cmd there, or put this line into'
    Write-FtLine 'your $PROFILE:'
    Write-FtLine '    Remove-Item Alias:ft -Force'
}

function Uninstall-Ft([string]$Directory) {
    $target = Join-Path $Directory 'ft.pyz'
    if (-not (Test-Path -LiteralPath $target)) { throw "there is no ft in $Directory; say with -Prefix where it is" }
    if (-not (Test-FtArchive $target)) { throw "$target is not from this script; it was left alone" }
    Remove-Item -LiteralPath $target
    $starter = Join-Path $Directory 'ft.cmd'
    if (Test-Path -LiteralPath $starter) { Remove-Item -LiteralPath $starter }
    if (-not (Get-ChildItem -LiteralPath $Directory -Force)) { Remove-Item -LiteralPath $Directory }
    Write-FtLine "Removed $target"
    Write-FtLine ('Your settings remain, and your API key, too, unless you ran `ft.cmd auth logout` before. ' +
        'To remove them:')
    Write-FtLine '    Remove-Item -Recurse $env:APPDATA\finetuning'
    Write-FtLine '    cmdkey /delete:finetuning:default'
}

function Invoke-FtInstaller($Unknown) {
    $ErrorActionPreference = 'Stop'
    $ProgressPreference = 'SilentlyContinue' # its bar makes downloads with Windows PowerShell many times slower
    if ($Unknown) { throw "unknown argument: $($Unknown[0]) (-Help lists the parameters)" }
    $directory = if ($Prefix) { $Prefix } else { Join-Path $env:LOCALAPPDATA 'Programs\ft' }
    $directory = $ExecutionContext.SessionState.Path.GetUnresolvedProviderPathFromPSPath($directory)
    $directory = $directory.TrimEnd('\')
    if ($Help) {
        Show-FtUsage
    } elseif ($Uninstall) {
        Uninstall-Ft $directory
    } else {
        Install-Ft $directory
    }
}

Invoke-FtInstaller $args
