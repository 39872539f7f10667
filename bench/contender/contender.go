// Package contender brings up what is compared: two ends of a tunnel, each in a namespace of its own, each of some kind.
//
// Whatever the kind, the load's server listens on port 7000 of every address of the far host, and a client in the near host
// gets there by Pair.TCP and Pair.UDP: a loopback port where the kind relays, the far end's inner address where it has a device, or
// that behind a proxy (load.Target).
package contender

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/tenantwire/tenantwire/bench/lab"
	"github.com/tenantwire/tenantwire/bench/load"
	"github.com/tenantwire/tenantwire/bench/noise"
	"github.com/tenantwire/tenantwire/sidecar/key"
)

// Port is the load server's; Control is that of its counters.
const (
	Port      = 7000
	Control   = 7001
	outerPort = 51820
	impaired  = 51999
	mtu       = 1420
)

// Programs are the paths of what was built or given.
type Programs struct {
	Sidecar, SidecarProf, Stock, WireguardGo, Impair, Load string
	Wireproxy, SingBox, Tailscaled                         string // empty: not given
	Tailnet                                                string // bench/tailnet; built if Tailscaled is given
}

// Setup is what all contenders of a run share.
type Setup struct {
	Programs Programs
	Dir      string        // for configuration files; others may enter but not read it
	Place    lab.Placement // of the tunnel's processes
	Impair   []string      // flags of the relay between the ends; none: a plain cable
	Profile  bool          // the near end's sidecar serves profiles on a socket
	Env      []string      // of our sidecar
	Peers    Population    // of a hub, besides the two ends
}

// identity is one end of a tunnel.
type identity struct {
	n       int
	private key.Private
}

func (i identity) inner() netip.Addr { return netip.AddrFrom4([4]byte{10, 7, 0, byte(i.n)}) }
func (i identity) outer() netip.Addr { return netip.AddrFrom4([4]byte{198, 51, 100, byte(i.n)}) }

// peer is another device as an end knows it.
type peer struct {
	public   key.Public
	endpoint netip.AddrPort // the zero value: it will come to us
	allowed  []netip.Prefix
	outside  bool // a hub passes packets between such peers and the others
}

// end is one side before it runs.
type end struct {
	setup *Setup
	lab   *lab.Lab
	host  *lab.Host
	self  identity
	peers []peer
	near  bool // the client is here
	hub   bool // it stands between others
	far   netip.AddrPort
	way   netip.AddrPort // of a near end that relays: where it listens for the client
	port  uint16         // WireGuard's
	place lab.Placement
}

// running is an end that does; its processes are what its costs are taken of.
type running struct {
	process *lab.Process
	tcp     string // the client's way in, of a near end
	udp     string // empty: none
}

// kind is a way to be an end.
type kind struct {
	name  string
	start func(*end) (running, error)
	finds bool // its peers and the way to them by itself
}

// Contender is what is compared.
type Contender struct {
	Name      string
	near, far kind
	via       kind              // stands between the ends, which know nobody else
	only      func(*Pair) error // what else is needed between the hosts, instead of kinds or on top of them
	kernel    bool              // needs the kernel's own WireGuard
}

// All lists the contenders that exist, the yardstick first.
func All() []Contender {
	sidecar := func(path string) kind { return kind{name: path, start: startSidecar(path)} }
	wggo, stock, proxy := kind{name: "wggo", start: startWireguardGo}, kind{name: "stock", start: startStock}, kind{name: "wireproxy", start: startWireproxy}
	box, tailscaled := kind{name: "sing-box", start: startSingBox}, kind{name: "tailscaled", start: startTailscaled, finds: true}
	ns, tun, kernel := sidecar("Netstack"), sidecar("TUN"), sidecar("Kernel")
	return []Contender{
		{Name: "wggo-tun", near: wggo, far: wggo},
		{Name: "netstack-sym", near: ns, far: ns},
		{Name: "netstack", near: ns, far: wggo},
		{Name: "tun-sym", near: tun, far: tun},
		{Name: "tun", near: tun, far: wggo},
		{Name: "kernel-sym", near: kernel, far: kernel, kernel: true},
		{Name: "plain-kernel", only: plainKernel, kernel: true},
		{Name: "stock-sym", near: stock, far: stock},
		{Name: "stock", near: stock, far: wggo},
		{Name: "wireproxy-sym", near: proxy, far: proxy},
		{Name: "wireproxy", near: proxy, far: wggo},
		{Name: "sing-box-sym", near: box, far: box},
		{Name: "sing-box", near: box, far: wggo},
		{Name: "tailscaled-sym", near: tailscaled, far: tailscaled},
		{Name: "veth", only: plain},
		{Name: "vxlan", only: vxlanOverCable},
		{Name: "vxlan-wggo", near: wggo, far: wggo, only: vxlanOverTunnel},
	}
}

// Pair is a contender that runs.
type Pair struct {
	TCP, UDP  string
	Active    []string // the ways in by which Population.Active peers reach the server
	Control   string   // base URL of the server's counters, beside the tunnel
	Near, Far *lab.Process
	Hub       *lab.Process // nil: there is none, or it is the kernel
	NearHost  *lab.Host

	near, far *end
	via       *end // nil: nothing stands between
	active    []*end
	idle      []*noise.Initiator
	lab       lab.Lab
	restart   func() (running, error)
	fixed     bool // something stands on the near end, which could not be made anew alone
}

// ErrNotApplicable is of what a contender cannot do by its nature.
var ErrNotApplicable = errors.New("not applicable")

// PIDs are the tunnel's processes: the near end's, the far end's, the hub's.
func (p *Pair) PIDs() (out []int) {
	for _, pr := range []*lab.Process{p.Near, p.Far, p.Hub} {
		if pr != nil {
			out = append(out, pr.PID())
		}
	}
	return out
}

// Alive is an error once an end has ended.
func (p *Pair) Alive() error {
	for _, pr := range []*lab.Process{p.Near, p.Far, p.Hub} {
		if pr != nil && pr.Running() != nil {
			return pr.Running()
		}
	}
	return nil
}

// Close ends and removes all of it.
func (p *Pair) Close() error { return p.lab.Close() }

// Defer has something undone when the pair closes.
func (p *Pair) Defer(f func() error) { p.lab.Defer(f) }

// patience bounds how long a contender may take until it carries.
const patience = 20 * time.Second

// Start brings a contender up and returns when a request has come back through it. On an error nothing is left.
func Start(ctx context.Context, s *Setup, c Contender) (p *Pair, err error) {
	p = &Pair{}
	defer func() {
		if err != nil {
			err = fmt.Errorf("bring up %s: %w", c.Name, err)
			if more := p.Close(); more != nil {
				err = fmt.Errorf("%w (and: %w)", err, more)
			}
			p = nil
		}
	}()
	if err := p.hosts(s); err != nil {
		return p, err
	}
	if err := p.serve(s); err != nil {
		return p, err
	}
	if c.via.start != nil {
		if err := p.between(s); err != nil {
			return p, err
		}
	}
	if c.far.start != nil {
		if err := p.ends(c); err != nil {
			return p, err
		}
	}
	if c.only != nil {
		p.fixed = true
		if err := c.only(p); err != nil {
			return p, err
		}
	}
	if err := p.carries(ctx); err != nil {
		return p, err
	}
	return p, p.populate(ctx)
}

// hosts makes the two ends' namespaces and what each end knows of the other.
func (p *Pair) hosts(s *Setup) error {
	ids := [2]identity{{1, key.NewPrivate()}, {2, key.NewPrivate()}}
	var ends [2]*end
	for i := range ends {
		h, err := p.lab.NewHost()
		if err != nil {
			return err
		}
		other := ids[1-i]
		place := s.Place
		if place.CPU > 0 { // one each, where there are two
			place.CPU = (place.CPU-1+i)%runtime.NumCPU() + 1
		}
		ends[i] = &end{setup: s, lab: &p.lab, place: place, host: h, self: ids[i], near: i == 0, far: netip.AddrPortFrom(ids[1].inner(), Port),
			way: localPort, port: outerPort,
			peers: []peer{{public: other.private.Public(), allowed: []netip.Prefix{netip.PrefixFrom(other.inner(), 32)}}}}
	}
	p.near, p.far, p.NearHost = ends[0], ends[1], ends[0].host
	p.near.peers[0].endpoint = netip.AddrPortFrom(ids[1].outer(), outerPort)
	if len(s.Impair) > 0 {
		p.near.peers[0].endpoint = netip.AddrPortFrom(ids[1].outer(), impaired)
	}
	return lab.Connect(lab.Plug{Host: p.near.host, Link: "eth0", Address: netip.PrefixFrom(ids[0].outer(), 24)},
		lab.Plug{Host: p.far.host, Link: "eth0", Address: netip.PrefixFrom(ids[1].outer(), 24)})
}

// serve starts the load's server, and the bad network if there is to be one.
func (p *Pair) serve(s *Setup) error {
	outer := p.far.self.outer()
	control := netip.AddrPortFrom(outer, Control).String()
	p.Control = "http://" + control
	_, err := p.far.host.Start(lab.Program{Path: s.Programs.Load,
		Args: []string{"serve", "-addr", fmt.Sprintf("0.0.0.0:%d", Port), "-control", control}}, nil)
	if err != nil || len(s.Impair) == 0 {
		return err
	}
	_, err = p.far.host.Start(lab.Program{Path: s.Programs.Impair, Args: append([]string{
		"-listen", netip.AddrPortFrom(outer, impaired).String(), "-to", netip.AddrPortFrom(outer, outerPort).String()}, s.Impair...)}, nil)
	return err
}

func (p *Pair) ends(c Contender) error {
	far, err := c.far.start(p.far)
	if err != nil {
		return fmt.Errorf("far end: %w", err)
	}
	p.Far = far.process
	var via running
	if p.via != nil {
		if via, err = c.via.start(p.via); err != nil {
			return fmt.Errorf("hub: %w", err)
		}
		p.Hub = via.process
	}
	for _, pr := range []*lab.Process{p.Far, p.Hub} {
		if pr == nil {
			continue
		}
		if err := lab.Until("bind its port", patience, func() error { return errors.Join(pr.Running(), bound(pr.PID())) }); err != nil {
			return err
		}
	}
	time.Sleep(grace)
	p.restart = func() (running, error) { return c.near.start(p.near) }
	near, err := p.restart()
	if err != nil {
		return fmt.Errorf("near end: %w", err)
	}
	p.Near, p.TCP, p.UDP = near.process, near.tcp, near.udp
	return nil
}

// grace is how long an end that has its port is given until it knows its peers too. A handshake that comes before is not
// answered, and WireGuard tries again only after five seconds, which would be ours and not the contender's.
const grace = 100 * time.Millisecond

// bound says whether the namespace of a process has a socket on WireGuard's port.
func bound(pid int) error {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/net/udp", pid))
	if err != nil {
		return err
	}
	if !strings.Contains(string(b), fmt.Sprintf(":%04X ", outerPort)) {
		return errors.New("nobody has the port")
	}
	return nil
}

// carries waits for an answer through the tunnel, as long as both ends live.
func (p *Pair) carries(ctx context.Context) error { return p.answers(ctx, p.TCP) }

func (p *Pair) answers(ctx context.Context, at string) error {
	var dead error
	err := lab.Until("carry a request", patience, func() (err error) {
		if dead = errors.Join(p.Alive(), ctx.Err()); dead != nil {
			return nil
		}
		p.NearHost.Do(func() { err = load.First(ctx, at, time.Second) })
		return err
	})
	return errors.Join(dead, err)
}

// Restart ends the near end and measures how long a new one takes, from nothing to the first answer through it. It waits a
// while before: WireGuard refuses a second handshake within 20 ms of the first, and tries again after five seconds.
func (p *Pair) Restart(ctx context.Context) (time.Duration, error) {
	if p.restart == nil || p.fixed {
		return 0, fmt.Errorf("%w: no process of its own makes it", ErrNotApplicable)
	}
	if err := settle(ctx); err != nil {
		return 0, err
	}
	p.Near.Kill()
	begin := time.Now()
	near, err := p.restart()
	if err != nil {
		return 0, err
	}
	p.Near = near.process
	err = p.carries(ctx)
	return time.Since(begin), err
}

// file writes a configuration that only its program can read, and answers its path.
func (e *end) file(name, text string, user uint32) (string, error) {
	dir, err := os.MkdirTemp(e.setup.Dir, "end-")
	if err != nil {
		return "", err
	}
	path := dir + "/" + name
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		return "", err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return "", err
	}
	return path, os.Chown(path, int(user), int(user))
}

// Find picks contenders by name; an unknown name is an error that lists them all.
func Find(names []string) (out []Contender, err error) {
	all := append(All(), Gateways()...)
	for _, n := range names {
		i := slices.IndexFunc(all, func(c Contender) bool { return c.Name == n })
		if i < 0 {
			var known []string
			for _, c := range all {
				known = append(known, c.Name)
			}
			return nil, fmt.Errorf("no contender %q, there are %s", n, strings.Join(known, ", "))
		}
		out = append(out, all[i])
	}
	return out, nil
}
