#!/usr/bin/env bash
# test.sh unit|all: runs the tests of every module, and for all those on a real cluster too, goes on after a failure, lists
# what was skipped and closes with "N passed, N failed, N skipped". GOTESTFLAGS adds flags.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../test/cluster/env.sh
. test/cluster/env.sh
what=${1:-all} rc=0 results=$PWD/dist/results
read -ra flags <<<"${GOTESTFLAGS:-}"
rm -rf "$results"
mkdir -p "$results"
test/cluster/build.sh envtest
export KUBEBUILDER_ASSETS=$KBIN

# run NAME COMMAND...: a command whose standard output is that of go test -json.
run() {
  local name=$1
  shift
  echo "== $name"
  "$@" | testsum -log "$results/$name.json" || rc=1
}
# shellcheck disable=SC2317 # run calls it
in_module() { (cd "$1" && shift && go test -json "${flags[@]}" "$@"); }

run root in_module . -timeout 30m ./...
for m in build test/cluster test/install bench; do
  if [[ -e $m/go.mod ]]; then run "${m//\//-}" in_module "$m" ./...; fi
done
if [[ -e test/go.mod ]]; then # the e2e suite and the demo need a cluster
  mapfile -t pkgs < <(cd test && go list ./... | grep -v -E '/test/(e2e|demo)(/|$)')
  if ((${#pkgs[@]})); then run test in_module test "${pkgs[@]}"; fi
fi
if [[ $what == all && -d test/e2e ]]; then
  run e2e test/cluster/with-cluster.sh sh -c 'cd test && exec go test -json -count=1 -timeout 50m "$@" ./e2e/...' sh "${flags[@]}"
fi
testsum -report "$results"/*.json || rc=1
exit "$rc"
