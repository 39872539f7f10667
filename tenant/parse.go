package tenant

import (
	"fmt"
	"net/netip"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// parsePeer reads a TunnelPeer's strings. Most of it the schema refused already; this is what keeps an object that came in under
// an older schema from reaching a device.
func parsePeer(p *v1alpha1.TunnelPeer) (*peer, error) {
	out := &peer{name: p.Name, labels: p.Labels, keepalive: int(p.Spec.KeepaliveSeconds)}
	var err error
	if out.key, err = key.ParsePublic(p.Spec.PublicKey); err != nil {
		return nil, fmt.Errorf("spec.publicKey: %w", err)
	}
	if p.Spec.Endpoint != "" {
		if out.endpoint, out.endpointName, err = ParseEndpoint(p.Spec.Endpoint); err != nil {
			return nil, fmt.Errorf("spec.endpoint: %w", err)
		}
	}
	if out.keepalive < 0 || out.keepalive > 65535 {
		return nil, fmt.Errorf("spec.keepaliveSeconds: %d is not 0..65535", out.keepalive)
	}
	if ref := p.Spec.PresharedKey; ref != nil {
		if out.preshared = ref.SecretKey; !wire.IsPresharedName(out.preshared) {
			return nil, fmt.Errorf("spec.presharedKey.secretKey: %q is not the name of a Secret's entry, for example %s", bounded(ref.SecretKey), p.Name)
		}
	}
	for _, s := range p.Spec.Routes {
		r, err := parseRoute(s)
		if err != nil {
			return nil, fmt.Errorf("spec.routes: %w", err)
		}
		for _, earlier := range out.routes {
			if earlier.Overlaps(r) {
				return nil, fmt.Errorf("spec.routes: %s overlaps %s of the same peer", r, earlier)
			}
		}
		out.routes = append(out.routes, r)
	}
	if err := out.parseMappings(p.Spec.Mappings); err != nil {
		return nil, err
	}
	return out, nil
}

// ParseEndpoint reads what to dial: an outer address and port, for example 203.0.113.7:51820 or [2001:db8::7]:51820, or a DNS name
// and port, which is returned as it is.
func ParseEndpoint(s string) (at netip.AddrPort, name string, err error) {
	if _, _, err := wire.SplitEndpointName(s); err == nil {
		return netip.AddrPort{}, s, nil
	}
	e, err := netip.ParseAddrPort(s)
	if err != nil || e.Port() == 0 || e.Addr().Zone() != "" || e.Addr().Is4In6() {
		return netip.AddrPort{}, "", fmt.Errorf("%q is not an IP address or a DNS name in lower case and a port, for example 203.0.113.7:51820, [2001:db8::7]:51820 or vpn.example.com:51820", bounded(s))
	}
	if a := e.Addr(); !a.IsGlobalUnicast() {
		return netip.AddrPort{}, "", fmt.Errorf("%s is unspecified, loopback, link-local or multicast", a)
	}
	return e, "", nil
}

func parseRoute(s string) (netip.Prefix, error) {
	r, err := netip.ParsePrefix(s)
	if err != nil || r != r.Masked() || r.Addr().Is4In6() {
		return netip.Prefix{}, fmt.Errorf("%q is not a CIDR without host bits, for example 192.168.10.0/24", bounded(s))
	}
	if a := r.Addr(); a.IsLoopback() || a.IsLinkLocalUnicast() || a.IsMulticast() {
		return netip.Prefix{}, fmt.Errorf("%s is loopback, link-local or multicast", r)
	}
	return r, nil
}
