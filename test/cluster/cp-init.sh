#!/usr/bin/env bash
# cp-init.sh: PID 1 of the control plane, in its own pid namespace and node 1's network namespace.
set -euo pipefail
# shellcheck source=env.sh
. "$(dirname "${BASH_SOURCE[0]}")/env.sh"
d=$STATE/cp p=$STATE/pki
mkdir -p "$d"
trap 'exit 0' TERM INT
# Each thread of these counts as much as three of others outside the nodes: gateways whose Lease is answered late stop.
renice -n -5 -p $$ >/dev/null 2>&1 || true # who may not goes on without

supervise "$d" etcd \
  etcd --data-dir="$d/etcd" --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
  --listen-peer-urls=http://127.0.0.1:2380 --unsafe-no-fsync --log-level=warn &
supervise "$d" kube-apiserver \
  kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address="$NODE_NET.11" --bind-address=0.0.0.0 --secure-port=6443 \
  --tls-cert-file="$p/apiserver.crt" --tls-private-key-file="$p/apiserver.key" --client-ca-file="$p/ca.crt" \
  --kubelet-client-certificate="$p/apiserver-kubelet-client.crt" --kubelet-client-key="$p/apiserver-kubelet-client.key" \
  --kubelet-preferred-address-types=InternalIP --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
  --service-account-issuer=https://kubernetes.default.svc --service-account-signing-key-file="$p/sa.key" \
  --service-account-key-file="$p/sa.pub" --service-cluster-ip-range="$SVC_CIDR" --allow-privileged=true \
  --enable-aggregator-routing=true --cert-dir="$d" &
# The default request limits would make the many controllers wait for each other at the start.
supervise "$d" kube-controller-manager \
  kube-controller-manager --kubeconfig="$p/controller-manager.kubeconfig" --leader-elect=false --use-service-account-credentials \
  --service-account-private-key-file="$p/sa.key" --root-ca-file="$p/ca.crt" --cluster-signing-cert-file="$p/ca.crt" \
  --cluster-signing-key-file="$p/ca.key" --kube-api-qps=300 --kube-api-burst=600 --cluster-cidr="$POD_NET.0.0/16" \
  --service-cluster-ip-range="$SVC_CIDR" --cert-dir="$d" --bind-address=127.0.0.1 &
supervise "$d" kube-scheduler \
  kube-scheduler --kubeconfig="$p/scheduler.kubeconfig" --leader-elect=false --cert-dir="$d" --bind-address=127.0.0.1 &
while :; do wait -n || true; sleep 1; done
