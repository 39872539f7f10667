#!/usr/bin/env bash
# with-cluster.sh COMMAND...: runs a command with KUBECONFIG set and kubectl on the PATH.
# KUBECONFIG set already: that cluster is used, and must be able to get the images by itself. Otherwise a cluster is built,
# brought up with the images of dist/, and taken down again, whatever happens. KEEP_CLUSTER=1 leaves it up, for the next run.
set -euo pipefail
dir=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
# One name for a kept cluster; a name of its own for every other run, so that two of them do not meet.
if [[ -z ${TW_NAME:-} && ${KEEP_CLUSTER:-0} != 1 && -z ${KUBECONFIG:-} ]]; then export TW_NAME=twk8s-$$; fi
# shellcheck source=env.sh
. "$dir/env.sh"
(($#)) || die "usage: with-cluster.sh COMMAND..."
export PATH TENANTWIRE_CACHE=$CACHE
if [[ -n ${KUBECONFIG:-} ]]; then
  command -v kubectl >/dev/null || "$DIR/build.sh" envtest >&2
  exec "$@"
fi

# sweep: ends clusters whose with-cluster.sh was killed before it could.
sweep() {
  local owner pid start
  for owner in "$CACHE"/clusters/*/owner; do
    [[ -e $owner ]] || continue
    read -r pid start <"$owner" || continue
    alive "$pid" "$start" || { s=${owner%/owner}; echo "ending an orphan: $s"; TW_NAME=${s##*/} TW_STATE=$s "$DIR/down.sh"; }
  done
}
child='' mine=''
finish() {
  trap '' INT TERM
  # Its process group, so that what it started ends too.
  if [[ -n $child ]]; then kill -TERM -- "-$child" 2>/dev/null || true; wait "$child" 2>/dev/null || true; fi
  if [[ ${KEEP_CLUSTER:-0} == 1 ]]; then
    echo "kept: export KUBECONFIG=$STATE/kubeconfig; to end it: TW_NAME=$NAME $DIR/down.sh" >&2
  elif [[ -n $mine ]]; then
    "$DIR/down.sh" >&2
  fi
}

"$DIR/build.sh" >&2
export TW_NAME=$NAME TW_STATE=$STATE
mkdir -p "$CACHE/clusters"
trap finish EXIT
trap 'exit 130' INT
trap 'exit 143' TERM
(flock 9 && sweep) 9>"$CACHE/clusters/lock" >&2
if [[ ! -e $STATE/kubeconfig ]]; then
  mkdir -p "$STATE"
  mine=1
  [[ ${KEEP_CLUSTER:-0} == 1 ]] || echo "$$ $(starttime $$)" >"$STATE/owner"
  "$DIR/up.sh" >&2
fi
for t in "$ROOT"/dist/tenantwire-*.tar; do
  if [[ -e $t ]]; then "$DIR/load-image.sh" "$t"; fi
done
export KUBECONFIG=$STATE/kubeconfig
if [[ -t 0 ]]; then # a person's terminal: the command may read from it
  "$@"
else
  set -m
  "$@" <&0 &
  child=$!
  set +m
  wait "$child" && rc=0 || rc=$?
  child=
  exit "$rc"
fi
