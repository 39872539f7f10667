#!/usr/bin/env bash
# up.sh: brings up a real Kubernetes cluster of $TW_NODES nodes in namespaces of its own and writes $STATE/kubeconfig.
# Needs root and what build.sh built.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
# shellcheck source=node-make.sh
. "$DIR/node-make.sh"
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

if [[ $(stat -fc %T /sys/fs/cgroup) == cgroup2fs ]]; then
  : >"$STATE/cgroup2"
  sed 's/[^ ]*/+&/g' /sys/fs/cgroup/cgroup.controllers >/sys/fs/cgroup/cgroup.subtree_control
else
  : >"$STATE/cgroup1"
  for c in cpu cpuacct cpuset memory pids blkio devices freezer; do
    mountpoint -q "/sys/fs/cgroup/$c" || die "cgroup v1 controller $c is not mounted at /sys/fs/cgroup/$c"
    echo "$c" >>"$STATE/cgroup1"
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
names=() spare=()
for ((i = 1; i <= NODES; i++)); do
  names+=("node$i")
  node_cgroups "$i"
  node_network "$i"
  for ((j = 1; j <= NODES; j++)); do ((i == j)) || node_route "$i" "$j"; done
done
for ((i = NODES + 1; i <= NODES + SPARE; i++)); do spare+=("node$i"); done
start forward clustertool forward -listen "127.0.0.1:${PORT:-16443}" ${PORT:+-strict} -address-file "$STATE/api-address" \
  -netns "/run/netns/$NAME-n1" -to "$NODE_NET.11:6443"
for _ in {1..100}; do [[ -s $STATE/api-address ]] && break; sleep 0.05; done
[[ -s $STATE/api-address ]] || die "the API server's loopback port cannot be opened"
clustertool pki -dir "$STATE/pki" -server "https://$NODE_NET.11:6443" -outside "https://$(<"$STATE/api-address")" \
  -ip "$NODE_NET.11,${SVC_CIDR%.*}.1" -nodes "$(IFS=,; echo "${names[*]},${spare[*]}")"
cp "$STATE/pki/admin.kubeconfig" "$STATE/kubeconfig"
export TW_NAME=$NAME TW_STATE=$STATE TENANTWIRE_CACHE=$CACHE KUBECONFIG=$STATE/kubeconfig
read -ra in < <(inside 1 --mount-proc)
start cp "${in[@]}" "$DIR/cp-init.sh"
for ((i = 1; i <= NODES; i++)); do start_node "$i"; done

wait_for 120 "API server ready" kubectl get --raw /readyz
wait_for 60 "default service account" kubectl -n default get serviceaccount default
for n in "${names[@]}"; do node_ready "$n"; done
if [[ ${TW_DNS:-1} == 1 ]]; then
  kubectl apply -f "$DIR/manifests/coredns.yaml" >/dev/null
  kubectl -n kube-system rollout status deployment/coredns --timeout=120s >/dev/null
  say "cluster DNS ready"
fi
if [[ -e /dev/net/tun ]]; then
  kubectl apply -f "$DIR/manifests/tunplugin.yaml" >/dev/null # who needs it waits for it
fi
echo "export KUBECONFIG=$STATE/kubeconfig"
