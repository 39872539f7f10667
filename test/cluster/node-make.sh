# What up.sh and add-node.sh make a node from; sourced after env.sh, not run.
# shellcheck shell=bash disable=SC2153

# node_cgroups I: one directory in every mounted v1 hierarchy, or in the single v2 one, as $STATE/cgroup1 or cgroup2 says.
# All pods of a node together get the CPU time of 16 of the threads beside them. By default it would be that of a single one, and pods
# would stand still for seconds whenever the control plane and the tests are busy; a real node favours its pods.
node_cgroups() {
  local c m
  if [[ -e $STATE/cgroup2 ]]; then
    mkdir -p "/sys/fs/cgroup/$NAME-n$1"
    echo 1600 >"/sys/fs/cgroup/$NAME-n$1/cpu.weight"
    return
  fi
  while read -r c; do
    m=/sys/fs/cgroup/$c
    mkdir -p "$m/$NAME-n$1"
    [[ $c != cpu ]] || echo 16384 >"$m/$NAME-n$1/cpu.shares"
    [[ $c != cpuset ]] || for f in cpuset.cpus cpuset.mems; do cat "$m/$f" >"$m/$NAME-n$1/$f"; done
  done <"$STATE/cgroup1"
}

# node_network I: a namespace on the cluster's switch.
node_network() {
  local i=$1 ns=$NAME-n$1
  ip netns add "$ns"
  ip -n "$NAME-net" link add "p$i" type veth peer name eth0 netns "$ns"
  ip -n "$NAME-net" link set "p$i" master br0 up
  ip -n "$ns" link set lo up
  ip -n "$ns" addr add "$NODE_NET.$((10 + i))/24" dev eth0
  ip -n "$ns" link set eth0 up
  ip -n "$ns" route add default via "$NODE_NET.1"
}

# node_route I J: how node I reaches the pods of node J.
node_route() { ip -n "$NAME-n$1" route replace "$POD_NET.$2.0/24" via "$NODE_NET.$((10 + $2))"; }

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
start_node() {
  local in
  read -ra in < <(inside "$1")
  start "node$1" "${in[@]}" "$DIR/node-init.sh" "$1"
}

wait_for() { # SECONDS WHAT COMMAND...
  local end=$((SECONDS + $1)) what=$2
  shift 2
  until "$@" >/dev/null 2>&1; do
    ((SECONDS < end)) || die "timed out waiting for $what"
    sleep 0.2
  done
  say "$what"
}
node_ready() {
  wait_for 60 "$1 registered" kubectl get node "$1"
  kubectl wait --for=condition=Ready "node/$1" --timeout=120s >/dev/null
  say "$1 ready"
}
