// Package prom runs a real Prometheus against the cluster of a test, with what manifests/monitoring says: it scrapes the pods that the
// PodMonitors select with their relabelling, and evaluates the alerts. To fit into a test, times are scaled: an alert's "for" to a
// 60th, ranges in queries to a tenth. Thresholds stay, and so do times that are in WireGuard itself, as a session's 180 seconds.
//
// Prometheus runs in the network namespace of the first node, from where pods are reached; its API is reached through a forwarded port.
package prom
