package contender

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/tenantwire/tenantwire/bench/lab"
)

func udpAddr(a netip.AddrPort) *net.UDPAddr { return net.UDPAddrFromAddrPort(a) }

func ipNet(p netip.Prefix) net.IPNet {
	return net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}

// plain is the cable itself.
func plain(p *Pair) error {
	p.TCP = netip.AddrPortFrom(p.far.self.outer(), Port).String()
	p.UDP = p.TCP
	return nil
}

// vxlanOverCable is a VXLAN between the hosts, unencrypted: what an overlay costs that hides nothing.
func vxlanOverCable(p *Pair) error { return p.vxlan("eth0", "eth0", identity.outer, 1450) }

// vxlanOverTunnel is a VXLAN whose packets go through WireGuard: an overlay that hides all.
func vxlanOverTunnel(p *Pair) error {
	near, err := p.near.host.TunnelLink()
	if err != nil {
		return err
	}
	far, err := p.far.host.TunnelLink()
	if err != nil {
		return err
	}
	return p.vxlan(near, far, identity.inner, mtu-50)
}

func (p *Pair) vxlan(near, far string, address func(identity) netip.Addr, mtu int) error {
	over := map[*end]string{p.near: near, p.far: far}
	for _, e := range []*end{p.near, p.far} {
		remote := p.far
		if e == p.far {
			remote = p.near
		}
		if err := e.host.VXLAN("vx0", over[e], address(e.self), address(remote.self), mtu); err != nil {
			return err
		}
		if err := e.host.AddAddress("vx0", netip.PrefixFrom(netip.AddrFrom4([4]byte{10, 8, 0, byte(e.self.n)}), 24)); err != nil {
			return err
		}
		if err := e.host.Up("vx0"); err != nil {
			return err
		}
	}
	p.TCP = fmt.Sprintf("10.8.0.%d:%d", p.far.self.n, Port)
	p.UDP = p.TCP
	return nil
}

// plainKernel is the kernel's own WireGuard as an administrator sets it up by hand: an interface, keys, an address and a route at
// each end, and no process or packet filter of anybody's.
func plainKernel(p *Pair) error {
	for _, e := range []*end{p.far, p.near} {
		if err := e.plainKernel(); err != nil {
			return err
		}
	}
	p.TCP = p.near.far.String()
	p.UDP = p.TCP
	return nil
}

func (e *end) plainKernel() (err error) {
	const name = "wg0"
	if err := e.host.WireGuard(name, mtu); err != nil {
		return err
	}
	e.host.Do(func() { err = e.configure(name) }) // the kernel answers for interfaces of the asking thread's namespace alone
	if err != nil {
		return fmt.Errorf("configure %s: %w", name, err)
	}
	if err := e.host.AddAddress(name, netip.PrefixFrom(e.self.inner(), 32)); err != nil {
		return err
	}
	if err := e.host.Up(name); err != nil {
		return err
	}
	for _, p := range e.peers {
		for _, to := range p.allowed {
			if err := e.host.AddRoute(name, to); err != nil {
				return err
			}
		}
	}
	return nil
}

// Missing says why a contender cannot run here; nothing: it can.
func (c Contender) Missing(s *Setup) string {
	if why := lab.Missing(); why != "" {
		return why
	}
	for _, k := range []kind{c.near, c.far} {
		switch k.name {
		case "wireproxy":
			if s.Programs.Wireproxy == "" {
				return "no binary: BENCH_PEERS=DIR with wireproxy in it"
			}
		case "sing-box":
			if s.Programs.SingBox == "" {
				return "no binary: BENCH_PEERS=DIR with sing-box in it, made with the tags with_gvisor and with_wireguard"
			}
		case "tailscaled":
			if s.Programs.Tailscaled == "" {
				return "no binary: BENCH_PEERS=DIR with tailscaled in it"
			}
		case "TUN", "Kernel":
			if err := checkDatapath(s, k.name); err != nil {
				return err.Error()
			}
		}
	}
	if c.kernel {
		if why := lab.MissingWireGuard(); why != "" {
			return why
		}
	}
	if s.Peers != (Population{}) && c.via.start == nil {
		return "there is no hub that further peers could have"
	}
	if len(s.Impair) > 0 && c.near.finds {
		return "it finds a way around the impairment relay"
	}
	if len(s.Impair) > 0 && c.near.start == nil && !c.kernel {
		return "it sends no datagrams that the impairment relay could carry"
	}
	return ""
}
