#!/usr/bin/env bash
# add-node.sh: joins one more node to the running cluster, with the images of dist/, and prints its name once it is ready.
# remove-node.sh ends it.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source=node-make.sh
. "$DIR/node-make.sh"
own_cluster
say() { echo "$*" >&2; }
export TW_NAME=$NAME TW_STATE=$STATE TENANTWIRE_CACHE=$CACHE KUBECONFIG=$STATE/kubeconfig
mapfile -t there < <(sed -nE 's/^node([0-9]+) .*/\1/p' "$STATE/pids")
i=1
while [[ " ${there[*]} " == *" $i "* ]]; do i=$((i + 1)); done
[[ -e $STATE/pki/kubelet-node$i.kubeconfig ]] || die "there can be no more nodes: node$i has no certificate"
node_cgroups "$i"
node_network "$i"
for j in "${there[@]}"; do
  node_route "$i" "$j"
  node_route "$j" "$i"
done
start_node "$i"
node_ready "node$i"
for t in "$ROOT"/dist/tenantwire-*.tar; do
  [[ ! -e $t ]] || "$DIR/node-exec.sh" "$i" ctr -n k8s.io images import - <"$t" >>"$STATE/import.log" 2>&1
done
echo "node$i"
