package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// Some outside peers reach what others do not; what everybody else may or may not is as without that.
func TestAdmissionBySource(t *testing.T) {
	prefixes := func(all ...string) (out []netip.Prefix) {
		for _, s := range all {
			out = append(out, netip.MustParsePrefix(s))
		}
		return out
	}
	port := func(n uint16, protocol wire.Protocol) wire.Port { return wire.Port{Port: n, Protocol: protocol} }
	told := wire.Config{
		Interface: wire.Interface{Addresses: prefixes("fd00::9/128")},
		Peers: []wire.Peer{
			{PublicKey: key.Public{1}, AllowedIPs: prefixes("fd00::1/128")},
			{PublicKey: key.Public{2}, AllowedIPs: prefixes("192.168.1.0/24", "192.168.2.0/24", "fd00::7/128", "10.0.0.0/8", "10.1.0.0/16"), Outside: true},
		},
		Granted: []wire.Port{port(443, wire.TCP)},
		Grants: []wire.Grant{
			{Sources: prefixes("192.168.1.0/24", "fd00::1/128"), Ports: []wire.Port{port(80, wire.TCP)}},
			{Sources: prefixes("10.0.0.0/8"), Ports: []wire.Port{port(80, wire.TCP), port(5432, wire.TCP)}},
			{Sources: prefixes("10.1.0.0/16", "172.16.0.0/12"), Ports: []wire.Port{port(53, wire.UDP)}},
		},
	}
	older := told
	older.Grants = nil
	for _, c := range []struct {
		src       string
		port      wire.Port
		want, old bool // by a coordinator that knows no grants
	}{
		{"192.168.1.5", port(80, wire.TCP), true, false},
		{"192.168.1.5", port(80, wire.UDP), false, false},
		{"192.168.1.5", port(443, wire.TCP), true, true},
		{"192.168.1.5", port(53, wire.UDP), false, false},
		{"192.168.2.5", port(80, wire.TCP), false, false},
		{"192.168.2.5", port(443, wire.TCP), true, true},
		{"fd00::7", port(80, wire.TCP), false, false},
		{"10.9.0.1", port(5432, wire.TCP), true, false},
		{"10.9.0.1", port(53, wire.UDP), false, false},
		{"10.1.0.1", port(53, wire.UDP), true, false}, // the narrowest range counts
		{"10.1.0.1", port(80, wire.TCP), false, false},
		{"172.16.0.1", port(53, wire.UDP), false, false}, // granted, and nobody's
		{"172.16.0.1", port(443, wire.TCP), false, false},
		{"fd00::1", port(9090, wire.TCP), true, true}, // a member
		{"fd00::9", port(9090, wire.TCP), true, true}, // itself
		{"fd00::8", port(443, wire.TCP), false, false},
		{"127.0.0.1", port(443, wire.TCP), false, false},
	} {
		for _, v := range []struct {
			name string
			told wire.Config
			want bool
		}{{"new", told, c.want}, {"old", older, c.old}} {
			d := (&member{}).translate(v.told)
			if got := d.admit(netip.MustParseAddr(c.src), farAddress.Addr(), c.port.Port, relay.Protocol(c.port.Protocol)); got != v.want {
				t.Errorf("%s coordinator: %s at %s: admitted %t, want %t", v.name, c.src, c.port, got, v.want)
			}
		}
	}
}

func TestAdmissionDoesNotAllocate(t *testing.T) {
	d := (&member{}).translate(wire.Config{
		Peers:  []wire.Peer{{PublicKey: key.Public{1}, AllowedIPs: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}, Outside: true}},
		Grants: []wire.Grant{{Sources: []netip.Prefix{netip.MustParsePrefix("192.168.1.0/24")}, Ports: []wire.Port{{Port: 80, Protocol: wire.TCP}}}},
	})
	src := netip.MustParseAddr("192.168.1.1")
	if n := testing.AllocsPerRun(100, func() {
		if !d.admit(src, farAddress.Addr(), 80, relay.TCP) {
			t.Error("not admitted")
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

// An open connection ends when its peer is no longer granted the port, though the port stays open to others, and the peer in the tunnel.
func TestGrantIsTakenBack(t *testing.T) {
	l := newLab(t)
	l.start(t)
	s := l.c.next(t, "")
	denied := l.config()
	denied.Peers[0].Outside = true
	granted := denied
	granted.Grants = []wire.Grant{{Sources: []netip.Prefix{farAddress}, Ports: granted.Inbound}}
	s.send(t, snapshot(granted))
	l.carries(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	c, err := l.far.DialTCP(ctx, netip.AddrPortFrom(memberAddress.Addr(), l.echo))
	must(t, err)
	defer c.Close()
	must(t, c.SetDeadline(time.Now().Add(patience)))
	echo := func() error {
		if _, err := io.WriteString(c, "hello"); err != nil {
			return err
		}
		_, err := io.ReadFull(c, make([]byte, 5))
		return err
	}
	must(t, echo())

	// Another peer is granted the port as well: that is nothing to this one.
	both := granted
	both.Grants = []wire.Grant{{Sources: []netip.Prefix{farAddress, netip.MustParsePrefix("192.0.2.0/24")}, Ports: granted.Inbound}}
	s.send(t, delta(granted, both))
	l.carries(t)
	must(t, echo())

	others := granted
	others.Grants = []wire.Grant{{Sources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24")}, Ports: granted.Inbound}}
	s.send(t, delta(both, others))
	eventually(t, "end of the connection", func() error {
		var timeout interface{ Timeout() bool }
		if err := echo(); err == nil || errors.As(err, &timeout) && timeout.Timeout() {
			return fmt.Errorf("it goes on: %w", err)
		}
		return nil
	})
	if err := l.echoes(); err == nil {
		t.Error("the peer reaches what is granted to another alone")
	}
	s.send(t, delta(others, granted))
	l.carries(t)
	l.stop(t)
}
