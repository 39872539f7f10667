package tenant

import (
	"bytes"
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// State is everything that a tunnel's configuration depends on. It may hold objects of other tunnels and namespaces; they are
// left out. Objects that do not parse are left out too: the condition Accepted says so where somebody can mend it.
type State struct {
	Tunnel         *v1alpha1.TenantTunnel
	Members        []v1alpha1.TunnelMember
	Peers          []v1alpha1.TunnelPeer
	Services       []corev1.Service
	EndpointSlices []discoveryv1.EndpointSlice
	Pods           []corev1.Pod // without a sidecar, which say that they go through the gateway; see ServesPlainPods
	Now            time.Time    // the plan holds from then until NextExpiry of the peers
}

// Network is what a whole tunnel is told: computed once for each change and shared by the streams of all its members. It is
// immutable and safe for concurrent use; so are the parts of the Configs it gives out, which share memory.
type Network struct {
	mtu       int
	members   map[string]*member
	peers     []wire.Peer      // of members, by public key
	hubPeers  []wire.Peer      // of gateways, by public key
	services  []wire.Service   // by name, port, protocol
	shared    []netip.Prefix   // of gateways, IPv4 first
	answered  []netip.Prefix   // of gateways too: exposed Services' own, sorted
	zone      *wire.Zone       // of gateways
	relays    []wire.Relay     // of gateways, by listening port, protocol
	clients   []netip.Addr     // of gateways, sorted
	published []wire.Published // of gateways, by name, port, protocol
	hubGrants []wire.Grant     // of gateways
	lookups   *wire.Lookups    // of everybody
	limits    limits
	debug     *wire.Debug // of everybody
}

// member is a TunnelMember, parsed.
type member struct {
	name      string
	podUID    string
	gateway   bool
	key       key.Public     // zero until it registered
	endpoint  netip.AddrPort // zero until it registered
	addresses []netip.Prefix
	inbound   []wire.Port
	granted   []wire.Port // those of inbound that all outside peers reach
	// restricted are those of inbound that only peers picked by these rules reach, and grants what follows from that.
	restricted map[wire.Port]ruleSet
	grants     []wire.Grant
}

func (m *member) registered() bool { return !m.key.IsZero() }

// target is the address that connections to the member go to: IPv6 where it has one.
func (m *member) target() netip.Addr { return m.addresses[len(m.addresses)-1].Addr() }

// NewNetwork plans a tunnel. The same objects in any order give the same result.
func NewNetwork(s State) *Network {
	n := &Network{members: make(map[string]*member, len(s.Members))}
	if s.Tunnel == nil {
		return n
	}
	if s.Tunnel.Spec.MTU != nil {
		n.mtu = int(*s.Tunnel.Spec.MTU)
	}
	n.addMembers(s)
	_, accepted := decidePeers(s.Tunnel, s.Peers, s.Members, s.Now)
	inside := make([]wire.Peer, 0, len(n.members)+len(accepted))
	for _, m := range n.members {
		if m.registered() && !m.gateway {
			inside = append(inside, wire.Peer{PublicKey: m.key, Endpoint: m.endpoint, AllowedIPs: m.addresses})
		}
	}
	outside := outsidePeers(accepted)
	n.lookups = lookups(s.Tunnel, accepted)
	n.limits = peerLimits(s.Tunnel.Spec.Gateway)
	n.debug = debug(s.Tunnel.Spec.Debug)
	for _, a := range GatewayAddresses(s.Tunnel, s.Members) {
		n.shared = append(n.shared, hostPrefix(a))
	}
	serviceAddresses := ServiceAddresses(s.Tunnel, s.Members, s.Peers)
	for _, own := range serviceAddresses {
		for _, a := range own {
			n.answered = append(n.answered, hostPrefix(a))
		}
	}
	slices.SortFunc(n.answered, netip.Prefix.Compare)
	members, hub := wire.Config{}, wire.Config{}
	if s.Tunnel.Spec.Gateway == nil {
		members.Peers = slices.Concat(inside, outside)
	} else {
		members.Peers = append(slices.Clip(inside), n.theGateway(s, outside)...)
		hub.Peers = slices.Concat(inside, outside)
		if hub.Relays = egressRelays(s.Tunnel, accepted, n.lookups); len(hub.Relays) > 0 {
			n.clients = n.egressClients(s)
		}
	}
	policy, _ := newPolicy(s.Tunnel)
	exposed := n.exposed(s, policy)
	sources := n.grant(policy, accepted)
	if s.Tunnel.Spec.Gateway != nil {
		n.zone = &wire.Zone{Domain: Domain(s.Tunnel), Names: n.names(exposed, serviceAddresses)}
		hub.Published = published(exposed, serviceAddresses)
		hub.Grants = policy.grantsOfServices(hub.Published, sources)
	}
	members.Services = slices.Concat(carried(exposed), egress(s.Tunnel, accepted, n.lookups))
	members.Sort()
	hub.Sort()
	n.peers, n.services, n.hubPeers, n.relays, n.published = members.Peers, members.Services, hub.Peers, hub.Relays, hub.Published
	n.hubGrants = hub.Grants
	return n
}

func outsidePeers(accepted []peer) []wire.Peer {
	out := make([]wire.Peer, 0, len(accepted))
	for _, p := range accepted {
		out = append(out, wire.Peer{PublicKey: p.key, Endpoint: p.endpoint, EndpointName: p.endpointName, AllowedIPs: p.allowedIPs(), Outside: true,
			KeepaliveSeconds: p.keepalive, PresharedKey: p.preshared, Mappings: p.mappings})
	}
	return out
}

// theGateway is all of a tunnel's gateways as one peer of members, at the one that is active, with what is behind it: outside peers,
// who have its addresses' rights too. While all its pods are replaced it is what it was: members that lost it would refuse what still
// comes, and end connections that could go on. None, as long as no gateway has ever registered.
func (n *Network) theGateway(s State, outside []wire.Peer) []wire.Peer {
	var out wire.Peer
	for _, g := range gateways(s.Members) {
		m := n.members[g.Name]
		if m == nil || !m.registered() || out.Outside && m.key != out.PublicKey {
			continue
		}
		if !out.Outside {
			out = wire.Peer{PublicKey: m.key, Endpoint: m.endpoint, Outside: true, Gateway: true}
		}
		out.AllowedIPs = append(out.AllowedIPs, m.addresses...)
	}
	if !out.Outside {
		k, ok := n.absentGateway(s.Tunnel)
		if !ok {
			return nil
		}
		out = wire.Peer{PublicKey: k, Outside: true, Gateway: true}
	}
	out.AllowedIPs = append(append(out.AllowedIPs, n.shared...), n.answered...)
	for _, p := range outside {
		out.AllowedIPs = append(out.AllowedIPs, p.Ranges()...)
	}
	slices.SortFunc(out.AllowedIPs, netip.Prefix.Compare)
	out.Owners = numberOwners(out.AllowedIPs, outside)
	return []wire.Peer{out}
}

// absentGateway is the key of a gateway of which no pod is registered.
func (n *Network) absentGateway(t *v1alpha1.TenantTunnel) (key.Public, bool) {
	if t.Status.Gateway == nil {
		return key.Public{}, false
	}
	k, err := key.ParsePublic(t.Status.Gateway.PublicKey)
	if err != nil {
		return key.Public{}, false
	}
	for _, m := range n.members {
		if m.key == k { // whoever that is, the key is taken
			return key.Public{}, false
		}
	}
	return k, true
}

// Config is what one member is told: everything but itself, and no name on a port that the member's own application holds, as the
// sidecar could not listen there. A member that has not registered yet has a configuration too. ok is false where there is no
// such member. The caller must not change what the result points to. A Service's targets may hold the member itself.
func (n *Network) Config(name string) (cfg wire.Config, ok bool) {
	m, ok := n.members[name]
	if !ok {
		return wire.Config{}, false
	}
	if m.gateway {
		return wire.Config{Interface: wire.Interface{Addresses: n.gatewayInterface(m), MTU: n.mtu, Hub: true}, Peers: clip(n.hubPeers), Zone: n.zone,
			Relays: clip(n.relays), Clients: clip(n.clients), Published: clip(n.published), Grants: clip(n.hubGrants), Lookups: n.lookups, Limits: n.limits.gateway,
			Debug: n.debug}, true
	}
	return wire.Config{
		Interface: wire.Interface{Addresses: m.addresses, MTU: n.mtu},
		Peers:     n.peersOf(m),
		Services:  n.servicesOf(m),
		Inbound:   m.inbound,
		Granted:   m.granted,
		Grants:    m.grants,
		Lookups:   n.lookups,
		Limits:    n.limits.members,
		Debug:     n.debug,
	}, true
}

// gatewayInterface is a gateway's addresses: first those of all of them, from which it dials, then its own, then those that it answers
// for.
func (n *Network) gatewayInterface(m *member) []netip.Prefix {
	all := slices.Concat(n.shared, m.addresses, n.answered)
	slices.SortStableFunc(all, func(a, b netip.Prefix) int { return cmp.Compare(a.Addr().BitLen(), b.Addr().BitLen()) })
	return all
}

func (n *Network) peersOf(m *member) []wire.Peer {
	i, found := slices.BinarySearchFunc(n.peers, m.key, func(p wire.Peer, k key.Public) int { return bytes.Compare(p.PublicKey[:], k[:]) })
	if !found || !m.registered() {
		return clip(n.peers)
	}
	if len(n.peers) == 1 {
		return nil
	}
	return slices.Concat(n.peers[:i], n.peers[i+1:])
}

func (n *Network) servicesOf(m *member) []wire.Service {
	held := func(s wire.Service) bool {
		_, found := slices.BinarySearchFunc(m.inbound, wire.Port{Port: s.Port, Protocol: s.Protocol}, comparePorts)
		return found
	}
	if !slices.ContainsFunc(n.services, held) {
		return clip(n.services)
	}
	var out []wire.Service
	for _, s := range n.services {
		if !held(s) {
			out = append(out, s)
		}
	}
	return out
}

// clip makes a shared slice safe to append to, and nil when it is empty as JSON decodes an absent list.
func clip[T any](s []T) []T {
	if len(s) == 0 {
		return nil
	}
	return slices.Clip(s)
}

func comparePorts(a, b wire.Port) int {
	return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Protocol, b.Protocol))
}

// addMembers parses the tunnel's members. Of two with one key or one address the older one keeps it.
func (n *Network) addMembers(s State) {
	var own []*v1alpha1.TunnelMember
	for i := range s.Members {
		if m := &s.Members[i]; belongs(s.Tunnel, m.Namespace, m.Spec.Tunnel) {
			own = append(own, m)
		}
	}
	slices.SortFunc(own, olderMember)
	owner := make(map[key.Public]*member, len(own))
	taken := make(map[netip.Prefix]bool, 2*len(own))
	ranges := [2]netip.Prefix{IPv6Prefix(s.Tunnel), IPv4Pool(s.Tunnel)}
	for _, o := range own {
		m := &member{name: o.Name, podUID: o.Spec.PodUID, addresses: memberAddresses(ranges, o.Spec.Addresses, taken)}
		if len(m.addresses) == 0 {
			continue
		}
		for _, a := range m.addresses {
			taken[a] = true
		}
		m.gateway = isGateway(o)
		if k, e, ok := parseRegistration(o); ok {
			if first, taken := owner[k]; !taken || first.gateway && m.gateway { // gateways share a key
				owner[k], m.key, m.endpoint = m, k, e
			}
		}
		for _, p := range o.Spec.Ports {
			if protocol, ok := protocolOf(corev1.Protocol(p.Protocol)); ok && validPort(p.Port) {
				m.inbound = append(m.inbound, wire.Port{Port: uint16(p.Port), Protocol: wire.Protocol(protocol)})
			}
		}
		m.sortInbound()
		n.members[m.name] = m
	}
}

func olderMember(a, b *v1alpha1.TunnelMember) int {
	return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
}

func (m *member) sortInbound() {
	for _, ports := range []*[]wire.Port{&m.inbound, &m.granted} {
		slices.SortFunc(*ports, comparePorts)
		*ports = slices.Compact(*ports)
	}
}

// memberAddresses are a member's addresses that are this tunnel's and nobody else's, IPv4 first.
func memberAddresses(ranges [2]netip.Prefix, addresses []string, taken map[netip.Prefix]bool) []netip.Prefix {
	var out []netip.Prefix
	for _, s := range addresses {
		a, err := netip.ParseAddr(s)
		if err != nil || a.Zone() != "" || !slices.ContainsFunc(ranges[:], func(r netip.Prefix) bool { return r.IsValid() && r.Contains(a) }) {
			continue
		}
		if host := netip.PrefixFrom(a, a.BitLen()); !taken[host] && !slices.Contains(out, host) {
			out = append(out, host)
		}
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// parseRegistration reads what a member said of itself. Whether the endpoint is the pod's own was the coordinator's to check.
func parseRegistration(m *v1alpha1.TunnelMember) (key.Public, netip.AddrPort, bool) {
	k, err := key.ParsePublic(m.Status.PublicKey)
	if err != nil {
		return key.Public{}, netip.AddrPort{}, false
	}
	e, err := netip.ParseAddrPort(m.Status.Endpoint)
	ok := err == nil && e.Port() != 0 && !e.Addr().IsUnspecified() && e.Addr().Zone() == "" && !e.Addr().Is4In6()
	return k, e, ok
}

func validPort(p int32) bool { return p >= 1 && p <= 65535 }
