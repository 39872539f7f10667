// Package install tests the ways to install: the Helm chart and kustomize against manifests/install.yaml, and what comes with an
// installation for Prometheus and Grafana, each with the library that its users' tools are made of. It is a module of its own, so
// that their dependencies are nobody else's.
package install
