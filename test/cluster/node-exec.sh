#!/usr/bin/env bash
# node-exec.sh I|cp COMMAND...: runs a command on node I, or beside the control plane's processes:
#   node-exec.sh 1 ctr -n k8s.io images ls
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
own_cluster
where=$1
[[ $where == cp ]] || where=node$where
shift
pid=$(awk -v n="$where" '$1 == n {print $2}' "$STATE/pids")
[[ -n $pid ]] || die "no $where in cluster $NAME"
read -r init <"/proc/$pid/task/$pid/children" || [[ -n $init ]]
exec nsenter -t "${init%% *}" --mount --pid --net --uts --ipc -- "$@"
