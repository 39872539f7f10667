package cli

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/tenantwire/tenantwire/tenant"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// The shape that status prints as JSON and YAML. Fields may be added to it; another meaning gets another version.
const (
	reportVersion = "cli.tenantwire.dev/v1alpha1"
	reportKind    = "Status"
)

// report is what status says.
type report struct {
	APIVersion string         `json:"apiVersion"`
	Kind       string         `json:"kind"`
	Healthy    bool           `json:"healthy"`
	Problems   []string       `json:"problems,omitempty"` // why not, in sentences
	Remarks    []string       `json:"remarks,omitempty"`  // what is worth knowing, though all may be well
	Notes      []string       `json:"notes,omitempty"`    // what could not be found out, and why
	Tunnels    []tunnelReport `json:"tunnels"`
	Strays     []peerReport   `json:"strays,omitempty"` // peers of tunnels that do not exist
}

type tunnelReport struct {
	Namespace  string          `json:"namespace"`
	Name       string          `json:"name"`
	Healthy    bool            `json:"healthy"`
	Accepted   verdict         `json:"accepted"`
	Ready      verdict         `json:"ready"`
	IPv6Prefix string          `json:"ipv6Prefix,omitempty"`
	IPv4Pool   string          `json:"ipv4Pool,omitempty"`
	Version    string          `json:"version,omitempty"` // of the operator
	Counts     counts          `json:"counts"`
	Gateway    *gatewayReport  `json:"gateway,omitempty"`
	Members    []memberReport  `json:"members,omitempty"`
	Peers      []peerReport    `json:"peers,omitempty"`
	Services   []serviceReport `json:"services,omitempty"` // with addresses of their own, which takes a gateway
}

type counts struct {
	Members   int            `json:"members"` // without gateways
	Ready     int            `json:"ready"`
	Datapaths map[string]int `json:"datapaths,omitempty"`
}

// verdict is a condition. Without one, or where it is of an older spec, the status is Unknown.
type verdict struct {
	Status  metav1.ConditionStatus `json:"status"`
	Reason  string                 `json:"reason,omitempty"`
	Message string                 `json:"message,omitempty"`
	Since   *metav1.Time           `json:"since,omitempty"`
}

type gatewayReport struct {
	Active    string   `json:"active,omitempty"` // pod
	Endpoint  string   `json:"endpoint,omitempty"`
	PublicKey string   `json:"publicKey,omitempty"`
	Addresses []string `json:"addresses,omitempty"`
}

type memberReport struct {
	Pod            string              `json:"pod"`
	Role           v1alpha1.MemberRole `json:"role"`
	Ready          verdict             `json:"ready"`
	Addresses      []string            `json:"addresses"`
	Datapath       string              `json:"datapath,omitempty"`
	DatapathReason string              `json:"datapathReason,omitempty"`
	Endpoint       string              `json:"endpoint,omitempty"`
	PublicKey      string              `json:"publicKey,omitempty"`
	Version        string              `json:"version,omitempty"` // of its program
	Live           *live               `json:"live,omitempty"`    // of all its peers together
}

type peerReport struct {
	Namespace     string                  `json:"namespace"`
	Tunnel        string                  `json:"tunnel"`
	Name          string                  `json:"name"`
	State         v1alpha1.PeerState      `json:"state,omitempty"`
	Accepted      verdict                 `json:"accepted"`
	Connected     *verdict                `json:"connected,omitempty"`     // where the tunnel has a gateway
	LastHandshake *metav1.Time            `json:"lastHandshake,omitempty"` // when Connected changed last
	Addresses     []string                `json:"addresses,omitempty"`
	Routes        []string                `json:"routes,omitempty"`
	Mappings      []v1alpha1.RouteMapping `json:"mappings,omitempty"` // of routes that the tunnel sees elsewhere
	Endpoint      string                  `json:"endpoint,omitempty"`
	PublicKey     string                  `json:"publicKey"`
	ExpiresAt     *metav1.Time            `json:"expiresAt,omitempty"`
	Live          *live                   `json:"live,omitempty"` // as the active gateway has it or, without a gateway, all members together
}

// live is what sidecars say at the moment.
type live struct {
	LastHandshake *metav1.Time `json:"lastHandshake,omitempty"`
	Endpoint      string       `json:"endpoint,omitempty"` // of a peer: where it is
	RxBytes       uint64       `json:"rxBytes"`            // since the pod's device is there
	TxBytes       uint64       `json:"txBytes"`
	RxRate        *float64     `json:"rxBytesPerSecond,omitempty"`
	TxRate        *float64     `json:"txBytesPerSecond,omitempty"`
}

// objects are what the API server has of some namespaces.
type objects struct {
	tunnels  []v1alpha1.TenantTunnel
	members  []v1alpha1.TunnelMember
	peers    []v1alpha1.TunnelPeer
	services []corev1.Service // of gateways
	tunnel   string           // the only one that matters; empty: all do
	notes    []string
}

// makeReport says what the objects say. Lists are sorted by namespace and name.
func makeReport(o *objects, now time.Time) *report {
	r := &report{APIVersion: reportVersion, Kind: reportKind, Notes: slices.Clone(o.notes), Tunnels: []tunnelReport{}}
	at := map[[2]string]int{}
	for i := range o.tunnels {
		t := &o.tunnels[i]
		if o.tunnel != "" && t.Name != o.tunnel {
			continue
		}
		r.Tunnels = append(r.Tunnels, reportTunnel(t, o))
	}
	slices.SortFunc(r.Tunnels, func(a, b tunnelReport) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
	for i := range r.Tunnels {
		at[[2]string{r.Tunnels[i].Namespace, r.Tunnels[i].Name}] = i
	}
	for i := range o.members {
		m := &o.members[i]
		if j, ok := at[[2]string{m.Namespace, m.Spec.Tunnel}]; ok {
			r.Tunnels[j].addMember(m)
		}
	}
	for i := range o.peers {
		p := &o.peers[i]
		if j, ok := at[[2]string{p.Namespace, p.Spec.Tunnel}]; ok {
			r.Tunnels[j].Peers = append(r.Tunnels[j].Peers, reportPeer(p))
		} else if o.tunnel == "" {
			r.Strays = append(r.Strays, reportPeer(p))
		}
	}
	for i := range r.Tunnels {
		r.Tunnels[i].sort()
	}
	sortPeers(r.Strays)
	r.judge(now)
	return r
}

func sortPeers(all []peerReport) {
	slices.SortFunc(all, func(a, b peerReport) int {
		return cmp.Or(strings.Compare(a.Namespace, b.Namespace), strings.Compare(a.Name, b.Name))
	})
}

// sort lists members before gateways.
func (t *tunnelReport) sort() {
	slices.SortFunc(t.Members, func(a, b memberReport) int {
		return cmp.Or(-strings.Compare(string(a.Role), string(b.Role)), strings.Compare(a.Pod, b.Pod))
	})
	sortPeers(t.Peers)
}

func reportTunnel(t *v1alpha1.TenantTunnel, o *objects) tunnelReport {
	r := tunnelReport{Namespace: t.Namespace, Name: t.Name, Accepted: verdictOf(t.Status.Conditions, v1alpha1.ConditionAccepted, t.Generation),
		Ready: verdictOf(t.Status.Conditions, v1alpha1.ConditionReady, t.Generation), Version: t.Status.Version}
	if a := t.Status.Addressing; a != nil {
		r.IPv6Prefix, r.IPv4Pool = a.IPv6Prefix, a.IPv4Pool
	}
	if t.Spec.Gateway == nil {
		return r
	}
	r.Gateway, r.Services = &gatewayReport{}, reportServices(t)
	if g := t.Status.Gateway; g != nil {
		r.Gateway = &gatewayReport{Active: g.Active, PublicKey: g.PublicKey, Addresses: g.Addresses}
	}
	if e := t.Spec.Gateway.Endpoints; len(e) > 0 {
		r.Gateway.Endpoint = e[0]
		return r
	}
	e := entry{name: tenant.GatewayName(t.Name)}
	for i := range o.services {
		if s := &o.services[i]; s.Namespace == t.Namespace && s.Name == e.name {
			e.service = s
		}
	}
	if at, _ := e.endpoint(); at.at != "" {
		r.Gateway.Endpoint = at.at
	} else if e.service != nil && e.service.Spec.Type == corev1.ServiceTypeNodePort && len(e.service.Spec.Ports) > 0 {
		r.Gateway.Endpoint = fmt.Sprintf("NODE:%d", e.service.Spec.Ports[0].NodePort)
	}
	return r
}

func (t *tunnelReport) addMember(m *v1alpha1.TunnelMember) {
	r := memberReport{Pod: m.Name, Role: cmp.Or(m.Spec.Role, v1alpha1.RoleMember), Ready: verdictOf(m.Status.Conditions, v1alpha1.ConditionReady, 0),
		Addresses: m.Spec.Addresses, Datapath: string(m.Status.Datapath), DatapathReason: m.Status.DatapathReason,
		Endpoint: m.Status.Endpoint, PublicKey: m.Status.PublicKey, Version: m.Status.Version}
	t.Members = append(t.Members, r)
	if r.Role != v1alpha1.RoleMember {
		return
	}
	t.Counts.Members++
	if r.Ready.yes() {
		t.Counts.Ready++
	}
	if r.Datapath != "" {
		if t.Counts.Datapaths == nil {
			t.Counts.Datapaths = map[string]int{}
		}
		t.Counts.Datapaths[r.Datapath]++
	}
}

func reportPeer(p *v1alpha1.TunnelPeer) peerReport {
	r := peerReport{Namespace: p.Namespace, Tunnel: p.Spec.Tunnel, Name: p.Name, State: p.Spec.State, Accepted: verdictOf(p.Status.Conditions, v1alpha1.ConditionAccepted, p.Generation),
		LastHandshake: p.Status.LastHandshake, Addresses: p.Status.Addresses, Routes: p.Spec.Routes, Mappings: p.Spec.Mappings,
		Endpoint: p.Spec.Endpoint, PublicKey: p.Spec.PublicKey, ExpiresAt: p.Spec.ExpiresAt}
	if c := verdictOf(p.Status.Conditions, v1alpha1.ConditionConnected, 0); c.Reason != notYet {
		r.Connected = &c
	}
	return r
}

// Reasons of verdicts that nobody has given.
const (
	notYet   = "NotYet"   // there is no such condition
	outdated = "Outdated" // it is of an older spec
)

// verdictOf reads a condition; a generation of 0 does not matter.
func verdictOf(all []metav1.Condition, kind string, generation int64) verdict {
	c := meta.FindStatusCondition(all, kind)
	switch {
	case c == nil:
		return verdict{Status: metav1.ConditionUnknown, Reason: notYet}
	case generation > 0 && c.ObservedGeneration < generation:
		return verdict{Status: metav1.ConditionUnknown, Reason: outdated, Message: "the operator has not seen the latest spec yet"}
	}
	return verdict{Status: c.Status, Reason: c.Reason, Message: oneLine(c.Message), Since: &c.LastTransitionTime}
}

func (v verdict) yes() bool { return v.Status == metav1.ConditionTrue }

// why is the verdict in words.
func (v verdict) why() string {
	if v.Message == "" {
		return v.Reason
	}
	return v.Reason + ": " + v.Message
}

// judge says what is not as it should be. A peer that is away is, and so is one that somebody suspended or let expire; a gateway pod that
// stands by is as well.
func (r *report) judge(now time.Time) {
	bad := func(format string, args ...any) { r.Problems = append(r.Problems, fmt.Sprintf(format, args...)) }
	for i := range r.Tunnels {
		t, before := &r.Tunnels[i], len(r.Problems)
		name := "tunnel " + t.Namespace + "/" + t.Name
		for _, why := range t.wrong() {
			bad("%s %s", name, why)
		}
		if remarks := t.remarks(); remarks != "" {
			r.Remarks = append(r.Remarks, name+": "+remarks)
		}
		if skew := t.skew(); skew != "" {
			r.Remarks = append(r.Remarks, name+": "+skew)
		}
		for _, m := range t.Members {
			if m.Role == v1alpha1.RoleMember && !m.Ready.yes() {
				bad("member %s/%s is not up (%s)", t.Namespace, m.Pod, m.Ready.why())
			}
		}
		for j := range t.Peers {
			if why := t.Peers[j].wrong(now); why != "" {
				bad("peer %s/%s %s", t.Namespace, t.Peers[j].Name, why)
			}
		}
		t.Healthy = len(r.Problems) == before
	}
	for i := range r.Strays {
		bad("peer %s/%s is of tunnel %s, which does not exist", r.Strays[i].Namespace, r.Strays[i].Name, r.Strays[i].Tunnel)
	}
	r.Healthy = len(r.Problems) == 0
}

// wrong says in what way a tunnel by itself is not what its spec asks for. One that is accepted may have parts that do not work.
func (t *tunnelReport) wrong() (out []string) {
	switch {
	case !t.Accepted.yes():
		out = append(out, "is not accepted ("+t.Accepted.why()+")")
	case tenant.Reason(t.Accepted.Reason) != tenant.ReasonAccepted:
		out = append(out, "is accepted, but a part of it does not work ("+t.Accepted.why()+")")
	}
	if !t.Ready.yes() {
		out = append(out, "is not ready ("+t.Ready.why()+")")
	}
	return out
}

// remarks are what the operator says of a tunnel with which nothing is wrong. Where something is, that has them.
func (t *tunnelReport) remarks() string {
	if !t.Accepted.yes() || tenant.Reason(t.Accepted.Reason) != tenant.ReasonAccepted {
		return ""
	}
	return tenant.Remarks(t.Accepted.Message)
}

// wrong says in what way a peer is not what its owner wants it to be.
func (p *peerReport) wrong(now time.Time) string {
	wanted := p.State == v1alpha1.PeerSuspended || p.ExpiresAt != nil && p.ExpiresAt.Time.Before(now)
	switch reason := tenant.Reason(p.Accepted.Reason); {
	case !p.Accepted.yes() && wanted && (reason == tenant.ReasonSuspended || reason == tenant.ReasonExpired):
		return ""
	case !p.Accepted.yes():
		return "takes no part (" + p.Accepted.why() + ")"
	case p.Connected != nil && p.Connected.Status == metav1.ConditionFalse:
		return "is kept out (" + p.Connected.why() + ")"
	}
	return ""
}
