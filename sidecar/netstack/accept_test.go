package netstack

import (
	"context"
	"net/netip"
	"sync/atomic"
	"testing"
	"time"

	"gvisor.dev/gvisor/pkg/tcpip/header"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// TestAcceptOfAbsentPeer: whoever accepts from a peer that is not heard of again waits no longer than he wants to; the stack by itself asks
// it for a minute.
func TestAcceptOfAbsentPeer(t *testing.T) {
	const mtu = 1420
	a, b := newStack(t, 1, mtu), newStack(t, 2, mtu)
	var asked atomic.Bool
	a.Connect(&wire{mtu: mtu, to: b, drop: func(p []byte) bool { return asked.Load() || header.TCP(p[20:]).Flags() != header.TCPFlagSyn }})
	b.Connect(&wire{mtu: mtu, to: a})
	for _, late := range []bool{false, true} {
		asked.Store(false)
		ended := make(chan error, 1)
		ctx, cancel := context.WithCancel(t.Context())
		b.HandleTCP(func(q datapath.TCPRequest) {
			asked.Store(true)
			if !late {
				cancel() // before anybody waits
			} else {
				time.AfterFunc(50*time.Millisecond, cancel)
			}
			_, err := q.(datapath.ContextAccepter).AcceptContext(ctx)
			ended <- err
		})
		dial, giveUp := context.WithCancel(t.Context())
		go func() { _, _ = a.DialTCP(dial, netip.AddrPortFrom(v4(2), 80)) }()
		select {
		case err := <-ended:
			if err == nil {
				t.Error("a connection without its peer's answer")
			}
		case <-time.After(20 * time.Second):
			t.Fatalf("late %t: it waits still", late)
		}
		giveUp()
		cancel()
	}
}
