package agent

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// A diagnosis sends what the application could send itself, and little of it: a TCP connection to a port that it reaches by a carried
// name or a proxy, closed at once, and echo requests to where that leads, to members and to gateways, who answer them to each other
// anyway. Nothing is dialled for a name that the pod does not carry. See probe.go for what is sent.

// question is what a member is asked to look at.
type question struct {
	asked string // empty: nothing but the member itself
	name  string
	addr  netip.Addr // in place of a name
	port  uint16     // 0: left to the member
	from  netip.Addr // who is let in; zero: nobody was asked about
}

func parseQuestion(q url.Values) (question, error) {
	out := question{asked: q.Get("to")}
	if text := q.Get("from"); text != "" {
		var err error
		if out.from, err = netip.ParseAddr(text); err != nil || out.from.Zone() != "" {
			return question{}, fmt.Errorf("from: %.64q is not an IP address", text)
		}
	}
	if out.asked == "" {
		return out, nil
	}
	if len(out.asked) > 260 {
		return question{}, fmt.Errorf("to: %d characters are no name", len(out.asked))
	}
	host := out.asked
	if h, port, err := net.SplitHostPort(host); err == nil {
		n, err := strconv.ParseUint(port, 10, 16)
		if err != nil || n == 0 {
			return question{}, fmt.Errorf("to: %.64q is not a port from 1 to 65535", port)
		}
		host, out.port = h, uint16(n)
	}
	if a, err := netip.ParseAddr(strings.Trim(host, "[]")); err == nil && a.Zone() == "" {
		out.addr = a.Unmap()
		return out, nil
	}
	out.name = strings.ToLower(strings.TrimSuffix(host, "."))
	strange := func(c rune) bool { return c <= ' ' || c >= 0x7f || c == ':' || c == '/' } // names are ASCII: nothing else is carried, or looked up
	if out.name == "" || strings.ContainsFunc(host, strange) {
		return question{}, fmt.Errorf("to: %.64q is neither NAME[:PORT] nor ADDRESS[:PORT]", out.asked)
	}
	return out, nil
}

// serveDiagnosis answers the pod's own loopback, as serveDevice does, one at a time.
func (m *member) serveDiagnosis(w http.ResponseWriter, r *http.Request) {
	if local, _ := r.Context().Value(http.LocalAddrContextKey).(net.Addr); !isOwnLoopback(local) {
		http.Error(w, "a diagnosis is made on 127.0.0.1 alone: forward a port of the pod, as kubectl tenantwire doctor does", http.StatusForbidden)
		return
	}
	if r.Header.Get(wire.DiagnoseHeader) == "" {
		http.Error(w, "a diagnosis is made for who sends the header "+wire.DiagnoseHeader+", as kubectl tenantwire doctor does", http.StatusForbidden)
		return
	}
	q, err := parseQuestion(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	if !m.diagnosing.TryLock() {
		http.Error(w, "another diagnosis is under way: ask again when it is done", http.StatusTooManyRequests)
		return
	}
	defer m.diagnosing.Unlock()
	_ = http.NewResponseController(w).SetWriteDeadline(time.Now().Add(wire.DiagnosisTime + 5*time.Second))
	ctx, cancel := context.WithTimeout(r.Context(), wire.DiagnosisTime)
	defer cancel()
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(m.diagnose(ctx, q)); err != nil {
		m.Log.Debug("the diagnosis could not be told", "error", err.Error())
	}
}

// diagnose says how the member sees itself and, where it was asked, the way to a destination.
func (m *member) diagnose(ctx context.Context, q question) *wire.Diagnosis {
	d := m.plane.examine(time.Now(), q.from)
	if q.asked != "" {
		to := m.locate(ctx, q)
		m.probeAll(ctx, to, d.MTU)
		d.To = to
		m.Log.Info("the way to a name was looked at", "to", to.Asked, "targets", len(to.Targets))
		after := m.plane.examine(time.Now(), q.from)
		d.Dropped, d.Refused = after.Dropped, after.Refused
	}
	return d
}

// examine is the plane as it is now.
func (p *plane) examine(now time.Time, from netip.Addr) *wire.Diagnosis {
	d := &wire.Diagnosis{Time: now.UTC(), Datapath: p.chosen.kind, PublicKey: p.private.Public(), Applied: p.healthy(), Dropped: p.drops(), Refused: map[string]uint64{}}
	d.Up, d.Why = p.up()
	d.Why = truncate(d.Why, 512)
	_, stats, _ := p.stats()
	for _, row := range stats.Rows {
		for why, n := range row.Failures {
			if row.Direction == relay.Accepted {
				d.Refused[why.String()] += n
			}
		}
	}
	p.mu.Lock()
	has := p.has // what it refers to is replaced when it changes, never written to
	p.mu.Unlock()
	d.Addresses, d.MTU = has.iface.Addresses, has.iface.MTU
	for _, in := range has.inbound {
		port := wire.DiagnosedPort{Port: wire.Port{Port: in.Port, Protocol: wire.Protocol(in.Protocol)}}
		if from.IsValid() {
			admits := has.admission == nil || has.admission.admits(from, inboundPort{in.Port, in.Protocol})
			port.Admits = &admits
		}
		d.Inbound = append(d.Inbound, port)
	}
	slices.SortFunc(d.Inbound, func(a, b wire.DiagnosedPort) int {
		return cmp.Or(cmp.Compare(a.Port.Port, b.Port.Port), cmp.Compare(a.Protocol, b.Protocol))
	})
	return d
}

// locate finds what a question is about: where it leads, and which peers are there.
func (m *member) locate(ctx context.Context, q question) *wire.Destination {
	to := &wire.Destination{Asked: truncate(q.asked, 300), Kind: wire.ToNothing}
	var targets []netip.AddrPort
	switch {
	case q.addr.IsValid():
		to.Kind, to.Port = wire.ToAddress, wire.Port{Port: q.port, Protocol: wire.TCP}
		targets = []netip.AddrPort{netip.AddrPortFrom(q.addr, q.port)}
	default:
		targets = m.locateName(ctx, q, to)
	}
	m.mu.Lock()
	peers := m.config.Peers
	m.mu.Unlock()
	for _, at := range targets {
		if len(to.Targets) == wire.MaxDiagnosedTargets {
			to.LeftOut++
			continue
		}
		to.Targets = append(to.Targets, targetAt(at, peers))
	}
	return to
}

// targetAt finds whose an address is: of the peer with the longest prefix that holds it.
func targetAt(at netip.AddrPort, peers []wire.Peer) wire.DiagnosedTarget {
	t, length := wire.DiagnosedTarget{Address: at.Addr(), Port: at.Port()}, -1
	for _, p := range peers {
		for _, r := range p.Ranges() {
			if r.Contains(at.Addr()) && r.Bits() > length {
				length = r.Bits()
				t.PublicKey, t.Outside, t.Gateway, t.EndpointName = p.PublicKey, p.Outside, p.Gateway, truncate(p.EndpointName, 300)
			}
		}
	}
	return t
}

// locateName fills in what a name is, and returns where the port that is looked at leads.
func (m *member) locateName(ctx context.Context, q question, to *wire.Destination) []netip.AddrPort {
	m.mu.Lock()
	services := m.config.Services
	m.mu.Unlock()
	var chosen *wire.Service
	for i, s := range services {
		if !isNameOf(q.name, s.Name, m.Namespace) {
			continue
		}
		to.Kind = wire.ToService
		if _, ok := m.Names[s.Name]; ok {
			to.Carried = true
		}
		port := wire.Port{Port: s.Port, Protocol: s.Protocol}
		to.Ports = append(to.Ports, port)
		asked := q.port == 0 || q.port == s.Port
		if asked && (chosen == nil || chosen.Protocol == wire.UDP && s.Protocol == wire.TCP) {
			chosen = &services[i]
		}
	}
	switch {
	case chosen != nil && chosen.Lookup:
		to.Port, to.Kind = wire.Port{Port: chosen.Port, Protocol: chosen.Protocol}, wire.ToHost
		return m.locateHost(ctx, chosen.Name, to)
	case chosen != nil:
		to.Port = wire.Port{Port: chosen.Port, Protocol: chosen.Protocol}
		return chosen.Targets
	case to.Kind == wire.ToNothing && m.proxied() && m.plane.resolver.Holds(q.name):
		to.Port, to.Kind = wire.Port{Port: q.port, Protocol: wire.TCP}, wire.ToHost
		return m.locateHost(ctx, q.name, to)
	case to.Kind == wire.ToNothing:
		to.Why = "the sidecar was told of no such name"
	default:
		to.Port = wire.Port{Port: q.port, Protocol: wire.TCP}
		to.Why = "the name has no such port"
	}
	return nil
}

// locateHost asks the site that answers for a name, as the application's own connection would have it asked.
func (m *member) locateHost(ctx context.Context, name string, to *wire.Destination) []netip.AddrPort {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	found := lookedUp{m.plane.resolver, name, to.Port.Port}
	targets, err := found.Find(ctx)
	if err != nil {
		to.Why = truncate(err.Error(), 512)
	}
	return targets
}

func (m *member) proxied() bool { return m.SOCKS5.IsValid() || m.HTTPConnect.IsValid() }

// mayDial says whether the application could connect to a target itself. A gateway's pod has no application, and what it dials its peers
// could be sent through it anyway.
func (m *member) mayDial(to *wire.Destination) bool {
	return to.Carried || m.proxied() || m.Relays || to.Kind == wire.ToAddress && m.plane.chosen.kind != datapath.Netstack
}

// mayAsk says whether a target may be asked for an echo: members and gateways answer each other always.
func (m *member) mayAsk(to *wire.Destination, t *wire.DiagnosedTarget) bool {
	return !t.PublicKey.IsZero() && (!t.Outside || m.mayDial(to))
}

// probeAll tries the way to all targets at once.
func (m *member) probeAll(ctx context.Context, to *wire.Destination, mtu int) {
	p, err := m.newProber(ctx, mtu)
	if err != nil {
		to.Why = cmp.Or(to.Why, err.Error())
		return
	}
	var all sync.WaitGroup
	for i := range to.Targets {
		t := &to.Targets[i]
		if t.PublicKey.IsZero() {
			continue
		}
		all.Go(func() {
			p.count(t, &t.Before)
			if m.mayAsk(to, t) {
				t.Echoes = p.echoes(t.Address)
			}
			if t.Port != 0 && to.Port.Protocol == wire.TCP && m.mayDial(to) {
				t.Dial = p.dial(netip.AddrPortFrom(t.Address, t.Port))
			}
			p.count(t, &t.After)
		})
	}
	all.Wait()
}

// newProber is what sends; an error says why nothing can be sent.
func (m *member) newProber(ctx context.Context, mtu int) (*prober, error) {
	m.plane.mu.Lock()
	dev := m.plane.device
	m.plane.mu.Unlock()
	if dev == nil {
		return nil, errors.New("the data path is not up")
	}
	return &prober{ctx: ctx, device: dev, mtu: mtu}, nil
}
