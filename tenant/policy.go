package tenant

import (
	"encoding/binary"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// ruleSet is a set of rules of a policy, a bit for each.
type ruleSet uint64

// theGateway is no rule: it stands for the gateway itself, which asks the policy before it dials a member for somebody.
const theGateway ruleSet = 1 << v1alpha1.MaxInboundRules

// policy is spec.policy, parsed. Nil: there is none, and every outside peer reaches all that is exposed.
type policy struct {
	rules    []inboundRule
	everyone ruleSet // those that pick all peers, whatever their labels
}

// inboundRule is an entry of spec.policy.inbound.
type inboundRule struct {
	peers    labels.Selector
	services []string    // empty: all
	ports    []wire.Port // empty: all
}

// newPolicy reads a tunnel's policy. A rule that does not parse picks nobody; the error says what is wrong with one of them.
func newPolicy(t *v1alpha1.TenantTunnel) (*policy, error) {
	if t.Spec.Policy == nil {
		return nil, nil
	}
	p := &policy{}
	var bad error
	for i, r := range t.Spec.Policy.Inbound[:min(len(t.Spec.Policy.Inbound), v1alpha1.MaxInboundRules)] {
		rule, err := parseRule(r)
		if err != nil {
			bad = fmt.Errorf("spec.policy.inbound[%d].%w", i, err)
		} else if rule.peers.Empty() {
			p.everyone |= 1 << i
		}
		p.rules = append(p.rules, rule)
	}
	return p, bad
}

func parseRule(r v1alpha1.InboundRule) (inboundRule, error) {
	out := inboundRule{peers: labels.Nothing(), services: r.Services}
	for _, p := range r.Ports {
		protocol, ok := protocolOf(corev1.Protocol(p.Protocol))
		if !ok || !validPort(p.Port) {
			return out, fmt.Errorf("ports: %d/%s is not a TCP or UDP port", p.Port, bounded(string(p.Protocol)))
		}
		out.ports = append(out.ports, wire.Port{Port: uint16(p.Port), Protocol: wire.Protocol(protocol)})
	}
	s := metav1.LabelSelector{MatchLabels: make(map[string]string, len(r.Peers.MatchLabels))}
	for k, v := range r.Peers.MatchLabels {
		s.MatchLabels[k] = string(v)
	}
	for _, e := range r.Peers.MatchExpressions {
		want := metav1.LabelSelectorRequirement{Key: e.Key, Operator: e.Operator}
		for _, v := range e.Values {
			want.Values = append(want.Values, string(v))
		}
		s.MatchExpressions = append(s.MatchExpressions, want)
	}
	peers, err := metav1.LabelSelectorAsSelector(&s)
	if err != nil {
		return out, fmt.Errorf("peers: %w", err)
	}
	out.peers = peers
	return out, nil
}

// grants are the rules that grant a port of a Service; everyone says that all outside peers reach it.
func (p *policy) grants(id wire.ServiceID) (rules ruleSet, everyone bool) {
	if p == nil {
		return 0, true
	}
	for i, r := range p.rules {
		if (len(r.services) == 0 || slices.Contains(r.services, id.Name)) &&
			(len(r.ports) == 0 || slices.Contains(r.ports, wire.Port{Port: id.Port, Protocol: id.Protocol})) {
			rules |= 1 << i
		}
	}
	return rules, rules&p.everyone != 0
}

// picks are the rules that pick a peer.
func (p *policy) picks(peer labels.Set) (rules ruleSet) {
	for i, r := range p.rules {
		if r.peers.Matches(peer) {
			rules |= 1 << i
		}
	}
	return rules
}

// open lets members reach a port, and of outside peers those that the rules pick.
func (m *member) open(port wire.Port, rules ruleSet, everyone bool) {
	m.inbound = append(m.inbound, port)
	if everyone {
		m.granted = append(m.granted, port)
		return
	}
	if m.restricted == nil {
		m.restricted = map[wire.Port]ruleSet{}
	}
	m.restricted[port] |= rules | theGateway // a port may be behind several Services
}

// grant tells members whom they let in where not everybody may. Members with the same ports share what they are told.
func (n *Network) grant(p *policy, accepted []peer) (sources map[ruleSet][]netip.Prefix) {
	if p == nil {
		return nil
	}
	sources = map[ruleSet][]netip.Prefix{}
	for i := range accepted {
		if rules := p.picks(accepted[i].labels); rules != 0 {
			sources[rules] = append(sources[rules], accepted[i].ranges()...)
		}
	}
	gateways := slices.Clone(n.shared)
	for _, m := range n.members {
		if m.gateway {
			gateways = append(gateways, m.addresses...)
		}
	}
	if len(gateways) > 0 {
		sources[theGateway] = gateways
	}
	known := map[string][]wire.Grant{}
	for _, m := range n.members {
		for _, open := range m.granted {
			delete(m.restricted, open)
		}
		ports := slices.SortedFunc(maps.Keys(m.restricted), comparePorts)
		var same strings.Builder
		for _, port := range ports {
			same.WriteString(port.String())
			same.Write(binary.BigEndian.AppendUint64(nil, uint64(m.restricted[port])))
		}
		grants, ok := known[same.String()]
		if !ok {
			grants = grantsOf(ports, m.restricted, sources)
			known[same.String()] = grants
		}
		m.grants = grants
	}
	delete(sources, theGateway) // it asks itself for nothing
	return sources
}

// grantsOfServices is what a gateway is told of the same.
func (p *policy) grantsOfServices(published []wire.Published, sources map[ruleSet][]netip.Prefix) (out []wire.Grant) {
	for i := range published {
		_, published[i].Everyone = p.grants(published[i].ServiceID)
	}
	for picked, from := range sources {
		g := wire.Grant{Sources: from}
		for i := range published {
			if rules, everyone := p.grants(published[i].ServiceID); !everyone && rules&picked != 0 {
				g.Services = append(g.Services, published[i].ServiceID)
			}
		}
		if len(g.Services) > 0 {
			out = append(out, g)
		}
	}
	return wire.JoinGrants(out)
}

// grantsOf are the ports that each of the sources reaches, by the rules that they have in common.
func grantsOf(ports []wire.Port, by map[wire.Port]ruleSet, sources map[ruleSet][]netip.Prefix) []wire.Grant {
	var out []wire.Grant
	for picked, from := range sources {
		var reached []wire.Port
		for _, port := range ports {
			if by[port]&picked != 0 {
				reached = append(reached, port)
			}
		}
		if len(reached) > 0 {
			out = append(out, wire.Grant{Sources: from, Ports: reached})
		}
	}
	return wire.JoinGrants(out)
}

// remarks are what is worth knowing of a policy, though nothing needs to be wrong with it.
func (p *policy) remarks(bad error, accepted []peer) (out []string) {
	if bad != nil {
		out = append(out, bad.Error())
	}
	if p == nil {
		return out
	}
	var used ruleSet
	for i := range accepted {
		used |= p.picks(accepted[i].labels)
	}
	var idle []string
	for i := range p.rules {
		if used&(1<<i) == 0 {
			idle = append(idle, fmt.Sprintf("spec.policy.inbound[%d]", i))
		}
	}
	if len(idle) > 0 {
		out = append(out, "no accepted TunnelPeer is picked by "+list(idle))
	}
	return out
}
