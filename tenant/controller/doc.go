// Package controller keeps the objects that the operator owns as package tenant says they should be:
//
//   - tunnel: pods with the label tenantwire.dev/tunnel -> one TunnelMember each, and the TenantTunnel's status
//   - peer:   TunnelPeer -> its condition Accepted
//   - gateway: TenantTunnels with spec.gateway -> the Deployment of its pods and all that these need
//   - ca:     namespaces with a tunnel -> the ConfigMap tenantwire-ca
//
// All of them run on the leader alone and have one shape: gather from the caches, decide purely, apply with server-side apply, write
// one status and only when it changed. Each is keyed by the thing it decides about, so that a join costs in proportion to its own
// tunnel, and a burst of joins is one reconcile.
package controller
