package conformance

import (
	"net/netip"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// testRestart closes an interface and opens it again while a peer goes on from the same ports of its own, as whoever does not know of it does: it
// is answered as before. With an interface in the pod the kernel remembers where it led the peer's flows, longer than this takes.
func testRestart(t *testing.T, r *room) {
	b := r.open(2)
	p := r.raw(b)
	answered := func(when string) {
		t.Helper()
		b.accept(echo)
		b.echoUDP()
		for _, at := range []netip.Addr{b.v4, b.v6} {
			p.send(packet(p.own(at), at, protoTCP, synTo(p.own(at), at, webPort)))
			if p.receive(patience, isAnswer(at, protoTCP)) == nil {
				t.Errorf("%s: no answer to a SYN to %s", when, at)
			}
			p.send(packet(p.own(at), at, protoUDP, udpTo(p.own(at), at, namePort)))
			if p.receive(patience, isAnswer(at, protoUDP)) == nil {
				t.Errorf("%s: no answer to a datagram to %s", when, at)
			}
		}
	}
	answered("at first")
	port := b.ListenPort()
	b.close()
	b = r.openAs(2, 2, b.priv, port)
	b.update(datapath.Peer{PublicKey: p.self, AllowedIPs: prefixes("10.9.0.3/32", "fd09::3/128")})
	p.handshake(b)
	answered("after a restart")
}

// isAnswer matches what lets a peer go on: a segment that is no reset, a datagram.
func isAnswer(from netip.Addr, with byte) func([]byte) bool {
	reset := isReset(from)
	return func(b []byte) bool {
		src, proto, _ := parts(b)
		return src == from && proto == with && !reset(b)
	}
}
