#!/usr/bin/env bash
# Makes the two images of the container tests without a registry, from the files of Debian's packages:
#
#   bash tests/containers/local-images.sh CONSUL_IMAGE EDGE_IMAGE
#
# CONSUL_IMAGE holds the consul that is on PATH; EDGE_IMAGE holds Debian's nginx and python3 with grayctl installed.
# Packages are kept in .cache/images, so that a second run downloads nothing.
set -euo pipefail

# shellcheck source=examples/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../../examples/setup.sh"
set_up dev

[ $# -eq 2 ] || die "usage: bash tests/containers/local-images.sh CONSUL_IMAGE EDGE_IMAGE"
cache="$root/.cache/images"
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$cache/apt/archives/partial"

# What nginx and python need to know their users by.
users() {
    mkdir -p "$1/etc" "$1/tmp"
    chmod 1777 "$1/tmp"
    printf '%s\n' root:x:0:0::/root:/bin/sh www-data:x:33:33::/:/bin/false nobody:x:65534:65534::/:/bin/false >"$1/etc/passwd"
    printf '%s\n' root:x:0: www-data:x:33: nogroup:x:65534: >"$1/etc/group"
}

import() {
    local tree="$1" image="$2"
    shift 2
    tar -C "$tree" -c . | docker import "$@" - "$image" >/dev/null || die "docker import of $image failed"
}

consul_image() {
    local tree="$work/consul" consul library
    consul="$(command -v consul)"
    users "$tree"
    install -D "$consul" "$tree/bin/consul"
    # A static binary has no libraries, and ldd says so by failing.
    { ldd "$consul" || true; } | grep -o '/[^ ]*' | while read -r library; do
        install -D "$library" "$tree$library"
    done
    import "$tree" "$1" --change 'ENTRYPOINT ["/bin/consul"]'
}

# Downloads packages with everything they depend on, as if nothing were installed, and unpacks them.
unpack_packages() {
    local tree="$1" part
    shift
    : >"$work/status"
    mkdir -p "$work/lists/partial" "$work/new"
    local apt=(apt-get -o Dir::State::Lists="$work/lists" -o Dir::State::status="$work/status" -o Dir::Cache="$cache/apt"
        -o APT::Sandbox::User=root -o Acquire::Retries=3 -o DPkg::Lock::Timeout=300)
    quietly "${apt[@]}" update || say "apt-get update complained; whether that matters, the download will tell"
    quietly "${apt[@]}" install --download-only --yes --no-install-recommends "$@" || die "apt could not download $*"
    for part in bin sbin lib lib64; do
        mkdir -p "$tree/usr/$part"
        ln -s "usr/$part" "$tree/$part"
    done
    quietly "${apt[@]}" autoclean # the cache may hold older versions
    for part in "$cache"/apt/archives/*.deb; do
        dpkg -x "$part" "$tree"
    done
}

edge_image() {
    local tree="$work/edge" python packages
    users "$tree"
    unpack_packages "$tree" dash coreutils nginx python3
    python="$(basename "$(readlink -f "$tree/usr/bin/python3")")" # python3.11
    packages="$tree/usr/local/lib/$python/dist-packages"
    quietly python -m pip wheel --quiet --no-deps --wheel-dir "$work/wheel" "$root" || die "pip could not build grayctl"
    quietly python -m pip install --quiet --target "$packages" --python-version "${python#python}" \
        --implementation cp --only-binary :all: "$work"/wheel/grayctl-*.whl || die "pip could not install grayctl"
    printf '%s\n' '#!/usr/bin/python3' 'from grayctl.cli import main' 'main()' >"$tree/usr/bin/grayctl"
    chmod 755 "$tree/usr/bin/grayctl"
    import "$tree" "$1"
}

consul_image "$1"
edge_image "$2"
