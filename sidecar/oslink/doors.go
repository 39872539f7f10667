//go:build linux

package oslink

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// doors are the open ports, each with its listener; guarded by their Link. The kernel's rules name those that have a handler: with
// no handler every port is refused by the kernel, before any handshake.
type doors struct {
	tcp   map[uint16]*tcpDoor
	udp   map[uint16]*udpDoor
	open  []door // what is to be open, without the ports of the listeners; sorted
	rules []door // what the kernel has
}

// OpenPorts makes the given ports the open ones; see datapath.Gate.
func (l *Link) OpenPorts(p datapath.Ports) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return fmt.Errorf("open ports: %w", net.ErrClosed)
	}
	next, fresh, err := l.openDoors(p)
	if err == nil {
		err = l.applyDoors(next)
	}
	if err != nil {
		fresh.close()
		return fmt.Errorf("open ports: %w", err)
	}
	for n, d := range l.doors.tcp { // rules first, then listeners: what the kernel lets in must find somebody
		if next.tcp[n] == nil {
			d.close()
		}
	}
	for n, d := range l.doors.udp {
		if next.udp[n] == nil {
			d.close()
		}
	}
	next.rules = l.doors.rules
	l.doors = next
	return nil
}

// openDoors listens on what is not open yet. On an error the fresh ones are the caller's to close.
func (l *Link) openDoors(p datapath.Ports) (next, fresh doors, err error) {
	next = doors{tcp: map[uint16]*tcpDoor{}, udp: map[uint16]*udpDoor{}, open: doorsOf(p)}
	fresh = doors{tcp: map[uint16]*tcpDoor{}, udp: map[uint16]*udpDoor{}}
	taken := func(to uint16) bool { return l.doors.at(to) || fresh.at(to) }
	for _, d := range next.open { // one listener for a port, at however many addresses it is open
		n := d.from
		switch {
		case d.proto == unix.IPPROTO_TCP && next.tcp[n] == nil:
			if next.tcp[n] = l.doors.tcp[n]; next.tcp[n] != nil {
				continue
			}
			if next.tcp[n], err = openAt(n, taken, l.openTCP); err != nil {
				return next, fresh, fmt.Errorf("TCP port %d: %w", n, err)
			}
			fresh.tcp[n] = next.tcp[n]
		case d.proto == unix.IPPROTO_UDP && next.udp[n] == nil:
			if next.udp[n] = l.doors.udp[n]; next.udp[n] != nil {
				continue
			}
			if next.udp[n], err = openAt(n, taken, l.openUDP); err != nil {
				return next, fresh, fmt.Errorf("UDP port %d: %w", n, err)
			}
			fresh.udp[n] = next.udp[n]
		}
	}
	return next, fresh, nil
}

// The kernel remembers where it has led a flow for longer than a port stays shut or a process lasts, and leads it there again. So the
// listener of an open port is at the same port of its own each time, if that is free: above those that systems give connections.
const (
	firstDoor = 61000
	doorPorts = 1<<16 - firstDoor
	doorTries = 16
)

// openAt opens the door of a port at the first port that is free for it; zero is any.
func openAt[D any](from uint16, taken func(uint16) bool, open func(from, to uint16) (D, error)) (D, error) {
	for i := range doorTries {
		to := uint16(firstDoor + (int(from)+i)%doorPorts)
		if taken(to) {
			continue
		}
		if d, err := open(from, to); !errors.Is(err, unix.EADDRINUSE) {
			return d, err
		}
	}
	return open(from, 0)
}

// doorsOf are the ports as doors that lead nowhere yet, sorted, each once. What is open at each address needs no door at one.
func doorsOf(p datapath.Ports) []door {
	each := make(map[door]bool, len(p.TCP)+len(p.UDP))
	add := func(proto byte, ports []uint16, at []netip.AddrPort) {
		for _, n := range ports {
			each[door{proto: proto, from: n}] = true
		}
		for _, a := range at {
			if !each[door{proto: proto, from: a.Port()}] {
				each[door{proto: proto, at: a.Addr().Unmap(), from: a.Port()}] = true
			}
		}
	}
	add(unix.IPPROTO_TCP, p.TCP, p.TCPAt)
	add(unix.IPPROTO_UDP, p.UDP, p.UDPAt)
	return slices.SortedFunc(maps.Keys(each), func(a, b door) int {
		return cmp.Or(cmp.Compare(a.proto, b.proto), a.at.Compare(b.at), cmp.Compare(a.from, b.from))
	})
}

// applyDoors tells the kernel, if that is news.
func (l *Link) applyDoors(d doors) error {
	var want []door
	tcp, udp := l.handleTCP.Load() != nil, l.handleUDP.Load() != nil
	for _, o := range d.open {
		switch {
		case o.proto == unix.IPPROTO_TCP && tcp:
			o.to = d.tcp[o.from].to
			want = append(want, o)
		case o.proto == unix.IPPROTO_UDP && udp:
			o.to = d.udp[o.from].to
			want = append(want, o)
		}
	}
	if slices.Equal(want, l.doors.rules) {
		return nil
	}
	if err := l.policy.setDoors(want); err != nil {
		return err
	}
	l.doors.rules = want
	return nil
}

// at says whether a listener is at a port: that of a flow shares it, so the kernel would let another have it as well.
func (d *doors) at(to uint16) bool {
	for _, t := range d.tcp {
		if t.to == to {
			return true
		}
	}
	for _, u := range d.udp {
		if u.to == to {
			return true
		}
	}
	return false
}

func (d *doors) close() {
	for _, t := range d.tcp {
		t.close()
	}
	for _, u := range d.udp {
		u.close()
	}
}

// HandleTCP sets who answers connections through open ports; nil shuts them all.
func (l *Link) HandleTCP(h func(datapath.TCPRequest)) { setHandler(l, &l.handleTCP, h) }

// HandleUDP sets who answers flows through open ports; nil shuts them all.
func (l *Link) HandleUDP(h func(datapath.UDPRequest)) { setHandler(l, &l.handleUDP, h) }

func setHandler[R any](l *Link, to *atomic.Pointer[func(R)], h func(R)) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if h == nil || l.closed {
		to.Store(nil)
	} else {
		to.Store(&h)
	}
	if l.closed {
		return
	}
	if err := l.applyDoors(l.doors); err != nil {
		// The listeners refuse what the rules should: nothing is open that should not be.
		l.log.Warn("ports could not be opened or shut", "interface", l.name, "error", err.Error())
	}
}
