// Package interop tests the static-file sidecar against upstream wireguard-go on a TUN device, driven by the wg tool, in network
// namespaces of its own.
//
// Each test makes what it needs and removes it: a namespace for every host (twi-PID-N), veth pairs between them, and the
// processes in them. Nothing leaves those namespaces. The sidecar runs as an ordinary user without capabilities; only the TUN
// side needs root. Where root, /dev/net/tun or wg is missing, every test is skipped and says why; setup.sh installs wg.
//
// Outer addresses are those of the documentation ranges, one network for each pair; inside the tunnel host N is 10.7.0.N and
// fd07::N.
package interop
