package tenant

import (
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// A gateway has addresses that stay the same whichever pod is active: a name server that peers are told of, and a source of what it
// carries, must not move. They are the pool's last and the /64's first. Peers never get them, and members do not where there is a gateway.

// GatewayAddresses are those of a tunnel's gateway, IPv4 first, as far as no member had them before.
func GatewayAddresses(t *v1alpha1.TenantTunnel, members []v1alpha1.TunnelMember) (out []netip.Addr) {
	for _, a := range reserved(t) {
		held := func(m v1alpha1.TunnelMember) bool {
			return belongs(t, m.Namespace, m.Spec.Tunnel) && slices.ContainsFunc(m.Spec.Addresses, func(s string) bool {
				b, err := netip.ParseAddr(s)
				return err == nil && a == b
			})
		}
		if t.Spec.Gateway != nil && !slices.ContainsFunc(members, held) {
			out = append(out, a)
		}
	}
	return out
}

// reserved are the addresses that a gateway has, or will have should the tunnel get one.
func reserved(t *v1alpha1.TenantTunnel) (out []netip.Addr) {
	if p := IPv4Pool(t); p.IsValid() {
		out = append(out, broadcast(p).Prev())
	}
	if p := IPv6Prefix(t); p.IsValid() {
		out = append(out, p.Addr().Next())
	}
	return out
}

// gatewayKey is the gateway's too while none of its pods is registered.
func (c *contest) gatewayKey(t *v1alpha1.TenantTunnel) {
	if t.Status.Gateway == nil {
		return
	}
	if k, err := key.ParsePublic(t.Status.Gateway.PublicKey); err == nil && c.keys[k] == "" {
		c.keys[k] = "the tunnel's gateway"
	}
}
