package wireguard

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// FuzzControl reads control messages as no kernel would write them.
func FuzzControl(f *testing.F) {
	b := control(make([]byte, 0, 128), unix.IPPROTO_UDP, unix.UDP_GRO, 4)
	binary.NativeEndian.PutUint32(b[unix.CmsgLen(0):], 1452)
	f.Add(b)
	f.Add(control(b[:len(b):128], unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo))
	f.Add(control(make([]byte, 0, 128), unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo))
	f.Fuzz(func(_ *testing.T, b []byte) {
		var m message
		var at endpoint
		new(inbox).parse(append([]byte(nil), b...), &m, &at)
	})
}

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
