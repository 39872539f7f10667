#!/usr/bin/env bash
# apiserver.sh kill|stop|start: the cluster's API server dies at once and comes back (kill), or stays away until start.
# kill and start return when it is ready again.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
own_cluster
d=$STATE/cp pidfile=$STATE/cp/kube-apiserver.pid
end() { # its pid counts in the control plane's pid namespace
  local pid
  pid=$(<"$pidfile") || die "the API server is not running"
  "$DIR/node-exec.sh" cp kill -KILL "$pid"
  for _ in {1..100}; do [[ -e $pidfile && $(<"$pidfile") == "$pid" ]] || return 0; sleep 0.05; done 2>/dev/null
  die "the API server (pid $pid in its namespace) did not end"
}
ready() {
  for _ in {1..300}; do kubectl --kubeconfig="$STATE/kubeconfig" get --raw /readyz >/dev/null 2>&1 && return; sleep 0.2; done
  die "the API server did not get ready, see $d/kube-apiserver.log"
}
case ${1:-} in
kill) end && ready ;;
stop) touch "$d/kube-apiserver.hold" && end ;;
start) rm -f "$d/kube-apiserver.hold" && ready ;;
*) die "usage: apiserver.sh kill|stop|start" ;;
esac
