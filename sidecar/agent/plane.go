package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"sync"
	"sync/atomic"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/datapath/auto"
	"github.com/tenantwire/tenantwire/sidecar/dns"
	"github.com/tenantwire/tenantwire/sidecar/endpoint"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/limits"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/resolve"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// desired is all that a plane can be told, whoever tells it: the coordinator or a file.
type desired struct {
	iface datapath.Interface
	peers map[key.Public]datapath.Peer
	names map[key.Public]string // HOST:PORT of those peers whose endpoint has to be looked up
	// preshared are the names of the keys of those peers that have one.
	preshared map[key.Public]string
	forwards  []relay.Forward
	inbound   []relay.Inbound
	egress    []relay.Egress // for other pods, of which clients may use it
	clients   []netip.Addr
	services  []relay.Published // that are answered for at addresses of their own
	// publishedAt are these addresses, published the ports that are open there.
	publishedAt map[netip.Addr]bool
	published   map[publishedPort]wire.ServiceID
	// admission says who reaches the inbound ports. Nil: every peer does.
	admission *admission
	proxies   relay.Proxies
	zone      *dns.Zone // nil: no names are answered for
	lookups   resolve.Config
	limits    wire.Limits
	owners    *owners // nil: each peer is one
	debug     *wire.Debug
}

type inboundPort struct {
	port     uint16
	protocol relay.Protocol
}

// plane is the device and the relay, opened when the first configuration is known and changed in place from then on.
type plane struct {
	private    key.Private
	listenPort uint16
	chosen     choice
	podIP      netip.Addr
	fence      *datapath.Fence // nil: always open
	apart      bool            // nobody but the relay uses the tunnel's routes
	ownProcess bool            // nothing else runs in this process
	prepared   func()          // nil: nobody asks
	foretold   func()          // nil: nobody is told
	log        *slog.Logger
	version    string // of the program
	preshared  presharedKeys
	dns        *dns.Server // nil: there is none
	draining   atomic.Bool
	admission  atomic.Pointer[desired] // what the relay asks, from its own goroutines
	endpoints  *endpoint.Resolver
	resolver   *resolve.Resolver // of names that sites answer for
	diagnosis  http.HandlerFunc  // nil: none is made
	debug      debugging
	notice     func(text string)    // nil: nobody is told
	door       atomic.Pointer[door] // nil: nobody measures the tunnel here

	mu       sync.Mutex // guards what follows
	standby  bool       // another process carries: nothing is opened
	tookOver bool       // another process carried before: peers are told
	told     *desired   // while standing by: what to do once that is over
	expected bool       // that will be soon: others may be led here
	ahead    relay.Ahead
	device   datapath.Datapath
	relay    *relay.Relay
	wanted   desired // what was told, without what is found here
	has      desired
	keptOut  map[key.Public]wire.KeptOut
	problem  error // of the last apply: something is not as it should be, though the rest works
	lastFail error // of the last attempt that changed nothing
}

func newPlane(private key.Private, listenPort uint16, chosen choice, log *slog.Logger) *plane {
	p := &plane{private: private, listenPort: listenPort, chosen: chosen, log: log, resolver: resolve.New(log)}
	p.endpoints = endpoint.New(endpoint.Options{Lookup: lookup, Accept: netip.Addr.IsGlobalUnicast, Peers: p.livePeers, Move: p.move, Log: log})
	return p
}

// apply makes the plane as d says, touching only what differs. An error means that connections and addresses are as they were, and
// that the next apply has all to do. What fails for one forward or proxy does not stop the others: it is logged, kept for status,
// and tried again at the next apply.
func (p *plane) apply(d desired) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.standby {
		if p.told == nil && p.prepared != nil {
			p.prepared()
		}
		p.told = &d
		return nil
	}
	return p.applyLocked(d)
}

func (p *plane) applyLocked(d desired) error {
	p.wanted = d
	p.debug.set(d.debug)
	if d.owners == nil {
		d.owners = allOwners(d.peers)
	}
	p.admission.Store(&d) // before the device knows the peers: an outside one must not be taken for a member for a moment
	d.peers = p.located(d)
	var keptOut map[key.Public]wire.KeptOut
	d.peers, keptOut = p.preshared.keyed(d.peers, d.preshared)
	p.lastFail = p.applyDevice(d)
	if p.lastFail != nil {
		return p.lastFail
	}
	p.has, p.keptOut = d, keptOut
	p.problem = p.applyRelay(d)
	if p.problem != nil {
		p.log.Warn("part of the configuration could not be applied", "error", p.problem.Error())
	}
	return nil
}

func (p *plane) applyDevice(d desired) error {
	if p.device == nil {
		dev, err := auto.Open(p.chosen.kind, auto.Options{PrivateKey: p.private, ListenPort: p.listenPort, Interface: d.iface, Apart: p.apart,
			Fence: p.fence, Pause: p.pause(), Logger: p.log})
		if err != nil {
			return fmt.Errorf("open device: %w", err)
		}
		p.device, p.has = dev, desired{iface: d.iface}
		if g, ok := dev.(datapath.Grouper); ok {
			g.GroupBy(p.peerOf)
		}
		p.resolver.Start(dev)
		p.relay = relay.New(relay.Options{Network: dev, Logger: p.log, MTU: d.iface.MTU, PeerOf: p.peerOf, IsOutside: p.isOutside, Ahead: &p.ahead,
			OwnAddresses: p.ownAddresses,
			AllowInbound: p.admits})
	}
	if err := p.limit(d.limits); err != nil {
		return err
	}
	upsert, remove := diffPeers(p.has.peers, d.peers)
	if len(upsert)+len(remove) > 0 {
		if err := p.device.UpdatePeers(upsert, remove); err != nil {
			return fmt.Errorf("update peers: %w", err)
		}
		p.has.peers = d.peers // whatever fails below: a peer that is on the device must be known, or it could never be removed
	}
	if !reflect.DeepEqual(p.has.iface, d.iface) {
		if err := p.device.SetInterface(d.iface); err != nil {
			return fmt.Errorf("set interface: %w", err)
		}
	}
	return nil
}

func (p *plane) applyRelay(d desired) error {
	if p.dns != nil {
		zone := d.zone
		if zone == nil {
			zone = &dns.Zone{}
		}
		p.dns.Set(*zone)
	}
	p.resolver.Set(d.lookups)
	d.inbound = p.withDoor(d.inbound)
	return errors.Join(p.openPorts(d), p.relay.SetInbound(d.inbound), p.relay.SetPublished(d.services), p.relay.SetForwards(d.forwards), p.relay.SetProxies(d.proxies),
		p.relay.SetEgress(d.egress, d.clients))
}

// openPorts lets the inbound ports through to the relay, where the kernel shuts them otherwise.
func (p *plane) openPorts(d desired) error {
	gate, ok := p.device.(datapath.Gate)
	if !ok {
		return nil
	}
	return gate.OpenPorts(d.ports())
}

// pause keeps a process of our own within its CPU quota; nil: it is another's.
func (p *plane) pause() func() {
	if !p.ownProcess {
		return nil
	}
	return limits.NewPacer().Pause
}

func diffPeers(was, is map[key.Public]datapath.Peer) (upsert []datapath.Peer, remove []key.Public) {
	for k, peer := range is {
		if old, ok := was[k]; !ok || !reflect.DeepEqual(old, peer) {
			upsert = append(upsert, peer)
		}
	}
	for k := range was {
		if _, ok := is[k]; !ok {
			remove = append(remove, k)
		}
	}
	return upsert, remove
}

// up says whether the data path carries traffic; if not, why.
func (p *plane) up() (bool, string) {
	if p.draining.Load() {
		return false, "shutting down"
	}
	may := p.fence.Open()
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.standby:
		return false, "stands by"
	case !may:
		return false, "may not send: another process may have its place"
	case p.device == nil && p.lastFail != nil:
		return false, p.lastFail.Error()
	case p.device == nil:
		return false, "no configuration yet"
	}
	return true, ""
}

// kind names the datapath; empty while there is none.
func (p *plane) kind() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.device == nil {
		return ""
	}
	return string(p.device.Kind())
}

// healthy says whether the last configuration was applied whole.
func (p *plane) healthy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.problem == nil && p.lastFail == nil
}

// stats is nil while there is no device.
func (p *plane) stats() ([]datapath.PeerStats, relay.Stats, bool) {
	p.mu.Lock()
	dev, r := p.device, p.relay
	p.mu.Unlock()
	if dev == nil {
		return nil, relay.Stats{}, false
	}
	peers, err := dev.Peers()
	if err != nil {
		p.log.Warn("cannot read peers", "error", err.Error())
		return nil, relay.Stats{}, false
	}
	return peers, r.Stats(), true
}

// drops is what the device dropped, by reason; nil while there is none.
func (p *plane) drops() map[string]uint64 {
	p.mu.Lock()
	dev := p.device
	p.mu.Unlock()
	if dev == nil {
		return nil
	}
	return dev.Drops()
}

// drain stops accepting and waits, until ctx ends, for open connections to end and for peers to have all of what these carried.
func (p *plane) drain(ctx context.Context) {
	p.mu.Lock()
	r, dev := p.relay, p.device
	p.mu.Unlock()
	if r == nil {
		return
	}
	err := r.Drain(ctx)
	if err == nil && p.fence.Open() { // what may send nothing waits in vain
		err = dev.Flush(ctx)
	}
	if err != nil && !errors.Is(err, errors.ErrUnsupported) {
		p.log.Info("connections cut at the end of the drain", "why", err.Error())
	}
}

// close resets what is still open and ends the device.
func (p *plane) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ahead.Close()
	if p.device == nil {
		return nil
	}
	err := p.relay.Close()
	p.resolver.Close()
	return errors.Join(err, p.device.Close())
}
