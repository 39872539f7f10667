package doctor

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/api/meta"

	"github.com/tenantwire/tenantwire/sidecar/wire"
	"github.com/tenantwire/tenantwire/tenant/v1alpha1"
)

// Bounds of what pods are asked.
const (
	maxAsked    = 64
	askedAtOnce = 8
	between     = 2 * time.Second // the two looks at a device
	maxFarEnds  = wire.MaxDiagnosedTargets
)

// Asker asks pods' sidecars.
type Asker interface {
	Device(ctx context.Context, id PodID) (*wire.Device, error)
	Diagnose(ctx context.Context, id PodID, query url.Values) (*wire.Diagnosis, error)
}

// ErrNoRight says that the user may not ask pods.
var ErrNoRight = errors.New("the right to create pods/portforward is missing")

// TellTime sets the API server's time at a time of ours; zero: it is not known.
func (f *Facts) TellTime(server, ours time.Time) {
	if server.IsZero() {
		f.gap(srcServer, "it does not say")
		return
	}
	f.Server = server.Add(f.Now.Sub(ours) + 500*time.Millisecond) // Date has whole seconds
}

// DoNotAskPods says that nobody wants them asked.
func (f *Facts) DoNotAskPods() { f.gap(srcSidecars, "no pod was asked") }

// AskPods asks sidecars for their devices, twice: active gateways and ready members.
func (f *Facts) AskPods(ctx context.Context, a Asker, progress func(string)) {
	ids := f.worthAsking()
	if len(ids) == 0 {
		return
	}
	if len(ids) > maxAsked {
		f.gaps["sidecars"] = Gap{What: fmt.Sprintf("sidecars of %d pods", len(ids)-maxAsked), Why: fmt.Sprintf("only %d are asked: name a namespace", maxAsked)}
		ids = ids[:maxAsked]
	}
	progress(fmt.Sprintf("asking the sidecars of %d pods", len(ids)))
	f.eachPod(ids, func(id PodID) {
		begun := time.Now()
		d, err := a.Device(ctx, id)
		f.heard(id, func(s *Sidecar) { s.Device, s.Asked, s.Took, s.Why = d, begun, time.Since(begun), why(err) }, err)
	})
	var again []PodID
	for id, s := range f.Sidecars {
		if s.Device != nil {
			again = append(again, id)
		}
	}
	select {
	case <-time.After(between):
	case <-ctx.Done():
	}
	f.eachPod(again, func(id PodID) {
		d, err := a.Device(ctx, id)
		f.heard(id, func(s *Sidecar) { s.Later = d }, err)
	})
}

func why(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

func (f *Facts) heard(id PodID, take func(*Sidecar), err error) {
	f.hearing.Lock()
	defer f.hearing.Unlock()
	if errors.Is(err, ErrNoRight) {
		f.gap(srcSidecars, fmt.Sprintf("you have not the right to %s in namespace %s", srcSidecars, id.Namespace))
		return
	}
	s := f.Sidecars[id]
	take(&s)
	f.Sidecars[id] = s
}

func (f *Facts) eachPod(ids []PodID, ask func(PodID)) {
	slots := make(chan struct{}, askedAtOnce)
	var all sync.WaitGroup
	for _, id := range ids {
		slots <- struct{}{}
		all.Go(func() {
			defer func() { <-slots }()
			ask(id)
		})
	}
	all.Wait()
}

// worthAsking are active gateways, which know of all outside peers, and members whose data path is up.
func (f *Facts) worthAsking() (ids []PodID) {
	var members []PodID
	for i := range f.Members {
		m := &f.Members[i]
		t := f.tunnel(m.Namespace, m.Spec.Tunnel)
		switch {
		case t == nil:
		case m.Spec.Role == v1alpha1.RoleGateway && t.Status.Gateway != nil && t.Status.Gateway.Active == m.Name:
			ids = append(ids, PodID{m.Namespace, m.Name})
		case m.Spec.Role != v1alpha1.RoleGateway && f.ready(m):
			members = append(members, PodID{m.Namespace, m.Name})
		}
	}
	return append(ids, members...)
}

// Walk has both ends of a way say what they see. An error says that the near one does not exist, or that it is not known.
func (f *Facts) Walk(ctx context.Context, a Asker, from, to string, progress func(string)) (*Path, error) {
	p := &Path{Namespace: f.Namespace, From: from, To: to}
	own := f.member(f.Namespace, from)
	if own == nil {
		for i := range f.Peers {
			if f.Peers[i].Name == from && f.Peers[i].Namespace == f.Namespace {
				return p, f.walkPeer(ctx, a, p, &f.Peers[i], progress)
			}
		}
		return nil, f.notThere(from)
	}
	p.Tunnel = own.Spec.Tunnel
	near := PodID{f.Namespace, from}
	target := f.resolve(to)
	progress("asking the sidecars at both ends what they see")
	for _, m := range f.farEnds(to) {
		p.Far = append(p.Far, f.endOf(m))
	}
	f.look(ctx, a, p, url.Values{}, true)
	progress("sending along the way, for up to " + wire.DiagnosisTime.String())
	d, err := a.Diagnose(ctx, near, url.Values{"to": {target}})
	if err != nil {
		p.Why = err.Error()
		return p, nil
	}
	p.Near = d
	f.look(ctx, a, p, url.Values{}, false)
	return p, nil
}

// notThere says that an end does not exist, or what keeps us from knowing it.
func (f *Facts) notThere(from string) error {
	for _, s := range []source{srcMembers, srcPeers} {
		if gap, unknown := f.gaps[s]; unknown {
			return fmt.Errorf("--from: whether namespace %s has a member or a TunnelPeer %s is not known: %s", f.Namespace, from, gap.Why)
		}
	}
	if f.known([]source{srcPods}) && f.pod(f.Namespace, from) != nil {
		return fmt.Errorf("--from: pod %s is no member of a tunnel; kubectl tenantwire -n %s doctor says why, if it should be", from, f.Namespace)
	}
	return fmt.Errorf("--from: namespace %s has no member and no TunnelPeer %s", f.Namespace, from)
}

// resolve turns the name of a pod or a peer into its address inside the tunnel, which is all that a sidecar knows it by. Names of the
// tunnel's come first.
func (f *Facts) resolve(to string) string {
	host, port := split(to)
	address := ""
	if m := f.member(f.Namespace, host); m != nil && len(m.Spec.Addresses) > 0 {
		address = m.Spec.Addresses[0]
	}
	for i := range f.Peers {
		if p := &f.Peers[i]; p.Namespace == f.Namespace && p.Name == host && len(p.Status.Addresses) > 0 {
			address = p.Status.Addresses[0]
		}
	}
	switch {
	case address == "" || f.isCarried(host):
		return to
	case port == "":
		return address
	}
	return net.JoinHostPort(address, port)
}

func split(to string) (host, port string) {
	if h, p, err := net.SplitHostPort(to); err == nil {
		return h, p
	}
	return to, ""
}

func (f *Facts) isCarried(name string) bool {
	for i := range f.Tunnels {
		t := &f.Tunnels[i]
		if t.Namespace == f.Namespace && (slices.ContainsFunc(t.Spec.Expose, func(s v1alpha1.ExposedService) bool { return s.Service == name }) ||
			slices.ContainsFunc(t.Spec.Egress, func(h v1alpha1.EgressHost) bool { return h.Host == name })) {
			return true
		}
	}
	return false
}

// farEnds are the members that a name may lead to: those behind the Service, or the one that is named or has the address.
func (f *Facts) farEnds(to string) (out []*v1alpha1.TunnelMember) {
	host, _ := split(to)
	service, _, _ := strings.Cut(host, ".")
	for _, p := range f.podsBehind(f.Namespace, service) {
		if m := f.member(p.Namespace, p.Name); m != nil && len(out) < maxFarEnds {
			out = append(out, m)
		}
	}
	for i := range f.Members {
		m := &f.Members[i]
		if m.Namespace == f.Namespace && (m.Name == host || slices.Contains(m.Spec.Addresses, host)) && len(out) < maxFarEnds && !slices.Contains(out, m) {
			out = append(out, m)
		}
	}
	return out
}

func (f *Facts) endOf(m *v1alpha1.TunnelMember) End {
	e := End{Pod: m.Name, Endpoint: m.Status.Endpoint}
	for _, text := range m.Spec.Addresses {
		if a, err := netip.ParseAddr(text); err == nil {
			e.Addresses = append(e.Addresses, a)
		}
	}
	return e
}

// look asks all far ends what they see, before or after something was sent.
func (f *Facts) look(ctx context.Context, a Asker, p *Path, query url.Values, before bool) {
	var all sync.WaitGroup
	for i := range p.Far {
		e := &p.Far[i]
		all.Go(func() {
			id := PodID{p.Namespace, e.Pod}
			d, err := a.Diagnose(ctx, id, query)
			device, err2 := a.Device(ctx, id)
			e.Why = why(cmp.Or(err, err2))
			if before {
				e.Before, e.Was = d, device
			} else {
				e.After, e.Is = d, device
			}
		})
	}
	all.Wait()
}

// walkPeer asks the members behind a name whether they would let an outside peer in.
func (f *Facts) walkPeer(ctx context.Context, a Asker, p *Path, peer *v1alpha1.TunnelPeer, progress func(string)) error {
	p.Peer = &Source{Accepted: meta.IsStatusConditionTrue(peer.Status.Conditions, v1alpha1.ConditionAccepted),
		Connected: meta.FindStatusCondition(peer.Status.Conditions, v1alpha1.ConditionConnected) == nil || meta.IsStatusConditionTrue(peer.Status.Conditions, v1alpha1.ConditionConnected)}
	for _, text := range slices.Concat(peer.Status.Addresses, peer.Spec.Routes) {
		if prefix, err := netip.ParsePrefix(text); err == nil {
			text = prefix.Addr().Next().String()
		}
		if addr, err := netip.ParseAddr(text); err == nil {
			p.Peer.Address = addr
			break
		}
	}
	if !p.Peer.Address.IsValid() {
		return fmt.Errorf("--from: peer %s has no address inside the tunnel yet", peer.Name)
	}
	progress("asking the members behind " + p.To + " whether they let the peer in")
	for _, m := range f.farEnds(p.To) {
		e := f.endOf(m)
		e.Port = f.targetPort(p.To)
		p.Far = append(p.Far, e)
	}
	f.look(ctx, a, p, url.Values{"from": {p.Peer.Address.String()}}, false)
	return nil
}

// targetPort is the port of pods that a name's port leads to; without a port, the first one.
func (f *Facts) targetPort(to string) uint16 {
	host, port := split(to)
	n, _ := strconv.ParseUint(port, 10, 16)
	service, _, _ := strings.Cut(host, ".")
	s := f.service(f.Namespace, service)
	if s == nil {
		return uint16(n)
	}
	for _, of := range s.Spec.Ports {
		if n != 0 && int32(n) != of.Port {
			continue
		}
		for i := range f.Slices {
			slice := &f.Slices[i]
			if slice.Namespace != f.Namespace || slice.Labels["kubernetes.io/service-name"] != service {
				continue
			}
			for _, q := range slice.Ports {
				if q.Name != nil && *q.Name == of.Name && q.Port != nil {
					return uint16(*q.Port) //nolint:gosec // the API server bounds it
				}
			}
		}
	}
	return uint16(n)
}
