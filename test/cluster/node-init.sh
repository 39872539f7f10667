#!/usr/bin/env bash
# node-init.sh I: PID 1 of node I, in its own pid, mount, uts, ipc and network namespaces.
# Everything on the node is a descendant, so the node ends when this process does.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
i=$1 node=node$1 d=$STATE/node$1
hostname "$node"

# Mounts: cut the tie to the host, then a peer group of our own (mountPropagation needs shared).
mount --make-rprivate /
mount --make-rshared /
mkdir -p "$d"/{kubelet,containerd,cni,cni-state,volplugins,proc,sysctl,dev,log}
mount -t proc proc /proc
# A second, never covered procfs: the kernel lets a user namespace mount proc only where one is
# fully visible, and the first one gets files laid over it below.
mount -t proc proc "$d/proc"
umount --recursive --lazy /sys     # only here: a covered cgroup mount still counts for the kubelet
mount -t sysfs sysfs /sys          # this network namespace's /sys/class/net
if [[ -e $STATE/cgroup2 ]]; then
  mount -t cgroup2 cgroup2 /sys/fs/cgroup
else
  mount -t tmpfs -o mode=755 cgroup /sys/fs/cgroup
  while read -r c; do
    mkdir "/sys/fs/cgroup/$c"
    mount -t cgroup -o "$c" cgroup "/sys/fs/cgroup/$c"
  done <"$STATE/cgroup1"
fi
mount -t tmpfs -o mode=755 tmpfs /run
mount -t tmpfs -o mode=755 tmpfs /var/log
mkdir /var/log/pods && mount --bind "$d/log" /var/log/pods
mount -t tmpfs -o mode=755 tmpfs /var/lib
mkdir -p /var/lib/{kubelet,containerd,cni}
mount --bind "$d/kubelet" /var/lib/kubelet
mount --bind "$d/containerd" /var/lib/containerd
mount --bind "$d/cni-state" /var/lib/cni
mkdir -p /run/{containerd,cdi,lock}
# The kubelet would write these machine-wide sysctls; show it the values it wants instead.
while read -r k v; do
  f=$d/sysctl/${k//\//_}
  [[ $(<"/proc/sys/$k") == "$v" ]] && continue
  echo "$v" >"$f"
  mount --bind "$f" "/proc/sys/$k"
done <<SYSCTL
vm/overcommit_memory 1
vm/panic_on_oom 0
kernel/panic 10
kernel/panic_on_oops 1
kernel/keys/root_maxkeys 1000000
kernel/keys/root_maxbytes 25000000
SYSCTL
# As udev has it on usual distributions (some leave it 0600); only in our mount namespace.
if [[ -e /dev/net/tun ]]; then
  mknod -m 666 "$d/dev/tun" c 10 200 && chmod 666 "$d/dev/tun"
  mount --bind "$d/dev/tun" /dev/net/tun
fi

sysctl -qw net.ipv4.ip_forward=1 net.bridge.bridge-nf-call-iptables=1

cat >"$d/resolv.conf" <<RESOLV
nameserver $DNS_IP
RESOLV
cat >"$d/cni/10-bridge.conflist" <<CNI
{"cniVersion": "1.0.0", "name": "tenantwire-test", "plugins": [
  {"type": "bridge", "bridge": "cni0", "isDefaultGateway": true, "hairpinMode": true, "mtu": 1500,
   "ipam": {"type": "host-local", "ranges": [[{"subnet": "$POD_NET.$i.0/24"}]]}},
  {"type": "portmap", "backend": "nftables", "capabilities": {"portMappings": true}}]}
CNI
cat >"$d/containerd.toml" <<TOML
version = 3
root = '/var/lib/containerd'
state = '/run/containerd'
disabled_plugins = ['io.containerd.internal.v1.opt', 'io.containerd.nri.v1.nri', 'io.containerd.snapshotter.v1.erofs', 'io.containerd.snapshotter.v1.blockfile']
[grpc]
  address = '/run/containerd/containerd.sock'
[plugins.'io.containerd.cri.v1.images'.pinned_images]
  sandbox = 'tenantwire.test/pause:dev'
[plugins.'io.containerd.cri.v1.runtime']
  cdi_spec_dirs = ['/run/cdi']
  enable_criu = false
  restrict_oom_score_adj = true      # not every machine grants root CAP_SYS_RESOURCE
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc]
  runtime_type = 'io.containerd.runc.v2'
[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.runc.options]
  BinaryName = '$NBIN/runc'
  SystemdCgroup = false
[plugins.'io.containerd.cri.v1.runtime'.cni]
  bin_dirs = ['$NBIN/cni']
  conf_dir = '$d/cni'
  use_internal_loopback = true
TOML
cat >"$d/kubelet.yaml" <<YAML
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true}, x509: {clientCAFile: $STATE/pki/ca.crt}}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupRoot: /$NAME-n$i
failCgroupV1: false
failSwapOn: false
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDomain: cluster.local
clusterDNS: [$DNS_IP]
resolvConf: $d/resolv.conf
volumePluginDir: $d/volplugins
oomScoreAdj: 0
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: 100Mi, nodefs.available: 0%, nodefs.inodesFree: 0%, imagefs.available: 0%, imagefs.inodesFree: 0%}
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s                   # ConfigMap and Secret volumes follow their objects as fast
serializeImagePulls: false
YAML
cat >"$d/kube-proxy.yaml" <<YAML
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: $PROXY_MODE
nftables: {minSyncPeriod: 100ms}   # tests wait for it
clientConnection: {kubeconfig: $STATE/pki/kube-proxy.kubeconfig}
clusterCIDR: $POD_NET.0.0/16
hostnameOverride: $node
oomScoreAdj: 0
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
nodePortAddresses: []
YAML

trap 'exit 0' TERM INT
supervise "$d" containerd containerd --config "$d/containerd.toml" &
for _ in {1..100}; do ctr version >/dev/null 2>&1 && break; sleep 0.1; done
for t in "$IMAGES"/*.tar; do ctr -n k8s.io images import "$t" >>"$d/import.log" 2>&1; done
supervise "$d" kubelet kubelet --config="$d/kubelet.yaml" --kubeconfig="$STATE/pki/kubelet-$node.kubeconfig" \
  --hostname-override="$node" --node-ip="$NODE_NET.$((10 + i))" --v="${TW_V:-2}" &
supervise "$d" kube-proxy kube-proxy --config="$d/kube-proxy.yaml" &
while :; do wait -n || true; sleep 1; done
