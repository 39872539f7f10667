package netstack

import (
	"context"
	"errors"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// TestDialFromFirst: whatever addresses there are, dials leave from the first of their family, to wherever; and from another one once that
// is the first.
func TestDialFromFirst(t *testing.T) {
	const mtu, hosts = 1420, 40
	var far []netip.Prefix
	for i := range byte(hosts) {
		far = append(far, netip.PrefixFrom(v4(100+i), 32), netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 8: 7 * i, 15: 100 + i}), 128))
	}
	b, err := New(Options{Interface: datapath.Interface{MTU: mtu, Addresses: far}})
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	a := newStack(t, 1, mtu)
	a.Connect(&wire{mtu: mtu, to: b})
	b.Connect(&wire{mtu: mtu, to: a})
	own := func(first byte) (out []netip.Prefix) {
		out = append(out, netip.PrefixFrom(v4(first), 32), netip.PrefixFrom(v6(first), 128))
		for i := range byte(hosts) {
			if i+1 != first {
				out = append(out, netip.PrefixFrom(v4(i+1), 32), netip.PrefixFrom(netip.AddrFrom16([16]byte{0: 0xfd, 1: 9, 8: 7 * i, 15: i + 1}), 128))
			}
		}
		return out
	}
	for _, first := range []byte{1, 3} {
		if err := a.SetInterface(datapath.Interface{MTU: mtu, Addresses: own(first)}); err != nil {
			t.Fatal(err)
		}
		for _, p := range far {
			want := v4(first)
			if p.Addr().Is6() {
				want = v6(first)
			}
			ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
			c, err := a.DialUDP(ctx, netip.AddrPortFrom(p.Addr(), 53))
			if err != nil {
				t.Fatal(err)
			}
			if got := netip.MustParseAddrPort(c.LocalAddr().String()).Addr(); got != want {
				t.Errorf("a datagram to %s leaves from %s, want %s", p.Addr(), got, want)
			}
			_ = c.Close()
			var from netip.Addr
			b.HandleTCP(func(q datapath.TCPRequest) { from = q.Remote().Addr(); q.Refuse() })
			if _, err := a.DialTCP(ctx, netip.AddrPortFrom(p.Addr(), 80)); err == nil || errors.Is(err, context.DeadlineExceeded) || from != want {
				t.Errorf("a connection to %s leaves from %s, want %s (%v)", p.Addr(), from, want, err)
			}
			cancel()
		}
	}
}
