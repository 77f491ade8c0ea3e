#!/bin/sh
# Installs ft, the command-line client of Finetuning.ai, or replaces an older one:
#
#     curl -fsSL https://finetuning.ai/cli/install.sh | sh
#     curl -fsSL https://finetuning.ai/cli/install.sh | sh -s -- --version 0.1.0
#
# It writes one file, ft, into one directory. It needs Python 3.8 or newer, never uses sudo, edits no dotfile, and
# runs in every POSIX shell. `sh install.sh --help` lists its flags.

# All of it is one group, so that a shell that gets only the beginning of it runs nothing.
{

RELEASES=https://finetuning.ai/cli # there: VERSION, and X.Y.Z/ft.pyz and X.Y.Z/SHA256SUMS of each release

usage() {
    cat <<END
Installs ft, the command-line client of Finetuning.ai, or replaces an older one.

usage: sh install.sh [flags]

  --version X.Y.Z   this version, not the newest             (FT_VERSION)
  --prefix DIR      the directory that ft is put into        (FT_INSTALL_DIR)
                    default: /usr/local/bin if it is writable, else ~/.local/bin
  --from FILE       install this ft.pyz, beside which SHA256SUMS lies; no network is used
                                                             (FT_FROM)
  --base-url URL    a mirror of $RELEASES     (FT_BASE_URL or FT_RELEASE_URL)
  --quiet           print only warnings and errors           (FT_QUIET=1)
  --uninstall       remove ft; run \`ft auth logout\` before to forget the key as well
  --help            print this

The file is checked against the release's SHA256SUMS, or against FT_SHA256 when that is set.
END
}

main() {
    set -u +e
    # Tools speak English and take bytes as they are; `cd` goes where it is told and prints nothing.
    LC_ALL=C CDPATH=''
    export LC_ALL
    action=install quiet=${FT_QUIET:-} version=${FT_VERSION:-} dir=${FT_INSTALL_DIR:-} from=${FT_FROM:-}
    base=${FT_BASE_URL:-${FT_RELEASE_URL:-$RELEASES}}
    while [ $# -gt 0 ]; do
        case $1 in
            --*=*) # becomes two words
                flag=${1%%=*} value=${1#*=}
                shift
                set -- "$flag" "$value" "$@"
                ;;
        esac
        case $1 in
            --version | --prefix | --from | --base-url)
                [ -n "${2:-}" ] || die "$1 needs a value" 2
                case $1 in
                    --version) version=$2 ;;
                    --prefix) dir=$2 ;;
                    --from) from=$2 ;;
                    --base-url) base=$2 ;;
                esac
                shift
                ;;
            --quiet) quiet=1 ;;
            --uninstall) action=uninstall ;;
            -h | --help) action=usage ;;
            *) die "unknown argument: $1 (--help lists the flags)" 2 ;;
        esac
        shift
    done
    "$action"
}

say() { [ -n "$quiet" ] || printf '%s\n' "$1" 2>/dev/null || :; }
warn() { printf 'warning: %s\n' "$1" >&2; }
die() {
    printf 'error: %s\n' "$1" >&2
    exit "${2:-1}"
}
have() { command -v "$1" >/dev/null 2>&1; }

# What comes from a mirror is printed without anything that a terminal would act on.
plain() { printf '%s' "$1" | tr -c ' -~' '?'; }

install() {
    [ -z "$version" ] || is_version "$version" || die "not a version such as 0.1.0: $version" 2
    [ -n "$from" ] || check_url
    find_python
    find_target
    tmp='' made='' there=''
    trap cleanup EXIT
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 131' QUIT
    trap 'exit 143' TERM
    trap '' PIPE # nobody has to read what it says
    if [ ! -d "$dir" ]; then
        there=$dir made=$dir
        while [ -n "$there" ] && [ ! -d "$there" ]; do there=${there%/*}; done
        (umask 022 && mkdir -p "$dir") 2>/dev/null # a root's umask of 077 would shut everybody out
    fi
    # In the target's own directory, because only there a rename replaces the old file in one step.
    tmp=$(mktemp -d "${target%/*}/.ft.XXXXXX" 2>/dev/null) ||
        die "cannot write in ${target%/*}; choose another directory with --prefix"
    if [ -n "$from" ]; then copy; else download; fi
    is_ft "$tmp/ft.pyz" || die "$origin is not an ft.pyz; nothing was changed"
    pin
    chmod 755 "$tmp/ft"
    new=$("$tmp/ft" --version </dev/null) || die "the new ft does not run in $dir; nothing was changed"
    new=$(plain "$new")
    [ "$new" = "ft ${version:-${new#ft }}" ] ||
        die "$origin says that it is '$new', not 'ft ${version:-X.Y.Z}'; nothing was changed"
    mv -f "$tmp/ft" "$target" || die "cannot replace $target"
    say "Installed $new in $dir/ft"
    check_path
}

cleanup() {
    [ -z "$tmp" ] || rm -rf "$tmp"
    # Succeeds only for a directory that nothing came into.
    while [ "$made" != "$there" ] && { rmdir "$made" 2>/dev/null || [ ! -e "$made" ]; }; do
        made=${made%/*}
    done
}

is_version() {
    case $1 in
        *[!0-9.]* | .* | *. | *..* | *.*.*.*) return 1 ;;
        *.*.*) ;;
        *) return 1 ;;
    esac
}

# https, or http to this machine.
check_url() {
    base=${base%/}
    case $base in
        *[[:space:]]* | *@* | *\?* | *\#* | *\\*) ;;
        https://[!/]*) return ;;
        http://127.0.0.1 | http://127.0.0.1[:/]* | http://localhost | http://localhost[:/]*) return ;;
        'http://[::1]' | 'http://[::1]'[:/]*) return ;;
    esac
    die "not an https:// address: $base" 2
}

# Sets python to an interpreter that can run ft, and pinned to the same if `env python3` would not find it.
find_python() {
    for name in python3 python3.14 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8 python; do
        python=$("$name" -IS -c 'import sys; sys.version_info < (3, 8) and sys.exit(1); print(sys.executable)' \
            2>/dev/null </dev/null) && [ -n "$python" ] && break
        python=
    done
    [ -n "$python" ] ||
        die "ft needs Python 3.8 or newer; found $(have python3 && python3 --version 2>&1 || echo none)"
    pinned=
    [ "$name" = python3 ] || pinned=$python
}

# Sets dir, absolute, and target: the file to write. Where dir/ft is a link, that is the file it leads to.
find_target() {
    # To root, [ -w ] may say that a read-only file system is writable.
    if [ -z "$dir" ] && probe=$(mktemp -d /usr/local/bin/.ft.XXXXXX 2>/dev/null) && rmdir "$probe"; then
        dir=/usr/local/bin
    elif [ -z "$dir" ]; then
        [ -n "${HOME:-}" ] || die "HOME is not set; say with --prefix where ft goes"
        dir=$HOME/.local/bin
    fi
    case $dir in
        \~/*) dir=$HOME/${dir#*/} ;; # out of a settings file, where no shell expands it
        /*) ;;
        *) dir=$PWD/$dir ;;
    esac
    dir=${dir%/}
    target=$dir/ft
    if [ -L "$target" ]; then
        target=$(readlink -f "$target") || die "$dir/ft is a link that leads nowhere; it was left alone"
    fi
    [ ! -e "$target" ] || is_ft "$target" ||
        die "$target is not from this script (but from pip or pipx?); it was left alone"
}

# Whether a file is an archive after a #! line, with ft.py in it. Does not run it.
is_ft() {
    [ -f "$1" ] && [ "$(head -c 2 "$1")" = '#!' ] && [ "$(tail -n +2 "$1" 2>/dev/null | head -c 2)" = PK ] &&
        grep -q 'ft\.py' "$1"
}

copy() {
    case $from in
        \~/*) from=$HOME/${from#*/} ;; # as for the directory
    esac
    origin=$from expected=${FT_SHA256:-}
    { [ -r "$from" ] && cat <"$from" >"$tmp/ft.pyz"; } || die "cannot read $from"
    case $from in
        */*) sums=${from%/*}/SHA256SUMS ;;
        *) sums=SHA256SUMS ;;
    esac
    [ -n "$expected" ] || [ -r "$sums" ] ||
        die "cannot verify $from: put the release's SHA256SUMS beside it or set FT_SHA256; nothing was changed"
    verify "$sums" "${from##*/}"
}

download() {
    if [ -z "$version" ]; then
        fetch "$base/VERSION" "$tmp/VERSION"
        version=$(tr -d ' \r\n\000' <"$tmp/VERSION")
        is_version "$version" || die "there is no version number in $base/VERSION"
    fi
    origin=$base/$version/ft.pyz expected=${FT_SHA256:-}
    say "Downloading $origin"
    [ -n "$expected" ] || fetch "$base/$version/SHA256SUMS" "$tmp/SHA256SUMS"
    fetch "$origin" "$tmp/ft.pyz"
    verify "$tmp/SHA256SUMS" ft.pyz
}

# verify SUMS NAME: the new file against FT_SHA256 or, without it, against the line about NAME in SUMS.
verify() {
    if [ -z "$expected" ]; then
        while read -r sum name || [ -n "$sum" ]; do
            name=${name%"$(printf '\r')"} # Windows' end of a line
            case $name in "$2" | "*$2") expected=$(plain "$sum") ;; esac
        done <"$1"
        [ -n "$expected" ] || die "no checksum of $2 in the SHA256SUMS beside $origin; nothing was changed"
    fi
    if have sha256sum; then
        sum=$(sha256sum <"$tmp/ft.pyz")
    elif have shasum; then
        sum=$(shasum -a 256 <"$tmp/ft.pyz")
    else
        sum=$("$python" -I -c \
            'import hashlib, sys; print(hashlib.sha256(sys.stdin.buffer.read()).hexdigest())' <"$tmp/ft.pyz")
    fi
    [ "${sum%% *}" = "$(printf '%s' "$expected" | tr A-F a-f)" ] ||
        die "the SHA-256 of $origin is '${sum%% *}', not '$expected'; nothing was changed"
}

# fetch URL FILE: follows redirects from https to https only. GNU wget cannot promise that, so it follows none; other
# wgets cannot be told to, and some check no certificate. What fails is tried once more with Python. Neither reads its
# settings files, where an `output` would put the download elsewhere.
fetch() {
    case $1 in
        https:*) scheme=https redirects=5 ;;
        *) scheme=http redirects=0 ;;
    esac
    if have curl; then
        curl -q -fsL --proto "=$scheme" --max-redirs "$redirects" --tlsv1.2 --globoff --connect-timeout 20 \
            --max-time 120 -o "$2" "$1" && return
    elif wget --version 2>/dev/null | grep -q 'GNU Wget'; then
        wget --no-config -q --max-redirect=0 --tries=1 --timeout=20 \
            ${SSL_CERT_FILE:+--ca-certificate="$SSL_CERT_FILE"} -O "$2" "$1" && return
    fi
    why=$("$python" -I -c '
import sys, urllib.request

class Redirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, request, body, code, message, headers, url):
        if not url.startswith("https:"):
            raise ValueError("redirected to " + url)
        return super().redirect_request(request, body, code, message, headers, url)

try:
    with urllib.request.build_opener(Redirects).open(sys.argv[1], timeout=20) as reply:
        data = reply.read()
    with open(sys.argv[2], "wb") as file:
        file.write(data)
except Exception as error:
    sys.exit(str(error))
' "$1" "$2" 2>&1) || die "cannot download $1 ($(plain "$why")); nothing was changed"
}

# Makes the file to install. `env` is in a pinned line for its length: an archive whose first line gets shorter is
# one no more.
pin() {
    if [ -n "$pinned" ]; then
        printf '#!/usr/bin/env %s\n' "$pinned" >"$tmp/ft" && tail -n +2 "$tmp/ft.pyz" >>"$tmp/ft"
    else
        mv "$tmp/ft.pyz" "$tmp/ft"
    fi || die "cannot write in ${target%/*}"
}

# Says what keeps `ft` from being the new one.
check_path() {
    real=$(cd "$dir" && pwd -P)
    other=
    set -f
    IFS=:
    for entry in $PATH; do
        if [ "$(cd "${entry:-.}" 2>/dev/null && pwd -P)" = "$real" ]; then
            [ -z "$other" ] || warn "\`ft\` is $other, which comes before $dir on PATH"
            return 0
        fi
        entry=${entry:-.}/ft
        if [ -z "$other" ] && [ -f "$entry" ] && [ -x "$entry" ]; then other=$entry; fi
    done
    if [ -n "${GITHUB_PATH:-}" ]; then
        printf '%s\n' "$dir" >>"$GITHUB_PATH" || warn "cannot add $dir to GITHUB_PATH"
        return 0
    fi
    rest=$dir quoted=
    while [ "$rest" != "${rest%%\'*}" ]; do # as every shell takes it, fish included
        quoted=$quoted${rest%%\'*}"'\\''" rest=${rest#*\'}
    done
    say "$dir is not on PATH. To add it, put this line into your shell's start-up file:"
    case ${SHELL:-} in
        */fish) say "    fish_add_path '$quoted$rest'" ;;
        *) say "    export PATH='$quoted$rest':\"\$PATH\"" ;;
    esac
}

uninstall() {
    find_target
    [ -e "$target" ] || die "there is no ft in $dir; say with --prefix where it is"
    rm -f "$target" "$dir/ft" || die "cannot remove $target"
    say "Removed $dir/ft"
    say "Your settings remain, and your API key, too, unless you ran \`ft auth logout\` before. To remove them:"
    if [ "$(uname)" = Darwin ]; then
        say "    rm -r ~/Library/Application\\ Support/finetuning"
        say "    security delete-generic-password -s finetuning -a default"
    else
        say "    rm -r \"${XDG_CONFIG_HOME:-${HOME:-~}/.config}/finetuning\""
        say "    secret-tool clear service finetuning username default"
    fi
}

main "$@"
}
