# shellcheck shell=bash
# What quickstart.sh and tests/run.sh need, installed where it is missing and left alone where it is not.
#
#   source examples/setup.sh      defines set_up and the few helpers below
#   set_up run                    nginx, Consul, Python 3.11+, .venv with grayctl
#   set_up dev                    the same with the tools of the tests, promtool among them
#   bash examples/setup.sh dev    only that, then ends
#
# Packages come from this machine's own apt sources and pip settings. Nothing is started. Two programs come out of
# packages that are never installed, into .cache: Consul, which Debian 12 does not carry, is Debian 11's; promtool is
# in the package of a server that nobody needs here. A second run looks and goes on at once.

root="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
setup_log="$root/.cache/setup.log"

say() { printf '\033[2m%s\033[0m %s\n' "grayctl:" "$*" >&2; }
[ -t 2 ] || say() { printf 'grayctl: %s\n' "$*" >&2; }

die() {
    say "$*"
    exit 1
}

# Runs a command that has nothing to say unless it fails.
quietly() {
    "$@" </dev/null >>"$setup_log" 2>&1 && return
    say "this failed: $*; the end of $setup_log:"
    tail -n 15 "$setup_log" >&2
    return 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        die "root is needed for: $*. Run that as root, then start again"
    fi
}

# Runs as root. Debian starts a server when its package is installed, unless policy-rc.d says no; the flock keeps a
# second setup from removing the first one's no.
# shellcheck disable=SC2016 # it is sh that expands them
install_script='
    set -eu
    exec 9</var/lib/dpkg
    flock 9
    policy=/usr/sbin/policy-rc.d
    if (set -C; printf "#!/bin/sh\nexit 101\n" >$policy) 2>/dev/null; then
        trap "rm -f $policy" EXIT
        trap "exit 1" HUP INT TERM
        chmod 755 $policy
    fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get -o Acquire::Retries=3 update 9<&- ||
        echo "apt-get update complained; whether that matters, the installation will tell"
    apt-get -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300 install --yes --no-install-recommends "$@" 9<&-
'

install_packages() {
    [ $# -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "missing: $*. This is no Debian: install them by hand, then start again"
    say "installing with apt: $*"
    quietly as_root sh -c "$install_script" sh "$@" ||
        die "apt could not install $*. Mend what it says above (or install them by hand), then start again"
}

# The first Python that is new enough and can make a virtual environment.
find_python() {
    local candidate
    for candidate in python3 python3.{14,13,12,11} /usr/bin/python3; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    return 1
}

set_up_packages() {
    local missing=()
    venv_python_works || find_python >/dev/null || missing+=(python3 python3-venv ca-certificates)
    command -v nginx >/dev/null || missing+=(nginx)
    if [ "$1" = dev ]; then
        [ -x /usr/lib/systemd/systemd ] || missing+=(systemd) # it boots in a machine of its own, in tests/systemd
        [ -e /usr/lib/nginx/modules/ngx_stream_module.so ] || missing+=(libnginx-mod-stream) # releases over TCP
        command -v logrotate >/dev/null || missing+=(logrotate)
    fi
    install_packages "${missing[@]}"
}

debian_release() {
    sed -n 's/^VERSION_CODENAME=//p' /etc/os-release
}

# The archives from which this machine takes its own release, one a line: apt itself reads its sources, in whatever
# format they are.
debian_archives() {
    apt-get -o Dir::State::Lists="$1" update --print-uris |
        sed -nE "s#^'(.*)/dists/($(debian_release)|stable|oldstable)/main/binary-.*#\1#p" | awk '!seen[$0]++'
}

private_apt() {
    local dir="$1"
    shift
    apt-get -o Dir::Etc::sourcelist="$dir/sources.list" -o Dir::Etc::sourceparts=- -o Dir::State::Lists="$dir/lists" \
        -o Dir::Cache="$dir/cache" -o APT::Sandbox::User="$(id -un)" -o Acquire::Retries=3 "$@"
}

# Unpacks package $2 of Debian release $3 below $1.
download() {
    local dir="$1" package="$2" release="$3" archive
    mkdir -p "$dir/lists/partial" "$dir/cache/archives/partial" "$dir/tree"
    while read -r archive; do
        echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $archive $release main" >"$dir/sources.list"
        if quietly private_apt "$dir" update && (cd "$dir" && quietly private_apt "$dir" download "$package"); then
            dpkg -x "$dir/$package"_*.deb "$dir/tree" && return
        fi
    done < <(debian_archives "$dir/lists")
    return 1
}

# Puts program $1, which package $2 of Debian release $3 carries, into .cache/$1.
set_up_program() {
    command -v "$1" >/dev/null && return
    local name="$1" package="$2" release="$3" kept="$root/.cache/$1" dir
    if [ ! -x "$kept/$name" ]; then
        say "fetching $name from Debian's package $package ($release) into .cache/$name"
        mkdir -p "$kept"
        dir="$(mktemp -d "$kept/tmp.XXXXXX")"
        # shellcheck disable=SC2064 # the name as it is now
        trap "rm -rf '$dir'" EXIT
        download "$dir" "$package" "$release" ||
            die "found no $package in this machine's Debian archives. Put a $name binary on PATH, then start again"
        mv "$dir/tree/usr/bin/$name" "$kept/$name"
        rm -rf "$dir"
        trap - EXIT
    fi
    "$kept/$name" --version >/dev/null || die "$kept/$name does not run here. Remove it, or put another on PATH"
}

venv_python_works() {
    "$root/.venv/bin/python" -c 'import sys, pip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null
}

# Installs grayctl as `run` or `dev` needs it, unless the same pyproject.toml was installed here before.
set_up_venv() {
    local target='.[quickstart]' now stamp
    [ "$1" = run ] || target='.[dev]'
    now="$(printf '%s\n' "$root" | cat - "$root/pyproject.toml" | sha256sum)"
    if ! venv_python_works; then
        say "making the virtual environment .venv"
        quietly "$(find_python)" -m venv --clear "$root/.venv" ||
            die "no Python 3.11 or newer can make a virtual environment here. Put one on PATH, then start again"
    fi
    cd "$root/.venv"
    for stamp in .installed-dev ".installed-$1"; do
        [ "$(cat "$stamp" 2>/dev/null)" != "$now" ] || return 0
    done
    say "installing grayctl into .venv: pip install --editable '$target'"
    cd "$root"
    quietly .venv/bin/python -m pip install --quiet --disable-pip-version-check --editable "$target" ||
        die "pip could not install grayctl. Mend what it says above, then start again"
    echo "$now" >"$root/.venv/.installed-$1"
}

# Sets up everything for `run` or `dev` and puts it on PATH. Two at once take turns.
set_up() {
    export PATH="$PATH:/usr/sbin:/sbin:$root/.cache/consul:$root/.cache/promtool"
    mkdir -p "$root/.cache"
    (
        flock 8
        : >"$setup_log"
        set_up_packages "$1" 8<&-
        set_up_program consul consul bullseye 8<&-
        [ "$1" = run ] || set_up_program promtool prometheus "$(debian_release)" 8<&-
        set_up_venv "$1" 8<&-
    ) 8>"$root/.cache/setup.lock"
    export PATH="$root/.venv/bin:$PATH"
}

if [ "${BASH_SOURCE[0]}" = "$0" ]; then
    set -euo pipefail
    case "${1:-run}" in
        run | dev) set_up "${1:-run}" ;;
        *) die "usage: bash examples/setup.sh [run|dev]" ;;
    esac
fi
