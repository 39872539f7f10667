package doctor

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// Path is the way from a pod, or from an outside peer, to where a name leads, as sidecars at both ends see it.
type Path struct {
	Namespace, From, To string
	Tunnel              string

	Near *wire.Diagnosis // what the pod's sidecar says; nil: From is a peer, or Why
	Why  string          // the pod's sidecar says nothing
	Far  []End           // the members that To leads to, as far as they are members
	Peer *Source         // From is an outside peer
}

// End is a member that a path leads to, before and after the near end sent something.
type End struct {
	Pod           string
	Addresses     []netip.Addr
	Endpoint      string // as the operator was told
	Before, After *wire.Diagnosis
	Was, Is       *wire.Device
	Why           string // it says nothing

	Port uint16 // of a peer's path: what would be asked for
}

// Source is an outside peer that a path begins at.
type Source struct {
	Address   netip.Addr
	Accepted  bool
	Connected bool
}

// Checks of a path have no entry of their own to run: one look at both ends decides between them.
var pathChecks = []Check{
	{"PathNotLooked", Warning, "the sidecar at the near end answers", nil, nil},
	{"DataPathDown", Error, "the data path at the near end is up", nil, nil},
	{"NameUnknown", Error, "the tunnel has the name", nil, nil},
	{"PortNotCarried", Error, "the name has the port", nil, nil},
	{"NoTarget", Error, "somebody ready is behind the name", nil, nil},
	{"NameNotFound", Error, "the site that answers for a name knows it", nil, nil},
	{"RouteMissing", Error, "a peer has the address that the name leads to", nil, nil},
	{"EndpointUnknown", Error, "the near end knows where the far end is", nil, nil},
	{"PeerUnknownThere", Error, "the far end knows the near end's key", nil, nil},
	{"UDPBlocked", Error, "encrypted packets arrive at the far end", nil, nil},
	{"AnswersBlocked", Error, "its answers arrive", nil, nil},
	{"AllowedIPsMissing", Error, "each end takes the other's addresses for its own", nil, nil},
	{"DataLost", Error, "packets get through where handshakes do", nil, nil},
	{"MTUBlackHole", Error, "packets as large as the tunnel's MTU get through", nil, nil},
	{"PathNarrow", Note, "and what does not is known to the near end, which sends nothing larger", nil, nil},
	{"PortNotDeclared", Error, "the far end's pod declares the port", nil, nil},
	{"PolicyRefuses", Error, "the far end lets the near end in", nil, nil},
	{"NotListening", Error, "the application at the far end listens", nil, nil},
	{"NoAnswer", Error, "it answers", nil, nil},
}

// found says what is wrong with a path, by the name of a check.
type found func(check, object, what, evidence, fix string)

// walk adds what is wrong with a path. What another check said of the same object already is said again in its place.
func (r *Report) walk(p *Path) {
	all := map[string]Check{}
	for _, c := range Checks() {
		all[c.Name] = c
	}
	say := func(check, object, what, evidence, fix string) {
		c := all[check]
		r.Findings = slices.DeleteFunc(r.Findings, func(f Finding) bool { return f.Check == check && f.Object == object })
		r.add(c, []Finding{{Object: object, What: what, Evidence: evidence, Fix: fix}})
	}
	if p.Peer != nil {
		p.fromPeer(say)
		return
	}
	p.fromPod(say)
}

func (p *Path) pod() string  { return "pod " + p.Namespace + "/" + p.From }
func (p *Path) name() string { return "path " + p.Namespace + "/" + p.From + " to " + p.To }

func (p *Path) logs(pod string) string {
	return fmt.Sprintf("kubectl -n %s logs %s -c tenantwire --tail=50", p.Namespace, pod)
}

func (p *Path) fromPod(say found) {
	d := p.Near
	switch {
	case d == nil:
		say("PathNotLooked", p.pod(), "the way from the pod cannot be looked at: its sidecar says nothing", p.Why, p.logs(p.From))
		return
	case !d.Up:
		say("DataPathDown", p.pod(), "the pod's data path is not up: all carried names are refused", d.Why, p.logs(p.From))
		return
	case d.To == nil:
		return
	}
	to := d.To
	switch {
	case to.Kind == wire.ToNothing:
		say("NameUnknown", p.name(), "the tunnel has no such name: the application goes past it, in plaintext, or nowhere", to.Why,
			fmt.Sprintf("add it to spec.expose or spec.egress (kubectl -n %s edit tt), and restart the pod", p.Namespace))
		return
	case to.Kind == wire.ToService && !to.Carried:
		say("NameNotCarried", p.pod(), "the pod does not carry "+p.To+": it was created before that was in its tunnel", "its sidecar listens for no such name", fmt.Sprintf("kubectl -n %s delete pod %s, or restart what made it", p.Namespace, p.From))
	}
	switch {
	case len(to.Targets) > 0:
	case to.Kind == wire.ToHost:
		say("NameNotFound", p.name(), "the site's servers do not say where the name leads", to.Why, fmt.Sprintf("kubectl -n %s describe tt: do the servers of spec.dns answer, and is their answer in a peer's routes?", p.Namespace))
	case to.Why != "":
		say("PortNotCarried", p.name(), "the name is carried, and not on that port", to.Why+"; it has "+portList(to.Ports), fmt.Sprintf("kubectl -n %s get service, or spec.egress of the tunnel: add the port", p.Namespace))
	default:
		say("NoTarget", p.name(), "nobody ready is behind the name: connections are refused", "the sidecar was told of no target", fmt.Sprintf("kubectl -n %s get endpointslices, and kubectl tenantwire -n %s status", p.Namespace, p.Namespace))
	}
	for i := range to.Targets {
		p.target(say, &to.Targets[i])
	}
}

func portList(ports []wire.Port) string {
	var out []string
	for _, p := range ports {
		out = append(out, fmt.Sprintf("%d/%s", p.Port, p.Protocol))
	}
	return few(out)
}

// end is the member that has an address; nil: none has, or it was not asked.
func (p *Path) end(a netip.Addr) *End {
	for i := range p.Far {
		if slices.Contains(p.Far[i].Addresses, a) {
			return &p.Far[i]
		}
	}
	return nil
}

// target decides what keeps packets from one target, or else what keeps connections.
func (p *Path) target(say found, t *wire.DiagnosedTarget) {
	far := p.end(t.Address)
	object := p.name() + " at " + t.Address.String()
	if far != nil {
		object = p.name() + " at pod " + far.Pod
	}
	if t.PublicKey.IsZero() {
		say("RouteMissing", object, "the name leads to an address that no peer of the pod has", "no peer's AllowedIPs hold "+t.Address.String(), "add the address to the routes of a TunnelPeer")
		return
	}
	largest, lost, mute := echoes(t.Echoes)
	dialled := t.Dial != nil && (t.Dial.OK || t.Dial.Reason == "Refused")
	switch {
	case largest == 0 && !dialled && (t.Dial != nil || len(t.Echoes) > 0 && !mute):
		p.unreached(say, object, t, far)
		return
	case lost > 0 && largest > 0 && t.MTUState == datapath.MTUVerified && t.PathMTU < lost:
		say("PathNarrow", object, fmt.Sprintf("packets larger than %d bytes get lost on the way. The near end has found that out: connections keep to it, and larger datagrams leave in fragments", t.PathMTU),
			fmt.Sprintf("an echo of %d bytes was not answered; the tunnel's MTU is %d, that of the path %d", lost, p.Near.MTU, t.PathMTU),
			p.mtuFix(t.PathMTU))
	case lost > 0 && largest > 0:
		say("MTUBlackHole", object, fmt.Sprintf("packets larger than %d bytes get lost on the way: small requests work, and downloads hang", largest),
			fmt.Sprintf("an echo of %d bytes was answered, none of %d; the MTU in use is %d", largest, lost, p.Near.MTU),
			p.mtuFix(largest))
	}
	p.connection(say, object, t, far)
}

// mtuFix is a tunnel's MTU that fits, if there is one.
func (p *Path) mtuFix(largest int) string {
	if largest < wire.MinMTU {
		return fmt.Sprintf("have the path carry more: no tunnel has an MTU below %d", wire.MinMTU)
	}
	return fmt.Sprintf(`kubectl -n %s patch tt %s --type=merge -p '{"spec":{"mtu":%d}}'; or have the path say what it cannot carry (ICMP)`, p.Namespace, p.Tunnel, largest)
}

// echoes are the size of the largest that was answered, 0: none was; of the smallest larger one that was not; and whether none could be sent.
func echoes(all []wire.Echo) (largest, lost int, mute bool) {
	mute = len(all) > 0
	for _, e := range all {
		if e.Answered {
			largest = max(largest, e.Bytes)
		}
		mute = mute && e.Why != ""
	}
	for _, e := range all {
		if !e.Answered && e.Why == "" && e.Bytes > largest && (lost == 0 || e.Bytes < lost) {
			lost = e.Bytes
		}
	}
	return largest, lost, mute
}

// hadHandshake says whether there is a session.
func (p *Path) hadHandshake(t *wire.DiagnosedTarget) bool {
	return !t.After.LastHandshake.IsZero() && p.Near.Time.Sub(t.After.LastHandshake) < session
}

// unreached is for a target that nothing comes back from.
func (p *Path) unreached(say found, object string, t *wire.DiagnosedTarget, far *End) {
	sent, received := t.After.TxBytes-t.Before.TxBytes, t.After.RxBytes-t.Before.RxBytes
	evidence := fmt.Sprintf("%d bytes were sent to %s, %d came back", sent, t.Endpoint, received)
	own := p.Near.PublicKey
	switch {
	case !t.Endpoint.IsValid():
		say("EndpointUnknown", object, "the near end does not know where the far end is: it waits to be called", "its device has no endpoint for "+t.PublicKey.String()+" "+t.EndpointName, "give the TunnelPeer an endpoint that can be found, or have it dial")
	case far != nil && far.After != nil && far.After.PublicKey != t.PublicKey:
		say("KeyMismatch", "pod "+p.Namespace+"/"+far.Pod, "others were told another key than the pod has: none of them can reach it", fmt.Sprintf("its sidecar has %s, the near end %s", far.After.PublicKey, t.PublicKey), fmt.Sprintf("kubectl -n %s delete pod %s", p.Namespace, far.Pod))
	case far != nil && far.Is != nil && find(far.Is, own.String()) == nil:
		say("PeerUnknownThere", object, "the far end does not know the near end's key, and does not answer it", "its device has no peer "+own.String(), p.logs(far.Pod))
	case far != nil && far.Was != nil && far.Is != nil:
		p.between(say, object, t, far)
	case p.hadHandshake(t) && received > 0:
		say("DataLost", object, "handshakes work, and nothing else comes back: the far end's AllowedIPs lack the near end's addresses, it has no way back, or its firewall drops it", evidence+"; the last handshake is fresh",
			"at the far end: wg show; AllowedIPs have to hold "+prefixes(p.Near.Addresses))
	default:
		say("UDPBlocked", object, "nothing comes back: UDP is blocked on the way (a firewall, a NAT that has forgotten), or the far end is away or has another key", evidence, p.udpFix(podOf(far)))
	}
}

// between is for two ends that both say what they sent and received meanwhile.
func (p *Path) between(say found, object string, t *wire.DiagnosedTarget, far *End) {
	own := p.Near.PublicKey.String()
	was, is := find(far.Was, own), find(far.Is, own)
	if was == nil {
		was = &wire.DevicePeer{}
	}
	arrived, answered, received := is.RxBytes-was.RxBytes, is.TxBytes-was.TxBytes, t.After.RxBytes-t.Before.RxBytes
	evidence := fmt.Sprintf("%d bytes were sent to %s and %d arrived; %d were answered and %d came back", t.After.TxBytes-t.Before.TxBytes, t.Endpoint, arrived, answered, received)
	lacks := lacking(is.AllowedIPs, addressesOf(p.Near.Addresses))
	switch {
	case arrived > 0 && len(lacks) > 0:
		say("AllowedIPsMissing", object, "the far end drops what the near end sends: it does not take its addresses for its own", fmt.Sprintf("its AllowedIPs for the near end lack %s; %s", few(lacks), evidence), p.logs(far.Pod))
	case arrived > 0 && answered > 0 && received == 0:
		say("AnswersBlocked", object, "what the near end sends arrives, and what the far end answers does not: UDP is blocked, or translated, on the way back", evidence, p.udpFix(p.From))
	case arrived > 0:
		say("DataLost", object, "encrypted packets arrive, and what is in them does not", evidence+"; dropped at the far end meanwhile: "+grown(far.Before, far.After, dropped), p.logs(far.Pod)+"; its metric tenantwire_datapath_dropped_total says why")
	case far.Endpoint != "" && t.Endpoint.String() != far.Endpoint:
		say("EndpointMoved", p.pod(), fmt.Sprintf("the pod sends to where %s is not any more, or to what a NAT has forgotten", far.Pod), fmt.Sprintf("its device has %s, the TunnelMember %s", t.Endpoint, far.Endpoint), fmt.Sprintf("kubectl -n %s delete pod %s", p.Namespace, p.From))
	default:
		say("UDPBlocked", object, "what the near end sends does not arrive: UDP is blocked on the way, by a NetworkPolicy or a firewall, or a NAT has forgotten", evidence, p.udpFix(far.Pod))
	}
}

func addressesOf(prefixes []netip.Prefix) (out []string) {
	for _, p := range prefixes {
		out = append(out, p.Addr().String())
	}
	return out
}

func podOf(far *End) string {
	if far == nil {
		return ""
	}
	return far.Pod
}

// udpFix is where to look, which is the receiver's side first. The kernel's WireGuard tells what it drops in its node's log alone.
func (p *Path) udpFix(receiver string) string {
	fix := fmt.Sprintf("kubectl -n %s get networkpolicy; UDP 51820 has to pass", p.Namespace)
	if receiver == "" {
		fix = "at the far end: wg show, and its firewall; does it have the near end's key?"
	}
	if p.Near.Datapath == datapath.Kernel {
		fix += "; what the kernel drops it says in the node's log: echo module wireguard +p > /sys/kernel/debug/dynamic_debug/control; dmesg | grep wireguard"
	}
	return fix
}

// fromPeer is the way of an outside peer, which nobody can ask: what the members say of it.
func (p *Path) fromPeer(say found) {
	object := "peer " + p.Namespace + "/" + p.From
	if !p.Peer.Accepted {
		return // another check has said why
	}
	if !p.Peer.Connected {
		say("PeerNeverConnected", object, "the gateway has not heard of the peer lately: it is away, or its UDP does not arrive", "its condition Connected is not True", "on the peer: wg show")
	}
	if len(p.Far) == 0 {
		say("NoTarget", p.name(), "no ready member is behind the name", "its EndpointSlices name none", fmt.Sprintf("kubectl -n %s get endpointslices", p.Namespace))
	}
	for i := range p.Far {
		end := &p.Far[i]
		object := p.name() + " at pod " + end.Pod
		switch {
		case end.After == nil:
			say("PathNotLooked", "pod "+p.Namespace+"/"+end.Pod, "the pod's sidecar says nothing", end.Why, p.logs(end.Pod))
		case !listed(end.After, end.Port):
			say("PortNotDeclared", object, fmt.Sprintf("the pod does not let port %d in", end.Port), "it is none of its inbound ports", fmt.Sprintf("declare it (containerPort), or expose a Service that leads to it: kubectl -n %s edit tt", p.Namespace))
		case !admitted(end.After, end.Port):
			say("PolicyRefuses", object, "the tunnel's policy does not let the peer in", fmt.Sprintf("the pod's sidecar lets %s not in to port %d", p.Peer.Address, end.Port), fmt.Sprintf("kubectl -n %s label tp %s KEY=VALUE, with what a rule of spec.policy asks for, or add a rule", p.Namespace, p.From))
		}
	}
}

func admitted(d *wire.Diagnosis, port uint16) bool {
	return slices.ContainsFunc(d.Inbound, func(p wire.DiagnosedPort) bool {
		return p.Port.Port == port && p.Protocol == wire.TCP && p.Admits != nil && *p.Admits
	})
}

func prefixes(all []netip.Prefix) string {
	var out []string
	for _, p := range all {
		out = append(out, p.String())
	}
	return strings.Join(out, ", ")
}
