package doctor

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// session is how long a handshake is good for: when one is older and something is sent, another was tried and failed.
const session = 3 * time.Minute

var liveChecks = []Check{
	{"SidecarSilent", Warning, "sidecars of ready members answer", []source{srcSidecars}, sidecarSilent},
	{"KeyMismatch", Error, "sidecars have the keys that others were told", []source{srcSidecars}, keyMismatch},
	{"MemberUnknown", Error, "members know each other", []source{srcSidecars, srcMembers}, memberUnknown},
	{"AllowedIPsDiffer", Error, "and the addresses that each has", []source{srcSidecars, srcMembers}, allowedIPsDiffer},
	{"EndpointMoved", Warning, "they send to where the others are", []source{srcSidecars, srcMembers}, endpointMoved},
	{"EndpointNotFound", Error, "names of peers' endpoints lead somewhere", []source{srcSidecars, srcPeers}, endpointNotFound},
	{"HandshakeMissing", Error, "peers that something is sent to answer", []source{srcSidecars}, handshakeMissing},
}

// asked are the pods whose sidecars were, sorted.
func (f *Facts) asked() []PodID {
	return slices.SortedFunc(maps.Keys(f.Sidecars), func(a, b PodID) int { return strings.Compare(a.String(), b.String()) })
}

// answered are those that said something.
func (f *Facts) answered(visit func(id PodID, first, later *wire.Device)) {
	for _, id := range f.asked() {
		s := f.Sidecars[id]
		if s.Device == nil {
			continue
		}
		later := s.Later
		if later == nil {
			later = s.Device
		}
		visit(id, s.Device, later)
	}
}

func sidecarSilent(f *Facts) (out []Finding) {
	for _, id := range f.asked() {
		if s := f.Sidecars[id]; s.Device == nil && s.Why != "" {
			out = append(out, Finding{Object: "pod " + id.String(), What: "the pod's sidecar does not answer", Evidence: s.Why, Fix: fmt.Sprintf("kubectl -n %s logs %s -c tenantwire --tail=50", id.Namespace, id.Name)})
		}
	}
	return out
}

func keyMismatch(f *Facts) (out []Finding) {
	f.answered(func(id PodID, _, later *wire.Device) {
		m := f.member(id.Namespace, id.Name)
		if m == nil || m.Status.PublicKey == "" || m.Status.PublicKey == later.PublicKey.String() {
			return
		}
		out = append(out, Finding{Object: "pod " + id.String(), What: "others were told another key than the pod has: none of them can reach it", Evidence: fmt.Sprintf("its sidecar has %s, its TunnelMember %s", later.PublicKey, m.Status.PublicKey),
			Fix: fmt.Sprintf("kubectl -n %s delete pod %s", id.Namespace, id.Name)})
	})
	return out
}

// others are the ready members of the same tunnel, which a member has to know.
func (f *Facts) others(id PodID, visit func(m *v1alpha1.TunnelMember)) {
	own := f.member(id.Namespace, id.Name)
	if own == nil {
		return
	}
	for i := range f.Members {
		m := &f.Members[i]
		if m.Namespace == id.Namespace && m.Name != id.Name && m.Spec.Tunnel == own.Spec.Tunnel && m.Spec.Role != v1alpha1.RoleGateway && f.ready(m) && m.Status.PublicKey != "" {
			visit(m)
		}
	}
}

func find(d *wire.Device, k string) *wire.DevicePeer {
	for i := range d.Peers {
		if d.Peers[i].PublicKey.String() == k {
			return &d.Peers[i]
		}
	}
	return nil
}

func memberUnknown(f *Facts) (out []Finding) {
	f.answered(func(id PodID, _, later *wire.Device) {
		var missing []string
		f.others(id, func(m *v1alpha1.TunnelMember) {
			if find(later, m.Status.PublicKey) == nil {
				missing = append(missing, m.Name)
			}
		})
		if len(missing) > 0 {
			out = append(out, Finding{Object: "pod " + id.String(), What: "the pod's sidecar does not know " + few(missing) + ": it hears nothing from the coordinator", Evidence: "its device has no peer with that key",
				Fix: fmt.Sprintf("kubectl -n %s logs %s -c tenantwire --tail=50", id.Namespace, id.Name)})
		}
	})
	return out
}

func allowedIPsDiffer(f *Facts) (out []Finding) {
	f.answered(func(id PodID, _, later *wire.Device) {
		f.others(id, func(m *v1alpha1.TunnelMember) {
			p := find(later, m.Status.PublicKey)
			if p == nil {
				return
			}
			if lacks := lacking(p.AllowedIPs, m.Spec.Addresses); len(lacks) > 0 {
				out = append(out, Finding{Object: "pod " + id.String(), What: fmt.Sprintf("the pod's sidecar drops what comes from %s, and sends nothing there", m.Name), Evidence: fmt.Sprintf("its AllowedIPs for %s lack %s", m.Name, few(lacks)),
					Fix: fmt.Sprintf("kubectl -n %s logs %s -c tenantwire --tail=50", id.Namespace, id.Name)})
			}
		})
	})
	return out
}

// lacking are the addresses in none of the ranges.
func lacking(ranges []netip.Prefix, addresses []string) (out []string) {
	for _, text := range addresses {
		a, err := netip.ParseAddr(text)
		if err == nil && !slices.ContainsFunc(ranges, func(p netip.Prefix) bool { return p.Contains(a) }) {
			out = append(out, text)
		}
	}
	return out
}

func endpointMoved(f *Facts) (out []Finding) {
	f.answered(func(id PodID, _, later *wire.Device) {
		f.others(id, func(m *v1alpha1.TunnelMember) {
			p := find(later, m.Status.PublicKey)
			if p == nil || !p.Endpoint.IsValid() || m.Status.Endpoint == "" || p.Endpoint.String() == m.Status.Endpoint || later.Time.Sub(p.LastHandshake) < session {
				return
			}
			out = append(out, Finding{Object: "pod " + id.String(), What: fmt.Sprintf("the pod sends to where %s is not any more, or to what a NAT has forgotten", m.Name), Evidence: fmt.Sprintf("its device has %s, the TunnelMember %s", p.Endpoint, m.Status.Endpoint),
				Fix: fmt.Sprintf("kubectl -n %s delete pod %s", id.Namespace, id.Name)})
		})
	})
	return out
}

func isName(endpoint string) bool {
	_, err := netip.ParseAddrPort(endpoint)
	return endpoint != "" && err != nil
}

func endpointNotFound(f *Facts) (out []Finding) {
	said := map[string]bool{}
	f.answered(func(id PodID, _, later *wire.Device) {
		for i := range f.Peers {
			p := &f.Peers[i]
			at := find(later, p.Spec.PublicKey)
			if p.Namespace != id.Namespace || !isName(p.Spec.Endpoint) || at == nil || at.Endpoint.IsValid() || said[peerName(p)] {
				continue
			}
			said[peerName(p)] = true
			host := p.Spec.Endpoint[:strings.LastIndexByte(p.Spec.Endpoint, ':')]
			out = append(out, Finding{Object: peerName(p), What: "the name of the peer's endpoint leads nowhere from its members", Evidence: fmt.Sprintf("the sidecar of pod %s has no address for %s", id.Name, p.Spec.Endpoint),
				Fix: "nslookup " + host + ", in the cluster; correct spec.endpoint or the DNS record"})
		}
	})
	return out
}

// nameOf is who has a key.
func (f *Facts) nameOf(namespace string, k key.Public) string {
	for i := range f.Members {
		if m := &f.Members[i]; m.Namespace == namespace && m.Status.PublicKey == k.String() {
			if m.Spec.Role == v1alpha1.RoleGateway {
				return "the gateway"
			}
			return "pod " + m.Name
		}
	}
	for i := range f.Peers {
		if p := &f.Peers[i]; p.Namespace == namespace && p.Spec.PublicKey == k.String() {
			return "peer " + p.Name
		}
	}
	return "the peer " + k.String()
}

func handshakeMissing(f *Facts) (out []Finding) {
	f.answered(func(id PodID, first, later *wire.Device) {
		for _, p := range later.Peers {
			before := find(first, p.PublicKey.String())
			if before == nil || !silent(*before, p, later.Time) {
				continue
			}
			last := "there was none"
			if !p.LastHandshake.IsZero() {
				last = "the last one was " + later.Time.Sub(p.LastHandshake).Round(time.Second).String() + " ago"
			}
			out = append(out, Finding{Object: "pod " + id.String(), What: "no handshake with " + f.nameOf(id.Namespace, p.PublicKey) + ", though something is sent to it: its UDP or its answers do not arrive, or it has another key",
				Evidence: fmt.Sprintf("%s; %d bytes were sent and %d received; endpoint %s", last, p.TxBytes, p.RxBytes, p.Endpoint), Fix: f.handshakeFix(id, p)})
		}
	})
	return out
}

// silent says whether something is sent to a peer, and nothing comes back.
func silent(before, now wire.DevicePeer, at time.Time) bool {
	if at.Sub(now.LastHandshake) < session {
		return false
	}
	sends := now.TxBytes > before.TxBytes || now.LastHandshake.IsZero() && now.TxBytes > 0
	return sends && now.RxBytes == before.RxBytes
}

func (f *Facts) handshakeFix(id PodID, p wire.DevicePeer) string {
	for i := range f.Members {
		if m := &f.Members[i]; m.Namespace == id.Namespace && m.Status.PublicKey == p.PublicKey.String() && m.Spec.Role != v1alpha1.RoleGateway {
			return fmt.Sprintf("kubectl tenantwire -n %s doctor --from %s --to %s", id.Namespace, id.Name, m.Name)
		}
	}
	return fmt.Sprintf("kubectl tenantwire -n %s wg %s, and wg show at the other end: does each have the other's key and endpoint, and do firewalls let UDP %s through?", id.Namespace, id.Name, p.Endpoint)
}
