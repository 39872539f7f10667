//go:build linux

package oslink

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"syscall"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// only keeps the tunnel's routes to the tunnel's own connections: all of them are in ownTable, and a rule for each of the interface's
// addresses leads what comes from there to that table. Whoever else is on the machine, our own process with the rest of what it does
// included, sees none of them: a peer's route over the API server or over other pods takes nothing from there.
//
// The table ends with an unreachable default route, so that what comes from these addresses never leaves by another interface. Both
// outlive a process that dies, as the interface may not: the next one takes them over.
type only struct {
	nl   *netlink.Handle
	from []netip.Addr // that have a rule
}

// KeepApart has none but the interface's own addresses use its routes; it is called once, before there are any.
func (l *Link) KeepApart() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	o := &only{nl: l.nl}
	if err := o.clear(); err != nil {
		return fmt.Errorf("keep routes apart: %w", err)
	}
	for _, family := range families {
		if err := o.nl.RouteReplace(lastRoute(family)); err != nil && !noFamily(family, err) {
			return fmt.Errorf("keep routes apart: unreachable default route: %w", err)
		}
	}
	l.routes.only = o
	return nil
}

var families = []int{unix.AF_INET, unix.AF_INET6}

// noFamily says whether an error is that of a kernel without IPv6.
func noFamily(family int, err error) bool {
	return family == unix.AF_INET6 && (errors.Is(err, syscall.EAFNOSUPPORT) || errors.Is(err, syscall.EOPNOTSUPP))
}

// lastRoute yields to every other one of ownTable.
func lastRoute(family int) *netlink.Route {
	to := netip.PrefixFrom(netip.IPv4Unspecified(), 0)
	if family == unix.AF_INET6 {
		to = netip.PrefixFrom(netip.IPv6Unspecified(), 0)
	}
	return &netlink.Route{Type: unix.RTN_UNREACHABLE, Family: family, Dst: ipNet(to), Priority: 1<<31 - 1, Protocol: routeProtocol, Table: ownTable}
}

// clear removes the rules that a process which died left.
func (o *only) clear() error {
	for _, family := range families {
		left, err := o.nl.RuleListFiltered(family, &netlink.Rule{Table: ownTable, Priority: rulePriority}, netlink.RT_FILTER_TABLE|netlink.RT_FILTER_PRIORITY)
		if err != nil && !noFamily(family, err) {
			return fmt.Errorf("list routing rules: %w", err)
		}
		for i := range left {
			left[i].Family = family
			if err := o.nl.RuleDel(&left[i]); err != nil {
				return fmt.Errorf("remove routing rule: %w", err)
			}
		}
	}
	return nil
}

func ruleFrom(a netip.Addr) *netlink.Rule {
	r := netlink.NewRule()
	r.Family, r.Priority, r.Table, r.Src = unix.AF_INET, rulePriority, ownTable, ipNet(netip.PrefixFrom(a, a.BitLen()))
	if a.Is6() {
		r.Family = unix.AF_INET6
	}
	return r
}

// lead gives these addresses the table as well.
func (o *only) lead(own []netip.Addr) error {
	if o == nil {
		return nil
	}
	for _, a := range own {
		if slices.Contains(o.from, a) {
			continue
		}
		if err := o.nl.RuleAdd(ruleFrom(a)); err != nil && !errors.Is(err, syscall.EEXIST) {
			return fmt.Errorf("add routing rule from %s: %w", a, err)
		}
		o.from = append(o.from, a)
	}
	return nil
}

// release takes the table from all but these addresses, which are gone from the interface.
func (o *only) release(own []netip.Addr) error {
	if o == nil {
		return nil
	}
	var errs []error
	o.from = slices.DeleteFunc(o.from, func(a netip.Addr) bool {
		if slices.Contains(own, a) {
			return false
		}
		if err := o.nl.RuleDel(ruleFrom(a)); err != nil && !errors.Is(err, syscall.ENOENT) {
			errs = append(errs, fmt.Errorf("remove routing rule from %s: %w", a, err))
			return false
		}
		return true
	})
	return errors.Join(errs...)
}

func (o *only) close() error {
	err := o.release(nil)
	for _, family := range families {
		_ = o.nl.RouteDel(lastRoute(family))
	}
	return err
}
