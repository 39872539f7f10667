//go:build linux

package hosts

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// RefusePlaintext opens a datapath, and has another host send to its inner addresses past the tunnel. It reaches nobody and is counted, while the
// machine itself may.
func RefusePlaintext(t *testing.T, open Opener) {
	const port, datagrams = 9, 3
	l := New(t, open)
	e := openEnd(t, l, 2)
	for i, to := range e.addr {
		app := listen(t, l, e.host, port, to.Is6())
		before := e.Drops()[datapath.DropUnauthentic]
		l.Do(3, func() { lead(t, to, l.Outer(e.host, to.Is6())) })
		send(t, l, 3, netip.AddrPortFrom(to, port), datagrams, "past the tunnel")
		counted := func() uint64 { return e.Drops()[datapath.DropUnauthentic] - before }
		for end := time.Now().Add(30 * time.Second); counted() < datagrams && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		if n := counted(); n != datagrams {
			t.Errorf("address %d: %d of %d datagrams are counted", i, n, datagrams)
		}
		send(t, l, e.host, netip.AddrPortFrom(to, port), 1, "the machine's own")
		_ = app.SetReadDeadline(time.Now().Add(30 * time.Second))
		buf := make([]byte, 64)
		if n, _, err := app.ReadFrom(buf); err != nil || string(buf[:n]) != "the machine's own" {
			t.Errorf("address %d: heard %q, %v", i, buf[:n], err)
		}
	}
}

// listen is an application that does not care at which address it is reached.
func listen(t *testing.T, l *Lab, host, port int, six bool) (app *net.UDPConn) {
	t.Helper()
	network := map[bool]string{false: "udp4", true: "udp6"}[six]
	var err error
	l.Do(host, func() { app, err = net.ListenUDP(network, &net.UDPAddr{Port: port}) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = app.Close() })
	return app
}

// lead makes a route past any tunnel.
func lead(t *testing.T, to, by netip.Addr) {
	t.Helper()
	link, err := netlink.LinkByName("eth0")
	if err == nil {
		err = netlink.RouteAdd(&netlink.Route{LinkIndex: link.Attrs().Index, Dst: &net.IPNet{IP: to.AsSlice(), Mask: net.CIDRMask(to.BitLen(), to.BitLen())},
			Gw: by.AsSlice(), Protocol: unix.RTPROT_STATIC})
	}
	if err != nil {
		t.Errorf("lead %s by %s: %v", to, by, err)
	}
}

func send(t *testing.T, l *Lab, host int, to netip.AddrPort, times int, words string) {
	t.Helper()
	var c net.Conn
	var err error
	l.Do(host, func() { c, err = net.Dial("udp", to.String()) })
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for range times {
		if _, err := c.Write([]byte(words)); err != nil {
			t.Errorf("send to %s: %v", to, err)
		}
	}
}
