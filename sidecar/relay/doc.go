// Package relay carries bytes between the pod's own loopback sockets and the inside of the tunnel, and changes nothing about
// them: a FIN arrives as a FIN, a reset as a reset, a slow reader slows the writer, a datagram keeps its boundaries.
//
// # Flow
//
//	outbound   application -> loopback listener (Forward, SOCKS5, CONNECT) -> balancer -> Network.DialTCP / DialUDP
//	egress     another pod -> listener on the pod's address (Egress) -> allowed? -> Network.DialTCP / DialUDP
//	inbound    Network.HandleTCP / HandleUDP -> allowed? -> dial loopback -> Accept -> application
//	published  the same, at addresses of a Service's own -> balancer -> Network.Dial or the pod's network -> Accept -> member or pod
//
// Every TCP connection ends in a pipe: two halves, one goroutine each, one buffer in flight per half. A buffer is borrowed
// when there are bytes to put in it and given back when they are written, so an idle connection holds none; that needs help
// from the stream, see [ReadWaiter]. UDP has flows instead, kept in a table that forgets the idle and the least recently used.
//
// # Ownership
//
// The Relay owns every listener, stream and flow it opened or was handed. A listener has a context; cancelling it aborts the
// connections it accepted, so removing a forward is one cancel. Close cancels all and returns when every goroutine has ended.
// The Network is borrowed: Close detaches the handlers and leaves it open.
//
// # Units
//
// Bytes are payload bytes. "Up" is from the local socket to the tunnel, "down" the reverse, whichever side connected.
package relay
