package lab

import (
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink"
)

// WireGuard makes an interface of the kernel's own WireGuard, down and without keys. mtu is in bytes.
func (h *Host) WireGuard(name string, mtu int) error {
	attrs := netlink.NewLinkAttrs()
	attrs.Name, attrs.MTU = name, mtu
	err := h.nl.LinkAdd(&netlink.Wireguard{LinkAttrs: attrs})
	switch {
	case errors.Is(err, syscall.EOPNOTSUPP):
		return fmt.Errorf("this kernel has no WireGuard (module wireguard, Linux 5.6 or newer): %w", err)
	case err != nil:
		return fmt.Errorf("make WireGuard interface %s: %w", name, err)
	}
	return nil
}

// MissingWireGuard says why a WireGuard interface cannot be had here, by making one; nothing: it can.
func MissingWireGuard() string {
	var l Lab
	h, err := l.NewHost()
	if err == nil {
		err = h.WireGuard("probe", 1420)
	}
	if err = errors.Join(err, l.Close()); err != nil {
		return err.Error()
	}
	return ""
}

// AddRoute sends what is for a network through a link that is up.
func (h *Host) AddRoute(name string, to netip.Prefix) error {
	l, err := h.nl.LinkByName(name)
	if err != nil {
		return fmt.Errorf("find %s: %w", name, err)
	}
	dst, err := netlink.ParseIPNet(to.String())
	if err != nil {
		return err
	}
	if err := h.nl.RouteAdd(&netlink.Route{LinkIndex: l.Attrs().Index, Dst: dst, Scope: netlink.SCOPE_LINK}); err != nil {
		return fmt.Errorf("route %s through %s: %w", to, name, err)
	}
	return nil
}
