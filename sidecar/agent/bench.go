package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/bench"
	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// door is a port inside the tunnel that leads to what answers a measurement, for one other pod.
type door struct {
	port uint16
	from []netip.Addr
	to   netip.AddrPort // loopback; zero: it is being shut, for everybody
}

// firstDoor is the least port of a door: those above are nobody's by convention.
const firstDoor = 49152

// admits says whether a peer's address may reach a port of one of ours. The door is for those alone that it was opened for, members
// included.
func (p *plane) admits(src, at netip.Addr, port uint16, protocol relay.Protocol) bool {
	if d := p.door.Load(); d != nil && d.port == port && protocol == relay.TCP {
		return slices.Contains(d.from, src)
	}
	return p.admission.Load().admit(src, at, port, protocol)
}

// withDoor adds the door, if one is open, to the inbound ports.
func (p *plane) withDoor(all []relay.Inbound) []relay.Inbound {
	d := p.door.Load()
	if d == nil || !d.to.IsValid() {
		return all
	}
	return append(slices.Clip(all), relay.Inbound{Port: d.port, Protocol: relay.TCP, To: d.to})
}

// openDoor has peers with these addresses reach a loopback port, at the addresses that it returns, until shut is called.
func (p *plane) openDoor(from []netip.Addr, to netip.AddrPort) (at []netip.AddrPort, shut func(), err error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.device == nil || p.standby {
		return nil, nil, &refusal{http.StatusServiceUnavailable, "the data path is not up"}
	}
	d := &door{port: p.freePort(), from: from, to: to}
	for _, own := range p.has.iface.Addresses {
		if !p.has.publishedAt[own.Addr()] {
			at = append(at, netip.AddrPortFrom(own.Addr(), d.port))
		}
	}
	p.door.Store(d)
	if err := p.applyLocked(p.wanted); err != nil {
		p.door.Store(&door{port: d.port}) // it may be open: for nobody, until there is another
		return nil, nil, fmt.Errorf("open a port inside the tunnel: %w", err)
	}
	return at, p.shutDoor, nil
}

// shutDoor shuts the port first and forgets whom it was for then: what is open and is no door is for all members.
func (p *plane) shutDoor() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.door.Store(&door{port: p.door.Load().port})
	if err := p.applyLocked(p.wanted); err != nil {
		p.log.Warn("the port of a measurement is shut when the next configuration comes", "error", err.Error())
		return // until then it is for nobody
	}
	p.door.Store(nil)
}

// freePort is a port that is no inbound one. It needs the lock.
func (p *plane) freePort() uint16 {
	taken := make(map[uint16]bool, len(p.has.inbound)+len(p.has.services))
	for _, in := range p.has.inbound {
		taken[in.Port] = true
	}
	for _, s := range p.has.services {
		taken[s.Port] = true
	}
	for {
		if n := firstDoor + rand.N(uint16(1<<16-1-firstDoor)); !taken[n] {
			return n
		}
	}
}

// serveBenchSelf says who this pod is inside the tunnel.
func (p *plane) serveBenchSelf(w http.ResponseWriter, r *http.Request) error {
	if err := asked(w, r, &wire.BenchAsk{}); err != nil {
		return err
	}
	_, done, err := p.debug.begin(r.Context(), benchWork, time.Minute) // so that what is refused is refused at once
	if err != nil {
		return err
	}
	done()
	if up, why := p.up(); !up {
		return &refusal{http.StatusServiceUnavailable, "the data path is not up: " + why}
	}
	p.mu.Lock()
	self := wire.BenchSelf{Datapath: string(p.chosen.kind)}
	for _, own := range p.has.iface.Addresses {
		if !p.has.publishedAt[own.Addr()] {
			self.Addresses = append(self.Addresses, own.Addr())
		}
	}
	p.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	return json.NewEncoder(w).Encode(self)
}

// serveBenchDoor answers another pod's measurement until who asks goes away.
func (p *plane) serveBenchDoor(w http.ResponseWriter, r *http.Request) error {
	var ask wire.BenchDoor
	if err := asked(w, r, &ask); err != nil {
		return err
	}
	ended := ""
	defer func() { // last of all: there is room for another
		if ended != "" {
			p.log.Info("bench: port shut", "why", ended)
		}
	}()
	ctx, done, err := p.debug.begin(r.Context(), benchWork, time.Duration(ask.Seconds)*time.Second)
	if err != nil {
		return err
	}
	defer done()
	l, err := (&net.ListenConfig{}).Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		return fmt.Errorf("listen on loopback: %w", err)
	}
	defer l.Close()
	at, shut, err := p.openDoor(ask.From, l.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		return err
	}
	defer shut()
	p.log.Info("bench: port opened", "from", fmt.Sprint(ask.From), "at", fmt.Sprint(at), "seconds", ask.Seconds)
	p.tell("the tunnel is measured from %v, as asked through the loopback of a pod", ask.From)
	responder := bench.Responder{Token: bench.NewToken()}
	answer := lines{patient(w), json.NewEncoder(patient(w))}
	w.Header().Set("Content-Type", "application/x-ndjson")
	if err := answer.tell(wire.BenchOpened{At: at, Token: responder.Token, Datapath: string(p.chosen.kind)}); err != nil {
		p.log.Info("bench: nobody waits for the port", "error", err.Error())
		return nil
	}
	responder.Serve(ctx, l)
	ended = p.whyEnded(ctx)
	_ = answer.out.extend()
	return nil
}

// serveBenchRun measures the tunnel to a door of another pod.
func (p *plane) serveBenchRun(w http.ResponseWriter, r *http.Request) error {
	var ask wire.BenchRun
	if err := asked(w, r, &ask); err != nil {
		return err
	}
	ctx, done, err := p.debug.begin(r.Context(), benchWork, wire.MaxBenchDoorSeconds*time.Second)
	if err != nil {
		return err
	}
	defer done()
	dial, to, err := p.dialDoor(ask.To)
	if err != nil {
		return err
	}
	p.log.Info("bench begins", "to", to.String(), "streams", ask.Streams, "seconds", ask.Seconds, "maxBytes", ask.MaxBytes)
	p.tell("the tunnel to %s is measured, as asked through the pod's loopback", to.Addr())
	answer := lines{patient(w), json.NewEncoder(patient(w))}
	w.Header().Set("Content-Type", "application/x-ndjson")
	last := wire.BenchEvent{Done: true}
	if err := bench.Run(ctx, ask, dial, func(e wire.BenchEvent) error { return answer.tell(e) }); err != nil {
		last = wire.BenchEvent{Error: err.Error()}
		if ctx.Err() != nil {
			last.Error = p.whyEnded(ctx)
		}
	}
	p.log.Info("bench ended", "done", last.Done, "why", last.Error)
	_ = answer.tell(last)
	return nil
}

// dialDoor dials the first of some doors that a peer may have.
func (p *plane) dialDoor(all []netip.AddrPort) (bench.Dial, netip.AddrPort, error) {
	if up, why := p.up(); !up {
		return nil, netip.AddrPort{}, &refusal{http.StatusServiceUnavailable, "the data path is not up: " + why}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	network := datapath.Network(p.device)
	for _, to := range all {
		for _, peer := range p.has.peers {
			if isDoorOf(&peer, to) {
				return func(ctx context.Context) (datapath.Stream, error) { return network.DialTCP(ctx, to) }, to, nil
			}
		}
	}
	return nil, netip.AddrPort{}, &refusal{http.StatusConflict, fmt.Sprintf("no peer of this pod has an address of %v: both pods have to be in one tunnel", all)}
}

// isDoorOf says whether an address and port can be a door of a peer's: of a member or a gateway, and of nothing behind it.
func isDoorOf(peer *datapath.Peer, to netip.AddrPort) bool {
	own := netip.PrefixFrom(to.Addr(), to.Addr().BitLen())
	return to.Port() >= firstDoor && (!peer.Outside || peer.Gateway) && slices.Contains(peer.AllowedIPs, own)
}

// whyEnded says why a context of begin has.
func (p *plane) whyEnded(ctx context.Context) string {
	cause := context.Cause(ctx)
	if cause == nil || errors.Is(cause, context.Canceled) {
		return "who asked went away"
	}
	return cause.Error()
}

// lines are an answer of JSON values, one a line, each sent at once.
type lines struct {
	out patientWriter
	enc *json.Encoder
}

func (l lines) tell(v any) error {
	if err := l.enc.Encode(v); err != nil {
		return err
	}
	return l.out.ctl.Flush()
}
