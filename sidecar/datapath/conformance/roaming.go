package conformance

import (
	"net"
	"net/netip"
	"sync/atomic"
	"testing"
)

// nat stands on host 3 between two nodes, of which each knows the other by a port of it.
type nat struct {
	r     *room
	sides [2]natSide
}

// natSide is where one node finds the other.
type natSide struct {
	node *node
	way  atomic.Pointer[natWay]
}

type natWay struct {
	conn *net.UDPConn
	to   netip.AddrPort // the node
}

// between makes them peers of each other through a nat.
func (r *room) between(a, b *node) *nat {
	r.t.Helper()
	n := &nat{r: r}
	n.sides[0].node, n.sides[1].node = a, b
	for i := range n.sides {
		other := n.sides[1-i].node.as()
		other.Endpoint = n.move(i, false)
		n.sides[i].node.update(other)
	}
	r.t.Cleanup(func() {
		for i := range n.sides {
			_ = n.sides[i].way.Load().conn.Close()
		}
	})
	return n
}

// move has a side's packets come from another port, of the address of a family, and returns what that is. The old one is closed.
func (n *nat) move(side int, six bool) netip.AddrPort {
	n.r.t.Helper()
	var err error
	s := &n.sides[side]
	way := &natWay{to: s.node.at(six).Endpoint}
	n.r.lab.Do(3, func() {
		way.conn, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(n.r.lab.Outer(3, six), 0)))
	})
	if err != nil {
		n.r.t.Fatal(err)
	}
	old := s.way.Swap(way)
	go way.carry(&n.sides[1-side])
	if old != nil {
		_ = old.conn.Close()
	}
	return way.conn.LocalAddr().(*net.UDPAddr).AddrPort()
}

// carry passes on what the node sends, until the way is closed.
func (w *natWay) carry(to *natSide) {
	buf := make([]byte, 65535)
	for {
		n, err := w.conn.Read(buf)
		if err != nil {
			return
		}
		if out := to.way.Load(); out != nil {
			_, _ = out.conn.WriteToUDPAddrPort(buf[:n], out.to)
		}
	}
}

// testRoamsUnderStream changes where a stream's packets come from, to another port and then to the other family, as a NAT that forgets does.
// Who receives them follows with the first authentic one: neither a handshake nor another connection is needed.
func testRoamsUnderStream(t *testing.T, r *room) {
	a, b := r.open(1), r.open(2)
	nat := r.between(a, b)
	for name, side := range map[string]int{"to who was dialled": 1, "to who dialled": 0} {
		t.Run(name, func(t *testing.T) {
			r := &room{t, r.lab}
			from, to := nat.sides[1-side].node, nat.sides[side].node
			count, stop := numbered(t, from, to)
			goesOn(r, count)
			for _, six := range []bool{false, true} {
				before := to.peer().LastHandshake
				at := nat.move(side, six)
				r.eventually("the endpoint follows", func() bool { return to.peer().Endpoint == at })
				goesOn(r, count)
				if now := to.peer().LastHandshake; now != before {
					t.Errorf("a handshake at %s; want none after that at %s", now, before)
				}
			}
			stop()
		})
	}
}
