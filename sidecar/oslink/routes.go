//go:build linux

package oslink

import (
	"errors"
	"fmt"
	"hash/fnv"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Routes into the tunnel are in the main table, one for each allowed IP. Those that would catch the tunnel's own outer packets (a
// default route, or one over a peer's endpoint) are in a table of their own, which packets with our Mark do not see and which
// everything more specific than a default route in the main table goes before: that is all the policy routing there is.
//
// A route goes with its interface, and a TUN device goes with the process: what an application sends to a peer would then leave by
// the default route, in plaintext. So each route of the main table has a shadow of the least preference that says "unreachable". It is
// taken away with its route, and outlives a process that dies, until the next one is told its routes.
const (
	routeProtocol = 0x74 // ours, in `ip route`
	ownTable      = 0x7477
	rulePriority  = 0x7477 // and the one after; before main's 32766
)

// routes is guarded by its Link.
type routes struct {
	nl    *netlink.Handle
	index int
	have  map[netip.Prefix]route
	rules bool
	only  *only                // nil: whoever is on the machine sees the routes
	mtus  map[netip.Prefix]int // of routes with one of their own

	shadow int            // the metric of our shadows, by which they are known
	left   []netip.Prefix // shadows of a process that died
}

// route is what a route is beside its destination.
type route struct {
	prefer netip.Addr // source address of new connections; zero: the kernel chooses
	apart  bool       // in ownTable
	mtu    int        // bytes; zero: the interface's
}

// set makes the given destinations the routes. What fails is put back.
func (r *routes) set(to []netip.Prefix, endpoints []netip.Addr, own []netip.Addr) error {
	want := make(map[netip.Prefix]route, len(to))
	for _, p := range to {
		apart := r.only != nil || p.Bits() == 0 || slices.ContainsFunc(endpoints, p.Contains)
		want[p] = route{prefer: preferred(own, p.Addr().Is4()), apart: apart, mtu: r.mtuOf(p)}
	}
	have := r.have
	if err := r.change(want); err != nil {
		if undo := r.change(have); undo != nil {
			err = errors.Join(err, fmt.Errorf("take back: %w", undo))
		}
		return fmt.Errorf("set routes: %w", err)
	}
	for _, p := range r.left {
		if w, ok := want[p]; !ok || w.apart {
			_ = r.nl.RouteDel(r.shadowOf(p))
		}
	}
	r.left = nil
	return nil
}

// setMTUs changes how long packets by some routes may be. The kernel's TCP heeds it at once, on connections that there are too.
func (r *routes) setMTUs(mtus map[netip.Prefix]int) error {
	r.mtus = mtus
	want := make(map[netip.Prefix]route, len(r.have))
	for p, w := range r.have {
		w.mtu = r.mtuOf(p)
		want[p] = w
	}
	return r.change(want)
}

func (r *routes) mtuOf(p netip.Prefix) int {
	mtu := r.mtus[p]
	if mtu != 0 && p.Addr().Is6() {
		return max(mtu, datapath.MinMTU) // the kernel sends nothing by a route with less
	}
	return mtu
}

// newRoutes finds what a process that died left of the interface of that name.
func newRoutes(nl *netlink.Handle, name string, index int) (*routes, error) {
	h := fnv.New32a()
	_, _ = h.Write([]byte(name))
	r := &routes{nl: nl, index: index, shadow: 0x74770000 | int(h.Sum32()&0xffff)}
	filter := r.shadowOf(netip.Prefix{})
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		left, err := nl.RouteListFiltered(family, filter, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PROTOCOL|netlink.RT_FILTER_TYPE|netlink.RT_FILTER_PRIORITY)
		if err != nil {
			return nil, fmt.Errorf("list routes: %w", err)
		}
		for _, l := range left {
			if l.Dst == nil {
				continue
			}
			a, _ := netip.AddrFromSlice(l.Dst.IP)
			bits, _ := l.Dst.Mask.Size()
			r.left = append(r.left, netip.PrefixFrom(a.Unmap(), bits))
		}
	}
	return r, nil
}

// shadowOf is the shadow of the route to p.
func (r *routes) shadowOf(p netip.Prefix) *netlink.Route {
	n := &netlink.Route{Type: unix.RTN_UNREACHABLE, Priority: r.shadow, Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
	if p.IsValid() {
		n.Dst = ipNet(p)
	}
	return n
}

// prefer gives every route the source address that new connections should have. It installs all of them again, since the kernel
// drops them while the interface is down.
func (r *routes) prefer(own []netip.Addr) error {
	for p, old := range r.have {
		next := route{prefer: preferred(own, p.Addr().Is4()), apart: old.apart, mtu: old.mtu}
		if err := r.nl.RouteReplace(r.netlink(p, next)); err != nil {
			return fmt.Errorf("route to %s: %w", p, err)
		}
		r.have[p] = next
	}
	return nil
}

func preferred(own []netip.Addr, is4 bool) netip.Addr {
	for _, a := range own {
		if a.Is4() == is4 {
			return a
		}
	}
	return netip.Addr{}
}

func (r *routes) change(want map[netip.Prefix]route) error {
	have := make(map[netip.Prefix]route, len(want))
	for p, w := range r.have {
		have[p] = w
	}
	r.have = have
	if err := r.setRules(want); err != nil {
		return err
	}
	for p, w := range want {
		if old, ok := have[p]; ok && old == w {
			continue
		}
		if !w.apart {
			if err := r.nl.RouteReplace(r.shadowOf(p)); err != nil {
				return fmt.Errorf("shadow of the route to %s: %w", p, err)
			}
		}
		if err := r.nl.RouteReplace(r.netlink(p, w)); err != nil {
			return fmt.Errorf("route to %s: %w", p, err)
		}
		if old, ok := have[p]; ok && old.apart != w.apart {
			r.drop(p, old)
		}
		have[p] = w
	}
	for p, old := range have {
		if _, ok := want[p]; !ok {
			r.drop(p, old)
			delete(have, p)
		}
	}
	return nil
}

// drop removes a route. That it is gone already is no error: somebody took the interface down.
func (r *routes) drop(p netip.Prefix, old route) {
	_ = r.nl.RouteDel(r.netlink(p, old))
	if !old.apart {
		_ = r.nl.RouteDel(r.shadowOf(p))
	}
}

func (r *routes) netlink(p netip.Prefix, w route) *netlink.Route {
	n := &netlink.Route{LinkIndex: r.index, Dst: ipNet(p), Protocol: routeProtocol, Table: unix.RT_TABLE_MAIN}
	if p.Addr().Is4() {
		n.Scope = netlink.SCOPE_LINK
	}
	if w.prefer.IsValid() {
		n.Src = w.prefer.AsSlice()
	}
	if w.apart {
		n.Table = ownTable
	}
	n.MTU = w.mtu
	return n
}

// setRules has the rules exactly while some route is apart.
func (r *routes) setRules(want map[netip.Prefix]route) error {
	need := false
	for _, w := range want {
		need = need || w.apart
	}
	if r.only != nil || need == r.rules {
		return nil
	}
	for _, rule := range policyRules() {
		if !need {
			_ = r.nl.RuleDel(rule)
			continue
		}
		if err := r.nl.RuleAdd(rule); err != nil && !errors.Is(err, syscall.EEXIST) {
			if rule.Family == unix.AF_INET6 && errors.Is(err, syscall.EAFNOSUPPORT) {
				continue // a kernel without IPv6
			}
			return fmt.Errorf("add routing rule: %w", err)
		}
	}
	r.rules = need
	return nil
}

func policyRules() []*netlink.Rule {
	var out []*netlink.Rule
	for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
		main := netlink.NewRule()
		main.Family, main.Priority, main.Table, main.SuppressPrefixlen = family, rulePriority, unix.RT_TABLE_MAIN, 0
		own := netlink.NewRule()
		own.Family, own.Priority, own.Table, own.Mark, own.Invert = family, rulePriority+1, ownTable, Mark, true
		out = append(out, main, own)
	}
	return out
}

func (r *routes) close() error {
	err := r.change(nil)
	if r.only != nil {
		err = errors.Join(err, r.only.close())
	}
	return err
}
