package tenant

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/labels"

	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// peer is a TunnelPeer, parsed.
type peer struct {
	name         string
	key          key.Public
	endpoint     netip.AddrPort // zero: it dials, or has a name
	endpointName string         // HOST:PORT that members look up
	addresses    []netip.Addr   // its own
	routes       []netip.Prefix // as they are seen in the tunnel
	mappings     []wire.Mapping // by what is real
	keepalive    int
	preshared    string // entry of the Secret that holds the key; empty: none
	labels       labels.Set
}

// ranges are all that the peer has, as it is seen in the tunnel.
func (p *peer) ranges() []netip.Prefix {
	out := slices.Clone(p.routes)
	for _, a := range p.addresses {
		out = append(out, hostPrefix(a))
	}
	slices.SortFunc(out, netip.Prefix.Compare)
	return out
}

// allowedIPs are those of its ranges that are not mapped.
func (p *peer) allowedIPs() []netip.Prefix {
	return slices.DeleteFunc(p.ranges(), func(r netip.Prefix) bool {
		return slices.ContainsFunc(p.mappings, func(m wire.Mapping) bool { return m.Seen == r })
	})
}

// PeerDecision is what is decided about a TunnelPeer.
type PeerDecision struct {
	Decision
	Addresses []string // its own inside the tunnel, which it keeps from now on
}

// DecidePeers says of every TunnelPeer of a tunnel whether it is acted on, and gives addresses to those that have none. Of two that contradict each other the older one
// (creation time, then name) keeps what it has, so that nobody takes a route away by adding an object. peers of other tunnels and
// namespaces are left out of the result; a nil tunnel means that there is none of the name in spec.tunnel. It holds from now until
// NextExpiry.
func DecidePeers(t *v1alpha1.TenantTunnel, peers []v1alpha1.TunnelPeer, members []v1alpha1.TunnelMember, now time.Time) map[string]PeerDecision {
	decisions, _ := decidePeers(t, peers, members, now)
	return decisions
}

// NextExpiry is how long until the first of the peers expires that has not yet; zero: none will.
func NextExpiry(peers []v1alpha1.TunnelPeer, now time.Time) (next time.Duration) {
	for i := range peers {
		if at := peers[i].Spec.ExpiresAt; at != nil && at.After(now) && (next == 0 || at.Sub(now) < next) {
			next = at.Sub(now)
		}
	}
	return next
}

// absent says why a peer that may take part does not at present; no reason: it does.
func absent(p *v1alpha1.TunnelPeer, now time.Time) Decision {
	switch at := p.Spec.ExpiresAt; {
	case at != nil && !at.After(now):
		return Decision{ReasonExpired, fmt.Sprintf("spec.expiresAt: %s is over; it keeps its key and its routes until it is deleted", at.UTC().Format(time.RFC3339))}
	case p.Spec.State == v1alpha1.PeerSuspended:
		return Decision{ReasonSuspended, "spec.state: Suspended; it keeps its key and its routes"}
	}
	return Decision{}
}

func decidePeers(t *v1alpha1.TenantTunnel, peers []v1alpha1.TunnelPeer, members []v1alpha1.TunnelMember, now time.Time) (map[string]PeerDecision, []peer) {
	decisions := make(map[string]PeerDecision, len(peers))
	if t == nil {
		for i := range peers {
			decisions[peers[i].Name] = PeerDecision{Decision{ReasonTunnelNotFound,
				fmt.Sprintf("spec.tunnel: there is no TenantTunnel %q in this namespace", peers[i].Spec.Tunnel)}, peers[i].Status.Addresses}
		}
		return decisions, nil
	}
	c := contest{tunnel: t, keys: make(map[key.Public]string, len(peers)+len(members)), addresses: map[netip.Addr]string{}}
	c.members(members)
	c.gatewayKey(t)
	for name, own := range ServiceAddresses(t, members, peers) {
		for _, a := range own {
			c.addresses[a] = "Service " + name
		}
	}
	for _, a := range reserved(t) {
		if _, taken := c.addresses[a]; !taken {
			c.addresses[a] = "the tunnel's gateway"
		}
	}
	entries := c.enterAll(byAge(t, peers), now)
	var accepted []peer
	for i := range entries {
		e := &entries[i]
		if e.needs { // now that it is known what all others have
			c.give(e)
		}
		d := PeerDecision{e.decision, addressStrings(e.given)}
		if e.parsed != nil {
			d.Addresses = addressStrings(e.parsed.addresses)
			if d.Accepted() {
				accepted = append(accepted, *e.parsed)
			}
		}
		decisions[e.of.Name] = d
	}
	return decisions, accepted
}

func belongs(t *v1alpha1.TenantTunnel, namespace, tunnel string) bool {
	return namespace == t.Namespace && tunnel == t.Name
}

// byAge is a tunnel's peers, oldest first.
func byAge(t *v1alpha1.TenantTunnel, peers []v1alpha1.TunnelPeer) []*v1alpha1.TunnelPeer {
	var out []*v1alpha1.TunnelPeer
	for i := range peers {
		if p := &peers[i]; belongs(t, p.Namespace, p.Spec.Tunnel) && p.DeletionTimestamp.IsZero() {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b *v1alpha1.TunnelPeer) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(a.Name, b.Name))
	})
	return out
}

// contest is what older objects hold already.
type contest struct {
	tunnel    *v1alpha1.TenantTunnel
	keys      map[key.Public]string // by whom
	addresses map[netip.Addr]string // of members and peers
	routes    []ownedRoute          // disjoint and sorted by address
}

// entry is a peer in a contest.
type entry struct {
	of       *v1alpha1.TunnelPeer
	parsed   *peer        // nil: it may not hold what it asks for
	given    []netip.Addr // which it keeps all the same
	needs    bool         // to be given addresses
	decision Decision
}

// enterAll decides on peers, each by what those before it hold.
func (c *contest) enterAll(peers []*v1alpha1.TunnelPeer, now time.Time) []entry {
	out := make([]entry, len(peers))
	for i, p := range peers {
		e := &out[i]
		e.of = p
		if e.parsed, e.needs, e.decision = c.enter(p); e.parsed == nil {
			e.given = c.given(p)
			c.hold(p.Name, e.given)
		}
		if away := absent(p, now); e.decision.Accepted() && away.Reason != "" {
			e.decision = away
		}
	}
	return out
}

// members hold what they have before any peer.
func (c *contest) members(members []v1alpha1.TunnelMember) {
	for i := range members {
		m := &members[i]
		if !belongs(c.tunnel, m.Namespace, m.Spec.Tunnel) {
			continue
		}
		if k, err := key.ParsePublic(m.Status.PublicKey); err == nil {
			c.keys[k] = "member " + m.Name
		}
		for _, s := range m.Spec.Addresses {
			if a, err := netip.ParseAddr(s); err == nil {
				c.addresses[a] = "member " + m.Name
			}
		}
	}
}

func (c *contest) hold(name string, addresses []netip.Addr) {
	for _, a := range addresses {
		c.addresses[a] = "peer " + name
	}
}

type ownedRoute struct {
	netip.Prefix
	owner string
}

// enter decides on one peer and, when it may hold what it asks for, records that; the peer is nil otherwise. needs says that it is to be
// given addresses.
func (c *contest) enter(p *v1alpha1.TunnelPeer) (_ *peer, needs bool, _ Decision) {
	parsed, err := parsePeer(p)
	if err == nil && parsed.preshared != "" && c.tunnel.Spec.Gateway == nil {
		err = fmt.Errorf("spec.presharedKey: tunnel %s has no spec.gateway, and members cannot read Secrets", c.tunnel.Name)
	}
	if err == nil {
		err = c.mappable(parsed)
	}
	if err != nil {
		return nil, false, Decision{ReasonInvalid, err.Error()}
	}
	if d := c.contested(parsed); d.Reason != "" {
		return nil, false, d
	}
	var d Decision
	if parsed.addresses, needs, d = c.ownAddresses(p); d.Reason != "" {
		return nil, false, d
	}
	if d = parsed.ambiguous(); d.Reason != "" {
		return nil, false, d
	}
	c.hold(p.Name, parsed.addresses)
	c.keys[parsed.key] = "peer " + p.Name
	for _, r := range parsed.routes {
		i, _ := slices.BinarySearchFunc(c.routes, r, compareRoute)
		c.routes = slices.Insert(c.routes, i, ownedRoute{r, p.Name})
	}
	return parsed, needs, Decision{ReasonAccepted, "the peer is part of the tunnel"}
}

// contested says whether somebody has the peer's key, or one of its routes.
func (c *contest) contested(p *peer) Decision {
	if owner, taken := c.keys[p.key]; taken {
		return Decision{ReasonDuplicateKey, fmt.Sprintf("spec.publicKey: %s belongs to %s already", p.key, owner)}
	}
	for _, r := range p.routes {
		for _, own := range []netip.Prefix{IPv6Prefix(c.tunnel), IPv4Pool(c.tunnel)} {
			if own.IsValid() && own.Overlaps(r) {
				return Decision{ReasonRouteOverlap,
					fmt.Sprintf("%s of peer %s overlaps %s, the members' addresses of tunnel %s", p.named(r), p.name, own, c.tunnel.Name)}
			}
		}
		if other, ok := c.overlapping(r); ok {
			return Decision{ReasonRouteOverlap,
				fmt.Sprintf("%s of peer %s overlaps %s of peer %s, which is older", p.named(r), p.name, other.Prefix, other.owner)}
		}
	}
	return Decision{}
}

func compareRoute(o ownedRoute, r netip.Prefix) int { return o.Addr().Compare(r.Addr()) }

// overlapping finds a recorded route that overlaps r. As the recorded ones are disjoint, only the neighbours of r can.
func (c *contest) overlapping(r netip.Prefix) (ownedRoute, bool) {
	i, _ := slices.BinarySearchFunc(c.routes, r, compareRoute)
	for _, j := range []int{i - 1, i} {
		if j >= 0 && j < len(c.routes) && c.routes[j].Overlaps(r) {
			return c.routes[j], true
		}
	}
	return ownedRoute{}, false
}

// valid is what is said of a tunnel with which nothing is wrong; remarks may follow.
const valid = "the tunnel is valid"

// Remarks are what the message of an Accepted condition tells beside that nothing is wrong; empty: no more than that.
func Remarks(message string) string {
	remarks, ok := strings.CutPrefix(message, valid+"; ")
	if !ok {
		return ""
	}
	return remarks
}

// DecideTunnel says what is questionable about a tunnel beside its neighbours. The tunnel is always acted on: what it cannot
// carry is refused name by name, and the message says which.
func DecideTunnel(t *v1alpha1.TenantTunnel, peers []v1alpha1.TunnelPeer, members []v1alpha1.TunnelMember, now time.Time) Decision {
	_, accepted := decidePeers(t, peers, members, now)
	return decideTunnel(t, accepted)
}

func decideTunnel(t *v1alpha1.TenantTunnel, accepted []peer) Decision {
	unrouted, clashes := unroutedHosts(t, accepted)
	d := Decision{Reason: ReasonAccepted}
	var messages []string
	if len(unrouted) > 0 {
		d.Reason = ReasonEgressWithoutRoute
		messages = append(messages, "spec.egress: no accepted TunnelPeer has a route to "+list(unrouted))
	}
	if servers := unroutedServers(t, accepted); len(servers) > 0 {
		d.Reason = ReasonDNSWithoutRoute
		messages = append(messages, "spec.dns: no accepted TunnelPeer has a route to "+list(servers))
	}
	if len(clashes) > 0 {
		d.Reason = ReasonNameClash
		messages = append(messages, "spec.egress: the exposed Service of the same name is carried in place of "+list(clashes))
	}
	if len(messages) == 0 {
		messages = append(messages, valid)
	}
	policy, err := newPolicy(t)
	d.Message = strings.Join(append(messages, policy.remarks(err, accepted)...), "; ")
	return d
}

func exposedNames(t *v1alpha1.TenantTunnel) map[string]bool {
	names := make(map[string]bool, len(t.Spec.Expose))
	for _, e := range t.Spec.Expose {
		names[e.Service] = true
	}
	return names
}

func routed(accepted []peer, addr netip.Addr) bool {
	for i := range accepted {
		if slices.Contains(accepted[i].addresses, addr) || slices.ContainsFunc(accepted[i].routes, func(r netip.Prefix) bool { return r.Contains(addr) }) {
			return true
		}
	}
	return false
}

// list names a few and counts the rest, so that a message stays readable and bounded.
func list(names []string) string {
	const few = 5
	if len(names) > few {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
	}
	return strings.Join(names, ", ")
}
