#!/usr/bin/env bash
# k8s-gen.sh vX.Y.Z: writes k8s-vX.Y.Z/go.mod and go.sum, so that k8s.io/kubernetes builds from
# the module proxy. Its own go.mod points the staging modules at ./staging, which its module zip
# does not have: here each is replaced by the module published for the same release (v0.Y.Z).
set -euo pipefail
v=$1
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p "k8s-$v"
cd "k8s-$v"
info=$(cd / && go mod download -json "k8s.io/kubernetes@$v")
mod=$(sed -n 's/.*"GoMod": "\(.*\)",/\1/p' <<<"$info")
gov=$(awk '$1 == "go" {print $2; exit}' "$mod")
{
  printf 'module github.com/tenantwire/tenantwire/test/cluster/mod/kubernetes\n\ngo %s\n\ngodebug default=go%s\n\ntool (\n' "$gov" "${gov%.*}"
  printf '\tk8s.io/kubernetes/cmd/%s\n' kube-apiserver kube-controller-manager kube-scheduler kubelet kube-proxy kubectl
  printf ')\n\nrequire k8s.io/kubernetes %s\n\nreplace (\n' "$v"
  awk -v v="v0.${v#v1.}" '$2 == "=>" && $3 ~ /^\.\/staging\// {print "\t" $1 " => " $1 " " v}' "$mod"
  printf ')\n'
} >go.mod
go mod tidy
