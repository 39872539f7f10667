package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// TestLimitsFollow: limits are kept as soon as they are told, without a restart and without a thought for what is open, and go again.
func TestLimitsFollow(t *testing.T) {
	l, s := joined(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	held, err := l.far.DialTCP(ctx, netip.AddrPortFrom(memberAddress.Addr(), l.echo))
	must(t, err)
	defer held.Close()

	limited := l.config()
	limited.Limits = &wire.Limits{Connections: 1, Bandwidth: wire.MinBandwidth}
	limited.Peers[0].Outside, limited.Granted = true, limited.Inbound
	s.send(t, delta(l.config(), limited))
	eventually(t, "no second connection", func() error {
		if l.echoes() == nil {
			return errors.New("it was carried")
		}
		return nil
	})
	_, err = held.Write(make([]byte, 200<<10))
	must(t, err)
	eventually(t, "packets above the bandwidth are dropped", func() error {
		_, text, err := l.health("/metrics")
		if err == nil && (!strings.Contains(text, `reason="ReceiveLimit"`) || strings.Contains(text, `reason="ReceiveLimit"} 0`)) {
			err = errors.New("none was")
		}
		return err
	})

	s.send(t, delta(limited, l.config()))
	l.carries(t)
	_ = held.SetDeadline(time.Now().Add(patience))
	if _, err := io.ReadFull(held, make([]byte, 200<<10)); err != nil {
		t.Errorf("what was open is lost: %v", err)
	}
}

// TestLimitsAreForOutside: limits are for outside peers; a member is not held to them, nor a gateway, which has held others to them before.
func TestLimitsAreForOutside(t *testing.T) {
	l, s := joined(t)
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	held, err := l.far.DialTCP(ctx, netip.AddrPortFrom(memberAddress.Addr(), l.echo))
	must(t, err)
	defer held.Close()

	config := func(change func(*wire.Peer)) wire.Config {
		c := l.config()
		c.Limits, c.Granted = &wire.Limits{Connections: 1}, c.Inbound
		change(&c.Peers[0])
		return c
	}
	now := l.config()
	for _, c := range []struct {
		config  wire.Config
		limited bool
	}{
		{config(func(p *wire.Peer) { p.Outside = true }), true},
		{config(func(*wire.Peer) {}), false},
		{config(func(p *wire.Peer) { p.Outside = true }), true},
		{config(func(p *wire.Peer) { p.Outside, p.Gateway = true, true }), false},
	} {
		s.send(t, delta(now, c.config))
		now = c.config
		eventually(t, "a second connection", func() error {
			if err := l.echoes(); c.limited == (err == nil) {
				return fmt.Errorf("want it limited: %v, have %w", c.limited, err)
			}
			return nil
		})
	}
}
