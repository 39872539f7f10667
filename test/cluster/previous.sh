#!/usr/bin/env bash
# previous.sh: builds the version before this one from history, its images as REGISTRY/NAME:previous, and prints the folder with their
# archives and the install.yaml that names them. Which version that is: $PREVIOUS, or the newest tag vX.Y.Z before HEAD, or the commit
# that the file "previous" here names. Exit code 3: it is not in the history that is here, as in a shallow clone.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
cd "$ROOT"
ref=${PREVIOUS:-$(git describe --tags --abbrev=0 --match 'v[0-9]*' HEAD^ 2>/dev/null || cat "$DIR/previous")}
if ! commit=$(git rev-parse -q --verify "$ref^{commit}" 2>&1); then
  echo "previous.sh: $ref is not in the history here: ${commit:-it is unknown}" >&2
  exit 3
fi
out=$CACHE/previous/$commit
mkdir -p "$CACHE/previous"
exec 9>"$CACHE/previous/lock"
flock 9
if [[ ! -e $out ]]; then
  src=$(mktemp -d "$CACHE/previous/build.XXXXXX")
  trap 'rm -rf "$src"' EXIT
  git archive "$commit" | tar -x -C "$src"
  for name in operator sidecar gateway; do TAG=previous "$src/build/image.sh" "$name" >&2; done
  mkdir "$src/out"
  mv "$src"/dist/tenantwire-*.tar "$src/out"
  sed 's#\(ghcr.io/tenantwire/[a-z]*\):dev#\1:previous#' "$src/manifests/install.yaml" >"$src/out/install.yaml"
  mv "$src/out" "$out"
fi
echo "$out"
