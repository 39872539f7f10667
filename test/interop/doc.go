// Package interop tests the static-file sidecar against other WireGuard implementations, in network namespaces of its own.
package interop
