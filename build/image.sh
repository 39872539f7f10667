#!/usr/bin/env bash
# image.sh NAME: builds cmd/NAME as a static program and puts it into the image archive dist/tenantwire-NAME.tar.
# The bytes depend on the source, TAG, REVISION and the Go version alone.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
name=$1 tag=${TAG:-dev} arch=${GOARCH:-$(go env GOARCH)}
((${#tag} <= 64)) || { echo "TAG: ${#tag} characters, want at most 64: it is the programs' version" >&2; exit 1; }
mkdir -p dist/image
GOARCH=$arch CGO_ENABLED=0 go build -trimpath -buildvcs=false -ldflags "-s -w -X main.version=$tag" -o "dist/image/$name" "./cmd/$name"
labels=()
label() { labels+=(-label "org.opencontainers.image.$1=$2"); }
label title "tenantwire-$name"
label description "TenantWire $name: a WireGuard network for every tenant of a Kubernetes cluster"
label source https://github.com/tenantwire/tenantwire
label licenses Apache-2.0
label version "$tag"
caps=()
# Where a pod's namespace allows NET_ADMIN the data plane takes it, as the user it is; elsewhere the file capability is without effect.
[[ $name == operator ]] || caps=(-net-admin "/$name")
[[ -z ${REVISION:-} ]] || label revision "$REVISION"
GOARCH='' go -C build run ./image -o "$PWD/dist/tenantwire-$name.tar" -ref "ghcr.io/tenantwire/$name:$tag" -arch "$arch" \
  -entrypoint "/$name" "${labels[@]}" "${caps[@]}" "$PWD/dist/image/$name:/$name"
echo "dist/tenantwire-$name.tar: ghcr.io/tenantwire/$name:$tag, $(($(stat -c %s "dist/tenantwire-$name.tar") / 1024)) KiB"
