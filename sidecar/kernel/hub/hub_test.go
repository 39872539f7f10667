//go:build linux

package hub

import (
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"testing"
	"time"

	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// newTestHub makes a hub of an interface, which need not be WireGuard's for its sets, in a network namespace of its own, on this thread.
func newTestHub(t *testing.T) *Hub {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: a network namespace needs root")
	}
	runtime.LockOSThread() // for good: the thread ends with the test
	must(t, unix.Unshare(unix.CLONE_NEWNET))
	link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "wg0"}, PeerName: "other"}
	must(t, netlink.LinkAdd(link))
	h, err := New("wg0", link.Attrs().Index)
	must(t, err)
	t.Cleanup(func() { must(t, h.Close()) })
	must(t, h.Switch(true))
	return h
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func nothing() error { return nil }

// says is what the kernel has in the sets of IPv4.
func says(t *testing.T, h *Hub) (out []string) {
	t.Helper()
	for _, s := range []*nftables.Set{h.families[0].own, h.families[0].inside, h.families[0].outside, h.families[0].clamp} {
		elements, err := h.conn.GetSetElements(s)
		must(t, err)
		for _, e := range elements {
			a, _ := netip.AddrFromSlice(e.Key)
			out = append(out, fmt.Sprint(s.Name, " ", a, " ", e.Val, " ", e.IntervalEnd))
		}
	}
	slices.Sort(out)
	return out
}

func peer(outside bool, ranges ...string) datapath.Peer {
	p := datapath.Peer{PublicKey: key.NewPrivate().Public(), Outside: outside}
	for _, r := range ranges {
		p.AllowedIPs = append(p.AllowedIPs, netip.MustParsePrefix(r))
	}
	return p
}

func registry(peers ...datapath.Peer) delta.Registry {
	r := make(delta.Registry)
	for _, p := range peers {
		r[p.PublicKey] = p
	}
	return r
}

// A change that fails leaves what was. One that cannot be undone leaves what changed hands with nobody, until the next succeeds.
func TestSetThatFails(t *testing.T) {
	h := newTestHub(t)
	own := []netip.Addr{netip.MustParseAddr("10.9.0.1")}
	site, member := peer(true, "10.0.0.0/8", "0.0.0.0/0"), peer(false, "10.9.0.2/32")
	before := registry(site, member)
	must(t, h.Set(own, before, nothing, nothing))
	was := says(t, h)
	next := maps.Clone(before)
	moved := site
	moved.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.9.0.2/32")}
	taken := member
	taken.AllowedIPs = []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8")}
	next[site.PublicKey], next[member.PublicKey] = moved, taken
	fails := errors.New("no")
	var meanwhile []region
	change := func() error { meanwhile = h.families[0].kinds.regions; return fails }
	if err := h.Set(append(own, netip.MustParseAddr("10.9.0.9")), next, change, nothing); !errors.Is(err, fails) {
		t.Fatal(err)
	}
	if len(meanwhile) != 0 {
		t.Errorf("while everything changed hands %v were somebody's", meanwhile)
	}
	if is := says(t, h); !slices.Equal(is, was) {
		t.Errorf("after a change that failed: %v, want %v", is, was)
	}
	if err := h.Set(own, next, change, func() error { return fails }); !errors.Is(err, fails) {
		t.Fatal(err)
	}
	if is := says(t, h); len(is) != 1 {
		t.Errorf("what could not be undone is somebody's: %v", is)
	}
	must(t, h.Set(own, before, nothing, nothing))
	if is := says(t, h); !slices.Equal(is, was) {
		t.Errorf("after the next: %v, want %v", is, was)
	}
}

// Sets that are not what was said, because somebody has emptied them, are filled anew.
func TestSetsThatWereSpoilt(t *testing.T) {
	h := newTestHub(t)
	a, b := peer(true, "10.1.0.0/16"), peer(false, "10.2.0.0/16")
	must(t, h.Set(nil, registry(a, b), nothing, nothing))
	h.conn.FlushSet(h.families[0].outside)
	must(t, h.conn.Flush())
	if err := h.Set(nil, registry(b), nothing, nothing); err == nil {
		t.Fatal("what is not there was deleted")
	}
	must(t, h.Set(nil, registry(a, b, peer(true, "10.3.0.0/16")), nothing, nothing))
	if is := says(t, h); len(is) != 6 {
		t.Errorf("%v", is)
	}
}

// Of a path that is short the kernel is told, of a peer that routes everything too.
func TestClampOfEverything(t *testing.T) {
	h := newTestHub(t)
	site := peer(true, "0.0.0.0/0", "::/0")
	var many []datapath.Peer
	mtus := map[netip.Prefix]int{site.AllowedIPs[0]: 1300, site.AllowedIPs[1]: 1300}
	for i := range 6000 {
		p := peer(true, fmt.Sprintf("10.%d.%d.0/25", i/256, i%256))
		mtus[p.AllowedIPs[0]] = 1380
		many = append(many, p)
	}
	must(t, h.Set(nil, registry(append(many, site)...), nothing, nothing))
	must(t, h.SetPathMTUs(mtus))
	elements, err := h.conn.GetSetElements(h.families[0].clamp)
	must(t, err)
	if len(elements) < 2*6000 {
		t.Errorf("%d elements", len(elements))
	}
	must(t, h.SetPathMTUs(nil))
	if elements, err = h.conn.GetSetElements(h.families[0].clamp); err != nil || len(elements) != 0 {
		t.Errorf("%d elements are left, %v", len(elements), err)
	}
}

// What a process that died left of a hub does not hold for the interface that comes after it.
func TestLeftover(t *testing.T) {
	h := newTestHub(t)
	next, err := New("wg0", int(h.index))
	must(t, err)
	defer func() { must(t, next.Close()) }()
	if _, err := h.conn.ListTableOfFamily(h.table.Name, h.table.Family); err == nil {
		t.Error("the table is there still")
	}
}

// However much changes, what goes and what comes in its place are one transaction, unless that is too much.
func TestEnough(t *testing.T) {
	p := netip.MustParsePrefix
	wide := []owned{{p("10.0.0.0/8"), 2}, {p("11.0.0.0/8"), 3}}
	for _, c := range []struct{ within, want int }{{100, 0}, {700, 1403}, {5000, 2048}} {
		list := slices.Clone(wide)
		for i := range c.within {
			list = append(list, owned{p(fmt.Sprintf("10.%d.%d.0/25", i/256, i%256)), insider})
		}
		for i := range 1000 {
			list = append(list, owned{p(fmt.Sprintf("12.%d.%d.0/25", i/256, i%256)), insider})
		}
		steps := stepsOf(changes(regionsOf(slices.Clone(wide)), regionsOf(list)))
		got := enough(steps)
		if c.want == 0 {
			if got < 512 || got >= len(steps) {
				t.Errorf("%d within: %d of %d", c.within, got, len(steps))
			}
			continue
		}
		if got < c.want-5 || got > c.want+5 {
			t.Errorf("%d within: %d of %d steps, want some %d", c.within, got, len(steps), c.want)
		}
	}
}

// What was dropped stays said when the hub ends, and when it begins again with a table that knows nothing of it.
func TestDropsStay(t *testing.T) {
	h := newTestHub(t)
	must(t, os.WriteFile("/proc/sys/net/ipv6/conf/all/disable_ipv6", []byte("1"), 0o600)) // nothing comes by itself
	for _, name := range []string{"wg0", "other"} {
		link, err := netlink.LinkByName(name)
		must(t, err)
		must(t, netlink.LinkSetUp(link))
	}
	arrive(t, "other", []byte{0x45, 0, 0, 20, 0, 0, 0, 0, 64, 17, 0, 0, 10, 9, 0, 1, 10, 9, 0, 2})
	dropped := func() uint64 {
		t.Helper()
		now, err := h.Drops()
		must(t, err)
		return now[datapath.DropNotForwarded]
	}
	for end := time.Now().Add(30 * time.Second); dropped() == 0; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("a packet between two of nobody was not counted")
		}
	}
	was := dropped()
	for _, on := range []bool{false, true} {
		must(t, h.Switch(on))
		if is := dropped(); is < was {
			t.Errorf("a hub: %t: %d were dropped, and %d before", on, is, was)
		}
	}
}

// arrive has an IPv4 packet come in at the other end of an interface.
func arrive(t *testing.T, by string, packet []byte) {
	t.Helper()
	link, err := netlink.LinkByName(by)
	must(t, err)
	const ip = unix.ETH_P_IP>>8 | unix.ETH_P_IP&0xff<<8 // as on the wire
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(t, err)
	defer func() { _ = unix.Close(fd) }()
	to := &unix.SockaddrLinklayer{Ifindex: link.Attrs().Index, Protocol: ip, Halen: 6, Addr: [8]byte{255, 255, 255, 255, 255, 255}}
	must(t, unix.Sendto(fd, packet, 0, to))
}
