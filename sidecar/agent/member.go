package agent

import (
	"context"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// member follows the coordinator.
type member struct {
	Options
	store    *store
	public   key.Public
	plane    *plane
	client   *client
	silence  time.Duration // how long a watch may say nothing
	patience time.Duration // the longest wait between two sessions; one that lasted longer starts from the shortest wait again
	end      func(error)   // of a process that takes turns with others; nil: it goes on, and may be a member again
	reports  chan struct{} // capacity 1: the state to report may have changed
	notices  chan string   // to tell the coordinator, for an Event
	steps    steps         // on the way into the tunnel

	diagnosing sync.Mutex // held by the diagnosis that is under way

	mu       sync.Mutex // guards what follows, for the proxies
	config   wire.Config
	revision string // of config; empty: none
	known    int    // registrations so far: each may be with a coordinator that knows nothing of what was reported before
}

// run brings the plane up from what was kept, then follows the coordinator until ctx ends.
func (m *member) run(ctx context.Context) error {
	if v, ok := m.store.load(); ok {
		if err := m.apply(v.Config, v.Revision); err != nil {
			m.Log.Warn("the kept configuration cannot be applied", "error", err.Error())
		} else {
			m.Log.Info("data path up from the kept configuration", "revision", v.Revision)
		}
	}
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { m.reportLoop(ctx) })
	wg.Go(func() { m.tellNotices(ctx) })
	if m.Active != nil {
		m.end = end
		wg.Go(func() { end(m.awaitTurn(ctx)) })
	}
	m.follow(ctx)
	return context.Cause(ctx)
}

// follow registers and watches, over and over. A watch that held for a while resets the backoff.
func (m *member) follow(ctx context.Context) {
	const first = 100 * time.Millisecond
	for wait := first; ctx.Err() == nil; {
		start := time.Now()
		err := m.session(ctx)
		if ctx.Err() != nil {
			return
		}
		if time.Since(start) > m.patience {
			wait = first
		}
		m.Log.Warn("no stream from the coordinator; the data plane keeps what it has", "error", err.Error(), "againIn", wait.String())
		if !sleep(ctx, jitter(wait)) {
			return
		}
		wait = min(2*wait, m.patience)
	}
}

// session is one registration and one watch. Registering each time stores nothing where nothing changed, and sets right what the
// bearer of a stolen token may have registered in our place.
func (m *member) session(ctx context.Context) error {
	r, err := m.client.register(ctx, wire.Registration{
		PublicKey: m.public, Endpoint: netip.AddrPortFrom(m.PodIP, m.ListenPort),
		Datapath: m.plane.chosen.kind, DatapathReason: m.plane.chosen.why, Version: wire.ShortVersion(m.Version), Join: m.steps.take(),
	})
	if err != nil {
		return err
	}
	m.mu.Lock()
	m.known++
	m.mu.Unlock()
	m.poke()
	m.Log.Info("registered", "tunnel", r.Tunnel, "publicKey", m.public.String(), "addresses", joinPrefixes(r.Addresses))
	return m.client.watch(ctx, m.revision, m.silence, m.on)
}

// on takes one event of the stream. An error closes the stream and leaves the plane as it is.
func (m *member) on(e wire.Event) error {
	if e.Type == wire.Gone {
		return m.gone(e.Reason)
	}
	config, revision, err := wire.Advance(m.config, m.revision, e)
	if err != nil {
		return err
	}
	if revision == m.revision {
		return nil
	}
	if err := m.apply(config, revision); err != nil {
		m.poke()
		return err
	}
	m.Log.Info("configuration applied", "event", string(e.Type), "revision", revision, "peers", len(config.Peers), "services", len(config.Services))
	if err := m.store.save(saved{revision, config}); err != nil {
		m.Log.Warn("a restart would need the coordinator", "error", err.Error())
	}
	return nil
}

// errGone ends the watch after the coordinator said that we are no member; registering again says when that has changed.
var errGone = &statusError{http.StatusGone, "not a member any more"}

// gone empties the plane: nothing of a tunnel that was deleted may work on. Names stay on loopback, where nobody answers.
func (m *member) gone(reason string) error {
	m.Log.Warn("the coordinator says that this pod is no member any more: every peer is dropped", "reason", reason)
	m.mu.Lock()
	config := wire.Config{Interface: m.config.Interface}
	m.mu.Unlock()
	if len(config.Interface.Addresses) > 0 {
		if err := m.apply(config, ""); err != nil {
			return err
		}
	}
	if err := m.store.save(saved{}); err != nil {
		m.Log.Warn("a restart would bring back a deleted tunnel", "error", err.Error())
	}
	if m.end != nil {
		m.end(errGone) // another may be the tunnel's gateway: it must not wait for one that knows nobody
	}
	return errGone
}

func (m *member) apply(c wire.Config, revision string) error {
	began := time.Now()
	if err := m.plane.apply(m.translate(c)); err != nil {
		return err
	}
	if up, _ := m.plane.up(); up && revision != "" {
		m.steps.took("open the data path", began)
	}
	m.mu.Lock()
	m.config, m.revision = c, revision
	m.mu.Unlock()
	m.poke()
	return nil
}

// translate turns what the coordinator says, the same for every member, into what this pod does with it.
func (m *member) translate(c wire.Config) desired {
	d := desired{
		iface: datapath.Interface{Addresses: c.Interface.Addresses, MTU: c.Interface.MTU, Hub: c.Interface.Hub},
		peers: make(map[key.Public]datapath.Peer, len(c.Peers)), names: map[key.Public]string{}, preshared: map[key.Public]string{},
		proxies: relay.Proxies{SOCKS5: m.SOCKS5, HTTP: m.HTTPConnect,
			Allow: m.reachable, Resolve: m.resolve, Find: m.plane.findHost},
		lookups: lookups(c), debug: c.Debug,
	}
	if d.iface.MTU == 0 {
		d.iface.MTU = pathMTU(m.PodIP)
	}
	for _, p := range c.Peers {
		d.peers[p.PublicKey] = datapath.Peer{PublicKey: p.PublicKey, Endpoint: p.Endpoint, AllowedIPs: p.Ranges(), Mappings: p.Mapped(),
			Keepalive: time.Duration(p.KeepaliveSeconds) * time.Second, Outside: p.Outside, Gateway: p.Gateway, Answers: answers(p)}
		if p.EndpointName != "" {
			d.names[p.PublicKey] = p.EndpointName
		}
		if p.PresharedKey != "" {
			d.preshared[p.PublicKey] = p.PresharedKey
		}
	}
	for _, s := range c.Services {
		if at, ok := m.Names[s.Name]; ok && !slices.Contains(m.OwnPorts, wire.Port{Port: s.Port, Protocol: s.Protocol}) {
			d.forwards = append(d.forwards, relay.Forward{Name: s.String(), Listen: netip.AddrPortFrom(at, s.Port),
				Protocol: relay.Protocol(s.Protocol), Targets: s.Targets, Finder: m.finder(s.ServiceID, s.Lookup)})
		}
	}
	for _, p := range c.Inbound {
		d.inbound = append(d.inbound, relay.Inbound{Port: p.Port, Protocol: relay.Protocol(p.Protocol), To: m.inboundTo(p)})
	}
	m.translateRelays(&d, c)
	m.translatePublished(&d, c)
	d.admission = newAdmission(c)
	m.serveZone(&d, c.Zone)
	m.translateLimits(&d, c)
	return d
}

// answers are the addresses of a tunnel's gateways, which have those of many beside them. Which of its pods is active is not said, and those
// that stand by answer nothing at theirs. None: any of a peer's that is a single one may be its own.
func answers(p wire.Peer) (out []netip.Addr) {
	for i, ip := range p.AllowedIPs {
		if p.Gateway && ip.IsSingleIP() && i < len(p.Owners) && p.Owners[i] == 0 {
			out = append(out, ip.Addr())
		}
	}
	return out
}

// reachable lets the proxies dial what a peer owns, and nothing else.
func (m *member) reachable(to netip.AddrPort) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, p := range m.config.Peers {
		for _, a := range p.Ranges() {
			if a.Contains(to.Addr()) {
				return true
			}
		}
	}
	return false
}

// resolve finds a carried name: a Service by its short or cluster name, an egress host by its own. One that has to be looked up is not
// known here.
func (m *member) resolve(name string, port uint16) (targets []netip.AddrPort, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, s := range m.config.Services {
		if s.Port == port && s.Protocol == wire.TCP && !s.Lookup && isNameOf(name, s.Name, m.Namespace) {
			return s.Targets, true
		}
	}
	return nil, false
}

// isNameOf says whether name means a carried service: web, web.NS, web.NS.svc and web.NS.svc.DOMAIN mean web.
func isNameOf(name, service, namespace string) bool {
	rest, ok := strings.CutPrefix(name, service)
	if !ok || rest == "" {
		return ok
	}
	rest, ok = strings.CutPrefix(rest, "."+namespace)
	return ok && namespace != "" && (rest == "" || rest == ".svc" || strings.HasPrefix(rest, ".svc."))
}

// poke asks the report loop to look.
func (m *member) poke() {
	select {
	case m.reports <- struct{}{}:
	default:
	}
}

// reportLoop tells the coordinator whenever readiness changed, and keeps trying until it was told.
func (m *member) reportLoop(ctx context.Context) {
	type message struct {
		wire.Report
		known int
	}
	var told message
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.reports:
		}
		_ = retry(ctx, 100*time.Millisecond, 10*time.Second, func() error {
			var now message
			if now.Report, now.known = m.state(); now.known == 0 || now == told {
				return nil // registering comes first
			}
			said := now.Report
			if said.Ready {
				said.Join = m.steps.take()
			}
			err := m.client.report(ctx, said)
			if err == nil {
				told = now
			}
			return err
		})
	}
}

func (m *member) state() (r wire.Report, known int) {
	up, why := m.plane.up()
	m.mu.Lock()
	defer m.mu.Unlock()
	if up && m.revision == "" {
		up, why = false, "not a member of a tunnel"
	}
	return wire.Report{Ready: up, Reason: truncate(why, 512)}, m.known
}

func truncate(s string, n int) string {
	if len(s) <= n {
		return s
	}
	return strings.ToValidUTF8(s[:n], "")
}

func joinPrefixes(ps []netip.Prefix) string {
	var b strings.Builder
	for i, p := range ps {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(p.String())
	}
	return b.String()
}

// Overheads of WireGuard in bytes: outer IP header, UDP header, and 32 of WireGuard's own.
const (
	overhead4 = 20 + 8 + 32
	overhead6 = 40 + 8 + 32
)

// pathMTU derives the inner MTU from the interface that holds the pod's address. Interfaces that cannot be read are taken for
// Ethernet.
func pathMTU(pod netip.Addr) int {
	outer := 1500
	ifaces, _ := net.Interfaces()
	for _, i := range ifaces {
		addrs, _ := i.Addrs()
		for _, a := range addrs {
			if n, ok := a.(*net.IPNet); ok {
				if ip, ok := netip.AddrFromSlice(n.IP); ok && ip.Unmap() == pod.Unmap() {
					outer = i.MTU
				}
			}
		}
	}
	inner := outer - overhead4
	if !pod.Is4() {
		inner = outer - overhead6
	}
	return min(max(inner, wire.MinMTU), wire.MaxMTU)
}
