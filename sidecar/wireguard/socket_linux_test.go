package wireguard

import (
	"net/netip"
	"testing"
)

// TestControlRoundTrip writes what a message is sent with and reads it as what one is received with.
func TestControlRoundTrip(t *testing.T) {
	for _, from := range []string{"192.0.2.7", "2001:db8::7"} {
		a := netip.MustParseAddr(from)
		s := &socket{six: a.Is6()}
		o := newOutbox(s)
		o.describe(&endpoint{from: a, ifidx: 3}, [][]byte{make([]byte, 1452), make([]byte, 9)})
		var m message
		var at endpoint
		new(inbox).parse(o.control[:o.hdr.Controllen], &m, &at)
		if at.from != a || at.ifidx != 3 {
			t.Errorf("%s came back as %s on %d", a, at.from, at.ifidx)
		}
	}
}

// TestGather has neighbours become one piece, and others not.
func TestGather(t *testing.T) {
	room := make([]byte, 4000)
	o := newOutbox(&socket{})
	o.gather([][]byte{room[0:1000], room[1000:2000], room[2001:3000], room[3000:4000:4000]})
	if n := int(o.hdr.Iovlen); n != 2 || o.vecs[0].Len != 2000 || o.vecs[1].Len != 1999 {
		t.Errorf("%d pieces of %d and %d bytes", n, o.vecs[0].Len, o.vecs[1].Len)
	}
}
