#!/usr/bin/env bash
# lint.sh MODULE...: golangci-lint in each module's folder, and shellcheck for every script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
# shellcheck source=../test/cluster/env.sh
. test/cluster/env.sh
need shellcheck=shellcheck
mapfile -t scripts < <(git ls-files -- '*.sh' .ci/run)
shellcheck --external-sources --source-path=SCRIPTDIR "${scripts[@]}"
rc=0
for m in "$@"; do
  echo "golangci-lint $m"
  (cd "$m" && go tool -modfile="$ROOT/tools/go.mod" golangci-lint run ./...) || rc=1
done
exit "$rc"
