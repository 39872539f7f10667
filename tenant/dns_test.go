package tenant

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

func (s source) dns() *v1alpha1.DNS {
	if s.Intn(3) == 0 {
		return nil
	}
	return &v1alpha1.DNS{Zones: some(s, 4, func() v1alpha1.DNSZone {
		return v1alpha1.DNSZone{Domain: pick(s, "corp", "db.corp", "x1", "", "Corp", "corp.", "a b"), Servers: some(s, 5, s.address)}
	})}
}

// checkLookups: what is looked up is in a zone, and whoever is asked is behind an outside peer.
func checkLookups(cfg wire.Config) error {
	for _, s := range cfg.Services {
		if s.Lookup && (len(s.Targets) > 0 || !cfg.Lookups.Holds(s.Name)) {
			return fmt.Errorf("%+v is looked up", s)
		}
	}
	if cfg.Lookups == nil {
		return nil
	}
	for _, z := range cfg.Lookups.Zones {
		for _, at := range z.Servers {
			if len(cfg.Peers) > 0 && !reachable(cfg, at.Addr()) {
				return fmt.Errorf("%s is asked at %s, which nobody has", z.Domain, at)
			}
		}
	}
	return nil
}

func tunnelWithZones(zones ...v1alpha1.DNSZone) *v1alpha1.TenantTunnel {
	t := tunnelWith("t", "fd00:1:2:3::/64", "10.77.0.0/24")
	t.Spec.DNS = &v1alpha1.DNS{Zones: zones}
	return t
}

func office() v1alpha1.TunnelPeer {
	p := v1alpha1.TunnelPeer{Spec: v1alpha1.TunnelPeerSpec{Tunnel: "main", PublicKey: key.Public{1, 1}.String(), Routes: []string{"192.168.10.0/24"}}}
	p.Namespace, p.Name = "shop", "office"
	return p
}

// Whoever reads the condition learns which server of which zone is missing, and which host has neither an address nor a zone.
func TestDecideDNS(t *testing.T) {
	corp := v1alpha1.DNSZone{Domain: "corp.internal", Servers: []string{"192.168.10.53", "192.168.11.53"}}
	host := func(name, address string) v1alpha1.EgressHost {
		return v1alpha1.EgressHost{Host: name, Address: address, Ports: []v1alpha1.Port{{Port: 80}}}
	}
	for name, c := range map[string]struct {
		zones  []v1alpha1.DNSZone
		hosts  []v1alpha1.EgressHost
		reason Reason
		says   []string
	}{
		"one server of two":  {[]v1alpha1.DNSZone{corp}, nil, ReasonDNSWithoutRoute, []string{"spec.dns", "192.168.11.53 (corp.internal)"}},
		"routed":             {[]v1alpha1.DNSZone{{Domain: "corp.internal", Servers: corp.Servers[:1]}}, []v1alpha1.EgressHost{host("db.corp.internal", "")}, ReasonAccepted, nil},
		"in no zone":         {nil, []v1alpha1.EgressHost{host("db.corp.internal", "")}, ReasonEgressWithoutRoute, []string{"db.corp.internal (no address"}},
		"address and server": {[]v1alpha1.DNSZone{corp}, []v1alpha1.EgressHost{host("db.other", "192.168.11.1")}, ReasonDNSWithoutRoute, []string{"spec.egress", "192.168.11.1", "spec.dns"}},
		"no server parses":   {[]v1alpha1.DNSZone{{Domain: "corp.internal", Servers: []string{"x"}}}, nil, ReasonDNSWithoutRoute, []string{"x (corp.internal)"}},
	} {
		d := DecideTunnel(func() *v1alpha1.TenantTunnel {
			t := tunnelWithZones(c.zones...)
			t.Spec.Egress = c.hosts
			return t
		}(), []v1alpha1.TunnelPeer{office()}, nil, time.Time{})
		missing := slices.ContainsFunc(c.says, func(s string) bool { return !strings.Contains(d.Message, s) })
		if d.Reason != c.reason || missing || !d.Accepted() {
			t.Errorf("%s: %+v", name, d)
		}
	}
}
