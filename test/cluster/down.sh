#!/usr/bin/env bash
# down.sh: ends the cluster that up.sh started and removes its namespaces, cgroups and state. Ends nothing else:
# each process on its list is known by pid and start time, and takes all of its pid namespace with it.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
pids=()
if [[ -e $STATE/pids ]]; then mapfile -t pids <"$STATE/pids"; fi
for l in "${pids[@]}"; do
  read -r _ pid start <<<"$l"
  if alive "$pid" "$start"; then kill -KILL "$pid" 2>/dev/null || true; fi
done
for l in "${pids[@]}"; do
  read -r _ pid start <<<"$l"
  for _ in {1..200}; do alive "$pid" "$start" || break; sleep 0.05; done
done
for ns in $(ip netns list | awk '{print $1}' | grep -xE "$NAME-(net|n[0-9]+)" || true); do ip netns del "$ns"; done
# The cgroups empty out as the kernel reaps the last tasks.
for _ in {1..100}; do
  find /sys/fs/cgroup -mindepth 1 -depth -type d -path "/sys/fs/cgroup*/$NAME-n[0-9]*" -exec rmdir {} + 2>/dev/null && break
  sleep 0.1
done
rm -rf --one-file-system "$STATE"
