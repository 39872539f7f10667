# Settings and functions that the scripts here share; sourced, not run. Every setting is an environment variable.
# shellcheck shell=bash disable=SC2034
DIR=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
ROOT=$(cd "$DIR/../.." && pwd)
K8S_VERSION=v1.37.2
CACHE=${TENANTWIRE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/tenantwire}
NAME=${TW_NAME:-twk8s}                    # prefix of the cluster's network namespaces and cgroups
STATE=${TW_STATE:-$CACHE/clusters/$NAME}  # all that the cluster writes; down.sh removes it
NODES=${TW_NODES:-1}
SPARE=2                                   # nodes that add-node.sh may add later
PORT=${TW_PORT:-}                         # loopback port of the API server; by default 16443, or a free one if that is taken
PROXY_MODE=${TW_PROXY_MODE:-nftables}
NODE_NET=10.60.0                          # node i is $NODE_NET.(10+i); only ever inside the cluster's own namespaces
POD_NET=10.244                            # the pods of node i are $POD_NET.i.0/24
SVC_CIDR=10.96.0.0/16
DNS_IP=10.96.0.10
KBIN=$CACHE/bin/kubernetes-$K8S_VERSION   # also what KUBEBUILDER_ASSETS wants: kube-apiserver, etcd and kubectl in one folder
NBIN=$CACHE/bin/node
IMAGES=$CACHE/images
PATH=$KBIN:$CACHE/bin:$NBIN:$PATH:/usr/local/go/bin:/usr/sbin:/sbin

die() { echo "${0##*/}: $*" >&2; exit 1; }

# need COMMAND=PACKAGE...: installs the Debian packages of the commands (or, with a slash, files) that are missing.
need() {
  local p missing=()
  for p in "$@"; do
    [[ $p == /* && -e ${p%%=*} ]] || command -v "${p%%=*}" >/dev/null || missing+=("${p#*=}")
  done
  ((${#missing[@]})) || return 0
  { [[ $EUID -eq 0 ]] && command -v apt-get >/dev/null; } || die "please install: ${missing[*]}"
  echo "installing ${missing[*]}"
  local install=(apt-get install -yqq --no-install-recommends "${missing[@]}")
  { apt-get update -qq && DEBIAN_FRONTEND=noninteractive "${install[@]}"; } >/dev/null || die "cannot install ${missing[*]}"
}

# A process is remembered as "NAME PID STARTTIME": a pid alone may have been given to somebody else since.
starttime() {
  local s
  { s=$(<"/proc/$1/stat"); } 2>/dev/null || return 1
  s=${s##*) } # the command in field 2 may hold spaces; what follows starts with field 3
  cut -d' ' -f20 <<<"$s"
}
record() { echo "$1 $2 $(starttime "$2")" >>"$STATE/pids"; }
alive() { [[ $(starttime "$1") == "$2" ]]; } 2>/dev/null

# own_cluster: what follows looks into nodes, which only a cluster that up.sh started lets us do.
own_cluster() {
  [[ -z ${KUBECONFIG:-} || $KUBECONFIG == "$STATE/kubeconfig" ]] ||
    die "KUBECONFIG names a cluster that these scripts did not start, so its nodes cannot be entered: $KUBECONFIG"
  [[ -e $STATE/pids ]] || die "no cluster \"$NAME\" is up (up.sh, or set TW_NAME)"
}

# supervise DIR NAME COMMAND...: keeps a command running. Its pid is in DIR/NAME.pid; it stays down while DIR/NAME.hold exists.
# All of them are Go's and small, and the machine has more memory than cores: they may collect garbage less often.
supervise() {
  local run=$1 name=$2
  shift 2
  while :; do
    while [[ -e $run/$name.hold ]]; do sleep 0.1; done
    GOGC=400 "$@" >>"$run/$name.log" 2>&1 &
    echo $! >"$run/$name.pid"
    wait $! || true
    rm -f "$run/$name.pid"
    sleep 0.2
  done
}
