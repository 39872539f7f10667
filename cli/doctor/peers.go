package doctor

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

var peerChecks = []Check{
	{"PeerWithoutTunnel", Error, "peers' tunnels exist", []source{srcTunnels, srcPeers}, peerWithoutTunnel},
	{"PeerInvalid", Error, "peers' fields can be used", []source{srcTunnels, srcPeers, srcMembers}, refused(tenant.ReasonInvalid, "what the peer says cannot be used", "correct the field that the message names")},
	{"RouteOverlap", Error, "no two peers of a tunnel have overlapping routes, nor has one the tunnel's own addresses", []source{srcTunnels, srcPeers, srcMembers}, refused(tenant.ReasonRouteOverlap, "the peer's routes overlap another's, or the tunnel's own addresses", "narrow the routes of one of them, or map them: spec.mappings")},
	{"DuplicateAddress", Error, "no two have the same address", []source{srcTunnels, srcPeers, srcMembers}, refused(tenant.ReasonDuplicateAddress, "another has the peer's address", "give the peer another address")},
	{"DuplicateKey", Error, "no two have the same key", []source{srcTunnels, srcPeers, srcMembers}, refused(tenant.ReasonDuplicateKey, "another has the peer's public key", "make a key of its own: wg genkey")},
	{"PeerExpired", Warning, "no peer's time is over", []source{srcTunnels, srcPeers, srcMembers}, refused(tenant.ReasonExpired, "the peer left the tunnel when its time was over", "")},
	{"PeerSuspended", Note, "no peer is suspended", []source{srcTunnels, srcPeers, srcMembers}, refused(tenant.ReasonSuspended, "somebody took the peer out of the tunnel for a while", "")},
	{"PresharedKeyMissing", Error, "peers' preshared keys are there, and are keys", []source{srcPeers, srcPreshared}, presharedKeyMissing},
	{"PeerNeverConnected", Note, "the gateway has heard of peers", []source{srcTunnels, srcPeers}, peerNeverConnected},
	{"PeerGrantedNothing", Warning, "the policy grants something to each peer", []source{srcTunnels, srcPeers}, peerGrantedNothing},
}

func peerName(p *v1alpha1.TunnelPeer) string { return "peer " + p.Namespace + "/" + p.Name }

func peerWithoutTunnel(f *Facts) (out []Finding) {
	for i := range f.Peers {
		if p := &f.Peers[i]; f.tunnel(p.Namespace, p.Spec.Tunnel) == nil {
			out = append(out, Finding{Object: peerName(p), What: "the peer's tunnel does not exist", Evidence: "spec.tunnel is " + p.Spec.Tunnel,
				Fix: fmt.Sprintf("kubectl tenantwire -n %s peer rm %s, or make the tunnel", p.Namespace, p.Name)})
		}
	}
	return out
}

// decisions are what the operator decides of peers, decided here: it may be away.
func (f *Facts) decisions(t *v1alpha1.TenantTunnel) map[string]tenant.PeerDecision {
	return tenant.DecidePeers(t, f.peersIn(t.Namespace), f.membersIn(t.Namespace), f.serverNow())
}

func refused(reason tenant.Reason, what, fix string) func(*Facts) []Finding {
	return func(f *Facts) (out []Finding) {
		for i := range f.Tunnels {
			t := &f.Tunnels[i]
			all := f.decisions(t)
			for j := range f.Peers {
				p := &f.Peers[j]
				d, ours := all[p.Name]
				if !ours || p.Namespace != t.Namespace || p.Spec.Tunnel != t.Name || d.Reason != reason {
					continue
				}
				out = append(out, Finding{Object: peerName(p), What: what, Evidence: d.Message, Fix: peerFix(p, reason, fix)})
			}
		}
		return out
	}
}

func peerFix(p *v1alpha1.TunnelPeer, reason tenant.Reason, otherwise string) string {
	patch := fmt.Sprintf("kubectl -n %s patch tp %s --type=merge -p ", p.Namespace, p.Name)
	switch reason {
	case tenant.ReasonExpired:
		return patch + `'{"spec":{"expiresAt":null}}'`
	case tenant.ReasonSuspended:
		return patch + `'{"spec":{"state":"Active"}}'`
	}
	return otherwise
}

func presharedKeyMissing(f *Facts) (out []Finding) {
	for i := range f.Peers {
		p := &f.Peers[i]
		if p.Spec.PresharedKey == nil {
			continue
		}
		secret := tenant.PresharedKeys(p.Spec.Tunnel)
		found := Finding{Object: peerName(p), Fix: fmt.Sprintf("kubectl -n %s create secret generic %s --from-literal=%s=$(wg genpsk), or add the entry to the one that there is; the other end needs the same key", p.Namespace, secret, p.Spec.PresharedKey.SecretKey)}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionConnected)
		switch {
		case !f.Preshared[p.Namespace+"/"+secret]:
			found.What, found.Evidence = "the peer is kept out: its preshared key is not there", "there is no Secret "+secret
		case c != nil && c.Status == metav1.ConditionFalse:
			found.What, found.Evidence = "the peer is kept out for its preshared key", c.Reason+": "+c.Message
		default:
			continue
		}
		out = append(out, found)
	}
	return out
}

func peerNeverConnected(f *Facts) (out []Finding) {
	for i := range f.Peers {
		p := &f.Peers[i]
		t := f.tunnel(p.Namespace, p.Spec.Tunnel)
		if t == nil || t.Spec.Gateway == nil || !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionAccepted) {
			continue
		}
		c := meta.FindStatusCondition(p.Status.Conditions, v1alpha1.ConditionConnected)
		if c == nil || c.Status != metav1.ConditionUnknown || p.Status.LastHandshake != nil || f.serverNow().Sub(p.CreationTimestamp.Time) < 10*time.Minute {
			continue
		}
		key := ""
		if t.Status.Gateway != nil {
			key = t.Status.Gateway.PublicKey
		}
		out = append(out, Finding{Object: peerName(p), What: "the gateway has never heard of the peer: it was never switched on, does not know the gateway's key or endpoint, or its UDP does not arrive", Evidence: "Connected is " + c.Reason + ", and there was no handshake",
			Fix: fmt.Sprintf("on the peer: wg show; it has to have PublicKey %s, and the Endpoint that kubectl tenantwire -n %s status shows", key, p.Namespace)})
	}
	return out
}

// peerGrantedNothing looks at what a policy's selectors pick; what a rule then grants may still be too little.
func peerGrantedNothing(f *Facts) (out []Finding) {
	for i := range f.Peers {
		p := &f.Peers[i]
		t := f.tunnel(p.Namespace, p.Spec.Tunnel)
		if t == nil || t.Spec.Policy == nil || !meta.IsStatusConditionTrue(p.Status.Conditions, v1alpha1.ConditionAccepted) {
			continue
		}
		if slices.ContainsFunc(t.Spec.Policy.Inbound, func(r v1alpha1.InboundRule) bool { return picks(r.Peers, p.Labels) }) {
			continue
		}
		out = append(out, Finding{Object: peerName(p), What: "the tunnel's policy grants the peer nothing: all that it asks for is refused", Evidence: fmt.Sprintf("no rule of spec.policy.inbound picks its labels (%s)", strings.ReplaceAll(selectorText(p.Labels), ",", ", ")),
			Fix: fmt.Sprintf("kubectl -n %s label tp %s KEY=VALUE, with what a rule of tunnel %s asks for", p.Namespace, p.Name, t.Name)})
	}
	return out
}

// picks says whether a selector picks labels.
func picks(s v1alpha1.PeerSelector, labels map[string]string) bool {
	l := metav1.LabelSelector{MatchLabels: map[string]string{}}
	for k, v := range s.MatchLabels {
		l.MatchLabels[k] = string(v)
	}
	for _, e := range s.MatchExpressions {
		r := metav1.LabelSelectorRequirement{Key: e.Key, Operator: e.Operator}
		for _, v := range e.Values {
			r.Values = append(r.Values, string(v))
		}
		l.MatchExpressions = append(l.MatchExpressions, r)
	}
	return selects(&l, labels)
}
