#!/usr/bin/env bash
# grayctl, shown on a small shop: sets up what is missing, then runs Consul, nginx, six shop instances, traffic and
# grayctl in one temporary directory, and shows who serves what while things change.
#
#   bash examples/quickstart.sh           goes on until Ctrl-C
#   bash examples/quickstart.sh --once    tells the story and ends
#
# Nothing is left behind but what was installed: packages, .venv and .cache in this checkout.
set -euo pipefail

QUICKSTART_PARENT=$PPID
export QUICKSTART_PARENT

# shellcheck source=examples/setup.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
set_up run
exec setpriv --pdeathsig TERM -- "$root/.venv/bin/python" "$root/examples/quickstart.py" "$@"
