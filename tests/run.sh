#!/usr/bin/env bash
# Sets up what is missing, then runs every gate and every test. Arguments go to pytest:
#
#   bash tests/run.sh
#   bash tests/run.sh tests/unit -k weight
#
# The tests in tests/containers run wherever a Docker engine is reachable, those in tests/systemd wherever root may make
# namespaces and cgroups; in CI both must. A missing nginx, Consul or systemd is a failure, never a skip. A gate that
# fails does not keep the others from being run.
set -euo pipefail

# shellcheck source=examples/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/../examples/setup.sh"
set_up dev
cd "$root"

limit=60m
failed=()

gate() {
    say "$*"
    "$@" || failed+=("$*")
}

tests() {
    # Half as many again as there are processors: most of a test is waiting for a proof, a check or Consul. Each worker
    # begins elsewhere, so that tests that wait run beside tests that compute, and who is done takes from the others.
    timeout --foreground --kill-after=30s "$limit" pytest -n $((($(nproc) * 3 + 1) / 2)) --dist worksteal "$@" && return
    [ $? -ne 124 ] || say "pytest was still at work after $limit and was ended"
    return 1
}

gate ruff check .
gate ruff format --check .
gate mypy
gate lint-imports
gate tests "$@"

[ ${#failed[@]} -eq 0 ] || die "failed: $(printf '%s; ' "${failed[@]}")"
