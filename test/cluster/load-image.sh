#!/usr/bin/env bash
# load-image.sh FILE.tar...: imports images into every node of the running cluster.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
own_cluster
n=$(grep -c '^node' "$STATE/pids")
for f in "$@"; do
  for ((i = 1; i <= n; i++)); do "$DIR/node-exec.sh" "$i" ctr -n k8s.io images import - <"$f" >>"$STATE/import.log" 2>&1 || die "cannot import $f, see $STATE/import.log"; done
done
