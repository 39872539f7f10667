//go:build linux

package kernel

import (
	"context"
	"encoding/binary"
	"log/slog"
	"maps"
	"math/rand/v2"
	"net/netip"
	"sync"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/delta"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/oslink"
	"github.com/tenantwire/tenantwire/sidecar/pathmtu"
)

// lookEvery is how often it is looked whether data leaves, unless looking itself takes more than a hundredth of that.
const lookEvery = 500 * time.Millisecond

// mostInVain is how many looks packets have to leave in that were counted.
const mostInVain = 20

// paths finds out how long the packets to each peer may be. What package pathmtu decides is done here, through the interface: no packet
// passes by us, so what leaves is seen from counters, and probes are echo requests that the kernel encrypts. The kernel lets what it sends be
// cut on the way, where that is IPv4: a packet that arrives in fragments counts as one that arrives.
type paths struct {
	device *Device
	echoes *oslink.Echoes
	log    *slog.Logger
	began  time.Time
	token  uint64
	wake   chan struct{}
	stop   context.CancelFunc
	ended  sync.WaitGroup

	long   uint64 // packets that could be too long, at the last look; only run's goroutine looks
	vain   int    // looks since then that found nobody whom they went to
	failed bool   // the last look

	mu    sync.Mutex // guards what follows; never held while the kernel is asked
	own   []netip.Addr
	mtu   int
	peers map[key.Public]*path

	number uint16
	probes map[uint16]probe // that were not answered yet, by number

	telling sync.Mutex // one at a time, and the last one last
	untold  bool       // that failed; guarded by telling
}

// path is what is known of the path to one peer.
type path struct {
	search  pathmtu.Search
	target  pathmtu.Aim
	allowed []netip.Prefix
	dialled netip.AddrPort // the endpoint that was configured last
	told    int            // the limit that was told last

	looked     bool // the following is of the last look
	tx, rx     uint64
	endpoint   netip.AddrPort
	handshake  time.Time
	unanswered time.Duration // since when nothing has come back; zero: something has
	asked      uint64        // bytes of probes since then
}

// probe is a request that was sent.
type probe struct {
	number uint16
	peer   key.Public
	to     netip.Addr
	size   int
	sent   time.Duration
}

// forgetAfter is more than any answer is waited for.
const forgetAfter = 10 * time.Second

// newPaths begins to look. It is an error where the process may have no sockets for echo requests.
func newPaths(d *Device) (*paths, error) {
	p := &paths{device: d, log: d.log, began: time.Now(), token: rand.Uint64(), wake: make(chan struct{}, 1), peers: make(map[key.Public]*path),
		probes: make(map[uint16]probe)}
	var err error
	if p.echoes, err = d.OpenEchoes(p.answered); err != nil {
		return nil, err
	}
	if err := d.CountLong(pathmtu.Floor); err != nil {
		p.echoes.Close()
		return nil, err
	}
	var ctx context.Context
	ctx, p.stop = context.WithCancel(context.Background())
	p.ended.Go(func() { p.run(ctx) })
	return p, nil
}

func (p *paths) close() {
	p.stop()
	p.echoes.Close()
	p.ended.Wait()
}

// now is above zero, as package pathmtu wants it.
func (p *paths) now() time.Duration { return time.Since(p.began) + 1 }

// setInterface takes in the interface's addresses and MTU.
func (p *paths) setInterface(i datapath.Interface) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.own = p.own[:0]
	for _, a := range i.Addresses {
		p.own = append(p.own, a.Addr())
	}
	if p.mtu == i.MTU {
		return
	}
	p.mtu = i.MTU
	for _, o := range p.peers {
		p.moved(o)
	}
}

// setPeers takes in who the peers are now.
func (p *paths) setPeers(is delta.Registry) {
	p.mu.Lock()
	limited := false
	for k := range p.peers {
		if _, ok := is[k]; !ok {
			limited = limited || p.peers[k].told != 0
			delete(p.peers, k)
		}
	}
	for k, c := range is {
		o := p.peers[k]
		if o == nil {
			o = &path{}
			p.peers[k] = o
		}
		if o.target.Set(c) {
			o.search.Anew()
		}
		if c.Endpoint != o.dialled {
			p.moved(o)
		}
		o.allowed, o.dialled = c.AllowedIPs, c.Endpoint
		limited = limited || o.told != 0
	}
	p.mu.Unlock()
	if limited {
		p.tell()
	}
}

// moved has a path looked into anew. What is still answered by the old one says nothing of it. The caller holds the lock.
func (p *paths) moved(o *path) {
	o.search.Moved()
	maps.DeleteFunc(p.probes, func(_ uint16, r probe) bool { return p.peers[r.peer] == o })
}

// stats is what is known of the path to a peer, for PeerStats.
func (p *paths) stats(k key.Public) (int, datapath.MTUState) {
	p.mu.Lock()
	defer p.mu.Unlock()
	o := p.peers[k]
	if o == nil {
		return p.mtu, datapath.MTUUnverified
	}
	if n := o.search.Limit(); n != 0 {
		return n, o.search.State()
	}
	return p.mtu, o.search.State()
}

func (p *paths) run(ctx context.Context) {
	look := time.NewTimer(lookEvery)
	step := time.NewTimer(time.Hour)
	for {
		select {
		case <-ctx.Done():
			return
		case <-look.C:
			began := time.Now()
			p.look()
			p.tellAgain()
			look.Reset(max(lookEvery, 100*time.Since(began)))
		case <-step.C:
		case <-p.wake:
		}
		step.Reset(p.step())
	}
}

// look looks whether packets have left that could be too long, and to whom.
func (p *paths) look() {
	err := p.lookAt()
	if err != nil && !p.failed {
		p.log.Warn("it is not seen whether data leaves: the MTU of paths is not looked into meanwhile", "error", err.Error())
	}
	p.failed = err != nil
}

func (p *paths) lookAt() error {
	long, err := p.device.longSent()
	if err != nil || long == p.long {
		return err
	}
	state, err := p.device.wg.Device(p.device.name)
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	now, seen := p.now(), false
	for i := range state.Peers {
		if o := p.peers[key.Public(state.Peers[i].PublicKey)]; o != nil && p.see(o, now, peerStats(state.Peers[i])) {
			seen = true
		}
	}
	if p.vain++; seen || p.vain > mostInVain { // else they wait for a session, and the next look has them
		p.long, p.vain = long, 0
	}
	return nil
}

// see compares a peer's counters with those of the last look, and says whether data has left. The caller holds the lock.
func (p *paths) see(o *path, now time.Duration, is datapath.PeerStats) bool {
	sent, first := is.TxBytes-o.tx, !o.looked
	switch {
	case is.RxBytes != o.rx || first:
		o.unanswered = 0
	case sent > 0 && o.unanswered == 0:
		o.unanswered = now
	}
	if !first && o.endpoint != is.Endpoint {
		p.moved(o)
	}
	if !first && is.LastHandshake.Sub(o.handshake) > gone {
		o.search.Back(now)
	}
	data := sent > o.asked+pathmtu.Floor
	o.looked, o.asked = true, 0
	o.tx, o.rx, o.endpoint, o.handshake = is.TxBytes, is.RxBytes, is.Endpoint, is.LastHandshake
	if !data || o.target.None() {
		return data
	}
	silence := time.Duration(0)
	if o.unanswered != 0 {
		silence = now - o.unanswered
	}
	o.search.Data(now, p.mtu, p.mtu, silence)
	return true
}

// gone is how far handshakes are apart between which a session has ended.
const gone = 180 * time.Second

// step sends what is due, tells what was found, and says when to be called again.
func (p *paths) step() time.Duration {
	const wire = 32 + 15 // what WireGuard adds to a packet at most, bytes
	type request struct {
		probe
		from netip.Addr
	}
	var due []request
	next, tell := time.Hour, false
	p.mu.Lock()
	now := p.now()
	maps.DeleteFunc(p.probes, func(_ uint16, r probe) bool { return now-r.sent > forgetAfter })
	for k, o := range p.peers {
		sizes := o.search.Next(now)
		if o.search.Silent() && sizes != (pathmtu.Round{}) {
			o.target.Other()
		}
		for _, size := range sizes {
			from, to, ok := o.target.Choose(p.own)
			if size == 0 || !ok {
				continue
			}
			p.number++
			r := probe{p.number, k, to, size, now}
			p.probes[p.number] = r
			o.asked += uint64(size + wire)
			due = append(due, request{r, from})
		}
		if limit, news := o.search.News(o.told); news {
			o.told, tell = limit, true
			p.log.Info("MTU of the path to a peer", "peer", k.String(), "bytes", o.search.Known(), "state", string(o.search.State()))
		}
		if until := o.search.Until(); until != 0 {
			next = min(next, max(until-now, time.Millisecond))
		}
	}
	p.mu.Unlock()
	for _, r := range due {
		if err := p.ask(r.from, r.probe); err != nil {
			p.log.Debug("a probe was not sent", "peer", r.peer.String(), "bytes", r.size, "error", err)
		}
	}
	if tell { // after what is due: the time of answers runs
		p.tell()
	}
	return next
}

// ask sends a probe.
func (p *paths) ask(from netip.Addr, r probe) error {
	headers := datapath.EchoHeaders6
	if r.to.Is4() {
		headers = datapath.EchoHeaders4
	}
	data := make([]byte, r.size-headers)
	binary.BigEndian.PutUint64(data, p.token)
	copy(data[8:], pathmtu.Mark)
	return p.echoes.Ask(from, r.to, r.number, data)
}

// answered takes in what came back.
func (p *paths) answered(from netip.Addr, number uint16, data []byte) {
	if len(data) < 8 || binary.BigEndian.Uint64(data) != p.token {
		return
	}
	headers := datapath.EchoHeaders6
	if from.Is4() {
		headers = datapath.EchoHeaders4
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	r, sent := p.probes[number]
	o := p.peers[r.peer]
	if !sent || o == nil || r.to != from || r.size != len(data)+headers {
		return
	}
	delete(p.probes, number)
	now := p.now()
	o.search.Answered(now, r.size, now-r.sent)
	select {
	case p.wake <- struct{}{}: // it goes on, or tells
	default:
	}
}

// tell has the routes to the peers' allowed IPs know how long packets may be.
func (p *paths) tell() {
	p.telling.Lock()
	defer p.telling.Unlock()
	limits := make(map[netip.Prefix]int)
	p.mu.Lock()
	for _, o := range p.peers {
		if o.told == 0 {
			continue
		}
		for _, ip := range o.allowed {
			limits[ip] = o.told
		}
	}
	p.mu.Unlock()
	err := p.device.followPaths(limits)
	if err != nil && !p.untold {
		p.log.Warn("the MTU of routes could not be set", "error", err.Error())
	}
	p.untold = err != nil
}

// tellAgain tells what could not be told.
func (p *paths) tellAgain() {
	p.telling.Lock()
	again := p.untold
	p.telling.Unlock()
	if again {
		p.tell()
	}
}
