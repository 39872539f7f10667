package agent

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/tenantwire/tenantwire/sidecar/relay"
)

// sockets remembers which field listens where, so that two fields cannot want the same port.
type sockets map[relay.Protocol][]socket

type socket struct {
	at    netip.AddrPort
	field string
}

// take notes a listener; the error names the field that has the port already. An unspecified address has that port of all.
func (s sockets) take(field string, proto relay.Protocol, at netip.AddrPort) error {
	for _, o := range s[proto] {
		same := o.at.Addr() == at.Addr() || o.at.Addr().IsUnspecified() || at.Addr().IsUnspecified()
		if same && o.at.Port() == at.Port() {
			return fmt.Errorf("%s: %s/%s is taken by %s, want another port", field, at, proto, o.field)
		}
	}
	s[proto] = append(s[proto], socket{at, field})
	return nil
}

// relay reads all that listens or is dialled: health, proxies, forwards and expose.
func (f *file) relay(s *static) error {
	taken, d := sockets{}, &s.desired
	health, err := f.Health.addrPort()
	if err != nil {
		return fmt.Errorf("health: %w", err)
	}
	if health.IsValid() {
		s.health = health.String()
		_ = taken.take("health", relay.TCP, health) // the first cannot fail
	}
	d.proxies.Allow = func(to netip.AddrPort) bool { return d.reaches(to.Addr()) }
	for _, p := range []struct {
		field string
		text  scalar
		at    *netip.AddrPort
	}{{"proxies.socks5", f.Proxies.SOCKS5, &d.proxies.SOCKS5}, {"proxies.httpConnect", f.Proxies.HTTPConnect, &d.proxies.HTTP}} {
		if *p.at, err = p.text.loopback(); err != nil {
			return fmt.Errorf("%s: %w", p.field, err)
		}
		if !p.at.IsValid() {
			continue
		}
		if err := taken.take(p.field, relay.TCP, *p.at); err != nil {
			return err
		}
	}
	for i, fw := range f.Forwards {
		forward, err := fw.parse(d)
		if err != nil {
			return fmt.Errorf("forwards[%d].%w", i, err)
		}
		if err := taken.take(fmt.Sprintf("forwards[%d].listen", i), forward.Protocol, forward.Listen); err != nil {
			return err
		}
		if fw.Host != "" {
			if s.hosts == nil {
				s.hosts = map[int]fileHost{}
			}
			if s.hosts[i], err = d.parseHost(fw.Host); err != nil {
				return fmt.Errorf("forwards[%d].host: %w", i, err)
			}
		}
		d.forwards = append(d.forwards, forward)
	}
	return f.inbound(d)
}

func (fw *fileForward) parse(d *desired) (out relay.Forward, err error) {
	if out.Protocol, err = parseProtocol(fw.Protocol); err != nil {
		return out, fmt.Errorf("protocol: %w", err)
	}
	if out.Listen, err = fw.Listen.loopback(); err != nil {
		return out, fmt.Errorf("listen: %w", err)
	}
	if !out.Listen.IsValid() {
		return out, fmt.Errorf("listen: missing, want a loopback address and a port, like 127.0.0.1:5432")
	}
	switch {
	case fw.Host != "" && len(fw.Targets) > 0:
		return out, errHostAndTargets
	case fw.Host == "" && len(fw.Targets) == 0:
		return out, fmt.Errorf("targets: empty, want at least one, like 10.7.0.1:5432")
	}
	for i, text := range fw.Targets {
		to, err := text.addrPort()
		switch {
		case err != nil:
			return out, fmt.Errorf("targets[%d]: %w", i, err)
		case !to.IsValid():
			return out, fmt.Errorf("targets[%d]: empty, want an address and a port, like 10.7.0.1:5432", i)
		case slices.Contains(d.iface.Addresses, netip.PrefixFrom(to.Addr(), to.Addr().BitLen())):
			return out, fmt.Errorf("targets[%d]: %s is our own address, want one of a peer", i, text)
		case to.Addr().IsLoopback() || to.Addr().IsUnspecified() || to.Addr().IsMulticast() || to.Addr().IsLinkLocalUnicast():
			return out, fmt.Errorf("targets[%d]: %s is not an address inside a tunnel", i, text)
		case !d.reaches(to.Addr()):
			return out, fmt.Errorf("targets[%d]: %s is in no peer's allowedIPs, so nothing would get there", i, text)
		case slices.Contains(out.Targets, to):
			return out, fmt.Errorf("targets[%d]: %s is listed twice, want it once", i, text)
		}
		out.Targets = append(out.Targets, to)
	}
	out.Name = fmt.Sprintf("%s/%s", out.Listen, out.Protocol)
	return out, nil
}

func (f *file) inbound(d *desired) error {
	for i, e := range f.Expose {
		in, err := e.parse()
		if err != nil {
			return fmt.Errorf("expose[%d].%w", i, err)
		}
		for j, o := range d.inbound {
			if o.Port == in.Port && o.Protocol == in.Protocol {
				return fmt.Errorf("expose[%d].port: %d/%s is that of expose[%d], want each once", i, in.Port, in.Protocol, j)
			}
		}
		d.inbound = append(d.inbound, in)
	}
	return nil
}

func (e *fileExpose) parse() (out relay.Inbound, err error) {
	if out.Protocol, err = parseProtocol(e.Protocol); err != nil {
		return out, fmt.Errorf("protocol: %w", err)
	}
	if out.Port, err = e.Port.port(1); err != nil {
		return out, fmt.Errorf("port: %w", err)
	}
	if out.To, err = e.To.loopback(); err != nil {
		return out, fmt.Errorf("to: %w", err)
	}
	if !out.To.IsValid() {
		out.To = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), out.Port)
	}
	return out, nil
}
