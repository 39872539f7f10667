// Package wireguard is a WireGuard engine that runs to completion: whoever has a packet encrypts and sends it, and whoever
// reads the socket decrypts and delivers. There is no queue and no hand-off between stages, because on the one or two CPUs
// that a sidecar is given those cost more than they bring: a queue is where a request waits behind bulk traffic, and a
// hand-off is a goroutine to wake.
//
// Outbound, on the caller's goroutine (send.go):
//
//  1. The caller lays out packets for one destination in a Batch, with the room that encryption needs, one behind the other.
//  2. Send finds the peer (routes.go) and its current session (session.go), takes as many nonces as there are packets, and
//     encrypts each in place.
//  3. The socket (socket_linux.go) sends what lies contiguous as one message, which the kernel or the network card cuts into
//     datagrams. It waits while the socket's buffer is full: that is the only queue.
//
// Inbound, one goroutine for each socket (receive.go):
//
//  1. One system call reads several messages, each of up to 64 datagrams that the kernel has joined.
//  2. A run of datagrams of one session is decrypted in place, held against replay and against the peer's allowed IPs, and
//     delivered. The buffers are the reader's again when Deliver returns. A hub (transit.go) passes on what is another peer's: it
//     is encrypted again where it lies, and leaves as the message that it came in.
//     Packets of an outside peer that is over its bandwidth are refused before that (limit.go), and, once the socket has overflowed, those of
//     a sender that has more than its share (crowd.go). On a path that changes the order of
//     packets within a flow, and only there, early ones wait a few milliseconds for late ones (reorder.go).
//  3. Handshake messages go to a worker (handshake.go), so that nobody's public-key work stands in the way of data.
//
// Addresses of a peer that are seen under others (mapping.go) are rewritten first of all after decryption, and first of all once it is
// known that packets go to the peer: between the two everything knows what is seen.
//
// The handshake is Noise IKpsk2 as WireGuard has it (noise.go), with cookies under load (cookie.go). What a peer has to do as
// time passes is decided purely (clock.go) and done by one timer for each peer.
//
// How long the packets to a peer may be is found out by probes inside the tunnel (package pathmtu decides, probe.go and echo.go do it), and what
// leaves is held to it.
//
// # Ownership and locks
//
// An Engine owns its sockets, its goroutines and its peers; Close ends them. A Batch is the engine's from Send on. Peers and
// allowed IPs are guarded by Engine.mu, for configuration and look-ups only; a peer's handshake by peer.mu. Neither is held
// while a packet is sent or delivered. Sessions are replaced, never changed, but for their counters.
//
// # Limits
//
// One destination's packets are encrypted by whoever sends them, so parallelism is that of the senders; all that arrives by one
// address family is decrypted by one goroutine.
package wireguard
