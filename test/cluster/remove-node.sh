#!/usr/bin/env bash
# remove-node.sh NODE: ends a node that add-node.sh added, with all that runs there, and has Kubernetes forget it.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
own_cluster
node=$1 i=${1#node}
line=$(grep "^$node " "$STATE/pids") || die "no $node in cluster $NAME"
((i > NODES)) || die "$node was there from the beginning"
read -r _ pid start <<<"$line"
if alive "$pid" "$start"; then kill -KILL "$pid" 2>/dev/null || true; fi
for _ in {1..200}; do alive "$pid" "$start" || break; sleep 0.05; done
sed -i "/^$node /d" "$STATE/pids"
kubectl --kubeconfig="$STATE/kubeconfig" delete node "$node" --ignore-not-found >/dev/null
ip netns del "$NAME-n$i"
for _ in {1..100}; do # the cgroups empty out as the kernel reaps the last tasks
  find /sys/fs/cgroup -mindepth 1 -depth -type d -path "/sys/fs/cgroup*/$NAME-n$i*" -exec rmdir {} + 2>/dev/null && break
  sleep 0.1
done
rm -rf --one-file-system "${STATE:?}/$node" "$STATE/$node.log"
