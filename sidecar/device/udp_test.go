package device

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// echoUDP answers every datagram of every flow on port 53 and refuses other ports.
func echoUDP(n *node) {
	n.HandleUDP(func(q datapath.UDPRequest) {
		if q.Local().Port() != 53 {
			q.Refuse()
			return
		}
		c, err := q.Accept()
		if err != nil {
			return
		}
		buf := make([]byte, 65535)
		for {
			n, err := c.Read(buf)
			if err != nil {
				_ = c.Close()
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				_ = c.Close()
				return
			}
		}
	})
}

func dialUDP(t *testing.T, from *node, to netip.Addr, port uint16) net.Conn {
	t.Helper()
	c, err := from.DialUDP(ctx(t, time.Second), netip.AddrPortFrom(to, port))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	_ = c.SetDeadline(time.Now().Add(10 * time.Second))
	return c
}

func TestFlowsAreBounded(t *testing.T) {
	a, b := pair(t)
	hold := make(chan net.Conn, 2000)
	b.HandleUDP(func(q datapath.UDPRequest) {
		if c, err := q.Accept(); err == nil {
			hold <- c
		}
	})
	// The default limit for one peer is 1024. Datagrams may be lost on the way, the first above all, which wait for a session: so it is
	// asked until there is a refusal.
	deadline := time.Now().Add(10 * time.Second)
	for i := 0; b.Stats().DropUDPFlows == 0 && i < cap(hold) && time.Now().Before(deadline); i++ {
		c := dialUDP(t, a, b.v4, 53)
		_, _ = c.Write([]byte("x"))
		if i >= 1024 {
			time.Sleep(time.Millisecond)
		}
	}
	if n := len(hold); n > 1024 || b.Stats().DropUDPFlows == 0 {
		t.Fatalf("%d flows, %d refused", n, b.Stats().DropUDPFlows)
	}
	for len(hold) > 0 {
		_ = (<-hold).Close()
	}
	c := dialUDP(t, a, b.v4, 53)
	_, _ = c.Write([]byte("room again"))
	select {
	case c := <-hold:
		_ = c.Close()
	case <-time.After(5 * time.Second):
		t.Fatal("closed flows did not make room")
	}
}
