package wireguard

import (
	"encoding/binary"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"
)

// controls are control messages as the kernel writes them.
func controls(each int, a netip.Addr) []byte {
	b := make([]byte, 0, 2*controlRoom)
	if a.Is4() {
		b = control(b, unix.IPPROTO_IP, unix.IP_PKTINFO, unix.SizeofInet4Pktinfo)
		four := a.As4()
		copy(b[len(b)-align(unix.SizeofInet4Pktinfo)+4:], four[:])
	} else {
		b = control(b, unix.IPPROTO_IPV6, unix.IPV6_PKTINFO, unix.SizeofInet6Pktinfo)
		six := a.As16()
		copy(b[len(b)-align(unix.SizeofInet6Pktinfo):], six[:])
	}
	b = control(b, unix.IPPROTO_UDP, unix.UDP_GRO, 4)
	binary.NativeEndian.PutUint32(b[len(b)-align(4):], uint32(each))
	return b
}

// FuzzControl parses arbitrary control messages, and compares with how x/sys reads them where it can.
func FuzzControl(f *testing.F) {
	f.Add(controls(1472, netip.MustParseAddr("192.0.2.1")))
	f.Add(controls(1452, netip.MustParseAddr("2001:db8::1")))
	f.Add(controls(-1, netip.MustParseAddr("2001:db8::1"))[:70])
	f.Add(make([]byte, unix.SizeofCmsghdr))
	f.Fuzz(func(t *testing.T, b []byte) {
		room := make([]byte, len(b)) // of its own, so that a read beyond it is found
		copy(room, b)
		var m message
		var at endpoint
		new(inbox).parse(room, &m, &at)
		var want message
		var wantAt endpoint
		cs, err := unix.ParseSocketControlMessage(room)
		if err != nil {
			return
		}
		for _, c := range cs {
			switch {
			case c.Header.Level == unix.IPPROTO_UDP && c.Header.Type == unix.UDP_GRO && len(c.Data) >= 4:
				want.each = int(binary.NativeEndian.Uint32(c.Data))
			case c.Header.Level == unix.IPPROTO_IP && c.Header.Type == unix.IP_PKTINFO && len(c.Data) >= 12:
				wantAt.ifidx, wantAt.from = int32(binary.NativeEndian.Uint32(c.Data)), netip.AddrFrom4([4]byte(c.Data[4:]))
			case c.Header.Level == unix.IPPROTO_IPV6 && c.Header.Type == unix.IPV6_PKTINFO && len(c.Data) >= 20:
				wantAt.from, wantAt.ifidx = netip.AddrFrom16([16]byte(c.Data)), int32(binary.NativeEndian.Uint32(c.Data[16:]))
			}
		}
		if m.each != want.each || at != wantAt {
			t.Fatalf("%d %v, want %d %v", m.each, at, want.each, wantAt)
		}
	})
}
