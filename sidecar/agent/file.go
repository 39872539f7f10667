package agent

import (
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/tenantwire/tenantwire/sidecar/datapath"
	"github.com/tenantwire/tenantwire/sidecar/key"
	"github.com/tenantwire/tenantwire/sidecar/relay"
	"github.com/tenantwire/tenantwire/sidecar/wire"
)

// maxFile bounds a configuration file in bytes.
const maxFile = 4 << 20

// file is the configuration of a sidecar without a cluster. Paths are relative to the file's folder.
type file struct {
	Interface struct {
		PrivateKeyFile string         `yaml:"privateKeyFile"`
		Addresses      []netip.Prefix `yaml:"addresses"`
		ListenPort     uint16         `yaml:"listenPort"` // 0: any
		MTU            int            `yaml:"mtu"`        // 0: 1420
	} `yaml:"interface"`
	Peers    []filePeer    `yaml:"peers"`
	Forwards []fileForward `yaml:"forwards"`
	Expose   []fileExpose  `yaml:"expose"`
	Proxies  struct {
		SOCKS5      netip.AddrPort `yaml:"socks5"`
		HTTPConnect netip.AddrPort `yaml:"httpConnect"`
	} `yaml:"proxies"`
	Health netip.AddrPort `yaml:"health"`
}

type filePeer struct {
	PublicKey        string         `yaml:"publicKey"`
	PresharedKeyFile string         `yaml:"presharedKeyFile"`
	Endpoint         netip.AddrPort `yaml:"endpoint"`
	AllowedIPs       []netip.Prefix `yaml:"allowedIPs"`
	Keepalive        time.Duration  `yaml:"keepalive"`
}

type fileForward struct {
	Listen   netip.AddrPort   `yaml:"listen"`
	Protocol string           `yaml:"protocol"`
	Targets  []netip.AddrPort `yaml:"targets"`
}

type fileExpose struct {
	Port     uint16         `yaml:"port"`
	Protocol string         `yaml:"protocol"`
	To       netip.AddrPort `yaml:"to"` // default 127.0.0.1:port
}

// static is a parsed file with everything it refers to.
type static struct {
	private    key.Private
	listenPort uint16
	health     string
	desired    desired
}

// readStatic reads and checks a file whole; nothing is applied before all of it is known to be good.
func readStatic(path string) (*static, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read configuration: %w", err)
	}
	defer f.Close()
	s, err := parseStatic(f, func(name string) (string, error) { return readSecret(filepath.Dir(path), name) })
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return s, nil
}

func readSecret(dir, name string) (string, error) {
	if !filepath.IsAbs(name) {
		name = filepath.Join(dir, name)
	}
	st, err := os.Stat(name)
	if err != nil {
		return "", err
	}
	if st.Mode().Perm()&0o077 != 0 {
		return "", fmt.Errorf("%s: mode %#o lets others read the key, want 0600", name, st.Mode().Perm())
	}
	b, err := os.ReadFile(name)
	return string(b), err
}

// parseStatic turns text into a checked configuration; secret reads a key file. Unknown fields are errors: they are typing errors.
func parseStatic(r io.Reader, secret func(name string) (string, error)) (*static, error) {
	var f file
	d := yaml.NewDecoder(io.LimitReader(r, maxFile))
	d.KnownFields(true)
	if err := d.Decode(&f); err != nil {
		return nil, fmt.Errorf("parse: %w", err)
	}
	s := &static{listenPort: f.Interface.ListenPort}
	if f.Health.IsValid() {
		s.health = f.Health.String()
	}
	var err error
	if s.private, err = f.privateKey(secret); err != nil {
		return nil, err
	}
	if s.desired.iface, err = f.iface(); err != nil {
		return nil, err
	}
	if err := f.peers(s, secret); err != nil {
		return nil, err
	}
	return s, f.relay(&s.desired)
}

func (f *file) privateKey(secret func(string) (string, error)) (key.Private, error) {
	if f.Interface.PrivateKeyFile == "" {
		return key.Private{}, errors.New("interface.privateKeyFile: missing; make one with: wg genkey")
	}
	text, err := secret(f.Interface.PrivateKeyFile)
	if err != nil {
		return key.Private{}, fmt.Errorf("interface.privateKeyFile: %w", err)
	}
	k, err := key.ParsePrivate(text)
	if err != nil {
		return key.Private{}, fmt.Errorf("interface.privateKeyFile: %w", err)
	}
	return k, nil
}

func (f *file) iface() (datapath.Interface, error) {
	i := datapath.Interface{Addresses: f.Interface.Addresses, MTU: f.Interface.MTU}
	if i.MTU == 0 {
		i.MTU = 1420
	}
	hosts := make([]netip.Prefix, len(i.Addresses))
	for n, a := range i.Addresses {
		hosts[n] = netip.PrefixFrom(a.Addr(), a.Addr().BitLen())
	}
	i.Addresses = hosts
	c := wire.Config{Interface: wire.Interface{Addresses: hosts, MTU: i.MTU}}
	return i, c.Validate()
}

func (f *file) peers(s *static, secret func(string) (string, error)) error {
	s.desired.peers = make(map[key.Public]datapath.Peer, len(f.Peers))
	self := s.private.Public()
	owner := map[netip.Prefix]int{}
	for i, p := range f.Peers {
		peer, err := p.parse(secret)
		if err != nil {
			return fmt.Errorf("peers[%d].%w", i, err)
		}
		if _, twice := s.desired.peers[peer.PublicKey]; twice {
			return fmt.Errorf("peers[%d].publicKey: %s is that of an earlier peer", i, peer.PublicKey)
		}
		if peer.PublicKey == self {
			return fmt.Errorf("peers[%d].publicKey: %s is our own", i, peer.PublicKey)
		}
		for _, a := range peer.AllowedIPs {
			if j, taken := owner[a]; taken {
				return fmt.Errorf("peers[%d].allowedIPs: %s is that of peers[%d]", i, a, j)
			}
			owner[a] = i
		}
		s.desired.peers[peer.PublicKey] = peer
	}
	return nil
}

func (p *filePeer) parse(secret func(string) (string, error)) (peer datapath.Peer, err error) {
	if peer.PublicKey, err = key.ParsePublic(p.PublicKey); err != nil {
		return peer, fmt.Errorf("publicKey: %w", err)
	}
	if p.PresharedKeyFile != "" {
		text, err := secret(p.PresharedKeyFile)
		if err != nil {
			return peer, fmt.Errorf("presharedKeyFile: %w", err)
		}
		if peer.PresharedKey, err = key.ParsePreshared(text); err != nil {
			return peer, fmt.Errorf("presharedKeyFile: %w", err)
		}
	}
	if e := p.Endpoint; e != (netip.AddrPort{}) && (e.Port() == 0 || e.Addr().IsUnspecified()) {
		return peer, fmt.Errorf("endpoint: %s is not an address and a port from 1 to 65535", e)
	}
	if p.Keepalive < 0 || p.Keepalive > 65535*time.Second || p.Keepalive%time.Second != 0 {
		return peer, fmt.Errorf("keepalive: %s is not whole seconds up to 65535s", p.Keepalive)
	}
	peer.Endpoint, peer.Keepalive = p.Endpoint, p.Keepalive
	for _, a := range p.AllowedIPs {
		if !a.IsValid() || a.Addr().Is4In6() || a != a.Masked() {
			return peer, fmt.Errorf("allowedIPs: %s is not a range without host bits, like %s", a, a.Masked())
		}
		peer.AllowedIPs = append(peer.AllowedIPs, a)
	}
	return peer, nil
}

func (f *file) relay(d *desired) error {
	listens := map[string]int{}
	for i, fw := range f.Forwards {
		proto, err := parseProtocol(fw.Protocol)
		if err != nil {
			return fmt.Errorf("forwards[%d].protocol: %w", i, err)
		}
		if !fw.Listen.Addr().IsLoopback() || fw.Listen.Port() == 0 {
			return fmt.Errorf("forwards[%d].listen: %s is not a loopback address and a port from 1 to 65535", i, fw.Listen)
		}
		name := fmt.Sprintf("%s/%s", fw.Listen, proto)
		if j, taken := listens[name]; taken {
			return fmt.Errorf("forwards[%d].listen: %s is that of forwards[%d]", i, name, j)
		}
		listens[name] = i
		for _, t := range fw.Targets {
			if !t.IsValid() || t.Port() == 0 || t.Addr().IsLoopback() || t.Addr().IsUnspecified() {
				return fmt.Errorf("forwards[%d].targets: %s is not an address inside the tunnel and a port from 1 to 65535", i, t)
			}
		}
		if len(fw.Targets) == 0 {
			return fmt.Errorf("forwards[%d].targets: empty, want at least one", i)
		}
		d.forwards = append(d.forwards, relay.Forward{Name: name, Listen: fw.Listen, Protocol: proto, Targets: fw.Targets})
	}
	return f.inbound(d)
}

func (f *file) inbound(d *desired) error {
	for i, e := range f.Expose {
		proto, err := parseProtocol(e.Protocol)
		if err != nil {
			return fmt.Errorf("expose[%d].protocol: %w", i, err)
		}
		if e.Port == 0 {
			return fmt.Errorf("expose[%d].port: 0 is not 1..65535", i)
		}
		to := e.To
		if to == (netip.AddrPort{}) {
			to = netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), e.Port)
		}
		if !to.Addr().IsLoopback() || to.Port() == 0 {
			return fmt.Errorf("expose[%d].to: %s is not a loopback address and a port from 1 to 65535", i, to)
		}
		d.inbound = append(d.inbound, relay.Inbound{Port: e.Port, Protocol: proto, To: to})
	}
	for name, at := range map[string]netip.AddrPort{"socks5": f.Proxies.SOCKS5, "httpConnect": f.Proxies.HTTPConnect} {
		if at != (netip.AddrPort{}) && (!at.Addr().IsLoopback() || at.Port() == 0) {
			return fmt.Errorf("proxies.%s: %s is not a loopback address and a port from 1 to 65535", name, at)
		}
	}
	routes := d.peers
	d.proxies = relay.Proxies{SOCKS5: f.Proxies.SOCKS5, HTTP: f.Proxies.HTTPConnect, Allow: func(to netip.AddrPort) bool {
		for _, p := range routes {
			for _, a := range p.AllowedIPs {
				if a.Contains(to.Addr()) {
					return true
				}
			}
		}
		return false
	}}
	return nil
}

func parseProtocol(s string) (relay.Protocol, error) {
	switch s {
	case "", "TCP":
		return relay.TCP, nil
	case "UDP":
		return relay.UDP, nil
	}
	return "", fmt.Errorf("%q is not TCP or UDP", s)
}
