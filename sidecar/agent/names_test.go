package agent

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/tenantwire/tenantwire/sidecar/endpoint"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// names is a name server whose one host is where the member's peer is, once it is known.
type names struct{ known atomic.Bool }

func (n *names) use(m *member) {
	m.plane.endpoints = endpoint.New(endpoint.Options{Accept: netip.Addr.IsLoopback, Peers: m.plane.livePeers, Move: m.plane.move, Log: m.Log,
		Lookup: func(_ context.Context, host string) ([]netip.Addr, error) {
			if host != "far.test" || !n.known.Load() {
				return nil, errors.New("no such host")
			}
			return []netip.Addr{m.PodIP}, nil
		}})
}

// A peer that is given by name is dialled once the name is found, and what else is configured works before. What is configured
// later leaves the peer where it was found.
func TestPeerByName(t *testing.T) {
	l := newLab(t)
	var dns names
	config := func(name string, keepalive int) wire.Config {
		c := l.config()
		c.Peers[0].Endpoint, c.Peers[0].EndpointName, c.Peers[0].KeepaliveSeconds = netip.AddrPort{}, name, keepalive
		return c
	}
	byName := fmt.Sprintf("far.test:%d", l.far.ListenPort())
	l.start(t, dns.use)
	s := l.c.next(t, "")
	first := config(byName, 1)
	s.send(t, snapshot(first))
	l.c.reported(t, true)
	eventually(t, "warning", func() error {
		if text := l.log.String(); !strings.Contains(text, "endpoint not found") || !strings.Contains(text, byName) {
			return errors.New(text)
		}
		return nil
	})
	dns.known.Store(true)
	l.carries(t)
	eventually(t, "counters", func() error { // counted after the peer was moved
		_, text, err := l.health("/metrics")
		for _, want := range []string{`tenantwire_endpoint_lookups_total{result="found"} 1`, `tenantwire_endpoint_lookups_total{result="failed"}`} {
			if !strings.Contains(text, want) {
				return fmt.Errorf("metrics lack %s (%w)", want, err)
			}
		}
		return nil
	})
	second, third := config(byName, 2), config("elsewhere.test:1", 2) // which is not found: the peer stays where it is
	s.send(t, delta(first, second))
	l.carries(t)
	s.send(t, delta(second, third))
	eventually(t, "second warning", func() error {
		if text := l.log.String(); !strings.Contains(text, "elsewhere.test:1") {
			return errors.New(text)
		}
		return nil
	})
	l.carries(t)
	l.stop(t)
}
