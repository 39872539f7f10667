#!/usr/bin/env bash
# build.sh [envtest|prometheus]: builds the test cluster's binaries and images from Go modules (and one C file) into the cache.
# What has not changed since it was last built is left alone. From an empty Go build cache: about 20 CPU minutes.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
export GOFLAGS=-buildvcs=false GOTOOLCHAIN=local GOWORK=off
command -v go >/dev/null || die "please install Go 1.26 or newer"
need gcc=gcc pkg-config=pkg-config nft=nftables iptables=iptables ip=iproute2 nsenter=util-linux \
  sysctl=procps mount=mount flock=util-linux find=findutils /usr/include/seccomp.h=libseccomp-dev /usr/include/stdlib.h=libc6-dev
mkdir -p "$KBIN" "$NBIN/cni" "$IMAGES" "$CACHE/stamps"
exec 9>"$CACHE/build.lock"
flock -n 9 || { echo "another build is running in $CACHE, waiting for it"; flock 9; }

# progress NAME: passes on what is not the name of a compiled package, and says every 20 s that it goes on, as when it links.
progress() {
  local line n=0 rc next=$((SECONDS + 20)) t=$SECONDS
  while :; do
    IFS= read -r -t 5 line && rc=0 || rc=$?
    if ((rc == 0)); then
      if [[ $line =~ ^[A-Za-z0-9._~/-]+$ ]]; then n=$((n + 1)); elif [[ $line != "go: downloading"* ]]; then echo "$line"; fi
    elif ((rc <= 128)); then # not a timeout but the end
      return 0
    fi
    if ((SECONDS >= next)); then echo "  $1: $n packages compiled, $((SECONDS - t)) s"; next=$((SECONDS + 20)); fi
  done
}
# part NAME DIR COMMAND...: runs COMMAND in DIR unless nothing that it reads has changed.
part() {
  local name=$1 dir=$DIR/$2 sum t=$SECONDS
  shift 2
  sum=$( (go version; declare -f "$1" gobuild; echo "$*"; cd "$dir" && find . -type f -print0 | sort -z | xargs -0 sha256sum) | sha256sum)
  if [[ -e $CACHE/stamps/$name && $(<"$CACHE/stamps/$name") == "$sum" ]]; then return; fi
  echo "building $name"
  (cd "$dir" && "$@") 2>&1 | progress "$name" || die "cannot build $name"
  echo "$sum" >"$CACHE/stamps/$name"
  echo "built $name in $((SECONDS - t)) s"
}
gobuild() { CGO_ENABLED=${CGO_ENABLED:-0} go build -v -trimpath "$@"; }

kubernetes() { # VERSION COMMAND...
  local x="" p minor=${1#v1.}
  for p in k8s.io/component-base/version k8s.io/client-go/pkg/version; do
    x+=" -X $p.gitVersion=$1 -X $p.gitMajor=1 -X $p.gitMinor=${minor%%.*} -X $p.gitTreeState=clean"
    x+=" -X $p.gitCommit=0000000000000000000000000000000000000000 -X $p.buildDate=2026-01-01T00:00:00Z"
  done
  gobuild -ldflags "-s -w$x" -o "$KBIN/" "${@:2}"
}
etcd() { gobuild -ldflags '-s -w' -o "$KBIN/etcd" go.etcd.io/etcd/server/v3; }
containerd() {
  local v p=github.com/containerd/containerd/v2 c
  v=$(go list -m -f '{{.Version}}' $p) || return
  for c in containerd containerd-shim-runc-v2 ctr; do
    gobuild -tags "no_btrfs no_devmapper no_zfs" -ldflags "-s -w -X $p/version.Version=$v -X $p/version.Revision=0" -o "$NBIN/$c" "$p/cmd/$c" || return
  done
}
runc() { CGO_ENABLED=1 gobuild -tags seccomp -ldflags '-s -w' -o "$NBIN/runc" github.com/opencontainers/runc; }
cni() {
  local p=github.com/containernetworking/plugins/plugins
  gobuild -ldflags '-s -w' -o "$NBIN/cni/" $p/main/bridge $p/main/loopback $p/ipam/host-local $p/meta/portmap
}
prometheus() { gobuild -tags remove_all_sd -ldflags '-s -w' -o "$CACHE/bin/prometheus" github.com/prometheus/prometheus/cmd/prometheus; }
# one NAME PACKAGE: a single program from the module it lies in.
one() { gobuild -ldflags '-s -w' -o "$CACHE/bin/$1" "$2"; }
pause() { gcc -O2 -static -s -o "$CACHE/bin/pause" pause.c; }
image() { # NAME
  if [[ $CACHE/bin/$1 -nt $IMAGES/$1.tar || $CACHE/bin/image -nt $IMAGES/$1.tar ]]; then
    "$CACHE/bin/image" -o "$IMAGES/$1.tar" -ref "tenantwire.test/$1:dev" -entrypoint "/$1" "$CACHE/bin/$1:/$1"
  fi
}

cmds=()
for c in kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl; do cmds+=("k8s.io/kubernetes/cmd/$c"); done
if [[ ${1:-} == prometheus ]]; then # by the tests that need it
  part prometheus mod/prometheus prometheus
  exit
fi
part image ../../build one image ./image
part testsum ../../build one testsum ./testsum
part "kubernetes-$K8S_VERSION" "mod/k8s-$K8S_VERSION" kubernetes "$K8S_VERSION" "${cmds[@]}"
part etcd mod/etcd etcd
[[ ${1:-} != envtest ]] || exit 0 # unit tests need no nodes
part containerd mod/containerd containerd
part runc mod/runc runc
part cni mod/cni cni
part coredns mod/coredns one coredns .
part tunplugin mod/tunplugin one tunplugin .
part clustertool . one clustertool ./cmd/clustertool
part workload . one workload ./cmd/workload
part pause cmd/pause pause
for i in pause coredns tunplugin workload; do image "$i"; done
