#!/usr/bin/env bash
# Installs what the tests in this folder need beside Go and root: the wg tool.
set -euo pipefail
# shellcheck source=../cluster/env.sh
. "$(dirname "${BASH_SOURCE[0]}")/../cluster/env.sh"
need wg=wireguard-tools
