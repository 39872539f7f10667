package relay

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
)

// Proxies offers the tunnel to applications that name their destination themselves.
type Proxies struct {
	SOCKS5 netip.AddrPort // loopback only; zero: off
	HTTP   netip.AddrPort // loopback only; zero: off
	// Allow says whether an address inside the tunnel may be reached by number; nil allows none.
	Allow func(netip.AddrPort) bool
	// Resolve returns the targets of a carried name; false when the name (lower case, no trailing dot) or port is not carried.
	Resolve func(name string, port uint16) ([]netip.AddrPort, bool)
	// Find finds a name that is not carried, in the same form; nil, or a nil Finder: there is nobody to ask.
	Find func(name string, port uint16) Finder
}

// proxySide holds the proxy listeners; guarded by Relay.setMu, but for rules.
type proxySide struct {
	rules  atomic.Pointer[Proxies]
	socks5 proxyDoor
	http   proxyDoor
}

type proxyDoor struct {
	at   netip.AddrPort
	door *door
}

func (p *proxySide) stop() {
	for _, d := range []*proxyDoor{&p.socks5, &p.http} {
		if d.door != nil {
			d.door.stop()
		}
	}
}

func (p *proxySide) abort() {
	p.socks5.close()
	p.http.close()
}

func (d *proxyDoor) close() {
	if d.door != nil {
		d.door.abort()
	}
	*d = proxyDoor{}
}

// SetProxies opens, keeps or closes the proxies. A listener whose address stays is not touched; new rules apply to new
// connections; connections of a proxy that is gone are reset.
func (r *Relay) SetProxies(p Proxies) error {
	r.setMu.Lock()
	defer r.setMu.Unlock()
	if r.isDraining() {
		return ErrDraining
	}
	r.proxies.rules.Store(&p)
	return errors.Join(
		r.setProxy(&r.proxies.socks5, "socks5", p.SOCKS5, r.serveSOCKS5),
		r.setProxy(&r.proxies.http, "http", p.HTTP, r.serveConnect),
	)
}

func (r *Relay) setProxy(d *proxyDoor, name string, at netip.AddrPort, serve func(context.Context, localStream, *meter)) error {
	var err error
	if at != (netip.AddrPort{}) {
		if at, err = checkLoopback(at); err != nil {
			d.close()
			return fmt.Errorf("proxy %s: listen: %w", name, err)
		}
	}
	if d.door != nil && d.at == at {
		return nil
	}
	d.close()
	if at == (netip.AddrPort{}) {
		return nil
	}
	m := r.meterFor(meterKey{Proxied, name, TCP})
	d.door, err = r.openDoor(at, func() *meter { return m }, func(ctx context.Context, c localStream) { serve(ctx, c, m) })
	if err != nil {
		m.fail(Bind)
		return fmt.Errorf("proxy %s: %w", name, err)
	}
	d.at = at
	return nil
}

// destination is what a proxy client asks for: a name or an address, never both.
type destination struct {
	name string
	addr netip.Addr
	port uint16
}

func (d destination) String() string {
	if d.name != "" {
		return fmt.Sprintf("%s:%d", d.name, d.port)
	}
	return netip.AddrPortFrom(d.addr, d.port).String()
}

// errDestination says that a destination cannot be one; the client broke the protocol.
var errDestination = errors.New("destination is malformed")

// parseHost makes a destination of a host as text. An address written as a name is an address.
func parseHost(host string, port uint16) (destination, error) {
	if port == 0 {
		return destination{}, fmt.Errorf("port 0: %w", errDestination)
	}
	if a, err := netip.ParseAddr(host); err == nil {
		if a.Zone() != "" {
			return destination{}, fmt.Errorf("address has a zone: %w", errDestination)
		}
		return destination{addr: a.Unmap(), port: port}, nil
	}
	name := strings.TrimSuffix(strings.ToLower(host), ".")
	if !validName(name) {
		return destination{}, fmt.Errorf("name is not one: %w", errDestination)
	}
	return destination{name: name, port: port}, nil
}

// validName accepts what DNS and Kubernetes use, in lower case: letters, digits, '-', '_' and single dots, 253 bytes.
func validName(s string) bool {
	if s == "" || len(s) > 253 {
		return false
	}
	for label := range strings.SplitSeq(s, ".") {
		if label == "" || len(label) > 63 {
			return false
		}
		for i := range len(label) {
			c := label[i]
			if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
				return false
			}
		}
	}
	return true
}

// targets applies the rules to a destination.
func (p *Proxies) targets(d destination) ([]netip.AddrPort, Reason) {
	if d.name == "" {
		to := netip.AddrPortFrom(d.addr, d.port)
		if p.Allow == nil || !p.Allow(to) {
			return nil, NotAllowed
		}
		return []netip.AddrPort{to}, None
	}
	if p.Resolve == nil {
		return nil, UnknownName
	}
	to, ok := p.Resolve(d.name, d.port)
	switch {
	case !ok:
		return nil, UnknownName
	case len(to) == 0:
		return nil, NoTargets
	}
	return to, None
}

// finder is who finds a destination that targets does not know; nil: nobody.
func (p *Proxies) finder(d destination, why Reason) Finder {
	if why != UnknownName || p.Find == nil {
		return nil
	}
	return p.Find(d.name, d.port)
}

// connectTo resolves and dials for a proxy. On None the caller ends the target with r.balancer.end.
func (r *Relay) connectTo(ctx context.Context, d destination) (datapath.Stream, netip.AddrPort, Reason) {
	rules := r.proxies.rules.Load()
	to, why := rules.targets(d)
	if f := rules.finder(d, why); f != nil {
		return r.dialFound(ctx, f)
	}
	if why != None {
		return nil, netip.AddrPort{}, why
	}
	return r.dial(ctx, to)
}

// handshake bounds a proxy client's opening words in time and by ctx; end it before the connection is piped. It reports
// false when ctx has ended meanwhile.
func (r *Relay) handshake(ctx context.Context, c localStream) (end func() bool) {
	_ = c.SetReadDeadline(time.Now().Add(r.opts.Limits.HeaderTimeout))
	stop := context.AfterFunc(ctx, c.Abort)
	return func() bool {
		_ = c.SetReadDeadline(time.Time{})
		return stop()
	}
}
