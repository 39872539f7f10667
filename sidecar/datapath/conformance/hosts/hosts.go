//go:build linux

// Package hosts is a conformance.Lab of network namespaces: three hosts on one switch, each with a kernel's TCP/IP of its own, so that
// datapaths with a real interface can be opened on each of them in one process. It needs root.
//
// A thread is in one namespace at a time and goroutines have no thread, so whatever makes a socket for a host runs on a thread that is
// in it: Lab.Do sees to that, and what Open returns is wrapped accordingly.
package hosts

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/conformance"
)

// Opener opens a datapath in the namespace of the calling thread.
type Opener func(conformance.Options) (datapath.Datapath, error)

// Need skips the test where the hosts cannot be made, saying why.
func Need(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: network namespaces need root")
	}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		t.Skip("SKIPPED: no TUN device:", err)
	}
}

// count is how many hosts there are.
const count = 3

// Lab is the hosts of one test.
type Lab struct {
	ns   [count + 1]int // by host; 0 is the switch
	open Opener
}

var _ conformance.Lab = (*Lab)(nil)

// New makes hosts that last as long as the test and open their datapaths with open.
func New(t testing.TB, open Opener) *Lab {
	t.Helper()
	l := &Lab{open: open}
	for i := range l.ns {
		l.ns[i] = newNamespace(t)
	}
	if err := l.connect(); err != nil {
		t.Fatalf("connect hosts: %v", err)
	}
	return l
}

func newNamespace(t testing.TB) (fd int) {
	t.Helper()
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with the goroutine
		err := unix.Unshare(unix.CLONE_NEWNET)
		if err == nil {
			fd, err = unix.Open("/proc/thread-self/ns/net", unix.O_RDONLY|unix.O_CLOEXEC, 0)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatalf("make network namespace: %v", err)
	}
	t.Cleanup(func() { _ = unix.Close(fd) }) // ends with its last socket and descriptor
	return fd
}

// Do runs f on a thread in the host's namespace.
func (l *Lab) Do(host int, f func()) {
	done := make(chan any)
	go func() {
		defer func() { done <- recover() }()
		runtime.LockOSThread() // for good: no other goroutine may find itself in the namespace
		if err := unix.Setns(l.ns[host], unix.CLONE_NEWNET); err != nil {
			panic(fmt.Sprintf("enter the namespace of host %d: %v", host, err))
		}
		f()
	}()
	if p := <-done; p != nil {
		panic(p)
	}
}

// Outer is the host's address on the switch.
func (l *Lab) Outer(host int, six bool) netip.Addr {
	if six {
		return netip.MustParseAddr(fmt.Sprintf("2001:db8::%d", host))
	}
	return netip.MustParseAddr(fmt.Sprintf("198.51.100.%d", host))
}

// connect joins the hosts by a bridge in a namespace of its own.
func (l *Lab) connect() (err error) {
	l.Do(0, func() {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "switch"}}
		if err = netlink.LinkAdd(bridge); err != nil {
			return
		}
		if err = netlink.LinkSetUp(bridge); err != nil {
			return
		}
		for host := 1; host <= count; host++ {
			v := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: fmt.Sprint("port", host), MasterIndex: bridge.Index, MTU: 1500},
				PeerName: "eth0", PeerNamespace: netlink.NsFd(l.ns[host])}
			if err = netlink.LinkAdd(v); err != nil {
				return
			}
			if err = netlink.LinkSetUp(v); err != nil {
				return
			}
		}
	})
	for host := 1; host <= count && err == nil; host++ {
		l.Do(host, func() { err = l.configure(host) })
	}
	return err
}

func (l *Lab) configure(host int) error {
	// As in a pod: whoever is there may ask for echoes.
	if err := os.WriteFile("/proc/sys/net/ipv4/ping_group_range", []byte("0 2147483647"), 0o600); err != nil {
		return err
	}
	for _, name := range []string{"lo", "eth0"} {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return err
		}
		if name == "eth0" {
			for six, bits := range map[bool]int{false: 24, true: 64} {
				a, err := netlink.ParseAddr(netip.PrefixFrom(l.Outer(host, six), bits).String())
				if err != nil {
					return err
				}
				a.Flags = unix.IFA_F_NODAD // there is nobody to ask, and asking takes a second
				if err := netlink.AddrAdd(link, a); err != nil {
					return err
				}
			}
		}
		if err := netlink.LinkSetUp(link); err != nil {
			return err
		}
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(2 * time.Millisecond) {
		link, err := netlink.LinkByName("eth0") // without a carrier, IPv6 neighbours are asked again only after a second
		if err != nil || link.Attrs().OperState == netlink.OperUp || time.Now().After(end) {
			return err
		}
	}
}

// Open opens a datapath on a host.
func (l *Lab) Open(o conformance.Options) (d datapath.Datapath, err error) {
	l.Do(o.Host, func() { d, err = l.open(o) })
	if err != nil {
		return nil, err
	}
	h := &hosted{d, l, o.Host}
	if g, ok := d.(datapath.Gate); ok {
		return &gated{h, g}, nil
	}
	return h, nil
}

// hosted is a datapath on a host: what makes sockets runs there.
type hosted struct {
	datapath.Datapath
	l    *Lab
	host int
}

func (h *hosted) do(f func()) { h.l.Do(h.host, f) }

func (h *hosted) DialTCP(ctx context.Context, to netip.AddrPort) (s datapath.Stream, err error) {
	h.do(func() { s, err = h.Datapath.DialTCP(ctx, to) })
	return s, err
}

func (h *hosted) DialUDP(ctx context.Context, to netip.AddrPort) (c net.Conn, err error) {
	h.do(func() { c, err = h.Datapath.DialUDP(ctx, to) })
	return c, err
}

func (h *hosted) HandleUDP(f func(datapath.UDPRequest)) {
	if f == nil {
		h.Datapath.HandleUDP(nil)
		return
	}
	h.Datapath.HandleUDP(func(q datapath.UDPRequest) { f(&hostedFlow{q, h}) })
}

type hostedFlow struct {
	datapath.UDPRequest
	h *hosted
}

func (q *hostedFlow) Accept() (c net.Conn, err error) {
	q.h.do(func() { c, err = q.UDPRequest.Accept() })
	return c, err
}

// gated is a hosted Gate.
type gated struct {
	*hosted
	gate datapath.Gate
}

func (g *gated) OpenPorts(p datapath.Ports) (err error) {
	g.do(func() { err = g.gate.OpenPorts(p) })
	return err
}
