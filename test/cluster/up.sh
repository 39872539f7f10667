#!/usr/bin/env bash
# up.sh: brings up a real Kubernetes cluster of $TW_NODES nodes in namespaces of its own and writes $STATE/kubeconfig.
# Needs root and what build.sh built.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
t0=$(date +%s%N)
say() { printf '%6d ms  %s\n' $((($(date +%s%N) - t0) / 1000000)) "$*"; }

[[ $EUID -eq 0 ]] || die "needs root (or set KUBECONFIG to use a cluster that you have)"
# shellcheck disable=SC2153 # from env.sh
[[ ! -e $STATE/pids ]] || die "cluster $NAME is up already (down.sh ends it): $STATE"
for b in etcd kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl containerd containerd-shim-runc-v2 ctr runc clustertool; do
  command -v "$b" >/dev/null || die "$b is missing: run build.sh"
done
failed() {
  echo "up.sh: the cluster did not come up; the ends of its logs:" >&2
  tail -n 5 "$STATE"/*.log "$STATE"/*/*.log >&2 || true
}
trap '[[ $? -eq 0 ]] || failed' EXIT
mkdir -p "$STATE"
: >"$STATE/pids"

# Cgroups: one directory a node in every mounted v1 hierarchy, or in the single v2 one.
if [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; then
  : >"$STATE/cgroup2"
  for ((i = 1; i <= NODES; i++)); do mkdir -p "/sys/fs/cgroup/$NAME-n$i"; done
  sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
  : >"$STATE/cgroup1"
  for c in cpu cpuacct cpuset memory pids blkio devices freezer; do
    m=/sys/fs/cgroup/$c
    mountpoint -q "$m" || die "cgroup v1 controller $c is not mounted at $m"
    echo "$c" >>"$STATE/cgroup1"
    for ((i = 1; i <= NODES; i++)); do
      mkdir -p "$m/$NAME-n$i"
      [[ $c != cpuset ]] || for f in cpuset.cpus cpuset.mems; do cat "$m/$f" >"$m/$NAME-n$i/$f"; done
    done
  done
fi

# Networks: a switch and one namespace a node, none of them tied to the caller's.
net=$NAME-net
ip netns add "$net"
ip netns exec "$net" sysctl -qw net.bridge.bridge-nf-call-iptables=0 net.bridge.bridge-nf-call-ip6tables=0
ip -n "$net" link add br0 type bridge
ip -n "$net" addr add "$NODE_NET.1/24" dev br0
ip -n "$net" link set lo up
ip -n "$net" link set br0 up
names=()
for ((i = 1; i <= NODES; i++)); do
  ns=$NAME-n$i names+=("node$i")
  ip netns add "$ns"
  ip -n "$net" link add "p$i" type veth peer name eth0 netns "$ns"
  ip -n "$net" link set "p$i" master br0 up
  ip -n "$ns" link set lo up
  ip -n "$ns" addr add "$NODE_NET.$((10 + i))/24" dev eth0
  ip -n "$ns" link set eth0 up
  ip -n "$ns" route add default via "$NODE_NET.1"
  for ((j = 1; j <= NODES; j++)); do
    ((i == j)) || ip -n "$ns" route add "$POD_NET.$j.0/24" via "$NODE_NET.$((10 + j))"
  done
done

# start NAME COMMAND...: apart from this shell, so that its end or a Ctrl-C does not reach the cluster; down.sh does.
start() {
  local name=$1
  shift
  (
    for fd in /proc/self/fd/*; do # a cluster that is kept must not keep the caller's locks and pipes
      ((${fd##*/} <= 2)) || eval "exec ${fd##*/}>&-"
    done
    exec setsid "$@" </dev/null >"$STATE/$name.log" 2>&1
  ) &
  record "$name" $!
  disown
}
inside() { # NODE INIT...: what runs as PID 1 of new namespaces that end with it
  echo nsenter "--net=/run/netns/$NAME-n$1" unshare --pid --fork --kill-child --mount --uts --ipc "${@:2}"
}
start forward clustertool forward -listen "127.0.0.1:${PORT:-16443}" ${PORT:+-strict} -address-file "$STATE/api-address" \
  -netns "/run/netns/$NAME-n1" -to "$NODE_NET.11:6443"
for _ in {1..100}; do [[ -s $STATE/api-address ]] && break; sleep 0.05; done
[[ -s $STATE/api-address ]] || die "the API server's loopback port cannot be opened"
clustertool pki -dir "$STATE/pki" -server "https://$NODE_NET.11:6443" -outside "https://$(<"$STATE/api-address")" \
  -ip "$NODE_NET.11,${SVC_CIDR%.*}.1" -nodes "$(IFS=,; echo "${names[*]}")"
cp "$STATE/pki/admin.kubeconfig" "$STATE/kubeconfig"
export TW_NAME=$NAME TW_STATE=$STATE TENANTWIRE_CACHE=$CACHE KUBECONFIG=$STATE/kubeconfig
read -ra in < <(inside 1 --mount-proc)
start cp "${in[@]}" "$DIR/cp-init.sh"
for ((i = 1; i <= NODES; i++)); do
  read -ra in < <(inside "$i")
  start "node$i" "${in[@]}" "$DIR/node-init.sh" "$i"
done

wait_for() { # SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "timed out waiting for $what"
    sleep 0.2
  done
  say "$what"
}
wait_for 120 "API server ready" kubectl get --raw /readyz
wait_for 60 "default service account" kubectl -n default get serviceaccount default
for n in "${names[@]}"; do
  wait_for 60 "$n registered" kubectl get node "$n"
  kubectl wait --for=condition=Ready "node/$n" --timeout=120s >/dev/null
  say "$n ready"
done
if [[ ${TW_DNS:-1} == 1 ]]; then
  kubectl apply -f "$DIR/manifests/coredns.yaml" >/dev/null
  kubectl -n kube-system rollout status deployment/coredns --timeout=120s >/dev/null
  say "cluster DNS ready"
fi
if [[ -e /dev/net/tun ]]; then
  kubectl apply -f "$DIR/manifests/tunplugin.yaml" >/dev/null # who needs it waits for it
fi
echo "export KUBECONFIG=$STATE/kubeconfig"
