package agent

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/tenantwire/tenantwire/sidecar/dns"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// An outside peer asks the gateway for names inside the tunnel; they follow what the coordinator says.
func TestZoneIsServedInTheTunnel(t *testing.T) {
	l := newLab(t)
	server, err := dns.Listen(slog.New(slog.DiscardHandler))
	must(t, err)
	defer server.Close()
	l.opts.DNS = server
	l.start(t)
	s := l.c.next(t, "")
	c := l.config()
	c.Peers[0].Outside = true
	web, other := netip.MustParseAddr("10.7.0.9"), netip.MustParseAddr("10.7.0.10")
	c.Zone = &wire.Zone{Domain: "main.tunnel", Names: []wire.Name{{Name: "web", Addresses: []netip.Addr{web}}}}
	s.send(t, snapshot(c))
	lookup := func(network string) (netip.Addr, error) {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		at := netip.AddrPortFrom(memberAddress.Addr(), 53)
		if network == "udp" {
			c, err := l.far.DialUDP(ctx, at)
			if err != nil {
				return netip.Addr{}, err
			}
			defer c.Close()
			return ask(c)
		}
		r := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) { return l.far.DialTCP(ctx, at) }}
		got, err := r.LookupNetIP(ctx, "ip4", "web.main.tunnel.")
		if err != nil {
			return netip.Addr{}, err
		}
		return got[0], nil
	}
	is := func(want netip.Addr) {
		t.Helper()
		for _, network := range []string{"udp", "tcp"} {
			eventually(t, "answer by "+network, func() error {
				if got, err := lookup(network); err != nil || got != want {
					return fmt.Errorf("%s, %w", got, err)
				}
				return nil
			})
		}
	}
	is(web)
	next := l.config()
	next.Peers[0].Outside = true
	next.Zone = &wire.Zone{Domain: "main.tunnel", Names: []wire.Name{{Name: "web", Addresses: []netip.Addr{other}}}}
	s.send(t, delta(c, next))
	is(other)
	if err := l.echoes(); err == nil {
		t.Error("the peer reaches a port that is not granted")
	}
	s.send(t, wire.Event{Type: wire.Gone, Reason: "deleted"})
	eventually(t, "no answer", func() error {
		c, err := net.Dial("udp", server.Addr().String())
		must(t, err)
		defer c.Close()
		if got, err := ask(c); err == nil {
			return fmt.Errorf("answered with %s", got)
		}
		return nil
	})
	l.stop(t)
}

// ask asks for web.main.tunnel by one datagram.
func ask(c net.Conn) (netip.Addr, error) {
	question := dnsmessage.Message{Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("web.main.tunnel."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}}}
	b, err := question.Pack()
	if err != nil {
		return netip.Addr{}, err
	}
	_ = c.SetDeadline(time.Now().Add(2 * time.Second))
	if _, err := c.Write(b); err != nil {
		return netip.Addr{}, err
	}
	b = make([]byte, 1500)
	n, err := c.Read(b)
	if err != nil {
		return netip.Addr{}, err
	}
	var answer dnsmessage.Message
	if err := answer.Unpack(b[:n]); err != nil || len(answer.Answers) != 1 {
		return netip.Addr{}, fmt.Errorf("%s with %d answers, %w", answer.RCode, len(answer.Answers), err)
	}
	return netip.AddrFrom4(answer.Answers[0].Body.(*dnsmessage.AResource).A), nil
}
