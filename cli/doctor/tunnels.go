package doctor

import (
	"cmp"
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// aMoment is how long things may take before they count as stuck.
const aMoment = time.Minute

var tunnelChecks = []Check{
	{"NotObserved", Warning, "the operator has looked at tunnels and peers as they are now", []source{srcTunnels, srcPeers}, notObserved},
	{"TunnelDegraded", Error, "tunnels are accepted whole", []source{srcTunnels}, tunnelDegraded},
	{"TunnelNotReady", Error, "nothing keeps a tunnel from being ready but its members", []source{srcTunnels}, tunnelNotReady},
	{"EgressWithoutRoute", Error, "an accepted peer has a route to each egress host", []source{srcTunnels, srcPeers, srcMembers}, ofDecision("spec.egress: no accepted", "its name is refused", "add the address to the routes of a TunnelPeer")},
	{"DNSServerWithoutRoute", Error, "an accepted peer has a route to each server of spec.dns", []source{srcTunnels, srcPeers, srcMembers}, ofDecision("spec.dns:", "it is not asked", "add the address to the routes of a TunnelPeer")},
	{"NameClash", Error, "no egress host has the name of an exposed Service", []source{srcTunnels, srcPeers, srcMembers}, ofDecision("spec.egress: the exposed", "the host cannot be reached by its name", "give the Service or the host another name")},
	{"DuplicateName", Warning, "no egress host has the name of a Service of the namespace", []source{srcTunnels, srcServices}, duplicateName},
	{"MemberNotReady", Error, "members' data paths are up", []source{srcMembers}, memberNotReady},
	{"MemberNotRegistered", Error, "members have told the coordinator their keys", []source{srcMembers}, memberNotRegistered},
}

func tunnelName(t *v1alpha1.TenantTunnel) string { return "tunnel " + t.Namespace + "/" + t.Name }

func (f *Facts) describe(t *v1alpha1.TenantTunnel) string {
	return fmt.Sprintf("kubectl -n %s describe tt %s", t.Namespace, t.Name)
}

// unseen says whether a condition is not there, or of an older spec, though there was time.
func (f *Facts) unseen(conditions []metav1.Condition, o metav1.ObjectMeta) bool {
	c := meta.FindStatusCondition(conditions, v1alpha1.ConditionAccepted)
	return (c == nil || c.ObservedGeneration < o.Generation) && f.serverNow().Sub(o.CreationTimestamp.Time) > aMoment
}

func notObserved(f *Facts) (out []Finding) {
	logs := fmt.Sprintf("kubectl -n %s logs -l app.kubernetes.io/name=%s --tail=50", f.System, operatorName)
	add := func(object string) {
		out = append(out, Finding{Object: object, What: "the operator has not looked at the object as it is now", Evidence: "its condition Accepted is missing, or of an older generation", Fix: logs})
	}
	for i := range f.Tunnels {
		if t := &f.Tunnels[i]; f.unseen(t.Status.Conditions, t.ObjectMeta) {
			add(tunnelName(t))
		}
	}
	for i := range f.Peers {
		if p := &f.Peers[i]; f.unseen(p.Status.Conditions, p.ObjectMeta) {
			add(peerName(p))
		}
	}
	return out
}

// ofDecision looks for what the operator decides of a tunnel, by deciding it here: it may be away.
func ofDecision(begins, so, fix string) func(*Facts) []Finding {
	return func(f *Facts) (out []Finding) {
		for i := range f.Tunnels {
			t := &f.Tunnels[i]
			d := tenant.DecideTunnel(t, f.peersIn(t.Namespace), f.membersIn(t.Namespace), f.serverNow())
			for _, part := range strings.Split(d.Message, "; ") {
				if strings.HasPrefix(part, begins) {
					out = append(out, Finding{Object: tunnelName(t), What: part + ": " + so, Evidence: "the tunnel's spec against its peers", Fix: fix})
				}
			}
		}
		return out
	}
}

// decidedHere are the reasons that have a check of their own.
var decidedHere = map[tenant.Reason]bool{tenant.ReasonAccepted: true, tenant.ReasonEgressWithoutRoute: true, tenant.ReasonDNSWithoutRoute: true, tenant.ReasonNameClash: true}

func tunnelDegraded(f *Facts) (out []Finding) {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		c := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionAccepted)
		if c == nil || decidedHere[tenant.Reason(c.Reason)] {
			continue
		}
		what := "a part of the tunnel does not work"
		if c.Status != metav1.ConditionTrue {
			what = "the tunnel is not accepted"
		}
		out = append(out, Finding{Object: tunnelName(t), What: what, Evidence: c.Reason + ": " + c.Message, Fix: f.describe(t)})
	}
	return out
}

// reasons that other checks speak of, object by object.
var elsewhere = map[tenant.Reason]bool{tenant.ReasonAllReady: true, tenant.ReasonNoMembers: true, tenant.ReasonMembersNotReady: true, tenant.ReasonGatewayNotReady: true}

func tunnelNotReady(f *Facts) (out []Finding) {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		c := meta.FindStatusCondition(t.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status == metav1.ConditionTrue || elsewhere[tenant.Reason(c.Reason)] {
			continue
		}
		fix := f.describe(t)
		if tenant.Reason(c.Reason) == tenant.ReasonPoolExhausted {
			fix = "make a tunnel with a larger ipv4Pool, or end pods: the pool of a tunnel is fixed"
		}
		out = append(out, Finding{Object: tunnelName(t), What: "the tunnel is not ready", Evidence: c.Reason + ": " + c.Message, Fix: fix})
	}
	return out
}

func duplicateName(f *Facts) (out []Finding) {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		for _, e := range t.Spec.Egress {
			if e.Service != e.Host && f.service(t.Namespace, e.Host) != nil {
				out = append(out, Finding{Object: tunnelName(t), What: "members reach the host " + e.Host + " by a name that is a Service's of the namespace too: they cannot reach the Service",
					Evidence: "spec.egress has the host, and the namespace the Service", Fix: "give the Service or the host another name"})
			}
		}
	}
	return out
}

func memberName(m *v1alpha1.TunnelMember) string { return "member " + m.Namespace + "/" + m.Name }

func (f *Facts) ready(m *v1alpha1.TunnelMember) bool {
	return meta.IsStatusConditionTrue(m.Status.Conditions, v1alpha1.ConditionReady)
}

func memberNotReady(f *Facts) (out []Finding) {
	for i := range f.Members {
		m := &f.Members[i]
		c := meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionReady)
		if c == nil || c.Status == metav1.ConditionTrue || cmp.Or(m.Spec.Role, v1alpha1.RoleMember) != v1alpha1.RoleMember {
			continue
		}
		fix := fmt.Sprintf("kubectl -n %s logs %s -c tenantwire --tail=50", m.Namespace, m.Name)
		if tenant.Reason(c.Reason) == tenant.ReasonDatapathUnavailable {
			fix = fmt.Sprintf(`kubectl -n %s patch tt %s --type=merge -p '{"spec":{"datapath":"Auto"}}', and restart the pod; or bring to its node what is missing`, m.Namespace, m.Spec.Tunnel)
		}
		out = append(out, Finding{Object: memberName(m), What: "the member's data path is not up", Evidence: c.Reason + ": " + c.Message, Fix: fix})
	}
	return out
}

func memberNotRegistered(f *Facts) (out []Finding) {
	for i := range f.Members {
		m := &f.Members[i]
		if m.Status.PublicKey != "" || meta.FindStatusCondition(m.Status.Conditions, v1alpha1.ConditionReady) != nil || f.serverNow().Sub(m.CreationTimestamp.Time) < aMoment {
			continue
		}
		out = append(out, Finding{Object: memberName(m), What: "the member's sidecar has not reached the coordinator, or was not let in: its pod does not start",
			Evidence: "its status has no public key", Fix: fmt.Sprintf("kubectl -n %s logs %s -c tenantwire --tail=50", m.Namespace, m.Name)})
	}
	return out
}
