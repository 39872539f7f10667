#!/usr/bin/env bash
# node-link.sh NODE down|up: pulls a node's cable, or puts it back. What runs there runs on.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
own_cluster
[[ ${2:-} == down || ${2:-} == up ]] || die "usage: node-link.sh NODE down|up"
exec ip -n "$NAME-net" link set "p${1#node}" "$2"
